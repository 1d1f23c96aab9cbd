/* /healthz: this process answers. /readyz: it can do its work. */
#include "endpoints.h"

#include "log.h"

static void answer_ok(const struct acp_http *http, const char *status, struct acp_response *response)
{
	struct acp_reply reply = {.code = ACP_OK, .http = 200, .body = json_object_new_object()};
	if (reply.body) {
		acp_json_add(reply.body, "ok", json_object_new_boolean(true));
		acp_json_add_string(reply.body, "request_id", http->request_id);
		acp_json_add_string(reply.body, "status", status);
	}
	acp_http_reply(http, &reply, response);
}

void acp_endpoint_alive(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	(void)kernel;
	if (acp_http_require_get(http, response))
		answer_ok(http, "alive", response);
}

void acp_endpoint_ready(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	char why[512] = "";
	if (!acp_http_require_get(http, response))
		return;
	if (kernel->plane->ready(kernel->plane->self, why, sizeof why) == ACP_OK) {
		answer_ok(http, "ready", response);
		return;
	}
	/* The reason may name hosts and paths: it is for the operator. */
	acp_log(ACP_LOG_WARNING, "request %s: not ready: %s", http->request_id, why);
	acp_http_error(
		http, ACP_UNAVAILABLE,
		"not ready: the database is not reachable or its schema does not fit; the log of acp.fcgi says more",
		response);
}
