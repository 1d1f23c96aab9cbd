/* endpoints.h - the endpoints. CONTRIBUTING.md, "Where things go", says how to add one. */
#ifndef ACP_ENDPOINTS_H
#define ACP_ENDPOINTS_H

#include "http.h"

acp_endpoint acp_endpoint_manage;   /* manage.c  - the router */
acp_endpoint acp_endpoint_onboard;  /* onboard.c - POST /api/onboard/{product} */
acp_endpoint acp_endpoint_usage;    /* usage.c   - GET /api/usage */
acp_endpoint acp_endpoint_invoice;  /* usage.c   - GET /api/billing/invoice */
acp_endpoint acp_endpoint_upgrade;  /* upgrade.c - GET, POST /api/upgrade/checkout */
acp_endpoint acp_endpoint_stripe;   /* stripe_events.c - POST /api/webhooks/stripe */
acp_endpoint acp_endpoint_openapi;  /* openapi.c - GET /api/openapi.json */
acp_endpoint acp_endpoint_llms;     /* agents.c  - /llms.txt */
acp_endpoint acp_endpoint_catalog;  /* agents.c  - /.well-known/api-catalog */
acp_endpoint acp_endpoint_console;  /* console.c - /console */
acp_endpoint acp_endpoint_operator; /* operator.c - /console/operator/… */
acp_endpoint acp_endpoint_execute;  /* execute.c - POST /functions/v1/execute */
acp_endpoint acp_endpoint_hub;      /* hub.c     - /functions/v1/… */
acp_endpoint acp_endpoint_alive;    /* health.c  - /healthz */
acp_endpoint acp_endpoint_ready;    /* health.c  - /readyz */
acp_endpoint acp_endpoint_metrics;  /* metrics.c - /metrics */

/* The size limit in bytes for the body of this request: other kernels may send many audit events at once, strangers may
 * not. */
size_t acp_paths_body_max(const struct acp_kernel *kernel, const struct acp_http *http);

/* The endpoints' names in metrics, terminated by NULL; the last one is for unknown paths. */
const char *const *acp_paths_names(void);

/* Calls the endpoint of http->path, or answers 404. */
void acp_paths_answer(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response);

/* True for YYYY-MM with a valid month, and a year that PostgreSQL accepts and people understand. (usage.c) */
bool acp_period_ok(const char *period);

#endif
