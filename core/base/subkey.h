/* subkey.h - keys and marks that follow from the pepper (setting key_pepper), each for one purpose alone: so that a
 * value made for one can never serve as another. Changing a purpose's text or form makes stored values useless. */
#ifndef ACP_SUBKEY_H
#define ACP_SUBKEY_H

#include "crypto.h"

enum acp_purpose {
	ACP_FOR_UPGRADE_LINK,            /* signs upgrade_url; data: "TENANT|EXPIRES" */
	ACP_FOR_WEBHOOK_SECRET,          /* encrypts a webhook's secret; data: the webhook's id in lower case */
	ACP_FOR_IDEMPOTENCY_FINGERPRINT, /* names a request; data: "ACTION|SCOPES|canonical params" */
	ACP_FOR_IDEMPOTENCY_RESULT,      /* encrypts a stored result; data: "TENANT|ACTION|IDEMPOTENCY_KEY" */
	ACP_FOR_AUDIT_SEAL,              /* signs a seal; data: its text (proof.h) */
	ACP_FOR_AUDIT_ARCHIVE,           /* signs the entry of an archived month; data: its text */
	ACP_FOR_AUDIT_EXPORT,            /* signs an exported file's last line; data: its text */
	ACP_FOR_ONBOARDING_KEY,          /* seed of an API key; data: "SALT|IDEMPOTENCY_KEY" */
	ACP_FOR_ONBOARDING_IDEMPOTENCY,  /* stands for an Idempotency-Key; data: that key */
	ACP_FOR_TENANT_AT_HUB,           /* Idempotency-Key towards the hub; data: hex hash of the request */
	ACP_FOR_SHARED_MEMORY,           /* name of the installation's shared memory; no data */
	ACP_PURPOSES
};

/* The 32 bytes that follow from pepper, purpose and data. Never fails. Wipe out after use where it is a key. */
void acp_subkey(const char *pepper, enum acp_purpose purpose, const void *data, size_t len,
		uint8_t out[ACP_SHA256_LEN]);

/* The same in hex, for values that are stored or shown. */
void acp_subkey_hex(const char *pepper, enum acp_purpose purpose, const void *data, size_t len,
		    char hex[ACP_SHA256_HEX]);

/* Are two texts of any length the same? The time it takes tells nothing of either: their hashes are compared. */
bool acp_same_secret(const char *pepper, const char *shown, const char *right);

#endif
