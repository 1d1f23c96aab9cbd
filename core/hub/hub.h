/* hub.h - Repo B for other kernels: what is below /functions/v1/ (contract section 2.2), without HTTP.
 *
 * A kernel shows the setting kernel_key, which is no tenant's key and opens nothing else. Bodies are checked here, by
 * the schemas of the table in hub.c; the work is the control plane's. A call that changes something leaves one audit
 * row of the installation itself (nil tenant; whom it is about stands in result_meta): a tenant's own rows are the
 * calls it makes. */
#ifndef ACP_HUB_H
#define ACP_HUB_H

#include "pipeline.h"

enum { ACP_HUB_BODY_MAX = 4 << 20 }; /* of audit-ingest: 1000 events of 4 KiB */

/* The endpoints with their schemas compiled. */
struct acp_hub;

/* NULL with a sentence in why. Release after use. */
struct acp_hub *acp_hub_new(char *why, size_t why_size) ACP_MUSTCHECK;
void acp_hub_free(struct acp_hub *hub);

/* Is the hub offered, and is this the kernel key? The time it takes tells nothing of the key. NULL: none was shown. */
bool acp_hub_key_ok(const struct acp_kernel *kernel, const char *bearer);

/* The endpoint of a name ("tenants/create"), or NULL. */
struct acp_hub_endpoint;
const struct acp_hub_endpoint *acp_hub_find(const struct acp_hub *hub, const char *name);

/* The parameters that it takes from the query of a GET request, separated by spaces; NULL: it takes POST only. */
const char *acp_hub_query_names(const struct acp_hub_endpoint *endpoint);

/* Runs one call whose kernel key was right. query: the parameters of a GET request as strings (taken over), or NULL for
 * a POST request with a body. Never fails: what goes wrong is in the reply. */
void acp_hub_call(const struct acp_kernel *kernel, const struct acp_hub_endpoint *endpoint,
		  const struct acp_request *request, struct json_object *query, struct acp_reply *reply);

/* For OpenAPI: calls visit for each endpoint with its name, the schema of its body, the names of its query parameters
 * (or NULL), a sentence and the status of success. */
typedef void acp_hub_visit(void *arg, const char *name, const char *schema, const char *query, const char *summary,
			   int http);
void acp_hub_each(acp_hub_visit *visit, void *arg);

#endif
