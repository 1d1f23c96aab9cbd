/* output.c - writes results: tables for people, JSON and CSV for programs. */
#include "acpctl.h"

#include <stdarg.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { MAX_COLUMNS = 32 };

/* A table: the names and widths of its columns. */
struct table {
	const char *names[MAX_COLUMNS];
	int widths[MAX_COLUMNS];
	bool numbers[MAX_COLUMNS]; /* all values are numbers: aligned to the right */
	int count;
};

static const char *text_of(struct json_object *value)
{
	if (json_object_is_type(value, json_type_string))
		return json_object_get_string(value);
	return json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
}

void ctl_print_json(struct json_object *value)
{
	puts(json_object_to_json_string_ext(value, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
}

/* People ----------------------------------------------------------------------------------------------------------- */

/* Characters, not bytes. */
static int width_of(const char *text)
{
	int width = 0;
	for (; *text; text++)
		width += ((unsigned char)*text & 0xC0) != 0x80;
	return width;
}

/* Texts that tenants chose must not control the terminal: control characters (C0, DEL, C1) become '?'. */
static void put_text(const char *text)
{
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;
		bool c1 = c == 0xC2 && ((unsigned char)text[1] & 0xE0) == 0x80;
		putchar(c < ' ' || c == 0x7F || c1 ? '?' : *text);
		text += c1;
	}
}

static const char *shown(struct json_object *value)
{
	return value ? text_of(value) : "-";
}

static bool is_number(const char *text)
{
	text += *text == '-';
	return *text && !text[strspn(text, "0123456789.")];
}

static void measure(struct table *table, struct json_object *rows)
{
	for (int i = 0; i < table->count; i++) {
		table->widths[i] = width_of(table->names[i]);
		table->numbers[i] = true;
		for (size_t row = 0; row < json_object_array_length(rows); row++) {
			struct json_object *value =
				acp_json_member(json_object_array_get_idx(rows, row), table->names[i]);
			int width = width_of(shown(value));
			table->widths[i] = width > table->widths[i] ? width : table->widths[i];
			table->numbers[i] = table->numbers[i] && (!value || is_number(text_of(value)));
		}
	}
}

/* row: NULL prints the names. No blanks follow the last column. */
static void print_line(const struct table *table, struct json_object *row)
{
	for (int i = 0; i < table->count; i++) {
		const char *text = row ? shown(acp_json_member(row, table->names[i])) : table->names[i];
		int blanks = table->widths[i] - width_of(text);
		bool last = i + 1 == table->count;
		printf("%*s", table->numbers[i] ? blanks : 0, "");
		put_text(text);
		printf("%*s", last ? 0 : (table->numbers[i] ? 0 : blanks) + 2, "");
	}
	putchar('\n');
}

/* Returns the width of the terminal on standard output, in columns. 0: not a terminal, or unknown. */
static int terminal_width(void)
{
	struct winsize size = {0};
	return isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

/* Prints a block of lines for each row, for a narrow terminal. A table would cut UUIDs off, and a UUID that is cut off
 * cannot be copied. */
static void print_blocks(const struct table *table, struct json_object *rows)
{
	int widest = 0;
	for (int i = 0; i < table->count; i++)
		widest = width_of(table->names[i]) > widest ? width_of(table->names[i]) : widest;
	for (size_t row = 0; row < json_object_array_length(rows); row++) {
		if (row)
			putchar('\n');
		for (int i = 0; i < table->count; i++) {
			printf("%-*s  ", widest, table->names[i]);
			put_text(shown(acp_json_member(json_object_array_get_idx(rows, row), table->names[i])));
			putchar('\n');
		}
	}
}

static void print_table(struct table *table, struct json_object *rows)
{
	size_t count = json_object_array_length(rows);
	int room = terminal_width();
	int line = -2;
	measure(table, rows);
	for (int i = 0; i < table->count; i++)
		line += table->widths[i] + 2;
	if (room && line > room) {
		print_blocks(table, rows);
	} else if (count) {
		print_line(table, NULL);
		for (size_t row = 0; row < count; row++)
			print_line(table, json_object_array_get_idx(rows, row));
	}
	printf("(%zu row%s)\n", count, count == 1 ? "" : "s");
}

/* CSV (RFC 4180, lines end with a newline alone) ------------------------------------------------------------------- */

static void put_field(const char *text)
{
	/* "" is an empty text; an empty field is no value. */
	if (*text && !text[strcspn(text, "\",\r\n")]) {
		fputs(text, stdout);
		return;
	}
	putchar('"');
	for (; *text; text++) {
		if (*text == '"')
			putchar('"');
		putchar(*text);
	}
	putchar('"');
}

static void print_csv(const struct table *table, struct json_object *rows)
{
	for (int i = 0; i < table->count; i++)
		printf("%s%s", i ? "," : "", table->names[i]);
	putchar('\n');
	for (size_t row = 0; row < json_object_array_length(rows); row++) {
		for (int i = 0; i < table->count; i++) {
			struct json_object *value =
				acp_json_member(json_object_array_get_idx(rows, row), table->names[i]);
			if (i)
				putchar(',');
			if (value)
				put_field(text_of(value));
		}
		putchar('\n');
	}
}

/* Rows ------------------------------------------------------------------------------------------------------------- */

/* Uses the columns of the first row or, if there are no rows, those of the last statement. */
static struct table columns_of(const struct ctl *ctl, struct json_object *rows)
{
	struct table table = {0};
	struct json_object *names = ctl->admin ? acp_admin_columns(ctl->admin) : NULL;
	if (json_object_array_length(rows)) {
		json_object_object_foreach(json_object_array_get_idx(rows, 0), name, value)
		{
			(void)value;
			if (table.count < MAX_COLUMNS)
				table.names[table.count++] = name;
		}
		return table;
	}
	for (size_t i = 0; names && i < json_object_array_length(names) && i < MAX_COLUMNS; i++)
		table.names[table.count++] = json_object_get_string(json_object_array_get_idx(names, i));
	return table;
}

static void print(struct ctl *ctl, struct table *table, struct json_object *rows)
{
	if (ctl->json)
		ctl_print_json(rows);
	else if (ctl->csv)
		print_csv(table, rows);
	else
		print_table(table, rows);
}

void ctl_print(struct ctl *ctl, struct json_object *rows)
{
	struct table table = columns_of(ctl, rows);
	print(ctl, &table, rows);
	json_object_put(rows);
}

void ctl_print_columns(struct ctl *ctl, struct json_object *rows, const char *const *names, size_t count)
{
	struct table table = {0};
	for (size_t i = 0; i < count && i < MAX_COLUMNS; i++)
		table.names[table.count++] = names[i];
	print(ctl, &table, rows);
}

void ctl_print_one(struct ctl *ctl, struct json_object *rows)
{
	struct json_object *row = json_object_array_get_idx(rows, 0);
	if (ctl->json) {
		ctl_print_json(row);
	} else if (ctl->csv) {
		struct table table = columns_of(ctl, rows);
		print_csv(&table, rows);
	} else {
		json_object_object_foreach(row, name, value)
		{
			printf("%-22s ", name);
			put_text(shown(value));
			putchar('\n');
		}
	}
	json_object_put(rows);
}

void ctl_print_done(struct ctl *ctl, const char *id_name, const char *id, const char *done)
{
	struct json_object *rows = json_object_new_array();
	struct json_object *row = json_object_new_object();
	acp_json_add_string(row, id_name, id);
	acp_json_add_string(row, "done", done);
	json_object_array_add(rows, row);
	if (ctl->json || ctl->csv) {
		ctl_print_one(ctl, rows);
		return;
	}
	printf("%s %s\n", done, id);
	json_object_put(rows);
}

int ctl_print_query(struct ctl *ctl, const char *statement, const char *const *values)
{
	struct json_object *rows = ctl_query(ctl, statement, values);
	if (!rows)
		return ACPCTL_FAILED;
	ctl_print(ctl, rows);
	return ACPCTL_OK;
}

/* Checks ----------------------------------------------------------------------------------------------------------- */

static int problems;
static struct json_object *checks; /* with --json or --csv */

void ctl_checks_begin(const struct ctl *ctl)
{
	problems = 0;
	checks = ctl->json || ctl->csv ? json_object_new_array() : NULL;
}

/* ok: NULL if the check was skipped. */
static void add_check(const char *mark, const char *name, struct json_object *ok, const char *text)
{
	if (!checks) {
		printf("%-5s %-22s %s\n", mark, name, text);
		json_object_put(ok);
		return;
	}
	struct json_object *row = json_object_new_object();
	acp_json_add_string(row, "check", name);
	json_object_object_add(row, "ok", ok);
	acp_json_add_string(row, "said", text);
	json_object_array_add(checks, row);
}

void ctl_check(bool good, const char *name, const char *format, ...)
{
	char text[1024];
	va_list args;
	problems += !good;
	va_start(args, format);
	ctl_format(text, sizeof text, format, args);
	va_end(args);
	add_check(good ? "ok" : "WRONG", name, json_object_new_boolean(good), text);
}

void ctl_check_skipped(const char *name, const char *reason)
{
	add_check("-", name, NULL, reason);
}

int ctl_checks_end(struct ctl *ctl)
{
	if (checks)
		ctl_print(ctl, checks);
	else
		printf(problems ? "%d problem%s\n" : "no problems\n", problems, problems == 1 ? "" : "s");
	return problems;
}
