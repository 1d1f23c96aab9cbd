/* writer.h - ends calls in batches: what many threads have to store goes to PostgreSQL as one statement, one commit.
 *
 * Threads of the writer's own send the statements, each the whole queue at once: what comes in while one runs shares
 * the next, which is sent once the first has run, while its commit still waits for the disk. Where statements hold
 * several calls, each waits for more as long as the one before took, 2 ms at most; a call that comes alone goes at
 * once. A call waits for its row, or is told of it later, which costs no thread. Private to sql/. */
#ifndef ACP_WRITER_H
#define ACP_WRITER_H

#include "db.h"
#include "key_cache.h"

struct acp_writer;

struct acp_writer_options {
	int writers;            /* statements that run at a time; as many more may wait for the disk */
	bool own_chains;        /* link rows here, to chains of this process's own: where there are many */
	bool hurried;           /* a call whose storing is late is told so: its row can be kept elsewhere meanwhile */
	const char *free_limit; /* calls a month; NULL: the allowance is not enforced */
	const char *warn_at_percent;
};

/* What the answers say of changes and of the clock goes to cache. The options' texts are borrowed. NULL: out of
 * memory. */
struct acp_writer *acp_writer_new(struct acp_db_pool *pool, struct acp_key_cache *cache,
				  const struct acp_writer_options *options);
void acp_writer_free(struct acp_writer *writer); /* no call may be under way */

/* Do calls come together here? (The last statement had several.) */
bool acp_writer_busy(const struct acp_writer *writer);

/* How the storing ended. ACP_DB_UNKNOWN: the row may be stored, or be so later; storing it again by its event_id
 * does no harm. */
struct acp_writer_result {
	enum acp_db_status status;
	int64_t used; /* free calls used, this one included; -1: none was used */
	bool refused; /* the allowance was used up and nothing was stored */
	const struct acp_db_error *error;
};

/* The end of a call that holds nothing but, maybe, a place in the allowance: acp.settle_rows() in SQL. Waits for it.
 * result->error is error. */
void acp_writer_store(struct acp_writer *writer, const struct acp_event *event, bool held,
		      struct acp_writer_result *result, struct acp_db_error *error);

/* The same without waiting: stored is called with arg, once, by one of the writer's threads. Where all is well it is a
 * thread that others wait for: stored must not block then. The event lives until then. False: this writer has no
 * threads, or out of memory. */
typedef void acp_writer_stored(void *arg, const struct acp_writer_result *result);
bool acp_writer_store_later(struct acp_writer *writer, const struct acp_event *event, bool held,
			    acp_writer_stored *stored, void *arg) ACP_MUSTCHECK;

#endif
