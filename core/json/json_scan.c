#include "json.h"
#include "json_scan.h"

#include <errno.h>
#include <math.h>

/* json_object_new_string_len takes an int length, and a whole document may be one string. */
#define SCAN_MAX_BYTES ((size_t)INT32_MAX - 1)

/* An open object or array. */
struct frame {
	struct json_object *container; /* in the tree already */
	bool object;
	bool inside;     /* a member or element is being read; the pointer of an error includes it */
	bool reserved;   /* objects: a placeholder reserves the current member */
	size_t position; /* arrays: index of the current element */
	char *name;      /* start of this frame's part of the scratch; objects: the current name, with a NUL */
	size_t name_len;
};

/* The tree is built while the text is read. Each value goes into its container at once (containers when they open), so
 * that root owns everything. */
struct scan {
	enum acp_json_rules rules;
	const char *text;
	size_t len;
	size_t pos;
	const struct acp_json_limits *limits;
	struct acp_json_error *error;
	enum acp_json_verdict verdict;
	struct json_object *root;
	struct frame *frames;
	size_t depth;
	size_t frames_cap;
	unsigned tokens;
	/* The names of the open frames, one after the other, then the value being built. One byte more than the
	 * document is always enough, because a name is shorter here than in the document with its quotes. So the
	 * scratch never moves. */
	char *scratch;
};

enum expect { EXPECT_VALUE, EXPECT_FIRST, EXPECT_NEXT, EXPECT_END };

bool acp_json_pointer_add(char *pointer, size_t size, const char *name, size_t len)
{
	size_t used = strlen(pointer);
	size_t end = used;
	bool fits = end + 1 < size;
	if (fits)
		pointer[end++] = '/';
	for (size_t i = 0; fits && i < len; i++) {
		bool escape = name[i] == '~' || name[i] == '/';
		fits = end + (escape ? 2 : 1) < size;
		if (!fits)
			break;
		pointer[end++] = escape ? '~' : name[i];
		if (escape)
			pointer[end++] = name[i] == '~' ? '0' : '1';
	}
	pointer[end] = '\0';
	if (fits)
		return true;
	size_t cut = end < size - 4 ? end : size - 4;
	while (cut && ((unsigned char)pointer[cut] & 0xc0) == 0x80)
		cut--;
	if (cut && pointer[cut - 1] == '~')
		cut--;
	snprintf(pointer + cut, size - cut, "...");
	return false;
}

bool acp_json_pointer_add_index(char *pointer, size_t size, size_t position)
{
	char digits[24];
	int len = snprintf(digits, sizeof digits, "%zu", position);
	return acp_json_pointer_add(pointer, size, digits, (size_t)len);
}

/* Records where and why the document is rejected. Always returns false, for `return fail(...)`. */
static bool fail_at(struct scan *s, size_t offset, enum acp_json_verdict verdict, const char *message)
{
	struct acp_json_error *error = s->error;
	s->verdict = verdict;
	error->offset = offset;
	snprintf(error->message, sizeof error->message, "%s", message);
	error->pointer[0] = '\0';
	for (size_t i = 0; i < s->depth && s->frames[i].inside; i++) {
		const struct frame *f = &s->frames[i];
		bool more = f->object
				    ? acp_json_pointer_add(error->pointer, sizeof error->pointer, f->name, f->name_len)
				    : acp_json_pointer_add_index(error->pointer, sizeof error->pointer, f->position);
		if (!more)
			break;
	}
	return false;
}

static bool fail(struct scan *s, const char *message)
{
	return fail_at(s, s->pos, ACP_JSON_MALFORMED, s->pos < s->len ? message : "the document ends too early");
}

static bool no_memory(struct scan *s)
{
	return fail_at(s, s->pos, ACP_JSON_NO_MEMORY, "out of memory");
}

static bool count_token(struct scan *s)
{
	if (s->tokens >= s->limits->max_tokens)
		return fail_at(s, s->pos, ACP_JSON_TOO_LARGE, "the document has too many values and names");
	s->tokens++;
	return true;
}

/* Puts a value into its container. On failure, frees it. value is NULL for null. */
static bool attach(struct scan *s, struct json_object *value)
{
	int failed = 0;
	if (!s->depth) {
		s->root = value;
		return true;
	}
	const struct frame *top = &s->frames[s->depth - 1];
	if (top->object) {
		if (top->reserved)
			json_object_object_del(top->container, top->name);
		failed = json_object_object_add_ex(top->container, top->name, value, JSON_C_OBJECT_ADD_KEY_IS_NEW);
	} else {
		failed = json_object_array_add(top->container, value);
	}
	if (!failed)
		return true;
	json_object_put(value);
	return no_memory(s);
}

/* The same for the result of a constructor, where NULL means out of memory. */
static bool attach_new(struct scan *s, struct json_object *value)
{
	return value ? attach(s, value) : no_memory(s);
}

/* The unused part of the scratch. */
static char *spare(const struct scan *s)
{
	const struct frame *top = s->depth ? &s->frames[s->depth - 1] : NULL;
	if (!top)
		return s->scratch;
	return top->object ? top->name + top->name_len + 1 : top->name;
}

/* The byte at the current position, or -1 at the end. */
static int peek(const struct scan *s)
{
	return s->pos < s->len ? (unsigned char)s->text[s->pos] : -1;
}

static void skip_space(struct scan *s)
{
	while (s->pos < s->len) {
		char c = s->text[s->pos];
		if (c != ' ' && c != '\t' && c != '\n' && c != '\r')
			return;
		s->pos++;
	}
}

static bool is_digit(int c)
{
	return c >= '0' && c <= '9';
}

static int hex_value(int c)
{
	if (is_digit(c))
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Reads four hex digits at the current position and moves past them. Returns -1 if they are missing. */
static int32_t hex4(struct scan *s)
{
	int32_t value = 0;
	for (int i = 0; i < 4; i++, s->pos++) {
		int digit = hex_value(peek(s));
		if (digit < 0)
			return -1;
		value = value * 16 + digit;
	}
	return value;
}

/* Scans the rest of an escape after "\u". */
static bool scan_unicode_escape(struct scan *s, size_t start)
{
	int32_t unit = hex4(s);
	if (unit < 0)
		return fail(s, "\\u needs four hex digits");
	if (s->rules == ACP_JSON_ANY)
		return true;
	if (unit == 0)
		return fail_at(s, start, ACP_JSON_MALFORMED, "the character U+0000 is not allowed");
	if (unit >= 0xdc00 && unit <= 0xdfff)
		return fail_at(s, start, ACP_JSON_MALFORMED, "a surrogate escape without its first half");
	if (unit < 0xd800 || unit > 0xdbff)
		return true;
	if (s->len - s->pos >= 2 && s->text[s->pos] == '\\' && s->text[s->pos + 1] == 'u') {
		s->pos += 2;
		int32_t second = hex4(s);
		if (second < 0)
			return fail(s, "\\u needs four hex digits");
		if (second >= 0xdc00 && second <= 0xdfff)
			return true;
	}
	return fail_at(s, start, ACP_JSON_MALFORMED, "a surrogate escape without its second half");
}

static bool scan_escape(struct scan *s)
{
	size_t start = s->pos++;
	switch (peek(s)) {
	case '"':
	case '\\':
	case '/':
	case 'b':
	case 'f':
	case 'n':
	case 'r':
	case 't': s->pos++; return true;
	case 'u': s->pos++; return scan_unicode_escape(s, start);
	default: return fail(s, "an unknown escape in a string");
	}
}

/* Scans a string from its opening quote to just after its closing quote. */
static bool scan_string(struct scan *s)
{
	s->pos++;
	for (;;) {
		s->pos += acp_plain_length(s->text + s->pos, s->len - s->pos);
		int c = peek(s);
		if (c < 0)
			return fail(s, "");
		if (c == '"') {
			s->pos++;
			return true;
		}
		if (c == '\\') {
			if (!scan_escape(s))
				return false;
			continue;
		}
		if (c < 0x20)
			return fail(s, "a control character in a string must be escaped");
		size_t len = c < 0x80 ? 1 : acp_utf8_length((const unsigned char *)s->text + s->pos, s->len - s->pos);
		if (!len)
			return fail(s, "a string is not valid UTF-8");
		s->pos += len;
	}
}

/* Returns the value of the four hex digits at p, which have already been checked. */
static uint32_t known_hex4(const char *p)
{
	uint32_t value = 0;
	for (int i = 0; i < 4; i++)
		value = value * 16 + (uint32_t)hex_value((unsigned char)p[i]);
	return value;
}

static size_t put_utf8(char *out, uint32_t code)
{
	size_t len = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
	static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
	for (size_t i = len - 1; i; i--, code >>= 6)
		out[i] = (char)(0x80 | (code & 0x3f));
	out[0] = (char)(lead[len] | code);
	return len;
}

/* Returns the code point of the \\u escape whose digits *p points at, and moves past it. A surrogate without its other
 * half, which only ACP_JSON_ANY lets through, is no character: it becomes U+FFFD. */
static uint32_t escaped_code(const char **p, const char *end)
{
	uint32_t code = known_hex4(*p);
	*p += 4;
	if (code < 0xd800 || code > 0xdfff)
		return code;
	bool pair = code <= 0xdbff && end - *p >= 6 && (*p)[0] == '\\' && (*p)[1] == 'u';
	uint32_t second = pair ? known_hex4(*p + 2) : 0;
	if (second < 0xdc00 || second > 0xdfff)
		return 0xfffd;
	*p += 6;
	return 0x10000 + ((code - 0xd800) << 10) + (second - 0xdc00);
}

/* Resolves the escapes of the string content at p, which scan_string has accepted. U+0000 becomes nul. Returns the
 * length written to out, at most len. */
static size_t unescape(char *out, const char *p, size_t len, uint32_t nul)
{
	static const char from[] = "bfnrt";
	static const char to[] = "\b\f\n\r\t";
	const char *end = p + len;
	size_t written = 0;

	for (;;) {
		const char *escape = memchr(p, '\\', (size_t)(end - p));
		size_t plain = (size_t)((escape ? escape : end) - p);
		memcpy(out + written, p, plain);
		written += plain;
		p += plain;
		if (!escape)
			return written;
		char kind = p[1];
		p += 2;
		if (kind != 'u') {
			const char *found = strchr(from, kind);
			out[written++] = found ? to[found - from] : kind;
			continue;
		}
		uint32_t code = escaped_code(&p, end);
		written += put_utf8(out + written, code ? code : nul);
	}
}

/* Reads a string and writes its decoded text and a NUL to out. nul: see unescape. */
static bool take_text(struct scan *s, char *out, size_t *len, uint32_t nul)
{
	size_t start = s->pos + 1;
	if (!scan_string(s))
		return false;
	*len = unescape(out, s->text + start, s->pos - 1 - start, nul);
	out[*len] = '\0';
	return true;
}

/* Checks that the object on top has no member of this name yet (of two, ACP_JSON_ANY keeps the last one), and makes
 * room for one. json-c (up to 0.18) leaks its copy of the name when its table cannot grow. So when a table is more than
 * half full (it grows at two thirds), a placeholder whose name is not copied makes it grow, and attach then replaces
 * the placeholder with the real member. The table's hash has a random seed, so colliding names are hard to choose. */
static bool reserve_member(struct scan *s, size_t start)
{
	struct frame *top = &s->frames[s->depth - 1];
	const struct lh_table *table = json_object_get_object(top->container);
	unsigned how = JSON_C_OBJECT_ADD_KEY_IS_NEW | JSON_C_OBJECT_KEY_IS_CONSTANT;
	if (table->count && json_object_object_get_ex(top->container, top->name, NULL)) {
		if (s->rules != ACP_JSON_ANY)
			return fail_at(s, start, ACP_JSON_MALFORMED, "an object has two members of the same name");
		json_object_object_del(top->container, top->name);
	}
	top->reserved = table->count >= table->size / 2;
	return !top->reserved || json_object_object_add_ex(top->container, top->name, NULL, how) == 0 || no_memory(s);
}

/* Reads a member name and its colon. The name becomes the current name of the object on top. */
static bool scan_name(struct scan *s)
{
	struct frame *top = &s->frames[s->depth - 1];
	size_t start = s->pos;

	if (peek(s) != '"')
		return fail(s, "a member name in double quotes is expected");
	if (!count_token(s) || !take_text(s, top->name, &top->name_len, s->rules == ACP_JSON_ANY ? 0xfffd : 0))
		return false;
	top->inside = true;
	if (strlen(top->name) != top->name_len)
		return fail_at(s, start, ACP_JSON_MALFORMED, "the character U+0000 is not allowed in a name");
	if (!reserve_member(s, start))
		return false;
	skip_space(s);
	if (peek(s) != ':')
		return fail(s, "a colon is expected after a member name");
	s->pos++;
	return true;
}

static bool take_string(struct scan *s)
{
	char *text = spare(s);
	size_t len = 0;
	return take_text(s, text, &len, 0) && attach_new(s, json_object_new_string_len(text, (int)len));
}

/* Moves past digits. Returns false when there are none. */
static bool skip_digits(struct scan *s)
{
	size_t start = s->pos;
	while (is_digit(peek(s)))
		s->pos++;
	return s->pos > start;
}

/* PostgreSQL's numeric has at most 16383 digits after the point, and its double precision refuses what a double rounds
 * to 0. */
enum { DIGITS_MAX = 1000 };

/* True for digits that PostgreSQL may refuse although a double can represent them. value: the double. */
static bool is_unusual(const char *digits, double value)
{
	const char *exponent = strpbrk(digits, "eE");
	size_t mantissa = strcspn(digits, "eE");
	bool vanishes = fpclassify(value) == FP_ZERO && strcspn(digits, "123456789") < mantissa;
	return vanishes || strlen(digits) > DIGITS_MAX || (exponent && strtol(exponent + 1, NULL, 10) < -DIGITS_MAX);
}

/* Keeps the digits in the tree as they were written. A number of a caller with unusual digits is replaced by its
 * double, which is all that RFC 8259 promises. */
static bool take_double(struct scan *s, size_t start)
{
	size_t len = s->pos - start;
	char *digits = spare(s);
	memcpy(digits, s->text + start, len);
	digits[len] = '\0';
	double value = strtod(digits, NULL);
	if (!__builtin_isfinite(value) && s->rules != ACP_JSON_ANY)
		return fail_at(s, start, ACP_JSON_MALFORMED, "a number is too large to be represented");
	if (s->rules == ACP_JSON_STRICT && is_unusual(digits, value))
		return attach_new(s, acp_json_double(value));
	return attach_new(s, json_object_new_double_s(value, digits));
}

/* Rejects an integer that int64 or double would change, or keeps its digits. */
static bool take_integer(struct scan *s, size_t start)
{
	char digits[24];
	size_t len = s->pos - start;
	if (len < sizeof digits) {
		memcpy(digits, s->text + start, len);
		digits[len] = '\0';
		errno = 0;
		int64_t value = strtoll(digits, NULL, 10);
		double rounded = (double)value;
		/* 2^63 as a double does not fit back into int64. */
		bool changed = s->rules == ACP_JSON_ANY && strcmp(digits, "-0") == 0;
		if (!errno && rounded < 9223372036854775808.0 && (int64_t)rounded == value && !changed)
			return attach_new(s, json_object_new_int64(value));
	}
	if (s->rules != ACP_JSON_STRICT)
		return take_double(s, start);
	return fail_at(s, start, ACP_JSON_MALFORMED, "an integer is too large to be represented exactly");
}

static bool take_number(struct scan *s)
{
	size_t start = s->pos;
	bool integer = true;

	if (peek(s) == '-')
		s->pos++;
	if (peek(s) == '0')
		s->pos++;
	else if (!skip_digits(s))
		return fail(s, "a number needs a digit here");
	if (is_digit(peek(s)))
		return fail(s, "a number may not start with 0");
	if (peek(s) == '.') {
		integer = false;
		s->pos++;
		if (!skip_digits(s))
			return fail(s, "a number needs a digit after its point");
	}
	if (peek(s) == 'e' || peek(s) == 'E') {
		integer = false;
		s->pos++;
		if (peek(s) == '+' || peek(s) == '-')
			s->pos++;
		if (!skip_digits(s))
			return fail(s, "a number needs a digit in its exponent");
	}
	return integer ? take_integer(s, start) : take_double(s, start);
}

static bool scan_literal(struct scan *s, const char *word)
{
	for (; *word; word++, s->pos++) {
		if (peek(s) != (unsigned char)*word)
			return fail(s, "a value is expected here");
	}
	return true;
}

/* Makes room for one more frame. False: out of memory. */
static bool grow_frames(struct scan *s)
{
	if (s->depth < s->frames_cap)
		return true;
	size_t more = s->frames_cap ? s->frames_cap * 2 : 16;
	struct frame *moved = reallocarray(s->frames, more, sizeof *moved);
	if (!moved)
		return false;
	s->frames = moved;
	s->frames_cap = more;
	return true;
}

static bool open_frame(struct scan *s, bool object)
{
	if (s->depth >= s->limits->max_depth)
		return fail_at(s, s->pos, ACP_JSON_TOO_LARGE, "the document is nested too deeply");
	if (!grow_frames(s))
		return no_memory(s);
	struct json_object *container = object ? json_object_new_object() : json_object_new_array();
	if (!attach_new(s, container))
		return false;
	char *name = spare(s);
	s->frames[s->depth++] = (struct frame){.container = container, .object = object, .name = name};
	s->pos++;
	return true;
}

/* Called after a value: either its container continues, or the document is complete. */
static enum expect after_value(struct scan *s)
{
	if (!s->depth)
		return EXPECT_END;
	s->frames[s->depth - 1].inside = false;
	return EXPECT_NEXT;
}

static bool scan_value(struct scan *s, enum expect *expect)
{
	bool ok = false;
	int c = peek(s);

	if (!count_token(s))
		return false;
	switch (c) {
	case '{':
	case '[': *expect = EXPECT_FIRST; return open_frame(s, c == '{');
	case '"': ok = take_string(s); break;
	case 't': ok = scan_literal(s, "true") && attach_new(s, json_object_new_boolean(1)); break;
	case 'f': ok = scan_literal(s, "false") && attach_new(s, json_object_new_boolean(0)); break;
	case 'n': ok = scan_literal(s, "null") && attach(s, NULL); break;
	default: ok = c == '-' || is_digit(c) ? take_number(s) : fail(s, "a value is expected here"); break;
	}
	*expect = after_value(s);
	return ok;
}

/* Called after an opening bracket (first) or after a value: the container ends or its next member begins. */
static bool scan_next(struct scan *s, bool first, enum expect *expect)
{
	struct frame *top = &s->frames[s->depth - 1];
	if (peek(s) == (top->object ? '}' : ']')) {
		s->depth--;
		s->pos++;
		*expect = after_value(s);
		return true;
	}
	if (!first) {
		if (peek(s) != ',')
			return fail(s, top->object ? "a comma or } is expected" : "a comma or ] is expected");
		s->pos++;
		skip_space(s);
	}
	*expect = EXPECT_VALUE;
	if (top->object)
		return scan_name(s);
	top->position += first ? 0 : 1;
	top->inside = true;
	return true;
}

static bool scan_document(struct scan *s)
{
	enum expect expect = EXPECT_VALUE;
	size_t max = s->limits->max_bytes < SCAN_MAX_BYTES ? s->limits->max_bytes : SCAN_MAX_BYTES;

	if (s->len > max)
		return fail_at(s, max, ACP_JSON_TOO_LARGE, "the document has too many bytes");
	s->scratch = malloc(s->len + 1);
	if (!s->scratch)
		return no_memory(s);
	for (;;) {
		skip_space(s);
		if (expect == EXPECT_END)
			return s->pos == s->len || fail(s, "the document is followed by something else");
		if (!(expect == EXPECT_VALUE ? scan_value(s, &expect) : scan_next(s, expect == EXPECT_FIRST, &expect)))
			return false;
	}
}

static enum acp_json_verdict parse(struct scan *s, struct json_object **out)
{
	memset(s->error, 0, sizeof *s->error);
	if (s->rules == ACP_JSON_ANY && s->len >= 3 && memcmp(s->text, "\xef\xbb\xbf", 3) == 0)
		s->pos = 3; /* RFC 8259 permits a reader to ignore a byte order mark */
	if (!scan_document(s)) {
		json_object_put(s->root);
		s->root = NULL;
	}
	free(s->frames);
	free(s->scratch);
	*out = s->root;
	return s->verdict;
}

enum acp_json_verdict acp_json_parse_by(enum acp_json_rules rules, const char *text, size_t len,
					const struct acp_json_limits *limits, struct json_object **out,
					struct acp_json_error *error)
{
	struct scan s = {.rules = rules, .text = text, .len = len, .limits = limits, .error = error};
	return parse(&s, out);
}

enum acp_json_verdict acp_json_parse(const char *text, size_t len, const struct acp_json_limits *limits,
				     struct json_object **out, struct acp_json_error *error)
{
	return acp_json_parse_by(ACP_JSON_STRICT, text, len, limits, out, error);
}

enum acp_json_verdict acp_json_parse_own(const char *text, size_t len, struct json_object **out,
					 struct acp_json_error *error)
{
	const struct acp_json_limits limits = {SIZE_MAX, 128, UINT32_MAX};
	return acp_json_parse_by(ACP_JSON_OWN, text, len, &limits, out, error);
}

enum acp_json_verdict acp_json_parse_any(const char *text, size_t len, struct json_object **out,
					 struct acp_json_error *error)
{
	const struct acp_json_limits limits = {SIZE_MAX, ACP_JSON_ANY_DEPTH, UINT32_MAX};
	return acp_json_parse_by(ACP_JSON_ANY, text, len, &limits, out, error);
}
