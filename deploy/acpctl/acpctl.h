/* acpctl.h - the operator's command: what its parts share. */
#ifndef ACP_ACPCTL_H
#define ACP_ACPCTL_H

#include "settings.h"
#include "json.h"
#include "migrate.h"

/* Exit statuses, documented in acpctl(8). */
enum { ACPCTL_OK = 0, ACPCTL_FAILED = 1, ACPCTL_USAGE = 64, ACPCTL_CONFIG = 78 };

/* One run of the command. */
struct ctl {
	struct acp_config config;
	struct acp_admin *admin; /* open once a command needs it */
	bool json;               /* --json: machines read the output */
	int argc;                /* what stands after the command's name */
	char **argv;
};

/* A command: returns its exit status. */
typedef int command(struct ctl *ctl);
command ctl_migrate, ctl_doctor;
command ctl_tenant_create, ctl_tenant_update, ctl_tenant_list, ctl_tenant_show;
command ctl_key_create, ctl_key_revoke, ctl_key_list;
command ctl_policy_list, ctl_policy_add, ctl_policy_enable, ctl_policy_disable;
command ctl_proposal_list, ctl_proposal_approve, ctl_proposal_reject, ctl_proposal_publish;
command ctl_approval_list, ctl_approval_approve, ctl_approval_reject;

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

/* Prints rows as a table for people, or as JSON. Releases them. */
void ctl_print(struct ctl *ctl, struct json_object *rows);

/* Prints one row as "name  value" lines, or as a JSON object. Releases rows. */
void ctl_print_one(struct ctl *ctl, struct json_object *rows);

/* The value of a column of the first row. */
struct json_object *ctl_value(struct json_object *rows, const char *column);

/* "acpctl: …" on standard error; returns ACPCTL_FAILED. */
int ctl_fail(const char *format, ...) ACP_PRINTF(1, 2);

#endif
