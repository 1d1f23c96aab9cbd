/* onboard.h - an agent registers itself and immediately gets a key (contract 2.1, POST /api/onboard/{product}). */
#ifndef ACP_ONBOARD_H
#define ACP_ONBOARD_H

#include "pipeline.h"

/* Is onboarding enabled, and is this one of its products? */
bool acp_onboard_offered(const struct acp_kernel *kernel, const char *product);

/* Runs one onboarding. The body holds agent_id, email, organization_name?; request->idempotency_key is the header.
 * Never fails: errors are in the reply, and in one audit row with an anonymous actor. The row names the tenant only in
 * result_meta, because a tenant's own rows are the calls it makes. */
void acp_onboard(const struct acp_kernel *kernel, const struct acp_request *request, const char *product,
		 struct acp_reply *reply);

#endif
