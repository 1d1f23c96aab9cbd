/* replay.c - runs the targets over their corpora, without libFuzzer and with any compiler.
 *
 * Usage: replay                    all targets, each over $top_srcdir/tests/fuzz/corpus/TARGET.tar.gz
 *        replay TARGET PATH…       one target over files, folders and archives (*.tar.gz)
 * An archive is read in memory: nothing is unpacked, so the source tree may be read-only.
 * Each target runs in a separate process; its last line is "suite fuzz-TARGET: P passed, F failed". */
#include "fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Shared with the parent process, which reports it even when the target crashes. */
struct progress {
	int passed;
	char path[1024]; /* of the current input; ARCHIVE:NAME for one in an archive */
};
static struct progress *progress;

_Noreturn static void unreadable(const char *path, const char *why)
{
	fprintf(stderr, "%s: %s\n", path, why);
	_exit(1);
}

/* Runs the target on a copy of exactly the input's size, so that a read past the end is detected. */
static void run_input(const struct fuzz_named *target, const char *bytes, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);
	if (!copy)
		unreadable(progress->path, "out of memory");
	memcpy(copy, bytes, size);
	target->run(copy, size);
	free(copy);
	progress->passed++;
}

/* The size limit of a file, and of an unpacked archive. */
enum { MOST = 64 << 20 };

/* Appends the rest of the stream to out. */
static void read_all(FILE *file, struct acp_buf *out)
{
	char part[65536];
	size_t len;
	while ((len = fread(part, 1, sizeof part, file)) > 0)
		acp_buf_add(out, part, len);
	if (ferror(file) || out->failed)
		unreadable(progress->path, "cannot be read completely");
}

static void run_file(const struct fuzz_named *target, const char *path)
{
	struct acp_buf bytes;
	acp_buf_init(&bytes, MOST);
	snprintf(progress->path, sizeof progress->path, "%s", path);
	FILE *file = fopen(path, "rb");
	if (!file)
		unreadable(path, strerror(errno));
	read_all(file, &bytes);
	fclose(file);
	run_input(target, bytes.ptr ? bytes.ptr : "", bytes.len);
	acp_buf_release(&bytes);
}

/* A tar archive is a row of 512-byte blocks: a header for each file, followed by its bytes, padded to whole blocks. */
enum { BLOCK = 512, NAME_LEN = 100, SIZE_AT = 124, SIZE_LEN = 12, TYPE_AT = 156 };

static void run_entries(const struct fuzz_named *target, const char *path, const char *tar, size_t len)
{
	size_t at = 0;
	while (at + BLOCK <= len && tar[at]) {
		const char *header = tar + at;
		char digits[SIZE_LEN + 1] = "";
		memcpy(digits, header + SIZE_AT, SIZE_LEN);
		size_t size = strtoul(digits, NULL, 8);
		at += BLOCK;
		if (header[TYPE_AT] != '0' || size > len - at)
			unreadable(path, "has an entry that is not a file, or is cut off");
		snprintf(progress->path, sizeof progress->path, "%s:%.*s", path, NAME_LEN, header);
		run_input(target, tar + at, size);
		at += (size + BLOCK - 1) / BLOCK * BLOCK;
	}
}

/* gzip checks the archive's length and checksum. It gets the path through the environment, which needs no quoting. */
static void run_archive(const struct fuzz_named *target, const char *path)
{
	struct acp_buf tar;
	acp_buf_init(&tar, MOST);
	snprintf(progress->path, sizeof progress->path, "%s", path);
	setenv("ACP_FUZZ_ARCHIVE", path, 1);
	FILE *pipe = popen("exec gzip -dc -- \"$ACP_FUZZ_ARCHIVE\"", "r");
	if (!pipe)
		unreadable(path, strerror(errno));
	read_all(pipe, &tar);
	if (pclose(pipe) != 0)
		unreadable(path, "gzip cannot unpack it");
	run_entries(target, path, tar.ptr ? tar.ptr : "", tar.len);
	acp_buf_release(&tar);
}

static int is_file(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static void run_folder(const struct fuzz_named *target, const char *path)
{
	struct dirent **names = NULL;
	char below[1024];
	int count = scandir(path, &names, is_file, alphasort);
	if (count < 0)
		unreadable(path, strerror(errno));
	for (int i = 0; i < count; i++) {
		snprintf(below, sizeof below, "%s/%s", path, names[i]->d_name);
		run_file(target, below);
		free(names[i]);
	}
	free(names);
}

static void run_path(const struct fuzz_named *target, const char *path)
{
	static const char suffix[] = ".tar.gz";
	struct stat status;
	size_t len = strlen(path);
	if (stat(path, &status) == 0 && S_ISDIR(status.st_mode))
		run_folder(target, path);
	else if (len >= sizeof suffix && strcmp(path + len - (sizeof suffix - 1), suffix) == 0)
		run_archive(target, path);
	else
		run_file(target, path);
}

/* paths: terminated by NULL. A corpus without files is a failure, not a success. */
static bool run_target(const struct fuzz_named *target, char **paths)
{
	int status = 0;
	*progress = (struct progress){0};
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		while (*paths)
			run_path(target, *paths++);
		*progress->path = '\0';
		exit(0); /* leaks are checked here */
	}
	bool ok = child > 0 && waitpid(child, &status, 0) == child && status == 0 && progress->passed > 0;
	if (!ok)
		printf("FAIL fuzz-%s: %s%s\n", target->name,
		       progress->passed || *progress->path ? "the current input was " : "there is no input",
		       *progress->path    ? progress->path
		       : progress->passed ? "none: see above"
					  : "");
	printf("suite fuzz-%s: %d passed, %d failed\n", target->name, progress->passed, ok ? 0 : 1);
	return ok;
}

static bool run_all(void)
{
	char path[1024];
	char *paths[] = {path, NULL};
	const char *top = getenv("top_srcdir");
	bool ok = true;
	for (const struct fuzz_named *target = fuzz_targets; target->name; target++) {
		snprintf(path, sizeof path, "%s/tests/fuzz/corpus/%s.tar.gz", top ? top : ".", target->name);
		ok = run_target(target, paths) && ok;
	}
	return ok;
}

int main(int argc, char **argv)
{
	progress = mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (progress == MAP_FAILED)
		return 1;
	if (argc == 1)
		return run_all() ? 0 : 1;
	const struct fuzz_named *target = fuzz_find(argv[1]);
	if (target && argc > 2)
		return run_target(target, argv + 2) ? 0 : 1;
	fprintf(stderr, "Usage: %s [TARGET PATH…]; the targets:", argv[0]);
	for (target = fuzz_targets; target->name; target++)
		fprintf(stderr, " %s", target->name);
	fputc('\n', stderr);
	return 64;
}
