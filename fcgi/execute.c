/* POST /functions/v1/execute - Repo C for other kernels (execute.c). */
#include "execute.h"

#include "endpoints.h"

void acp_endpoint_execute(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	struct acp_reply reply;
	if (!acp_execute_offered(kernel)) {
		acp_http_error(http, ACP_NOT_FOUND, "no such path", response);
	} else if (!acp_execute_key_ok(kernel, http->bearer)) {
		acp_http_error(http, ACP_INVALID_API_KEY,
			       "executor key missing or not valid; send it as Authorization: Bearer", response);
	} else if (strcmp(http->method, "POST") != 0) {
		response->allow = "POST";
		acp_http_error(http, ACP_METHOD_NOT_ALLOWED, "use POST here", response);
	} else {
		acp_execute_call(kernel, &http->request, &reply);
		acp_http_reply(http, &reply, response);
	}
}
