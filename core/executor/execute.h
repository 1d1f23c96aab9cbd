/* execute.h - Repo C for other kernels: POST /functions/v1/execute (contract section 2.3), without HTTP. */
#ifndef ACP_EXECUTE_H
#define ACP_EXECUTE_H

#include "pipeline.h"

/* Is the endpoint enabled? It needs an executor in this program and a key for other kernels. */
bool acp_execute_offered(const struct acp_kernel *kernel);

/* Is this the executor's key? Takes constant time. NULL: the request has no key. */
bool acp_execute_key_ok(const struct acp_kernel *kernel, const char *bearer);

/* Runs one call whose key was verified. The answer to a failed execution is 200 with "ok": false; other statuses mean
 * that no execution began. */
void acp_execute_call(const struct acp_kernel *kernel, const struct acp_request *request, struct acp_reply *reply);

#endif
