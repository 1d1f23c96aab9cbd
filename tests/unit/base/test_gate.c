#include "../tmain.h"
#include "gate.h"
#include "thread.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

static struct acp_gate gate;
static char order[16]; /* first letters of the names, in the order in which they were let through */
static atomic_int inside, blocked;

static void thread_blocks(void *arg)
{
	(void)arg;
	atomic_fetch_add(&blocked, 1);
}

static void thread_goes_on(void *arg)
{
	(void)arg;
	atomic_fetch_sub(&blocked, 1);
}

static const struct acp_thread_owner owner = {thread_blocks, thread_goes_on, NULL};

static void *pass(void *arg)
{
	const char *name = arg;
	acp_thread_own(&owner);
	acp_gate_enter(&gate, name);
	CU_ASSERT_EQUAL(atomic_fetch_add(&inside, 1), 0);
	order[strlen(order)] = *name;
	atomic_fetch_sub(&inside, 1);
	acp_gate_leave(&gate);
	return NULL;
}

/* Starts threads with these names, one after the other, while the gate is taken by the name "a"; then leaves it. */
static void pass_in_turns(const char *const *names, int count)
{
	const struct timespec pause = {.tv_nsec = 1000000};
	pthread_t threads[16];
	gate = (struct acp_gate)ACP_GATE_INIT;
	memset(order, 0, sizeof order);
	acp_gate_enter(&gate, "a");
	for (int i = 0; i < count; i++) {
		CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, pass, (void *)names[i]), 0);
		while (atomic_load(&blocked) <= i)
			nanosleep(&pause, NULL);
	}
	acp_gate_leave(&gate);
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	CU_ASSERT_EQUAL(atomic_load(&blocked), 0);
}

static void test_turns(void)
{
	static const char *const names[] = {"a", "a", "a", "b", "c", "b"};
	pass_in_turns(names, 6);
	CU_ASSERT_STRING_EQUAL(order, "bacaba");
}

static void test_one_name(void)
{
	static const char *const names[] = {"a", "a", "a"};
	pass_in_turns(names, 3);
	CU_ASSERT_STRING_EQUAL(order, "aaa");
}

static void *pass_often(void *arg)
{
	for (int i = 0; i < 1000; i++) {
		acp_gate_enter(&gate, arg);
		CU_ASSERT_EQUAL(atomic_fetch_add(&inside, 1), 0);
		atomic_fetch_sub(&inside, 1);
		acp_gate_leave(&gate);
	}
	return NULL;
}

static void test_one_at_a_time(void)
{
	static const char *const names[] = {"a", "b", "c", "a"};
	pthread_t threads[4];
	gate = (struct acp_gate)ACP_GATE_INIT;
	for (int i = 0; i < 4; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, pass_often, (void *)names[i]), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	CU_ASSERT_FALSE(gate.taken);
}

static void test_long_names(void)
{
	char name[200];
	memset(name, 'x', sizeof name - 1);
	name[sizeof name - 1] = '\0';
	gate = (struct acp_gate)ACP_GATE_INIT;
	acp_gate_enter(&gate, name);
	CU_ASSERT_EQUAL(strlen(gate.last), ACP_GATE_NAME - 1);
	acp_gate_leave(&gate);
}

const char *const acp_suite_name = "gate";

CU_TestInfo acp_tests[] = {
	{"turns", test_turns},           {"one_name", test_one_name}, {"one_at_a_time", test_one_at_a_time},
	{"long_names", test_long_names}, CU_TEST_INFO_NULL,
};
