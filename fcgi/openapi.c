/* GET /api/openapi.json - the description of this installation (openapi.c), created when the process starts; only
 * its prices are those of now. The format
 * is defined elsewhere, so request_id is only in the X-Request-Id header. */
#include "openapi.h"

#include "endpoints.h"

void acp_endpoint_openapi(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	if (!acp_http_require_get(http, response))
		return;
	if (!kernel->openapi) {
		acp_http_error(http, ACP_INTERNAL_ERROR, "", response);
		return;
	}
	response->status = 200;
	response->content_type = "application/json";
	response->code = acp_code_name(ACP_OK);
	acp_openapi_write(kernel, &response->body);
}
