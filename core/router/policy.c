#include "policy.h"

#include "idempotency.h"
#include "log.h"

/* Describes the call to the hub. An approval covers exactly this request. */
static struct json_object *make_query(const struct acp_call *call)
{
	char hash[ACP_SHA256_HEX];
	char exact[ACP_SHA256_HEX]; /* the hash has credentials redacted, but an approval covers the exact request */
	struct json_object *query = json_object_new_object();
	struct json_object *amount = acp_json_member(call->params, "amount");
	bool ok = query && acp_audit_request_hash(call->kernel, call->envelope, hash) &&
		  acp_idempotency_fingerprint(call, exact) && acp_json_add_string(query, "fingerprint", exact) &&
		  acp_json_add_string(query, "tenant_id", call->principal.tenant_id) &&
		  acp_json_add_string(query, "api_key_id", call->principal.api_key_id) &&
		  acp_json_add_string(query, "actor_type", "api_key") &&
		  acp_json_add_string(query, "action", call->entry->action->name) &&
		  acp_json_add_string(query, "request_hash", hash) &&
		  acp_json_add_string(query, "event_id", call->event_id) &&
		  acp_json_add(query, "ceiling", json_object_new_int64(call->kernel->config->ceiling_approvals)) &&
		  acp_json_add(query, "dry_run", json_object_new_boolean(call->dry_run));
	if (ok && (json_object_is_type(amount, json_type_int) || json_object_is_type(amount, json_type_double)))
		ok = acp_json_add(query, "amount", json_object_get(amount));
	if (ok)
		return query;
	json_object_put(query);
	return NULL;
}

void acp_policy_note(struct json_object *decision)
{
	const char *fault = acp_json_string(decision, "fault");
	if (fault)
		acp_log(ACP_LOG_ERROR,
			"%s cannot be evaluated, so the calls that it covers are refused; acpctl doctor shows why, "
			"acpctl policy disable turns it off",
			fault);
}

static enum acp_code apply_decision(struct acp_call *call)
{
	const char *decision = acp_json_string(call->decision, "decision");
	const char *reason = acp_json_string(call->decision, "reason");
	const char *approval = acp_json_string(call->decision, "approval_id");
	if (decision && strcmp(decision, "allow") == 0) {
		call->approval = approval;
		return ACP_OK;
	}
	if (decision && strcmp(decision, "require_approval") == 0) {
		if (call->dry_run)
			return ACP_OK; /* the real call needs the approval, not its dry run */
		call->extra = json_object_new_object();
		if (!call->extra || (approval && !acp_json_add_string(call->extra, "approval_id", approval)))
			return acp_call_fail(call, ACP_INTERNAL_ERROR, NULL, "%s",
					     acp_code_sentence(ACP_INTERNAL_ERROR));
		return acp_call_fail(
			call, ACP_APPROVAL_REQUIRED, NULL, "%s%s",
			reason ? reason : acp_code_sentence(ACP_APPROVAL_REQUIRED),
			reason ? "; give the operator its approval_id and send it again when it is approved" : "");
	}
	const char *named = acp_json_string(call->decision, "code");
	bool full = named && strcmp(named, "CEILING_EXCEEDED") == 0;
	enum acp_code code = full ? ACP_CEILING_EXCEEDED : ACP_POLICY_DENIED;
	return acp_call_fail(call, code, NULL, "%s", reason ? reason : acp_code_sentence(code));
}

enum acp_code acp_policy_check(struct acp_call *call)
{
	const struct acp_control_plane *plane = call->kernel->plane;
	if (!plane->call.authorize || !call->principal.policed)
		return ACP_OK;
	struct json_object *query = make_query(call);
	enum acp_code code = query ? plane->call.authorize(plane->self, query, &call->decision) : ACP_INTERNAL_ERROR;
	json_object_put(query);
	acp_policy_note(call->decision);
	if (code == ACP_OK)
		return apply_decision(call);
	if (code == ACP_RATE_LIMITED)
		return acp_call_fail(call, code, NULL, "%s", acp_code_sentence(code));
	/* The hub was about to request an approval and may have done so, so the policies were reachable. */
	bool asked = code == ACP_OUTCOME_UNKNOWN;
	if (code != ACP_UNAVAILABLE && !asked) /* the policies could not be evaluated: one of them may deny the call */
		return acp_call_fail(call, ACP_INTERNAL_ERROR, NULL, "%s", acp_code_sentence(ACP_INTERNAL_ERROR));
	if (call->entry->action->writes || asked)
		return acp_call_fail(call, ACP_UNAVAILABLE, NULL, "%s", acp_code_sentence(ACP_UNAVAILABLE));
	call->policy_check_failed = true;
	return ACP_OK;
}

enum acp_code acp_policy_use_approval(struct acp_call *call)
{
	struct acp_refusal refusal = {0};
	const struct acp_control_plane *plane = call->kernel->plane;
	if (!call->approval)
		return ACP_OK;
	enum acp_code code = plane->call.use_approval(plane->self, call->principal.tenant_id, call->approval,
						      call->event_id, call->principal.ts, &refusal);
	/* If it may have been used, the row of this call gives it back: the handler has not run. */
	call->approval_used = code == ACP_OK || code == ACP_OUTCOME_UNKNOWN;
	if (code == ACP_OK)
		return code;
	if (code != ACP_APPROVAL_REQUIRED && code != ACP_INTERNAL_ERROR && code != ACP_RATE_LIMITED)
		code = ACP_UNAVAILABLE;
	return acp_call_fail(call, code, NULL, "%s",
			     code == ACP_APPROVAL_REQUIRED && *refusal.message ? refusal.message
									       : acp_code_sentence(code));
}

const char *acp_policy_unused_approval(const struct acp_call *call)
{
	return call->approval_used && !call->acted ? call->approval : NULL;
}
