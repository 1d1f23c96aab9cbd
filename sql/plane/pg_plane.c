#include "pg_plane.h"

#include "clock.h"
#include "db.h"
#include "json.h"
#include "log.h"
#include "pg_journal.h"
#include "reader.h"
#include "seal.h"
#include "thread.h"
#include "writer.h"

#include <time.h>

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

/* Errors ------------------------------------------------------------------------------------------------------- */

/* acp.fail() in SQL: code in the hint, member in the detail. */
static bool is_refusal(const struct acp_db_error *error)
{
	return strcmp(error->sqlstate, "ACP01") == 0;
}

/* A server that is there and cannot do it just now: a full disk, no memory, a deadlock. The statement did nothing, and
 * the same call may succeed in a moment. */
static bool passes(const char *sqlstate)
{
	return strncmp(sqlstate, "53", 2) == 0 || strncmp(sqlstate, "40", 2) == 0 || strcmp(sqlstate, "58030") == 0;
}

/* What the caller is told; what happened goes to the log. */
static enum acp_code code_of(enum acp_db_status status, const struct acp_db_error *error, const char *what)
{
	if (status == ACP_DB_OK)
		return ACP_OK;
	if (is_refusal(error)) {
		enum acp_code code = acp_code_of(error->hint);
		return acp_code_outcome(code) == ACP_SUCCESS ? ACP_INTERNAL_ERROR : code; /* a refusal is no success */
	}
	acp_log(ACP_LOG_ERROR, "database: %s: %s%s%s", what, error->message, *error->sqlstate ? " SQLSTATE " : "",
		error->sqlstate);
	if (status == ACP_DB_UNKNOWN)
		return ACP_OUTCOME_UNKNOWN;
	return status == ACP_DB_AWAY || passes(error->sqlstate) ? ACP_UNAVAILABLE : ACP_INTERNAL_ERROR;
}

static void copy_column(char *out, size_t size, const PGresult *rows, int column)
{
	snprintf(out, size, "%s", PQgetvalue(rows, 0, column));
}

/* Out of memory: a text that is no JSON, so that the database refuses the whole statement. */
static const char *event_text(struct json_object *event)
{
	size_t len;
	const char *text = acp_json_text(event, JSON_C_TO_STRING_PLAIN, &len);
	return text ? text : "";
}

static enum acp_tier tier_of(const char *text)
{
	return strcmp(text, "paid") == 0 ? ACP_TIER_PAID : ACP_TIER_FREE;
}

/* Who calls ---------------------------------------------------------------------------------------------------- */

/* A column with a number; none: the given one. */
static int64_t number_column(const PGresult *rows, int column, int64_t none)
{
	return PQgetisnull(rows, 0, column) ? none : strtoll(PQgetvalue(rows, 0, column), NULL, 10);
}

enum { KEY_COLUMNS = 10, VERSION_COLUMN = KEY_COLUMNS, CHANGED_COLUMN, CLOCK_COLUMN };

static void read_principal(const PGresult *rows, struct acp_principal *out)
{
	copy_column(out->tenant_id, sizeof out->tenant_id, rows, 1);
	copy_column(out->api_key_id, sizeof out->api_key_id, rows, 2);
	copy_column(out->key_shown, sizeof out->key_shown, rows, 3);
	copy_column(out->scopes, sizeof out->scopes, rows, 4);
	out->tier = tier_of(PQgetvalue(rows, 0, 5));
	out->rate_limit = number_column(rows, 6, 0);
	out->policed = *PQgetvalue(rows, 0, 7) == 't';
	out->calls_limit = number_column(rows, 8, -1);
}

static enum acp_code ask_who(struct acp_pg_plane *pg, const uint8_t key_hash[ACP_SHA256_LEN], struct acp_principal *out)
{
	static const struct acp_db_statement statement = {
		.name = "acp_authenticate_1",
		.sql = "SELECT to_char(ts AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US\"+00\"'), tenant_id,"
		       " api_key_id, key_prefix, ' ' || array_to_string(scopes, ' ') || ' ', tier, rate_limit, policed,"
		       " calls_limit, (extract(epoch FROM expires_at) * 1000000)::bigint,"
		       " version, coalesce(changed::text, ''), (extract(epoch FROM ts) * 1000000)::bigint"
		       " FROM acp.authenticate($1, $2)",
		.count = 2,
	};
	struct acp_db_error error;
	PGresult *rows = NULL;
	char hash[2 * ACP_SHA256_LEN + 3];
	char since[24];
	acp_db_bytea(key_hash, ACP_SHA256_LEN, hash);
	struct acp_change_feed feed = {0};
	bool ask_clock; /* this statement tells the clock anyway */
	acp_key_cache_ask(pg->keys, &feed, &ask_clock);
	snprintf(since, sizeof since, "%lld", (long long)feed.since);
	const char *values[] = {hash, since};
	enum acp_db_status status = acp_db_read_again(pg->pool, &statement, values, &rows, &error);
	/* It takes no time and waits for nobody's lock, as an action's reads may. */
	if (status == ACP_DB_AWAY && error.timed_out)
		acp_db_unresponsive(pg->pool);
	enum acp_code code = code_of(status, &error, "authenticate");
	if (code != ACP_OK)
		return code;
	feed.version = number_column(rows, VERSION_COLUMN, 0);
	feed.changed = PQgetvalue(rows, 0, CHANGED_COLUMN);
	feed.at_us = number_column(rows, CLOCK_COLUMN, 0);
	acp_key_cache_apply(pg->keys, &feed);
	copy_column(out->ts, sizeof out->ts, rows, 0);
	if (PQgetisnull(rows, 0, 1)) {
		code = ACP_INVALID_API_KEY;
	} else {
		read_principal(rows, out);
		acp_key_cache_put(pg->keys, key_hash, out, number_column(rows, 9, 0), feed.version);
	}
	PQclear(rows);
	return code;
}

/* Asking costs nothing while there is little to do, and then every change is seen at once. While the database is away a
 * caller that was known a moment ago still is, if what the call leaves behind has a place to wait in. */
static enum acp_code authenticate(void *self, const uint8_t key_hash[ACP_SHA256_LEN], struct acp_principal *out)
{
	struct acp_pg_plane *pg = self;
	if (acp_writer_busy(pg->writer) && acp_key_cache_get(pg->keys, key_hash, 0, out))
		return ACP_OK;
	enum acp_code code = ask_who(pg, key_hash, out);
	if (code == ACP_UNAVAILABLE && pg->journal &&
	    acp_key_cache_get(pg->keys, key_hash, pg->config->key_cache_stale * 1000, out))
		return ACP_OK;
	return code;
}

/* Usage -------------------------------------------------------------------------------------------------------- */

/* A jsonb; NULL gives NULL. */
static enum acp_code parse_text(const char *text, struct json_object **out)
{
	*out = NULL;
	if (!text)
		return ACP_OK;
	struct acp_json_error bad;
	enum acp_json_verdict verdict = acp_json_parse_own(text, strlen(text), out, &bad);
	if (verdict != ACP_JSON_OK)
		acp_log(ACP_LOG_ERROR, "database: a result cannot be read: %s",
			verdict == ACP_JSON_NO_MEMORY ? "out of memory" : bad.message);
	return verdict == ACP_JSON_OK ? ACP_OK : ACP_INTERNAL_ERROR;
}

/* A column of type jsonb of one row. */
static enum acp_code parse_column(const PGresult *rows, int column, struct json_object **out)
{
	bool none = PQntuples(rows) != 1 || PQgetisnull(rows, 0, column);
	return parse_text(none ? NULL : PQgetvalue(rows, 0, column), out);
}

/* What a statement gave whose one column is jsonb (or null). Releases rows. */
static enum acp_code take_json(enum acp_db_status status, PGresult *rows, struct json_object **out,
			       const struct acp_db_error *error, const char *what)
{
	enum acp_code code = code_of(status, error, what);
	if (code == ACP_OK)
		code = parse_column(rows, 0, out);
	PQclear(rows);
	return code;
}

/* Runs such a statement, which changes nothing. */
static enum acp_code read_json(struct acp_pg_plane *pg, const char *sql, int count, const char *const *values,
			       struct json_object **out, struct acp_db_error *error, const char *what)
{
	PGresult *rows = NULL;
	enum acp_db_status status = acp_db_read(pg->pool, sql, count, values, 0, &rows, error);
	return take_json(status, rows, out, error, what);
}

/* Runs such a statement and commits it. timeout_ms 0: as for every statement. */
static enum acp_code write_json(struct acp_pg_plane *pg, const char *sql, int count, const char *const *values,
				int timeout_ms, struct json_object **out, struct acp_db_error *error, const char *what)
{
	PGresult *rows = NULL;
	enum acp_db_status status = acp_db_write(pg->pool, sql, count, values, timeout_ms, &rows, error);
	return take_json(status, rows, out, error, what);
}

static enum acp_code get_usage(void *self, const char *tenant_id, const char *period, struct json_object **usage)
{
	static const struct acp_db_statement statement = {
		.name = "acp_usage_1",
		.sql = "SELECT acp.usage($1, ($2 || '-01')::date, $3)",
		.count = 3,
	};
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	PGresult *rows = NULL;
	const char *values[] = {tenant_id, period, pg->free_limit};
	enum acp_db_status status = acp_db_read_again(pg->pool, &statement, values, &rows, &error);
	return take_json(status, rows, usage, &error, "usage");
}

static enum acp_code get_invoice(void *self, const char *tenant_id, const char *period, struct json_object **invoice)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	const char *values[] = {tenant_id, period, pg->config->invoice_minimum};
	return read_json(pg, "SELECT acp.invoice_json($1, ($2 || '-01')::date, $3)", 3, values, invoice, &error,
			 "invoice");
}

static enum acp_code get_price(void *self, const char *unit, const char *action, int64_t quantity,
			       struct json_object **price)
{
	struct acp_db_error error;
	char number[24];
	snprintf(number, sizeof number, "%lld", (long long)quantity);
	const char *values[] = {unit, action, number};
	return read_json(self, "SELECT acp.pricing($1, $2, $3)", 3, values, price, &error, "price");
}

static enum acp_code reserve(void *self, const char *tenant_id, const char *event_id, const char *ts,
			     struct acp_reservation *out)
{
	static const char sql[] = "SELECT allowed, tier, calls_used, calls_limit"
				  " FROM acp.usage_reserve($1, $2, $3, $4, make_interval(secs => $5))";
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	PGresult *rows = NULL;
	const char *values[] = {tenant_id, event_id, ts, pg->free_limit, pg->reservation_ttl};
	enum acp_code code = code_of(acp_db_attempt(pg->pool, ACP_DB_TO_WRITE, sql, 5, values,
						    (int)pg->config->usage_timeout, &rows, &error),
				     &error, "usage check");
	if (code != ACP_OK)
		return code;
	out->allowed = *PQgetvalue(rows, 0, 0) == 't';
	out->tier = tier_of(PQgetvalue(rows, 0, 1));
	out->limited = !PQgetisnull(rows, 0, 3);
	out->calls_used = strtoll(PQgetvalue(rows, 0, 2), NULL, 10);
	out->calls_limit = strtoll(PQgetvalue(rows, 0, 3), NULL, 10);
	PQclear(rows);
	return ACP_OK;
}

static enum acp_code live_count(void *self, const char *tenant_id, const char *resource, int64_t *count)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	PGresult *rows = NULL;
	const char *values[] = {tenant_id, resource};
	enum acp_code code = code_of(
		acp_db_read(pg->pool, "SELECT acp.live_count($1, $2)", 2, values, 0, &rows, &error), &error, "ceiling");
	if (code == ACP_OK)
		*count = strtoll(PQgetvalue(rows, 0, 0), NULL, 10);
	PQclear(rows);
	return code;
}

static enum acp_code authorize(void *self, struct json_object *query, struct json_object **decision)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	PGresult *rows = NULL;
	const char *values[] = {event_text(query)};
	/* It writes where it asks for an approval. Policies hold also while no commit is answered: so this one is as a
	 * read, and is not refused then. */
	enum acp_db_status status = acp_db_attempt(pg->pool, ACP_DB_TO_READ, "SELECT acp.authorize($1)", 1, values,
						   (int)pg->config->db_timeout, &rows, &error);
	return take_json(status, rows, decision, &error, "policy");
}

/* What a function that refused says to the caller. */
static void read_refusal(enum acp_code code, const struct acp_db_error *error, struct acp_refusal *refusal)
{
	if (code == ACP_OK || !is_refusal(error))
		return;
	snprintf(refusal->message, sizeof refusal->message, "%s", error->message);
	snprintf(refusal->field, sizeof refusal->field, "%s", error->detail);
}

/* The call's transaction --------------------------------------------------------------------------------------- */

static void end_tx(struct acp_tx *tx)
{
	acp_db_release(tx->pg->pool, tx->conn);
	free(tx);
}

static enum acp_code begin(void *self, bool read_only, struct acp_tx **out)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	struct acp_tx *tx = calloc(1, sizeof *tx);
	if (!tx)
		return ACP_INTERNAL_ERROR;
	tx->pg = pg;
	tx->read_only = read_only;
	tx->conn = acp_db_acquire(pg->pool, read_only ? ACP_DB_TO_READ : ACP_DB_TO_WRITE, &error);
	if (!tx->conn) {
		free(tx);
		return code_of(ACP_DB_AWAY, &error, "begin");
	}
	enum acp_db_status status =
		acp_db_exec(tx->conn, read_only ? "BEGIN READ ONLY" : "BEGIN ISOLATION LEVEL READ COMMITTED", 0, NULL,
			    0, NULL, &error);
	if (status == ACP_DB_OK) {
		*out = tx;
		return ACP_OK;
	}
	end_tx(tx);
	return code_of(status, &error, "begin");
}

static void rollback(struct acp_tx *tx)
{
	struct acp_db_error error;
	/* A connection that cannot roll back is closed by end_tx, which rolls back too. */
	if (acp_db_exec(tx->conn, "ROLLBACK", 0, NULL, 0, NULL, &error) != ACP_DB_OK)
		acp_log(ACP_LOG_WARNING, "database: rollback: %s", error.message);
	end_tx(tx);
}

static enum acp_code run(struct acp_tx *tx, const char *function, const char *tenant_id, struct json_object *params,
			 struct json_object *ctx, struct json_object **data, struct acp_refusal *refusal)
{
	char name[ACP_FUNCTION_SIZE];
	char sql[256];
	PGresult *rows = NULL;
	struct acp_db_error error;
	if (!acp_function_name(function, name))
		return ACP_INTERNAL_ERROR;
	snprintf(sql, sizeof sql, "SELECT %s($1::uuid, $2::jsonb, $3::jsonb)", name);
	const char *values[] = {tenant_id, event_text(params), event_text(ctx)};
	enum acp_db_status status = acp_db_exec(tx->conn, sql, 3, values, 0, &rows, &error);
	enum acp_code code = take_json(status, rows, data, &error, function);
	/* Elsewhere that state tells of a standby, and that trying again helps. */
	if (code == ACP_UNAVAILABLE && tx->read_only && strcmp(error.sqlstate, "25006") == 0)
		code = ACP_INTERNAL_ERROR;
	read_refusal(code, &error, refusal);
	return code;
}

static enum acp_code parse_read(const struct acp_read *read, struct acp_result *result)
{
	enum acp_code code = parse_text(read->data, &result->data);
	if (code == ACP_OK && read->meta)
		code = parse_text(read->meta, &result->meta);
	if (read->quantity)
		result->quantity = strtoll(read->quantity, NULL, 10);
	return code;
}

static enum acp_code read_only_call(void *self, const char *function, const char *tenant_id, struct json_object *params,
				    struct json_object *ctx, struct acp_result *result, struct acp_refusal *refusal)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	struct acp_read read;
	enum acp_db_status status =
		acp_reader_call(pg->reader, function, tenant_id, event_text(params), event_text(ctx), &read, &error);
	enum acp_code code = code_of(status, &error, function);
	if (code == ACP_UNAVAILABLE && strcmp(error.sqlstate, "25006") == 0)
		code = ACP_INTERNAL_ERROR;
	read_refusal(code, &error, refusal);
	if (code == ACP_OK)
		code = parse_read(&read, result);
	acp_read_release(&read);
	return code;
}

/* The end of a call -------------------------------------------------------------------------------------------- */

/* With a remote hub the allowance is kept there. */
static bool enforces_here(const struct acp_config *config)
{
	return config->usage_enforcement && !*config->hub_url;
}

/* acp.settle() on a connection, or (conn NULL) on any. *used is -1 where no free call was used. */
static enum acp_db_status settle_on(struct acp_pg_plane *pg, struct acp_db_conn *conn, const struct acp_settlement *end,
				    int timeout_ms, int64_t *used, struct acp_db_error *error)
{
	static const char sql[] = "SELECT acp.settle($1, $2, $3, $4, $5, $6, $7, $8)";
	PGresult *rows = NULL;
	struct json_object *event = acp_event_json(end->event);
	char *sealed = end->sealed ? malloc(2 * end->sealed_len + 3) : NULL;
	if (sealed)
		acp_db_bytea(end->sealed, end->sealed_len, sealed);
	const char *values[] = {event_text(event),
				end->reserved ? end->event->event_id : NULL,
				enforces_here(pg->config) ? pg->free_limit : NULL,
				end->claim,
				sealed,
				end->approval,
				pg->warn_at_percent,
				end->fingerprint};
	enum acp_db_status status = conn ? acp_db_exec(conn, sql, 8, values, timeout_ms, &rows, error)
					 : acp_db_write(pg->pool, sql, 8, values, timeout_ms, &rows, error);
	free(sealed);
	json_object_put(event);
	if (status == ACP_DB_OK) {
		*used = PQgetisnull(rows, 0, 0) ? -1 : strtoll(PQgetvalue(rows, 0, 0), NULL, 10);
		PQclear(rows);
	}
	return status;
}

/* What nothing else has to be done with but storing it: such rows may wait in the journal. */
static bool stands_alone(const struct acp_settlement *end)
{
	return !end->claim && !end->approval;
}

/* The row waits on this host's disk until the database is back. A free call that it could not count says so. */
static bool keep(struct acp_pg_plane *pg, struct acp_event *event)
{
	bool free_call = event->billable && event->tier && strcmp(event->tier, "free") == 0;
	if (!pg->journal || (free_call && !acp_event_failed_open(event)))
		return false;
	struct json_object *json = acp_event_json(event);
	bool kept = json && acp_journal_append(pg->journal, &json, 1);
	json_object_put(json);
	return kept;
}

/* What became of a call that was stored, or was not. Where that is not known, the row in the journal makes it
 * certain. */
static enum acp_code end_store(struct acp_pg_plane *pg, struct acp_event *event, const struct acp_writer_result *result)
{
	if ((result->status == ACP_DB_AWAY || result->status == ACP_DB_UNKNOWN) && keep(pg, event))
		return ACP_OK;
	return result->refused ? ACP_UPGRADE_REQUIRED : code_of(result->status, result->error, "audit");
}

static void give_time(struct acp_pg_plane *pg, struct acp_event *event)
{
	if (event->ts)
		return;
	acp_key_cache_clock(pg->keys, event->own.ts);
	event->ts = event->own.ts;
}

static enum acp_code store(struct acp_pg_plane *pg, const struct acp_settlement *end, int64_t *used)
{
	struct acp_db_error error;
	struct acp_event *event = end->event;
	struct acp_writer_result result = {.used = -1, .error = &error};
	give_time(pg, event);
	if (event->forward || event->unless_onboarded)
		result.status = settle_on(pg, NULL, end, 0, &result.used, &error);
	else
		acp_writer_store(pg->writer, event, end->reserved, &result, &error);
	*used = result.used;
	return end_store(pg, event, &result);
}

struct later {
	struct acp_pg_plane *pg;
	struct acp_event *event;
	acp_settled *settled;
	void *arg;
};

static void stored(void *arg, const struct acp_writer_result *result)
{
	const struct later later = *(struct later *)arg;
	free(arg);
	later.settled(later.arg, end_store(later.pg, later.event, result), result->used);
}

static bool settle_later(void *self, const struct acp_settlement *end, acp_settled *settled, void *arg)
{
	struct acp_pg_plane *pg = self;
	if (!stands_alone(end) || end->event->forward)
		return false;
	struct later *later = malloc(sizeof *later);
	if (!later)
		return false;
	*later = (struct later){pg, end->event, settled, arg};
	give_time(pg, end->event);
	if (acp_writer_store_later(pg->writer, end->event, end->reserved, stored, later))
		return true;
	free(later);
	return false;
}

static enum acp_code settle(void *self, struct acp_tx *tx, const struct acp_settlement *end, int64_t *used)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	*used = -1;
	if (!tx && stands_alone(end))
		return store(pg, end, used);
	enum acp_db_status status = settle_on(pg, tx ? tx->conn : NULL, end, 0, used, &error);
	if (tx && status == ACP_DB_OK)
		status = acp_db_commit(tx->conn, &error);
	if (tx && status == ACP_DB_REFUSED)
		rollback(tx);
	else if (tx)
		end_tx(tx);
	/* Also when the outcome is unknown: asking once more than needed does no harm. */
	if (end->changes_access)
		acp_shared_counter_add(pg->changes);
	return code_of(status, &error, "settle");
}

static enum acp_code record(void *self, const struct acp_settlement *end)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	int64_t used;
	if (stands_alone(end))
		return store(pg, end, &used);
	/* A call that found the database away has waited long enough. */
	const char *code = end->event->error_code;
	int timeout_ms = code && strcmp(code, acp_code_name(ACP_UNAVAILABLE)) == 0 ? 1000 : 0;
	/* What it claimed is free again when its lease ends, where only the row is kept. */
	struct acp_writer_result result = {.used = -1, .error = &error};
	result.status = settle_on(pg, NULL, end, timeout_ms, &used, &error);
	return end_store(pg, end->event, &result);
}

/* acp.settle_doubt(), until it answers or the time of a statement has passed. *done: the call was committed. */
static enum acp_db_status ask_outcome(struct acp_pg_plane *pg, const struct acp_settlement *end, bool *done,
				      struct acp_db_error *error)
{
	static const char sql[] = "SELECT acp.settle_doubt($1, $2, $3)";
	const struct timespec pause = {.tv_nsec = 100 * 1000000L};
	uint64_t deadline = acp_monotonic_us() + (uint64_t)pg->config->db_timeout * 1000u;
	enum acp_db_status status;
	PGresult *rows = NULL;
	struct json_object *event = acp_event_json(end->event);
	const char *values[] = {event_text(event), end->reserved ? end->event->event_id : NULL, end->claim};
	acp_thread_blocks();
	while ((status = acp_db_write(pg->pool, sql, 3, values, 0, &rows, error)) != ACP_DB_OK &&
	       acp_monotonic_us() < deadline)
		nanosleep(&pause, NULL);
	acp_thread_goes_on();
	json_object_put(event);
	*done = status == ACP_DB_OK && *PQgetvalue(rows, 0, 0) == 't';
	PQclear(rows);
	return status;
}

/* The call's own statement may still be on its way: where it arrives it meets the row of the refusal and fails;
 * where it came first, it is found. A server that crashed is asked as soon as it is back. */
static enum acp_code resolve(void *self, const struct acp_settlement *end)
{
	bool done;
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	enum acp_db_status status = ask_outcome(pg, end, &done, &error);
	if (status == ACP_DB_OK)
		return done ? ACP_OK : ACP_UNAVAILABLE;
	acp_log(ACP_LOG_ERROR, "database: the outcome of event %s is not known: %s", end->event->event_id,
		error.message);
	end->event->error_code = acp_code_name(ACP_OUTCOME_UNKNOWN);
	end->event->error_message_redacted = acp_code_sentence(ACP_OUTCOME_UNKNOWN);
	if (!keep(pg, end->event))
		acp_log(ACP_LOG_ERROR, "database: event %s: its row could not be kept", end->event->event_id);
	return ACP_OUTCOME_UNKNOWN;
}

/* Idempotency -------------------------------------------------------------------------------------------------- */

static enum acp_claim_verdict verdict_of(const char *text)
{
	static const char *const words[] = {"run", "replay", "conflict", "mismatch"};
	for (size_t i = 0; i < ACP_COUNT(words); i++)
		if (strcmp(words[i], text) == 0)
			return (enum acp_claim_verdict)i;
	return ACP_CLAIM_CONFLICT;
}

static enum acp_code claim(void *self, const char *tenant_id, const char *action, const char *key,
			   const char *fingerprint, const char *event_id, struct acp_claim *out)
{
	static const char sql[] =
		"SELECT verdict, sealed FROM acp.idempotency_claim($1, $2, $3, $4, $5, make_interval(secs => $6))";
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	PGresult *rows = NULL;
	const char *values[] = {tenant_id, action, key, fingerprint, event_id, pg->idempotency_lease};
	enum acp_code code = code_of(acp_db_write(pg->pool, sql, 6, values, 0, &rows, &error), &error, "claim");
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

/* Other kernels ------------------------------------------------------------------------------------------------ */

struct hub_statement {
	const char *name;
	const char *sql;
	bool reads;
	bool changes_access;
	int timeout_ms; /* 0: as for every statement */
};

/* A month of all tenants takes longer than a call may. */
enum { TEN_MINUTES_MS = 600000 };

static const struct hub_statement hub_statements[ACP_HUB_REQUESTS] = {
	[ACP_HUB_TENANTS_CREATE] = {"tenants_create", "SELECT acp.hub_tenants_create($1, $2)", false, false, 0},
	[ACP_HUB_TENANTS_UPDATE] = {"tenants_update", "SELECT acp.hub_tenants_update($1, $2)", false, true, 0},
	[ACP_HUB_USAGE] = {"usage", "SELECT acp.hub_usage($1, $2)", true, false, 0},
	[ACP_HUB_USAGE_RESERVE] = {"usage_reserve", "SELECT acp.hub_usage_reserve($1, $2)", false, false, 0},
	[ACP_HUB_USAGE_SETTLE] = {"usage_settle", "SELECT acp.hub_usage_settle($1, $2)", false, false, 0},
	[ACP_HUB_AUDIT_INGEST] = {"audit_ingest", "SELECT acp.hub_audit_ingest($1, $2)", false, false, 0},
	[ACP_HUB_AUDIT_QUERY] = {"audit_query", "SELECT acp.hub_audit_query($1, $2)", true, false, 0},
	[ACP_HUB_AUTHORIZE] = {"authorize", "SELECT acp.hub_authorize($1, $2)", false, false, 0},
	[ACP_HUB_HEARTBEAT] = {"heartbeat", "SELECT acp.hub_heartbeat($1, $2)", false, false, 0},
	[ACP_HUB_POLICY_PROPOSE] = {"policy_propose", "SELECT acp.hub_policy_propose($1, $2)", false, false, 0},
	[ACP_HUB_REVOKE] = {"revoke", "SELECT acp.hub_revoke($1, $2)", false, true, 0},
	[ACP_HUB_BILLING_RUN] = {"billing_run", "SELECT acp.hub_billing_run($1, $2)", false, false, TEN_MINUTES_MS},
	[ACP_HUB_BILLING_INVOICE] = {"billing_invoice", "SELECT acp.hub_billing_invoice($1, $2)", true, false, 0},
};

/* What acp.hub_… takes besides the body: the settings, and the time of the audit row. */
static bool complete_context(struct acp_pg_plane *pg, struct json_object *ctx)
{
	char ts[ACP_TS_LEN];
	struct json_object *event = acp_json_member(ctx, "event");
	acp_key_cache_clock(pg->keys, ts);
	return (!event || acp_json_add_string(event, "ts", ts)) &&
	       acp_json_add_string(ctx, "free_limit", pg->free_limit) &&
	       acp_json_add_string(ctx, "reservation_ttl", pg->reservation_ttl) &&
	       acp_json_add_string(ctx, "invoice_minimum", pg->config->invoice_minimum);
}

static enum acp_code hub_answer(void *self, enum acp_hub_request request, struct json_object *body,
				struct json_object *ctx, struct json_object **reply, struct acp_refusal *refusal)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	const struct hub_statement *to = &hub_statements[request];
	if (!complete_context(pg, ctx))
		return ACP_INTERNAL_ERROR;
	const char *values[] = {event_text(body), event_text(ctx)};
	enum acp_code code = to->reads ? read_json(pg, to->sql, 2, values, reply, &error, to->name)
				       : write_json(pg, to->sql, 2, values, to->timeout_ms, reply, &error, to->name);
	if (to->changes_access)
		acp_shared_counter_add(pg->changes);
	read_refusal(code, &error, refusal);
	return code;
}

/* Audit events for a remote hub -------------------------------------------------------------------------------- */

static enum acp_code forward_take(void *self, int64_t most, struct acp_tx **out, struct json_object **events)
{
	struct acp_tx *tx = NULL;
	struct acp_db_error error;
	PGresult *rows = NULL;
	char number[24];
	snprintf(number, sizeof number, "%lld", (long long)most);
	const char *values[] = {number};
	enum acp_code code = begin(self, false, &tx);
	if (code != ACP_OK)
		return code;
	enum acp_db_status status = acp_db_exec(tx->conn, "SELECT acp.forward_take($1)", 1, values, 0, &rows, &error);
	code = take_json(status, rows, events, &error, "outbox");
	bool some = code == ACP_OK && json_object_array_length(*events) > 0;
	if (!some)
		rollback(tx);
	*out = some ? tx : NULL;
	return code;
}

static enum acp_code forward_done(struct acp_tx *tx, enum acp_delivery delivery, struct json_object *events,
				  const char *reason)
{
	struct acp_db_error error;
	enum acp_db_status status = ACP_DB_OK;
	if (delivery == ACP_DELIVERY_REFUSED) {
		const char *values[] = {event_text(json_object_array_get_idx(events, 0)), reason};
		status = acp_db_exec(tx->conn, "SELECT acp.forward_refused($1, $2)", 2, values, 0, NULL, &error);
	}
	if (delivery != ACP_NOT_DELIVERED && status == ACP_DB_OK)
		status = acp_db_commit(tx->conn, &error);
	if (delivery == ACP_NOT_DELIVERED || status == ACP_DB_REFUSED)
		rollback(tx);
	else
		end_tx(tx);
	return code_of(status, &error, "outbox");
}

/* Onboarding --------------------------------------------------------------------------------------------------- */

static struct json_object *onboarding_json(const struct acp_onboarding *in)
{
	struct json_object *p = json_object_new_object();
	struct json_object *scopes = json_object_new_array();
	bool ok = p && scopes;
	for (const char *at = in->scopes; ok && *(at += strspn(at, " "));) {
		size_t len = strcspn(at, " ");
		ok = json_object_array_add(scopes, json_object_new_string_len(at, (int)len)) == 0;
		at += len;
	}
	ok = ok && acp_json_add_string(p, "product", in->product) && acp_json_add_string(p, "agent_id", in->agent_id) &&
	     acp_json_add_string(p, "email", in->email) && acp_json_add_string(p, "tenant_id", in->tenant_id) &&
	     acp_json_add_string(p, "api_key_id", in->api_key_id) &&
	     acp_json_add_string(p, "key_prefix", in->key_shown) && acp_json_add_string(p, "key_name", "first key") &&
	     acp_json_add_string(p, "salt", in->salt) && acp_json_add_string(p, "fingerprint", in->fingerprint) &&
	     acp_json_add(p, "scopes", json_object_get(scopes)) &&
	     acp_json_add(p, "customer", json_object_new_boolean(in->customer)) &&
	     (!in->organization_name || acp_json_add_string(p, "organization_name", in->organization_name)) &&
	     acp_json_add_string(p, "idempotency_key", in->idempotency_key);
	json_object_put(scopes);
	if (ok)
		return p;
	json_object_put(p);
	return NULL;
}

static enum acp_code read_onboarded(const PGresult *rows, struct acp_onboarded *out)
{
	const char *verdict = PQgetvalue(rows, 0, 0);
	if (strcmp(verdict, "taken") == 0)
		return ACP_ALREADY_ONBOARDED;
	if (strcmp(verdict, "mismatch") == 0)
		return ACP_IDEMPOTENCY_MISMATCH;
	out->replay = strcmp(verdict, "replay") == 0;
	copy_column(out->tenant_id, sizeof out->tenant_id, rows, 1);
	copy_column(out->api_key_id, sizeof out->api_key_id, rows, 2);
	copy_column(out->salt, sizeof out->salt, rows, 3);
	out->created_at = strtoll(PQgetvalue(rows, 0, 4), NULL, 10);
	out->pricing = acp_json_own(PQgetvalue(rows, 0, 5));
	return ACP_OK;
}

/* Where it is not known whether the tenant was made, the same statement is sent again: it knows its own tenant and
 * does not make it twice, and it waits for a commit that is under way. That others find the server away meanwhile
 * ends nothing here: nobody else has the tenant's key. */
static enum acp_db_status make_tenant(struct acp_pg_plane *pg, const char *sql, const char *const *values,
				      PGresult **rows, struct acp_db_error *error)
{
	const struct timespec pause = {.tv_nsec = 100 * 1000000L};
	uint64_t deadline = acp_monotonic_us() + (uint64_t)pg->config->db_commit_timeout * 1000u;
	enum acp_db_status status = acp_db_write(pg->pool, sql, 3, values, 0, rows, error);
	if (status != ACP_DB_UNKNOWN)
		return status;
	acp_thread_blocks();
	while (status != ACP_DB_OK && acp_monotonic_us() < deadline) {
		nanosleep(&pause, NULL);
		status = acp_db_write(pg->pool, sql, 3, values, 0, rows, error);
	}
	acp_thread_goes_on();
	return status == ACP_DB_OK ? status : ACP_DB_UNKNOWN;
}

static enum acp_code onboard(void *self, const struct acp_onboarding *in, struct acp_onboarded *out)
{
	static const char sql[] =
		"SELECT o.verdict, o.tenant_id, o.api_key_id, o.salt, floor(extract(epoch FROM o.created_at))::bigint,"
		" acp.pricing('call', '*', 1) FROM acp.onboard($1, $2, $3) o";
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	PGresult *rows = NULL;
	char hash[2 * ACP_SHA256_LEN + 3];
	struct json_object *p = onboarding_json(in);
	if (!p)
		return ACP_INTERNAL_ERROR;
	acp_db_bytea(in->key_hash, ACP_SHA256_LEN, hash);
	const char *values[] = {event_text(p), hash, event_text(in->event)};
	enum acp_db_status status = make_tenant(pg, sql, values, &rows, &error);
	enum acp_code code = code_of(status, &error, "onboard");
	json_object_put(p);
	if (code == ACP_OK)
		code = read_onboarded(rows, out);
	PQclear(rows);
	return code;
}

/* Webhooks ----------------------------------------------------------------------------------------------------- */

static enum acp_code claim_deliveries(void *self, int max, int lease, struct json_object **list)
{
	struct acp_db_error error;
	char most[16], seconds[16];
	snprintf(most, sizeof most, "%d", max);
	snprintf(seconds, sizeof seconds, "%d", lease);
	const char *values[] = {most, seconds};
	return write_json(self, "SELECT acp.deliveries_take($1, make_interval(secs => $2))", 2, values, 0, list, &error,
			  "webhook deliveries");
}

static enum acp_code report_delivery(void *self, struct json_object *outcome)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	const char *values[] = {event_text(outcome)};
	return code_of(acp_db_write(pg->pool, "SELECT acp.delivery_done($1)", 1, values, 0, NULL, &error), &error,
		       "end of a webhook delivery");
}

/* Payments ------------------------------------------------------------------------------------------------------ */

/* A function of the schema acp that takes JSON and returns JSON. timeout_ms as for write_json(). */
static enum acp_code ask(struct acp_pg_plane *pg, const char *sql, int timeout_ms, const char *name,
			 struct json_object *what, struct json_object **reply, struct acp_refusal *refusal)
{
	struct acp_db_error error;
	const char *values[] = {event_text(what)};
	enum acp_code code = write_json(pg, sql, 1, values, timeout_ms, reply, &error, name);
	read_refusal(code, &error, refusal);
	return code;
}

/* The same for one that may change a tenant's tier: asking once more than needed does no harm. */
static enum acp_code ask_of_tier(struct acp_pg_plane *pg, const char *sql, const char *name, struct json_object *what,
				 struct json_object **reply, struct acp_refusal *refusal)
{
	enum acp_code code = ask(pg, sql, 0, name, what, reply, refusal);
	acp_shared_counter_add(pg->changes);
	return code;
}

static enum acp_code upgrade_begin(void *self, struct json_object *what, struct json_object **reply,
				   struct acp_refusal *refusal)
{
	return ask_of_tier(self, "SELECT acp.upgrade_begin($1)", "upgrade_begin", what, reply, refusal);
}

static enum acp_code upgrade_opened(void *self, struct json_object *what, struct json_object **reply,
				    struct acp_refusal *refusal)
{
	return ask_of_tier(self, "SELECT acp.upgrade_opened($1)", "upgrade_opened", what, reply, refusal);
}

static enum acp_code upgrade_failed(void *self, struct json_object *what, struct json_object **reply,
				    struct acp_refusal *refusal)
{
	return ask_of_tier(self, "SELECT acp.upgrade_failed($1)", "upgrade_failed", what, reply, refusal);
}

static enum acp_code obligations_take(void *self, struct json_object *what, struct json_object **reply,
				      struct acp_refusal *refusal)
{
	return ask(self, "SELECT acp.obligations_take($1)", 0, "obligations_take", what, reply, refusal);
}

static enum acp_code obligation_done(void *self, struct json_object *what, struct json_object **reply,
				     struct acp_refusal *refusal)
{
	return ask_of_tier(self, "SELECT acp.obligation_done($1)", "obligation_done", what, reply, refusal);
}

static enum acp_code stripe_event(void *self, struct json_object *what, struct json_object **reply,
				  struct acp_refusal *refusal)
{
	return ask_of_tier(self, "SELECT acp.stripe_event($1)", "stripe_event", what, reply, refusal);
}

/* The operator's view of the console. A month of all tenants takes longer than a call may. */
enum { HALF_MINUTE_MS = 30000 };

static enum acp_code console_open(void *self, struct json_object *what, struct json_object **reply,
				  struct acp_refusal *refusal)
{
	return ask(self, "SELECT acp.console_open($1)", HALF_MINUTE_MS, "console_open", what, reply, refusal);
}

static enum acp_code console_data(void *self, struct json_object *what, struct json_object **reply,
				  struct acp_refusal *refusal)
{
	return ask(self, "SELECT acp.console_data($1)", HALF_MINUTE_MS, "console_data", what, reply, refusal);
}

/* Readiness ---------------------------------------------------------------------------------------------------- */

static enum acp_code ready(void *self, char *why, size_t why_size)
{
	static const char sql[] =
		"SELECT max(version), coalesce(max(version) FILTER (WHERE breaking), 0) FROM acp.schema_migrations";
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	PGresult *rows = NULL;
	enum acp_db_status status = acp_db_read(pg->pool, sql, 0, NULL, 2000, &rows, &error);
	if (status != ACP_DB_OK) {
		snprintf(why, why_size, "%s: %s",
			 status == ACP_DB_AWAY ? "database not reachable" : "schema missing, run acpctl migrate",
			 error.message);
		return ACP_UNAVAILABLE;
	}
	long long version = strtoll(PQgetvalue(rows, 0, 0), NULL, 10);
	long long breaking = strtoll(PQgetvalue(rows, 0, 1), NULL, 10);
	PQclear(rows);
	if (version < ACP_SCHEMA_VERSION)
		snprintf(why, why_size, "the schema has version %lld, this program needs %d: run acpctl migrate",
			 version, ACP_SCHEMA_VERSION);
	else if (breaking > ACP_SCHEMA_VERSION)
		snprintf(why, why_size,
			 "the schema has the breaking version %lld, this program knows up to %d: upgrade acp-fcgi",
			 breaking, ACP_SCHEMA_VERSION);
	else
		return ACP_OK;
	return ACP_UNAVAILABLE;
}

static enum acp_code gauges(void *self, struct json_object **list)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	if (acp_db_away(pg->pool))
		return ACP_UNAVAILABLE;
	return read_json(pg, "SELECT acp.gauges()", 0, NULL, list, &error, "gauges");
}

/* The journal ------------------------------------------------------------------------------------------------- */

static void open_journal(struct acp_pg_plane *pg)
{
	char why[512];
	if (!*pg->config->journal_dir)
		return;
	pg->journal = acp_journal_open(pg->config->journal_dir, pg->config->journal_max_bytes, why, sizeof why);
	if (!pg->journal)
		acp_log(ACP_LOG_WARNING, "%s; while PostgreSQL is away every call is refused", why);
}

static void roll_up(struct acp_pg_plane *pg)
{
	struct acp_db_error error;
	if (acp_db_write(pg->pool, "SELECT acp.usage_roll_up()", 0, NULL, 0, NULL, &error) == ACP_DB_REFUSED)
		acp_log(ACP_LOG_WARNING, "database: usage_roll_up: %s", error.message);
}

/* Replays what this process, or one that died, left in the journal (with nothing there: a look into a folder), and adds
 * up what calls have counted. */
static void catch_up(void *self)
{
	struct acp_pg_plane *pg = self;
	struct acp_journal_counts counts;
	roll_up(pg);
	struct acp_pg_journal into = {.pool = pg->pool, .config = pg->config};
	if (!pg->journal)
		return;
	acp_journal_replay(pg->journal, acp_pg_journal_commit, &into, &counts);
	if (counts.events)
		acp_log(ACP_LOG_INFO,
			"journal: %lld audit rows are in PostgreSQL now (%lld were there before, %lld not billable for "
			"want "
			"of room in the allowance)",
			(long long)counts.events, (long long)into.duplicates, (long long)into.uncounted);
}

static void maintain(void *self)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	if (acp_db_write(pg->pool, "SELECT acp.maintain()", 0, NULL, 0, NULL, &error) != ACP_DB_OK)
		acp_log(ACP_LOG_WARNING, "database: maintenance: %s", error.message);
	acp_seal_when_due(pg->pool, pg->config);
}

static struct acp_db_pool *make_pool(const struct acp_config *config)
{
	const struct acp_db_limits limits = {.connections = (int)config->db_connections,
					     .connect_timeout_s = (int)config->db_connect_timeout,
					     .timeout_ms = (int)config->db_timeout,
					     .commit_timeout_ms = (int)config->db_commit_timeout};
	return acp_db_pool_new(config->database_url, &limits);
}

struct acp_pg_plane *acp_pg_plane_new(const struct acp_config *config, struct acp_shared_counter *changes,
				      struct acp_control_plane *plane)
{
	struct acp_pg_plane *pg = calloc(1, sizeof *pg);
	if (!pg)
		return NULL;
	pg->config = config;
	pg->pool = make_pool(config);
	pg->keys = acp_key_cache_new(config->key_cache_ms, changes);
	pg->changes = changes;
	snprintf(pg->free_limit, sizeof pg->free_limit, "%lld", (long long)config->free_calls_limit);
	snprintf(pg->reservation_ttl, sizeof pg->reservation_ttl, "%lld", (long long)config->reservation_ttl);
	snprintf(pg->idempotency_lease, sizeof pg->idempotency_lease, "%lld", (long long)config->idempotency_lease);
	snprintf(pg->warn_at_percent, sizeof pg->warn_at_percent, "%lld", (long long)config->warn_at_percent);
	open_journal(pg);
	const struct acp_writer_options options = {.writers = (int)config->audit_writers,
						   .own_chains = config->workers > config->processes,
						   .hurried = pg->journal != NULL,
						   .free_limit = enforces_here(config) ? pg->free_limit : NULL,
						   .warn_at_percent = pg->warn_at_percent};
	pg->writer = acp_writer_new(pg->pool, pg->keys, &options);
	pg->reader = acp_reader_new(pg->pool);
	if (!pg->pool || !pg->keys || !pg->writer || !pg->reader) {
		acp_pg_plane_free(pg);
		return NULL;
	}
	*plane = (struct acp_control_plane){
		.self = pg,
		.call.authenticate = authenticate,
		.usage.at_settle = true,
		.usage.get = get_usage,
		.payments.get_invoice = get_invoice,
		.usage.reserve = reserve,
		.usage.get_price = get_price,
		.usage.live_count = live_count,
		.call.authorize = authorize,
		.call.begin = begin,
		.call.run = run,
		.call.read = read_only_call,
		.call.rollback = rollback,
		.call.claim = claim,
		.call.settle = settle,
		.call.settle_later = settle_later,
		.call.record = record,
		.call.resolve = resolve,
		.hub.answer = hub_answer,
		.hub.forward_take = forward_take,
		.hub.forward_done = forward_done,
		.call.onboard = onboard,
		.webhooks.claim = claim_deliveries,
		.webhooks.report = report_delivery,
		.payments.upgrade_begin = upgrade_begin,
		.payments.upgrade_opened = upgrade_opened,
		.payments.upgrade_failed = upgrade_failed,
		.payments.obligations_take = obligations_take,
		.payments.obligation_done = obligation_done,
		.payments.stripe_event = stripe_event,
		.console.open = console_open,
		.console.data = console_data,
		.upkeep.catch_up = catch_up,
		.upkeep.maintain = maintain,
		.upkeep.gauges = gauges,
		.upkeep.ready = ready,
	};
	return pg;
}

void acp_pg_plane_free(struct acp_pg_plane *pg)
{
	if (!pg)
		return;
	if (pg->journal)
		acp_journal_close(pg->journal);
	acp_reader_free(pg->reader);
	acp_writer_free(pg->writer);
	acp_key_cache_free(pg->keys);
	acp_db_pool_free(pg->pool);
	free(pg);
}
