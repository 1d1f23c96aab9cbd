/* policy.h - policies and approvals (contract sections 2.2 and 3): may this call run now, beyond its scope?
 *
 * Asked only where a policy may apply to the tenant. When the hub is away, a call that writes is refused (fail
 * closed) and a call that reads goes on, which its audit row says. What the hub cannot evaluate lets nothing
 * through. */
#ifndef ACP_POLICY_H
#define ACP_POLICY_H

#include "call.h"

/* The stage. ACP_POLICY_DENIED, ACP_APPROVAL_REQUIRED (the reply has approval_id), ACP_UNAVAILABLE; ACP_INTERNAL_ERROR:
 * the policies could not be evaluated. */
enum acp_code acp_policy_check(struct acp_call *call) ACP_MUSTCHECK;

/* Names the policy of a decision that cannot be evaluated in the log. */
void acp_policy_note(struct json_object *decision);

#endif
