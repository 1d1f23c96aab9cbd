#include "db.h"

#include "clock.h"
#include "crypto.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <time.h>

struct acp_db_conn {
	PGconn *pg;
	int timeout_ms;
	bool lost;
	struct acp_db_conn *next; /* in the pool's list of free ones */
};

struct acp_db_pool {
	char *url;
	int max, connect_timeout_s, timeout_ms;
	pthread_mutex_t lock;
	pthread_cond_t given;
	struct acp_db_conn *idle; /* last given first: the others may age and be replaced */
	int count;                /* connections that exist or are being made */
};

/* libpq's messages end with a newline and may have several lines; the first says it. */
static void first_line(char out[256], const char *text)
{
	snprintf(out, 256, "%.*s", text ? (int)strcspn(text, "\n") : 0, text ? text : "");
}

static void set_error(struct acp_db_error *error, const char *message)
{
	*error = (struct acp_db_error){0};
	first_line(error->message, message);
}

static void error_of(struct acp_db_error *error, const PGresult *result)
{
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	snprintf(error->sqlstate, sizeof error->sqlstate, "%s", sqlstate ? sqlstate : "");
	first_line(error->message, PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY));
	first_line(error->detail, PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL));
	first_line(error->hint, PQresultErrorField(result, PG_DIAG_MESSAGE_HINT));
	if (!*error->message)
		first_line(error->message, PQresultErrorMessage(result));
}

/* States in which the session, or the server, is not there any more; 25006 is a server that became a standby. */
static bool means_lost(const char *sqlstate)
{
	return !*sqlstate || strncmp(sqlstate, "08", 2) == 0 || strncmp(sqlstate, "57P", 3) == 0 ||
	       strcmp(sqlstate, "25006") == 0;
}

static void quiet_notice(void *arg, const PGresult *result)
{
	(void)arg;
	(void)result;
}

struct acp_db_conn *acp_db_connect(const char *url, int connect_timeout_s, int timeout_ms, struct acp_db_error *error)
{
	char seconds[16];
	struct acp_db_conn *conn = calloc(1, sizeof *conn);
	if (!conn) {
		set_error(error, "out of memory");
		return NULL;
	}
	snprintf(seconds, sizeof seconds, "%d", connect_timeout_s);
	/* What the connection string says comes after, and wins. */
	const char *names[] = {"connect_timeout",
			       "fallback_application_name",
			       "keepalives_idle",
			       "tcp_user_timeout",
			       "client_encoding",
			       "dbname",
			       NULL};
	const char *values[] = {seconds, "acp-fcgi", "5", "10000", "UTF8", url, NULL};
	conn->timeout_ms = timeout_ms;
	conn->pg = PQconnectdbParams(names, values, 1);
	if (PQstatus(conn->pg) == CONNECTION_OK) {
		PQsetNoticeReceiver(conn->pg, quiet_notice, NULL);
		PQsetnonblocking(conn->pg, 1);
		return conn;
	}
	set_error(error, PQerrorMessage(conn->pg));
	acp_db_close(conn);
	return NULL;
}

void acp_db_close(struct acp_db_conn *conn)
{
	if (conn)
		PQfinish(conn->pg);
	free(conn);
}

struct acp_db_pool *acp_db_pool_new(const char *url, int max, int connect_timeout_s, int timeout_ms)
{
	pthread_condattr_t attr;
	struct acp_db_pool *pool = calloc(1, sizeof *pool);
	if (!pool || !(pool->url = strdup(url))) {
		free(pool);
		return NULL;
	}
	pool->max = max;
	pool->connect_timeout_s = connect_timeout_s;
	pool->timeout_ms = timeout_ms;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&pool->given, &attr);
	pthread_condattr_destroy(&attr);
	return pool;
}

void acp_db_pool_free(struct acp_db_pool *pool)
{
	if (!pool)
		return;
	while (pool->idle) {
		struct acp_db_conn *conn = pool->idle;
		pool->idle = conn->next;
		acp_db_close(conn);
	}
	pthread_cond_destroy(&pool->given);
	pthread_mutex_destroy(&pool->lock);
	acp_wipe(pool->url, strlen(pool->url));
	free(pool->url);
	free(pool);
}

static struct timespec after_ms(int ms)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	at.tv_sec += ms / 1000;
	at.tv_nsec += (long)(ms % 1000) * 1000000L;
	if (at.tv_nsec >= 1000000000L) {
		at.tv_sec++;
		at.tv_nsec -= 1000000000L;
	}
	return at;
}

/* One place less in use: somebody else may connect or take. */
static void free_place(struct acp_db_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	pool->count--;
	pthread_cond_signal(&pool->given);
	pthread_mutex_unlock(&pool->lock);
}

/* A connection may have died while it was idle; the server said so by closing it. Nothing was sent on it since, so
 * taking another one is safe. */
static bool died_idle(struct acp_db_conn *conn)
{
	struct pollfd socket = {PQsocket(conn->pg), POLLIN, 0};
	if (poll(&socket, 1, 0) > 0 && !PQconsumeInput(conn->pg))
		conn->lost = true;
	return conn->lost || PQstatus(conn->pg) != CONNECTION_OK;
}

/* An idle connection that still lives, or NULL. The lock is held. */
static struct acp_db_conn *take_idle(struct acp_db_pool *pool)
{
	while (pool->idle) {
		struct acp_db_conn *conn = pool->idle;
		pool->idle = conn->next;
		if (!died_idle(conn))
			return conn;
		acp_db_close(conn);
		pool->count--;
	}
	return NULL;
}

struct acp_db_conn *acp_db_take(struct acp_db_pool *pool, struct acp_db_error *error)
{
	struct timespec deadline = after_ms(pool->timeout_ms);
	pthread_mutex_lock(&pool->lock);
	while (!pool->idle && pool->count >= pool->max)
		if (pthread_cond_timedwait(&pool->given, &pool->lock, &deadline) == ETIMEDOUT)
			break;
	struct acp_db_conn *conn = take_idle(pool);
	bool may_connect = !conn && pool->count < pool->max;
	if (may_connect)
		pool->count++;
	pthread_mutex_unlock(&pool->lock);
	if (conn)
		return conn;
	if (!may_connect) {
		set_error(error, "every connection of the pool is busy (db_connections)");
		return NULL;
	}
	conn = acp_db_connect(pool->url, pool->connect_timeout_s, pool->timeout_ms, error);
	if (!conn)
		free_place(pool);
	return conn;
}

void acp_db_give(struct acp_db_pool *pool, struct acp_db_conn *conn)
{
	if (conn->lost || PQtransactionStatus(conn->pg) != PQTRANS_IDLE) {
		acp_db_close(conn);
		free_place(pool);
		return;
	}
	pthread_mutex_lock(&pool->lock);
	conn->next = pool->idle;
	pool->idle = conn;
	pthread_cond_signal(&pool->given);
	pthread_mutex_unlock(&pool->lock);
}

/* Waits until the socket has the wanted event or the deadline (monotonic, microseconds) passes. */
static bool wait_socket(const struct acp_db_conn *conn, short events, uint64_t deadline)
{
	struct pollfd socket = {PQsocket(conn->pg), events, 0};
	for (;;) {
		uint64_t now = acp_monotonic_us();
		if (now >= deadline)
			return false;
		int ready = poll(&socket, 1, (int)((deadline - now) / 1000 + 1));
		if (ready > 0)
			return true;
		if (ready < 0 && errno != EINTR)
			return false;
	}
}

static bool flush_out(struct acp_db_conn *conn, uint64_t deadline)
{
	int left;
	while ((left = PQflush(conn->pg)) == 1) {
		if (!wait_socket(conn, POLLIN | POLLOUT, deadline) || !PQconsumeInput(conn->pg))
			return false;
	}
	return left == 0;
}

/* Reads results up to the end of the statement; keeps the first error, else the last result. */
static bool collect(struct acp_db_conn *conn, uint64_t deadline, PGresult **last)
{
	for (;;) {
		while (PQisBusy(conn->pg))
			if (!wait_socket(conn, POLLIN, deadline) || !PQconsumeInput(conn->pg))
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

/* Past its deadline a statement is cancelled, so that the server does not go on with what nobody waits for. */
static enum acp_db_status give_up(struct acp_db_conn *conn, bool timed_out, struct acp_db_error *error)
{
	char ignored[64];
	set_error(error, timed_out ? "no answer from PostgreSQL within the time limit" : PQerrorMessage(conn->pg));
	PGcancel *cancel = timed_out ? PQgetCancel(conn->pg) : NULL;
	if (cancel) {
		PQcancel(cancel, ignored, sizeof ignored);
		PQfreeCancel(cancel);
	}
	conn->lost = true;
	return ACP_DB_LOST;
}

enum acp_db_status acp_db_exec(struct acp_db_conn *conn, const char *sql, int count, const char *const *values,
			       int timeout_ms, PGresult **result, struct acp_db_error *error)
{
	PGresult *last = NULL;
	uint64_t deadline = acp_monotonic_us() + (uint64_t)(timeout_ms ? timeout_ms : conn->timeout_ms) * 1000u;
	if (!PQsendQueryParams(conn->pg, sql, count, NULL, values, NULL, NULL, 0))
		return give_up(conn, false, error);
	if (!flush_out(conn, deadline) || !collect(conn, deadline, &last)) {
		PQclear(last);
		return give_up(conn, acp_monotonic_us() >= deadline, error);
	}
	ExecStatusType status = PQresultStatus(last);
	if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK) {
		if (result)
			*result = last;
		else
			PQclear(last);
		return ACP_DB_OK;
	}
	error_of(error, last);
	PQclear(last);
	conn->lost = means_lost(error->sqlstate) || PQstatus(conn->pg) != CONNECTION_OK;
	return conn->lost ? ACP_DB_LOST : ACP_DB_REFUSED;
}

enum acp_db_status acp_db_once(struct acp_db_pool *pool, const char *sql, int count, const char *const *values,
			       int timeout_ms, PGresult **result, struct acp_db_error *error)
{
	struct acp_db_conn *conn = acp_db_take(pool, error);
	if (!conn)
		return ACP_DB_LOST;
	enum acp_db_status status = acp_db_exec(conn, sql, count, values, timeout_ms, result, error);
	acp_db_give(pool, conn);
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
		error_of(error, result);
		outcome = means_lost(error->sqlstate) ? ACP_DB_LOST : ACP_DB_REFUSED;
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
