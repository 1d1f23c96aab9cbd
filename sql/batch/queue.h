/* queue.h - the queues of calls that wait for a thread of the writer. Private to sql/. */
#ifndef ACP_QUEUE_H
#define ACP_QUEUE_H

#include "db.h"
#include "writer.h"

#include <pthread.h>
#include <semaphore.h>

/* A waiting call: on the stack of its thread, or on the heap if it has a callback. */
struct waiter {
	const struct acp_event *event;
	bool held;
	struct waiter *next;
	sem_t wake;
	acp_writer_stored *stored; /* callback; NULL: its thread waits for wake */
	void *arg;
	bool alone; /* the server refused the batch: each of its calls is now stored separately */
	int64_t used;
	int64_t others_held; /* see struct acp_writer_result */
	bool refused;
	enum acp_db_status status;
	struct acp_db_error error;
};

struct queue {
	struct waiter *first, **last;
	pthread_cond_t filled;
	pthread_cond_t enough; /* signals that length has reached wanted */
	int length, wanted;
	int room; /* number of threads that may still take from it now */
	int idle; /* number of threads that wait for a call or for room */
};

/* All of a writer's queues share one lock. The caller of put, take and wait holds it. */
void acp_queue_init(struct queue *queue);
void acp_queue_destroy(struct queue *queue);
void acp_queue_put(struct queue *queue, struct waiter *waiter);

/* Removes and returns the first call. NULL: the queue is empty. */
struct waiter *acp_queue_take(struct queue *queue);

/* Waits until the queue is filled and has room for this thread. False: *stop is set and the queue is empty. */
bool acp_queue_wait(struct queue *queue, pthread_mutex_t *lock, const bool *stop);

#endif
