/* share.h - what the calls of one tenant, or of one action, hold at a time on this host (contract section 6). */
#ifndef ACP_SHARE_H
#define ACP_SHARE_H

#include "call.h"

/* Takes a place among the calls of the tenant that run at a time (tenant_calls). ACP_RATE_LIMITED: none is left. */
enum acp_code acp_share_enter(struct acp_call *call);

/* Takes a place among the calls that wait for an upstream: of the tenant, of the action, and of this host.
 * ACP_RATE_LIMITED: one of these has none left. */
enum acp_code acp_share_upstream(struct acp_call *call);

/* Gives all places of the call back. For the end of its handler: a call that only waits for its commit holds none. */
void acp_share_leave(struct acp_call *call);

#endif
