#include "audit.h"

#include "call.h"
#include "clock.h"
#include "redact.h"

#include <arpa/inet.h>

/* Longest text of a member that the caller chose (an unknown action's name, an idempotency key). */
enum { TEXT_MAX = 255 };

/* Adds caller's text: redacted, and cut at a character boundary. */
static bool add_text(struct json_object *event, const char *name, const char *text, const char *key_prefix)
{
	struct acp_buf clean;
	if (!text)
		return true;
	acp_buf_init(&clean, 1 << 20);
	acp_redact_text(&clean, text, strlen(text), key_prefix);
	size_t len = clean.len;
	if (len > TEXT_MAX)
		for (len = TEXT_MAX; len > 0 && ((unsigned char)clean.ptr[len] & 0xc0) == 0x80; len--)
			;
	bool ok = acp_buf_ok(&clean) &&
		  acp_json_add(event, name, json_object_new_string_len(clean.ptr ? clean.ptr : "", (int)len));
	acp_buf_release(&clean);
	return ok;
}

/* REMOTE_ADDR is an address from every web server we know; anything else is left out rather than failing the row. */
static bool add_address(struct json_object *event, const char *ip)
{
	unsigned char parsed[16];
	if (!ip || (inet_pton(AF_INET, ip, parsed) != 1 && inet_pton(AF_INET6, ip, parsed) != 1))
		return true;
	return acp_json_add_string(event, "ip_address", ip);
}

/* W3C trace context: 00-<32 hex>-<16 hex>-<2 hex>; the trace id of all zeros is not one. */
static bool add_trace_id(struct json_object *event, const char *traceparent)
{
	char id[33];
	if (!traceparent || strlen(traceparent) != 55 || strncmp(traceparent, "00-", 3) != 0 || traceparent[35] != '-')
		return true;
	memcpy(id, traceparent + 3, 32);
	id[32] = '\0';
	if (strspn(id, "0123456789abcdef") != 32 || strspn(id, "0") == 32)
		return true;
	return acp_json_add_string(event, "trace_id", id);
}

bool acp_audit_request_hash(const struct acp_kernel *kernel, struct json_object *envelope, char hex[ACP_SHA256_HEX])
{
	struct json_object *clean = NULL;
	bool ok = acp_redact_json(envelope, kernel->config->key_prefix, &clean) && acp_json_hash(clean, hex);
	json_object_put(clean);
	return ok;
}

static bool add_request_hash(struct json_object *event, const struct acp_kernel *kernel, struct json_object *envelope)
{
	char hex[ACP_SHA256_HEX];
	return !json_object_is_type(envelope, json_type_object) ||
	       (acp_audit_request_hash(kernel, envelope, hex) && acp_json_add_string(event, "request_hash", hex));
}

/* What every event has, whoever the caller is. */
static bool add_common(struct json_object *event, const struct acp_kernel *kernel, const struct acp_request *request,
		       const char *event_id, enum acp_code code, const char *error, struct json_object *envelope)
{
	const char *key_prefix = kernel->config->key_prefix;
	double latency_ms = (double)(acp_monotonic_us() - request->started_us) / 1000.0;
	bool ok = acp_json_add_string(event, "event_id", event_id) &&
		  acp_json_add_string(event, "request_id", request->request_id) &&
		  acp_json_add_string(event, "integration", kernel->config->kernel_id) &&
		  acp_json_add_string(event, "status", acp_outcome_name(acp_code_outcome(code))) &&
		  acp_json_add(event, "latency_ms", acp_json_double(latency_ms)) &&
		  add_address(event, request->ip_address) && add_trace_id(event, request->traceparent) &&
		  add_request_hash(event, kernel, envelope);
	if (ok && code != ACP_OK)
		ok = acp_json_add_string(event, "error_code", acp_code_name(code)) &&
		     add_text(event, "error_message_redacted", *error ? error : acp_code_sentence(code), key_prefix);
	return ok;
}

static bool add_actor(struct json_object *event, const struct acp_call *call)
{
	if (!call->authenticated)
		return acp_json_add_string(event, "tenant_id", ACP_NIL_UUID) &&
		       acp_json_add_string(event, "actor_type", "anonymous");
	return acp_json_add_string(event, "ts", call->principal.ts) &&
	       acp_json_add_string(event, "tenant_id", call->principal.tenant_id) &&
	       acp_json_add_string(event, "actor_type", "api_key") &&
	       acp_json_add_string(event, "actor_id", call->principal.key_shown) &&
	       acp_json_add_string(event, "api_key_id", call->principal.api_key_id) &&
	       acp_json_add_string(event, "tier", call->reservation.tier == ACP_TIER_PAID ? "paid" : "free");
}

/* What the policy engine decided, in result_meta: which policy, and which approval was asked for or used. */
static bool add_decision(struct json_object *event, struct json_object *meta, struct json_object *decision)
{
	static const char *const shown[] = {"decision", "policy_id", "policy_version", "approval_id"};
	struct json_object *policy = json_object_new_object();
	const char *id = acp_json_string(decision, "decision_id");
	bool ok = policy && (!id || acp_json_add_string(event, "policy_decision_id", id));
	for (size_t i = 0; ok && i < ACP_COUNT(shown); i++) {
		struct json_object *value = acp_json_member(decision, shown[i]);
		ok = !value || acp_json_add(policy, shown[i], json_object_get(value));
	}
	return acp_json_add(meta, "policy", policy) && ok;
}

static bool add_result_meta(struct json_object *event, const struct acp_call *call)
{
	struct json_object *meta = NULL;
	bool ok = true;
	if (!call->result.meta && !call->usage_check_failed && !call->policy_check_failed && !call->decision)
		return true;
	if (call->result.meta)
		ok = json_object_deep_copy(call->result.meta, &meta, NULL) == 0;
	else
		meta = json_object_new_object();
	ok = ok && meta;
	if (ok && call->usage_check_failed)
		ok = acp_json_add_string(meta, "usage_check", "failed_open");
	if (ok && call->policy_check_failed)
		ok = acp_json_add_string(meta, "policy_check", "failed_open");
	if (ok && call->decision)
		ok = add_decision(event, meta, call->decision);
	return acp_json_add(event, "result_meta", meta) && ok;
}

static bool add_action(struct json_object *event, const struct acp_call *call)
{
	const struct acp_action *action = call->entry ? call->entry->action : NULL;
	bool billable = action && action->billable && call->code == ACP_OK && !call->dry_run;
	bool ok = acp_json_add(event, "billable", json_object_new_boolean(billable)) &&
		  acp_json_add(event, "billing_quantity", json_object_new_int64(call->result.quantity)) &&
		  acp_json_add(event, "dry_run", json_object_new_boolean(call->dry_run)) &&
		  add_text(event, "action", call->action_name, call->kernel->config->key_prefix) &&
		  add_text(event, "idempotency_key", call->idempotency_key, call->kernel->config->key_prefix);
	if (ok && action)
		ok = acp_json_add_string(event, "pack", call->entry->pack) &&
		     (!action->billing_unit || acp_json_add_string(event, "billing_unit", action->billing_unit));
	return ok;
}

struct json_object *acp_audit_event(const struct acp_call *call)
{
	struct json_object *event = json_object_new_object();
	if (event &&
	    add_common(event, call->kernel, call->request, call->event_id, call->code, call->error, call->envelope) &&
	    add_actor(event, call) && add_action(event, call) && add_result_meta(event, call))
		return event;
	json_object_put(event);
	return NULL;
}

struct json_object *acp_audit_public_event(const struct acp_kernel *kernel, const struct acp_request *request,
					   const char *action, enum acp_code code, const char *error,
					   struct json_object *body)
{
	char event_id[ACP_UUID_LEN];
	struct json_object *event = json_object_new_object();
	acp_uuid(event_id);
	if (event && add_common(event, kernel, request, event_id, code, error, body) &&
	    acp_json_add_string(event, "tenant_id", ACP_NIL_UUID) &&
	    acp_json_add_string(event, "actor_type", "anonymous") && acp_json_add_string(event, "action", action) &&
	    acp_json_add(event, "billable", json_object_new_boolean(false)) &&
	    acp_json_add(event, "billing_quantity", json_object_new_int64(1)) &&
	    acp_json_add(event, "dry_run", json_object_new_boolean(false)))
		return event;
	json_object_put(event);
	return NULL;
}
