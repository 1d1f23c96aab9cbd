/* executor_remote.h - the client of an executor in another program, at executor_url. Private to core/. */
#ifndef ACP_EXECUTOR_REMOTE_H
#define ACP_EXECUTOR_REMOTE_H

#include "executor.h"
#include "settings.h"

/* Returns NULL with a sentence in why. Freed by acp_executor_close. */
struct acp_executor *acp_executor_remote_new(const struct acp_config *config, char *why, size_t why_size) ACP_MUSTCHECK;
void acp_executor_remote_free(struct acp_executor *executor);

#endif
