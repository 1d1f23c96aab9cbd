/* upgrade.h - moves a tenant to the paid tier. A human adds a payment method in a checkout session at Stripe (contract
 * 2.1, /api/upgrade/checkout). Stripe's event (stripe_events.h) then changes the tier. */
#ifndef ACP_UPGRADE_H
#define ACP_UPGRADE_H

#include "pipeline.h"

struct acp_checkout {
	char url[2048];
	char expires_at[32];
	char error[256]; /* one sentence about a failure; "" = the code's default */
	int retry_after; /* seconds; 0: none */
};

/* Does this installation accept payments? If not, *why_not gives the reason, for people. */
bool acp_upgrade_offered(const struct acp_kernel *kernel, const char **why_not);

/* Returns the checkout URL for the tenant's human, of the open session or a new one. who: the caller, authenticated by
 * its key; NULL: a human with a signed link. Takes a few seconds at most. Errors: ACP_ALREADY_PAID; ACP_NOT_FOUND: no
 * active tenant has this id; ACP_UPSTREAM_FAILED: Repo C or Stripe failed; ACP_RATE_LIMITED; ACP_UNAVAILABLE. */
enum acp_code acp_upgrade(const struct acp_kernel *kernel, const struct acp_request *request,
			  const struct acp_principal *who, const char *tenant_id,
			  struct acp_checkout *out) ACP_MUSTCHECK;

/* Checks the body of POST: empty, or an object whose tenant_uuid is the caller's own. */
enum acp_code acp_upgrade_check_body(const struct acp_kernel *kernel, const struct acp_request *request,
				     const struct acp_principal *who, char error[256], char field[280]) ACP_MUSTCHECK;

#endif
