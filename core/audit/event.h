/* event.h - an audit event: AuditEvent v1 and billing (contract section 3, "Audit row"), what becomes one row of
 * audit_logs. It never holds a payload, a header or a secret. */
#ifndef ACP_EVENT_H
#define ACP_EVENT_H

#include "attr.h"

#include <json-c/json.h>

#define ACP_TS_LEN 40              /* a timestamp in the hub's own text form, microseconds and zone included */
enum { ACP_EVENT_TEXT_MAX = 255 }; /* longest text of a member that the caller chose, in bytes */

struct acp_event {
#define ACP_EVENT_UUID(name) const char *name;
#define ACP_EVENT_TIME(name) const char *name;
#define ACP_EVENT_TEXT(name) const char *name;
#define ACP_EVENT_ADDRESS(name) const char *name;
#define ACP_EVENT_JSON(name) struct json_object *name;
#define ACP_EVENT_REAL(name) double name;
#define ACP_EVENT_INTEGER(name) int64_t name;
#define ACP_EVENT_FLAG(name) bool name;
#include "event.def"
#undef ACP_EVENT_UUID
#undef ACP_EVENT_TIME
#undef ACP_EVENT_TEXT
#undef ACP_EVENT_ADDRESS
#undef ACP_EVENT_JSON
#undef ACP_EVENT_REAL
#undef ACP_EVENT_INTEGER
#undef ACP_EVENT_FLAG
	bool forward;                 /* the row also goes to the remote hub */
	const char *unless_onboarded; /* NULL, or the key id of an onboarding of unknown outcome: the row is of its
					 refusal, and only written if it was not made; it is not made any more then */

	/* What members point to that was made for this event; the others are borrowed. */
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

/* The event as a JSON object, members that are null left out, as the hub, the journal and SQL take it. Owned by the
 * caller; NULL: out of memory. */
struct json_object *acp_event_json(const struct acp_event *event);

/* Notes in an event that its call was not counted against the allowance when it ended (fail-open). */
bool acp_event_failed_open(struct acp_event *event) ACP_MUSTCHECK;

void acp_event_release(struct acp_event *event);

#endif
