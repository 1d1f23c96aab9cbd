/* pg_parts.h - the parts of the control plane over PostgreSQL, and the functions that they share. Private to
 * sql/plane/. pg_plane.c combines the tables of the parts. */
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
	bool discards; /* there may be old rows to discard; only for the thread of the upkeep */
	char free_limit[24]; /* settings, as parameters of statements */
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

/* Members of acp_pg_call in separate files: pg_settle.c and pg_onboard.c (plane.h describes them). */
enum acp_code acp_pg_settle(void *self, struct acp_tx *tx, const struct acp_settlement *end, int64_t *used);
bool acp_pg_settle_later(void *self, const struct acp_settlement *end, acp_settled *settled, void *arg);
enum acp_code acp_pg_record(void *self, const struct acp_settlement *end);
enum acp_code acp_pg_resolve(void *self, const struct acp_settlement *end);
enum acp_code acp_pg_onboard(void *self, const struct acp_onboarding *in, struct acp_onboarded *out);

/* True if the free allowance is enforced here. With a remote hub, the hub enforces it. */
bool acp_pg_enforces(const struct acp_config *config);

/* A transaction. begin sets *out on ACP_OK; rollback or end_tx ends it. end_tx closes a connection that is still in a
 * transaction. */
enum acp_code acp_pg_begin(void *self, const char *tenant_id, bool read_only, struct acp_tx **out);
void acp_pg_rollback(struct acp_tx *tx);
void acp_pg_end_tx(struct acp_tx *tx);

/* Answers of the database (pg_answer.c) ---------------------------------------------------------------------------- */

/* Returns the code for the caller. Logs the error under the name what, unless it is a refusal of acp.fail(). */
enum acp_code acp_pg_code(enum acp_db_status status, const struct acp_db_error *error, const char *what);

/* Fills refusal with the sentence and the member if the error is a refusal of acp.fail(); otherwise leaves it
 * unchanged. */
void acp_pg_refusal(enum acp_code code, const struct acp_db_error *error, struct acp_refusal *refusal);

/* For a request in which nothing can be wrong but the data of the operator, such as prices in two currencies: turns
 * ACP_VALIDATION_ERROR into ACP_INTERNAL_ERROR, and logs what acp.fail() says. Returns other codes unchanged. */
enum acp_code acp_pg_operators_fault(enum acp_code code, const struct acp_db_error *error, const char *what);

/* Reads a column of the first row: as text, cut to size; as a number, or none if it is null; as a tier. */
void acp_pg_column(char *out, size_t size, const PGresult *rows, int column);
int64_t acp_pg_number(const PGresult *rows, int column, int64_t none);
enum acp_tier acp_pg_tier(const char *text);

/* Returns the JSON text of value as a parameter; value owns it. Out of memory: returns a text that is not JSON, so that
 * the database refuses the whole statement. */
const char *acp_pg_text(struct json_object *value);

/* True for errors that stored events themselves cause and that will recur: bad values, a missing column, an unknown
 * tenant. */
bool acp_pg_is_data_error(const struct acp_db_error *error);

/* Parses a jsonb text. text NULL: *out is NULL. The caller owns *out. */
enum acp_code acp_pg_parse(const char *text, struct json_object **out);

/* Parses the answer of a statement whose only column is jsonb (or null), and releases rows. The caller owns *out. */
enum acp_code acp_pg_take_json(enum acp_db_status status, PGresult *rows, struct json_object **out,
			       const struct acp_db_error *error, const char *what);

/* Run such a statement: read_json one that changes nothing, write_json one to commit. tenant: see acp_db_acquire.
 * timeout_ms 0: the default. */
enum acp_code acp_pg_read_json(struct acp_pg_plane *pg, const char *tenant, const char *sql, int count,
			       const char *const *values, struct json_object **out, struct acp_db_error *error,
			       const char *what);
enum acp_code acp_pg_write_json(struct acp_pg_plane *pg, const char *tenant, const char *sql, int count,
				const char *const *values, int timeout_ms, struct json_object **out,
				struct acp_db_error *error, const char *what);

#endif
