/* metrics.h - what all processes of an installation on one host have served, in shared memory.
 *
 * The numbers belong to no process: one that is killed, replaced or started by the web server takes none of them along,
 * so a counter only ever grows until the host itself starts again. Counting takes no lock: relaxed additions, spread
 * over a few stripes by thread. Everything has a fixed number of series; none names a tenant. */
#ifndef ACP_METRICS_H
#define ACP_METRICS_H

#include "attr.h"
#include "buf.h"
#include "status.h"

enum { ACP_METRICS_ENDPOINTS = 32 };

struct acp_metrics;

/* Processes that give the same zone and run as the same user share the numbers. zone: up to 64 of [a-z0-9-].
 * endpoints: the names of those that requests are counted by, up to a NULL, at most ACP_METRICS_ENDPOINTS; they stay
 * the caller's. workers: requests that this process serves at a time. NULL with a sentence in why. */
struct acp_metrics *acp_metrics_open(const char *zone, const char *const *endpoints, int workers, char *why,
				     size_t why_size) ACP_MUSTCHECK;
void acp_metrics_close(struct acp_metrics *metrics);

/* What came of a request. */
struct acp_served {
	size_t endpoint; /* index in endpoints */
	int http;
	enum acp_code code;
	const char *action; /* a registered one, or NULL */
	uint64_t us;        /* from its last byte to the end of the reply */
};

/* A request begins and ends in this process. metrics may be NULL: nothing is counted. */
void acp_metrics_begin(struct acp_metrics *metrics);
void acp_metrics_end(struct acp_metrics *metrics, const struct acp_served *served);

/* Appends everything in the text form that Prometheus reads (version 0.0.4). */
void acp_metrics_write(struct acp_metrics *metrics, struct acp_buf *out);

/* Appends the two lines that come before the samples of a metric. type: counter, gauge or histogram. */
void acp_metrics_head(struct acp_buf *out, const char *name, const char *type, const char *help);

#endif
