/* action_http.h - actions whose work an HTTP server of the operator's does (actions_dir.h).
 *
 * It is sent {action, params, dry_run, tenant_id, request_id, idempotency_key} and answers with JSON: an object with
 * data, and perhaps quantity (billing units) and result_meta; or anything else, which then is the data. */
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
	struct acp_header headers[ACP_UPSTREAM_HEADERS]; /* the operator's own, in addition to ours */
	size_t header_count;
};

/* Is it one of the headers that every request to an upstream has anyway? */
bool acp_upstream_header_taken(const char *name);

#endif
