/* stories.c - the main stories of core/, over the control plane in memory. torture.c compares each outcome, as a caller
 * sees it and as the books record it, with that of the undisturbed story. */
#include "torture.h"

#include "../unit/fake_plane.h"
#include "action_http.h"
#include "actions_dir.h"
#include "clock.h"
#include "envelope.h"
#include "failing.h"
#include "form.h"
#include "http.h"
#include "hub.h"
#include "journal.h"
#include "key_cache.h"
#include "onboard.h"
#include "openapi.h"
#include "pipeline.h"
#include "proof.h"
#include "redact.h"
#include "schema.h"
#include "stripe_events.h"
#include "webhook_sender.h"
#include "webhooks.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define REQUEST_ID "5f0c1a52-0000-4000-8000-000000000001"
#define WEBHOOK "11111111-2222-4333-8444-abcdefabcdef"
#define DELIVERY "22222222-2222-4333-8444-abcdefabcdef"

/* The plane in memory, whose own work never fails ------------------------------------------------------------------ */

static struct fake_plane fake;
static struct acp_control_plane plane; /* the plane in use: fake's functions without failures, and some more */

#define SAFE(type, call)                                                                                               \
	failing_pause();                                                                                               \
	type code = call;                                                                                              \
	failing_resume();                                                                                              \
	return code

static enum acp_code safe_authenticate(void *self, const uint8_t hash[ACP_SHA256_LEN], struct acp_principal *out)
{
	SAFE(enum acp_code, fake.plane.call.authenticate(self, hash, out));
}

static enum acp_code safe_get_usage(void *self, const char *tenant, const char *period, struct json_object **usage)
{
	SAFE(enum acp_code, fake.plane.usage.get(self, tenant, period, usage));
}

static enum acp_code safe_reserve(void *self, const char *tenant, const char *event, const char *ts,
				  struct acp_reservation *out)
{
	SAFE(enum acp_code, fake.plane.usage.reserve(self, tenant, event, ts, out));
}

static enum acp_code safe_get_prices(void *self, struct json_object *what, struct json_object **reply,
				     struct acp_refusal *refusal)
{
	SAFE(enum acp_code, fake.plane.usage.get_prices(self, what, reply, refusal));
}

static enum acp_code safe_begin(void *self, const char *tenant, bool read_only, struct acp_tx **tx)
{
	SAFE(enum acp_code, fake.plane.call.begin(self, tenant, read_only, tx));
}

static enum acp_code safe_run(struct acp_tx *tx, const char *function, const char *tenant, struct json_object *params,
			      struct json_object *ctx, struct json_object **data, struct acp_refusal *refusal)
{
	SAFE(enum acp_code, fake.plane.call.run(tx, function, tenant, params, ctx, data, refusal));
}

static void safe_rollback(struct acp_tx *tx)
{
	failing_pause();
	fake.plane.call.rollback(tx);
	failing_resume();
}

/* Claims are missing in the plane in memory. This is a single claim, for a single key. */
static struct {
	bool held, done;
	uint8_t *sealed;
	size_t sealed_len;
} claim;

static enum acp_code safe_claim(void *self, const char *tenant, const char *action, const char *key,
				const char *fingerprint, const char *event, struct acp_claim *out)
{
	(void)self, (void)tenant, (void)action, (void)key, (void)fingerprint, (void)event;
	if (claim.held) {
		out->verdict = ACP_CLAIM_CONFLICT;
		return ACP_OK;
	}
	out->verdict = claim.done ? ACP_CLAIM_REPLAY : ACP_CLAIM_RUN;
	claim.held = !claim.done;
	if (claim.done) {
		failing_pause();
		out->sealed = malloc(claim.sealed_len + 1);
		failing_resume();
		memcpy(out->sealed, claim.sealed, claim.sealed_len);
		out->sealed_len = claim.sealed_len;
	}
	return ACP_OK;
}

static enum acp_code safe_settle(void *self, struct acp_tx *tx, const struct acp_settlement *end, int64_t *used)
{
	failing_pause();
	enum acp_code code = fake.plane.call.settle(self, tx, end, used);
	if (code == ACP_OK && end->claim) {
		claim.held = false;
		claim.done = true;
		claim.sealed = malloc(end->sealed_len + 1);
		claim.sealed_len = end->sealed_len;
		if (end->sealed_len)
			memcpy(claim.sealed, end->sealed, end->sealed_len);
	}
	failing_resume();
	return code;
}

static enum acp_code safe_record(void *self, const struct acp_settlement *end)
{
	failing_pause();
	enum acp_code code = fake.plane.call.record(self, end);
	if (code == ACP_OK && end->claim)
		claim.held = false;
	failing_resume();
	return code;
}

static enum acp_code safe_onboard(void *self, const struct acp_onboarding *in, struct acp_onboarded *out)
{
	SAFE(enum acp_code, fake.plane.call.onboard(self, in, out));
}

/* The input of the last call of call.authorize, hub.answer, payments or webhooks.report, as text. */
static char plane_input[8192];

static enum acp_code note_input(const char *name, struct json_object *what, const char *answer,
				struct json_object **out)
{
	failing_pause();
	snprintf(plane_input, sizeof plane_input, "%s %s", name,
		 json_object_to_json_string_ext(what, JSON_C_TO_STRING_PLAIN));
	if (out)
		*out = json_tokener_parse(answer);
	failing_resume();
	return ACP_OK;
}

static enum acp_code safe_authorize(void *self, struct json_object *query, struct json_object **decision)
{
	(void)self;
	return note_input("authorize", query,
			  "{\"decision_id\":\"33333333-2222-4333-8444-abcdefabcdef\",\"decision\":\"allow\","
			  "\"policy_id\":\"44444444-2222-4333-8444-abcdefabcdef\",\"policy_version\":3,"
			  "\"decision_ttl_ms\":1000}",
			  decision);
}

static enum acp_code safe_hub(void *self, enum acp_hub_request request, struct json_object *body,
			      struct json_object *ctx, struct json_object **reply, struct acp_refusal *refusal)
{
	(void)self, (void)refusal, (void)ctx, (void)request;
	return note_input("hub", body, "{\"tenant_uuid\":\"" FAKE_TENANT "\",\"tier\":\"free\",\"created_at\":1}",
			  reply);
}

static enum acp_code safe_payments(void *self, struct json_object *what, struct json_object **reply,
				   struct acp_refusal *refusal)
{
	(void)self, (void)refusal;
	return note_input("payments", what, "{\"effect\":\"paid\",\"tenant_id\":\"" FAKE_TENANT "\"}", reply);
}

static char delivery[2048]; /* the delivery that is due; "": none */

static enum acp_code safe_take(void *self, int max, int lease, int share, struct json_object **list)
{
	(void)self, (void)max, (void)lease, (void)share;
	failing_pause();
	*list = json_tokener_parse(delivery);
	failing_resume();
	return ACP_OK;
}

static enum acp_code safe_done(void *self, struct json_object *outcomes)
{
	(void)self;
	return note_input("done", outcomes, "", NULL);
}

static void make_plane(void)
{
	fake_plane_init(&fake);
	plane = fake.plane;
	plane.call.authenticate = safe_authenticate;
	plane.usage.get = safe_get_usage;
	plane.usage.reserve = safe_reserve;
	plane.usage.get_prices = safe_get_prices;
	plane.call.begin = safe_begin;
	plane.call.run = safe_run;
	plane.call.rollback = safe_rollback;
	plane.call.settle = safe_settle;
	plane.call.record = safe_record;
	plane.call.onboard = safe_onboard;
	plane.call.claim = safe_claim;
	plane.call.authorize = NULL;
	plane.hub.answer = safe_hub;
	plane.payments.upgrade_begin = safe_payments;
	plane.payments.upgrade_opened = safe_payments;
	plane.payments.upgrade_failed = safe_payments;
	plane.payments.stripe_event = safe_payments;
	plane.payments.obligations_take = safe_payments;
	plane.payments.obligation_done = safe_payments;
	plane.webhooks.claim = safe_take;
	plane.webhooks.report = safe_done;
	plane_input[0] = '\0';
}

/* An installation, and one request to it --------------------------------------------------------------------------- */

static struct acp_config config;
static struct acp_kernel kernel;
static struct acp_http http;
static struct acp_response response;
static enum acp_code replied;

/* Made once, like everything that is made when a program starts; the plane is new for every story. */
static void install_kernel(void)
{
	char why[512] = "";
	static bool installed;
	if (installed)
		return;
	installed = true;
	fake_config_init(&config);
	config.webhook_allow_http = config.webhook_allow_private = true;
	free(config.stripe_webhook_secret);
	config.stripe_webhook_secret = strdup("whsec_test_secret");
	if (!acp_kernel_init(&kernel, &config, &plane, acp_builtin_packs, why, sizeof why) ||
	    !(kernel.hub = acp_hub_new(why, sizeof why))) {
		fprintf(stderr, "%s\n", why);
		abort();
	}
}

static void install(void)
{
	install_kernel();
	make_plane();
	memset(&http, 0, sizeof http);
	http.request = (struct acp_request){.request_id = REQUEST_ID,
					    .method = "POST",
					    .content_type = "application/json",
					    .credential = fake.key,
					    .ip_address = "192.0.2.7"};
	memcpy(http.request_id, REQUEST_ID, sizeof http.request_id);
	response = (struct acp_response){.status = 0};
	acp_buf_init(&response.body, 1 << 24);
	if (!acp_buf_reserve(&response.body, 1024)) /* as in fcgi/exchange.c */
		abort();
	http.request.out = &response.body;
	replied = ACP_INTERNAL_ERROR;
	memset(&claim, 0, sizeof claim);
}

static void remove_all(void)
{
	acp_buf_release(&response.body);
	fake_plane_release(&fake);
	free(claim.sealed);
	claim.sealed = NULL;
}

static void ask(const char *body)
{
	http.request.body = body;
	http.request.body_len = strlen(body);
	http.request.started_us = acp_monotonic_us();
}

static void answer(struct acp_reply *reply)
{
	replied = reply->code;
	acp_http_reply(&http, reply, &response);
}

/* Members whose values differ in each run. */
static bool varies(const char *name)
{
	return acp_word_in_list("event_id latency_ms upgrade_url api_key api_key_id tenant_uuid tenant_id X-API-Key id",
				name);
}

static void show_json(struct json_object *value, struct acp_buf *out)
{
	const char *comma = "";
	if (json_object_is_type(value, json_type_object)) {
		acp_buf_putc(out, '{');
		json_object_object_foreach(value, name, member)
		{
			acp_buf_printf(out, "%s%s:", comma, name);
			if (varies(name) && member)
				acp_buf_puts(out, *json_object_get_string(member) ? "*" : "(empty)");
			else
				show_json(member, out);
			comma = ",";
		}
		acp_buf_putc(out, '}');
	} else if (json_object_is_type(value, json_type_array)) {
		acp_buf_putc(out, '[');
		for (size_t i = 0; i < json_object_array_length(value); i++, comma = ",") {
			acp_buf_puts(out, comma);
			show_json(json_object_array_get_idx(value, i), out);
		}
		acp_buf_putc(out, ']');
	} else {
		acp_json_write(value, out);
	}
}

static void show_text(const char *text, size_t len, struct acp_buf *out, struct acp_buf *fault)
{
	struct acp_json_error bad;
	struct json_object *tree = NULL;
	const struct acp_json_limits limits = {1 << 24, 64, 1000000};
	if (acp_json_parse(text, len, &limits, &tree, &bad) != ACP_JSON_OK)
		acp_buf_printf(fault, "the reply is not JSON: %.200s", text);
	show_json(tree, out);
	json_object_put(tree);
}

/* Is it an error reply as defined by the contract, with a code that is possible when calls fail? */
static bool proper_refusal(struct acp_buf *fault)
{
	struct acp_json_error bad;
	struct json_object *tree = NULL;
	const struct acp_json_limits limits = {1 << 20, 64, 100000};
	if (response.status != 500 && response.status != 503)
		return false;
	if (acp_json_parse(response.body.ptr, response.body.len, &limits, &tree, &bad) != ACP_JSON_OK)
		return false;
	const char *code = acp_json_string(tree, "code");
	const char *error = acp_json_string(tree, "error");
	bool ok = code && error && *error && json_object_object_get_ex(tree, "ok", NULL) &&
		  !acp_json_bool(tree, "ok") &&
		  (strcmp(code, "INTERNAL_ERROR") == 0 || strcmp(code, "UNAVAILABLE") == 0);
	if (ok && response.status == 503 && !response.retry_after)
		acp_buf_puts(fault, "503 without Retry-After");
	json_object_put(tree);
	return ok;
}

/* The visible outcome of a call: its reply, its rows, the counters ------------------------------------------------- */

/* Repeats the same request to the same installation: the failure must not have damaged anything that is kept between
 * calls. expected: its status when nothing fails. */
static void repeat(void (*run)(void), int expected, struct acp_buf *fault)
{
	fake.held = 0; /* a reservation that could not be released expires after reservation_ttl */
	fake_plane_forget(&fake);
	run();
	if (response.status != expected)
		acp_buf_printf(fault, "the same request again: %d %.300s; ", response.status, response.body.ptr);
}

static bool look_at_call(struct acp_buf *seen, struct acp_buf *fault)
{
	acp_buf_printf(seen, "%d ", response.status);
	show_text(response.body.ptr, response.body.len, seen, fault);
	for (size_t i = 0; i < fake.event_count; i++) {
		acp_buf_printf(seen, "\n      row ");
		show_json(fake.events[i], seen);
	}
	acp_buf_printf(seen, "\n      used %lld, effects %lld, input %s", (long long)fake.used, (long long)fake.effects,
		       *plane_input ? "" : "none");
	bool refused = proper_refusal(fault);
	if (fake.open)
		acp_buf_printf(fault, "%d transactions are open; ", fake.open);
	if (fake.held && !(refused && fake.calls[FAKE_RECORD] == 0))
		acp_buf_printf(fault, "%lld reservations are held; ", (long long)fake.held);
	if (fake.event_count > 1)
		acp_buf_printf(fault, "%zu rows of one call; ", fake.event_count);
	bool row = fake.event_count && strcmp(fake_plane_column(&fake, "status"), "success") == 0;
	/* An onboarding with an Idempotency-Key can be repeated. */
	row = row && !(http.request.idempotency_key && fake.agent_count);
	if (refused && (fake.used || fake.effects || row || claim.done))
		acp_buf_printf(fault, "refused with %d, but done: used %lld, effects %lld, row %s; ", response.status,
			       (long long)fake.used, (long long)fake.effects, row ? "success" : "no success");
	return refused;
}

/* Calls ------------------------------------------------------------------------------------------------------------ */

static void manage(void)
{
	struct acp_reply reply;
	acp_manage(&kernel, &http.request, &reply);
	answer(&reply);
}

static bool look_at_manage(struct acp_buf *seen, struct acp_buf *fault)
{
	bool refused = look_at_call(seen, fault);
	if (refused)
		repeat(manage, 200, fault);
	return refused;
}

/* A success without its warning is still a success. */
static bool look_at_warned(struct acp_buf *seen, struct acp_buf *fault)
{
	bool refused = look_at_manage(seen, fault);
	return refused || (response.status == 200 && !strstr(response.body.ptr, "\"warning\""));
}

#define COMPUTE                                                                                                        \
	"\"action\":\"domain.leadscoring.scores.compute\",\"params\":{\"weights\":{\"visits\":0.5,\"size\":0.01},"     \
	"\"leads\":[{\"id\":\"lead-1\",\"features\":{\"visits\":12,\"size\":250}},"                                    \
	"{\"id\":\"lead-2\",\"features\":{\"visits\":1.25}}]}"
#define CREATE                                                                                                         \
	"\"action\":\"domain.leadscoring.models.create\",\"params\":{\"name\":\"Gr\xc3\xb6\xc3\x9f"                    \
	"e\",\"model_type\":\"linear\",\"weights\":{\"visits\":0.5}}"

static void prepare_compute(void)
{
	install();
	ask("{" COMPUTE "}");
}

static void prepare_write(void)
{
	install();
	ask("{" CREATE "}");
}

static void prepare_near_limit(void)
{
	prepare_compute();
	fake.limit = 1;
}

static void prepare_dry_run(void)
{
	install();
	fake.tier = fake.tier_now = ACP_TIER_PAID;
	ask("{\"dry_run\":true," CREATE "}");
}

static void prepare_dry_compute(void)
{
	install();
	fake.tier = fake.tier_now = ACP_TIER_PAID;
	ask("{\"dry_run\":true," COMPUTE "}");
}

static void prepare_policed(void)
{
	prepare_write();
	plane.call.authorize = safe_authorize;
	fake.scopes = " manage.read manage.domain ";
}

static enum acp_code policed_authenticate(void *self, const uint8_t hash[ACP_SHA256_LEN], struct acp_principal *out)
{
	enum acp_code code = safe_authenticate(self, hash, out);
	out->policed = true;
	return code;
}

static void prepare_policy(void)
{
	prepare_policed();
	plane.call.authenticate = policed_authenticate;
}

static void prepare_redacted(void)
{
	install();
	ask("{\"idempotency_key\":\"Bearer abc.def\",\"action\":\"domain.leadscoring.models.create\",\"params\":{"
	    "\"name\":\"sk_live_51Habc\",\"model_type\":\"linear\",\"weights\":{\"token\":0.5}}}");
	plane.call.claim = NULL;
}

static void prepare_meta(void)
{
	install();
	ask("{\"action\":\"meta.actions\"}");
}

static void prepare_used_up(void)
{
	prepare_compute();
	fake.used = fake.limit = 5;
}

/* The allowance is already used up. */
static bool look_at_used_up(struct acp_buf *seen, struct acp_buf *fault)
{
	fake.used -= 5;
	return look_at_call(seen, fault);
}

static void prepare_stranger(void)
{
	prepare_compute();
	http.request.credential = "ock_nothing";
}

static void prepare_bad_params(void)
{
	install();
	ask("{\"action\":\"domain.leadscoring.scores.compute\",\"params\":{\"leads\":[]}}");
}

static void prepare_bad_json(void)
{
	install();
	ask("{\"action\":\"domain.leadscoring.scores.compute\",\"params\":{\"leads\":[}}");
}

static void prepare_problem(void)
{
	prepare_bad_params();
	http.wants_problem = true;
}

/* Idempotent calls: the first one, and one that finds its result --------------------------------------------------- */

static void prepare_first(void)
{
	install();
	ask("{\"idempotency_key\":\"key-1\"," CREATE "}");
}

/* A success can be replayed; after a refusal the same call runs. */
static bool look_at_first(struct acp_buf *seen, struct acp_buf *fault)
{
	bool refused = look_at_call(seen, fault);
	bool held = claim.held;
	char *first = refused ? NULL : strdup(response.body.ptr);
	if (held && !(refused && fake.event_count == 0))
		acp_buf_puts(fault, "the idempotency key is still held; ");
	if (held)
		return refused; /* its row could not be written: the claim expires */
	fake_plane_forget(&fake);
	manage();
	if (response.status != 200)
		acp_buf_printf(fault, "the same call again: %d %.300s; ", response.status, response.body.ptr);
	else if (first && (replied != ACP_IDEMPOTENT_REPLAY || fake.effects != 1))
		acp_buf_printf(fault, "the same call ran again (%lld effects); ", (long long)fake.effects);
	free(first);
	return refused;
}

static void prepare_replay(void)
{
	prepare_first();
	manage();
	fake_plane_forget(&fake);
	fake.used = 0;
	fake.effects = 0;
	fake.held = 0;
	acp_buf_clear(&response.body);
	replied = ACP_INTERNAL_ERROR;
	claim.held = false;
}

static bool look_at_replay(struct acp_buf *seen, struct acp_buf *fault)
{
	bool done = claim.done;
	claim.done = false; /* it was set before */
	bool refused = look_at_call(seen, fault);
	claim.done = done;
	return refused;
}

/* Onboarding ------------------------------------------------------------------------------------------------------- */

#define ONBOARDING                                                                                                     \
	"{\"agent_id\":\"agent-1\",\"email\":\"a@b.example\",\"organization_name\":\"M\xc3\xbcller & S\xc3\xb6hne\"}"

static void prepare_onboard(void)
{
	install();
	ask(ONBOARDING);
}

static void prepare_onboard_again(void)
{
	prepare_onboard();
	http.request.idempotency_key = "0b6ad2a4-8f7d-4c0e-9b1a-6d5e3f2c1a90";
}

static void onboard(void)
{
	struct acp_reply reply;
	acp_onboard(&kernel, &http.request, "leadscoring", &reply);
	answer(&reply);
}

/* The key in the reply is the stored one. */
static void check_key(const char *key, struct acp_buf *fault)
{
	uint8_t hash[ACP_SHA256_LEN];
	acp_key_hash(config.key_pepper, key ? key : "", hash);
	if (!key || !fake.agent_count || memcmp(hash, fake.agents[0].key_hash, sizeof hash) != 0)
		acp_buf_puts(fault, "the key in the reply is not the stored one; ");
	for (size_t i = 0; i < ACP_COUNT(hash); i++)
		hash[i] = 0;
	/* A key derived only from the pepper would be the same for everybody. */
	char same[ACP_KEY_MAX];
	uint8_t seed[ACP_SHA256_LEN];
	acp_hmac_sha256(config.key_pepper, strlen(config.key_pepper), "", 0, seed);
	acp_key_from_seed(config.api_key_prefix, seed, same);
	acp_key_hash(config.key_pepper, same, hash);
	if (fake.agent_count && memcmp(hash, fake.agents[0].key_hash, sizeof hash) == 0)
		acp_buf_puts(fault, "the key does not depend on the tenant; ");
}

static bool look_at_onboard(struct acp_buf *seen, struct acp_buf *fault)
{
	bool refused = look_at_call(seen, fault);
	bool reduced = response.status == 201 && !strstr(response.body.ptr, "\"per_call\"");
	struct json_object *reply = json_tokener_parse(response.body.ptr);
	if (!refused)
		check_key(acp_json_string(reply, "api_key"), fault);
	/* With an Idempotency-Key the same request returns the key, whether or not the first answer was lost. */
	if (http.request.idempotency_key) {
		fake_plane_forget(&fake);
		onboard();
		struct json_object *again = json_tokener_parse(response.body.ptr);
		if (response.status != 201)
			acp_buf_printf(fault, "the same again: %d %.300s; ", response.status, response.body.ptr);
		check_key(acp_json_string(again, "api_key"), fault);
		json_object_put(again);
	}
	json_object_put(reply);
	return refused || reduced;
}

/* An agent without an Idempotency-Key can try again after the answer that nothing was done. A reply may lack the
 * prices, which can be read elsewhere. */
static bool look_at_onboard_once(struct acp_buf *seen, struct acp_buf *fault)
{
	bool refused = look_at_onboard(seen, fault);
	if (response.status != 201 && fake.agent_count)
		acp_buf_puts(fault, "refused, but the agent exists and nobody has its key; ");
	return refused;
}

/* Requests from other kernels and from Stripe ---------------------------------------------------------------------- */

static void hub(void);
static void hub_events(void);
static void (*hub_again)(void);
static int again_status;

static void prepare_hub(void)
{
	install();
	ask(ONBOARDING);
	http.request.idempotency_key = "hub-1";
	hub_again = hub;
	again_status = 200;
}

static void hub(void)
{
	struct acp_reply reply;
	acp_hub_call(&kernel, acp_hub_find(kernel.hub, "tenants/create"), &http.request, NULL, &reply);
	answer(&reply);
}

static bool look_at_input(struct acp_buf *seen, struct acp_buf *fault)
{
	bool refused = look_at_call(seen, fault);
	acp_buf_puts(seen, refused ? "" : plane_input);
	/* The hub's answer contains the result from the database. If the answer cannot be made, an error says so. */
	if (refused && *plane_input && !strstr(response.body.ptr, "may have been done"))
		acp_buf_printf(fault, "refused with %d, but done; ", response.status);
	plane_input[0] = '\0';
	if (refused)
		repeat(hub_again, again_status, fault);
	return refused;
}

static void prepare_hub_events(void)
{
	install();
	ask("[{\"event_id\":\"5f0c1a52-0000-4000-8000-000000000009\",\"tenant_id\":\"" FAKE_TENANT
	    "\",\"action\":\"x.y\",\"actor\":{\"type\":\"system\"},\"status\":\"success\",\"ts\":\"2026-11-22T10:00:"
	    "00Z\",\"request_id\":\"" REQUEST_ID "\",\"integration\":\"k\"}]");
	hub_again = hub_events;
	again_status = 202;
}

static void hub_events(void)
{
	struct acp_reply reply;
	acp_hub_call(&kernel, acp_hub_find(kernel.hub, "audit-ingest"), &http.request, NULL, &reply);
	answer(&reply);
}

static char signature[160];

static void prepare_stripe(void)
{
	char text[1024], hex[ACP_SHA256_HEX];
	uint8_t mac[ACP_SHA256_LEN];
	static const char body[] =
		"{\"id\":\"evt_1\",\"object\":\"event\",\"type\":\"checkout.session.completed\",\"created\":1700000000,"
		"\"livemode\":false,\"data\":{\"object\":{\"id\":\"cs_1\",\"customer\":\"cus_1\",\"mode\":\"setup\","
		"\"setup_intent\":\"seti_1\",\"client_reference_id\":\"" FAKE_TENANT
		"\",\"metadata\":{\"tenant_uuid\":\"" FAKE_TENANT "\"}}}}";
	install();
	long long now = (long long)time(NULL);
	int len = snprintf(text, sizeof text, "%lld.%s", now, body);
	acp_hmac_sha256("whsec_test_secret", 17, text, (size_t)len, mac);
	acp_hex(mac, sizeof mac, hex);
	snprintf(signature, sizeof signature, "t=%lld,v1=%s", now, hex);
	ask(body);
}

static void stripe(void)
{
	struct acp_reply reply;
	acp_stripe_events_take(&kernel, &http.request, signature, &reply);
	answer(&reply);
}

/* The input of the plane contains the row, whose id differs each time. */
static bool look_at_stripe(struct acp_buf *seen, struct acp_buf *fault)
{
	bool refused = look_at_call(seen, fault);
	struct json_object *what = *plane_input ? json_tokener_parse(strchr(plane_input, '{')) : NULL;
	if (what)
		show_json(what, seen);
	json_object_put(what);
	/* Stripe repeats an event that was not answered with 2xx. If it was stored anyway, the repeat finds it. */
	return refused;
}

/* A webhook delivery, and a receiver that records it --------------------------------------------------------------- */

static struct {
	int listener, port;
	pthread_t thread;
	pthread_mutex_t lock;
	int requests;
	char last[4096];
} receiver = {.listener = -1, .lock = PTHREAD_MUTEX_INITIALIZER};

static void receive(int fd)
{
	char bytes[4096];
	size_t len = 0;
	const struct timeval limit = {.tv_sec = 2};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	for (;;) {
		ssize_t got = recv(fd, bytes + len, sizeof bytes - 1 - len, 0);
		if (got <= 0)
			return;
		len += (size_t)got;
		bytes[len] = '\0';
		if (strstr(bytes, "\r\n\r\n") && strstr(bytes, "}")) /* our bodies are small objects */
			break;
	}
	pthread_mutex_lock(&receiver.lock);
	receiver.requests++;
	memcpy(receiver.last, bytes, len + 1);
	pthread_mutex_unlock(&receiver.lock);
	static const char reply[] = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
	(void)!write(fd, reply, sizeof reply - 1);
}

static void *serve(void *arg)
{
	(void)arg;
	for (;;) {
		int fd = accept(receiver.listener, NULL, NULL);
		if (fd < 0)
			return NULL;
		receive(fd);
		close(fd);
	}
}

/* Each process starts its own: threads do not survive a fork. */
static void listen_here(void)
{
	struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof here;
	receiver.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(receiver.listener, (struct sockaddr *)&here, sizeof here) != 0 || listen(receiver.listener, 8) != 0)
		abort();
	getsockname(receiver.listener, (struct sockaddr *)&here, &len);
	receiver.port = ntohs(here.sin_port);
	receiver.requests = 0;
	if (pthread_create(&receiver.thread, NULL, serve, NULL) != 0)
		abort();
}

static bool claimed;

static void prepare_delivery(void)
{
	char text[ACP_WEBHOOK_SECRET_TEXT], sealed[ACP_WEBHOOK_SEALED_HEX];
	install();
	listen_here();
	if (!acp_webhook_new_secret(&config, WEBHOOK, text, sealed))
		abort();
	snprintf(delivery, sizeof delivery,
		 "[{\"tenant_id\":\"" FAKE_TENANT "\",\"webhook_id\":\"" WEBHOOK "\",\"delivery_id\":\"" DELIVERY
		 "\",\"attempt\":1,\"ts\":1700000000,\"url\":\"http://127.0.0.1:%d/\",\"payload\":\"{\\\"n\\\":1}\","
		 "\"sealed\":\"%s\"}]",
		 receiver.port, sealed);
	uint8_t secret[ACP_WEBHOOK_SECRET_LEN];
	if (!acp_webhook_open_secret(&config, WEBHOOK, sealed, secret))
		abort();
	acp_webhook_sign(secret, sizeof secret, DELIVERY, 1700000000, "{\"n\":1}", signature);
}

static void deliver(void)
{
	struct acp_webhook_sender *sender = acp_webhook_sender_start(&config, &plane);
	claimed = sender && acp_webhook_sender_round(sender) && acp_webhook_sender_ok(sender);
	if (!sender)
		return;
	acp_webhook_sender_stop(sender);
	while (acp_webhook_sender_round(sender))
		;
	acp_webhook_sender_end(sender);
}

static void clean_delivery(void)
{
	shutdown(receiver.listener, SHUT_RDWR);
	pthread_join(receiver.thread, NULL);
	close(receiver.listener);
	delivery[0] = '\0';
	remove_all();
}

/* After a failure the delivery is due again: as the outcome says, or, without one, when its lease ends. Everything that
 * was sent has a valid signature. */
static bool look_at_delivery(struct acp_buf *seen, struct acp_buf *fault)
{
	shutdown(receiver.listener, SHUT_RDWR);
	pthread_join(receiver.thread, NULL);
	if (receiver.requests && !strstr(receiver.last, signature))
		acp_buf_printf(fault, "the signature is not %s: %.600s; ", signature, receiver.last);
	struct json_object *outcomes = *plane_input ? json_tokener_parse(strchr(plane_input, '[')) : NULL;
	struct json_object *outcome = outcomes ? json_object_array_get_idx(outcomes, 0) : NULL;
	bool delivered = acp_json_bool(outcome, "delivered");
	acp_buf_printf(seen, "claimed %d, received %d, delivered %d", claimed, receiver.requests, delivered);
	if (delivered && !receiver.requests)
		acp_buf_puts(fault, "reported as delivered, but not received; ");
	bool again = !outcome || delivered || acp_json_member(outcome, "retry_after");
	json_object_put(outcomes);
	return again && !delivered;
}

/* Startup ---------------------------------------------------------------------------------------------------------- */

static struct acp_config own_config;
static char why[1024];
static bool started;
static struct acp_buf made; /* the result as text */

static void begin_start(void)
{
	why[0] = '\0';
	started = false;
	acp_buf_init(&made, 1 << 24);
}

/* It either starts completely, or does not start and gives the reason. */
static bool look_at_start(struct acp_buf *seen, struct acp_buf *fault)
{
	acp_buf_printf(seen, "%s %s", started ? "started" : "did not start", made.len ? made.ptr : "");
	if (!started && !*why)
		acp_buf_puts(fault, "it does not start and gives no reason; ");
	return !started;
}

static void end_start(void)
{
	acp_buf_release(&made);
}

static char file[64];

static void write_file(const char *path, const char *text)
{
	FILE *out = fopen(path, "w");
	if (!out || fputs(text, out) < 0 || fclose(out) != 0)
		abort();
}

/* The process that makes the baseline. Its children use the same files, so that a child that a library ends leaves them
 * to the next one. */
static int first_pid(void)
{
	static int pid;
	pid = pid ? pid : (int)getpid();
	return pid;
}

static void prepare_config(void)
{
	begin_start();
	snprintf(file, sizeof file, "/tmp/acp-torture-%d.conf", first_pid());
	setenv("ACP_KEY_PEPPER", FAKE_PEPPER, 1);
	write_file(file, "# a comment\nworkers = 4\npublic_url = \"https://api.example.com\"\nurl_prefix = /acp\n"
			 "products = leadscoring other\nrate_limits = off\n");
}

static void load_config(void)
{
	struct acp_config loaded;
	started = acp_config_load(&loaded, file, why, sizeof why);
	if (!started)
		return;
	failing_pause();
	acp_buf_printf(&made, "%lld %s %s %s %d %s %s", (long long)loaded.workers, loaded.public_url, loaded.url_prefix,
		       loaded.products, loaded.rate_limits, loaded.api_key_prefix, loaded.onboard_scopes);
	failing_resume();
	acp_config_release(&loaded);
}

static void clean_config(void)
{
	unlink(file);
	end_start();
}

static char folder[64];

static void prepare_actions(void)
{
	char path[128];
	begin_start();
	fake_config_init(&own_config);
	snprintf(folder, sizeof folder, "/tmp/acp-torture-%d.d", first_pid());
	mkdir(folder, 0700);
	snprintf(path, sizeof path, "%s/a.json", folder);
	write_file(path,
		   "{\"name\":\"demo.a.b\",\"description\":\"Does a.\",\"scope\":\"manage.domain\",\"params_schema\":"
		   "{\"type\":\"object\",\"properties\":{\"n\":{\"type\":\"integer\",\"minimum\":1}}},"
		   "\"handler\":{\"kind\":\"sql\",\"function\":\"demo.f\"}}");
	snprintf(path, sizeof path, "%s/b.json", folder);
	write_file(path,
		   "{\"name\":\"demo.c.d\",\"description\":\"Asks.\",\"scope\":\"manage.read\",\"params_schema\":{},"
		   "\"billable\":false,\"handler\":{\"kind\":\"http\",\"url\":\"https://example.com/x\",\"headers\":"
		   "{\"X-A\":\"b\"}}}");
	free(own_config.actions_dir);
	own_config.actions_dir = strdup(folder);
}

static void show_action(const struct acp_action *action)
{
	failing_pause();
	acp_buf_printf(&made, "%s %s %s %s %d; ", action->name, action->scope, action->description,
		       action->params_schema, action->billable);
	failing_resume();
}

static void load_actions(void)
{
	struct acp_actions *actions = acp_actions_load(&own_config, why, sizeof why);
	started = actions != NULL;
	for (size_t i = 0; started && acp_actions_at(actions, i); i++)
		show_action(acp_actions_at(actions, i));
	acp_actions_free(actions);
}

static void clean_actions(void)
{
	char path[128];
	snprintf(path, sizeof path, "%s/a.json", folder);
	unlink(path);
	snprintf(path, sizeof path, "%s/b.json", folder);
	unlink(path);
	rmdir(folder);
	acp_config_release(&own_config);
	end_start();
}

static void prepare_kernel(void)
{
	begin_start();
	fake_config_init(&own_config);
	make_plane();
}

static const char *copy_text(char *text)
{
	failing_pause();
	acp_buf_puts(&made, text ? text : "");
	failing_resume();
	return text;
}

/* The router, the hub and the OpenAPI description. */
static void start_kernel(void)
{
	struct acp_kernel new_kernel;
	if (!acp_kernel_init(&new_kernel, &own_config, &plane, acp_builtin_packs, why, sizeof why))
		return;
	new_kernel.hub = acp_hub_new(why, sizeof why);
	new_kernel.openapi = new_kernel.hub ? acp_openapi_text(&new_kernel) : NULL;
	started = copy_text(new_kernel.openapi) != NULL;
	if (new_kernel.hub && !started)
		snprintf(why, sizeof why, "out of memory"); /* the same text as in fcgi/main.c */
	acp_hub_free(new_kernel.hub);
	acp_kernel_release(&new_kernel);
}

static void clean_kernel(void)
{
	fake_plane_release(&fake);
	acp_config_release(&own_config);
	end_start();
}

/* Documents: schema, canonical form, redaction, forms -------------------------------------------------------------- */

static struct json_object *document, *schema_tree;

static void prepare_document(void)
{
	begin_start();
	document = json_tokener_parse(
		"{\"b\":[1,2.5,\"\\u00e9\",null,true],\"a\":{\"token\":\"secret\",\"t\":\"Bearer abc.def\"},"
		"\"long\":\"0123456789012345678901234567890123456789012345678901234567890123456789\"}");
	schema_tree = json_tokener_parse(
		"{\"type\":\"object\",\"required\":[\"b\"],\"properties\":{\"b\":{\"type\":\"array\",\"uniqueItems\":"
		"true,"
		"\"items\":{\"enum\":[1,2.5,\"\\u00e9\",null,true]}},\"a\":{\"type\":\"object\"},\"long\":"
		"{\"type\":\"string\",\"pattern\":\"^[0-9]+$\",\"minLength\":3}},\"additionalProperties\":false}");
}

static void clean_document(void)
{
	json_object_put(document);
	json_object_put(schema_tree);
	end_start();
}

static void check_schema(void)
{
	struct acp_schema_error bad = {.message = ""};
	struct acp_schema *compiled = acp_schema_compile(schema_tree, &bad);
	started = compiled && acp_schema_check(compiled, document, &bad);
	snprintf(why, sizeof why, "%s %s", bad.pointer, bad.message);
	acp_schema_free(compiled);
}

static void write_document(void)
{
	char hash[ACP_SHA256_HEX] = "";
	struct json_object *clean = NULL;
	struct json_object *event = document;
	started = acp_redact_json(event, "ock_", &clean) && acp_json_hash(clean, hash);
	if (started) {
		acp_json_canonical(clean, &made);
		acp_json_write(clean, &made);
		acp_buf_puts(&made, hash);
		started = acp_buf_ok(&made);
	}
	snprintf(why, sizeof why, "out of memory");
	json_object_put(clean);
}

static void read_document(void)
{
	static const char text[] = "{\"b\":[1,2.5,\"\\u00e9\\n\",null,true,-0.0,1e3],\"a\":{\"x\":{\"y\":[[[{}]]]}},"
				   "\"long\":\"0123456789012345678901234567890123456789\"}";
	struct acp_json_error bad;
	struct json_object *tree = NULL;
	const struct acp_json_limits limits = {1 << 20, 32, 1000};
	enum acp_json_verdict verdict = acp_json_parse(text, sizeof text - 1, &limits, &tree, &bad);
	started = verdict == ACP_JSON_OK;
	if (!started && (verdict != ACP_JSON_NO_MEMORY || tree))
		why[0] = '\0'; /* a valid document is never called invalid */
	else
		snprintf(why, sizeof why, "out of memory");
	failing_pause();
	show_json(tree, &made);
	failing_resume();
	json_object_put(tree);
}

static void write_form(void)
{
	struct json_object *params = json_object_new_object();
	bool ok = params && acp_json_add(params, "metadata", json_object_new_object()) &&
		  acp_json_add_string(acp_json_member(params, "metadata"), "tenant_uuid", FAKE_TENANT) &&
		  acp_json_add(params, "amount", json_object_new_int64(123)) &&
		  acp_json_add_string(params, "description", "M\xc3\xbcller & S\xc3\xb6hne");
	if (ok)
		acp_form_encode(params, &made);
	started = ok && acp_buf_ok(&made);
	snprintf(why, sizeof why, "out of memory");
	json_object_put(params);
}

/* The journal ------------------------------------------------------------------------------------------------------ */

static char journal_dir[64];
static struct json_object *events[3];
static bool appended;
static int stored[3];
static int altered; /* events that came back changed */

static void prepare_journal(void)
{
	begin_start();
	snprintf(journal_dir, sizeof journal_dir, "/tmp/acp-torture-%d.j", (int)getpid());
	for (int i = 0; i < 3; i++) {
		char id[40];
		snprintf(id, sizeof id, "00000000-0000-4000-8000-%012d", i);
		events[i] = json_object_new_object();
		acp_json_add_string(events[i], "event_id", id);
		acp_json_add_string(events[i], "tenant_id", FAKE_TENANT);
		acp_json_add_string(events[i], "ts", FAKE_TS);
		acp_json_add(events[i], "latency_ms", acp_json_double(0.125));
		acp_json_add_string(events[i], "action", "new\nline \"quote\" \xc3\xa9");
		stored[i] = 0;
	}
	altered = 0;
	appended = false;
}

static enum acp_code store(void *arg, const char *text, size_t count)
{
	(void)arg;
	failing_pause();
	struct json_object *list = json_tokener_parse(text);
	size_t got = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
	altered += got != count;
	for (size_t i = 0; i < got; i++) {
		struct json_object *one = json_object_array_get_idx(list, i);
		const char *id = acp_json_string(one, "event_id");
		int number = id ? id[35] - '0' : 9;
		if (number >= 0 && number < 3 && json_object_equal(one, events[number]))
			stored[number]++;
		else
			altered++;
	}
	json_object_put(list);
	failing_resume();
	return ACP_OK;
}

static void keep_journal(void)
{
	struct acp_journal_counts counts;
	struct acp_journal *journal =
		acp_journal_open(journal_dir, &(struct acp_journal_limits){1 << 20, 1 << 20, 1 << 20}, why, sizeof why);
	if (!journal)
		return;
	appended = acp_journal_append(journal, events, 3);
	if (appended)
		started = acp_journal_replay(journal, store, NULL, &counts) == ACP_OK && counts.events == 3;
	if (!started)
		snprintf(why, sizeof why, "see the log");
	acp_journal_close(journal);
}

/* Appended events come back, now or with the next replay. Refused ones may. */
static bool look_at_journal(struct acp_buf *seen, struct acp_buf *fault)
{
	struct acp_journal_counts counts;
	bool refused = look_at_start(seen, fault);
	acp_buf_printf(seen, "%d %d %d", stored[0], stored[1], stored[2]);
	enum acp_code code = acp_journal_replay_dir(journal_dir, store, NULL, &counts);
	for (int i = 0; i < 3; i++)
		if (appended && !stored[i])
			acp_buf_printf(fault, "event %d was acknowledged, but is lost; ", i);
	if (altered || code != ACP_OK || counts.damaged || counts.refused)
		acp_buf_printf(fault, "the replay ended with %s, %d events are altered; ", acp_code_name(code),
			       altered);
	return refused;
}

static void clean_journal(void)
{
	char path[400];
	struct dirent *entry;
	DIR *dir = opendir(journal_dir);
	while (dir && (entry = readdir(dir))) {
		snprintf(path, sizeof path, "%s/%s", journal_dir, entry->d_name);
		if (entry->d_name[0] != '.')
			unlink(path);
	}
	if (dir)
		closedir(dir);
	rmdir(journal_dir);
	for (int i = 0; i < 3; i++)
		json_object_put(events[i]);
	end_start();
}

/* Known keys ------------------------------------------------------------------------------------------------------- */

static void know_keys(void)
{
	static const struct acp_principal owner = {.tenant_id = FAKE_TENANT, .scopes = " manage.read "};
	static const uint8_t key[ACP_SHA256_LEN] = {1, 2, 3};
	struct acp_principal seen = {.tenant_id = ""};
	struct acp_change_feed feed = {.since = 0};
	bool ask_clock;
	char counter[64];
	snprintf(counter, sizeof counter, "torture-%d", (int)getpid());
	snprintf(why, sizeof why, "out of memory");
	struct acp_shared_counter *changed = acp_shared_counter_open(counter, why, sizeof why);
	struct acp_key_cache *cache = changed ? acp_key_cache_new(60000, changed) : NULL;
	if (cache) {
		acp_key_cache_ask(cache, &feed, &ask_clock);
		feed.version = 1;
		feed.changed = "";
		acp_key_cache_apply(cache, &feed);
		acp_key_cache_put(cache, key, &owner, 0, 1);
		started = acp_key_cache_get(cache, key, 0, &seen) && strcmp(seen.tenant_id, FAKE_TENANT) == 0;
		acp_key_cache_free(cache);
	}
	if (changed)
		acp_shared_counter_close(changed);
}

static void forget_keys(void)
{
	char path[96];
	snprintf(path, sizeof path, "/dev/shm/acp-fcgi-%u-torture-%d", (unsigned)geteuid(), (int)getpid());
	unlink(path);
	end_start();
}

/* clang-format off */
const struct story stories[] = {
	{"manage: a paid action", prepare_compute, manage, look_at_manage, remove_all},
	{"manage: with a warning", prepare_near_limit, manage, look_at_warned, remove_all},
	{"manage: a write", prepare_write, manage, look_at_manage, remove_all},
	{"manage: a policy", prepare_policy, manage, look_at_manage, remove_all},
	{"manage: a secret in the call", prepare_redacted, manage, look_at_manage, remove_all},
	{"manage: list of actions", prepare_meta, manage, look_at_manage, remove_all},
	{"dry run: a write", prepare_dry_run, manage, look_at_manage, remove_all},
	{"dry run: a computation", prepare_dry_compute, manage, look_at_manage, remove_all},
	{"idempotent: the first call", prepare_first, manage, look_at_first, remove_all},
	{"idempotent: its replay", prepare_replay, manage, look_at_replay, remove_all},
	{"refused: allowance used up", prepare_used_up, manage, look_at_used_up, remove_all},
	{"refused: unknown key", prepare_stranger, manage, look_at_call, remove_all},
	{"refused: wrong params", prepare_bad_params, manage, look_at_call, remove_all},
	{"refused: no JSON", prepare_bad_json, manage, look_at_call, remove_all},
	{"refused: as problem+json", prepare_problem, manage, look_at_call, remove_all},
	{"onboarding", prepare_onboard, onboard, look_at_onboard_once, remove_all},
	{"onboarding: idempotent", prepare_onboard_again, onboard, look_at_onboard, remove_all},
	{"hub: a tenant", prepare_hub, hub, look_at_input, remove_all},
	{"hub: audit events", prepare_hub_events, hub_events, look_at_input, remove_all},
	{"stripe: an event", prepare_stripe, stripe, look_at_stripe, remove_all},
	{"webhook: a delivery", prepare_delivery, deliver, look_at_delivery, clean_delivery},
	{"start: configuration", prepare_config, load_config, look_at_start, clean_config},
	{"start: actions.d", prepare_actions, load_actions, look_at_start, clean_actions},
	{"start: kernel and openapi", prepare_kernel, start_kernel, look_at_start, clean_kernel},
	{"json: read", prepare_document, read_document, look_at_start, clean_document},
	{"json: schema", prepare_document, check_schema, look_at_start, clean_document},
	{"json: redact, hash, write", prepare_document, write_document, look_at_start, clean_document},
	{"json: form", prepare_document, write_form, look_at_start, clean_document},
	{"journal: append, replay", prepare_journal, keep_journal, look_at_journal, clean_journal},
	{"key cache", begin_start, know_keys, look_at_start, forget_keys},
	{NULL, NULL, NULL, NULL, NULL},
};
/* clang-format on */
