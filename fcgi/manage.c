/* POST /api/manage - the router (pipeline.c). */
#include "endpoints.h"

static void answered(void *arg, struct acp_reply *reply)
{
	const struct acp_http *http = arg;
	acp_http_reply(http, reply, http->later.response);
	http->later.finish(http->later.exchange);
}

void acp_endpoint_manage(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	(void)response; /* the answer is written later, through http */
	*http->later.taken = true;
	acp_manage_later(http->later.call, kernel, &http->request, answered, (void *)http);
}
