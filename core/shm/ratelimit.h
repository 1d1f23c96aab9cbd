/* ratelimit.h - a sliding-window rate limit, exact across all processes of one host.
 *
 * The counts are in a table in shared memory. A window of w seconds is kept as 61 counts of w/60 seconds each. A count
 * is dropped only when all of it is older than w. So no span of w seconds ever sees more events than the limit, and
 * capacity returns at most w/60 seconds late. Hosts do not share a table. Each limit is divided by the setting
 * rate_limit_hosts, so that all hosts together never exceed it. At worst they allow 1/hosts of it. */
#ifndef ACP_RATELIMIT_H
#define ACP_RATELIMIT_H

#include "attr.h"

struct acp_ratelimit;

/* The decision about one event. */
struct acp_rate {
	bool allowed;
	int64_t limit;     /* q: events in the window */
	int64_t window;    /* w: seconds */
	int64_t remaining; /* r: after this one */
	int64_t reset;     /* t: seconds until the next event is allowed (when refused), or until the window is empty */
};

/* Opens the table of this installation, and creates it if necessary. Processes that pass the same zone and run as the
 * same user share it. zone: up to 64 of [a-z0-9-]. Returns NULL with a sentence in why. */
struct acp_ratelimit *acp_ratelimit_open(const char *zone, char *why, size_t why_size) ACP_MUSTCHECK;
void acp_ratelimit_close(struct acp_ratelimit *table);

/* Counts an event of this name at time now (microseconds of a clock that all processes of the host share), or refuses
 * it. A refused event is not counted. limit >= 1; 1 <= window <= 86400. */
void acp_ratelimit_acquire(struct acp_ratelimit *table, const char *name, int64_t limit, int64_t window, uint64_t now,
			   struct acp_rate *out);

/* The same decision without counting an event. */
void acp_ratelimit_look(struct acp_ratelimit *table, const char *name, int64_t limit, int64_t window, uint64_t now,
			struct acp_rate *out);

/* Takes back the event that was counted at now, because a later check refused it. */
void acp_ratelimit_release(struct acp_ratelimit *table, const char *name, int64_t window, uint64_t now);

#endif
