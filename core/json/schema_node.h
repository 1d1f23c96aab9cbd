/* schema_node.h - a compiled schema: schema.c makes it, schema_check.c reads it. Private to core/json/schema*.c. */
#ifndef ACP_SCHEMA_NODE_H
#define ACP_SCHEMA_NODE_H

#include "schema.h"

#include <regex.h>

/* Bits of acp_schema.types, in the same order as the tables of names in schema.c and schema_check.c. */
enum {
	TYPE_NULL = 1,
	TYPE_BOOLEAN = 2,
	TYPE_INTEGER = 4,
	TYPE_NUMBER = 8,
	TYPE_STRING = 16,
	TYPE_ARRAY = 32,
	TYPE_OBJECT = 64
};

struct bound {
	bool set;
	double value;
};

struct property {
	char *name;
	struct acp_schema *schema;
};

struct format {
	const char *name;
	bool (*check)(const char *text);
	const char *shown; /* the message when the value does not match */
};

/* A schema or subschema. It owns everything it points to except format. Its json_objects are deep copies. Many threads
 * check values at the same time, so the copies are only read, by functions that change neither their caches nor their
 * reference counts. */
struct acp_schema {
	bool never;                       /* the schema `false` */
	unsigned types;                   /* allowed types; 0: any */
	struct json_object *enum_values;  /* array, or NULL */
	struct json_object *const_values; /* array of one, or NULL */
	struct json_object *required;     /* array of strings, or NULL */
	struct property *properties;      /* sorted by name */
	size_t property_count;
	struct acp_schema *additional; /* NULL: anything */
	struct acp_schema *items;      /* NULL: anything */
	size_t min_properties, max_properties;
	size_t min_items, max_items;
	size_t min_length, max_length;
	bool unique_items;
	struct bound minimum, maximum, exclusive_minimum, exclusive_maximum, multiple_of;
	regex_t *pattern;
	const struct format *format;
};

/* The path from the root to the current value, innermost step first. It is converted to a pointer only to report an
 * error. */
struct step {
	const struct step *parent;
	const char *name; /* NULL: the element at position */
	size_t position;
};

/* Records the error and its place. Always returns false, for `return acp_schema_fail(...)`. */
bool acp_schema_fail(struct acp_schema_error *error, const struct step *at, const char *format, ...) ACP_PRINTF(3, 4);

/* Returns NULL if the name is not a known format. The keyword is then an annotation. */
const struct format *acp_schema_format(const char *name);

/* The sort order of acp_schema.properties, for qsort and bsearch. */
static inline int compare_property(const void *left, const void *right)
{
	return strcmp(((const struct property *)left)->name, ((const struct property *)right)->name);
}

static inline bool is_number(struct json_object *value)
{
	return json_object_is_type(value, json_type_int) || json_object_is_type(value, json_type_double);
}

/* ASCII digits and letters, independent of the locale. */
static inline bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static inline bool is_alnum(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

#endif
