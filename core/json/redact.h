/* redact.h - removes credentials from text and JSON before they are stored, hashed or logged (contract section 3,
 * "redaction").
 *
 * Two rules apply. First, if the name of a member suggests a credential, its whole value is replaced. Second, all other
 * text is searched for parts that have the form of a credential. The replacement is always ACP_REDACTED. */
#ifndef ACP_REDACT_H
#define ACP_REDACT_H

#include "attr.h"
#include "buf.h"

#include <json-c/json.h>

#define ACP_REDACTED "[REDACTED]"

/* True when a member of this name holds a credential: authorization, cookie, x-api-key, api_key, apikey, token,
 * access_token, refresh_token, client_secret, secret, secret_key, webhook_secret, password, passwd, pwd, private_key,
 * session_id, auth_token, bearer, credential, credentials. Case, '-' and '_' are ignored. */
bool acp_redact_name(const char *name) ACP_NONNULL;

/* Appends text with every credential-shaped part replaced: "Bearer <token>", sk_live_/sk_test_/rk_…, whsec_…,
 * JWTs (three base64url parts, the first starting with "eyJ"), and keys of our own form: api_key_prefix followed by at
 * least 20 base62 characters. api_key_prefix may be NULL. The text is UTF-8 and may be empty. */
void acp_redact_text(struct acp_buf *out, const char *text, size_t len, const char *api_key_prefix);

/* True when acp_redact_text would replace a part of text. */
bool acp_redact_needed(const char *text, size_t len, const char *api_key_prefix);

/* The same as acp_redact_text, within a buffer of size bytes. A text that becomes too long is cut between
 * characters. */
void acp_redact_in_place(char *text, size_t size, const char *api_key_prefix);

/* Makes a deep copy of value with both rules applied to every member and string, and with numbers in their shortest
 * form. The caller owns it. *out is NULL for null. False: out of memory. */
bool acp_redact_copy(struct json_object *value, const char *api_key_prefix, struct json_object **out) ACP_MUSTCHECK;

/* The same for read-only use: if there is nothing to replace, *out is value itself with one more reference. */
bool acp_redact_json(struct json_object *value, const char *api_key_prefix, struct json_object **out) ACP_MUSTCHECK;

#endif
