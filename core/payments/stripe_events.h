/* stripe_events.h - what Stripe tells us (contract 2.1, POST /api/webhooks/stripe). */
#ifndef ACP_STRIPE_EVENTS_H
#define ACP_STRIPE_EVENTS_H

#include "pipeline.h"

/* Are Stripe's events taken here? */
bool acp_stripe_events_offered(const struct acp_kernel *kernel);

/* Takes one event: signature is the header Stripe-Signature (NULL: none), over request->body as it came. The event, its
 * effect and an audit row are committed together before the answer; a request whose signature is not good has no effect
 * and leaves no audit row, so that strangers cannot fill the log. Never fails: what goes wrong is in the reply. */
void acp_stripe_events_take(const struct acp_kernel *kernel, const struct acp_request *request, const char *signature,
			    struct acp_reply *reply);

#endif
