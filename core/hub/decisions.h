/* decisions.h - decisions of a remote hub's policies, remembered for as long as the hub allows (decision_ttl_ms).
 *
 * A decision is for one action, actor, tenant and request hash, and dies when the hub's policies change: with the first
 * sign of a newer policy version every older decision is forgotten. Any number of threads may use one table. */
#ifndef ACP_DECISIONS_H
#define ACP_DECISIONS_H

#include "attr.h"

#include <json-c/json.h>

struct acp_decisions;

/* A table of so many decisions; when two want one place, the later stays. NULL: out of memory. */
struct acp_decisions *acp_decisions_new(size_t places) ACP_MUSTCHECK;
void acp_decisions_free(struct acp_decisions *table);

/* The hub's policies have this version now. Versions only grow; an older one is old news and changes nothing. */
void acp_decisions_version(struct acp_decisions *table, int64_t version);

/* Remembers a copy of the decision for the call that query describes (members as in struct acp_control_plane,
 * authorize), from now (microseconds) on for ttl_ms. A ttl of 0 or less, or an older version: nothing is remembered. */
void acp_decisions_put(struct acp_decisions *table, struct json_object *query, struct json_object *decision,
		       int64_t version, int64_t ttl_ms, uint64_t now);

/* The decision remembered for exactly this call; owned by the caller. NULL: none that is still good. */
struct json_object *acp_decisions_get(struct acp_decisions *table, struct json_object *query, uint64_t now);

#endif
