/* endpoints.h - what answers which path. A new endpoint: its file, and a row in paths.c. */
#ifndef ACP_ENDPOINTS_H
#define ACP_ENDPOINTS_H

#include "http.h"

acp_endpoint acp_endpoint_manage;  /* manage.c  - the router */
acp_endpoint acp_endpoint_onboard; /* onboard.c - POST /api/onboard/{product} */
acp_endpoint acp_endpoint_usage;   /* usage.c   - GET /api/usage */
acp_endpoint acp_endpoint_upgrade; /* upgrade.c - GET, POST /api/upgrade/checkout */
acp_endpoint acp_endpoint_openapi; /* openapi.c - GET /api/openapi.json */
acp_endpoint acp_endpoint_hub;     /* hub.c     - /functions/v1/… */
acp_endpoint acp_endpoint_alive;   /* health.c  - /healthz */
acp_endpoint acp_endpoint_ready;   /* health.c  - /readyz */

/* How long a body of this request may be: other kernels send many audit events at once, strangers do not. */
size_t acp_paths_body_max(const struct acp_kernel *kernel, const struct acp_http *http);

/* Finds the endpoint of http->path and lets it answer; 404 where there is none. */
void acp_paths_answer(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response);

#endif
