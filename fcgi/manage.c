/* POST /api/manage - the router (core/pipeline.c). */
#include "endpoints.h"

void acp_endpoint_manage(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	struct acp_reply reply;
	acp_manage(kernel, &http->request, &reply);
	acp_http_reply(http, &reply, response);
}
