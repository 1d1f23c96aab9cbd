#include "../tmain.h"
#include "schema.h"
#include "buf.h"
#include "json.h"

#include <pthread.h>

static struct json_object *tree_of(const char *text)
{
	static const struct acp_json_limits limits = {
		.max_bytes = 4 * 1024 * 1024, .max_depth = 64, .max_tokens = 200000};
	struct json_object *tree = NULL;
	struct acp_json_error error;
	enum acp_json_verdict verdict = acp_json_parse(text, strlen(text), &limits, &tree, &error);
	CU_assertImplementation(verdict == ACP_JSON_OK, __LINE__, text, __FILE__, "", CU_TRUE);
	return tree;
}

static struct acp_schema *schema_of(const char *text)
{
	struct acp_schema_error error;
	struct json_object *tree = tree_of(text);
	struct acp_schema *schema = acp_schema_compile(tree, &error);
	json_object_put(tree); /* not needed afterwards */
	char shown[700];
	snprintf(shown, sizeof shown, "%.150s: %s %s", text, error.pointer, error.message);
	CU_assertImplementation(schema != NULL, __LINE__, shown, __FILE__, "", CU_TRUE);
	return schema;
}

static bool satisfies(const struct acp_schema *schema, const char *text, struct acp_schema_error *error)
{
	struct json_object *value = tree_of(text);
	bool ok = acp_schema_check(schema, value, error);
	json_object_put(value);
	return ok;
}

/* Both lists are JSON arrays: values that the schema accepts, and values that it refuses. */
static void expect(const char *schema_text, const char *good, const char *bad)
{
	struct acp_schema *schema = schema_of(schema_text);
	for (int refused = 0; refused < 2; refused++) {
		struct json_object *list = tree_of(refused ? bad : good);
		for (size_t i = 0; i < json_object_array_length(list); i++) {
			struct json_object *value = json_object_array_get_idx(list, i);
			struct acp_schema_error error;
			bool ok = acp_schema_check(schema, value, &error);
			char shown[400];
			snprintf(shown, sizeof shown, "%.150s %s %.150s", schema_text, ok ? "accepts" : "refuses",
				 json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN));
			CU_assertImplementation(ok == !refused, __LINE__, shown, __FILE__, "", CU_FALSE);
			CU_ASSERT_TRUE(ok || error.message[0]);
		}
		json_object_put(list);
	}
	acp_schema_free(schema);
}

static void expect_error(const char *schema_text, const char *value, const char *pointer, const char *message)
{
	struct acp_schema *schema = schema_of(schema_text);
	struct acp_schema_error error;
	char shown[700];
	bool ok = satisfies(schema, value, &error);
	snprintf(shown, sizeof shown, "%.100s: '%s' %s", value, error.pointer, error.message);
	ok = !ok && strcmp(error.pointer, pointer) == 0 && strcmp(error.message, message) == 0;
	CU_assertImplementation(ok, __LINE__, shown, __FILE__, "", CU_FALSE);
	acp_schema_free(schema);
}

static void refuses_schema(const char *text, const char *pointer)
{
	struct acp_schema_error error;
	struct json_object *tree = tree_of(text);
	struct acp_schema *schema = acp_schema_compile(tree, &error);
	char shown[700];
	snprintf(shown, sizeof shown, "%.150s: '%s' %s", text, error.pointer, error.message);
	bool ok = !schema && strcmp(error.pointer, pointer) == 0 && error.message[0];
	CU_assertImplementation(ok, __LINE__, shown, __FILE__, "", CU_FALSE);
	acp_schema_free(schema);
	json_object_put(tree);
}

static void test_boolean_schemas(void)
{
	expect("true", "[null,1,\"\",{}]", "[]");
	expect("{}", "[null,1,\"\",{},[]]", "[]");
	expect("false", "[]", "[null,1,\"\",{}]");
	expect("{\"properties\":{\"a\":false,\"b\":true}}", "[{},{\"b\":1},{\"c\":1},3]", "[{\"a\":null}]");
	acp_schema_free(NULL);
}

static void test_types(void)
{
	expect("{\"type\":\"null\"}", "[null]", "[0,false,\"\",[],{}]");
	expect("{\"type\":\"boolean\"}", "[true,false]", "[0,1,null,\"true\"]");
	expect("{\"type\":\"integer\"}", "[0,-1,1.0,1e2,-9007199254740992,1e300]", "[0.5,\"1\",null,true,1e-5]");
	expect("{\"type\":\"number\"}", "[0,1.5,-2e-3]", "[\"1\",null,true,[]]");
	expect("{\"type\":\"string\"}", "[\"\",\"x\"]", "[1,null,[],{}]");
	expect("{\"type\":\"array\"}", "[[],[1]]", "[{},null,\"\"]");
	expect("{\"type\":\"object\"}", "[{},{\"a\":1}]", "[[],null,\"\"]");
	expect("{\"type\":[\"string\",\"null\"]}", "[\"x\",null]", "[1,{}]");
	expect("{\"type\":[\"integer\",\"string\"]}", "[1,2.0,\"x\"]", "[1.5,null]");
}

static void test_enum_and_const(void)
{
	expect("{\"enum\":[\"a\",1,null,[1,{\"x\":2}],{\"k\":[]},true]}",
	       "[\"a\",1,1.0,1e0,null,[1,{\"x\":2}],[1.0,{\"x\":2.0}],{\"k\":[]},true]",
	       "[\"b\",0,false,[1],[1,{\"x\":3}],{\"k\":[1]},{\"k\":[],\"l\":1},{\"l\":[]},\"1\",\"\"]");
	expect("{\"const\":{\"a\":1,\"b\":2}}", "[{\"b\":2,\"a\":1}]", "[{\"a\":1},{\"a\":1,\"b\":2,\"c\":3},null]");
	expect("{\"const\":null}", "[null]", "[0,false,\"\",[],{}]");
	expect("{\"const\":false}", "[false]", "[0,null,true,[false]]");
	expect("{\"const\":0}", "[0,0.0,-0.0]", "[false,\"0\",[],1]");
	expect("{\"const\":9007199254740992}", "[9007199254740992,9007199254740992.0]", "[9007199254740991]");
}

static void test_numbers(void)
{
	expect("{\"minimum\":1,\"maximum\":10}", "[1,10,1.0,5.5,\"x\",null]", "[0,0.999,10.0001,-5,11]");
	expect("{\"exclusiveMinimum\":0,\"exclusiveMaximum\":1.5}", "[0.1,1,1.4999]", "[0,1.5,-1,2,0.0]");
	expect("{\"minimum\":-0.5}", "[-0.5,0]", "[-0.51,-1]");
	expect("{\"multipleOf\":3}", "[0,3,-9,6.0,\"x\"]", "[1,2,3.5,-1]");
	expect("{\"multipleOf\":0.01}", "[19.99,0.07,4.35,100,0,-1.13]", "[19.995,0.001]");
	expect("{\"multipleOf\":0.0001}", "[0.0075]", "[0.00751]");
	expect("{\"multipleOf\":1e-8}", "[12391239123]", "[0.000000001]");
	expect("{\"multipleOf\":0.5}", "[1e300,4.5]", "[4.4]");
	expect("{\"type\":\"integer\",\"multipleOf\":0.123456789}", "[]", "[1e308]");
	expect("{\"multipleOf\":7}", "[9007199254740988]", "[9007199254740990,9007199254740991,9007199254740992]");
}

static void test_strings(void)
{
	expect("{\"minLength\":2,\"maxLength\":3}",
	       "[\"ab\",\"abc\",\"\\u00e9\\u00e9\",\"\\ud83d\\ude00\\ud83d\\ude00\\ud83d\\ude00\",5,[]]",
	       "[\"\",\"a\",\"abcd\",\"\\ud83d\\ude00\"]");
	expect("{\"minLength\":1.0}", "[\"x\"]", "[\"\"]");
	expect("{\"maxLength\":0}", "[\"\"]", "[\"x\"]");
}

static void test_patterns(void)
{
	expect("{\"pattern\":\"b\"}", "[\"abc\",\"b\",5]", "[\"\",\"ac\"]");
	expect("{\"pattern\":\"^[A-Za-z0-9._:-]{1,128}$\"}", "[\"a\",\"A.b_c:d-e\"]",
	       "[\"\",\"a b\",\"a\\n\",\"\\u00e9\"]");
	expect("{\"pattern\":\"^\\\\d{4}-\\\\d\\\\d$\"}", "[\"2026-01\"]", "[\"2026-1\",\"x2026-01\",\"d\"]");
	expect("{\"pattern\":\"^\\\\w+\\\\s\\\\S+$\"}", "[\"a_1 \\u00e9\",\"a\\tb\"]", "[\"a\",\"- b\",\"a  \"]");
	expect("{\"pattern\":\"^\\\\D\\\\W$\"}", "[\"a-\",\"\\u00e9\\u00e9\"]", "[\"1-\",\"aa\",\"a--\"]");
	expect("{\"pattern\":\"^[\\\\w.\\\\-\\\\]\\\\^\\\\\\\\[]+$\"}", "[\"a.-]^\\\\[\"]", "[\"a b\",\"/\",\"|\"]");
	expect("{\"pattern\":\"^[\\\\d\\\\s]+$\"}", "[\"1 2\\n\"]", "[\"a\",\"d\",\"\\\\\"]");
	expect("{\"pattern\":\"^[^a\\\\d]$\"}", "[\"b\",\"\\u00e9\",\"\\ud83d\\ude00\"]", "[\"a\",\"5\",\"bb\",\"\"]");
	expect("{\"pattern\":\"^.{2}$\"}", "[\"ab\",\"\\u00e9\\ud83d\\ude00\"]",
	       "[\"a\",\"abc\",\"\\u00e9\",\"a\\n\"]");
	expect("{\"pattern\":\"^\\u00e9+$\"}", "[\"\\u00e9\\u00e9\"]", "[\"\",\"e\",\"\\u00e9e\"]");
	expect("{\"pattern\":\"^(?:a|b(c))+$\"}", "[\"abc\",\"bcbc\"]", "[\"c\",\"b\"]");
	expect("{\"pattern\":\"^\\\\/\\\\.\\\\$\\\\{\\\\<\\\\t$\"}", "[\"/.${<\\t\"]", "[\"/x${<\\t\"]");
	expect("{\"pattern\":\"\"}", "[\"\",\"x\"]", "[]");
	expect("{\"pattern\":\"^a+?b*?c{1,2}?$\"}", "[\"ac\",\"aabcc\"]", "[\"c\",\"ab\",\"accc\"]");
	expect("{\"pattern\":\"^.{0,255}$\"}", "[\"\",\"xyz\"]", "[\"\\n\"]");
}

static void test_bad_patterns(void)
{
	static const char *const patterns[] = {
		"(",        "[a",          "[",     "[]",    "[^]",     "a\\\\",     "[\\\\",   "\\\\b", "(a)\\\\1",
		"\\\\p{L}", "\\\\u0041",   "(?=a)", "(?!a)", "(?<n>a)", "[\\u00e9]", "[\\\\D]", "[z-a]", "a{2,1}",
		"(?",       "\\\\\\u00e9", "a++",   "a+*",   "a*{2}",   "a{2}{3}",   "a+??"};
	for (size_t i = 0; i < ACP_COUNT(patterns); i++) {
		char text[100];
		snprintf(text, sizeof text, "{\"properties\":{\"x\":{\"pattern\":\"%s\"}}}", patterns[i]);
		refuses_schema(text, "/properties/x/pattern");
	}
}

static void test_format_time(void)
{
	expect("{\"format\":\"date-time\"}",
	       "[\"2026-01-31T23:59:59Z\",\"2024-02-29T00:00:00.123456+01:00\",\"1985-04-12t23:20:50.52z\","
	       "\"1998-12-31T23:59:60Z\",\"1998-12-31T15:59:60.123-08:00\",\"1999-01-01T05:29:60+05:30\","
	       "\"2000-02-29T12:00:00-23:59\",5]",
	       "[\"\",\"2026-01-31\",\"2026-01-31T23:59:59\",\"2026-01-31 23:59:59Z\",\"2023-02-29T00:00:00Z\","
	       "\"1900-02-29T00:00:00Z\",\"2026-13-01T00:00:00Z\",\"2026-00-01T00:00:00Z\",\"2026-01-00T00:00:00Z\","
	       "\"2026-04-31T00:00:00Z\",\"2026-01-01T24:00:00Z\",\"2026-01-01T00:60:00Z\",\"2026-01-01T00:00:61Z\","
	       "\"1998-12-31T23:58:60Z\",\"1998-12-31T22:59:60Z\",\"2026-01-01T00:00:00.Z\",\"2026-01-01T00:00:00+24:"
	       "00\","
	       "\"2026-01-01T00:00:00+01:60\",\"2026-01-01T00:00:00+0100\",\"2026-01-01T00:00:00+01\","
	       "\"2026-01-01T00:00:00Zx\",\" 2026-01-01T00:00:00Z\",\"26-01-01T00:00:00Z\",\"2026-1-01T00:00:00Z\","
	       "\"2026-01-01T0:00:00Z\",\"2026-01-01T00:00Z\"]");
	expect("{\"format\":\"date\"}", "[\"2024-02-29\",\"2000-02-29\",\"2026-12-31\"]",
	       "[\"2023-02-29\",\"2100-02-29\",\"2026-12-32\",\"2026-12-3\",\"2026-12-311\",\"20261231\",\"\"]");
}

static void test_format_email(void)
{
	expect("{\"format\":\"email\"}",
	       "[\"a@b\",\"joe.bloggs@example.com\",\"te~st+x@example.co.uk\",\"1@2.3\",\"x@xn--e1afmkfd.example\"]",
	       "[\"\",\"a\",\"@\",\"a@\",\"@b.c\",\"a@b@c.d\",\"a "
	       "b@c.d\",\".a@b.c\",\"a.@b.c\",\"a..b@c.d\",\"a@-b.c\","
	       "\"a@b-.c\",\"a@b..c\",\"a@.b\",\"a@b.\",\"a@b_c.d\",\"a@b "
	       "c.d\",\"\\u00e9@b.c\",\"a@b.c\\n\",\"<a@b.c>\"]");
	struct acp_schema *schema = schema_of("{\"format\":\"email\"}");
	struct acp_schema_error error;
	char text[300];
	char label[80];
	memset(label, 'x', sizeof label);
	for (int extra = 0; extra < 2; extra++) {
		snprintf(text, sizeof text, "\"%.*s@example.com\"", 64 + extra, label);
		CU_ASSERT_EQUAL(satisfies(schema, text, &error), !extra);
		snprintf(text, sizeof text, "\"a@%.*s.com\"", 63 + extra, label);
		CU_ASSERT_EQUAL(satisfies(schema, text, &error), !extra);
		snprintf(text, sizeof text, "\"%.62s@%.63s.%.63s.%.*s\"", label, label, label, 63 + extra, label);
		CU_ASSERT_EQUAL(satisfies(schema, text, &error), !extra);
		snprintf(text, sizeof text, "\"%.*s@%.63s.%.63s.%.62s\"", 63 + extra, label, label, label, label);
		CU_ASSERT_EQUAL(satisfies(schema, text, &error), !extra);
	}
	acp_schema_free(schema);
}

static void test_format_other(void)
{
	expect("{\"format\":\"uri\"}",
	       "[\"http://example.com/a?b=c#d\",\"urn:uuid:x\",\"mailto:a@b.c\",\"a:b\",\"https://[::1]:80/%C3%A9\"]",
	       "[\"\",\"abc\",\"/abc\",\"//a.b/c\",\":x\",\"1a:b\",\"a:\",\"http://a "
	       "b\",\"http://a\\n\",\"http://a/%zz\","
	       "\"http://a/%4\",\"http://\\u00e9\",\"http://a/<b>\",\"a_b:c\",\"http://a\\u007f\",\"http://a\\\\b\"]");
	expect("{\"format\":\"uuid\"}",
	       "[\"2eb8aa08-aa98-11ea-b4aa-73b441d16380\",\"2EB8AA08-AA98-11EA-B4AA-73B441D16380\"]",
	       "[\"\",\"2eb8aa08-aa98-11ea-b4aa-73b441d1638\",\"2eb8aa08aa9811eab4aa73b441d16380\"]");
	expect("{\"format\":\"no-such-format\"}", "[\"x\",5]", "[]");
}

static void test_arrays(void)
{
	expect("{\"minItems\":1,\"maxItems\":2}", "[[1],[1,2],{},\"x\"]", "[[],[1,2,3]]");
	expect("{\"items\":{\"type\":\"integer\"}}", "[[],[1,2],{\"a\":\"x\"}]", "[[1,\"2\"],[null]]");
	expect("{\"items\":false}", "[[]]", "[[1]]");
	expect("{\"uniqueItems\":true}",
	       "[[],[1],[1,2],[1,\"1\"],[1,true],[0,false],[{\"a\":1},{\"a\":2}],[[1],[2]],[\"ab\",\"a\",\"b\"],[null,"
	       "0,\"\"]]",
	       "[[1,1],[1,1.0],[1,2,3,1e0],[{\"a\":1,\"b\":2},{\"b\":2,\"a\":1.0}],[[1],[1]],[null,null],[\"\",\"\"]]");
	expect("{\"uniqueItems\":false}", "[[1,1]]", "[]");
}

static void test_objects(void)
{
	expect("{\"required\":[\"a\",\"b\"]}", "[{\"a\":null,\"b\":1},[],5]", "[{},{\"a\":1},{\"b\":1}]");
	expect("{\"properties\":{\"z\":{\"type\":\"string\"},\"a\":{\"type\":\"integer\"}}}",
	       "[{},{\"a\":1,\"z\":\"\"},{\"m\":null}]", "[{\"a\":\"1\"},{\"z\":1},{\"a\":null},{\"a\":1,\"z\":null}]");
	expect("{\"properties\":{\"a\":{}},\"additionalProperties\":false}", "[{},{\"a\":5}]",
	       "[{\"b\":1},{\"a\":1,\"b\":1},{\"\":1}]");
	expect("{\"properties\":{\"a\":{}},\"additionalProperties\":{\"type\":\"number\"}}", "[{\"a\":\"x\",\"b\":1}]",
	       "[{\"b\":\"x\"},{\"c\":null}]");
	expect("{\"additionalProperties\":false}", "[{}]", "[{\"a\":1}]");
	expect("{\"minProperties\":1,\"maxProperties\":2}", "[{\"a\":1},{\"a\":1,\"b\":2},[]]",
	       "[{},{\"a\":1,\"b\":2,\"c\":3}]");
}

static const char nested[] =
	"{\"$schema\":\"http://json-schema.org/draft-07/schema#\",\"$id\":\"x\",\"$comment\":\"c\",\"title\":\"t\","
	"\"description\":\"d\",\"default\":{},\"examples\":[1],\"type\":\"object\",\"additionalProperties\":false,"
	"\"required\":[\"leads\"],\"properties\":{\"model_type\":{\"enum\":[\"linear\",\"ml\",\"rule_based\"]},"
	"\"leads\":{\"type\":\"array\",\"minItems\":1,\"maxItems\":100,\"items\":{\"type\":\"object\","
	"\"required\":[\"id\",\"features\"],\"properties\":{\"id\":{\"type\":\"string\",\"minLength\":1},"
	"\"features\":{\"type\":\"object\",\"additionalProperties\":{\"type\":\"number\"}}}}}}}";

static void test_error_pointers(void)
{
	expect_error(nested, "5", "", "must be an object");
	expect_error(nested, "{}", "/leads", "is required");
	expect_error(nested, "{\"leads\":[]}", "/leads", "must have at least 1 item");
	expect_error(nested, "{\"leads\":[{\"id\":\"a\",\"features\":{}},{\"id\":\"b\"}]}", "/leads/1/features",
		     "is required");
	expect_error(nested, "{\"leads\":[{\"id\":\"a\",\"features\":{\"x/y~z\":\"1\"}}]}", "/leads/0/features/x~1y~0z",
		     "must be a number");
	expect_error(nested, "{\"leads\":[{\"id\":\"\",\"features\":{}}]}", "/leads/0/id",
		     "must have at least 1 character");
	expect_error(nested, "{\"leads\":[{\"id\":\"a\",\"features\":{}}],\"extra\":1}", "/extra",
		     "is not allowed here");
	expect_error(nested, "{\"model_type\":\"x\",\"leads\":[1]}", "/model_type",
		     "must be one of \"linear\", \"ml\", \"rule_based\"");
	expect_error(nested, "{\"leads\":null}", "/leads", "must be an array");
}

static void test_error_messages(void)
{
	expect_error("{\"type\":[\"string\",\"integer\",\"null\"]}", "[]", "", "must be null, an integer or a string");
	expect_error("{\"type\":\"integer\"}", "1.5", "", "must be an integer");
	expect_error("{\"minimum\":0.5}", "0.25", "", "must be at least 0.5");
	expect_error("{\"exclusiveMaximum\":1e21}", "1e22", "", "must be less than 1e+21");
	expect_error("{\"multipleOf\":2}", "3", "", "must be a multiple of 2");
	expect_error("{\"maxLength\":3}", "\"abcd\"", "", "must have at most 3 characters");
	expect_error("{\"pattern\":\"^a\"}", "\"secret\"", "", "does not have the required form");
	expect_error("{\"format\":\"uuid\"}", "\"secret\"", "", "must be a UUID");
	expect_error("{\"pattern\":\"^a\",\"format\":\"month\"}", "\"2026-13\"", "", "must be a month such as 2026-01");
	expect_error("{\"const\":\"x\"}", "\"secret\"", "", "must be \"x\"");
	expect_error("{\"uniqueItems\":true}", "[1,1]", "", "must not contain the same item twice");
	char schema[400];
	char word[301];
	memset(word, 'x', sizeof word - 1);
	word[sizeof word - 1] = '\0';
	snprintf(schema, sizeof schema, "{\"enum\":[\"%s\"]}", word);
	expect_error(schema, "1", "", "is not one of the allowed values");
}

static void test_bad_schemas(void)
{
	refuses_schema("null", "");
	refuses_schema("[]", "");
	refuses_schema("\"string\"", "");
	refuses_schema("{\"oneOf\":[]}", "/oneOf");
	refuses_schema("{\"$ref\":\"#\"}", "/$ref");
	refuses_schema("{\"properties\":{\"a\":{\"minLenght\":1}}}", "/properties/a/minLenght");
	refuses_schema("{\"type\":\"int\"}", "/type");
	refuses_schema("{\"type\":[]}", "/type");
	refuses_schema("{\"type\":[\"string\",5]}", "/type");
	refuses_schema("{\"type\":null}", "/type");
	refuses_schema("{\"enum\":[]}", "/enum");
	refuses_schema("{\"enum\":\"x\"}", "/enum");
	refuses_schema("{\"required\":\"a\"}", "/required");
	refuses_schema("{\"required\":[1]}", "/required");
	refuses_schema("{\"required\":true}", "/required");
	refuses_schema("{\"properties\":[]}", "/properties");
	refuses_schema("{\"properties\":{\"b\":{},\"a\":1}}", "/properties/a");
	refuses_schema("{\"properties\":{\"a/b\":null}}", "/properties/a~1b");
	refuses_schema("{\"additionalProperties\":1}", "/additionalProperties");
	refuses_schema("{\"items\":[{}]}", "/items");
	refuses_schema("{\"items\":{\"items\":{\"x\":1}}}", "/items/items/x");
	refuses_schema("{\"minLength\":-1}", "/minLength");
	refuses_schema("{\"minLength\":1.5}", "/minLength");
	refuses_schema("{\"maxItems\":\"1\"}", "/maxItems");
	refuses_schema("{\"maxItems\":1e300}", "/maxItems");
	refuses_schema("{\"minimum\":\"1\"}", "/minimum");
	refuses_schema("{\"exclusiveMinimum\":true}", "/exclusiveMinimum");
	refuses_schema("{\"multipleOf\":0}", "/multipleOf");
	refuses_schema("{\"multipleOf\":-1}", "/multipleOf");
	refuses_schema("{\"uniqueItems\":1}", "/uniqueItems");
	refuses_schema("{\"pattern\":1}", "/pattern");
	refuses_schema("{\"format\":1}", "/format");
}

/* The array [0,1,…]; the caller frees it. */
static char *numbers(size_t count)
{
	struct acp_buf buf;
	acp_buf_init(&buf, 4 * 1024 * 1024);
	for (size_t i = 0; i < count; i++)
		acp_buf_printf(&buf, "%s%zu", i ? "," : "[", i);
	acp_buf_putc(&buf, ']');
	CU_ASSERT_TRUE_FATAL(acp_buf_ok(&buf));
	return buf.ptr;
}

static void test_large_values(void)
{
	struct acp_schema *schema = schema_of("{\"uniqueItems\":true,\"items\":{\"type\":\"integer\"}}");
	struct acp_schema_error error;
	char *text = numbers(60000);
	CU_ASSERT_TRUE(satisfies(schema, text, &error));
	memcpy(strrchr(text, ','), ",31000]", 8);
	CU_ASSERT_FALSE(satisfies(schema, text, &error));
	free(text);
	text = numbers(60000);
	memcpy(strrchr(text, ','), ",\"x\"]", 6);
	CU_ASSERT_FALSE(satisfies(schema, text, &error));
	CU_ASSERT_STRING_EQUAL(error.pointer, "/59999");
	free(text);
	acp_schema_free(schema);
}

#define THREADS 4

static void *check_often(void *data)
{
	const struct acp_schema *schema = data;
	struct json_object *good =
		json_tokener_parse("{\"leads\":[{\"id\":\"a\",\"features\":{\"x\":1.5}}],\"model_type\":\"ml\"}");
	struct json_object *bad = json_tokener_parse("{\"leads\":[{\"id\":\"a\",\"features\":{}}],\"model_type\":5}");
	bool ok = true;
	for (int i = 0; i < 500; i++) {
		struct acp_schema_error error;
		ok = ok && acp_schema_check(schema, good, &error) && !acp_schema_check(schema, bad, &error);
	}
	json_object_put(good);
	json_object_put(bad);
	return ok ? data : NULL;
}

/* Meaningful with -fsanitize=thread. */
static void test_threads(void)
{
	struct acp_schema *schema = schema_of(nested);
	pthread_t threads[THREADS];
	for (size_t i = 0; i < THREADS; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, check_often, schema), 0);
	for (size_t i = 0; i < THREADS; i++) {
		void *result = NULL;
		pthread_join(threads[i], &result);
		CU_ASSERT_PTR_EQUAL(result, schema);
	}
	acp_schema_free(schema);
}

const char *const acp_suite_name = "schema";

CU_TestInfo acp_tests[] = {
	{"boolean_schemas", test_boolean_schemas},
	{"types", test_types},
	{"enum_and_const", test_enum_and_const},
	{"numbers", test_numbers},
	{"strings", test_strings},
	{"patterns", test_patterns},
	{"bad_patterns", test_bad_patterns},
	{"format_time", test_format_time},
	{"format_email", test_format_email},
	{"format_other", test_format_other},
	{"arrays", test_arrays},
	{"objects", test_objects},
	{"error_pointers", test_error_pointers},
	{"error_messages", test_error_messages},
	{"bad_schemas", test_bad_schemas},
	{"large_values", test_large_values},
	{"threads", test_threads},
	CU_TEST_INFO_NULL,
};
