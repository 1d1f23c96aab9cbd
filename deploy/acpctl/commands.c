/* commands.c - the table of commands; acpctl help and acpctl version. */
#include "commands.h"

#include "pg_plane.h"
#include "version.h"

#include <json-c/json_c_version.h>

#define NEEDED(name, value)                                                                                            \
	{                                                                                                              \
		name, value, true, false, '\0'                                                                         \
	}
#define VALUE(name, value)                                                                                             \
	{                                                                                                              \
		name, value, false, false, '\0'                                                                        \
	}
#define FLAG(name)                                                                                                     \
	{                                                                                                              \
		name, NULL, false, false, '\0'                                                                         \
	}
#define LETTER(letter, name, value)                                                                                    \
	{                                                                                                              \
		name, value, false, false, letter                                                                      \
	}
#define OR_VALUE(name, value)                                                                                          \
	{                                                                                                              \
		name, value, false, true, '\0'                                                                         \
	}
#define OR_FLAG(name)                                                                                                  \
	{                                                                                                              \
		name, NULL, false, true, '\0'                                                                          \
	}
#define CTL_COMMAND(name, operand, function, summary, ...) {name, operand, summary, function, false, {__VA_ARGS__}},
#define CTL_BARE_COMMAND(name, operand, function, summary, ...) {name, operand, summary, function, true, {__VA_ARGS__}},
static const struct ctl_command commands[] = {
#include "commands.def"
};

/* Finding ---------------------------------------------------------------------------------------------------------- */

/* Returns whether this is the first word of the command's name. */
static bool begins_with(const struct ctl_command *command, const char *word)
{
	size_t len = strcspn(command->name, " ");
	return strlen(word) == len && strncmp(command->name, word, len) == 0;
}

const struct ctl_command *ctl_find_command(int argc, char *const *argv, int *words)
{
	*words = 0;
	for (size_t i = 0; i < ACP_COUNT(commands); i++) {
		const char *space = strchr(commands[i].name, ' ');
		if (!begins_with(&commands[i], argv[0]))
			continue;
		++*words;
		if (!space || (argc > 1 && strcmp(space + 1, argv[1]) == 0)) {
			*words = space ? 2 : 1;
			return &commands[i];
		}
	}
	return NULL;
}

/* Usage ------------------------------------------------------------------------------------------------------------ */

/* Writes an option with its alternatives: "[--stripe | --database]". Returns the option after them. */
static const struct ctl_option *put_option(FILE *out, const struct ctl_option *option)
{
	char text[96];
	bool plain = option->required && !option[1].alternative;
	fprintf(out, " %s", plain ? "" : option->required ? "(" : "[");
	ctl_option_text(option, text);
	fputs(text, out);
	const struct ctl_option *next = option + 1;
	for (; next->alternative; next++) {
		ctl_option_text(next, text);
		fprintf(out, " | %s", text);
	}
	fputs(plain ? "" : option->required ? ")" : "]", out);
	return next;
}

void ctl_usage_of(FILE *out, const struct ctl_command *command)
{
	fprintf(out, "  %s%s%s", command->name, *command->operand ? " " : "", command->operand);
	for (const struct ctl_option *option = command->options; option->name;)
		option = put_option(out, option);
	fprintf(out, "\n        %s\n", command->summary);
}

void ctl_usage_like(FILE *out, const char *first)
{
	for (size_t i = 0; i < ACP_COUNT(commands); i++)
		if (begins_with(&commands[i], first))
			ctl_usage_of(out, &commands[i]);
}

void ctl_usage_all(FILE *out)
{
	fputs("usage: acpctl [--config FILE] [--json | --csv] COMMAND\n\n", out);
	for (size_t i = 0; i < ACP_COUNT(commands); i++)
		ctl_usage_of(out, &commands[i]);
	fputs("\n--config, --json, --csv, --help and --version may come before or after the command. Write options in\n"
	      "full, as --name VALUE or --name=VALUE; -- ends them. The setting database_url (acp.conf(5), or\n"
	      "ACP_DATABASE_URL) names the database.\n",
	      out);
}

/* Writes one line per command, for programs: name, operand and options, separated by tabs. */
static void put_list(FILE *out)
{
	for (size_t i = 0; i < ACP_COUNT(commands); i++) {
		char text[96];
		fprintf(out, "%s\t%s", commands[i].name, commands[i].operand);
		for (const struct ctl_option *option = commands[i].options; option->name; option++) {
			ctl_option_text(option, text);
			fprintf(out, "\t%s", text);
		}
		fputc('\n', out);
	}
}

/* Commands --------------------------------------------------------------------------------------------------------- */

int ctl_help(struct ctl *ctl)
{
	int words;
	if (ctl_flag(ctl, "list")) {
		put_list(stdout);
		return ACPCTL_OK;
	}
	if (ctl->operand_count == 0) {
		ctl_usage_all(stdout);
		return ACPCTL_OK;
	}
	const struct ctl_command *command = ctl_find_command(ctl->operand_count, ctl->operands, &words);
	if (command && ctl->operand_count > words)
		return ctl_misuse("%.99s: unexpected argument; help takes one command", ctl->operands[words]);
	if (!command && (ctl->operand_count > 1 || !words))
		return ctl_misuse("%.99s%s%.99s: no such command; acpctl help lists all of them", ctl->operands[0],
				  ctl->operand_count > 1 ? " " : "", ctl->operand_count > 1 ? ctl->operands[1] : "");
	if (command)
		ctl_usage_of(stdout, command);
	else
		ctl_usage_like(stdout, ctl->operands[0]);
	return ACPCTL_OK;
}

int ctl_version(struct ctl *ctl)
{
	if (!ctl->json && !ctl->csv) {
		printf("acp-fcgi %s\nschema %d\njson-c %s\n", ACP_VERSION, ACP_SCHEMA_VERSION, json_c_version());
		return ACPCTL_OK;
	}
	struct json_object *rows = json_object_new_array();
	struct json_object *row = json_object_new_object();
	acp_json_add_string(row, "acp_fcgi", ACP_VERSION);
	acp_json_add(row, "schema", json_object_new_int64(ACP_SCHEMA_VERSION));
	acp_json_add_string(row, "json_c", json_c_version());
	json_object_array_add(rows, row);
	ctl_print_one(ctl, rows);
	return ACPCTL_OK;
}
