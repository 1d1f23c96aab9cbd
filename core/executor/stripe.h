/* stripe.h - requests to Stripe's API: form bodies, a pinned version, idempotency keys, retries. What is asked is
 * executor_stripe.c's. */
#ifndef ACP_STRIPE_H
#define ACP_STRIPE_H

#include "executor.h"
#include "settings.h"

/* The version of Stripe's API whose parameters and replies are meant. */
#define ACP_STRIPE_VERSION "2026-10-28.endive"

/* One execution on its way: several requests within one time limit. */
struct acp_stripe {
	const struct acp_config *config;
	const char *key;          /* the idempotency key of the execution; each step has one of its own made from it */
	uint64_t deadline_us;     /* acp_monotonic_us() by which all must be done */
	struct acp_executed *out; /* is told of a failure */
};

/* Sends one request, again and again while it is worth it and time is left. path begins with /v1/; params become the
 * query of a GET and the body of a POST, and are taken over. step: what makes the key of a POST its own, "" for the
 * only or first one. True: *reply is the answered object, owned by the caller. False: out says why. */
bool acp_stripe_ask(struct acp_stripe *stripe, const char *method, const char *path, struct json_object *params,
		    const char *step, struct json_object **reply) ACP_MUSTCHECK;

#endif
