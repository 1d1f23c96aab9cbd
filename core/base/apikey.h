/* apikey.h - the text form of API keys (contract section 1).
 *
 *     ock_  7Jk0…(30 base62)…  0aB3xY
 *     prefix      secret        check = base62 CRC-32 of prefix and secret, 6 digits, 0-9A-Za-z
 *
 * The check rejects a mistyped key without a database query. It reveals nothing about which keys exist. */
#ifndef ACP_APIKEY_H
#define ACP_APIKEY_H

#include "attr.h"
#include "crypto.h"

#define ACP_KEY_SECRET_LEN 30
#define ACP_KEY_CHECK_LEN 6
#define ACP_KEY_PREFIX_MAX 13 /* 12 letters or digits and the underscore */
#define ACP_KEY_MAX (ACP_KEY_PREFIX_MAX + ACP_KEY_SECRET_LEN + ACP_KEY_CHECK_LEN + 1)
#define ACP_KEY_SHOWN 12 /* characters stored so that people can recognise a key */

/* ^[a-z0-9]{2,12}_$ */
bool acp_key_prefix_ok(const char *prefix);

/* Derives a key from a seed: the same seed gives the same key. For a fresh key, pass a random seed. */
void acp_key_from_seed(const char *prefix, const uint8_t seed[32], char out[ACP_KEY_MAX]);

/* True when the text has the form of a key and its check matches. */
bool acp_key_wellformed(const char *prefix, const char *text);

/* Computes the value that is stored instead of the key: HMAC-SHA-256(pepper, text). */
void acp_key_hash(const char *pepper, const char *text, uint8_t out[ACP_SHA256_LEN]);

/* Copies the first ACP_KEY_SHOWN characters of text, a well-formed key, and a NUL. */
void acp_key_shown(const char *text, char out[ACP_KEY_SHOWN + 1]);

#endif
