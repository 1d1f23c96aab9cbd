#include "../tmain.h"
#include "buf.h"

static void test_empty(void)
{
	struct acp_buf buf;
	acp_buf_init(&buf, 10);
	CU_ASSERT_TRUE(acp_buf_ok(&buf));
	CU_ASSERT_EQUAL(buf.len, 0);
	acp_buf_clear(&buf);
	acp_buf_release(&buf);
	acp_buf_release(&buf);
	CU_ASSERT_EQUAL(buf.max, 10);
}

static void test_append(void)
{
	struct acp_buf buf;
	acp_buf_init(&buf, 1000);
	acp_buf_add(&buf, "a\0b", 3);
	acp_buf_puts(&buf, "cd");
	acp_buf_putc(&buf, 'e');
	acp_buf_printf(&buf, "-%d-%s", 42, "x");
	CU_ASSERT_TRUE(acp_buf_ok(&buf));
	CU_ASSERT_EQUAL_FATAL(buf.len, 11);
	CU_ASSERT_EQUAL(memcmp(buf.ptr, "a\0bcde-42-x", 12), 0);
	acp_buf_release(&buf);
}

static void test_append_nothing(void)
{
	struct acp_buf buf;
	acp_buf_init(&buf, 8);
	acp_buf_add(&buf, NULL, 0);
	acp_buf_puts(&buf, "");
	acp_buf_printf(&buf, "%s", "");
	CU_ASSERT_TRUE(acp_buf_ok(&buf));
	CU_ASSERT_EQUAL(buf.len, 0);
	acp_buf_release(&buf);
}

static void test_maximum(void)
{
	struct acp_buf buf;
	acp_buf_init(&buf, 5);
	acp_buf_puts(&buf, "12345");
	CU_ASSERT_TRUE(acp_buf_ok(&buf));
	CU_ASSERT_STRING_EQUAL(buf.ptr, "12345");
	acp_buf_putc(&buf, '6');
	CU_ASSERT_FALSE(acp_buf_ok(&buf));
	CU_ASSERT_EQUAL(buf.len, 5);
	acp_buf_release(&buf);
	CU_ASSERT_TRUE(acp_buf_ok(&buf));
}

/* After a failure the buffer stays failed, even when a later append would fit. */
static void test_failure_is_sticky(void)
{
	struct acp_buf buf;
	acp_buf_init(&buf, 4);
	acp_buf_puts(&buf, "ab");
	acp_buf_puts(&buf, "cde");
	acp_buf_putc(&buf, 'x');
	acp_buf_printf(&buf, "%d", 1);
	acp_buf_json_string(&buf, "", 0);
	CU_ASSERT_FALSE(acp_buf_ok(&buf));
	CU_ASSERT_EQUAL(buf.len, 2);
	CU_ASSERT_STRING_EQUAL(buf.ptr, "ab");
	acp_buf_clear(&buf);
	CU_ASSERT_TRUE(acp_buf_ok(&buf));
	acp_buf_puts(&buf, "cde");
	CU_ASSERT_TRUE(acp_buf_ok(&buf));
	CU_ASSERT_STRING_EQUAL(buf.ptr, "cde");
	acp_buf_release(&buf);
}

static void test_printf_maximum(void)
{
	struct acp_buf buf;
	acp_buf_init(&buf, 6);
	acp_buf_printf(&buf, "%06d", 7);
	CU_ASSERT_TRUE(acp_buf_ok(&buf));
	CU_ASSERT_STRING_EQUAL(buf.ptr, "000007");
	acp_buf_clear(&buf);
	acp_buf_printf(&buf, "%07d", 7);
	CU_ASSERT_FALSE(acp_buf_ok(&buf));
	acp_buf_release(&buf);
}

static void test_grows(void)
{
	struct acp_buf buf;
	acp_buf_init(&buf, 100000);
	for (unsigned i = 0; i < 100000; i++)
		acp_buf_putc(&buf, (char)('a' + i % 26));
	CU_ASSERT_TRUE_FATAL(acp_buf_ok(&buf));
	CU_ASSERT_EQUAL(buf.len, 100000);
	bool same = true;
	for (unsigned i = 0; i < 100000; i++)
		same = same && buf.ptr[i] == (char)('a' + i % 26);
	CU_ASSERT_TRUE(same);
	CU_ASSERT_EQUAL(buf.ptr[100000], '\0');
	acp_buf_putc(&buf, 'x');
	CU_ASSERT_FALSE(acp_buf_ok(&buf));
	acp_buf_release(&buf);
}

static void test_json_string(void)
{
	struct acp_buf buf;
	static const char text[] = "q\" b\\ \b\f\n\r\t \x01\x1f\x7f / \xc3\xa9";
	acp_buf_init(&buf, 200);
	acp_buf_json_string(&buf, text, sizeof text - 1);
	CU_ASSERT_TRUE_FATAL(acp_buf_ok(&buf));
	CU_ASSERT_STRING_EQUAL(buf.ptr, "\"q\\\" b\\\\ \\b\\f\\n\\r\\t \\u0001\\u001f\x7f / \xc3\xa9\"");
	acp_buf_clear(&buf);
	acp_buf_json_string(&buf, "", 0);
	CU_ASSERT_STRING_EQUAL(buf.ptr, "\"\"");
	acp_buf_release(&buf);
}

static void test_json_string_maximum(void)
{
	struct acp_buf buf;
	acp_buf_init(&buf, 4);
	acp_buf_json_string(&buf, "ab", 2);
	CU_ASSERT_TRUE(acp_buf_ok(&buf));
	acp_buf_clear(&buf);
	acp_buf_json_string(&buf, "abc", 3);
	CU_ASSERT_FALSE(acp_buf_ok(&buf));
	acp_buf_release(&buf);
}

/* The caller's memory is used to its last byte, but not beyond. */
static void test_borrow(void)
{
	char memory[8] = "xxxxxx#";
	struct acp_buf buf;
	acp_buf_borrow(&buf, memory, 6);
	CU_ASSERT_STRING_EQUAL(buf.ptr, "");
	acp_buf_puts(&buf, "abc");
	acp_buf_put_int(&buf, -1);
	CU_ASSERT_TRUE(acp_buf_ok(&buf));
	CU_ASSERT_STRING_EQUAL(memory, "abc-1");
	acp_buf_putc(&buf, '!');
	CU_ASSERT_FALSE(acp_buf_ok(&buf));
	CU_ASSERT_STRING_EQUAL(memory, "abc-1");
	acp_buf_clear(&buf);
	acp_buf_puts(&buf, "z");
	CU_ASSERT_TRUE(acp_buf_ok(&buf) && buf.ptr == memory);
	CU_ASSERT_EQUAL(memory[6], '#');
}

static void test_copy(void)
{
	char out[5] = "####";
	acp_copy(out, 4, "ab");
	CU_ASSERT_STRING_EQUAL(out, "ab");
	acp_copy(out, 4, "abcdef");
	CU_ASSERT_STRING_EQUAL(out, "abc");
	CU_ASSERT_EQUAL(out[4], '\0');
}

static void expect_int(int64_t value, const char *wanted)
{
	struct acp_buf buf;
	acp_buf_init(&buf, 20);
	acp_buf_put_int(&buf, value);
	CU_ASSERT_TRUE(acp_buf_ok(&buf));
	CU_ASSERT_STRING_EQUAL(buf.ptr, wanted);
	acp_buf_release(&buf);
}

static void test_put_int(void)
{
	expect_int(0, "0");
	expect_int(7, "7");
	expect_int(-10, "-10");
	expect_int(1234567890123, "1234567890123");
	expect_int(INT64_MAX, "9223372036854775807");
	expect_int(INT64_MIN, "-9223372036854775808");
}

/* Every byte at every place of texts around the length that is looked at in one step. */
static void test_plain_length(void)
{
	char text[20];
	for (size_t len = 0; len <= sizeof text; len++)
		for (size_t at = 0; at < len; at++)
			for (int c = 0; c < 256; c++) {
				bool plain = c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
				memset(text, c % 2 ? '~' : ' ', sizeof text);
				text[at] = (char)c;
				CU_ASSERT_EQUAL(acp_plain_length(text, len), plain ? len : at);
			}
}

const char *const acp_suite_name = "buf";

CU_TestInfo acp_tests[] = {
	{"empty", test_empty},
	{"append", test_append},
	{"append_nothing", test_append_nothing},
	{"maximum", test_maximum},
	{"failure_is_sticky", test_failure_is_sticky},
	{"printf_maximum", test_printf_maximum},
	{"grows", test_grows},
	{"put_int", test_put_int},
	{"plain_length", test_plain_length},
	{"borrow", test_borrow},
	{"copy", test_copy},
	{"json_string", test_json_string},
	{"json_string_maximum", test_json_string_maximum},
	CU_TEST_INFO_NULL,
};
