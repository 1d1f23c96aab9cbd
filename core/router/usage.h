/* usage.h - the free allowance (contract section 3, "Usage"). It does nothing unless the control plane has usage.get
 * and the setting usage_enforcement is on. */
#ifndef ACP_USAGE_H
#define ACP_USAGE_H

#include "call.h"

/* Does this kernel enforce the allowance? */
bool acp_usage_enforced(const struct acp_kernel *kernel);

/* Before the handler: reserves a billable call that is not a dry run, unless it can be counted at the call's end.
 * ACP_UPGRADE_REQUIRED: the allowance is used up. If the check itself fails, the call proceeds, and its audit row says
 * so. */
enum acp_code acp_usage_reserve(struct acp_call *call) ACP_MUSTCHECK;

/* After the handler failed: returns the final code of the call, which is call->code or ACP_UPGRADE_REQUIRED. */
enum acp_code acp_usage_after_failure(struct acp_call *call) ACP_MUSTCHECK;

/* Refuses a call beyond the allowance with 402. The reply has the link, the usage as GET /api/usage shows it now, and
 * the time when the allowance resets. */
enum acp_code acp_usage_refuse(struct acp_call *call);

/* After the call was counted: adds the warning to the reply if calls_used (-1: not limited) is near the limit. The
 * settlement has set call->calls_held. */
void acp_usage_warn(struct acp_call *call, int64_t calls_used);

/* For a success: adds the warning that an invoice of the tenant is unpaid, with the moment from which it is treated as
 * free. The warning keeps the usage that acp_usage_warn() may have put there. */
void acp_usage_warn_past_due(struct acp_call *call);

/* For dry runs: adds the price of the real call for this tenant now, as member estimated_cost of the impact. */
bool acp_usage_estimate(struct acp_call *call) ACP_MUSTCHECK;

#endif
