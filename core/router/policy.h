/* policy.h - policies and approvals (contract sections 2.2 and 3): they decide whether a call may run now, in addition
 * to its scope.
 *
 * The hub is asked only if a policy may apply to the tenant. If it is unreachable, a call that writes is refused (fail
 * closed), and a call that reads proceeds, which its audit row records. If the hub cannot evaluate its policies, no
 * call proceeds. */
#ifndef ACP_POLICY_H
#define ACP_POLICY_H

#include "call.h"

/* The stage of the pipeline. Codes: ACP_POLICY_DENIED, ACP_APPROVAL_REQUIRED (the reply has approval_id),
 * ACP_UNAVAILABLE; ACP_INTERNAL_ERROR: the policies could not be evaluated. */
enum acp_code acp_policy_check(struct acp_call *call) ACP_MUSTCHECK;

/* If a policy could not be evaluated for this decision, logs its name. */
void acp_policy_note(struct json_object *decision);

#endif
