/* envelope.h - bytes to {action, params, idempotency_key, dry_run} (contract section 3, "Request"), and the reply. */
#ifndef ACP_ENVELOPE_H
#define ACP_ENVELOPE_H

#include "call.h"

/* Limits and parse: method, media type, size, JSON. Fills call->envelope. */
enum acp_code acp_envelope_parse(struct acp_call *call) ACP_MUSTCHECK;

/* Checks the members and fills call->action_name, params, idempotency_key, dry_run. */
enum acp_code acp_envelope_check(struct acp_call *call) ACP_MUSTCHECK;

/* Makes the body of a success, and writes it where the host wants it, before the call is one. False: out of
 * memory. */
bool acp_envelope_prepare(struct acp_call *call) ACP_MUSTCHECK;

/* Makes the reply from the call's outcome. The result's data moves into it. */
void acp_envelope_reply(struct acp_call *call, struct acp_reply *reply);

/* The rules every JSON endpoint shares: content type, encoding, size, RFC 8259. For a body of a request outside the
 * router. max_bytes: this endpoint's own limit, at most max_body_bytes. error, field: sentence and pointer for the
 * reply. *out is owned by the caller. */
enum acp_code acp_body_parse(const struct acp_config *config, const struct acp_request *request, int64_t max_bytes,
			     struct json_object **out, char error[256], char field[280]) ACP_MUSTCHECK;

/* The same with limits of the endpoint's own. */
enum acp_code acp_body_parse_within(const struct acp_json_limits *limits, const struct acp_request *request,
				    struct json_object **out, char error[256], char field[280]) ACP_MUSTCHECK;

/* An error reply body: ok, request_id, error, code, retryable only where extra says so. NULL: out of memory. */
struct json_object *acp_error_body(enum acp_code code, const char *request_id, const char *error, const char *field);

#endif
