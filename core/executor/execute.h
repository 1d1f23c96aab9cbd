/* execute.h - Repo C for other kernels: POST /functions/v1/execute (contract section 2.3), without HTTP. */
#ifndef ACP_EXECUTE_H
#define ACP_EXECUTE_H

#include "pipeline.h"

/* Is it offered here: with an executor in this program, and a key for others? */
bool acp_execute_offered(const struct acp_kernel *kernel);

/* Is this the executor's key? The time it takes tells nothing of it. NULL: none was shown. */
bool acp_execute_key_ok(const struct acp_kernel *kernel, const char *bearer);

/* One call whose key was right. A failed execution is answered with 200 and "ok": false; other statuses mean that none
 * was begun. */
void acp_execute_call(const struct acp_kernel *kernel, const struct acp_request *request, struct acp_reply *reply);

#endif
