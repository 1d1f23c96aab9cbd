#include "upgrade_link.h"

#include "crypto.h"

/* Links are signed with a key of their own, so that a signature can never serve as anything else. */
static void sign(const struct acp_config *config, const char *tenant_id, const char *expires_at,
		 char hex[ACP_SHA256_HEX])
{
	uint8_t key[ACP_SHA256_LEN];
	uint8_t mac[ACP_SHA256_LEN];
	char message[96];
	static const char purpose[] = "acp-fcgi upgrade link v1";
	int len = snprintf(message, sizeof message, "%s|%s", tenant_id, expires_at);
	acp_hmac_sha256(config->key_pepper, strlen(config->key_pepper), purpose, sizeof purpose - 1, key);
	acp_hmac_sha256(key, sizeof key, message, (size_t)len, mac);
	acp_hex(mac, sizeof mac, hex);
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
