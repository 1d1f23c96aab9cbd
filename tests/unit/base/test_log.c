#include "../tmain.h"
#include "buf.h"
#include "log.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[] = "/tmp/acp-test-log-XXXXXX";
static char text[65536];

/* Logs the fields and returns the written line. */
static const char *logged(const char *format, const struct acp_log_field *fields, size_t count)
{
	int fd = mkstemp(path);
	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_FATAL(acp_log_open(format, "info", path));
	acp_log_fields(ACP_LOG_INFO, fields, count);
	ssize_t len = read(fd, text, sizeof text - 1);
	CU_ASSERT_FATAL(len >= 0);
	text[len] = '\0';
	close(fd);
	unlink(path);
	memcpy(path + strlen(path) - 6, "XXXXXX", 6);
	CU_ASSERT_TRUE(acp_log_open("text", "error", ""));
	return text;
}

static const char *logged_value(const char *format, const char *value)
{
	const struct acp_log_field field = {"v", value, false};
	return logged(format, &field, 1);
}

/* One line, in UTF-8, without terminal controls. */
static void expect_harmless(const char *line, const char *value)
{
	size_t len = strlen(line);
	bool good = len > 0 && strchr(line, '\n') == line + len - 1;
	for (size_t i = 0; good && i + 1 < len;) {
		const unsigned char *c = (const unsigned char *)line + i;
		size_t step = acp_utf8_length(c, len - i);
		good = step && *c >= ' ' && *c != 0x7f && !(step == 2 && c[0] == 0xc2 && c[1] < 0xa0);
		i += step;
	}
	CU_assertImplementation(good, __LINE__, value, __FILE__, "", CU_FALSE);
}

static void test_every_byte(void)
{
	for (int c = 1; c < 256; c++) {
		const char value[] = {'a', (char)c, 'b', '\0'};
		expect_harmless(logged_value("text", value), value);
		expect_harmless(logged_value("json", value), value);
	}
}

static void test_forged_lines(void)
{
	static const char *const values[] = {
		"a\n2026-11-22T00:00:00.000Z info [1] forged=1",
		"a\r\nb",
		"x y=z",
		"x=y",
		"\"",
		"\\",
		"\x1b[2J\x1b]0;title\x07",
		"\302\2332J", /* CSI as a single Unicode character */
		"\xff\xfe",
		"\xed\xa0\x80",
		"\xc3",
		"",
	};
	for (size_t i = 0; i < ACP_COUNT(values); i++) {
		const char *line = logged_value("text", values[i]);
		expect_harmless(line, values[i]);
		CU_ASSERT_PTR_NOT_NULL(strstr(line, " v=\""));
		line = logged_value("json", values[i]);
		expect_harmless(line, values[i]);
		struct json_object *parsed = json_tokener_parse(line);
		CU_ASSERT_TRUE(json_object_is_type(parsed, json_type_object));
		CU_ASSERT_EQUAL(json_object_object_length(parsed), 4); /* ts, level, pid, v */
		json_object_put(parsed);
	}
}

static void test_plain_values_stand_bare(void)
{
	CU_ASSERT_PTR_NOT_NULL(strstr(logged_value("text", "/api/manage"), " v=/api/manage\n"));
	CU_ASSERT_PTR_NOT_NULL(strstr(logged_value("text", "sch\xc3\xb6n"), " v=\"sch\xc3\xb6n\"\n"));
	CU_ASSERT_PTR_NOT_NULL(strstr(logged_value("text", "a\tb\x01\x7f"), " v=\"a\\tb\\u0001\\u007f\"\n"));
}

/* A line that is too long would be dropped, so a client could keep out of the log with long values. */
static void test_long_values_are_cut(void)
{
	static char plain[30000], controls[30000];
	memset(plain, 'x', sizeof plain - 1);
	memset(controls, 1, sizeof controls - 1);
	const struct acp_log_field fields[] = {
		{"a", plain, false}, {"b", controls, false}, {"c", plain, false}, {"last", "here", false}};
	for (int json = 0; json < 2; json++) {
		const char *line = logged(json ? "json" : "text", fields, ACP_COUNT(fields));
		CU_ASSERT_PTR_NOT_NULL(strstr(line, json ? "\"last\":\"here\"" : " last=here\n"));
		CU_ASSERT_TRUE(strlen(line) < 8192);
		expect_harmless(line, "long values");
	}
}

const char *const acp_suite_name = "log";

CU_TestInfo acp_tests[] = {
	{"every_byte", test_every_byte},
	{"forged_lines", test_forged_lines},
	{"plain_values_stand_bare", test_plain_values_stand_bare},
	{"long_values_are_cut", test_long_values_are_cut},
	CU_TEST_INFO_NULL,
};
