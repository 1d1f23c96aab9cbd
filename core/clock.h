/* clock.h - durations. The time of day that matters (periods, expiry, audit) is always the hub's: acp.now(). */
#ifndef ACP_CLOCK_H
#define ACP_CLOCK_H

#include "attr.h"

/* Microseconds of a clock that never jumps; only differences mean something. */
uint64_t acp_monotonic_us(void);

/* "2026-11-22T09:30:00Z" of seconds since 1970, in UTC. */
void acp_rfc3339(int64_t seconds, char out[32]);

#endif
