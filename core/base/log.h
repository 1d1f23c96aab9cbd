/* log.h - one line per event, written to standard error or a file. Each line is one write(), so that lines of several
 * processes do not mix. Control characters in text from outside are escaped. Callers never pass secrets: request lines
 * are made from the audit event, which is redacted. */
#ifndef ACP_LOG_H
#define ACP_LOG_H

#include "attr.h"

#include <stdarg.h>

enum acp_log_level { ACP_LOG_ERROR, ACP_LOG_WARNING, ACP_LOG_INFO, ACP_LOG_DEBUG };

/* Sets this process's log format ("text" or "json"), lowest level and file ("" = standard error). Call it before
 * threads start, and again to reopen the file. Returns false with errno if the file cannot be opened; the old file then
 * stays in use. */
bool acp_log_open(const char *format, const char *level, const char *file);

/* One message about the program itself. */
void acp_log(enum acp_log_level level, const char *format, ...) ACP_PRINTF(2, 3);

/* One field of a request line. NULL text omits the field; raw fields (numbers) have no quotes in JSON. */
struct acp_log_field {
	const char *name;
	const char *text;
	bool raw;
};
void acp_log_fields(enum acp_log_level level, const struct acp_log_field *fields, size_t count);

#endif
