#include "log.h"

#include "buf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

/* Read by every thread while SIGHUP may change them. */
static atomic_int log_fd = STDERR_FILENO;
static atomic_bool as_json;
static _Atomic enum acp_log_level least = ACP_LOG_INFO;

static const char *const level_names[] = {"error", "warning", "info", "debug"};

bool acp_log_open(const char *format, const char *level, const char *file)
{
	int fd = STDERR_FILENO;
	if (*file) {
		fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
		if (fd < 0)
			return false;
	}
	int before = log_fd;
	if (before != STDERR_FILENO && fd != STDERR_FILENO) {
		/* The number stays: who has read it writes to the old file or to the new one, never to another. */
		dup3(fd, before, O_CLOEXEC);
		close(fd);
	} else {
		log_fd = fd;
	}
	as_json = strcmp(format, "json") == 0;
	for (size_t i = 0; i < ACP_COUNT(level_names); i++)
		if (strcmp(level_names[i], level) == 0)
			least = (enum acp_log_level)i;
	return true;
}

static void stamp(char out[40])
{
	struct timespec now;
	struct tm utc;
	char seconds[24];
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &utc);
	strftime(seconds, sizeof seconds, "%Y-%m-%dT%H:%M:%S", &utc);
	snprintf(out, 40, "%s.%03ldZ", seconds, now.tv_nsec / 1000000);
}

static void add_field(struct acp_buf *line, const struct acp_log_field *field)
{
	if (!field->text)
		return;
	if (as_json) {
		acp_buf_putc(line, ',');
		acp_buf_json_string(line, field->name, strlen(field->name));
		acp_buf_putc(line, ':');
	} else {
		acp_buf_printf(line, " %s=", field->name);
	}
	/* In text lines a value stands bare unless a reader could take its end for the next field. */
	if (field->raw || (!as_json && *field->text && !strpbrk(field->text, " \"\\=\r\n\t\v\f\b\x1b\x7f")))
		acp_buf_puts(line, field->text);
	else
		acp_buf_json_string(line, field->text, strlen(field->text));
}

void acp_log_fields(enum acp_log_level level, const struct acp_log_field *fields, size_t count)
{
	struct acp_buf line;
	char when[40];
	if (level > least)
		return;
	stamp(when);
	acp_buf_init(&line, 8192);
	if (as_json)
		acp_buf_printf(&line, "{\"ts\":\"%s\",\"level\":\"%s\",\"pid\":%d", when, level_names[level],
			       (int)getpid());
	else
		acp_buf_printf(&line, "%s %s [%d]", when, level_names[level], (int)getpid());
	for (size_t i = 0; i < count; i++)
		add_field(&line, &fields[i]);
	acp_buf_puts(&line, as_json ? "}\n" : "\n");
	if (acp_buf_ok(&line))
		while (write(log_fd, line.ptr, line.len) < 0 && errno == EINTR)
			;
	acp_buf_release(&line);
}

void acp_log(enum acp_log_level level, const char *format, ...)
{
	char message[1024];
	va_list args;
	va_start(args, format);
	vsnprintf(message, sizeof message, format, args);
	va_end(args);
	acp_log_fields(level, &(struct acp_log_field){"msg", message, false}, 1);
}
