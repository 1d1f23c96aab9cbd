/* action_http.h - actions performed by an HTTP server of the operator (actions_dir.h).
 *
 * The request body is {action, params, dry_run, tenant_id, request_id, idempotency_key}. The server answers with JSON:
 * either an object with data and optionally quantity (billing units) and result_meta, or any other value, which is then
 * the data itself. */
#ifndef ACP_ACTION_HTTP_H
#define ACP_ACTION_HTTP_H

#include "acp.h"
#include "outbound.h"

enum { ACP_UPSTREAM_HEADERS = 20 };

struct acp_upstream {
	const char *url;
	const char *method;
	int timeout_ms;
	size_t max_reply;
	bool allow_private, allow_http;
	struct acp_header headers[ACP_UPSTREAM_HEADERS]; /* set by the operator, in addition to the program's own */
	size_t header_count;
};

/* Is this the name of a header that every request to an upstream already has? */
bool acp_upstream_header_taken(const char *name);

#endif
