/* remote_plane.h - the control plane of a kernel whose hub is another acp-fcgi (settings hub_url, hub_key).
 *
 * The kernel has its own database for keys, idempotency and handlers. The hub provides:
 *   usage    Each call asks the hub to reserve and settle before it is committed. When the hub is unreachable, the
 *            call proceeds (fail open) and its audit row says so.
 *   policies The hub's policies decide on each call. Decisions are cached as long as the hub allows. When the hub is
 *            unreachable, writes are refused and reads proceed (policy.c).
 *   tenants  Onboarding creates the tenant at the hub first, so that it has the hub's id.
 * Audit rows are written here, with the call. A thread sends them from acp.audit_outbox until the hub has them, so
 * nothing is lost while the hub is unreachable. The hub drops repeated events. */
#ifndef ACP_REMOTE_PLANE_H
#define ACP_REMOTE_PLANE_H

#include "settings.h"
#include "plane.h"

struct acp_remote_plane;

/* Wraps the plane of the kernel's own database, which must outlive this one. Fills plane and starts the sending thread.
 * Call it after fork. NULL: no memory or no thread. */
struct acp_remote_plane *acp_remote_plane_new(const struct acp_config *config, const struct acp_control_plane *local,
					      struct acp_control_plane *plane) ACP_MUSTCHECK;

/* Ends the thread; no call may be running. Unsent events stay in the database. */
void acp_remote_plane_free(struct acp_remote_plane *remote);

#endif
