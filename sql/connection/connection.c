/* One connection: opening and closing it, statements, and commits. */
#include "db_parts.h"

#include "clock.h"
#include "crypto.h"
#include "thread.h"

#include <errno.h>
#include <poll.h>

enum { LOOK_MS = 500 };

/* Cancel requests in progress, over all pools of the process. */
enum { MAX_CANCELS = 16 };
static atomic_int cancels;

static const char CANCELLED[] = "57014";

/* Detects a commit that ends with a warning: its wait for a standby was cancelled. */
static void on_notice(void *arg, const PGresult *result)
{
	struct acp_db_conn *conn = arg;
	const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
	conn->warned = conn->warned || (severity && strcmp(severity, "WARNING") == 0);
}

struct acp_db_conn *acp_db_connect(const char *url, const struct acp_db_limits *limits, struct acp_db_error *error)
{
	char seconds[16];
	struct acp_db_conn *conn = calloc(1, sizeof *conn);
	if (!conn) {
		acp_db_set_error(error, "out of memory");
		return NULL;
	}
	snprintf(seconds, sizeof seconds, "%d", limits->connect_timeout_s);
	/* Later parameters win, so the connection string overrides these. */
	const char *names[] = {"connect_timeout",
			       "fallback_application_name",
			       "keepalives_idle",
			       "tcp_user_timeout",
			       "client_encoding",
			       "dbname",
			       NULL};
	const char *values[] = {seconds, "acp-fcgi", "5", "10000", "UTF8", url, NULL};
	conn->timeout_ms = limits->timeout_ms;
	conn->commit_timeout_ms = limits->commit_timeout_ms;
	conn->pg = PQconnectdbParams(names, values, 1);
	if (PQstatus(conn->pg) == CONNECTION_OK) {
		PQsetNoticeReceiver(conn->pg, on_notice, conn);
		PQsetnonblocking(conn->pg, 1);
		return conn;
	}
	acp_db_set_error(error, PQerrorMessage(conn->pg));
	acp_db_close(conn);
	return NULL;
}

void acp_db_close(struct acp_db_conn *conn)
{
	if (conn)
		PQfinish(conn->pg);
	free(conn);
}

bool acp_db_wait_socket(const struct acp_db_conn *conn, short events, uint64_t deadline)
{
	struct pollfd socket = {PQsocket(conn->pg), events, 0};
	for (;;) {
		uint64_t now = acp_monotonic_us();
		if (now >= deadline)
			return false;
		uint64_t left_ms = (deadline - now) / 1000 + 1;
		int ready = poll(&socket, 1, left_ms < LOOK_MS ? (int)left_ms : LOOK_MS);
		if (ready > 0)
			return true;
		if (conn->pool && atomic_load(&conn->pool->stopping))
			return false;
		if (ready < 0 && errno != EINTR)
			return false;
	}
}

bool acp_db_flush(struct acp_db_conn *conn, uint64_t deadline)
{
	int left;
	while ((left = PQflush(conn->pg)) == 1) {
		if (!acp_db_wait_socket(conn, POLLIN | POLLOUT, deadline) || !PQconsumeInput(conn->pg))
			return false;
	}
	return left == 0;
}

bool acp_db_collect(struct acp_db_conn *conn, uint64_t deadline, PGresult **last)
{
	for (;;) {
		while (PQisBusy(conn->pg))
			if (!acp_db_wait_socket(conn, POLLIN, deadline) || !PQconsumeInput(conn->pg))
				return false;
		PGresult *result = PQgetResult(conn->pg);
		if (!result)
			return *last != NULL;
		if (*last && PQresultStatus(*last) == PGRES_FATAL_ERROR) {
			PQclear(result);
			continue;
		}
		PQclear(*last);
		*last = result;
	}
}

/* PQcancel waits for the server, which may be unresponsive. Therefore it runs in a detached thread. */
static void *send_cancel(void *arg)
{
	char ignored[64];
	PQcancel(arg, ignored, sizeof ignored);
	PQfreeCancel(arg);
	atomic_fetch_sub(&cancels, 1);
	return NULL;
}

/* With too many requests in progress none is sent: the server stops when it finds the connection closed. */
void acp_db_cancel(struct acp_db_conn *conn)
{
	pthread_t thread;
	pthread_attr_t attr;
	PGcancel *cancel = PQgetCancel(conn->pg);
	if (!cancel)
		return;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, (size_t)128 * 1024);
	bool sent =
		atomic_fetch_add(&cancels, 1) < MAX_CANCELS && pthread_create(&thread, &attr, send_cancel, cancel) == 0;
	pthread_attr_destroy(&attr);
	if (sent)
		return;
	atomic_fetch_sub(&cancels, 1);
	PQfreeCancel(cancel);
}

/* Marks a connection as lost: no answer will be read from it. */
static void abandon(struct acp_db_conn *conn, bool timed_out, struct acp_db_error *error)
{
	acp_db_set_error(error,
			 timed_out ? "no answer from PostgreSQL within the time limit" : PQerrorMessage(conn->pg));
	error->timed_out = timed_out;
	if (conn->pool && acp_db_away(conn->pool))
		acp_db_note_away(conn->pool); /* this caller was testing the server, and got no answer */
	conn->lost = true;
}

enum acp_db_status acp_db_give_up(struct acp_db_conn *conn, bool timed_out, struct acp_db_error *error)
{
	abandon(conn, timed_out, error);
	if (timed_out)
		acp_db_cancel(conn);
	return ACP_DB_AWAY;
}

/* Turns the last result of a statement into a status. Passes the result to the caller or releases it. */
static enum acp_db_status classify(struct acp_db_conn *conn, PGresult *last, PGresult **result,
				   struct acp_db_error *error)
{
	acp_db_note_answer(conn->pool);
	ExecStatusType status = PQresultStatus(last);
	if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK) {
		if (result)
			*result = last;
		else
			PQclear(last);
		return ACP_DB_OK;
	}
	acp_db_read_error(error, last);
	PQclear(last);
	error->timed_out = strcmp(error->sqlstate, CANCELLED) == 0; /* cancelled because it took too long */
	bool lost = error->timed_out || acp_db_means_lost(error->sqlstate) || PQstatus(conn->pg) != CONNECTION_OK;
	conn->lost = conn->lost || lost;
	return lost ? ACP_DB_AWAY : ACP_DB_REFUSED;
}

enum acp_db_status acp_db_finish(struct acp_db_conn *conn, bool sent, uint64_t deadline, PGresult **result,
				 struct acp_db_error *error)
{
	PGresult *last = NULL;
	if (!sent)
		return acp_db_give_up(conn, false, error);
	if (acp_db_flush(conn, deadline) && acp_db_collect(conn, deadline, &last))
		return classify(conn, last, result, error);
	PQclear(last);
	return acp_db_give_up(conn, acp_monotonic_us() >= deadline, error);
}

uint64_t acp_db_deadline(const struct acp_db_conn *conn, int timeout_ms)
{
	return acp_monotonic_us() + (uint64_t)(timeout_ms ? timeout_ms : conn->timeout_ms) * 1000u;
}

enum acp_db_status acp_db_exec(struct acp_db_conn *conn, const char *sql, int count, const char *const *values,
			       int timeout_ms, PGresult **result, struct acp_db_error *error)
{
	uint64_t deadline = acp_db_deadline(conn, timeout_ms);
	bool sent = PQsendQueryParams(conn->pg, sql, count, NULL, values, NULL, NULL, 0);
	return acp_db_finish(conn, sent, deadline, result, error);
}

/* Commits -------------------------------------------------------------------------------------------------------- */

/* A background thread does not wait for a late answer. */
bool acp_db_await_commit(struct acp_db_conn *conn, acp_db_collector *collect, uint64_t asked,
			 const struct acp_db_early *early, PGresult **last)
{
	uint64_t late = asked + (uint64_t)conn->timeout_ms * 1000u;
	uint64_t end = asked + (uint64_t)conn->commit_timeout_ms * 1000u;
	uint64_t slow = acp_monotonic_us() + SLOW_MS * UINT64_C(1000);
	bool done = collect(conn, slow, last);
	if (done || acp_monotonic_us() < slow)
		return done;
	acp_db_leave_pool(conn);
	acp_thread_blocks();
	done = collect(conn, late < end ? late : end, last);
	if (!done && acp_monotonic_us() >= (late < end ? late : end)) {
		acp_db_note_late(conn->pool, asked);
		if (late < end && (early ? early->late(early->arg) : acp_thread_has_caller()))
			done = collect(conn, end, last);
	}
	acp_thread_goes_on();
	return done;
}

enum acp_db_status acp_db_in_doubt(struct acp_db_conn *conn, uint64_t asked, struct acp_db_error *error)
{
	int patience_ms = conn->timeout_ms < conn->commit_timeout_ms ? conn->timeout_ms : conn->commit_timeout_ms;
	abandon(conn, !conn->warned && acp_monotonic_us() >= asked + (uint64_t)patience_ms * 1000u, error);
	if (conn->warned)
		acp_db_set_error(error, "the commit's wait for a standby was cancelled");
	return ACP_DB_UNKNOWN;
}

/* If the server closed the connection instead of answering, it may have committed before. */
enum acp_db_status acp_db_classify_commit(struct acp_db_conn *conn, bool wrote, PGresult *last, PGresult **result,
					  struct acp_db_error *error)
{
	enum acp_db_status status = classify(conn, last, result, error);
	if (status == ACP_DB_OK)
		/* A commit without writes does not wait for the disk. */
		acp_db_note_commit(conn, wrote || conn->uncounted);
	return status == ACP_DB_AWAY && !error->timed_out ? ACP_DB_UNKNOWN : status;
}

enum acp_db_status acp_db_commit_early(struct acp_db_conn *conn, bool wrote, const struct acp_db_early *early,
				       struct acp_db_error *error)
{
	PGresult *last = NULL;
	uint64_t asked = acp_monotonic_us();
	conn->warned = false;
	if (!PQsendQueryParams(conn->pg, "COMMIT", 0, NULL, NULL, NULL, NULL, 0))
		return acp_db_give_up(conn, false, error);
	bool done = acp_db_flush(conn, acp_db_deadline(conn, 0)) &&
		    acp_db_await_commit(conn, acp_db_collect, asked, early, &last);
	if (!done || conn->warned) {
		PQclear(last);
		return acp_db_in_doubt(conn, asked, error);
	}
	if (PQresultStatus(last) == PGRES_COMMAND_OK && strcmp(PQcmdStatus(last), "COMMIT") != 0) {
		PQclear(last);
		acp_db_set_error(error, "the transaction had failed and was rolled back");
		return ACP_DB_REFUSED;
	}
	return acp_db_classify_commit(conn, wrote, last, NULL, error);
}

enum acp_db_status acp_db_commit(struct acp_db_conn *conn, struct acp_db_error *error)
{
	return acp_db_commit_early(conn, true, NULL, error);
}

bool acp_db_in_transaction(const struct acp_db_conn *conn)
{
	return PQtransactionStatus(conn->pg) != PQTRANS_IDLE;
}

static bool has_written(struct acp_db_conn *conn)
{
	struct acp_db_error ignored;
	PGresult *rows = NULL;
	bool written = acp_db_exec(conn, "SELECT pg_current_xact_id_if_assigned() IS NOT NULL", 0, NULL, 0, &rows,
				   &ignored) == ACP_DB_OK &&
		       *PQgetvalue(rows, 0, 0) == 't';
	PQclear(rows);
	return written;
}

enum acp_db_status acp_db_transact(struct acp_db_conn *conn, const char *sql, int count, const char *const *values,
				   int timeout_ms, PGresult **result, struct acp_db_error *error)
{
	PGresult *rows = NULL;
	struct acp_db_error ignored;
	enum acp_db_status status =
		acp_db_exec(conn, "BEGIN ISOLATION LEVEL READ COMMITTED", 0, NULL, timeout_ms, NULL, error);
	if (status != ACP_DB_OK)
		return status;
	status = acp_db_exec(conn, sql, count, values, timeout_ms, &rows, error);
	if (status == ACP_DB_OK)
		status = acp_db_commit_early(conn, conn->tries && has_written(conn), NULL, error);
	else if (status == ACP_DB_REFUSED)
		conn->lost = acp_db_exec(conn, "ROLLBACK", 0, NULL, 0, NULL, &ignored) != ACP_DB_OK;
	if (status == ACP_DB_OK && result)
		*result = rows;
	else
		PQclear(rows);
	return status;
}

enum acp_db_status acp_db_script(struct acp_db_conn *conn, const char *sql, struct acp_db_error *error)
{
	PQsetnonblocking(conn->pg, 0);
	PGresult *result = PQexec(conn->pg, sql);
	PQsetnonblocking(conn->pg, 1);
	ExecStatusType status = PQresultStatus(result);
	enum acp_db_status outcome = ACP_DB_OK;
	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK && status != PGRES_EMPTY_QUERY) {
		acp_db_read_error(error, result);
		outcome = acp_db_means_lost(error->sqlstate) ? ACP_DB_AWAY : ACP_DB_REFUSED;
	}
	PQclear(result);
	return outcome;
}

void acp_db_bytea(const uint8_t *bytes, size_t len, char *out)
{
	out[0] = '\\';
	out[1] = 'x';
	acp_hex(bytes, len, out + 2);
}
