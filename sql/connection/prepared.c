/* Repeated statements, including those that commit themselves. */
#include "db_parts.h"

#include "clock.h"

#include <poll.h>

/* Returns the slot of a statement in the list of the connection, or a free slot. NULL: the list is full. */
static const char **find_prepared(struct acp_db_conn *conn, const char *name)
{
	for (size_t i = 0; i < PREPARED_MAX; i++)
		if (!conn->prepared[i] || conn->prepared[i] == name)
			return &conn->prepared[i];
	return NULL;
}

/* 26000, 42P05: the server that answers is not the one that prepared the statement, so a pooler is in between. 0A000: a
 * function that the statement calls has been replaced since. */
static bool prepared_unusable(const char *sqlstate)
{
	return strcmp(sqlstate, "26000") == 0 || strcmp(sqlstate, "42P05") == 0 || strcmp(sqlstate, "0A000") == 0;
}

enum acp_db_status acp_db_exec_again(struct acp_db_conn *conn, const struct acp_db_statement *statement,
				     const char *const *values, const struct acp_db_binary *binary, int timeout_ms,
				     PGresult **result, struct acp_db_error *error)
{
	uint64_t deadline = acp_db_deadline(conn, timeout_ms);
	const int *lengths = binary ? binary->lengths : NULL;
	const int *formats = binary ? binary->formats : NULL;
	const char **slot = find_prepared(conn, statement->name);
	enum acp_db_status status = ACP_DB_OK;
	if (slot && conn->pool && !atomic_load(&conn->pool->unprepared)) {
		if (!*slot)
			status = acp_db_finish(conn,
					       PQsendPrepare(conn->pg, statement->name, statement->sql,
							     statement->count, statement->types),
					       deadline, NULL, error);
		if (status == ACP_DB_OK) {
			*slot = statement->name;
			status = acp_db_finish(conn,
					       PQsendQueryPrepared(conn->pg, statement->name, statement->count, values,
								   lengths, formats, 0),
					       deadline, result, error);
		}
		if (status != ACP_DB_REFUSED || !prepared_unusable(error->sqlstate))
			return status;
		atomic_store(&conn->pool->unprepared, true);
	}
	bool sent = PQsendQueryParams(conn->pg, statement->sql, statement->count, statement->types, values, lengths,
				      formats, 0);
	return acp_db_finish(conn, sent, deadline, result, error);
}

#ifdef LIBPQ_HAS_PIPELINING

/* Prepares the statement on this connection, unless a pooler prevents that. */
static enum acp_db_status prepare(struct acp_db_conn *conn, const struct acp_db_statement *statement, bool *prepared,
				  struct acp_db_error *error)
{
	const char **slot = find_prepared(conn, statement->name);
	*prepared = slot && conn->pool && !atomic_load(&conn->pool->unprepared);
	if (!*prepared || *slot)
		return ACP_DB_OK;
	enum acp_db_status status = acp_db_finish(
		conn, PQsendPrepare(conn->pg, statement->name, statement->sql, statement->count, statement->types),
		acp_db_deadline(conn, 0), NULL, error);
	if (status == ACP_DB_OK)
		*slot = statement->name;
	if (status != ACP_DB_REFUSED || !prepared_unusable(error->sqlstate))
		return status;
	*prepared = false;
	atomic_store(&conn->pool->unprepared, true);
	return ACP_DB_OK;
}

/* The server commits when it reads the Sync. The Flush makes it send the results of the statement before that. */
static bool send_early(struct acp_db_conn *conn, const struct acp_db_statement *statement, bool prepared,
		       const char *const *values, const struct acp_db_binary *binary)
{
	bool sent = prepared ? PQsendQueryPrepared(conn->pg, statement->name, statement->count, values, binary->lengths,
						   binary->formats, 0)
			     : PQsendQueryParams(conn->pg, statement->sql, statement->count, statement->types, values,
						 binary->lengths, binary->formats, 0);
	return sent && PQsendFlushRequest(conn->pg) && PQpipelineSync(conn->pg);
}

/* Reads the results of the statement, then the end of its transaction. */
static bool collect_both(struct acp_db_conn *conn, uint64_t deadline, PGresult **last)
{
	conn->ran = conn->ran || acp_db_collect(conn, deadline, last);
	while (conn->ran && PQisBusy(conn->pg))
		if (!acp_db_wait_socket(conn, POLLIN, deadline) || !PQconsumeInput(conn->pg))
			return false;
	PGresult *sync = conn->ran ? PQgetResult(conn->pg) : NULL;
	bool ended = PQresultStatus(sync) == PGRES_PIPELINE_SYNC;
	PQclear(sync);
	return ended;
}

/* Cancels a statement that has not finished in time, and reads its error. Waits for a late commit. */
static bool collect_early(struct acp_db_conn *conn, uint64_t asked, const struct acp_db_early *early, PGresult **last)
{
	uint64_t deadline = asked + (uint64_t)conn->timeout_ms * 1000u;
	conn->ran = acp_db_collect(conn, deadline, last);
	if (!conn->ran && acp_monotonic_us() < deadline)
		return false; /* the connection broke */
	if (!conn->ran) {
		acp_db_cancel(conn);
		conn->lost = true; /* a late cancellation could hit the next statement */
	} else if (PQresultStatus(*last) == PGRES_TUPLES_OK) {
		early->executed(early->arg);
	}
	return acp_db_await_commit(conn, collect_both, asked, early, last) && !conn->warned &&
	       PQexitPipelineMode(conn->pg);
}

/* True if the server reported that the statement failed. libpq also makes such a result for a broken connection. */
static bool has_failed(const PGresult *last)
{
	const char *sqlstate = PQresultErrorField(last, PG_DIAG_SQLSTATE);
	return sqlstate && !acp_db_means_lost(sqlstate);
}

enum acp_db_status acp_db_exec_early(struct acp_db_conn *conn, const struct acp_db_statement *statement,
				     const char *const *values, const struct acp_db_binary *binary,
				     const struct acp_db_early *early, PGresult **result, struct acp_db_error *error)
{
	bool prepared;
	PGresult *last = NULL;
	enum acp_db_status status = prepare(conn, statement, &prepared, error);
	if (status != ACP_DB_OK)
		return status;
	uint64_t asked = acp_monotonic_us();
	conn->warned = false;
	if (!PQenterPipelineMode(conn->pg) || !send_early(conn, statement, prepared, values, binary))
		return acp_db_give_up(conn, false, error);
	if (!acp_db_flush(conn, acp_db_deadline(conn, 0)) || !collect_early(conn, asked, early, &last)) {
		status = acp_db_in_doubt(conn, asked, error);
		bool failed = has_failed(last);
		PQclear(last);
		return failed ? ACP_DB_AWAY : status;
	}
	status = acp_db_classify_commit(conn, true, last, result, error);
	if (status != ACP_DB_REFUSED || !prepared || !prepared_unusable(error->sqlstate))
		return status;
	atomic_store(&conn->pool->unprepared, true);
	return acp_db_exec_early(conn, statement, values, binary, early, result, error);
}

#else /* libpq 13 (Debian 11) */

enum acp_db_status acp_db_exec_early(struct acp_db_conn *conn, const struct acp_db_statement *statement,
				     const char *const *values, const struct acp_db_binary *binary,
				     const struct acp_db_early *early, PGresult **result, struct acp_db_error *error)
{
	PGresult *rows = NULL;
	enum acp_db_status status = ACP_DB_REFUSED;
	struct acp_db_error ignored;
	/* If the statement cannot be prepared, the transaction has failed. It is then repeated without preparing. */
	for (int attempt = 0; attempt < 2 && status == ACP_DB_REFUSED; attempt++) {
		bool unprepared = atomic_load(&conn->pool->unprepared);
		status = acp_db_exec(conn, "BEGIN ISOLATION LEVEL READ COMMITTED", 0, NULL, 0, NULL, error);
		if (status == ACP_DB_OK)
			status = acp_db_exec_again(conn, statement, values, binary, 0, &rows, error);
		if (status == ACP_DB_REFUSED)
			conn->lost = acp_db_exec(conn, "ROLLBACK", 0, NULL, 0, NULL, &ignored) != ACP_DB_OK;
		if (unprepared == atomic_load(&conn->pool->unprepared) || conn->lost)
			break;
	}
	if (status == ACP_DB_OK) {
		early->executed(early->arg);
		status = acp_db_commit_early(conn, true, early, error);
	}
	if (status == ACP_DB_OK)
		*result = rows;
	else
		PQclear(rows);
	return status;
}

#endif
