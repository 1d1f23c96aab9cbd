/* POST /api/onboard/{product} (onboard.c). */
#include "onboard.h"

#include "endpoints.h"

void acp_endpoint_onboard(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	struct acp_reply reply;
	const char *product = http->path + strlen("/api/onboard/");
	if (!acp_onboard_offered(kernel, product)) {
		acp_http_nothing(http, kernel->config,
				 "no such product; GET %/llms.txt lists the products", response);
		return;
	}
	acp_onboard(kernel, &http->request, product, &reply);
	acp_http_reply(http, &reply, response);
}
