/* Pack settings: the settings that a tenant controls itself (sql/functions/65_settings.sql). */
#include "kernel.h"

static const struct acp_action actions[] = {
	{
		.name = "settings.get",
		.scope = "manage.settings",
		.description = "Reads the tenant's settings.",
		.params_schema = "{\"type\":\"object\",\"additionalProperties\":false}",
		.run = acp_run_sql,
		.sql_function = "settings_get",
	},
	{
		.name = "settings.update",
		.scope = "manage.settings",
		.description = "Changes settings of the tenant; a member that is null is unset.",
		.params_schema =
			"{\"type\":\"object\",\"additionalProperties\":false,\"required\":[\"settings\"],"
			"\"properties\":{"
			"\"settings\":{\"type\":\"object\",\"minProperties\":1,\"additionalProperties\":false,"
			"\"properties\":{"
			"\"organization_name\":{\"type\":[\"string\",\"null\"],\"minLength\":1,\"maxLength\":255},"
			"\"billing_email\":{\"type\":\"string\",\"format\":\"email\",\"maxLength\":254},"
			"\"timezone\":{\"type\":[\"string\",\"null\"],\"maxLength\":64},"
			"\"locale\":{\"type\":[\"string\",\"null\"],\"pattern\":\"^[a-z][a-z](-[A-Z][A-Z])?$\"},"
			"\"metadata\":{\"type\":[\"object\",\"null\"],\"maxProperties\":50,"
			"\"additionalProperties\":{\"type\":\"string\",\"maxLength\":500}}}}}}",
		.run = acp_run_sql,
		.sql_function = "settings_update",
		.writes = true,
		.supports_dry_run = true,
	},
	{0},
};

extern const struct acp_pack acp_pack_settings;
const struct acp_pack acp_pack_settings = {"settings", actions};
