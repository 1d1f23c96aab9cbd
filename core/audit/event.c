#include "event.h"

#include "json.h"

#include <stddef.h>

const struct acp_field acp_fields[ACP_FIELDS] = {
#define ACP_EVENT(TYPE, name, personal) {#name, ACP_FIELD_##TYPE, personal, offsetof(struct acp_event, name)},
#include "event.def"
#undef ACP_EVENT
};

static bool add_text(struct json_object *object, const char *name, const char *text)
{
	return !text || acp_json_put_literal(object, name, json_object_new_string(text));
}

static bool add_json(struct json_object *object, const char *name, struct json_object *value)
{
	return !value || acp_json_put_literal(object, name, json_object_get(value));
}

static bool add_field(struct json_object *object, const struct acp_event *event, const struct acp_field *field)
{
	const void *member = (const char *)event + field->offset;
	switch (field->type) {
	case ACP_FIELD_JSON: return add_json(object, field->name, acp_event_object(event, field));
	case ACP_FIELD_REAL: return acp_json_put_literal(object, field->name, acp_json_double(*(const double *)member));
	case ACP_FIELD_INTEGER:
		return acp_json_put_literal(object, field->name, json_object_new_int64(*(const int64_t *)member));
	case ACP_FIELD_FLAG:
		return acp_json_put_literal(object, field->name, json_object_new_boolean(*(const bool *)member));
	default: return add_text(object, field->name, acp_event_text(event, field));
	}
}

struct json_object *acp_event_json(const struct acp_event *event)
{
	struct json_object *object = json_object_new_object();
	bool ok = object != NULL;
	for (size_t i = 0; ok && i < ACP_FIELDS; i++)
		ok = add_field(object, event, &acp_fields[i]);
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
