/* clock.h - a monotonic clock, for durations. Where the time of day matters (periods, expiry, audit), use the hub's
 * clock: acp.now(). */
#ifndef ACP_CLOCK_H
#define ACP_CLOCK_H

#include "attr.h"

#include <pthread.h>
#include <time.h>

/* Microseconds of a clock that never jumps. Only differences are meaningful. */
uint64_t acp_monotonic_us(void);

/* Returns the time on that clock us microseconds from now, in the form that pthread_cond_timedwait() expects for a
 * condition made by acp_monotonic_cond(). */
struct timespec acp_monotonic_after(uint64_t us);

/* Initialises a condition whose timeouts use that clock. The caller destroys it. */
void acp_monotonic_cond(pthread_cond_t *cond);

#endif
