/* /healthz: this process answers. /readyz: it can do its work. */
#include "endpoints.h"

#include "log.h"

static struct json_object *healthy(const struct acp_http *http, const char *status)
{
	struct json_object *body = json_object_new_object();
	if (body) {
		acp_json_add(body, "ok", json_object_new_boolean(true));
		acp_json_add_string(body, "request_id", http->request_id);
		acp_json_add_string(body, "status", status);
	}
	return body;
}

static void answer_ok(const struct acp_http *http, struct json_object *body, struct acp_response *response)
{
	struct acp_reply reply = {.code = ACP_OK, .http = 200, .body = body};
	acp_http_reply(http, &reply, response);
}

/* For acpctl doctor: shows how the web server passed this request on. Reveals only what the caller sent. */
static struct json_object *received(const struct acp_http *http)
{
	struct json_object *got = json_object_new_object();
	if (got) {
		acp_json_add(got, "authorization", json_object_new_boolean(http->bearer != NULL));
		acp_json_add(got, "x_api_key", json_object_new_boolean(http->request.credential && !http->bearer));
		acp_json_add(got, "forwarded_for", json_object_new_boolean(http->forwarded));
		acp_json_add_string(got, "address", *http->address ? http->address : NULL);
	}
	return got;
}

void acp_endpoint_alive(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	(void)kernel;
	if (!acp_http_require_get(http, response))
		return;
	struct json_object *body = healthy(http, "alive");
	if (body && acp_http_query_has(http, "received"))
		acp_json_add(body, "received", received(http));
	answer_ok(http, body, response);
}

void acp_endpoint_ready(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	char why[512] = "";
	if (!acp_http_require_get(http, response))
		return;
	if (kernel->plane->upkeep.ready(kernel->plane->self, why, sizeof why) == ACP_OK) {
		answer_ok(http, healthy(http, "ready"), response);
		return;
	}
	/* The reason may name hosts and paths, so it is only for the operator. */
	acp_log(ACP_LOG_WARNING, "request %s: not ready: %s", http->request_id, why);
	acp_http_error(http, ACP_UNAVAILABLE,
		       "not ready: the database is not reachable or its schema does not fit; see the log of acp.fcgi",
		       response);
}
