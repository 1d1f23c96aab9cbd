#include "form.h"

#include <ctype.h>

enum { NAME_MAX = 1024 };

static void add_escaped(struct acp_buf *out, const char *text, size_t len)
{
	static const char digits[] = "0123456789ABCDEF";
	for (size_t i = 0; i < len; i++) {
		unsigned char byte = (unsigned char)text[i];
		if ((byte < 0x80 && isalnum(byte)) || (byte && strchr("-._~", byte))) {
			acp_buf_putc(out, (char)byte);
		} else {
			acp_buf_putc(out, '%');
			acp_buf_putc(out, digits[byte >> 4]);
			acp_buf_putc(out, digits[byte & 15]);
		}
	}
}

static void add_pair(struct acp_buf *out, const char *name, const char *value, size_t len)
{
	if (out->len > 0)
		acp_buf_putc(out, '&');
	add_escaped(out, name, strlen(name));
	acp_buf_putc(out, '=');
	add_escaped(out, value, len);
}

static void add_value(struct acp_buf *out, const char *name, struct json_object *value);

/* Marks the buffer as failed, so that an incomplete form is never sent. */
static void mark_failed(struct acp_buf *out)
{
	out->failed = true;
}

static void add_nested(struct acp_buf *out, const char *name, const char *member, struct json_object *value)
{
	char nested[NAME_MAX];
	int len = *name ? snprintf(nested, sizeof nested, "%s[%s]", name, member)
			: snprintf(nested, sizeof nested, "%s", member);
	if (len < (int)sizeof nested)
		add_value(out, nested, value);
	else
		mark_failed(out);
}

static void add_array(struct acp_buf *out, const char *name, struct json_object *array)
{
	char index[24];
	for (size_t i = 0; i < json_object_array_length(array); i++) {
		snprintf(index, sizeof index, "%zu", i);
		add_nested(out, name, index, json_object_array_get_idx(array, i));
	}
}

static void add_value(struct acp_buf *out, const char *name, struct json_object *value)
{
	char digits[24];
	switch (json_object_get_type(value)) {
	case json_type_null: break;
	case json_type_boolean:
		snprintf(digits, sizeof digits, "%s", json_object_get_boolean(value) ? "true" : "false");
		add_pair(out, name, digits, strlen(digits));
		break;
	case json_type_int:
		snprintf(digits, sizeof digits, "%lld", (long long)json_object_get_int64(value));
		add_pair(out, name, digits, strlen(digits));
		break;
	case json_type_string:
		add_pair(out, name, json_object_get_string(value), (size_t)json_object_get_string_len(value));
		break;
	case json_type_object: {
		json_object_object_foreach(value, member, nested) add_nested(out, name, member, nested);
		break;
	}
	case json_type_array: add_array(out, name, value); break;
	case json_type_double: mark_failed(out); break;
	}
}

void acp_form_encode(struct json_object *params, struct acp_buf *out)
{
	add_value(out, "", params);
}
