/* GET /api/usage?period=YYYY-MM and GET /api/billing/invoice?period=YYYY-MM - a tenant reads its usage and its invoice
 * (contract 2.1). These requests are never billed, counted or refused by the quota. They are not calls of the router:
 * they leave a log line, but no audit row. */
#include "auth.h"
#include "clock.h"
#include "endpoints.h"
#include "envelope.h"

#include <ctype.h>

bool acp_period_ok(const char *period)
{
	static const char form[] = "dddd-dd";
	for (size_t i = 0; i < sizeof form - 1; i++)
		if (form[i] == 'd' ? !isdigit((unsigned char)period[i]) : period[i] != form[i])
			return false;
	long month = strtol(period + 5, NULL, 10);
	return period[7] == '\0' && month >= 1 && month <= 12 && period[0] != '0';
}

/* A function of the control plane that reads a tenant's month. */
typedef enum acp_code get_month(void *self, const char *tenant_id, const char *period, struct json_object **out);

/* These requests read many rows, so each tenant has a limit of its own for them. */
static enum acp_code check_rate(const struct acp_kernel *kernel, const struct acp_principal *caller,
				struct acp_rate *rate)
{
	char name[64];
	int64_t limit = kernel->config->rate_limit_reads / kernel->config->rate_limit_hosts;
	if (!kernel->limits)
		return ACP_OK;
	snprintf(name, sizeof name, "reads %s", caller->tenant_id);
	acp_ratelimit_acquire(kernel->limits, name, limit > 0 ? limit : 1, 60, acp_monotonic_us(), rate);
	return rate->allowed ? ACP_OK : ACP_RATE_LIMITED;
}

static enum acp_code fetch(const struct acp_kernel *kernel, const struct acp_http *http, get_month *get,
			   const char *period, struct acp_principal *caller, struct acp_reply *reply)
{
	enum acp_code code = acp_authenticate(kernel, http->request.credential, caller);
	if (code == ACP_OK && (code = check_rate(kernel, caller, &reply->rate)) != ACP_OK)
		reply->retry_after = (int)reply->rate.reset;
	return code == ACP_OK ? get(kernel->plane->self, caller->tenant_id, period, &reply->body) : code;
}

/* Adds the scopes of the calling key, so that a client can avoid calls that would be refused and audited. */
static void add_scopes(struct json_object *reply, const char *scopes)
{
	struct json_object *list = json_object_new_array();
	for (const char *word = scopes; list && *(word += strspn(word, " ")); word += strcspn(word, " "))
		json_object_array_add(list, json_object_new_string_len(word, (int)strcspn(word, " ")));
	acp_json_add(reply, "scopes", list);
}

static void answer(const struct acp_kernel *kernel, const struct acp_http *http, get_month *get,
		   struct acp_response *response)
{
	char period[16] = "";
	struct acp_principal caller = {0};
	struct acp_reply reply = {0};
	if (!acp_http_require_get(http, response))
		return;
	bool asked = acp_http_query_has(http, "period");
	if (asked && (!acp_http_query(http, "period", period, sizeof period) || !acp_period_ok(period))) {
		reply.code = ACP_VALIDATION_ERROR;
		reply.body =
			acp_error_body(reply.code, http->request_id, "period must be a month like 2026-11", "/period");
	} else {
		reply.code = fetch(kernel, http, get, asked ? period : NULL, &caller, &reply);
	}
	if (reply.code == ACP_OK) {
		if (get == kernel->plane->usage.get)
			add_scopes(reply.body, caller.scopes);
		acp_json_add(reply.body, "ok", json_object_new_boolean(true));
		acp_json_add_string(reply.body, "request_id", http->request_id);
	} else if (!reply.body) {
		reply.body = acp_error_body(reply.code, http->request_id, "", "");
	}
	reply.http = acp_code_http(reply.code);
	if (!reply.retry_after)
		reply.retry_after = acp_code_retry_after(reply.code);
	memcpy(reply.tenant_id, caller.tenant_id, sizeof reply.tenant_id);
	memcpy(reply.key_shown, caller.key_shown, sizeof reply.key_shown);
	acp_http_reply(http, &reply, response);
}

void acp_endpoint_usage(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	if (kernel->plane->usage.get)
		answer(kernel, http, kernel->plane->usage.get, response);
	else
		acp_http_error(http, ACP_NOT_FOUND, "this installation does not record usage", response);
}

void acp_endpoint_invoice(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	if (kernel->plane->payments.get_invoice)
		answer(kernel, http, kernel->plane->payments.get_invoice, response);
	else
		acp_http_error(http, ACP_NOT_FOUND, "this installation does not bill", response);
}
