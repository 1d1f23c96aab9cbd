#include "stripe_events.h"

#include "audit.h"
#include "envelope.h"
#include "json.h"
#include "log.h"
#include "stripe_signature.h"

#include <time.h>

enum { TEXT_MAX = 255, DEPTH_MAX = 1000 };

struct delivery {
	const struct acp_kernel *kernel;
	const struct acp_request *request;
	struct json_object *event;
	const char *type;
	int64_t created; /* seconds since 1970 */
	enum acp_code code;
	char error[256];
	char field[280];
};

static enum acp_code refuse(struct delivery *d, enum acp_code code, const char *field, const char *error)
{
	snprintf(d->error, sizeof d->error, "%s", error);
	snprintf(d->field, sizeof d->field, "%s", field);
	return d->code = code;
}

bool acp_stripe_events_offered(const struct acp_kernel *kernel)
{
	return *kernel->config->stripe_webhook_secret && kernel->plane->payments.stripe_event;
}

/* Checks the signature of the raw bytes first: an unsigned body is not even parsed as JSON. */
static enum acp_code check_signature(struct delivery *d, const char *signature)
{
	const struct acp_request *request = d->request;
	if (strcmp(request->method, "POST") != 0)
		return refuse(d, ACP_METHOD_NOT_ALLOWED, "", "use POST here");
	if (request->body_too_large)
		return refuse(d, ACP_PAYLOAD_TOO_LARGE, "", "");
	if (request->body_lost)
		return refuse(d, ACP_INTERNAL_ERROR, "", "");
	if (request->body_broken)
		return refuse(d, ACP_VALIDATION_ERROR, "", "the body arrived incomplete");
	const char *fault = acp_stripe_signature_fault(d->kernel->config->stripe_webhook_secret, signature,
						       request->body, request->body_len, (int64_t)time(NULL));
	if (!fault)
		return ACP_OK;
	acp_log(ACP_LOG_WARNING, "request %s: refused an event that is not from Stripe: %s", request->request_id,
		fault);
	return refuse(d, ACP_VALIDATION_ERROR, "", fault);
}

/* Returns a text that Stripe may use for an id, a type or a word; NULL: it is something else, which is never stored. */
static const char *text_of(struct json_object *member)
{
	const char *text = json_object_is_type(member, json_type_string) ? json_object_get_string(member) : NULL;
	size_t len = text ? (size_t)json_object_get_string_len(member) : 0;
	for (size_t i = 0; i < len; i++)
		if (text[i] < ' ' || text[i] > '~')
			return NULL;
	return len > 0 && len <= TEXT_MAX ? text : NULL;
}

/* Reads the time of an event: seconds since 1970 or, in events of API v2, RFC 3339. An event without a usable one
 * happened now. */
static int64_t read_created(struct json_object *event)
{
	struct json_object *created = acp_json_member(event, "created");
	const char *text = acp_json_string(event, "created");
	int64_t seconds = json_object_is_type(created, json_type_int) ? json_object_get_int64(created) : 0;
	struct tm utc = {0};
	if (text && sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d", &utc.tm_year, &utc.tm_mon, &utc.tm_mday, &utc.tm_hour,
			   &utc.tm_min, &utc.tm_sec) == 6) {
		utc.tm_year -= 1900;
		utc.tm_mon -= 1;
		seconds = (int64_t)timegm(&utc);
	}
	return seconds >= 1 && seconds <= 99999999999 ? seconds : (int64_t)time(NULL);
}

/* Reads the signed bytes. Stripe vouches for them, so they need not be the strict JSON of other requests: an event is
 * accepted with whatever it holds, because Stripe would send a refused one again for days. */
static enum acp_code read_event(struct delivery *d)
{
	static const struct acp_json_limits limits = {SIZE_MAX, DEPTH_MAX, UINT32_MAX};
	struct acp_json_error ignored;
	enum acp_json_verdict verdict =
		acp_json_parse_by(ACP_JSON_ANY, d->request->body, d->request->body_len, &limits, &d->event, &ignored);
	if (verdict == ACP_JSON_NO_MEMORY)
		return refuse(d, ACP_INTERNAL_ERROR, "", acp_code_sentence(ACP_INTERNAL_ERROR));
	if (!json_object_is_type(d->event, json_type_object))
		return refuse(d, ACP_VALIDATION_ERROR, "", "the signed body is not a JSON object");
	if (!text_of(acp_json_member(d->event, "id")))
		return refuse(d, ACP_VALIDATION_ERROR, "/id", "/id must be the event's id");
	const char *type = text_of(acp_json_member(d->event, "type"));
	d->type = type ? type : "unknown";
	d->created = read_created(d->event);
	return ACP_OK;
}

/* Copies a string member of usable length. For a member expanded into an object, copies the object's id. */
static bool copy_text(struct json_object *out, const char *as_name, struct json_object *from, const char *name)
{
	struct json_object *member = acp_json_member(from, name);
	const char *text =
		text_of(json_object_is_type(member, json_type_object) ? acp_json_member(member, "id") : member);
	return !text || acp_json_member(out, as_name) || acp_json_add_string(out, as_name, text);
}

/* Copies an amount in minor units. */
static bool copy_amount(struct json_object *out, struct json_object *from, const char *name)
{
	struct json_object *member = acp_json_member(from, name);
	int64_t amount = json_object_get_int64(member);
	return !json_object_is_type(member, json_type_int) || amount < 0 || amount > 1000000000000000 ||
	       acp_json_add(out, name, json_object_new_int64(amount));
}

static bool add_flag(struct json_object *out, const char *name, bool value)
{
	return acp_json_add(out, name, json_object_new_boolean(value));
}

/* What an event about a customer says about its default payment method. Events of other changes also show it, but as it
 * was before a checkout's method became the default. */
static bool add_default(struct json_object *out, struct json_object *customer, struct json_object *before)
{
	static const char name[] = "default_payment_method";
	struct json_object *now = acp_json_member(customer, "invoice_settings");
	struct json_object *was = acp_json_member(before, "invoice_settings");
	bool told = json_object_object_get_ex(was, name, NULL);
	bool changed = told || (!before && json_object_object_get_ex(now, name, NULL));
	return copy_text(out, "customer", customer, "id") && add_flag(out, "default_changed", changed) &&
	       add_flag(out, "former_told", told) && copy_text(out, "default_method", now, name) &&
	       copy_text(out, "former_default", was, name);
}

/* Copies what links the object of an event to its payment and invoice, and its amounts. */
static bool add_money(struct json_object *out, struct json_object *object)
{
	static const char *const texts[] = {"invoice", "payment_intent", "charge"};
	struct json_object *payment = acp_json_member(object, "payment"); /* of an invoice_payment */
	bool ok = copy_amount(out, object, "amount") && copy_amount(out, object, "amount_refunded");
	for (size_t i = 0; ok && i < ACP_COUNT(texts); i++)
		ok = copy_text(out, texts[i], object, texts[i]) && copy_text(out, texts[i], payment, texts[i]);
	return ok;
}

/* Tells whether the object was made by another installation, which uses the same account. Older objects do not name
 * theirs. */
static bool add_foreign(struct json_object *out, struct json_object *object, const char *kernel_id)
{
	const char *named = acp_json_string(acp_json_member(object, "metadata"), "kernel_id");
	return add_flag(out, "foreign", named && strcmp(named, kernel_id) != 0);
}

/* The audit row of an accepted delivery; the hub adds the tenant. */
static struct json_object *audit_event(const struct delivery *d)
{
	struct acp_event event;
	struct json_object *json = NULL;
	if (acp_audit_public_event(d->kernel, d->request, "stripe.webhook", ACP_OK, "", NULL, &event)) {
		event.actor_type = "system";
		event.actor_id = "stripe";
		json = acp_event_json(&event);
	}
	acp_event_release(&event);
	return json;
}

/* Keeps only the parts of the event that its effect needs: names, addresses and cards stay out of the database. */
static struct json_object *extract_event(const struct delivery *d)
{
	struct json_object *event = d->event;
	struct json_object *data = acp_json_member(event, "data");
	struct json_object *object = acp_json_member(data, "object");
	struct json_object *before = acp_json_member(data, "previous_attributes");
	struct json_object *out = json_object_new_object();
	const char *kind = acp_json_string(object, "object");
	bool customer = kind && strcmp(kind, "customer") == 0;
	bool ok = out && acp_json_add_string(out, "event_id", acp_json_string(event, "id")) &&
		  acp_json_add_string(out, "type", d->type) &&
		  acp_json_add(out, "created", json_object_new_int64(d->created)) &&
		  add_flag(out, "livemode", acp_json_bool(event, "livemode")) &&
		  copy_text(out, "object_id", object, "id") &&
		  copy_text(out, "object_id", acp_json_member(event, "related_object"), "id") &&
		  copy_text(out, "customer", object, "customer") && copy_text(out, "customer", before, "customer") &&
		  (!customer || add_default(out, object, before)) && add_money(out, object) &&
		  copy_text(out, "client_reference_id", object, "client_reference_id") &&
		  copy_text(out, "tenant_uuid", acp_json_member(object, "metadata"), "tenant_uuid") &&
		  add_foreign(out, object, d->kernel->config->kernel_id) &&
		  copy_text(out, "setup_intent", object, "setup_intent") && copy_text(out, "mode", object, "mode") &&
		  copy_text(out, "status", object, "status") &&
		  acp_json_add(out, "grace_days", json_object_new_int64(d->kernel->config->grace_days)) &&
		  acp_json_add(out, "event", audit_event(d));
	if (ok)
		return out;
	json_object_put(out);
	return NULL;
}

static enum acp_code store(struct delivery *d, struct json_object **result)
{
	struct acp_refusal refusal = {0};
	const struct acp_control_plane *plane = d->kernel->plane;
	struct json_object *what = extract_event(d);
	enum acp_code code =
		what ? plane->payments.stripe_event(plane->self, what, result, &refusal) : ACP_INTERNAL_ERROR;
	json_object_put(what);
	return code == ACP_OK ? code : refuse(d, code, "", "");
}

static struct json_object *success_body(const struct delivery *d, struct json_object *result)
{
	struct json_object *body = json_object_new_object();
	if (body && acp_json_add(body, "ok", json_object_new_boolean(true)) &&
	    acp_json_add_string(body, "request_id", d->request->request_id) &&
	    acp_json_add(body, "received", json_object_new_boolean(true)) &&
	    acp_json_add_string(body, "effect", acp_json_string(result, "effect")))
		return body;
	json_object_put(body);
	return NULL;
}

void acp_stripe_events_take(const struct acp_kernel *kernel, const struct acp_request *request, const char *signature,
			    struct acp_reply *reply)
{
	struct delivery d = {.kernel = kernel, .request = request};
	struct json_object *result = NULL;
	if (check_signature(&d, signature) == ACP_OK && read_event(&d) == ACP_OK)
		store(&d, &result);
	*reply = (struct acp_reply){.code = d.code, .http = acp_code_http(d.code), .action = "stripe.webhook"};
	reply->body = d.code == ACP_OK ? success_body(&d, result)
				       : acp_error_body(d.code, request->request_id, d.error, d.field);
	reply->allow = d.code == ACP_METHOD_NOT_ALLOWED ? "POST" : NULL;
	reply->retry_after = acp_code_retry_after(d.code);
	const char *tenant = acp_json_string(result, "tenant_id");
	snprintf(reply->tenant_id, sizeof reply->tenant_id, "%s", tenant ? tenant : "");
	json_object_put(result);
	json_object_put(d.event);
}
