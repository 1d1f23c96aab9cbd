#include "schema_node.h"
#include "json.h"

#include <errno.h>
#include <float.h>
#include <math.h>

/* Larger than the canonical form of any array that passed the limits of acp_json_parse. */
#define CANONICAL_MAX ((size_t)64 * 1024 * 1024)

/* In the order of the bits of acp_schema.types. */
static const char *const type_names[] = {
	"null", "a boolean", "an integer", "a number", "a string", "an array", "an object",
};

static bool no_memory(struct acp_schema_error *error, const struct step *at)
{
	error->no_memory = true;
	return acp_schema_fail(error, at, "could not be checked: out of memory");
}

/* --- comparing ---------------------------------------------------------------------------------------------------- */

static bool equal(struct json_object *a, struct json_object *b);

static bool equal_objects(struct json_object *a, struct json_object *b)
{
	if (json_object_object_length(a) != json_object_object_length(b))
		return false;
	json_object_object_foreach(a, name, mine)
	{
		struct json_object *other = NULL;
		if (!json_object_object_get_ex(b, name, &other) || !equal(mine, other))
			return false;
	}
	return true;
}

static bool equal_arrays(struct json_object *a, struct json_object *b)
{
	size_t count = json_object_array_length(a);
	if (count != json_object_array_length(b))
		return false;
	for (size_t i = 0; i < count; i++) {
		if (!equal(json_object_array_get_idx(a, i), json_object_array_get_idx(b, i)))
			return false;
	}
	return true;
}

/* Equality as JSON Schema defines it: 1 equals 1.0. json_object_equal treats them as different. */
static bool equal(struct json_object *a, struct json_object *b)
{
	enum json_type type = json_object_get_type(a);
	if (is_number(a) && is_number(b))
		return json_object_get_double(a) == json_object_get_double(b);
	if (type != json_object_get_type(b))
		return false;
	switch (type) {
	case json_type_boolean: return json_object_get_boolean(a) == json_object_get_boolean(b);
	case json_type_string: return strcmp(json_object_get_string(a), json_object_get_string(b)) == 0;
	case json_type_object: return equal_objects(a, b);
	case json_type_array: return equal_arrays(a, b);
	default: return true;
	}
}

static bool is_one_of(struct json_object *values, struct json_object *value)
{
	size_t count = json_object_array_length(values);
	for (size_t i = 0; i < count; i++) {
		if (equal(json_object_array_get_idx(values, i), value))
			return true;
	}
	return false;
}

/* A slice of the canonical forms of all elements. */
struct form {
	const char *text;
	size_t len;
};

static int compare_forms(const void *left, const void *right)
{
	const struct form *a = left;
	const struct form *b = right;
	int order = memcmp(a->text, b->text, a->len < b->len ? a->len : b->len);
	return order ? order : (a->len > b->len) - (a->len < b->len);
}

/* Writes the canonical forms of all elements, one after the other. forms records where each one is. */
static bool put_forms(struct json_object *array, struct form *forms, size_t count, struct acp_buf *buf)
{
	for (size_t i = 0; i < count; i++) {
		size_t before = buf->len;
		acp_json_canonical(json_object_array_get_idx(array, i), buf);
		forms[i].len = buf->len - before;
	}
	if (!acp_buf_ok(buf))
		return false;
	const char *text = buf->ptr; /* from here on, the buffer no longer moves */
	for (size_t i = 0; i < count; i++) {
		forms[i].text = text;
		text += forms[i].len;
	}
	return true;
}

/* Equal values have equal canonical forms, so sorting them finds duplicates without comparing every pair. */
static bool check_unique(struct json_object *array, const struct step *at, struct acp_schema_error *error)
{
	size_t count = json_object_array_length(array);
	bool ok = true;
	struct acp_buf buf;
	struct form *forms = calloc(count + 1, sizeof *forms);
	acp_buf_init(&buf, CANONICAL_MAX);
	if (!forms || !put_forms(array, forms, count, &buf)) {
		ok = no_memory(error, at);
	} else {
		qsort(forms, count, sizeof *forms, compare_forms);
		for (size_t i = 1; i < count && ok; i++) {
			if (compare_forms(&forms[i - 1], &forms[i]) == 0)
				ok = acp_schema_fail(error, at, "must not contain the same item twice");
		}
	}
	acp_buf_release(&buf);
	free(forms);
	return ok;
}

/* --- checking ----------------------------------------------------------------------------------------------------- */

static bool check(const struct acp_schema *schema, struct json_object *value, const struct step *at,
		  struct acp_schema_error *error);

/* The bits of all types that value has: an integer is also a number. */
static unsigned types_of(struct json_object *value)
{
	switch (json_object_get_type(value)) {
	case json_type_null: return TYPE_NULL;
	case json_type_boolean: return TYPE_BOOLEAN;
	case json_type_int: return TYPE_INTEGER | TYPE_NUMBER;
	case json_type_double:
		return floor(json_object_get_double(value)) == json_object_get_double(value)
			       ? TYPE_INTEGER | TYPE_NUMBER
			       : TYPE_NUMBER;
	case json_type_string: return TYPE_STRING;
	case json_type_array: return TYPE_ARRAY;
	case json_type_object: return TYPE_OBJECT;
	}
	return 0;
}

static bool fail_type(const struct acp_schema *schema, const struct step *at, struct acp_schema_error *error)
{
	char list[128] = "";
	unsigned left = schema->types;
	for (size_t i = 0; i < ACP_COUNT(type_names); i++) {
		unsigned bit = 1u << i;
		if (!(left & bit))
			continue;
		left &= ~bit;
		size_t used = strlen(list);
		const char *between = !used ? "" : left ? ", " : " or ";
		snprintf(list + used, sizeof list - used, "%s%s", between, type_names[i]);
	}
	return acp_schema_fail(error, at, "must be %s", list);
}

/* Lists as many of the allowed values as fit. They come from the schema and are not secret. */
static bool fail_values(struct json_object *values, const struct step *at, struct acp_schema_error *error)
{
	struct acp_buf list;
	size_t count = json_object_array_length(values);
	acp_buf_init(&list, sizeof error->message - sizeof "must be one of ");
	for (size_t i = 0; i < count; i++) {
		if (i)
			acp_buf_puts(&list, ", ");
		acp_json_canonical(json_object_array_get_idx(values, i), &list);
	}
	if (acp_buf_ok(&list) && list.len)
		acp_schema_fail(error, at, "must be %s%s", count > 1 ? "one of " : "", list.ptr);
	else
		acp_schema_fail(error, at, "is not one of the allowed values");
	acp_buf_release(&list);
	return false;
}

static bool fail_bound(const char *what, double bound, const struct step *at, struct acp_schema_error *error)
{
	char number[32];
	acp_json_number(bound, number);
	return acp_schema_fail(error, at, "must be %s %s", what, number);
}

/* Decimal fractions such as 0.01 are not exact doubles, so their quotient may be off by a few units in the last place.
 * The remainder of integers is exact. */
static bool is_multiple(double value, double of)
{
	double quotient = value / of;
	double size = fabs(quotient);
	if (fmod(value, of) == 0)
		return true;
	if (!isfinite(quotient) || (floor(of) == of && floor(value) == value))
		return false;
	return size > 0.5 && fabs(quotient - floor(quotient + 0.5)) <= 8 * DBL_EPSILON * size;
}

static bool check_number(const struct acp_schema *schema, struct json_object *json, const struct step *at,
			 struct acp_schema_error *error)
{
	double value = json_object_get_double(json);
	if (schema->minimum.set && value < schema->minimum.value)
		return fail_bound("at least", schema->minimum.value, at, error);
	if (schema->maximum.set && value > schema->maximum.value)
		return fail_bound("at most", schema->maximum.value, at, error);
	if (schema->exclusive_minimum.set && value <= schema->exclusive_minimum.value)
		return fail_bound("greater than", schema->exclusive_minimum.value, at, error);
	if (schema->exclusive_maximum.set && value >= schema->exclusive_maximum.value)
		return fail_bound("less than", schema->exclusive_maximum.value, at, error);
	if (schema->multiple_of.set && !is_multiple(value, schema->multiple_of.value))
		return fail_bound("a multiple of", schema->multiple_of.value, at, error);
	return true;
}

/* Checks min <= count <= max; otherwise reports an error like "must have at least 1 item". */
static bool check_count(size_t count, size_t min, size_t max, const char *unit, const struct step *at,
			struct acp_schema_error *error)
{
	if (count < min)
		return acp_schema_fail(error, at, "must have at least %zu %s%s", min, unit, min == 1 ? "" : "s");
	if (count > max)
		return acp_schema_fail(error, at, "must have at most %zu %s%s", max, unit, max == 1 ? "" : "s");
	return true;
}

static bool check_string(const struct acp_schema *schema, struct json_object *json, const struct step *at,
			 struct acp_schema_error *error)
{
	const char *text = json_object_get_string(json);
	size_t count = 0;
	for (const char *p = text; *p; p++)
		count += ((unsigned char)*p & 0xc0) != 0x80;
	if (!check_count(count, schema->min_length, schema->max_length, "character", at, error))
		return false;
	/* Check format before pattern, because its message is more specific. */
	if (schema->format && !schema->format->check(text))
		return acp_schema_fail(error, at, "%s", schema->format->shown);
	if (schema->pattern) {
		errno = 0;
		int found = regexec(schema->pattern, text, 0, NULL, 0);
		/* The C library also reports "no match" when it runs out of memory. */
		if (found == REG_NOMATCH && errno != ENOMEM)
			return acp_schema_fail(error, at, "does not have the required form");
		if (found)
			return no_memory(error, at);
	}
	return true;
}

static bool check_array(const struct acp_schema *schema, struct json_object *array, const struct step *at,
			struct acp_schema_error *error)
{
	size_t count = json_object_array_length(array);
	if (!check_count(count, schema->min_items, schema->max_items, "item", at, error))
		return false;
	for (size_t i = 0; schema->items && i < count; i++) {
		struct step item = {.parent = at, .position = i};
		if (!check(schema->items, json_object_array_get_idx(array, i), &item, error))
			return false;
	}
	return !schema->unique_items || check_unique(array, at, error);
}

/* The schema for the member of this name, or NULL when any value is allowed. */
static const struct acp_schema *member_schema(const struct acp_schema *schema, char *name)
{
	struct property key = {.name = name};
	const struct property *found = NULL;
	if (schema->property_count)
		found = bsearch(&key, schema->properties, schema->property_count, sizeof key, compare_property);
	return found ? found->schema : schema->additional;
}

static bool check_object(const struct acp_schema *schema, struct json_object *object, const struct step *at,
			 struct acp_schema_error *error)
{
	size_t required = schema->required ? json_object_array_length(schema->required) : 0;
	for (size_t i = 0; i < required; i++) {
		const char *name = json_object_get_string(json_object_array_get_idx(schema->required, i));
		struct step missing = {.parent = at, .name = name};
		if (!json_object_object_get_ex(object, name, NULL))
			return acp_schema_fail(error, &missing, "is required");
	}
	json_object_object_foreach(object, name, member)
	{
		const struct acp_schema *sub = member_schema(schema, name);
		struct step inner = {.parent = at, .name = name};
		if (sub && !check(sub, member, &inner, error))
			return false;
	}
	return check_count((size_t)json_object_object_length(object), schema->min_properties, schema->max_properties,
			   "member", at, error);
}

static bool check(const struct acp_schema *schema, struct json_object *value, const struct step *at,
		  struct acp_schema_error *error)
{
	unsigned types = types_of(value);
	if (schema->never)
		return acp_schema_fail(error, at, "is not allowed here");
	if (schema->types && !(schema->types & types))
		return fail_type(schema, at, error);
	if (schema->enum_values && !is_one_of(schema->enum_values, value))
		return fail_values(schema->enum_values, at, error);
	if (schema->const_values && !is_one_of(schema->const_values, value))
		return fail_values(schema->const_values, at, error);
	if (types & TYPE_NUMBER)
		return check_number(schema, value, at, error);
	if (types & TYPE_STRING)
		return check_string(schema, value, at, error);
	if (types & TYPE_ARRAY)
		return check_array(schema, value, at, error);
	return !(types & TYPE_OBJECT) || check_object(schema, value, at, error);
}

bool acp_schema_check(const struct acp_schema *schema, struct json_object *value, struct acp_schema_error *error)
{
	memset(error, 0, sizeof *error);
	return check(schema, value, NULL, error);
}
