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

/* From now on statements may take as long as they need, not a minute. */
void acp_admin_patient(struct acp_admin *admin);

/* Runs one of the named statements (admin.def) with its text parameters (NULL = null) and gives its rows as an
 * array of objects, owned by the caller. NULL with a sentence in why. */
struct json_object *acp_admin_query(struct acp_admin *admin, const char *name, const char *const *values, char *why,
				    size_t why_size) ACP_MUSTCHECK;

/* The names of the columns of the last of these: an array of texts that stays the connection's. NULL: there was none
 * yet. */
struct json_object *acp_admin_columns(const struct acp_admin *admin);

/* The same for many rows: each is called with the row's columns as text (NULL = null) as they come, a few thousand in
 * memory at a time; it returns false to stop, having said why. Only inside a transaction (statement "snapshot"), one
 * statement at a time. False with a sentence in why, which is empty where each stopped it. There is no time limit. */
typedef bool acp_admin_row(void *arg, const char *const *columns);
bool acp_admin_stream(struct acp_admin *admin, const char *name, const char *const *values, acp_admin_row *each,
		      void *arg, char *why, size_t why_size) ACP_MUSTCHECK;

/* Seals the audit log now. *id 0: nothing has been written since the last seal. hash: hex, 65 bytes. */
bool acp_admin_seal(struct acp_admin *admin, const struct acp_config *config, int64_t *id, int64_t *rows, char hash[65],
		    char *why, size_t why_size) ACP_MUSTCHECK;

#endif
