/* Settings: defaults, the file, the environment, and errors in them. */
#include "../tmain.h"
#include "settings.h"

#include <unistd.h>

extern char **environ;

#define PEPPER "0123456789abcdef0123456789abcdef"

static char folder[256]; /* for this run's files; each test removes its own */
static char path[300];   /* of the configuration file */
static char why[1024];
static struct acp_config config;

static void expect_at(bool ok, unsigned line, const char *what, const char *detail)
{
	char shown[600];
	snprintf(shown, sizeof shown, "%.280s: %.280s", what, detail);
	CU_assertImplementation(ok ? CU_TRUE : CU_FALSE, line, shown, __FILE__, "", CU_FALSE);
}
#define EXPECT(condition, detail) expect_at(condition, __LINE__, #condition, detail)

/* --- files and environment ------------------------------------------------------------------------------ */

static void clear_environment(void)
{
	char name[128];
	for (char **variable = environ; variable && *variable;) {
		size_t len = strcspn(*variable, "=");
		if (strncmp(*variable, "ACP_", 4) == 0 && len < sizeof name) {
			snprintf(name, sizeof name, "%.*s", (int)len, *variable);
			unsetenv(name);
			variable = environ;
		} else {
			variable++;
		}
	}
}

static void begin(void)
{
	const char *where = getenv("TMPDIR");
	clear_environment();
	snprintf(folder, sizeof folder, "%s/acp-test-config-XXXXXX", where && *where ? where : "/tmp");
	if (!mkdtemp(folder)) {
		perror(folder);
		abort();
	}
	snprintf(path, sizeof path, "%s/acp.conf", folder);
}

static void write_file(const char *name, const char *text, size_t len)
{
	FILE *file = fopen(name, "w");
	if (!file || fwrite(text, 1, len, file) != len || fclose(file) != 0)
		abort();
}

static void end(void)
{
	clear_environment();
	unlink(path);
	if (rmdir(folder) != 0)
		perror(folder);
}

static bool load(const char *text)
{
	*why = '\0';
	write_file(path, text, strlen(text));
	return acp_config_load(&config, path, why, sizeof why);
}

static bool is_empty(void)
{
	static const struct acp_config empty;
	return memcmp(&config, &empty, sizeof config) == 0;
}

/* The file is refused: why begins with "<path>:<line>: " and contains the reason. */
static void refused(const char *text, int line, const char *reason)
{
	char place[400];
	bool loaded = load(text);
	snprintf(place, sizeof place, "%s:%d: ", path, line);
	EXPECT(!loaded, text);
	EXPECT(strncmp(why, place, strlen(place)) == 0, why);
	EXPECT(strstr(why, reason) != NULL, why);
	EXPECT(is_empty(), text);
	acp_config_release(&config);
}

/* The file is refused for a reason that is not in a single line. */
static void refused_whole(const char *text, const char *reason)
{
	bool loaded = load(text);
	EXPECT(!loaded, text);
	EXPECT(strstr(why, reason) != NULL, why);
	EXPECT(is_empty(), text);
	acp_config_release(&config);
}

static void accepted(const char *text)
{
	EXPECT(load(text), why);
}

/* --- defaults ------------------------------------------------------------------------------------------- */

static void test_defaults(void)
{
	begin();
	accepted("");
	EXPECT(strcmp(config.listen, "") == 0 && config.listen_mode == 660, "listen");
	EXPECT(config.workers == 32 && config.processes == 1, "workers");
	EXPECT(config.max_body_bytes == 262144 && config.max_json_depth == 32 && config.max_json_tokens == 20000,
	       "the limits of the contract");
	EXPECT(strcmp(config.api_key_prefix, "ock_") == 0, config.api_key_prefix);
	EXPECT(*config.database_url == '\0' && *config.key_pepper == '\0', "secrets have no default");
	EXPECT(config.onboarding && config.usage_enforcement, "switches");
	EXPECT(config.free_calls_limit == 100 && config.warn_at_percent == 90, "allowance");
	EXPECT(strcmp(config.products, "leadscoring") == 0, config.products);
	EXPECT(strcmp(config.log_format, "text") == 0 && strcmp(config.log_level, "info") == 0, "log");
	EXPECT(!memchr(config.given, true, sizeof config.given) && !acp_config_given(&config, "workers"),
	       "no setting was given");
	acp_config_release(&config);
	EXPECT(is_empty(), "released");
	end();
}

/* Every default passes the checks of its own setting. */
static void test_defaults_are_valid(void)
{
	static const char text[] =
#define ACP_TEXT(name, value, help)
#define ACP_SECRET(name, help)
#define ACP_NUMBER(name, value, min, max, unit, help) #name " = " #value "\n"
#define ACP_SWITCH(name, value, help) #name " = " #value "\n"
#define ACP_CHOICE(name, value, words, help) #name " = " value "\n"
#include "settings.def"
#undef ACP_TEXT
#undef ACP_SECRET
#undef ACP_NUMBER
#undef ACP_SWITCH
#undef ACP_CHOICE
		;
	begin();
	accepted(text);
	EXPECT(acp_config_given(&config, "workers") && acp_config_given(&config, "log_level"), "given");
	acp_config_release(&config);
	end();
}

/* --- the file ------------------------------------------------------------------------------------------- */

static void test_file(void)
{
	begin();
	accepted("# a comment\n"
		 "\n"
		 "   \t \n"
		 "workers=7\n"
		 "\tprocesses  =\t3  \r\n"
		 "  # an indented comment = 1\n"
		 "kernel_id = name # with = signs\n"
		 "documentation_url = \"  quoted # text  \"\n"
		 "listen = \"\"\n"
		 "log_level = \"debug\"\n"
		 "onboarding = off\n"
		 "products = \"a");
	EXPECT(config.workers == 7 && config.processes == 3, "numbers");
	EXPECT(strcmp(config.kernel_id, "name # with = signs") == 0, config.kernel_id);
	EXPECT(strcmp(config.documentation_url, "  quoted # text  ") == 0, config.documentation_url);
	EXPECT(strcmp(config.listen, "") == 0 && strcmp(config.log_level, "debug") == 0, "quotes");
	EXPECT(!config.onboarding, "switch");
	EXPECT(strcmp(config.products, "\"a") == 0, config.products); /* one quote is a character */
	EXPECT(acp_config_given(&config, "listen") && !acp_config_given(&config, "backlog"), "given");
	EXPECT(!acp_config_given(&config, "no_such_setting"), "given");
	acp_config_release(&config);
	end();
}

static void test_file_is_wrong(void)
{
	begin();
	refused("workers = 1\nworker = 2\n", 2, "worker: there is no such setting");
	refused("WORKERS = 1\n", 1, "there is no such setting");
	refused(" = 1\n", 1, "there is no such setting");
	refused("\n\nworkers\n", 3, "name = value");
	refused("workers 7\n", 1, "name = value");
	refused("[section]\n", 1, "name = value");
	refused("workers = 1\n# between\nworkers = 1\n", 3, "second time");
	refused("key_pepper = " PEPPER "\nkey_pepper = " PEPPER "\n", 2, "second time");
	refused("workers_file = /dev/null\n", 1, "there is no such setting");
	refused("kernel_id_file = /dev/null\n", 1, "there is no such setting");
	end();
}

static void test_values_are_wrong(void)
{
	static const char *const numbers[] = {"",
					      "x",
					      "7x",
					      "7.0",
					      "0x10",
					      "1e2",
					      "--1",
					      "\"\"",
					      "7 8",
					      "99999999999999999999",
					      "-99999999999999999999"};
	char text[200];
	begin();
	for (size_t i = 0; i < ACP_COUNT(numbers); i++) {
		snprintf(text, sizeof text, "# 1\nworkers = %s\n", numbers[i]);
		refused(text, 2, "workers");
	}
	refused("onboarding = yes\n", 1, "must be on or off");
	refused("onboarding = ON\n", 1, "must be on or off");
	refused("onboarding = \n", 1, "must be on or off");
	refused("onboarding = o\n", 1, "must be on or off");
	refused("log_format = xml\n", 1, "text|json");
	refused("log_format = jso\n", 1, "text|json");
	refused("log_level = \n", 1, "error|warning|info|debug");
	end();
}

/* The whole list of words is not a valid value. */
static void test_words_are_whole(void)
{
	begin();
	refused("onboarding = on|off\n", 1, "must be on or off");
	refused("log_format = text|json\n", 1, "must be one of");
	refused("log_level = error|warning\n", 1, "must be one of");
	EXPECT(!acp_word_in_list("manage.read manage.iam", "manage.read manage.iam"), "two words");
	EXPECT(acp_word_in_list("manage.read manage.iam", "manage.iam"), "a word");
	EXPECT(acp_word_in_list(" a aa ab ", "ab") && acp_word_in_list("aab ab", "ab"), "after a longer one");
	EXPECT(!acp_word_in_list("aab abb", "ab") && !acp_word_in_list("a", "") && !acp_word_in_list("", "a"),
	       "no word");
	end();
}

static void test_ranges(void)
{
	begin();
	refused("workers = 0\n", 1, "1 to 1024");
	refused("workers = 1025\n", 1, "1 to 1024");
	refused("workers = -1\n", 1, "1 to 1024");
	accepted("workers = 1\nprocesses = 1\n");
	acp_config_release(&config);
	accepted("workers = 1024\nfree_calls_limit = 0\nwarn_at_percent = 100\n");
	EXPECT(config.free_calls_limit == 0, "a limit of zero");
	acp_config_release(&config);
	refused("warn_at_percent = 101\n", 1, "1 to 100");
	refused("max_json_depth = 1\n", 1, "2 to 128");
	end();
}

/* One byte more than a line may have, and one byte less; each with and without a final newline. */
static void test_long_lines(void)
{
	static char text[9000];
	begin();
	for (size_t len = 4085; len <= 4105; len += 1) {
		size_t used = (size_t)snprintf(text, sizeof text, "workers = 3\nkernel_id = ");
		memset(text + used, 'k', len);
		text[used + len] = '\0';
		bool fits = len + strlen("kernel_id = ") <= 4094;
		for (int feed = 0; feed < 2; feed++) {
			text[used + len] = feed ? '\n' : '\0';
			text[used + len + 1] = '\0';
			if (fits) {
				accepted(text);
				EXPECT(config.kernel_id && strlen(config.kernel_id) == len, "whole");
				acp_config_release(&config);
			} else {
				refused(text, 2, "longer than");
			}
		}
	}
	end();
}

static void test_missing_file(void)
{
	begin();
	EXPECT(!acp_config_load(&config, path, why, sizeof why), "no file");
	EXPECT(strncmp(why, path, strlen(path)) == 0 && strstr(why, "No such file") != NULL, why);
	EXPECT(is_empty(), "empty");
	EXPECT(!acp_config_load(&config, folder, why, sizeof why), "a folder");
	EXPECT(strncmp(why, folder, strlen(folder)) == 0, why);
	end();
}

/* --- the environment ------------------------------------------------------------------------------------ */

static void test_environment_wins(void)
{
	begin();
	setenv("ACP_WORKERS", "9", 1);
	setenv("ACP_KERNEL_ID", "from the environment", 1);
	setenv("ACP_USAGE_ENFORCEMENT", "off", 1);
	accepted("workers = 5\nkernel_id = from the file\nbacklog = 4\n");
	EXPECT(config.workers == 9 && config.backlog == 4 && !config.usage_enforcement, "values");
	EXPECT(strcmp(config.kernel_id, "from the environment") == 0, config.kernel_id);
	EXPECT(acp_config_given(&config, "usage_enforcement"), "given by the environment");
	acp_config_release(&config);
	end();
}

/* The file named by ACP_CONFIG is read when no other file is named. */
static void test_environment_names_the_file(void)
{
	begin();
	write_file(path, "workers = 6\n", 12);
	setenv("ACP_CONFIG", path, 1);
	EXPECT(acp_config_load(&config, NULL, why, sizeof why), why);
	EXPECT(config.workers == 6, "ACP_CONFIG");
	acp_config_release(&config);
	EXPECT(acp_config_load(&config, "/dev/null", why, sizeof why), why);
	EXPECT(config.workers == 32, "an argument takes precedence");
	acp_config_release(&config);
	unlink(path);
	EXPECT(!acp_config_load(&config, NULL, why, sizeof why), "the named file must exist");
	end();
}

static void environment_refused(const char *name, const char *value, const char *reason)
{
	setenv(name, value, 1);
	refused_whole("workers = 4\n", reason);
	EXPECT(strncmp(why, "environment: ", 13) == 0, why);
	unsetenv(name);
}

static void test_environment_is_wrong(void)
{
	char name[120];
	begin();
	environment_refused("ACP_WORKER", "9", "worker: there is no such setting");
	environment_refused("ACP_", "9", "there is no such setting");
	environment_refused("ACP_WORKERS", "nine", "workers = nine");
	environment_refused("ACP_WORKERS", "", "workers");
	environment_refused("ACP_API_KEYS", "x", "there is no such setting"); /* similar to a foreign name */
	environment_refused("ACP_UR", "x", "there is no such setting");
	snprintf(name, sizeof name, "ACP_%0100d", 7);
	environment_refused(name, "x", "there is no such setting");
	setenv("ACPX", "1", 1);
	setenv("XACP_WORKERS", "nine", 1);
	accepted("");
	acp_config_release(&config);
	end();
}

/* Names that deploy/demo writes into its env file are neither settings nor errors. */
static void test_foreign_names(void)
{
	static const char *const names[] = {"ACP_URL", "ACP_API_KEY", "ACP_LOW_SCOPE_KEY", "ACP_RESPONDER_PID",
					    "ACP_POSTGRES_PID"};
	begin();
	for (size_t i = 0; i < ACP_COUNT(names); i++)
		setenv(names[i], "anything", 1);
	accepted("workers = 4\n");
	EXPECT(config.workers == 4, "workers");
	acp_config_release(&config);
	end();
}

/* --- secrets -------------------------------------------------------------------------------------------- */

static void test_secret_files(void)
{
	char secret[300], text[800];
	begin();
	snprintf(secret, sizeof secret, "%s/pepper", folder);
	write_file(secret, PEPPER "\r\nnot this\n", strlen(PEPPER) + 11);
	snprintf(text, sizeof text, "key_pepper_file = %s\n", secret);
	accepted(text);
	EXPECT(strcmp(config.key_pepper, PEPPER) == 0, "the first line");
	EXPECT(acp_config_given(&config, "key_pepper"), "given");
	acp_config_release(&config);
	setenv("ACP_KEY_PEPPER_FILE", secret, 1);
	accepted("key_pepper = another-pepper-of-more-than-32-characters\n");
	EXPECT(strcmp(config.key_pepper, PEPPER) == 0, "the environment wins");
	acp_config_release(&config);
	unsetenv("ACP_KEY_PEPPER_FILE");
	snprintf(text, sizeof text, "key_pepper = " PEPPER "\nkey_pepper_file = %s\n", secret);
	refused(text, 2, "second time");
	write_file(secret, "", 0);
	snprintf(text, sizeof text, "\nkey_pepper_file = %s\n", secret);
	refused(text, 2, "empty");
	unlink(secret);
	refused(text, 2, "No such file");
	end();
}

/* A secret that is too long must not be silently cut: a truncated connection string would be a different one. */
static void test_long_secret_file(void)
{
	static char line[6000];
	char secret[300], text[400];
	begin();
	snprintf(secret, sizeof secret, "%s/pepper", folder);
	snprintf(text, sizeof text, "key_pepper_file = %s\n", secret);
	memset(line, 's', sizeof line);
	write_file(secret, line, sizeof line);
	bool loaded = load(text);
	EXPECT(!loaded || strlen(config.key_pepper) == sizeof line, "cut");
	acp_config_release(&config);
	unlink(secret);
	end();
}

static void read_back(FILE *from, char *text, size_t size)
{
	rewind(from);
	size_t len = fread(text, 1, size - 1, from);
	text[len] = '\0';
	fclose(from);
}

static void test_print_hides_secrets(void)
{
	static char text[32768];
	begin();
	accepted("key_pepper = " PEPPER "\ndatabase_url = postgresql://app:hunter2@db/acp\nworkers = 11\n");
	FILE *out = tmpfile();
	acp_config_print(&config, out);
	read_back(out, text, sizeof text);
	acp_config_release(&config);
	EXPECT(!strstr(text, PEPPER) && !strstr(text, "hunter2") && !strstr(text, "postgresql://app"), "secrets");
	EXPECT(strstr(text, "key_pepper (set)") && strstr(text, "database_url (set)"), "set");
	EXPECT(strstr(text, "\nworkers = 11\n") != NULL, "value");
	EXPECT(strstr(text, "default 32") != NULL, "default");
	end();
}

/* The printed settings are a valid configuration file with the same values. */
static void test_print_loads_again(void)
{
	static char first[32768], second[32768];
	begin();
	accepted("workers = 11\nlog_format = json\nonboarding = off\nlisten = /run/acp/a b.sock\nlisten_mode = 600\n"
		 "public_url = https://x.example/#a=b\nkernel_id = \"\"\n");
	FILE *out = tmpfile();
	acp_config_print(&config, out);
	read_back(out, first, sizeof first);
	acp_config_release(&config);
	accepted(first);
	EXPECT(config.workers == 11 && !config.onboarding && config.listen_mode == 600, "values");
	EXPECT(config.listen && strcmp(config.listen, "/run/acp/a b.sock") == 0, "text");
	out = tmpfile();
	acp_config_print(&config, out);
	read_back(out, second, sizeof second);
	EXPECT(strcmp(first, second) == 0, "the same output");
	acp_config_release(&config);
	end();
}

/* --- former names --------------------------------------------------------------------------------------- */

static void test_renamed(void)
{
	begin();
	accepted("api_key_prefix = new_\n");
	EXPECT(!*config.notice, config.notice);
	acp_config_release(&config);
	accepted("key_prefix = old_\n");
	EXPECT(strcmp(config.api_key_prefix, "old_") == 0, config.api_key_prefix);
	EXPECT(acp_config_given(&config, "api_key_prefix") && !acp_config_given(&config, "key_prefix"), "given");
	EXPECT(strstr(config.notice, "key_prefix is called api_key_prefix now") != NULL, config.notice);
	acp_config_release(&config);
	refused("key_prefix = old_\napi_key_prefix = new_\n", 2, "given a second time");
	setenv("ACP_KEY_PREFIX", "env_", 1);
	accepted("api_key_prefix = new_\n");
	EXPECT(strcmp(config.api_key_prefix, "env_") == 0, config.api_key_prefix);
	EXPECT(*config.notice, "the notice covers the environment, too");
	acp_config_release(&config);
	end();
}

/* --- values that must fit together ---------------------------------------------------------------------- */

static void test_consistency(void)
{
	begin();
	refused_whole("api_key_prefix = Ock_\n", "api_key_prefix");
	refused_whole("api_key_prefix =\n", "api_key_prefix");
	refused_whole("key_pepper = 0123456789abcdef0123456789abcde\n", "32 characters");
	EXPECT(!strstr(why, "0123456789abcdef"), "the secret is not shown");
	refused_whole("url_prefix = acp\n", "url_prefix");
	refused_whole("url_prefix = /acp/\n", "url_prefix");
	refused_whole("url_prefix = /\n", "url_prefix");
	refused_whole("public_url = ftp://x\n", "public_url");
	refused_whole("public_url = x.example\n", "public_url");
	refused_whole("workers = 2\nprocesses = 3\n", "processes");
	refused_whole("listen_mode = 680\n", "listen_mode");
	refused_whole("listen_mode = 008\n", "listen_mode");
	accepted("api_key_prefix = a1_\nkey_pepper = " PEPPER
		 "\nurl_prefix = /acp\npublic_url = https://x\nworkers = 3\n"
		 "processes = 3\nlisten_mode = 0600\n");
	acp_config_release(&config);
	end();
}

/* A message about an invalid line does not reveal a secret in it. */
static void test_messages_hide_secrets(void)
{
	begin();
	refused("key_pepper " PEPPER "\n", 1, "name = value");
	EXPECT(!load("key_pepper: " PEPPER "\n") && !strstr(why, PEPPER), why);
	end();
}

const char *const acp_suite_name = "config";

CU_TestInfo acp_tests[] = {
	{"defaults", test_defaults},
	{"defaults_are_valid", test_defaults_are_valid},
	{"file", test_file},
	{"file_is_wrong", test_file_is_wrong},
	{"values_are_wrong", test_values_are_wrong},
	{"words_are_whole", test_words_are_whole},
	{"ranges", test_ranges},
	{"long_lines", test_long_lines},
	{"missing_file", test_missing_file},
	{"environment_wins", test_environment_wins},
	{"environment_names_the_file", test_environment_names_the_file},
	{"environment_is_wrong", test_environment_is_wrong},
	{"foreign_names", test_foreign_names},
	{"secret_files", test_secret_files},
	{"long_secret_file", test_long_secret_file},
	{"print_hides_secrets", test_print_hides_secrets},
	{"print_loads_again", test_print_loads_again},
	{"renamed", test_renamed},
	{"consistency", test_consistency},
	{"messages_hide_secrets", test_messages_hide_secrets},
	CU_TEST_INFO_NULL,
};
