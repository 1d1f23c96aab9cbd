#include "schema.h"
#include "buf.h"
#include "json_scan.h"
#include "schema_node.h"

#include <math.h>

#define PATTERN_MAX ((size_t)64 * 1024) /* of a translated pattern */

/* In the order of the bits of acp_schema.types. */
static const char *const type_names[] = {"null", "boolean", "integer", "number", "string", "array", "object"};

static bool put_steps(const struct step *at, char *pointer, size_t size)
{
	if (!at)
		return true;
	if (!put_steps(at->parent, pointer, size))
		return false;
	return at->name ? acp_json_pointer_add(pointer, size, at->name, strlen(at->name))
			: acp_json_pointer_add_index(pointer, size, at->position);
}

bool acp_schema_fail(struct acp_schema_error *error, const struct step *at, const char *format, ...)
{
	va_list args;
	error->pointer[0] = '\0';
	put_steps(at, error->pointer, sizeof error->pointer);
	va_start(args, format);
	vsnprintf(error->message, sizeof error->message, format, args);
	va_end(args);
	return false;
}

/* --- patterns ----------------------------------------------------------------------------------------------------- */

/* The state of a pattern's translation. problem is NULL until something goes wrong. */
struct translation {
	struct acp_buf out;
	const char *problem;
};

/* regexec matches bytes, but a pattern matches characters. So anything that matches "any character but ..." is written
 * as a first byte that is not a UTF-8 continuation byte, followed by all continuation bytes. */
static void put_continuation_bytes(struct translation *t)
{
	for (int byte = 0x80; byte <= 0xbf; byte++)
		acp_buf_putc(&t->out, (char)byte);
}

static void open_negated(struct translation *t)
{
	acp_buf_puts(&t->out, "([^");
	put_continuation_bytes(t);
}

static void close_negated(struct translation *t)
{
	acp_buf_puts(&t->out, "][");
	put_continuation_bytes(t);
	acp_buf_puts(&t->out, "]*)");
}

static void put_negated(struct translation *t, const char *except)
{
	open_negated(t);
	acp_buf_puts(&t->out, except);
	close_negated(t);
}

/* A literal character inside [...]. POSIX has no backslash escapes there, but the position of these characters
 * matters. */
static void put_in_class(struct translation *t, char c)
{
	if (strchr("]-^[", c))
		acp_buf_printf(&t->out, "[.%c.]", c);
	else
		acp_buf_putc(&t->out, c);
}

static char control_escape(char c)
{
	switch (c) {
	case 'n': return '\n';
	case 't': return '\t';
	case 'r': return '\r';
	case 'f': return '\f';
	case 'v': return '\v';
	default: return '\0';
	}
}

/* The POSIX equivalent of \d, \w or \s inside [...], or NULL. */
static const char *shorthand(char c)
{
	switch (c) {
	case 'd': return "0-9";
	case 'w': return "A-Za-z0-9_";
	case 's': return "[:space:]";
	default: return NULL;
	}
}

static void translate_escape(struct translation *t, char c)
{
	const char *positive = shorthand(c);
	const char *negative = c >= 'A' && c <= 'Z' ? shorthand((char)(c + ('a' - 'A'))) : NULL;
	if (positive)
		acp_buf_printf(&t->out, "[%s]", positive);
	else if (negative)
		put_negated(t, negative);
	else if (control_escape(c))
		acp_buf_putc(&t->out, control_escape(c));
	else if (c == '\0' || is_alnum(c) || (unsigned char)c >= 0x80)
		t->problem = "uses an escape that is not supported";
	else if (strchr(".[]{}()*+?^$|\\", c))
		acp_buf_printf(&t->out, "\\%c", c);
	else
		acp_buf_putc(&t->out, c); /* without a backslash: GNU gives \< \> \` \' a meaning */
}

static void translate_class_escape(struct translation *t, char c)
{
	if (shorthand(c))
		acp_buf_puts(&t->out, shorthand(c));
	else if (control_escape(c))
		acp_buf_putc(&t->out, control_escape(c));
	else if (c == '\0' || is_alnum(c) || (unsigned char)c >= 0x80)
		t->problem = "uses an escape in [...] that is not supported";
	else
		put_in_class(t, c);
}

/* Translates a bracket expression, starting at its '['. Returns the position of its ']'. */
static const char *translate_class(struct translation *t, const char *p)
{
	bool negated = p[1] == '^';
	if (negated)
		open_negated(t);
	else
		acp_buf_putc(&t->out, '[');
	p += negated ? 2 : 1;
	if (*p == ']')
		t->problem = "has an empty [...]";
	for (; !t->problem && *p != ']'; p++) {
		if (*p == '\0')
			t->problem = "has a [ without its ]";
		else if ((unsigned char)*p >= 0x80)
			t->problem = "has a character in [...] that is not ASCII, which is not supported";
		else if (*p == '\\')
			translate_class_escape(t, *++p);
		else if (*p == '[' || *p == '^')
			put_in_class(t, *p);
		else
			acp_buf_putc(&t->out, *p);
	}
	if (negated)
		close_negated(t);
	else
		acp_buf_putc(&t->out, ']');
	return p;
}

/* Translates a character of more than one byte, as a group so that a quantifier applies to all of it. Returns its last
 * byte. */
static const char *translate_wide(struct translation *t, const char *p)
{
	acp_buf_putc(&t->out, '(');
	acp_buf_putc(&t->out, *p);
	while (((unsigned char)p[1] & 0xc0) == 0x80)
		acp_buf_putc(&t->out, *++p);
	acp_buf_putc(&t->out, ')');
	return p;
}

/* The length of the quantifier at p: * + ? {n} {n,} {n,m}. Returns 0 when there is none. */
static size_t quantifier(const char *p)
{
	if (*p && strchr("*+?", *p))
		return 1;
	size_t first = *p == '{' ? strspn(p + 1, "0123456789") : 0;
	if (!first)
		return 0;
	size_t end = 1 + first;
	if (p[end] == ',')
		end += 1 + strspn(p + end + 1, "0123456789");
	return p[end] == '}' ? end + 1 : 0;
}

/* Translates a quantifier, starting at its first byte, and returns its last byte. A ? after it affects only the length
 * of a match, not whether there is one. In POSIX it would mean something else, so it is dropped. Any other quantifier
 * after it is not valid ECMAScript, and each would double the memory that the C library uses. */
static const char *translate_quantifier(struct translation *t, const char *p, size_t len)
{
	acp_buf_add(&t->out, p, len);
	p += len - 1;
	if (p[1] == '?')
		p++;
	if (quantifier(p + 1))
		t->problem = "has a quantifier after a quantifier";
	return p;
}

/* Writes an ECMAScript pattern as an equivalent POSIX extended one, or reports why that is impossible. */
static void translate(struct translation *t, const char *pattern)
{
	for (const char *p = pattern; !t->problem && *p; p++) {
		if (*p == '[')
			p = translate_class(t, p);
		else if (*p == '\\')
			translate_escape(t, *++p);
		else if (*p == '.')
			put_negated(t, "\n\r");
		else if ((unsigned char)*p >= 0x80)
			p = translate_wide(t, p);
		else if (*p == '(' && p[1] == '?') {
			if (p[2] != ':')
				t->problem = "uses (?...), which is not supported";
			acp_buf_putc(&t->out, '(');
			p += p[2] == ':' ? 2 : 1;
		} else if (quantifier(p)) {
			p = translate_quantifier(t, p, quantifier(p));
		} else {
			acp_buf_putc(&t->out, *p);
		}
	}
}

/* --- compiling ---------------------------------------------------------------------------------------------------- */

/* The input of a keyword's compiler: the schema to fill in, the keyword's value, and where to report errors. */
struct source {
	struct acp_schema *schema;
	struct json_object *value;
	void *field; /* the field named in the keyword's table row */
	const struct step *at;
	struct acp_schema_error *error;
};

static struct acp_schema *compile(struct json_object *json, const struct step *at, struct acp_schema_error *error);

static bool out_of_memory(const struct source *s)
{
	return acp_schema_fail(s->error, s->at, "could not be compiled: out of memory");
}

/* Adds the bit of one type name. */
static bool add_type(const struct source *s, struct json_object *name)
{
	const char *text = json_object_is_type(name, json_type_string) ? json_object_get_string(name) : "";
	for (size_t i = 0; i < ACP_COUNT(type_names); i++) {
		if (strcmp(text, type_names[i]) != 0)
			continue;
		s->schema->types |= 1u << i;
		return true;
	}
	return acp_schema_fail(s->error, s->at, "is not the name of a type");
}

static bool compile_type(const struct source *s)
{
	if (!json_object_is_type(s->value, json_type_array))
		return add_type(s, s->value);
	size_t count = json_object_array_length(s->value);
	if (!count)
		return acp_schema_fail(s->error, s->at, "must name at least one type");
	for (size_t i = 0; i < count; i++) {
		if (!add_type(s, json_object_array_get_idx(s->value, i)))
			return false;
	}
	return true;
}

static bool compile_enum(const struct source *s)
{
	if (!json_object_is_type(s->value, json_type_array) || !json_object_array_length(s->value))
		return acp_schema_fail(s->error, s->at, "must be an array of at least one value");
	return json_object_deep_copy(s->value, &s->schema->enum_values, NULL) == 0 || out_of_memory(s);
}

static bool compile_const(const struct source *s)
{
	struct json_object *copy = NULL;
	s->schema->const_values = json_object_new_array();
	if (!s->schema->const_values || (s->value && json_object_deep_copy(s->value, &copy, NULL) != 0))
		return out_of_memory(s);
	if (json_object_array_add(s->schema->const_values, copy) == 0)
		return true;
	json_object_put(copy);
	return out_of_memory(s);
}

static bool compile_required(const struct source *s)
{
	if (!json_object_is_type(s->value, json_type_array))
		return acp_schema_fail(s->error, s->at, "must be an array of member names");
	size_t count = json_object_array_length(s->value);
	for (size_t i = 0; i < count; i++) {
		if (!json_object_is_type(json_object_array_get_idx(s->value, i), json_type_string))
			return acp_schema_fail(s->error, s->at, "must be an array of member names");
	}
	return json_object_deep_copy(s->value, &s->schema->required, NULL) == 0 || out_of_memory(s);
}

static bool compile_properties(const struct source *s)
{
	struct acp_schema *schema = s->schema;
	if (!json_object_is_type(s->value, json_type_object))
		return acp_schema_fail(s->error, s->at, "must be an object of schemas");
	size_t count = (size_t)json_object_object_length(s->value);
	schema->properties = calloc(count + 1, sizeof *schema->properties);
	if (!schema->properties)
		return out_of_memory(s);
	json_object_object_foreach(s->value, name, member)
	{
		struct step inner = {.parent = s->at, .name = name};
		struct property *property = &schema->properties[schema->property_count++];
		property->name = strdup(name);
		if (!property->name)
			return out_of_memory(s);
		property->schema = compile(member, &inner, s->error);
		if (!property->schema)
			return false;
	}
	qsort(schema->properties, schema->property_count, sizeof *schema->properties, compare_property);
	return true;
}

/* additionalProperties, items */
static bool compile_schema(const struct source *s)
{
	struct acp_schema **field = s->field;
	if (json_object_is_type(s->value, json_type_array))
		return acp_schema_fail(s->error, s->at, "must be one schema: a list of schemas is not supported");
	*field = compile(s->value, s->at, s->error);
	return *field != NULL;
}

/* A count is a non-negative integer. It may be written as 1.0. */
static bool compile_count(const struct source *s)
{
	size_t *field = s->field;
	double value = is_number(s->value) ? json_object_get_double(s->value) : -1;
	if (value < 0 || value > INT32_MAX || floor(value) != value)
		return acp_schema_fail(s->error, s->at, "must be a non-negative integer");
	*field = (size_t)value;
	return true;
}

static bool compile_unique(const struct source *s)
{
	if (!json_object_is_type(s->value, json_type_boolean))
		return acp_schema_fail(s->error, s->at, "must be a boolean");
	s->schema->unique_items = json_object_get_boolean(s->value);
	return true;
}

static bool compile_bound(const struct source *s)
{
	struct bound *field = s->field;
	if (!is_number(s->value) || !isfinite(json_object_get_double(s->value)))
		return acp_schema_fail(s->error, s->at, "must be a number");
	*field = (struct bound){.set = true, .value = json_object_get_double(s->value)};
	return true;
}

static bool compile_multiple_of(const struct source *s)
{
	if (!compile_bound(s))
		return false;
	return s->schema->multiple_of.value > 0 || acp_schema_fail(s->error, s->at, "must be greater than 0");
}

static bool compile_regex(const struct source *s, const char *posix)
{
	char reason[96];
	regex_t *regex = malloc(sizeof *regex);
	if (!regex)
		return out_of_memory(s);
	int code = regcomp(regex, posix, REG_EXTENDED | REG_NOSUB);
	if (code == 0) {
		s->schema->pattern = regex;
		return true;
	}
	regerror(code, regex, reason, sizeof reason);
	free(regex);
	return acp_schema_fail(s->error, s->at, "is not a valid pattern: %s", reason);
}

static bool compile_pattern(const struct source *s)
{
	struct translation t = {.problem = NULL};
	bool ok = false;
	if (!json_object_is_type(s->value, json_type_string))
		return acp_schema_fail(s->error, s->at, "must be a string");
	acp_buf_init(&t.out, PATTERN_MAX);
	translate(&t, json_object_get_string(s->value));
	if (t.problem)
		acp_schema_fail(s->error, s->at, "%s", t.problem);
	else if (!acp_buf_ok(&t.out))
		acp_schema_fail(s->error, s->at, "is too long for a pattern, or memory ran out");
	else
		ok = compile_regex(s, t.out.ptr ? t.out.ptr : "");
	acp_buf_release(&t.out);
	return ok;
}

static bool compile_format(const struct source *s)
{
	if (!json_object_is_type(s->value, json_type_string))
		return acp_schema_fail(s->error, s->at, "must be a string");
	s->schema->format = acp_schema_format(json_object_get_string(s->value));
	return true;
}

/* The keywords, with the function that compiles each and the field it fills in. A keyword without a function is an
 * annotation, which constrains nothing. */
static const struct {
	const char *name;
	bool (*compile)(const struct source *s);
	size_t field;
} keywords[] = {
	{"type", compile_type, offsetof(struct acp_schema, types)},
	{"enum", compile_enum, offsetof(struct acp_schema, enum_values)},
	{"const", compile_const, offsetof(struct acp_schema, const_values)},
	{"required", compile_required, offsetof(struct acp_schema, required)},
	{"properties", compile_properties, offsetof(struct acp_schema, properties)},
	{"additionalProperties", compile_schema, offsetof(struct acp_schema, additional)},
	{"minProperties", compile_count, offsetof(struct acp_schema, min_properties)},
	{"maxProperties", compile_count, offsetof(struct acp_schema, max_properties)},
	{"items", compile_schema, offsetof(struct acp_schema, items)},
	{"minItems", compile_count, offsetof(struct acp_schema, min_items)},
	{"maxItems", compile_count, offsetof(struct acp_schema, max_items)},
	{"uniqueItems", compile_unique, offsetof(struct acp_schema, unique_items)},
	{"minLength", compile_count, offsetof(struct acp_schema, min_length)},
	{"maxLength", compile_count, offsetof(struct acp_schema, max_length)},
	{"minimum", compile_bound, offsetof(struct acp_schema, minimum)},
	{"maximum", compile_bound, offsetof(struct acp_schema, maximum)},
	{"exclusiveMinimum", compile_bound, offsetof(struct acp_schema, exclusive_minimum)},
	{"exclusiveMaximum", compile_bound, offsetof(struct acp_schema, exclusive_maximum)},
	{"multipleOf", compile_multiple_of, offsetof(struct acp_schema, multiple_of)},
	{"pattern", compile_pattern, offsetof(struct acp_schema, pattern)},
	{"format", compile_format, offsetof(struct acp_schema, format)},
	{"title", NULL, 0},
	{"description", NULL, 0},
	{"default", NULL, 0},
	{"examples", NULL, 0},
	{"$schema", NULL, 0},
	{"$id", NULL, 0},
	{"$comment", NULL, 0},
};

static bool compile_keyword(const char *name, struct source *s)
{
	for (size_t i = 0; i < ACP_COUNT(keywords); i++) {
		if (strcmp(name, keywords[i].name) != 0)
			continue;
		s->field = (char *)s->schema + keywords[i].field;
		return !keywords[i].compile || keywords[i].compile(s);
	}
	return acp_schema_fail(s->error, s->at, "is not a keyword that is supported");
}

static struct acp_schema *new_schema(void)
{
	struct acp_schema *schema = calloc(1, sizeof *schema);
	if (!schema)
		return NULL;
	schema->max_properties = SIZE_MAX;
	schema->max_items = SIZE_MAX;
	schema->max_length = SIZE_MAX;
	return schema;
}

static struct acp_schema *compile(struct json_object *json, const struct step *at, struct acp_schema_error *error)
{
	bool boolean = json_object_is_type(json, json_type_boolean);
	if (!boolean && !json_object_is_type(json, json_type_object)) {
		acp_schema_fail(error, at, "must be a schema: an object or a boolean");
		return NULL;
	}
	struct acp_schema *schema = new_schema();
	if (!schema) {
		acp_schema_fail(error, at, "could not be compiled: out of memory");
		return NULL;
	}
	if (boolean) {
		schema->never = !json_object_get_boolean(json);
		return schema;
	}
	json_object_object_foreach(json, name, value)
	{
		struct step inner = {.parent = at, .name = name};
		struct source s = {.schema = schema, .value = value, .at = &inner, .error = error};
		if (!compile_keyword(name, &s)) {
			acp_schema_free(schema);
			return NULL;
		}
	}
	return schema;
}

struct acp_schema *acp_schema_compile(struct json_object *schema, struct acp_schema_error *error)
{
	memset(error, 0, sizeof *error);
	return compile(schema, NULL, error);
}

void acp_schema_free(struct acp_schema *schema)
{
	if (!schema)
		return;
	json_object_put(schema->enum_values);
	json_object_put(schema->const_values);
	json_object_put(schema->required);
	for (size_t i = 0; i < schema->property_count; i++) {
		free(schema->properties[i].name);
		acp_schema_free(schema->properties[i].schema);
	}
	free(schema->properties);
	acp_schema_free(schema->additional);
	acp_schema_free(schema->items);
	if (schema->pattern) {
		regfree(schema->pattern);
		free(schema->pattern);
	}
	free(schema);
}
