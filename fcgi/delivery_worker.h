/* delivery_worker.h - the delivery worker of a process: one thread sends webhook deliveries (webhook_sender.h), another
 * executes the queued work of the executor (outbox.h), so that neither waits for the other. All processes share both
 * queues; each item is handled by one process at a time. */
#ifndef ACP_DELIVERY_WORKER_H
#define ACP_DELIVERY_WORKER_H

#include "kernel.h"

#include <time.h>

struct acp_delivery_worker;

/* Starts a thread for each queue that this installation has, and logs each thread that could not be started. All
 * parameters are borrowed until acp_delivery_worker_join() returns true. executor NULL: the outbox is not processed.
 * Returns NULL if out of memory. */
struct acp_delivery_worker *acp_delivery_worker_start(const struct acp_config *config,
						      const struct acp_control_plane *plane,
						      const struct acp_executor *executor);

/* Tells the threads to stop; does not wait. worker may be NULL. */
void acp_delivery_worker_stop(struct acp_delivery_worker *worker);

/* Waits until running work has ended, and releases worker (NULL is allowed). False: the work had not ended by the limit
 * (CLOCK_REALTIME). It then still uses the memory, so the process must exit without releasing the kernel. */
bool acp_delivery_worker_join(struct acp_delivery_worker *worker, const struct timespec *limit) ACP_MUSTCHECK;

#endif
