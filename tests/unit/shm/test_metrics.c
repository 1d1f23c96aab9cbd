/* Counters to which many processes add: exact, and never decreasing, even when processes are killed. */
#include "../tmain.h"
#include "metrics.h"

#include <glob.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const endpoints[] = {"/one", "/two", "other", NULL};
static char zone[48];
static char why[256];
static struct acp_buf text;

static struct acp_metrics *join(int workers)
{
	struct acp_metrics *metrics = acp_metrics_open(zone, endpoints, workers, why, sizeof why);
	CU_ASSERT_FATAL(metrics != NULL);
	return metrics;
}

static struct acp_metrics *begin(void)
{
	static unsigned number;
	snprintf(zone, sizeof zone, "unit-%d-%u", (int)getpid(), number++);
	acp_buf_init(&text, 1 << 20);
	return join(4);
}

static void end(struct acp_metrics *metrics)
{
	char pattern[128];
	glob_t found;
	acp_metrics_close(metrics);
	acp_buf_release(&text);
	snprintf(pattern, sizeof pattern, "/dev/shm/acp-fcgi-*-%s", zone);
	if (glob(pattern, 0, NULL, &found) == 0) {
		CU_ASSERT_EQUAL(found.gl_pathc, 1);
		for (size_t i = 0; i < found.gl_pathc; i++)
			unlink(found.gl_pathv[i]);
		globfree(&found);
	}
}

static void serve(struct acp_metrics *metrics, size_t endpoint, enum acp_code code, const char *action, uint64_t us)
{
	const struct acp_served served = {endpoint, acp_code_http(code), code, action, us};
	acp_metrics_begin(metrics);
	acp_metrics_end(metrics, &served);
}

/* The value of a series, or -1 if it does not exist. */
static double value(struct acp_metrics *metrics, const char *series)
{
	char line[256];
	acp_buf_clear(&text);
	acp_metrics_write(metrics, &text);
	snprintf(line, sizeof line, "\n%s ", series);
	const char *at = acp_buf_ok(&text) ? strstr(text.ptr, line) : NULL;
	return at ? strtod(at + strlen(line), NULL) : -1;
}

static void has(struct acp_metrics *metrics, const char *series, double wanted)
{
	char shown[320];
	double found = value(metrics, series);
	snprintf(shown, sizeof shown, "%s is %g, not %g", series, found, wanted);
	CU_assertImplementation(found > wanted - 1e-9 && found < wanted + 1e-9 ? CU_TRUE : CU_FALSE, __LINE__, shown,
				__FILE__, "", CU_FALSE);
}

static void test_what_is_counted(void)
{
	struct acp_metrics *metrics = begin();
	serve(metrics, 0, ACP_OK, "a.b", 900);
	serve(metrics, 0, ACP_IDEMPOTENT_REPLAY, "a.b", 1000);
	serve(metrics, 0, ACP_UPGRADE_REQUIRED, "a.b", 1001);
	serve(metrics, 0, ACP_UNAVAILABLE, "a.c", 20000000);
	serve(metrics, 2, ACP_NOT_FOUND, NULL, 2);
	has(metrics, "acp_requests_total{endpoint=\"/one\",code=\"200\"}", 2);
	has(metrics, "acp_requests_total{endpoint=\"/one\",code=\"402\"}", 1);
	has(metrics, "acp_requests_total{endpoint=\"/one\",code=\"503\"}", 1);
	has(metrics, "acp_requests_total{endpoint=\"/two\",code=\"200\"}", 0);
	has(metrics, "acp_requests_total{endpoint=\"other\",code=\"404\"}", 1);
	has(metrics, "acp_request_duration_seconds_bucket{endpoint=\"/one\",le=\"0.001\"}", 2);
	has(metrics, "acp_request_duration_seconds_bucket{endpoint=\"/one\",le=\"0.0025\"}", 3);
	has(metrics, "acp_request_duration_seconds_bucket{endpoint=\"/one\",le=\"10\"}", 3);
	has(metrics, "acp_request_duration_seconds_bucket{endpoint=\"/one\",le=\"+Inf\"}", 4);
	has(metrics, "acp_request_duration_seconds_count{endpoint=\"/one\"}", 4);
	has(metrics, "acp_request_duration_seconds_sum{endpoint=\"/one\"}", 20.002901);
	has(metrics, "acp_calls_total{action=\"a.b\",status=\"success\"}", 1);
	has(metrics, "acp_calls_total{action=\"a.b\",status=\"replay\"}", 1);
	has(metrics, "acp_calls_total{action=\"a.b\",status=\"denied\"}", 1);
	has(metrics, "acp_calls_total{action=\"a.c\",status=\"error\"}", 1);
	has(metrics, "acp_errors_total{code=\"UPGRADE_REQUIRED\"}", 1);
	has(metrics, "acp_errors_total{code=\"NOT_FOUND\"}", 1);
	has(metrics, "acp_errors_total{code=\"RATE_LIMITED\"}", 0);
	has(metrics, "acp_processes", 1);
	has(metrics, "acp_workers", 4);
	has(metrics, "acp_requests_in_flight", 0);
	CU_ASSERT(value(metrics, "process_resident_memory_bytes") > 1e5);
	CU_ASSERT(value(metrics, "process_start_time_seconds") > 1.7e9);
	end(metrics);
}

/* More actions than slots: every call is still counted, and the number of series does not grow. */
static void test_too_many_actions(void)
{
	char action[200];
	struct acp_metrics *metrics = begin();
	for (int i = 0; i < 400; i++) {
		snprintf(action, sizeof action, "pack.action%d", i);
		serve(metrics, 0, ACP_OK, action, 1);
	}
	memset(action, 'x', sizeof action - 1);
	action[sizeof action - 1] = '\0';
	serve(metrics, 0, ACP_OK, action, 1);
	has(metrics, "acp_calls_total{action=\"other\",status=\"success\"}", 400 - 255 + 1);
	size_t series = 0;
	for (const char *at = text.ptr; (at = strstr(at, "\nacp_calls_total{")); at++)
		series++;
	CU_ASSERT_EQUAL(series, 256 * 4);
	end(metrics);
}

enum { CHILDREN = 8, EACH = 20000 };

static void child_serves(bool killed)
{
	struct acp_metrics *metrics = join(1);
	for (int i = 0; i < EACH; i++)
		serve(metrics, 1, ACP_OK, i % 2 ? "p.even" : "p.odd", 10);
	acp_metrics_begin(metrics);
	if (killed)
		kill(getpid(), SIGKILL);
	acp_metrics_close(metrics);
	_exit(0);
}

/* No call is lost or counted twice, and requests of a killed process do not stay "in flight". */
static void test_many_processes(void)
{
	struct acp_metrics *metrics = begin();
	double before = 0;
	pid_t pids[CHILDREN];
	for (int i = 0; i < CHILDREN; i++) {
		pids[i] = fork();
		if (pids[i] == 0)
			child_serves(i % 2 == 0);
	}
	for (int i = 0; i < CHILDREN; i++) {
		while (waitpid(pids[i], NULL, WNOHANG) == 0) {
			double now = value(metrics, "acp_requests_total{endpoint=\"/two\",code=\"200\"}");
			CU_ASSERT(now >= before);
			before = now;
		}
	}
	double cpu = value(metrics, "process_cpu_seconds_total");
	has(metrics, "acp_requests_total{endpoint=\"/two\",code=\"200\"}", CHILDREN * EACH);
	has(metrics, "acp_calls_total{action=\"p.even\",status=\"success\"}", CHILDREN * EACH / 2);
	has(metrics, "acp_calls_total{action=\"p.odd\",status=\"success\"}", CHILDREN * EACH / 2);
	has(metrics, "acp_requests_in_flight", 0);
	has(metrics, "acp_processes", 1);
	has(metrics, "acp_workers", 4);
	CU_ASSERT(value(metrics, "process_cpu_seconds_total") >= cpu);
	end(metrics);
}

/* The counters survive the end of the last process. */
static void test_numbers_outlive_processes(void)
{
	struct acp_metrics *first = begin();
	serve(first, 0, ACP_OK, NULL, 5);
	acp_metrics_close(first);
	struct acp_metrics *second = join(2);
	has(second, "acp_requests_total{endpoint=\"/one\",code=\"200\"}", 1);
	has(second, "acp_processes", 1);
	has(second, "acp_workers", 2);
	end(second);
}

/* With metrics off, all functions accept NULL. */
static void test_off(void)
{
	const struct acp_served served = {0, 200, ACP_OK, NULL, 1};
	acp_metrics_begin(NULL);
	acp_metrics_end(NULL, &served);
	acp_metrics_close(NULL);
	CU_PASS("no crash");
}

const char *const acp_suite_name = "metrics";
CU_TestInfo acp_tests[] = {{"what is counted", test_what_is_counted},
			   {"too many actions", test_too_many_actions},
			   {"many processes, some killed", test_many_processes},
			   {"numbers outlive processes", test_numbers_outlive_processes},
			   {"off", test_off},
			   CU_TEST_INFO_NULL};
