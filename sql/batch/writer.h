/* writer.h - stores the audit rows of many concurrent calls with one statement and one commit.
 *
 * The writer has threads that send the statements. A statement takes the whole queue; calls that arrive while it runs
 * share the next one. The next one is sent once the first has run, while the commit of the first still waits for the
 * disk. If statements hold several calls, each waits for more of them, for as long as the last one took, but 2 ms at
 * most. A call that comes alone is sent at once. A call waits for its row, or gets a callback, which needs no thread.
 * Private to sql/. */
#ifndef ACP_WRITER_H
#define ACP_WRITER_H

#include "db.h"
#include "key_cache.h"

struct acp_writer;

struct acp_writer_options {
	int writers;            /* number of statements that run at a time; as many more may wait for the disk */
	bool own_chains;        /* link rows here, to chains that this process owns; for processes with many calls */
	bool hurried;           /* end a call when its row is late: the row can be kept elsewhere */
	const char *free_limit; /* free calls a month; NULL: the allowance is not enforced */
	const char *warn_at_percent;
};

/* Creates a writer. cache receives the change feed and the clock of the answers. The texts of options are borrowed.
 * NULL: out of memory. */
struct acp_writer *acp_writer_new(struct acp_db_pool *pool, struct acp_key_cache *cache,
				  const struct acp_writer_options *options);
void acp_writer_free(struct acp_writer *writer); /* no call may be in progress */

/* True if calls arrive close together: the last statement had several. */
bool acp_writer_busy(const struct acp_writer *writer);

/* The outcome. ACP_DB_UNKNOWN: the row may be stored now or later; storing it again under its event_id is harmless. */
struct acp_writer_result {
	enum acp_db_status status;
	int64_t used;        /* free calls used, including this one; -1: none was used */
	int64_t others_held; /* free calls that other running calls held at that moment; only known near the limit */
	bool refused;        /* the allowance was used up and nothing was stored */
	const struct acp_db_error *error;
};

/* Reads the number at an index of the setting acp.usage_held of a transaction: "{0,3}", or "" (then 0). */
int64_t acp_writer_held(const char *list, size_t index);

/* Ends a call: stores its row and settles its reservation in the allowance (held: it has one), with acp.settle_rows()
 * in SQL. Waits for the result. result->error is error. */
void acp_writer_store(struct acp_writer *writer, const struct acp_event *event, bool held,
		      struct acp_writer_result *result, struct acp_db_error *error);

/* The same without waiting: one of the writer's threads calls stored, once, with arg. If all is well, other calls wait
 * for that thread, so stored must not block then. The event must live until then. False: this writer has no threads, or
 * out of memory. */
typedef void acp_writer_stored(void *arg, const struct acp_writer_result *result);
bool acp_writer_store_later(struct acp_writer *writer, const struct acp_event *event, bool held,
			    acp_writer_stored *stored, void *arg) ACP_MUSTCHECK;

#endif
