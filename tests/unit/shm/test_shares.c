#include "../tmain.h"
#include "shares.h"

#include <glob.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char zone[48];
static char why[256];

static struct acp_shares *open_shares(void)
{
	struct acp_shares *shares = acp_shares_open(zone, why, sizeof why);
	CU_ASSERT_FATAL(shares != NULL);
	return shares;
}

static struct acp_shares *begin(void)
{
	static unsigned number;
	snprintf(zone, sizeof zone, "unit-%d-%u", (int)getpid(), number++);
	return open_shares();
}

/* The table outlives processes, so the test must remove it. */
static void end(struct acp_shares *shares)
{
	char pattern[128];
	glob_t found;
	acp_shares_close(shares);
	snprintf(pattern, sizeof pattern, "/dev/shm/acp-fcgi-*-%s", zone);
	if (glob(pattern, 0, NULL, &found) == 0) {
		for (size_t i = 0; i < found.gl_pathc; i++)
			unlink(found.gl_pathv[i]);
		globfree(&found);
	}
}

/* Takes as many places as there are, at most 100. */
static int take_all(struct acp_shares *shares, const char *name, int64_t most, struct acp_share held[100])
{
	int count = 0;
	while (count < 100 && acp_shares_acquire(shares, name, most, &held[count]))
		count++;
	return count;
}

static void test_limit(void)
{
	struct acp_shares *shares = begin();
	struct acp_share held[100], other;
	CU_ASSERT_EQUAL(take_all(shares, "a", 3, held), 3);
	CU_ASSERT_TRUE(acp_shares_acquire(shares, "b", 1, &other));
	acp_shares_release(shares, &held[0]);
	acp_shares_release(shares, &held[0]); /* holds nothing any more */
	CU_ASSERT_TRUE(acp_shares_acquire(shares, "a", 3, &held[0]));
	CU_ASSERT_FALSE(acp_shares_acquire(shares, "a", 3, &other));
	CU_ASSERT_FALSE(other.held);
	end(shares);
}

/* A slot is used again only when its name holds nothing. More names than slots are granted uncounted. */
static void test_many_names(void)
{
	enum { NAMES = 6000 };
	static struct acp_share held[NAMES];
	char name[32];
	int counted = 0;
	struct acp_shares *shares = begin();
	for (int i = 0; i < NAMES; i++) {
		snprintf(name, sizeof name, "name %d", i);
		CU_ASSERT_TRUE(acp_shares_acquire(shares, name, 1, &held[i]));
		counted += held[i].held;
	}
	CU_ASSERT(counted > 3000 && counted <= 4096);
	for (int i = 0; i < NAMES; i++)
		acp_shares_release(shares, &held[i]);
	for (int i = 0; i < 100; i++) {
		struct acp_share again;
		snprintf(name, sizeof name, "new %d", i);
		CU_ASSERT_TRUE(acp_shares_acquire(shares, name, 1, &again) && again.held);
	}
	end(shares);
}

/* Starts a process that takes all places of "a" and then sleeps. */
static pid_t start_holder(int expected)
{
	int ready[2];
	char byte = 0;
	CU_ASSERT_FATAL(pipe(ready) == 0);
	pid_t child = fork();
	if (child == 0) {
		struct acp_share held[100];
		struct acp_shares *shares = acp_shares_open(zone, why, sizeof why);
		byte = shares ? (char)take_all(shares, "a", 5, held) : -1;
		if (write(ready[1], &byte, 1) != 1)
			_exit(1);
		sleep(60);
		_exit(0);
	}
	CU_ASSERT_FATAL(read(ready[0], &byte, 1) == 1);
	CU_ASSERT_EQUAL(byte, expected);
	close(ready[0]);
	close(ready[1]);
	return child;
}

/* Places of other processes count, and those of a killed process are given back. */
static void test_killed_process(void)
{
	const struct timespec pause = {.tv_nsec = 110 * 1000000L};
	struct acp_share held[100], one;
	struct acp_shares *shares = begin();
	CU_ASSERT_TRUE(acp_shares_acquire(shares, "a", 5, &one));
	pid_t child = start_holder(4);
	CU_ASSERT_EQUAL(take_all(shares, "a", 5, held), 0);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	nanosleep(&pause, NULL);
	CU_ASSERT_EQUAL(take_all(shares, "a", 5, held), 4);
	end(shares);
}

/* A process that closes its table gives everything back. */
static void test_closed(void)
{
	struct acp_share held[100];
	struct acp_shares *shares = begin();
	CU_ASSERT_EQUAL(take_all(shares, "a", 5, held), 5);
	acp_shares_close(shares);
	shares = open_shares();
	CU_ASSERT_EQUAL(take_all(shares, "a", 5, held), 5);
	end(shares);
}

struct crowd {
	struct acp_shares *shares;
	int inside, most;
	pthread_mutex_t lock;
};

static void *enter_often(void *arg)
{
	struct crowd *crowd = arg;
	for (int i = 0; i < 20000; i++) {
		struct acp_share place;
		if (!acp_shares_acquire(crowd->shares, "a", 3, &place))
			continue;
		pthread_mutex_lock(&crowd->lock);
		crowd->inside++;
		crowd->most = crowd->inside > crowd->most ? crowd->inside : crowd->most;
		pthread_mutex_unlock(&crowd->lock);
		pthread_mutex_lock(&crowd->lock);
		crowd->inside--;
		pthread_mutex_unlock(&crowd->lock);
		acp_shares_release(crowd->shares, &place);
	}
	return NULL;
}

static void test_threads(void)
{
	pthread_t threads[8];
	struct acp_share held[100];
	struct crowd crowd = {.shares = begin(), .lock = PTHREAD_MUTEX_INITIALIZER};
	for (size_t i = 0; i < ACP_COUNT(threads); i++)
		pthread_create(&threads[i], NULL, enter_often, &crowd);
	for (size_t i = 0; i < ACP_COUNT(threads); i++)
		pthread_join(threads[i], NULL);
	CU_ASSERT(crowd.most >= 1 && crowd.most <= 3);
	CU_ASSERT_EQUAL(take_all(crowd.shares, "a", 3, held), 3);
	end(crowd.shares);
}

const char *const acp_suite_name = "shares";
CU_TestInfo acp_tests[] = {
	{"limit", test_limit},   {"many_names", test_many_names}, {"killed_process", test_killed_process},
	{"closed", test_closed}, {"threads", test_threads},       CU_TEST_INFO_NULL};
