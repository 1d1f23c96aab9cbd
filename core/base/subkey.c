#include "subkey.h"

/* The forms of derivation, oldest first. Stored values depend on them, so they must never change. */
enum form {
	KEYED, /* HMAC(HMAC(pepper, text), data) */
	PLAIN, /* HMAC(pepper, text and data) */
};

static const struct {
	const char *text;
	enum form form;
} purposes[ACP_PURPOSES] = {
	[ACP_FOR_UPGRADE_LINK] = {"acp-fcgi upgrade link v1", KEYED},
	[ACP_FOR_WEBHOOK_SECRET] = {"acp-fcgi webhook secret v1", KEYED},
	[ACP_FOR_IDEMPOTENCY_FINGERPRINT] = {"acp-fcgi idempotency fingerprint v1", KEYED},
	[ACP_FOR_IDEMPOTENCY_RESULT] = {"acp-fcgi idempotency result v1", KEYED},
	[ACP_FOR_AUDIT_SEAL] = {"acp-fcgi audit seal v1", KEYED},
	[ACP_FOR_AUDIT_ARCHIVE] = {"acp-fcgi audit archive v1", KEYED},
	[ACP_FOR_AUDIT_EXPORT] = {"acp-fcgi audit export v1", KEYED},
	[ACP_FOR_ONBOARDING_KEY] = {"acp-fcgi onboarding key v1|", PLAIN},
	[ACP_FOR_ONBOARDING_IDEMPOTENCY] = {"acp-fcgi onboarding idempotency v1|", PLAIN},
	[ACP_FOR_TENANT_AT_HUB] = {"acp-fcgi tenant at the hub v1|", PLAIN},
	[ACP_FOR_UPSTREAM_KEY] = {"acp-fcgi upstream key v1", KEYED},
	[ACP_FOR_SHARED_MEMORY] = {"acp-fcgi rate limit zone v1", PLAIN},
};

void acp_subkey(const char *pepper, enum acp_purpose purpose, const void *data, size_t len, uint8_t out[ACP_SHA256_LEN])
{
	uint8_t key[ACP_SHA256_LEN];
	const char *text = purposes[purpose].text;
	if (purposes[purpose].form == PLAIN) {
		acp_hmac_sha256_behind(pepper, strlen(pepper), text, data, len, out);
		return;
	}
	acp_hmac_sha256(pepper, strlen(pepper), text, strlen(text), key);
	acp_hmac_sha256(key, sizeof key, data, len, out);
	acp_wipe(key, sizeof key);
}

void acp_subkey_hex(const char *pepper, enum acp_purpose purpose, const void *data, size_t len,
		    char hex[ACP_SHA256_HEX])
{
	uint8_t bytes[ACP_SHA256_LEN];
	acp_subkey(pepper, purpose, data, len, bytes);
	acp_hex(bytes, sizeof bytes, hex);
	acp_wipe(bytes, sizeof bytes);
}

bool acp_same_secret(const char *pepper, const char *shown, const char *right)
{
	uint8_t a[ACP_SHA256_LEN], b[ACP_SHA256_LEN];
	acp_hmac_sha256(pepper, strlen(pepper), shown, strlen(shown), a);
	acp_hmac_sha256(pepper, strlen(pepper), right, strlen(right), b);
	return acp_equal_const_time(a, b, sizeof b);
}
