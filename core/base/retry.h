/* retry.h - whether to retry a request to a vendor, and how long to wait first. */
#ifndef ACP_RETRY_H
#define ACP_RETRY_H

#include "attr.h"

/* Is the same request worth retrying later? status is the HTTP status, or 0 if there was no usable answer. advice is
 * the vendor's own hint ("true" or "false"), which takes precedence, or "" if there is none. */
bool acp_retry_worth(int status, const char *advice);

/* Milliseconds to wait after attempt number attempt (the first is 1): half a second, doubled each time, five seconds at
 * most. chance (0 to 1) scales the second half of the wait, so that requests that failed together do not retry
 * together. */
int acp_retry_pause_ms(int attempt, double chance);

/* A random chance for acp_retry_pause_ms, and a sleep of the calling thread. */
double acp_retry_chance(void);
void acp_retry_sleep(int ms);

#endif
