/* acpctl.h - declarations that all commands of acpctl, the operator's program, share. */
#ifndef ACP_ACPCTL_H
#define ACP_ACPCTL_H

#include "crypto.h"
#include "settings.h"
#include "json.h"
#include "moment.h"
#include "migrate.h"

/* Exit statuses, documented in acpctl(8). */
enum { ACPCTL_OK = 0, ACPCTL_FAILED = 1, ACPCTL_WAITING = 3, ACPCTL_USAGE = 64, ACPCTL_CONFIG = 78 };

enum { CTL_MAX_OPTIONS = 8 }; /* of one command */

/* One run of the program. */
struct ctl {
	struct acp_config config;                      /* loaded before the command runs, unless the command is bare */
	struct acp_admin *admin;                       /* open once a command needs it */
	const struct ctl_command *command;             /* the command that runs */
	const char *config_file;                       /* --config; NULL: not given */
	bool json, csv;                                /* --json, --csv: programs read the output */
	bool help, version;                            /* --help, --version */
	const char *values[CTL_MAX_OPTIONS];           /* of the command's options, in their order; NULL: not given */
	char moments[CTL_MAX_OPTIONS][ACP_MOMENT_MAX]; /* values that are moments, in UTC; values[] points here */
	int operand_count;
	char **operands;
};

/* The commands: each returns its exit status. */
#define CTL_COMMAND(name, operand, function, ...) int function(struct ctl *ctl);
#define CTL_BARE_COMMAND CTL_COMMAND
#include "commands.def"
#undef CTL_BARE_COMMAND
#undef CTL_COMMAND

/* Arguments -------------------------------------------------------------------------------------------------------- */

/* Returns the value of an option of this command, by its name without the dashes. NULL: not given. Owned by the command
 * line. Ends the program if commands.def does not list the name for this command, which is a bug. */
const char *ctl_option(const struct ctl *ctl, const char *name);

/* Returns whether this option, which takes no value, was given. */
bool ctl_flag(const struct ctl *ctl, const char *name);

/* Returns the first operand. NULL: none was given. Owned by the command line. */
const char *ctl_operand(const struct ctl *ctl);

/* Looks up the UUID of a tenant that is given by UUID or agent_id. False after reporting that there is none. */
bool ctl_tenant_id(struct ctl *ctl, const char *given, char uuid[ACP_UUID_LEN]);

/* Looks up the UUID of the tenant that the option --tenant names, and sets *tenant to uuid, or to NULL if the option
 * was not given. False after reporting that there is no such tenant. */
bool ctl_tenant_option(struct ctl *ctl, char uuid[ACP_UUID_LEN], const char **tenant);

/* Returns the value of --limit, or "100" if it was not given. NULL after reporting that it is not a number from 0 to
 * 999999. */
const char *ctl_limit(const struct ctl *ctl);

/* Returns whether the text has the form YYYY-MM. */
bool ctl_is_month(const char *text);

/* Errors, and messages without the API keys that a user may type at a wrong place -------------------------------- */

/* Sets the beginning of API keys: that of the configuration instead of the default. */
void ctl_set_key_prefix(const char *prefix);

/* Returns whether a part of the word has the form of an API key or of another credential (redact.h). */
bool ctl_is_credential(const char *word);

/* Formats a message without credentials. */
void ctl_format(char *text, size_t size, const char *format, va_list args);

/* Writes "acpctl: …" to standard error; returns ACPCTL_FAILED. */
int ctl_fail(const char *format, ...) ACP_PRINTF(1, 2);

/* The same for an argument that is wrong whatever the database holds; returns ACPCTL_USAGE. */
int ctl_misuse(const char *format, ...) ACP_PRINTF(1, 2);

/* The same as ctl_fail(), but returns false. */
bool ctl_refuse(const char *format, ...) ACP_PRINTF(1, 2);

/* Checks that the value of an option is one of the words of the list, which are separated by spaces. NULL (not given)
 * is accepted. False after naming the words. option: as it is typed. */
bool ctl_one_of(const char *option, const char *list, const char *value);

/* Database --------------------------------------------------------------------------------------------------------- */

/* Runs a named statement (sql/admin/admin.def). The caller owns the rows. NULL after reporting the error. Opens the
 * database on first use. */
struct json_object *ctl_query(struct ctl *ctl, const char *statement, const char *const *values);

/* The same for a statement whose rows do not matter. False after reporting the error. */
bool ctl_run(struct ctl *ctl, const char *statement, const char *const *values);

/* Begins a transaction without a time limit: "snapshot" to read, "begin" to change. False after reporting the error. */
bool ctl_begin(struct ctl *ctl, const char *begin);

/* Calls acp_admin_stream() on the open database. False after reporting the error. */
bool ctl_stream(struct ctl *ctl, const char *statement, const char *const *values, acp_admin_row *each, void *arg);

/* Returns the value of a column of the first row. NULL: none. Owned by the rows. */
struct json_object *ctl_value(struct json_object *rows, const char *column);

/* Output ----------------------------------------------------------------------------------------------------------- */

/* Prints rows as a table for people, as JSON or as CSV, and releases them. If there are no rows, CSV has the columns of
 * the last statement. */
void ctl_print(struct ctl *ctl, struct json_object *rows);

/* The same with these columns only. The caller keeps the rows. */
void ctl_print_columns(struct ctl *ctl, struct json_object *rows, const char *const *names, size_t count);

/* Prints one row as "name  value" lines, as a JSON object or as CSV. Releases rows. */
void ctl_print_one(struct ctl *ctl, struct json_object *rows);

/* Prints the result of a change to an object with an id: "revoked ID". */
void ctl_print_done(struct ctl *ctl, const char *id_name, const char *id, const char *done);

/* Prints a statement's rows; returns the exit status. */
int ctl_print_query(struct ctl *ctl, const char *statement, const char *const *values);

/* Prints a value as JSON, over several lines. */
void ctl_print_json(struct json_object *value);

/* The results of checks (acpctl doctor): one line each, or a list with --json and --csv. Call ctl_check() and
 * ctl_check_skipped() between ctl_checks_begin() and ctl_checks_end(), which prints the rest and returns the number of
 * problems. */
void ctl_checks_begin(const struct ctl *ctl);
void ctl_check(bool good, const char *name, const char *format, ...) ACP_PRINTF(3, 4);
void ctl_check_skipped(const char *name, const char *reason);
int ctl_checks_end(struct ctl *ctl);

#endif
