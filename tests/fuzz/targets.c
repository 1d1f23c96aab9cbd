/* targets.c - the table of targets, and the functions that they share. */
#include "fuzz.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>

const struct fuzz_named fuzz_targets[] = {
#define FUZZ_TARGET(name) {#name, fuzz_##name},
#include "targets.def"
#undef FUZZ_TARGET
	{NULL, NULL},
};

const struct fuzz_named *fuzz_find(const char *name)
{
	for (const struct fuzz_named *target = fuzz_targets; target->name; target++)
		if (strcmp(target->name, name) == 0)
			return target;
	return NULL;
}

void fuzz_fail(const char *file, int line, const char *condition, const char *format, ...)
{
	va_list args;
	fflush(stdout);
	fprintf(stderr, "%s:%d: does not hold: %s: ", file, line, condition);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	abort();
}

static char *take(struct fuzz_input *in, size_t len)
{
	char *text = malloc(len + 1);
	if (!text)
		abort();
	if (len)
		memcpy(text, in->at, len);
	text[len] = '\0';
	in->at += len;
	in->left -= len;
	return text;
}

char *fuzz_part(struct fuzz_input *in, size_t *len)
{
	const uint8_t *end = in->left ? memchr(in->at, 0, in->left) : NULL;
	size_t size = end ? (size_t)(end - in->at) : in->left;
	char *text = take(in, size);
	if (end) {
		in->at++;
		in->left--;
	}
	if (len)
		*len = size;
	return text;
}

char *fuzz_rest(struct fuzz_input *in, size_t *len)
{
	if (len)
		*len = in->left;
	return take(in, in->left);
}

uint8_t fuzz_byte(struct fuzz_input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->at++;
}

int fuzz_file(const void *bytes, size_t len, char path[32])
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	if (fd < 0 || (len && write(fd, bytes, len) != (ssize_t)len) || lseek(fd, 0, SEEK_SET) != 0)
		abort();
	snprintf(path, 32, "/proc/self/fd/%d", fd);
	return fd;
}

static char folder[64];

static void remove_folder(void)
{
	rmdir(folder);
}

const char *fuzz_folder(void)
{
	if (*folder)
		return folder;
	snprintf(folder, sizeof folder, "%s/acp-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	if (!mkdtemp(folder))
		abort();
	atexit(remove_folder);
	return folder;
}

char *fuzz_canonical(struct json_object *value)
{
	struct acp_buf out;
	acp_buf_init(&out, (size_t)64 << 20);
	acp_json_canonical(value, &out);
	FUZZ_CHECK(acp_buf_ok(&out), "a tree has no canonical form");
	char *text = strdup(out.ptr);
	acp_buf_release(&out);
	if (!text)
		abort();
	return text;
}

/* For AddressSanitizer: libfcgi 2.4.2 leaks 48 bytes for some records that no web server sends. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:libfcgi\n";
}
