/* The router over a control plane in memory: every exit writes one audit row, the stages run in order, and a failed
 * call has no effect. */
#include "../tmain.h"

#include "clock.h"
#include "../fake_plane.h"
#include "pipeline.h"
#include "upgrade_link.h"

#include <pthread.h>

/* --- a pack for the tests ------------------------------------------------------------------------------- */

static enum acp_code ready_data(struct acp_result *result, const char *json)
{
	result->data = json_tokener_parse(json);
	return ACP_OK;
}

static enum acp_code large_data(struct acp_result *result)
{
	result->data = json_object_new_array();
	for (int i = 0; i < 50000; i++)
		json_object_array_add(result->data, json_object_new_string("0123456789"));
	return ACP_OK;
}

static enum acp_code with_meta(struct acp_result *result)
{
	result->meta = json_object_new_object();
	acp_json_add_string(result->meta, "resource_type", "thing");
	result->quantity = 7;
	return ready_data(result, "{\"n\":1}");
}

static enum acp_code write_then(struct acp_call *call, struct json_object *params, enum acp_code code)
{
	for (int i = 0; i < 2; i++) {
		struct json_object *data = NULL;
		enum acp_code ran = acp_call_sql(call, "test_write", params, &data);
		json_object_put(data);
		if (ran != ACP_OK)
			return ran;
	}
	return code == ACP_OK ? ACP_OK : acp_call_fail(call, code, "/params/how", "changed my mind about %d rows", 2);
}

/* params.how selects the behaviour. */
static enum acp_code run_how(struct acp_call *call, struct json_object *params, struct acp_result *result)
{
	const char *how = acp_json_string(params, "how");
	if (!how)
		return ready_data(result, "{\"n\":1}");
	if (strcmp(how, "null") == 0)
		return ACP_OK;
	if (strcmp(how, "large") == 0)
		return large_data(result);
	if (strcmp(how, "meta") == 0)
		return with_meta(result);
	if (strcmp(how, "fail") == 0)
		return ACP_UPSTREAM_FAILED;
	if (strcmp(how, "fail with data") == 0)
		return with_meta(result), ACP_INTERNAL_ERROR;
	if (strcmp(how, "fail with text") == 0)
		return acp_call_fail(call, ACP_CEILING_EXCEEDED, NULL, "only %d of these", 3);
	if (strcmp(how, "two codes") == 0)
		return acp_call_fail(call, ACP_NOT_FOUND, "/params/how", "secret detail"), ACP_INTERNAL_ERROR;
	if (strcmp(how, "tell a secret") == 0)
		return acp_call_fail(call, ACP_UPSTREAM_FAILED, NULL, "refused: Bearer abc.def and sk_live_51Habc");
	if (strncmp(how, "quantity ", 9) == 0) {
		result->quantity = strtoll(how + 9, NULL, 10);
		return ready_data(result, "{}");
	}
	if (strcmp(how, "write") == 0)
		return write_then(call, params, ACP_OK);
	if (strcmp(how, "write and fail") == 0)
		return write_then(call, params, ACP_VALIDATION_ERROR);
	return ready_data(result, how); /* a JSON text */
}

#define ANY "{\"type\":\"object\"}"

static const struct acp_action test_actions[] = {
	{.name = "test.do",
	 .scope = "manage.domain",
	 .description = "Does what params.how says.",
	 .params_schema = ANY,
	 .run = run_how,
	 .supports_dry_run = true,
	 .billable = true,
	 .max_quantity = 7},
	{.name = "test.free",
	 .scope = "manage.read",
	 .description = "Costs nothing.",
	 .params_schema = ANY,
	 .run = run_how,
	 .supports_dry_run = true},
	{.name = "test.sql",
	 .scope = "manage.domain",
	 .description = "Writes.",
	 .params_schema = ANY,
	 .run = acp_run_sql,
	 .sql_function = "test_write",
	 .writes = true,
	 .supports_dry_run = true,
	 .billable = true,
	 .billing_unit = "row"},
	{.name = "test.strict",
	 .scope = "manage.domain",
	 .description = "Needs a number.",
	 .params_schema = "{\"type\":\"object\",\"required\":[\"n\"],\"additionalProperties\":false,"
			  "\"properties\":{\"n\":{\"type\":\"integer\"}}}",
	 .run = run_how,
	 .billable = true},
	{.name = "test.iam",
	 .scope = "manage.iam",
	 .description = "Out of reach.",
	 .params_schema = "{\"type\":\"object\",\"maxProperties\":0}",
	 .run = run_how,
	 .billable = true},
	{0},
};
static const struct acp_pack test_pack = {"test", test_actions};
extern const struct acp_pack acp_pack_meta, acp_pack_leadscoring;
static const struct acp_pack *const packs[] = {&acp_pack_meta, &acp_pack_leadscoring, &test_pack, NULL};

/* --- one installation, one call ------------------------------------------------------------------------- */

#define REQUEST_ID "5f0c1a52-0000-4000-8000-000000000001"

static struct acp_config config;
static struct fake_plane fake;
static struct acp_kernel kernel;
static struct acp_request request;
static struct acp_reply reply;

/* On failure, shows the expectation and the case. */
static void expect_at(bool ok, unsigned line, const char *what, const char *detail)
{
	char shown[400];
	snprintf(shown, sizeof shown, "%.180s: %.200s", what, detail);
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

static void start_with_plane(void)
{
	char why[256] = "";
	bool ok = acp_kernel_init(&kernel, &config, &fake.plane, packs, why, sizeof why);
	EXPECT(ok, why);
	if (!ok)
		abort();
}

static void start(void)
{
	fake_config_init(&config);
	fake_plane_init(&fake);
	start_with_plane();
	request = (struct acp_request){.request_id = REQUEST_ID,
				       .method = "POST",
				       .content_type = "application/json",
				       .credential = fake.key,
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

static bool strict_json(const char *text)
{
	struct json_object *tree = NULL;
	struct acp_json_error bad;
	const struct acp_json_limits limits = {(size_t)64 << 20, 64, 10000000};
	bool ok = acp_json_parse(text, strlen(text), &limits, &tree, &bad) == ACP_JSON_OK;
	json_object_put(tree);
	return ok;
}

static const char *reply_text(void)
{
	return json_object_to_json_string_ext(reply.body, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
}

/* Sends the bytes, after clearing the plane's record. */
static void send_bytes(const char *body, size_t len)
{
	fake_plane_forget(&fake);
	json_object_put(reply.body);
	request.body = body;
	request.body_len = len;
	request.started_us = acp_monotonic_us();
	acp_manage(&kernel, &request, &reply);
	if (!reply.body)
		abort();
}

/* Conditions for every call: the reply and the row are strict JSON, and no transaction or reservation stays open. */
static void call(const char *body)
{
	send_bytes(body, strlen(body));
	EXPECT(strict_json(reply_text()), body);
	EXPECT(fake.event_count == 0 || strict_json(fake_plane_event(&fake)), body);
	EXPECT(reply.http == acp_code_http(reply.code), body);
	EXPECT(acp_json_bool(reply.body, "ok") == (reply.code == ACP_OK), body);
	EXPECT(fake.open == 0, body);
	EXPECT(fake.calls[FAKE_RECORD] + fake.calls[FAKE_SETTLE] >= 1, body);
	EXPECT_TEXT(acp_json_string(reply.body, "request_id"), REQUEST_ID);
	if (reply.code != ACP_OK)
		EXPECT_TEXT(acp_json_string(reply.body, "code"), acp_code_name(reply.code));
}

static struct json_object *reply_member(const char *name)
{
	return acp_json_member(reply.body, name);
}

static int64_t number(struct json_object *object, const char *name)
{
	struct json_object *value = acp_json_member(object, name);
	return value ? json_object_get_int64(value) : -1000;
}

#define DO "{\"action\":\"test.do\"}"
#define HOW(text) "{\"action\":\"test.do\",\"params\":{\"how\":\"" text "\"}}"
#define SQL "{\"action\":\"test.sql\"}"

/* --- every exit, and the order of the stages ------------------------------------------------------------ */

struct exit_case {
	const char *name;
	const char *body;
	const char *credential;    /* NULL: the good key */
	const char *method, *type; /* NULL: POST, application/json */
	bool too_large, broken, used_up, no_scope;
	enum fake_step fails; /* with code; FAKE_STEPS: none */
	enum acp_code code;
	enum acp_code wanted;
	const char *trace;
	bool known; /* the row has the tenant */
};

#define FINE .fails = FAKE_STEPS
/* A call in which every stage after the failing one would fail, too. */
#define WORST "{\"action\":\"test.iam\",\"params\":{\"x\":1},\"dry_run\":false}"

static const struct exit_case exits[] = {
	{"method", "{", "bad", "GET", "text/plain", true, FINE, .wanted = ACP_METHOD_NOT_ALLOWED, .trace = "record"},
	{"media type", "{", "bad", NULL, "text/plain", true, FINE, .wanted = ACP_UNSUPPORTED_MEDIA_TYPE,
	 .trace = "record"},
	{"size", "{", "bad", .too_large = true, FINE, .wanted = ACP_PAYLOAD_TOO_LARGE, .trace = "record"},
	{"body", "{}", "bad", .broken = true, FINE, .wanted = ACP_VALIDATION_ERROR, .trace = "record"},
	{"JSON", "{\"a\":1,}", "bad", FINE, .wanted = ACP_VALIDATION_ERROR, .trace = "record"},
	{"no body", "", "bad", FINE, .wanted = ACP_VALIDATION_ERROR, .trace = "record"},
	{"envelope", "[]", "bad", FINE, .wanted = ACP_VALIDATION_ERROR, .trace = "record"},
	{"envelope member", "{\"action\":\"test.nothing\",\"dryrun\":true}", "bad", FINE,
	 .wanted = ACP_VALIDATION_ERROR, .trace = "record"},
	{"no key", WORST, "", FINE, .wanted = ACP_INVALID_API_KEY, .trace = "record"},
	{"mistyped key", WORST, "ock_0123456789ABCDEFGHIJabcdefghij1TfgjD", FINE, .wanted = ACP_INVALID_API_KEY,
	 .trace = "record"},
	{"unknown key", WORST, "ock_0123456789ABCDEFGHIJabcdefghij1TfgjC", FINE, .wanted = ACP_INVALID_API_KEY,
	 .trace = "authenticate record"},
	{"hub down", WORST, .fails = FAKE_AUTHENTICATE, .code = ACP_UNAVAILABLE, .wanted = ACP_UNAVAILABLE,
	 .trace = "authenticate record"},
	{"look-up", "{\"action\":\"test.nothing\",\"dry_run\":true}", .used_up = true, .no_scope = true, FINE,
	 .wanted = ACP_NOT_FOUND, .trace = "authenticate record", .known = true},
	{"scope", WORST, .used_up = true, FINE, .wanted = ACP_SCOPE_DENIED, .trace = "authenticate record",
	 .known = true},
	{"scope before dry run", "{\"action\":\"test.strict\",\"dry_run\":true}", .no_scope = true, .used_up = true,
	 FINE, .wanted = ACP_SCOPE_DENIED, .trace = "authenticate record", .known = true},
	{"dry run", "{\"action\":\"test.strict\",\"dry_run\":true}", .used_up = true, FINE,
	 .wanted = ACP_VALIDATION_ERROR, .trace = "authenticate record", .known = true},
	{"params", "{\"action\":\"test.strict\",\"params\":{\"n\":\"x\"}}", .used_up = true, FINE,
	 .wanted = ACP_VALIDATION_ERROR, .trace = "authenticate record", .known = true},
	{"usage", HOW("fail"), .used_up = true, FINE, .wanted = ACP_UPGRADE_REQUIRED,
	 .trace = "authenticate reserve record", .known = true},
	{"handler", HOW("fail"), FINE, .wanted = ACP_UPSTREAM_FAILED, .trace = "authenticate reserve record",
	 .known = true},
	{"handler's text", HOW("fail with text"), FINE, .wanted = ACP_CEILING_EXCEEDED,
	 .trace = "authenticate reserve record", .known = true},
	{"handler's data", HOW("fail with data"), FINE, .wanted = ACP_INTERNAL_ERROR,
	 .trace = "authenticate reserve record", .known = true},
	{"handler's two codes", HOW("two codes"), FINE, .wanted = ACP_INTERNAL_ERROR,
	 .trace = "authenticate reserve record", .known = true},
	{"handler after writing", HOW("write and fail"), FINE, .wanted = ACP_VALIDATION_ERROR,
	 .trace = "authenticate reserve begin run run rollback record", .known = true},
	{"begin", SQL, .fails = FAKE_BEGIN, .code = ACP_UNAVAILABLE, .wanted = ACP_UNAVAILABLE,
	 .trace = "authenticate reserve begin record", .known = true},
	{"run", SQL, .fails = FAKE_RUN, .code = ACP_INTERNAL_ERROR, .wanted = ACP_INTERNAL_ERROR,
	 .trace = "authenticate reserve begin run rollback record", .known = true},
	{"settle unavailable", SQL, .fails = FAKE_SETTLE, .code = ACP_UNAVAILABLE, .wanted = ACP_UNAVAILABLE,
	 .trace = "authenticate reserve begin run settle record", .known = true},
	{"settle broken", DO, .fails = FAKE_SETTLE, .code = ACP_INTERNAL_ERROR, .wanted = ACP_INTERNAL_ERROR,
	 .trace = "authenticate reserve settle record", .known = true},
	{"settle too late", DO, .fails = FAKE_SETTLE, .code = ACP_UPGRADE_REQUIRED, .wanted = ACP_UPGRADE_REQUIRED,
	 .trace = "authenticate reserve settle record", .known = true},
};

static void run_case(const struct exit_case *c)
{
	request.method = c->method ? c->method : "POST";
	request.content_type = c->type ? c->type : "application/json";
	request.credential = !c->credential ? fake.key : *c->credential ? c->credential : NULL;
	request.body_too_large = c->too_large;
	request.body_broken = c->broken;
	fake.used = c->used_up ? fake.limit : 0;
	fake.scopes = c->no_scope ? " " : " manage.read manage.domain ";
	memset(fake.fail, 0, sizeof fake.fail);
	if (c->fails < FAKE_STEPS)
		fake.fail[c->fails] = c->code;
	call(c->body);
}

static void check_row(const struct exit_case *c)
{
	EXPECT(fake.event_count == 1, c->name);
	EXPECT_TEXT(fake_plane_column(&fake, "status"), acp_outcome_name(acp_code_outcome(c->wanted)));
	EXPECT_TEXT(fake_plane_column(&fake, "error_code"), acp_code_name(c->wanted));
	EXPECT_TEXT(fake_plane_column(&fake, "billable"), "false");
	EXPECT_TEXT(fake_plane_column(&fake, "tenant_id"), c->known ? FAKE_TENANT : ACP_NIL_UUID);
	EXPECT_TEXT(fake_plane_column(&fake, "api_key_id"), c->known ? FAKE_KEY_ID : "(none)");
	EXPECT_TEXT(fake_plane_column(&fake, "request_id"), REQUEST_ID);
	EXPECT_TEXT(fake_plane_column(&fake, "integration"), "acp-fcgi");
	EXPECT(acp_is_uuid(fake_plane_column(&fake, "event_id")), c->name);
	EXPECT(strcmp(fake_plane_column(&fake, "error_message_redacted"), "(none)") != 0, c->name);
}

/* Each stage fails in turn while all later ones would fail, too: its code wins, and there is one row. */
static void test_every_exit(void)
{
	start();
	for (size_t i = 0; i < ACP_COUNT(exits); i++) {
		const struct exit_case *c = &exits[i];
		run_case(c);
		EXPECT_TEXT(acp_code_name(reply.code), acp_code_name(c->wanted));
		EXPECT_TEXT(fake.trace, c->trace);
		EXPECT(fake.held == 0, c->name);
		EXPECT(fake.effects == 0, c->name);
		EXPECT((reply.retry_after > 0) == (reply.code == ACP_UNAVAILABLE), c->name);
		EXPECT((reply.allow != NULL) == (reply.code == ACP_METHOD_NOT_ALLOWED), c->name);
		EXPECT((acp_json_string(reply.body, "field") != NULL) == (reply.code == ACP_VALIDATION_ERROR), c->name);
		EXPECT(reply_member("data") == NULL, c->name);
		check_row(c);
	}
	stop();
}

/* A key with these characters before its check digits. */
static void make_key(const char *front, char out[ACP_KEY_MAX])
{
	static const char base62[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
	uint32_t crc = 0xffffffffu;
	for (const char *c = front; *c; c++) {
		crc ^= (unsigned char)*c;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
	}
	crc = ~crc;
	size_t len = strlen(front);
	memcpy(out, front, len + 1);
	for (int i = ACP_KEY_CHECK_LEN - 1; i >= 0; i--, crc /= 62)
		out[len + (size_t)i] = base62[crc % 62];
	out[len + ACP_KEY_CHECK_LEN] = '\0';
}

/* All wrong keys are treated alike, no matter how much of a real key they contain: hashed completely, one query, one
 * answer, one row. Only then can they take the same time (tests/abuse/timing measures that). */
static void test_wrong_keys_go_one_way(void)
{
	char guess[ACP_KEY_MAX], front[ACP_KEY_MAX];
	struct json_object *first = NULL;
	const size_t secret_end = strlen("ock_") + ACP_KEY_SECRET_LEN;
	start();
	for (size_t right = strlen("ock_"); right < secret_end; right++) {
		snprintf(front, sizeof front, "%.*s", (int)secret_end, fake.key);
		for (size_t i = right; i < secret_end; i++)
			front[i] = front[i] == 'x' ? 'y' : 'x';
		make_key(front, guess);
		EXPECT(acp_key_wellformed("ock_", guess), guess);
		request.credential = guess;
		request.method = "POST";
		call("{\"action\":\"test.do\"}");
		EXPECT_TEXT(acp_code_name(reply.code), "INVALID_API_KEY");
		EXPECT_TEXT(fake.trace, "authenticate record");
		EXPECT_TEXT(fake_plane_column(&fake, "actor_id"), "(none)");
		EXPECT(!first || json_object_equal(first, reply.body), guess);
		if (!first)
			first = json_object_get(reply.body);
	}
	json_object_put(first);
	stop();
}

/* The same exits when the row cannot be written: 503, no effect, and no trace of the first outcome. */
static void test_record_fails_everywhere(void)
{
	start();
	for (size_t i = 0; i < ACP_COUNT(exits); i++) {
		struct exit_case c = exits[i];
		if (c.fails != FAKE_STEPS)
			continue; /* two steps fail here: see test_hub_goes_away */
		c.fails = FAKE_RECORD;
		c.code = i % 2 ? ACP_INTERNAL_ERROR : ACP_UNAVAILABLE;
		fake.held = 0; /* the previous round's record could not release it */
		run_case(&c);
		EXPECT_TEXT(acp_code_name(reply.code), "UNAVAILABLE");
		EXPECT(reply.http == 503 && reply.retry_after > 0, c.name);
		EXPECT(fake.event_count == 0 && fake.calls[FAKE_RECORD] == 1, c.name);
		EXPECT(fake.effects == 0, c.name);
		EXPECT(!reply_member("upgrade_url") && !reply_member("usage"), c.name);
		EXPECT_TEXT(acp_json_string(reply.body, "error"), acp_code_sentence(ACP_UNAVAILABLE));
	}
	stop();
}

/* Settle and record both fail, as when the hub goes down in the middle of a call. */
static void test_hub_goes_away(void)
{
	start();
	fake.fail[FAKE_SETTLE] = fake.fail[FAKE_RECORD] = ACP_UNAVAILABLE;
	call(SQL);
	EXPECT_TEXT(fake.trace, "authenticate reserve begin run settle record");
	EXPECT_TEXT(acp_code_name(reply.code), "UNAVAILABLE");
	EXPECT(fake.effects == 0 && fake.event_count == 0, "nothing was done");
	stop();
}

static void test_place_given_back(void)
{
	start();
	call(HOW("write and fail"));
	EXPECT(fake.reserved, "record gets the reservation");
	EXPECT(fake.calls[FAKE_ROLLBACK] == 1 && fake.effects == 0, "rolled back");
	fake.fail[FAKE_SETTLE] = ACP_UNAVAILABLE;
	call(SQL);
	EXPECT(fake.reserved && fake.held == 0, "record releases the reservation if settle fails");
	fake.fail[FAKE_SETTLE] = ACP_UPGRADE_REQUIRED;
	call(SQL);
	EXPECT(fake.reserved && fake.held == 0, "even if it has expired: a failed settle has no effect");
	fake.fail[FAKE_SETTLE] = ACP_OK;
	fake.used = fake.limit;
	call(DO);
	EXPECT(!fake.reserved, "a refused call holds no reservation");
	EXPECT(fake.used == fake.limit, "no call was counted");
	stop();
}

/* --- success -------------------------------------------------------------------------------------------- */

static void check_success_row(void)
{
	EXPECT_TEXT(fake_plane_column(&fake, "status"), "success");
	EXPECT_TEXT(fake_plane_column(&fake, "error_code"), "(none)");
	EXPECT_TEXT(fake_plane_column(&fake, "error_message_redacted"), "(none)");
	EXPECT_TEXT(fake_plane_column(&fake, "billable"), "true");
	EXPECT_TEXT(fake_plane_column(&fake, "billing_unit"), "row");
	EXPECT_TEXT(fake_plane_column(&fake, "billing_quantity"), "1");
	EXPECT_TEXT(fake_plane_column(&fake, "dry_run"), "false");
	EXPECT_TEXT(fake_plane_column(&fake, "pack"), "test");
	EXPECT_TEXT(fake_plane_column(&fake, "action"), "test.sql");
	EXPECT_TEXT(fake_plane_column(&fake, "tenant_id"), FAKE_TENANT);
	EXPECT_TEXT(fake_plane_column(&fake, "actor_type"), "api_key");
	EXPECT_TEXT(fake_plane_column(&fake, "api_key_id"), FAKE_KEY_ID);
	EXPECT_TEXT(fake_plane_column(&fake, "tier"), "free");
	EXPECT_TEXT(fake_plane_column(&fake, "ts"), FAKE_TS);
	EXPECT_TEXT(fake_plane_column(&fake, "ip_address"), "192.0.2.7");
	EXPECT_TEXT(fake_plane_column(&fake, "idempotency_key"), "once-1");
}

static void test_success(void)
{
	start();
	request.idempotency_key = "once-1";
	call(SQL);
	EXPECT_TEXT(fake.trace, "authenticate reserve begin run settle");
	EXPECT(fake.reserved && fake.settled_with_tx && !fake.read_only,
	       "settled with its reservation and transaction");
	EXPECT(fake.effects == 1 && fake.used == 1 && fake.held == 0, "done and counted");
	check_success_row();
	EXPECT_TEXT(acp_json_string(reply_member("data"), "function"), "test_write");
	EXPECT_TEXT(acp_json_string(reply_member("data"), "tenant"), FAKE_TENANT);
	EXPECT(!acp_json_bool(reply.body, "dry_run") && !reply_member("warning"), "reply");
	EXPECT_TEXT(json_object_to_json_string_ext(reply_member("constraints_applied"), JSON_C_TO_STRING_PLAIN),
		    "[\"tenant_scoped: " FAKE_TENANT "\"]");
	EXPECT_TEXT(reply.tenant_id, FAKE_TENANT);
	EXPECT_TEXT(reply.action, "test.sql");
	EXPECT(strlen(reply.key_shown) == ACP_KEY_SHOWN && strncmp(reply.key_shown, fake.key, ACP_KEY_SHOWN) == 0,
	       "key");
	stop();
}

static void test_handler_context(void)
{
	start();
	call(SQL);
	EXPECT_TEXT(acp_json_string(fake.context, "request_id"), REQUEST_ID);
	EXPECT_TEXT(acp_json_string(fake.context, "event_id"), fake_plane_column(&fake, "event_id"));
	EXPECT_TEXT(acp_json_string(fake.context, "api_key_id"), FAKE_KEY_ID);
	EXPECT_TEXT(acp_json_string(fake.context, "ts"), FAKE_TS);
	EXPECT(!acp_json_bool(fake.context, "dry_run"), "ctx");
	call(HOW("write"));
	EXPECT_TEXT(fake.trace, "authenticate reserve begin run run settle");
	EXPECT(fake.effects == 3, "both writes of one call commit");
	stop();
}

static void test_sql_refusal(void)
{
	start();
	fake.fail[FAKE_RUN] = ACP_NOT_FOUND;
	fake.refusal = (struct acp_refusal){"there is no model 7", "/params/model_id"};
	call(SQL);
	EXPECT_TEXT(acp_code_name(reply.code), "NOT_FOUND");
	EXPECT_TEXT(acp_json_string(reply.body, "error"), "there is no model 7");
	EXPECT_TEXT(fake_plane_column(&fake, "error_message_redacted"), "there is no model 7");
	fake.fail[FAKE_RUN] = ACP_VALIDATION_ERROR;
	call(SQL);
	EXPECT_TEXT(acp_json_string(reply.body, "field"), "/params/model_id");
	stop();
}

static void expect_data(const char *how, const char *wanted)
{
	char body[256];
	snprintf(body, sizeof body, "{\"action\":\"test.do\",\"params\":{\"how\":\"%s\"}}", how);
	call(body);
	struct json_object *data = NULL;
	EXPECT(reply.code == ACP_OK, how);
	EXPECT(json_object_object_get_ex(reply.body, "data", &data), how);
	EXPECT_TEXT(json_object_to_json_string_ext(data, JSON_C_TO_STRING_PLAIN), wanted);
	EXPECT_TEXT(fake_plane_column(&fake, "billable"), "true");
}

static void test_data_of_every_kind(void)
{
	start();
	expect_data("null", "null");
	expect_data("false", "false");
	expect_data("0", "0");
	expect_data("\\\"\\\"", "\"\"");
	expect_data("[]", "[]");
	expect_data("{}", "{}");
	call(HOW("large"));
	EXPECT(reply.code == ACP_OK && json_object_array_length(reply_member("data")) == 50000, "large");
	EXPECT(strlen(fake_plane_event(&fake)) < 2000, "a row contains no payload");
	call(HOW("meta"));
	EXPECT_TEXT(fake_plane_column(&fake, "billing_quantity"), "7");
	EXPECT_TEXT(fake_plane_column(&fake, "result_meta"), "{ \"resource_type\": \"thing\" }");
	stop();
}

/* A call with this quantity must fail, once as a dry run and once in earnest, and leave a row without it. */
static void expect_no_quantity(const char *quantity)
{
	for (int dry = 0; dry < 2; dry++) {
		char body[256];
		snprintf(body, sizeof body,
			 "{\"action\":\"test.do\",\"dry_run\":%s,\"params\":{\"how\":\"quantity %s\"}}",
			 dry ? "true" : "false", quantity);
		call(body);
		EXPECT(reply.code == ACP_INTERNAL_ERROR && reply.http == 500, quantity);
		EXPECT_TEXT(acp_json_string(reply.body, "error"), acp_code_sentence(ACP_INTERNAL_ERROR));
		EXPECT_TEXT(fake_plane_column(&fake, "status"), "error");
		EXPECT_TEXT(fake_plane_column(&fake, "billing_quantity"), "1");
		EXPECT(fake.used == 0 && fake.held == 0, quantity);
	}
}

static void test_quantities(void)
{
	start();
	expect_no_quantity("-1");
	expect_no_quantity("8");
	expect_no_quantity("9223372036854775807");
	expect_no_quantity("-9223372036854775808");
	call(HOW("quantity 7"));
	EXPECT_TEXT(fake_plane_column(&fake, "billing_quantity"), "7");
	call(HOW("quantity 0"));
	EXPECT_TEXT(fake_plane_column(&fake, "billing_quantity"), "0");
	EXPECT(fake.max_quantity == 7, "settle gets the maximum");
	call(SQL);
	EXPECT(fake.max_quantity == 1000000, "the default of a unit that is not a call");
	stop();
}

static void test_largest_quantities(void)
{
	static const struct {
		const char *unit;
		int64_t given, most;
	} cases[] = {{NULL, 0, 1},   {"call", 0, 1},  {"row", 0, 1000000}, {"sec", 0, ACP_QUANTITY_DEFAULT},
		     {"call", 9, 9}, {"token", 3, 3}, {NULL, 2, 2},        {"row", ACP_QUANTITY_MAX, 1000000000000}};
	for (size_t i = 0; i < ACP_COUNT(cases); i++) {
		const struct acp_action action = {.billing_unit = cases[i].unit, .max_quantity = cases[i].given};
		EXPECT(acp_action_max_quantity(&action) == cases[i].most, cases[i].unit ? cases[i].unit : "null");
	}
}

static void test_not_billable(void)
{
	start();
	fake.used = fake.limit;
	call("{\"action\":\"test.free\"}");
	EXPECT_TEXT(fake.trace, "authenticate settle");
	EXPECT(reply.code == ACP_OK && !fake.reserved, "never refused by the quota");
	EXPECT_TEXT(fake_plane_column(&fake, "billable"), "false");
	EXPECT(!reply_member("warning"), "no warning");
	call("{\"action\":\"meta.version\",\"params\":{}}");
	EXPECT(reply.code == ACP_OK && fake.calls[FAKE_RESERVE] == 0, "meta works when the allowance is used up");
	stop();
}

static void test_meta_actions(void)
{
	start();
	call("{\"action\":\"meta.actions\"}");
	struct json_object *list = acp_json_member(reply_member("data"), "actions");
	EXPECT(json_object_array_length(list) == kernel.entry_count, "all actions");
	EXPECT(number(reply_member("data"), "total_actions") == (int64_t)kernel.entry_count, "total_actions");
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *def = json_object_array_get_idx(list, i);
		const char *name = acp_json_string(def, "name");
		const struct acp_entry *entry = acp_kernel_find(&kernel, name);
		struct json_object *price = acp_json_member(def, "price");
		EXPECT(json_object_object_length(def) == (acp_json_bool(def, "billable") ? 9 : 8), name);
		EXPECT((price != NULL) == acp_json_bool(def, "billable"), name);
		EXPECT(!price || strcmp(acp_json_string(price, "unit"), "call") == 0, name);
		EXPECT(!price || strcmp(acp_json_string(price, "currency"), "USD") == 0, name);
		EXPECT(entry && acp_json_bool(def, "billable") == entry->action->billable, name);
		EXPECT(json_object_is_type(acp_json_member(def, "params_schema"), json_type_object), name);
		EXPECT(json_object_object_get_ex(def, "billing_unit", NULL), name);
	}
	fake.fail[FAKE_GET_PRICES] = ACP_UNAVAILABLE;
	call("{\"action\":\"meta.actions\"}");
	list = acp_json_member(reply_member("data"), "actions");
	EXPECT(reply.code == ACP_OK && json_object_array_length(list) == kernel.entry_count, "without prices");
	EXPECT(!acp_json_member(json_object_array_get_idx(list, 0), "price"), "without prices");
	stop();
}

/* --- dry run -------------------------------------------------------------------------------------------- */

#define DRY_SQL "{\"action\":\"test.sql\",\"dry_run\":true}"

static void check_dry_run(void)
{
	EXPECT(reply.code == ACP_OK && acp_json_bool(reply.body, "dry_run"), reply_text());
	EXPECT(!fake.reserved && !fake.settled_with_tx && fake.calls[FAKE_RESERVE] == 0, "uses nothing");
	EXPECT(fake.effects == 0 && fake.read_only && fake.calls[FAKE_ROLLBACK] == 1, "leaves nothing");
	EXPECT_TEXT(fake_plane_column(&fake, "billable"), "false");
	EXPECT_TEXT(fake_plane_column(&fake, "dry_run"), "true");
	EXPECT_TEXT(fake_plane_column(&fake, "status"), "success");
	EXPECT(fake.event_count == 1 && !reply_member("warning"), "one row");
}

static double estimated_cost(void)
{
	struct json_object *cost = acp_json_member(reply_member("data"), "estimated_cost");
	EXPECT_TEXT(acp_json_string(cost, "currency"), "USD");
	return json_object_get_double(acp_json_member(cost, "amount"));
}

static void test_dry_run(void)
{
	start();
	fake.used = fake.limit; /* works even if the real call would be refused */
	call(DRY_SQL);
	EXPECT_TEXT(fake.trace, "authenticate begin run rollback get_prices settle");
	check_dry_run();
	EXPECT(estimated_cost() == 0, "a free tenant pays nothing");
	EXPECT_TEXT(fake.price_unit, "row");
	EXPECT(acp_json_bool(fake.context, "dry_run"), "the function knows that it is a dry run");
	fake.tier = ACP_TIER_PAID;
	call(DRY_SQL);
	check_dry_run();
	EXPECT(estimated_cost() == 0.007, "a paid tenant pays the price");
	stop();
}

static void test_dry_run_estimates(void)
{
	start();
	fake.tier = ACP_TIER_PAID;
	call("{\"action\":\"test.do\",\"dry_run\":true,\"params\":{\"how\":\"meta\"}}");
	EXPECT_TEXT(fake.price_unit, "call");
	EXPECT(fake.price_quantity == 7 && estimated_cost() == 0.007, "the handler's quantity");
	call("{\"action\":\"test.free\",\"dry_run\":true}");
	EXPECT(estimated_cost() == 0, "an action that is not billable costs nothing");
	call("{\"action\":\"test.do\",\"dry_run\":true,\"params\":{\"how\":\"[]\"}}");
	EXPECT(reply.code == ACP_OK && fake.calls[FAKE_GET_PRICES] == 0, "no estimate if data is not an object");
	fake.fail[FAKE_GET_PRICES] = ACP_UNAVAILABLE;
	call(DRY_SQL);
	EXPECT(reply.code == ACP_OK && !acp_json_member(reply_member("data"), "estimated_cost"),
	       "no price, no estimate");
	stop();
}

/* What a function reports in a transaction is known in a dry run, too. */
static void test_quantities_of_a_dry_run(void)
{
	start();
	fake.tier = ACP_TIER_PAID;
	fake.reported = 40;
	call(DRY_SQL);
	EXPECT(reply.code == ACP_OK && fake.price_quantity == 40, "the reported quantity is estimated");
	EXPECT_TEXT(fake_plane_column(&fake, "billing_quantity"), "40");
	for (int i = 0; i < 2; i++) {
		fake.reported = i ? -1 : 1000001;
		call(DRY_SQL);
		EXPECT(reply.code == ACP_INTERNAL_ERROR && fake.calls[FAKE_ROLLBACK] == 1, "refused as in earnest");
	}
	stop();
}

/* --- usage ---------------------------------------------------------------------------------------------- */

static void test_warning_boundary(void)
{
	start();
	for (int64_t used = 86; used < 100; used++) {
		char shown[32];
		fake.used = used;
		call(DO);
		snprintf(shown, sizeof shown, "the call that makes %d", (int)used + 1);
		EXPECT(reply.code == ACP_OK, shown);
		EXPECT((reply_member("warning") != NULL) == (used + 1 >= 90), shown);
	}
	struct json_object *warning = reply_member("warning");
	struct json_object *usage = acp_json_member(warning, "usage");
	EXPECT(number(usage, "calls_used") == 100 && number(usage, "calls_limit") == 100, "numbers");
	EXPECT(number(usage, "calls_remaining") == 0, "numbers");
	EXPECT_TEXT(acp_json_string(usage, "tier"), "free");
	EXPECT(acp_json_string(warning, "message") != NULL, "message");
	EXPECT(acp_json_string(warning, "upgrade_url") != NULL, "upgrade_url");
	stop();
}

/* 90 % of 7 is 6.3: the seventh call is the first one above that. */
static void test_warning_of_odd_limits(void)
{
	start();
	fake.limit = 7;
	fake.used = 5;
	call(DO);
	EXPECT(!reply_member("warning"), "6 of 7");
	call(DO);
	EXPECT(reply_member("warning") != NULL, "7 of 7");
	fake.tier_now = ACP_TIER_PAID;
	fake.used = 99;
	call(DO);
	EXPECT(reply.code == ACP_OK && !reply_member("warning") && !fake.reserved, "a paid tenant is not limited");
	EXPECT_TEXT(fake_plane_column(&fake, "tier"), "paid");
	stop();
}

/* While an invoice is unpaid, each success warns, whatever it is. */
static void test_warning_past_due(void)
{
	start();
	fake.tier = fake.tier_now = ACP_TIER_PAID;
	fake.past_due_us = INT64_C(1796688000) * 1000000;
	for (const char *const *body = (const char *const[]){DO, DRY_SQL, "{\"action\":\"test.free\"}", NULL}; *body;
	     body++) {
		call(*body);
		EXPECT(reply.code == ACP_OK, reply_text());
		struct json_object *warning = reply_member("warning");
		EXPECT_TEXT(acp_json_string(warning, "past_due_until"), "2026-12-08T00:00:00Z");
		EXPECT(strstr(acp_json_string(warning, "message"), "From 2026-12-08T00:00:00Z on") != NULL,
		       reply_text());
		EXPECT(acp_json_string(warning, "upgrade_url") != NULL, reply_text());
		EXPECT(!acp_json_member(warning, "usage"), reply_text());
	}
	fake.tier = fake.tier_now = ACP_TIER_FREE;
	fake.used = 95;
	call(DO);
	EXPECT(strstr(acp_json_string(reply_member("warning"), "message"), "Since 2026-12-08") != NULL, reply_text());
	EXPECT(number(acp_json_member(reply_member("warning"), "usage"), "calls_used") == 96, reply_text());
	fake.used = fake.limit;
	call(DO);
	EXPECT(reply.code == ACP_UPGRADE_REQUIRED && !reply_member("warning"), reply_text());
	/* A remote hub tells it with the reservation. */
	fake.past_due_us = 0;
	fake.past_due = "2026-12-09T00:00:00Z";
	fake.tier = fake.tier_now = ACP_TIER_PAID;
	call(DO);
	EXPECT_TEXT(acp_json_string(reply_member("warning"), "past_due_until"), "2026-12-09T00:00:00Z");
	stop();
}

static void check_upgrade_body(const char *resets_at)
{
	struct json_object *usage = reply_member("usage");
	struct json_object *retryable = reply_member("retryable");
	EXPECT(reply.http == 402 && reply.retry_after == 0, reply_text());
	EXPECT_TEXT(acp_json_string(reply.body, "error"),
		    "Free tier limit reached (100 calls). Add a payment method to continue.");
	EXPECT(acp_json_string(reply.body, "upgrade_url") != NULL, reply_text());
	EXPECT(number(usage, "calls_used") + number(usage, "calls_held") == 100, reply_text());
	EXPECT(number(usage, "calls_limit") == 100 && number(usage, "calls_remaining") == 0, reply_text());
	EXPECT_TEXT(acp_json_string(reply.body, "resets_at"), resets_at);
	EXPECT(retryable && !json_object_get_boolean(retryable), reply_text());
}

static void test_upgrade_required(void)
{
	start();
	fake.used = 100;
	call(DO);
	check_upgrade_body("2026-12-01T00:00:00Z");
	EXPECT_TEXT(fake_plane_column(&fake, "status"), "denied");
	fake.ts = "2026-12-31 23:59:59.999999+00";
	call(DO);
	check_upgrade_body("2027-01-01T00:00:00Z");
	EXPECT(fake.used == 100 && fake.held == 0, "a refused call uses nothing");
	stop();
}

/* If the reservation was lost while the handler ran, or there was none, and the allowance is used up by then, the call
 * gets a normal 402. */
static void test_upgrade_required_at_settle(void)
{
	start();
	fake.used = 99;
	fake.fail[FAKE_SETTLE] = ACP_UPGRADE_REQUIRED;
	call(SQL);
	EXPECT_TEXT(fake_plane_column(&fake, "error_code"), "UPGRADE_REQUIRED");
	EXPECT(fake.effects == 0 && fake.calls[FAKE_RECORD] == 1 && fake.held == 0, "nothing was done");
	check_upgrade_body("2026-12-01T00:00:00Z");
	fake.used = 100;
	fake.fail[FAKE_RESERVE] = ACP_UNAVAILABLE; /* no reservation: the check had failed open */
	call(SQL);
	EXPECT(fake.effects == 0 && !fake.reserved && fake.event_count == 1, "nothing was done");
	check_upgrade_body("2026-12-01T00:00:00Z");
	stop();
}

/* The refusal says what GET /api/usage says, not that as many calls were used as are free. */
static void test_refusal_says_the_figures(void)
{
	start();
	fake.used = 60;
	fake.limit = 40;
	call(DO);
	struct json_object *usage = reply_member("usage");
	EXPECT(number(usage, "calls_used") == 60 && number(usage, "calls_held") == 0, reply_text());
	EXPECT(number(usage, "calls_limit") == 40 && number(usage, "calls_remaining") == 0, reply_text());
	EXPECT_TEXT(acp_json_string(reply.body, "error"),
		    "Free tier limit reached (40 calls). Add a payment method to continue.");
	stop();
}

/* After a commit without an answer the router determines the outcome of the call and reports it. */
static void test_commit_without_answer(void)
{
	start();
	fake.fail[FAKE_SETTLE] = ACP_OUTCOME_UNKNOWN;
	call(SQL);
	EXPECT(reply.code == ACP_OK && acp_json_member(reply.body, "data"), reply_text());
	EXPECT(fake.event_count == 0 && fake.calls[FAKE_RECORD] == 0 && fake.held == 0,
	       "no row but that of the success");
	fake.fail[FAKE_RESOLVE] = ACP_UNAVAILABLE;
	call(SQL);
	EXPECT(reply.code == ACP_UNAVAILABLE && !acp_json_member(reply.body, "idempotency_key"), reply_text());
	EXPECT_TEXT(fake_plane_column(&fake, "error_code"), "UNAVAILABLE");
	EXPECT(fake.event_count == 1 && fake.calls[FAKE_RECORD] == 0, "one row");
	fake.fail[FAKE_RESOLVE] = ACP_OUTCOME_UNKNOWN;
	call(SQL);
	EXPECT(reply.code == ACP_OUTCOME_UNKNOWN && reply.http == 503 && reply.retry_after > 0, reply_text());
	EXPECT(acp_json_string(reply.body, "idempotency_key") != NULL, reply_text());
	EXPECT(fake.event_count == 1 && fake.calls[FAKE_RECORD] == 0, "one row");
	request.idempotency_key = "mine";
	call(SQL);
	EXPECT_TEXT(acp_json_string(reply.body, "idempotency_key"), "mine");
	request.idempotency_key = NULL;
	stop();
}

static void copy_query(const char *url, const char *name, char *out, size_t size)
{
	const char *at = strstr(url, name);
	at = at ? at + strlen(name) : "";
	snprintf(out, size, "%.*s", (int)strcspn(at, "&"), at);
}

/* The link of a 402 is valid for its tenant and time, and for no other. */
static void test_upgrade_url(void)
{
	char tenant[64], expires[64], signature[128];
	start();
	fake.used = 100;
	call(DO);
	const char *url = acp_json_string(reply.body, "upgrade_url");
	EXPECT(strncmp(url, "http://127.0.0.1:8080/api/upgrade/checkout?", 43) == 0, url);
	copy_query(url, "tenant=", tenant, sizeof tenant);
	copy_query(url, "exp=", expires, sizeof expires);
	copy_query(url, "sig=", signature, sizeof signature);
	int64_t end = strtoll(expires, NULL, 10);
	EXPECT(acp_upgrade_url_ok(&config, tenant, expires, signature, end - 1), url);
	EXPECT(!acp_upgrade_url_ok(&config, tenant, expires, signature, end), "expired");
	EXPECT(!acp_upgrade_url_ok(&config, FAKE_KEY_ID, expires, signature, end - 1), "another tenant");
	expires[0]++;
	EXPECT(!acp_upgrade_url_ok(&config, tenant, expires, signature, end - 1), "a later end");
	expires[0]--;
	signature[63] = signature[63] == '0' ? '1' : '0';
	EXPECT(!acp_upgrade_url_ok(&config, tenant, expires, signature, end - 1), "another signature");
	EXPECT(!acp_upgrade_url_ok(&config, tenant, expires, "", end - 1), "no signature");
	stop();
}

static void test_fail_open(void)
{
	static const enum acp_code codes[] = {ACP_UNAVAILABLE, ACP_INTERNAL_ERROR};
	start();
	fake.used = fake.limit;
	for (size_t i = 0; i < ACP_COUNT(codes); i++) {
		fake.fail[FAKE_RESERVE] = codes[i];
		call(HOW("meta"));
		EXPECT(reply.code == ACP_OK && !fake.reserved, "the call runs without a reservation");
		EXPECT(strstr(fake_plane_column(&fake, "result_meta"), "usage_check") != NULL, fake_plane_event(&fake));
		EXPECT(strstr(fake_plane_column(&fake, "result_meta"), "resource_type") != NULL,
		       fake_plane_event(&fake));
		EXPECT_TEXT(fake_plane_column(&fake, "billable"), "true");
		EXPECT(!reply_member("warning"), "the allowance is unknown");
		call(HOW("fail"));
		EXPECT(!fake.reserved && fake.event_count == 1, "no reservation to release");
		EXPECT(strstr(fake_plane_column(&fake, "result_meta"), "usage_check") != NULL, fake_plane_event(&fake));
	}
	fake.fail[FAKE_RESERVE] = ACP_OK;
	fake.used = 0;
	call(DO);
	EXPECT_TEXT(fake_plane_column(&fake, "result_meta"), "(none)");
	stop();
}

/* --- usage is opt-in: without it, nothing changes for callers ------------------------------------------- */

#define SCORES                                                                                                         \
	"{\"action\":\"domain.leadscoring.scores.compute\",\"params\":{\"weights\":{\"a\":2},"                         \
	"\"leads\":[{\"id\":\"l\",\"features\":{\"a\":1.5}}]}}"

static const char *const calls[] = {
	DO,
	SQL,
	HOW("meta"),
	HOW("fail"),
	HOW("fail with text"),
	HOW("write and fail"),
	HOW("null"),
	"{\"action\":\"test.free\"}",
	"{\"action\":\"test.strict\",\"params\":{\"n\":1}}",
	"{\"action\":\"test.strict\"}",
	"{\"action\":\"test.iam\"}",
	"{\"action\":\"test.nothing\"}",
	"{\"action\":\"meta.actions\"}",
	"{\"action\":\"meta.version\"}",
	"{",
	"{}",
	"{\"action\":\"domain.leadscoring.models.create\",\"params\":{\"name\":\"m\",\"model_type\":\"linear\"}}",
	"{\"action\":\"domain.leadscoring.models.list\"}",
	"{\"action\":\"domain.leadscoring.questions.upsert_bulk\",\"params\":{\"questions\":[{\"key\":\"k\",\"text\":"
	"\"t\"}]}}",
	"{\"action\":\"domain.leadscoring.questions.list\"}",
	SCORES,
};

static void restart_with(bool enforcement, bool plane_has_usage)
{
	acp_kernel_release(&kernel);
	config.usage_enforcement = enforcement;
	fake.used = enforcement && plane_has_usage ? 0 : fake.limit + 50;
	if (!plane_has_usage) {
		fake.plane.usage.get = NULL;
		fake.plane.usage.reserve = NULL;
		fake.plane.call.onboard = NULL;
	}
	start_with_plane();
}

/* The reply to each call as text, with usage enforced and far from the limit. */
static void collect(char *texts[ACP_COUNT(calls)])
{
	for (size_t i = 0; i < ACP_COUNT(calls); i++) {
		call(calls[i]);
		texts[i] = strdup(reply_text());
	}
}

static void compare(char *texts[ACP_COUNT(calls)])
{
	for (size_t i = 0; i < ACP_COUNT(calls); i++) {
		call(calls[i]);
		EXPECT_TEXT(reply_text(), texts[i]);
		EXPECT(fake.calls[FAKE_RESERVE] == 0 && fake.calls[FAKE_GET_USAGE] == 0, calls[i]);
		EXPECT(!fake.reserved && fake.event_count == 1, calls[i]);
		EXPECT(reply.code == ACP_OK || strcmp(fake_plane_column(&fake, "billable"), "false") == 0, calls[i]);
	}
}

static void test_usage_is_opt_in(void)
{
	char *texts[ACP_COUNT(calls)];
	start();
	collect(texts);
	restart_with(false, true); /* switched off */
	compare(texts);
	restart_with(true, true);
	fake.plane.usage.get = NULL; /* enforced only if the control plane has get_usage() */
	fake.used = fake.limit + 50;
	compare(texts);
	restart_with(true, false); /* a plane without usage and onboarding */
	compare(texts);
	for (size_t i = 0; i < ACP_COUNT(calls); i++)
		free(texts[i]);
	stop();
}

/* --- request hash, redaction, input from outside -------------------------------------------------------- */

static void expect_hash(const char *body, const char *hash)
{
	call(body);
	EXPECT_TEXT(fake_plane_column(&fake, "request_hash"), hash);
}

static void test_request_hash(void)
{
	static const char iam[] = "d420257864cda533397b394401719e2cf0820dd88d132e8d83d38469eee28bfc";
	start();
	expect_hash("{}", "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
	expect_hash(" {\"a\" : 1} ", "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862");
	expect_hash("{\"action\":\"iam.keys.create\",\"params\":{\"name\":\"x\",\"scopes\":[\"manage.read\"]}}", iam);
	expect_hash("{\"params\":{\"scopes\":[\"manage.read\"],\"name\":\"\\u0078\"},\"action\":\"iam.keys.create\"}",
		    iam);
	request.credential = NULL;
	expect_hash("{\"action\":\"iam.keys.create\",\"params\":{\"name\":\"x\",\"scopes\":[\"manage.read\"]}}", iam);
	expect_hash("{\"a\":1", "(none)");
	stop();
}

/* Calls that differ only in redacted parts have the same hash, so the hash reveals nothing about those parts. */
static void test_request_hash_of_secrets(void)
{
	char first[ACP_SHA256_HEX];
	start();
	call("{\"action\":\"test.do\",\"params\":{\"password\":\"hunter2\"}}");
	snprintf(first, sizeof first, "%s", fake_plane_column(&fake, "request_hash"));
	expect_hash("{\"action\":\"test.do\",\"params\":{\"password\":\"hunter3\"}}", first);
	call("{\"action\":\"test.do\",\"params\":{\"passwort\":\"hunter3\"}}");
	EXPECT(strcmp(fake_plane_column(&fake, "request_hash"), first) != 0, "other values change the hash");
	stop();
}

/* None of these secrets is in the row of the call, whatever its outcome. */
static void expect_no_secret(const char *body)
{
	static const char *const secrets[] = {"hunter2", "sk_live_51H", "whsec_abc", "abc.def", "0123456789ABCDEFGHIJ"};
	call(body);
	const char *row = fake_plane_event(&fake);
	EXPECT(fake.event_count == 1, body);
	for (size_t i = 0; i < ACP_COUNT(secrets); i++)
		EXPECT(strstr(row, secrets[i]) == NULL, row);
	EXPECT(strstr(row, fake.key) == NULL, row);
}

#define OWN_KEY "ock_0123456789ABCDEFGHIJabcdefghij1TfgjC"

static void test_redaction(void)
{
	start();
	request.idempotency_key = "retry-sk_live_51Habc";
	expect_no_secret("{\"action\":\"test.do\",\"params\":{\"password\":\"hunter2\",\"note\":\"Bearer abc.def\"}}");
	EXPECT_TEXT(fake_plane_column(&fake, "idempotency_key"), "retry-[REDACTED]");
	request.idempotency_key = NULL;
	expect_no_secret("{\"action\":\"" OWN_KEY "\"}");
	EXPECT_TEXT(fake_plane_column(&fake, "action"), "[REDACTED]");
	expect_no_secret("{\"action\":\"test.do\",\"" OWN_KEY "\":\"hunter2\"}");
	expect_no_secret("{\"action\":\"test.strict\",\"params\":{\"n\":1,\"" OWN_KEY "\":\"whsec_abc\"}}");
	expect_no_secret(HOW("tell a secret"));
	EXPECT_TEXT(fake_plane_column(&fake, "error_message_redacted"), "refused: [REDACTED] and [REDACTED]");
	expect_no_secret(
		"{\"action\":\"test.do\",\"params\":{\"how\":\"sk_live_51Habc\"},\"idempotency_key\":\"whsec_abc\"}");
	request.credential = OWN_KEY;
	expect_no_secret(DO);
	stop();
}

/* A key must stay out of the row even when the message is cut in its middle (12 characters are public). */
static void test_redaction_before_cutting(void)
{
	char body[512], padding[200], shown[300] = "";
	start();
	for (size_t at = 60; at < 110; at++) {
		memset(padding, 'x', at);
		snprintf(padding + at, sizeof padding - at, " ");
		snprintf(body, sizeof body, "{\"action\":\"%s%s\"}", padding, OWN_KEY);
		call(body);
		EXPECT(fake.event_count == 1, body);
		if (strstr(fake_plane_event(&fake), "ock_0123456789") && !*shown)
			snprintf(shown, sizeof shown, "%.250s", fake_plane_column(&fake, "error_message_redacted"));
	}
	EXPECT(!*shown, shown);
	stop();
}

static void test_address_and_trace(void)
{
	static const struct {
		const char *address, *trace, *kept_address, *kept_trace;
	} rows[] = {
		{"2001:db8::1", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "2001:db8::1",
		 "4bf92f3577b34da6a3ce929d0e0e4736"},
		{NULL, NULL, "(none)", "(none)"},
		{"unix:", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "(none)", "(none)"},
		{"", "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-001", "(none)", "(none)"},
		{"1.2.3", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", "(none)", "(none)"},
		{"1.2.3.4, 5.6.7.8", "", "(none)", "(none)"},
	};
	start();
	for (size_t i = 0; i < ACP_COUNT(rows); i++) {
		request.ip_address = rows[i].address;
		request.traceparent = rows[i].trace;
		call(DO);
		EXPECT_TEXT(fake_plane_column(&fake, "ip_address"), rows[i].kept_address);
		EXPECT_TEXT(fake_plane_column(&fake, "trace_id"), rows[i].kept_trace);
	}
	stop();
}

/* --- the envelope --------------------------------------------------------------------------------------- */

static void expect_field(const char *body, const char *field)
{
	call(body);
	EXPECT_TEXT(acp_code_name(reply.code), "VALIDATION_ERROR");
	EXPECT_TEXT(acp_json_string(reply.body, "field"), field);
	EXPECT(fake.event_count == 1, body);
}

static void test_envelope_members(void)
{
	start();
	expect_field("[1]", "");
	expect_field("null", "");
	expect_field("\"x\"", "");
	expect_field("{\"params\":{}}", "/action");
	expect_field("{\"action\":\"\"}", "/action");
	expect_field("{\"action\":7}", "/action");
	expect_field("{\"action\":null}", "/action");
	expect_field("{\"action\":\"test.do\",\"params\":[]}", "/params");
	expect_field("{\"action\":\"test.do\",\"params\":null}", "/params");
	expect_field("{\"action\":\"test.do\",\"dry_run\":\"true\"}", "/dry_run");
	expect_field("{\"action\":\"test.do\",\"dry_run\":null}", "/dry_run");
	expect_field("{\"action\":\"test.do\",\"idempotency_key\":1}", "/idempotency_key");
	expect_field("{\"action\":\"test.do\",\"idempotency_key\":null}", "/idempotency_key");
	expect_field("{\"action\":\"test.do\",\"idempotency_key\":\"\"}", "/idempotency_key");
	expect_field("{\"action\":\"test.do\",\"dryRun\":true}", "/dryRun");
	expect_field("{\"action\":\"test.do\",\"\":true}", "/");
	expect_field("{\"action\":\"test.strict\"}", "/params/n");
	expect_field("{\"action\":\"test.strict\",\"params\":{\"n\":1.5}}", "/params/n");
	expect_field("{\"action\":\"test.do\",\"action\":\"test.do\"}", "/action");
	stop();
}

/* RFC 6901: / and ~ in a member's name are written ~1 and ~0. */
static void test_envelope_pointers(void)
{
	start();
	expect_field("{\"action\":\"test.do\",\"a/b~c\":true}", "/a~1b~0c");
	expect_field("{\"action\":\"test.strict\",\"params\":{\"n\":1,\"a/b~c\":1}}", "/params/a~1b~0c");
	stop();
}

/* Two words of the list of members do not count as one member. */
static void test_envelope_names_are_whole(void)
{
	start();
	expect_field("{\"action\":\"test.do\",\"action params\":true}", "/action params");
	expect_field("{\"action\":\"test.do\",\"idempotency_key dry_run\":true}", "/idempotency_key dry_run");
	stop();
}

static void test_idempotency_key(void)
{
	char body[400], key[300];
	start();
	for (size_t len = 254; len <= 257; len++) {
		memset(key, 'k', len);
		key[len] = '\0';
		snprintf(body, sizeof body, "{\"action\":\"test.do\",\"idempotency_key\":\"%s\"}", key);
		call(body);
		EXPECT(reply.code == (len <= 255 ? ACP_OK : ACP_VALIDATION_ERROR), body);
	}
	request.idempotency_key = "same";
	call("{\"action\":\"test.do\",\"idempotency_key\":\"same\"}");
	EXPECT_TEXT(fake_plane_column(&fake, "idempotency_key"), "same");
	EXPECT(reply.code == ACP_OK, "header and member agree");
	expect_field("{\"action\":\"test.do\",\"idempotency_key\":\"other\"}", "/idempotency_key");
	request.idempotency_key = "";
	expect_field(DO, "/idempotency_key");
	stop();
}

static void test_media_types(void)
{
	static const struct {
		const char *type, *encoding;
		bool good;
	} rows[] = {
		{"application/json", NULL, true},
		{"Application/JSON; charset=utf-8", NULL, true},
		{"application/json ;x=1", "", true},
		{"application/json", "Identity", true},
		{NULL, NULL, false},
		{"", NULL, false},
		{"text/json", NULL, false},
		{"application/jsonx", NULL, false},
		{"application/json-seq", NULL, false},
		{"application/json, text/plain", NULL, false},
		{"application/x-www-form-urlencoded", NULL, false},
		{"application/json", "gzip", false},
		{"application/json", "identity, gzip", false},
	};
	start();
	for (size_t i = 0; i < ACP_COUNT(rows); i++) {
		request.content_type = rows[i].type;
		request.content_encoding = rows[i].encoding;
		call(DO);
		EXPECT(reply.code == (rows[i].good ? ACP_OK : ACP_UNSUPPORTED_MEDIA_TYPE),
		       rows[i].type ? rows[i].type : "-");
		EXPECT(fake.event_count == 1, "one row");
	}
	stop();
}

/* A message that is cut must be cut between characters: the reply and the row stay JSON (call() checks that). */
static void test_cut_between_characters(void)
{
	static const char *const forms[] = {
		"{\"action\":\"%s\"}",
		"{\"action\":\"test.do\",\"%s\":1}",
		"{\"action\":\"test.strict\",\"params\":{\"n\":1,\"%s\":1}}",
		"{\"action\":\"test.strict\",\"params\":{\"%s\":1,\"n\":{}}}",
	};
	char body[2000], name[1000];
	start();
	for (size_t shift = 0; shift < 3; shift++) {
		size_t used = shift;
		memset(name, 'a', shift);
		for (size_t i = 0; i < 150; i++, used += 3)
			memcpy(name + used, "\xe2\x82\xac", 3);
		name[used] = '\0';
		for (size_t i = 0; i < ACP_COUNT(forms); i++) {
			snprintf(body, sizeof body, forms[i], name);
			call(body);
			EXPECT(reply.code != ACP_OK && fake.event_count == 1, forms[i]);
		}
	}
	stop();
}

/* Bytes that a parser could survive only by luck. */
static void test_hostile_bytes(void)
{
	static const struct {
		const char *bytes;
		size_t len;
	} bodies[] = {
		{"\0", 1},
		{"{\"action\":\"test.do\"}\0", 21},
		{"{\"action\":\"test\0do\"}", 20},
		{"\xef\xbb\xbf{}", 5},
		{"{\"action\":\"\xc0\xaf\"}", 15},
		{"{\"action\":\"\xed\xa0\x80\"}", 16},
		{"{\"action\":\"\\ud800\"}", 19},
		{"{\"action\":\"\\u0000\"}", 19},
		{"{\"a\":1e999}", 11},
		{"{\"a\":9007199254740993}", 22},
		{"NaN", 3},
	};
	start();
	for (size_t i = 0; i < ACP_COUNT(bodies); i++) {
		send_bytes(bodies[i].bytes, bodies[i].len);
		EXPECT(reply.code == ACP_VALIDATION_ERROR && fake.event_count == 1, bodies[i].bytes);
		EXPECT(strict_json(reply_text()) && strict_json(fake_plane_event(&fake)), bodies[i].bytes);
	}
	char *deep = malloc(4000);
	memset(deep, '[', 2000);
	memset(deep + 2000, ']', 2000);
	send_bytes(deep, 4000);
	EXPECT_TEXT(acp_code_name(reply.code), "PAYLOAD_TOO_LARGE");
	EXPECT(fake.event_count == 1, "depth");
	free(deep);
	stop();
}

/* --- starting ------------------------------------------------------------------------------------------- */

/* The kernel must refuse to start with this action, and give the reason. */
static void expect_no_start(struct acp_action action, const char *reason)
{
	char why[256] = "";
	const struct acp_action rows[] = {action, {0}};
	const struct acp_pack pack = {"broken", rows};
	const struct acp_pack *const broken[] = {&acp_pack_meta, &pack, NULL};
	struct acp_kernel refused;
	bool started = acp_kernel_init(&refused, &config, &fake.plane, broken, why, sizeof why);
	EXPECT(!started, reason);
	EXPECT(strstr(why, reason) != NULL, why);
	EXPECT(action.name && strstr(why, action.name) != NULL, why);
	EXPECT(refused.entries == NULL && refused.entry_count == 0, reason);
	if (started)
		acp_kernel_release(&refused);
}

static const struct acp_action good_row = {
	.name = "bad.row", .scope = "manage.read", .description = "A row.", .params_schema = ANY, .run = run_how};

static struct acp_action with_schema(const char *schema)
{
	struct acp_action row = good_row;
	row.params_schema = schema;
	return row;
}

static void test_incomplete_rows(void)
{
	start();
	struct acp_action row = good_row;
	row.scope = NULL;
	expect_no_start(row, "scope");
	row = good_row;
	row.description = NULL;
	expect_no_start(row, "description");
	row = good_row;
	row.params_schema = NULL;
	expect_no_start(row, "params_schema");
	row = good_row;
	row.run = NULL;
	expect_no_start(row, "run");
	row = good_row;
	row.run = acp_run_sql;
	expect_no_start(row, "sql_function");
	row = good_row;
	row.sql_function = "f";
	expect_no_start(row, "sql_function");
	stop();
}

static void test_broken_rows(void)
{
	start();
	expect_no_start(with_schema("{"), "params_schema");
	expect_no_start(with_schema("null"), "params_schema");
	expect_no_start(with_schema("[]"), "params_schema");
	expect_no_start(with_schema("{\"type\":\"strnig\"}"), "params_schema");
	expect_no_start(with_schema("{\"properties\":{\"n\":{\"minimun\":1}}}"), "/properties/n");
	struct acp_action row = good_row;
	row.billing_unit = "lead";
	expect_no_start(row, "lead");
	row.billing_unit = "";
	expect_no_start(row, "billing_unit");
	row.billing_unit = "call token";
	expect_no_start(row, "billing_unit");
	row = good_row;
	row.max_quantity = -1;
	expect_no_start(row, "max_quantity");
	row.max_quantity = ACP_QUANTITY_MAX + 1;
	expect_no_start(row, "max_quantity");
	row = good_row;
	row.name = "meta.version";
	expect_no_start(row, "two packs");
	stop();
}

static void test_find(void)
{
	start();
	EXPECT(acp_kernel_find(&kernel, "test.do") && acp_kernel_find(&kernel, "meta.version"), "found");
	EXPECT_TEXT(acp_kernel_find(&kernel, "domain.leadscoring.models.list")->pack, "domain.leadscoring");
	EXPECT(!acp_kernel_find(&kernel, "") && !acp_kernel_find(&kernel, "test") &&
		       !acp_kernel_find(&kernel, "test.do "),
	       "not found");
	for (size_t i = 0; i < kernel.entry_count; i++)
		EXPECT(acp_kernel_find(&kernel, kernel.entries[i].action->name) == &kernel.entries[i], "every row");
	stop();
}

/* --- many threads, one kernel --------------------------------------------------------------------------- */

enum { THREADS = 8, CALLS_EACH = 50 };

struct tally {
	unsigned ok, refused, other;
};

static void *call_often(void *argument)
{
	static const char *const bodies[] = {DO,
					     SQL,
					     "{\"action\":\"meta.actions\"}",
					     HOW("fail"),
					     HOW("write and fail"),
					     "{",
					     "{\"action\":\"test.strict\",\"params\":{\"n\":1}}",
					     DRY_SQL};
	struct tally *tally = argument;
	for (size_t i = 0; i < CALLS_EACH; i++) {
		const char *body = bodies[i % ACP_COUNT(bodies)];
		char id[ACP_UUID_LEN];
		acp_uuid(id);
		struct acp_request mine = {.request_id = id,
					   .method = "POST",
					   .content_type = "application/json",
					   .credential = fake.key,
					   .ip_address = "192.0.2.7",
					   .body = body,
					   .body_len = strlen(body),
					   .started_us = acp_monotonic_us()};
		struct acp_reply answer;
		acp_manage(&kernel, &mine, &answer);
		bool own = answer.body && strcmp(acp_json_string(answer.body, "request_id"), id) == 0;
		tally->ok += own && answer.code == ACP_OK;
		tally->refused += own && answer.code == ACP_UPGRADE_REQUIRED;
		tally->other += own && answer.code != ACP_OK && answer.code != ACP_UPGRADE_REQUIRED;
		json_object_put(answer.body);
	}
	return NULL;
}

static int64_t billable_rows(void)
{
	int64_t count = 0;
	for (size_t i = 0; i < fake.event_count; i++)
		count += acp_json_bool(fake.events[i], "billable");
	return count;
}

/* Of 400 calls some fail, some are free, and more are billable than the allowance permits. Exactly the allowance is
 * used, and every call has a row. */
static void test_many_threads(void)
{
	pthread_t threads[THREADS];
	struct tally tallies[THREADS] = {0};
	unsigned answered = 0, refused = 0;
	start();
	fake.limit = 60;
	for (size_t i = 0; i < THREADS; i++)
		EXPECT(pthread_create(&threads[i], NULL, call_often, &tallies[i]) == 0, "pthread_create");
	for (size_t i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		answered += tallies[i].ok + tallies[i].refused + tallies[i].other;
		refused += tallies[i].refused;
	}
	EXPECT(answered == THREADS * CALLS_EACH, "every call has its own reply");
	EXPECT(fake.event_count == THREADS * CALLS_EACH, "one row each");
	EXPECT(fake.used == 60 && fake.held == 0 && fake.open == 0, "exactly the allowance");
	EXPECT(billable_rows() == 60, "one billable row for each counted call");
	EXPECT(refused > 0, "calls beyond the allowance are refused");
	stop();
}

const char *const acp_suite_name = "pipeline";

CU_TestInfo acp_tests[] = {
	{"every_exit", test_every_exit},
	{"wrong_keys_go_one_way", test_wrong_keys_go_one_way},
	{"record_fails_everywhere", test_record_fails_everywhere},
	{"hub_goes_away", test_hub_goes_away},
	{"place_given_back", test_place_given_back},
	{"success", test_success},
	{"handler_context", test_handler_context},
	{"sql_refusal", test_sql_refusal},
	{"data_of_every_kind", test_data_of_every_kind},
	{"quantities", test_quantities},
	{"quantities_of_a_dry_run", test_quantities_of_a_dry_run},
	{"largest_quantities", test_largest_quantities},
	{"not_billable", test_not_billable},
	{"meta_actions", test_meta_actions},
	{"dry_run", test_dry_run},
	{"dry_run_estimates", test_dry_run_estimates},
	{"warning_boundary", test_warning_boundary},
	{"warning_of_odd_limits", test_warning_of_odd_limits},
	{"warning_past_due", test_warning_past_due},
	{"upgrade_required", test_upgrade_required},
	{"upgrade_required_at_settle", test_upgrade_required_at_settle},
	{"refusal_says_the_figures", test_refusal_says_the_figures},
	{"commit_without_answer", test_commit_without_answer},
	{"upgrade_url", test_upgrade_url},
	{"fail_open", test_fail_open},
	{"usage_is_opt_in", test_usage_is_opt_in},
	{"request_hash", test_request_hash},
	{"request_hash_of_secrets", test_request_hash_of_secrets},
	{"redaction", test_redaction},
	{"redaction_before_cutting", test_redaction_before_cutting},
	{"address_and_trace", test_address_and_trace},
	{"envelope_members", test_envelope_members},
	{"envelope_pointers", test_envelope_pointers},
	{"envelope_names_are_whole", test_envelope_names_are_whole},
	{"idempotency_key", test_idempotency_key},
	{"media_types", test_media_types},
	{"cut_between_characters", test_cut_between_characters},
	{"hostile_bytes", test_hostile_bytes},
	{"incomplete_rows", test_incomplete_rows},
	{"broken_rows", test_broken_rows},
	{"find", test_find},
	{"many_threads", test_many_threads},
	CU_TEST_INFO_NULL,
};
