#include "../tmain.h"
#include "json.h"

static const struct acp_json_limits limits = {.max_bytes = 256 * 1024, .max_depth = 32, .max_tokens = 20000};

/* Parses a copy of exactly the document's size, so that a sanitizer sees a read beyond its end. */
static enum acp_json_verdict parse_bytes(const char *text, size_t len, struct json_object **out,
					 struct acp_json_error *error)
{
	char *copy = malloc(len ? len : 1);
	CU_ASSERT_PTR_NOT_NULL_FATAL(copy);
	memcpy(copy, text, len);
	enum acp_json_verdict verdict = acp_json_parse(copy, len, &limits, out, error);
	free(copy);
	return verdict;
}

static enum acp_json_verdict verdict_of(const char *text, size_t len)
{
	struct json_object *tree = NULL;
	struct acp_json_error error;
	enum acp_json_verdict verdict = parse_bytes(text, len, &tree, &error);
	if (verdict != ACP_JSON_OK) {
		CU_ASSERT_PTR_NULL(tree);
		CU_ASSERT_NOT_EQUAL(error.message[0], '\0');
		CU_ASSERT_TRUE(error.offset <= len);
	}
	json_object_put(tree);
	return verdict;
}

/* On failure, prints the document. */
static void expect(const char *text, enum acp_json_verdict wanted)
{
	char shown[200];
	snprintf(shown, sizeof shown, "verdict %d for %.150s", wanted, text);
	CU_assertImplementation(verdict_of(text, strlen(text)) == wanted, __LINE__, shown, __FILE__, "", CU_FALSE);
}

static void good(const char *text)
{
	expect(text, ACP_JSON_OK);
}

static void bad(const char *text)
{
	expect(text, ACP_JSON_MALFORMED);
}

static struct json_object *tree_of(const char *text)
{
	struct json_object *tree = NULL;
	struct acp_json_error error;
	CU_ASSERT_EQUAL_FATAL(parse_bytes(text, strlen(text), &tree, &error), ACP_JSON_OK);
	return tree;
}

static void expect_canonical(const char *text, const char *wanted)
{
	struct json_object *tree = tree_of(text);
	struct acp_buf buf;
	acp_buf_init(&buf, 100000);
	acp_json_canonical(tree, &buf);
	CU_ASSERT_TRUE_FATAL(acp_buf_ok(&buf));
	CU_assertImplementation(strcmp(buf.ptr, wanted) == 0, __LINE__, buf.ptr, __FILE__, "", CU_FALSE);
	acp_buf_release(&buf);
	json_object_put(tree);
}

static void expect_error(const char *text, enum acp_json_verdict verdict, size_t offset, const char *pointer)
{
	struct json_object *tree = NULL;
	struct acp_json_error error;
	char shown[700];
	CU_ASSERT_EQUAL_FATAL(parse_bytes(text, strlen(text), &tree, &error), verdict);
	snprintf(shown, sizeof shown, "%.100s: offset %zu, pointer '%s': %s", text, error.offset, error.pointer,
		 error.message);
	CU_assertImplementation(error.offset == offset && strcmp(error.pointer, pointer) == 0, __LINE__, shown,
				__FILE__, "", CU_FALSE);
}

/* Returns head, count times middle, tail; the caller frees it. */
static char *repeated(const char *head, const char *middle, size_t count, const char *tail)
{
	struct acp_buf buf;
	acp_buf_init(&buf, 4 * 1024 * 1024);
	acp_buf_puts(&buf, head);
	for (size_t i = 0; i < count; i++)
		acp_buf_puts(&buf, middle);
	acp_buf_puts(&buf, tail);
	CU_ASSERT_TRUE_FATAL(acp_buf_ok(&buf));
	return buf.ptr;
}

static void test_accepts(void)
{
	good("{}");
	good("[]");
	good("null");
	good("true");
	good("false");
	good("0");
	good("-0");
	good("\"\"");
	good(" \t\r\n{ \"a\" : [ 1 , 2.5e-3 , { } , [ ] ] } \n");
	good("[null,true,false,\"x\",-1,0.5,1E+5,1e5,0e1,-0.0,-0e-0]");
	good("{\"\":0,\"a\":{\"a\":1},\"A\":2}");
	good("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0001\\uABcd\"");
	good("\"\x7f / ' \"");
	good("123 ");
	good(" null ");
}

static void test_values(void)
{
	struct json_object *tree = tree_of("{\"s\":\"\\u00e9\\ud83d\\ude00\",\"b\":true,\"o\":{},\"n\":null,\"i\":7}");
	CU_ASSERT_STRING_EQUAL(acp_json_string(tree, "s"), "\xc3\xa9\xf0\x9f\x98\x80");
	CU_ASSERT_PTR_NULL(acp_json_string(tree, "b"));
	CU_ASSERT_PTR_NULL(acp_json_string(tree, "n"));
	CU_ASSERT_PTR_NULL(acp_json_string(tree, "missing"));
	CU_ASSERT_TRUE(acp_json_bool(tree, "b"));
	CU_ASSERT_FALSE(acp_json_bool(tree, "i"));
	CU_ASSERT_FALSE(acp_json_bool(tree, "missing"));
	CU_ASSERT_PTR_NOT_NULL(acp_json_member(tree, "o"));
	CU_ASSERT_PTR_NULL(acp_json_member(tree, "n"));
	CU_ASSERT_PTR_NULL(acp_json_member(NULL, "x"));
	CU_ASSERT_PTR_NULL(acp_json_member(acp_json_member(tree, "i"), "x"));
	json_object_put(tree);
	tree = tree_of("null");
	CU_ASSERT_PTR_NULL(tree);
	tree = tree_of("\"\\ud836\\ude00\""); /* U+1DA00, which the tokener of json-c 0.16 takes for a lone surrogate */
	CU_ASSERT_STRING_EQUAL(json_object_get_string(tree), "\xf0\x9d\xa8\x80");
	json_object_put(tree);
	tree = tree_of("-0");
	CU_ASSERT_EQUAL(json_object_get_int64(tree), 0);
	json_object_put(tree);
}

static void test_grammar(void)
{
	static const char *const documents[] = {
		"",           " ",           "\n",          "{",
		"[",          "}",           "]",           "{]",
		"[}",         "[1",          "[1,",         "[1,]",
		"[,1]",       "[1 2]",       "[1,,2]",      "[1]]",
		"[1]x",       "{}{}",        "1 2",         "{,}",
		"{\"a\"}",    "{\"a\":}",    "{\"a\":1,}",  "{\"a\":1 \"b\":2}",
		"{\"a\" 1}",  "{a:1}",       "{'a':1}",     "{1:1}",
		"{null:1}",   "{\"a\":1;}",  "{\"a\"::1}",  "['a']",
		"'a'",        "nul",         "nulll",       "nUll",
		"True",       "TRUE",        "tru",         "fals",
		"NaN",        "Infinity",    "-Infinity",   "undefined",
		"// c\n1",    "/* c */1",    "1/**/",       "[1]#",
		"\"",         "\"a",         "\"\\\"",      "\"\\x\"",
		"\"\\u12\"",  "\"\\u12g4\"", "\"\\U0041\"", "\"\\a\"",
		"\"\\'\"",    "\"\\0\"",     "\"\\",        "\"\\u",
		"a",          "?",           "\v1",         "\f1",
		"\xc2\xa0 1", "\"a\"\"b\"",
	};
	for (size_t i = 0; i < ACP_COUNT(documents); i++)
		bad(documents[i]);
	CU_ASSERT_EQUAL(verdict_of("1\0", 2), ACP_JSON_MALFORMED);
	CU_ASSERT_EQUAL(verdict_of("\0", 1), ACP_JSON_MALFORMED);
	CU_ASSERT_EQUAL(verdict_of("{}\0{}", 5), ACP_JSON_MALFORMED);
	CU_ASSERT_EQUAL(verdict_of("[\"a\0b\"]", 7), ACP_JSON_MALFORMED);
	bad("\xef\xbb\xbf{}");
	CU_ASSERT_EQUAL(verdict_of("\xff\xfe[\0]\0", 6), ACP_JSON_MALFORMED);
}

static void test_number_grammar(void)
{
	static const char *const documents[] = {
		"-",    "+1",   "01", "-01",  "-012", "00",    "1.",   "-1.",   ".5",           "-.5",
		"1.e3", "2.e3", "1e", "1e+",  "1E-",  "1e1.5", "0x10", "1_000", "1a",           "--1",
		"1-",   "1+1",  "0.", "0.e1", "1ee1", "[1.]",  "[-]",  "-a",    "\xef\xbc\x91",
	};
	for (size_t i = 0; i < ACP_COUNT(documents); i++)
		bad(documents[i]);
}

static void test_number_range(void)
{
	good("9007199254740992");
	bad("9007199254740993");
	good("9007199254740994");
	good("-9007199254740992");
	bad("-9007199254740993");
	good("[9223372036854774784]");
	bad("9223372036854775807");
	bad("9223372036854775808");
	bad("18446744073709551615");
	good("-9223372036854775808");
	bad("-9223372036854775809");
	bad("100000000000000000000");
	bad("1000000000000000000000000000000000000000000");
	good("1.5e300");
	good("1.7976931348623157e308");
	bad("1.7976931348623159e308");
	bad("1e400");
	bad("-1e400");
	bad("[1e99999999999999999999]");
	good("1e-400");
	good("[0e99999999999999999999]");
	good("9007199254740993.0");
	good("1.5E+2");
}

/* The text that a number has after reading. */
static void reads_as(const char *text, const char *wanted)
{
	struct acp_json_error error;
	struct json_object *value = NULL;
	CU_ASSERT_FATAL(acp_json_parse(text, strlen(text), &limits, &value, &error) == ACP_JSON_OK);
	CU_ASSERT_STRING_EQUAL(json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN), wanted);
	json_object_put(value);
}

/* PostgreSQL takes the text of every number that a caller can send. */
static void test_digits(void)
{
	reads_as("1.50", "1.50");
	reads_as("5e-324", "5e-324");
	reads_as("1e-400", "0");
	reads_as("-1e-400", "0");
	reads_as("0e-99999", "0");
	reads_as("0.0e5", "0.0e5");
	char *text = repeated("0.", "3", 20000, "");
	reads_as(text, "0.3333333333333333");
	free(text);
	text = repeated("0.", "0", 20000, "1");
	reads_as(text, "0");
	free(text);
}

static void test_long_number(void)
{
	char *text = repeated("0.", "3", 100000, "");
	good(text);
	free(text);
	text = repeated("", "3", 100000, "");
	bad(text);
	free(text);
	text = repeated("", "3", 100000, ".0");
	bad(text);
	free(text);
}

static void test_control_characters(void)
{
	for (int c = 0; c < 0x20; c++) {
		char text[] = {'"', 'a', (char)c, '"'};
		CU_ASSERT_EQUAL(verdict_of(text, sizeof text), ACP_JSON_MALFORMED);
		char name[] = {'{', '"', (char)c, '"', ':', '1', '}'};
		CU_ASSERT_EQUAL(verdict_of(name, sizeof name), ACP_JSON_MALFORMED);
		char space[] = {(char)c, '1'};
		bool allowed = c == '\t' || c == '\n' || c == '\r';
		CU_ASSERT_EQUAL(verdict_of(space, sizeof space), allowed ? ACP_JSON_OK : ACP_JSON_MALFORMED);
	}
	bad("\"\\u0000\"");
	bad("{\"a\\u0000\":1}");
	good("\"\\u0001\\u007f\"");
}

static void test_surrogates(void)
{
	good("\"\\ud83d\\ude00\"");
	good("\"\\uD800\\uDC00\\uDBFF\\uDFFF\"");
	bad("\"\\ud83d\"");
	bad("\"\\ud83dx\"");
	bad("\"\\ud83d\\n\"");
	bad("\"\\ud83d\\u0041\"");
	bad("\"\\ud83d\\ud83d\\ude00\"");
	bad("\"\\ude00\"");
	bad("\"\\ude00\\ud83d\"");
	bad("\"\\ud83d\\ude0\"");
	bad("\"\\ud83d\\");
	bad("\"\\ud83d\\u");
	bad("{\"\\udfff\":1}");
}

static void test_utf8(void)
{
	static const char *const valid[] = {
		"\x7f",         "\xc2\x80",     "\xdf\xbf",         "\xe0\xa0\x80",     "\xed\x9f\xbf",
		"\xee\x80\x80", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf", "\xef\xbb\xbf",
	};
	static const char *const invalid[] = {
		"\x80",
		"\xbf",
		"\xc0\x80",
		"\xc0\xaf",
		"\xc1\xbf",
		"\xc3",
		"\xc3(",
		"\xc3\xa9\xa9",
		"\xe0\x80\xaf",
		"\xe0\x9f\xbf",
		"\xe2\x82",
		"\xe2\x28\xa1",
		"\xed\xa0\x80",
		"\xed\xbf\xbf",
		"\xed\xa0\xbd\xed\xb8\x80",
		"\xf0\x80\x80\xaf",
		"\xf0\x8f\xbf\xbf",
		"\xf0\x9f\x98",
		"\xf4\x90\x80\x80",
		"\xf5\x80\x80\x80",
		"\xf8\x88\x80\x80\x80",
		"\xfc\x84\x80\x80\x80\x80",
		"\xfe",
		"\xff",
	};
	char text[32];
	for (size_t i = 0; i < ACP_COUNT(valid); i++) {
		snprintf(text, sizeof text, "{\"%s\":\"%s\"}", valid[i], valid[i]);
		good(text);
	}
	for (size_t i = 0; i < ACP_COUNT(invalid); i++) {
		snprintf(text, sizeof text, "[\"%s\"]", invalid[i]);
		bad(text);
		snprintf(text, sizeof text, "{\"%s\":0}", invalid[i]);
		bad(text);
		snprintf(text, sizeof text, "\"%s", invalid[i]); /* cut inside the sequence */
		bad(text);
	}
}

static void test_duplicates(void)
{
	bad("{\"a\":1,\"a\":1}");
	bad("{\"a\":1,\"b\":2,\"\\u0061\":3}");
	bad("{\"\":1,\"\":2}");
	bad("[{\"x\":{\"y\":1,\"z\":0,\"y\":2}}]");
	bad("{\"\\ud83d\\ude00\":1,\"\xf0\x9f\x98\x80\":2}");
	bad("{\"/\":1,\"\\/\":2}");
	bad("{\"\\n\":1,\"\\u000a\":2}");
	bad("{\"a\":{\"b\":1},\"c\":[],\"a\":{\"b\":1}}");
	good("{\"a\":{\"a\":{\"a\":[{\"a\":1},{\"a\":1}]}}}");
	good("{\"a\":1,\"A\":2,\"a \":3,\"aa\":4}");
	good("{\"\\u00e9\":1,\"e\\u0301\":2}");
}

/* {"k0":0,…}: one token for the braces, two for each member. */
static char *many_members(size_t count, const char *format, const char *tail)
{
	struct acp_buf buf;
	acp_buf_init(&buf, 1024 * 1024);
	acp_buf_putc(&buf, '{');
	for (size_t i = 0; i < count; i++) {
		acp_buf_puts(&buf, i ? ",\"" : "\"");
		acp_buf_printf(&buf, format, (unsigned)i);
		acp_buf_puts(&buf, "\":0");
	}
	acp_buf_puts(&buf, tail);
	CU_ASSERT_TRUE_FATAL(acp_buf_ok(&buf));
	return buf.ptr;
}

/* Reads a copy of exactly the document's size by the rules ACP_JSON_ANY. NULL if it is refused, or null. */
static struct json_object *any_of(const char *text, size_t len, enum acp_json_verdict *verdict)
{
	struct acp_json_error error;
	struct json_object *tree = NULL;
	char *copy = malloc(len ? len : 1);
	CU_ASSERT_PTR_NOT_NULL_FATAL(copy);
	memcpy(copy, text, len);
	*verdict = acp_json_parse_any(copy, len, &tree, &error);
	free(copy);
	return tree;
}

/* What is read by the rules ACP_JSON_ANY is written as it was, with these exceptions. */
static void test_any_document(void)
{
	static const struct {
		const char *text, *written;
	} cases[] = {
		{"[9007199254740993,18446744073709551616,-9223372036854775809]", NULL},
		{"[1e400,-1e400,1e-400,-0,0.0,1.10,1E+2,123456789012345678901234567890.5]", NULL},
		{"[9223372036854775807,9223372036854775808,18446744073709551615]", NULL},
		{"\"text\"", NULL},
		{"null", NULL},
		{"5", NULL},
		{"\xef\xbb\xbf{\"a\":1}", "{\"a\":1}"},
		{"{\"a\":1,\"b\":2,\"a\":{\"a\":3,\"a\":4}}", "{\"b\":2,\"a\":{\"a\":4}}"},
		{"{\"a\":1,\"\\u0061\":2,\"a\":3}", "{\"a\":3}"},
		{"\"a\\u0000b\"", NULL},
		{"{\"a\\u0000\":1}", "{\"a\xef\xbf\xbd\":1}"},
		{"\"\\ud834\\udd1e\"", "\"\xf0\x9d\x84\x9e\""},
		{"\"\\ud834\"", "\"\xef\xbf\xbd\""},
		{"\"\\udd1ex\"", "\"\xef\xbf\xbdx\""},
		{"\"\\ud834\\ud834\\udd1e\"", "\"\xef\xbf\xbd\xf0\x9d\x84\x9e\""},
		{"\"\\ud834\\n\"", "\"\xef\xbf\xbd\\n\""},
		{"\"\\ud834\\u0041\"", "\"\xef\xbf\xbd"
				       "A\""},
	};
	for (size_t i = 0; i < ACP_COUNT(cases); i++) {
		struct acp_buf out;
		enum acp_json_verdict verdict;
		struct json_object *tree = any_of(cases[i].text, strlen(cases[i].text), &verdict);
		acp_buf_init(&out, 1000);
		acp_json_write(tree, &out);
		CU_ASSERT_EQUAL(verdict, ACP_JSON_OK);
		CU_ASSERT_TRUE_FATAL(acp_buf_ok(&out));
		const char *wanted = cases[i].written ? cases[i].written : cases[i].text;
		CU_assertImplementation(strcmp(out.ptr, wanted) == 0, __LINE__, out.ptr, __FILE__, "", CU_FALSE);
		acp_buf_release(&out);
		json_object_put(tree);
	}
}

static void test_any_document_refused(void)
{
	static const char *const bad_ones[] = {
		"",       "{",         "[1,]",           "01",  "+1",           "NaN",      "\"\xff\"",
		"\"\t\"", "[1] 2",     "{\"\\u000\":1}", "tru", "\xef\xbb\xbf", "\xef\xbb", "1.",
		"'a'",    "\"\\ud83\""};
	enum acp_json_verdict verdict;
	for (size_t i = 0; i < ACP_COUNT(bad_ones); i++) {
		CU_ASSERT_PTR_NULL(any_of(bad_ones[i], strlen(bad_ones[i]), &verdict));
		CU_assertImplementation(verdict == ACP_JSON_MALFORMED, __LINE__, bad_ones[i], __FILE__, "", CU_FALSE);
	}
	struct acp_buf many; /* many duplicates: the table of the object grows and shrinks */
	acp_buf_init(&many, 100000);
	for (int i = 0; i < 3000; i++)
		acp_buf_printf(&many, "%c\"m%d\":%d", i ? ',' : '{', i % 100, i);
	acp_buf_putc(&many, '}');
	struct json_object *tree = any_of(many.ptr, many.len, &verdict);
	CU_ASSERT_EQUAL(json_object_object_length(tree), 100);
	CU_ASSERT_EQUAL(json_object_get_int(acp_json_member(tree, "m7")), 2907);
	json_object_put(tree);
	acp_buf_release(&many);
}

static void test_any_depth(void)
{
	char text[2 * ACP_JSON_ANY_DEPTH + 2];
	for (size_t depth = ACP_JSON_ANY_DEPTH; depth <= ACP_JSON_ANY_DEPTH + 1; depth++) {
		enum acp_json_verdict verdict;
		memset(text, '[', depth);
		memset(text + depth, ']', depth);
		json_object_put(any_of(text, 2 * depth, &verdict));
		CU_ASSERT_EQUAL(verdict, depth > ACP_JSON_ANY_DEPTH ? ACP_JSON_TOO_LARGE : ACP_JSON_OK);
	}
}

static void test_many_members(void)
{
	char *text = many_members(9999, "k%u", "}");
	good(text);
	free(text);
	text = many_members(9998, "k%u", ",\"k9997\":0}");
	bad(text);
	free(text);
	text = many_members(9999, "k%u", ",\"last\":0}");
	expect(text, ACP_JSON_TOO_LARGE);
	free(text);
	text = many_members(5000, "\\u%04x", "}"); /* the first one is U+0000 */
	bad(text);
	free(text);
	text = many_members(5000, "\\u00e9%u", "}");
	good(text);
	free(text);
}

static void test_depth(void)
{
	static const struct {
		const char *open;
		const char *middle;
		const char *close;
	} forms[] = {{"[", "", "]"}, {"[", "1", "]"}, {"{\"a\":", "null", "}"}, {"[", "{}", "]"}};
	for (size_t i = 0; i < ACP_COUNT(forms); i++) {
		size_t inner = *forms[i].middle == '{' ? 1 : 0;
		for (size_t extra = 0; extra < 2; extra++) {
			char *head = repeated("", forms[i].open, 32 - inner + extra, forms[i].middle);
			char *text = repeated(head, forms[i].close, 32 - inner + extra, "");
			expect(text, extra ? ACP_JSON_TOO_LARGE : ACP_JSON_OK);
			free(head);
			free(text);
		}
	}
	char *text = repeated("", "[", 100000, "");
	expect(text, ACP_JSON_TOO_LARGE);
	free(text);
	text = repeated("[[", "{},[],", 1000, "1]]"); /* depth is not the number of brackets */
	good(text);
	free(text);
}

static void test_tokens(void)
{
	char *text = repeated("[1", ",1", 19998, "]");
	good(text);
	free(text);
	text = repeated("[1", ",1", 19999, "]");
	expect(text, ACP_JSON_TOO_LARGE);
	free(text);
	text = repeated("[[]", ",[]", 19998, "]");
	good(text);
	free(text);
	text = repeated("[[]", ",{}", 19999, "]");
	expect(text, ACP_JSON_TOO_LARGE);
	free(text);
}

static void test_bytes(void)
{
	char *text = repeated("\"", "x", limits.max_bytes - 2, "\"");
	good(text);
	free(text);
	text = repeated("\"", "x", limits.max_bytes - 1, "\"");
	expect(text, ACP_JSON_TOO_LARGE);
	free(text);
}

/* Unusual limits, including absurd ones. */
static void test_other_limits(void)
{
	static const struct {
		struct acp_json_limits limits;
		const char *text;
		enum acp_json_verdict verdict;
	} cases[] = {
		{{SIZE_MAX, UINT32_MAX, UINT32_MAX}, "[[1]]", ACP_JSON_OK},
		{{5, 2, 3}, "[[1]]", ACP_JSON_OK},
		{{4, 2, 3}, "[[1]]", ACP_JSON_TOO_LARGE},
		{{5, 1, 3}, "[[1]]", ACP_JSON_TOO_LARGE},
		{{5, 2, 2}, "[[1]]", ACP_JSON_TOO_LARGE},
		{{9, 0, 1}, "1", ACP_JSON_OK},
		{{9, 0, 1}, "[]", ACP_JSON_TOO_LARGE},
		{{9, 0, 0}, "1", ACP_JSON_TOO_LARGE},
	};
	for (size_t i = 0; i < ACP_COUNT(cases); i++) {
		struct json_object *tree = NULL;
		struct acp_json_error error;
		CU_ASSERT_EQUAL(acp_json_parse(cases[i].text, strlen(cases[i].text), &cases[i].limits, &tree, &error),
				cases[i].verdict);
		json_object_put(tree);
	}
}

static void test_error_places(void)
{
	expect_error("", ACP_JSON_MALFORMED, 0, "");
	expect_error("[1,2,x]", ACP_JSON_MALFORMED, 5, "/2");
	expect_error("{\"a\":{\"b\":[0,{\"c\":tru}]}}", ACP_JSON_MALFORMED, 21, "/a/b/1/c");
	expect_error("{\"a/b\":{\"m~n\":01}}", ACP_JSON_MALFORMED, 15, "/a~1b/m~0n");
	expect_error("{\"a\":1 \"b\":2}", ACP_JSON_MALFORMED, 7, "");
	expect_error("{\"x\":{\"a\":1,}}", ACP_JSON_MALFORMED, 12, "/x");
	expect_error("{\"x\":{\"a\" 1}}", ACP_JSON_MALFORMED, 10, "/x/a");
	expect_error("[[1,2],[3,4}]", ACP_JSON_MALFORMED, 11, "/1");
	expect_error("{\"a\":[1,{\"k\":1,\"l\":2,\"\\u006b\":3}]}", ACP_JSON_MALFORMED, 21, "/a/1/k");
	expect_error("{\"b\":1,\"a\":1,\"b\":2,\"a\":3}", ACP_JSON_MALFORMED, 13, "/b");
	expect_error("{\"a\":1,\"a\":?}", ACP_JSON_MALFORMED, 7, "/a");
	expect_error("{\"\\u00e9\":9007199254740993}", ACP_JSON_MALFORMED, 10, "/\xc3\xa9");
	expect_error("{\"a\":\"\\u0000\"}", ACP_JSON_MALFORMED, 6, "/a");
	expect_error("{} x", ACP_JSON_MALFORMED, 3, "");
	expect_error("{\"a\":[0", ACP_JSON_MALFORMED, 7, "/a");
	expect_error("{\"\":?}", ACP_JSON_MALFORMED, 4, "/");
}

/* A pointer that does not fit ends with "..." after a whole character. */
static void test_long_pointer(void)
{
	for (size_t pad = 0; pad < 8; pad++) {
		char *head = repeated("{\"", "p", pad, "");
		char *text = repeated(head, "\xf0\x9f\x98\x80", 100, "\":{\"more\":x}}");
		struct json_object *tree = NULL;
		struct acp_json_error error;
		CU_ASSERT_EQUAL(parse_bytes(text, strlen(text), &tree, &error), ACP_JSON_MALFORMED);
		size_t len = strlen(error.pointer);
		CU_ASSERT_TRUE(len > 248 && len < sizeof error.pointer);
		CU_ASSERT_STRING_EQUAL(error.pointer + len - 3, "...");
		CU_ASSERT_EQUAL((len - 3 - 1 - pad) % 4, 0);
		free(head);
		free(text);
	}
	char *text = repeated("{\"", "~", 300, "\":x}");
	struct json_object *tree = NULL;
	struct acp_json_error error;
	CU_ASSERT_EQUAL(parse_bytes(text, strlen(text), &tree, &error), ACP_JSON_MALFORMED);
	CU_ASSERT_STRING_EQUAL(error.pointer + strlen(error.pointer) - 5, "~0...");
	free(text);
	text = repeated("", "[[[[{\"abcdefgh\":", 6, "x"); /* fits, then does not */
	CU_ASSERT_EQUAL(parse_bytes(text, strlen(text), &tree, &error), ACP_JSON_MALFORMED);
	CU_ASSERT_TRUE(strlen(error.pointer) < sizeof error.pointer);
	free(text);
}

static const char sample[] =
	"{\"action\":\"domain.leadscoring.scores.compute\",\"params\":{\"weights\":{\"size\":0.25,\"r\\u00e9gion\":-1."
	"5e-3},"
	"\"leads\":[{\"id\":\"l1\",\"features\":{\"size\":12,\"ok\":true,\"no\":false,\"none\":null}},[],{}]},"
	"\"idempotency_key\":\"\xc3\xa9\\ud83d\\ude00\\n\\\"\\\\\\/\",\"dry_run\":false}";

/* No proper prefix of the document is a document. */
static void test_prefixes(void)
{
	CU_ASSERT_EQUAL(verdict_of(sample, sizeof sample - 1), ACP_JSON_OK);
	for (size_t len = 0; len < sizeof sample - 1; len++)
		CU_ASSERT_EQUAL(verdict_of(sample, len), ACP_JSON_MALFORMED);
}

static uint32_t next_random(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

/* Changes, drops or duplicates some bytes of text. Returns the new length, at most len + 4. */
static size_t mutate(char *text, size_t len, uint32_t *state)
{
	static const char interesting[] = "{}[]\",:\\0123456789.eE+-untrfa \n\x01\x80\xc3\xed\xf4\xff";
	unsigned changes = 1 + next_random(state) % 4;
	for (unsigned i = 0; i < changes && len; i++) {
		size_t at = next_random(state) % len;
		switch (next_random(state) % 5) {
		case 0: text[at] = (char)(text[at] ^ (1 << next_random(state) % 8)); break;
		case 1: text[at] = (char)next_random(state); break;
		case 2: text[at] = interesting[next_random(state) % (sizeof interesting - 1)]; break;
		case 3: memmove(text + at, text + at + 1, --len - at); break;
		default:
			memmove(text + at + 1, text + at, len - at);
			len++;
			break;
		}
	}
	return len;
}

/* Beyond 2^53 the canonical form is a rounded integer ("1e20" becomes 100000000000000000000, as in ECMAScript), which
 * the reader's integer rule refuses. So such documents do not survive a round trip. */
static bool has_huge_number(struct json_object *value)
{
	bool huge = false;
	double number = json_object_get_double(value);
	switch (json_object_get_type(value)) {
	case json_type_int:
	case json_type_double: return number > 9007199254740992.0 || number < -9007199254740992.0;
	case json_type_array:
		for (size_t i = 0; i < json_object_array_length(value); i++)
			huge = huge || has_huge_number(json_object_array_get_idx(value, i));
		return huge;
	case json_type_object: {
		json_object_object_foreach(value, name, member) huge = huge || (name && has_huge_number(member));
		return huge;
	}
	default: return false;
	}
}

/* Every accepted document must survive the round trip through its canonical form. */
static bool survives(struct json_object *tree)
{
	struct json_object *again = NULL;
	struct acp_json_error error;
	struct acp_buf first;
	struct acp_buf second;
	acp_buf_init(&first, 100000);
	acp_buf_init(&second, 100000);
	acp_json_canonical(tree, &first);
	bool ok = acp_buf_ok(&first) && acp_json_parse(first.ptr, first.len, &limits, &again, &error) == ACP_JSON_OK;
	acp_json_canonical(again, &second);
	ok = ok && acp_buf_ok(&second) && strcmp(first.ptr, second.ptr) == 0;
	json_object_put(again);
	acp_buf_release(&first);
	acp_buf_release(&second);
	return ok;
}

static void test_mutations(void)
{
	static const char numbers[] = "[0,-0,1.5,-2.25e-10,9007199254740992,1e21,123456789012,0.1,5e-324,{\"\":0}]";
	uint32_t state = 20240229;
	unsigned accepted = 0;
	unsigned lost = 0;
	for (unsigned i = 0; i < 20000; i++) {
		char text[sizeof sample + 4];
		const char *from = i % 2 ? numbers : sample;
		size_t len = strlen(from);
		struct json_object *tree = NULL;
		struct acp_json_error error;
		memcpy(text, from, len);
		len = mutate(text, len, &state);
		enum acp_json_verdict verdict = parse_bytes(text, len, &tree, &error);
		CU_ASSERT_NOT_EQUAL(verdict, ACP_JSON_NO_MEMORY); /* json-c refused a document that we accept */
		accepted += verdict == ACP_JSON_OK;
		if (verdict == ACP_JSON_OK && !has_huge_number(tree) && !survives(tree))
			lost++;
		json_object_put(tree);
	}
	CU_ASSERT_TRUE(accepted > 500);
	CU_ASSERT_EQUAL(lost, 0);
}

static void expect_number(uint64_t bits, const char *wanted)
{
	double value = 0;
	char out[32];
	memcpy(&value, &bits, sizeof value);
	acp_json_number(value, out);
	char shown[100];
	snprintf(shown, sizeof shown, "%s, not %s", wanted, out);
	CU_assertImplementation(strcmp(out, wanted) == 0, __LINE__, shown, __FILE__, "", CU_FALSE);
	CU_ASSERT_TRUE(strtod(out, NULL) == value);
}

/* RFC 8785, appendix B. */
static void test_number_samples(void)
{
	static const struct {
		uint64_t bits;
		const char *text;
	} samples[] = {
		{0x0000000000000000, "0"},
		{0x8000000000000000, "0"},
		{0x0000000000000001, "5e-324"},
		{0x8000000000000001, "-5e-324"},
		{0x7fefffffffffffff, "1.7976931348623157e+308"},
		{0xffefffffffffffff, "-1.7976931348623157e+308"},
		{0x4340000000000000, "9007199254740992"},
		{0xc340000000000000, "-9007199254740992"},
		{0x4430000000000000, "295147905179352830000"},
		{0x44b52d02c7e14af5, "9.999999999999997e+22"},
		{0x44b52d02c7e14af6, "1e+23"},
		{0x44b52d02c7e14af7, "1.0000000000000001e+23"},
		{0x444b1ae4d6e2ef4e, "999999999999999700000"},
		{0x444b1ae4d6e2ef4f, "999999999999999900000"},
		{0x444b1ae4d6e2ef50, "1e+21"},
		{0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7"},
		{0x3eb0c6f7a0b5ed8d, "0.000001"},
		{0x41b3de4355555553, "333333333.3333332"},
		{0x41b3de4355555554, "333333333.33333325"},
		{0x41b3de4355555555, "333333333.3333333"},
		{0x41b3de4355555556, "333333333.3333334"},
		{0x41b3de4355555557, "333333333.33333343"},
		{0xbecbf647612f3696, "-0.0000033333333333333333"},
		{0x43143ff3c1cb0959, "1424953923781206.2"},
	};
	for (size_t i = 0; i < ACP_COUNT(samples); i++)
		expect_number(samples[i].bits, samples[i].text);
}

/* Numbers whose shortest decimal is not the nearest one of its length: powers of two, checked against V8. */
static void test_number_powers_of_two(void)
{
	expect_number(0x3d30000000000000, "5.684341886080802e-14");
	expect_number(0x3e70000000000000, "5.960464477539063e-8");
	expect_number(0x4580000000000000, "6.189700196426902e+26");
	expect_number(0x0010000000000000, "2.2250738585072014e-308");
	expect_number(0x000fffffffffffff, "2.225073858507201e-308");
	expect_number(0x3fb999999999999a, "0.1");
	expect_number(0x3fd3333333333334, "0.30000000000000004");
	expect_number(0x0000000000000002, "1e-323");
}

static void test_number_round_trip(void)
{
	uint32_t state = 7;
	for (unsigned i = 0; i < 50000; i++) {
		uint64_t bits = (uint64_t)next_random(&state) << 32 | next_random(&state);
		double value = 0;
		char out[32];
		memcpy(&value, &bits, sizeof value);
		if (!__builtin_isfinite(value))
			continue;
		acp_json_number(value, out);
		CU_ASSERT_TRUE(strtod(out, NULL) == value);
	}
}

/* Finds the decimal with the fewest digits by trial. This is correct if the nearest decimal of a length reads back. */
static void shortest_by_trying(double value, char digits[32], int *exponent)
{
	char text[40];
	int count = 0;
	do
		snprintf(text, sizeof text, "%.*e", count++, value);
	while (count < 17 && strtod(text, NULL) != value);
	size_t len = 0;
	for (const char *p = text; *p != 'e'; p++)
		if (*p >= '0' && *p <= '9')
			digits[len++] = *p;
	digits[len] = '\0';
	*exponent = (int)strtol(strchr(text, 'e') + 1, NULL, 10);
}

/* Compares with the layout without exponent of numbers from a millionth to 10^15. */
static bool number_is_shortest(double value)
{
	char digits[32];
	char wanted[64];
	char got[32];
	int exponent = 0;
	acp_json_number(value, got);
	shortest_by_trying(value, digits, &exponent);
	int len = (int)strlen(digits);
	if (exponent < 0)
		snprintf(wanted, sizeof wanted, "0.%.*s%s", -exponent - 1, "00000000", digits);
	else if (len <= exponent + 1)
		snprintf(wanted, sizeof wanted, "%s%.*s", digits, exponent + 1 - len, "0000000000000000");
	else
		snprintf(wanted, sizeof wanted, "%.*s.%s", exponent + 1, digits, digits + exponent + 1);
	return strcmp(got, wanted) == 0;
}

/* Decimals, their neighbours and random doubles of that size: the fast path must write numbers exactly like the general
 * one. */
static void test_number_short_way(void)
{
	uint32_t state = 3;
	size_t wrong = 0;
	for (unsigned i = 0; i < 60000; i++) {
		static const double scales[] = {1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e9, 1e12, 1e15};
		uint64_t bits = (uint64_t)next_random(&state) << 32 | next_random(&state);
		double whole = (double)(bits >> (14 + bits % 50));
		double value = whole / scales[i % ACP_COUNT(scales)];
		if (i % 4 == 3) {
			memcpy(&bits, &value, sizeof bits);
			bits ^= 1 + (i & 4) * 3;
			memcpy(&value, &bits, sizeof value);
		}
		if (value >= 1e-6 && value < 1e15 && !number_is_shortest(value))
			wrong++;
	}
	CU_ASSERT_EQUAL(wrong, 0);
	CU_ASSERT_TRUE(number_is_shortest(0.000001) && number_is_shortest(0.0000010000000000000002));
	CU_ASSERT_TRUE(number_is_shortest(999999999999999.9) && number_is_shortest(99999999999999.9));
	CU_ASSERT_TRUE(number_is_shortest(0.1 + 0.2) && number_is_shortest(0.3) && number_is_shortest(5e-6));
}

/* The output is the same as json-c's, which clients have received so far. */
static void test_write(void)
{
	static const char *const texts[] = {
		"null",
		"true",
		"[]",
		"{}",
		"[[],{},[false,null]]",
		"{\"b\":1,\"a\":{\"z\":[1,2.50,-0.0,1e3,9223372036854774784]},\"\":\"\"}",
		"\"/ \\\" \\\\ \\b\\f\\n\\r\\t \\u0001\\u001f \\u007f \\u00e9 \\ud83d\\ude00 <>&'\"",
		"{\"a/b\\\"\\n\":[\"x\"]}",
	};
	for (size_t i = 0; i < ACP_COUNT(texts); i++) {
		struct json_object *tree = NULL;
		struct acp_json_error error;
		struct acp_buf out;
		acp_buf_init(&out, 10000);
		CU_ASSERT_EQUAL_FATAL(acp_json_parse(texts[i], strlen(texts[i]), &limits, &tree, &error), ACP_JSON_OK);
		acp_json_write(tree, &out);
		CU_ASSERT_STRING_EQUAL(out.ptr, json_object_to_json_string_ext(
							tree, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
		json_object_put(tree);
		acp_buf_release(&out);
	}
}

static void test_canonical(void)
{
	expect_canonical("null", "null");
	expect_canonical(" [ true , false , null , \"\" ] ", "[true,false,null,\"\"]");
	expect_canonical("{\"b\":1,\"a\":{\"z\":[],\"y\":{}}}", "{\"a\":{\"y\":{},\"z\":[]},\"b\":1}");
	expect_canonical("[1.0,1e2,-0,-0.0,0.00,1E-7,9007199254740994,-9223372036854775808]",
			 "[1,100,0,0,0,1e-7,9007199254740994,-9223372036854776000]");
	expect_canonical("\"\\u0041\\/\\u0008\\u000c\\u001F\\u007f\\u00e9\\ud83d\\ude00\\\\\\\"\"",
			 "\"A/\\b\\f\\u001f\x7f\xc3\xa9\xf0\x9f\x98\x80\\\\\\\"\"");
}

/* RFC 8785, sections 3.2.2 and 3.2.3. */
static void test_canonical_rfc(void)
{
	expect_canonical("{\"numbers\":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],"
			 "\"string\":\"\\u20ac$\\u000F\\u000aA'\\u0042\\u0022\\u005c\\\\\\\"\\/\","
			 "\"literals\":[null,true,false]}",
			 "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],"
			 "\"string\":\"\xe2\x82\xac$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}");
	expect_canonical(
		"{\"\\u20ac\":\"Euro Sign\",\"\\r\":\"Carriage Return\",\"\\ufb33\":\"Hebrew Letter Dalet With "
		"Dagesh\",\"1\":\"One\",\"\\ud83d\\ude00\":\"Emoji: Grinning Face\",\"\\u0080\":\"Control\","
		"\"\\u00f6\":\"Latin Small Letter O With Diaeresis\"}",
		"{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\xc2\x80\":\"Control\",\"\xc3\xb6\":\"Latin Small "
		"Letter O With Diaeresis\",\"\xe2\x82\xac\":\"Euro Sign\",\"\xf0\x9f\x98\x80\":\"Emoji: Grinning "
		"Face\",\"\xef\xac\xb3\":\"Hebrew Letter Dalet With Dagesh\"}");
}

static void test_canonical_order(void)
{
	expect_canonical(
		"{\"ab\":1,\"a\":2,\"\":3,\"B\":4,\"\\ue000\":5,\"\\ud7ff\":6,\"\\udbff\\udfff\":7,\"\\uffff\":8}",
		"{\"\":3,\"B\":4,\"a\":2,\"ab\":1,\"\xed\x9f\xbf\":6,\"\xf4\x8f\xbf\xbf\":7,\"\xee\x80\x80\":5,"
		"\"\xef\xbf\xbf\":8}");
}

static void test_canonical_failures(void)
{
	struct acp_buf buf;
	struct json_object *infinite = json_object_new_double(__builtin_inf());
	char hex[65];
	acp_buf_init(&buf, 10);
	acp_json_canonical(infinite, &buf);
	CU_ASSERT_FALSE(acp_buf_ok(&buf));
	CU_ASSERT_FALSE(acp_json_hash(infinite, hex));
	json_object_put(infinite);
	acp_buf_clear(&buf);
	struct json_object *tree = tree_of("[1,2,3,4,5,6]");
	acp_json_canonical(tree, &buf);
	CU_ASSERT_FALSE(acp_buf_ok(&buf));
	json_object_put(tree);
	acp_buf_release(&buf);
}

static void expect_hash(const char *text, const char *wanted)
{
	char hex[65];
	struct json_object *tree = tree_of(text);
	CU_ASSERT_TRUE(acp_json_hash(tree, hex));
	CU_ASSERT_STRING_EQUAL(hex, wanted);
	json_object_put(tree);
}

/* The vectors of the contract. */
static void test_hash(void)
{
	static const char create[] = "d420257864cda533397b394401719e2cf0820dd88d132e8d83d38469eee28bfc";
	expect_hash("{}", "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
	expect_hash("{\"a\":1}", "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862");
	expect_hash("{ \"\\u0061\" : 1.0 }", "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862");
	expect_hash("{\"action\":\"iam.keys.create\",\"params\":{\"name\":\"x\",\"scopes\":[\"manage.read\"]}}",
		    create);
	expect_hash("{\"params\":{\"scopes\":[\"manage.read\"],\"name\":\"x\"},\"action\":\"iam.keys.create\"}",
		    create);
}

static void test_double(void)
{
	static const struct {
		double value;
		const char *text;
	} samples[] = {{0.1, "0.1"}, {100.0, "100"}, {-2.5e-9, "-2.5e-9"}, {1e21, "1e+21"}, {0.29, "0.29"}};
	for (size_t i = 0; i < ACP_COUNT(samples); i++) {
		struct json_object *number = acp_json_double(samples[i].value);
		CU_ASSERT_PTR_NOT_NULL_FATAL(number);
		CU_ASSERT_STRING_EQUAL(json_object_to_json_string(number), samples[i].text);
		CU_ASSERT_TRUE(json_object_get_double(number) == samples[i].value);
		json_object_put(number);
	}
}

static void test_add(void)
{
	struct json_object *object = json_object_new_object();
	CU_ASSERT_TRUE(acp_json_add(object, "a", json_object_new_int(1)));
	CU_ASSERT_TRUE(acp_json_add_string(object, "s", "text"));
	CU_ASSERT_TRUE(acp_json_add_null(object, "n"));
	CU_ASSERT_FALSE(acp_json_add(object, "b", NULL));
	CU_ASSERT_FALSE(acp_json_add_string(object, "c", NULL));
	CU_ASSERT_FALSE(acp_json_add(NULL, "d", json_object_new_int(1)));
	CU_ASSERT_FALSE(acp_json_add_null(NULL, "d"));
	CU_ASSERT_STRING_EQUAL(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN),
			       "{\"a\":1,\"s\":\"text\",\"n\":null}");
	json_object_put(object);
	struct json_object *array = json_object_new_array();
	CU_ASSERT_FALSE(acp_json_add_string(array, "a", "x"));
	json_object_put(array);
}

const char *const acp_suite_name = "json";

CU_TestInfo acp_tests[] = {
	{"accepts", test_accepts},
	{"values", test_values},
	{"grammar", test_grammar},
	{"number_grammar", test_number_grammar},
	{"number_range", test_number_range},
	{"digits", test_digits},
	{"long_number", test_long_number},
	{"control_characters", test_control_characters},
	{"surrogates", test_surrogates},
	{"utf8", test_utf8},
	{"duplicates", test_duplicates},
	{"any_document", test_any_document},
	{"any_document_refused", test_any_document_refused},
	{"any_depth", test_any_depth},
	{"many_members", test_many_members},
	{"depth", test_depth},
	{"tokens", test_tokens},
	{"bytes", test_bytes},
	{"other_limits", test_other_limits},
	{"error_places", test_error_places},
	{"long_pointer", test_long_pointer},
	{"prefixes", test_prefixes},
	{"mutations", test_mutations},
	{"number_samples", test_number_samples},
	{"number_powers_of_two", test_number_powers_of_two},
	{"number_round_trip", test_number_round_trip},
	{"number_short_way", test_number_short_way},
	{"write", test_write},
	{"canonical", test_canonical},
	{"canonical_rfc", test_canonical_rfc},
	{"canonical_order", test_canonical_order},
	{"canonical_failures", test_canonical_failures},
	{"hash", test_hash},
	{"double", test_double},
	{"add", test_add},
	CU_TEST_INFO_NULL,
};
