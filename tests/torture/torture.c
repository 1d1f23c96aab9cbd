/* torture.c - runs each story of stories.c with its n-th call failing, for every n, once with only that call and once
 * with all later ones, too. There must be no crash and no leak, and the outcome must be right or a proper refusal.
 * Afterwards the story must work again.
 *
 * Usage: torture [--kind alloc|io|curl] [--story PART_OF_NAME] [--at N]
 * The last line is "suite torture: P passed, F failed", counting stories times kinds. */
#include "torture.h"

#include "failing.h"
#include "log.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <malloc.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	SHOWN = 12,  /* faults of one story and kind that are shown in full */
	MANY = 3000, /* if a story has more calls than this, only about MOST are made to fail */
	MOST = 200,
};

/* A child's findings, in memory shared with its parent. */
struct findings {
	long nth;     /* the call that currently fails */
	long calls;   /* calls made to fail */
	long right;   /* right outcomes */
	long refused; /* proper refusals */
	long wrong;
	long leaks;
	long library; /* leaks in libraries */
	long ended;   /* the C library ended the program */
	long crashes;
	bool done;
	int depth; /* of a crash */
	void *frames[32];
};
static struct findings *found;

static const char *const kind_names[FAILING_KINDS] = {
	[FAILING_ALLOC] = "alloc",
	[FAILING_IO] = "io",
	[FAILING_CURL] = "curl",
};

static long only_nth;
static long step = 1; /* from one failing call to the next */

/* Showing ---------------------------------------------------------------------------------------------------------- */

/* Appends the frames as functions with their lines, without those of this test and of the C library. */
static void read_frames(void *const *frames, int depth, struct acp_buf *out)
{
	char line[512];
	struct acp_buf command;
	acp_buf_init(&command, 1 << 16);
	acp_buf_printf(&command, "addr2line -fsp -e /proc/%d/exe", (int)getpid());
	for (int i = 0; i < depth; i++)
		acp_buf_printf(&command, " %p", (void *)((char *)frames[i] - 1));
	FILE *lines = popen(command.ptr, "r");
	while (lines && fgets(line, sizeof line, lines))
		if (!strstr(line, "??") && !strstr(line, " at failing.c") && !strstr(line, " at torture.c"))
			acp_buf_printf(out, "        %s", line);
	if (lines)
		pclose(lines);
	acp_buf_release(&command);
}

static void show_frames(const char *what, void *const *frames, int depth)
{
	struct acp_buf text;
	acp_buf_init(&text, 1 << 20);
	read_frames(frames, depth, &text);
	printf("      %s\n%s", what, text.len ? text.ptr : "");
	acp_buf_release(&text);
}

static void show_failed_call(void)
{
	void *frames[32];
	show_frames("the call that failed:", frames, failing_where(frames, ACP_COUNT(frames)));
}

static void show_leaks(void)
{
	static void *frames[8][FAILING_FRAMES];
	int depths[8];
	int count = failing_leaks(frames, depths, 8);
	for (int i = 0; i < count; i++)
		show_frames("never freed:", frames[i], depths[i]);
}

static void on_crash(int signal_number)
{
	failing_disarm();
	found->depth = backtrace(found->frames, ACP_COUNT(found->frames));
	_exit(100 + signal_number);
}

/* One round -------------------------------------------------------------------------------------------------------- */

struct outcome {
	struct acp_buf seen;
	struct acp_buf fault;
	bool refused;
	long calls, failed, live;
};

static void init_outcome(struct outcome *outcome)
{
	*outcome = (struct outcome){.refused = false};
	acp_buf_init(&outcome->seen, 1 << 24);
	acp_buf_init(&outcome->fault, 1 << 20);
}

static void release_outcome(struct outcome *outcome)
{
	acp_buf_release(&outcome->seen);
	acp_buf_release(&outcome->fault);
}

/* nth 0: nothing fails. stacks: records the stacks of allocations. */
static void run_story(const struct story *story, enum failing_kind kind, long nth, bool lasting, bool stacks,
		      struct outcome *outcome)
{
	story->prepare();
	failing_watch(stacks);
	failing_mine(true);
	failing_arm(kind, nth, lasting);
	story->run();
	failing_disarm();
	failing_mine(false);
	outcome->calls = failing->seen;
	outcome->failed = failing->failed;
	outcome->refused = story->look(&outcome->seen, &outcome->fault);
	story->clean();
	outcome->live = failing_live();
}

static bool same(const struct acp_buf *a, const struct acp_buf *b)
{
	return a->len == b->len && (!a->len || memcmp(a->ptr, b->ptr, a->len) == 0);
}

static bool show_this_one(long count)
{
	return only_nth || count <= SHOWN;
}

static void classify_outcome(const struct story *story, const struct outcome *baseline, const struct outcome *outcome)
{
	const char *fault = outcome->fault.len ? outcome->fault.ptr : NULL;
	if (!fault && same(&baseline->seen, &outcome->seen)) {
		found->right++;
		return;
	}
	if (!fault && outcome->refused) {
		found->refused++;
		return;
	}
	found->wrong++;
	if (!show_this_one(found->wrong))
		return;
	printf("FAIL %s: call %ld: %s\n      seen:     %.1500s\n      expected: %.1500s\n", story->name, found->nth,
	       fault ? fault : "neither right nor a proper refusal", outcome->seen.len ? outcome->seen.ptr : "",
	       baseline->seen.len ? baseline->seen.ptr : "");
	show_failed_call();
}

/* When the C library's regcomp() runs out of memory, it leaks or ends the program. Patterns are compiled only at
 * startup, which then fails. json-c leaks a copied name when adding it fails. */
static bool is_within(const char *function, void *const *frames, int depth)
{
	for (int at = 0; at < depth; at++) {
		Dl_info about;
		const char *name = dladdr(frames[at], &about) ? about.dli_sname : NULL;
		if (name && strncmp(name, function, strlen(function)) == 0)
			return true;
	}
	return false;
}

static bool leaks_of_library(void)
{
	static void *frames[8][FAILING_FRAMES];
	int depths[8];
	int count = failing_leaks(frames, depths, 8);
	int theirs = 0;
	for (int i = 0; i < count; i++)
		theirs += is_within("regcomp", frames[i], depths[i]) ||
			  is_within("json_object_object_add", frames[i], depths[i]);
	return count && theirs == count;
}

/* Even when regcomp() does not end the program, it may have corrupted memory for later calls. */
static bool may_have_corrupted_memory(void)
{
	void *frames[32];
	return is_within("regcomp", frames, failing_where(frames, ACP_COUNT(frames)));
}

/* Memory that a library keeps forever is found once; a leak is found every time. */
static void look_for_leak(const struct story *story, enum failing_kind kind, bool lasting)
{
	for (int again = 0; again < 3; again++) {
		struct outcome outcome;
		init_outcome(&outcome);
		run_story(story, kind, found->nth, lasting, again == 2, &outcome);
		long live = outcome.live;
		release_outcome(&outcome);
		if (!live)
			return;
	}
	if (leaks_of_library()) {
		found->library++;
		return;
	}
	if (!show_this_one(++found->leaks))
		return;
	printf("FAIL %s: call %ld: a leak\n", story->name, found->nth);
	show_failed_call();
	show_leaks();
}

/* Runs rounds from found->nth on, until nothing fails in one. */
static void rounds(const struct story *story, enum failing_kind kind, bool lasting, const struct outcome *baseline)
{
	for (;; found->nth += step) {
		struct outcome outcome;
		init_outcome(&outcome);
		run_story(story, kind, found->nth, lasting, false, &outcome);
		bool end = !outcome.failed;
		bool corrupted = !end && may_have_corrupted_memory();
		if (!end)
			classify_outcome(story, baseline, &outcome);
		if (!end && outcome.live)
			look_for_leak(story, kind, lasting);
		release_outcome(&outcome);
		if (corrupted && !only_nth) {
			found->nth += step;
			return; /* another child process continues */
		}
		init_outcome(&outcome);
		run_story(story, FAILING_NOTHING, 0, false, false, &outcome);
		if (!same(&baseline->seen, &outcome.seen) || outcome.fault.len) {
			found->wrong++;
			printf("FAIL %s: call %ld: afterwards the story fails: %s %.900s\n", story->name, found->nth,
			       outcome.fault.len ? outcome.fault.ptr : "", outcome.seen.len ? outcome.seen.ptr : "");
		}
		release_outcome(&outcome);
		if (end || only_nth)
			break;
	}
	found->done = true;
}

/* Stories times kinds ---------------------------------------------------------------------------------------------- */

static void crashed(const struct story *story, int status)
{
	struct acp_buf text;
	acp_buf_init(&text, 1 << 20);
	read_frames(found->frames, found->depth, &text);
	/* See leaks_of_library(). */
	if (text.len && strstr(text.ptr, " compile_regex at schema.c")) {
		found->ended++;
	} else if (show_this_one(++found->crashes)) {
		printf("FAIL %s: call %ld: %s %d\n%s", story->name, found->nth,
		       WIFEXITED(status) ? "crashed, signal" : "ended, status",
		       WIFEXITED(status) ? WEXITSTATUS(status) - 100 : status, text.len ? text.ptr : "");
	}
	acp_buf_release(&text);
	found->depth = 0;
}

static void child(const struct story *story, enum failing_kind kind, bool lasting, const struct outcome *baseline)
{
	static const int fatal[] = {SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL};
	for (size_t i = 0; i < ACP_COUNT(fatal); i++)
		signal(fatal[i], on_crash);
	alarm(300);
	rounds(story, kind, lasting, baseline);
	fflush(stdout);
	_exit(0);
}

static bool torture(const struct story *story, enum failing_kind kind, bool lasting, const struct outcome *baseline)
{
	memset(found, 0, sizeof *found);
	found->nth = only_nth ? only_nth : 1;
	while (!found->done) {
		int status = 0;
		fflush(stdout);
		pid_t pid = fork();
		if (pid == 0)
			child(story, kind, lasting, baseline);
		waitpid(pid, &status, 0);
		if (status != 0) {
			crashed(story, status);
			found->nth += step;
			found->done = found->done || only_nth != 0;
		}
	}
	bool ok = !found->wrong && !found->leaks && !found->crashes;
	found->calls = (found->nth - 1) / step;
	printf("%s %-28s %-5s %-8s %6ld failing calls: %6ld right, %6ld refused, %3ld wrong, %3ld leaks, %3ld crashes; "
	       "%ld ends and %ld leaks of libraries\n",
	       ok ? "ok  " : "FAIL", story->name, kind_names[kind], lasting ? "from n" : "only n", found->calls,
	       found->right, found->refused, found->wrong, found->leaks, found->crashes, found->ended, found->library);
	return ok;
}

/* Runs the story twice without failures, so that one-time allocations exist. Both outcomes must be the same. */
static bool take_baseline(const struct story *story, struct outcome *baseline)
{
	struct outcome warm;
	init_outcome(&warm);
	init_outcome(baseline);
	run_story(story, FAILING_NOTHING, 0, false, false, &warm);
	run_story(story, FAILING_NOTHING, 0, false, true, baseline);
	bool ok = same(&warm.seen, &baseline->seen) && !baseline->refused && !baseline->fault.len && !baseline->live;
	if (!ok)
		printf("FAIL %s: wrong without any failure: %s\n      %.2000s\n      %.2000s\n      %ld blocks not "
		       "freed\n",
		       story->name, baseline->fault.len ? baseline->fault.ptr : "", warm.seen.len ? warm.seen.ptr : "",
		       baseline->seen.len ? baseline->seen.ptr : "", baseline->live);
	if (baseline->live)
		show_leaks();
	release_outcome(&warm);
	return ok;
}

static int passed, failed;

static void torture_story(const struct story *story, const char *wanted_kind)
{
	struct outcome baseline;
	bool good = take_baseline(story, &baseline);
	failed += !good;
	for (int kind = 1; good && kind < FAILING_KINDS; kind++) {
		if (!kind_names[kind] || (*wanted_kind && strcmp(wanted_kind, kind_names[kind]) != 0))
			continue;
		struct outcome counted;
		init_outcome(&counted);
		run_story(story, (enum failing_kind)kind, 0, false, false, &counted);
		long calls = counted.calls;
		step = calls > MANY ? calls / MOST + 1 : 1;
		if (step > 1)
			printf("     %s: %ld calls of kind %s; every %ld-th fails\n", story->name, calls,
			       kind_names[kind], step);
		release_outcome(&counted);
		for (int lasting = 0; calls && lasting < 2; lasting++) {
			if (torture(story, (enum failing_kind)kind, lasting, &baseline))
				passed++;
			else
				failed++;
		}
	}
	release_outcome(&baseline);
}

int main(int argc, char **argv)
{
	const char *kind = "", *wanted = "";
	for (int i = 1; i + 1 < argc; i += 2) {
		kind = strcmp(argv[i], "--kind") == 0 ? argv[i + 1] : kind;
		wanted = strcmp(argv[i], "--story") == 0 ? argv[i + 1] : wanted;
		only_nth = strcmp(argv[i], "--at") == 0 ? strtol(argv[i + 1], NULL, 10) : only_nth;
	}
	void *frames[4];
	setvbuf(stdout, NULL, _IOLBF, 0);
	mallopt(M_PERTURB, 0xa5); /* exposes uses of memory before it is written or after it is freed */
	acp_log_open("text", "error", "/dev/null");
	backtrace(frames, 4); /* loads the libraries that it needs */
	found = mmap(NULL, sizeof *found, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (found == MAP_FAILED)
		return 1;
	for (const struct story *story = stories; story->name; story++)
		if (strstr(story->name, wanted))
			torture_story(story, kind);
	printf("suite torture: %d passed, %d failed\n", passed, failed);
	return failed || !passed ? 1 : 0;
}
