/* executor_plane.h - the part of the control plane that an executor and the outbox need, in acpctl. */
#ifndef ACP_ACPCTL_EXECUTOR_PLANE_H
#define ACP_ACPCTL_EXECUTOR_PLANE_H

#include "acpctl.h"
#include "plane.h"

/* A control plane over the database of ctl, which must outlive it. It takes obligations of the outbox, notes their end
 * and stores audit events; it has no other function. */
struct acp_control_plane ctl_executor_plane(struct ctl *ctl);

#endif
