/* common.c - options, statements, tables. */
#include "acpctl.h"

#include <stdarg.h>

enum { MAX_COLUMNS = 16 };

int ctl_fail(const char *format, ...)
{
	va_list args;
	fputs("acpctl: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	return ACPCTL_FAILED;
}

static struct ctl_option *find_option(struct ctl_option *options, size_t count, const char *name)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(options[i].name, name) == 0)
			return &options[i];
	return NULL;
}

bool ctl_options(struct ctl *ctl, struct ctl_option *options, size_t count, const char *what, const char **positional)
{
	for (int i = 0; i < ctl->argc; i++) {
		const char *word = ctl->argv[i];
		struct ctl_option *option = find_option(options, count, word);
		if (strcmp(word, "--json") == 0) {
			ctl->json = true;
		} else if (option && i + 1 < ctl->argc) {
			option->value = ctl->argv[++i];
		} else if (option) {
			ctl_fail("%s needs a value", word);
			return false;
		} else if (word[0] != '-' && positional && !*positional) {
			*positional = word;
		} else {
			ctl_fail("%s: unexpected argument; acpctl --help shows what this command takes", word);
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
	return !positional || *positional;
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

static const char *text_of(struct json_object *value)
{
	if (!value)
		return "-";
	return json_object_is_type(value, json_type_string)
		       ? json_object_get_string(value)
		       : json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN);
}

/* Columns as wide as their longest value. */
static void print_table(struct json_object *rows)
{
	int widths[MAX_COLUMNS] = {0};
	size_t count = json_object_array_length(rows);
	for (size_t row = 0; row < count; row++) {
		int column = 0;
		json_object_object_foreach(json_object_array_get_idx(rows, row), name, value)
		{
			int name_len = (int)strlen(name);
			int value_len = (int)strlen(text_of(value));
			if (column < MAX_COLUMNS && widths[column] < name_len)
				widths[column] = name_len;
			if (column < MAX_COLUMNS && widths[column] < value_len)
				widths[column] = value_len;
			column++;
		}
	}
	for (size_t row = 0; row < count; row++) {
		struct json_object *object = json_object_array_get_idx(rows, row);
		for (int pass = row == 0 ? 0 : 1; pass < 2; pass++) {
			int column = 0;
			json_object_object_foreach(object, name, value) printf(
				"%-*s  ", column < MAX_COLUMNS ? widths[column++] : 0, pass ? text_of(value) : name);
			putchar('\n');
		}
	}
	printf("(%zu row%s)\n", count, count == 1 ? "" : "s");
}

void ctl_print(struct ctl *ctl, struct json_object *rows)
{
	if (ctl->json)
		puts(json_object_to_json_string_ext(rows, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
	else
		print_table(rows);
	json_object_put(rows);
}

void ctl_print_one(struct ctl *ctl, struct json_object *rows)
{
	struct json_object *row = json_object_array_get_idx(rows, 0);
	if (ctl->json) {
		puts(json_object_to_json_string_ext(row, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
	} else {
		json_object_object_foreach(row, name, value) printf("%-22s %s\n", name, text_of(value));
	}
	json_object_put(rows);
}

struct json_object *ctl_value(struct json_object *rows, const char *column)
{
	return acp_json_member(json_object_array_get_idx(rows, 0), column);
}
