/* A call of the router (envelope.c, pipeline.c, …) over a control plane in memory. The input: a byte of options, then
 * the body. The reply follows the contract's rules for all replies. The call leaves exactly one audit row. No API
 * key is in either. A dry run or a refused call has no effect. */
#include "../fuzz.h"
#include "log.h"
#include "pipeline.h"

#include "../../unit/fake_plane.h"

enum { NO_KEY = 1, WRONG_METHOD = 2, KEY_HEADER = 4, USED_UP = 8, BROKEN = 16, PAID = 32, OTHER_TYPE = 64 };

static struct acp_config config;
static struct fake_plane fake;
static struct acp_kernel kernel;

static void begin(void)
{
	char why[512];
	static bool begun;
	if (begun)
		return;
	begun = true;
	acp_log_open("text", "error", "/dev/null");
	fake_config_init(&config);
	config.max_body_bytes = 8192;
	config.max_json_tokens = 500;
	fake_plane_init(&fake);
	fake.scopes = " manage.read manage.domain manage.iam manage.settings manage.governance manage.webhooks ";
	FUZZ_CHECK(acp_kernel_init(&kernel, &config, &fake.plane, acp_builtin_packs, why, sizeof why), "%s", why);
}

static const char *text_of(struct json_object *value)
{
	return json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN);
}

static void check_reply(const struct acp_reply *reply)
{
	FUZZ_CHECK(reply->body, "no reply");
	FUZZ_CHECK(reply->http == acp_code_http(reply->code), "%d for %s", reply->http, acp_code_name(reply->code));
	bool good = acp_code_outcome(reply->code) == ACP_SUCCESS;
	FUZZ_CHECK(acp_json_bool(reply->body, "ok") == good, "%s", text_of(reply->body));
	FUZZ_CHECK(acp_json_string(reply->body, "request_id"), "%s", text_of(reply->body));
	const char *code = acp_json_string(reply->body, "code");
	FUZZ_CHECK(good || (code && strcmp(code, acp_code_name(reply->code)) == 0 &&
			    acp_json_string(reply->body, "error")),
		   "%s", text_of(reply->body));
	FUZZ_CHECK(reply->code != ACP_INTERNAL_ERROR, "%s", text_of(reply->body));
	struct acp_buf text;
	acp_buf_init(&text, 1 << 22);
	acp_json_write(reply->body, &text);
	struct oracle oracle = oracle_read((const uint8_t *)text.ptr, text.len);
	FUZZ_CHECK(acp_buf_ok(&text) && (oracle.valid || oracle.too_deep), "%s", text.ptr);
	FUZZ_CHECK(!strstr(text.ptr, fake.key), "the key is in the reply: %s", text.ptr);
	acp_buf_release(&text);
}

static void check_row(const struct acp_reply *reply)
{
	FUZZ_CHECK(fake.event_count == 1, "%zu audit rows", fake.event_count);
	FUZZ_CHECK(!strstr(fake_plane_event(&fake), fake.key), "the key is in the row: %s", fake_plane_event(&fake));
	FUZZ_CHECK(strcmp(fake_plane_column(&fake, "status"), acp_outcome_name(acp_code_outcome(reply->code))) == 0,
		   "%s", fake_plane_event(&fake));
}

void fuzz_manage(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	struct acp_reply reply;
	struct acp_request request = {.request_id = FAKE_TENANT, .method = "POST", .content_type = "application/json"};
	begin();
	uint8_t how = fuzz_byte(&in);
	char *key = how & KEY_HEADER ? fuzz_part(&in, NULL) : NULL;
	char *body = fuzz_rest(&in, &request.body_len);
	request.body = body;
	request.body_broken = how & BROKEN;
	request.idempotency_key = key;
	request.credential = how & NO_KEY ? NULL : fake.key;
	if (how & WRONG_METHOD)
		request.method = "GET";
	if (how & OTHER_TYPE)
		request.content_type = "application/json; charset=utf-8";
	fake.used = how & USED_UP ? fake.limit : 0;
	fake.tier = fake.tier_now = how & PAID ? ACP_TIER_PAID : ACP_TIER_FREE;
	fake.effects = 0;
	acp_manage(&kernel, &request, &reply);
	check_reply(&reply);
	check_row(&reply);
	FUZZ_CHECK(fake.open == 0 && fake.held == 0, "%d transactions, %lld reservations are open", fake.open,
		   (long long)fake.held);
	bool may_change = acp_code_outcome(reply.code) == ACP_SUCCESS && !acp_json_bool(reply.body, "dry_run");
	FUZZ_CHECK(may_change || fake.effects == 0, "an effect of %s", text_of(reply.body));
	json_object_put(reply.body);
	fake_plane_forget(&fake);
	free(key);
	free(body);
}
