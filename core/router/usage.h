/* usage.h - the free allowance (contract section 3, "Usage"). Nothing happens here unless the control plane has
 * get_usage and the setting usage_enforcement is on. */
#ifndef ACP_USAGE_H
#define ACP_USAGE_H

#include "call.h"

/* Is the allowance enforced at all in this kernel? */
bool acp_usage_enforced(const struct acp_kernel *kernel);

/* Before the handler: holds a place for a billable call that is not a dry run, unless it can be taken with the call's
 * end. ACP_UPGRADE_REQUIRED when the allowance is used up. When the check itself fails the call proceeds and the audit
 * row says so. */
enum acp_code acp_usage_reserve(struct acp_call *call) ACP_MUSTCHECK;

/* When the handler failed: the code the call ends with, call->code or ACP_UPGRADE_REQUIRED. */
enum acp_code acp_usage_after_failure(struct acp_call *call) ACP_MUSTCHECK;

/* The 402 of a call that finds no place: link, usage and the time the allowance is back. calls_used: as the hub said,
 * -1 when only the fact is known. */
enum acp_code acp_usage_refuse(struct acp_call *call, int64_t calls_used);

/* After the call was counted: the warning of the reply when calls_used (-1: not limited) is near the limit. */
void acp_usage_warn(struct acp_call *call, int64_t calls_used);

/* For dry runs: what the real call would cost this tenant now, as member estimated_cost of the impact. */
bool acp_usage_estimate(struct acp_call *call) ACP_MUSTCHECK;

/* The signed link a human can open to add a card (contract 2.1). expires_at: seconds since 1970. out: 512 bytes. */
void acp_upgrade_url(const struct acp_config *config, const char *tenant_id, int64_t expires_at, char out[512]);

/* True when the three query values are a link that acp_upgrade_url made and that is still good at now. */
bool acp_upgrade_url_ok(const struct acp_config *config, const char *tenant_id, const char *expires_at,
			const char *signature, int64_t now);

#endif
