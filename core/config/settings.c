#include "settings.h"

#include "apikey.h"
#include "crypto.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <unistd.h>

extern char **environ;

enum type { TEXT, SECRET, NUMBER, SWITCH, CHOICE };

struct setting {
	const char *name;
	enum type type;
	size_t offset;
	const char *value; /* default, as text */
	int64_t min, max;
	const char *unit; /* unit of a number, words of a choice */
	const char *help;
};

#define ROW(name, type, value, min, max, unit, help)                                                                   \
	{#name, type, offsetof(struct acp_config, name), value, min, max, unit, help},
static const struct setting settings[] = {
#define ACP_TEXT(name, value, help) ROW(name, TEXT, value, 0, 0, "", help)
#define ACP_SECRET(name, help) ROW(name, SECRET, "", 0, 0, "", help)
#define ACP_NUMBER(name, value, min, max, unit, help) ROW(name, NUMBER, #value, min, max, unit, help)
#define ACP_SWITCH(name, value, help) ROW(name, SWITCH, #value, 0, 0, "on|off", help)
#define ACP_CHOICE(name, value, words, help) ROW(name, CHOICE, value, 0, 0, words, help)
#include "settings.def"
};
_Static_assert(ACP_COUNT(settings) <= ACP_SETTINGS_MAX, "acp_config.given has a place for each setting");

/* Former names of settings. They are still accepted. */
static const struct {
	const char *before, *now;
} renamed[] = {{"key_prefix", "api_key_prefix"}};

/* Names that deploy/demo writes for people and tests to source; they are not settings. */
static const char *const foreign[] = {"ACP_CONFIG",        "ACP_URL",           "ACP_API_KEY",
				      "ACP_LOW_SCOPE_KEY", "ACP_RESPONDER_PID", "ACP_POSTGRES_PID",
				      "ACP_SBIN",          "ACP_STATE",         "ACP_LOG"};

/* The source of a value, as messages name it, and the buffer for a message. */
struct source {
	const char *place;
	int line; /* 0: not a file */
	char *why;
	size_t why_size;
};

static bool complain(const struct source *source, const char *format, ...) ACP_PRINTF(2, 3);

static bool complain(const struct source *source, const char *format, ...)
{
	va_list args;
	char reason[512];
	va_start(args, format);
	vsnprintf(reason, sizeof reason, format, args);
	va_end(args);
	if (source->line)
		snprintf(source->why, source->why_size, "%s:%d: %s", source->place, source->line, reason);
	else
		snprintf(source->why, source->why_size, "%s: %s", source->place, reason);
	return false;
}

static void *slot(const struct acp_config *config, const struct setting *setting)
{
	return (char *)(uintptr_t)config + setting->offset;
}

static const struct setting *find(const char *name)
{
	for (size_t i = 0; i < ACP_COUNT(settings); i++)
		if (strcmp(settings[i].name, name) == 0)
			return &settings[i];
	return NULL;
}

/* Finds a setting by its former name, and leaves a notice. NULL: no setting had this name. */
static const struct setting *find_renamed(struct acp_config *config, const char *name)
{
	for (size_t i = 0; i < ACP_COUNT(renamed); i++) {
		if (strcmp(renamed[i].before, name) != 0)
			continue;
		snprintf(config->notice, sizeof config->notice, "the setting %s is called %s now; please rename it",
			 renamed[i].before, renamed[i].now);
		return find(renamed[i].now);
	}
	return NULL;
}

static bool word_in(const char *list, char separator, const char *word)
{
	size_t len = strlen(word);
	if (strchr(word, separator))
		return false;
	for (const char *at = list; len && (at = strstr(at, word)); at += len)
		if ((at == list || at[-1] == separator) && (at[len] == '\0' || at[len] == separator))
			return true;
	return false;
}

bool acp_word_in_list(const char *list, const char *word)
{
	return word_in(list, ' ', word);
}

static bool set_text(struct acp_config *config, const struct setting *setting, const char *value)
{
	char **text = slot(config, setting);
	char *copy = strdup(value);
	if (!copy)
		return false;
	free(*text);
	*text = copy;
	return true;
}

static bool set_number(struct acp_config *config, const struct setting *setting, const char *value,
		       const struct source *source)
{
	char *end = NULL;
	errno = 0;
	long long number = strtoll(value, &end, 10);
	if (errno || end == value || *end)
		return complain(source, "%s = %s: must be a whole number (%s)", setting->name, value, setting->unit);
	if (number < setting->min || number > setting->max)
		return complain(source, "%s = %s: must be %lld to %lld (%s)", setting->name, value,
				(long long)setting->min, (long long)setting->max, setting->unit);
	*(int64_t *)slot(config, setting) = number;
	return true;
}

static bool set_value(struct acp_config *config, const struct setting *setting, const char *value,
		      const struct source *source)
{
	switch (setting->type) {
	case NUMBER: return set_number(config, setting, value, source);
	case SWITCH:
		if (!word_in("on|off", '|', value))
			return complain(source, "%s = %s: must be on or off", setting->name, value);
		*(bool *)slot(config, setting) = strcmp(value, "on") == 0;
		return true;
	case CHOICE:
		if (!word_in(setting->unit, '|', value))
			return complain(source, "%s = %s: must be one of %s", setting->name, value, setting->unit);
		break;
	case TEXT:
	case SECRET: break;
	}
	return set_text(config, setting, value) || complain(source, "out of memory");
}

/* <secret>_file = PATH: the value is the file's first line. */
static bool set_from_file(struct acp_config *config, const struct setting *setting, const char *path,
			  const struct source *source)
{
	char line[4096];
	FILE *file = fopen(path, "re");
	if (!file)
		return complain(source, "%s_file = %s: %s", setting->name, path, strerror(errno));
	char *got = fgets(line, sizeof line, file);
	bool cut = got && !strchr(line, '\n') && !feof(file);
	fclose(file);
	if (!got || cut) {
		acp_wipe(line, sizeof line);
		return complain(source, "%s_file = %s: %s", setting->name, path,
				got ? "the first line is too long" : "the file is empty");
	}
	line[strcspn(line, "\r\n")] = '\0';
	bool ok = set_value(config, setting, line, source);
	acp_wipe(line, sizeof line);
	return ok;
}

static bool assign(struct acp_config *config, const char *name, const char *value, const struct source *source)
{
	char stem[64];
	size_t len = strlen(name);
	const struct setting *setting = find(name);
	if (!setting && len > 5 && len < sizeof stem && strcmp(name + len - 5, "_file") == 0) {
		snprintf(stem, sizeof stem, "%.*s", (int)(len - 5), name);
		const struct setting *secret = find(stem);
		if (secret && secret->type == SECRET) {
			config->given[secret - settings] = true;
			return set_from_file(config, secret, value, source);
		}
	}
	if (!setting)
		setting = find_renamed(config, name);
	if (!setting)
		return complain(source, "%s: there is no such setting (acp.fcgi --print-config lists them)", name);
	config->given[setting - settings] = true;
	return set_value(config, setting, value, source);
}

static char *trim(char *text)
{
	while (isspace((unsigned char)*text))
		text++;
	size_t len = strlen(text);
	while (len && isspace((unsigned char)text[len - 1]))
		text[--len] = '\0';
	return text;
}

/* Parses one line of the file. Modifies the line. */
static bool read_line(struct acp_config *config, char *line, const struct source *source)
{
	bool before[ACP_SETTINGS_MAX];
	char *text = trim(line);
	memcpy(before, config->given, sizeof before);
	if (*text == '\0' || *text == '#')
		return true;
	char *equals = strchr(text, '=');
	if (!equals)
		return complain(source, "expected `name = value`"); /* not shown: it may hold a secret */
	*equals = '\0';
	char *name = trim(text);
	char *value = trim(equals + 1);
	size_t len = strlen(value);
	if (len >= 2 && value[0] == '"' && value[len - 1] == '"') {
		value[len - 1] = '\0';
		value++;
	}
	if (!assign(config, name, value, source))
		return false;
	return memcmp(before, config->given, sizeof before) != 0 || complain(source, "%s: given a second time", name);
}

static bool read_file(struct acp_config *config, const char *path, char *why, size_t why_size)
{
	struct source source = {path, 0, why, why_size};
	char line[4096];
	FILE *file = fopen(path, "re");
	if (!file)
		return complain(&source, "%s", strerror(errno));
	bool ok = true;
	while (ok && fgets(line, sizeof line, file)) {
		source.line++;
		if (!strchr(line, '\n') && !feof(file))
			ok = complain(&source, "the line is longer than %zu bytes", sizeof line - 2);
		else
			ok = read_line(config, line, &source);
	}
	if (ok && ferror(file))
		ok = complain(&source, "%s", strerror(errno));
	fclose(file);
	acp_wipe(line, sizeof line);
	return ok;
}

static bool is_foreign(const char *variable, size_t len)
{
	for (size_t i = 0; i < ACP_COUNT(foreign); i++)
		if (strlen(foreign[i]) == len && strncmp(foreign[i], variable, len) == 0)
			return true;
	return false;
}

static bool read_environment(struct acp_config *config, char *why, size_t why_size)
{
	struct source source = {"environment", 0, why, why_size};
	for (char **variable = environ; variable && *variable; variable++) {
		const char *equals = strchr(*variable, '=');
		if (strncmp(*variable, "ACP_", 4) != 0 || !equals ||
		    is_foreign(*variable, (size_t)(equals - *variable)))
			continue;
		char name[64];
		size_t len = (size_t)(equals - *variable) - 4;
		if (len >= sizeof name)
			return complain(&source, "ACP_%.*s: there is no such setting", (int)len, *variable + 4);
		for (size_t i = 0; i < len; i++)
			name[i] = (char)tolower((unsigned char)(*variable)[4 + i]);
		name[len] = '\0';
		if (!assign(config, name, equals + 1, &source))
			return false;
	}
	return true;
}

static bool octal_digits(int64_t mode)
{
	for (; mode; mode /= 10)
		if (mode % 10 > 7)
			return false;
	return true;
}

/* Keys are sent to this URL, so it must not cross a network unencrypted. */
static bool safe_url(const char *url)
{
	static const char *const safe[] = {"https://", "http://127.0.0.1", "http://localhost", "http://[::1]"};
	for (size_t i = 0; i < ACP_COUNT(safe); i++) {
		size_t len = strlen(safe[i]);
		if (strncmp(url, safe[i], len) == 0 && (i == 0 ? url[len] != '\0' : strchr("/:", url[len]) != NULL))
			return url[strlen(url) - 1] != '/' && strlen(url) < 900;
	}
	return false;
}

#define SAFE_URL "must start with https:// (http:// only to this host) and not end with /"

/* Is this key usable between two installations? */
static bool service_key_ok(const struct acp_config *config, const char *key)
{
	size_t len = strlen(key);
	return len >= 32 && len <= 900 && strncmp(key, config->api_key_prefix, strlen(config->api_key_prefix)) != 0;
}

/* Checks the settings of a kernel that has a hub, and those of a hub. */
static bool hub_consistent(const struct acp_config *config, const struct source *source)
{
	const char *key = config->kernel_key;
	if (*key && !service_key_ok(config, key))
		return complain(source, "kernel_key: must have at least 32 characters and not begin like an API key; "
					"make one with: openssl rand -hex 32");
	if (!*config->hub_url)
		return true;
	if (!safe_url(config->hub_url))
		return complain(source, "hub_url = %s: " SAFE_URL, config->hub_url);
	if (strlen(config->hub_key) < 32 || strlen(config->hub_key) > 900)
		return complain(source, "hub_key: must be the kernel_key of the hub at hub_url");
	return !*key ||
	       complain(source, "kernel_key and hub_url: an installation that uses a hub cannot be one itself");
}

/* True if text has at most `most` words and is printable ASCII, so that it can be sent in a header. */
static bool words_ok(const char *text, int most)
{
	int words = 0;
	for (const char *at = text; *at; at++) {
		if ((unsigned char)*at < ' ' || (unsigned char)*at > '~')
			return false;
		words += *at != ' ' && (at == text || at[-1] == ' ');
	}
	return words <= most && strlen(text) <= 900;
}

/* Payments: either this program or the one at executor_url holds the vendor keys, never both. */
static bool executor_consistent(const struct acp_config *config, const struct source *source)
{
	if (!safe_url(config->stripe_url))
		return complain(source, "stripe_url = %s: " SAFE_URL, config->stripe_url);
	if (!words_ok(config->stripe_key, 1))
		return complain(source, "stripe_key: must be one word of printable ASCII, as Stripe shows it");
	if (!words_ok(config->stripe_webhook_secret, 2))
		return complain(source, "stripe_webhook_secret: must be one word, or two with a space between");
	if (*config->executor_key && !service_key_ok(config, config->executor_key))
		return complain(source, "executor_key: must have at least 32 characters and not begin like an API key; "
					"make one with: openssl rand -hex 32");
	if (*config->executor_key && strcmp(config->executor_key, config->kernel_key) == 0)
		return complain(source,
				"executor_key and kernel_key: must differ; each gives access to one service only");
	if (!*config->executor_url)
		return true;
	if (!safe_url(config->executor_url))
		return complain(source, "executor_url = %s: " SAFE_URL, config->executor_url);
	if (*config->stripe_key)
		return complain(source,
				"stripe_key and executor_url: the program at executor_url holds the vendor's key; "
				"remove stripe_key here");
	return *config->executor_key ||
	       complain(source, "executor_key: must be the key of the program at executor_url");
}

/* An amount is decimal text: money is never stored as a binary fraction. */
static bool amount_ok(const char *text)
{
	size_t whole = strspn(text, "0123456789");
	const char *rest = text + whole;
	if (whole == 0 || whole > 9)
		return false;
	if (*rest == '.')
		rest += 1 + strspn(rest + 1, "0123456789");
	return *rest == '\0' && rest[-1] != '.' && strlen(text) < 20;
}

/* Checks that involve more than the type and range of one value. */
static bool consistent(const struct acp_config *config, char *why, size_t why_size)
{
	struct source source = {"configuration", 0, why, why_size};
	const char *prefix = config->url_prefix;
	size_t prefix_len = strlen(prefix);
	if (!acp_key_prefix_ok(config->api_key_prefix))
		return complain(&source, "api_key_prefix = %s: must be 2 to 12 of a-z 0-9 followed by _",
				config->api_key_prefix);
	if (*config->key_pepper && strlen(config->key_pepper) < 32)
		return complain(&source,
				"key_pepper: must have at least 32 characters; make one with: openssl rand -hex 32");
	if (!hub_consistent(config, &source) || !executor_consistent(config, &source))
		return false;
	if (*config->invoice_minimum && !amount_ok(config->invoice_minimum))
		return complain(&source, "invoice_minimum = %s: must be an amount like 0.50, or empty",
				config->invoice_minimum);
	if (prefix_len && (prefix[0] != '/' || prefix[prefix_len - 1] == '/'))
		return complain(&source, "url_prefix = %s: must start with / and not end with it", prefix);
	if (strncmp(config->public_url, "http://", 7) != 0 && strncmp(config->public_url, "https://", 8) != 0)
		return complain(&source, "public_url = %s: must start with http:// or https://", config->public_url);
	if (config->processes > config->workers && acp_config_given(config, "processes") &&
	    acp_config_given(config, "workers"))
		return complain(&source, "processes = %lld: more than workers = %lld", (long long)config->processes,
				(long long)config->workers);
	if (!octal_digits(config->listen_mode))
		return complain(&source, "listen_mode = %lld: must be octal, for example 660",
				(long long)config->listen_mode);
	return true;
}

static bool read_defaults(struct acp_config *config, char *why, size_t why_size)
{
	struct source source = {"defaults", 0, why, why_size};
	memset(config, 0, sizeof *config);
	for (size_t i = 0; i < ACP_COUNT(settings); i++)
		if (!set_value(config, &settings[i], settings[i].value, &source))
			return false;
	return true;
}

bool acp_config_load(struct acp_config *config, const char *file, char *why, size_t why_size)
{
	const char *named = file ? file : getenv("ACP_CONFIG");
	FILE *installed = named ? NULL : fopen(ACP_CONFIG_FILE, "re");
	if (installed) {
		fclose(installed);
		named = ACP_CONFIG_FILE;
	}
	bool ok = read_defaults(config, why, why_size) && (!named || read_file(config, named, why, why_size)) &&
		  read_environment(config, why, why_size) && consistent(config, why, why_size);
	if (!ok)
		acp_config_release(config);
	return ok;
}

/* The configuration file contains secrets and is not world-readable, so a user without access to it runs without it. */
const char *acp_config_no_database(void)
{
	if (access(ACP_CONFIG_FILE, F_OK) == 0 && access(ACP_CONFIG_FILE, R_OK) != 0)
		return "database_url is not set: " ACP_CONFIG_FILE
		       " cannot be read by this user; run as another user, or set "
		       "ACP_DATABASE_URL";
	return "database_url is not set: put it into the configuration file (or database_url_file, or "
	       "ACP_DATABASE_URL)";
}

void acp_config_release(struct acp_config *config)
{
	for (size_t i = 0; i < ACP_COUNT(settings); i++) {
		const struct setting *setting = &settings[i];
		if (setting->type != TEXT && setting->type != SECRET && setting->type != CHOICE)
			continue;
		char **text = slot(config, setting);
		if (*text && setting->type == SECRET)
			acp_wipe(*text, strlen(*text));
		free(*text);
	}
	memset(config, 0, sizeof *config);
}

static void print_value(const struct acp_config *config, const struct setting *setting, FILE *out)
{
	switch (setting->type) {
	case TEXT:
	case CHOICE: fprintf(out, "%s = %s\n", setting->name, *(char **)slot(config, setting)); break;
	case SECRET:
		fprintf(out, "# %s %s\n", setting->name, **(char **)slot(config, setting) ? "(set)" : "(not set)");
		break;
	case NUMBER: fprintf(out, "%s = %lld\n", setting->name, (long long)*(int64_t *)slot(config, setting)); break;
	case SWITCH: fprintf(out, "%s = %s\n", setting->name, *(bool *)slot(config, setting) ? "on" : "off"); break;
	}
}

void acp_config_print(const struct acp_config *config, FILE *out)
{
	for (size_t i = 0; i < ACP_COUNT(settings); i++) {
		const struct setting *setting = &settings[i];
		fprintf(out, "# %s.\n", setting->help);
		if (setting->type == SECRET)
			fprintf(out, "# Secret; also %s_file = PATH.\n", setting->name);
		else if (setting->type == NUMBER)
			fprintf(out, "# %s, %lld to %lld; default %s.\n", setting->unit, (long long)setting->min,
				(long long)setting->max, setting->value);
		else if (*setting->unit)
			fprintf(out, "# %s; default %s.\n", setting->unit, setting->value);
		print_value(config, setting, out);
		fputc('\n', out);
	}
}

bool acp_config_given(const struct acp_config *config, const char *name)
{
	const struct setting *setting = find(name);
	return setting && config->given[setting - settings];
}
