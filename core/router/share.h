/* share.h - what the calls of one tenant, or of one action, hold at a time on this host (contract section 6). */
#ifndef ACP_SHARE_H
#define ACP_SHARE_H

#include "call.h"

/* Takes a place among the calls of the tenant that run at a time (tenant_calls). ACP_RATE_LIMITED: none is left. */
enum acp_code acp_share_enter(struct acp_call *call);

/* Takes a place among the calls that wait for an upstream: of the tenant, of the action, and of this host.
 * ACP_RATE_LIMITED: one of these has none left. */
enum acp_code acp_share_upstream(struct acp_call *call);

/* Takes a place among the requests with much JSON whose sender is not known yet: of its address, and of this host.
 * ACP_RATE_LIMITED: one of these has none left. */
enum acp_code acp_share_body(struct acp_call *call);

/* If the call has much JSON (call->size), waits for its turn to read or write it, because this takes milliseconds of
 * processor time. Calls of several tenants take turns (gate.h). Between begin and end, wait for nothing. */
void acp_share_begin_turn(const struct acp_call *call);
void acp_share_end_turn(const struct acp_call *call);

/* Gives all places of the call back. A call that only waits for a commit that others share should hold none. */
void acp_share_leave(struct acp_call *call);

#endif
