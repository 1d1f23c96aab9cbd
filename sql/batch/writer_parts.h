/* writer_parts.h - the internals of a writer, and the functions that writer.c and statements.c share. Private to these
 * files; all others use writer.h. */
#ifndef ACP_WRITER_PARTS_H
#define ACP_WRITER_PARTS_H

#include "links.h"
#include "queue.h"
#include "writer.h"

#include <stdatomic.h>

enum {
	BATCH_MAX = 256,
	CHAINS = 32,        /* twice the maximum number of writers: see WRITER_THREADS */
	RETRY_THREADS = 64, /* at most; each is started on demand */
};

/* A chain that this process owns: rows are linked to its end here, which is cheaper than in SQL. */
struct chain {
	bool busy;  /* a statement in progress adds to it */
	bool known; /* end is its end as far as this process knows; the database decides */
	char owner[ACP_UUID_LEN];
	uint32_t row_type; /* OID of acp.audit_logs in the database */
	struct acp_link end;
};

struct acp_writer {
	struct acp_db_pool *pool;
	struct acp_key_cache *cache;
	struct acp_writer_options options;
	pthread_mutex_t lock; /* protects calls, retries, stop, busy chains and threads */
	struct queue calls;   /* calls to be stored */
	struct queue retries; /* refused or lost calls: the rest of their work may take long */
	bool stop;
	struct chain chains[CHAINS];
	int near_limit;       /* see NEAR_LIMIT_BATCHES */
	atomic_size_t recent; /* number of calls in the statement sent last */
	atomic_ulong took_us; /* duration of the statement that ended last */
	pthread_t threads[CHAINS + RETRY_THREADS];
	int started;
	bool threaded;
};

/* The calls of one statement. */
struct batch {
	size_t count;
	struct chain *chain; /* NULL: SQL finds one */
	struct waiter *waiters[BATCH_MAX];
	const struct acp_event *events[BATCH_MAX];
	bool held[BATCH_MAX];
	struct acp_writer *writer;
	bool shared;  /* belongs to a thread of the writer, which may end its calls early; count is then 0 */
	bool running; /* its statement is running and counts against calls.room */
};

/* Threads (writer.c) ----------------------------------------------------------------------------------------------- */

/* Progress of the statement of a batch: callbacks of struct acp_db_early. */
void acp_batch_executed(void *batch);
bool acp_batch_late(void *batch);

/* Statements (statements.c) ---------------------------------------------------------------------------------------- */

/* Stores the batch and notes the outcome in each waiter. */
void acp_batch_run(struct acp_writer *writer, struct batch *batch);

/* Stores a single call, which may already be stored. */
void acp_waiter_run(struct acp_writer *writer, struct waiter *waiter);

/* Notes an outcome in each waiter of the batch. error: only used if status is not ACP_DB_OK. */
void acp_batch_note(struct batch *batch, enum acp_db_status status, const struct acp_db_error *error);

#endif
