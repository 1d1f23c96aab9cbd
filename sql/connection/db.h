/* db.h - connections to PostgreSQL: a bounded pool, a client-side deadline for every statement, reconnecting. Private
 * to sql/. No other header exposes libpq.
 *
 * Server-side time-outs do not fire on a stopped or unreachable server. Therefore each statement is sent without
 * blocking and awaited with poll(). When its deadline passes, the statement is cancelled and the connection is closed.
 * Statements are parameterised, one function call each, and prepared where possible (not behind PgBouncer in
 * transaction mode).
 *
 * After a failed connect the pool is away: for a moment every caller fails at once, and one caller at a time tries
 * again, so a dead server delays no other caller. Background threads (thread.h) may always try, and their failures do
 * not mark the pool as away.
 *
 * A writing statement runs first, and its commit is requested in a separate message. Before that message nothing is
 * done; only after it can an outcome be unknown. A commit is awaited and never cancelled, because PostgreSQL commits a
 * transaction whose wait for a standby is cancelled. A slow commit delays only its own caller: its connection leaves
 * the count of the pool, and another thread takes the place of its thread. While no commit is answered, one caller at a
 * time may begin a new one. */
#ifndef ACP_DB_H
#define ACP_DB_H

#include "attr.h"

#include <libpq-fe.h>

/* Outcome of a statement. Only ACP_DB_UNKNOWN leaves open whether the statement took effect. */
enum acp_db_status {
	ACP_DB_OK,
	ACP_DB_AWAY,    /* not done: no connection, or it broke or timed out before the commit request */
	ACP_DB_UNKNOWN, /* the commit request got no answer: it may be done now or later */
	ACP_DB_REFUSED, /* not done: the server answered with an error; see sqlstate */
};

struct acp_db_error {
	char sqlstate[6]; /* "" if none */
	char rule[64];    /* name of the violated constraint; "" if none */
	bool timed_out;   /* the deadline passed, so a retry would take as long again */
	bool busy;        /* no connection became free in time; this says nothing about the server */
	bool share_used;  /* busy, because the tenant's calls hold as many connections as one tenant may */
	char message[256];
	char detail[256];
	char hint[256];
};

struct acp_db_pool;
struct acp_db_conn;

struct acp_db_limits {
	int connections;       /* maximum, not counting those with a late commit */
	int of_one_tenant;     /* maximum that calls of one tenant hold at a time; the rest stays for others */
	int connect_timeout_s; /* for each host of the connection string */
	int timeout_ms;        /* of a statement, and of the wait for a connection */
	int commit_timeout_ms; /* of a commit, from its request */
};

/* Creates a pool of connections to url. Connects on demand, and never fails because the database is away. NULL: out of
 * memory. Each process needs its own pool: create it after fork(). */
struct acp_db_pool *acp_db_pool_new(const char *url, const struct acp_db_limits *limits);
void acp_db_pool_free(struct acp_db_pool *pool); /* all connections must have been released */

/* Makes all waits for an answer end within half a second. For the exit of a process, after its calls have ended. */
void acp_db_pool_stop(struct acp_db_pool *pool);

/* Purpose of a connection. At most limits.connections are acquired for writing at a time, including late commits, so
 * that late commits leave connections for the others. The writer (writer.h) has its own limit. */
enum acp_db_purpose { ACP_DB_TO_READ, ACP_DB_TO_WRITE, ACP_DB_TO_STORE, ACP_DB_PURPOSES };

/* Takes a live idle connection, or connects. Waits at most the time-out of the pool. tenant: whose share of the
 * connections this one counts to; NULL: nobody's, for short statements of the program itself. NULL with a reason in
 * error. This includes the case that the purpose is not reading, a commit got no answer within the statement time-out,
 * and another caller is testing the server. */
struct acp_db_conn *acp_db_acquire(struct acp_db_pool *pool, enum acp_db_purpose purpose, const char *tenant,
				   struct acp_db_error *error);

/* True if the server did not answer the last attempt. */
bool acp_db_away(struct acp_db_pool *pool);

/* Marks the server as away. For a statement that waits for nothing and still got no answer in time. */
void acp_db_unresponsive(struct acp_db_pool *pool);

/* Returns a connection to the pool. Closes it if it is lost or in a transaction. */
void acp_db_release(struct acp_db_pool *pool, struct acp_db_conn *conn);

/* Runs one statement that changes nothing or is part of a transaction, with text parameters (NULL = null). *result is
 * set only on ACP_DB_OK; release it with PQclear. result may be NULL for statements whose rows do not matter.
 * timeout_ms 0: the time-out of the pool. */
enum acp_db_status acp_db_exec(struct acp_db_conn *conn, const char *sql, int count, const char *const *values,
			       int timeout_ms, PGresult **result, struct acp_db_error *error) ACP_MUSTCHECK;

/* A repeated statement. After its first run on a connection the server need not parse and plan it again, unless
 * prepared statements do not work there (PgBouncer in transaction mode). */
struct acp_db_statement {
	const char *name; /* unique among all statements of the program and their versions */
	const char *sql;
	int count;
	const Oid *types; /* NULL: the server infers them */
};

/* Commits the transaction of the connection. While the connection lives, waits for the answer up to
 * limits.commit_timeout_ms. */
enum acp_db_status acp_db_commit(struct acp_db_conn *conn, struct acp_db_error *error) ACP_MUSTCHECK;

bool acp_db_in_transaction(const struct acp_db_conn *conn);

/* Progress callbacks of a self-committing statement. Each is called at most once, by the thread of the statement,
 * before its function returns. */
struct acp_db_early {
	void (*executed)(void *arg); /* the statement has run; its commit may still wait for the disk */
	bool (*late)(void *arg);     /* no answer within the statement time-out. Return false to stop waiting */
	void *arg;
};

/* acp_db_exec for a repeated statement. binary marks binary parameters and gives their lengths; NULL: all are text. */
struct acp_db_binary {
	const int *lengths;
	const int *formats;
};
enum acp_db_status acp_db_exec_again(struct acp_db_conn *conn, const struct acp_db_statement *statement,
				     const char *const *values, const struct acp_db_binary *binary, int timeout_ms,
				     PGresult **result, struct acp_db_error *error) ACP_MUSTCHECK;

/* acp_db_exec_again for a self-committing statement. Waits for its commit like acp_db_commit. early->executed is called
 * only if libpq supports it. */
enum acp_db_status acp_db_exec_early(struct acp_db_conn *conn, const struct acp_db_statement *statement,
				     const char *const *values, const struct acp_db_binary *binary,
				     const struct acp_db_early *early, PGresult **result,
				     struct acp_db_error *error) ACP_MUSTCHECK;

/* Runs one statement in its own transaction on this connection, and commits it. timeout_ms applies to the statement. */
enum acp_db_status acp_db_transact(struct acp_db_conn *conn, const char *sql, int count, const char *const *values,
				   int timeout_ms, PGresult **result, struct acp_db_error *error) ACP_MUSTCHECK;

/* The same on any connection of the pool. A connection that breaks before the commit request is replaced once. tenant:
 * see acp_db_acquire. */
enum acp_db_status acp_db_write(struct acp_db_pool *pool, const char *tenant, const char *sql, int count,
				const char *const *values, int timeout_ms, PGresult **result,
				struct acp_db_error *error) ACP_MUSTCHECK;

/* The same for a caller that does not need the outcome: it waits no longer than timeout_ms for the commit either. */
enum acp_db_status acp_db_attempt(struct acp_db_pool *pool, enum acp_db_purpose purpose, const char *tenant,
				  const char *sql, int count, const char *const *values, int timeout_ms,
				  PGresult **result, struct acp_db_error *error) ACP_MUSTCHECK;

/* Runs one statement that changes nothing, in a read-only transaction. A connection that breaks meanwhile is replaced
 * once, so the statement may run twice. A statement that writes is refused. tenant: see acp_db_acquire. */
enum acp_db_status acp_db_read(struct acp_db_pool *pool, const char *tenant, const char *sql, int count,
			       const char *const *values, int timeout_ms, PGresult **result,
			       struct acp_db_error *error) ACP_MUSTCHECK;

/* The same with a repeated statement, without a transaction around it, because it runs with every call: its SQL must
 * keep itself from writing. sql/tests/00_rules.sql checks that. tenant: see acp_db_acquire. */
enum acp_db_status acp_db_read_again(struct acp_db_pool *pool, const char *tenant,
				     const struct acp_db_statement *statement, const char *const *values,
				     PGresult **result, struct acp_db_error *error) ACP_MUSTCHECK;

/* Opens a connection outside any pool, for acpctl. NULL with the reason in error. */
struct acp_db_conn *acp_db_connect(const char *url, const struct acp_db_limits *limits, struct acp_db_error *error);
void acp_db_close(struct acp_db_conn *conn);

/* Runs a script of several statements, without parameters and without a deadline (migrations). */
enum acp_db_status acp_db_script(struct acp_db_conn *conn, const char *sql, struct acp_db_error *error) ACP_MUSTCHECK;

/* Formats a bytea parameter: "\\x" and hex. out: 2 * len + 3 bytes. */
void acp_db_bytea(const uint8_t *bytes, size_t len, char *out);

#endif
