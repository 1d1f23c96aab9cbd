/* Onboarding: every rule for the request, the reply, replays, and that no row contains a key. */
#include "../tmain.h"

#include "clock.h"
#include "../fake_plane.h"
#include "onboard.h"
#include "upgrade_link.h"

/* Idempotency-Keys that nobody guesses. */
#define RETRY_1 "0b6ad2a4-8f7d-4c0e-9b1a-6d5e3f2c1a90"
#define RETRY_2 "quite-another-key-7Q2"

#define REQUEST_ID "5f0c1a52-0000-4000-8000-000000000001"

static struct acp_config config;
static struct fake_plane fake;
static struct acp_kernel kernel;
static struct acp_request request;
static struct acp_reply reply;

static void expect_at(bool ok, unsigned line, const char *what, const char *detail)
{
	char shown[500];
	snprintf(shown, sizeof shown, "%.180s: %.300s", what, detail);
	CU_assertImplementation(ok ? CU_TRUE : CU_FALSE, line, shown, __FILE__, "", CU_FALSE);
}
#define EXPECT(condition, detail) expect_at(condition, __LINE__, #condition, detail)

static void expect_text_at(const char *got, const char *wanted, unsigned line)
{
	char shown[400];
	snprintf(shown, sizeof shown, "%.180s, not %.180s", wanted, got ? got : "(null)");
	expect_at(got && strcmp(got, wanted) == 0, line, "expected", shown);
}
#define EXPECT_TEXT(got, wanted) expect_text_at(got, wanted, __LINE__)

static void start(void)
{
	char why[256] = "";
	fake_config_init(&config);
	fake_plane_init(&fake);
	if (!acp_kernel_init(&kernel, &config, &fake.plane, acp_builtin_packs, why, sizeof why))
		abort();
	request = (struct acp_request){.request_id = REQUEST_ID,
				       .method = "POST",
				       .content_type = "application/json",
				       .ip_address = "192.0.2.7"};
}

static void stop(void)
{
	json_object_put(reply.body);
	reply = (struct acp_reply){0};
	acp_kernel_release(&kernel);
	fake_plane_release(&fake);
	acp_config_release(&config);
}

static void send_body(const char *body)
{
	fake_plane_forget(&fake);
	json_object_put(reply.body);
	request.body = body;
	request.body_len = strlen(body);
	request.started_us = acp_monotonic_us();
	acp_onboard(&kernel, &request, "leadscoring", &reply);
	if (!reply.body)
		abort();
	EXPECT_TEXT(acp_json_string(reply.body, "request_id"), REQUEST_ID);
	EXPECT(acp_json_bool(reply.body, "ok") == (reply.code == ACP_OK), body);
	EXPECT(reply.http == (reply.code == ACP_OK ? 201 : acp_code_http(reply.code)), body);
	EXPECT((reply.retry_after > 0) == (reply.http == 503), body);
}

/* Checks the one row of the last request. */
static void check_row(const char *code)
{
	EXPECT(fake.event_count == 1, code);
	EXPECT_TEXT(fake_plane_column(&fake, "tenant_id"), ACP_NIL_UUID);
	EXPECT_TEXT(fake_plane_column(&fake, "action"), "onboard.leadscoring");
	EXPECT_TEXT(fake_plane_column(&fake, "actor_type"), "anonymous");
	EXPECT_TEXT(fake_plane_column(&fake, "billable"), "false");
	EXPECT_TEXT(fake_plane_column(&fake, "dry_run"), "false");
	EXPECT_TEXT(fake_plane_column(&fake, "request_id"), REQUEST_ID);
	EXPECT_TEXT(fake_plane_column(&fake, "ip_address"), "192.0.2.7");
	EXPECT(acp_is_uuid(fake_plane_column(&fake, "event_id")), "event_id");
	bool good = strcmp(code, "OK") == 0;
	EXPECT_TEXT(fake_plane_column(&fake, "error_code"), good ? "(none)" : code);
	EXPECT_TEXT(fake_plane_column(&fake, "status"), good ? "success" : "error");
}

static void refused(const char *body, const char *code, const char *field)
{
	send_body(body);
	EXPECT_TEXT(acp_code_name(reply.code), code);
	EXPECT_TEXT(acp_json_string(reply.body, "code"), code);
	if (field)
		EXPECT_TEXT(acp_json_string(reply.body, "field"), field);
	EXPECT(!acp_json_member(reply.body, "api_key") && !acp_json_member(reply.body, "tenant_uuid"), body);
	EXPECT(fake.calls[FAKE_RECORD] == 1, body);
	EXPECT(fake.calls[FAKE_ONBOARD] == 0 || reply.code != ACP_VALIDATION_ERROR, body);
	check_row(code);
}

#define GOOD "{\"agent_id\":\"agent-1\",\"email\":\"a@b.example\"}"
#define LETTERS_50 "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeee"
#define LABEL_63 "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffggg"

/* --- rules for the request ------------------------------------------------------------------------------ */

struct rule {
	const char *body;
	const char *field; /* NULL: accepted */
};

static const struct rule rules[] = {
	{"{}", "/agent_id"},
	{"[]", ""},
	{"null", ""},
	{"\"x\"", ""},
	{"{\"email\":\"a@b.example\"}", "/agent_id"},
	{"{\"agent_id\":null,\"email\":\"a@b.example\"}", "/agent_id"},
	{"{\"agent_id\":7,\"email\":\"a@b.example\"}", "/agent_id"},
	{"{\"agent_id\":[\"x\"],\"email\":\"a@b.example\"}", "/agent_id"},
	{"{\"agent_id\":\"\",\"email\":\"a@b.example\"}", "/agent_id"},
	{"{\"agent_id\":\"a b\",\"email\":\"a@b.example\"}", "/agent_id"},
	{"{\"agent_id\":\"a/b\",\"email\":\"a@b.example\"}", "/agent_id"},
	{"{\"agent_id\":\"\\u00e9\",\"email\":\"a@b.example\"}", "/agent_id"},
	{"{\"agent_id\":\"a\\n\",\"email\":\"a@b.example\"}", "/agent_id"},
	{"{\"agent_id\":\"" LETTERS_50 LETTERS_50 "0123456789012345678901234567.\",\"email\":\"a@b.example\"}",
	 "/agent_id"},
	{"{\"agent_id\":\"" LETTERS_50 LETTERS_50 "012345678901234567890123456.\",\"email\":\"a@b.example\"}", NULL},
	{"{\"agent_id\":\"A-z_0.9:x\",\"email\":\"a@b.example\"}", NULL},
	{"{\"agent_id\":\".\",\"email\":\"a@b.example\"}", NULL},
	{"{\"agent_id\":\"x1\"}", "/email"},
	{"{\"agent_id\":\"x1\",\"email\":null}", "/email"},
	{"{\"agent_id\":\"x1\",\"email\":true}", "/email"},
	{"{\"agent_id\":\"x1\",\"email\":\"a@b.example\",\"organization_name\":7}", "/organization_name"},
	{"{\"agent_id\":\"x1\",\"email\":\"a@b.example\",\"organization_name\":{}}", "/organization_name"},
	{"{\"agent_id\":\"x2\",\"email\":\"a@b.example\",\"organization_name\":null}", NULL},
	{"{\"agent_id\":\"x3\",\"email\":\"a@b.example\",\"organization_name\":\"\\u00c4rzte GmbH\"}", NULL},
};

static void test_members(void)
{
	start();
	for (size_t i = 0; i < ACP_COUNT(rules); i++) {
		if (rules[i].field) {
			refused(rules[i].body, "VALIDATION_ERROR", rules[i].field);
			continue;
		}
		send_body(rules[i].body);
		EXPECT(reply.code == ACP_OK, rules[i].body);
		check_row("OK");
		stop();
		start();
	}
	stop();
}

static const struct {
	const char *email;
	bool good;
} emails[] = {
	{"a@b.c", true},
	{"first.last+tag@sub.example.org", true},
	{"o'brien_{x}@x-y.example", true},
	{"A@1.2", true},
	{LETTERS_50 "abcdefghijklmn@b.example", true}, /* 64 before the @ */
	{"a@" LABEL_63 ".example", true},
	{"a@" LABEL_63 "." LABEL_63 "." LABEL_63 "." LETTERS_50 "aaaaaaaaaa", true},   /* 254 */
	{"a@" LABEL_63 "." LABEL_63 "." LABEL_63 "." LETTERS_50 "aaaaaaaaaaa", false}, /* 255 */
	{LETTERS_50 "abcdefghijklmno@b.example", false},
	{"a@" LABEL_63 "x.example", false},
	{"", false},
	{"a", false},
	{"@", false},
	{"a@", false},
	{"@b.example", false},
	{"a@b", false},
	{"a@b.", false},
	{"a@.b", false},
	{"a@b..c", false},
	{".a@b.c", false},
	{"a.@b.c", false},
	{"a..b@c.d", false},
	{"a@b@c.d", false},
	{"a b@c.d", false},
	{"a@b c.d", false},
	{"a@-b.c", false},
	{"a@b-.c", false},
	{"a@b.c-", false},
	{"a@b_c.d", false},
	{"\\\"a\\\"@b.c", false},
	{"a@[127.0.0.1]", false},
	{"a@b.c\\n", false},
	{"a@b.c\\nBcc: x@y.z", false},
	{"<a@b.c>", false},
	{"\\u00e9@b.c", false},
	{"a@\\u00e9.c", false},
	{"a,b@c.d", false},
};

static void test_emails(void)
{
	char body[700];
	for (size_t i = 0; i < ACP_COUNT(emails); i++) {
		start();
		snprintf(body, sizeof body, "{\"agent_id\":\"x\",\"email\":\"%s\"}", emails[i].email);
		if (emails[i].good) {
			send_body(body);
			EXPECT(reply.code == ACP_OK, body);
		} else {
			refused(body, "VALIDATION_ERROR", "/email");
		}
		stop();
	}
}

/* The limit is 255 characters, not bytes. */
static void test_organization_length(void)
{
	char body[1200];
	for (size_t count = 254; count <= 257; count++) {
		start();
		size_t used = (size_t)snprintf(body, sizeof body, GOOD);
		used = (size_t)snprintf(body + used - 1, sizeof body - used, ",\"organization_name\":\"") + used - 1;
		for (size_t i = 0; i < count; i++, used += 2)
			memcpy(body + used, "\xc3\xa9", 2);
		memcpy(body + used, "\"}", 3);
		if (count > 255)
			refused(body, "VALIDATION_ERROR", "/organization_name");
		else
			send_body(body);
		EXPECT((reply.code == ACP_OK) == (count <= 255), "length");
		stop();
	}
}

static void test_bodies(void)
{
	static char large[32768];
	start();
	refused("", "VALIDATION_ERROR", "");
	refused("{\"agent_id\":", "VALIDATION_ERROR", NULL);
	refused("{\"agent_id\":\"a\",\"agent_id\":\"b\",\"email\":\"a@b.example\"}", "VALIDATION_ERROR", "/agent_id");
	memset(large, ' ', sizeof large - 1);
	memcpy(large, GOOD, strlen(GOOD));
	refused(large, "PAYLOAD_TOO_LARGE", NULL); /* far below max_body_bytes, but anyone may call this endpoint */
	large[config.onboard_max_body_bytes + 1] = '\0';
	refused(large, "PAYLOAD_TOO_LARGE", NULL);
	large[config.onboard_max_body_bytes] = '\0';
	send_body(large);
	EXPECT(reply.code == ACP_OK, "a body of exactly the limit");
	request.body_too_large = true;
	refused(GOOD, "PAYLOAD_TOO_LARGE", NULL);
	request.body_too_large = false;
	request.body_broken = true;
	refused(GOOD, "VALIDATION_ERROR", "");
	stop();
}

static void test_transport(void)
{
	static const char *const methods[] = {"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "UNKNOWN"};
	start();
	for (size_t i = 0; i < ACP_COUNT(methods); i++) {
		request.method = methods[i];
		refused(GOOD, "METHOD_NOT_ALLOWED", NULL);
		EXPECT_TEXT(reply.allow, "POST");
	}
	request.method = "POST";
	request.content_type = "text/plain";
	refused(GOOD, "UNSUPPORTED_MEDIA_TYPE", NULL);
	request.content_type = NULL;
	refused(GOOD, "UNSUPPORTED_MEDIA_TYPE", NULL);
	request.content_type = "application/json";
	request.content_encoding = "gzip";
	refused(GOOD, "UNSUPPORTED_MEDIA_TYPE", NULL);
	EXPECT(fake.calls[FAKE_ONBOARD] == 0, "the hub was not called");
	stop();
}

static void test_idempotency_keys(void)
{
	static const char *const guessable[] = {"",
						"1",
						"order-1",
						"abcdefghijklmnopqrs",
						"aaaaaaaaaaaaaaaaaaaaaa",
						"abcdefghiabcdefghiabcdefghi",
						"aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"};
	static const char *const good[] = {"abcdefghijklmnopqrst", "abcdefghijabcdefghij",
					   "00112233-0011-4321-8321-001122330011", RETRY_1};
	char key[300];
	start();
	for (size_t i = 0; i < ACP_COUNT(guessable); i++) {
		request.idempotency_key = guessable[i];
		refused(GOOD, "VALIDATION_ERROR", "/idempotency_key");
	}
	for (size_t i = 0; i < sizeof key; i++)
		key[i] = (char)('a' + i % 26);
	key[256] = '\0';
	request.idempotency_key = key;
	refused(GOOD, "VALIDATION_ERROR", "/idempotency_key");
	key[255] = '\0';
	send_body(GOOD);
	EXPECT(reply.code == ACP_OK, "255 characters");
	stop();
	for (size_t i = 0; i < ACP_COUNT(good); i++) {
		start();
		request.idempotency_key = good[i];
		send_body(GOOD);
		EXPECT(reply.code == ACP_OK, good[i]);
		stop();
	}
}

static void test_offered(void)
{
	start();
	EXPECT(acp_onboard_offered(&kernel, "leadscoring"), "configured");
	EXPECT(!acp_onboard_offered(&kernel, "") && !acp_onboard_offered(&kernel, "lead"), "not configured");
	EXPECT(!acp_onboard_offered(&kernel, "leadscoring/"), "not configured");
	free(config.products);
	config.products = strdup("leadscoring other");
	EXPECT(acp_onboard_offered(&kernel, "other"), "the second");
	EXPECT(!acp_onboard_offered(&kernel, "leadscoring other"), "a list of products is not a product");
	config.onboarding = false;
	EXPECT(!acp_onboard_offered(&kernel, "leadscoring"), "switched off");
	config.onboarding = true;
	fake.plane.call.onboard = NULL;
	EXPECT(!acp_onboard_offered(&kernel, "leadscoring"), "a plane without onboarding");
	stop();
}

/* --- the reply ------------------------------------------------------------------------------------------ */

static void check_key(void)
{
	uint8_t hash[ACP_SHA256_LEN];
	const char *key = acp_json_string(reply.body, "api_key");
	EXPECT(key && acp_key_wellformed("ock_", key), "the form of contract section 1");
	acp_key_hash(config.key_pepper, key ? key : "", hash);
	EXPECT(memcmp(hash, fake.agents[0].key_hash, sizeof hash) == 0, "the stored hash is that of this key");
	EXPECT_TEXT(acp_json_string(reply.body, "api_key_id"), fake.agents[0].api_key_id);
	EXPECT_TEXT(acp_json_string(reply.body, "tenant_uuid"), fake.agents[0].tenant_id);
	EXPECT(acp_is_uuid(fake.agents[0].tenant_id) && acp_is_uuid(fake.agents[0].api_key_id), "ids");
	EXPECT(strcmp(fake.agents[0].tenant_id, fake.agents[0].api_key_id) != 0, "ids");
}

static void check_instructions(void)
{
	struct json_object *instructions = acp_json_member(reply.body, "instructions");
	struct json_object *example = acp_json_member(instructions, "example_request");
	struct json_object *headers = acp_json_member(example, "headers");
	struct json_object *body = acp_json_member(example, "body");
	EXPECT(json_object_array_length(acp_json_member(instructions, "setup_steps")) >= 1, "setup_steps");
	EXPECT_TEXT(acp_json_string(example, "url"), "http://127.0.0.1:8080/api/manage");
	EXPECT_TEXT(acp_json_string(headers, "X-API-Key"), acp_json_string(reply.body, "api_key"));
	EXPECT_TEXT(acp_json_string(headers, "Content-Type"), "application/json");
	EXPECT(acp_kernel_find(&kernel, acp_json_string(body, "action")) != NULL, "the example's action exists");
	EXPECT_TEXT(acp_json_string(instructions, "documentation_url"), "http://127.0.0.1:8080/llms.txt");
}

static void test_reply(void)
{
	start();
	send_body(GOOD);
	EXPECT(reply.http == 201 && reply.code == ACP_OK && !reply.replayed, "201");
	EXPECT(acp_json_bool(reply.body, "onboarded"), "onboarded");
	EXPECT_TEXT(acp_json_string(reply.body, "tier"), "free");
	EXPECT(json_object_get_int(acp_json_member(reply.body, "free_calls_remaining")) == 100, "free_calls_remaining");
	check_key();
	check_instructions();
	struct json_object *upgrade = acp_json_member(reply.body, "upgrade_info");
	EXPECT(acp_json_string(upgrade, "message") != NULL, "message");
	EXPECT(strstr(acp_json_string(upgrade, "upgrade_url"), fake.agents[0].tenant_id) != NULL, "upgrade_url");
	struct json_object *pricing = acp_json_member(reply.body, "pricing");
	EXPECT_TEXT(json_object_to_json_string_ext(pricing, JSON_C_TO_STRING_PLAIN),
		    "{\"per_call\":0.001,\"currency\":\"USD\",\"billing_period\":\"monthly\"}");
	EXPECT_TEXT(acp_json_string(reply.body, "payments"), "not_configured");
	EXPECT_TEXT(reply.tenant_id, fake.agents[0].tenant_id);
	EXPECT_TEXT(fake.trace, "onboard"); /* its row is written with the tenant */
	check_row("OK");
	stop();
}

/* The example in the reply works with the key in the reply. */
static void test_example_request(void)
{
	start();
	send_body(GOOD);
	struct json_object *example = acp_json_member(acp_json_member(reply.body, "instructions"), "example_request");
	char *body = strdup(json_object_to_json_string(acp_json_member(example, "body")));
	struct acp_reply answer;
	request.credential = acp_json_string(acp_json_member(example, "headers"), "X-API-Key");
	acp_key_hash(config.key_pepper, request.credential, fake.key_hash);
	request.method = acp_json_string(example, "method");
	request.body = body;
	request.body_len = strlen(body);
	acp_manage(&kernel, &request, &answer);
	EXPECT(answer.code == ACP_OK, json_object_to_json_string(answer.body));
	json_object_put(answer.body);
	free(body);
	request.method = "POST";
	stop();
}

static void test_configured_links(void)
{
	start();
	free(config.public_url);
	free(config.url_prefix);
	free(config.documentation_url);
	config.public_url = strdup("https://acp.example");
	config.url_prefix = strdup("/acp");
	config.documentation_url = strdup("https://docs.example/x");
	config.free_calls_limit = 7;
	send_body(GOOD);
	struct json_object *instructions = acp_json_member(reply.body, "instructions");
	struct json_object *example = acp_json_member(instructions, "example_request");
	const char *url = acp_json_string(acp_json_member(reply.body, "upgrade_info"), "upgrade_url");
	EXPECT_TEXT(acp_json_string(example, "url"), "https://acp.example/acp/api/manage");
	EXPECT_TEXT(acp_json_string(instructions, "documentation_url"), "https://docs.example/x");
	EXPECT(strncmp(url, "https://acp.example/acp/api/upgrade/checkout?", 45) == 0, url);
	EXPECT(json_object_get_int(acp_json_member(reply.body, "free_calls_remaining")) == 7, "free_calls_remaining");
	stop();
}

/* --- once ----------------------------------------------------------------------------------------------- */

/* The reply without its request id, which differs for each request. */
static char *stable_reply(void)
{
	json_object_object_del(reply.body, "request_id");
	return strdup(json_object_to_json_string_ext(reply.body, JSON_C_TO_STRING_PLAIN));
}

static void test_replay(void)
{
	start();
	request.idempotency_key = RETRY_1;
	send_body(GOOD);
	EXPECT(reply.code == ACP_OK && !reply.replayed, "first");
	char *first = stable_reply();
	send_body(" { \"email\" : \"a@b.example\", \"agent_id\" : \"agent-1\" } ");
	EXPECT(reply.code == ACP_OK && reply.replayed && reply.http == 201, "replay");
	char *second = stable_reply();
	EXPECT_TEXT(second, first);
	EXPECT(fake.agent_count == 1, "one tenant");
	check_row("OK");
	check_key();
	free(first);
	free(second);
	stop();
}

static void test_mismatch_and_taken(void)
{
	start();
	request.idempotency_key = RETRY_1;
	send_body(GOOD);
	refused("{\"agent_id\":\"agent-1\",\"email\":\"other@b.example\"}", "IDEMPOTENCY_MISMATCH", NULL);
	refused("{\"agent_id\":\"agent-2\",\"email\":\"a@b.example\"}", "IDEMPOTENCY_MISMATCH", NULL);
	request.idempotency_key = RETRY_2;
	refused(GOOD, "ALREADY_ONBOARDED", NULL);
	request.idempotency_key = NULL;
	refused(GOOD, "ALREADY_ONBOARDED", NULL);
	EXPECT(reply.http == 409 && fake.agent_count == 1, "taken");
	stop();
}

/* The hub's data must not suffice to derive the key: the Idempotency-Key is stored only as a MAC. */
static void test_stored_idempotency_key(void)
{
	start();
	request.idempotency_key = RETRY_1;
	send_body(GOOD);
	const char *stored = fake.agents[0].idempotency_key;
	EXPECT(stored && strlen(stored) == 64 && strspn(stored, "0123456789abcdef") == 64, "hex");
	uint8_t digest[ACP_SHA256_LEN];
	char plain[ACP_SHA256_HEX];
	acp_sha256(RETRY_1, 7, digest);
	acp_hex(digest, sizeof digest, plain);
	EXPECT(strcmp(stored, plain) != 0, "not a bare hash");
	stop();
}

/* Onboardings that share only the pepper, and the same one without an Idempotency-Key, give different keys. */
static void test_keys_differ(void)
{
	char first[ACP_KEY_MAX];
	start();
	send_body(GOOD);
	snprintf(first, sizeof first, "%s", acp_json_string(reply.body, "api_key"));
	send_body("{\"agent_id\":\"agent-2\",\"email\":\"a@b.example\"}");
	EXPECT(strcmp(acp_json_string(reply.body, "api_key"), first) != 0, "another agent");
	EXPECT(strcmp(fake.agents[0].salt, fake.agents[1].salt) != 0, "another salt");
	stop();
	start();
	send_body(GOOD);
	EXPECT(strcmp(acp_json_string(reply.body, "api_key"), first) != 0, "another time");
	stop();
}

/* --- traces in the rows --------------------------------------------------------------------------------- */

static void test_no_key_in_the_row(void)
{
	start();
	request.idempotency_key = RETRY_1;
	for (int i = 0; i < 2; i++) { /* the second is a replay */
		send_body(GOOD);
		const char *key = acp_json_string(reply.body, "api_key");
		const char *row = fake_plane_event(&fake);
		EXPECT(key && !strstr(row, key) && !strstr(row, key + 4), row);
		EXPECT(!strstr(row, fake.agents[0].salt) && !strstr(row, RETRY_1), row);
		EXPECT(!strstr(row, "a@b.example"), "nor the body");
	}
	refused("{\"agent_id\":\"ock_0123456789ABCDEFGHIJabcdefghij1TfgjC\",\"email\":\"hunter2\"}", "VALIDATION_ERROR",
		"/email");
	EXPECT(!strstr(fake_plane_event(&fake), "hunter2") && !strstr(fake_plane_event(&fake), "1TfgjC"),
	       "nor the sent secrets");
	stop();
}

static void test_request_hash(void)
{
	start();
	refused("{}", "VALIDATION_ERROR", "/agent_id");
	EXPECT_TEXT(fake_plane_column(&fake, "request_hash"),
		    "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
	stop();
}

static void test_hub_away(void)
{
	static const enum acp_code codes[] = {ACP_UNAVAILABLE, ACP_INTERNAL_ERROR};
	start();
	for (size_t i = 0; i < ACP_COUNT(codes); i++) {
		fake.fail[FAKE_ONBOARD] = codes[i];
		refused(GOOD, acp_code_name(codes[i]), NULL);
		EXPECT(fake.agent_count == 0, "nothing was done");
	}
	stop();
}

/* If the outcome is unknown, a client that sent no key gets one. With it, the same request returns the tenant if it was
 * created after all. */
static void test_outcome_unknown(void)
{
	char key[64];
	start();
	fake.fail[FAKE_ONBOARD] = ACP_OUTCOME_UNKNOWN;
	send_body(GOOD);
	EXPECT(reply.code == ACP_OUTCOME_UNKNOWN && reply.http == 503 && reply.retry_after > 0, "unknown");
	EXPECT_TEXT(fake_plane_column(&fake, "error_code"), "OUTCOME_UNKNOWN");
	EXPECT(fake_plane_column(&fake, "unless_onboarded") != NULL, "the row is dropped if there is one of a success");
	const char *given = acp_json_string(reply.body, "idempotency_key");
	EXPECT(given && strlen(given) > 32, "a key that cannot be guessed");
	snprintf(key, sizeof key, "%s", given ? given : "");
	fake.fail[FAKE_ONBOARD] = ACP_OK;
	request.idempotency_key = key;
	send_body(GOOD);
	EXPECT(reply.code == ACP_OK && !reply.replayed, "done now");
	send_body(GOOD);
	EXPECT(reply.code == ACP_OK && reply.replayed, "and once");
	request.idempotency_key = RETRY_1;
	fake.fail[FAKE_ONBOARD] = ACP_OUTCOME_UNKNOWN;
	send_body("{\"agent_id\":\"agent-2\",\"email\":\"a@b.example\"}");
	EXPECT_TEXT(acp_json_string(reply.body, "idempotency_key"), RETRY_1);
	request.idempotency_key = NULL;
	stop();
}

/* A refusal that cannot be audited becomes an error; a success already has its row. */
static void test_record_fails(void)
{
	static const enum acp_code codes[] = {ACP_UNAVAILABLE, ACP_INTERNAL_ERROR};
	static const char *const bodies[] = {"{}", "{", GOOD};
	start();
	send_body(GOOD);
	for (size_t i = 0; i < ACP_COUNT(codes) * ACP_COUNT(bodies); i++) {
		fake.fail[FAKE_RECORD] = codes[i % 2];
		send_body(bodies[i / 2]);
		EXPECT_TEXT(acp_code_name(reply.code), "UNAVAILABLE");
		EXPECT(reply.http == 503 && reply.retry_after > 0, bodies[i / 2]);
		EXPECT(fake.event_count == 0 && fake.calls[FAKE_RECORD] == 1, bodies[i / 2]);
		EXPECT(!acp_json_member(reply.body, "field"), bodies[i / 2]);
	}
	send_body("{\"agent_id\":\"agent-2\",\"email\":\"a@b.example\"}");
	EXPECT(reply.code == ACP_OK && fake.calls[FAKE_RECORD] == 0, "a success needs no second row");
	stop();
}

const char *const acp_suite_name = "onboard";

CU_TestInfo acp_tests[] = {
	{"members", test_members},
	{"emails", test_emails},
	{"organization_length", test_organization_length},
	{"bodies", test_bodies},
	{"transport", test_transport},
	{"idempotency_keys", test_idempotency_keys},
	{"offered", test_offered},
	{"reply", test_reply},
	{"example_request", test_example_request},
	{"configured_links", test_configured_links},
	{"replay", test_replay},
	{"mismatch_and_taken", test_mismatch_and_taken},
	{"stored_idempotency_key", test_stored_idempotency_key},
	{"outcome_unknown", test_outcome_unknown},
	{"keys_differ", test_keys_differ},
	{"no_key_in_the_row", test_no_key_in_the_row},
	{"request_hash", test_request_hash},
	{"hub_away", test_hub_away},
	{"record_fails", test_record_fails},
	CU_TEST_INFO_NULL,
};
