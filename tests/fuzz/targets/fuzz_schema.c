/* JSON Schema (core/json/schema*.c). The input: a schema, a NUL, a value. A schema that compiles gives the same verdict
 * on the value as the second implementation of draft-07 below (if that one has an opinion). The verdict stays the same
 * after schema and value went through their canonical form. An error names a place. */
#include "../fuzz.h"
#include "schema.h"

#include <math.h>

enum opinion { NO, YES, UNSURE }; /* UNSURE: depends on a pattern, a format or the multiple of a fraction */

static enum opinion check(struct json_object *schema, struct json_object *value);

static enum opinion both(enum opinion a, enum opinion b)
{
	return a == NO || b == NO ? NO : a == UNSURE || b == UNSURE ? UNSURE : YES;
}

static enum opinion yes_if(bool holds)
{
	return holds ? YES : NO;
}

static bool is_number(struct json_object *value)
{
	return json_object_is_type(value, json_type_int) || json_object_is_type(value, json_type_double);
}

/* Values are equal if their canonical forms are. */
static bool same(struct json_object *a, struct json_object *b)
{
	char *left = fuzz_canonical(a);
	char *right = fuzz_canonical(b);
	bool equal = strcmp(left, right) == 0;
	free(left);
	free(right);
	return equal;
}

static bool in_list(struct json_object *list, struct json_object *value)
{
	for (size_t i = 0; i < json_object_array_length(list); i++)
		if (same(json_object_array_get_idx(list, i), value))
			return true;
	return false;
}

static bool is_type(struct json_object *value, const char *name)
{
	enum json_type type = json_object_get_type(value);
	if (strcmp(name, "number") == 0)
		return is_number(value);
	if (strcmp(name, "integer") == 0)
		return is_number(value) && floor(json_object_get_double(value)) == json_object_get_double(value);
	static const char *const names[] = {"null", "boolean", "double", "int", "object", "array", "string"};
	return strcmp(names[type], name) == 0;
}

static enum opinion check_type(struct json_object *types, struct json_object *value)
{
	if (!json_object_is_type(types, json_type_array))
		return yes_if(is_type(value, json_object_get_string(types)));
	for (size_t i = 0; i < json_object_array_length(types); i++)
		if (is_type(value, json_object_get_string(json_object_array_get_idx(types, i))))
			return YES;
	return NO;
}

static enum opinion check_multiple(double value, double of)
{
	if (floor(value) != value || floor(of) != of)
		return UNSURE;
	return yes_if(fmod(value, of) == 0);
}

static enum opinion check_number(const char *word, double limit, double value)
{
	if (strcmp(word, "minimum") == 0)
		return yes_if(value >= limit);
	if (strcmp(word, "maximum") == 0)
		return yes_if(value <= limit);
	if (strcmp(word, "exclusiveMinimum") == 0)
		return yes_if(value > limit);
	if (strcmp(word, "exclusiveMaximum") == 0)
		return yes_if(value < limit);
	return strcmp(word, "multipleOf") == 0 ? check_multiple(value, limit) : YES;
}

/* The keywords min… and max… for one kind of thing. count: the number of these things in the value. */
static enum opinion check_count(const char *word, const char *kind, struct json_object *limit, size_t count)
{
	if (strcmp(word + 3, kind) != 0)
		return YES;
	double bound = json_object_get_double(limit);
	return yes_if(strncmp(word, "min", 3) == 0 ? (double)count >= bound : (double)count <= bound);
}

static size_t characters(const char *text)
{
	size_t count = 0;
	for (; *text; text++)
		count += (*text & 0xc0) != 0x80;
	return count;
}

static enum opinion check_array(const char *word, struct json_object *limit, struct json_object *array)
{
	enum opinion opinion = YES;
	size_t count = json_object_array_length(array);
	if (strcmp(word, "items") == 0)
		for (size_t i = 0; i < count; i++)
			opinion = both(opinion, check(limit, json_object_array_get_idx(array, i)));
	if (strcmp(word, "uniqueItems") == 0 && json_object_get_boolean(limit))
		for (size_t i = 0; i < count; i++)
			for (size_t k = 0; k < i; k++)
				if (same(json_object_array_get_idx(array, i), json_object_array_get_idx(array, k)))
					return NO;
	return opinion;
}

static enum opinion check_object(struct json_object *schema, const char *word, struct json_object *limit,
				 struct json_object *object)
{
	enum opinion opinion = YES;
	if (strcmp(word, "required") == 0)
		for (size_t i = 0; i < json_object_array_length(limit); i++) {
			const char *name = json_object_get_string(json_object_array_get_idx(limit, i));
			if (!json_object_object_get_ex(object, name, NULL))
				return NO;
		}
	struct json_object *properties = acp_json_member(schema, "properties");
	json_object_object_foreach(object, name, member)
	{
		struct json_object *known = NULL;
		bool named = json_object_object_get_ex(properties, name, &known);
		if (named && strcmp(word, "properties") == 0)
			opinion = both(opinion, check(known, member));
		else if (!named && strcmp(word, "additionalProperties") == 0)
			opinion = both(opinion, check(limit, member));
	}
	return opinion;
}

static enum opinion check_word(struct json_object *schema, const char *word, struct json_object *limit,
			       struct json_object *value)
{
	bool string = json_object_is_type(value, json_type_string);
	if (strcmp(word, "type") == 0)
		return check_type(limit, value);
	if (strcmp(word, "enum") == 0)
		return yes_if(in_list(limit, value));
	if (strcmp(word, "const") == 0)
		return yes_if(same(limit, value));
	if (strcmp(word, "pattern") == 0 || strcmp(word, "format") == 0)
		return string ? UNSURE : YES;
	if (is_number(value))
		return check_number(word, json_object_get_double(limit), json_object_get_double(value));
	if (string)
		return check_count(word, "Length", limit, characters(json_object_get_string(value)));
	if (json_object_is_type(value, json_type_array))
		return both(check_count(word, "Items", limit, json_object_array_length(value)),
			    check_array(word, limit, value));
	if (json_object_is_type(value, json_type_object))
		return both(check_count(word, "Properties", limit, (size_t)json_object_object_length(value)),
			    check_object(schema, word, limit, value));
	return YES;
}

/* schema is known to compile. */
static enum opinion check(struct json_object *schema, struct json_object *value)
{
	enum opinion opinion = YES;
	if (json_object_is_type(schema, json_type_boolean))
		return yes_if(json_object_get_boolean(schema));
	json_object_object_foreach(schema, word, limit)
	{
		if (strlen(word) > 3)
			opinion = both(opinion, check_word(schema, word, limit, value));
	}
	return opinion;
}

static struct json_object *parse(const char *text, size_t len)
{
	struct acp_json_error error;
	struct json_object *tree = NULL;
	const struct acp_json_limits limits = {65536, 32, 2000};
	return acp_json_parse(text, len, &limits, &tree, &error) == ACP_JSON_OK ? tree : NULL;
}

/* The C library copies the expression before a + or {n} in memory, even if they are nested. Only operators write
 * patterns, and they would notice. Here it would hide other faults. */
static bool needs_much_memory(const char *text)
{
	double copies = 1;
	if (!strstr(text, "pattern"))
		return false;
	for (; *text; text++) {
		const char *comma = *text == '{' ? strchr(text, ',') : NULL;
		double first = *text == '{' ? strtod(text + 1, NULL) : 0, last = comma ? strtod(comma + 1, NULL) : 0;
		copies *= *text == '+' ? 2 : first > 1 || last > 1 ? (first > last ? first : last) : 1;
	}
	return copies > 2000;
}

/* Repeats the check with the canonical forms. */
static bool check_canonical(struct json_object *schema_tree, struct json_object *value, bool valid)
{
	struct acp_schema_error error;
	char *schema_text = fuzz_canonical(schema_tree);
	char *value_text = fuzz_canonical(value);
	struct json_object *again = parse(schema_text, strlen(schema_text));
	struct json_object *value_again = parse(value_text, strlen(value_text));
	struct acp_schema *schema = acp_schema_compile(again, &error);
	/* Except when ECMAScript's digits of a large number are not an exact integer (fuzz_json.c). */
	bool rounded = oracle_read((uint8_t *)schema_text, strlen(schema_text)).inexact ||
		       oracle_read((uint8_t *)value_text, strlen(value_text)).inexact;
	FUZZ_CHECK(schema || rounded, "its canonical form does not compile: %s%s", error.pointer, error.message);
	bool same_verdict = rounded || acp_schema_check(schema, value_again, &error) == valid;
	acp_schema_free(schema);
	json_object_put(again);
	json_object_put(value_again);
	free(schema_text);
	free(value_text);
	return same_verdict;
}

void fuzz_schema(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	struct acp_schema_error error;
	size_t schema_len, value_len;
	char *schema_text = fuzz_part(&in, &schema_len);
	char *value_text = fuzz_rest(&in, &value_len);
	struct json_object *tree = needs_much_memory(schema_text) ? NULL : parse(schema_text, schema_len);
	struct json_object *value = parse(value_text, value_len);
	struct acp_schema *schema = acp_schema_compile(tree, &error);
	FUZZ_CHECK(schema || *error.message, "refused without a message");
	if (schema) {
		bool valid = acp_schema_check(schema, value, &error);
		FUZZ_CHECK(valid || (*error.message &&
				     (!*error.pointer || *error.pointer == '/' || *error.pointer == '.')),
			   "at %s: %s", error.pointer, error.message);
		enum opinion opinion = check(tree, value);
		FUZZ_CHECK(opinion == UNSURE || valid == (opinion == YES), "valid %d: %s: %s", valid, error.pointer,
			   error.message);
		FUZZ_CHECK(check_canonical(tree, value, valid), "valid %d, but not so in canonical form", valid);
	}
	acp_schema_free(schema);
	json_object_put(tree);
	json_object_put(value);
	free(schema_text);
	free(value_text);
}
