/* subkey.h - keys and tags derived from the pepper (setting key_pepper), each for a single purpose, so that a value
 * made for one purpose is never valid for another. Changing the text or the form of a purpose invalidates stored
 * values. */
#ifndef ACP_SUBKEY_H
#define ACP_SUBKEY_H

#include "crypto.h"

enum acp_purpose {
	ACP_FOR_UPGRADE_LINK,            /* signs upgrade_url; data: "TENANT|EXPIRES" */
	ACP_FOR_WEBHOOK_SECRET,          /* encrypts a webhook's secret; data: the webhook's id in lower case */
	ACP_FOR_IDEMPOTENCY_FINGERPRINT, /* identifies a request; data: "ACTION|SCOPES|canonical params" */
	ACP_FOR_IDEMPOTENCY_RESULT,      /* encrypts a stored result; data: "TENANT|ACTION|IDEMPOTENCY_KEY" */
	ACP_FOR_AUDIT_SEAL,              /* signs a seal; data: its text (proof.h) */
	ACP_FOR_AUDIT_ARCHIVE,           /* signs the entry of an archived month; data: its text */
	ACP_FOR_AUDIT_EXPORT,            /* signs an exported file's last line; data: its text */
	ACP_FOR_ONBOARDING_KEY,          /* seed of an API key; data: "SALT|IDEMPOTENCY_KEY" */
	ACP_FOR_ONBOARDING_IDEMPOTENCY,  /* replaces an Idempotency-Key in the database; data: that key */
	ACP_FOR_TENANT_AT_HUB,           /* Idempotency-Key for requests to the hub; data: hex hash of the request */
	ACP_FOR_UPSTREAM_KEY,            /* Idempotency-Key for an upstream; data: "KERNEL|TENANT|ACTION|KEY" */
	ACP_FOR_SHARED_MEMORY,           /* name of the installation's shared memory; no data */
	ACP_PURPOSES
};

/* Derives 32 bytes from pepper, purpose and data. Never fails. If the result is a key, wipe it after use. */
void acp_subkey(const char *pepper, enum acp_purpose purpose, const void *data, size_t len,
		uint8_t out[ACP_SHA256_LEN]);

/* The same in hex, for values that are stored or shown. */
void acp_subkey_hex(const char *pepper, enum acp_purpose purpose, const void *data, size_t len,
		    char hex[ACP_SHA256_HEX]);

/* Are two texts of any length equal? Compares their hashes, so the time reveals nothing about either text. */
bool acp_same_secret(const char *pepper, const char *shown, const char *right);

#endif
