#include "json.h"
#include "crypto.h"

#include <float.h>
#include <inttypes.h>

/* Integers up to here are doubles, each of them, so that their decimal digits are also the shortest ones. */
#define EXACT_MAX 9007199254740992.0

/* More than any tree that passed the limits of acp_json_parse can need. */
#define CANONICAL_MAX ((size_t)64 * 1024 * 1024)

/* Tries count significant digits for value (positive). On success digits holds them, without zeros at the end, and
 * *point is where the decimal point stands: value = 0.DIGITS * 10^*point. */
static bool try_digits(double value, int count, char digits[20], int *point)
{
	char text[32];
	snprintf(text, sizeof text, "%.*e", count - 1, value);
	char *exponent = strchr(text, 'e');
	char *last = exponent - 1;
	if (strtod(text, NULL) != value) {
		/* At a power of two the neighbour above is twice as far as the one below: the next decimal up may
		 * read back although the nearest one does not. A 9 would carry into fewer digits, tried before. */
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

/* The fewest digits that read back as value. Any decimal of up to DBL_DIG digits survives the way through a normal
 * double, so fewer need not be tried: the zeros at the end show them. Subnormal numbers have less precision. */
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

/* value = 0.DIGITS * 10^point, laid out as ECMAScript does. */
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

void acp_json_number(double value, char out[32])
{
	char digits[20] = "0";
	int point = 1;

	if (value >= -EXACT_MAX && value <= EXACT_MAX && value == (double)(int64_t)value) {
		snprintf(out, 32, "%" PRId64, (int64_t)value);
		return;
	}
	shortest_digits(value < 0 ? -value : value, digits, &point);
	if (value < 0)
		*out++ = '-';
	put_layout(out, digits, point);
}

struct json_object *acp_json_double(double value)
{
	char text[32];
	acp_json_number(value, text);
	return json_object_new_double_s(value, text);
}

/* UTF-16 order differs from the order of UTF-8 bytes in one way: characters beyond U+FFFF, written with surrogates
 * (D800..DFFF), come before U+E000..U+FFFF, whose first byte is EE or EF. */
static unsigned utf16_rank(char c)
{
	unsigned byte = (unsigned char)c;
	return byte == 0xee || byte == 0xef ? byte + 0x10 : byte;
}

static int compare_names(const void *left, const void *right)
{
	const char *a = *(const char *const *)left;
	const char *b = *(const char *const *)right;
	while (*a && *a == *b) {
		a++;
		b++;
	}
	unsigned ra = utf16_rank(*a);
	unsigned rb = utf16_rank(*b);
	return (ra > rb) - (ra < rb);
}

static void put_object(struct json_object *object, struct acp_buf *out)
{
	size_t count = (size_t)json_object_object_length(object);
	const char **names = calloc(count ? count : 1, sizeof *names);
	if (!names) {
		out->failed = true;
		return;
	}
	size_t used = 0;
	json_object_object_foreach(object, name, member) names[used++] = name;
	qsort(names, used, sizeof *names, compare_names);
	acp_buf_putc(out, '{');
	for (size_t i = 0; i < used; i++) {
		if (i)
			acp_buf_putc(out, ',');
		acp_buf_json_string(out, names[i], strlen(names[i]));
		acp_buf_putc(out, ':');
		acp_json_canonical(acp_json_member(object, names[i]), out);
	}
	acp_buf_putc(out, '}');
	free(names);
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
