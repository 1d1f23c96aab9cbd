/* courier.h - the thread of a process that sends webhook deliveries (core/webhooks.h). Processes share the queue: none
 * sends what another one is sending. */
#ifndef ACP_COURIER_H
#define ACP_COURIER_H

#include "kernel.h"

#include <time.h>

struct acp_courier;

/* Starts the thread. NULL: the kernel has no webhooks, or (said in the log) the thread could not start. */
struct acp_courier *acp_courier_start(const struct acp_config *config, const struct acp_control_plane *plane);

/* Says stop; does not wait. courier may be NULL. */
void acp_courier_stop(struct acp_courier *courier);

/* Waits until the delivery in flight has ended, and releases courier (NULL is allowed). False: it had not at the limit
 * (CLOCK_REALTIME); then its memory is in use, and the process must end without releasing the kernel. */
bool acp_courier_join(struct acp_courier *courier, const struct timespec *limit) ACP_MUSTCHECK;

#endif
