#include "../tmain.h"

#include "clock.h"
#include "executor_open.h"
#include "executor_stripe.h"
#include "form.h"
#include "outbound.h"
#include "plane.h"
#include "retry.h"

const char *const acp_suite_name = "executor";

/* Forms ------------------------------------------------------------------------------------------------------------ */

static void check_form(const char *json, const char *wanted)
{
	struct acp_buf out;
	struct json_object *params = json_tokener_parse(json);
	acp_buf_init(&out, 1 << 16);
	acp_form_encode(params, &out);
	CU_ASSERT_TRUE(acp_buf_ok(&out));
	CU_ASSERT_STRING_EQUAL(out.len ? out.ptr : "", wanted);
	acp_buf_release(&out);
	json_object_put(params);
}

static void form_values(void)
{
	check_form("{}", "");
	check_form("{\"a\":\"b\"}", "a=b");
	check_form("{\"a\":1,\"b\":-20,\"c\":true,\"d\":false,\"e\":null}", "a=1&b=-20&c=true&d=false");
	check_form("{\"a\":\"\"}", "a=");
	check_form("{\"a\":\"x y+z&w=1%\"}", "a=x%20y%2Bz%26w%3D1%25");
	check_form("{\"a\":\"M\xc3\xbcller\",\"b\":\"-._~\"}", "a=M%C3%BCller&b=-._~");
	check_form("{\"a\":\"x\\u0000y\"}", "a=x%00y");
}

static void form_nesting(void)
{
	check_form("{\"metadata\":{\"k\":\"v\",\"l\":2}}", "metadata%5Bk%5D=v&metadata%5Bl%5D=2");
	check_form("{\"a\":{\"b\":{\"c\":\"d\"}}}", "a%5Bb%5D%5Bc%5D=d");
	check_form("{\"a\":[\"x\",\"y\"]}", "a%5B0%5D=x&a%5B1%5D=y");
	check_form("{\"a\":[{\"b\":1}]}", "a%5B0%5D%5Bb%5D=1");
	check_form("{\"a\":{},\"b\":[]}", "");
	check_form("{\"a\":{\"b]&c\":1}}", "a%5Bb%5D%26c%5D=1");
}

/* Amounts are never sent as fractions, and an incomplete form is never sent. */
static void form_refuses(void)
{
	struct acp_buf out;
	struct json_object *params = json_tokener_parse("{\"a\":1,\"amount\":1.5}");
	acp_buf_init(&out, 1 << 16);
	acp_form_encode(params, &out);
	CU_ASSERT_FALSE(acp_buf_ok(&out));
	acp_buf_release(&out);
	json_object_put(params);
	char json[2100];
	snprintf(json, sizeof json, "{\"%01100d\":{\"b\":1}}", 0);
	params = json_tokener_parse(json);
	acp_form_encode(params, &out);
	CU_ASSERT_FALSE(acp_buf_ok(&out));
	acp_buf_release(&out);
	json_object_put(params);
}

/* Retries ---------------------------------------------------------------------------------------------------------- */

static void retry_worth(void)
{
	static const int again[] = {0, 409, 429, 500, 502, 503, 504, 599};
	static const int never[] = {200, 400, 401, 402, 403, 404, 408, 410, 413, 422, 424, 425, 451};
	for (size_t i = 0; i < ACP_COUNT(again); i++) {
		CU_ASSERT_TRUE(acp_retry_worth(again[i], ""));
		CU_ASSERT_TRUE(acp_retry_worth(again[i], "something"));
		CU_ASSERT_FALSE(acp_retry_worth(again[i], "false"));
	}
	for (size_t i = 0; i < ACP_COUNT(never); i++) {
		CU_ASSERT_FALSE(acp_retry_worth(never[i], ""));
		CU_ASSERT_TRUE(acp_retry_worth(never[i], "true"));
	}
}

static void retry_pauses(void)
{
	static const int longest[] = {500, 1000, 2000, 4000, 5000, 5000, 5000};
	for (int i = 0; i < (int)ACP_COUNT(longest); i++) {
		CU_ASSERT_EQUAL(acp_retry_pause_ms(i + 1, 1), longest[i]);
		CU_ASSERT_EQUAL(acp_retry_pause_ms(i + 1, 0), longest[i] / 2);
	}
	CU_ASSERT_EQUAL(acp_retry_pause_ms(1000000, 1), 5000);
	double low = 1, high = 0;
	for (int i = 0; i < 1000; i++) {
		double chance = acp_retry_chance();
		low = chance < low ? chance : low;
		high = chance > high ? chance : high;
	}
	CU_ASSERT_TRUE(low >= 0 && low < 0.1 && high > 0.9 && high < 1);
}

/* Executing -------------------------------------------------------------------------------------------------------- */

struct log {
	int count;
	char action[300], status[16], error_code[80], actor[16], tenant[40], meta[512], key[300];
	bool billable, fails;
};

static enum acp_code record(void *self, const struct acp_settlement *end)
{
	struct log *log = self;
	const struct acp_event *event = end->event;
	log->count++;
	snprintf(log->action, sizeof log->action, "%s", event->action);
	snprintf(log->status, sizeof log->status, "%s", event->status);
	snprintf(log->error_code, sizeof log->error_code, "%s", event->error_code ? event->error_code : "");
	snprintf(log->actor, sizeof log->actor, "%s", event->actor_type);
	snprintf(log->tenant, sizeof log->tenant, "%s", event->tenant_id);
	snprintf(log->meta, sizeof log->meta, "%s", json_object_to_json_string(event->result_meta));
	snprintf(log->key, sizeof log->key, "%s", event->idempotency_key ? event->idempotency_key : "");
	log->billable = event->billable;
	return log->fails ? ACP_UNAVAILABLE : ACP_OK;
}

#define TENANT "11111111-1111-4111-8111-111111111111"

/* An executor whose vendor is a port of this host on which nothing listens. */
struct bench {
	struct acp_config config;
	struct acp_control_plane plane;
	struct log log;
	struct acp_executor *executor;
};

static void begin(struct bench *bench, const char *name, const char *value)
{
	char why[512];
	memset(bench, 0, sizeof *bench);
	setenv("ACP_EXECUTOR_KEY", "0123456789abcdef0123456789abcdef", 1);
	setenv("ACP_STRIPE_URL", "http://127.0.0.1:1", 1);
	setenv(name, value, 1);
	CU_ASSERT_TRUE_FATAL(acp_config_load(&bench->config, "/dev/null", why, sizeof why));
	unsetenv(name);
	bench->plane = (struct acp_control_plane){.self = &bench->log, .call.record = record};
	CU_ASSERT_TRUE_FATAL(acp_outbound_init());
	CU_ASSERT_TRUE_FATAL(acp_executor_open(&bench->config, &bench->plane, &bench->executor, why, sizeof why));
}

static void end(struct bench *bench)
{
	acp_executor_close(bench->executor);
	acp_config_release(&bench->config);
}

static void execute(struct bench *bench, const char *action, const char *params, int timeout_ms,
		    struct acp_executed *out)
{
	struct acp_execution what = {.tenant_id = TENANT,
				     .action = action,
				     .params = json_tokener_parse(params),
				     .idempotency_key = "customer-" TENANT,
				     .timeout_ms = timeout_ms};
	bench->executor->execute(bench->executor->self, &what, out);
	json_object_put(what.params);
	CU_ASSERT_FALSE(out->ok);
	CU_ASSERT_PTR_NULL(out->data);
	acp_executed_release(out);
}

static void nothing_configured(void)
{
	struct bench bench;
	begin(&bench, "ACP_STRIPE_KEY", "");
	CU_ASSERT_PTR_NULL(bench.executor);
	end(&bench);
}

static void allow_list(void)
{
	struct bench bench;
	struct acp_executed out;
	begin(&bench, "ACP_STRIPE_KEY", "sk_test_unit");
	CU_ASSERT_PTR_NOT_NULL_FATAL(bench.executor);
	execute(&bench, "stripe.charges.create", "{}", 1000, &out);
	CU_ASSERT_STRING_EQUAL(out.error_code, "NOT_FOUND");
	CU_ASSERT_FALSE(out.retry);
	CU_ASSERT_EQUAL(bench.log.count, 1);
	CU_ASSERT_STRING_EQUAL(bench.log.action, "stripe.charges.create");
	CU_ASSERT_STRING_EQUAL(bench.log.status, "error");
	CU_ASSERT_STRING_EQUAL(bench.log.actor, "system");
	CU_ASSERT_STRING_EQUAL(bench.log.tenant, ACP_NIL_UUID);
	CU_ASSERT_PTR_NOT_NULL(strstr(bench.log.meta, TENANT));
	CU_ASSERT_STRING_EQUAL(bench.log.key, "customer-" TENANT);
	CU_ASSERT_FALSE(bench.log.billable);
	execute(&bench, "stripe.invoices.pay", "{\"invoice\":\"a/b\"}", 1000, &out);
	CU_ASSERT_STRING_EQUAL(out.error_code, "VALIDATION_ERROR");
	CU_ASSERT_EQUAL(bench.log.count, 2);
	CU_ASSERT_STRING_EQUAL(bench.log.error_code, "VALIDATION_ERROR");
	/* An apparent secret in the name of an action is redacted in the log. */
	execute(&bench, "stripe.sk_live_0123456789abcdefghij", "{}", 1000, &out);
	CU_ASSERT_PTR_NULL(strstr(bench.log.action, "0123456789"));
	end(&bench);
}

static void vendor_away(void)
{
	struct bench bench;
	struct acp_executed out;
	begin(&bench, "ACP_STRIPE_KEY", "sk_test_unit");
	uint64_t start = acp_monotonic_us();
	execute(&bench, "stripe.setup_intents.get", "{\"setup_intent\":\"seti_1\"}", 1200, &out);
	uint64_t took = acp_monotonic_us() - start;
	CU_ASSERT_STRING_EQUAL(out.error_code, "UNAVAILABLE");
	CU_ASSERT_TRUE(out.retry);
	CU_ASSERT_EQUAL(out.status, 0);
	CU_ASSERT_TRUE(took > 200000 && took < 20000000);
	CU_ASSERT_EQUAL(bench.log.count, 1);
	CU_ASSERT_STRING_EQUAL(bench.log.error_code, "UNAVAILABLE");
	end(&bench);
}

/* An execution that could not be audited is not reported as final. */
static void no_audit_row(void)
{
	struct bench bench;
	struct acp_executed out;
	begin(&bench, "ACP_STRIPE_KEY", "sk_test_unit");
	bench.log.fails = true;
	execute(&bench, "stripe.invoices.pay", "{}", 1000, &out);
	CU_ASSERT_STRING_EQUAL(out.error_code, "UNAVAILABLE");
	CU_ASSERT_TRUE(out.retry);
	end(&bench);
}

static void remote_away(void)
{
	struct bench bench;
	struct acp_executed out;
	begin(&bench, "ACP_EXECUTOR_URL", "http://127.0.0.1:1");
	CU_ASSERT_PTR_NOT_NULL_FATAL(bench.executor);
	execute(&bench, "stripe.invoices.list", "{}", 800, &out);
	CU_ASSERT_STRING_EQUAL(out.error_code, "UNAVAILABLE");
	CU_ASSERT_TRUE(out.retry);
	CU_ASSERT_EQUAL(bench.log.count, 0); /* the other program writes the audit row */
	end(&bench);
}

CU_TestInfo acp_tests[] = {{"forms: values", form_values},
			   {"forms: nesting", form_nesting},
			   {"forms: refused", form_refuses},
			   {"retries: what is worth one", retry_worth},
			   {"retries: pauses", retry_pauses},
			   {"nothing configured", nothing_configured},
			   {"allow-list and audit", allow_list},
			   {"vendor away", vendor_away},
			   {"no audit row", no_audit_row},
			   {"remote executor away", remote_away},
			   CU_TEST_INFO_NULL};
