/* acpctl.h - the operator's command: what its parts share. */
#ifndef ACP_ACPCTL_H
#define ACP_ACPCTL_H

#include "crypto.h"
#include "settings.h"
#include "json.h"
#include "migrate.h"
#include "plane.h"

/* Exit statuses, documented in acpctl(8). */
enum { ACPCTL_OK = 0, ACPCTL_FAILED = 1, ACPCTL_WAITING = 3, ACPCTL_USAGE = 64, ACPCTL_CONFIG = 78 };

/* One run of the command. */
struct ctl {
	struct acp_config config;
	struct acp_admin *admin; /* open once a command needs it */
	bool json, csv;          /* --json, --csv: machines read the output */
	int argc;                /* what stands after the command's name */
	char **argv;
};

/* A command: returns its exit status. */
typedef int command(struct ctl *ctl);
command ctl_migrate, ctl_doctor, ctl_console;
command ctl_journal_status, ctl_journal_replay;
command ctl_tenant_create, ctl_tenant_update, ctl_tenant_list, ctl_tenant_show;
command ctl_key_create, ctl_key_revoke, ctl_key_list;
command ctl_policy_list, ctl_policy_add, ctl_policy_enable, ctl_policy_disable;
command ctl_proposal_list, ctl_proposal_approve, ctl_proposal_reject, ctl_proposal_publish;
command ctl_audit_seal, ctl_audit_verify, ctl_audit_export, ctl_audit_archive, ctl_audit_status, ctl_reconcile;
command ctl_audit_erase;
command ctl_billing_run, ctl_billing_list, ctl_billing_show, ctl_billing_credit, ctl_billing_retry, ctl_price_list,
	ctl_price_add;
command ctl_outbox_list, ctl_outbox_run, ctl_outbox_retry, ctl_outbox_drop;
command ctl_approval_list, ctl_approval_approve, ctl_approval_reject;
command ctl_usage, ctl_report, ctl_webhook_list, ctl_webhook_deliveries, ctl_webhook_retry;

/* An option of a command: "--name VALUE". Required ones must be given. */
struct ctl_option {
	const char *name;
	bool required;
	const char *value; /* out; NULL: not given */
};

/* Reads options and at most one positional argument (positional NULL: none allowed; *positional required otherwise).
 * False after saying what is wrong. */
bool ctl_options(struct ctl *ctl, struct ctl_option *options, size_t count, const char *what, const char **positional);

/* Runs a named statement; NULL after saying what failed. Opens the database on first use. */
struct json_object *ctl_query(struct ctl *ctl, const char *statement, const char *const *values);

/* Is the word --json or --csv? Then it is noted. */
bool ctl_output_option(struct ctl *ctl, const char *word);

/* Not both of them; false after saying so. */
bool ctl_output_ok(const struct ctl *ctl);

/* Prints rows as a table for people, as JSON or as CSV. Releases them. Without rows, CSV has the columns of the last
 * statement. */
void ctl_print(struct ctl *ctl, struct json_object *rows);

/* The same with these columns only; rows stay the caller's. */
void ctl_print_columns(struct ctl *ctl, struct json_object *rows, const char *const *names, size_t count);

/* Prints one row as "name  value" lines, as a JSON object or as CSV. Releases rows. */
void ctl_print_one(struct ctl *ctl, struct json_object *rows);

/* Prints what has been done to something that has an id: "revoked ID". */
void ctl_print_done(struct ctl *ctl, const char *id_name, const char *id, const char *done);

void ctl_print_json(struct json_object *value);

/* The value of a column of the first row. */
struct json_object *ctl_value(struct json_object *rows, const char *column);

/* The UUID of a tenant given by UUID or agent_id; false after saying that there is none. */
bool ctl_tenant_id(struct ctl *ctl, const char *given, char uuid[ACP_UUID_LEN]);

/* What an executor in acpctl, and the outbox's worker, need of the control plane. */
struct acp_control_plane ctl_executor_plane(struct ctl *ctl);

/* YYYY-MM? */
bool ctl_is_month(const char *text);

/* A value that cannot be, whatever the database holds: as ctl_fail(), but returns ACPCTL_USAGE. */
int ctl_misuse(const char *format, ...) ACP_PRINTF(1, 2);

/* Is the word of an option (NULL: not given) one of the list? False after saying which there are. */
bool ctl_one_of(const char *option, const char *list, const char *word);

/* "acpctl: …" on standard error; returns ACPCTL_FAILED. */
int ctl_fail(const char *format, ...) ACP_PRINTF(1, 2);

#endif
