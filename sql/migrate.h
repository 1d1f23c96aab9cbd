/* migrate.h - brings a database to this program's schema, and the operator's reads and changes of it (acpctl). */
#ifndef ACP_MIGRATE_H
#define ACP_MIGRATE_H

#include "settings.h"

#include <json-c/json.h>

/* Applies what is missing of sql_dir/migrations/NNNN_*.sql, each in one transaction, and runs functions/ and reports/
 * again when they changed. An advisory lock makes concurrent runs wait for each other; a run that finds nothing to do
 * changes nothing. Reports each step to out. False with a sentence in why: a file is unreadable, an applied migration
 * was edited, the database has a breaking migration that this program does not know, or PostgreSQL refused. */
bool acp_migrate(const struct acp_config *config, FILE *out, char *why, size_t why_size) ACP_MUSTCHECK;

/* An operator's connection. NULL with a sentence in why. */
struct acp_admin;
struct acp_admin *acp_admin_open(const struct acp_config *config, char *why, size_t why_size) ACP_MUSTCHECK;
void acp_admin_close(struct acp_admin *admin);

/* Runs one of the named statements (sql/admin.def) with its text parameters (NULL = null) and gives its rows as an
 * array of objects, owned by the caller. NULL with a sentence in why. */
struct json_object *acp_admin_query(struct acp_admin *admin, const char *name, const char *const *values, char *why,
				    size_t why_size) ACP_MUSTCHECK;

#endif
