#include "upgrade_link.h"

#include "subkey.h"

static void sign(const struct acp_config *config, const char *tenant_id, const char *expires_at,
		 char hex[ACP_SHA256_HEX])
{
	char message[96];
	int len = snprintf(message, sizeof message, "%s|%s", tenant_id, expires_at);
	acp_subkey_hex(config->key_pepper, ACP_FOR_UPGRADE_LINK, message, (size_t)len, hex);
}

void acp_upgrade_url(const struct acp_config *config, const char *tenant_id, int64_t expires_at, char out[512])
{
	char expires[24];
	char signature[ACP_SHA256_HEX];
	snprintf(expires, sizeof expires, "%lld", (long long)expires_at);
	sign(config, tenant_id, expires, signature);
	snprintf(out, 512, "%s%s/api/upgrade/checkout?tenant=%s&exp=%s&sig=%s", config->public_url, config->url_prefix,
		 tenant_id, expires, signature);
}

bool acp_upgrade_url_ok(const struct acp_config *config, const char *tenant_id, const char *expires_at,
			const char *signature, int64_t now)
{
	char expected[ACP_SHA256_HEX];
	size_t digits = strspn(expires_at, "0123456789");
	if (!acp_is_uuid(tenant_id) || digits == 0 || digits > 12 || expires_at[digits] ||
	    strlen(signature) != ACP_SHA256_HEX - 1)
		return false;
	sign(config, tenant_id, expires_at, expected);
	return acp_equal_const_time(expected, signature, ACP_SHA256_HEX - 1) && strtoll(expires_at, NULL, 10) > now;
}
