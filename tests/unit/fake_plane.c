#include "fake_plane.h"

#include "json.h"

#include <stdlib.h>

struct acp_tx {
	struct fake_plane *fake;
	bool read_only;
	int64_t effects; /* dropped without settle */
};

static const char *const step_names[FAKE_STEPS] = {"authenticate", "get_usage", "reserve",  "get_prices",
						   "begin",        "run",       "rollback", "settle",
						   "record",       "resolve",   "onboard"};

/* Called at the beginning of every step, with the lock held. */
static enum acp_code enter(struct fake_plane *fake, enum fake_step step)
{
	pthread_mutex_lock(&fake->lock);
	fake->calls[step]++;
	size_t used = strlen(fake->trace);
	snprintf(fake->trace + used, sizeof fake->trace - used, "%s%s", used ? " " : "", step_names[step]);
	return fake->fail[step];
}

static enum acp_code leave(struct fake_plane *fake, enum acp_code code)
{
	pthread_mutex_unlock(&fake->lock);
	return code;
}

static void capture(struct fake_plane *fake, struct json_object *event)
{
	struct json_object *copy = NULL;
	if (fake->event_count == FAKE_EVENTS_MAX || json_object_deep_copy(event, &copy, NULL) != 0)
		abort();
	fake->events[fake->event_count++] = copy;
}

static void capture_row(struct fake_plane *fake, const struct acp_event *event)
{
	struct json_object *json = acp_event_json(event);
	capture(fake, json);
	json_object_put(json);
}

static enum acp_code authenticate(void *self, const uint8_t key_hash[ACP_SHA256_LEN], struct acp_principal *out)
{
	struct fake_plane *fake = self;
	enum acp_code code = enter(fake, FAKE_AUTHENTICATE);
	snprintf(out->ts, sizeof out->ts, "%s", fake->ts);
	if (code == ACP_OK && memcmp(key_hash, fake->key_hash, ACP_SHA256_LEN) != 0)
		code = ACP_INVALID_API_KEY;
	if (code == ACP_OK) {
		snprintf(out->tenant_id, sizeof out->tenant_id, "%s", FAKE_TENANT);
		snprintf(out->api_key_id, sizeof out->api_key_id, "%s", FAKE_KEY_ID);
		snprintf(out->scopes, sizeof out->scopes, "%s", fake->scopes);
		acp_key_shown(fake->key, out->key_shown);
		out->tier = fake->tier;
		out->past_due_us = fake->past_due_us;
	}
	return leave(fake, code);
}

static enum acp_code get_usage(void *self, const char *tenant_id, const char *period, struct json_object **usage)
{
	struct fake_plane *fake = self;
	enum acp_code code = enter(fake, FAKE_GET_USAGE);
	(void)period;
	if (code == ACP_OK) {
		*usage = json_object_new_object();
		acp_json_add_string(*usage, "tenant_id", tenant_id);
		acp_json_add(*usage, "calls_used", json_object_new_int64(fake->used));
	}
	return leave(fake, code);
}

static enum acp_code reserve(void *self, const char *tenant_id, const char *event_id, const char *ts,
			     struct acp_reservation *out)
{
	struct fake_plane *fake = self;
	enum acp_code code = enter(fake, FAKE_RESERVE);
	if (strcmp(tenant_id, FAKE_TENANT) != 0 || !acp_is_uuid(event_id) || strcmp(ts, fake->ts) != 0)
		abort();
	if (code == ACP_OK) {
		bool limited = fake->tier_now == ACP_TIER_FREE;
		out->allowed = !limited || fake->used + fake->held < fake->limit;
		out->limited = limited;
		out->tier = fake->tier_now;
		fake->held += limited && out->allowed;
		out->calls_used = fake->used + fake->held;
		out->calls_limit = fake->limit;
		snprintf(out->past_due_until, sizeof out->past_due_until, "%s", fake->past_due ? fake->past_due : "");
	}
	return leave(fake, code);
}

/* Every action costs 0.001 a call. */
static struct json_object *prices_of(struct json_object *actions)
{
	struct json_object *reply = json_tokener_parse("{\"currency\":\"USD\",\"prices\":[]}");
	for (size_t i = 0; i < json_object_array_length(actions); i++) {
		struct json_object *row = json_tokener_parse(
			"{\"unit\":\"call\",\"unit_amount\":0.001,\"amount\":0.007,\"currency\":\"USD\"}");
		acp_json_add_string(row, "action", acp_json_string(json_object_array_get_idx(actions, i), "action"));
		json_object_array_add(acp_json_member(reply, "prices"), row);
	}
	return reply;
}

static enum acp_code get_prices(void *self, struct json_object *what, struct json_object **reply,
				struct acp_refusal *refusal)
{
	struct fake_plane *fake = self;
	enum acp_code code = enter(fake, FAKE_GET_PRICES);
	struct json_object *actions = acp_json_member(what, "actions");
	struct json_object *first = json_object_array_get_idx(actions, 0);
	const char *unit = acp_json_string(first, "unit");
	(void)refusal;
	snprintf(fake->price_unit, sizeof fake->price_unit, "%s", unit ? unit : "call");
	fake->price_quantity = json_object_get_int64(acp_json_member(first, "quantity"));
	if (code == ACP_OK)
		*reply = prices_of(actions);
	return leave(fake, code);
}

static enum acp_code get_allowance(void *self, const char *tenant_id, const char *ts, struct acp_allowance *out)
{
	struct fake_plane *fake = self;
	if (strcmp(tenant_id, FAKE_TENANT) != 0 || strcmp(ts, fake->ts) != 0)
		abort();
	pthread_mutex_lock(&fake->lock);
	*out = (struct acp_allowance){.used = fake->used, .held = fake->held, .limit = fake->limit};
	pthread_mutex_unlock(&fake->lock);
	return ACP_OK;
}

static enum acp_code begin(void *self, const char *tenant_id, bool read_only, struct acp_tx **tx)
{
	struct fake_plane *fake = self;
	(void)tenant_id;
	enum acp_code code = enter(fake, FAKE_BEGIN);
	fake->read_only = read_only;
	if (code == ACP_OK) {
		*tx = calloc(1, sizeof **tx);
		if (!*tx)
			abort();
		**tx = (struct acp_tx){.fake = fake, .read_only = read_only};
		fake->open++;
	}
	return leave(fake, code);
}

static enum acp_code run(struct acp_tx *tx, const char *function, const char *tenant_id, struct json_object *params,
			 struct json_object *ctx, struct json_object **data, struct acp_refusal *refusal)
{
	struct fake_plane *fake = tx->fake;
	enum acp_code code = enter(fake, FAKE_RUN);
	(void)params;
	json_object_put(fake->context);
	fake->context = NULL;
	if (json_object_deep_copy(ctx, &fake->context, NULL) != 0)
		abort();
	if (code == ACP_OK) {
		tx->effects += !tx->read_only;
		*data = json_object_new_object();
		acp_json_add_string(*data, "function", function);
		acp_json_add_string(*data, "tenant", tenant_id);
	} else {
		*refusal = fake->refusal;
	}
	return leave(fake, code);
}

static enum acp_code reported(struct acp_tx *tx, int64_t *quantity)
{
	if (tx->fake->reported)
		*quantity = tx->fake->reported;
	return ACP_OK;
}

static void rollback(struct acp_tx *tx)
{
	struct fake_plane *fake = tx->fake;
	enter(fake, FAKE_ROLLBACK);
	fake->open--;
	free(tx);
	leave(fake, ACP_OK);
}

static void release_reservation(struct fake_plane *fake, bool reserved)
{
	fake->reserved = reserved;
	if (reserved && fake->held-- <= 0)
		abort(); /* a release without a reservation */
}

static enum acp_code settle(void *self, struct acp_tx *tx, const struct acp_settlement *end, int64_t *calls_used)
{
	struct fake_plane *fake = self;
	enum acp_code code = enter(fake, FAKE_SETTLE);
	fake->settled_with_tx = tx != NULL;
	fake->max_quantity = end->max_quantity;
	fake->reserved = end->reserved;
	*calls_used = -1;
	if (code == ACP_OK) {
		release_reservation(fake, end->reserved);
		if (end->reserved)
			*calls_used = ++fake->used;
		fake->effects += tx ? tx->effects : 0;
		capture_row(fake, end->event);
	}
	fake->open -= tx != NULL;
	free(tx);
	return leave(fake, code);
}

static enum acp_code record(void *self, const struct acp_settlement *end)
{
	struct fake_plane *fake = self;
	enum acp_code code = enter(fake, FAKE_RECORD);
	fake->reserved = end->reserved;
	if (code == ACP_OK) {
		release_reservation(fake, end->reserved);
		capture_row(fake, end->event);
	}
	return leave(fake, code);
}

static enum acp_code resolve(void *self, const struct acp_settlement *end)
{
	struct fake_plane *fake = self;
	enum acp_code code = enter(fake, FAKE_RESOLVE);
	release_reservation(fake, end->reserved);
	if (code != ACP_OK)
		capture_row(fake, end->event);
	return leave(fake, code);
}

static char *copy(const char *text)
{
	char *out = text ? strdup(text) : NULL;
	if (text && !out)
		abort();
	return out;
}

static struct fake_agent *find_agent(struct fake_plane *fake, const struct acp_onboarding *in)
{
	for (size_t i = 0; i < fake->agent_count; i++) {
		struct fake_agent *agent = &fake->agents[i];
		if (in->idempotency_key && agent->idempotency_key &&
		    strcmp(agent->idempotency_key, in->idempotency_key) == 0)
			return agent;
	}
	for (size_t i = 0; i < fake->agent_count; i++)
		if (strcmp(fake->agents[i].agent_id, in->agent_id) == 0)
			return &fake->agents[i];
	return NULL;
}

static void add_agent(struct fake_plane *fake, const struct acp_onboarding *in)
{
	if (fake->agent_count == FAKE_AGENTS_MAX)
		abort();
	struct fake_agent *agent = &fake->agents[fake->agent_count++];
	*agent = (struct fake_agent){.agent_id = copy(in->agent_id),
				     .idempotency_key = copy(in->idempotency_key),
				     .fingerprint = copy(in->fingerprint)};
	snprintf(agent->tenant_id, sizeof agent->tenant_id, "%s", in->tenant_id);
	snprintf(agent->api_key_id, sizeof agent->api_key_id, "%s", in->api_key_id);
	snprintf(agent->salt, sizeof agent->salt, "%s", in->salt);
	memcpy(agent->key_hash, in->key_hash, ACP_SHA256_LEN);
	capture(fake, in->event);
}

static enum acp_code onboard(void *self, const struct acp_onboarding *in, struct acp_onboarded *out)
{
	struct fake_plane *fake = self;
	enum acp_code code = enter(fake, FAKE_ONBOARD);
	if (code != ACP_OK)
		return leave(fake, code);
	struct fake_agent *agent = find_agent(fake, in);
	bool same_key = agent && in->idempotency_key && agent->idempotency_key &&
			strcmp(agent->idempotency_key, in->idempotency_key) == 0;
	if (agent && !same_key)
		return leave(fake, ACP_ALREADY_ONBOARDED);
	if (agent && strcmp(agent->fingerprint, in->fingerprint) != 0)
		return leave(fake, ACP_IDEMPOTENCY_MISMATCH);
	out->replay = agent != NULL;
	if (agent)
		capture(fake, in->event);
	else
		add_agent(fake, in);
	agent = agent ? agent : &fake->agents[fake->agent_count - 1];
	memcpy(out->tenant_id, agent->tenant_id, sizeof out->tenant_id);
	memcpy(out->api_key_id, agent->api_key_id, sizeof out->api_key_id);
	memcpy(out->salt, agent->salt, sizeof out->salt);
	out->created_at = 1795339800;
	out->pricing = prices_of(acp_json_member(in->priced, "actions"));
	return leave(fake, ACP_OK);
}

void fake_plane_init(struct fake_plane *fake)
{
	uint8_t seed[32];
	memset(fake, 0, sizeof *fake);
	memset(seed, 7, sizeof seed);
	pthread_mutex_init(&fake->lock, NULL);
	acp_key_from_seed("ock_", seed, fake->key);
	acp_key_hash(FAKE_PEPPER, fake->key, fake->key_hash);
	fake->scopes = " manage.read manage.domain ";
	fake->ts = FAKE_TS;
	fake->limit = 100;
	fake->plane = (struct acp_control_plane){
		.self = fake,
		.call.authenticate = authenticate,
		.usage.get = get_usage,
		.usage.reserve = reserve,
		.usage.get_prices = get_prices,
		.usage.get_allowance = get_allowance,
		.call.begin = begin,
		.call.run = run,
		.call.rollback = rollback,
		.call.reported = reported,
		.call.settle = settle,
		.call.record = record,
		.call.resolve = resolve,
		.call.onboard = onboard,
	};
}

void fake_plane_forget(struct fake_plane *fake)
{
	for (size_t i = 0; i < fake->event_count; i++)
		json_object_put(fake->events[i]);
	json_object_put(fake->context);
	fake->context = NULL;
	fake->event_count = 0;
	fake->trace[0] = '\0';
	memset(fake->calls, 0, sizeof fake->calls);
	fake->reserved = fake->settled_with_tx = fake->read_only = false;
	fake->price_unit[0] = '\0';
	fake->price_quantity = 0;
}

void fake_plane_release(struct fake_plane *fake)
{
	fake_plane_forget(fake);
	for (size_t i = 0; i < fake->agent_count; i++) {
		free(fake->agents[i].agent_id);
		free(fake->agents[i].idempotency_key);
		free(fake->agents[i].fingerprint);
	}
	pthread_mutex_destroy(&fake->lock);
}

static struct json_object *last_event(const struct fake_plane *fake)
{
	return fake->event_count ? fake->events[fake->event_count - 1] : NULL;
}

const char *fake_plane_event(const struct fake_plane *fake)
{
	struct json_object *event = last_event(fake);
	return event ? json_object_to_json_string_ext(event, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)
		     : "";
}

const char *fake_plane_column(const struct fake_plane *fake, const char *name)
{
	struct json_object *value = acp_json_member(last_event(fake), name);
	return value ? json_object_get_string(value) : "(none)";
}

extern char **environ;

/* Removes every ACP_ variable from the environment: a test must not depend on the shell that started it. */
static void clear_environment(void)
{
	char name[128];
	for (char **variable = environ; variable && *variable;) {
		size_t len = strcspn(*variable, "=");
		if (strncmp(*variable, "ACP_", 4) == 0 && len < sizeof name) {
			snprintf(name, sizeof name, "%.*s", (int)len, *variable);
			unsetenv(name);
			variable = environ;
		} else {
			variable++;
		}
	}
}

void fake_config_init(struct acp_config *config)
{
	char why[512];
	clear_environment();
	setenv("ACP_KEY_PEPPER", FAKE_PEPPER, 1);
	if (acp_config_load(config, "/dev/null", why, sizeof why))
		return;
	fprintf(stderr, "the default configuration does not load: %s\n", why);
	exit(1);
}
