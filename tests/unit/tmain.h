/* tmain.h - the interface between a unit test program and the main function that all of them share (tmain.c).
 *
 * Usage: test_x [part of a test's name]. Prints each failed assertion; the last line is "suite NAME: P passed, F
 * failed", counting tests. Exit status: 0 all passed, 1 some failed, 99 no test ran. */
#ifndef ACP_TESTS_TMAIN_H
#define ACP_TESTS_TMAIN_H

#include "attr.h"

#include <CUnit/CUnit.h>
#include <CUnit/TestDB.h>

extern const char *const acp_suite_name;
extern CU_TestInfo acp_tests[]; /* ends with CU_TEST_INFO_NULL */

#endif
