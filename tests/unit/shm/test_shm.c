/* Opening shared memory (core/shm/shm.c): all pages are allocated, it is prepared once, and failures are explained. */
#include "../tmain.h"
#include "shm.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIZE = 300 * 1000 };

static char name[48], path[96];
static char why[256];
static int prepared;

static void begin(void)
{
	static unsigned number;
	snprintf(name, sizeof name, "unit-shm-%d-%u", (int)getpid(), number++);
	snprintf(path, sizeof path, "/dev/shm/acp-fcgi-%u-%s", (unsigned)geteuid(), name);
	prepared = 0;
	*why = '\0';
}

static void end(void)
{
	unlink(path);
}

/* The first byte marks the memory as prepared. */
static bool prepare(void *memory)
{
	char *bytes = memory;
	prepared += !bytes[0];
	bytes[0] = 1;
	return true;
}

static bool refuse(void *memory)
{
	(void)memory;
	errno = EAGAIN;
	return false;
}

static void test_allocated(void)
{
	struct stat status = {0};
	begin();
	char *memory = acp_shm_open(name, "tests", SIZE, prepare, why, sizeof why);
	CU_ASSERT_PTR_NOT_NULL_FATAL(memory);
	CU_ASSERT_EQUAL(stat(path, &status), 0);
	CU_ASSERT_EQUAL(status.st_size, SIZE);
	CU_ASSERT_TRUE(status.st_blocks * 512 >= SIZE); /* all pages are allocated, so no write can fail */
	CU_ASSERT_EQUAL(status.st_mode & 0777, 0600);
	CU_ASSERT_EQUAL(memory[1], 0);
	CU_ASSERT_EQUAL(memory[SIZE - 1], 0);
	acp_shm_close(memory, SIZE);
	end();
}

/* A file of the right size without pages, as left by an earlier version, gets its pages allocated. */
static void test_holes_are_filled(void)
{
	struct stat status = {0};
	begin();
	FILE *file = fopen(path, "w");
	CU_ASSERT_PTR_NOT_NULL_FATAL(file);
	CU_ASSERT_EQUAL(ftruncate(fileno(file), SIZE), 0);
	fclose(file);
	void *memory = acp_shm_open(name, "tests", SIZE, NULL, why, sizeof why);
	CU_ASSERT_PTR_NOT_NULL_FATAL(memory);
	CU_ASSERT_EQUAL(stat(path, &status), 0);
	CU_ASSERT_TRUE(status.st_blocks * 512 >= SIZE);
	acp_shm_close(memory, SIZE);
	end();
}

static void test_prepared_once(void)
{
	begin();
	char *first = acp_shm_open(name, "tests", SIZE, prepare, why, sizeof why);
	char *second = acp_shm_open(name, "tests", SIZE, prepare, why, sizeof why);
	CU_ASSERT_TRUE_FATAL(first && second);
	CU_ASSERT_EQUAL(prepared, 1);
	first[SIZE - 1] = 7;
	CU_ASSERT_EQUAL(second[SIZE - 1], 7);
	acp_shm_close(first, SIZE);
	acp_shm_close(second, SIZE);
	second = acp_shm_open(name, "tests", SIZE, prepare, why, sizeof why);
	CU_ASSERT_PTR_NOT_NULL_FATAL(second);
	CU_ASSERT_EQUAL(second[SIZE - 1], 7); /* the memory survives the processes that had it open */
	acp_shm_close(second, SIZE);
	end();
}

static void test_prepare_fails(void)
{
	begin();
	CU_ASSERT_PTR_NULL(acp_shm_open(name, "tests", SIZE, refuse, why, sizeof why));
	CU_ASSERT_PTR_NOT_NULL(strstr(why, strerror(EAGAIN)));
	void *memory = acp_shm_open(name, "tests", SIZE, prepare, why, sizeof why); /* the lock is free again */
	CU_ASSERT_PTR_NOT_NULL_FATAL(memory);
	acp_shm_close(memory, SIZE);
	end();
}

/* One page more than the whole file system. Without a size limit there is always room. */
static void test_no_room(void)
{
	struct statvfs disk;
	begin();
	CU_ASSERT_EQUAL_FATAL(statvfs("/dev/shm", &disk), 0);
	if (disk.f_blocks) {
		size_t size = (size_t)disk.f_blocks * disk.f_frsize + 4096;
		CU_ASSERT_PTR_NULL(acp_shm_open(name, "tests", size, prepare, why, sizeof why));
		CU_ASSERT_PTR_NOT_NULL(strstr(why, name));
		CU_ASSERT_PTR_NOT_NULL(strstr(why, " for tests: /dev/shm has no room for "));
	}
	CU_ASSERT_EQUAL(prepared, 0);
	end();
}

/* The file size limit that a service manager may set. Tested in a child process, because it cannot be raised again. */
static void test_size_limit(void)
{
	int status = 0;
	begin();
	pid_t pid = fork();
	if (pid == 0) {
		const struct rlimit limit = {SIZE / 2, SIZE / 2};
		signal(SIGXFSZ, SIG_IGN);
		bool refused = setrlimit(RLIMIT_FSIZE, &limit) == 0 &&
			       !acp_shm_open(name, "tests", SIZE, prepare, why, sizeof why) &&
			       strstr(why, strerror(EFBIG)) && !prepared;
		_exit(refused ? 0 : 1);
	}
	CU_ASSERT_EQUAL(waitpid(pid, &status, 0), pid);
	CU_ASSERT_EQUAL(status, 0);
	end();
}

const char *const acp_suite_name = "shm";
CU_TestInfo acp_tests[] = {{"allocated", test_allocated},
			   {"holes_are_filled", test_holes_are_filled},
			   {"prepared_once", test_prepared_once},
			   {"prepare_fails", test_prepare_fails},
			   {"no_room", test_no_room},
			   {"size_limit", test_size_limit},
			   CU_TEST_INFO_NULL};
