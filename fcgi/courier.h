/* courier.h - the threads of a process that send webhook deliveries (webhooks.h), and that have done what is owed
 * to the outside world (outbox.h). Processes share both queues: none does what another one is doing. */
#ifndef ACP_COURIER_H
#define ACP_COURIER_H

#include "kernel.h"

#include <time.h>

struct acp_courier;

/* Starts the threads there is work for; what could not start is said in the log. executor NULL: the outbox is left
 * alone. NULL: there is none. */
struct acp_courier *acp_courier_start(const struct acp_config *config, const struct acp_control_plane *plane,
				      const struct acp_executor *executor);

/* Says stop; does not wait. courier may be NULL. */
void acp_courier_stop(struct acp_courier *courier);

/* Waits until what is in flight has ended, and releases courier (NULL is allowed). False: it had not at the limit
 * (CLOCK_REALTIME); then its memory is in use, and the process must end without releasing the kernel. */
bool acp_courier_join(struct acp_courier *courier, const struct timespec *limit) ACP_MUSTCHECK;

#endif
