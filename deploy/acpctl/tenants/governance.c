/* governance.c - acpctl policy, proposal and approval: the decisions of an operator. */
#include "acpctl.h"

#include "crypto.h"
#include "kernel.h"
#include "schema.h"

extern const struct acp_pack acp_pack_governance;

int ctl_policy_list(struct ctl *ctl)
{
	return ctl_print_query(ctl, "policy list", NULL);
}

int ctl_proposal_list(struct ctl *ctl)
{
	return ctl_print_query(ctl, "proposal list", NULL);
}

int ctl_approval_list(struct ctl *ctl)
{
	return ctl_print_query(ctl, "approval list", NULL);
}

/* Every policy must satisfy the params schema of governance.propose_policy. */
static bool fits_schema(struct json_object *policy)
{
	struct acp_schema_error bad;
	struct json_object *tree = json_tokener_parse(acp_pack_governance.actions[0].params_schema);
	struct acp_schema *schema = acp_schema_compile(tree, &bad);
	struct json_object *params = json_object_new_object();
	json_object_object_add(params, "policy", json_object_get(policy));
	bool good = schema && acp_schema_check(schema, params, &bad);
	/* "/policy/time_window/from" is time_window/from of the given policy */
	const char *place = strncmp(bad.pointer, "/policy/", 8) == 0 ? bad.pointer + 8 : "it";
	if (!good)
		ctl_fail("the policy: %s %s; acpctl(8) lists the members of a policy", place, bad.message);
	acp_schema_free(schema);
	json_object_put(params);
	json_object_put(tree);
	return good;
}

static bool policy_ok(const char *text)
{
	struct acp_json_error bad;
	struct json_object *policy = NULL;
	const struct acp_json_limits limits = {65536, 8, 1000};
	bool parsed = acp_json_parse(text, strlen(text), &limits, &policy, &bad) == ACP_JSON_OK;
	if (!parsed)
		ctl_fail("the policy is not JSON: byte %zu: %s", bad.offset, bad.message);
	bool good = parsed && fits_schema(policy);
	json_object_put(policy);
	return good;
}

int ctl_policy_add(struct ctl *ctl)
{
	char id[ACP_UUID_LEN], tenant[ACP_UUID_LEN];
	const char *values[] = {id, NULL, ctl_operand(ctl)};
	if (!policy_ok(ctl_operand(ctl)))
		return ACPCTL_USAGE;
	if (!ctl_tenant_option(ctl, tenant, &values[1]))
		return ACPCTL_FAILED;
	acp_uuid(id);
	if (!ctl_run(ctl, "policy add", values))
		return ACPCTL_FAILED;
	if (ctl->json || ctl->csv)
		ctl_print_done(ctl, "policy_id", id, "added");
	else
		puts(id);
	return ACPCTL_OK;
}

/* Runs a statement with the parameters (id, word) that returns whether it changed anything. */
static int decide(struct ctl *ctl, const char *statement, const char *word, const char *done)
{
	char id_name[32];
	const char *id = ctl_operand(ctl);
	int noun = (int)strcspn(statement, " "); /* "policy", "proposal", "approval" */
	if (!acp_is_uuid(id))
		return ctl_misuse("ID must be a UUID; acpctl %.*s list shows them", noun, statement);
	snprintf(id_name, sizeof id_name, "%.*s_id", noun, statement);
	const char *values[] = {id, word};
	struct json_object *rows = ctl_query(ctl, statement, values);
	if (!rows)
		return ACPCTL_FAILED;
	bool changed = json_object_get_boolean(ctl_value(rows, "changed"));
	json_object_put(rows);
	if (!changed)
		return ctl_fail("%s: no %.*s has this id, or it cannot be %s in its state (acpctl %.*s list shows "
				"it)",
				id, noun, statement, done, noun, statement);
	ctl_print_done(ctl, id_name, id, done);
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
