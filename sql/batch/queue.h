/* queue.h - the queues of calls that wait for a thread of the writer. Private to sql/. */
#ifndef ACP_QUEUE_H
#define ACP_QUEUE_H

#include "db.h"
#include "writer.h"

#include <pthread.h>
#include <semaphore.h>

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

/* All of a writer's queues share one lock. The caller of put, take and wait holds it. */
void acp_queue_init(struct queue *queue);
void acp_queue_destroy(struct queue *queue);
void acp_queue_put(struct queue *queue, struct waiter *waiter);

/* NULL: the queue is empty. */
struct waiter *acp_queue_take(struct queue *queue);

/* Waits until the queue is filled and has room for this thread. False: *stop is set and the queue is empty. */
bool acp_queue_wait(struct queue *queue, pthread_mutex_t *lock, const bool *stop);

#endif
