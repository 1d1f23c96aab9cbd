#include "audit.h"

#include "call.h"
#include "clock.h"
#include "redact.h"

#include <arpa/inet.h>

/* Copies the caller's text into out, redacted as a whole and then cut at a character boundary. *member points to out,
 * or is NULL if there is no text. False: out of memory. */
static bool keep_text(const char **member, char out[ACP_EVENT_TEXT_MAX + 1], const char *text,
		      const char *api_key_prefix)
{
	struct acp_buf clean;
	*member = text ? out : NULL;
	if (!text)
		return true;
	acp_buf_init(&clean, 1 << 20);
	acp_redact_text(&clean, text, strlen(text), api_key_prefix);
	bool ok = acp_buf_ok(&clean);
	snprintf(out, ACP_EVENT_TEXT_MAX + 1, "%s", ok && clean.ptr ? clean.ptr : "");
	acp_utf8_trim(out);
	acp_buf_release(&clean);
	return ok;
}

/* Returns ip if it is an address. Every known web server sets REMOTE_ADDR to one. Any other text is omitted, because
 * the row could not be stored with it. */
static const char *address_of(const char *ip)
{
	unsigned char parsed[16];
	return ip && (inet_pton(AF_INET, ip, parsed) == 1 || inet_pton(AF_INET6, ip, parsed) == 1) ? ip : NULL;
}

static bool is_id(const char *hex, size_t len)
{
	return strspn(hex, "0123456789abcdef") >= len && strspn(hex, "0") < len;
}

/* W3C trace context: 00-<32 hex>-<16 hex>-<2 hex>; an id of all zeros is invalid. */
bool acp_audit_trace_id(const char *traceparent, char id[33])
{
	if (!traceparent || strlen(traceparent) != 55 || strncmp(traceparent, "00-", 3) != 0 ||
	    traceparent[35] != '-' || traceparent[52] != '-' || !is_id(traceparent + 3, 32) ||
	    !is_id(traceparent + 36, 16) || strspn(traceparent + 53, "0123456789abcdef") != 2)
		return false;
	memcpy(id, traceparent + 3, 32);
	id[32] = '\0';
	return true;
}

bool acp_audit_request_hash(const struct acp_kernel *kernel, struct json_object *envelope, char hex[ACP_SHA256_HEX])
{
	struct json_object *clean = NULL;
	bool ok = acp_redact_json(envelope, kernel->config->api_key_prefix, &clean) && acp_json_hash(clean, hex);
	json_object_put(clean);
	return ok;
}

/* Fills the members that do not depend on the caller. */
static bool fill_common(struct acp_event *event, const struct acp_kernel *kernel, const struct acp_request *request,
			enum acp_code code, const char *error, struct json_object *envelope)
{
	const char *api_key_prefix = kernel->config->api_key_prefix;
	event->request_id = request->request_id;
	event->integration = kernel->config->kernel_id;
	event->status = acp_outcome_name(acp_code_outcome(code));
	event->latency_ms = (double)(acp_monotonic_us() - request->started_us) / 1000.0;
	event->ip_address = address_of(request->ip_address);
	event->billing_quantity = 1;
	if (acp_audit_trace_id(request->traceparent, event->own.trace_id))
		event->trace_id = event->own.trace_id;
	if (code != ACP_OK) {
		event->error_code = acp_code_name(code);
		if (!keep_text(&event->error_message_redacted, event->own.error,
			       *error ? error : acp_code_sentence(code), api_key_prefix))
			return false;
	}
	if (!json_object_is_type(envelope, json_type_object))
		return true;
	event->request_hash = event->own.request_hash;
	return acp_audit_request_hash(kernel, envelope, event->own.request_hash);
}

static void fill_actor(struct acp_event *event, const struct acp_call *call)
{
	event->tenant_id = ACP_NIL_UUID;
	event->actor_type = "anonymous";
	if (!call->authenticated)
		return;
	event->ts = call->principal.ts;
	event->tenant_id = call->principal.tenant_id;
	event->actor_type = "api_key";
	event->actor_id = call->principal.key_shown;
	event->api_key_id = call->principal.api_key_id;
	event->tier = call->reservation.tier == ACP_TIER_PAID ? "paid" : "free";
}

/* Adds the policy engine's decision to result_meta: which policy, and which approval was requested or used. */
static bool add_decision(struct json_object *meta, struct json_object *decision)
{
	static const char *const shown[] = {"decision", "policy_id", "policy_version", "approval_id"};
	struct json_object *policy = json_object_new_object();
	bool ok = policy != NULL;
	for (size_t i = 0; ok && i < ACP_COUNT(shown); i++) {
		struct json_object *value = acp_json_member(decision, shown[i]);
		ok = !value || acp_json_add(policy, shown[i], json_object_get(value));
	}
	return acp_json_add(meta, "policy", policy) && ok;
}

static bool fill_result_meta(struct acp_event *event, const struct acp_call *call)
{
	bool ok = true;
	if (!call->result.meta && !call->usage_check_failed && !call->policy_check_failed && !call->decision)
		return true;
	if (call->result.meta)
		ok = json_object_deep_copy(call->result.meta, &event->result_meta, NULL) == 0;
	else
		event->result_meta = json_object_new_object();
	ok = ok && event->result_meta;
	if (ok && call->usage_check_failed)
		ok = acp_event_failed_open(event);
	if (ok && call->policy_check_failed)
		ok = acp_json_add_string(event->result_meta, "policy_check", "failed_open");
	if (ok && call->decision) {
		event->policy_decision_id = acp_json_string(call->decision, "decision_id");
		ok = add_decision(event->result_meta, call->decision);
	}
	return ok;
}

static bool fill_action(struct acp_event *event, const struct acp_call *call)
{
	const char *api_key_prefix = call->kernel->config->api_key_prefix;
	const struct acp_action *action = call->entry ? call->entry->action : NULL;
	bool ok = keep_text(&event->action, event->own.action, action ? NULL : call->action_name, api_key_prefix) &&
		  keep_text(&event->idempotency_key, event->own.idempotency_key, call->idempotency_key, api_key_prefix);
	event->billable = action && action->billable && call->code == ACP_OK && !call->dry_run;
	event->billing_quantity = call->result.quantity;
	event->dry_run = call->dry_run;
	if (action) {
		event->action = action->name;
		event->pack = call->entry->pack;
		event->billing_unit = action->billing_unit;
	}
	return ok;
}

bool acp_audit_event(const struct acp_call *call, struct acp_event *event)
{
	*event = (struct acp_event){.event_id = call->event_id};
	bool ok = fill_common(event, call->kernel, call->request, call->code, call->error, call->envelope) &&
		  fill_result_meta(event, call) && fill_action(event, call);
	fill_actor(event, call);
	if (!ok)
		acp_event_release(event);
	return ok;
}

bool acp_audit_public_event(const struct acp_kernel *kernel, const struct acp_request *request, const char *action,
			    enum acp_code code, const char *error, struct json_object *body, struct acp_event *event)
{
	*event = (struct acp_event){.event_id = event->own.event_id,
				    .tenant_id = ACP_NIL_UUID,
				    .actor_type = "anonymous",
				    .action = event->own.action};
	acp_uuid(event->own.event_id);
	snprintf(event->own.action, sizeof event->own.action, "%s", action);
	return fill_common(event, kernel, request, code, error, body);
}
