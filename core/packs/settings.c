/* Pack settings: the settings that a tenant controls itself (sql/functions/65_settings.sql). */
#include "kernel.h"
#include "schemas.h"

static const struct acp_action actions[] = {
	{
		.name = "settings.get",
		.scope = "manage.settings",
		.description = "Reads the tenant's settings.",
		.params_schema = acp_schema_packs_settings_get,
		.run = acp_run_sql,
		.sql_function = "settings_get",
	},
	{
		.name = "settings.update",
		.scope = "manage.settings",
		.description = "Changes settings of the tenant; null unsets a setting.",
		.params_schema = acp_schema_packs_settings_update,
		.run = acp_run_sql,
		.sql_function = "settings_update",
		.writes = true,
		.supports_dry_run = true,
	},
	{0},
};

extern const struct acp_pack acp_pack_settings;
const struct acp_pack acp_pack_settings = {"settings", actions};
