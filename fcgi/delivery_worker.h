/* delivery_worker.h - the delivery worker of a process: one thread sends webhook deliveries (webhooks.h), another one
 * executes what is queued for the executor (outbox.h). Processes share both queues: none does what another one does. */
#ifndef ACP_DELIVERY_WORKER_H
#define ACP_DELIVERY_WORKER_H

#include "kernel.h"

#include <time.h>

struct acp_delivery_worker;

/* Starts a thread for each queue that this installation has; logs a thread that could not be started. All parameters
 * are borrowed until acp_delivery_worker_join() is true. executor NULL: the outbox is left alone. NULL: out of
 * memory. */
struct acp_delivery_worker *acp_delivery_worker_start(const struct acp_config *config,
						      const struct acp_control_plane *plane,
						      const struct acp_executor *executor);

/* Tells the threads to stop; does not wait. worker may be NULL. */
void acp_delivery_worker_stop(struct acp_delivery_worker *worker);

/* Waits until what is in flight has ended, and releases worker (NULL is allowed). False: it had not at the limit
 * (CLOCK_REALTIME); then its memory is in use, and the process must end without releasing the kernel. */
bool acp_delivery_worker_join(struct acp_delivery_worker *worker, const struct timespec *limit) ACP_MUSTCHECK;

#endif
