/* Pack webhooks: the webhooks of a tenant (sql/functions/67_webhooks.sql). This file makes a signing secret and sends
 * it to the hub encrypted. The reply shows its text once. */
#include "schemas.h"
#include "webhooks.h"

static enum acp_code check_url(struct acp_call *call, struct json_object *params)
{
	char why[128];
	const char *url = acp_json_string(params, "url");
	if (!url || acp_webhook_url_ok(acp_call_kernel(call)->config, url, why, sizeof why))
		return ACP_OK;
	return acp_call_fail(call, ACP_VALIDATION_ERROR, "/params/url", "/params/url %s", why);
}

/* Copies params and adds the stored form of a webhook with a new secret. new_id NULL: the webhook already exists. */
static struct json_object *with_secret(const struct acp_call *call, struct json_object *params, const char *new_id,
				       char secret[ACP_WEBHOOK_SECRET_TEXT])
{
	char sealed[ACP_WEBHOOK_SEALED_HEX];
	struct json_object *whole = NULL;
	const char *id = new_id ? new_id : acp_json_string(params, "webhook_id");
	if (acp_webhook_new_secret(acp_call_kernel(call)->config, id, secret, sealed) &&
	    json_object_deep_copy(params, &whole, NULL) == 0 && acp_json_add_string(whole, "new_sealed", sealed) &&
	    (!new_id || acp_json_add_string(whole, "new_id", new_id)))
		return whole;
	json_object_put(whole);
	return NULL;
}

/* Runs a function that stores a secret, and adds the secret's text to its result. */
static enum acp_code store_secret(struct acp_call *call, const char *function, struct json_object *params,
				  const char *new_id, struct acp_result *result)
{
	char secret[ACP_WEBHOOK_SECRET_TEXT];
	struct json_object *whole = with_secret(call, params, new_id, secret);
	enum acp_code code = whole ? acp_call_sql(call, function, whole, &result->data) : ACP_INTERNAL_ERROR;
	if (code == ACP_OK && !acp_call_dry_run(call) && !acp_json_add_secret(result->data, "secret", secret))
		code = ACP_INTERNAL_ERROR;
	acp_wipe(secret, sizeof secret);
	json_object_put(whole);
	return code;
}

static enum acp_code create_webhook(struct acp_call *call, struct json_object *params, struct acp_result *result)
{
	char id[ACP_UUID_LEN];
	enum acp_code code = check_url(call, params);
	acp_uuid(id);
	return code == ACP_OK ? store_secret(call, "webhooks_create", params, id, result) : code;
}

static enum acp_code update_webhook(struct acp_call *call, struct json_object *params, struct acp_result *result)
{
	enum acp_code code = check_url(call, params);
	if (code != ACP_OK)
		return code;
	if (!acp_json_bool(params, "rotate_secret"))
		return acp_call_sql(call, "webhooks_update", params, &result->data);
	return store_secret(call, "webhooks_update", params, NULL, result);
}

static const struct acp_action actions[] = {
	{
		.name = "webhooks.list",
		.scope = "manage.webhooks",
		.description =
			"Lists the webhooks of the tenant, never their secrets; after: webhook_id of the last one "
			"seen.",
		.params_schema = acp_schema_packs_webhooks_list,
		.run = acp_run_sql,
		.sql_function = "webhooks_list",
	},
	{
		.name = "webhooks.create",
		.scope = "manage.webhooks",
		.description = "Creates a webhook for events (names, with * as a wildcard: key.created, key.revoked, "
			       "key.rotated, usage.warning, usage.limit_reached, webhook.test); only this reply shows "
			       "its signing secret.",
		.params_schema = acp_schema_packs_webhooks_create,
		.run = create_webhook,
		.writes = true,
		.supports_dry_run = true,
		.ceiling = "webhooks",
	},
	{
		.name = "webhooks.update",
		.scope = "manage.webhooks",
		.description = "Changes, disables or enables a webhook. With rotate_secret, the reply shows a new "
			       "secret, once; for 24 hours deliveries also carry the signature of the old one.",
		.params_schema = acp_schema_packs_webhooks_update,
		.run = update_webhook,
		.writes = true,
		.supports_dry_run = true,
	},
	{
		.name = "webhooks.delete",
		.scope = "manage.webhooks",
		.description = "Deletes a webhook and its deliveries, including pending ones.",
		.params_schema = acp_schema_packs_webhooks_delete,
		.run = acp_run_sql,
		.sql_function = "webhooks_delete",
		.writes = true,
		.supports_dry_run = true,
	},
	{
		.name = "webhooks.test",
		.scope = "manage.webhooks",
		.description = "Sends the event webhook.test to a webhook; webhooks.deliveries shows the result.",
		.params_schema = acp_schema_packs_webhooks_test,
		.run = acp_run_sql,
		.sql_function = "webhooks_test",
		.writes = true,
		.supports_dry_run = true,
		.rate_limit = 20,
		.ceiling = "pending_deliveries",
	},
	{
		.name = "webhooks.deliveries",
		.scope = "manage.webhooks",
		.description =
			"Lists deliveries of the last 30 days, newest first; after: delivery_id of the last one seen.",
		.params_schema = acp_schema_packs_webhooks_deliveries,
		.run = acp_run_sql,
		.sql_function = "webhooks_deliveries",
	},
	{0},
};

extern const struct acp_pack acp_pack_webhooks;
const struct acp_pack acp_pack_webhooks = {"webhooks", actions};
