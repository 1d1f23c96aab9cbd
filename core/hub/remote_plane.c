#include "remote_plane.h"

#include "clock.h"
#include "crypto.h"
#include "decisions.h"
#include "json.h"
#include "log.h"
#include "outbound.h"
#include "subkey.h"
#include "version.h"

#include <errno.h>
#include <pthread.h>

enum {
	DECISIONS = 4096,
	BATCH = 100, /* events in one request */
	REPLY_MAX = 1 << 20,
	DOWN_US = 500 * 1000, /* after the hub did not answer, ordinary requests fail at once for this long */
	TENANTS = 64,         /* of which it is known separately; several may share an entry */
	POLL_MS = 1000,       /* the longest pause between two checks of the outbox: other processes add events, too */
	RETRY_MAX_MS = 5000,
	HEARTBEAT_US = 30 * 1000000,
};

struct acp_remote_plane {
	const struct acp_config *config;
	struct acp_control_plane local;
	struct acp_decisions *decisions;
	uint64_t down_until;            /* atomic */
	uint64_t answered_at;           /* atomic: when the hub last answered a request */
	uint64_t silent_until[TENANTS]; /* atomic: down_until for the requests about one tenant */
	pthread_t sender;
	pthread_mutex_t lock; /* protects the members below */
	pthread_cond_t changed;
	bool stop, waiting;
};

/* Requests to the hub ------------------------------------------------------------------------------------------ */

struct request_to_hub {
	const char *name; /* "usage/reserve" */
	struct json_object *body;
	const char *idempotency_key; /* NULL: none */
	int timeout_ms;
	bool even_if_down; /* send even if the hub did not answer a moment ago */
};

/* Where it is recorded that requests about the tenant of q are not answered. NULL: it is about none. */
static uint64_t *silence_about(struct acp_remote_plane *remote, const struct request_to_hub *q)
{
	uint8_t hash[ACP_SHA256_LEN];
	const char *tenant = acp_json_string(q->body, "tenant_id");
	if (!tenant)
		return NULL;
	acp_sha256(tenant, strlen(tenant), hash);
	return &remote->silent_until[hash[0] % TENANTS];
}

static bool is_silent(const uint64_t *until, uint64_t now)
{
	return now < __atomic_load_n(until, __ATOMIC_RELAXED);
}

static bool hub_is_down(struct acp_remote_plane *remote, const struct request_to_hub *q)
{
	uint64_t now = acp_monotonic_us();
	const uint64_t *about = silence_about(remote, q);
	return is_silent(&remote->down_until, now) || (about && is_silent(about, now));
}

static bool silent_about_others(const struct acp_remote_plane *remote, const uint64_t *about, uint64_t now)
{
	bool silent = false;
	for (size_t i = 0; i < TENANTS; i++)
		silent = silent || (&remote->silent_until[i] != about && is_silent(&remote->silent_until[i], now));
	return silent;
}

/* Records that the hub did not answer. Ordinary requests about this tenant then fail at once for a while. Those about
 * all tenants do only if the hub was not reached, or is silent about several tenants and has answered nobody since this
 * request began: the calls of one tenant may be slow there. Logs only the first failure of each such period. */
static void mark_down(struct acp_remote_plane *remote, const struct request_to_hub *q, uint64_t begun, bool reached,
		      const char *why)
{
	uint64_t now = acp_monotonic_us();
	uint64_t *about = silence_about(remote, q);
	bool known = hub_is_down(remote, q);
	bool answers = __atomic_load_n(&remote->answered_at, __ATOMIC_RELAXED) > begun ||
		       (about && !silent_about_others(remote, about, now));
	if (about)
		__atomic_store_n(about, now + DOWN_US, __ATOMIC_RELAXED);
	if (!reached || !answers)
		__atomic_store_n(&remote->down_until, now + DOWN_US, __ATOMIC_RELAXED);
	if (!known)
		acp_log(ACP_LOG_WARNING, "hub: %s: %s", q->name, why);
}

/* Sends a request. Every request to the hub is safe to repeat, so one that was lost on a dying kept connection is sent
 * again. The outcome of the first is then unknown. */
static enum acp_outbound_result send_request(const struct acp_remote_plane *remote, const struct request_to_hub *q,
					     struct acp_outbound_reply *reply, bool *repeated)
{
	char url[1024];
	char bearer[1024];
	const struct acp_config *config = remote->config;
	size_t len = 0;
	snprintf(url, sizeof url, "%s/functions/v1/%s", config->hub_url, q->name);
	snprintf(bearer, sizeof bearer, "Bearer %s", config->hub_key);
	const struct acp_header headers[] = {{"Authorization", bearer},
					     {"Content-Type", "application/json"},
					     {"Idempotency-Key", q->idempotency_key}};
	const char *body = acp_json_text(q->body, JSON_C_TO_STRING_PLAIN, &len);
	if (!body) {
		*reply = (struct acp_outbound_reply){.error = "out of memory"};
		return ACP_OUTBOUND_FAILED;
	}
	struct acp_outbound_request request = {.method = "POST",
					       .url = url,
					       .headers = headers,
					       .body = body,
					       .header_count = q->idempotency_key ? 3 : 2,
					       .body_len = len,
					       .connect_timeout_ms = q->timeout_ms,
					       .timeout_ms = q->timeout_ms,
					       .max_reply = REPLY_MAX,
					       .allow_private = true,
					       .keep_alive = true,
					       .allow_http = strncmp(config->hub_url, "http:", 5) == 0};
	uint64_t start = acp_monotonic_us();
	enum acp_outbound_result result = acp_outbound_send(&request, reply);
	int64_t left = q->timeout_ms - (int64_t)((acp_monotonic_us() - start) / 1000);
	*repeated = result == ACP_OUTBOUND_UNKNOWN && left > q->timeout_ms / 2;
	if (*repeated) {
		acp_buf_release(&reply->body);
		request.keep_alive = false;
		request.timeout_ms = (int)left;
		result = acp_outbound_send(&request, reply);
	}
	acp_wipe(bearer, sizeof bearer);
	return result;
}

/* Is the hub up but unable to evaluate its policies? Reads proceed when the hub is down, but not in this case. */
static bool cannot_decide(const struct request_to_hub *q, const char *code)
{
	return strcmp(q->name, "authorize") == 0 && code && strcmp(code, acp_code_name(ACP_INTERNAL_ERROR)) == 0;
}

/* Reads the hub's answer: ACP_OK with its members, or the code of its refusal with the error text in refused. */
static enum acp_code read_answer(struct acp_remote_plane *remote, const struct request_to_hub *q, uint64_t begun,
				 const struct acp_outbound_reply *reply, struct json_object **answer, char refused[256])
{
	const struct acp_json_limits limits = {REPLY_MAX, 64, 200000};
	struct acp_json_error bad;
	struct json_object *tree = NULL;
	char why[64];
	bool readable = acp_json_parse(reply->body.ptr ? reply->body.ptr : "", reply->body.len, &limits, &tree, &bad) ==
			ACP_JSON_OK;
	const char *code = acp_json_string(tree, "code");
	struct json_object *version = acp_json_member(tree, "policy_version");
	if (version)
		acp_decisions_version(remote->decisions, json_object_get_int64(version));
	if (reply->status < 300 && readable && acp_json_bool(tree, "ok")) {
		*answer = tree;
		return ACP_OK;
	}
	if (!cannot_decide(q, code) &&
	    (reply->status < 400 || reply->status >= 500 || reply->status == 401 || !readable || !code)) {
		snprintf(why, sizeof why, "answered %d%s", reply->status,
			 reply->status == 401 ? ": hub_key is not its kernel key" : "");
		/* An answer without a code comes from a server in between, which does not know the outcome. */
		bool unknown = reply->status != 401 && (!code || acp_code_of(code) == ACP_OUTCOME_UNKNOWN);
		/* The outbox is sent again and again. A hub that cannot store its rows now may well answer calls. */
		if (code && q->even_if_down)
			acp_log(ACP_LOG_WARNING, "hub: %s: %s: %s", q->name, why, code);
		else
			mark_down(remote, q, begun, code != NULL, why);
		json_object_put(tree);
		return unknown ? ACP_OUTCOME_UNKNOWN : ACP_UNAVAILABLE;
	}
	enum acp_code refusal = acp_code_of(code);
	const char *error = acp_json_string(tree, "error");
	snprintf(refused, 256, "%s", error ? error : code);
	json_object_put(tree);
	return refusal;
}

/* Sends a request and waits. The caller owns *answer. ACP_UNAVAILABLE: the hub is unreachable. ACP_OUTCOME_UNKNOWN: the
 * hub may have done it. Any other code is the hub's answer; the endpoint determines which ones are possible. */
static enum acp_code ask(struct acp_remote_plane *remote, const struct request_to_hub *q, struct json_object **answer,
			 char refused[256])
{
	struct acp_outbound_reply reply;
	if (!q->body)
		return ACP_INTERNAL_ERROR;
	if (!q->even_if_down && hub_is_down(remote, q))
		return ACP_UNAVAILABLE;
	bool repeated = false;
	uint64_t begun = acp_monotonic_us();
	enum acp_outbound_result result = send_request(remote, q, &reply, &repeated);
	enum acp_code code = result == ACP_OUTBOUND_UNKNOWN ? ACP_OUTCOME_UNKNOWN : ACP_UNAVAILABLE;
	if (result == ACP_OUTBOUND_REPLIED)
		code = read_answer(remote, q, begun, &reply, answer, refused);
	else
		mark_down(remote, q, begun, result == ACP_OUTBOUND_UNKNOWN, reply.error);
	if (code == ACP_UNAVAILABLE && repeated)
		code = ACP_OUTCOME_UNKNOWN;
	if (code != ACP_UNAVAILABLE && code != ACP_OUTCOME_UNKNOWN) {
		uint64_t *about = silence_about(remote, q);
		__atomic_store_n(&remote->answered_at, acp_monotonic_us(), __ATOMIC_RELAXED);
		__atomic_store_n(&remote->down_until, 0, __ATOMIC_RELAXED);
		if (about)
			__atomic_store_n(about, 0, __ATOMIC_RELAXED);
	}
	acp_buf_release(&reply.body);
	return code;
}

/* The same for a body made only for this request. Releases the body. */
static enum acp_code ask_once(struct acp_remote_plane *remote, const char *name, struct json_object *body,
			      struct json_object **answer)
{
	char refused[256] = "";
	const struct request_to_hub q = {.name = name, .body = body, .timeout_ms = (int)remote->config->hub_timeout_ms};
	enum acp_code code = ask(remote, &q, answer, refused);
	json_object_put(body);
	if (code != ACP_OK && code != ACP_UNAVAILABLE && code != ACP_OUTCOME_UNKNOWN)
		acp_log(ACP_LOG_INFO, "hub: %s: %s: %s", name, acp_code_name(code), refused);
	return code;
}

/* Callers and usage -------------------------------------------------------------------------------------------- */

/* Marks every caller as subject to policies: the hub decides whether one applies. */
static enum acp_code authenticate(void *self, const uint8_t key_hash[ACP_SHA256_LEN], struct acp_principal *out)
{
	struct acp_remote_plane *remote = self;
	enum acp_code code = remote->local.call.authenticate(remote->local.self, key_hash, out);
	out->policed = true;
	return code;
}

/* Gets the hub's data about a tenant's month. */
static enum acp_code get_month(void *self, const char *what, const char *tenant_id, const char *period,
			       struct json_object **out)
{
	struct json_object *body = json_object_new_object();
	bool ok = acp_json_add_string(body, "tenant_id", tenant_id) &&
		  (!period || acp_json_add_string(body, "period", period));
	if (!ok) {
		json_object_put(body);
		return ACP_INTERNAL_ERROR;
	}
	enum acp_code code = ask_once(self, what, body, out);
	if (code == ACP_VALIDATION_ERROR) /* in the data of the hub's operator: period was checked before */
		return ACP_INTERNAL_ERROR;
	if (code != ACP_OK)
		return code == ACP_OUTCOME_UNKNOWN ? ACP_UNAVAILABLE : code;
	json_object_object_del(*out, "ok");
	json_object_object_del(*out, "request_id");
	return ACP_OK;
}

static enum acp_code get_usage(void *self, const char *tenant_id, const char *period, struct json_object **usage)
{
	return get_month(self, "usage", tenant_id, period, usage);
}

/* ts has the database's format, which begins with the month. */
static enum acp_code get_allowance(void *self, const char *tenant_id, const char *ts, struct acp_allowance *out)
{
	char period[8];
	struct json_object *usage = NULL;
	snprintf(period, sizeof period, "%.7s", ts);
	enum acp_code code = get_month(self, "usage", tenant_id, period, &usage);
	if (code != ACP_OK)
		return code;
	struct json_object *limit = acp_json_member(usage, "calls_limit");
	*out = (struct acp_allowance){.used = json_object_get_int64(acp_json_member(usage, "calls_used")),
				      .held = json_object_get_int64(acp_json_member(usage, "calls_held")),
				      .limit = limit ? json_object_get_int64(limit) : -1};
	json_object_put(usage);
	return ACP_OK;
}

/* The hub bills, so its prices are shown. A hub of an older version does not tell them. */
static enum acp_code get_prices(void *self, struct json_object *what, struct json_object **reply,
				struct acp_refusal *refusal)
{
	(void)refusal;
	enum acp_code code = ask_once(self, "usage/prices", json_object_get(what), reply);
	return code == ACP_OUTCOME_UNKNOWN ? ACP_UNAVAILABLE : code;
}

static enum acp_code get_invoice(void *self, const char *tenant_id, const char *period, struct json_object **invoice)
{
	return get_month(self, "billing/invoice", tenant_id, period, invoice);
}

/* Makes the members that identify a call in the hub's usage/… endpoints. ts has the database's format: "2026-11-22
 * 10:00:00.123456+00". */
static struct json_object *identify_call(const char *tenant_id, const char *event_id, const char *ts)
{
	char time[ACP_TS_LEN + 8];
	struct json_object *body = json_object_new_object();
	snprintf(time, sizeof time, "%.10sT%.15sZ", ts, strlen(ts) > 11 ? ts + 11 : "");
	if (acp_json_add_string(body, "tenant_id", tenant_id) && acp_json_add_string(body, "event_id", event_id) &&
	    acp_json_add_string(body, "ts", time))
		return body;
	json_object_put(body);
	return NULL;
}

static enum acp_code reserve(void *self, const char *tenant_id, const char *event_id, const char *ts,
			     struct acp_reservation *out)
{
	struct json_object *answer = NULL;
	enum acp_code code = ask_once(self, "usage/reserve", identify_call(tenant_id, event_id, ts), &answer);
	if (code != ACP_OK)
		return code;
	const char *tier = acp_json_string(answer, "tier");
	out->allowed = acp_json_bool(answer, "allowed");
	out->tier = tier && strcmp(tier, "paid") == 0 ? ACP_TIER_PAID : ACP_TIER_FREE;
	out->limited = acp_json_member(answer, "calls_limit") != NULL;
	out->calls_used = json_object_get_int64(acp_json_member(answer, "calls_used"));
	out->calls_limit = json_object_get_int64(acp_json_member(answer, "calls_limit"));
	const char *until = acp_json_string(acp_json_member(answer, "past_due"), "until");
	snprintf(out->past_due_until, sizeof out->past_due_until, "%s", until ? until : "");
	json_object_put(answer);
	return ACP_OK;
}

/* Reports to the hub how a call ended. outcome: "success" or "failure". */
static enum acp_code settle_at_hub(struct acp_remote_plane *remote, const struct acp_settlement *end,
				   const char *outcome, int64_t *used)
{
	struct json_object *answer = NULL;
	struct json_object *body = identify_call(end->event->tenant_id, end->event->event_id, end->event->ts);
	bool ok = acp_json_add_string(body, "outcome", outcome) &&
		  acp_json_add(body, "reserved", json_object_new_boolean(end->reserved)) &&
		  (!end->approval || acp_json_add_string(body, "approval_id", end->approval));
	if (!ok) {
		json_object_put(body);
		return ACP_INTERNAL_ERROR;
	}
	enum acp_code code = ask_once(remote, "usage/settle", body, &answer);
	if (code == ACP_OK && end->reserved)
		*used = json_object_get_int64(acp_json_member(answer, "calls_used"));
	if (code == ACP_OK && end->reserved && end->calls_held)
		*end->calls_held = json_object_get_int64(acp_json_member(answer, "calls_held"));
	json_object_put(answer);
	return code;
}

/* Only the hub can use up an approval. */
static enum acp_code use_approval(void *self, const char *tenant_id, const char *approval_id, const char *event_id,
				  const char *ts, struct acp_refusal *refusal)
{
	int64_t ignored;
	struct acp_event event = {.tenant_id = tenant_id, .event_id = event_id, .ts = ts};
	const struct acp_settlement claim = {.event = &event, .approval = approval_id};
	(void)refusal;
	return settle_at_hub(self, &claim, "success", &ignored);
}

/* The end of a call -------------------------------------------------------------------------------------------- */

static void wake_sender(struct acp_remote_plane *remote)
{
	pthread_mutex_lock(&remote->lock);
	remote->waiting = true;
	pthread_cond_signal(&remote->changed);
	pthread_mutex_unlock(&remote->lock);
}

/* Makes the settlement for the kernel's own database: without the allowance, and with the row queued for the hub. */
static void make_local(const struct acp_settlement *end, struct acp_settlement *local)
{
	*local = *end;
	local->reserved = false;
	local->approval = NULL;
	end->event->forward = true;
}

/* Asks the hub before anything is committed. ACP_OK: go on. */
static enum acp_code settle_before(struct acp_remote_plane *remote, const struct acp_settlement *end, int64_t *used)
{
	if (!end->reserved)
		return ACP_OK;
	enum acp_code code = settle_at_hub(remote, end, "success", used);
	if (code == ACP_OK || code == ACP_UPGRADE_REQUIRED)
		return code;
	return acp_event_failed_open(end->event) ? ACP_OK : ACP_INTERNAL_ERROR;
}

static enum acp_code settle(void *self, struct acp_tx *tx, const struct acp_settlement *end, int64_t *used)
{
	struct acp_remote_plane *remote = self;
	struct acp_settlement local;
	int64_t local_used;
	*used = -1;
	make_local(end, &local);
	enum acp_code code = settle_before(remote, end, used);
	if (code != ACP_OK) {
		if (tx)
			remote->local.call.rollback(tx);
		return code;
	}
	code = remote->local.call.settle(remote->local.self, tx, &local, &local_used);
	if (code == ACP_OK) {
		wake_sender(remote);
		return ACP_OK;
	}
	/* The hub counts only calls that have an audit row. This call has none; if the outcome is unknown, resolve()
	 * decides. */
	if (code != ACP_OUTCOME_UNKNOWN && end->reserved && settle_at_hub(remote, end, "failure", used) != ACP_OK)
		acp_log(ACP_LOG_WARNING, "hub: a failed call stays counted: event %s", end->event->event_id);
	return code;
}

/* Releases the reservation and gives the approval back. If the hub is unreachable now, the reservation ends when the
 * row arrives, or when it expires; the approval stays used. */
static void release_reservation(struct acp_remote_plane *remote, const struct acp_settlement *end)
{
	int64_t ignored;
	const struct acp_settlement release = {
		.event = end->event, .reserved = end->reserved, .approval = end->approval};
	if ((end->reserved || end->approval) && settle_at_hub(remote, &release, "failure", &ignored) != ACP_OK)
		acp_log(ACP_LOG_INFO, "hub: event %s: a reservation will be released later%s", end->event->event_id,
			end->approval ? ", and its approval stays used" : "");
}

static enum acp_code record(void *self, const struct acp_settlement *end)
{
	struct acp_remote_plane *remote = self;
	struct acp_settlement local;
	make_local(end, &local);
	enum acp_code code = remote->local.call.record(remote->local.self, &local);
	release_reservation(remote, end);
	wake_sender(remote);
	return code;
}

static enum acp_code resolve(void *self, const struct acp_settlement *end)
{
	struct acp_remote_plane *remote = self;
	struct acp_settlement local;
	make_local(end, &local);
	enum acp_code code = remote->local.call.resolve(remote->local.self, &local);
	if (code == ACP_UNAVAILABLE)
		release_reservation(remote, end);
	wake_sender(remote);
	return code;
}

/* Policies ----------------------------------------------------------------------------------------------------- */

static struct json_object *make_authorize_body(const struct acp_remote_plane *remote, struct json_object *query)
{
	static const char *const same[] = {"tenant_id", "action", "request_hash", "event_id", "dry_run", "amount"};
	struct json_object *body = json_object_new_object();
	struct json_object *actor = json_object_new_object();
	bool ok = acp_json_add_string(actor, "type", acp_json_string(query, "actor_type")) &&
		  acp_json_add_string(actor, "api_key_id", acp_json_string(query, "api_key_id")) &&
		  acp_json_add(body, "actor", json_object_get(actor)) &&
		  acp_json_add_string(body, "kernel_id", remote->config->kernel_id);
	for (size_t i = 0; ok && i < ACP_COUNT(same); i++) {
		struct json_object *value = acp_json_member(query, same[i]);
		ok = !value || acp_json_add(body, same[i], json_object_get(value));
	}
	json_object_put(actor);
	if (ok)
		return body;
	json_object_put(body);
	return NULL;
}

static enum acp_code authorize(void *self, struct json_object *query, struct json_object **decision)
{
	struct acp_remote_plane *remote = self;
	uint64_t now = acp_monotonic_us();
	*decision = acp_decisions_get(remote->decisions, query, now);
	if (*decision)
		return ACP_OK;
	enum acp_code code = ask_once(remote, "authorize", make_authorize_body(remote, query), decision);
	if (code != ACP_OK)
		return code == ACP_INTERNAL_ERROR || code == ACP_RATE_LIMITED ? code : ACP_UNAVAILABLE;
	json_object_object_del(*decision, "ok");
	json_object_object_del(*decision, "request_id");
	acp_decisions_put(remote->decisions, query, *decision,
			  json_object_get_int64(acp_json_member(*decision, "policy_version")),
			  json_object_get_int64(acp_json_member(*decision, "decision_ttl_ms")), now);
	return ACP_OK;
}

/* Onboarding --------------------------------------------------------------------------------------------------- */

static struct json_object *make_tenant_body(const struct acp_onboarding *in)
{
	struct json_object *body = json_object_new_object();
	if (acp_json_add_string(body, "agent_id", in->agent_id) && acp_json_add_string(body, "email", in->email) &&
	    acp_json_add_string(body, "product", in->product) &&
	    (!in->organization_name || acp_json_add_string(body, "organization_name", in->organization_name)))
		return body;
	json_object_put(body);
	return NULL;
}

/* Derives the idempotency key from the request, so that an onboarding interrupted between hub and kernel is completed
 * when the agent retries. The pepper is included, so that no other kernel can get this one's tenants. */
static bool make_idempotency_key(const struct acp_config *config, struct json_object *body, char hex[ACP_SHA256_HEX])
{
	char request[ACP_SHA256_HEX];
	if (!acp_json_hash(body, request))
		return false;
	acp_subkey_hex(config->key_pepper, ACP_FOR_TENANT_AT_HUB, request, strlen(request), hex);
	return true;
}

/* Creates the tenant at the hub. */
static enum acp_code make_tenant(struct acp_remote_plane *remote, const struct acp_onboarding *in,
				 char tenant_id[ACP_UUID_LEN])
{
	char key[ACP_SHA256_HEX];
	char refused[256] = "";
	struct json_object *answer = NULL;
	struct json_object *body = make_tenant_body(in);
	const struct request_to_hub q = {.name = "tenants/create",
					 .body = body,
					 .idempotency_key = key,
					 .timeout_ms = (int)remote->config->hub_timeout_ms};
	if (!body || !make_idempotency_key(remote->config, body, key)) {
		json_object_put(body);
		return ACP_INTERNAL_ERROR;
	}
	enum acp_code code = ask(remote, &q, &answer, refused);
	const char *id = acp_json_string(answer, "tenant_uuid");
	if (code == ACP_OK)
		snprintf(tenant_id, ACP_UUID_LEN, "%s", id && acp_is_uuid(id) ? id : "");
	else if (code != ACP_ALREADY_ONBOARDED)
		acp_log(ACP_LOG_WARNING, "hub: tenants/create: %s: %s", acp_code_name(code), refused);
	json_object_put(answer);
	json_object_put(body);
	if (code == ACP_OK && !*tenant_id)
		return ACP_OUTCOME_UNKNOWN;
	bool keep_code = code == ACP_OK || code == ACP_ALREADY_ONBOARDED || code == ACP_OUTCOME_UNKNOWN;
	return keep_code ? code : ACP_UNAVAILABLE;
}

static enum acp_code onboard(void *self, const struct acp_onboarding *in, struct acp_onboarded *out)
{
	struct acp_remote_plane *remote = self;
	char tenant_id[ACP_UUID_LEN] = "";
	enum acp_code code = make_tenant(remote, in, tenant_id);
	if (code != ACP_OK)
		return code;
	struct acp_onboarding local = *in;
	local.tenant_id = tenant_id;
	if (!acp_json_add(in->event, "forward", json_object_new_boolean(true)))
		return ACP_INTERNAL_ERROR;
	code = remote->local.call.onboard(remote->local.self, &local, out);
	if (code != ACP_OK)
		return code;
	wake_sender(remote);
	struct acp_refusal ignored;
	json_object_put(out->pricing); /* by the prices of this database, with which nothing is billed */
	out->pricing = NULL;
	(void)!get_prices(remote, in->priced, &out->pricing, &ignored);
	return ACP_OK;
}

/* Calls for the kernel's own database --------------------------------------------------------------------------- */

static enum acp_code live_count(void *self, const char *tenant_id, const char *resource, int64_t *count)
{
	struct acp_remote_plane *remote = self;
	return remote->local.usage.live_count(remote->local.self, tenant_id, resource, count);
}

static enum acp_code begin(void *self, const char *tenant_id, bool read_only, struct acp_tx **tx)
{
	struct acp_remote_plane *remote = self;
	return remote->local.call.begin(remote->local.self, tenant_id, read_only, tx);
}

static enum acp_code read(void *self, const char *function, const char *tenant_id, struct json_object *params,
			  struct json_object *ctx, struct acp_result *result, struct acp_refusal *refusal)
{
	struct acp_remote_plane *remote = self;
	return remote->local.call.read(remote->local.self, function, tenant_id, params, ctx, result, refusal);
}

static enum acp_code claim(void *self, const char *tenant_id, const char *action, const char *key,
			   const char *fingerprint, const char *event_id, struct acp_claim *out)
{
	struct acp_remote_plane *remote = self;
	return remote->local.call.claim(remote->local.self, tenant_id, action, key, fingerprint, event_id, out);
}

static enum acp_code claim_deliveries(void *self, int max, int lease, int share, struct json_object **list)
{
	struct acp_remote_plane *remote = self;
	return remote->local.webhooks.claim(remote->local.self, max, lease, share, list);
}

static enum acp_code report_deliveries(void *self, struct json_object *outcomes)
{
	struct acp_remote_plane *remote = self;
	return remote->local.webhooks.report(remote->local.self, outcomes);
}

static void maintain(void *self)
{
	struct acp_remote_plane *remote = self;
	remote->local.upkeep.maintain(remote->local.self);
}

static void catch_up(void *self)
{
	struct acp_remote_plane *remote = self;
	if (remote->local.upkeep.catch_up)
		remote->local.upkeep.catch_up(remote->local.self);
}

static enum acp_code ready(void *self, char *why, size_t why_size)
{
	struct acp_remote_plane *remote = self;
	return remote->local.upkeep.ready(remote->local.self, why, why_size);
}

/* Sending ------------------------------------------------------------------------------------------------------ */

static bool stopping(struct acp_remote_plane *remote)
{
	pthread_mutex_lock(&remote->lock);
	bool stop = remote->stop;
	pthread_mutex_unlock(&remote->lock);
	return stop;
}

/* Sends a batch. Returns whether the hub accepted it, refused it permanently, or did not answer. */
static enum acp_delivery deliver(struct acp_remote_plane *remote, struct json_object *events, char refused[256])
{
	struct json_object *answer = NULL;
	const struct request_to_hub q = {.name = "audit-ingest",
					 .body = events,
					 .even_if_down = true,
					 .timeout_ms = (int)remote->config->hub_timeout_ms + 5000};
	enum acp_code code = ask(remote, &q, &answer, refused);
	json_object_put(answer);
	if (code == ACP_OK)
		return ACP_DELIVERED;
	return code == ACP_VALIDATION_ERROR || code == ACP_PAYLOAD_TOO_LARGE ? ACP_DELIVERY_REFUSED : ACP_NOT_DELIVERED;
}

/* Sends a batch of events. *sent: the number of events taken from the outbox. The hub refuses a whole batch because of
 * one invalid event. *one_by_one then makes the next batches single events, to find that event and mark it as refused.
 * False: try again later. */
static bool send_batch(struct acp_remote_plane *remote, size_t *one_by_one, size_t *sent)
{
	char refused[256] = "";
	struct acp_tx *tx = NULL;
	struct json_object *events = NULL;
	const struct acp_control_plane *local = &remote->local;
	*sent = 0;
	if (local->hub.forward_take(local->self, *one_by_one ? 1 : BATCH, &tx, &events) != ACP_OK)
		return false;
	size_t count = json_object_array_length(events);
	if (count == 0) {
		json_object_put(events);
		return true;
	}
	enum acp_delivery delivery = deliver(remote, events, refused);
	if (delivery == ACP_DELIVERY_REFUSED && count > 1) {
		*one_by_one = count;
		delivery = ACP_NOT_DELIVERED;
	} else if (*one_by_one && delivery != ACP_NOT_DELIVERED) {
		(*one_by_one)--;
	}
	if (delivery == ACP_DELIVERY_REFUSED)
		acp_log(ACP_LOG_ERROR, "hub: refused an audit event, which stays in acp.audit_outbox: %s", refused);
	bool ended = local->hub.forward_done(tx, delivery, events, refused) == ACP_OK;
	json_object_put(events);
	*sent = count;
	return ended && (delivery != ACP_NOT_DELIVERED || *one_by_one);
}

/* Sends everything in the outbox. False: the hub or the database is unreachable. */
static bool send_all(struct acp_remote_plane *remote)
{
	size_t one_by_one = 0;
	size_t sent = 1;
	while (sent && !stopping(remote))
		if (!send_batch(remote, &one_by_one, &sent))
			return false;
	return true;
}

static void send_heartbeat(struct acp_remote_plane *remote)
{
	char refused[256] = "";
	struct json_object *answer = NULL;
	struct json_object *body = json_object_new_object();
	const struct request_to_hub q = {.name = "heartbeat",
					 .body = body,
					 .even_if_down = true,
					 .timeout_ms = (int)remote->config->hub_timeout_ms};
	if (acp_json_add_string(body, "kernel_id", remote->config->kernel_id) &&
	    acp_json_add_string(body, "version", "acp-fcgi " ACP_VERSION) &&
	    acp_json_add_string(body, "api_version", ACP_API_VERSION))
		(void)!ask(remote, &q, &answer, refused); /* the failure was logged; the next heartbeat follows */
	json_object_put(answer);
	json_object_put(body);
}

/* Waits until there is work, for at most ms milliseconds. False: stop. */
static bool wait_for_events(struct acp_remote_plane *remote, int ms, bool until_woken)
{
	struct timespec at = acp_monotonic_after((uint64_t)ms * 1000);
	pthread_mutex_lock(&remote->lock);
	while (!remote->stop && !(until_woken && remote->waiting) &&
	       pthread_cond_timedwait(&remote->changed, &remote->lock, &at) != ETIMEDOUT)
		;
	remote->waiting = false;
	bool go_on = !remote->stop;
	pthread_mutex_unlock(&remote->lock);
	return go_on;
}

static void *run_sender(void *arg)
{
	struct acp_remote_plane *remote = arg;
	uint64_t heartbeat_at = 0;
	int pause = 0;
	do {
		if (acp_monotonic_us() >= heartbeat_at) {
			send_heartbeat(remote);
			heartbeat_at = acp_monotonic_us() + HEARTBEAT_US;
		}
		if (send_all(remote))
			pause = 0;
		else
			pause = pause ? (2 * pause < RETRY_MAX_MS ? 2 * pause : RETRY_MAX_MS) : POLL_MS / 4;
	} while (wait_for_events(remote, pause ? pause : POLL_MS, pause == 0));
	return NULL;
}

static bool start_sender(struct acp_remote_plane *remote)
{
	pthread_mutex_init(&remote->lock, NULL);
	acp_monotonic_cond(&remote->changed);
	return pthread_create(&remote->sender, NULL, run_sender, remote) == 0;
}

struct acp_remote_plane *acp_remote_plane_new(const struct acp_config *config, const struct acp_control_plane *local,
					      struct acp_control_plane *plane)
{
	struct acp_remote_plane *remote = calloc(1, sizeof *remote);
	if (!remote)
		return NULL;
	remote->config = config;
	remote->local = *local;
	remote->decisions = acp_decisions_new(DECISIONS);
	/* Every member is listed, so that a new one in plane.h stays NULL until it is considered here. */
	*plane = (struct acp_control_plane){
		.self = remote,
		.call.authenticate = authenticate,
		.usage.get = get_usage,
		.payments.get_invoice = get_invoice,
		.usage.reserve = reserve,
		.usage.get_prices = get_prices,
		.usage.get_allowance = get_allowance,
		.usage.live_count = live_count,
		.call.begin = begin,
		.call.read = local->call.read ? read : NULL,
		.call.run = local->call.run,
		.call.rollback = local->call.rollback,
		.call.reported = local->call.reported,
		.call.authorize = authorize,
		.call.use_approval = use_approval,
		.call.claim = claim,
		.call.settle = settle,
		.call.record = record,
		.call.resolve = resolve,
		.call.onboard = onboard,
		.webhooks.claim = claim_deliveries,
		.webhooks.report = report_deliveries,
		.upkeep.catch_up = catch_up,
		.upkeep.maintain = maintain,
		.upkeep.ready = ready,
	};
	if (remote->decisions && start_sender(remote))
		return remote;
	acp_decisions_free(remote->decisions);
	free(remote);
	return NULL;
}

void acp_remote_plane_free(struct acp_remote_plane *remote)
{
	if (!remote)
		return;
	pthread_mutex_lock(&remote->lock);
	remote->stop = true;
	pthread_cond_signal(&remote->changed);
	pthread_mutex_unlock(&remote->lock);
	pthread_join(remote->sender, NULL);
	pthread_cond_destroy(&remote->changed);
	pthread_mutex_destroy(&remote->lock);
	acp_decisions_free(remote->decisions);
	free(remote);
}
