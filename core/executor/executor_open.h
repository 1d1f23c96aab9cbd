/* executor_open.h - the executor that the settings ask for: built in (executor_local.h) or remote
 * (executor_remote.h). It stands apart from executor.h, so that the router needs to know neither. */
#ifndef ACP_EXECUTOR_OPEN_H
#define ACP_EXECUTOR_OPEN_H

#include "executor.h"
#include "plane.h"
#include "settings.h"

/* Makes the executor: with stripe_key the one in this program, which stores its audit events through plane
 * (call.record), with executor_url the client of another. True with *executor NULL: no payments are taken. False with a
 * sentence in why. config and plane are borrowed until the end. acp_outbound_init() comes first. Release with
 * acp_executor_close(). */
bool acp_executor_open(const struct acp_config *config, const struct acp_control_plane *plane,
		       struct acp_executor **executor, char *why, size_t why_size) ACP_MUSTCHECK;

/* Releases what acp_executor_open() made; NULL is nothing. No execution may be running. */
void acp_executor_close(struct acp_executor *executor);

#endif
