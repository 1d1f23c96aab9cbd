/* Pack iam: a tenant's API keys and team. This file makes a key and sends only its hash to the hub
 * (sql/functions/60_iam.sql). The reply shows the key once. A caller cannot grant a scope that the calling key
 * lacks. */
#include "kernel.h"
#include "schemas.h"

/* Refuses scopes that the calling key does not have. field: pointer to the array that lists them. */
static enum acp_code check_grant(struct acp_call *call, struct json_object *scopes, const char *field)
{
	for (size_t i = 0; scopes && i < json_object_array_length(scopes); i++) {
		const char *scope = json_object_get_string(json_object_array_get_idx(scopes, i));
		if (acp_call_has_scope(call, scope))
			continue;
		char at[96];
		snprintf(at, sizeof at, "%.60s/%zu", field, i);
		return acp_call_fail(
			call, ACP_SCOPE_DENIED, at,
			"a key cannot grant %s, which it does not have; leave it out, or call with a key that has it",
			scope);
	}
	return ACP_OK;
}

/* Checks the rights of a new key: its scopes, and a rate limit no higher than the default or the calling key's own.
 * Rate limits protect the operator, so only the operator can raise them. */
static enum acp_code check_new_rights(struct acp_call *call, struct json_object *params)
{
	int64_t most = acp_call_rate_limit(call);
	struct json_object *rate_limit = acp_json_member(params, "rate_limit");
	if (rate_limit && json_object_get_int64(rate_limit) > most)
		return acp_call_fail(call, ACP_VALIDATION_ERROR, "/params/rate_limit",
				     "/params/rate_limit must be at most %lld; only the operator can raise it",
				     (long long)most);
	return check_grant(call, acp_json_member(params, "scopes"), "/params/scopes");
}

/* Copies params and adds the stored form of a new key. NULL: out of memory. */
static struct json_object *with_new_key(const struct acp_call *call, struct json_object *params, char key[ACP_KEY_MAX])
{
	char id[ACP_UUID_LEN], shown[ACP_KEY_SHOWN + 1], hex[ACP_SHA256_HEX];
	uint8_t seed[ACP_SHA256_LEN], hash[ACP_SHA256_LEN];
	const struct acp_config *config = acp_call_kernel(call)->config;
	struct json_object *whole = NULL;
	acp_random(seed, sizeof seed);
	acp_uuid(id);
	acp_key_from_seed(config->api_key_prefix, seed, key);
	acp_wipe(seed, sizeof seed);
	acp_key_hash(config->key_pepper, key, hash);
	acp_hex(hash, sizeof hash, hex);
	acp_key_shown(key, shown);
	if (json_object_deep_copy(params, &whole, NULL) == 0 && acp_json_add_string(whole, "new_id", id) &&
	    acp_json_add_string(whole, "new_hash", hex) && acp_json_add_string(whole, "new_prefix", shown))
		return whole;
	json_object_put(whole);
	return NULL;
}

/* Runs a function that stores a new key, and adds the key to its result. */
static enum acp_code store_key(struct acp_call *call, const char *function, struct json_object *params,
			       struct acp_result *result)
{
	char key[ACP_KEY_MAX];
	struct json_object *whole = with_new_key(call, params, key);
	enum acp_code code = whole ? acp_call_sql(call, function, whole, &result->data) : ACP_INTERNAL_ERROR;
	if (code == ACP_OK && !acp_call_dry_run(call) && !acp_json_add_secret(result->data, "api_key", key))
		code = ACP_INTERNAL_ERROR;
	acp_wipe(key, sizeof key);
	json_object_put(whole);
	return code;
}

static enum acp_code create_key(struct acp_call *call, struct json_object *params, struct acp_result *result)
{
	enum acp_code code = check_new_rights(call, params);
	return code == ACP_OK ? store_key(call, "iam_keys_create", params, result) : code;
}

static enum acp_code update_key(struct acp_call *call, struct json_object *params, struct acp_result *result)
{
	enum acp_code code = check_new_rights(call, params);
	return code == ACP_OK ? acp_call_sql(call, "iam_keys_update", params, &result->data) : code;
}

/* The new key has the scopes of the old one, so the caller must have them too. */
static enum acp_code rotate_key(struct acp_call *call, struct json_object *params, struct acp_result *result)
{
	struct json_object *scopes = NULL;
	enum acp_code code = acp_call_sql(call, "iam_keys_scopes", params, &scopes);
	if (code == ACP_OK)
		code = check_grant(call, scopes, "/params/api_key_id");
	json_object_put(scopes);
	return code == ACP_OK ? store_key(call, "iam_keys_rotate", params, result) : code;
}

static const struct acp_action actions[] = {
	{
		.name = "iam.keys.list",
		.scope = "manage.iam",
		.description = "Lists the API keys of the tenant, never their secrets; after: api_key_id of the last "
			       "one seen.",
		.params_schema = acp_schema_packs_iam_keys_list,
		.run = acp_run_sql,
		.sql_function = "iam_keys_list",
	},
	{
		.name = "iam.keys.create",
		.scope = "manage.iam",
		.description =
			"Creates an API key with scopes that the calling key has; only this reply shows the key.",
		.params_schema = acp_schema_packs_iam_keys_create,
		.run = create_key,
		.writes = true,
		.supports_dry_run = true,
		.rate_limit = 20,
		.ceiling = "keys",
	},
	{
		.name = "iam.keys.update",
		.scope = "manage.iam",
		.description = "Changes name, scopes, expiry or rate limit of a key.",
		.params_schema = acp_schema_packs_iam_keys_update,
		.run = update_key,
		.writes = true,
		.changes_access = true,
		.supports_dry_run = true,
	},
	{
		.name = "iam.keys.revoke",
		.scope = "manage.iam",
		.description = "Revokes a key for every call that starts after the reply.",
		.params_schema = acp_schema_packs_iam_keys_revoke,
		.run = acp_run_sql,
		.sql_function = "iam_keys_revoke",
		.writes = true,
		.changes_access = true,
		.supports_dry_run = true,
		.rate_limit = 20,
	},
	{
		.name = "iam.keys.rotate",
		.scope = "manage.iam",
		.description = "Creates a key that replaces another; both work until the grace period ends. Both "
			       "share the quota of the tenant.",
		.params_schema = acp_schema_packs_iam_keys_rotate,
		.run = rotate_key,
		.writes = true,
		.changes_access = true,
		.supports_dry_run = true,
		.rate_limit = 20,
		.ceiling = "keys",
	},
	{
		.name = "iam.team.list",
		.scope = "manage.iam",
		.description = "Lists the people of the tenant by email; after: email of the last one seen.",
		.params_schema = acp_schema_packs_iam_team_list,
		.run = acp_run_sql,
		.sql_function = "iam_team_list",
	},
	{
		.name = "iam.team.invite",
		.scope = "manage.iam",
		.description = "Adds a person to the tenant's list as invited. Sends no message: the caller must tell "
			       "the person.",
		.params_schema = acp_schema_packs_iam_team_invite,
		.run = acp_run_sql,
		.sql_function = "iam_team_invite",
		.writes = true,
		.supports_dry_run = true,
		.ceiling = "team_members",
	},
	{0},
};

extern const struct acp_pack acp_pack_iam;
const struct acp_pack acp_pack_iam = {"iam", actions};
