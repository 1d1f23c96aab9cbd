#include "columns.h"
#include "writer_parts.h"

enum {
	PARAMS = ACP_COLUMNS + 6,
	/* After a batch with a tenant near its limit, this many batches with free calls are not linked here. */
	NEAR_LIMIT_BATCHES = 16,
};

/* Rows that SQL links -------------------------------------------------------------------------------------------- */

_Static_assert(PARAMS == 31, "the statement has a parameter for each column; another signature has another name");
static const struct acp_db_statement statement = {
	.name = "acp_settle_2",
	.sql = "SELECT used, version, coalesce(changed::text, ''), (extract(epoch FROM at) * 1000000)::bigint,"
	       " current_setting('acp.usage_held', true)"
	       " FROM acp.settle_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,"
	       " $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31)",
	.count = PARAMS,
};

/* Reads the result of each call: "{-1,57,NULL}". */
static void read_used(const char *list, struct batch *batch)
{
	for (size_t i = 0; i < batch->count; i++) {
		char *end;
		list += *list != '\0'; /* the brace or comma */
		struct waiter *waiter = batch->waiters[i];
		waiter->refused = *list == 'N';
		waiter->used = waiter->refused ? -1 : strtoll(list, &end, 10);
		list += strcspn(list, ",}");
	}
}

int64_t acp_writer_held(const char *list, size_t index)
{
	list += *list != '\0'; /* the brace */
	for (; index && *list; index--) {
		list += strcspn(list, ",}");
		list += *list != '\0';
	}
	return strtoll(list, NULL, 10);
}

static void apply_feed(struct acp_writer *writer, const PGresult *rows, struct acp_change_feed *feed)
{
	feed->version = strtoll(PQgetvalue(rows, 0, 1), NULL, 10);
	feed->changed = PQgetvalue(rows, 0, 2);
	feed->at_us = strtoll(PQgetvalue(rows, 0, 3), NULL, 10); /* null reads as 0 */
	acp_key_cache_apply(writer->cache, feed);
}

static enum acp_db_status send_batch(struct acp_writer *writer, struct acp_db_conn *conn, struct batch *batch,
				     bool again, struct acp_db_error *error)
{
	size_t offsets[ACP_COLUMNS];
	int lengths[PARAMS] = {0};
	int formats[PARAMS] = {0};
	const char *values[PARAMS];
	char since[24];
	struct acp_buf wire;
	PGresult *rows = NULL;
	acp_buf_init(&wire, (size_t)64 << 20);
	bool ok = acp_columns_write(&wire, batch->events, batch->count, offsets, lengths);
	size_t held_at = wire.len;
	acp_columns_booleans(&wire, batch->held, batch->count);
	if (!ok || !acp_buf_ok(&wire)) {
		*error = (struct acp_db_error){.message = "an event does not fit the columns of audit_logs"};
		acp_buf_release(&wire);
		return ACP_DB_REFUSED;
	}
	for (size_t i = 0; i < ACP_COLUMNS; i++)
		values[i] = wire.ptr + offsets[i];
	values[ACP_COLUMNS] = wire.ptr + held_at;
	lengths[ACP_COLUMNS] = (int)(wire.len - held_at);
	for (size_t i = 0; i <= ACP_COLUMNS; i++)
		formats[i] = 1;
	bool ask_clock;
	struct acp_change_feed feed = {0};
	acp_key_cache_ask(writer->cache, &feed, &ask_clock);
	snprintf(since, sizeof since, "%lld", (long long)feed.since);
	values[ACP_COLUMNS + 1] = writer->options.free_limit;
	values[ACP_COLUMNS + 2] = writer->options.warn_at_percent;
	values[ACP_COLUMNS + 3] = again ? "t" : "f";
	values[ACP_COLUMNS + 4] = since;
	values[ACP_COLUMNS + 5] = ask_clock ? "t" : "f";
	const struct acp_db_binary binary = {lengths, formats};
	const struct acp_db_early early = {acp_batch_executed, acp_batch_late, batch};
	enum acp_db_status status = acp_db_exec_early(conn, &statement, values, &binary, &early, &rows, error);
	acp_buf_release(&wire);
	if (status != ACP_DB_OK)
		return status;
	read_used(PQgetvalue(rows, 0, 0), batch);
	for (size_t i = 0; i < batch->count; i++)
		batch->waiters[i]->others_held = acp_writer_held(PQgetvalue(rows, 0, 4), i);
	apply_feed(writer, rows, &feed);
	PQclear(rows);
	return ACP_DB_OK;
}

/* Rows that are linked here -------------------------------------------------------------------------------------- */

static const struct acp_db_statement own_chain = {
	.name = "acp_chain_1",
	.sql = "SELECT chain_id, seq, encode(head, 'hex'), row_type FROM acp.audit_chain_own($1)",
	.count = 1,
};

static const struct acp_db_statement links = {
	.name = "acp_links_1",
	.sql = "SELECT used, version, coalesce(changed::text, ''), (extract(epoch FROM at) * 1000000)::bigint"
	       " FROM acp.settle_links($1, $2, $3, $4, $5, $6, $7, $8)",
	.count = 8,
};

/* Switches to another chain: the end of this one stays locked until the lost commit ends. */
static void leave_chain(struct chain *chain)
{
	acp_uuid(chain->owner);
	chain->known = false;
}

static void end_found(void *arg)
{
	(void)arg; /* the statement of the batch itself follows */
}

/* Finds the end of the chain and makes this process its owner, which also needs a commit. */
static enum acp_db_status find_end(struct acp_db_conn *conn, struct batch *batch, struct acp_db_error *error)
{
	PGresult *rows = NULL;
	struct chain *chain = batch->chain;
	const char *const values[] = {chain->owner};
	const int zero[1] = {0};
	const struct acp_db_binary text = {zero, zero};
	const struct acp_db_early early = {end_found, acp_batch_late, batch};
	enum acp_db_status status = acp_db_exec_early(conn, &own_chain, values, &text, &early, &rows, error);
	if (status == ACP_DB_UNKNOWN)
		leave_chain(chain);
	if (status != ACP_DB_OK)
		return status == ACP_DB_UNKNOWN ? ACP_DB_AWAY : status; /* no row of the batch was sent */
	chain->end.chain_id = (int32_t)strtol(PQgetvalue(rows, 0, 0), NULL, 10);
	chain->end.seq = strtoll(PQgetvalue(rows, 0, 1), NULL, 10);
	chain->row_type = (uint32_t)strtoul(PQgetvalue(rows, 0, 3), NULL, 10);
	chain->known = acp_unhex(PQgetvalue(rows, 0, 2), chain->end.head, sizeof chain->end.head);
	PQclear(rows);
	return ACP_DB_OK;
}

static bool uses_allowance(const struct acp_event *event)
{
	return event->billable && event->tier && strcmp(event->tier, "free") == 0;
}

/* True if the rows may be linked here: none of them may depend on data of the database. */
static bool may_link(struct acp_writer *writer, const struct batch *batch, bool *free_calls)
{
	bool ok = batch->chain != NULL;
	*free_calls = false;
	for (size_t i = 0; ok && i < batch->count; i++) {
		*free_calls = *free_calls || uses_allowance(batch->events[i]);
		ok = !batch->held[i] && batch->events[i]->ts;
	}
	if (!ok || !*free_calls || !writer->options.free_limit)
		return ok;
	int near_limit = __atomic_load_n(&writer->near_limit, __ATOMIC_RELAXED);
	if (near_limit > 0)
		__atomic_store_n(&writer->near_limit, near_limit - 1, __ATOMIC_RELAXED);
	return near_limit <= 0;
}

static enum acp_db_status send_rows(struct acp_writer *writer, struct acp_db_conn *conn, struct batch *batch,
				    const struct acp_buf *rows, bool free_calls, struct acp_db_error *error)
{
	enum { LINKS_PARAMS = 8 };
	char seq[24];
	char head[2 * ACP_SHA256_LEN + 3];
	char since[24];
	bool ask_clock;
	struct acp_change_feed feed = {0};
	PGresult *answer = NULL;
	acp_key_cache_ask(writer->cache, &feed, &ask_clock);
	snprintf(seq, sizeof seq, "%lld", (long long)batch->chain->end.seq);
	snprintf(since, sizeof since, "%lld", (long long)feed.since);
	acp_db_bytea(batch->chain->end.head, ACP_SHA256_LEN, head);
	const char *const values[LINKS_PARAMS] = {rows->ptr,
						  seq,
						  head,
						  free_calls ? "t" : "f",
						  writer->options.free_limit,
						  writer->options.warn_at_percent,
						  since,
						  ask_clock ? "t" : "f"};
	const int lengths[LINKS_PARAMS] = {(int)rows->len};
	const int formats[LINKS_PARAMS] = {1};
	const struct acp_db_binary binary = {lengths, formats};
	const struct acp_db_early early = {acp_batch_executed, acp_batch_late, batch};
	enum acp_db_status status = acp_db_exec_early(conn, &links, values, &binary, &early, &answer, error);
	if (status != ACP_DB_OK)
		return status;
	if (!PQgetisnull(answer, 0, 0))
		read_used(PQgetvalue(answer, 0, 0), batch);
	apply_feed(writer, answer, &feed);
	PQclear(answer);
	return ACP_DB_OK;
}

/* ACP_DB_REFUSED: nothing was stored, perhaps because the rows could not be linked here. */
static enum acp_db_status try_links(struct acp_writer *writer, struct acp_db_conn *conn, struct batch *batch,
				    bool free_calls, struct acp_db_error *error)
{
	struct acp_buf rows;
	struct chain *chain = batch->chain;
	enum acp_db_status status = chain->known ? ACP_DB_OK : find_end(conn, batch, error);
	if (status != ACP_DB_OK || !chain->known || !batch->count)
		return status == ACP_DB_OK ? ACP_DB_REFUSED : status;
	struct acp_link end = chain->end;
	acp_buf_init(&rows, (size_t)64 << 20);
	if (acp_links_write(&rows, batch->events, batch->count, chain->row_type, &end)) {
		chain->known = false;
		status = send_rows(writer, conn, batch, &rows, free_calls, error);
		if (status == ACP_DB_OK) {
			chain->end = end;
			chain->known = true;
		}
	} else {
		status = ACP_DB_REFUSED;
	}
	if (status == ACP_DB_UNKNOWN)
		leave_chain(chain);
	acp_buf_release(&rows);
	return status;
}

/* Tries again if another process has moved the end of the chain, for example after a failover or a long silence. */
static enum acp_db_status send_links(struct acp_writer *writer, struct acp_db_conn *conn, struct batch *batch,
				     bool free_calls, struct acp_db_error *error)
{
	enum acp_db_status status = try_links(writer, conn, batch, free_calls, error);
	if (status == ACP_DB_REFUSED && strcmp(error->sqlstate, "ACP03") == 0 && batch->count)
		status = try_links(writer, conn, batch, free_calls, error);
	if (status == ACP_DB_REFUSED && strcmp(error->sqlstate, "ACP02") == 0)
		__atomic_store_n(&writer->near_limit, NEAR_LIMIT_BATCHES, __ATOMIC_RELAXED);
	return status;
}

/* Both ways ------------------------------------------------------------------------------------------------------ */

static enum acp_db_status try_batch(struct acp_writer *writer, struct batch *batch, bool again,
				    struct acp_db_error *error)
{
	bool free_calls;
	enum acp_db_status status = ACP_DB_REFUSED;
	struct acp_db_conn *conn = acp_db_acquire(writer->pool, ACP_DB_TO_STORE, NULL, error);
	if (!conn)
		return ACP_DB_AWAY;
	if (!again && may_link(writer, batch, &free_calls))
		status = send_links(writer, conn, batch, free_calls, error);
	if (status == ACP_DB_REFUSED && batch->count)
		status = send_batch(writer, conn, batch, again, error);
	acp_db_release(writer->pool, conn);
	return status;
}

void acp_batch_note(struct batch *batch, enum acp_db_status status, const struct acp_db_error *error)
{
	for (size_t i = 0; i < batch->count; i++) {
		batch->waiters[i]->status = status;
		if (status != ACP_DB_OK)
			batch->waiters[i]->error = *error;
	}
}

/* After a broken connection the batch is sent once more; rows that are already stored stay as they are. If the outcome
 * of the first statement is unknown, only success of the second one resolves it. */
static enum acp_db_status store(struct acp_writer *writer, struct batch *batch, bool again, struct acp_db_error *error)
{
	enum acp_db_status first = try_batch(writer, batch, again, error);
	if ((first != ACP_DB_AWAY && first != ACP_DB_UNKNOWN) || error->timed_out || !batch->count)
		return first;
	enum acp_db_status second = try_batch(writer, batch, true, error);
	return first == ACP_DB_UNKNOWN && second != ACP_DB_OK ? ACP_DB_UNKNOWN : second;
}

/* 55P03: another transaction held a lock for longer than a shared statement waits for it. 23505: a statement whose
 * answer was lost has stored the row after all. */
static bool should_retry(const struct acp_db_error *error)
{
	return strcmp(error->sqlstate, "55P03") == 0 || strcmp(error->sqlstate, "23505") == 0;
}

/* If the server refuses the batch, each call stores its own row: a row that cannot be stored, or that waits for a lock,
 * must neither cost the others their rows nor delay later calls. */
void acp_batch_run(struct acp_writer *writer, struct batch *batch)
{
	struct acp_db_error error = {0};
	enum acp_db_status status = store(writer, batch, false, &error);
	bool alone = status == ACP_DB_REFUSED && (batch->count > 1 || should_retry(&error));
	for (size_t i = 0; i < batch->count; i++)
		batch->waiters[i]->alone = alone;
	acp_batch_note(batch, status, &error);
}

void acp_waiter_run(struct acp_writer *writer, struct waiter *waiter)
{
	struct batch batch = {
		.count = 1, .waiters = {waiter}, .events = {waiter->event}, .held = {waiter->held}, .writer = writer};
	struct acp_db_error error = {0};
	enum acp_db_status status = store(writer, &batch, true, &error);
	acp_batch_note(&batch, status, &error);
}
