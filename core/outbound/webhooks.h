/* webhooks.h - webhooks to tenants (https://www.standardwebhooks.com/): secrets, signatures, allowed URLs and the retry
 * schedule. webhook_sender.h sends them. */
#ifndef ACP_WEBHOOKS_H
#define ACP_WEBHOOKS_H

#include "kernel.h"

#define ACP_WEBHOOK_SECRET_LEN 32
#define ACP_WEBHOOK_SECRET_TEXT (sizeof "whsec_" + ACP_BASE64_SIZE(ACP_WEBHOOK_SECRET_LEN)) /* with its NUL */
#define ACP_WEBHOOK_SEALED_LEN (ACP_WEBHOOK_SECRET_LEN + ACP_ENCRYPT_EXTRA)
#define ACP_WEBHOOK_SEALED_HEX (2 * ACP_WEBHOOK_SEALED_LEN + 1)

/* May a tenant use this URL? If not, writes the reason to why. Whether the host name resolves to a private address is
 * checked only when a delivery is sent. */
bool acp_webhook_url_ok(const struct acp_config *config, const char *url, char *why, size_t why_size) ACP_MUSTCHECK;

/* Makes a secret. text is for the tenant, to be shown once. sealed_hex is for storage: the secret in hex, encrypted
 * with a key derived from the pepper and the webhook's id. False: out of memory. */
bool acp_webhook_new_secret(const struct acp_config *config, const char *webhook_id, char text[ACP_WEBHOOK_SECRET_TEXT],
			    char sealed_hex[ACP_WEBHOOK_SEALED_HEX]) ACP_MUSTCHECK;

/* Decrypts a stored secret. False: the pepper is a different one, or the stored form was changed. */
bool acp_webhook_open_secret(const struct acp_config *config, const char *webhook_id, const char *sealed_hex,
			     uint8_t secret[ACP_WEBHOOK_SECRET_LEN]) ACP_MUSTCHECK;

/* One entry of the header webhook-signature: "v1," and the base64 of HMAC-SHA-256(secret, id.timestamp.body). */
#define ACP_WEBHOOK_SIGNATURE (sizeof "v1," + ACP_BASE64_SIZE(ACP_SHA256_LEN))
void acp_webhook_sign(const uint8_t *secret, size_t secret_len, const char *id, int64_t timestamp, const char *body,
		      char out[ACP_WEBHOOK_SIGNATURE]);

/* Seconds from a failed attempt (the first is 1) to the next one; -1: there is none. random varies the delay by up to a
 * tenth either way, so that receivers that failed together are not all retried together. */
double acp_webhook_retry_delay(int64_t attempt, uint32_t random);

#endif
