/* The pool: lends connections to callers. */
#include "db_parts.h"

#include "clock.h"
#include "crypto.h"

#include <poll.h>

struct acp_db_pool *acp_db_pool_new(const char *url, const struct acp_db_limits *limits)
{
	struct acp_db_pool *pool = calloc(1, sizeof *pool);
	if (!pool || !(pool->url = strdup(url)) ||
	    !(pool->holders = calloc((size_t)limits->connections, sizeof *pool->holders))) {
		free(pool ? pool->url : NULL);
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
	free(pool->holders);
	free(pool);
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

/* Takes an idle connection (*conn), or permission to open one (*conn is NULL), and counts it to the share of the
 * tenant. False, with a reason in error: none became free. */
static bool acquire_slot(struct acp_db_pool *pool, enum acp_db_purpose purpose, const char *tenant,
			 struct acp_db_conn **conn, struct acp_db_holder **holder, struct acp_db_error *error)
{
	pthread_mutex_lock(&pool->lock);
	bool found = acp_db_wait_for_slot(pool, purpose, tenant);
	bool share_used = !found && acp_db_share_used(pool, tenant);
	*conn = found ? pop_idle(pool, purpose) : NULL;
	*holder = found ? acp_db_hold(pool, tenant) : NULL;
	pool->count += found && !*conn;
	pool->writing += found && purpose == ACP_DB_TO_WRITE;
	pthread_mutex_unlock(&pool->lock);
	if (found)
		return true;
	acp_db_set_error(error, share_used ? "the calls of one tenant hold its share of the connections "
					     "(tenant_db_connections)"
					   : "every connection of the pool is busy (db_connections)");
	error->timed_out = error->busy = true;
	error->share_used = share_used;
	return false;
}

struct acp_db_conn *acp_db_acquire(struct acp_db_pool *pool, enum acp_db_purpose purpose, const char *tenant,
				   struct acp_db_error *error)
{
	bool tries = false;
	struct acp_db_conn *conn;
	struct acp_db_holder *holder;
	if (acp_db_still_away(pool)) {
		acp_db_set_error(error, "PostgreSQL was away a moment ago");
		error->timed_out = true;
		return NULL;
	}
	if (purpose != ACP_DB_TO_READ && acp_db_commits_late(pool, &tries, error)) {
		if (acp_db_away(pool))
			acp_db_note_away(pool); /* this caller was testing the server, but may not write */
		return NULL;
	}
	if (!acquire_slot(pool, purpose, tenant, &conn, &holder, error)) {
		if (acp_db_away(pool))
			acp_db_note_away(pool); /* this caller was testing the server, but got no connection */
		return NULL;
	}
	if (!conn && (conn = acp_db_connect(pool->url, &pool->limits, error)))
		register_connection(pool, conn);
	if (conn) {
		conn->writes = purpose == ACP_DB_TO_WRITE;
		conn->holder = holder;
		conn->tries = tries;
		conn->commit_timeout_ms = pool->limits.commit_timeout_ms;
		return conn;
	}
	acp_db_note_away(pool);
	acp_db_release_slot(pool, true, purpose == ACP_DB_TO_WRITE, holder);
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
	struct acp_db_holder *holder = conn->holder;
	conn->writes = false;
	conn->holder = NULL;
	pthread_mutex_lock(&pool->lock);
	bool kept = good && put_back(pool, conn);
	pthread_mutex_unlock(&pool->lock);
	bool counted = !kept && !conn->uncounted;
	if (!kept)
		acp_db_close(conn);
	acp_db_release_slot(pool, counted, writes, holder);
}

/* On any connection ---------------------------------------------------------------------------------------------- */

static enum acp_db_status write_within(struct acp_db_pool *pool, enum acp_db_purpose purpose, const char *tenant,
				       const char *sql, int count, const char *const *values, int timeout_ms,
				       int commit_timeout_ms, PGresult **result, struct acp_db_error *error)
{
	enum acp_db_status status = ACP_DB_AWAY;
	for (int attempt = 0; attempt < 2 && status == ACP_DB_AWAY; attempt++) {
		struct acp_db_conn *conn = acp_db_acquire(pool, purpose, tenant, error);
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

enum acp_db_status acp_db_write(struct acp_db_pool *pool, const char *tenant, const char *sql, int count,
				const char *const *values, int timeout_ms, PGresult **result,
				struct acp_db_error *error)
{
	return write_within(pool, ACP_DB_TO_WRITE, tenant, sql, count, values, timeout_ms,
			    pool->limits.commit_timeout_ms, result, error);
}

enum acp_db_status acp_db_attempt(struct acp_db_pool *pool, enum acp_db_purpose purpose, const char *tenant,
				  const char *sql, int count, const char *const *values, int timeout_ms,
				  PGresult **result, struct acp_db_error *error)
{
	return write_within(pool, purpose, tenant, sql, count, values, timeout_ms, timeout_ms, result, error);
}

/* Runs a statement in a transaction that the server keeps from writing: a statement that writes, and is read here by
 * mistake, fails every time instead of being repeated. */
static enum acp_db_status read_only(struct acp_db_conn *conn, const struct acp_db_statement *statement,
				    const char *const *values, int timeout_ms, PGresult **result,
				    struct acp_db_error *error)
{
	struct acp_db_error ignored;
	enum acp_db_status status = acp_db_exec(conn, "BEGIN READ ONLY", 0, NULL, timeout_ms, NULL, error);
	if (status != ACP_DB_OK)
		return status;
	status = acp_db_exec(conn, statement->sql, statement->count, values, timeout_ms, result, error);
	if (!conn->lost && acp_db_exec(conn, "ROLLBACK", 0, NULL, timeout_ms, NULL, &ignored) != ACP_DB_OK)
		conn->lost = true;
	/* Elsewhere this SQLSTATE means a standby, where a retry helps. */
	return status == ACP_DB_AWAY && strcmp(error->sqlstate, "25006") == 0 ? ACP_DB_REFUSED : status;
}

static enum acp_db_status read_once(struct acp_db_pool *pool, const char *tenant,
				    const struct acp_db_statement *statement, const char *const *values, int timeout_ms,
				    PGresult **result, struct acp_db_error *error)
{
	struct acp_db_conn *conn = acp_db_acquire(pool, ACP_DB_TO_READ, tenant, error);
	if (!conn)
		return ACP_DB_AWAY;
	enum acp_db_status status =
		statement->name ? acp_db_exec_again(conn, statement, values, NULL, timeout_ms, result, error)
				: read_only(conn, statement, values, timeout_ms, result, error);
	acp_db_release(pool, conn);
	return status;
}

static enum acp_db_status read_twice(struct acp_db_pool *pool, const char *tenant,
				     const struct acp_db_statement *statement, const char *const *values,
				     int timeout_ms, PGresult **result, struct acp_db_error *error)
{
	enum acp_db_status status = read_once(pool, tenant, statement, values, timeout_ms, result, error);
	if (status != ACP_DB_AWAY || error->timed_out)
		return status;
	return read_once(pool, tenant, statement, values, timeout_ms, result, error);
}

enum acp_db_status acp_db_read(struct acp_db_pool *pool, const char *tenant, const char *sql, int count,
			       const char *const *values, int timeout_ms, PGresult **result, struct acp_db_error *error)
{
	const struct acp_db_statement statement = {.sql = sql, .count = count};
	return read_twice(pool, tenant, &statement, values, timeout_ms, result, error);
}

enum acp_db_status acp_db_read_again(struct acp_db_pool *pool, const char *tenant,
				     const struct acp_db_statement *statement, const char *const *values,
				     PGresult **result, struct acp_db_error *error)
{
	return read_twice(pool, tenant, statement, values, 0, result, error);
}
