#include "queue.h"

#include "clock.h"

#include <limits.h>

void acp_queue_init(struct queue *queue)
{
	*queue = (struct queue){.room = INT_MAX, .wanted = INT_MAX};
	queue->last = &queue->first;
	pthread_cond_init(&queue->filled, NULL);
	acp_monotonic_cond(&queue->enough);
}

void acp_queue_destroy(struct queue *queue)
{
	pthread_cond_destroy(&queue->filled);
	pthread_cond_destroy(&queue->enough);
}

void acp_queue_put(struct queue *queue, struct waiter *waiter)
{
	waiter->next = NULL;
	*queue->last = waiter;
	queue->last = &waiter->next;
	if (++queue->length >= queue->wanted)
		pthread_cond_signal(&queue->enough);
	if (queue->idle && queue->room > 0)
		pthread_cond_signal(&queue->filled);
}

struct waiter *acp_queue_take(struct queue *queue)
{
	struct waiter *waiter = queue->first;
	if (!waiter)
		return NULL;
	if (!(queue->first = waiter->next))
		queue->last = &queue->first;
	queue->length--;
	return waiter;
}

bool acp_queue_wait(struct queue *queue, pthread_mutex_t *lock, const bool *stop)
{
	while ((!queue->first || queue->room <= 0) && !*stop) {
		queue->idle++;
		pthread_cond_wait(&queue->filled, lock);
		queue->idle--;
	}
	return queue->first;
}
