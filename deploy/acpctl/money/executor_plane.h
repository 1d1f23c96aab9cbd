/* executor_plane.h - the part of the control plane that an executor and the outbox need, in acpctl. */
#ifndef ACP_ACPCTL_EXECUTOR_PLANE_H
#define ACP_ACPCTL_EXECUTOR_PLANE_H

#include "acpctl.h"
#include "plane.h"

/* Returns a control plane over the database of ctl, which must outlive it. It claims obligations of the outbox, records
 * their end and stores audit events. It has no other function. */
struct acp_control_plane ctl_executor_plane(struct ctl *ctl);

#endif
