/* stripe.h - requests to Stripe's API: form bodies, a pinned version, idempotency keys, retries. executor_stripe.c
 * decides what to request. */
#ifndef ACP_STRIPE_H
#define ACP_STRIPE_H

#include "executor.h"
#include "settings.h"

/* The version of Stripe's API that this code is written for. */
#define ACP_STRIPE_VERSION "2026-10-28.endive"

/* Limits of a reply. It may be a list of events, and a webhook may have 4 MiB and be 1000 deep. */
enum { ACP_STRIPE_REPLY_MAX = 64 << 20, ACP_STRIPE_REPLY_DEPTH = 1016 };

/* An execution in progress: several requests within one time limit. */
struct acp_stripe {
	const struct acp_config *config;
	const char *key;          /* the idempotency key of the execution; the key of each step is derived from it */
	uint64_t deadline_us;     /* acp_monotonic_us() by which everything must be done */
	struct acp_executed *out; /* receives the details of a failure */
	bool replayed;            /* Stripe did not act on the last request, but repeated the reply to an earlier one */
};

/* Sends one request. Retries while that is useful and time is left. path begins with /v1/. Takes ownership of params,
 * which become the query of a GET or the body of a POST. step makes the key of a POST unique; "" for the only or first
 * one. True: *reply is the object in the answer, owned by the caller. False: out has the reason. */
bool acp_stripe_ask(struct acp_stripe *stripe, const char *method, const char *path, struct json_object *params,
		    const char *step, struct json_object **reply) ACP_MUSTCHECK;

/* Reads a reply of Stripe, or of an executor that passes on what Stripe replied, as its events are read: it may hold
 * whatever RFC 8259 permits. Returns the object, owned by the caller; NULL: it is none. */
struct json_object *acp_stripe_read(const char *text, size_t len);

#endif
