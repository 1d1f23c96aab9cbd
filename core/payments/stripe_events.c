#include "stripe_events.h"

#include "audit.h"
#include "envelope.h"
#include "json.h"
#include "log.h"
#include "stripe_signature.h"

#include <time.h>

enum { TEXT_MAX = 255 };

struct delivery {
	const struct acp_kernel *kernel;
	const struct acp_request *request;
	struct json_object *event;
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

static bool text_ok(const char *text)
{
	size_t len = text ? strlen(text) : 0;
	return len > 0 && len <= TEXT_MAX;
}

static enum acp_code read_event(struct delivery *d)
{
	const struct acp_config *config = d->kernel->config;
	struct acp_json_error bad;
	const struct acp_json_limits limits = {(size_t)config->max_body_bytes, (unsigned)config->max_json_depth,
					       (unsigned)config->max_json_tokens};
	enum acp_json_verdict verdict =
		acp_json_parse(d->request->body, d->request->body_len, &limits, &d->event, &bad);
	if (verdict == ACP_JSON_NO_MEMORY)
		return refuse(d, ACP_INTERNAL_ERROR, "", "");
	if (verdict != ACP_JSON_OK)
		return refuse(d, ACP_VALIDATION_ERROR, bad.pointer, bad.message);
	struct json_object *created = acp_json_member(d->event, "created");
	int64_t seconds = json_object_get_int64(created);
	if (!text_ok(acp_json_string(d->event, "id")))
		return refuse(d, ACP_VALIDATION_ERROR, "/id", "/id must be the event's id");
	if (!text_ok(acp_json_string(d->event, "type")))
		return refuse(d, ACP_VALIDATION_ERROR, "/type", "/type must be the event's type");
	if (!json_object_is_type(created, json_type_int) || seconds < 1 || seconds > 99999999999)
		return refuse(d, ACP_VALIDATION_ERROR, "/created", "/created must be seconds since 1970");
	return ACP_OK;
}

/* Copies a string member of usable length. For a member expanded into an object, copies the object's id. */
static bool copy_text(struct json_object *out, const char *as_name, struct json_object *from, const char *name)
{
	struct json_object *member = acp_json_member(from, name);
	const char *text = json_object_is_type(member, json_type_object) ? acp_json_string(member, "id")
									 : acp_json_string(from, name);
	return !text_ok(text) || acp_json_member(out, as_name) || acp_json_add_string(out, as_name, text);
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
	bool ok = out && acp_json_add_string(out, "event_id", acp_json_string(event, "id")) &&
		  acp_json_add_string(out, "type", acp_json_string(event, "type")) &&
		  acp_json_add(out, "created", json_object_get(acp_json_member(event, "created"))) &&
		  acp_json_add(out, "livemode", json_object_new_boolean(acp_json_bool(event, "livemode"))) &&
		  copy_text(out, "object_id", object, "id") && copy_text(out, "customer", object, "customer") &&
		  copy_text(out, "customer", before, "customer") &&
		  copy_text(out, "client_reference_id", object, "client_reference_id") &&
		  copy_text(out, "tenant_uuid", acp_json_member(object, "metadata"), "tenant_uuid") &&
		  copy_text(out, "setup_intent", object, "setup_intent") && copy_text(out, "mode", object, "mode") &&
		  copy_text(out, "status", object, "status") && acp_json_add(out, "event", audit_event(d));
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
