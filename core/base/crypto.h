/* crypto.h - the only interface to libcrypto: hashes, MACs, random bytes, and the encodings that go with them. */
#ifndef ACP_CRYPTO_H
#define ACP_CRYPTO_H

#include "attr.h"

#define ACP_SHA256_LEN 32
#define ACP_SHA256_HEX 65 /* 64 hex digits and the closing NUL */
#define ACP_UUID_LEN 37   /* 36 characters and the closing NUL */
#define ACP_NIL_UUID "00000000-0000-0000-0000-000000000000"

void acp_sha256(const void *data, size_t len, uint8_t out[ACP_SHA256_LEN]);
void acp_hmac_sha256(const void *key, size_t key_len, const void *data, size_t len, uint8_t out[ACP_SHA256_LEN]);
/* HMAC of head (a text) followed by data. */
void acp_hmac_sha256_behind(const void *key, size_t key_len, const char *head, const void *data, size_t len,
			    uint8_t out[ACP_SHA256_LEN]);

/* SHA-256 of data that arrives in pieces. acp_hasher_end writes the hash of all pieces added since acp_hasher_new or
 * the last acp_hasher_end, and starts over. */
struct acp_hasher;
struct acp_hasher *acp_hasher_new(void);
void acp_hasher_free(struct acp_hasher *hasher);
void acp_hasher_add(struct acp_hasher *hasher, const void *data, size_t len);
void acp_hasher_end(struct acp_hasher *hasher, uint8_t out[ACP_SHA256_LEN]);

/* Lower-case hex of len bytes and a closing NUL: out needs 2 * len + 1 bytes. */
void acp_hex(const uint8_t *bytes, size_t len, char *out);

/* The reverse, for exactly len bytes. False: the text is not 2 * len lower-case hex digits. */
bool acp_unhex(const char *text, uint8_t *out, size_t len) ACP_MUSTCHECK;

/* Base64 (RFC 4648, with padding) of len bytes and a closing NUL: out needs ACP_BASE64_SIZE(len) bytes. */
#define ACP_BASE64_SIZE(len) (((len) + 2) / 3 * 4 + 1)
void acp_base64(const uint8_t *bytes, size_t len, char *out);

/* Fills out with random bytes suitable for keys. Aborts the process if the system cannot provide them, because there is
 * no safe way to continue. */
void acp_random(void *out, size_t len);

/* A random UUID (RFC 9562 version 4: 122 random bits) in its text form. */
void acp_uuid(char out[ACP_UUID_LEN]);

/* True for the 8-4-4-4-12 hex form in either case. */
bool acp_is_uuid(const char *text);

/* Encrypts and authenticates (AES-256-GCM, random nonce): out gets len + ACP_ENCRYPT_EXTRA bytes. False: out of memory;
 * the content of out is then undefined. */
#define ACP_ENCRYPT_EXTRA 28
bool acp_encrypt(const uint8_t key[ACP_SHA256_LEN], const void *data, size_t len, uint8_t *out) ACP_MUSTCHECK;

/* The reverse: out gets len - ACP_ENCRYPT_EXTRA bytes. False: not encrypted with this key, or changed since. */
bool acp_decrypt(const uint8_t key[ACP_SHA256_LEN], const uint8_t *sealed, size_t len, uint8_t *out) ACP_MUSTCHECK;

/* Compares in constant time: the duration does not depend on where the bytes differ. */
bool acp_equal_const_time(const void *a, const void *b, size_t len);

/* Overwrites a secret. The compiler does not optimise this away. */
void acp_wipe(void *secret, size_t len);

/* Disables core dumps of this process, both as files and through a program that receives them. Also stops other
 * processes of the same user from reading its memory. */
void acp_keep_memory_private(void);

#endif
