/* pg_parts.h - the parts of the control plane over PostgreSQL, and the functions that they share. Private to
 * sql/plane/: pg_plane.c puts the tables of the parts together. */
#ifndef ACP_PG_PARTS_H
#define ACP_PG_PARTS_H

#include "db.h"
#include "journal.h"
#include "pg_plane.h"
#include "reader.h"
#include "writer.h"

struct acp_pg_plane {
	const struct acp_config *config;
	struct acp_db_pool *pool;
	struct acp_reader *reader;
	struct acp_key_cache *keys;
	struct acp_writer *writer;
	struct acp_journal *journal; /* NULL: off */
	struct acp_shared_counter *changes;
	char free_limit[24]; /* settings as the statements take them */
	char reservation_ttl[24];
	char idempotency_lease[24];
	char warn_at_percent[24];
};

struct acp_tx {
	struct acp_pg_plane *pg;
	struct acp_db_conn *conn;
	bool read_only;
};

/* The parts ------------------------------------------------------------------------------------------------------- */

extern const struct acp_plane_call acp_pg_call;         /* pg_call.c */
extern const struct acp_plane_usage acp_pg_usage;       /* pg_usage.c */
extern const struct acp_plane_payments acp_pg_payments; /* pg_payments.c */
extern const struct acp_plane_webhooks acp_pg_webhooks;
extern const struct acp_plane_console acp_pg_console;
extern const struct acp_plane_hub acp_pg_hub; /* pg_hub.c */

/* Members of acp_pg_call in files of their own: pg_settle.c and pg_onboard.c (plane.h describes them). */
enum acp_code acp_pg_settle(void *self, struct acp_tx *tx, const struct acp_settlement *end, int64_t *used);
bool acp_pg_settle_later(void *self, const struct acp_settlement *end, acp_settled *settled, void *arg);
enum acp_code acp_pg_record(void *self, const struct acp_settlement *end);
enum acp_code acp_pg_resolve(void *self, const struct acp_settlement *end);
enum acp_code acp_pg_onboard(void *self, const struct acp_onboarding *in, struct acp_onboarded *out);

/* Is the free allowance enforced here? With a remote hub it is kept there. */
bool acp_pg_enforces(const struct acp_config *config);

/* A transaction. begin: ACP_OK with *out, which one of the other two ends; end closes a connection that still stands in
 * a transaction. */
enum acp_code acp_pg_begin(void *self, bool read_only, struct acp_tx **out);
void acp_pg_rollback(struct acp_tx *tx);
void acp_pg_end_tx(struct acp_tx *tx);

/* Answers of the database (pg_answer.c) ---------------------------------------------------------------------------- */

/* The code for the caller; the error goes to the log under the name what, unless it is a refusal of acp.fail(). */
enum acp_code acp_pg_code(enum acp_db_status status, const struct acp_db_error *error, const char *what);

/* Fills refusal with the sentence and the member of a refusal of acp.fail(); leaves it alone otherwise. */
void acp_pg_refusal(enum acp_code code, const struct acp_db_error *error, struct acp_refusal *refusal);

/* A column of the first row: its text, cut to size; its number, or none where it is null. */
void acp_pg_column(char *out, size_t size, const PGresult *rows, int column);
int64_t acp_pg_number(const PGresult *rows, int column, int64_t none);
enum acp_tier acp_pg_tier(const char *text);

/* The JSON of value as a parameter; value owns it. Out of memory: a text that is no JSON, so that the database refuses
 * the whole statement. */
const char *acp_pg_text(struct json_object *value);

/* Parses a jsonb; NULL gives *out NULL. *out is owned by the caller. */
enum acp_code acp_pg_parse(const char *text, struct json_object **out);

/* Takes the answer of a statement whose one column is jsonb (or null); releases rows. *out is owned by the caller. */
enum acp_code acp_pg_take_json(enum acp_db_status status, PGresult *rows, struct json_object **out,
			       const struct acp_db_error *error, const char *what);

/* Runs such a statement: one that changes nothing; one that is committed. timeout_ms 0: as for every statement. */
enum acp_code acp_pg_read_json(struct acp_pg_plane *pg, const char *sql, int count, const char *const *values,
			       struct json_object **out, struct acp_db_error *error, const char *what);
enum acp_code acp_pg_write_json(struct acp_pg_plane *pg, const char *sql, int count, const char *const *values,
				int timeout_ms, struct json_object **out, struct acp_db_error *error, const char *what);

#endif
