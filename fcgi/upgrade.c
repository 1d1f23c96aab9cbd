/* GET /api/upgrade/checkout?tenant=…&exp=…&sig=… - the link that a human opens to add a card; POST for agents.
 * Without an executor (Stripe) there is nothing to check out: a good link is told so, a bad one is refused. */
#include "auth.h"
#include "endpoints.h"
#include "usage.h"

#include <time.h>

static bool good_link(const struct acp_kernel *kernel, const struct acp_http *http)
{
	char tenant[64];
	char expires[32];
	char signature[80];
	return acp_http_query(http, "tenant", tenant, sizeof tenant) &&
	       acp_http_query(http, "exp", expires, sizeof expires) &&
	       acp_http_query(http, "sig", signature, sizeof signature) &&
	       acp_upgrade_url_ok(kernel->config, tenant, expires, signature, (int64_t)time(NULL));
}

void acp_endpoint_upgrade(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	struct acp_principal caller;
	enum acp_code code = ACP_UNAVAILABLE;
	const char *error = "this installation takes no payments yet (Stripe is not configured); ask its operator";
	if (strcmp(http->method, "POST") == 0) {
		enum acp_code who = acp_authenticate(kernel, http->request.credential, &caller);
		if (who != ACP_OK) {
			code = who;
			error = "";
		}
	} else if (!acp_http_require_get(http, response)) {
		response->allow = "GET, HEAD, POST";
		return;
	} else if (!good_link(kernel, http)) {
		code = ACP_NOT_FOUND;
		error = "this upgrade link is not valid or has expired; ask the agent for a new one";
	}
	acp_http_error(http, code, error, response);
}
