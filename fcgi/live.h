/* live.h - the current kernel of this process. Requests acquire it. A reload replaces it, and the old kernel is
 * released when the last request that uses it has ended. */
#ifndef ACP_LIVE_H
#define ACP_LIVE_H

#include "actions_dir.h"

struct acp_live;
struct acp_kernel_ref; /* a counted reference: one for each request, and one while it is the current kernel */

/* The parts that all kernels of the process share; each may be NULL. The caller keeps ownership. */
struct acp_live_parts {
	struct acp_ratelimit *limits;
	struct acp_shares *shares;
	struct acp_metrics *metrics;
	struct acp_hub *hub;
	const struct acp_executor *executor;
};

/* Creates the first kernel, with these actions (the caller keeps ownership). NULL with a sentence in why. */
struct acp_live *acp_live_new(const struct acp_config *config, const struct acp_control_plane *plane,
			      const struct acp_live_parts *parts, const struct acp_actions *actions, char *why,
			      size_t why_size) ACP_MUSTCHECK;
void acp_live_free(struct acp_live *live); /* no request may hold a kernel */

/* Returns the current kernel for one request; release *ref when the request has ended. Never fails. */
const struct acp_kernel *acp_live_acquire(struct acp_live *live, struct acp_kernel_ref **ref);

/* Ends the use by a request. The last release frees a kernel that is no longer current. */
void acp_live_release(struct acp_live *live, struct acp_kernel_ref *ref);

/* Reloads actions_dir. False with the reason in why: the old kernel then stays current. */
bool acp_live_reload(struct acp_live *live, char *why, size_t why_size) ACP_MUSTCHECK;

#endif
