/* log.h - one line an event, to standard error or a file, in one write() each so that lines of several processes do
 * not mix. What comes from outside has its control characters escaped. Nothing secret is ever passed here: request
 * lines are made from the audit event, which is redacted. */
#ifndef ACP_LOG_H
#define ACP_LOG_H

#include "attr.h"

#include <stdarg.h>

enum acp_log_level { ACP_LOG_ERROR, ACP_LOG_WARNING, ACP_LOG_INFO, ACP_LOG_DEBUG };

/* Sets format ("text" or "json"), least level and file ("" = standard error) of this process. Called before threads
 * start, and again to reopen the file. False with errno when the file cannot be opened; the old one stays in use. */
bool acp_log_open(const char *format, const char *level, const char *file);

/* One message about the program itself. */
void acp_log(enum acp_log_level level, const char *format, ...) ACP_PRINTF(2, 3);

/* One field of a request line; text NULL leaves it out; raw fields (numbers) stand without quotes in JSON. */
struct acp_log_field {
	const char *name;
	const char *text;
	bool raw;
};
void acp_log_fields(enum acp_log_level level, const struct acp_log_field *fields, size_t count);

#endif
