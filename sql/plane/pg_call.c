/* Callers and their calls: authentication, policies, transactions, idempotency. */
#include "pg_parts.h"

#include "json.h"
#include "log.h"

/* Authentication ----------------------------------------------------------------------------------------------- */

enum { KEY_COLUMNS = 10, VERSION_COLUMN = KEY_COLUMNS, CHANGED_COLUMN, CLOCK_COLUMN, PAST_DUE_COLUMN };

static void read_principal(const PGresult *rows, struct acp_principal *out)
{
	acp_pg_column(out->tenant_id, sizeof out->tenant_id, rows, 1);
	acp_pg_column(out->api_key_id, sizeof out->api_key_id, rows, 2);
	acp_pg_column(out->key_shown, sizeof out->key_shown, rows, 3);
	acp_pg_column(out->scopes, sizeof out->scopes, rows, 4);
	out->tier = acp_pg_tier(PQgetvalue(rows, 0, 5));
	out->rate_limit = acp_pg_number(rows, 6, 0);
	out->policed = *PQgetvalue(rows, 0, 7) == 't';
	out->calls_limit = acp_pg_number(rows, 8, -1);
	out->past_due_us = acp_pg_number(rows, PAST_DUE_COLUMN, 0);
}

static enum acp_code query_principal(struct acp_pg_plane *pg, const uint8_t key_hash[ACP_SHA256_LEN],
				     struct acp_principal *out)
{
	static const struct acp_db_statement statement = {
		.name = "acp_authenticate_2",
		.sql = "SELECT to_char(ts AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US\"+00\"'), tenant_id,"
		       " api_key_id, key_prefix, ' ' || array_to_string(scopes, ' ') || ' ', tier, rate_limit, policed,"
		       " calls_limit, (extract(epoch FROM expires_at) * 1000000)::bigint,"
		       " version, coalesce(changed::text, ''), (extract(epoch FROM ts) * 1000000)::bigint,"
		       " (extract(epoch FROM past_due_until) * 1000000)::bigint"
		       " FROM acp.authenticate($1, $2)",
		.count = 2,
	};
	struct acp_db_error error = {0};
	PGresult *rows = NULL;
	char hash[2 * ACP_SHA256_LEN + 3];
	char since[24];
	acp_db_bytea(key_hash, ACP_SHA256_LEN, hash);
	struct acp_change_feed feed = {0};
	bool ask_clock; /* not used: this statement always returns the clock */
	acp_key_cache_ask(pg->keys, &feed, &ask_clock);
	snprintf(since, sizeof since, "%lld", (long long)feed.since);
	const char *values[] = {hash, since};
	enum acp_db_status status = acp_db_read_again(pg->pool, NULL, &statement, values, &rows, &error);
	/* This statement is fast and waits for no lock, unlike the reads of an action. */
	if (status == ACP_DB_AWAY && error.timed_out && !error.busy)
		acp_db_unresponsive(pg->pool);
	enum acp_code code = acp_pg_code(status, &error, "authenticate");
	if (code != ACP_OK)
		return code;
	feed.version = acp_pg_number(rows, VERSION_COLUMN, 0);
	feed.changed = PQgetvalue(rows, 0, CHANGED_COLUMN);
	feed.at_us = acp_pg_number(rows, CLOCK_COLUMN, 0);
	acp_key_cache_apply(pg->keys, &feed);
	acp_pg_column(out->ts, sizeof out->ts, rows, 0);
	if (PQgetisnull(rows, 0, 1)) {
		code = ACP_INVALID_API_KEY;
	} else {
		read_principal(rows, out);
		acp_key_cache_put(pg->keys, key_hash, out, acp_pg_number(rows, 9, 0), feed.version);
	}
	PQclear(rows);
	return code;
}

/* A query costs nothing while there is little to do, and sees every change at once. Under load, uses the cache. While
 * the database is away, a caller that was known a moment ago is still accepted, if the journal can keep the rows of its
 * calls. */
static enum acp_code authenticate(void *self, const uint8_t key_hash[ACP_SHA256_LEN], struct acp_principal *out)
{
	struct acp_pg_plane *pg = self;
	if (acp_writer_busy(pg->writer) && acp_key_cache_get(pg->keys, key_hash, 0, out))
		return ACP_OK;
	enum acp_code code = query_principal(pg, key_hash, out);
	if (code == ACP_UNAVAILABLE && pg->journal &&
	    acp_key_cache_get(pg->keys, key_hash, pg->config->key_cache_stale * 1000, out))
		return ACP_OK;
	return code;
}

static enum acp_code authorize(void *self, struct json_object *query, struct json_object **decision)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error = {0};
	PGresult *rows = NULL;
	const char *values[] = {acp_pg_text(query)};
	/* This statement writes if it requests an approval. It still counts as a read, so that it is not refused while
	 * no commit is answered: policies apply then, too. */
	enum acp_db_status status =
		acp_db_attempt(pg->pool, ACP_DB_TO_READ, acp_json_string(query, "tenant_id"),
			       "SELECT acp.authorize($1)", 1, values, (int)pg->config->db_timeout, &rows, &error);
	return acp_pg_take_json(status, rows, decision, &error, "policy");
}

static enum acp_code use_approval(void *self, const char *tenant_id, const char *approval_id, const char *event_id,
				  const char *ts, struct acp_refusal *refusal)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error = {0};
	const char *values[] = {tenant_id, approval_id, event_id};
	(void)ts;
	enum acp_db_status status =
		acp_db_write(pg->pool, tenant_id, "SELECT acp.approval_use($1, $2, $3)", 3, values, 0, NULL, &error);
	enum acp_code code = acp_pg_code(status, &error, "approval");
	acp_pg_refusal(code, &error, refusal);
	return code;
}

/* The call's transaction --------------------------------------------------------------------------------------- */

void acp_pg_end_tx(struct acp_tx *tx)
{
	acp_db_release(tx->pg->pool, tx->conn);
	free(tx);
}

enum acp_code acp_pg_begin(void *self, const char *tenant_id, bool read_only, struct acp_tx **out)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error = {0};
	struct acp_tx *tx = calloc(1, sizeof *tx);
	if (!tx)
		return ACP_INTERNAL_ERROR;
	tx->pg = pg;
	tx->read_only = read_only;
	tx->conn = acp_db_acquire(pg->pool, read_only ? ACP_DB_TO_READ : ACP_DB_TO_WRITE, tenant_id, &error);
	if (!tx->conn) {
		free(tx);
		return acp_pg_code(ACP_DB_AWAY, &error, "begin");
	}
	enum acp_db_status status =
		acp_db_exec(tx->conn, read_only ? "BEGIN READ ONLY" : "BEGIN ISOLATION LEVEL READ COMMITTED", 0, NULL,
			    0, NULL, &error);
	if (status == ACP_DB_OK) {
		*out = tx;
		return ACP_OK;
	}
	acp_pg_end_tx(tx);
	return acp_pg_code(status, &error, "begin");
}

void acp_pg_rollback(struct acp_tx *tx)
{
	struct acp_db_error error = {0};
	/* A connection that cannot roll back is closed by end_tx, which rolls back too. */
	if (acp_db_exec(tx->conn, "ROLLBACK", 0, NULL, 0, NULL, &error) != ACP_DB_OK)
		acp_log(ACP_LOG_WARNING, "database: rollback: %s", error.message);
	acp_pg_end_tx(tx);
}

static enum acp_code run(struct acp_tx *tx, const char *function, const char *tenant_id, struct json_object *params,
			 struct json_object *ctx, struct json_object **data, struct acp_refusal *refusal)
{
	char name[ACP_FUNCTION_SIZE];
	char sql[256];
	PGresult *rows = NULL;
	struct acp_db_error error = {0};
	if (!acp_function_name(function, name))
		return ACP_INTERNAL_ERROR;
	snprintf(sql, sizeof sql, "SELECT %s($1::uuid, $2::jsonb, $3::jsonb)", name);
	const char *values[] = {tenant_id, acp_pg_text(params), acp_pg_text(ctx)};
	enum acp_db_status status = acp_db_exec(tx->conn, sql, 3, values, 0, &rows, &error);
	enum acp_code code = acp_pg_take_json(status, rows, data, &error, function);
	/* Outside a read-only transaction, this SQLSTATE means a standby, where a retry helps. */
	if (code == ACP_UNAVAILABLE && tx->read_only && strcmp(error.sqlstate, "25006") == 0)
		code = ACP_INTERNAL_ERROR;
	acp_pg_refusal(code, &error, refusal);
	return code;
}

static enum acp_code reported(struct acp_tx *tx, int64_t *quantity)
{
	struct acp_db_error error = {0};
	PGresult *rows = NULL;
	static const char sql[] = "SELECT nullif(current_setting('acp.quantity', true), '')::bigint";
	enum acp_code code =
		acp_pg_code(acp_db_exec(tx->conn, sql, 0, NULL, 0, &rows, &error), &error, "reported quantity");
	if (code == ACP_OK)
		*quantity = acp_pg_number(rows, 0, *quantity);
	PQclear(rows);
	return code;
}

static enum acp_code parse_read(const struct acp_read *read, struct acp_result *result)
{
	enum acp_code code = acp_pg_parse(read->data, &result->data);
	if (code == ACP_OK && read->meta)
		code = acp_pg_parse(read->meta, &result->meta);
	if (read->quantity)
		result->quantity = strtoll(read->quantity, NULL, 10);
	return code;
}

static enum acp_code read_only_call(void *self, const char *function, const char *tenant_id, struct json_object *params,
				    struct json_object *ctx, struct acp_result *result, struct acp_refusal *refusal)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error = {0};
	struct acp_read read;
	enum acp_db_status status =
		acp_reader_call(pg->reader, function, tenant_id, acp_pg_text(params), acp_pg_text(ctx), &read, &error);
	enum acp_code code = acp_pg_code(status, &error, function);
	if (code == ACP_UNAVAILABLE && strcmp(error.sqlstate, "25006") == 0)
		code = ACP_INTERNAL_ERROR;
	acp_pg_refusal(code, &error, refusal);
	if (code == ACP_OK)
		code = parse_read(&read, result);
	acp_read_release(&read);
	return code;
}

/* Idempotency -------------------------------------------------------------------------------------------------- */

static enum acp_claim_verdict verdict_of(const char *text)
{
	static const char *const words[] = {"run", "replay", "conflict", "mismatch", "full"};
	for (size_t i = 0; i < ACP_COUNT(words); i++)
		if (strcmp(words[i], text) == 0)
			return (enum acp_claim_verdict)i;
	return ACP_CLAIM_CONFLICT;
}

static enum acp_code claim(void *self, const char *tenant_id, const char *action, const char *key,
			   const char *fingerprint, const char *event_id, struct acp_claim *out)
{
	static const char sql[] =
		"SELECT verdict, sealed FROM acp.idempotency_claim($1, $2, $3, $4, $5, make_interval(secs => $6), $7)";
	struct acp_pg_plane *pg = self;
	struct acp_db_error error = {0};
	PGresult *rows = NULL;
	char quota[24];
	snprintf(quota, sizeof quota, "%lld", (long long)pg->config->idempotency_bytes_per_tenant);
	const char *values[] = {tenant_id, action, key, fingerprint, event_id, pg->idempotency_lease, quota};
	enum acp_code code =
		acp_pg_code(acp_db_write(pg->pool, tenant_id, sql, 7, values, 0, &rows, &error), &error, "claim");
	if (code != ACP_OK)
		return code;
	*out = (struct acp_claim){.verdict = verdict_of(PQgetvalue(rows, 0, 0))};
	if (out->verdict == ACP_CLAIM_REPLAY && !PQgetisnull(rows, 0, 1)) {
		unsigned char *bytes = PQunescapeBytea((const unsigned char *)PQgetvalue(rows, 0, 1), &out->sealed_len);
		out->sealed = bytes ? malloc(out->sealed_len + 1) : NULL;
		if (out->sealed)
			memcpy(out->sealed, bytes, out->sealed_len);
		PQfreemem(bytes);
	}
	PQclear(rows);
	return ACP_OK;
}

const struct acp_plane_call acp_pg_call = {
	.authenticate = authenticate,
	.onboard = acp_pg_onboard,
	.authorize = authorize,
	.use_approval = use_approval,
	.claim = claim,
	.begin = acp_pg_begin,
	.run = run,
	.rollback = acp_pg_rollback,
	.reported = reported,
	.read = read_only_call,
	.settle = acp_pg_settle,
	.settle_later = acp_pg_settle_later,
	.record = acp_pg_record,
	.resolve = acp_pg_resolve,
};
