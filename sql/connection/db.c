#include "db.h"

#include "buf.h"
#include "clock.h"
#include "crypto.h"
#include "thread.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

enum { PREPARED_MAX = 32, AWAY_MS = 200, SLOW_MS = 100, LOOK_MS = 500 };

struct acp_db_conn {
	PGconn *pg;
	struct acp_db_pool *pool; /* NULL: outside any */
	int timeout_ms, commit_timeout_ms;
	bool lost;
	bool writes;                        /* taken to write */
	bool tries;                         /* whether commits are answered again */
	bool uncounted;                     /* its commit is late: it is none of the pool's connections any more */
	bool ran;                           /* of a statement that commits by itself: its own results are complete */
	bool warned;                        /* the server warned of something since the commit was asked for */
	unsigned spell;                     /* the pool's spells when it was made */
	unsigned server;                    /* the pool's number of the server that it leads to */
	const char *prepared[PREPARED_MAX]; /* names of statements, as far as there are some */
	struct acp_db_conn *next;           /* in the pool's list of free ones */
};

struct acp_db_pool {
	char *url;
	struct acp_db_limits limits;
	pthread_mutex_t lock;
	pthread_cond_t released[ACP_DB_PURPOSES];
	struct acp_db_conn *idle; /* last released first: the others may age and be replaced */
	int count;                /* connections that exist or are being made, but for those with a late commit */
	int writing;              /* connections taken to write, late ones included */
	char host[256];           /* which of several servers (database_url) took the last connection */
	unsigned server;          /* how often that was another one than before */
	atomic_bool stopping;     /* nobody waits for an answer any more */
	atomic_bool unprepared;   /* prepared statements do not work on the way to this server */
	/* Monotonic times until which nobody tries to connect, or to commit; 0: the server answers. One caller moves
	 * it on and tries. */
	atomic_uint_fast64_t away_until, late_until;
	atomic_uint spells;              /* how often a commit was late: who writes takes no connection from before */
	atomic_uint_fast64_t late_since; /* when the first of the commits was late that were not answered since */
	atomic_uint_fast64_t stored_at;  /* when a commit was answered last that is sure to have written something */
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

static const char CANCELLED[] = "57014";

/* States in which the session, or the server, is not there any more; 25006 is a server that became a standby. */
static bool means_lost(const char *sqlstate)
{
	return !*sqlstate || strncmp(sqlstate, "08", 2) == 0 || strncmp(sqlstate, "57P", 3) == 0 ||
	       strcmp(sqlstate, "25006") == 0;
}

/* A commit that ends with a warning is one whose wait for a standby was cancelled. */
static void take_notice(void *arg, const PGresult *result)
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
		set_error(error, "out of memory");
		return NULL;
	}
	snprintf(seconds, sizeof seconds, "%d", limits->connect_timeout_s);
	/* What the connection string says comes after, and wins. */
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
		PQsetNoticeReceiver(conn->pg, take_notice, conn);
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

struct acp_db_pool *acp_db_pool_new(const char *url, const struct acp_db_limits *limits)
{
	struct acp_db_pool *pool = calloc(1, sizeof *pool);
	if (!pool || !(pool->url = strdup(url))) {
		free(pool);
		return NULL;
	}
	pool->limits = *limits;
	pthread_mutex_init(&pool->lock, NULL);
	for (size_t i = 0; i < ACP_COUNT(pool->released); i++)
		acp_monotonic_cond(&pool->released[i]);
	return pool;
}

void acp_db_pool_stop(struct acp_db_pool *pool)
{
	atomic_store(&pool->stopping, true);
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
	for (size_t i = 0; i < ACP_COUNT(pool->released); i++)
		pthread_cond_destroy(&pool->released[i]);
	pthread_mutex_destroy(&pool->lock);
	acp_wipe(pool->url, strlen(pool->url));
	free(pool->url);
	free(pool);
}

/* Somebody else may take a connection, or make one where a counted one is gone. */
static void free_place(struct acp_db_pool *pool, bool counted, bool writes)
{
	pthread_mutex_lock(&pool->lock);
	pool->count -= counted;
	pool->writing -= writes;
	for (size_t i = 0; i < ACP_COUNT(pool->released); i++)
		pthread_cond_signal(&pool->released[i]);
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

/* An idle connection that still lives, or NULL. The lock is held. Who writes takes none on which a commit may be late,
 * but makes another in its place; the rest is good enough for those who read. */
static struct acp_db_conn *pop_idle(struct acp_db_pool *pool, enum acp_db_purpose purpose)
{
	bool doubted = false;
	while (pool->idle && !doubted) {
		struct acp_db_conn *conn = pool->idle;
		pool->idle = conn->next;
		doubted = purpose != ACP_DB_TO_READ && conn->spell != atomic_load(&pool->spells);
		/* The server before may have vanished without a word: nobody shall wait for it once more. */
		if (!doubted && conn->server == pool->server && !died_idle(conn))
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
	uint64_t longest_ms = (uint64_t)pool->limits.connect_timeout_s * 1000u + (uint64_t)pool->limits.timeout_ms;
	return now < until || !atomic_compare_exchange_strong(&pool->away_until, &until, now + longest_ms * 1000u);
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

/* A commit asked for at that moment is late. One that is so while others are answered has a bad connection; else nobody
 * shall ask for more of them for a while, which grows, because each may stay in the server for as long as this lasts.
 * Whoever tries again does so on a new connection. */
static void note_late(struct acp_db_pool *pool, uint64_t asked)
{
	uint64_t now = acp_monotonic_us();
	if (!pool || atomic_load(&pool->stored_at) > asked)
		return;
	if (!atomic_load(&pool->late_until))
		atomic_store(&pool->late_since, now);
	uint64_t pause = (now - atomic_load(&pool->late_since)) / 2;
	uint64_t longest = (uint64_t)pool->limits.commit_timeout_ms * 1000u;
	uint64_t least = AWAY_MS * UINT64_C(1000);
	atomic_store(&pool->late_until, now + (pause < least ? least : pause < longest ? pause : longest));
	atomic_fetch_add(&pool->spells, 1);
}

/* A commit was answered. Where the transaction may have written nothing, that tells little of the disk. */
static void note_commit(struct acp_db_conn *conn, bool wrote)
{
	if (!conn->pool || !wrote)
		return;
	atomic_store(&conn->pool->stored_at, acp_monotonic_us());
	if (atomic_load(&conn->pool->late_until))
		atomic_store(&conn->pool->late_until, 0);
}

/* True, with a reason in error: a commit was late, and it is not for this caller to try another one. *tries: it is. */
static bool commits_late(struct acp_db_pool *pool, bool *tries, struct acp_db_error *error)
{
	uint64_t until = atomic_load(&pool->late_until);
	if (!until)
		return false;
	uint64_t now = acp_monotonic_us();
	if (now >= until && !acp_thread_has_caller())
		return false;
	*tries = now >= until && atomic_compare_exchange_strong(&pool->late_until, &until,
								now + (uint64_t)pool->limits.timeout_ms * 1000u);
	if (*tries)
		return false;
	set_error(error, "PostgreSQL did not answer a commit a moment ago");
	error->timed_out = true;
	return true;
}

bool acp_db_away(struct acp_db_pool *pool)
{
	return atomic_load(&pool->away_until) != 0;
}

void acp_db_unresponsive(struct acp_db_pool *pool)
{
	if (!acp_db_away(pool))
		note_away(pool);
}

/* A new connection is the pool's. Of several servers only one can be the right one at a time. */
static void register_connection(struct acp_db_pool *pool, struct acp_db_conn *conn)
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
	conn->spell = atomic_load(&pool->spells);
	pthread_mutex_unlock(&pool->lock);
}

/* One connection is not for those who write: they may all wait for the same row. */
static int writers_of(const struct acp_db_pool *pool)
{
	return pool->limits.connections > 1 ? pool->limits.connections - 1 : 1;
}

/* Is there a connection for this purpose, or may one be made? The lock is held. */
static bool has_place(const struct acp_db_pool *pool, enum acp_db_purpose purpose)
{
	return (pool->idle || pool->count < pool->limits.connections) &&
	       (purpose != ACP_DB_TO_WRITE || pool->writing < writers_of(pool));
}

/* The lock is held. False: the time is up. */
static bool wait_until(struct acp_db_pool *pool, enum acp_db_purpose purpose, const struct timespec *until)
{
	int waited = 0;
	while (!has_place(pool, purpose) && waited != ETIMEDOUT)
		waited = pthread_cond_timedwait(&pool->released[purpose], &pool->lock, until);
	return has_place(pool, purpose);
}

/* The lock is held. False: there is none in time. */
static bool wait_for_place(struct acp_db_pool *pool, enum acp_db_purpose purpose)
{
	if (has_place(pool, purpose))
		return true;
	const struct timespec slow = acp_monotonic_after(SLOW_MS * UINT64_C(1000));
	const struct timespec deadline = acp_monotonic_after((uint64_t)pool->limits.timeout_ms * 1000);
	if (wait_until(pool, purpose, &slow))
		return true;
	acp_thread_blocks();
	bool found = wait_until(pool, purpose, &deadline);
	acp_thread_goes_on();
	return found;
}

/* Takes an idle connection (*conn), or the place of one that is to be made. False: every place is taken. */
static bool acquire_place(struct acp_db_pool *pool, enum acp_db_purpose purpose, struct acp_db_conn **conn)
{
	pthread_mutex_lock(&pool->lock);
	bool found = wait_for_place(pool, purpose);
	*conn = found ? pop_idle(pool, purpose) : NULL;
	pool->count += found && !*conn;
	pool->writing += found && purpose == ACP_DB_TO_WRITE;
	pthread_mutex_unlock(&pool->lock);
	return found;
}

struct acp_db_conn *acp_db_acquire(struct acp_db_pool *pool, enum acp_db_purpose purpose, struct acp_db_error *error)
{
	bool tries = false;
	struct acp_db_conn *conn;
	if (still_away(pool)) {
		set_error(error, "PostgreSQL was away a moment ago");
		error->timed_out = true;
		return NULL;
	}
	if (purpose != ACP_DB_TO_READ && commits_late(pool, &tries, error)) {
		if (acp_db_away(pool))
			note_away(pool); /* it was this caller's to try, and it may not */
		return NULL;
	}
	if (!acquire_place(pool, purpose, &conn)) {
		set_error(error, "every connection of the pool is busy (db_connections)");
		error->timed_out = true;
		if (acp_db_away(pool))
			note_away(pool); /* it was this caller's to try, and it could not */
		return NULL;
	}
	if (!conn && (conn = acp_db_connect(pool->url, &pool->limits, error)))
		register_connection(pool, conn);
	if (conn) {
		conn->writes = purpose == ACP_DB_TO_WRITE;
		conn->tries = tries;
		conn->commit_timeout_ms = pool->limits.commit_timeout_ms;
		return conn;
	}
	note_away(pool);
	free_place(pool, true, purpose == ACP_DB_TO_WRITE);
	return NULL;
}

/* Keeps a connection for the next one who takes it. The lock is held. False: there is no place for it any more. */
static bool put_back(struct acp_db_pool *pool, struct acp_db_conn *conn)
{
	if (conn->uncounted && pool->count >= pool->limits.connections)
		return false;
	pool->count += conn->uncounted;
	conn->uncounted = false;
	conn->next = pool->idle;
	pool->idle = conn;
	return true;
}

void acp_db_release(struct acp_db_pool *pool, struct acp_db_conn *conn)
{
	bool good = !conn->lost && !acp_db_in_transaction(conn);
	bool writes = conn->writes;
	conn->writes = false;
	pthread_mutex_lock(&pool->lock);
	bool kept = good && put_back(pool, conn);
	pthread_mutex_unlock(&pool->lock);
	bool counted = !kept && !conn->uncounted;
	if (!kept)
		acp_db_close(conn);
	free_place(pool, counted, writes);
}

/* A commit that is late holds up its own caller only: others may have another connection instead. */
static void leave_pool(struct acp_db_conn *conn)
{
	if (!conn->pool || conn->uncounted)
		return;
	conn->uncounted = true;
	free_place(conn->pool, true, false);
}

/* Waits until the socket has the wanted event or the deadline (monotonic, microseconds) passes. */
static bool wait_socket(const struct acp_db_conn *conn, short events, uint64_t deadline)
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

/* PQcancel waits for the server, which may be the one that is unresponsive: it gets a thread of its own, for which
 * nobody waits. */
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

/* No answer will be read from this connection any more. */
static void abandon(struct acp_db_conn *conn, bool timed_out, struct acp_db_error *error)
{
	set_error(error, timed_out ? "no answer from PostgreSQL within the time limit" : PQerrorMessage(conn->pg));
	error->timed_out = timed_out;
	if (conn->pool && acp_db_away(conn->pool))
		note_away(conn->pool); /* it was this caller's to try, and it got no answer */
	conn->lost = true;
}

/* Nothing that this connection has not committed is done: its end rolls it back. */
static enum acp_db_status give_up(struct acp_db_conn *conn, bool timed_out, struct acp_db_error *error)
{
	abandon(conn, timed_out, error);
	if (timed_out)
		cancel_statement(conn);
	return ACP_DB_AWAY;
}

/* What a statement's last result means, which becomes the caller's or is released. */
static enum acp_db_status classify(struct acp_db_conn *conn, PGresult *last, PGresult **result,
				   struct acp_db_error *error)
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
	error->timed_out = strcmp(error->sqlstate, CANCELLED) == 0; /* somebody found that it took too long */
	bool lost = error->timed_out || means_lost(error->sqlstate) || PQstatus(conn->pg) != CONNECTION_OK;
	conn->lost = conn->lost || lost;
	return lost ? ACP_DB_AWAY : ACP_DB_REFUSED;
}

/* Waits for the end of what was sent (sent false: it could not be) and takes its last result. */
static enum acp_db_status finish(struct acp_db_conn *conn, bool sent, uint64_t deadline, PGresult **result,
				 struct acp_db_error *error)
{
	PGresult *last = NULL;
	if (!sent)
		return give_up(conn, false, error);
	if (flush_out(conn, deadline) && collect(conn, deadline, &last))
		return classify(conn, last, result, error);
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

/* Commits -------------------------------------------------------------------------------------------------------- */

/* Reads on until the answer is complete, the deadline passes, or the connection breaks. */
typedef bool collector(struct acp_db_conn *conn, uint64_t deadline, PGresult **last);

/* Waits for the answer to a commit that was asked for at that moment. A thread that serves nobody has no use for one
 * that comes late. */
static bool await_commit(struct acp_db_conn *conn, collector *collect_answer, uint64_t asked,
			 const struct acp_db_early *early, PGresult **last)
{
	uint64_t late = asked + (uint64_t)conn->timeout_ms * 1000u;
	uint64_t end = asked + (uint64_t)conn->commit_timeout_ms * 1000u;
	uint64_t slow = acp_monotonic_us() + SLOW_MS * UINT64_C(1000);
	bool done = collect_answer(conn, slow, last);
	if (done || acp_monotonic_us() < slow)
		return done;
	leave_pool(conn);
	acp_thread_blocks();
	done = collect_answer(conn, late < end ? late : end, last);
	if (!done && acp_monotonic_us() >= (late < end ? late : end)) {
		note_late(conn->pool, asked);
		if (late < end && (early ? early->late(early->arg) : acp_thread_has_caller()))
			done = collect_answer(conn, end, last);
	}
	acp_thread_goes_on();
	return done;
}

static enum acp_db_status in_doubt(struct acp_db_conn *conn, uint64_t asked, struct acp_db_error *error)
{
	int patience_ms = conn->timeout_ms < conn->commit_timeout_ms ? conn->timeout_ms : conn->commit_timeout_ms;
	abandon(conn, !conn->warned && acp_monotonic_us() >= asked + (uint64_t)patience_ms * 1000u, error);
	if (conn->warned)
		set_error(error, "the commit's wait for a standby was cancelled");
	return ACP_DB_UNKNOWN;
}

/* What the answer to a commit means. A connection that the server ended instead may have committed before. */
static enum acp_db_status classify_commit(struct acp_db_conn *conn, bool wrote, PGresult *last, PGresult **result,
					  struct acp_db_error *error)
{
	enum acp_db_status status = classify(conn, last, result, error);
	if (status == ACP_DB_OK)
		note_commit(conn, wrote || conn->uncounted); /* one that wrote nothing waits for nothing */
	return status == ACP_DB_AWAY && !error->timed_out ? ACP_DB_UNKNOWN : status;
}

static enum acp_db_status commit(struct acp_db_conn *conn, bool wrote, const struct acp_db_early *early,
				 struct acp_db_error *error)
{
	PGresult *last = NULL;
	uint64_t asked = acp_monotonic_us();
	conn->warned = false;
	if (!PQsendQueryParams(conn->pg, "COMMIT", 0, NULL, NULL, NULL, NULL, 0))
		return give_up(conn, false, error);
	bool done = flush_out(conn, deadline_of(conn, 0)) && await_commit(conn, collect, asked, early, &last);
	if (!done || conn->warned) {
		PQclear(last);
		return in_doubt(conn, asked, error);
	}
	if (PQresultStatus(last) == PGRES_COMMAND_OK && strcmp(PQcmdStatus(last), "COMMIT") != 0) {
		PQclear(last);
		set_error(error, "the transaction had failed and was rolled back");
		return ACP_DB_REFUSED;
	}
	return classify_commit(conn, wrote, last, NULL, error);
}

enum acp_db_status acp_db_commit(struct acp_db_conn *conn, struct acp_db_error *error)
{
	return commit(conn, true, NULL, error);
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
		status = commit(conn, conn->tries && has_written(conn), NULL, error);
	else if (status == ACP_DB_REFUSED)
		conn->lost = acp_db_exec(conn, "ROLLBACK", 0, NULL, 0, NULL, &ignored) != ACP_DB_OK;
	if (status == ACP_DB_OK && result)
		*result = rows;
	else
		PQclear(rows);
	return status;
}

/* Statements that are run over and over ------------------------------------------------------------------------- */

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

/* Prepares the statement on this connection, where that works on the way to this server. */
static enum acp_db_status prepare(struct acp_db_conn *conn, const struct acp_db_statement *statement, bool *prepared,
				  struct acp_db_error *error)
{
	const char **place = find_prepared(conn, statement->name);
	*prepared = place && conn->pool && !atomic_load(&conn->pool->unprepared);
	if (!*prepared || *place)
		return ACP_DB_OK;
	enum acp_db_status status = finish(
		conn, PQsendPrepare(conn->pg, statement->name, statement->sql, statement->count, statement->types),
		deadline_of(conn, 0), NULL, error);
	if (status == ACP_DB_OK)
		*place = statement->name;
	if (status != ACP_DB_REFUSED || !prepared_in_vain(error->sqlstate))
		return status;
	*prepared = false;
	atomic_store(&conn->pool->unprepared, true);
	return ACP_DB_OK;
}

/* The server commits when it reads the Sync, and tells before, asked to by the Flush, what the statement gave. */
static bool send_early(struct acp_db_conn *conn, const struct acp_db_statement *statement, bool prepared,
		       const char *const *values, const struct acp_db_binary *binary)
{
	bool sent = prepared ? PQsendQueryPrepared(conn->pg, statement->name, statement->count, values, binary->lengths,
						   binary->formats, 0)
			     : PQsendQueryParams(conn->pg, statement->sql, statement->count, statement->types, values,
						 binary->lengths, binary->formats, 0);
	return sent && PQsendFlushRequest(conn->pg) && PQpipelineSync(conn->pg);
}

/* The statement's results, and then the end of its transaction. */
static bool collect_both(struct acp_db_conn *conn, uint64_t deadline, PGresult **last)
{
	conn->ran = conn->ran || collect(conn, deadline, last);
	while (conn->ran && PQisBusy(conn->pg))
		if (!wait_socket(conn, POLLIN, deadline) || !PQconsumeInput(conn->pg))
			return false;
	PGresult *sync = conn->ran ? PQgetResult(conn->pg) : NULL;
	bool ended = PQresultStatus(sync) == PGRES_PIPELINE_SYNC;
	PQclear(sync);
	return ended;
}

/* A statement that has not run in time is cancelled, and says so; one whose commit is late is waited for. */
static bool collect_early(struct acp_db_conn *conn, uint64_t asked, const struct acp_db_early *early, PGresult **last)
{
	uint64_t deadline = asked + (uint64_t)conn->timeout_ms * 1000u;
	conn->ran = collect(conn, deadline, last);
	if (!conn->ran && acp_monotonic_us() < deadline)
		return false; /* it broke */
	if (!conn->ran) {
		cancel_statement(conn);
		conn->lost = true; /* for who comes next: the cancellation may come late */
	} else if (PQresultStatus(*last) == PGRES_TUPLES_OK) {
		early->executed(early->arg);
	}
	return await_commit(conn, collect_both, asked, early, last) && !conn->warned && PQexitPipelineMode(conn->pg);
}

/* The server's own word that the statement failed. (libpq makes a result of that kind of a broken connection, too.) */
static bool has_failed(const PGresult *last)
{
	const char *sqlstate = PQresultErrorField(last, PG_DIAG_SQLSTATE);
	return sqlstate && !means_lost(sqlstate);
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
		return give_up(conn, false, error);
	if (!flush_out(conn, deadline_of(conn, 0)) || !collect_early(conn, asked, early, &last)) {
		status = in_doubt(conn, asked, error);
		bool failed = has_failed(last);
		PQclear(last);
		return failed ? ACP_DB_AWAY : status;
	}
	status = classify_commit(conn, true, last, result, error);
	if (status != ACP_DB_REFUSED || !prepared || !prepared_in_vain(error->sqlstate))
		return status;
	atomic_store(&conn->pool->unprepared, true);
	return acp_db_exec_early(conn, statement, values, binary, early, result, error);
}

#else /* libpq 13, of Debian 11 */

enum acp_db_status acp_db_exec_early(struct acp_db_conn *conn, const struct acp_db_statement *statement,
				     const char *const *values, const struct acp_db_binary *binary,
				     const struct acp_db_early *early, PGresult **result, struct acp_db_error *error)
{
	PGresult *rows = NULL;
	enum acp_db_status status = ACP_DB_REFUSED;
	struct acp_db_error ignored;
	/* Where it turns out that statements cannot be prepared, the transaction has failed by then. */
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
		status = commit(conn, true, early, error);
	}
	if (status == ACP_DB_OK)
		*result = rows;
	else
		PQclear(rows);
	return status;
}

#endif

/* On any connection -------------------------------------------------------------------------------------------- */

static enum acp_db_status write_within(struct acp_db_pool *pool, enum acp_db_purpose purpose, const char *sql,
				       int count, const char *const *values, int timeout_ms, int commit_timeout_ms,
				       PGresult **result, struct acp_db_error *error)
{
	enum acp_db_status status = ACP_DB_AWAY;
	for (int attempt = 0; attempt < 2 && status == ACP_DB_AWAY; attempt++) {
		struct acp_db_conn *conn = acp_db_acquire(pool, purpose, error);
		if (!conn)
			return ACP_DB_AWAY;
		conn->commit_timeout_ms = commit_timeout_ms;
		status = acp_db_transact(conn, sql, count, values, timeout_ms, result, error);
		acp_db_release(pool, conn);
		if (status == ACP_DB_AWAY && error->timed_out)
			break;
	}
	return status;
}

enum acp_db_status acp_db_write(struct acp_db_pool *pool, const char *sql, int count, const char *const *values,
				int timeout_ms, PGresult **result, struct acp_db_error *error)
{
	return write_within(pool, ACP_DB_TO_WRITE, sql, count, values, timeout_ms, pool->limits.commit_timeout_ms,
			    result, error);
}

enum acp_db_status acp_db_attempt(struct acp_db_pool *pool, enum acp_db_purpose purpose, const char *sql, int count,
				  const char *const *values, int timeout_ms, PGresult **result,
				  struct acp_db_error *error)
{
	return write_within(pool, purpose, sql, count, values, timeout_ms, timeout_ms, result, error);
}

static enum acp_db_status read_once(struct acp_db_pool *pool, const struct acp_db_statement *statement,
				    const char *const *values, int timeout_ms, PGresult **result,
				    struct acp_db_error *error)
{
	struct acp_db_conn *conn = acp_db_acquire(pool, ACP_DB_TO_READ, error);
	if (!conn)
		return ACP_DB_AWAY;
	enum acp_db_status status =
		statement->name
			? acp_db_exec_again(conn, statement, values, NULL, timeout_ms, result, error)
			: acp_db_exec(conn, statement->sql, statement->count, values, timeout_ms, result, error);
	acp_db_release(pool, conn);
	return status;
}

static enum acp_db_status read_twice(struct acp_db_pool *pool, const struct acp_db_statement *statement,
				     const char *const *values, int timeout_ms, PGresult **result,
				     struct acp_db_error *error)
{
	enum acp_db_status status = read_once(pool, statement, values, timeout_ms, result, error);
	if (status != ACP_DB_AWAY || error->timed_out)
		return status;
	return read_once(pool, statement, values, timeout_ms, result, error);
}

enum acp_db_status acp_db_read(struct acp_db_pool *pool, const char *sql, int count, const char *const *values,
			       int timeout_ms, PGresult **result, struct acp_db_error *error)
{
	const struct acp_db_statement statement = {.sql = sql, .count = count};
	return read_twice(pool, &statement, values, timeout_ms, result, error);
}

enum acp_db_status acp_db_read_again(struct acp_db_pool *pool, const struct acp_db_statement *statement,
				     const char *const *values, PGresult **result, struct acp_db_error *error)
{
	return read_twice(pool, statement, values, 0, result, error);
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
		outcome = means_lost(error->sqlstate) ? ACP_DB_AWAY : ACP_DB_REFUSED;
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
