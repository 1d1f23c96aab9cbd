#include "json.h"
#include "crypto.h"

#include <float.h>

/* Every integer up to this is exactly representable as a double, so its decimal digits are also the shortest ones. */
#define EXACT_MAX 9007199254740992.0

/* Up to this many members are sorted on the stack; larger objects allocate memory. */
enum { FEW_MEMBERS = 16 };

/* No tree that passed the limits of acp_json_parse needs more. */
#define CANONICAL_MAX ((size_t)64 * 1024 * 1024)

/* Tries count significant digits for value, which must be positive. On success, digits holds them without trailing
 * zeros, and *point is the position of the decimal point: value = 0.DIGITS * 10^*point. */
static bool try_digits(double value, int count, char digits[20], int *point)
{
	char text[32];
	snprintf(text, sizeof text, "%.*e", count - 1, value);
	char *exponent = strchr(text, 'e');
	char *last = exponent - 1;
	if (strtod(text, NULL) != value) {
		/* At a power of two, the next double above is twice as far away as the one below. So the next decimal
		 * up may read back although the nearest one does not. A 9 would carry and give fewer digits, which were
		 * already tried. */
		if (*last == '9')
			return false;
		++*last;
		if (strtod(text, NULL) != value)
			return false;
	}
	size_t len = 0;
	for (const char *p = text; p < exponent; p++) {
		if (*p != '.')
			digits[len++] = *p;
	}
	while (len > 1 && digits[len - 1] == '0')
		len--;
	digits[len] = '\0';
	*point = (int)strtol(exponent + 1, NULL, 10) + 1;
	return true;
}

/* Finds the fewest digits that read back as value. Any decimal of up to DBL_DIG digits survives conversion to a normal
 * double and back. So fewer need not be tried: they show as trailing zeros. Subnormal numbers are less precise. */
static void shortest_digits(double value, char digits[20], int *point)
{
	int count = value < DBL_MIN ? 1 : DBL_DIG;
	while (!try_digits(value, count, digits, point) && count < DBL_DECIMAL_DIG)
		count++;
}

static char *put(char *out, const char *text, int len)
{
	memcpy(out, text, (size_t)len);
	return out + len;
}

/* Formats value = 0.DIGITS * 10^point as ECMAScript does. */
static void put_layout(char *out, const char *digits, int point)
{
	static const char zeros[] = "00000000000000000000";
	int count = (int)strlen(digits);
	if (point >= count && point <= 21) {
		out = put(out, digits, count);
		out = put(out, zeros, point - count);
	} else if (point > 0 && point <= 21) {
		out = put(out, digits, point);
		out = put(out, ".", 1);
		out = put(out, digits + point, count - point);
	} else if (point > -6 && point <= 0) {
		out = put(out, "0.", 2);
		out = put(out, zeros, -point);
		out = put(out, digits, count);
	} else {
		char exponent[16];
		int len = snprintf(exponent, sizeof exponent, "e%+d", point - 1);
		out = put(out, digits, 1);
		out = put(out, ".", count > 1 ? 1 : 0);
		out = put(out, digits + 1, count - 1);
		out = put(out, exponent, len);
	}
	*out = '\0';
}

/* Writes digits with the given number of decimal places: 12345 with 2 places is 123.45. */
static void put_fixed(char *out, uint64_t digits, int places)
{
	char text[32];
	char *end = text + sizeof text;
	char *at = acp_digits(end, digits);
	while (end - at <= places)
		*--at = '0';
	int before = (int)(end - at) - places;
	out = put(out, at, before);
	if (places) {
		out = put(out, ".", 1);
		out = put(out, at + before, places);
	}
	*out = '\0';
}

/* Handles common numbers: up to 15 digits, not below a millionth. Whole numbers and powers of ten of that size are
 * exact doubles, and their quotient is rounded only once, so the decimal reads as exactly that quotient. No two
 * decimals of up to 15 digits read as the same double, so the first match is the shortest. Returns false for all other
 * numbers. */
static bool put_short(char *out, double value)
{
	static const double powers[] = {1e0, 1e1, 1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
					1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};
	if (value < 1e-6)
		return false;
	for (int places = 1; places < (int)ACP_COUNT(powers); places++) {
		double scaled = value * powers[places] + 0.5;
		if (scaled >= 1e15)
			return false;
		int64_t digits = (int64_t)scaled;
		if ((double)digits / powers[places] == value) {
			put_fixed(out, (uint64_t)digits, places);
			return true;
		}
	}
	return false;
}

void acp_json_number(double value, char out[32])
{
	char digits[20] = "0";
	int point = 1;
	double size = value < 0 ? -value : value;

	if (value < 0)
		*out++ = '-';
	if (size <= EXACT_MAX && size == (double)(int64_t)size) {
		put_fixed(out, (uint64_t)size, 0);
		return;
	}
	if (put_short(out, size))
		return;
	shortest_digits(size, digits, &point);
	put_layout(out, digits, point);
}

struct json_object *acp_json_double(double value)
{
	char text[32];
	acp_json_number(value, text);
	return json_object_new_double_s(value, text);
}

/* UTF-16 order differs from UTF-8 byte order in one way: characters beyond U+FFFF, which UTF-16 writes with surrogates
 * (D800..DFFF), come before U+E000..U+FFFF, whose first byte is EE or EF. */
static unsigned utf16_rank(char c)
{
	unsigned byte = (unsigned char)c;
	return byte == 0xee || byte == 0xef ? byte + 0x10 : byte;
}

struct entry {
	const char *name;
	struct json_object *value;
};

static int compare_names(const void *left, const void *right)
{
	const char *a = ((const struct entry *)left)->name;
	const char *b = ((const struct entry *)right)->name;
	while (*a && *a == *b) {
		a++;
		b++;
	}
	unsigned ra = utf16_rank(*a);
	unsigned rb = utf16_rank(*b);
	return (ra > rb) - (ra < rb);
}

/* Most objects have only a few members, for which qsort is slow. */
static void sort_entries(struct entry *entries, size_t count)
{
	if (count > FEW_MEMBERS) {
		qsort(entries, count, sizeof *entries, compare_names);
		return;
	}
	for (size_t i = 1; i < count; i++) {
		struct entry moving = entries[i];
		size_t at = i;
		for (; at && compare_names(&entries[at - 1], &moving) > 0; at--)
			entries[at] = entries[at - 1];
		entries[at] = moving;
	}
}

static void put_object(struct json_object *object, struct acp_buf *out)
{
	struct entry few[FEW_MEMBERS];
	size_t count = (size_t)json_object_object_length(object);
	struct entry *entries = count > FEW_MEMBERS ? calloc(count, sizeof *entries) : few;
	if (!entries) {
		out->failed = true;
		return;
	}
	size_t used = 0;
	json_object_object_foreach(object, name, member) entries[used++] = (struct entry){name, member};
	sort_entries(entries, used);
	acp_buf_putc(out, '{');
	for (size_t i = 0; i < used; i++) {
		if (i)
			acp_buf_putc(out, ',');
		acp_buf_json_string(out, entries[i].name, strlen(entries[i].name));
		acp_buf_putc(out, ':');
		acp_json_canonical(entries[i].value, out);
	}
	acp_buf_putc(out, '}');
	if (entries != few)
		free(entries);
}

static void put_array(struct json_object *array, struct acp_buf *out)
{
	size_t count = json_object_array_length(array);
	acp_buf_putc(out, '[');
	for (size_t i = 0; i < count; i++) {
		if (i)
			acp_buf_putc(out, ',');
		acp_json_canonical(json_object_array_get_idx(array, i), out);
	}
	acp_buf_putc(out, ']');
}

static void put_number(double value, struct acp_buf *out)
{
	char text[32];
	if (!__builtin_isfinite(value)) {
		out->failed = true;
		return;
	}
	acp_json_number(value, text);
	acp_buf_puts(out, text);
}

void acp_json_canonical(struct json_object *value, struct acp_buf *out)
{
	if (!acp_buf_ok(out))
		return;
	switch (json_object_get_type(value)) {
	case json_type_null: acp_buf_puts(out, "null"); break;
	case json_type_boolean: acp_buf_puts(out, json_object_get_boolean(value) ? "true" : "false"); break;
	case json_type_int:
	case json_type_double: put_number(json_object_get_double(value), out); break;
	case json_type_string:
		acp_buf_json_string(out, json_object_get_string(value), (size_t)json_object_get_string_len(value));
		break;
	case json_type_object: put_object(value, out); break;
	case json_type_array: put_array(value, out); break;
	}
}

bool acp_json_hash(struct json_object *value, char hex[65])
{
	uint8_t digest[ACP_SHA256_LEN];
	struct acp_buf buf;
	acp_buf_init(&buf, CANONICAL_MAX);
	acp_json_canonical(value, &buf);
	bool ok = acp_buf_ok(&buf);
	if (ok) {
		acp_sha256(buf.ptr, buf.len, digest);
		acp_hex(digest, sizeof digest, hex);
	}
	acp_buf_release(&buf);
	return ok;
}
