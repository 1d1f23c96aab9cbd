/* hub.h - Repo B for other kernels: the endpoints below /functions/v1/ (contract section 2.2), without HTTP.
 *
 * A kernel authenticates with the setting kernel_key, which is not a tenant's key and gives access to nothing else.
 * Bodies are checked here, with the schemas of the table in hub.c; the control plane does the work. A call that changes
 * something leaves one audit row of the installation itself (nil tenant; result_meta names the tenant concerned),
 * because a tenant's own rows are the calls it makes. */
#ifndef ACP_HUB_H
#define ACP_HUB_H

#include "pipeline.h"

enum { ACP_HUB_BODY_MAX = 4 << 20 }; /* of audit-ingest: 1000 events of 4 KiB */

/* The endpoints with their schemas compiled. */
struct acp_hub;

/* Returns NULL with a sentence in why. Release it with acp_hub_free. */
struct acp_hub *acp_hub_new(char *why, size_t why_size) ACP_MUSTCHECK;
void acp_hub_free(struct acp_hub *hub);

/* Is the hub enabled, and is this the kernel key? Takes constant time. NULL: the request has no key. */
bool acp_hub_key_ok(const struct acp_kernel *kernel, const char *bearer);

/* Finds an endpoint by its name ("tenants/create"). NULL: there is none. */
struct acp_hub_endpoint;
const struct acp_hub_endpoint *acp_hub_find(const struct acp_hub *hub, const char *name);

/* The endpoint's query parameters for a GET request, separated by spaces. NULL: the endpoint accepts only POST. */
const char *acp_hub_query_names(const struct acp_hub_endpoint *endpoint);

/* Runs one call whose kernel key was verified. query: the parameters of a GET request as strings (taken over), or NULL
 * for a POST request with a body. Never fails: errors are in the reply. */
void acp_hub_call(const struct acp_kernel *kernel, const struct acp_hub_endpoint *endpoint,
		  const struct acp_request *request, struct json_object *query, struct acp_reply *reply);

/* For OpenAPI: calls visit for each endpoint with its name, the schema of its body, the names of its query parameters
 * (or NULL), a summary and the status of a success. */
typedef void acp_hub_visit(void *arg, const char *name, const char *schema, const char *query, const char *summary,
			   int http);
void acp_hub_each(acp_hub_visit *visit, void *arg);

#endif
