#include "db.h"

#include "buf.h"
#include "clock.h"
#include "crypto.h"
#include "thread.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

enum { PREPARED_MAX = 32, AWAY_MS = 200 };

struct acp_db_conn {
	PGconn *pg;
	struct acp_db_pool *pool; /* NULL: outside any */
	int timeout_ms;
	bool lost;
	unsigned server;                    /* the pool's number of the server that it leads to */
	const char *prepared[PREPARED_MAX]; /* names of statements, as far as there are some */
	struct acp_db_conn *next;           /* in the pool's list of free ones */
};

struct acp_db_pool {
	char *url;
	int max, connect_timeout_s, timeout_ms;
	pthread_mutex_t lock;
	pthread_cond_t given;
	struct acp_db_conn *idle; /* last given first: the others may age and be replaced */
	int count;                /* connections that exist or are being made */
	char host[256];           /* which of several servers (database_url) took the last connection */
	unsigned server;          /* how often that was another one than before */
	atomic_bool unprepared;   /* prepared statements do not work on the way to this server */
	/* Monotonic time until which nobody tries; 0: the server answers. One caller moves it on and tries. */
	atomic_uint_fast64_t away_until;
};

/* Requests to cancel a statement that are under way, in all pools of the process. */
enum { MAX_CANCELS = 16 };
static atomic_int cancels;

/* libpq's messages end with a newline and may have several lines; the first says it. */
static void first_line(char out[256], const char *text)
{
	snprintf(out, 256, "%.*s", text ? (int)strcspn(text, "\n") : 0, text ? text : "");
	acp_utf8_trim(out);
}

static void set_error(struct acp_db_error *error, const char *message)
{
	*error = (struct acp_db_error){0};
	first_line(error->message, message);
}

static void error_of(struct acp_db_error *error, const PGresult *result)
{
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *rule = PQresultErrorField(result, PG_DIAG_CONSTRAINT_NAME);
	error->timed_out = false;
	snprintf(error->sqlstate, sizeof error->sqlstate, "%s", sqlstate ? sqlstate : "");
	snprintf(error->rule, sizeof error->rule, "%s", rule ? rule : "");
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
	struct acp_db_pool *pool = calloc(1, sizeof *pool);
	if (!pool || !(pool->url = strdup(url))) {
		free(pool);
		return NULL;
	}
	pool->max = max;
	pool->connect_timeout_s = connect_timeout_s;
	pool->timeout_ms = timeout_ms;
	pthread_mutex_init(&pool->lock, NULL);
	acp_monotonic_cond(&pool->given);
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

/* One place less in use: somebody else may connect or take. */
static void free_place(struct acp_db_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	pool->count--;
	pthread_cond_signal(&pool->given);
	pthread_mutex_unlock(&pool->lock);
}

/* A connection may have died while it was idle: the server said goodbye and closed it. Reading goes on to that end,
 * because the goodbye alone looks like any notice. Nothing was sent on it since, so taking another one is safe. */
static bool died_idle(struct acp_db_conn *conn)
{
	struct pollfd socket = {PQsocket(conn->pg), POLLIN, 0};
	for (int i = 0; i < 8 && !conn->lost && poll(&socket, 1, 0) > 0; i++)
		conn->lost = !PQconsumeInput(conn->pg);
	return conn->lost || PQstatus(conn->pg) != CONNECTION_OK;
}

/* An idle connection that still lives, or NULL. The lock is held. */
static struct acp_db_conn *take_idle(struct acp_db_pool *pool)
{
	while (pool->idle) {
		struct acp_db_conn *conn = pool->idle;
		pool->idle = conn->next;
		/* The server before may have vanished without a word: nobody shall wait for it once more. */
		if (conn->server == pool->server && !died_idle(conn))
			return conn;
		acp_db_close(conn);
		pool->count--;
	}
	return NULL;
}

/* True: the server was away a moment ago, and it is not for this caller to try again. */
static bool still_away(struct acp_db_pool *pool)
{
	uint64_t until = atomic_load(&pool->away_until);
	if (!until || !acp_thread_has_caller())
		return false;
	uint64_t now = acp_monotonic_us();
	/* Who tries may need as long as a connection and a statement may take. */
	uint64_t longest = (uint64_t)pool->connect_timeout_s * 1000000u + (uint64_t)pool->timeout_ms * 1000u;
	return now < until || !atomic_compare_exchange_strong(&pool->away_until, &until, now + longest);
}

static void note_away(struct acp_db_pool *pool)
{
	if (pool && acp_thread_has_caller())
		atomic_store(&pool->away_until, acp_monotonic_us() + AWAY_MS * UINT64_C(1000));
}

static void note_answer(struct acp_db_pool *pool)
{
	if (pool && atomic_load(&pool->away_until))
		atomic_store(&pool->away_until, 0);
}

bool acp_db_away(struct acp_db_pool *pool)
{
	return atomic_load(&pool->away_until) != 0;
}

void acp_db_stands_still(struct acp_db_pool *pool)
{
	if (!acp_db_away(pool))
		note_away(pool);
}

/* A new connection is the pool's. Of several servers only one can be the right one at a time. */
static void welcome(struct acp_db_pool *pool, struct acp_db_conn *conn)
{
	char host[sizeof pool->host] = "";
	const char *name = PQhost(conn->pg), *port = PQport(conn->pg);
	snprintf(host, sizeof host, "%s:%s", name ? name : "", port ? port : "");
	conn->pool = pool;
	pthread_mutex_lock(&pool->lock);
	if (strcmp(pool->host, host) != 0) {
		memcpy(pool->host, host, sizeof host);
		pool->server++;
	}
	conn->server = pool->server;
	pthread_mutex_unlock(&pool->lock);
}

struct acp_db_conn *acp_db_take(struct acp_db_pool *pool, struct acp_db_error *error)
{
	if (still_away(pool)) {
		set_error(error, "PostgreSQL was away a moment ago");
		error->timed_out = true;
		return NULL;
	}
	struct timespec deadline = acp_monotonic_after((uint64_t)pool->timeout_ms * 1000);
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
		error->timed_out = true;
		if (acp_db_away(pool))
			note_away(pool); /* it was this caller's to try, and it could not */
		return NULL;
	}
	conn = acp_db_connect(pool->url, pool->connect_timeout_s, pool->timeout_ms, error);
	if (conn) {
		welcome(pool, conn);
	} else {
		note_away(pool);
		free_place(pool);
	}
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

/* PQcancel waits for the server, which may be the one that stands still: it gets a thread of its own, that nobody waits
 * for. */
static void *send_cancel(void *arg)
{
	char ignored[64];
	PQcancel(arg, ignored, sizeof ignored);
	PQfreeCancel(arg);
	atomic_fetch_sub(&cancels, 1);
	return NULL;
}

/* Lets the server stop what nobody waits for any more. With many under way already it is not told: it stops when it
 * finds the connection closed. */
static void cancel_statement(struct acp_db_conn *conn)
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

static enum acp_db_status give_up(struct acp_db_conn *conn, bool timed_out, struct acp_db_error *error)
{
	set_error(error, timed_out ? "no answer from PostgreSQL within the time limit" : PQerrorMessage(conn->pg));
	error->timed_out = timed_out;
	if (timed_out)
		cancel_statement(conn);
	if (conn->pool && acp_db_away(conn->pool))
		note_away(conn->pool); /* it was this caller's to try, and it got no answer */
	conn->lost = true;
	return ACP_DB_LOST;
}

/* What a statement's last result means, which becomes the caller's or is released. */
static enum acp_db_status judge(struct acp_db_conn *conn, PGresult *last, PGresult **result, struct acp_db_error *error)
{
	note_answer(conn->pool);
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

/* Waits for the end of what was sent (sent false: it could not be) and takes its last result. */
static enum acp_db_status finish(struct acp_db_conn *conn, bool sent, uint64_t deadline, PGresult **result,
				 struct acp_db_error *error)
{
	PGresult *last = NULL;
	if (!sent)
		return give_up(conn, false, error);
	if (flush_out(conn, deadline) && collect(conn, deadline, &last))
		return judge(conn, last, result, error);
	PQclear(last);
	return give_up(conn, acp_monotonic_us() >= deadline, error);
}

static uint64_t deadline_of(const struct acp_db_conn *conn, int timeout_ms)
{
	return acp_monotonic_us() + (uint64_t)(timeout_ms ? timeout_ms : conn->timeout_ms) * 1000u;
}

enum acp_db_status acp_db_exec(struct acp_db_conn *conn, const char *sql, int count, const char *const *values,
			       int timeout_ms, PGresult **result, struct acp_db_error *error)
{
	uint64_t deadline = deadline_of(conn, timeout_ms);
	bool sent = PQsendQueryParams(conn->pg, sql, count, NULL, values, NULL, NULL, 0);
	return finish(conn, sent, deadline, result, error);
}

/* Where the statement stands, or may stand, in the connection's list; NULL: the list is full. */
static const char **find_prepared(struct acp_db_conn *conn, const char *name)
{
	for (size_t i = 0; i < PREPARED_MAX; i++)
		if (!conn->prepared[i] || conn->prepared[i] == name)
			return &conn->prepared[i];
	return NULL;
}

/* 26000, 42P05: the server that answers is another one than that which prepared it: there is a pooler in between.
 * 0A000: a function that it calls has been made anew since. */
static bool prepared_in_vain(const char *sqlstate)
{
	return strcmp(sqlstate, "26000") == 0 || strcmp(sqlstate, "42P05") == 0 || strcmp(sqlstate, "0A000") == 0;
}

enum acp_db_status acp_db_exec_again(struct acp_db_conn *conn, const struct acp_db_statement *statement,
				     const char *const *values, const struct acp_db_binary *binary, int timeout_ms,
				     PGresult **result, struct acp_db_error *error)
{
	uint64_t deadline = deadline_of(conn, timeout_ms);
	const int *lengths = binary ? binary->lengths : NULL;
	const int *formats = binary ? binary->formats : NULL;
	const char **place = find_prepared(conn, statement->name);
	enum acp_db_status status = ACP_DB_OK;
	if (place && conn->pool && !atomic_load(&conn->pool->unprepared)) {
		if (!*place)
			status = finish(conn,
					PQsendPrepare(conn->pg, statement->name, statement->sql, statement->count,
						      statement->types),
					deadline, NULL, error);
		if (status == ACP_DB_OK) {
			*place = statement->name;
			status = finish(conn,
					PQsendQueryPrepared(conn->pg, statement->name, statement->count, values,
							    lengths, formats, 0),
					deadline, result, error);
		}
		if (status != ACP_DB_REFUSED || !prepared_in_vain(error->sqlstate))
			return status;
		atomic_store(&conn->pool->unprepared, true);
	}
	bool sent = PQsendQueryParams(conn->pg, statement->sql, statement->count, statement->types, values, lengths,
				      formats, 0);
	return finish(conn, sent, deadline, result, error);
}

#ifdef LIBPQ_HAS_PIPELINING

/* Is it prepared there, as far as we know? */
static bool is_prepared(struct acp_db_conn *conn, const struct acp_db_statement *statement)
{
	const char **place = find_prepared(conn, statement->name);
	return place && *place && conn->pool && !atomic_load(&conn->pool->unprepared);
}

/* The server commits when it reads the Sync, and tells before, asked to by the Flush, what the statement gave. */
static bool send_early(struct acp_db_conn *conn, const struct acp_db_statement *statement, const char *const *values,
		       const struct acp_db_binary *binary)
{
	return PQsendQueryPrepared(conn->pg, statement->name, statement->count, values, binary->lengths,
				   binary->formats, 0) &&
	       PQsendFlushRequest(conn->pg) && PQpipelineSync(conn->pg);
}

/* After the statement's result: its commit. False: it is not known to be committed. */
static bool collect_commit(struct acp_db_conn *conn, uint64_t deadline)
{
	PGresult *sync = NULL;
	while (PQisBusy(conn->pg))
		if (!wait_socket(conn, POLLIN, deadline) || !PQconsumeInput(conn->pg))
			return false;
	sync = PQgetResult(conn->pg);
	bool committed = PQresultStatus(sync) == PGRES_PIPELINE_SYNC;
	PQclear(sync);
	return committed;
}

enum acp_db_status acp_db_exec_early(struct acp_db_conn *conn, const struct acp_db_statement *statement,
				     const char *const *values, const struct acp_db_binary *binary,
				     const struct acp_db_early *early, PGresult **result, struct acp_db_error *error)
{
	PGresult *last = NULL;
	uint64_t deadline = deadline_of(conn, 0);
	if (!is_prepared(conn, statement) || !PQenterPipelineMode(conn->pg))
		return acp_db_exec_again(conn, statement, values, binary, 0, result, error);
	bool ok = send_early(conn, statement, values, binary) && flush_out(conn, deadline) &&
		  collect(conn, deadline, &last);
	if (ok && PQresultStatus(last) == PGRES_TUPLES_OK)
		early->executed(early->arg);
	ok = ok && collect_commit(conn, deadline) && PQexitPipelineMode(conn->pg);
	if (!ok) {
		PQclear(last);
		return give_up(conn, acp_monotonic_us() >= deadline, error);
	}
	enum acp_db_status status = judge(conn, last, result, error);
	if (status == ACP_DB_REFUSED && prepared_in_vain(error->sqlstate))
		return acp_db_exec_again(conn, statement, values, binary, 0, result, error);
	return status;
}

#else /* libpq 13, of Debian 11 */

enum acp_db_status acp_db_exec_early(struct acp_db_conn *conn, const struct acp_db_statement *statement,
				     const char *const *values, const struct acp_db_binary *binary,
				     const struct acp_db_early *early, PGresult **result, struct acp_db_error *error)
{
	(void)early;
	return acp_db_exec_again(conn, statement, values, binary, 0, result, error);
}

#endif

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

enum acp_db_status acp_db_read(struct acp_db_pool *pool, const char *sql, int count, const char *const *values,
			       PGresult **result, struct acp_db_error *error)
{
	enum acp_db_status status = acp_db_once(pool, sql, count, values, 0, result, error);
	if (status != ACP_DB_LOST || error->timed_out)
		return status;
	return acp_db_once(pool, sql, count, values, 0, result, error);
}

static enum acp_db_status once_again(struct acp_db_pool *pool, const struct acp_db_statement *statement,
				     const char *const *values, PGresult **result, struct acp_db_error *error)
{
	struct acp_db_conn *conn = acp_db_take(pool, error);
	if (!conn)
		return ACP_DB_LOST;
	enum acp_db_status status = acp_db_exec_again(conn, statement, values, NULL, 0, result, error);
	acp_db_give(pool, conn);
	return status;
}

enum acp_db_status acp_db_read_again(struct acp_db_pool *pool, const struct acp_db_statement *statement,
				     const char *const *values, PGresult **result, struct acp_db_error *error)
{
	enum acp_db_status status = once_again(pool, statement, values, result, error);
	if (status != ACP_DB_LOST || error->timed_out)
		return status;
	return once_again(pool, statement, values, result, error);
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
