/* remote_plane.h - the control plane of a kernel whose hub is another acp-fcgi (settings hub_url, hub_key).
 *
 * The kernel keeps a database of its own for keys, idempotency and handlers. From the hub come:
 *   usage    reserve and settle ask the hub before a call is committed; when it is away the call proceeds (fail
 *            open) and its audit row says so;
 *   policies every call asks the hub's policies; decisions are remembered as long as the hub allows. When the hub is
 *            away, writes are refused and reads go on (policy.c);
 *   tenants  onboarding makes the tenant at the hub first, so that its id is the hub's.
 * Audit rows are written here, with the call, and wait in acp.audit_outbox for a thread that sends them to the hub
 * until it has them: nothing is lost while the hub is away, and repeated events are dropped there. */
#ifndef ACP_REMOTE_PLANE_H
#define ACP_REMOTE_PLANE_H

#include "settings.h"
#include "plane.h"

struct acp_remote_plane;

/* Wraps the plane of the kernel's own database, which must stay until this one is freed; fills plane and starts the
 * sending thread. After fork. NULL: out of memory or threads. */
struct acp_remote_plane *acp_remote_plane_new(const struct acp_config *config, const struct acp_control_plane *local,
					      struct acp_control_plane *plane) ACP_MUSTCHECK;

/* Ends the thread; no call may run. What was not sent waits in the database. */
void acp_remote_plane_free(struct acp_remote_plane *remote);

#endif
