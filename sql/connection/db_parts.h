/* db_parts.h - a connection and a pool from inside, and the functions that connection.c, prepared.c and pool.c share.
 * Private to these files; db.h is for everybody else. */
#ifndef ACP_DB_PARTS_H
#define ACP_DB_PARTS_H

#include "db.h"

#include <pthread.h>
#include <stdatomic.h>

enum { PREPARED_MAX = 32, SLOW_MS = 100 };

struct acp_db_conn {
	PGconn *pg;
	struct acp_db_pool *pool; /* NULL: not in a pool */
	int timeout_ms, commit_timeout_ms;
	bool lost;
	bool writes;                        /* taken for writing */
	bool tries;                         /* its caller tests whether commits are answered again */
	bool uncounted;                     /* its commit is late, so the pool no longer counts it */
	bool ran;                           /* the results of a self-committing statement are complete */
	bool warned;                        /* the server sent a warning after the commit request */
	unsigned spell;                     /* value of pool->spells when it was made */
	unsigned server;                    /* value of pool->server for its server */
	const char *prepared[PREPARED_MAX]; /* names of prepared statements; NULL after the last */
	struct acp_db_conn *next;           /* next in the idle list of the pool */
};

struct acp_db_pool {
	char *url;
	struct acp_db_limits limits;
	pthread_mutex_t lock;
	pthread_cond_t released[ACP_DB_PURPOSES];
	struct acp_db_conn *idle; /* last in, first out: the others may age and be replaced */
	int count;                /* connections that exist or are being made, without those with a late commit */
	int writing;              /* connections taken for writing, including late ones */
	char host[256];           /* the server of the newest connection, of several in database_url */
	unsigned server;          /* counts changes of host */
	atomic_bool stopping;     /* stop waiting for answers */
	atomic_bool unprepared;   /* prepared statements do not work through this pooler */
	/* Monotonic times until which connecting, or committing, is not tried; 0: the server answers. One caller moves
	 * the time forward and tries. */
	atomic_uint_fast64_t away_until, late_until;
	atomic_uint spells;              /* number of late commits; writers use no connection made earlier */
	atomic_uint_fast64_t late_since; /* time of the first late commit since commits were last answered */
	atomic_uint_fast64_t stored_at;  /* time of the last answered commit that certainly wrote data */
};

/* One connection (connection.c) ------------------------------------------------------------------------------------ */

/* An error of our own: the first line of message. */
void acp_db_set_error(struct acp_db_error *error, const char *message);

/* Does the SQLSTATE say that the session, or the server, is not there any more? */
bool acp_db_means_lost(const char *sqlstate);

/* When a statement that is sent now is given up (monotonic, microseconds). timeout_ms 0: the connection's. */
uint64_t acp_db_deadline(const struct acp_db_conn *conn, int timeout_ms);

/* Sends the rest of what libpq holds; waits for one of the events POLLIN, POLLOUT. False: the deadline passed, or the
 * connection broke. */
bool acp_db_flush(struct acp_db_conn *conn, uint64_t deadline);
bool acp_db_wait_socket(const struct acp_db_conn *conn, short events, uint64_t deadline);

/* Reads results up to the end of the statement; keeps the first error, else the last result, in *last (owned by the
 * caller, also where it returns false). False: the deadline passed, or the connection broke. */
typedef bool acp_db_collector(struct acp_db_conn *conn, uint64_t deadline, PGresult **last);
acp_db_collector acp_db_collect;

/* Waits for the end of a statement (sent false: sending failed) and takes its last result. */
enum acp_db_status acp_db_finish(struct acp_db_conn *conn, bool sent, uint64_t deadline, PGresult **result,
				 struct acp_db_error *error);

/* Asks the server to stop the statement; waits for nothing. */
void acp_db_cancel(struct acp_db_conn *conn);

/* Ends what this connection has not committed: it is lost, and its end rolls it back. */
enum acp_db_status acp_db_give_up(struct acp_db_conn *conn, bool timed_out, struct acp_db_error *error);

/* Commits. early may be NULL. wrote: something was written for sure. */
enum acp_db_status acp_db_commit_early(struct acp_db_conn *conn, bool wrote, const struct acp_db_early *early,
				       struct acp_db_error *error);

/* Waits for the answer to a commit that was asked for at that moment, with collect. False: none came in time. */
bool acp_db_await_commit(struct acp_db_conn *conn, acp_db_collector *collect, uint64_t asked,
			 const struct acp_db_early *early, PGresult **last);

/* The status of a commit without an answer, and of one with the answer last, which becomes *result or is released. */
enum acp_db_status acp_db_in_doubt(struct acp_db_conn *conn, uint64_t asked, struct acp_db_error *error);
enum acp_db_status acp_db_classify_commit(struct acp_db_conn *conn, bool wrote, PGresult *last, PGresult **result,
					  struct acp_db_error *error);

/* The pool (pool.c). pool NULL, or a connection outside any: nothing happens --------------------------------------- */

/* The server did not answer; it did. */
void acp_db_note_away(struct acp_db_pool *pool);
void acp_db_note_answer(struct acp_db_pool *pool);

/* A commit asked for at that moment is late; one was answered. */
void acp_db_note_late(struct acp_db_pool *pool, uint64_t asked);
void acp_db_note_commit(struct acp_db_conn *conn, bool wrote);

/* Takes a connection whose commit is late out of the pool's count: it holds up its own caller only. */
void acp_db_leave_pool(struct acp_db_conn *conn);

#endif
