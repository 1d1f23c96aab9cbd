#include "upgrade.h"

#include "audit.h"
#include "clock.h"
#include "envelope.h"
#include "json.h"
#include "log.h"
#include "outbox.h"
#include "upgrade_link.h"

#include <strings.h>
#include <time.h>

enum {
	CHECKOUT_TIMEOUT_MS = 8000,
	CUSTOMER_TIMEOUT_MS = 6000,
	CUSTOMER_PAUSE_MS = 200, /* between two checks while another process creates the customer */
	CLICKS = 20,             /* per tenant and minute */
	WINDOW = 60,
};

struct upgrade {
	const struct acp_kernel *kernel;
	const struct acp_request *request;
	const struct acp_principal *who;
	const char *tenant_id;
	struct json_object *answer; /* the hub's answer to upgrade_begin */
	struct acp_checkout *out;
};

bool acp_upgrade_offered(const struct acp_kernel *kernel, const char **why_not)
{
	*why_not = *kernel->config->hub_url
			   ? "payments are made at the hub of this installation, not here; ask its operator"
			   : "this installation accepts no payments yet (Stripe is not configured); ask its operator";
	return acp_outbox_offered(kernel);
}

static enum acp_code fail(struct upgrade *up, enum acp_code code, const char *error)
{
	snprintf(up->out->error, sizeof up->out->error, "%s", error);
	up->out->retry_after = code == ACP_UPSTREAM_FAILED ? 10 : acp_code_retry_after(code);
	return code;
}

/* Calls a function of the control plane's payments. Releases what. */
static enum acp_code ask(struct upgrade *up, acp_plane_question *function, struct json_object *what,
			 struct json_object **reply)
{
	struct acp_refusal refusal = {0};
	enum acp_code code = what ? function(up->kernel->plane->self, what, reply, &refusal) : ACP_INTERNAL_ERROR;
	json_object_put(what);
	return code == ACP_OK ? code : fail(up, code, refusal.message);
}

static struct json_object *tenant_body(const struct upgrade *up)
{
	struct json_object *what = json_object_new_object();
	if (what && acp_json_add_string(what, "tenant_id", up->tenant_id))
		return what;
	json_object_put(what);
	return NULL;
}

/* Asks the hub for the next step. If the tenant has no customer at Stripe yet, creates one first. */
static enum acp_code begin(struct upgrade *up)
{
	const struct timespec pause = {.tv_nsec = CUSTOMER_PAUSE_MS * 1000000L};
	uint64_t deadline = acp_monotonic_us() + CUSTOMER_TIMEOUT_MS * UINT64_C(1000);
	for (;;) {
		json_object_put(up->answer);
		up->answer = NULL;
		enum acp_code code = ask(up, up->kernel->plane->payments.upgrade_begin, tenant_body(up), &up->answer);
		const char *obligation = acp_json_string(up->answer, "obligation");
		if (code != ACP_OK || !obligation)
			return code;
		int64_t left_ms = ((int64_t)deadline - (int64_t)acp_monotonic_us()) / 1000;
		enum acp_outbox_step step = left_ms <= 0 ? ACP_OUTBOX_FAILED
							 : acp_outbox_work_on(up->kernel, up->tenant_id, obligation,
									      up->request->request_id, (int)left_ms);
		if (step == ACP_OUTBOX_FAILED || step == ACP_OUTBOX_TROUBLE)
			return fail(up, ACP_UPSTREAM_FAILED,
				    "the payment service gave an unexpected answer; try again");
		if (step == ACP_OUTBOX_IDLE)
			nanosleep(&pause, NULL); /* another process is executing it */
	}
}

/* The URLs to which Stripe sends the human back. Every retry of an attempt has the same URLs; otherwise Stripe would
 * refuse the idempotency key. */
static bool add_urls(const struct upgrade *up, struct json_object *params)
{
	char link[512];
	char url[576];
	int64_t since = json_object_get_int64(acp_json_member(up->answer, "obliged_at"));
	acp_upgrade_url(up->kernel->config, up->tenant_id, since + up->kernel->config->upgrade_link_ttl * 86400, link);
	snprintf(url, sizeof url, "%s&checkout=done", link);
	bool ok = acp_json_add_string(params, "success_url", url);
	snprintf(url, sizeof url, "%s&checkout=cancelled", link);
	return ok && acp_json_add_string(params, "cancel_url", url);
}

static struct json_object *checkout_params(const struct upgrade *up)
{
	struct json_object *params = json_object_new_object();
	/* An attempt that an older version began has no currency, and must repeat its request without one. */
	const char *currency = acp_json_string(up->answer, "currency");
	if (params && acp_json_add_string(params, "tenant_uuid", up->tenant_id) &&
	    acp_json_add_string(params, "customer", acp_json_string(up->answer, "customer")) &&
	    (!currency || acp_json_add_string(params, "currency", currency)) && add_urls(up, params))
		return params;
	json_object_put(params);
	return NULL;
}

/* The audit row of an attempt. It belongs to the tenant; the actor is its key, or the human with the link. */
static struct json_object *attempt_event(const struct upgrade *up, bool opened)
{
	struct acp_event event;
	struct json_object *json = NULL;
	if (acp_audit_public_event(up->kernel, up->request, "upgrade.checkout", opened ? ACP_OK : ACP_UPSTREAM_FAILED,
				   "", NULL, &event)) {
		event.tenant_id = up->tenant_id;
		event.actor_type = up->who ? "api_key" : "user";
		event.actor_id = up->who ? up->who->key_shown : NULL;
		event.api_key_id = up->who ? up->who->api_key_id : NULL;
		json = acp_event_json(&event);
	}
	acp_event_release(&event);
	return json;
}

/* Is the URL safe? It goes into a header, and a browser follows it. */
static bool url_ok(const char *url)
{
	if (!url || strlen(url) >= sizeof((struct acp_checkout *)0)->url ||
	    (strncmp(url, "https://", 8) != 0 && strncmp(url, "http://", 7) != 0))
		return false;
	for (const char *c = url; *c; c++)
		if (*c <= ' ' || *c > '~')
			return false;
	return true;
}

static enum acp_code record(struct upgrade *up, const struct acp_executed *done)
{
	struct json_object *reply = NULL;
	const struct acp_plane_payments *payments = &up->kernel->plane->payments;
	struct json_object *result = tenant_body(up);
	const char *url = acp_json_string(done->data, "url");
	const char *id = acp_json_string(done->data, "id");
	bool opened = done->ok && id && url_ok(url) && acp_json_member(done->data, "expires_at");
	bool ok = result && acp_json_add(result, "attempt", json_object_get(acp_json_member(up->answer, "attempt"))) &&
		  acp_json_add(result, "event", attempt_event(up, opened));
	if (ok && opened)
		ok = acp_json_add_string(result, "session_id", id) && acp_json_add_string(result, "url", url) &&
		     acp_json_add(result, "expires_at", json_object_get(acp_json_member(done->data, "expires_at")));
	else if (ok)
		ok = acp_json_add(result, "unknown", json_object_new_boolean(done->retry && !done->status));
	if (!ok) { /* send nothing incomplete: the hub would mistake a missing member for Stripe's answer */
		json_object_put(result);
		result = NULL;
	}
	enum acp_code code = ask(up, opened ? payments->upgrade_opened : payments->upgrade_failed, result, &reply);
	const char *expiry = acp_json_string(reply, "expires_at");
	if (code == ACP_UNAVAILABLE && opened)
		code = fail(up, ACP_OUTCOME_UNKNOWN, ""); /* the session exists; a repeated call returns it */
	if (code == ACP_OK && opened && expiry) {
		snprintf(up->out->url, sizeof up->out->url, "%s", url);
		snprintf(up->out->expires_at, sizeof up->out->expires_at, "%s", expiry);
	} else if (code == ACP_OK) {
		acp_log(ACP_LOG_WARNING, "request %s: no checkout session for tenant %s: %s %s",
			up->request->request_id, up->tenant_id, done->error_code, done->error);
		code = fail(up, ACP_UPSTREAM_FAILED, "the payment service did not open a checkout; try again");
	}
	json_object_put(reply);
	return code;
}

static enum acp_code create(struct upgrade *up)
{
	struct acp_executed done = {0};
	const struct acp_executor *executor = up->kernel->executor;
	const struct acp_execution what = {
		.tenant_id = up->tenant_id,
		.action = "stripe.checkout.create",
		.params = checkout_params(up),
		.idempotency_key = acp_json_string(up->answer, "idempotency_key"),
		.obliged_at = json_object_get_int64(acp_json_member(up->answer, "obliged_at")),
		.request_id = up->request->request_id,
		.timeout_ms = CHECKOUT_TIMEOUT_MS,
	};
	if (!what.params)
		return ACP_INTERNAL_ERROR;
	executor->execute(executor->self, &what, &done);
	enum acp_code code = record(up, &done);
	json_object_put(what.params);
	acp_executed_release(&done);
	return code;
}

/* Limits the rate of clicks, because each one queries the hub, and perhaps Stripe. */
static enum acp_code check_rate(struct upgrade *up)
{
	char name[64];
	struct acp_rate rate;
	if (!up->kernel->limits)
		return ACP_OK;
	snprintf(name, sizeof name, "upgrade %s", up->tenant_id);
	acp_ratelimit_acquire(up->kernel->limits, name, CLICKS, WINDOW, acp_monotonic_us(), &rate);
	if (rate.allowed)
		return ACP_OK;
	fail(up, ACP_RATE_LIMITED, "too many checkout requests for this tenant; wait a minute");
	up->out->retry_after = (int)rate.reset;
	return ACP_RATE_LIMITED;
}

enum acp_code acp_upgrade(const struct acp_kernel *kernel, const struct acp_request *request,
			  const struct acp_principal *who, const char *tenant_id, struct acp_checkout *out)
{
	struct upgrade up = {.kernel = kernel, .request = request, .who = who, .tenant_id = tenant_id, .out = out};
	*out = (struct acp_checkout){0};
	enum acp_code code = check_rate(&up);
	if (code == ACP_OK)
		code = begin(&up);
	const char *verdict = code == ACP_OK ? acp_json_string(up.answer, "verdict") : NULL;
	if (verdict && strcmp(verdict, "paid") == 0) {
		code = fail(&up, ACP_ALREADY_PAID, "");
	} else if (verdict && strcmp(verdict, "open") == 0) {
		snprintf(out->url, sizeof out->url, "%s", acp_json_string(up.answer, "checkout_url"));
		snprintf(out->expires_at, sizeof out->expires_at, "%s", acp_json_string(up.answer, "expires_at"));
	} else if (code == ACP_OK) {
		code = create(&up);
	}
	json_object_put(up.answer);
	return code;
}

enum acp_code acp_upgrade_check_body(const struct acp_kernel *kernel, const struct acp_request *request,
				     const struct acp_principal *who, char error[256], char field[280])
{
	struct json_object *body = NULL;
	if (!request->body_len && !request->body_too_large && !request->body_broken && !request->body_lost)
		return ACP_OK;
	enum acp_code code =
		acp_body_parse(kernel->config, request, kernel->config->onboard_max_body_bytes, &body, error, field);
	struct json_object *member = acp_json_member(body, "tenant_uuid");
	const char *tenant = acp_json_string(body, "tenant_uuid");
	if (code == ACP_OK && !json_object_is_type(body, json_type_object)) {
		snprintf(error, 256, "the body must be a JSON object, or nothing");
		code = ACP_VALIDATION_ERROR;
	} else if (code == ACP_OK && member && (!tenant || !acp_is_uuid(tenant))) {
		snprintf(error, 256, "tenant_uuid must be a UUID");
		snprintf(field, 280, "/tenant_uuid");
		code = ACP_VALIDATION_ERROR;
	} else if (code == ACP_OK && tenant && strcasecmp(tenant, who->tenant_id) != 0) {
		snprintf(error, 256, "tenant_uuid is not the tenant of the API key");
		code = ACP_NOT_FOUND;
	}
	json_object_put(body);
	return code;
}
