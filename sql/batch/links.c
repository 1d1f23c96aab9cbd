#include "links.h"

#include "columns.h"
#include "json.h"

#include <ctype.h>
#include <float.h>
#include <math.h>

/* Text of values, as PostgreSQL's output functions write it ----------------------------------------------------- */

/* Fields of a row literal are quoted where they could be misread; quotes and backslashes are doubled. */
static void add_field(struct acp_buf *out, const char *text, size_t len)
{
	bool quoted = len == 0;
	for (size_t i = 0; i < len && !quoted; i++)
		quoted = strchr("\"\\(),", text[i]) || isspace((unsigned char)text[i]);
	if (!quoted) {
		acp_buf_add(out, text, len);
		return;
	}
	acp_buf_putc(out, '"');
	for (size_t i = 0; i < len; i++) {
		if (text[i] == '"' || text[i] == '\\')
			acp_buf_putc(out, text[i]);
		acp_buf_putc(out, text[i]);
	}
	acp_buf_putc(out, '"');
}

static bool add_uuid(struct acp_buf *out, const char *text)
{
	char lower[37];
	size_t len = strlen(text);
	if (len != sizeof lower - 1)
		return false;
	for (size_t i = 0; i < len; i++)
		lower[i] = (char)tolower((unsigned char)text[i]);
	acp_buf_add(out, lower, len);
	return true;
}

/* "2026-11-22 09:30:00.120000+00" is 2026-11-22 09:30:00.12. */
static bool add_timestamp(struct acp_buf *out, const char *text)
{
	size_t len = 26;
	if (strlen(text) != 29)
		return false;
	while (text[len - 1] == '0')
		len--;
	add_field(out, text, text[len - 1] == '.' ? len - 1 : len);
	return true;
}

/* What latencies are: up to six digits, so that no other decimal of as many reads as the same float4. */
static bool add_thousandths(struct acp_buf *out, double value, float single)
{
	char text[16];
	if (!(value >= 0 && value < 999.9995))
		return false;
	long thousandths = lround(value * 1000);
	if ((float)((double)thousandths / 1000) != single)
		return false;
	int len = snprintf(text, sizeof text, "%ld.%03ld", thousandths / 1000, thousandths % 1000);
	while (text[len - 1] == '0')
		len--;
	acp_buf_add(out, text, (size_t)(text[len - 1] == '.' ? len - 1 : len));
	return true;
}

/* The shortest decimal that reads as the same float4. What PostgreSQL writes with an exponent is left to it: nothing
 * takes a million milliseconds. */
static bool add_real(struct acp_buf *out, double value)
{
	char text[32];
	int precision = 0;
	const float single = (float)value;
	if (add_thousandths(out, value, single))
		return true;
	if (!(value >= 0.001 && value < 999999))
		return false;
	do
		snprintf(text, sizeof text, "%.*e", precision, (double)single);
	while (strtof(text, NULL) != single && precision++ < FLT_DECIMAL_DIG);
	int exponent = (int)strtol(strchr(text, 'e') + 1, NULL, 10);
	snprintf(text, sizeof text, "%.*f", precision > exponent ? precision - exponent : 0, strtod(text, NULL));
	acp_buf_add(out, text, strlen(text));
	return true;
}

static bool add_address(struct acp_buf *out, const char *text)
{
	char shown[64];
	if (!acp_columns_address(text, shown, sizeof shown))
		return false;
	acp_buf_add(out, shown, strlen(shown));
	return true;
}

/* jsonb ---------------------------------------------------------------------------------------------------------- */

static void add_json_string(struct acp_buf *out, const char *text, size_t len)
{
	static const char plain[] = "\b\f\n\r\t\"\\";
	static const char letters[] = "bfnrt\"\\";
	acp_buf_putc(out, '"');
	for (size_t i = 0; i < len; i++) {
		char code[8];
		const char *short_form = text[i] ? strchr(plain, text[i]) : NULL;
		if (short_form) {
			acp_buf_putc(out, '\\');
			acp_buf_putc(out, letters[short_form - plain]);
		} else if ((unsigned char)text[i] < 0x20) {
			snprintf(code, sizeof code, "\\u%04x", (unsigned char)text[i]);
			acp_buf_add(out, code, strlen(code));
		} else {
			acp_buf_putc(out, text[i]);
		}
	}
	acp_buf_putc(out, '"');
}

static bool add_jsonb(struct acp_buf *out, struct json_object *value);

/* jsonb keeps members by the length of their names, then by their bytes. */
static int by_length(const void *a, const void *b)
{
	const char *left = *(const char *const *)a;
	const char *right = *(const char *const *)b;
	size_t left_len = strlen(left);
	size_t right_len = strlen(right);
	if (left_len != right_len)
		return left_len < right_len ? -1 : 1;
	return strcmp(left, right);
}

static bool add_jsonb_object(struct acp_buf *out, struct json_object *value)
{
	enum { MEMBERS_MAX = 64 };
	const char *names[MEMBERS_MAX];
	size_t count = 0;
	bool ok = json_object_object_length(value) <= MEMBERS_MAX;
	if (!ok)
		return false;
	json_object_object_foreach(value, name, ignored)
	{
		(void)ignored;
		names[count++] = name;
	}
	qsort(names, count, sizeof *names, by_length);
	acp_buf_putc(out, '{');
	for (size_t i = 0; ok && i < count; i++) {
		acp_buf_add(out, ", ", i ? 2 : 0);
		add_json_string(out, names[i], strlen(names[i]));
		acp_buf_add(out, ": ", 2);
		ok = add_jsonb(out, acp_json_member(value, names[i]));
	}
	acp_buf_putc(out, '}');
	return ok;
}

static bool add_jsonb_array(struct acp_buf *out, struct json_object *value)
{
	bool ok = true;
	acp_buf_putc(out, '[');
	for (size_t i = 0; ok && i < json_object_array_length(value); i++) {
		acp_buf_add(out, ", ", i ? 2 : 0);
		ok = add_jsonb(out, json_object_array_get_idx(value, i));
	}
	acp_buf_putc(out, ']');
	return ok;
}

/* Fractions are numeric in jsonb, with all digits that were written: they are left to PostgreSQL. */
static bool add_jsonb(struct acp_buf *out, struct json_object *value)
{
	switch (json_object_get_type(value)) {
	case json_type_null: acp_buf_add(out, "null", 4); return true;
	case json_type_string:
		add_json_string(out, json_object_get_string(value), (size_t)json_object_get_string_len(value));
		return true;
	case json_type_object: return add_jsonb_object(out, value);
	case json_type_array: return add_jsonb_array(out, value);
	case json_type_boolean:
	case json_type_int: acp_json_write(value, out); return true;
	default: return false;
	}
}

static bool add_meta(struct acp_buf *out, struct json_object *meta)
{
	struct acp_buf text;
	acp_buf_init(&text, 1 << 20);
	bool ok = add_jsonb(&text, meta) && acp_buf_ok(&text);
	if (ok)
		add_field(out, text.ptr, text.len);
	acp_buf_release(&text);
	return ok;
}

/* Rows ------------------------------------------------------------------------------------------------------------ */

static bool add_integer(struct acp_buf *out, int64_t value)
{
	char text[24];
	acp_buf_add(out, text, (size_t)snprintf(text, sizeof text, "%lld", (long long)value));
	return true;
}

bool acp_links_text(struct acp_buf *out, const struct acp_event *event)
{
	bool ok = true;
	size_t start = out->len;
#define FIELD(add) (acp_buf_putc(out, out->len == start ? '(' : ','), ok = ok && (add))
#define ACP_EVENT_UUID(name) FIELD(!event->name || add_uuid(out, event->name));
#define ACP_EVENT_TIME(name) FIELD(!event->name || add_timestamp(out, event->name));
#define ACP_EVENT_TEXT(name) FIELD((event->name ? add_field(out, event->name, strlen(event->name)) : (void)0, true));
#define ACP_EVENT_ADDRESS(name) FIELD(!event->name || add_address(out, event->name));
#define ACP_EVENT_JSON(name) FIELD(!event->name || add_meta(out, event->name));
#define ACP_EVENT_REAL(name) FIELD(add_real(out, event->name));
#define ACP_EVENT_INTEGER(name) FIELD(add_integer(out, event->name));
#define ACP_EVENT_FLAG(name) FIELD((acp_buf_putc(out, event->name ? 't' : 'f'), true));
#include "event.def"
#undef ACP_EVENT_UUID
#undef ACP_EVENT_TIME
#undef ACP_EVENT_TEXT
#undef ACP_EVENT_ADDRESS
#undef ACP_EVENT_JSON
#undef ACP_EVENT_REAL
#undef ACP_EVENT_INTEGER
#undef ACP_EVENT_FLAG
#undef FIELD
	acp_buf_putc(out, ')');
	return ok;
}

/* text is room for the text, used again for every row. */
static bool link_row(struct acp_buf *text, const struct acp_event *event, struct acp_link *end)
{
	text->len = 0;
	acp_buf_add(text, (const char *)end->head, sizeof end->head);
	if (!acp_links_text(text, event) || !acp_buf_ok(text))
		return false;
	acp_sha256(text->ptr, text->len, end->head);
	end->seq++;
	return true;
}

bool acp_links_write(struct acp_buf *out, const struct acp_event *const *events, size_t count, uint32_t row_type,
		     struct acp_link *end)
{
	struct acp_buf text;
	bool ok = true;
	acp_buf_init(&text, 1 << 20);
	acp_columns_rows_begin(out, row_type, count);
	for (size_t i = 0; ok && i < count; i++)
		ok = link_row(&text, events[i], end) && acp_columns_row(out, events[i], end);
	acp_buf_release(&text);
	return ok && acp_buf_ok(out);
}
