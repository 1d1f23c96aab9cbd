#include "../tmain.h"
#include "redact.h"
#include "json.h"

#define KEY36 "0123456789ABCDEFGHIJabcdefghij012345"
#define OWN_KEY ("ock_" KEY36)

static void expect_text(const char *text, const char *wanted)
{
	struct acp_buf buf;
	acp_buf_init(&buf, 100000);
	acp_redact_text(&buf, text, strlen(text), "ock_");
	CU_ASSERT_TRUE_FATAL(acp_buf_ok(&buf));
	const char *got = buf.ptr ? buf.ptr : "";
	char shown[300];
	snprintf(shown, sizeof shown, "%.140s, not %.140s", wanted, got);
	CU_assertImplementation(strcmp(got, wanted) == 0, __LINE__, shown, __FILE__, "", CU_FALSE);
	acp_buf_release(&buf);
}

static void untouched(const char *text)
{
	expect_text(text, text);
}

static void test_names(void)
{
	static const char *const yes[] = {
		"authorization", "cookie",        "x-api-key",     "api_key",       "apikey",      "token",
		"access_token",  "refresh_token", "client_secret", "secret",        "secret_key",  "webhook_secret",
		"password",      "passwd",        "pwd",           "private_key",   "session_id",  "auth_token",
		"bearer",        "credential",    "credentials",   "Authorization", "X-API-Key",   "X_Api_Key",
		"APIKEY",        "apiKey",        "api-key",       "Access-Token",  "accessToken", "CLIENT-SECRET",
		"sessionId",     "_token_",       "SESSION-ID",
	};
	static const char *const no[] = {
		"",           "-",           "name",
		"tokens",     "token_count", "secretary",
		"key",        "keys",        "cookies",
		"authorize",  "email",       "a_very_long_name_that_ends_with_password",
		"api_key_id", "passwords",   "session",
		"to ken",
	};
	for (size_t i = 0; i < ACP_COUNT(yes); i++)
		CU_assertImplementation(acp_redact_name(yes[i]), __LINE__, yes[i], __FILE__, "", CU_FALSE);
	for (size_t i = 0; i < ACP_COUNT(no); i++)
		CU_assertImplementation(!acp_redact_name(no[i]), __LINE__, no[i], __FILE__, "", CU_FALSE);
}

static void test_plain_text(void)
{
	untouched("");
	untouched("nothing to hide here");
	untouched("a bear, the bearer, Bearer");
	untouched("bearer:");
	untouched("sk_live_ and whsec_ and rk_");
	untouched("eyJ eyJhbGciOiJIUzI1NiJ9 eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0");
	untouched("eyJ... and so on");
	untouched("ock_tooShort12345");
	untouched("work_item_something_long_enough");
	untouched("\xc3\xa9\xe2\x82\xac \xf0\x9f\x98\x80");
}

static void test_bearer(void)
{
	expect_text("Bearer abc", "[REDACTED]");
	expect_text("Authorization: bearer  abc.DEF-1_2~3+4/5== end", "Authorization: [REDACTED] end");
	expect_text("BEARER\tx, BeArEr y", "[REDACTED], [REDACTED]");
	expect_text("(Bearer x)", "([REDACTED])");
	expect_text("\\nBearer x", "\\n[REDACTED]");
}

static void test_vendor_keys(void)
{
	expect_text("sk_live_51Habc", "[REDACTED]");
	expect_text("key sk_test_4eC39HqLyjWDarjtT1zdp7dc!", "key [REDACTED]!");
	expect_text("rk_live_a rk_test_b", "[REDACTED] [REDACTED]");
	expect_text("xrk_live_a", "x[REDACTED]");
	expect_text("rk_0123456789abcdef", "[REDACTED]");
	expect_text("rk_0123456789abcde", "rk_0123456789abcde");
	expect_text("\"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw==\"", "\"[REDACTED]\"");
	expect_text("No such customer; key=sk_live_abc&x=1", "No such customer; key=[REDACTED]&x=1");
}

static void test_own_keys(void)
{
	struct acp_buf buf;
	expect_text("ock_" KEY36, "[REDACTED]");
	expect_text("the key ock_" KEY36 ".", "the key [REDACTED].");
	expect_text("ock_0123456789012345678", "ock_0123456789012345678");
	expect_text("ock_01234567890123456789", "[REDACTED]");
	expect_text("ock_ock_01234567890123456789", "ock_[REDACTED]");
	acp_buf_init(&buf, 1000);
	acp_redact_text(&buf, "ock_" KEY36 " Bearer x", 49, NULL);
	CU_ASSERT_STRING_EQUAL(buf.ptr, "ock_" KEY36 " [REDACTED]");
	acp_buf_clear(&buf);
	acp_redact_text(&buf, "ock_" KEY36, 40, "");
	CU_ASSERT_STRING_EQUAL(buf.ptr, "ock_" KEY36);
	acp_buf_clear(&buf);
	acp_redact_text(&buf, "sk9_" KEY36, 40, "sk9_");
	CU_ASSERT_STRING_EQUAL(buf.ptr, "[REDACTED]");
	acp_buf_release(&buf);
}

static void test_jwt(void)
{
	expect_text("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln-_x", "[REDACTED]");
	expect_text("jwt=eyJh.eyJz.c2ln;", "jwt=[REDACTED];");
	expect_text("See eyJh.eyJz.c2ln. Then", "See [REDACTED]. Then");
	expect_text("eyJh.eyJz. unsigned", "[REDACTED] unsigned");
	expect_text("eyJhbGciOiJkaXIifQ..aXY.Y3Q.dGFn", "[REDACTED]");
	expect_text("eyJa.b.c.d.e", "[REDACTED]");
	expect_text("eyJa.b eyJc.d.e", "eyJa.b [REDACTED]");
}

/* Only the given bytes are searched, even when a match would continue after them. */
static void test_length(void)
{
	static const char *const texts[] = {"Bearer abc", "sk_live_abc", "eyJa.b.c", OWN_KEY};
	for (size_t i = 0; i < ACP_COUNT(texts); i++) {
		for (size_t len = 0; len <= strlen(texts[i]); len++) {
			char *copy = malloc(len ? len : 1);
			struct acp_buf buf;
			CU_ASSERT_PTR_NOT_NULL_FATAL(copy);
			memcpy(copy, texts[i], len);
			acp_buf_init(&buf, 1000);
			acp_redact_text(&buf, copy, len, "ock_");
			bool same = buf.len == len && (!len || memcmp(buf.ptr, texts[i], len) == 0);
			CU_ASSERT_TRUE(same || (buf.ptr && strcmp(buf.ptr, ACP_REDACTED) == 0));
			acp_buf_release(&buf);
			free(copy);
		}
	}
}

/* 2 MiB of almost-credentials each. If the search were not linear, this would take minutes. */
static void test_no_blowup(void)
{
	static const char *const pieces[] = {"eyJ", "eyJ.",    "eyJ-_", "bearer ", "bearer",
					     "rk_", "sk_live", "ock_",  "ock_a",   "Bearer \t"};
	size_t size = (size_t)2 * 1024 * 1024;
	for (size_t i = 0; i < ACP_COUNT(pieces); i++) {
		struct acp_buf in;
		struct acp_buf out;
		acp_buf_init(&in, size);
		acp_buf_init(&out, 2 * size);
		while (in.len + strlen(pieces[i]) <= size)
			acp_buf_puts(&in, pieces[i]);
		acp_redact_text(&out, in.ptr, in.len, "ock_");
		CU_ASSERT_TRUE(acp_buf_ok(&out));
		acp_buf_release(&in);
		acp_buf_release(&out);
	}
}

static void test_output_limit(void)
{
	struct acp_buf buf;
	acp_buf_init(&buf, 5);
	acp_redact_text(&buf, "Bearer x", 8, NULL);
	CU_ASSERT_FALSE(acp_buf_ok(&buf));
	acp_buf_release(&buf);
}

static void expect_json(const char *text, const char *wanted)
{
	static const struct acp_json_limits limits = {.max_bytes = 10000, .max_depth = 32, .max_tokens = 1000};
	struct json_object *tree = NULL;
	struct json_object *copy = NULL;
	struct json_object *view = NULL;
	struct acp_json_error error;
	struct acp_buf before;
	struct acp_buf after;
	acp_buf_init(&before, 10000);
	acp_buf_init(&after, 10000);
	CU_ASSERT_EQUAL_FATAL(acp_json_parse(text, strlen(text), &limits, &tree, &error), ACP_JSON_OK);
	acp_json_canonical(tree, &before);
	CU_ASSERT_TRUE(acp_redact_copy(tree, "ock_", &copy));
	CU_ASSERT_TRUE(tree == NULL || tree != copy);
	CU_ASSERT_TRUE(acp_redact_json(tree, "ock_", &view));
	CU_ASSERT_EQUAL(view == tree, strcmp(before.ptr, wanted) == 0); /* text that needs no change is not copied */
	acp_json_canonical(tree, &after);
	CU_ASSERT_STRING_EQUAL(before.ptr, after.ptr); /* the original is only read */
	json_object_put(tree);
	acp_buf_clear(&after);
	acp_json_canonical(copy, &after);
	CU_assertImplementation(strcmp(after.ptr, wanted) == 0, __LINE__, after.ptr, __FILE__, "", CU_FALSE);
	acp_buf_clear(&after);
	acp_json_canonical(view, &after);
	CU_ASSERT_STRING_EQUAL(after.ptr, wanted);
	json_object_put(copy);
	json_object_put(view);
	acp_buf_release(&before);
	acp_buf_release(&after);
}

/* Adds a fragment of a credential, cut anywhere, or a single character that can surround one. */
static void add_piece(struct acp_buf *text, uint32_t *state)
{
	static const char *const pieces[] = {
		"Bearer ", "bEARER\t", "sk_live_", "sk_test_", "rk_live_", "rk_",  "whsec_", "eyJ",         "ock_",
		"oc",      "k_",       "be",       "ey",       "wh",       "eyJa", ".b",     ".eyJz.c2ln_", KEY36,
		"0123",    "A",        " ",        ".",        "_",        "-",    "r",      "\xc3\xa9",    "e",
	};
	*state = *state * 1664525u + 1013904223u;
	const char *piece = pieces[(*state >> 8) % ACP_COUNT(pieces)];
	size_t len = strlen(piece);
	acp_buf_add(text, piece, (*state >> 24) % 4 ? len : (*state >> 16) % (len + 1));
}

/* acp_redact_needed is true for exactly the texts that the replacement changes: with our own prefix, with one that
 * begins like a vendor's key, and without a prefix. */
static void test_needed(void)
{
	static const char *const prefixes[] = {"ock_", "sk9_", "be_", "", NULL};
	uint32_t state = 11;
	size_t changed = 0;
	size_t wrong = 0;
	struct acp_buf in;
	struct acp_buf out;
	acp_buf_init(&in, 10000);
	acp_buf_init(&out, 40000);
	for (size_t i = 0; i < 300000; i++) {
		const char *prefix = prefixes[i % ACP_COUNT(prefixes)];
		acp_buf_clear(&in);
		acp_buf_clear(&out);
		acp_buf_puts(&in, "");
		acp_buf_puts(&out, "");
		for (size_t n = 0; n < i % 7; n++)
			add_piece(&in, &state);
		acp_redact_text(&out, in.ptr, in.len, prefix);
		bool differs = strcmp(in.ptr, out.ptr) != 0;
		changed += differs;
		wrong += differs != acp_redact_needed(in.ptr, in.len, prefix);
	}
	CU_ASSERT_EQUAL(wrong, 0);
	CU_ASSERT_TRUE(changed > 30000 && changed < 270000);
	acp_buf_release(&in);
	acp_buf_release(&out);
}

static void test_json(void)
{
	expect_json("null", "null");
	expect_json("\"\"", "\"\"");
	expect_json("[1,-9007199254740992,2.50,1e300,true,null,\"x\",[],{}]",
		    "[1,-9007199254740992,2.5,1e+300,true,null,\"x\",[],{}]");
	expect_json("{\"a\":{\"password\":\"x\",\"b\":[{\"API-Key\":1}]}}",
		    "{\"a\":{\"b\":[{\"API-Key\":\"[REDACTED]\"}],\"password\":\"[REDACTED]\"}}");
	expect_json("{\"token\":{\"deep\":[1,2]},\"secret\":null,\"cookie\":[]}",
		    "{\"cookie\":\"[REDACTED]\",\"secret\":\"[REDACTED]\",\"token\":\"[REDACTED]\"}");
	expect_json("{\"note\":\"use Bearer abc\",\"list\":[\"ock_" KEY36 "\"]}",
		    "{\"list\":[\"[REDACTED]\"],\"note\":\"use [REDACTED]\"}");
	expect_json("{\"ock_" KEY36 "\":1}", "{\"[REDACTED]\":1}");
	expect_json("\"\\u00e9 whsec_abc \\ud83d\\ude00\"", "\"\xc3\xa9 [REDACTED] \xf0\x9f\x98\x80\"");
}

static void test_json_numbers(void)
{
	struct json_object *copy = NULL;
	struct json_object *largest = json_object_new_uint64(UINT64_MAX);
	CU_ASSERT_TRUE(acp_redact_copy(largest, NULL, &copy));
	CU_ASSERT_EQUAL(json_object_get_uint64(copy), UINT64_MAX);
	json_object_put(copy);
	json_object_put(largest);
	struct json_object *signed_max = json_object_new_int64(INT64_MAX);
	CU_ASSERT_TRUE(acp_redact_copy(signed_max, NULL, &copy));
	CU_ASSERT_EQUAL(json_object_get_int64(copy), INT64_MAX);
	json_object_put(copy);
	json_object_put(signed_max);
}

const char *const acp_suite_name = "redact";

CU_TestInfo acp_tests[] = {
	{"names", test_names},
	{"plain_text", test_plain_text},
	{"bearer", test_bearer},
	{"vendor_keys", test_vendor_keys},
	{"own_keys", test_own_keys},
	{"jwt", test_jwt},
	{"length", test_length},
	{"needed", test_needed},
	{"no_blowup", test_no_blowup},
	{"output_limit", test_output_limit},
	{"json", test_json},
	{"json_numbers", test_json_numbers},
	CU_TEST_INFO_NULL,
};
