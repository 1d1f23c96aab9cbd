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

/* The stage before the handler: uses up the approval, if the call has one, before anything can be done with it. Once
 * the handler may have acted, it stays used, whatever happens. ACP_APPROVAL_REQUIRED: another call was faster. */
enum acp_code acp_policy_use_approval(struct acp_call *call) ACP_MUSTCHECK;

/* The approval to give back with the row of a failed call: it is used up, but nothing was done. NULL: none. */
const char *acp_policy_unused_approval(const struct acp_call *call);

/* If a policy could not be evaluated for this decision, logs its name. */
void acp_policy_note(struct json_object *decision);

#endif
