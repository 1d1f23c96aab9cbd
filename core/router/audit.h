/* audit.h - the audit event of a call: AuditEvent v1 and billing (contract section 3, "Audit row").
 * It never holds a payload, a header or a secret: text from outside is redacted first. */
#ifndef ACP_AUDIT_H
#define ACP_AUDIT_H

#include "pipeline.h"

struct acp_call;

/* Makes the event of a call in its current state. The event borrows from the call; release it with acp_event_release.
 * False: out of memory. */
bool acp_audit_event(const struct acp_call *call, struct acp_event *event) ACP_MUSTCHECK;

/* Reads the trace id of a W3C traceparent header (NULL: no header). False: the header is missing or invalid. */
bool acp_audit_trace_id(const char *traceparent, char id[33]);

/* Computes the request_hash of an envelope: the hex SHA-256 of its canonical form with credentials redacted (contract
 * section 3). False: out of memory. */
bool acp_audit_request_hash(const struct acp_kernel *kernel, struct json_object *envelope,
			    char hex[ACP_SHA256_HEX]) ACP_MUSTCHECK;

/* Makes the event of a request outside the router (onboarding, the hub). The actor is anonymous, and the event is not
 * billable. Otherwise the same as acp_audit_event. */
bool acp_audit_public_event(const struct acp_kernel *kernel, const struct acp_request *request, const char *action,
			    enum acp_code code, const char *error, struct json_object *body,
			    struct acp_event *event) ACP_MUSTCHECK;

#endif
