/* db.h - connections to PostgreSQL: a bounded pool, a deadline on the client's side for every statement, reconnecting.
 * Private to sql/; the only header that shows libpq.
 *
 * Server-side time-outs cannot fire in a server that is stopped or unreachable, so each statement is sent without
 * blocking and waited for with poll(); past its deadline the connection is cancelled and thrown away. Statements are
 * parameterised, one function call each; they are prepared where that works (not behind PgBouncer in transaction mode).
 *
 * After a connection could not be made the pool is away: for a moment everybody is told so at once, and one caller at a
 * time tries again, so that a dead server costs the others no wait. Threads that serve nobody (core/thread.h) try when
 * they like, and tell nobody. */
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
	char rule[64];    /* name of the constraint that does not hold; "" when there is none */
	bool timed_out;   /* the deadline passed: trying again would only take as long again */
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

/* Takes a free connection that has not died while idle, connecting when needed; waits at most
 * the pool's time-out. NULL with a reason in error. */
struct acp_db_conn *acp_db_take(struct acp_db_pool *pool, struct acp_db_error *error);

/* The server did not answer when it was last tried. */
bool acp_db_away(struct acp_db_pool *pool);

/* Says so: a statement that waits for nothing had no answer in time. */
void acp_db_stands_still(struct acp_db_pool *pool);

/* Gives it back; a connection that is lost or stands in a transaction is closed. */
void acp_db_give(struct acp_db_pool *pool, struct acp_db_conn *conn);

/* Runs one statement with text parameters (NULL = null). *result is set on ACP_DB_OK only and may be NULL for
 * statements whose rows do not matter; release it with PQclear. timeout_ms 0: the pool's. */
enum acp_db_status acp_db_exec(struct acp_db_conn *conn, const char *sql, int count, const char *const *values,
			       int timeout_ms, PGresult **result, struct acp_db_error *error) ACP_MUSTCHECK;

/* A statement that is run over and over. On a connection where it has run before the server need not read and plan it
 * again, unless prepared statements turned out not to work there (PgBouncer in transaction mode). */
struct acp_db_statement {
	const char *name; /* unique among the program's statements and their versions */
	const char *sql;
	int count;
	const Oid *types; /* NULL: the server infers them */
};

/* For who wants to know when a statement has run but its commit still waits for the disk. It is called by the same
 * thread, before the statement's function returns, or not at all. */
struct acp_db_early {
	void (*executed)(void *arg);
	void *arg;
};

/* acp_db_exec for such a statement. binary: which parameters are in binary, with their lengths; NULL: all text. */
struct acp_db_binary {
	const int *lengths;
	const int *formats;
};
enum acp_db_status acp_db_exec_again(struct acp_db_conn *conn, const struct acp_db_statement *statement,
				     const char *const *values, const struct acp_db_binary *binary, int timeout_ms,
				     PGresult **result, struct acp_db_error *error) ACP_MUSTCHECK;

/* The same, and early->executed is called where libpq and the connection allow for it. */
enum acp_db_status acp_db_exec_early(struct acp_db_conn *conn, const struct acp_db_statement *statement,
				     const char *const *values, const struct acp_db_binary *binary,
				     const struct acp_db_early *early, PGresult **result,
				     struct acp_db_error *error) ACP_MUSTCHECK;

/* Take, run, give. */
enum acp_db_status acp_db_once(struct acp_db_pool *pool, const char *sql, int count, const char *const *values,
			       int timeout_ms, PGresult **result, struct acp_db_error *error) ACP_MUSTCHECK;

/* The same for a statement that changes nothing: a connection that broke under it is replaced once. */
enum acp_db_status acp_db_read(struct acp_db_pool *pool, const char *sql, int count, const char *const *values,
			       PGresult **result, struct acp_db_error *error) ACP_MUSTCHECK;

/* The same with a statement that is run over and over. */
enum acp_db_status acp_db_read_again(struct acp_db_pool *pool, const struct acp_db_statement *statement,
				     const char *const *values, PGresult **result,
				     struct acp_db_error *error) ACP_MUSTCHECK;

/* A connection outside any pool, for acpctl. NULL with the reason in error. */
struct acp_db_conn *acp_db_connect(const char *url, int connect_timeout_s, int timeout_ms, struct acp_db_error *error);
void acp_db_close(struct acp_db_conn *conn);

/* Runs a script of several statements without parameters and without a deadline (migrations). */
enum acp_db_status acp_db_script(struct acp_db_conn *conn, const char *sql, struct acp_db_error *error) ACP_MUSTCHECK;

/* A bytea parameter: "\\x" and hex. out: 2 * len + 3 bytes. */
void acp_db_bytea(const uint8_t *bytes, size_t len, char *out);

#endif
