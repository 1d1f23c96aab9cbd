/* clock.h - durations. The time of day that matters (periods, expiry, audit) is always the hub's: acp.now(). */
#ifndef ACP_CLOCK_H
#define ACP_CLOCK_H

#include "attr.h"

#include <pthread.h>
#include <time.h>

/* Microseconds of a clock that never jumps; only differences mean something. */
uint64_t acp_monotonic_us(void);

/* So many microseconds from now on that clock: until when pthread_cond_timedwait() waits for a condition of
 * acp_monotonic_cond(). */
struct timespec acp_monotonic_after(uint64_t us);

/* A condition whose time limits are of that clock; the caller destroys it. */
void acp_monotonic_cond(pthread_cond_t *cond);

#endif
