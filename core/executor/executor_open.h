/* executor_open.h - creates the executor that the settings select: built in (executor_local.h) or remote
 * (executor_remote.h). It is separate from executor.h, so that the router depends on neither. */
#ifndef ACP_EXECUTOR_OPEN_H
#define ACP_EXECUTOR_OPEN_H

#include "executor.h"
#include "plane.h"
#include "settings.h"

/* Creates the executor. executor_url selects the client of a remote executor. Otherwise stripe_key selects the built-in
 * one, which stores its audit events through plane (call.record). If neither is set, *executor is NULL: payments are
 * not accepted. Returns false with a sentence in why on failure. config and plane are borrowed until the executor is
 * closed. Call acp_outbound_init() first. Release with acp_executor_close(). */
bool acp_executor_open(const struct acp_config *config, const struct acp_control_plane *plane,
		       struct acp_executor **executor, char *why, size_t why_size) ACP_MUSTCHECK;

/* Releases an executor; NULL is allowed. No execution may be running. */
void acp_executor_close(struct acp_executor *executor);

#endif
