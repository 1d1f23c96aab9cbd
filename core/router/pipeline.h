/* pipeline.h - the router: one call from its bytes to its reply (contract section 3). */
#ifndef ACP_PIPELINE_H
#define ACP_PIPELINE_H

#include "kernel.h"

/* A request as the host passes it on. Strings are borrowed until acp_manage returns; NULL: absent. */
struct acp_request {
	const char *request_id; /* UUID text, made by acp_uuid() */
	const char *method;     /* "POST" */
	const char *content_type;
	const char *content_encoding;
	const char *credential; /* the API key in the request; NULL: none or contradictory */
	const char *idempotency_key;
	const char *ip_address;
	const char *traceparent;
	const char *body;
	size_t body_len;
	bool body_too_large; /* the body exceeds the size limit, and the host kept only a part */
	bool body_broken;    /* the body did not arrive completely */
	bool body_lost;      /* the body arrived, but there was no memory to keep it */
	uint64_t started_us; /* acp_monotonic_us() when the request was complete */
	struct acp_buf *out; /* the host's buffer for the reply; NULL: none. With it, the reply of a success is written
			      * before the commit, so that running out of memory cannot lose it */
};

/* The reply that the host sends. */
struct acp_reply {
	enum acp_code code;
	int http;                 /* status */
	struct json_object *body; /* owned by the caller: json_object_put */
	const char *allow;        /* Allow header of a 405, otherwise NULL */
	int retry_after;          /* seconds for Retry-After; 0: none */
	struct acp_rate rate;     /* for the RateLimit fields; window 0: none */
	bool replayed;            /* Idempotency-Replayed: true */
	/* Idempotency-Key for repeating a write that came without one; "" = none. */
	char idempotency_key[ACP_UUID_LEN];
	bool written;             /* the body is already in the request's out, as text */

	/* for the log line of the request; "" where unknown */
	char tenant_id[ACP_UUID_LEN];
	char key_shown[ACP_KEY_SHOWN + 1];
	const char *action; /* static: name of a registered action, or NULL */
};

/* Runs one call of POST /api/manage. Never fails: errors are reported in the reply, and in one audit row. */
void acp_manage(const struct acp_kernel *kernel, const struct acp_request *request, struct acp_reply *reply);

/* The same without blocking the thread while the call is stored. answered is called once, with arg, either by this
 * thread before acp_manage_later returns, or by another thread. In the second case it must not block, and it takes over
 * the request. kernel and request must live until then. call: memory for one call at a time; reusable. */
typedef void acp_answered(void *arg, struct acp_reply *reply);
void acp_manage_later(struct acp_call *call, const struct acp_kernel *kernel, const struct acp_request *request,
		      acp_answered *answered, void *arg);
struct acp_call *acp_call_new(void) ACP_MUSTCHECK; /* NULL: out of memory */
void acp_call_free(struct acp_call *call);         /* no call may be using it */

#endif
