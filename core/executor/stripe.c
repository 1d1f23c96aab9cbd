#include "stripe.h"

#include "clock.h"
#include "crypto.h"
#include "form.h"
#include "log.h"
#include "outbound.h"
#include "retry.h"

enum {
	CONNECT_MS = 5000,
	FORM_MAX = 1 << 20,
	KEY_MAX = 255, /* Stripe's limit */
};

enum { SHOULD_RETRY, REPLAYED, RETRY_AFTER };

/* One request, built once and sent as often as needed. */
struct api_call {
	const char *method, *path;
	struct acp_buf url, form;
	char authorization[1024];
	char key[KEY_MAX + 1];
};

static int left_ms(const struct acp_stripe *stripe)
{
	uint64_t now = acp_monotonic_us();
	return now < stripe->deadline_us ? (int)((stripe->deadline_us - now) / 1000) : 0;
}

static bool is_plain(const char *text)
{
	for (; *text; text++)
		if (*text <= ' ' || *text > '~')
			return false;
	return true;
}

/* Makes "<key>" or "<key>:<step>". Replaces key with its hash if that is too long, or if key is not valid in a
 * header. */
static void make_key(const char *key, const char *step, char out[KEY_MAX + 1])
{
	char hash[ACP_SHA256_HEX];
	uint8_t bytes[ACP_SHA256_LEN];
	if (strlen(key) + strlen(step) + 1 > KEY_MAX || !is_plain(key)) {
		acp_sha256(key, strlen(key), bytes);
		acp_hex(bytes, sizeof bytes, hash);
		key = hash;
	}
	snprintf(out, KEY_MAX + 1, "%s%s%s", key, *step ? ":" : "", step);
}

static bool make_call(const struct acp_stripe *stripe, const char *method, const char *path, struct json_object *params,
		      const char *step, struct api_call *call)
{
	bool get = strcmp(method, "GET") == 0;
	*call = (struct api_call){.method = method, .path = path};
	acp_buf_init(&call->url, 8192);
	acp_buf_init(&call->form, FORM_MAX);
	acp_form_encode(params, &call->form);
	acp_buf_printf(&call->url, "%s%s", stripe->config->stripe_url, path);
	if (get && call->form.len > 0)
		acp_buf_printf(&call->url, "?%s", call->form.ptr);
	snprintf(call->authorization, sizeof call->authorization, "Bearer %s", stripe->config->stripe_key);
	if (!get)
		make_key(stripe->key, step, call->key);
	return acp_buf_ok(&call->url) && acp_buf_ok(&call->form);
}

static void release_call(struct api_call *call)
{
	acp_buf_release(&call->url);
	acp_buf_release(&call->form);
	acp_wipe(call->authorization, sizeof call->authorization);
}

static enum acp_outbound_result send_once(const struct acp_stripe *stripe, const struct api_call *call,
					  struct acp_outbound_reply *reply)
{
	int ms = left_ms(stripe);
	bool post = *call->key != '\0';
	const struct acp_header headers[] = {{"Authorization", call->authorization},
					     {"Stripe-Version", ACP_STRIPE_VERSION},
					     {"Content-Type", "application/x-www-form-urlencoded"},
					     {"Idempotency-Key", call->key}};
	const struct acp_outbound_request request = {
		.method = call->method,
		.url = call->url.ptr,
		.headers = headers,
		.header_count = post ? 4 : 2,
		.body = post ? call->form.ptr : NULL,
		.body_len = post ? call->form.len : 0,
		.connect_timeout_ms = ms < CONNECT_MS ? ms : CONNECT_MS,
		.timeout_ms = ms,
		.max_reply = ACP_STRIPE_REPLY_MAX,
		.allow_private = true, /* the operator set this address */
		.allow_http = strncmp(stripe->config->stripe_url, "http:", 5) == 0,
		.reply_headers = {"Stripe-Should-Retry", "Idempotent-Replayed", "Retry-After"},
		.keep_alive = true,
	};
	return acp_outbound_send(&request, reply);
}

struct json_object *acp_stripe_read(const char *text, size_t len)
{
	static const struct acp_json_limits limits = {ACP_STRIPE_REPLY_MAX, ACP_STRIPE_REPLY_DEPTH, UINT32_MAX};
	struct acp_json_error ignored;
	struct json_object *tree = NULL;
	if (len == 0 || acp_json_parse_by(ACP_JSON_ANY, text, len, &limits, &tree, &ignored) != ACP_JSON_OK)
		return NULL;
	if (json_object_is_type(tree, json_type_object))
		return tree;
	json_object_put(tree);
	return NULL;
}

/* Reports that no reply came, and logs the details for the operator. */
static bool fail_without_reply(struct acp_stripe *stripe, const struct api_call *call, enum acp_outbound_result result,
			       const struct acp_outbound_reply *reply)
{
	acp_log(ACP_LOG_WARNING, "stripe: %s %s: %s", call->method, call->path, reply->error);
	if (result == ACP_OUTBOUND_UNKNOWN)
		return acp_executed_fail(stripe->out, "UPSTREAM_FAILED", true,
					 "Stripe gave no usable reply; it may or may not have acted");
	return acp_executed_fail(stripe->out, "UNAVAILABLE", result != ACP_OUTBOUND_REFUSED,
				 "Stripe cannot be reached; nothing was done");
}

/* Reports an error reply with Stripe's own code and message. Replaces the message of a 401, because it mentions our
 * key. */
static bool fail_with_reply(struct acp_stripe *stripe, const struct api_call *call,
			    const struct acp_outbound_reply *reply)
{
	struct json_object *tree = acp_stripe_read(reply->body.ptr, reply->body.len);
	struct json_object *error = acp_json_member(tree, "error");
	const char *type = acp_json_string(error, "type");
	const char *code = acp_json_string(error, "code");
	const char *message = acp_json_string(error, "message");
	bool may_succeed = acp_retry_worth(reply->status, reply->headers[SHOULD_RETRY]);
	if (!code)
		code = type ? type : "UPSTREAM_FAILED";
	if (reply->status == 401)
		acp_executed_fail(stripe->out, code, true, "Stripe refuses the key of this installation (stripe_key)");
	else
		acp_executed_fail(stripe->out, code, may_succeed || reply->status >= 500, "%s",
				  message ? message : "Stripe answered with an error that cannot be read");
	acp_log(ACP_LOG_WARNING, "stripe: %s %s: %d %s: %s", call->method, call->path, reply->status,
		stripe->out->error_code, stripe->out->error);
	json_object_put(tree);
	return false;
}

/* Classifies the result of one attempt. *retry_ms: milliseconds to wait before a retry, or -1 for none. */
static bool classify(struct acp_stripe *stripe, const struct api_call *call, enum acp_outbound_result result,
		     const struct acp_outbound_reply *reply, struct json_object **out, int *retry_ms)
{
	bool replied = result == ACP_OUTBOUND_REPLIED;
	bool good = replied && reply->status >= 200 && reply->status < 300;
	stripe->out->status = replied ? reply->status : 0;
	stripe->replayed = replied && strcmp(reply->headers[REPLAYED], "true") == 0;
	*retry_ms = -1;
	if (good && (*out = acp_stripe_read(reply->body.ptr, reply->body.len)))
		return true;
	if (good)
		return acp_executed_fail(stripe->out, "UPSTREAM_FAILED", true, "Stripe's reply could not be read");
	/* Stripe replays a stored error for a day to requests with the same key, so an immediate retry is useless. */
	if (result != ACP_OUTBOUND_REFUSED && !stripe->replayed &&
	    acp_retry_worth(stripe->out->status, replied ? reply->headers[SHOULD_RETRY] : "")) {
		int seconds = replied ? acp_outbound_retry_after(reply->headers[RETRY_AFTER], (int64_t)time(NULL)) : 0;
		*retry_ms = seconds < 3600 ? seconds * 1000 : 0;
	}
	return replied ? fail_with_reply(stripe, call, reply) : fail_without_reply(stripe, call, result, reply);
}

static bool send_with_retries(struct acp_stripe *stripe, const struct api_call *call, struct json_object **out)
{
	for (int attempt = 1;; attempt++) {
		int retry_ms = 0;
		struct acp_outbound_reply reply;
		enum acp_outbound_result result = send_once(stripe, call, &reply);
		bool ok = classify(stripe, call, result, &reply, out, &retry_ms);
		acp_buf_release(&reply.body);
		if (ok || retry_ms < 0)
			return ok;
		int pause = acp_retry_pause_ms(attempt, acp_retry_chance());
		if (pause < retry_ms)
			pause = retry_ms;
		if (pause >= left_ms(stripe))
			return false;
		acp_retry_sleep(pause);
	}
}

bool acp_stripe_ask(struct acp_stripe *stripe, const char *method, const char *path, struct json_object *params,
		    const char *step, struct json_object **reply)
{
	struct api_call call;
	bool ok = make_call(stripe, method, path, params, step, &call);
	json_object_put(params);
	*reply = NULL;
	if (!ok)
		acp_executed_fail(stripe->out, "INTERNAL_ERROR", false, "the request to Stripe could not be made");
	else if (left_ms(stripe) < 1)
		ok = acp_executed_fail(stripe->out, "UNAVAILABLE", true, "no time was left for a request to Stripe");
	else
		ok = send_with_retries(stripe, &call, reply);
	release_call(&call);
	return ok;
}
