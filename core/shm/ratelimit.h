/* ratelimit.h - how often something may happen: a sliding window, exact over all processes of one host.
 *
 * The counts live in a table in shared memory. A window of w seconds is kept as 61 counts of w/60 seconds each, and a
 * count is forgotten only when all of it is older than w: so no span of w seconds ever sees more than the limit, and a
 * place comes back at most w/60 seconds late. Several hosts do not share a table; the setting rate_limit_hosts divides
 * the limits, so that together they never pass the limit and at worst allow 1/hosts of it. */
#ifndef ACP_RATELIMIT_H
#define ACP_RATELIMIT_H

#include "attr.h"

struct acp_ratelimit;

/* The answer for one event. */
struct acp_rate {
	bool allowed;
	int64_t limit;     /* q: events in the window */
	int64_t window;    /* w: seconds */
	int64_t remaining; /* r: after this one */
	int64_t reset;     /* t: seconds until a place comes back (refused), or until the window is empty again */
};

/* Opens the table of this installation, making it when needed; processes that give the same zone and run as the same
 * user share it. zone: up to 64 of [a-z0-9-]. NULL with a sentence in why. */
struct acp_ratelimit *acp_ratelimit_open(const char *zone, char *why, size_t why_size) ACP_MUSTCHECK;
void acp_ratelimit_close(struct acp_ratelimit *table);

/* Acquires a place for an event of this name at now (microseconds of a clock that all processes of the host share), or
 * refuses; a refusal counts nothing. limit >= 1; 1 <= window <= 86400. */
void acp_ratelimit_acquire(struct acp_ratelimit *table, const char *name, int64_t limit, int64_t window, uint64_t now,
			   struct acp_rate *out);

/* Releases the place that was acquired at now: what came after refused. */
void acp_ratelimit_release(struct acp_ratelimit *table, const char *name, int64_t window, uint64_t now);

#endif
