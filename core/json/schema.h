/* schema.h - JSON Schema (the draft-07 vocabulary that params use), compiled once and checked many times.
 *
 * Supported: type (one name or a list), enum, const, required, properties, additionalProperties (boolean or schema),
 * minProperties, maxProperties, items (one schema), minItems, maxItems, uniqueItems, minLength, maxLength (in
 * characters, not bytes), minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf, pattern, format (date-time,
 * date, month, email, uri, uuid; any other format is an annotation), and the boolean schemas. title, description,
 * default, examples, $schema, $id and $comment are annotations. Any other keyword is an error at compile time, because
 * silently ignoring a constraint would be worse.
 *
 * "integer" accepts 1 and 1.0 but not 0.5. A member with the value null is present, but only type "null" accepts it.
 * pattern is a POSIX extended regular expression to which \d \w \s \D \W \S are translated; it may match anywhere in
 * the text, as JSON Schema says. */
#ifndef ACP_SCHEMA_H
#define ACP_SCHEMA_H

#include "attr.h"

#include <json-c/json.h>

struct acp_schema; /* immutable after compilation: any number of threads may check against it */

struct acp_schema_error {
	char pointer[256]; /* RFC 6901 pointer to the invalid value, relative to the checked value */
	char message[192]; /* "must be an integer", "is required", …; never quotes a string of the value */
	bool no_memory;    /* the value was not checked because memory ran out */
};

/* Compiles a schema. Returns NULL if it is invalid or uses a keyword outside the list above; error then has the reason,
 * and a pointer into the schema. The schema tree is only read, and is not needed afterwards. */
struct acp_schema *acp_schema_compile(struct json_object *schema, struct acp_schema_error *error) ACP_MUSTCHECK;

void acp_schema_free(struct acp_schema *schema); /* NULL is allowed */

/* True when value (NULL is null) satisfies the schema; otherwise error describes the first violation found. */
bool acp_schema_check(const struct acp_schema *schema, struct json_object *value,
		      struct acp_schema_error *error) ACP_MUSTCHECK;

#endif
