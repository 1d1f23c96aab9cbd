/* /api/upgrade/checkout: POST is for an agent. GET ?tenant=…&exp=…&sig=… is the link that its human opens to add a card
 * (upgrade.c). Stripe sends the human back to the same path (&checkout=done, &checkout=cancelled). Browsers get
 * HTML. */
#include "upgrade.h"

#include "auth.h"
#include "endpoints.h"
#include "envelope.h"
#include "upgrade_link.h"

#include <time.h>

static bool good_link(const struct acp_kernel *kernel, const struct acp_http *http, char tenant[64])
{
	char expires[32];
	char signature[80];
	return acp_http_query(http, "tenant", tenant, 64) && acp_http_query(http, "exp", expires, sizeof expires) &&
	       acp_http_query(http, "sig", signature, sizeof signature) &&
	       acp_upgrade_url_ok(kernel->config, tenant, expires, signature, (int64_t)time(NULL));
}

/* Writes a page with a heading and a sentence. Both are our own texts; nothing comes from the request. */
static void page(struct acp_response *response, const char *title, const char *sentence)
{
	static const char head[] =
		"<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
		"<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>%s</title>\n"
		"<style>body{font:1.1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1rem}"
		"</style>\n</head>\n<body>\n<h1>%s</h1>\n<p>%s</p>\n</body>\n</html>\n";
	acp_buf_clear(&response->body);
	acp_buf_printf(&response->body, head, title, title, sentence);
	response->content_type = "text/html; charset=utf-8";
}

/* Reports an error, in HTML or JSON. */
static void answer_error(const struct acp_http *http, enum acp_code code, const char *error, int retry_after,
			 struct acp_response *response)
{
	struct acp_reply reply = {.code = code, .http = acp_code_http(code), .retry_after = retry_after};
	char sentence[320];
	snprintf(sentence, sizeof sentence, "%s.", *error ? error : acp_code_sentence(code));
	reply.body = acp_error_body(code, http->request_id, error, "");
	reply.allow = response->allow;
	acp_http_reply(http, &reply, response);
	if (!http->wants_html)
		return;
	*sentence = *sentence >= 'a' && *sentence <= 'z' ? (char)(*sentence - 'a' + 'A') : *sentence;
	page(response, code == ACP_ALREADY_PAID ? "Nothing to do" : "This did not work", sentence);
}

/* Answers when Stripe sends the human back. */
static void answer_return(const struct acp_http *http, bool done, struct acp_response *response)
{
	struct acp_reply reply = {.code = ACP_OK, .http = 200, .body = json_object_new_object()};
	acp_json_add(reply.body, "ok", json_object_new_boolean(true));
	acp_json_add_string(reply.body, "request_id", http->request_id);
	acp_json_add_string(reply.body, "checkout", done ? "done" : "cancelled");
	acp_http_reply(http, &reply, response);
	if (!http->wants_html)
		return;
	if (done)
		page(response, "Thank you",
		     "The payment method was received. The agent can continue within seconds; you can close this "
		     "page.");
	else
		page(response, "Not finished",
		     "No payment method was added, and nothing is charged. The link you came from works until it "
		     "expires.");
}

static void answer_link(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	char tenant[64];
	char where[16];
	const char *why_not;
	struct acp_checkout checkout = {0};
	if (!good_link(kernel, http, tenant)) {
		/* Only agents send a key. */
		bool agent = http->request.credential && !acp_http_query_has(http, "sig");
		answer_error(http, ACP_NOT_FOUND,
			     agent ? "GET is for the signed link of a human; with an API key use POST here"
				   : "this upgrade link is not valid or has expired; ask the agent for a new one",
			     0, response);
		return;
	}
	if (!acp_upgrade_offered(kernel, &why_not)) {
		answer_error(http, ACP_UNAVAILABLE, why_not, 1, response);
		return;
	}
	if (acp_http_query(http, "checkout", where, sizeof where)) {
		answer_return(http, strcmp(where, "done") == 0, response);
		return;
	}
	snprintf(response->tenant_id, sizeof response->tenant_id, "%.36s", tenant);
	enum acp_code code = acp_upgrade(kernel, &http->request, NULL, tenant, &checkout);
	if (code != ACP_OK) {
		answer_error(http, code, checkout.error, checkout.retry_after, response);
	} else {
		struct acp_reply reply = {.code = ACP_OK, .http = 303, .body = json_object_new_object()};
		acp_json_add(reply.body, "ok", json_object_new_boolean(true));
		acp_json_add_string(reply.body, "request_id", http->request_id);
		acp_json_add_string(reply.body, "checkout_url", checkout.url);
		acp_json_add_string(reply.body, "expires_at", checkout.expires_at);
		acp_http_reply(http, &reply, response);
		snprintf(response->location, sizeof response->location, "%s", checkout.url);
	}
	snprintf(response->tenant_id, sizeof response->tenant_id, "%.36s", tenant);
}

static void answer_agent(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	char field[280] = "";
	const char *why_not;
	struct acp_principal caller = {0};
	struct acp_checkout checkout = {0};
	struct acp_reply reply = {.code = acp_authenticate(kernel, http->request.credential, &caller)};
	if (reply.code == ACP_OK)
		reply.code = acp_upgrade_check_body(kernel, &http->request, &caller, checkout.error, field);
	if (reply.code == ACP_OK && !acp_upgrade_offered(kernel, &why_not)) {
		reply.code = ACP_UNAVAILABLE;
		checkout.retry_after = 1;
		snprintf(checkout.error, sizeof checkout.error, "%s", why_not);
	}
	if (reply.code == ACP_OK)
		reply.code = acp_upgrade(kernel, &http->request, &caller, caller.tenant_id, &checkout);
	if (reply.code == ACP_OK && (reply.body = json_object_new_object())) {
		acp_json_add(reply.body, "ok", json_object_new_boolean(true));
		acp_json_add_string(reply.body, "request_id", http->request_id);
		acp_json_add_string(reply.body, "checkout_url", checkout.url);
		acp_json_add_string(reply.body, "expires_at", checkout.expires_at);
	} else if (reply.code != ACP_OK) {
		reply.body = acp_error_body(reply.code, http->request_id, checkout.error, field);
	}
	reply.http = acp_code_http(reply.code);
	reply.retry_after = checkout.retry_after ? checkout.retry_after : acp_code_retry_after(reply.code);
	memcpy(reply.tenant_id, caller.tenant_id, sizeof reply.tenant_id);
	memcpy(reply.key_shown, caller.key_shown, sizeof reply.key_shown);
	acp_http_reply(http, &reply, response);
}

void acp_endpoint_upgrade(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	if (strcmp(http->method, "POST") == 0)
		answer_agent(kernel, http, response);
	else if (acp_http_require_get(http, response))
		answer_link(kernel, http, response);
	else
		response->allow = "GET, HEAD, POST";
}
