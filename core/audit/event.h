/* event.h - an audit event: AuditEvent v1 and billing (contract section 3, "Audit row"). It becomes one row of
 * audit_logs. It never holds a payload, a secret, or a header other than the id in traceparent. */
#ifndef ACP_EVENT_H
#define ACP_EVENT_H

#include "attr.h"

#include <json-c/json.h>

#define ACP_TS_LEN 40              /* size of a timestamp in the hub's text form, with microseconds and zone */
enum { ACP_EVENT_TEXT_MAX = 255 }; /* maximum bytes of a text that the caller chooses */

/* The C types of the types of event.def. */
#define ACP_MEMBER_UUID const char *
#define ACP_MEMBER_TIME const char *
#define ACP_MEMBER_TEXT const char *
#define ACP_MEMBER_ADDRESS const char *
#define ACP_MEMBER_JSON struct json_object *
#define ACP_MEMBER_REAL double
#define ACP_MEMBER_INTEGER int64_t
#define ACP_MEMBER_FLAG bool

struct acp_event {
#define ACP_EVENT(TYPE, name, personal) ACP_MEMBER_##TYPE name;
#include "event.def"
#undef ACP_EVENT
	bool forward;                 /* the row also goes to the remote hub */
	const char *unless_onboarded; /* NULL, or the key id of an onboarding with unknown outcome. The row records its
					 refusal. It is written only if the onboarding was not stored, and then the
					 onboarding can no longer be stored. */

	/* Storage for members that were made for this event; the other members are borrowed. */
	struct {
		char event_id[37];
		char ts[ACP_TS_LEN];
		char request_hash[65];
		char trace_id[33];
		char action[ACP_EVENT_TEXT_MAX + 1];
		char error[ACP_EVENT_TEXT_MAX + 1];
		char idempotency_key[ACP_EVENT_TEXT_MAX + 1];
	} own;
};

/* The table of fields. It defines the parameters of the statement, the record of the journal, the text of the chain and
 * the readable form of a row. */
enum acp_field_type {
	ACP_FIELD_UUID,
	ACP_FIELD_TIME,
	ACP_FIELD_TEXT,
	ACP_FIELD_ADDRESS,
	ACP_FIELD_JSON,
	ACP_FIELD_REAL,
	ACP_FIELD_INTEGER,
	ACP_FIELD_FLAG,
};

struct acp_field {
	const char *name;
	enum acp_field_type type;
	bool personal;
	size_t offset; /* offset of the member in struct acp_event */
};

enum {
#define ACP_EVENT(TYPE, name, personal) ACP_AT_##name,
#include "event.def"
#undef ACP_EVENT
	ACP_FIELDS, /* number of fields */
	/* The fields of schema version 10. Every row of form 2 has a line for each of them. A later field has a line
	 * only if it has a value, so that existing rows keep their text. Rows of form 1 have no other fields. */
	ACP_FIELDS_OF_10 = 25,
};
extern const struct acp_field acp_fields[ACP_FIELDS];

/* Returns the value of a field of type UUID, TIME, TEXT or ADDRESS, borrowed; NULL: null. */
static inline const char *acp_event_text(const struct acp_event *event, const struct acp_field *field)
{
	return *(const char *const *)(const void *)((const char *)event + field->offset);
}

/* The same for JSON. */
static inline struct json_object *acp_event_object(const struct acp_event *event, const struct acp_field *field)
{
	return *(struct json_object *const *)(const void *)((const char *)event + field->offset);
}

/* Returns the event as a JSON object without null members, for the hub, the journal and SQL. The caller owns it. NULL:
 * out of memory. */
struct json_object *acp_event_json(const struct acp_event *event);

/* Marks an event whose call was not counted against the allowance when it ended (fail-open). */
bool acp_event_failed_open(struct acp_event *event) ACP_MUSTCHECK;

void acp_event_release(struct acp_event *event);

#endif
