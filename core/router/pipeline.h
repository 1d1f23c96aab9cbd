/* pipeline.h - the router: one call from its bytes to its reply (contract section 3). */
#ifndef ACP_PIPELINE_H
#define ACP_PIPELINE_H

#include "kernel.h"

/* What a host hands over of one request. Strings are borrowed until acp_manage returns; NULL: absent. */
struct acp_request {
	const char *request_id; /* UUID text, made by acp_uuid() */
	const char *method;     /* "POST" */
	const char *content_type;
	const char *content_encoding;
	const char *credential; /* the presented API key; NULL: none or contradictory */
	const char *idempotency_key;
	const char *ip_address;
	const char *traceparent;
	const char *body;
	size_t body_len;
	bool body_too_large; /* the host kept only a part: the size limit was passed */
	bool body_broken;    /* the body did not arrive whole */
	bool body_lost;      /* it did, but there was no memory to keep it */
	uint64_t started_us; /* acp_monotonic_us() when the request was complete */
	struct acp_buf *out; /* where the host writes replies; NULL: nowhere. With it, the reply of a success is written
			      * before the call is one, so that a lack of memory cannot lose it */
};

/* What the host sends back. */
struct acp_reply {
	enum acp_code code;
	int http;                 /* status */
	struct json_object *body; /* owned by the caller: json_object_put */
	const char *allow;        /* Allow header of a 405, else NULL */
	int retry_after;          /* seconds for Retry-After; 0: none */
	struct acp_rate rate;     /* for the RateLimit fields; window 0: none */
	bool replayed;            /* Idempotency-Replayed: true */
	/* Idempotency-Key: under which a write that came without one may be repeated; "" = none. */
	char idempotency_key[ACP_UUID_LEN];
	bool written; /* the request's out holds the body as text already */

	/* for the log line of the request; "" where unknown */
	char tenant_id[ACP_UUID_LEN];
	char key_shown[ACP_KEY_SHOWN + 1];
	const char *action; /* static: name of a registered action, or NULL */
};

/* Runs one call of POST /api/manage. Never fails: what goes wrong is in the reply, and in one audit row. */
void acp_manage(const struct acp_kernel *kernel, const struct acp_request *request, struct acp_reply *reply);

/* The same for a host that would rather not keep a thread waiting while the call is stored. answered is called once,
 * with arg, by this thread before acp_manage_later returns, or by another one: then it must not block, and the rest of
 * the request's life is its own. kernel and request live until then. call: room for one call at a time, used again. */
typedef void acp_answered(void *arg, struct acp_reply *reply);
void acp_manage_later(struct acp_call *call, const struct acp_kernel *kernel, const struct acp_request *request,
		      acp_answered *answered, void *arg);
struct acp_call *acp_call_new(void) ACP_MUSTCHECK; /* NULL: out of memory */
void acp_call_free(struct acp_call *call);         /* no call may be on its way */

#endif
