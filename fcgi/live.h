/* live.h - the kernel in force in this process: requests take it, a reload puts another one in its place, and the old
 * one goes when the last request that took it has ended. */
#ifndef ACP_LIVE_H
#define ACP_LIVE_H

#include "actions_dir.h"

struct acp_live;
struct acp_kernel_ref; /* a counted reference: one for each request, and one for being in force */

/* What every kernel of the process shares; each may be NULL. They stay the caller's. */
struct acp_live_parts {
	struct acp_ratelimit *limits;
	struct acp_metrics *metrics;
	struct acp_hub *hub;
	const struct acp_executor *executor;
};

/* The first kernel, with these actions (which stay the caller's). NULL with a sentence in why. */
struct acp_live *acp_live_new(const struct acp_config *config, const struct acp_control_plane *plane,
			      const struct acp_live_parts *parts, const struct acp_actions *actions, char *why,
			      size_t why_size) ACP_MUSTCHECK;
void acp_live_free(struct acp_live *live); /* no request may hold a kernel */

/* The kernel in force, for one request; *ref is to be released when the request has ended. Never fails. */
const struct acp_kernel *acp_live_acquire(struct acp_live *live, struct acp_kernel_ref **ref);

/* Ends the request's use; the last one releases a kernel that is no longer in force. */
void acp_live_release(struct acp_live *live, struct acp_kernel_ref *ref);

/* Reads actions_dir again. False with the reason in why: then the old kernel stays. */
bool acp_live_reload(struct acp_live *live, char *why, size_t why_size) ACP_MUSTCHECK;

#endif
