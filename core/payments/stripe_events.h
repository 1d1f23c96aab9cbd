/* stripe_events.h - receives Stripe's webhook events (contract 2.1, POST /api/webhooks/stripe). */
#ifndef ACP_STRIPE_EVENTS_H
#define ACP_STRIPE_EVENTS_H

#include "pipeline.h"
#include "stripe_signature.h"

/* The largest event that is accepted, unless max_body_bytes is larger. Stripe's largest known ones have some hundred
 * KiB. Only a request with a plausible Stripe-Signature may send as much. */
enum { ACP_STRIPE_BODY_MAX = 4 << 20 };

/* Does this installation accept Stripe's events? */
bool acp_stripe_events_offered(const struct acp_kernel *kernel);

/* Processes one event. signature is the header Stripe-Signature (NULL: none), made over the raw request->body. The
 * event, its effect and an audit row are committed together before the answer. A request with an invalid signature has
 * no effect and leaves no audit row, so that strangers cannot fill the log. Never fails: errors are in the reply. */
void acp_stripe_events_take(const struct acp_kernel *kernel, const struct acp_request *request, const char *signature,
			    struct acp_reply *reply);

#endif
