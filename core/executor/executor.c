#include "executor.h"

#include "buf.h"
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
