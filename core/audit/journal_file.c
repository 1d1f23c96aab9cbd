#include "journal_file.h"

#include "crypto.h"
#include "json.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	SUM_LEN = 8,           /* bytes of a checksum */
	READ_BYTES = 64 * 1024 /* bytes of one read */
};

int acp_journal_dir(const char *dir, char *why, size_t why_size)
{
	struct stat status;
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) {
		snprintf(why, why_size, "journal_dir = %s: %s", dir, strerror(errno));
		return -1;
	}
	if (fstat(fd, &status) == 0 && !(status.st_mode & (S_IWGRP | S_IWOTH)))
		return fd;
	snprintf(why, why_size, "journal_dir = %s: other users can write there; run: chmod go-w '%s'", dir, dir);
	close(fd);
	errno = EPERM;
	return -1;
}

bool acp_journal_named(const char *name, const char *suffix)
{
	size_t len = strlen(name);
	size_t suffix_len = strlen(suffix);
	return len > suffix_len && strcmp(name + len - suffix_len, suffix) == 0;
}

/* Makes the head of a line: the length and checksum of its JSON. */
static void make_head(const char *json, size_t len, char head[ACP_JOURNAL_HEAD + 1])
{
	uint8_t sum[ACP_SHA256_LEN];
	char hex[2 * SUM_LEN + 1];
	acp_sha256(json, len, sum);
	acp_hex(sum, SUM_LEN, hex);
	snprintf(head, ACP_JOURNAL_HEAD + 1, "%08x %s ", (unsigned)len, hex);
}

bool acp_journal_add_line(struct acp_buf *out, struct json_object *event)
{
	size_t len = 0;
	char head[ACP_JOURNAL_HEAD + 1];
	if (!acp_json_string(event, "event_id") || !acp_json_string(event, "tenant_id") ||
	    !acp_json_string(event, "ts"))
		return false;
	const char *json = acp_json_text(event, JSON_C_TO_STRING_PLAIN, &len);
	if (!json || len > ACP_JOURNAL_EVENT_MAX)
		return false;
	make_head(json, len, head);
	acp_buf_add(out, head, ACP_JOURNAL_HEAD);
	acp_buf_add(out, json, len);
	acp_buf_putc(out, '\n');
	return acp_buf_ok(out);
}

void acp_journal_reader_init(struct acp_journal_reader *reader, int fd)
{
	*reader = (struct acp_journal_reader){.fd = fd};
	acp_buf_init(&reader->held, (size_t)2 * ACP_JOURNAL_EVENT_MAX);
}

void acp_journal_reader_release(struct acp_journal_reader *reader)
{
	acp_buf_release(&reader->held);
}

/* Reads more bytes. Drops the bytes that were already returned, to make room. */
static bool read_more(struct acp_journal_reader *reader)
{
	char bytes[READ_BYTES];
	struct acp_buf *held = &reader->held;
	ssize_t got;
	do
		got = read(reader->fd, bytes, sizeof bytes);
	while (got < 0 && errno == EINTR);
	if (got < 0)
		return false;
	reader->end = got == 0;
	if (reader->at > 0) {
		held->len -= reader->at;
		memmove(held->ptr, held->ptr + reader->at, held->len);
		reader->at = 0;
	}
	acp_buf_add(held, bytes, (size_t)got);
	return acp_buf_ok(held);
}

/* Returns the length in the head of a line; -1: the line has no valid head. */
static int64_t length_of(const char *line, size_t len)
{
	char digits[9] = "";
	char *end = NULL;
	if (len < ACP_JOURNAL_HEAD || line[8] != ' ' || line[ACP_JOURNAL_HEAD - 1] != ' ')
		return -1;
	memcpy(digits, line, 8);
	if (strspn(digits, "0123456789abcdef") != 8)
		return -1;
	return strtoll(digits, &end, 16);
}

static bool is_whole(const char *line, size_t len)
{
	char head[ACP_JOURNAL_HEAD + 1];
	int64_t stated = length_of(line, len);
	if (stated < 0 || stated != (int64_t)len - ACP_JOURNAL_HEAD)
		return false;
	make_head(line + ACP_JOURNAL_HEAD, len - ACP_JOURNAL_HEAD, head);
	return memcmp(head, line, ACP_JOURNAL_HEAD) == 0;
}

/* Returns the bytes that have not been returned to the caller yet. The buffer may not be allocated yet. */
static const char *held_text(const struct acp_journal_reader *reader)
{
	return reader->held.ptr ? reader->held.ptr + reader->at : "";
}

/* Classifies a last line without an end of line. If it is longer than its head says, it was not cut off but changed. */
static enum acp_journal_line last_line(struct acp_journal_reader *reader)
{
	const char *line = held_text(reader);
	size_t len = reader->held.len - reader->at;
	bool cut =
		reader->too_long || length_of(line, len) < 0 || (int64_t)len <= ACP_JOURNAL_HEAD + length_of(line, len);
	reader->at = reader->held.len;
	if (len == 0 && !reader->too_long)
		return ACP_LINE_NONE;
	reader->too_long = false;
	return cut ? ACP_LINE_CUT : ACP_LINE_DAMAGED;
}

enum acp_journal_line acp_journal_next(struct acp_journal_reader *reader, const char **event, size_t *len)
{
	size_t searched = 0; /* number of bytes from `at` on that contain no end of line */
	for (;;) {
		size_t held = reader->held.len - reader->at;
		const char *line = held_text(reader);
		const char *end = held > searched ? memchr(line + searched, '\n', held - searched) : NULL;
		if (end) {
			size_t line_len = (size_t)(end - line);
			bool whole = !reader->too_long && is_whole(line, line_len);
			reader->at += line_len + 1;
			reader->too_long = false;
			if (!whole)
				return ACP_LINE_DAMAGED;
			*event = line + ACP_JOURNAL_HEAD;
			*len = line_len - ACP_JOURNAL_HEAD;
			return ACP_LINE_WHOLE;
		}
		if (reader->end)
			return last_line(reader);
		searched = held;
		if (held > ACP_JOURNAL_HEAD + ACP_JOURNAL_EVENT_MAX) {
			reader->too_long = true;
			reader->at = reader->held.len;
			searched = 0;
		}
		if (!read_more(reader))
			return ACP_LINE_FAILED;
	}
}
