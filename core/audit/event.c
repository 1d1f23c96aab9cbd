#include "event.h"

#include "json.h"

static bool add_text(struct json_object *object, const char *name, const char *text)
{
	return !text || acp_json_put_literal(object, name, json_object_new_string(text));
}

static bool add_json(struct json_object *object, const char *name, struct json_object *value)
{
	return !value || acp_json_put_literal(object, name, json_object_get(value));
}

struct json_object *acp_event_json(const struct acp_event *event)
{
	struct json_object *object = json_object_new_object();
	bool ok = object != NULL;
#define ACP_EVENT_UUID(name) ok = ok && add_text(object, #name, event->name);
#define ACP_EVENT_TIME(name) ok = ok && add_text(object, #name, event->name);
#define ACP_EVENT_TEXT(name) ok = ok && add_text(object, #name, event->name);
#define ACP_EVENT_ADDRESS(name) ok = ok && add_text(object, #name, event->name);
#define ACP_EVENT_JSON(name) ok = ok && add_json(object, #name, event->name);
#define ACP_EVENT_REAL(name) ok = ok && acp_json_put(object, #name, acp_json_double(event->name));
#define ACP_EVENT_INTEGER(name) ok = ok && acp_json_put(object, #name, json_object_new_int64(event->name));
#define ACP_EVENT_FLAG(name) ok = ok && acp_json_put(object, #name, json_object_new_boolean(event->name));
#include "event.def"
#undef ACP_EVENT_UUID
#undef ACP_EVENT_TIME
#undef ACP_EVENT_TEXT
#undef ACP_EVENT_ADDRESS
#undef ACP_EVENT_JSON
#undef ACP_EVENT_REAL
#undef ACP_EVENT_INTEGER
#undef ACP_EVENT_FLAG
	ok = ok && add_text(object, "unless_onboarded", event->unless_onboarded);
	if (ok && (!event->forward || acp_json_put(object, "forward", json_object_new_boolean(true))))
		return object;
	json_object_put(object);
	return NULL;
}

bool acp_event_failed_open(struct acp_event *event)
{
	if (!event->result_meta)
		event->result_meta = json_object_new_object();
	return acp_json_add_string(event->result_meta, "usage_check", "failed_open");
}

void acp_event_release(struct acp_event *event)
{
	json_object_put(event->result_meta);
	event->result_meta = NULL;
}
