#include "writer.h"

#include "clock.h"
#include "columns.h"
#include "links.h"
#include "thread.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

enum {
	BATCH_MAX = 256,
	PARAMS = ACP_COLUMNS + 6,
	CHAINS = 32,          /* as many as there may be writers, twice: see WRITER_THREADS */
	WRITER_THREADS = 2,   /* for each statement that may run; while one waits for the disk the other runs */
	TROUBLE_THREADS = 64, /* at most; each is made when it is needed */
	STACK = 512 * 1024,
	NEAR_LIMIT_BATCHES =
		16,       /* so many with free calls are not tried linked, after one with a tenant near its limit */
	ENOUGH = 16,      /* calls with which a statement never waits for more */
	GATHER_US = 2000, /* the longest that it waits */
	SLOW_MS = 100,    /* a call that waits so long counts as blocked */
};

/* A call that waits: on its thread's stack, or on the heap where somebody is told later. */
struct waiter {
	const struct acp_event *event;
	bool held;
	struct waiter *next;
	sem_t wake;
	acp_writer_stored *stored; /* NULL: its thread waits for wake */
	void *arg;
	bool alone; /* the server refused the batch: each of its calls now comes alone */
	int64_t used;
	bool refused;
	enum acp_db_status status;
	struct acp_db_error error;
};

struct queue {
	struct waiter *first, **last;
	pthread_cond_t filled;
	pthread_cond_t enough; /* length has reached wanted */
	int length, wanted;
	int room; /* how many more threads may take from it now */
	int idle; /* threads that wait for it to be filled, or for room */
};

/* A chain of this process's own: rows are linked to its end here, which is cheaper than in SQL. */
struct chain {
	bool busy;  /* a statement under way adds to it */
	bool known; /* end is where it ends, as far as we know; the database has the last word */
	char owner[ACP_UUID_LEN];
	uint32_t row_type; /* OID of acp.audit_logs there */
	struct acp_link end;
};

struct acp_writer {
	struct acp_db_pool *pool;
	struct acp_key_cache *cache;
	struct acp_writer_options options;
	pthread_mutex_t lock;  /* of calls, troubled, stop, busy chains and threads */
	struct queue calls;    /* to be stored */
	struct queue troubled; /* whose storing was refused or lost: what is left to do may take long */
	bool stop;
	struct chain chains[CHAINS];
	int near_limit;       /* see NEAR_LIMIT_BATCHES */
	atomic_size_t recent; /* calls of the statement that was sent last */
	atomic_ulong took_us; /* the one that ended last */
	pthread_t threads[CHAINS + TROUBLE_THREADS];
	int started;
	bool threaded;
};

bool acp_writer_busy(const struct acp_writer *writer)
{
	return atomic_load_explicit(&writer->recent, memory_order_relaxed) > 1;
}

/* One statement ------------------------------------------------------------------------------------------------ */

struct batch {
	size_t count;
	struct chain *chain; /* NULL: SQL finds one */
	struct waiter *waiters[BATCH_MAX];
	const struct acp_event *events[BATCH_MAX];
	bool held[BATCH_MAX];
	struct acp_writer *writer;
	bool shared;  /* of a thread of the writer's own; its calls may be told, and then there are none left */
	bool running; /* its statement: it keeps the next one from running */
};

static const struct acp_db_statement statement = {
	.name = "acp_settle_1",
	.sql = "SELECT used, version, coalesce(changed::text, ''), (extract(epoch FROM at) * 1000000)::bigint"
	       " FROM acp.settle_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,"
	       " $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31)",
	.count = PARAMS,
};

/* The batch's statement has run, or is not to be: the next one may. */
static void has_run(void *arg)
{
	struct batch *batch = arg;
	if (!batch->running)
		return;
	struct queue *calls = &batch->writer->calls;
	pthread_mutex_lock(&batch->writer->lock);
	batch->running = false;
	calls->room++;
	if (calls->first && calls->idle)
		pthread_cond_signal(&calls->filled);
	pthread_mutex_unlock(&batch->writer->lock);
}

static void note(struct batch *batch, enum acp_db_status status, const struct acp_db_error *error);
static void end_batch(struct acp_writer *writer, struct batch *batch);
static bool start_thread(struct acp_writer *writer, void *(*run)(void *writer));
static void *write_batches(void *arg);

static void start_another(struct acp_writer *writer)
{
	pthread_mutex_lock(&writer->lock);
	if (!writer->calls.idle)
		start_thread(writer, write_batches);
	pthread_mutex_unlock(&writer->lock);
}

/* The answer to the batch's statement is late. Calls whose rows can be kept elsewhere are told so. This thread waits
 * on, because the chain is in use until the answer comes, and another thread takes its place. */
static bool is_late(void *arg)
{
	struct batch *batch = arg;
	struct acp_writer *writer = batch->writer;
	const struct acp_db_error error = {.timed_out = true,
					   .message = "no answer from PostgreSQL within the time limit"};
	if (!batch->shared)
		return !writer->options.hurried;
	has_run(batch);
	start_another(writer);
	if (writer->options.hurried) {
		note(batch, ACP_DB_UNKNOWN, &error);
		end_batch(writer, batch);
		batch->count = 0;
	}
	return true;
}

/* What the answer says of each call: "{-1,57,NULL}". */
static void read_used(const char *list, struct batch *batch)
{
	for (size_t i = 0; i < batch->count; i++) {
		char *end;
		list += *list != '\0'; /* the brace or comma */
		struct waiter *waiter = batch->waiters[i];
		waiter->refused = *list == 'N';
		waiter->used = waiter->refused ? -1 : strtoll(list, &end, 10);
		list += strcspn(list, ",}");
	}
}

static void apply_feed(struct acp_writer *writer, const PGresult *rows, struct acp_change_feed *feed)
{
	feed->version = strtoll(PQgetvalue(rows, 0, 1), NULL, 10);
	feed->changed = PQgetvalue(rows, 0, 2);
	feed->at_us = strtoll(PQgetvalue(rows, 0, 3), NULL, 10); /* null reads as 0 */
	acp_key_cache_apply(writer->cache, feed);
}

static enum acp_db_status send_batch(struct acp_writer *writer, struct acp_db_conn *conn, struct batch *batch,
				     bool again, struct acp_db_error *error)
{
	size_t offsets[ACP_COLUMNS];
	int lengths[PARAMS] = {0};
	int formats[PARAMS] = {0};
	const char *values[PARAMS];
	char since[24];
	struct acp_buf wire;
	PGresult *rows = NULL;
	acp_buf_init(&wire, (size_t)64 << 20);
	bool ok = acp_columns_write(&wire, batch->events, batch->count, offsets, lengths);
	size_t held_at = wire.len;
	acp_columns_booleans(&wire, batch->held, batch->count);
	if (!ok || !acp_buf_ok(&wire)) {
		*error = (struct acp_db_error){.message = "an event has not the form of audit_logs"};
		acp_buf_release(&wire);
		return ACP_DB_REFUSED;
	}
	for (size_t i = 0; i < ACP_COLUMNS; i++)
		values[i] = wire.ptr + offsets[i];
	values[ACP_COLUMNS] = wire.ptr + held_at;
	lengths[ACP_COLUMNS] = (int)(wire.len - held_at);
	for (size_t i = 0; i <= ACP_COLUMNS; i++)
		formats[i] = 1;
	bool ask_clock;
	struct acp_change_feed feed = {0};
	acp_key_cache_ask(writer->cache, &feed, &ask_clock);
	snprintf(since, sizeof since, "%lld", (long long)feed.since);
	values[ACP_COLUMNS + 1] = writer->options.free_limit;
	values[ACP_COLUMNS + 2] = writer->options.warn_at_percent;
	values[ACP_COLUMNS + 3] = again ? "t" : "f";
	values[ACP_COLUMNS + 4] = since;
	values[ACP_COLUMNS + 5] = ask_clock ? "t" : "f";
	const struct acp_db_binary binary = {lengths, formats};
	const struct acp_db_early early = {has_run, is_late, batch};
	enum acp_db_status status = acp_db_exec_early(conn, &statement, values, &binary, &early, &rows, error);
	acp_buf_release(&wire);
	if (status != ACP_DB_OK)
		return status;
	read_used(PQgetvalue(rows, 0, 0), batch);
	apply_feed(writer, rows, &feed);
	PQclear(rows);
	return ACP_DB_OK;
}

/* One statement whose rows are linked here ----------------------------------------------------------------------- */

static const struct acp_db_statement own_chain = {
	.name = "acp_chain_1",
	.sql = "SELECT chain_id, seq, encode(head, 'hex'), row_type FROM acp.audit_chain_own($1)",
	.count = 1,
};

static const struct acp_db_statement links = {
	.name = "acp_links_1",
	.sql = "SELECT used, version, coalesce(changed::text, ''), (extract(epoch FROM at) * 1000000)::bigint"
	       " FROM acp.settle_links($1, $2, $3, $4, $5, $6, $7, $8)",
	.count = 8,
};

/* Its end is locked as long as the commit lasts that was lost: another chain is sooner at hand. */
static void leave_chain(struct chain *chain)
{
	acp_uuid(chain->owner);
	chain->known = false;
}

static void has_found(void *arg)
{
	(void)arg; /* the batch's own statement is still to come */
}

/* Asks where our chain ends, and makes it ours, which is a commit, too. */
static enum acp_db_status find_end(struct acp_db_conn *conn, struct batch *batch, struct acp_db_error *error)
{
	PGresult *rows = NULL;
	struct chain *chain = batch->chain;
	const char *const values[] = {chain->owner};
	const int zero[1] = {0};
	const struct acp_db_binary text = {zero, zero};
	const struct acp_db_early early = {has_found, is_late, batch};
	enum acp_db_status status = acp_db_exec_early(conn, &own_chain, values, &text, &early, &rows, error);
	if (status == ACP_DB_UNKNOWN)
		leave_chain(chain);
	if (status != ACP_DB_OK)
		return status == ACP_DB_UNKNOWN ? ACP_DB_AWAY : status; /* nothing of the batch was sent by that */
	chain->end.chain_id = (int32_t)strtol(PQgetvalue(rows, 0, 0), NULL, 10);
	chain->end.seq = strtoll(PQgetvalue(rows, 0, 1), NULL, 10);
	chain->row_type = (uint32_t)strtoul(PQgetvalue(rows, 0, 3), NULL, 10);
	chain->known = acp_unhex(PQgetvalue(rows, 0, 2), chain->end.head, sizeof chain->end.head);
	PQclear(rows);
	return ACP_DB_OK;
}

static bool uses_allowance(const struct acp_event *event)
{
	return event->billable && event->tier && strcmp(event->tier, "free") == 0;
}

/* Whether the batch may be tried with links made here: nothing in it may depend on what the database finds. */
static bool may_link(struct acp_writer *writer, const struct batch *batch, bool *free_calls)
{
	bool ok = batch->chain != NULL;
	*free_calls = false;
	for (size_t i = 0; ok && i < batch->count; i++) {
		*free_calls = *free_calls || uses_allowance(batch->events[i]);
		ok = !batch->held[i] && batch->events[i]->ts;
	}
	if (!ok || !*free_calls || !writer->options.free_limit)
		return ok;
	int near_limit = __atomic_load_n(&writer->near_limit, __ATOMIC_RELAXED);
	if (near_limit > 0)
		__atomic_store_n(&writer->near_limit, near_limit - 1, __ATOMIC_RELAXED);
	return near_limit <= 0;
}

static enum acp_db_status send_rows(struct acp_writer *writer, struct acp_db_conn *conn, struct batch *batch,
				    const struct acp_buf *rows, bool free_calls, struct acp_db_error *error)
{
	enum { LINKS_PARAMS = 8 };
	char seq[24];
	char head[2 * ACP_SHA256_LEN + 3];
	char since[24];
	bool ask_clock;
	struct acp_change_feed feed = {0};
	PGresult *answer = NULL;
	acp_key_cache_ask(writer->cache, &feed, &ask_clock);
	snprintf(seq, sizeof seq, "%lld", (long long)batch->chain->end.seq);
	snprintf(since, sizeof since, "%lld", (long long)feed.since);
	acp_db_bytea(batch->chain->end.head, ACP_SHA256_LEN, head);
	const char *const values[LINKS_PARAMS] = {rows->ptr,
						  seq,
						  head,
						  free_calls ? "t" : "f",
						  writer->options.free_limit,
						  writer->options.warn_at_percent,
						  since,
						  ask_clock ? "t" : "f"};
	const int lengths[LINKS_PARAMS] = {(int)rows->len};
	const int formats[LINKS_PARAMS] = {1};
	const struct acp_db_binary binary = {lengths, formats};
	const struct acp_db_early early = {has_run, is_late, batch};
	enum acp_db_status status = acp_db_exec_early(conn, &links, values, &binary, &early, &answer, error);
	if (status != ACP_DB_OK)
		return status;
	if (!PQgetisnull(answer, 0, 0))
		read_used(PQgetvalue(answer, 0, 0), batch);
	apply_feed(writer, answer, &feed);
	PQclear(answer);
	return ACP_DB_OK;
}

/* ACP_DB_REFUSED: nothing was stored; it may be that the rows could not be linked here. */
static enum acp_db_status try_links(struct acp_writer *writer, struct acp_db_conn *conn, struct batch *batch,
				    bool free_calls, struct acp_db_error *error)
{
	struct acp_buf rows;
	struct chain *chain = batch->chain;
	enum acp_db_status status = chain->known ? ACP_DB_OK : find_end(conn, batch, error);
	if (status != ACP_DB_OK || !chain->known || !batch->count)
		return status == ACP_DB_OK ? ACP_DB_REFUSED : status;
	struct acp_link end = chain->end;
	acp_buf_init(&rows, (size_t)64 << 20);
	if (acp_links_write(&rows, batch->events, batch->count, chain->row_type, &end)) {
		chain->known = false;
		status = send_rows(writer, conn, batch, &rows, free_calls, error);
		if (status == ACP_DB_OK) {
			chain->end = end;
			chain->known = true;
		}
	} else {
		status = ACP_DB_REFUSED;
	}
	if (status == ACP_DB_UNKNOWN)
		leave_chain(chain);
	acp_buf_release(&rows);
	return status;
}

/* The end of the chain may have moved without us: after a failover, or a long silence. */
static enum acp_db_status send_links(struct acp_writer *writer, struct acp_db_conn *conn, struct batch *batch,
				     bool free_calls, struct acp_db_error *error)
{
	enum acp_db_status status = try_links(writer, conn, batch, free_calls, error);
	if (status == ACP_DB_REFUSED && strcmp(error->sqlstate, "ACP03") == 0 && batch->count)
		status = try_links(writer, conn, batch, free_calls, error);
	if (status == ACP_DB_REFUSED && strcmp(error->sqlstate, "ACP02") == 0)
		__atomic_store_n(&writer->near_limit, NEAR_LIMIT_BATCHES, __ATOMIC_RELAXED);
	return status;
}

/* Both ways ------------------------------------------------------------------------------------------------------ */

static enum acp_db_status try_batch(struct acp_writer *writer, struct batch *batch, bool again,
				    struct acp_db_error *error)
{
	bool free_calls;
	enum acp_db_status status = ACP_DB_REFUSED;
	struct acp_db_conn *conn = acp_db_acquire(writer->pool, ACP_DB_TO_STORE, error);
	if (!conn)
		return ACP_DB_AWAY;
	if (!again && may_link(writer, batch, &free_calls))
		status = send_links(writer, conn, batch, free_calls, error);
	if (status == ACP_DB_REFUSED && batch->count)
		status = send_batch(writer, conn, batch, again, error);
	acp_db_release(writer->pool, conn);
	return status;
}

static void note(struct batch *batch, enum acp_db_status status, const struct acp_db_error *error)
{
	for (size_t i = 0; i < batch->count; i++) {
		batch->waiters[i]->status = status;
		if (status != ACP_DB_OK)
			batch->waiters[i]->error = *error;
	}
}

/* What a broken connection did not do, or may not have done, is sent once more, so that what is stored already stays
 * as it is. Only success tells then what became of the first statement. */
static enum acp_db_status store(struct acp_writer *writer, struct batch *batch, bool again, struct acp_db_error *error)
{
	enum acp_db_status first = try_batch(writer, batch, again, error);
	if ((first != ACP_DB_AWAY && first != ACP_DB_UNKNOWN) || error->timed_out || !batch->count)
		return first;
	enum acp_db_status second = try_batch(writer, batch, true, error);
	return first == ACP_DB_UNKNOWN && second != ACP_DB_OK ? ACP_DB_UNKNOWN : second;
}

/* 55P03: somebody held a lock for longer than a statement waits that others stand in line behind. 23505: a statement
 * whose answer was lost has stored the row after all. */
static bool wants_another_try(const struct acp_db_error *error)
{
	return strcmp(error->sqlstate, "55P03") == 0 || strcmp(error->sqlstate, "23505") == 0;
}

/* Stores the batch and says to each waiter how it ended. Where the server refuses the whole, each call stores its own
 * row: one that cannot be stored, or that waits for somebody's lock, must not cost the others their rows, nor hold up
 * those that come meanwhile. */
static void run_batch(struct acp_writer *writer, struct batch *batch)
{
	struct acp_db_error error = {0};
	enum acp_db_status status = store(writer, batch, false, &error);
	bool alone = status == ACP_DB_REFUSED && (batch->count > 1 || wants_another_try(&error));
	for (size_t i = 0; i < batch->count; i++)
		batch->waiters[i]->alone = alone;
	note(batch, status, &error);
}

static void run_alone(struct acp_writer *writer, struct waiter *waiter)
{
	struct batch batch = {
		.count = 1, .waiters = {waiter}, .events = {waiter->event}, .held = {waiter->held}, .writer = writer};
	struct acp_db_error error = {0};
	enum acp_db_status status = store(writer, &batch, true, &error);
	note(&batch, status, &error);
}

/* The queues ----------------------------------------------------------------------------------------------------- */

static void queue_init(struct queue *queue)
{
	*queue = (struct queue){.room = INT_MAX, .wanted = INT_MAX};
	queue->last = &queue->first;
	pthread_cond_init(&queue->filled, NULL);
	acp_monotonic_cond(&queue->enough);
}

static void queue_destroy(struct queue *queue)
{
	pthread_cond_destroy(&queue->filled);
	pthread_cond_destroy(&queue->enough);
}

/* The lock is held. */
static void queue_put(struct queue *queue, struct waiter *waiter)
{
	waiter->next = NULL;
	*queue->last = waiter;
	queue->last = &waiter->next;
	if (++queue->length >= queue->wanted)
		pthread_cond_signal(&queue->enough);
	if (queue->idle && queue->room > 0)
		pthread_cond_signal(&queue->filled);
}

/* The lock is held. NULL: it is empty. */
static struct waiter *queue_take(struct queue *queue)
{
	struct waiter *waiter = queue->first;
	if (!waiter)
		return NULL;
	if (!(queue->first = waiter->next))
		queue->last = &queue->first;
	queue->length--;
	return waiter;
}

/* The lock is held. False: it stays empty, it is time to stop. */
static bool queue_wait(struct acp_writer *writer, struct queue *queue)
{
	while ((!queue->first || queue->room <= 0) && !writer->stop) {
		queue->idle++;
		pthread_cond_wait(&queue->filled, &writer->lock);
		queue->idle--;
	}
	return queue->first;
}

/* Takes calls off the queue, and a chain for them. The lock is held. */
static void fill(struct acp_writer *writer, struct batch *batch)
{
	struct waiter *waiter;
	batch->count = 0;
	batch->chain = NULL;
	batch->writer = writer;
	batch->shared = batch->running = true;
	writer->calls.room--;
	while (batch->count < BATCH_MAX && (waiter = queue_take(&writer->calls))) {
		batch->waiters[batch->count] = waiter;
		batch->events[batch->count] = waiter->event;
		batch->held[batch->count++] = waiter->held;
	}
	for (size_t i = 0; i < CHAINS && writer->options.own_chains && !batch->chain; i++)
		if (!writer->chains[i].busy)
			batch->chain = &writer->chains[i];
	if (batch->chain)
		batch->chain->busy = true;
}

static void tell(struct waiter *waiter)
{
	const struct acp_writer_result result = {waiter->status, waiter->used, waiter->refused, &waiter->error};
	waiter->stored(waiter->arg, &result);
	sem_destroy(&waiter->wake);
	free(waiter);
}

static void *end_troubled(void *arg);

static bool start_thread(struct acp_writer *writer, void *(*run)(void *writer))
{
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	bool ok = writer->started < (int)ACP_COUNT(writer->threads) &&
		  pthread_create(&writer->threads[writer->started], &attr, run, writer) == 0;
	writer->started += ok;
	pthread_attr_destroy(&attr);
	return ok;
}

/* One that waits for a lock must not hold up the others: each has a thread, as far as there are any. */
static void put_aside(struct acp_writer *writer, struct waiter *waiter)
{
	pthread_mutex_lock(&writer->lock);
	queue_put(&writer->troubled, waiter);
	if (writer->troubled.length > writer->troubled.idle)
		start_thread(writer, end_troubled);
	pthread_mutex_unlock(&writer->lock);
}

/* Who waits is woken alone; who is to be told is told here if all is well, so that its answer costs no other thread. */
static void end_batch(struct acp_writer *writer, struct batch *batch)
{
	for (size_t i = 0; i < batch->count; i++) {
		struct waiter *waiter = batch->waiters[i];
		if (!waiter->stored)
			sem_post(&waiter->wake);
		else if (waiter->status == ACP_DB_OK && !waiter->refused)
			tell(waiter);
		else
			put_aside(writer, waiter);
	}
}

/* A statement costs the processors as much as several rows in it. Where calls come faster than statements end, each
 * waits until it has as many as the one before, for as long as that one took: a call does not wait much longer than it
 * would have anyway, and a busy host does more of them. The lock is held. False: another thread took what there was. */
static bool gather(struct acp_writer *writer)
{
	struct queue *calls = &writer->calls;
	if (!acp_writer_busy(writer))
		return true;
	uint64_t took_us = atomic_load_explicit(&writer->took_us, memory_order_relaxed);
	const struct timespec until = acp_monotonic_after(took_us < GATHER_US ? took_us : GATHER_US);
	size_t recent = atomic_load_explicit(&writer->recent, memory_order_relaxed);
	calls->wanted = recent < ENOUGH ? (int)recent : ENOUGH;
	calls->room--;
	while (calls->length < calls->wanted && !writer->stop &&
	       pthread_cond_timedwait(&calls->enough, &writer->lock, &until) == 0)
		;
	calls->room++;
	calls->wanted = INT_MAX;
	return calls->first;
}

static void run_and_time(struct acp_writer *writer, struct batch *batch)
{
	uint64_t start_us = acp_monotonic_us();
	atomic_store_explicit(&writer->recent, batch->count, memory_order_relaxed);
	run_batch(writer, batch);
	atomic_store_explicit(&writer->took_us, (unsigned long)(acp_monotonic_us() - start_us), memory_order_relaxed);
}

static void *write_batches(void *arg)
{
	struct batch batch;
	struct acp_writer *writer = arg;
	pthread_mutex_lock(&writer->lock);
	while (queue_wait(writer, &writer->calls)) {
		if (!gather(writer))
			continue;
		fill(writer, &batch);
		pthread_mutex_unlock(&writer->lock);
		run_and_time(writer, &batch);
		has_run(&batch);
		pthread_mutex_lock(&writer->lock);
		if (batch.chain)
			batch.chain->busy = false;
		pthread_mutex_unlock(&writer->lock);
		end_batch(writer, &batch);
		pthread_mutex_lock(&writer->lock);
	}
	pthread_mutex_unlock(&writer->lock);
	return NULL;
}

static void *end_troubled(void *arg)
{
	struct acp_writer *writer = arg;
	pthread_mutex_lock(&writer->lock);
	while (queue_wait(writer, &writer->troubled)) {
		struct waiter *waiter = queue_take(&writer->troubled);
		pthread_mutex_unlock(&writer->lock);
		if (waiter->alone)
			run_alone(writer, waiter);
		tell(waiter);
		pthread_mutex_lock(&writer->lock);
	}
	pthread_mutex_unlock(&writer->lock);
	return NULL;
}

/* The writer --------------------------------------------------------------------------------------------------- */

/* Writers, and one thread for trouble: where no other can be made, it ends all of it. */
static bool start_threads(struct acp_writer *writer)
{
	bool ok = true;
	writer->calls.room = writer->options.writers;
	for (int i = 0; ok && i < WRITER_THREADS * writer->options.writers && i < CHAINS; i++)
		ok = start_thread(writer, write_batches);
	return ok && start_thread(writer, end_troubled);
}

struct acp_writer *acp_writer_new(struct acp_db_pool *pool, struct acp_key_cache *cache,
				  const struct acp_writer_options *options)
{
	struct acp_writer *writer = calloc(1, sizeof *writer);
	if (!writer)
		return NULL;
	writer->pool = pool;
	writer->cache = cache;
	writer->options = *options;
	pthread_mutex_init(&writer->lock, NULL);
	queue_init(&writer->calls);
	queue_init(&writer->troubled);
	for (size_t i = 0; i < CHAINS; i++)
		acp_uuid(writer->chains[i].owner);
	writer->threaded = options->own_chains;
	if (writer->threaded && !start_threads(writer)) {
		acp_writer_free(writer);
		return NULL;
	}
	return writer;
}

void acp_writer_free(struct acp_writer *writer)
{
	if (!writer)
		return;
	pthread_mutex_lock(&writer->lock);
	writer->stop = true;
	pthread_cond_broadcast(&writer->calls.filled);
	pthread_cond_broadcast(&writer->calls.enough);
	pthread_cond_broadcast(&writer->troubled.filled);
	pthread_mutex_unlock(&writer->lock);
	acp_db_pool_stop(writer->pool); /* a commit may be late whose calls were told long ago */
	/* No call is under way, so no thread is made any more. */
	for (int i = 0; i < writer->started; i++)
		pthread_join(writer->threads[i], NULL);
	queue_destroy(&writer->calls);
	queue_destroy(&writer->troubled);
	pthread_mutex_destroy(&writer->lock);
	free(writer);
}

static void enqueue(struct acp_writer *writer, struct waiter *waiter)
{
	pthread_mutex_lock(&writer->lock);
	queue_put(&writer->calls, waiter);
	pthread_mutex_unlock(&writer->lock);
}

/* A process with one call at a time stores it itself. */
static void store_here(struct acp_writer *writer, struct waiter *waiter)
{
	struct batch batch = {
		.count = 1, .waiters = {waiter}, .events = {waiter->event}, .held = {waiter->held}, .writer = writer};
	run_batch(writer, &batch);
}

static void wait_for_wake(struct waiter *waiter)
{
	struct timespec slow;
	clock_gettime(CLOCK_REALTIME, &slow);
	slow.tv_nsec += SLOW_MS * 1000000L;
	slow.tv_sec += slow.tv_nsec / 1000000000L;
	slow.tv_nsec %= 1000000000L;
	int waited;
	while ((waited = sem_timedwait(&waiter->wake, &slow)) != 0 && errno == EINTR)
		;
	if (waited == 0)
		return;
	acp_thread_blocks();
	while (sem_wait(&waiter->wake) != 0)
		;
	acp_thread_goes_on();
}

void acp_writer_store(struct acp_writer *writer, const struct acp_event *event, bool held,
		      struct acp_writer_result *result, struct acp_db_error *error)
{
	struct waiter self = {.event = event, .held = held, .used = -1};
	sem_init(&self.wake, 0, 0);
	if (writer->threaded) {
		enqueue(writer, &self);
		wait_for_wake(&self);
	} else {
		store_here(writer, &self);
	}
	if (self.alone)
		run_alone(writer, &self);
	sem_destroy(&self.wake);
	*error = self.error;
	*result = (struct acp_writer_result){self.status, self.used, self.refused, error};
}

bool acp_writer_store_later(struct acp_writer *writer, const struct acp_event *event, bool held,
			    acp_writer_stored *stored, void *arg)
{
	struct waiter *waiter = writer->threaded ? malloc(sizeof *waiter) : NULL;
	if (!waiter)
		return false;
	*waiter = (struct waiter){.event = event, .held = held, .used = -1, .stored = stored, .arg = arg};
	sem_init(&waiter->wake, 0, 0);
	enqueue(writer, waiter);
	return true;
}
