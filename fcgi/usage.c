/* GET /api/usage?period=YYYY-MM - a tenant reads its usage (contract 2.1). Never billed, counted or refused by the
 * quota, and not a call of the router: it leaves a log line but no audit row. */
#include "auth.h"
#include "endpoints.h"
#include "envelope.h"

#include <ctype.h>

/* YYYY-MM with a month that exists; years that PostgreSQL and people understand. */
static bool period_ok(const char *period)
{
	static const char form[] = "dddd-dd";
	for (size_t i = 0; i < sizeof form - 1; i++)
		if (form[i] == 'd' ? !isdigit((unsigned char)period[i]) : period[i] != form[i])
			return false;
	long month = strtol(period + 5, NULL, 10);
	return period[7] == '\0' && month >= 1 && month <= 12 && period[0] != '0';
}

static enum acp_code fetch(const struct acp_kernel *kernel, const struct acp_http *http, const char *period,
			   struct acp_principal *caller, struct json_object **usage)
{
	const struct acp_control_plane *plane = kernel->plane;
	enum acp_code code = acp_authenticate(kernel, http->request.credential, caller);
	return code == ACP_OK ? plane->get_usage(plane->self, caller->tenant_id, period, usage) : code;
}

void acp_endpoint_usage(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	char period[16] = "";
	struct acp_principal caller = {0};
	struct acp_reply reply = {0};
	if (!kernel->plane->get_usage) {
		acp_http_error(http, ACP_NOT_FOUND, "this installation keeps no usage", response);
		return;
	}
	if (!acp_http_require_get(http, response))
		return;
	bool asked = strstr(http->query, "period") != NULL;
	if (asked && (!acp_http_query(http, "period", period, sizeof period) || !period_ok(period))) {
		reply.code = ACP_VALIDATION_ERROR;
		reply.body =
			acp_error_body(reply.code, http->request_id, "period must be a month like 2026-11", "/period");
	} else {
		reply.code = fetch(kernel, http, asked ? period : NULL, &caller, &reply.body);
	}
	if (reply.code == ACP_OK) {
		acp_json_add(reply.body, "ok", json_object_new_boolean(true));
		acp_json_add_string(reply.body, "request_id", http->request_id);
	} else if (!reply.body) {
		reply.body = acp_error_body(reply.code, http->request_id, "", "");
	}
	reply.http = acp_code_http(reply.code);
	reply.retry_after = reply.code == ACP_UNAVAILABLE ? 1 : 0;
	memcpy(reply.tenant_id, caller.tenant_id, sizeof reply.tenant_id);
	memcpy(reply.key_shown, caller.key_shown, sizeof reply.key_shown);
	acp_http_reply(http, &reply, response);
}
