/* policy.h - policies and approvals (contract sections 2.2 and 3): may this call run now, beyond its scope?
 *
 * The hub is asked only when a policy may apply to the tenant. When it is unreachable, a call that writes is refused
 * (fail closed), and a call that reads proceeds, which its audit row records. When the hub cannot evaluate its
 * policies, no call proceeds. */
#ifndef ACP_POLICY_H
#define ACP_POLICY_H

#include "call.h"

/* The stage. ACP_POLICY_DENIED, ACP_APPROVAL_REQUIRED (the reply has approval_id), ACP_UNAVAILABLE; ACP_INTERNAL_ERROR:
 * the policies could not be evaluated. */
enum acp_code acp_policy_check(struct acp_call *call) ACP_MUSTCHECK;

/* Logs the policy of a decision that could not be evaluated. */
void acp_policy_note(struct json_object *decision);

#endif
