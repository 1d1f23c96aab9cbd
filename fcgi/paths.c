#include "endpoints.h"

#include "hub.h"
#include "stripe_events.h"

#include <time.h>

static const struct {
	const char *path; /* a trailing '/' matches everything below */
	acp_endpoint *answer;
} paths[] = {
	{"/api/manage", acp_endpoint_manage},
	{"/api/onboard/", acp_endpoint_onboard},
	{"/api/usage", acp_endpoint_usage},
	{"/api/billing/invoice", acp_endpoint_invoice},
	{"/api/upgrade/checkout", acp_endpoint_upgrade},
	{"/api/webhooks/stripe", acp_endpoint_stripe},
	{"/api/openapi.json", acp_endpoint_openapi},
	{"/functions/v1/execute", acp_endpoint_execute},
	{"/functions/v1/", acp_endpoint_hub},
	{"/llms.txt", acp_endpoint_llms},
	{"/.well-known/api-catalog", acp_endpoint_catalog},
	{"/console", acp_endpoint_console},
	{"/console/operator/", acp_endpoint_operator},
	{"/console/", acp_endpoint_console},
	{"/healthz", acp_endpoint_alive},
	{"/readyz", acp_endpoint_ready},
	{"/metrics", acp_endpoint_metrics},
};

const char *const *acp_paths_names(void)
{
	static const char *names[ACP_COUNT(paths) + 2];
	_Static_assert(ACP_COUNT(names) <= ACP_METRICS_ENDPOINTS + 1, "metrics have a place for every endpoint");
	for (size_t i = 0; i < ACP_COUNT(paths); i++)
		names[i] = paths[i].path;
	names[ACP_COUNT(paths)] = "other";
	return names;
}

size_t acp_paths_body_max(const struct acp_kernel *kernel, const struct acp_http *http)
{
	size_t usual = (size_t)kernel->config->max_body_bytes;
	bool kernels = strncmp(http->path, "/functions/v1/", 14) == 0 && acp_hub_key_ok(kernel, http->bearer);
	bool stripe = strcmp(http->path, "/api/webhooks/stripe") == 0 && acp_stripe_events_offered(kernel) &&
		      acp_stripe_signature_plausible(http->stripe_signature, (int64_t)time(NULL));
	size_t more = kernels ? ACP_HUB_BODY_MAX : stripe ? ACP_STRIPE_BODY_MAX : 0;
	return usual < more ? more : usual;
}

void acp_paths_answer(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	for (size_t i = 0; i < ACP_COUNT(paths); i++) {
		size_t len = strlen(paths[i].path);
		bool below = paths[i].path[len - 1] == '/';
		if (below ? strncmp(http->path, paths[i].path, len) == 0 : strcmp(http->path, paths[i].path) == 0) {
			response->endpoint = i;
			paths[i].answer(kernel, http, response);
			return;
		}
	}
	response->endpoint = ACP_COUNT(paths);
	acp_http_nothing(http, kernel->config, "no such path; GET %/llms.txt lists the paths", response);
}
