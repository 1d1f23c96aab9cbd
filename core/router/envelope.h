/* envelope.h - parses a request into {action, params, idempotency_key, dry_run} (contract section 3, "Request"), and
 * makes the reply. */
#ifndef ACP_ENVELOPE_H
#define ACP_ENVELOPE_H

#include "call.h"

/* Checks the method, media type and size, and parses the JSON. Fills call->envelope. */
enum acp_code acp_envelope_parse(struct acp_call *call) ACP_MUSTCHECK;

/* Checks the members and fills call->action_name, params, idempotency_key, dry_run. */
enum acp_code acp_envelope_check(struct acp_call *call) ACP_MUSTCHECK;

/* Makes the body of a success and writes it to the host's buffer. Called before the call is committed. False: out of
 * memory. */
bool acp_envelope_prepare(struct acp_call *call) ACP_MUSTCHECK;

/* Makes the reply from the call's outcome. Moves the result's data into it. */
void acp_envelope_reply(struct acp_call *call, struct acp_reply *reply);

/* Parses the body of a request outside the router, with the rules that all JSON endpoints share: content type,
 * encoding, size, RFC 8259. max_bytes: this endpoint's own limit, at most max_body_bytes. error, field: sentence and
 * pointer for the reply. The caller owns *out. */
enum acp_code acp_body_parse(const struct acp_config *config, const struct acp_request *request, int64_t max_bytes,
			     struct json_object **out, char error[256], char field[280]) ACP_MUSTCHECK;

/* The same with the endpoint's own limits. */
enum acp_code acp_body_parse_within(const struct acp_json_limits *limits, const struct acp_request *request,
				    struct json_object **out, char error[256], char field[280]) ACP_MUSTCHECK;

/* The body of an error reply: ok, request_id, error, code; extra may add retryable. NULL: out of memory. */
struct json_object *acp_error_body(enum acp_code code, const char *request_id, const char *error, const char *field);

#endif
