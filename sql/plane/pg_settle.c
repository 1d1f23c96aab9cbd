/* Ends calls: settles and records them, and resolves unknown outcomes. */
#include "pg_parts.h"

#include "clock.h"
#include "log.h"
#include "thread.h"

#include <time.h>

/* Calls acp.settle() on a connection, or on any one (conn NULL; tenant: see acp_db_acquire). *used is -1 if no free
 * call was used. */
static enum acp_db_status settle_on(struct acp_pg_plane *pg, struct acp_db_conn *conn, const char *tenant,
				    const struct acp_settlement *end, int timeout_ms, int64_t *used,
				    struct acp_db_error *error)
{
	static const char sql[] = "SELECT used, current_setting('acp.usage_held', true)"
				  " FROM acp.settle($1, $2, $3, $4, $5, $6, $7, $8, $9) used";
	char most[24];
	PGresult *rows = NULL;
	struct json_object *event = acp_event_json(end->event);
	char *sealed = end->sealed ? malloc(2 * end->sealed_len + 3) : NULL;
	if (sealed)
		acp_db_bytea(end->sealed, end->sealed_len, sealed);
	snprintf(most, sizeof most, "%lld", (long long)end->max_quantity);
	const char *values[] = {acp_pg_text(event),
				end->reserved ? end->event->event_id : NULL,
				acp_pg_enforces(pg->config) ? pg->free_limit : NULL,
				end->claim,
				sealed,
				end->approval,
				pg->warn_at_percent,
				end->fingerprint,
				end->max_quantity ? most : NULL};
	enum acp_db_status status = conn ? acp_db_exec(conn, sql, 9, values, timeout_ms, &rows, error)
					 : acp_db_write(pg->pool, tenant, sql, 9, values, timeout_ms, &rows, error);
	free(sealed);
	json_object_put(event);
	if (status == ACP_DB_OK) {
		*used = acp_pg_number(rows, 0, -1);
		if (end->calls_held && *used >= 0)
			*end->calls_held = acp_writer_held(PQgetvalue(rows, 0, 1), 0);
		PQclear(rows);
	}
	return status;
}

/* True if the row only has to be stored. Such rows may wait in the journal. */
static bool only_stores_row(const struct acp_settlement *end)
{
	return !end->claim && !end->approval;
}

/* Keeps the row on this host's disk until the database is back. The row of a free call notes that the call was not
 * counted. */
static bool keep_in_journal(struct acp_pg_plane *pg, struct acp_event *event)
{
	bool free_call = event->billable && event->tier && strcmp(event->tier, "free") == 0;
	if (!pg->journal || (free_call && !acp_event_failed_open(event)))
		return false;
	struct json_object *json = acp_event_json(event);
	bool kept = json && acp_journal_append(pg->journal, &json, 1);
	json_object_put(json);
	return kept;
}

/* Returns the code for the outcome of a write. If the row was not stored, or this is unknown, it goes to the journal,
 * which makes the outcome certain. */
static enum acp_code end_store(struct acp_pg_plane *pg, struct acp_event *event, const struct acp_writer_result *result)
{
	if ((result->status == ACP_DB_AWAY || result->status == ACP_DB_UNKNOWN) && keep_in_journal(pg, event))
		return ACP_OK;
	return result->refused ? ACP_UPGRADE_REQUIRED : acp_pg_code(result->status, result->error, "audit");
}

static void set_time(struct acp_pg_plane *pg, struct acp_event *event)
{
	if (event->ts)
		return;
	acp_key_cache_clock(pg->keys, event->own.ts);
	event->ts = event->own.ts;
}

static enum acp_code store(struct acp_pg_plane *pg, const struct acp_settlement *end, int64_t *used)
{
	struct acp_db_error error = {0};
	struct acp_event *event = end->event;
	struct acp_writer_result result = {.used = -1, .error = &error};
	set_time(pg, event);
	if (event->forward || event->unless_onboarded)
		result.status = settle_on(pg, NULL, NULL, end, 0, &result.used, &error);
	else
		acp_writer_store(pg->writer, event, end->reserved, &result, &error);
	*used = result.used;
	if (end->calls_held && result.others_held)
		*end->calls_held = result.others_held;
	return end_store(pg, event, &result);
}

struct later {
	struct acp_pg_plane *pg;
	struct acp_event *event;
	int64_t *calls_held;
	acp_settled *settled;
	void *arg;
};

static void stored(void *arg, const struct acp_writer_result *result)
{
	const struct later later = *(struct later *)arg;
	free(arg);
	if (later.calls_held)
		*later.calls_held = result->others_held;
	later.settled(later.arg, end_store(later.pg, later.event, result), result->used);
}

bool acp_pg_settle_later(void *self, const struct acp_settlement *end, acp_settled *settled, void *arg)
{
	struct acp_pg_plane *pg = self;
	if (!only_stores_row(end) || end->event->forward)
		return false;
	struct later *later = malloc(sizeof *later);
	if (!later)
		return false;
	*later = (struct later){pg, end->event, end->calls_held, settled, arg};
	set_time(pg, end->event);
	if (acp_writer_store_later(pg->writer, end->event, end->reserved, stored, later))
		return true;
	free(later);
	return false;
}

enum acp_code acp_pg_settle(void *self, struct acp_tx *tx, const struct acp_settlement *end, int64_t *used)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error = {0};
	*used = -1;
	if (!tx && only_stores_row(end))
		return store(pg, end, used);
	enum acp_db_status status = settle_on(pg, tx ? tx->conn : NULL, end->event->tenant_id, end, 0, used, &error);
	if (tx && status == ACP_DB_OK)
		status = acp_db_commit(tx->conn, &error);
	if (tx && status == ACP_DB_REFUSED)
		acp_pg_rollback(tx);
	else if (tx)
		acp_pg_end_tx(tx);
	/* Do this even if the outcome is unknown: an extra query is harmless. */
	if (end->changes_access)
		acp_shared_counter_add(pg->changes);
	return acp_pg_code(status, &error, "settle");
}

enum acp_code acp_pg_record(void *self, const struct acp_settlement *end)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error = {0};
	int64_t used;
	if (only_stores_row(end))
		return store(pg, end, &used);
	/* A call that failed because the database is away has waited long enough. */
	const char *code = end->event->error_code;
	int timeout_ms = code && strcmp(code, acp_code_name(ACP_UNAVAILABLE)) == 0 ? 1000 : 0;
	/* If only the row is kept, the claim becomes free when its lease ends; the approval stays used. */
	struct acp_writer_result result = {.used = -1, .error = &error};
	result.status = settle_on(pg, NULL, NULL, end, timeout_ms, &used, &error);
	return end_store(pg, end->event, &result);
}

/* Calls acp.settle_doubt() until it answers or the statement time-out has passed. *done: the call was committed. */
static enum acp_db_status query_outcome(struct acp_pg_plane *pg, const struct acp_settlement *end, bool *done,
					struct acp_db_error *error)
{
	static const char sql[] = "SELECT acp.settle_doubt($1, $2, $3, $4)";
	const struct timespec pause = {.tv_nsec = 100 * 1000000L};
	uint64_t deadline = acp_monotonic_us() + (uint64_t)pg->config->db_timeout * 1000u;
	enum acp_db_status status;
	PGresult *rows = NULL;
	struct json_object *event = acp_event_json(end->event);
	const char *values[] = {acp_pg_text(event), end->reserved ? end->event->event_id : NULL, end->claim,
				end->approval};
	acp_thread_blocks();
	while ((status = acp_db_write(pg->pool, NULL, sql, 4, values, 0, &rows, error)) != ACP_DB_OK &&
	       acp_monotonic_us() < deadline)
		nanosleep(&pause, NULL);
	acp_thread_goes_on();
	json_object_put(event);
	*done = status == ACP_DB_OK && *PQgetvalue(rows, 0, 0) == 't';
	PQclear(rows);
	return status;
}

/* The call's own statement may still be on its way. If it arrives later, it finds the row of the refusal and fails. If
 * it arrived first, its row is found. A server that crashed is queried as soon as it is back. */
enum acp_code acp_pg_resolve(void *self, const struct acp_settlement *end)
{
	bool done;
	struct acp_pg_plane *pg = self;
	struct acp_db_error error = {0};
	enum acp_db_status status = query_outcome(pg, end, &done, &error);
	if (status == ACP_DB_OK)
		return done ? ACP_OK : ACP_UNAVAILABLE;
	acp_log(ACP_LOG_ERROR, "database: the outcome of event %s is not known: %s", end->event->event_id,
		error.message);
	end->event->error_code = acp_code_name(ACP_OUTCOME_UNKNOWN);
	end->event->error_message_redacted = acp_code_sentence(ACP_OUTCOME_UNKNOWN);
	if (!keep_in_journal(pg, end->event))
		acp_log(ACP_LOG_ERROR, "database: event %s: its row could not be kept", end->event->event_id);
	return ACP_OUTCOME_UNKNOWN;
}
