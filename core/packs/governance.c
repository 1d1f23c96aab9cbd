/* Pack governance: a tenant proposes a policy for its own calls; an operator approves and publishes it (acpctl). */
#include "kernel.h"

static const struct acp_action actions[] = {
	{
		.name = "governance.propose_policy",
		.scope = "manage.governance",
		.description = "Proposes a policy for the tenant's own calls. It decides nothing until an operator has "
			       "published it.",
		.params_schema =
			"{\"type\":\"object\",\"additionalProperties\":false,\"required\":[\"policy\"],\"properties\":{"
			"\"policy\":{\"type\":\"object\",\"additionalProperties\":false,\"required\":[\"name\","
			"\"decision\"],"
			"\"properties\":{\"name\":{\"type\":\"string\",\"minLength\":1,\"maxLength\":200},"
			"\"decision\":{\"type\":\"string\",\"enum\":[\"allow\",\"deny\",\"require_approval\"]},"
			"\"priority\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":1000000},"
			"\"action\":{\"type\":\"string\",\"pattern\":\"^[a-z0-9_.*]+$\",\"maxLength\":200},"
			"\"actor_type\":{\"type\":\"string\",\"enum\":[\"api_key\",\"user\",\"system\"]},"
			"\"amount_over\":{\"type\":\"number\",\"minimum\":0},"
			"\"reason\":{\"type\":\"string\",\"maxLength\":500},"
			"\"time_window\":{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{"
			"\"days\":{\"type\":\"array\",\"minItems\":1,\"maxItems\":7,\"uniqueItems\":true,"
			"\"items\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":7}},"
			"\"from\":{\"type\":\"string\",\"pattern\":\"^([01][0-9]|2[0-3]):[0-5][0-9]$\"},"
			"\"to\":{\"type\":\"string\",\"pattern\":\"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$\"},"
			"\"timezone\":{\"type\":\"string\",\"maxLength\":64}}}}}}}",
		.run = acp_run_sql,
		.sql_function = "governance_propose_policy",
		.writes = true,
		.supports_dry_run = true,
	},
	{0},
};

extern const struct acp_pack acp_pack_governance;
const struct acp_pack acp_pack_governance = {"governance", actions};
