/* GET /llms.txt, GET /.well-known/api-catalog - for agents that know only the address (agents.h). The formats are
 * defined elsewhere, so request_id is only in the X-Request-Id header. */
#include "agents.h"

#include "endpoints.h"

static void answer(void (*make)(const struct acp_kernel *kernel, struct acp_buf *out), const char *content_type,
		   const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	if (!acp_http_require_get(http, response))
		return;
	make(kernel, &response->body);
	if (!acp_buf_ok(&response->body)) {
		acp_buf_clear(&response->body);
		acp_http_error(http, ACP_INTERNAL_ERROR, "", response);
		return;
	}
	response->status = 200;
	response->content_type = content_type;
	response->code = acp_code_name(ACP_OK);
}

void acp_endpoint_llms(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	answer(acp_llms_text, "text/plain; charset=utf-8", kernel, http, response);
}

void acp_endpoint_catalog(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	answer(acp_api_catalog, "application/linkset+json; profile=\"https://www.rfc-editor.org/info/rfc9727\"", kernel,
	       http, response);
}
