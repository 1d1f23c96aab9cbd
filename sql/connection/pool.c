/* The pool: lends connections to callers, and tracks whether the server is reachable. */
#include "db_parts.h"

#include "clock.h"
#include "crypto.h"
#include "thread.h"

#include <errno.h>
#include <poll.h>

enum { AWAY_MS = 200 };

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

/* Signals that a connection is free, or that a counted one is gone and another may be opened. */
static void release_slot(struct acp_db_pool *pool, bool counted, bool writes)
{
	pthread_mutex_lock(&pool->lock);
	pool->count -= counted;
	pool->writing -= writes;
	for (size_t i = 0; i < ACP_COUNT(pool->released); i++)
		pthread_cond_signal(&pool->released[i]);
	pthread_mutex_unlock(&pool->lock);
}

/* Detects a connection that the server closed while it was idle. Reads to the end of file, because the message that the
 * server sends first looks like any notice. Nothing was sent on the connection since then, so another one can replace
 * it. */
static bool closed_while_idle(struct acp_db_conn *conn)
{
	struct pollfd socket = {PQsocket(conn->pg), POLLIN, 0};
	for (int i = 0; i < 8 && !conn->lost && poll(&socket, 1, 0) > 0; i++)
		conn->lost = !PQconsumeInput(conn->pg);
	return conn->lost || PQstatus(conn->pg) != CONNECTION_OK;
}

/* Takes a live idle connection, or returns NULL. The caller holds the lock. A writer does not take a connection on
 * which a commit may be late, but opens a new one. A reader may use it. */
static struct acp_db_conn *pop_idle(struct acp_db_pool *pool, enum acp_db_purpose purpose)
{
	bool doubted = false;
	while (pool->idle && !doubted) {
		struct acp_db_conn *conn = pool->idle;
		pool->idle = conn->next;
		doubted = purpose != ACP_DB_TO_READ && conn->spell != atomic_load(&pool->spells);
		/* The previous server may have vanished silently. Do not wait for it again. */
		if (!doubted && conn->server == pool->server && !closed_while_idle(conn))
			return conn;
		acp_db_close(conn);
		pool->count--;
	}
	return NULL;
}

/* True if the server was away a moment ago and another caller is trying to connect. */
static bool still_away(struct acp_db_pool *pool)
{
	uint64_t until = atomic_load(&pool->away_until);
	if (!until || !acp_thread_has_caller())
		return false;
	uint64_t now = acp_monotonic_us();
	/* The caller that tries may need the time of a connection and of a statement. */
	uint64_t longest_ms = (uint64_t)pool->limits.connect_timeout_s * 1000u + (uint64_t)pool->limits.timeout_ms;
	return now < until || !atomic_compare_exchange_strong(&pool->away_until, &until, now + longest_ms * 1000u);
}

void acp_db_note_away(struct acp_db_pool *pool)
{
	if (pool && acp_thread_has_caller())
		atomic_store(&pool->away_until, acp_monotonic_us() + AWAY_MS * UINT64_C(1000));
}

void acp_db_note_answer(struct acp_db_pool *pool)
{
	if (pool && atomic_load(&pool->away_until))
		atomic_store(&pool->away_until, 0);
}

void acp_db_note_late(struct acp_db_pool *pool, uint64_t asked)
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

void acp_db_note_commit(struct acp_db_conn *conn, bool wrote)
{
	if (!conn->pool || !wrote)
		return;
	atomic_store(&conn->pool->stored_at, acp_monotonic_us());
	if (atomic_load(&conn->pool->late_until))
		atomic_store(&conn->pool->late_until, 0);
}

/* Returns true, with a reason in error, if a commit was late and another caller is testing the server. *tries is set to
 * true if this caller tests it. */
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
	acp_db_set_error(error, "PostgreSQL did not answer a commit a moment ago");
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
		acp_db_note_away(pool);
}

/* Registers a new connection in the pool. Of several servers only one can be the primary at a time. */
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

/* Keep one connection free of writers, because all of them may wait for the same row. */
static int max_writers(const struct acp_db_pool *pool)
{
	return pool->limits.connections > 1 ? pool->limits.connections - 1 : 1;
}

/* True if a connection is idle or may be opened for this purpose. The caller holds the lock. */
static bool has_slot(const struct acp_db_pool *pool, enum acp_db_purpose purpose)
{
	return (pool->idle || pool->count < pool->limits.connections) &&
	       (purpose != ACP_DB_TO_WRITE || pool->writing < max_writers(pool));
}

/* The caller holds the lock. False: the time is up. */
static bool wait_until(struct acp_db_pool *pool, enum acp_db_purpose purpose, const struct timespec *until)
{
	int waited = 0;
	while (!has_slot(pool, purpose) && waited != ETIMEDOUT)
		waited = pthread_cond_timedwait(&pool->released[purpose], &pool->lock, until);
	return has_slot(pool, purpose);
}

/* The caller holds the lock. False: no connection in time. */
static bool wait_for_slot(struct acp_db_pool *pool, enum acp_db_purpose purpose)
{
	if (has_slot(pool, purpose))
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

/* Takes an idle connection (*conn), or permission to open one (*conn is NULL). False: the pool is full. */
static bool acquire_slot(struct acp_db_pool *pool, enum acp_db_purpose purpose, struct acp_db_conn **conn)
{
	pthread_mutex_lock(&pool->lock);
	bool found = wait_for_slot(pool, purpose);
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
		acp_db_set_error(error, "PostgreSQL was away a moment ago");
		error->timed_out = true;
		return NULL;
	}
	if (purpose != ACP_DB_TO_READ && commits_late(pool, &tries, error)) {
		if (acp_db_away(pool))
			acp_db_note_away(pool); /* this caller was testing the server, but may not write */
		return NULL;
	}
	if (!acquire_slot(pool, purpose, &conn)) {
		acp_db_set_error(error, "every connection of the pool is busy (db_connections)");
		error->timed_out = true;
		if (acp_db_away(pool))
			acp_db_note_away(pool); /* this caller was testing the server, but got no connection */
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
	acp_db_note_away(pool);
	release_slot(pool, true, purpose == ACP_DB_TO_WRITE);
	return NULL;
}

/* Puts a connection into the idle list. The caller holds the lock. False: the pool is full. */
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
	release_slot(pool, counted, writes);
}

void acp_db_leave_pool(struct acp_db_conn *conn)
{
	if (!conn->pool || conn->uncounted)
		return;
	conn->uncounted = true;
	release_slot(conn->pool, true, false);
}

/* On any connection ---------------------------------------------------------------------------------------------- */

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
