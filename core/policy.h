/* policy.h - policies and approvals (contract sections 2.2 and 3): may this call run now, beyond its scope?
 *
 * Asked only where a policy may apply to the tenant. When the hub cannot decide, a call that writes is refused (fail
 * closed) and a call that reads goes on, which its audit row says. */
#ifndef ACP_POLICY_H
#define ACP_POLICY_H

#include "call.h"

/* The stage. ACP_POLICY_DENIED, ACP_APPROVAL_REQUIRED (the reply has approval_id), ACP_UNAVAILABLE. */
enum acp_code acp_policy_check(struct acp_call *call) ACP_MUSTCHECK;

#endif
