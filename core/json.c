#include "json.h"

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

bool acp_json_add_string(struct json_object *object, const char *name, const char *value)
{
	return acp_json_add(object, name, value ? json_object_new_string(value) : NULL);
}

bool acp_json_add_null(struct json_object *object, const char *name)
{
	return json_object_is_type(object, json_type_object) && json_object_object_add(object, name, NULL) == 0;
}
