/* db_parts.h - the internals of connections and pools, and the functions that the files of this
 * folder share: pool.c uses prepared.c and connection.c, which use the rest. All others use db.h. */
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
	struct acp_db_holder *holder;       /* the tenant to whose share it counts; NULL: nobody's */
	const char *prepared[PREPARED_MAX]; /* names of prepared statements; unused entries are NULL */
	struct acp_db_conn *next;           /* next in the idle list of the pool */
};

/* How many connections the calls of a tenant hold. Unused if that is 0. */
struct acp_db_holder {
	char tenant[40];
	int held;
};

struct acp_db_pool {
	char *url;
	struct acp_db_limits limits;
	pthread_mutex_t lock;
	pthread_cond_t released[ACP_DB_PURPOSES];
	struct acp_db_conn *idle; /* last in, first out: the others may age and be replaced */
	int count;                /* connections that exist or are being opened, without those with a late commit */
	int writing;              /* connections taken for writing, including late ones */
	struct acp_db_holder *holders; /* limits.connections entries */
	char host[256];                /* server of the newest connection, if database_url names several */
	unsigned server;               /* counts changes of host */
	atomic_bool stopping;          /* stop waiting for answers */
	atomic_bool unprepared;        /* prepared statements do not work through this pooler */
	/* Monotonic times until which connecting, or committing, is not tried; 0: the server answers. When one passes,
	 * one caller moves it forward and tries. */
	atomic_uint_fast64_t away_until, late_until;
	atomic_uint spells;              /* number of late commits; writers avoid connections opened before the last */
	atomic_uint_fast64_t late_since; /* time of the first late commit since commits were last answered */
	atomic_uint_fast64_t stored_at;  /* time of the last answered commit that certainly wrote data */
};

/* Errors (error.c) ------------------------------------------------------------------------------------------------- */

/* Sets an error that does not come from the server: the first line of message. */
void acp_db_set_error(struct acp_db_error *error, const char *message);

/* Sets the error that the server answered with. */
void acp_db_read_error(struct acp_db_error *error, const PGresult *result);

/* True if the SQLSTATE means that the session or the server is gone. */
bool acp_db_means_lost(const char *sqlstate);

/* One connection (connection.c) ------------------------------------------------------------------------------------ */

/* Returns the deadline of a statement that is sent now (monotonic, microseconds). timeout_ms 0: the time-out of the
 * connection. */
uint64_t acp_db_deadline(const struct acp_db_conn *conn, int timeout_ms);

/* Sends what libpq still buffers. wait_socket waits for one of the events POLLIN, POLLOUT. False: the deadline
 * (monotonic, microseconds) passed, or the connection broke. */
bool acp_db_flush(struct acp_db_conn *conn, uint64_t deadline);
bool acp_db_wait_socket(const struct acp_db_conn *conn, short events, uint64_t deadline);

/* Reads results up to the end of the statement. *last is the first error, otherwise the last result; the caller owns
 * it, even on failure. False: the deadline passed, or the connection broke. */
typedef bool acp_db_collector(struct acp_db_conn *conn, uint64_t deadline, PGresult **last);
acp_db_collector acp_db_collect;

/* Waits for the end of a statement and takes its last result. sent: whether it could be sent. */
enum acp_db_status acp_db_finish(struct acp_db_conn *conn, bool sent, uint64_t deadline, PGresult **result,
				 struct acp_db_error *error);

/* Asks the server to stop a statement that no caller waits for. Does not wait itself. */
void acp_db_cancel(struct acp_db_conn *conn);

/* Abandons a connection before its commit request: closing it rolls the transaction back. */
enum acp_db_status acp_db_give_up(struct acp_db_conn *conn, bool timed_out, struct acp_db_error *error);

/* Commits. early may be NULL. wrote: the transaction certainly wrote data. */
enum acp_db_status acp_db_commit_early(struct acp_db_conn *conn, bool wrote, const struct acp_db_early *early,
				       struct acp_db_error *error);

/* Waits for the answer to a commit that was requested at the time asked; collect reads it. False: no answer came in
 * time. */
bool acp_db_await_commit(struct acp_db_conn *conn, acp_db_collector *collect, uint64_t asked,
			 const struct acp_db_early *early, PGresult **last);

/* Returns the status of a commit: in_doubt for one without an answer, classify_commit for one with the answer last,
 * which is passed to the caller in *result or released. */
enum acp_db_status acp_db_in_doubt(struct acp_db_conn *conn, uint64_t asked, struct acp_db_error *error);
enum acp_db_status acp_db_classify_commit(struct acp_db_conn *conn, bool wrote, PGresult *last, PGresult **result,
					  struct acp_db_error *error);

/* Whether the server answers (availability.c) ---------------------------------------------------------------------- */

/* Notes that the server did not answer, or that it did. With pool NULL, or a connection outside any pool, the note_
 * functions do nothing. */
void acp_db_note_away(struct acp_db_pool *pool);
void acp_db_note_answer(struct acp_db_pool *pool);

/* Notes that a commit requested at the time asked is late. If other commits have been answered since, only this
 * connection is bad. Otherwise new commits pause. The pause grows, because each commit may stay in the server for as
 * long as the disk or standby is slow. The next try uses a new connection.
 *
 * note_commit notes that a commit was answered. If the transaction may have written nothing, the answer says little
 * about the disk. */
void acp_db_note_late(struct acp_db_pool *pool, uint64_t asked);
void acp_db_note_commit(struct acp_db_conn *conn, bool wrote);

/* True if the server was away a moment ago and another caller is trying to connect. */
bool acp_db_still_away(struct acp_db_pool *pool);

/* Returns true, with a reason in error, if a commit was late and another caller is testing the server. *tries is set to
 * true if this caller tests it. */
bool acp_db_commits_late(struct acp_db_pool *pool, bool *tries, struct acp_db_error *error);

/* The slots of a pool (slots.c) ------------------------------------------------------------------------------------ */

/* Waits until a connection is idle or may be opened, and the share of the tenant (NULL: nobody's) has room. The caller
 * holds the lock. False: no slot in time. */
bool acp_db_wait_for_slot(struct acp_db_pool *pool, enum acp_db_purpose purpose, const char *tenant);

/* Counts a connection to the share of a tenant, which has room. Returns NULL for tenant NULL. The caller holds the
 * lock. */
struct acp_db_holder *acp_db_hold(struct acp_db_pool *pool, const char *tenant);

/* True if the tenant holds its whole share. The caller holds the lock. */
bool acp_db_share_used(const struct acp_db_pool *pool, const char *tenant);

/* Signals that a connection is free, or (counted) that a connection is closed and another one may be opened. writes: it
 * was taken for writing. holder: whose share it counted to, or NULL. */
void acp_db_release_slot(struct acp_db_pool *pool, bool counted, bool writes, struct acp_db_holder *holder);

/* Removes a connection with a late commit from the pool's count: it delays only its own caller, and the pool may open
 * another connection for the others. */
void acp_db_leave_pool(struct acp_db_conn *conn);

#endif
