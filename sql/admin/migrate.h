/* migrate.h - migrates a database to the schema of this program; runs queries and changes for operators (acpctl). */
#ifndef ACP_MIGRATE_H
#define ACP_MIGRATE_H

#include "settings.h"

#include <json-c/json.h>

/* Applies the missing migrations sql_dir/migrations/NNNN_*.sql, each in one transaction, and runs functions/ and
 * reports/ again if they changed. An advisory lock serialises concurrent runs. A run with nothing to do changes
 * nothing. Reports each step to out. False with a sentence in why: a file is unreadable, an applied migration was
 * edited, the database has a breaking migration that this program does not know, or PostgreSQL refused. */
bool acp_migrate(const struct acp_config *config, FILE *out, char *why, size_t why_size) ACP_MUSTCHECK;

/* Opens a connection for an operator. NULL with a sentence in why. */
struct acp_admin;
struct acp_admin *acp_admin_open(const struct acp_config *config, char *why, size_t why_size) ACP_MUSTCHECK;
void acp_admin_close(struct acp_admin *admin);

/* Lifts the time limit of one minute for later statements. */
void acp_admin_patient(struct acp_admin *admin);

/* Runs a named statement (admin.def) with text parameters (NULL = null). Returns its rows as an array of objects, owned
 * by the caller. NULL with a sentence in why. */
struct json_object *acp_admin_query(struct acp_admin *admin, const char *name, const char *const *values, char *why,
				    size_t why_size) ACP_MUSTCHECK;

/* Returns the column names of the last of these statements: an array of strings owned by admin. NULL: none has run. */
struct json_object *acp_admin_columns(const struct acp_admin *admin);

/* Like acp_admin_query, for many rows: calls each with the columns of every row as text (NULL = null) as they arrive,
 * with at most a few thousand rows in memory. each returns false to stop, and then reports the reason itself. Only
 * inside a transaction (statement "snapshot"), one statement at a time, without a time limit. False with a sentence in
 * why; why is empty if each stopped it. */
typedef bool acp_admin_row(void *arg, const char *const *columns);
bool acp_admin_stream(struct acp_admin *admin, const char *name, const char *const *values, acp_admin_row *each,
		      void *arg, char *why, size_t why_size) ACP_MUSTCHECK;

/* Seals the audit log now. *id 0: nothing was written since the last seal. hash: hex, 65 bytes. */
bool acp_admin_seal(struct acp_admin *admin, const struct acp_config *config, int64_t *id, int64_t *rows, char hash[65],
		    char *why, size_t why_size) ACP_MUSTCHECK;

#endif
