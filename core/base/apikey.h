/* apikey.h - the text form of API keys (contract section 1).
 *
 *     ock_  7Jk0…(30 base62)…  0aB3xY
 *     prefix      secret        check = base62 CRC-32 of all that stands before it, 6 digits, 0-9A-Za-z
 *
 * A mistyped key is refused by its check without asking the database; that says nothing about which keys exist. */
#ifndef ACP_APIKEY_H
#define ACP_APIKEY_H

#include "attr.h"
#include "crypto.h"

#define ACP_KEY_SECRET_LEN 30
#define ACP_KEY_CHECK_LEN 6
#define ACP_KEY_PREFIX_MAX 13 /* 12 letters or digits and the underscore */
#define ACP_KEY_MAX (ACP_KEY_PREFIX_MAX + ACP_KEY_SECRET_LEN + ACP_KEY_CHECK_LEN + 1)
#define ACP_KEY_SHOWN 12 /* characters kept for people to recognise a key by */

/* ^[a-z0-9]{2,12}_$ */
bool acp_key_prefix_ok(const char *prefix);

/* Makes the key that follows from a seed: the same seed gives the same key. A fresh key takes a random seed. */
void acp_key_from_seed(const char *prefix, const uint8_t seed[32], char out[ACP_KEY_MAX]);

/* True when the text has the form and its check fits. */
bool acp_key_wellformed(const char *prefix, const char *text);

/* What is stored in place of the key: HMAC-SHA-256(pepper, text). */
void acp_key_hash(const char *pepper, const char *text, uint8_t out[ACP_SHA256_LEN]);

/* The first ACP_KEY_SHOWN characters and a closing NUL. text is a well-formed key. */
void acp_key_shown(const char *text, char out[ACP_KEY_SHOWN + 1]);

#endif
