#include "../tmain.h"
#include "moment.h"

static void moment_is(const char *text, const char *utc)
{
	char out[ACP_MOMENT_MAX] = "unchanged";
	bool ok = acp_moment_utc(text, out);
	const char *wanted = utc ? utc : "unchanged";
	if (ok != (utc != NULL) || strcmp(out, wanted) != 0)
		printf("%s: %s instead of %s\n", text, out, wanted);
	CU_ASSERT_EQUAL(ok, utc != NULL);
	CU_ASSERT_STRING_EQUAL(out, wanted);
}

static void test_dates(void)
{
	moment_is("2026-12-01", "2026-12-01T00:00:00Z");
	moment_is("2028-02-29", "2028-02-29T00:00:00Z");
	moment_is("1970-01-01", "1970-01-01T00:00:00Z");
	moment_is("9999-12-31", "9999-12-31T00:00:00Z");
}

static void test_times(void)
{
	moment_is("2026-12-01T08:30:00Z", "2026-12-01T08:30:00Z");
	moment_is("2026-12-01t08:30:00z", "2026-12-01T08:30:00Z");
	moment_is("2026-12-01T00:00:00+14:00", "2026-11-30T10:00:00Z");
	moment_is("2026-11-30T19:30:00-05:30", "2026-12-01T01:00:00Z");
	moment_is("2026-12-01T00:00:00.5Z", "2026-12-01T00:00:00.500000Z");
	moment_is("2026-12-01T00:00:00.000001+00:00", "2026-12-01T00:00:00.000001Z");
	moment_is("2026-12-01T00:00:00.000Z", "2026-12-01T00:00:00Z");
	moment_is("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z");
}

static void test_refused(void)
{
	static const char *const bad[] = {
		"",
		"infinity",
		"-infinity",
		"now",
		"tomorrow",
		"epoch",
		"01.02.2027",
		"02/01/2027",
		"20261201",
		"2026-12",
		"2026-13-01",
		"2026-00-10",
		"2026-02-29",
		"2100-02-29",
		"2026-04-31",
		"2026-12-1",
		" 2026-12-01",
		"2026-12-01 ",
		"2026-12-01 08:30:00Z",
		"2026-12-01T08:30:00",
		"2026-12-01T08:30Z",
		"2026-12-01T24:00:00Z",
		"2026-12-01T08:60:00Z",
		"2026-12-31T23:59:60Z",
		"2026-12-01T08:30:00.Z",
		"2026-12-01T08:30:00.1234567Z",
		"2026-12-01T08:30:00+1:00",
		"2026-12-01T08:30:00+0100",
		"2026-12-01T08:30:00+24:00",
		"2026-12-01T08:30:00 Europe/Berlin",
		"2026-12-01T08:30:00ZZ",
		"2026-12-01 BC",
		"1969-12-31",
		"1970-01-01T00:30:00+01:00",
		"9999-12-31T23:59:59-00:01",
		"10000-01-01",
		"0000-01-01",
	};
	for (size_t i = 0; i < ACP_COUNT(bad); i++)
		moment_is(bad[i], NULL);
}

const char *const acp_suite_name = "moment";

CU_TestInfo acp_tests[] = {
	{"dates", test_dates},
	{"times", test_times},
	{"refused", test_refused},
	CU_TEST_INFO_NULL,
};
