/* executor_local.h - the executor in this program: the allow-list of actions, the check of their params, and one audit
 * event for each execution, regardless of the requester. Private to core/. */
#ifndef ACP_EXECUTOR_LOCAL_H
#define ACP_EXECUTOR_LOCAL_H

#include "executor.h"
#include "pipeline.h"

/* Returns NULL with a sentence in why. Freed by acp_executor_close. */
struct acp_executor *acp_executor_local_new(const struct acp_config *config, const struct acp_control_plane *plane,
					    char *why, size_t why_size) ACP_MUSTCHECK;
void acp_executor_local_free(struct acp_executor *executor);

/* Is this a local executor? */
bool acp_executor_is_local(const struct acp_executor *executor);

/* Executes for a request from another kernel. The audit event gets the request's id, address and duration, and its
 * request_hash (NULL: the hash is computed here). */
void acp_executor_local_run(const struct acp_executor *executor, const struct acp_request *request,
			    const char *request_hash, const struct acp_execution *what, struct acp_executed *out);

/* The schema of the body of /functions/v1/execute (core/schemas/executor/execute.json), compiled. */
const struct acp_schema *acp_executor_local_schema(const struct acp_executor *executor);

#endif
