#include "executor.h"

#include "buf.h"
#include "executor_local.h"
#include "executor_remote.h"
#include "redact.h"

bool acp_executed_fail(struct acp_executed *out, const char *code, bool retry, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(out->error, sizeof out->error, format, args);
	va_end(args);
	acp_redact_in_place(out->error, sizeof out->error, NULL);
	acp_utf8_trim(out->error);
	snprintf(out->error_code, sizeof out->error_code, "%s", code);
	out->ok = false;
	out->retry = retry;
	return false;
}

void acp_executed_release(struct acp_executed *executed)
{
	json_object_put(executed->data);
	json_object_put(executed->meta);
	executed->data = executed->meta = NULL;
}

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
