/* decisions.h - a cache of decisions by a remote hub's policies, valid as long as the hub allows (decision_ttl_ms).
 *
 * A decision applies to one action, actor, tenant and request hash. It becomes invalid when the hub's policies change:
 * the first sign of a newer policy version drops all older decisions. Any number of threads may use one table. */
#ifndef ACP_DECISIONS_H
#define ACP_DECISIONS_H

#include "attr.h"

#include <json-c/json.h>

struct acp_decisions;

/* Creates a table of slots, each with room for one decision. If two decisions need the same slot, the later one
 * replaces the earlier. NULL: out of memory. */
struct acp_decisions *acp_decisions_new(size_t slots) ACP_MUSTCHECK;
void acp_decisions_free(struct acp_decisions *table);

/* Sets the current version of the hub's policies. Versions only grow; an older one is ignored. */
void acp_decisions_version(struct acp_decisions *table, int64_t version);

/* Stores a copy of the decision for the call that query describes (members as in struct acp_control_plane, authorize),
 * valid for ttl_ms from now (microseconds). Stores nothing when ttl_ms is 0 or less, or the version is older than the
 * current one. */
void acp_decisions_put(struct acp_decisions *table, struct json_object *query, struct json_object *decision,
		       int64_t version, int64_t ttl_ms, uint64_t now);

/* The stored decision for exactly this call; owned by the caller. NULL: none, or it has expired. */
struct json_object *acp_decisions_get(struct acp_decisions *table, struct json_object *query, uint64_t now);

#endif
