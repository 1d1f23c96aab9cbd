/* commands.h - the table of commands (commands.def), and the parser of the command line. */
#ifndef ACP_ACPCTL_COMMANDS_H
#define ACP_ACPCTL_COMMANDS_H

#include "acpctl.h"

/* An option of a command. */
struct ctl_option {
	const char *name;  /* without the dashes; NULL ends a list */
	const char *value; /* its value in help, for example "TIME" or "free|paid"; NULL: the option takes none */
	bool required;     /* with alternatives: one of them must be given */
	bool alternative;  /* excludes the option before it in the list */
	char letter;       /* its short form; '\0': none */
};

struct ctl_command {
	const char *name;            /* one or two words, one space between them */
	const char *operand;         /* "", "NAME", "[NAME]" or "[NAME...]" */
	const char *summary;         /* one line */
	int (*run)(struct ctl *ctl); /* returns the exit status */
	bool bare;                   /* reads no configuration */
	struct ctl_option options[CTL_MAX_OPTIONS + 1];
};

/* The table -------------------------------------------------------------------------------------------------------- */

/* Returns the command that argv begins with, and sets *words to the number of words in its name. NULL: none; *words is
 * then the number of commands whose first word is argv[0]. argv: at least one word. */
const struct ctl_command *ctl_find_command(int argc, char *const *argv, int *words);

/* Writes the usage of all commands. */
void ctl_usage_all(FILE *out);

/* Writes the usage of one command: a line with its arguments and a line with its summary. */
void ctl_usage_of(FILE *out, const struct ctl_command *command);

/* The same for all commands whose first word this is. */
void ctl_usage_like(FILE *out, const char *first);

/* Reading a command line ------------------------------------------------------------------------------------------- */

/* Writes the text of an option in the usage, without brackets: "--tier free|paid". Cut to 96 bytes. */
void ctl_option_text(const struct ctl_option *option, char text[96]);

/* Reads the options before the command (--config, --json, --csv, --help, --version) into ctl. Returns the index in argv
 * of the first word that is not such an option; -1 after one sentence on standard error. */
int ctl_parse_global(struct ctl *ctl, int argc, char **argv);

/* Reads the arguments of ctl->command into ctl: its options and operands, and the global options. argv[0] is the last
 * word of the command's name. argv is overwritten: ctl->operands points into it. If ctl->help or ctl->version is set
 * afterwards, nothing else was checked. False after one sentence on standard error. */
bool ctl_parse(struct ctl *ctl, int argc, char **argv);

#endif
