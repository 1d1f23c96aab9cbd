#include "executor_open.h"

#include "executor_local.h"
#include "executor_remote.h"

bool acp_executor_open(const struct acp_config *config, const struct acp_control_plane *plane,
		       struct acp_executor **executor, char *why, size_t why_size)
{
	*executor = NULL;
	if (*config->executor_url)
		*executor = acp_executor_remote_new(config, why, why_size);
	else if (*config->stripe_key)
		*executor = acp_executor_local_new(config, plane, why, why_size);
	else
		return true;
	return *executor != NULL;
}

void acp_executor_close(struct acp_executor *executor)
{
	if (!executor)
		return;
	if (acp_executor_is_local(executor))
		acp_executor_local_free(executor);
	else
		acp_executor_remote_free(executor);
}
