/* common.c - options and statements. */
#include "ctl_audit.h"

#include <stdarg.h>

int ctl_fail(const char *format, ...)
{
	va_list args;
	audit_progress_hide();
	fputs("acpctl: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	return ACPCTL_FAILED;
}

int ctl_misuse(const char *format, ...)
{
	char text[1024];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	ctl_fail("%s", text);
	return ACPCTL_USAGE;
}

bool ctl_one_of(const char *option, const char *list, const char *word)
{
	if (!word || (*word && !strchr(word, ' ') && acp_word_in_list(list, word)))
		return true;
	ctl_fail("%s %.80s: must be one of: %s", option, word, list);
	return false;
}

static struct ctl_option *find_option(struct ctl_option *options, size_t count, const char *name)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(options[i].name, name) == 0)
			return &options[i];
	return NULL;
}

bool ctl_output_option(struct ctl *ctl, const char *word)
{
	bool json = strcmp(word, "--json") == 0;
	bool csv = strcmp(word, "--csv") == 0;
	ctl->json = ctl->json || json;
	ctl->csv = ctl->csv || csv;
	return json || csv;
}

bool ctl_output_ok(const struct ctl *ctl)
{
	if (ctl->json && ctl->csv)
		ctl_fail("--json and --csv: give one of them");
	return !ctl->json || !ctl->csv;
}

bool ctl_options(struct ctl *ctl, struct ctl_option *options, size_t count, const char *what, const char **positional)
{
	for (int i = 0; i < ctl->argc; i++) {
		const char *word = ctl->argv[i];
		struct ctl_option *option = find_option(options, count, word);
		if (ctl_output_option(ctl, word)) {
			continue;
		} else if (option && i + 1 < ctl->argc) {
			option->value = ctl->argv[++i];
		} else if (option) {
			ctl_fail("%s needs a value", word);
			return false;
		} else if (word[0] != '-' && positional && !*positional) {
			*positional = word;
		} else {
			ctl_fail("%s: unexpected argument; --help behind a command shows what it takes", word);
			return false;
		}
	}
	for (size_t i = 0; i < count; i++) {
		if (options[i].required && !options[i].value) {
			ctl_fail("%s is required", options[i].name);
			return false;
		}
	}
	if (positional && !*positional)
		ctl_fail("%s is required", what);
	return (!positional || *positional) && ctl_output_ok(ctl);
}

struct json_object *ctl_query(struct ctl *ctl, const char *statement, const char *const *values)
{
	char why[1024];
	if (!ctl->admin && !(ctl->admin = acp_admin_open(&ctl->config, why, sizeof why))) {
		ctl_fail("%s", why);
		return NULL;
	}
	struct json_object *rows = acp_admin_query(ctl->admin, statement, values, why, sizeof why);
	if (!rows)
		ctl_fail("%s: %s", statement, why);
	return rows;
}

struct json_object *ctl_value(struct json_object *rows, const char *column)
{
	return acp_json_member(json_object_array_get_idx(rows, 0), column);
}

bool ctl_is_month(const char *text)
{
	return strlen(text) == 7 && strspn(text, "0123456789") == 4 && text[4] == '-' &&
	       strspn(text + 5, "0123456789") == 2 && strcmp(text + 5, "01") >= 0 && strcmp(text + 5, "12") <= 0;
}
