/* webhooks.h - telling tenants what happened (https://www.standardwebhooks.com/): secrets, signatures, which URLs are
 * allowed, when to try again, and one delivery from the queue to its end.
 *
 * Events are queued by the hub in the transaction of their cause; the host calls acp_webhooks_deliver() from a thread
 * of its own (fcgi/delivery_worker.c). A receiver gets each delivery at least once, always with the same webhook-id. */
#ifndef ACP_WEBHOOKS_H
#define ACP_WEBHOOKS_H

#include "kernel.h"

#define ACP_WEBHOOK_SECRET_LEN 32
#define ACP_WEBHOOK_SECRET_TEXT (sizeof "whsec_" + ACP_BASE64_SIZE(ACP_WEBHOOK_SECRET_LEN)) /* with its NUL */
#define ACP_WEBHOOK_SEALED_LEN (ACP_WEBHOOK_SECRET_LEN + ACP_ENCRYPT_EXTRA)
#define ACP_WEBHOOK_SEALED_HEX (2 * ACP_WEBHOOK_SEALED_LEN + 1)

/* May a tenant name this URL? False with what is wrong with it in why. Whether its name leads to a private address
 * shows only when it is used, and is checked then. */
bool acp_webhook_url_ok(const struct acp_config *config, const char *url, char *why, size_t why_size) ACP_MUSTCHECK;

/* Makes a secret: its text for the tenant, to be shown once, and what is stored: sealed with a key that follows from
 * the pepper and the webhook's id, in hex. False: out of memory. */
bool acp_webhook_new_secret(const struct acp_config *config, const char *webhook_id, char text[ACP_WEBHOOK_SECRET_TEXT],
			    char sealed_hex[ACP_WEBHOOK_SEALED_HEX]) ACP_MUSTCHECK;

/* The secret behind its stored form. False: the pepper is another, or it was changed. */
bool acp_webhook_open_secret(const struct acp_config *config, const char *webhook_id, const char *sealed_hex,
			     uint8_t secret[ACP_WEBHOOK_SECRET_LEN]) ACP_MUSTCHECK;

/* One entry of the header webhook-signature: "v1," and the base64 of HMAC-SHA-256(secret, id.timestamp.body). */
#define ACP_WEBHOOK_SIGNATURE (sizeof "v1," + ACP_BASE64_SIZE(ACP_SHA256_LEN))
void acp_webhook_sign(const uint8_t *secret, size_t secret_len, const char *id, int64_t timestamp, const char *body,
		      char out[ACP_WEBHOOK_SIGNATURE]);

/* Seconds from a failed attempt (1 is the first) to the next one; -1: that was the last. random moves it by up to a
 * tenth in either direction, so that receivers which failed together are not all asked again together. */
double acp_webhook_retry_delay(int64_t attempt, uint32_t random);

enum acp_webhooks_step {
	ACP_WEBHOOKS_SENT,   /* an attempt was made; there may be more to send */
	ACP_WEBHOOKS_IDLE,   /* nothing is due */
	ACP_WEBHOOKS_TROUBLE /* the hub is away or out of memory: wait before the next call */
};

/* Takes one delivery that is due and makes one attempt, which ends within some 15 seconds. */
enum acp_webhooks_step acp_webhooks_deliver(const struct acp_config *config,
					    const struct acp_control_plane *plane) ACP_MUSTCHECK;

#endif
