/* Pack governance: a tenant proposes a policy for its own calls; an operator approves and publishes it (acpctl). */
#include "kernel.h"
#include "schemas.h"

static const struct acp_action actions[] = {
	{
		.name = "governance.propose_policy",
		.scope = "manage.governance",
		.description = "Proposes a policy for the tenant's own calls. It has no effect until an operator "
			       "publishes it.",
		.params_schema = acp_schema_packs_governance_propose_policy,
		.run = acp_run_sql,
		.sql_function = "governance_propose_policy",
		.writes = true,
		.supports_dry_run = true,
		.ceiling = "proposals",
	},
	{0},
};

extern const struct acp_pack acp_pack_governance;
const struct acp_pack acp_pack_governance = {"governance", actions};
