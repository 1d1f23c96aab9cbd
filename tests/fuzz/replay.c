/* replay.c - runs the targets over their corpora, without libFuzzer and with any compiler.
 *
 * Usage: replay                    all targets, each over $top_srcdir/tests/fuzz/corpus/TARGET
 *        replay TARGET PATH…       one target over files and folders
 * Each target runs in its own process; its last line is "suite fuzz-TARGET: P passed, F failed". */
#include "fuzz.h"

#include <dirent.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* The progress that a target's process reports to its parent, even when it dies. */
struct progress {
	int passed;
	char path[1024]; /* of the current file */
};
static struct progress *progress;

static void run_file(const struct fuzz_named *target, const char *path)
{
	struct stat status;
	FILE *file = fopen(path, "rb");
	snprintf(progress->path, sizeof progress->path, "%s", path);
	if (!file || fstat(fileno(file), &status) != 0) {
		perror(path);
		_exit(1);
	}
	size_t size = (size_t)status.st_size;
	uint8_t *bytes = malloc(size ? size : 1); /* of exactly its size, so that a read past the end is detected */
	if (!bytes || fread(bytes, 1, size, file) != size) {
		fprintf(stderr, "%s: cannot be read whole\n", path);
		_exit(1);
	}
	fclose(file);
	target->run(bytes, size);
	free(bytes);
	progress->passed++;
}

static int is_file(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static void run_path(const struct fuzz_named *target, const char *path)
{
	struct dirent **names = NULL;
	struct stat status;
	char below[1024];
	if (stat(path, &status) == 0 && !S_ISDIR(status.st_mode)) {
		run_file(target, path);
		return;
	}
	int count = scandir(path, &names, is_file, alphasort);
	if (count < 0)
		perror(path);
	for (int i = 0; i < count; i++) {
		snprintf(below, sizeof below, "%s/%s", path, names[i]->d_name);
		run_file(target, below);
		free(names[i]);
	}
	free(names);
}

/* paths: terminated by NULL. A corpus without files is a failure: it must not look like one that passed. */
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
		       progress->passed || *progress->path ? "the input at hand was " : "there is no input",
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
		snprintf(path, sizeof path, "%s/tests/fuzz/corpus/%s", top ? top : ".", target->name);
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
