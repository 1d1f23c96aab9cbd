#include "tmain.h"

#include <CUnit/TestRun.h>

#define EXIT_NO_TEST 99

static void print_failures(const char *test)
{
	for (const CU_FailureRecord *f = CU_get_failure_list(); f; f = f->pNext) {
		const char *file = f->strFileName ? f->strFileName : "?";
		const char *condition = f->strCondition ? f->strCondition : "?";
		printf("%s:%u: %s: %s\n", file, f->uiLineNumber, test, condition);
	}
}

/* Adds and runs one test. True when none of its assertions failed. */
static bool run(CU_pSuite suite, const CU_TestInfo *info)
{
	CU_pTest test = CU_add_test(suite, info->pName, info->pTestFunc);
	if (!test || CU_run_test(suite, test) != CUE_SUCCESS) {
		printf("%s: %s\n", info->pName, CU_get_error_msg());
		return false;
	}
	print_failures(info->pName);
	return CU_get_number_of_failures() == 0;
}

int main(int argc, char **argv)
{
	const char *wanted = argc > 1 ? argv[1] : "";
	unsigned passed = 0;
	unsigned failed = 0;

	setvbuf(stdout, NULL, _IOLBF, 0); /* so that a crash does not lose earlier lines */
	if (CU_initialize_registry() != CUE_SUCCESS)
		return EXIT_NO_TEST;
	CU_pSuite suite = CU_add_suite(acp_suite_name, NULL, NULL);
	for (const CU_TestInfo *info = acp_tests; suite && info->pName; info++) {
		if (!strstr(info->pName, wanted))
			continue;
		if (run(suite, info))
			passed++;
		else
			failed++;
	}
	CU_cleanup_registry();
	printf("suite %s: %u passed, %u failed\n", acp_suite_name, passed, failed);
	if (!passed && !failed)
		return EXIT_NO_TEST;
	return failed ? 1 : 0;
}
