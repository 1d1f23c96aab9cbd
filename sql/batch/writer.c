#include "writer.h"

#include "clock.h"
#include "thread.h"
#include "writer_parts.h"

#include <errno.h>
#include <limits.h>

enum {
	WRITER_THREADS = 2, /* for each statement that may run: one waits for the disk while the other runs */
	STACK = 512 * 1024,
	ENOUGH = 16,      /* a statement with this many calls never waits for more */
	GATHER_US = 2000, /* longest wait of a statement for more calls */
	SLOW_MS = 100,    /* after this wait a call counts as blocked */
};

bool acp_writer_busy(const struct acp_writer *writer)
{
	return atomic_load_explicit(&writer->recent, memory_order_relaxed) > 1;
}

/* Threads -------------------------------------------------------------------------------------------------------- */

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

/* Runs the callback of a call and releases the call. */
static void run_callback(struct waiter *waiter)
{
	const struct acp_writer_result result = {waiter->status, waiter->used, waiter->others_held, waiter->refused,
						 &waiter->error};
	waiter->stored(waiter->arg, &result);
	sem_destroy(&waiter->wake);
	free(waiter);
}

static void *finish_retries(void *arg)
{
	struct acp_writer *writer = arg;
	pthread_mutex_lock(&writer->lock);
	while (acp_queue_wait(&writer->retries, &writer->lock, &writer->stop)) {
		struct waiter *waiter = acp_queue_take(&writer->retries);
		pthread_mutex_unlock(&writer->lock);
		if (waiter->alone)
			acp_waiter_run(writer, waiter);
		run_callback(waiter);
		pthread_mutex_lock(&writer->lock);
	}
	pthread_mutex_unlock(&writer->lock);
	return NULL;
}

/* Moves a call to the retry queue. A retry may wait for a lock and must not delay the others, so each gets its own
 * thread if one can be started. */
static void retry_later(struct acp_writer *writer, struct waiter *waiter)
{
	pthread_mutex_lock(&writer->lock);
	acp_queue_put(&writer->retries, waiter);
	if (writer->retries.length > writer->retries.idle)
		start_thread(writer, finish_retries);
	pthread_mutex_unlock(&writer->lock);
}

/* Wakes the waiting thread of each call. Runs callbacks here if all is well, so that the answer needs no other thread.
 * Other calls go to the retry queue. */
static void end_batch(struct acp_writer *writer, struct batch *batch)
{
	for (size_t i = 0; i < batch->count; i++) {
		struct waiter *waiter = batch->waiters[i];
		if (!waiter->stored)
			sem_post(&waiter->wake);
		else if (waiter->status == ACP_DB_OK && !waiter->refused)
			run_callback(waiter);
		else
			retry_later(writer, waiter);
	}
}

static void *write_batches(void *arg);

/* The statement of the batch has run, or will not run. The next statement may start. */
void acp_batch_executed(void *arg)
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

static void start_another(struct acp_writer *writer)
{
	pthread_mutex_lock(&writer->lock);
	if (!writer->calls.idle)
		start_thread(writer, write_batches);
	pthread_mutex_unlock(&writer->lock);
}

/* The answer to the statement of the batch is late. If rows can be kept elsewhere, the calls of the batch end now. This
 * thread keeps waiting, because the chain is in use until the answer comes. Another thread takes its place. */
bool acp_batch_late(void *arg)
{
	struct batch *batch = arg;
	struct acp_writer *writer = batch->writer;
	const struct acp_db_error error = {.timed_out = true,
					   .message = "no answer from PostgreSQL within the time limit"};
	if (!batch->shared)
		return !writer->options.hurried;
	acp_batch_executed(batch);
	start_another(writer);
	if (writer->options.hurried) {
		acp_batch_note(batch, ACP_DB_UNKNOWN, &error);
		end_batch(writer, batch);
		batch->count = 0;
	}
	return true;
}

/* Fills a batch with calls from the queue, and reserves a free chain for them. The caller holds the lock. */
static void fill(struct acp_writer *writer, struct batch *batch)
{
	struct waiter *waiter;
	batch->count = 0;
	batch->chain = NULL;
	batch->writer = writer;
	batch->shared = batch->running = true;
	writer->calls.room--;
	while (batch->count < BATCH_MAX && (waiter = acp_queue_take(&writer->calls))) {
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

/* A statement costs as much processor time as several of its rows. If calls arrive faster than statements end, waits
 * for as many calls as the last statement had, for at most as long as that one took: a call hardly waits longer than it
 * would anyway, and a busy host stores more calls. The caller holds the lock. False: another thread took the calls. */
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
	acp_batch_run(writer, batch);
	atomic_store_explicit(&writer->took_us, (unsigned long)(acp_monotonic_us() - start_us), memory_order_relaxed);
}

static void *write_batches(void *arg)
{
	struct batch batch;
	struct acp_writer *writer = arg;
	pthread_mutex_lock(&writer->lock);
	while (acp_queue_wait(&writer->calls, &writer->lock, &writer->stop)) {
		if (!gather(writer))
			continue;
		fill(writer, &batch);
		pthread_mutex_unlock(&writer->lock);
		run_and_time(writer, &batch);
		acp_batch_executed(&batch);
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

/* The writer --------------------------------------------------------------------------------------------------- */

/* Starts the writers and one thread for the retry queue. That thread does all retries if no other can be started. */
static bool start_threads(struct acp_writer *writer)
{
	bool ok = true;
	writer->calls.room = writer->options.writers;
	for (int i = 0; ok && i < WRITER_THREADS * writer->options.writers && i < CHAINS; i++)
		ok = start_thread(writer, write_batches);
	return ok && start_thread(writer, finish_retries);
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
	acp_queue_init(&writer->calls);
	acp_queue_init(&writer->retries);
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
	pthread_cond_broadcast(&writer->retries.filled);
	pthread_mutex_unlock(&writer->lock);
	acp_db_pool_stop(writer->pool); /* a thread may still wait for a late commit, long after the end of its calls */
	/* No call is in progress, so no more threads are started. */
	for (int i = 0; i < writer->started; i++)
		pthread_join(writer->threads[i], NULL);
	acp_queue_destroy(&writer->calls);
	acp_queue_destroy(&writer->retries);
	pthread_mutex_destroy(&writer->lock);
	free(writer);
}

static void enqueue(struct acp_writer *writer, struct waiter *waiter)
{
	pthread_mutex_lock(&writer->lock);
	acp_queue_put(&writer->calls, waiter);
	pthread_mutex_unlock(&writer->lock);
}

/* In a process with one call at a time, the thread of the call stores it. */
static void store_here(struct acp_writer *writer, struct waiter *waiter)
{
	struct batch batch = {
		.count = 1, .waiters = {waiter}, .events = {waiter->event}, .held = {waiter->held}, .writer = writer};
	acp_batch_run(writer, &batch);
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
		acp_waiter_run(writer, &self);
	sem_destroy(&self.wake);
	*error = self.error;
	*result = (struct acp_writer_result){self.status, self.used, self.others_held, self.refused, error};
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
