/* Pack meta: the capabilities of this installation. Never billable. */
#include "kernel.h"
#include "prices.h"
#include "schemas.h"

#include "version.h"

/* Adds the price of a call of this action, if there is one in prices. */
static bool add_price(struct json_object *def, struct json_object *prices)
{
	const char *name = acp_json_string(def, "name");
	struct json_object *price = name ? acp_json_member(prices, name) : NULL;
	return !price || acp_json_add(def, "price", json_object_get(price));
}

static enum acp_code list_actions(struct acp_call *call, struct json_object *params, struct acp_result *result)
{
	(void)params;
	const struct acp_kernel *kernel = acp_call_kernel(call);
	struct json_object *list = json_object_new_array();
	struct json_object *prices; /* NULL: this list is useful without them */
	result->data = json_object_new_object();
	bool ok = acp_prices_now(kernel, &prices) && list && result->data;
	for (size_t i = 0; ok && i < kernel->entry_count; i++) {
		struct json_object *def = NULL;
		/* A reply owns its tree, but all threads share the definitions. */
		ok = json_object_deep_copy(kernel->entries[i].def, &def, NULL) == 0 && add_price(def, prices) &&
		     json_object_array_add(list, def) == 0;
		if (!ok)
			json_object_put(def);
	}
	ok = ok && acp_json_add(result->data, "actions", json_object_get(list)) &&
	     acp_json_add_string(result->data, "api_version", ACP_API_VERSION) &&
	     acp_json_add(result->data, "total_actions", json_object_new_int64((int64_t)kernel->entry_count));
	json_object_put(list);
	json_object_put(prices);
	return ok ? ACP_OK : ACP_INTERNAL_ERROR;
}

static enum acp_code version(struct acp_call *call, struct json_object *params, struct acp_result *result)
{
	(void)params;
	const struct acp_kernel *kernel = acp_call_kernel(call);
	result->data = json_object_new_object();
	bool ok = result->data && acp_json_add_string(result->data, "api_version", ACP_API_VERSION) &&
		  acp_json_add_string(result->data, "schema_version", ACP_CONTRACT_VERSION) &&
		  acp_json_add_string(result->data, "program", "acp-fcgi " ACP_VERSION) &&
		  acp_json_add_string(result->data, "kernel_id", kernel->config->kernel_id) &&
		  acp_json_add(result->data, "actions_count", json_object_new_int64((int64_t)kernel->entry_count));
	return ok ? ACP_OK : ACP_INTERNAL_ERROR;
}

static const struct acp_action actions[] = {
	{
		.name = "meta.actions",
		.scope = "manage.read",
		.description =
			"Lists every action with its scope, its JSON Schema, how it is billed and what it costs now.",
		.params_schema = acp_schema_packs_meta_actions,
		.run = list_actions,
	},
	{
		.name = "meta.version",
		.scope = "manage.read",
		.description = "Returns the versions of the API and of this program.",
		.params_schema = acp_schema_packs_meta_version,
		.run = version,
	},
	{
		.name = "meta.activity",
		.scope = "manage.read",
		.description = "Shows the tenant's calls of a month by outcome, its latest failed and refused calls, "
			       "and when its keys were last used.",
		.params_schema = acp_schema_packs_meta_activity,
		.run = acp_run_sql,
		.sql_function = "meta_activity",
	},
	{0},
};

extern const struct acp_pack acp_pack_meta;
const struct acp_pack acp_pack_meta = {"meta", actions};
