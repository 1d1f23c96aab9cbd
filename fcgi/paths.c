#include "endpoints.h"

#include "hub.h"

static const struct {
	const char *path; /* ends with '/': everything below it */
	acp_endpoint *answer;
} paths[] = {
	{"/api/manage", acp_endpoint_manage},
	{"/api/onboard/", acp_endpoint_onboard},
	{"/api/usage", acp_endpoint_usage},
	{"/api/upgrade/checkout", acp_endpoint_upgrade},
	{"/api/openapi.json", acp_endpoint_openapi},
	{"/functions/v1/", acp_endpoint_hub},
	{"/healthz", acp_endpoint_alive},
	{"/readyz", acp_endpoint_ready},
};

size_t acp_paths_body_max(const struct acp_kernel *kernel, const struct acp_http *http)
{
	size_t usual = (size_t)kernel->config->max_body_bytes;
	bool kernels = strncmp(http->path, "/functions/v1/", 14) == 0 && acp_hub_key_ok(kernel, http->bearer);
	return kernels && usual < ACP_HUB_BODY_MAX ? ACP_HUB_BODY_MAX : usual;
}

void acp_paths_answer(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	for (size_t i = 0; i < ACP_COUNT(paths); i++) {
		size_t len = strlen(paths[i].path);
		bool below = paths[i].path[len - 1] == '/';
		if (below ? strncmp(http->path, paths[i].path, len) == 0 : strcmp(http->path, paths[i].path) == 0) {
			paths[i].answer(kernel, http, response);
			return;
		}
	}
	acp_http_error(http, ACP_NOT_FOUND, "there is nothing at this path", response);
}
