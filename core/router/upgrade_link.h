/* upgrade_link.h - the signed link with which a human adds a card (contract section 2.1). It is the upgrade_url in
 * refusals, warnings and the onboarding reply. /api/upgrade/checkout checks it. */
#ifndef ACP_UPGRADE_LINK_H
#define ACP_UPGRADE_LINK_H

#include "settings.h"

/* Makes the link of a tenant (UUID), valid until expires_at (seconds since 1970). out: 512 bytes. */
void acp_upgrade_url(const struct acp_config *config, const char *tenant_id, int64_t expires_at, char out[512]);

/* True if the three query values are a link that acp_upgrade_url made and that is valid at now (seconds since 1970).
 * Takes constant time, so it reveals nothing about the correct signature. */
bool acp_upgrade_url_ok(const struct acp_config *config, const char *tenant_id, const char *expires_at,
			const char *signature, int64_t now);

#endif
