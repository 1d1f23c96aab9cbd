/* Files of the journal (journal_file.c, journal_replay.c): the input is a file. The program and a second implementation
 * agree on its lines. A replay commits each complete line once and in order, and removes the file only when it contains
 * nothing else. Each @ at the start of a line is replaced with the correct head for the rest, so that the fuzzer can
 * find complete lines. */
#include "crypto.h"
#include "../fuzz.h"
#include "journal_file.h"
#include "log.h"

#include <unistd.h>

struct lines {
	struct acp_buf whole; /* the JSON of complete lines, each followed by a NUL */
	int64_t count, damaged, cut;
};

static void head_of(const char *json, size_t len, char head[ACP_JOURNAL_HEAD + 1])
{
	uint8_t sum[ACP_SHA256_LEN];
	char hex[ACP_SHA256_HEX];
	acp_sha256(json, len, sum);
	acp_hex(sum, sizeof sum, hex);
	snprintf(head, ACP_JOURNAL_HEAD + 1, "%08x %.16s ", (unsigned)len, hex);
}

static void fill_in(const char *text, size_t len, struct acp_buf *out)
{
	char head[ACP_JOURNAL_HEAD + 1];
	acp_buf_init(out, (size_t)8 << 20);
	for (size_t at = 0; at < len;) {
		const char *end = memchr(text + at, '\n', len - at);
		size_t line = end ? (size_t)(end - text) - at : len - at;
		bool marked = line && text[at] == '@';
		if (marked) {
			head_of(text + at + 1, line - 1, head);
			acp_buf_add(out, head, ACP_JOURNAL_HEAD);
		}
		acp_buf_add(out, text + at + marked, line - marked);
		if (end)
			acp_buf_putc(out, '\n');
		at += line + 1;
	}
	acp_buf_add(out, "", 1);
	out->len--;
}

/* True if a final line without a newline was cut off: always, unless it is longer than its head allows. */
static bool is_cut(const char *line, size_t len)
{
	unsigned long long announced;
	char digits[9] = "";
	if (len < ACP_JOURNAL_HEAD || line[8] != ' ' || line[ACP_JOURNAL_HEAD - 1] != ' ')
		return true;
	memcpy(digits, line, 8);
	if (strspn(digits, "0123456789abcdef") != 8)
		return true;
	announced = strtoull(digits, NULL, 16);
	return len <= ACP_JOURNAL_HEAD + announced;
}

static void expect(const struct acp_buf *file, struct lines *out)
{
	char head[ACP_JOURNAL_HEAD + 1];
	const char *end;
	for (const char *at = file->ptr, *last = file->ptr + file->len; at < last; at = end + 1) {
		end = memchr(at, '\n', (size_t)(last - at));
		size_t len = (size_t)((end ? end : last) - at);
		if (!end) {
			*(is_cut(at, len) ? &out->cut : &out->damaged) += 1;
			return;
		}
		if (len >= ACP_JOURNAL_HEAD)
			head_of(at + ACP_JOURNAL_HEAD, len - ACP_JOURNAL_HEAD, head);
		if (len < ACP_JOURNAL_HEAD || memcmp(at, head, ACP_JOURNAL_HEAD) != 0) {
			out->damaged++;
			continue;
		}
		out->count++;
		acp_buf_add(&out->whole, at + ACP_JOURNAL_HEAD, len - ACP_JOURNAL_HEAD);
		acp_buf_putc(&out->whole, '\0');
	}
}

static void read_lines(const struct acp_buf *file, struct lines *out)
{
	struct acp_journal_reader reader;
	char path[32];
	const char *event;
	size_t len;
	enum acp_journal_line line;
	int fd = fuzz_file(file->ptr, file->len, path);
	acp_journal_reader_init(&reader, fd);
	while ((line = acp_journal_next(&reader, &event, &len)) != ACP_LINE_NONE) {
		FUZZ_CHECK(line != ACP_LINE_FAILED, "cannot be read");
		out->count += line == ACP_LINE_WHOLE;
		out->damaged += line == ACP_LINE_DAMAGED;
		out->cut += line == ACP_LINE_CUT;
		if (line == ACP_LINE_WHOLE) {
			acp_buf_add(&out->whole, event, len);
			acp_buf_putc(&out->whole, '\0');
		}
	}
	acp_journal_reader_release(&reader);
	close(fd);
}

static bool alike(const struct lines *a, const struct lines *b)
{
	return a->count == b->count && a->damaged == b->damaged && a->cut == b->cut && a->whole.len == b->whole.len &&
	       (a->whole.len == 0 || memcmp(a->whole.ptr, b->whole.ptr, a->whole.len) == 0);
}

/* The batch is the text of an array: "[a,b]". Compares its elements with the complete lines. */
static enum acp_code commit(void *arg, const char *events, size_t count)
{
	struct acp_buf *all = arg;
	FUZZ_CHECK(count > 0 && *events == '[' && events[strlen(events) - 1] == ']', "%s", events);
	acp_buf_add(all, events + 1, strlen(events) - 2);
	acp_buf_putc(all, ',');
	return ACP_OK;
}

static void check_replay(const struct acp_buf *file, struct lines *lines)
{
	char name[128], bad[128];
	struct acp_buf all;
	struct acp_journal_counts counts = {0};
	snprintf(name, sizeof name, "%s/1" ACP_JOURNAL_LIVE, fuzz_folder());
	snprintf(bad, sizeof bad, "%s/1" ACP_JOURNAL_BAD, fuzz_folder());
	FILE *out = fopen(name, "w");
	if (!out || fwrite(file->ptr, 1, file->len, out) != file->len || fclose(out) != 0)
		abort();
	acp_buf_init(&all, (size_t)8 << 20);
	enum acp_code code = acp_journal_replay_dir(fuzz_folder(), commit, &all, &counts);
	FUZZ_CHECK(code == ACP_OK, "%s", acp_code_name(code));
	FUZZ_CHECK(counts.events == lines->count && counts.damaged == lines->damaged && counts.torn == lines->cut,
		   "%lld events, %lld damaged, %lld torn", (long long)counts.events, (long long)counts.damaged,
		   (long long)counts.torn);
	FUZZ_CHECK((access(bad, F_OK) == 0) == (lines->damaged > 0), "a damaged file must be kept, others must not");
	FUZZ_CHECK(access(name, F_OK) != 0, "the file is still there");
	for (size_t i = 0; i < lines->whole.len; i++)
		if (lines->whole.ptr[i] == '\0')
			lines->whole.ptr[i] = ',';
	FUZZ_CHECK(all.len == lines->whole.len && (!all.len || memcmp(all.ptr, lines->whole.ptr, all.len) == 0),
		   "%s was committed, not %s", all.ptr, lines->whole.ptr);
	acp_buf_release(&all);
	unlink(bad);
}

void fuzz_journal(const uint8_t *data, size_t size)
{
	struct acp_buf file;
	struct lines wanted = {.count = 0}, found = {.count = 0};
	acp_log_open("text", "error", "/dev/null");
	acp_buf_init(&wanted.whole, (size_t)8 << 20);
	acp_buf_init(&found.whole, (size_t)8 << 20);
	fill_in((const char *)data, size, &file);
	expect(&file, &wanted);
	read_lines(&file, &found);
	FUZZ_CHECK(alike(&wanted, &found), "%lld whole, %lld damaged, %lld cut, not %lld, %lld, %lld",
		   (long long)found.count, (long long)found.damaged, (long long)found.cut, (long long)wanted.count,
		   (long long)wanted.damaged, (long long)wanted.cut);
	/* A NUL ends the text of a batch. The program never writes one, because JSON has none. */
	if (file.len == 0 || !memchr(file.ptr, '\0', file.len))
		check_replay(&file, &wanted);
	acp_buf_release(&file);
	acp_buf_release(&wanted.whole);
	acp_buf_release(&found.whole);
}
