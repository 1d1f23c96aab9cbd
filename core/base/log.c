#include "log.h"

#include "buf.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

/* Every thread reads these while SIGHUP may change them. */
static atomic_int log_fd = STDERR_FILENO;
static atomic_bool as_json;
static _Atomic enum acp_log_level lowest = ACP_LOG_INFO;

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
		/* Keep the number of the descriptor: a thread that has already read it then writes to the old file or
		 * the new one, never to a third. */
		dup3(fd, before, O_CLOEXEC);
		close(fd);
	} else {
		log_fd = fd;
	}
	as_json = strcmp(format, "json") == 0;
	for (size_t i = 0; i < ACP_COUNT(level_names); i++)
		if (strcmp(level_names[i], level) == 0)
			lowest = (enum acp_log_level)i;
	return true;
}

static atomic_int own_pid; /* 0: not yet known in this process */

static void forget_pid(void)
{
	own_pid = 0;
}

static void watch_forks(void)
{
	pthread_atfork(NULL, NULL, forget_pid);
}

static int pid(void)
{
	static pthread_once_t watched = PTHREAD_ONCE_INIT;
	pthread_once(&watched, watch_forks);
	if (!own_pid)
		own_pid = (int)getpid();
	return own_pid;
}

/* The text up to the second changes rarely, so each thread caches it. */
static void put_stamp(struct acp_buf *line)
{
	static __thread time_t second = -1;
	static __thread char shown[24];
	struct timespec now;
	struct tm utc;
	clock_gettime(CLOCK_REALTIME, &now);
	if (now.tv_sec != second) {
		gmtime_r(&now.tv_sec, &utc);
		strftime(shown, sizeof shown, "%Y-%m-%dT%H:%M:%S", &utc);
		second = now.tv_sec;
	}
	int ms = (int)(now.tv_nsec / 1000000);
	const char fraction[] = {'.', (char)('0' + ms / 100), (char)('0' + ms / 10 % 10), (char)('0' + ms % 10), 'Z'};
	acp_buf_puts(line, shown);
	acp_buf_add(line, fraction, sizeof fraction);
}

static void put_start(struct acp_buf *line, enum acp_log_level level)
{
	acp_buf_puts(line, as_json ? "{\"ts\":\"" : "");
	put_stamp(line);
	acp_buf_puts(line, as_json ? "\",\"level\":\"" : " ");
	acp_buf_puts(line, level_names[level]);
	acp_buf_puts(line, as_json ? "\",\"pid\":" : " [");
	acp_buf_put_int(line, pid());
	acp_buf_puts(line, as_json ? "" : "]");
}

/* Text from outside may be long, and a line that is too long is dropped. So a value gets at most three quarters of the
 * remaining room, which leaves some for the values after it. */
static size_t room_in(const struct acp_buf *line)
{
	return (line->max - line->len) / 4 * 3;
}

/* The number of leading characters that need no escaping in any line or terminal. */
static size_t plain_length(const char *text, size_t most)
{
	size_t len = 0;
	while (len < most && text[len] >= ' ' && text[len] < 0x7f && text[len] != '"' && text[len] != '\\')
		len++;
	return len;
}

/* In text lines, a value needs quotes only if a reader could mistake its end for the next field. */
static bool needs_no_quotes(const char *text)
{
	size_t len = plain_length(text, SIZE_MAX);
	return len && !text[len] && !strpbrk(text, " =");
}

/* Control characters that terminals act on and JSON does not escape: DEL, and U+0080 to U+009F. */
static bool is_terminal_control(const unsigned char *c, size_t len)
{
	return c[0] == 0x7f || (len == 2 && c[0] == 0xc2 && c[1] < 0xa0);
}

/* Writes one character as in a JSON string. Terminal controls and bytes that are not UTF-8 become \u00xx. Returns the
 * length read. */
static size_t put_character(struct acp_buf *line, const char *text, size_t left)
{
	const unsigned char *c = (const unsigned char *)text;
	size_t len = acp_utf8_length(c, left);
	if (len && !is_terminal_control(c, len)) {
		acp_buf_json_chars(line, text, len);
		return len;
	}
	acp_buf_printf(line, "\\u00%02x", len == 2 ? c[1] : c[0]);
	return len ? len : 1;
}

static void put_quoted(struct acp_buf *line, const char *text)
{
	size_t left = strlen(text);
	const size_t end = line->len + room_in(line);
	acp_buf_putc(line, '"');
	while (left && line->len < end) {
		size_t len = plain_length(text, end - line->len);
		if (len)
			acp_buf_add(line, text, len);
		else
			len = put_character(line, text, left);
		text += len;
		left -= len;
	}
	acp_buf_putc(line, '"');
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
		acp_buf_putc(line, ' ');
		acp_buf_puts(line, field->name);
		acp_buf_putc(line, '=');
	}
	if (field->raw || (!as_json && needs_no_quotes(field->text)))
		acp_buf_add(line, field->text, strnlen(field->text, room_in(line)));
	else
		put_quoted(line, field->text);
}

void acp_log_fields(enum acp_log_level level, const struct acp_log_field *fields, size_t count)
{
	struct acp_buf line;
	char memory[8193];
	if (level > lowest)
		return;
	acp_buf_borrow(&line, memory, sizeof memory);
	put_start(&line, level);
	for (size_t i = 0; i < count; i++)
		add_field(&line, &fields[i]);
	acp_buf_puts(&line, as_json ? "}\n" : "\n");
	if (acp_buf_ok(&line))
		while (write(log_fd, line.ptr, line.len) < 0 && errno == EINTR)
			;
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
