/* db.h - connections to PostgreSQL: a bounded pool, a deadline on the client's side for every statement, reconnecting.
 * Private to sql/; the only header that shows libpq.
 *
 * Server-side time-outs cannot fire in a server that is stopped or unreachable, so each statement is sent without
 * blocking and waited for with poll(); past its deadline the connection is cancelled and thrown away. Statements are
 * parameterised, one function call each; they are prepared where that works (not behind PgBouncer in transaction mode).
 *
 * After a connection could not be made the pool is away: for a moment everybody is told so at once, and one caller at a
 * time tries again, so that a dead server costs the others no wait. Threads in the background (thread.h) try when
 * they like, and tell nobody.
 *
 * What writes asks for its commit in a message of its own, once the statement has run: so it is known that nothing was
 * done before that message, and only after it an outcome can be unknown. A commit is waited for, never cancelled
 * (PostgreSQL commits a transaction whose wait for a standby is cancelled), and meanwhile holds up its own caller only:
 * its connection leaves the pool's count, another thread takes its thread's place, and where no commit is answered, new
 * ones are not begun, but for one caller at a time. */
#ifndef ACP_DB_H
#define ACP_DB_H

#include "attr.h"

#include <libpq-fe.h>

/* What became of a statement. Only ACP_DB_UNKNOWN leaves open whether it took effect. */
enum acp_db_status {
	ACP_DB_OK,
	ACP_DB_AWAY,    /* not done: no connection, or it broke or the deadline passed before a commit was asked for */
	ACP_DB_UNKNOWN, /* a commit was asked for and its answer did not come: it may be done, or be done later */
	ACP_DB_REFUSED, /* not done: the server answered with an error; see sqlstate */
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

struct acp_db_limits {
	int connections;       /* at most, beside those whose commit is late */
	int connect_timeout_s; /* for each host of the connection string */
	int timeout_ms;        /* of a statement, and of the wait for a connection */
	int commit_timeout_ms; /* of a commit, from when it was asked for */
};

/* A pool of connections to url. Connects on demand; never fails for a database that is away. NULL: out of memory.
 * One process each: make it after fork(). */
struct acp_db_pool *acp_db_pool_new(const char *url, const struct acp_db_limits *limits);
void acp_db_pool_free(struct acp_db_pool *pool); /* no connection may be taken */

/* Whoever waits for an answer gives up within half a second: for the end of a process, whose calls have ended. */
void acp_db_pool_stop(struct acp_db_pool *pool);

/* What a connection is taken for. Of those who write, at most limits.connections do so at a time, late commits
 * included, so that late commits leave connections for everybody else; the writer (writer.h) bounds itself. */
enum acp_db_purpose { ACP_DB_TO_READ, ACP_DB_TO_WRITE, ACP_DB_TO_STORE, ACP_DB_PURPOSES };

/* Acquires a free connection that has not died while idle, connecting when needed; waits at most the pool's time-out.
 * NULL with a reason in error: also where it is not to read, a commit was not answered within a statement's
 * time-out, and it is not for this caller to try another one. */
struct acp_db_conn *acp_db_acquire(struct acp_db_pool *pool, enum acp_db_purpose purpose, struct acp_db_error *error);

/* The server did not answer when it was last tried. */
bool acp_db_away(struct acp_db_pool *pool);

/* Notes that the server is unresponsive: a statement that waits for nothing had no answer in time. */
void acp_db_unresponsive(struct acp_db_pool *pool);

/* Releases it; a connection that is lost or stands in a transaction is closed. */
void acp_db_release(struct acp_db_pool *pool, struct acp_db_conn *conn);

/* Runs one statement, that changes nothing or stands in a transaction, with text parameters (NULL = null). *result
 * is set on ACP_DB_OK only and may be NULL for statements whose rows do not matter; release it with PQclear.
 * timeout_ms 0: the pool's. */
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

/* Ends the connection's transaction. Its answer is waited for as long as limits.commit_timeout_ms allows and the
 * connection lives. */
enum acp_db_status acp_db_commit(struct acp_db_conn *conn, struct acp_db_error *error) ACP_MUSTCHECK;

bool acp_db_in_transaction(const struct acp_db_conn *conn);

/* Where a statement that commits by itself has got to. Each is called at most once, by the same thread, before the
 * statement's function returns. */
struct acp_db_early {
	void (*executed)(void *arg); /* it has run; its commit may still wait for the disk */
	bool (*late)(void *arg); /* the statement's time-out passed without an answer. False: nobody waits any more */
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

/* The same for one that commits by itself; waits for it as acp_db_commit does. early->executed is called where libpq
 * allows for it. */
enum acp_db_status acp_db_exec_early(struct acp_db_conn *conn, const struct acp_db_statement *statement,
				     const char *const *values, const struct acp_db_binary *binary,
				     const struct acp_db_early *early, PGresult **result,
				     struct acp_db_error *error) ACP_MUSTCHECK;

/* Runs one statement in a transaction of its own on this connection, and commits it. timeout_ms: of the statement. */
enum acp_db_status acp_db_transact(struct acp_db_conn *conn, const char *sql, int count, const char *const *values,
				   int timeout_ms, PGresult **result, struct acp_db_error *error) ACP_MUSTCHECK;

/* The same on any connection. One that broke before the commit was asked for is replaced once. */
enum acp_db_status acp_db_write(struct acp_db_pool *pool, const char *sql, int count, const char *const *values,
				int timeout_ms, PGresult **result, struct acp_db_error *error) ACP_MUSTCHECK;

/* The same for who can do without its outcome: the commit, too, is waited for no longer than timeout_ms. */
enum acp_db_status acp_db_attempt(struct acp_db_pool *pool, enum acp_db_purpose purpose, const char *sql, int count,
				  const char *const *values, int timeout_ms, PGresult **result,
				  struct acp_db_error *error) ACP_MUSTCHECK;

/* Runs one statement that changes nothing. A connection that broke under it is replaced once. */
enum acp_db_status acp_db_read(struct acp_db_pool *pool, const char *sql, int count, const char *const *values,
			       int timeout_ms, PGresult **result, struct acp_db_error *error) ACP_MUSTCHECK;

/* The same with a statement that is run over and over. */
enum acp_db_status acp_db_read_again(struct acp_db_pool *pool, const struct acp_db_statement *statement,
				     const char *const *values, PGresult **result,
				     struct acp_db_error *error) ACP_MUSTCHECK;

/* A connection outside any pool, for acpctl. NULL with the reason in error. */
struct acp_db_conn *acp_db_connect(const char *url, const struct acp_db_limits *limits, struct acp_db_error *error);
void acp_db_close(struct acp_db_conn *conn);

/* Runs a script of several statements without parameters and without a deadline (migrations). */
enum acp_db_status acp_db_script(struct acp_db_conn *conn, const char *sql, struct acp_db_error *error) ACP_MUSTCHECK;

/* A bytea parameter: "\\x" and hex. out: 2 * len + 3 bytes. */
void acp_db_bytea(const uint8_t *bytes, size_t len, char *out);

#endif
