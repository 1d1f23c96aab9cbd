/* tenants.c - acpctl tenant and acpctl key. */
#include "acpctl.h"

#include "apikey.h"
#include "crypto.h"
#include "redact.h"
#include "schema.h"

bool ctl_tenant_id(struct ctl *ctl, const char *given, char uuid[ACP_UUID_LEN])
{
	const char *values[] = {given};
	struct json_object *rows = ctl_query(ctl, "tenant show", values);
	if (!rows)
		return false;
	bool found = json_object_array_length(rows) == 1;
	char shown[160];
	snprintf(shown, sizeof shown, "%s", given);
	acp_redact_in_place(shown, sizeof shown, ctl->config.api_key_prefix); /* an API key, given by mistake */
	if (found)
		snprintf(uuid, ACP_UUID_LEN, "%s", json_object_get_string(ctl_value(rows, "tenant_id")));
	else
		ctl_fail("%s: there is no tenant with this UUID or agent_id; acpctl tenant list shows them", shown);
	json_object_put(rows);
	return found;
}

int ctl_tenant_list(struct ctl *ctl)
{
	if (!ctl_options(ctl, NULL, 0, NULL, NULL))
		return ACPCTL_USAGE;
	struct json_object *rows = ctl_query(ctl, "tenant list", NULL);
	if (!rows)
		return ACPCTL_FAILED;
	ctl_print(ctl, rows);
	return ACPCTL_OK;
}

int ctl_tenant_show(struct ctl *ctl)
{
	char tenant[ACP_UUID_LEN];
	char limit[24];
	const char *given = NULL;
	if (!ctl_options(ctl, NULL, 0, "TENANT", &given))
		return ACPCTL_USAGE;
	if (!ctl_tenant_id(ctl, given, tenant))
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

int ctl_tenant_create(struct ctl *ctl)
{
	char first[128];
	char tenant[ACP_UUID_LEN];
	struct ctl_option options[] = {{"--agent-id", true, NULL},
				       {"--email", true, NULL},
				       {"--organization", false, NULL},
				       {"--product", false, NULL},
				       {"--tenant-id", false, NULL}};
	if (!ctl_options(ctl, options, ACP_COUNT(options), NULL, NULL))
		return ACPCTL_USAGE;
	if (options[4].value && !acp_is_uuid(options[4].value))
		return ctl_misuse("--tenant-id %.80s: not a UUID; give the tenant_uuid that the hub made",
				  options[4].value);
	if (!agent_id_ok(options[0].value))
		return ctl_misuse("--agent-id %.140s: must have 1 to 128 letters, digits, dots, underscores, colons or "
				  "hyphens",
				  options[0].value);
	if (!email_ok(options[1].value) || !ctl_one_of("--product", ctl->config.products, options[3].value))
		return ACPCTL_USAGE;
	acp_uuid(tenant);
	if (options[4].value)
		snprintf(tenant, sizeof tenant, "%s", options[4].value);
	snprintf(first, sizeof first, "%.*s", (int)strcspn(ctl->config.products, " "), ctl->config.products);
	const char *product = options[3].value ? options[3].value : first;
	const char *values[] = {tenant, product, options[0].value, options[1].value, options[2].value};
	struct json_object *rows = ctl_query(ctl, "tenant create", values);
	if (!rows)
		return ACPCTL_FAILED;
	bool created = json_object_get_boolean(ctl_value(rows, "created"));
	json_object_put(rows);
	if (!created)
		return ctl_fail("%s: this agent_id is taken; acpctl tenant show %s shows whose it is", options[0].value,
				options[0].value);
	if (ctl->json || ctl->csv)
		ctl_print_done(ctl, "tenant_id", tenant, "created");
	else
		puts(tenant);
	return ACPCTL_OK;
}

int ctl_tenant_update(struct ctl *ctl)
{
	char tenant[ACP_UUID_LEN];
	const char *given = NULL;
	struct ctl_option options[] = {{"--tier", false, NULL},
				       {"--payment-method", false, NULL},
				       {"--status", false, NULL},
				       {"--calls-limit", false, NULL}};
	if (!ctl_options(ctl, options, ACP_COUNT(options), "TENANT", &given))
		return ACPCTL_USAGE;
	if (!ctl_one_of("--tier", "free paid", options[0].value) ||
	    !ctl_one_of("--payment-method", "none setup_pending active", options[1].value) ||
	    !ctl_one_of("--status", "active suspended closed", options[2].value))
		return ACPCTL_USAGE;
	const char *calls = options[3].value;
	if (calls && strcmp(calls, "default") != 0 &&
	    (!*calls || strlen(calls) > 9 || calls[strspn(calls, "0123456789")]))
		return ctl_misuse("--calls-limit %.80s: must be a number of calls, at most 999999999, or default",
				  calls);
	if (!ctl_tenant_id(ctl, given, tenant))
		return ACPCTL_FAILED;
	bool usual = options[3].value && strcmp(options[3].value, "default") == 0;
	const char *values[] = {tenant, options[0].value, options[1].value, options[2].value,
				usual ? "-1" : options[3].value};
	struct json_object *rows = ctl_query(ctl, "tenant update", values);
	if (!rows)
		return ACPCTL_FAILED;
	json_object_put(rows);
	rows = ctl_query(ctl, "tenant show", values);
	if (!rows)
		return ACPCTL_FAILED;
	ctl_print_one(ctl, rows);
	return ACPCTL_OK;
}

int ctl_key_list(struct ctl *ctl)
{
	char tenant[ACP_UUID_LEN];
	struct ctl_option options[] = {{"--tenant", false, NULL}};
	if (!ctl_options(ctl, options, ACP_COUNT(options), NULL, NULL))
		return ACPCTL_USAGE;
	if (options[0].value && !ctl_tenant_id(ctl, options[0].value, tenant))
		return ACPCTL_FAILED;
	const char *values[] = {options[0].value ? tenant : NULL};
	struct json_object *rows = ctl_query(ctl, "key list", values);
	if (!rows)
		return ACPCTL_FAILED;
	ctl_print(ctl, rows);
	return ACPCTL_OK;
}

/* Scopes are words known to the program: a misspelt one would silently never match. */
static bool scopes_ok(const char *scopes)
{
	static const char known[] =
		"manage.read manage.iam manage.webhooks manage.settings manage.governance manage.domain";
	char word[64];
	const char *at = scopes + strspn(scopes, " ");
	if (!*at)
		ctl_fail("--scopes: at least one of: %s", known);
	for (bool some = *at; some; at += strspn(at, " ")) {
		size_t len = strcspn(at, " ");
		if (len == 0)
			return true;
		snprintf(word, sizeof word, "%.*s", (int)len, at);
		if (!acp_word_in_list(known, word)) {
			ctl_fail("--scopes: %s is not a scope; there are: %s", word, known);
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
	struct ctl_option options[] = {
		{"--tenant", true, NULL}, {"--name", true, NULL}, {"--scopes", true, NULL}, {"--expires", false, NULL}};
	if (!ctl_options(ctl, options, ACP_COUNT(options), NULL, NULL) || !scopes_ok(options[2].value))
		return ACPCTL_USAGE;
	if (!*options[1].value || strlen(options[1].value) > 200)
		return ctl_misuse("--name: must have 1 to 200 characters; acpctl key list shows it");
	if (!*ctl->config.key_pepper)
		return ctl_fail("key_pepper is not set: a key made without it would be refused by acp.fcgi; "
				"name its configuration file with --config");
	if (!ctl_tenant_id(ctl, options[0].value, tenant))
		return ACPCTL_FAILED;
	acp_random(seed, sizeof seed);
	acp_key_from_seed(ctl->config.api_key_prefix, seed, key);
	acp_key_hash(ctl->config.key_pepper, key, hash);
	acp_hex(hash, sizeof hash, hash_text + 2);
	acp_key_shown(key, shown);
	acp_uuid(key_id);
	const char *values[] = {tenant, key_id, hash_text, shown, options[1].value, options[2].value, options[3].value};
	struct json_object *rows = ctl_query(ctl, "key create", values);
	if (!rows)
		return ACPCTL_FAILED;
	json_object_put(rows);
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
	const char *key_id = NULL;
	if (!ctl_options(ctl, NULL, 0, "KEY_ID", &key_id))
		return ACPCTL_USAGE;
	if (!acp_is_uuid(key_id))
		return ctl_misuse("KEY_ID must be a UUID; acpctl key list shows them (never give the key itself)");
	const char *values[] = {key_id};
	struct json_object *rows = ctl_query(ctl, "key revoke", values);
	if (!rows)
		return ACPCTL_FAILED;
	bool revoked = json_object_get_boolean(ctl_value(rows, "revoked"));
	json_object_put(rows);
	if (!revoked)
		return ctl_fail("%s: there is no such key, or it was revoked before", key_id);
	ctl_print_done(ctl, "api_key_id", key_id, "revoked");
	return ACPCTL_OK;
}
