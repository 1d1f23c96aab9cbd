/* options.c - parses a command line according to the table of commands, with getopt_long(3). */
#include "commands.h"

#include <getopt.h>

enum { CONFIG = 1000, JSON, CSV, HELP, VERSION }; /* beyond all letters; OWN + i is option i of the command */
enum { OWN = 2000 };

static const struct option global_options[] = {{"config", required_argument, NULL, CONFIG},
					       {"json", no_argument, NULL, JSON},
					       {"csv", no_argument, NULL, CSV},
					       {"help", no_argument, NULL, HELP},
					       {"version", no_argument, NULL, VERSION}};

/* The state of parsing one command line. */
struct reading {
	struct ctl *ctl;
	const char *name; /* of the command, for messages; NULL: before the command */
	const struct ctl_option *own;
	struct option options[CTL_MAX_OPTIONS + ACP_COUNT(global_options) + 1];
	char letters[3 + 2 * CTL_MAX_OPTIONS]; /* in the form of getopt(3) */
	const char *word;                      /* the word that is being read */
};

/* Values ----------------------------------------------------------------------------------------------------------- */

/* Returns whether the value matches one of the alternatives, for example of "free|paid", "YYYY-MM|all" or "TIME". */
static bool value_fits(const char *alternatives, const char *value)
{
	for (const char *at = alternatives; *at; at += at[strcspn(at, "|")] ? strcspn(at, "|") + 1 : strlen(at)) {
		size_t len = strcspn(at, "|");
		bool month = len == 7 && strncmp(at, "YYYY-MM", 7) == 0;
		bool word = *at >= 'a' && *at <= 'z';
		if (month ? ctl_is_month(value) : !word || (strlen(value) == len && strncmp(at, value, len) == 0))
			return true;
	}
	return false;
}

/* Names the possible values; returns false. */
static bool refuse_value(const struct ctl_option *option, const char *value)
{
	char list[96];
	snprintf(list, sizeof list, "%s", option->value);
	for (char *c = list; *c; c++)
		*c = *c == '|' ? ' ' : *c;
	if (strcmp(list, "YYYY-MM") == 0)
		return ctl_refuse("--%s %.99s: must be YYYY-MM, a UTC month", option->name, value);
	if (strcmp(list, "YYYY-MM all") == 0)
		return ctl_refuse("--%s %.99s: must be YYYY-MM, a UTC month, or all", option->name, value);
	return ctl_refuse("--%s %.99s: must be one of: %s", option->name, value, list);
}

/* Every option with the value TIME: a moment, which commands get in UTC. */
static bool set_moment(struct reading *r, size_t index, const char *value)
{
	char *moment = r->ctl->moments[index];
	r->ctl->values[index] = moment;
	return acp_moment_utc(value, moment) ||
	       ctl_refuse("--%s %.99s: must be a UTC date like 2026-12-01, or a time with its offset like "
			  "2026-12-01T08:30:00Z (RFC 3339), in the years 1970 to 9999",
			  r->own[index].name, value);
}

static bool set_own(struct reading *r, size_t index, const char *value)
{
	const struct ctl_option *option = &r->own[index];
	if (option->value && strcmp(option->value, "TIME") == 0)
		return set_moment(r, index, value);
	r->ctl->values[index] = option->value ? value : "";
	return !option->value || value_fits(option->value, value) || refuse_value(option, value);
}

/* Options ---------------------------------------------------------------------------------------------------------- */

static void add_own(struct reading *r, size_t index, char *letters)
{
	const struct ctl_option *option = &r->own[index];
	r->options[index] =
		(struct option){option->name, option->value ? required_argument : no_argument, NULL, OWN + (int)index};
	if (option->letter) {
		size_t len = strlen(letters);
		letters[len] = option->letter;
		letters[len + 1] = option->value ? ':' : '\0';
	}
}

/* own: the options of the command, or NULL before the command. There, the first word that is not an option ends the
 * parsing ('+'). After the command, getopt returns such words in order ('-'), whatever POSIXLY_CORRECT says. */
static void prepare(struct reading *r, struct ctl *ctl, const char *name, const struct ctl_option *own)
{
	static const struct ctl_option none[1];
	size_t count = 0;
	*r = (struct reading){.ctl = ctl, .name = name, .own = own ? own : none, .letters = {own ? '-' : '+', ':'}};
	for (; r->own[count].name; count++)
		add_own(r, count, r->letters);
	for (size_t i = 0; i < ACP_COUNT(global_options); i++)
		r->options[count++] = global_options[i];
	optind = 0; /* restarts getopt */
}

static size_t index_of_letter(const struct ctl_option *own, int letter)
{
	size_t index = 0;
	while (own[index].name && own[index].letter != letter)
		index++;
	return index;
}

static bool no_such_option(const struct reading *r)
{
	char word[100];
	snprintf(word, sizeof word, "%.*s", (int)strcspn(r->word, "="), r->word);
	if (r->name)
		return ctl_refuse("%s: no such option; acpctl help %s shows its options", word, r->name);
	return ctl_refuse("%s: no such option before a command; acpctl help shows the options", word);
}

static bool value_missing(const struct reading *r)
{
	char text[96] = "--config FILE";
	if (optopt >= OWN)
		ctl_option_text(&r->own[optopt - OWN], text);
	else if (optopt < CONFIG)
		ctl_option_text(&r->own[index_of_letter(r->own, optopt)], text);
	return ctl_refuse("%s needs a value; write %s", r->word, text);
}

/* Refuses an option that does not exist, or that has a value but takes none. */
static bool refuse_option(const struct reading *r)
{
	bool is_long = strncmp(r->word, "--", 2) == 0;
	size_t len = strcspn(r->word, "=");
	if (is_long && optopt != 0)
		return ctl_refuse("%.*s takes no value; leave out what follows it", (int)len, r->word);
	return no_such_option(r);
}

/* getopt accepts --per for --period; a script that uses it would break when another option --per... is added. */
static bool is_abbreviated(const struct reading *r, int index)
{
	return strncmp(r->word, "--", 2) == 0 && strcspn(r->word + 2, "=") != strlen(r->options[index].name);
}

static bool set_global(struct ctl *ctl, int code)
{
	switch (code) {
	case CONFIG: ctl->config_file = optarg; return true;
	case JSON: return ctl->json = true;
	case CSV: return ctl->csv = true;
	case HELP: return ctl->help = true;
	default: return ctl->version = true;
	}
}

/* Stores an option, or refuses it. code, index: from getopt_long(). */
static bool set_option(struct reading *r, int code, int index)
{
	if (code == '?' || code == ':')
		return code == ':' ? value_missing(r) : refuse_option(r);
	if (code >= CONFIG && is_abbreviated(r, index))
		return ctl_refuse("%.*s: write --%s in full", (int)strcspn(r->word, "="), r->word,
				  r->options[index].name);
	if (code >= CONFIG && code < OWN)
		return set_global(r->ctl, code);
	return set_own(r, code >= OWN ? (size_t)(code - OWN) : index_of_letter(r->own, code), optarg);
}

static bool output_ok(const struct ctl *ctl)
{
	return !ctl->json || !ctl->csv || ctl_refuse("--json and --csv exclude each other; give one of them");
}

int ctl_parse_global(struct ctl *ctl, int argc, char **argv)
{
	struct reading r;
	int code, index;
	prepare(&r, ctl, NULL, NULL);
	for (;;) {
		r.word = argv[optind ? optind : 1];
		if ((code = getopt_long(argc, argv, r.letters, r.options, &index)) == -1)
			return output_ok(ctl) ? optind : -1;
		if (!set_option(&r, code, index))
			return -1;
	}
}

/* Completeness ----------------------------------------------------------------------------------------------------- */

void ctl_option_text(const struct ctl_option *option, char text[96])
{
	char letter[8] = "";
	if (option->letter)
		snprintf(letter, sizeof letter, "-%c|", option->letter);
	snprintf(text, 96, "%s--%s%s%s", letter, option->name, option->value ? " " : "",
		 option->value ? option->value : "");
}

/* Checks an option and its alternatives: at most one of them is given, and one if it is required. */
static bool option_ok(const struct ctl *ctl, const struct ctl_option *option, const char *const *values)
{
	char first[96], second[96];
	const struct ctl_option *given = *values ? option : NULL;
	for (size_t i = 1; option[i].alternative; i++) {
		if (given && values[i])
			return ctl_refuse("--%s and --%s exclude each other; give one of them", given->name,
					  option[i].name);
		given = values[i] ? &option[i] : given;
	}
	if (given || !option->required)
		return true;
	ctl_option_text(option, first);
	ctl_option_text(&option[1], second);
	if (option[1].alternative)
		return ctl_refuse("%s needs %s or %s", ctl->command->name, first, second);
	return ctl_refuse("%s needs %s", ctl->command->name, first);
}

/* Checks the number of operands. */
static bool operands_ok(const struct ctl *ctl)
{
	const char *takes = ctl->command->operand;
	bool optional = *takes == '[' || !*takes;
	int most = !*takes ? 0 : strchr(takes, ' ') ? 2 : 1;
	if (ctl->operand_count < (optional ? 0 : most))
		return ctl_refuse("%s needs %s", ctl->command->name, takes);
	if (strstr(takes, "...]") || ctl->operand_count <= most)
		return true;
	const char *extra = ctl->operands[most];
	if (!*takes)
		return ctl_refuse("%.99s: unexpected argument; %s takes none", extra, ctl->command->name);
	if (most == 2)
		return ctl_refuse("%.99s: unexpected argument; %s takes only %s", extra, ctl->command->name, takes);
	return ctl_refuse("%.99s: unexpected argument; %s takes one %.*s", extra, ctl->command->name,
			  (int)strcspn(takes + (*takes == '['), "]"), takes + (*takes == '['));
}

static bool arguments_ok(const struct ctl *ctl)
{
	const struct ctl_option *options = ctl->command->options;
	for (size_t i = 0; options[i].name; i++)
		if (!options[i].alternative && !option_ok(ctl, &options[i], &ctl->values[i]))
			return false;
	return operands_ok(ctl) && output_ok(ctl);
}

bool ctl_parse(struct ctl *ctl, int argc, char **argv)
{
	enum { WORD = 1 }; /* getopt's code for a word that is not an option */
	struct reading r;
	int code, index;
	prepare(&r, ctl, ctl->command->name, ctl->command->options);
	ctl->operands = argv + 1;
	for (;;) {
		r.word = argv[optind ? optind : 1];
		if ((code = getopt_long(argc, argv, r.letters, r.options, &index)) == -1)
			break;
		if (code == WORD)
			ctl->operands[ctl->operand_count++] = optarg;
		else if (!set_option(&r, code, index))
			return false;
	}
	while (optind < argc) /* after -- */
		ctl->operands[ctl->operand_count++] = argv[optind++];
	return ctl->help || ctl->version || arguments_ok(ctl);
}

/* For commands ----------------------------------------------------------------------------------------------------- */

const char *ctl_option(const struct ctl *ctl, const char *name)
{
	const struct ctl_option *options = ctl->command->options;
	for (size_t i = 0; options[i].name; i++)
		if (strcmp(options[i].name, name) == 0)
			return ctl->values[i];
	ctl_fail("%s: commands.def does not have the option --%s", ctl->command->name, name);
	abort();
}

bool ctl_flag(const struct ctl *ctl, const char *name)
{
	return ctl_option(ctl, name) != NULL;
}

const char *ctl_operand(const struct ctl *ctl)
{
	return ctl->operand_count ? ctl->operands[0] : NULL;
}

bool ctl_tenant_option(struct ctl *ctl, char uuid[ACP_UUID_LEN], const char **tenant)
{
	const char *given = ctl_option(ctl, "tenant");
	*tenant = given ? uuid : NULL;
	return !given || ctl_tenant_id(ctl, given, uuid);
}

const char *ctl_limit(const struct ctl *ctl)
{
	const char *limit = ctl_option(ctl, "limit") ? ctl_option(ctl, "limit") : "100";
	size_t digits = strspn(limit, "0123456789");
	if (digits >= 1 && digits <= 6 && !limit[digits])
		return limit;
	ctl_fail("--limit %.80s: must be a number of rows, at most 999999", limit);
	return NULL;
}
