/* tenants.c - acpctl tenant and acpctl key. */
#include "acpctl.h"

#include "apikey.h"
#include "crypto.h"
#include "schema.h"

int ctl_tenant_list(struct ctl *ctl)
{
	return ctl_print_query(ctl, "tenant list", NULL);
}

int ctl_tenant_show(struct ctl *ctl)
{
	char tenant[ACP_UUID_LEN];
	char limit[24];
	if (!ctl_tenant_id(ctl, ctl_operand(ctl), tenant))
		return ACPCTL_FAILED;
	snprintf(limit, sizeof limit, "%lld", (long long)ctl->config.free_calls_limit);
	const char *values[] = {tenant, limit};
	struct json_object *rows = ctl_query(ctl, "tenant show", values);
	struct json_object *usage = rows ? ctl_query(ctl, "tenant usage", values) : NULL;
	if (!usage) {
		json_object_put(rows);
		return ACPCTL_FAILED;
	}
	acp_json_add(json_object_array_get_idx(rows, 0), "usage", json_object_get(ctl_value(usage, "usage")));
	json_object_put(usage);
	ctl_print_one(ctl, rows);
	return ACPCTL_OK;
}

static bool agent_id_ok(const char *id)
{
	static const char may[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-";
	size_t len = strlen(id);
	return len >= 1 && len <= 128 && strspn(id, may) == len;
}

static bool email_ok(const char *text)
{
	struct acp_schema_error bad = {0};
	struct json_object *rule = json_tokener_parse("{\"type\":\"string\",\"format\":\"email\",\"maxLength\":254}");
	struct acp_schema *schema = acp_schema_compile(rule, &bad);
	struct json_object *value = json_object_new_string(text);
	bool good = schema && acp_schema_check(schema, value, &bad);
	if (!good)
		ctl_fail("--email %.260s: %s", text, bad.message);
	acp_schema_free(schema);
	json_object_put(value);
	json_object_put(rule);
	return good;
}

/* The options of tenant create that can be checked here. */
static bool new_tenant_ok(const struct ctl *ctl)
{
	const char *agent_id = ctl_option(ctl, "agent-id");
	const char *tenant_id = ctl_option(ctl, "tenant-id");
	if (tenant_id && !acp_is_uuid(tenant_id))
		return ctl_refuse("--tenant-id %.80s: not a UUID; give the tenant_uuid that the hub made", tenant_id);
	if (!agent_id_ok(agent_id))
		return ctl_refuse("--agent-id %.140s: must have 1 to 128 letters, digits, dots, underscores, colons or "
				  "hyphens",
				  agent_id);
	return email_ok(ctl_option(ctl, "email")) &&
	       ctl_one_of("--product", ctl->config.products, ctl_option(ctl, "product"));
}

int ctl_tenant_create(struct ctl *ctl)
{
	char first[128];
	char tenant[ACP_UUID_LEN];
	const char *agent_id = ctl_option(ctl, "agent-id");
	const char *product = ctl_option(ctl, "product");
	if (!new_tenant_ok(ctl))
		return ACPCTL_USAGE;
	acp_uuid(tenant);
	if (ctl_option(ctl, "tenant-id"))
		snprintf(tenant, sizeof tenant, "%s", ctl_option(ctl, "tenant-id"));
	snprintf(first, sizeof first, "%.*s", (int)strcspn(ctl->config.products, " "), ctl->config.products);
	const char *values[] = {tenant, product ? product : first, agent_id, ctl_option(ctl, "email"),
				ctl_option(ctl, "organization")};
	struct json_object *rows = ctl_query(ctl, "tenant create", values);
	if (!rows)
		return ACPCTL_FAILED;
	bool created = json_object_get_boolean(ctl_value(rows, "created"));
	json_object_put(rows);
	if (!created)
		return ctl_fail("%s: this agent_id is taken; acpctl tenant show %s shows its tenant", agent_id,
				agent_id);
	if (ctl->json || ctl->csv)
		ctl_print_done(ctl, "tenant_id", tenant, "created");
	else
		puts(tenant);
	return ACPCTL_OK;
}

int ctl_tenant_update(struct ctl *ctl)
{
	char tenant[ACP_UUID_LEN];
	const char *calls = ctl_option(ctl, "calls-limit");
	bool usual = calls && strcmp(calls, "default") == 0;
	if (calls && !usual && (!*calls || strlen(calls) > 9 || calls[strspn(calls, "0123456789")]))
		return ctl_misuse("--calls-limit %.80s: must be a number of calls, at most 999999999, or default",
				  calls);
	if (!ctl_tenant_id(ctl, ctl_operand(ctl), tenant))
		return ACPCTL_FAILED;
	const char *values[] = {tenant, ctl_option(ctl, "tier"), ctl_option(ctl, "payment-method"),
				ctl_option(ctl, "status"), usual ? "-1" : calls};
	if (!ctl_run(ctl, "tenant update", values))
		return ACPCTL_FAILED;
	struct json_object *rows = ctl_query(ctl, "tenant show", values);
	if (!rows)
		return ACPCTL_FAILED;
	ctl_print_one(ctl, rows);
	return ACPCTL_OK;
}

int ctl_key_list(struct ctl *ctl)
{
	char tenant[ACP_UUID_LEN];
	const char *values[1];
	return ctl_tenant_option(ctl, tenant, &values[0]) ? ctl_print_query(ctl, "key list", values) : ACPCTL_FAILED;
}

/* Scopes must be known: a misspelt scope would never match, and nobody would notice. */
static bool scopes_ok(const char *scopes)
{
	static const char known[] =
		"manage.read manage.iam manage.webhooks manage.settings manage.governance manage.domain";
	char word[64];
	const char *at = scopes + strspn(scopes, " ");
	if (!*at)
		ctl_fail("--scopes: give at least one of: %s", known);
	for (bool some = *at; some; at += strspn(at, " ")) {
		size_t len = strcspn(at, " ");
		if (len == 0)
			return true;
		snprintf(word, sizeof word, "%.*s", (int)len, at);
		if (!acp_word_in_list(known, word)) {
			ctl_fail("--scopes: %s: no such scope; there are: %s", word, known);
			return false;
		}
		at += len;
	}
	return false;
}

int ctl_key_create(struct ctl *ctl)
{
	char tenant[ACP_UUID_LEN], key_id[ACP_UUID_LEN], key[ACP_KEY_MAX], shown[ACP_KEY_SHOWN + 1];
	char hash_text[2 * ACP_SHA256_LEN + 3] = "\\x";
	uint8_t seed[ACP_SHA256_LEN], hash[ACP_SHA256_LEN];
	const char *name = ctl_option(ctl, "name");
	const char *scopes = ctl_option(ctl, "scopes");
	if (!scopes_ok(scopes))
		return ACPCTL_USAGE;
	if (!*name || strlen(name) > 200)
		return ctl_misuse("--name: must have 1 to 200 characters; acpctl key list shows it");
	if (!*ctl->config.key_pepper)
		return ctl_fail("key_pepper is not set: acp.fcgi would refuse a key made without it; name its "
				"configuration file with --config");
	if (!ctl_tenant_id(ctl, ctl_option(ctl, "tenant"), tenant))
		return ACPCTL_FAILED;
	acp_random(seed, sizeof seed);
	acp_key_from_seed(ctl->config.api_key_prefix, seed, key);
	acp_key_hash(ctl->config.key_pepper, key, hash);
	acp_hex(hash, sizeof hash, hash_text + 2);
	acp_key_shown(key, shown);
	acp_uuid(key_id);
	const char *values[] = {tenant, key_id, hash_text, shown, name, scopes, ctl_option(ctl, "expires")};
	if (!ctl_run(ctl, "key create", values))
		return ACPCTL_FAILED;
	if (!ctl->json && !ctl->csv)
		fprintf(stderr, "key %s of tenant %s; it is shown only now:\n", key_id, tenant);
	if (ctl->json)
		printf("{\"api_key_id\":\"%s\",\"tenant_id\":\"%s\",\"api_key\":\"%s\"}\n", key_id, tenant, key);
	else if (ctl->csv)
		printf("api_key_id,tenant_id,api_key\n%s,%s,%s\n", key_id, tenant, key);
	else
		puts(key);
	acp_wipe(key, sizeof key);
	acp_wipe(seed, sizeof seed);
	return ACPCTL_OK;
}

int ctl_key_revoke(struct ctl *ctl)
{
	const char *key_id = ctl_operand(ctl);
	if (!acp_is_uuid(key_id))
		return ctl_misuse("KEY_ID must be a UUID; acpctl key list shows them (never give the key itself)");
	const char *values[] = {key_id};
	struct json_object *rows = ctl_query(ctl, "key revoke", values);
	if (!rows)
		return ACPCTL_FAILED;
	bool revoked = json_object_get_boolean(ctl_value(rows, "revoked"));
	json_object_put(rows);
	if (!revoked)
		return ctl_fail("%s: no such key, or it was revoked before", key_id);
	ctl_print_done(ctl, "api_key_id", key_id, "revoked");
	return ACPCTL_OK;
}
