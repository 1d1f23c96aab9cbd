/* crypto.h - the only door to libcrypto: hashes, MACs, random bytes, and the encodings that go with them. */
#ifndef ACP_CRYPTO_H
#define ACP_CRYPTO_H

#include "attr.h"

#define ACP_SHA256_LEN 32
#define ACP_SHA256_HEX 65 /* 64 hex digits and the closing NUL */
#define ACP_UUID_LEN 37   /* 36 characters and the closing NUL */

void acp_sha256(const void *data, size_t len, uint8_t out[ACP_SHA256_LEN]);
void acp_hmac_sha256(const void *key, size_t key_len, const void *data, size_t len, uint8_t out[ACP_SHA256_LEN]);

/* Lower-case hex of len bytes and a closing NUL: out needs 2 * len + 1 bytes. */
void acp_hex(const uint8_t *bytes, size_t len, char *out);

/* The reverse, for exactly len bytes. False: the text is not 2 * len lower-case hex digits. */
bool acp_unhex(const char *text, uint8_t *out, size_t len) ACP_MUSTCHECK;

/* Base64 (RFC 4648, with padding) of len bytes and a closing NUL: out needs ACP_BASE64_SIZE(len) bytes. */
#define ACP_BASE64_SIZE(len) (((len) + 2) / 3 * 4 + 1)
void acp_base64(const uint8_t *bytes, size_t len, char *out);

/* Fills out with random bytes fit for keys. Ends the process when the system has none: nothing safe could follow. */
void acp_random(void *out, size_t len);

/* A random UUID (RFC 9562 version 4: 122 random bits) in its text form. */
void acp_uuid(char out[ACP_UUID_LEN]);

/* True for the 8-4-4-4-12 hex form in either case. */
bool acp_is_uuid(const char *text);

/* Encrypts and authenticates (AES-256-GCM, random nonce): out gets len + ACP_SEAL_EXTRA bytes. */
#define ACP_SEAL_EXTRA 28
void acp_seal(const uint8_t key[ACP_SHA256_LEN], const void *data, size_t len, uint8_t *out);

/* The reverse: out gets len - ACP_SEAL_EXTRA bytes. False: not sealed with this key, or changed since. */
bool acp_unseal(const uint8_t key[ACP_SHA256_LEN], const uint8_t *sealed, size_t len, uint8_t *out) ACP_MUSTCHECK;

/* Compares without a time that depends on where the difference is. */
bool acp_equal_const_time(const void *a, const void *b, size_t len);

/* Overwrites a secret; not optimised away. */
void acp_wipe(void *secret, size_t len);

#endif
