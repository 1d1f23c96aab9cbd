/* metrics.h - request metrics of all processes of an installation on one host, in shared memory.
 *
 * The numbers do not belong to a process. They survive when a process is killed, replaced or started by the web server,
 * so a counter only grows until the host restarts. Counting takes no lock: it uses relaxed additions, and spreads the
 * threads over a few stripes. The number of series is fixed, and no series names a tenant. */
#ifndef ACP_METRICS_H
#define ACP_METRICS_H

#include "attr.h"
#include "buf.h"
#include "status.h"

enum { ACP_METRICS_ENDPOINTS = 32 };

struct acp_metrics;

/* Opens the metrics. Processes that pass the same zone and run as the same user share the numbers. zone: up to 64 of
 * [a-z0-9-]. endpoints: the names by which requests are counted, at most ACP_METRICS_ENDPOINTS, terminated by NULL; the
 * caller keeps ownership. workers: the number of requests that this process serves at a time. Returns NULL with a
 * sentence in why. */
struct acp_metrics *acp_metrics_open(const char *zone, const char *const *endpoints, int workers, char *why,
				     size_t why_size) ACP_MUSTCHECK;
void acp_metrics_close(struct acp_metrics *metrics);

/* The outcome of a request. */
struct acp_served {
	size_t endpoint; /* index in endpoints */
	int http;
	enum acp_code code;
	const char *action; /* a registered action, or NULL */
	uint64_t us;        /* from the request's last byte to the end of the reply */
};

/* Call these when a request begins and ends in this process. NULL metrics counts nothing. */
void acp_metrics_begin(struct acp_metrics *metrics);
void acp_metrics_end(struct acp_metrics *metrics, const struct acp_served *served);

/* Appends all metrics in Prometheus text format (version 0.0.4). */
void acp_metrics_write(struct acp_metrics *metrics, struct acp_buf *out);

/* Appends the two lines that precede the samples of a metric. type: counter, gauge or histogram. */
void acp_metrics_head(struct acp_buf *out, const char *name, const char *type, const char *help);

#endif
