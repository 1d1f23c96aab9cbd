/* upgrade.h - a tenant becomes a paying one: its human gives a payment method in a checkout session at Stripe (contract
 * 2.1, /api/upgrade/checkout). What Stripe then tells (stripe_events.h) makes the tenant a paid one. */
#ifndef ACP_UPGRADE_H
#define ACP_UPGRADE_H

#include "pipeline.h"

struct acp_checkout {
	char url[2048];
	char expires_at[32];
	char error[256]; /* of a failure: one sentence; "" = the code's own */
	int retry_after; /* seconds; 0: none */
};

/* Are payments taken here? Else why not, for people. */
bool acp_upgrade_offered(const struct acp_kernel *kernel, const char **why_not);

/* Where the tenant's human goes: the session that is open, or a new one. who: the caller whose key it was; NULL: a
 * human with a signed link. Takes some seconds at most. ACP_ALREADY_PAID; ACP_NOT_FOUND: no active tenant has this id;
 * ACP_UPSTREAM_FAILED: Repo C or Stripe did not do it; ACP_RATE_LIMITED; ACP_UNAVAILABLE. */
enum acp_code acp_upgrade(const struct acp_kernel *kernel, const struct acp_request *request,
			  const struct acp_principal *who, const char *tenant_id,
			  struct acp_checkout *out) ACP_MUSTCHECK;

/* The body of POST: nothing, or an object whose tenant_uuid is the caller's own. */
enum acp_code acp_upgrade_check_body(const struct acp_kernel *kernel, const struct acp_request *request,
				     const struct acp_principal *who, char error[256], char field[280]) ACP_MUSTCHECK;

#endif
