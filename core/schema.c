#include "schema.h"
#include "crypto.h"
#include "json.h"
#include "json_scan.h"

#include <float.h>
#include <math.h>
#include <regex.h>

/* More than the canonical form of any array that passed the limits of acp_json_parse. */
#define CANONICAL_MAX ((size_t)64 * 1024 * 1024)
#define PATTERN_MAX ((size_t)64 * 1024) /* of a translated pattern */

/* Bits of acp_schema.types, in the order of type_names. */
enum {
	TYPE_NULL = 1,
	TYPE_BOOLEAN = 2,
	TYPE_INTEGER = 4,
	TYPE_NUMBER = 8,
	TYPE_STRING = 16,
	TYPE_ARRAY = 32,
	TYPE_OBJECT = 64
};

static const struct {
	const char *name;
	const char *shown;
} type_names[] = {
	{"null", "null"},       {"boolean", "a boolean"}, {"integer", "an integer"}, {"number", "a number"},
	{"string", "a string"}, {"array", "an array"},    {"object", "an object"},
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
	const char *shown;
};

/* One (sub)schema; owns everything it points to except format. Its json_objects are deep copies that are only read, by
 * functions that do not change even their caches or reference counts: many threads check at once. */
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

/* The way from the root to where we are, innermost first. Made into a pointer only for an error. */
struct step {
	const struct step *parent;
	const char *name; /* NULL: the element at position */
	size_t position;
};

static bool put_steps(const struct step *at, char *pointer, size_t size)
{
	if (!at)
		return true;
	if (!put_steps(at->parent, pointer, size))
		return false;
	return at->name ? acp_json_pointer_add(pointer, size, at->name, strlen(at->name))
			: acp_json_pointer_add_index(pointer, size, at->position);
}

/* Always false, for `return fail(...)`. */
static bool ACP_PRINTF(3, 4) fail(struct acp_schema_error *error, const struct step *at, const char *format, ...)
{
	va_list args;
	error->pointer[0] = '\0';
	put_steps(at, error->pointer, sizeof error->pointer);
	va_start(args, format);
	vsnprintf(error->message, sizeof error->message, format, args);
	va_end(args);
	return false;
}

static bool no_memory(struct acp_schema_error *error, const struct step *at)
{
	return fail(error, at, "could not be checked: memory is lacking");
}

/* --- formats ------------------------------------------------------------------------------------------------------ */

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_alnum(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* Reads exactly count digits; -1 when they are not there. Stops at the closing NUL. */
static int fixed_digits(const char *text, int count)
{
	int value = 0;
	for (int i = 0; i < count; i++) {
		if (!is_digit(text[i]))
			return -1;
		value = value * 10 + (text[i] - '0');
	}
	return value;
}

/* Accepts the ten characters of an RFC 3339 full-date at the start of text. */
static bool starts_with_date(const char *text)
{
	static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	int year = fixed_digits(text, 4);
	if (year < 0 || text[4] != '-')
		return false;
	int month = fixed_digits(text + 5, 2);
	if (month < 1 || month > 12 || text[7] != '-')
		return false;
	int day = fixed_digits(text + 8, 2);
	bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
	return day >= 1 && day <= days[month - 1] + (leap && month == 2);
}

static bool is_date(const char *text)
{
	return starts_with_date(text) && text[10] == '\0';
}

/* The offset from UTC in minutes that text consists of; false when it is none. */
static bool parse_offset(const char *text, int *minutes)
{
	*minutes = 0;
	if (*text == 'Z' || *text == 'z')
		return text[1] == '\0';
	if (*text != '+' && *text != '-')
		return false;
	int hour = fixed_digits(text + 1, 2);
	if (hour < 0 || hour > 23 || text[3] != ':')
		return false;
	int minute = fixed_digits(text + 4, 2);
	if (minute < 0 || minute > 59 || text[6] != '\0')
		return false;
	*minutes = (*text == '-' ? -1 : 1) * (hour * 60 + minute);
	return true;
}

static bool is_date_time(const char *text)
{
	int offset = 0;
	if (!starts_with_date(text) || (text[10] != 'T' && text[10] != 't'))
		return false;
	const char *p = text + 11;
	int hour = fixed_digits(p, 2);
	if (hour < 0 || hour > 23 || p[2] != ':')
		return false;
	int minute = fixed_digits(p + 3, 2);
	if (minute < 0 || minute > 59 || p[5] != ':')
		return false;
	int second = fixed_digits(p + 6, 2);
	if (second < 0 || second > 60)
		return false;
	p += 8;
	if (*p == '.') {
		if (!is_digit(*++p))
			return false;
		while (is_digit(*p))
			p++;
	}
	if (!parse_offset(p, &offset))
		return false;
	/* Leap seconds are added only at the end of a day of UTC. */
	return second < 60 || (hour * 60 + minute - offset + 2 * 1440) % 1440 == 1439;
}

/* Labels of 1 to 63 letters, digits and inner hyphens. */
static bool is_domain(const char *text)
{
	size_t label = 0;
	for (const char *p = text;; p++) {
		if (*p == '.' || *p == '\0') {
			if (!label || label > 63 || p[-1] == '-')
				return false;
			if (*p == '\0')
				return true;
			label = 0;
		} else if (is_alnum(*p) || (*p == '-' && label)) {
			label++;
		} else {
			return false;
		}
	}
}

/* local@domain as RFC 5321 has it, without quoted local parts and address literals. */
static bool is_email(const char *text)
{
	const char *at = strchr(text, '@');
	if (!at || at == text || at - text > 64 || strlen(text) > 254)
		return false;
	for (const char *p = text; p < at; p++) {
		bool dot_ok = *p == '.' && p > text && p[-1] != '.' && p + 1 < at;
		if (!dot_ok && !is_alnum(*p) && !strchr("!#$%&'*+/=?^_`{|}~-", *p))
			return false;
	}
	return is_domain(at + 1);
}

static bool is_hex(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* A scheme, a colon, and then only characters that RFC 3986 allows. */
static bool is_uri(const char *text)
{
	const char *p = text;
	if (!is_alnum(*p) || is_digit(*p))
		return false;
	while (is_alnum(*p) || *p == '+' || *p == '-' || *p == '.')
		p++;
	if (*p++ != ':' || *p == '\0')
		return false;
	for (; *p; p++) {
		if (*p == '%' ? !is_hex(p[1]) || !is_hex(p[2]) : !is_alnum(*p) && !strchr("-._~:/?#[]@!$&'()*+,;=", *p))
			return false;
	}
	return true;
}

static const struct format formats[] = {
	{"date-time", is_date_time, "must be a date and time such as 2026-01-31T23:59:59Z"},
	{"date", is_date, "must be a date such as 2026-01-31"},
	{"email", is_email, "must be an e-mail address"},
	{"uri", is_uri, "must be an absolute URI"},
	{"uuid", acp_is_uuid, "must be a UUID"},
};

/* --- patterns ----------------------------------------------------------------------------------------------------- */

/* Where a pattern is being translated. problem is NULL as long as all is well. */
struct translation {
	struct acp_buf out;
	const char *problem;
};

/* regexec sees bytes, a pattern means characters. So whatever matches "any character but ..." is written as a first
 * byte that is not a UTF-8 continuation byte, with all continuation bytes behind it. */
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

/* A literal character inside [...]: there, POSIX knows no backslash, but these have a meaning by their place. */
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

/* The text that \d, \w and \s stand for inside [...], or NULL. */
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
		acp_buf_putc(&t->out, c); /* GNU gives a meaning to some of these: \< \> \` \' */
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

/* A bracket expression, from its '[' on. Returns where its ']' is. */
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

/* A character that is more than one byte, as a group so that a quantifier applies to all of it. Returns its last byte. */
static const char *translate_wide(struct translation *t, const char *p)
{
	acp_buf_putc(&t->out, '(');
	acp_buf_putc(&t->out, *p);
	while (((unsigned char)p[1] & 0xc0) == 0x80)
		acp_buf_putc(&t->out, *++p);
	acp_buf_putc(&t->out, ')');
	return p;
}

/* Writes an ECMAScript pattern as a POSIX extended one that matches the same, or tells why that cannot be. */
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
		} else {
			acp_buf_putc(&t->out, *p);
		}
	}
}

/* --- comparing ---------------------------------------------------------------------------------------------------- */

static bool is_number(struct json_object *value)
{
	return json_object_is_type(value, json_type_int) || json_object_is_type(value, json_type_double);
}

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

/* Equal as JSON Schema has it: 1 is 1.0. json_object_equal thinks otherwise. */
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

/* Writes the canonical form of each element behind the other; forms then says where each is. */
static bool put_forms(struct json_object *array, struct form *forms, size_t count, struct acp_buf *buf)
{
	for (size_t i = 0; i < count; i++) {
		size_t before = buf->len;
		acp_json_canonical(json_object_array_get_idx(array, i), buf);
		forms[i].len = buf->len - before;
	}
	if (!acp_buf_ok(buf))
		return false;
	const char *text = buf->ptr; /* now it does not move any more */
	for (size_t i = 0; i < count; i++) {
		forms[i].text = text;
		text += forms[i].len;
	}
	return true;
}

/* Equal values have equal canonical forms, so sorting these finds them without comparing each with each. */
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
				ok = fail(error, at, "must not contain the same item twice");
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
		snprintf(list + used, sizeof list - used, "%s%s", between, type_names[i].shown);
	}
	return fail(error, at, "must be %s", list);
}

/* Lists the allowed values, which are the schema's and no secret, as long as they fit. */
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
		fail(error, at, "must be %s%s", count > 1 ? "one of " : "", list.ptr);
	else
		fail(error, at, "is not one of the allowed values");
	acp_buf_release(&list);
	return false;
}

static bool fail_bound(const char *what, double bound, const struct step *at, struct acp_schema_error *error)
{
	char number[32];
	acp_json_number(bound, number);
	return fail(error, at, "must be %s %s", what, number);
}

/* Decimal fractions such as 0.01 are no doubles, so their quotient may be off by a few units in its last place. Between
 * integers the remainder is exact. */
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

/* min <= count <= max, else an error like "must have at least 1 item". */
static bool check_count(size_t count, size_t min, size_t max, const char *unit, const struct step *at,
			struct acp_schema_error *error)
{
	if (count < min)
		return fail(error, at, "must have at least %zu %s%s", min, unit, min == 1 ? "" : "s");
	if (count > max)
		return fail(error, at, "must have at most %zu %s%s", max, unit, max == 1 ? "" : "s");
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
	if (schema->pattern) {
		int found = regexec(schema->pattern, text, 0, NULL, 0);
		if (found == REG_NOMATCH)
			return fail(error, at, "does not have the required form");
		if (found)
			return no_memory(error, at);
	}
	if (schema->format && !schema->format->check(text))
		return fail(error, at, "%s", schema->format->shown);
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

static int compare_property(const void *left, const void *right)
{
	return strcmp(((const struct property *)left)->name, ((const struct property *)right)->name);
}

/* The schema for the member of this name; NULL when it may be anything. */
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
			return fail(error, &missing, "is required");
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
		return fail(error, at, "is not allowed here");
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

/* --- compiling ---------------------------------------------------------------------------------------------------- */

/* What the compiler of a keyword is given: the schema to fill in, the keyword's value, and where to complain. */
struct source {
	struct acp_schema *schema;
	struct json_object *value;
	void *field; /* what the keyword's row in the table names */
	const struct step *at;
	struct acp_schema_error *error;
};

static struct acp_schema *compile(struct json_object *json, const struct step *at, struct acp_schema_error *error);

static bool out_of_memory(const struct source *s)
{
	return fail(s->error, s->at, "could not be compiled: memory is lacking");
}

/* Adds the bit of one type name. */
static bool add_type(const struct source *s, struct json_object *name)
{
	const char *text = json_object_is_type(name, json_type_string) ? json_object_get_string(name) : "";
	for (size_t i = 0; i < ACP_COUNT(type_names); i++) {
		if (strcmp(text, type_names[i].name) != 0)
			continue;
		s->schema->types |= 1u << i;
		return true;
	}
	return fail(s->error, s->at, "is not the name of a type");
}

static bool compile_type(const struct source *s)
{
	if (!json_object_is_type(s->value, json_type_array))
		return add_type(s, s->value);
	size_t count = json_object_array_length(s->value);
	if (!count)
		return fail(s->error, s->at, "must name at least one type");
	for (size_t i = 0; i < count; i++) {
		if (!add_type(s, json_object_array_get_idx(s->value, i)))
			return false;
	}
	return true;
}

static bool compile_enum(const struct source *s)
{
	if (!json_object_is_type(s->value, json_type_array) || !json_object_array_length(s->value))
		return fail(s->error, s->at, "must be an array of at least one value");
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
		return fail(s->error, s->at, "must be an array of member names");
	size_t count = json_object_array_length(s->value);
	for (size_t i = 0; i < count; i++) {
		if (!json_object_is_type(json_object_array_get_idx(s->value, i), json_type_string))
			return fail(s->error, s->at, "must be an array of member names");
	}
	return json_object_deep_copy(s->value, &s->schema->required, NULL) == 0 || out_of_memory(s);
}

static bool compile_properties(const struct source *s)
{
	struct acp_schema *schema = s->schema;
	if (!json_object_is_type(s->value, json_type_object))
		return fail(s->error, s->at, "must be an object of schemas");
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
		return fail(s->error, s->at, "must be one schema: a list of schemas is not supported");
	*field = compile(s->value, s->at, s->error);
	return *field != NULL;
}

/* A count: a non-negative integer, also when it is written 1.0. */
static bool compile_count(const struct source *s)
{
	size_t *field = s->field;
	double value = is_number(s->value) ? json_object_get_double(s->value) : -1;
	if (value < 0 || value > INT32_MAX || floor(value) != value)
		return fail(s->error, s->at, "must be a non-negative integer");
	*field = (size_t)value;
	return true;
}

static bool compile_unique(const struct source *s)
{
	if (!json_object_is_type(s->value, json_type_boolean))
		return fail(s->error, s->at, "must be a boolean");
	s->schema->unique_items = json_object_get_boolean(s->value);
	return true;
}

static bool compile_bound(const struct source *s)
{
	struct bound *field = s->field;
	if (!is_number(s->value) || !isfinite(json_object_get_double(s->value)))
		return fail(s->error, s->at, "must be a number");
	*field = (struct bound){.set = true, .value = json_object_get_double(s->value)};
	return true;
}

static bool compile_multiple_of(const struct source *s)
{
	if (!compile_bound(s))
		return false;
	return s->schema->multiple_of.value > 0 || fail(s->error, s->at, "must be greater than 0");
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
	return fail(s->error, s->at, "is not a valid pattern: %s", reason);
}

static bool compile_pattern(const struct source *s)
{
	struct translation t = {.problem = NULL};
	bool ok = false;
	if (!json_object_is_type(s->value, json_type_string))
		return fail(s->error, s->at, "must be a string");
	acp_buf_init(&t.out, PATTERN_MAX);
	translate(&t, json_object_get_string(s->value));
	if (t.problem)
		fail(s->error, s->at, "%s", t.problem);
	else if (!acp_buf_ok(&t.out))
		fail(s->error, s->at, "is too long for a pattern, or memory is lacking");
	else
		ok = compile_regex(s, t.out.ptr ? t.out.ptr : "");
	acp_buf_release(&t.out);
	return ok;
}

static bool compile_format(const struct source *s)
{
	if (!json_object_is_type(s->value, json_type_string))
		return fail(s->error, s->at, "must be a string");
	for (size_t i = 0; i < ACP_COUNT(formats); i++) {
		if (strcmp(json_object_get_string(s->value), formats[i].name) == 0)
			s->schema->format = &formats[i];
	}
	return true;
}

/* The keywords, what compiles them, and which field that fills in. Without a function: an annotation, which constrains
 * nothing. */
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
	return fail(s->error, s->at, "is not a keyword that is understood here");
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
		fail(error, at, "must be a schema: an object or a boolean");
		return NULL;
	}
	struct acp_schema *schema = new_schema();
	if (!schema) {
		fail(error, at, "could not be compiled: memory is lacking");
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
