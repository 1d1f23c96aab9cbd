/* json.h - JSON input and output: a strict reader, the canonical form and its hash, the shortest text of a number.
 *
 * json-c alone accepts documents that RFC 8259 forbids, saturates large integers, keeps the last of two members with
 * the same name and lets invalid UTF-8 through. Its tokener also silently loses data when memory runs out. So our own
 * scanner reads the bytes, and json-c only holds the tree. Everything here is thread-safe as long as each tree is used
 * by one thread at a time. */
#ifndef ACP_JSON_H
#define ACP_JSON_H

#include "attr.h"
#include "buf.h"

#include <json-c/json.h>

/* The limits of a document (contract section 2: 256 KiB, depth 32, 20,000 tokens).
 * A token is a value or a member name; depth counts open arrays and objects. */
struct acp_json_limits {
	size_t max_bytes;
	unsigned max_depth;
	unsigned max_tokens;
};

enum acp_json_verdict {
	ACP_JSON_OK,
	ACP_JSON_MALFORMED, /* not RFC 8259, broken UTF-8, duplicate name, NUL character, unrepresentable number */
	ACP_JSON_TOO_LARGE, /* one of the limits */
	ACP_JSON_NO_MEMORY
};

/* Which documents are read, and how. */
enum acp_json_rules {
	ACP_JSON_STRICT, /* callers' requests: nothing that two readers could understand differently */
	ACP_JSON_OWN,    /* made by this program or the hub: as strict, but every number keeps its digits */
	/* From elsewhere, to be passed on: every document that RFC 8259 permits. Numbers of any size keep their digits,
	 * of two members of one name the last one counts, a byte order mark is skipped, strings may contain U+0000,
	 * and U+0000 in a name and half a surrogate pair become U+FFFD. */
	ACP_JSON_ANY
};

enum { ACP_JSON_ANY_DEPTH = 512 }; /* of acp_json_parse_any */

struct acp_json_error {
	size_t offset;     /* of the first byte that is rejected */
	char message[160]; /* for people: the problem at that byte; never quotes a string of the document */
	char pointer[256]; /* RFC 6901 pointer to the value; "" is the document itself; ends with "..." if cut */
};

/* Reads one document. On ACP_JSON_OK *out is the tree (NULL for the document `null`), owned by the caller
 * (json_object_put); otherwise *out is NULL and *error says why.
 * Numbers: an integer is refused when it does not fit int64 or when a double would round it (|n| > 2^53 and not
 * representable); a fraction or exponent is refused when its value overflows a double. It keeps its digits, except when
 * they are more than 1000, or when a double rounds it to 0: then it has those of the double. */
enum acp_json_verdict acp_json_parse(const char *text, size_t len, const struct acp_json_limits *limits,
				     struct json_object **out, struct acp_json_error *error) ACP_MUSTCHECK;

/* The same by these rules. */
enum acp_json_verdict acp_json_parse_by(enum acp_json_rules rules, const char *text, size_t len,
					const struct acp_json_limits *limits, struct json_object **out,
					struct acp_json_error *error) ACP_MUSTCHECK;

/* The same for a document made by this program or the hub. It may have any size. An integer that fits none of our types
 * keeps its digits. */
enum acp_json_verdict acp_json_parse_own(const char *text, size_t len, struct json_object **out,
					 struct acp_json_error *error) ACP_MUSTCHECK;

/* The same by the rules ACP_JSON_ANY, for a document that is passed on: the reply of an upstream, and the stored reply.
 * The caller bounds its size; at most ACP_JSON_ANY_DEPTH arrays and objects may be open. A number in the tree may be
 * infinite as a double: only its digits count. */
enum acp_json_verdict acp_json_parse_any(const char *text, size_t len, struct json_object **out,
					 struct acp_json_error *error) ACP_MUSTCHECK;

/* acp_json_parse_own for a text known to be valid. NULL: out of memory. */
struct json_object *acp_json_own(const char *text) ACP_NONNULL;

/* Returns the text that json-c makes of value. value owns the text; flags are json-c's. NULL: out of memory (json-c
 * itself would return a truncated text). */
const char *acp_json_text(struct json_object *value, int flags, size_t *len);

/* Makes a JSON number that prints with the fewest digits that read back as the same double (ECMAScript's rule). value
 * must be finite. NULL: out of memory. */
struct json_object *acp_json_double(double value);

/* Appends the RFC 8785 canonical form: names sorted by UTF-16 code units, ECMAScript numbers, minimal escapes.
 * value may be NULL (null). Check acp_buf_ok(out) for failure. */
void acp_json_canonical(struct json_object *value, struct acp_buf *out);

/* Appends value as json-c writes it without spaces and without escaped slashes: members in the order they were added,
 * doubles with the digits they were read with. value may be NULL. Check acp_buf_ok(out) for failure. */
void acp_json_write(struct json_object *value, struct acp_buf *out);

/* Hex SHA-256 of the canonical form, with a closing NUL. False: out of memory. */
bool acp_json_hash(struct json_object *value, char hex[65]) ACP_MUSTCHECK;

/* Writes value as ECMAScript's Number::toString does; out has room for 32 bytes. value must be finite. */
void acp_json_number(double value, char out[32]);

/* Returns the string, boolean or other member of an object; NULL or false if it is missing or has another type. */
const char *acp_json_string(struct json_object *object, const char *name);
bool acp_json_bool(struct json_object *object, const char *name);
struct json_object *acp_json_member(struct json_object *object, const char *name);

/* Adds a member and takes ownership of value; on failure value is freed. Returns false when memory runs out, or when
 * value is NULL because a constructor failed. To add a JSON null, use acp_json_add_null. */
bool acp_json_add(struct json_object *object, const char *name, struct json_object *value);
bool acp_json_add_string(struct json_object *object, const char *name, const char *value);

/* The same for a credential: its text is overwritten when the value is freed. Such a value cannot be deep-copied. */
bool acp_json_add_secret(struct json_object *object, const char *name, const char *value);
/* The same for a literal name that the object does not have yet: the name is neither looked up nor copied. */
#define acp_json_put(object, name, value) acp_json_put_literal(object, "" name, value)
bool acp_json_put_literal(struct json_object *object, const char *name, struct json_object *value);

bool acp_json_add_null(struct json_object *object, const char *name);

#endif
