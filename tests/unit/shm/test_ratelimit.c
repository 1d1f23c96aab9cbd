#include "../tmain.h"
#include "ratelimit.h"

#include <glob.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECOND UINT64_C(1000000)

static char zone[48];
static char why[256];

static struct acp_ratelimit *begin(void)
{
	static unsigned number;
	snprintf(zone, sizeof zone, "unit-%d-%u", (int)getpid(), number++);
	struct acp_ratelimit *table = acp_ratelimit_open(zone, why, sizeof why);
	CU_ASSERT_FATAL(table != NULL);
	return table;
}

/* The table outlives processes, so the test must remove it. */
static void end(struct acp_ratelimit *table)
{
	char pattern[128];
	glob_t found;
	acp_ratelimit_close(table);
	snprintf(pattern, sizeof pattern, "/dev/shm/acp-fcgi-*-%s", zone);
	if (glob(pattern, 0, NULL, &found) == 0) {
		for (size_t i = 0; i < found.gl_pathc; i++)
			unlink(found.gl_pathv[i]);
		globfree(&found);
	}
}

static struct acp_rate take(struct acp_ratelimit *table, int64_t limit, uint64_t now)
{
	struct acp_rate rate;
	acp_ratelimit_acquire(table, "name", limit, 60, now, &rate);
	return rate;
}

/* An event succeeds after the wait that reset announces, and never before the window has moved on. */
static void test_window(void)
{
	struct acp_ratelimit *table = begin();
	uint64_t start = 1000 * SECOND + 250000;
	for (int i = 0; i < 5; i++) {
		struct acp_rate rate = take(table, 5, start + (uint64_t)i * SECOND);
		CU_ASSERT_TRUE(rate.allowed);
		CU_ASSERT_EQUAL(rate.remaining, 4 - i);
	}
	struct acp_rate refused = take(table, 5, start + 5 * SECOND);
	CU_ASSERT_FALSE(refused.allowed);
	CU_ASSERT_EQUAL(refused.remaining, 0);
	CU_ASSERT_EQUAL(refused.limit, 5);
	CU_ASSERT_EQUAL(refused.window, 60);
	CU_ASSERT(refused.reset >= 55 && refused.reset <= 56);
	CU_ASSERT_FALSE(take(table, 5, start + 59 * SECOND).allowed);
	CU_ASSERT_TRUE(take(table, 5, start + (5 + (uint64_t)refused.reset) * SECOND).allowed);
	CU_ASSERT_FALSE(take(table, 5, start + (5 + (uint64_t)refused.reset) * SECOND).allowed);
	end(table);
}

/* At random times: no 60 seconds ever contain more events than the limit, and capacity returns at most one span
 * late. */
static void test_never_more(void)
{
	enum { EVENTS = 4000, LIMIT = 7 };
	static uint64_t allowed[EVENTS];
	size_t count = 0;
	unsigned seed = 12345;
	uint64_t now = 5000 * SECOND;
	struct acp_ratelimit *table = begin();
	for (int i = 0; i < EVENTS; i++) {
		now += (uint64_t)rand_r(&seed) % (12 * SECOND);
		bool free_place = count < LIMIT || allowed[count - LIMIT] + 61 * SECOND <= now;
		struct acp_rate rate = take(table, LIMIT, now);
		if (free_place)
			CU_ASSERT_TRUE(rate.allowed);
		if (rate.allowed)
			allowed[count++] = now;
		if (rate.allowed && count > LIMIT)
			CU_ASSERT(now - allowed[count - 1 - LIMIT] >= 60 * SECOND);
	}
	CU_ASSERT(count > EVENTS / 3);
	end(table);
}

static void test_give_back(void)
{
	struct acp_ratelimit *table = begin();
	uint64_t now = 77 * SECOND;
	CU_ASSERT_TRUE(take(table, 1, now).allowed);
	CU_ASSERT_FALSE(take(table, 1, now).allowed);
	acp_ratelimit_release(table, "name", 60, now);
	CU_ASSERT_TRUE(take(table, 1, now + 30 * SECOND).allowed);
	acp_ratelimit_release(table, "never taken", 60, now);
	CU_ASSERT_FALSE(take(table, 1, now + 31 * SECOND).allowed);
	end(table);
}

static void test_names_are_apart(void)
{
	struct acp_rate rate;
	struct acp_ratelimit *table = begin();
	for (int i = 0; i < 500; i++) {
		char name[32];
		snprintf(name, sizeof name, "name %d", i);
		acp_ratelimit_acquire(table, name, 1, 60, SECOND, &rate);
		CU_ASSERT_TRUE(rate.allowed);
		acp_ratelimit_acquire(table, name, 1, 60, SECOND, &rate);
		CU_ASSERT_FALSE(rate.allowed);
		acp_ratelimit_acquire(table, name, 1, 3600, SECOND, &rate);
		CU_ASSERT_TRUE(rate.allowed); /* another window is another limit */
	}
	end(table);
}

/* Makes a hundred events in a separate process; its exit status is the number of allowed ones. */
static pid_t take_hundred(const char *name)
{
	pid_t pid = fork();
	if (pid != 0)
		return pid;
	int got = 0;
	struct acp_ratelimit *table = acp_ratelimit_open(zone, why, sizeof why);
	for (int i = 0; table && i < 100; i++) {
		struct acp_rate rate;
		acp_ratelimit_acquire(table, name, 150, 60, 9 * SECOND, &rate);
		got += rate.allowed;
	}
	_exit(got);
}

static void test_processes_share(void)
{
	int total = 0;
	pid_t pids[4];
	struct acp_ratelimit *table = begin();
	for (size_t i = 0; i < ACP_COUNT(pids); i++)
		pids[i] = take_hundred("shared");
	for (size_t i = 0; i < ACP_COUNT(pids); i++) {
		int status = 0;
		CU_ASSERT_EQUAL(waitpid(pids[i], &status, 0), pids[i]);
		total += WEXITSTATUS(status);
	}
	CU_ASSERT_EQUAL(total, 150);
	end(table);
}

const char *const acp_suite_name = "ratelimit";
CU_TestInfo acp_tests[] = {{"window", test_window},
			   {"never_more", test_never_more},
			   {"give_back", test_give_back},
			   {"names_are_apart", test_names_are_apart},
			   {"processes_share", test_processes_share},
			   CU_TEST_INFO_NULL};
