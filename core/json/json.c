#include "json.h"

#include "crypto.h"

#include <errno.h>
#include <inttypes.h>

struct json_object *acp_json_own(const char *text)
{
	struct acp_json_error bad;
	struct json_object *tree = NULL;
	return acp_json_parse_own(text, strlen(text), &tree, &bad) == ACP_JSON_OK ? tree : NULL;
}

const char *acp_json_text(struct json_object *value, int flags, size_t *len)
{
	errno = 0;
	const char *text = json_object_to_json_string_length(value, flags, len);
	return errno == ENOMEM ? NULL : text;
}

struct json_object *acp_json_member(struct json_object *object, const char *name)
{
	struct json_object *member = NULL;
	if (!json_object_is_type(object, json_type_object) || !json_object_object_get_ex(object, name, &member))
		return NULL;
	return member;
}

const char *acp_json_string(struct json_object *object, const char *name)
{
	struct json_object *member = acp_json_member(object, name);
	return json_object_is_type(member, json_type_string) ? json_object_get_string(member) : NULL;
}

bool acp_json_bool(struct json_object *object, const char *name)
{
	struct json_object *member = acp_json_member(object, name);
	return json_object_is_type(member, json_type_boolean) && json_object_get_boolean(member);
}

bool acp_json_add(struct json_object *object, const char *name, struct json_object *value)
{
	if (!value)
		return false;
	if (json_object_is_type(object, json_type_object) && json_object_object_add(object, name, value) == 0)
		return true;
	json_object_put(value);
	return false;
}

bool acp_json_put_literal(struct json_object *object, const char *name, struct json_object *value)
{
	const unsigned how = JSON_C_OBJECT_ADD_KEY_IS_NEW | JSON_C_OBJECT_KEY_IS_CONSTANT;
	if (!value)
		return false;
	if (json_object_is_type(object, json_type_object) && json_object_object_add_ex(object, name, value, how) == 0)
		return true;
	json_object_put(value);
	return false;
}

bool acp_json_add_string(struct json_object *object, const char *name, const char *value)
{
	return acp_json_add(object, name, value ? json_object_new_string(value) : NULL);
}

static void wipe_string(struct json_object *value, void *unused)
{
	(void)unused;
	acp_wipe((char *)(uintptr_t)json_object_get_string(value), (size_t)json_object_get_string_len(value));
}

bool acp_json_add_secret(struct json_object *object, const char *name, const char *value)
{
	struct json_object *secret = json_object_new_string(value);
	if (secret)
		json_object_set_userdata(secret, NULL, wipe_string);
	return acp_json_add(object, name, secret);
}

bool acp_json_add_null(struct json_object *object, const char *name)
{
	return json_object_is_type(object, json_type_object) && json_object_object_add(object, name, NULL) == 0;
}

static void write_string(struct json_object *value, struct acp_buf *out)
{
	acp_buf_json_string(out, json_object_get_string(value), (size_t)json_object_get_string_len(value));
}

static void write_array(struct json_object *array, struct acp_buf *out)
{
	size_t count = json_object_array_length(array);
	acp_buf_putc(out, '[');
	for (size_t i = 0; i < count; i++) {
		if (i)
			acp_buf_putc(out, ',');
		acp_json_write(json_object_array_get_idx(array, i), out);
	}
	acp_buf_putc(out, ']');
}

static void write_object(struct json_object *object, struct acp_buf *out)
{
	char before = '{';
	json_object_object_foreach(object, name, member)
	{
		acp_buf_putc(out, before);
		acp_buf_json_string(out, name, strlen(name));
		acp_buf_putc(out, ':');
		acp_json_write(member, out);
		before = ',';
	}
	acp_buf_puts(out, before == '{' ? "{}" : "}");
}

static void write_integer(struct json_object *value, struct acp_buf *out)
{
	int64_t number = json_object_get_int64(value);
	/* json-c stores values beyond int64 as unsigned and clamps them when read as int64. */
	if (number == INT64_MAX)
		acp_buf_printf(out, "%" PRIu64, json_object_get_uint64(value));
	else
		acp_buf_put_int(out, number);
}

/* A double that was read, or made by acp_json_double, carries its digits. json-c's own formatting would allocate
 * memory. */
static void write_double(struct json_object *value, struct acp_buf *out)
{
	char shortest[32];
	const char *digits = json_object_get_userdata(value);
	if (!digits)
		acp_json_number(json_object_get_double(value), shortest);
	acp_buf_puts(out, digits ? digits : shortest);
}

void acp_json_write(struct json_object *value, struct acp_buf *out)
{
	switch (json_object_get_type(value)) {
	case json_type_null: acp_buf_puts(out, "null"); break;
	case json_type_boolean: acp_buf_puts(out, json_object_get_boolean(value) ? "true" : "false"); break;
	case json_type_int: write_integer(value, out); break;
	case json_type_double: write_double(value, out); break;
	case json_type_string: write_string(value, out); break;
	case json_type_array: write_array(value, out); break;
	case json_type_object: write_object(value, out); break;
	}
}
