/* POST /api/webhooks/stripe - receives Stripe's events (stripe_events.c). */
#include "stripe_events.h"

#include "endpoints.h"

void acp_endpoint_stripe(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	struct acp_reply reply;
	if (!acp_stripe_events_offered(kernel)) {
		acp_http_error(http, ACP_NOT_FOUND, "this installation does not accept Stripe events", response);
		return;
	}
	acp_stripe_events_take(kernel, &http->request, http->stripe_signature, &reply);
	acp_http_reply(http, &reply, response);
}
