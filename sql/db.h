/* db.h - connections to PostgreSQL: a bounded pool, a deadline on the client's side for every statement, reconnecting.
 * Private to sql/; the only header that shows libpq.
 *
 * Server-side time-outs cannot fire in a server that is stopped or unreachable, so each statement is sent without
 * blocking and waited for with poll(); past its deadline the connection is cancelled and thrown away. Statements are
 * unnamed and parameterised (PgBouncer in transaction mode works), one function call each. */
#ifndef ACP_DB_H
#define ACP_DB_H

#include "attr.h"

#include <libpq-fe.h>

/* What became of a statement. */
enum acp_db_status {
	ACP_DB_OK,
	ACP_DB_LOST,    /* no connection, connection lost, or deadline passed; whether it took effect is unknown */
	ACP_DB_REFUSED, /* the server answered with an error; see sqlstate */
};

struct acp_db_error {
	char sqlstate[6]; /* "" when there is none */
	char message[256];
	char detail[256];
	char hint[256];
};

struct acp_db_pool;
struct acp_db_conn;

/* A pool of at most max connections to url. Connects on demand; never fails for a database that is away. NULL: memory
 * is lacking. One process each: make it after fork(). */
struct acp_db_pool *acp_db_pool_new(const char *url, int max, int connect_timeout_s, int timeout_ms);
void acp_db_pool_free(struct acp_db_pool *pool); /* no connection may be taken */

/* Takes a free connection that has not died while idle, connecting when needed; waits at most the pool's time-out. NULL with a reason in error. */
struct acp_db_conn *acp_db_take(struct acp_db_pool *pool, struct acp_db_error *error);

/* Gives it back; a connection that is lost or stands in a transaction is closed. */
void acp_db_give(struct acp_db_pool *pool, struct acp_db_conn *conn);

/* Runs one statement with text parameters (NULL = null). *result is set on ACP_DB_OK only and may be NULL for
 * statements whose rows do not matter; release it with PQclear. timeout_ms 0: the pool's. */
enum acp_db_status acp_db_exec(struct acp_db_conn *conn, const char *sql, int count, const char *const *values,
			       int timeout_ms, PGresult **result, struct acp_db_error *error) ACP_MUSTCHECK;

/* Take, run, give. */
enum acp_db_status acp_db_once(struct acp_db_pool *pool, const char *sql, int count, const char *const *values,
			       int timeout_ms, PGresult **result, struct acp_db_error *error) ACP_MUSTCHECK;

/* A connection outside any pool, for acpctl. NULL with the reason in error. */
struct acp_db_conn *acp_db_connect(const char *url, int connect_timeout_s, int timeout_ms, struct acp_db_error *error);
void acp_db_close(struct acp_db_conn *conn);

/* Runs a script of several statements without parameters and without a deadline (migrations). */
enum acp_db_status acp_db_script(struct acp_db_conn *conn, const char *sql, struct acp_db_error *error) ACP_MUSTCHECK;

/* A bytea parameter: "\\x" and hex. out: 2 * len + 3 bytes. */
void acp_db_bytea(const uint8_t *bytes, size_t len, char *out);

#endif
