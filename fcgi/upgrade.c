/* GET /api/upgrade/checkout?tenant=…&exp=…&sig=… - the link that a human opens to add a card; POST for agents.
 * Without an executor (Stripe) there is nothing to check out: a good link is told so, a bad one is refused. */
#include "usage.h"

#include "endpoints.h"

#include <time.h>

void acp_endpoint_upgrade(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	char tenant[64];
	char expires[32];
	char signature[80];
	bool posted = strcmp(http->method, "POST") == 0;
	if (!posted && !acp_http_require_get(http, response)) {
		response->allow = "GET, HEAD, POST";
		return;
	}
	bool good = posted || (acp_http_query(http, "tenant", tenant, sizeof tenant) &&
	                       acp_http_query(http, "exp", expires, sizeof expires) &&
	                       acp_http_query(http, "sig", signature, sizeof signature) &&
	                       acp_upgrade_url_ok(kernel->config, tenant, expires, signature, (int64_t)time(NULL)));
	if (!good)
		acp_http_error(http, ACP_NOT_FOUND, "this upgrade link is not valid or has expired; ask the agent for a new one",
		               response);
	else
		acp_http_error(http, ACP_UNAVAILABLE, "this installation takes no payments yet (Stripe is not configured); ask its operator",
		               response);
}
