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
	REPLY_MAX = 8 << 20, /* a page of a hundred invoices */
	KEY_MAX = 255,       /* Stripe's limit */
};

enum { SHOULD_RETRY, REPLAYED, RETRY_AFTER };

/* One request, built once and sent as often as needed. */
struct question {
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

/* "<key>" or "<key>:<step>". If that is too long or not valid in a header, uses its hash. */
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

static bool make_question(const struct acp_stripe *stripe, const char *method, const char *path,
			  struct json_object *params, const char *step, struct question *q)
{
	bool get = strcmp(method, "GET") == 0;
	*q = (struct question){.method = method, .path = path};
	acp_buf_init(&q->url, 8192);
	acp_buf_init(&q->form, FORM_MAX);
	acp_form_encode(params, &q->form);
	acp_buf_printf(&q->url, "%s%s", stripe->config->stripe_url, path);
	if (get && q->form.len > 0)
		acp_buf_printf(&q->url, "?%s", q->form.ptr);
	snprintf(q->authorization, sizeof q->authorization, "Bearer %s", stripe->config->stripe_key);
	if (!get)
		make_key(stripe->key, step, q->key);
	return acp_buf_ok(&q->url) && acp_buf_ok(&q->form);
}

static void release_question(struct question *q)
{
	acp_buf_release(&q->url);
	acp_buf_release(&q->form);
	acp_wipe(q->authorization, sizeof q->authorization);
}

static enum acp_outbound_result send_once(const struct acp_stripe *stripe, const struct question *q,
					  struct acp_outbound_reply *reply)
{
	int ms = left_ms(stripe);
	bool post = *q->key != '\0';
	const struct acp_header headers[] = {{"Authorization", q->authorization},
					     {"Stripe-Version", ACP_STRIPE_VERSION},
					     {"Content-Type", "application/x-www-form-urlencoded"},
					     {"Idempotency-Key", q->key}};
	const struct acp_outbound_request request = {
		.method = q->method,
		.url = q->url.ptr,
		.headers = headers,
		.header_count = post ? 4 : 2,
		.body = post ? q->form.ptr : NULL,
		.body_len = post ? q->form.len : 0,
		.connect_timeout_ms = ms < CONNECT_MS ? ms : CONNECT_MS,
		.timeout_ms = ms,
		.max_reply = REPLY_MAX,
		.allow_private = true, /* the operator set this address */
		.allow_http = strncmp(stripe->config->stripe_url, "http:", 5) == 0,
		.reply_headers = {"Stripe-Should-Retry", "Idempotent-Replayed", "Retry-After"},
		.keep_alive = true,
	};
	return acp_outbound_send(&request, reply);
}

static struct json_object *read_reply(const struct acp_outbound_reply *reply)
{
	const struct acp_json_limits limits = {REPLY_MAX, 64, 2000000};
	struct acp_json_error ignored;
	struct json_object *tree = NULL;
	if (reply->body.len == 0 ||
	    acp_json_parse(reply->body.ptr, reply->body.len, &limits, &tree, &ignored) != ACP_JSON_OK)
		return NULL;
	if (json_object_is_type(tree, json_type_object))
		return tree;
	json_object_put(tree);
	return NULL;
}

/* No reply came. Logs the details for the operator. */
static bool fail_silent(struct acp_stripe *stripe, const struct question *q, enum acp_outbound_result result,
			const struct acp_outbound_reply *reply)
{
	acp_log(ACP_LOG_WARNING, "stripe: %s %s: %s", q->method, q->path, reply->error);
	if (result == ACP_OUTBOUND_UNKNOWN)
		return acp_executed_fail(stripe->out, "UPSTREAM_FAILED", true,
					 "Stripe gave no usable reply; whether it acted is not known");
	return acp_executed_fail(stripe->out, "UNAVAILABLE", result != ACP_OUTBOUND_REFUSED,
				 "Stripe cannot be reached; nothing was done");
}

/* An error reply: keeps Stripe's own code and message, except where they mention our key. */
static bool fail_answered(struct acp_stripe *stripe, const struct question *q, const struct acp_outbound_reply *reply)
{
	struct json_object *tree = read_reply(reply);
	struct json_object *error = acp_json_member(tree, "error");
	const char *type = acp_json_string(error, "type");
	const char *code = acp_json_string(error, "code");
	const char *message = acp_json_string(error, "message");
	bool worth = acp_retry_worth(reply->status, reply->headers[SHOULD_RETRY]);
	if (!code)
		code = type ? type : "UPSTREAM_FAILED";
	if (reply->status == 401)
		acp_executed_fail(stripe->out, code, true, "Stripe refuses the key of this installation (stripe_key)");
	else
		acp_executed_fail(stripe->out, code, worth || reply->status >= 500, "%s",
				  message ? message : "Stripe answered with an error that cannot be read");
	acp_log(ACP_LOG_WARNING, "stripe: %s %s: %d %s: %s", q->method, q->path, reply->status, stripe->out->error_code,
		stripe->out->error);
	json_object_put(tree);
	return false;
}

/* Classifies the result of one attempt. *again: milliseconds to wait before a retry, or -1 for none. */
static bool classify(struct acp_stripe *stripe, const struct question *q, enum acp_outbound_result result,
		     const struct acp_outbound_reply *reply, struct json_object **out, int *again)
{
	bool replied = result == ACP_OUTBOUND_REPLIED;
	bool good = replied && reply->status >= 200 && reply->status < 300;
	stripe->out->status = replied ? reply->status : 0;
	*again = -1;
	if (good && (*out = read_reply(reply)))
		return true;
	if (good)
		return acp_executed_fail(stripe->out, "UPSTREAM_FAILED", true, "Stripe's reply could not be read");
	/* Stripe replays a stored error under the same key for a day, so retrying at once is useless. */
	bool stored = replied && strcmp(reply->headers[REPLAYED], "true") == 0;
	if (result != ACP_OUTBOUND_REFUSED && !stored &&
	    acp_retry_worth(stripe->out->status, replied ? reply->headers[SHOULD_RETRY] : "")) {
		long seconds = replied ? strtol(reply->headers[RETRY_AFTER], NULL, 10) : 0;
		*again = seconds > 0 && seconds < 3600 ? (int)seconds * 1000 : 0;
	}
	return replied ? fail_answered(stripe, q, reply) : fail_silent(stripe, q, result, reply);
}

static bool ask(struct acp_stripe *stripe, const struct question *q, struct json_object **out)
{
	for (int attempt = 1;; attempt++) {
		int again = 0;
		struct acp_outbound_reply reply;
		enum acp_outbound_result result = send_once(stripe, q, &reply);
		bool ok = classify(stripe, q, result, &reply, out, &again);
		acp_buf_release(&reply.body);
		if (ok || again < 0)
			return ok;
		int pause = acp_retry_pause_ms(attempt, acp_retry_chance());
		if (pause < again)
			pause = again;
		if (pause >= left_ms(stripe))
			return false;
		acp_retry_sleep(pause);
	}
}

bool acp_stripe_ask(struct acp_stripe *stripe, const char *method, const char *path, struct json_object *params,
		    const char *step, struct json_object **reply)
{
	struct question q;
	bool ok = make_question(stripe, method, path, params, step, &q);
	json_object_put(params);
	*reply = NULL;
	if (!ok)
		acp_executed_fail(stripe->out, "INTERNAL_ERROR", false, "the request to Stripe could not be made");
	else if (left_ms(stripe) < 1)
		ok = acp_executed_fail(stripe->out, "UNAVAILABLE", true, "there was no time left to ask Stripe");
	else
		ok = ask(stripe, &q, reply);
	release_question(&q);
	return ok;
}
