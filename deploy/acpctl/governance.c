/* governance.c - acpctl policy, proposal and approval: what an operator decides. */
#include "acpctl.h"

#include "crypto.h"

static int list(struct ctl *ctl, const char *statement)
{
	if (!ctl_options(ctl, NULL, 0, NULL, NULL))
		return ACPCTL_USAGE;
	struct json_object *rows = ctl_query(ctl, statement, NULL);
	if (!rows)
		return ACPCTL_FAILED;
	ctl_print(ctl, rows);
	return ACPCTL_OK;
}

int ctl_policy_list(struct ctl *ctl)
{
	return list(ctl, "policy list");
}

int ctl_proposal_list(struct ctl *ctl)
{
	return list(ctl, "proposal list");
}

int ctl_approval_list(struct ctl *ctl)
{
	return list(ctl, "approval list");
}

/* The params schema of governance.propose_policy is what a policy must satisfy, whoever makes it. */
static bool policy_ok(const char *text)
{
	struct acp_json_error bad;
	struct json_object *policy = NULL;
	const struct acp_json_limits limits = {65536, 8, 1000};
	bool parsed = acp_json_parse(text, strlen(text), &limits, &policy, &bad) == ACP_JSON_OK;
	bool good = parsed && acp_json_string(policy, "name") && acp_json_string(policy, "decision");
	if (!parsed)
		ctl_fail("the policy is not JSON: byte %zu: %s", bad.offset, bad.message);
	else if (!good)
		ctl_fail("a policy needs name and decision (allow, deny or require_approval)");
	json_object_put(policy);
	return good;
}

int ctl_policy_add(struct ctl *ctl)
{
	char id[ACP_UUID_LEN];
	const char *policy = NULL;
	struct ctl_option options[] = {{"--tenant", false, NULL}};
	if (!ctl_options(ctl, options, ACP_COUNT(options), "POLICY (a JSON object)", &policy) || !policy_ok(policy))
		return ACPCTL_USAGE;
	acp_uuid(id);
	const char *values[] = {id, options[0].value, policy};
	struct json_object *rows = ctl_query(ctl, "policy add", values);
	if (!rows)
		return ACPCTL_FAILED;
	json_object_put(rows);
	puts(id);
	return ACPCTL_OK;
}

/* Runs a statement (id, word) that tells whether it changed anything. */
static int decide(struct ctl *ctl, const char *statement, const char *word, const char *done)
{
	const char *id = NULL;
	if (!ctl_options(ctl, NULL, 0, "ID", &id))
		return ACPCTL_USAGE;
	if (!acp_is_uuid(id))
		return ctl_fail("ID must be a UUID; the list command shows them");
	const char *values[] = {id, word};
	struct json_object *rows = ctl_query(ctl, statement, values);
	if (!rows)
		return ACPCTL_FAILED;
	bool changed = json_object_get_boolean(ctl_value(rows, "changed"));
	json_object_put(rows);
	if (!changed)
		return ctl_fail("%s: there is none by this id that this could be done to", id);
	printf("%s %s\n", done, id);
	return ACPCTL_OK;
}

int ctl_policy_enable(struct ctl *ctl)
{
	return decide(ctl, "policy enable", "true", "enabled");
}

int ctl_policy_disable(struct ctl *ctl)
{
	return decide(ctl, "policy enable", "false", "disabled");
}

int ctl_proposal_approve(struct ctl *ctl)
{
	return decide(ctl, "proposal decide", "approved", "approved");
}

int ctl_proposal_reject(struct ctl *ctl)
{
	return decide(ctl, "proposal decide", "rejected", "rejected");
}

int ctl_proposal_publish(struct ctl *ctl)
{
	char policy_id[ACP_UUID_LEN];
	acp_uuid(policy_id);
	return decide(ctl, "proposal publish", policy_id, "published");
}

int ctl_approval_approve(struct ctl *ctl)
{
	return decide(ctl, "approval decide", "approved", "approved");
}

int ctl_approval_reject(struct ctl *ctl)
{
	return decide(ctl, "approval decide", "rejected", "rejected");
}
