#include "onboard.h"

#include "audit.h"
#include "clock.h"
#include "envelope.h"
#include "log.h"
#include "outbox.h"
#include "prices.h"
#include "subkey.h"
#include "upgrade_link.h"

#include <ctype.h>

struct onboarding {
	const struct acp_kernel *kernel;
	const struct acp_request *request;
	const char *product;
	struct json_object *body;
	const char *agent_id, *email, *organization_name;
	const char *idempotency_key; /* the client's, or own_key */
	char own_key[ACP_UUID_LEN];  /* used if the client sends no key, in case the outcome is unknown */
	enum acp_code code;
	char error[256];
	char field[280];
	bool replay;
	char api_key[ACP_KEY_MAX];
	struct acp_onboarded tenant;
	struct json_object *success; /* owned: the reply of a success */
};

static enum acp_code refuse(struct onboarding *o, enum acp_code code, const char *field, const char *format, ...)
	ACP_PRINTF(4, 5);

static enum acp_code refuse(struct onboarding *o, enum acp_code code, const char *field, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(o->error, sizeof o->error, format, args);
	va_end(args);
	snprintf(o->field, sizeof o->field, "%s", field);
	acp_utf8_trim(o->error);
	return o->code = code;
}

bool acp_onboard_offered(const struct acp_kernel *kernel, const char *product)
{
	return kernel->config->onboarding && kernel->plane->call.onboard &&
	       acp_word_in_list(kernel->config->products, product);
}

static bool agent_id_ok(const char *id)
{
	size_t len = strlen(id);
	if (len < 1 || len > 128)
		return false;
	for (; *id; id++)
		if (!isalnum((unsigned char)*id) && !strchr("._:-", *id))
			return false;
	return true;
}

/* Common e-mail addresses (RFC 5321 without quoted local parts and address literals): dot-separated atoms, and a domain
 * of at least two labels. */
static bool email_ok(const char *email)
{
	static const char atom[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-/=?^_`{|}~.";
	const char *at = strchr(email, '@');
	size_t local = at ? (size_t)(at - email) : 0;
	if (strlen(email) > 254 || local < 1 || local > 64 || strspn(email, atom) != local || strstr(email, "..") ||
	    email[0] == '.' || at[-1] == '.')
		return false;
	int labels = 0;
	for (const char *label = at + 1;; label++) {
		size_t len = strcspn(label, ".");
		if (len < 1 || len > 63 || label[0] == '-' || label[len - 1] == '-')
			return false;
		for (size_t i = 0; i < len; i++)
			if (!isalnum((unsigned char)label[i]) && label[i] != '-')
				return false;
		labels++;
		label += len;
		if (!*label)
			return labels >= 2;
	}
}

/* Reads a string member. *value is NULL when it is missing. */
static bool read_string(struct onboarding *o, const char *name, bool required, const char **value)
{
	char field[64];
	struct json_object *member = NULL;
	snprintf(field, sizeof field, "/%s", name);
	bool present = json_object_object_get_ex(o->body, name, &member);
	if (present && json_object_is_type(member, json_type_string)) {
		*value = json_object_get_string(member);
		return true;
	}
	if (present && (required || member))
		refuse(o, ACP_VALIDATION_ERROR, field, "%s must be a string", name);
	else if (required)
		refuse(o, ACP_VALIDATION_ERROR, field, "%s is required", name);
	return o->code == ACP_OK;
}

static size_t count_characters(const char *text)
{
	size_t count = 0;
	for (; *text; text++)
		count += ((unsigned char)*text & 0xc0) != 0x80;
	return count;
}

/* Onboarding is free and open to everybody, so it has its own rate limits: one per address, and one in total. */
static enum acp_code check_rate(struct onboarding *o, struct acp_reply *reply)
{
	enum { HOUR = 3600 };
	char name[96];
	const struct acp_kernel *kernel = o->kernel;
	uint64_t now = acp_monotonic_us();
	if (!kernel->limits)
		return ACP_OK;
	snprintf(name, sizeof name, "onboard %.80s", o->request->ip_address ? o->request->ip_address : "");
	acp_ratelimit_acquire(kernel->limits, name, kernel->config->onboard_per_ip, HOUR, now, &reply->rate);
	if (reply->rate.allowed) {
		struct acp_rate total;
		acp_ratelimit_acquire(kernel->limits, "onboard", kernel->config->onboard_total, HOUR, now, &total);
		if (total.allowed)
			return ACP_OK;
		acp_ratelimit_release(kernel->limits, name, HOUR, now);
		reply->rate = total;
	}
	reply->retry_after = (int)reply->rate.reset;
	return refuse(o, ACP_RATE_LIMITED, "", "too many onboarding requests; try again in %lld s",
		      (long long)reply->rate.reset);
}

/* Repeating an onboarding with its Idempotency-Key returns the tenant's API key again, so an Idempotency-Key made here
 * must be unguessable. */
static void choose_idempotency_key(struct onboarding *o)
{
	acp_uuid(o->own_key);
	o->idempotency_key = o->request->idempotency_key ? o->request->idempotency_key : o->own_key;
}

/* Whoever repeats an onboarding gets its API key, so its Idempotency-Key must not be guessable: no "1", no "order-1". A
 * random UUID always passes, although one in some ten thousand has fewer different characters than other keys need. */
static bool key_unguessable(const char *key)
{
	enum { CHARACTERS = 20, DIFFERENT = 10, DIFFERENT_IN_UUID = 7 };
	bool seen[256] = {false};
	int different = 0;
	for (const char *c = key; *c; c++) {
		different += !seen[(unsigned char)*c];
		seen[(unsigned char)*c] = true;
	}
	return strlen(key) >= CHARACTERS && different >= (acp_is_uuid(key) ? DIFFERENT_IN_UUID : DIFFERENT);
}

static enum acp_code check_idempotency_key(struct onboarding *o)
{
	const char *key = o->request->idempotency_key;
	if (key && strlen(key) > 255)
		return refuse(o, ACP_VALIDATION_ERROR, "/idempotency_key",
			      "Idempotency-Key must have at most 255 characters");
	if (key && !key_unguessable(key))
		return refuse(
			o, ACP_VALIDATION_ERROR, "/idempotency_key",
			"Idempotency-Key must have at least 20 characters, at least 10 of them different, because "
			"whoever repeats it gets this API key; send a random UUID");
	choose_idempotency_key(o);
	return ACP_OK;
}

static enum acp_code read_request(struct onboarding *o)
{
	const struct acp_config *config = o->kernel->config;
	o->code = acp_body_parse(config, o->request, config->onboard_max_body_bytes, &o->body, o->error, o->field);
	if (o->code != ACP_OK)
		return o->code;
	if (!json_object_is_type(o->body, json_type_object))
		return refuse(o, ACP_VALIDATION_ERROR, "", "the body must be a JSON object with agent_id and email");
	if (!read_string(o, "agent_id", true, &o->agent_id) || !read_string(o, "email", true, &o->email) ||
	    !read_string(o, "organization_name", false, &o->organization_name))
		return o->code;
	if (!agent_id_ok(o->agent_id))
		return refuse(o, ACP_VALIDATION_ERROR, "/agent_id",
			      "agent_id must be 1 to 128 characters of A-Z a-z 0-9 . _ : -");
	if (!email_ok(o->email))
		return refuse(o, ACP_VALIDATION_ERROR, "/email",
			      "email must be an address like name@example.com, at most 254 characters");
	if (o->organization_name && count_characters(o->organization_name) > 255)
		return refuse(o, ACP_VALIDATION_ERROR, "/organization_name",
			      "organization_name must have at most 255 characters");
	return check_idempotency_key(o);
}

/* Derives the new API key from the stored salt, the pepper, and the Idempotency-Key, which is not stored. The first
 * reply can therefore be repeated, but the database alone is not enough to derive the key. */
static void derive_key(const struct onboarding *o, const char *salt, char out[ACP_KEY_MAX])
{
	const struct acp_config *config = o->kernel->config;
	uint8_t seed[ACP_SHA256_LEN];
	char text[512];
	int len = snprintf(text, sizeof text, "%s|%s", salt, o->idempotency_key);
	acp_subkey(config->key_pepper, ACP_FOR_ONBOARDING_KEY, text, (size_t)len, seed);
	acp_key_from_seed(config->api_key_prefix, seed, out);
	acp_wipe(seed, sizeof seed);
	acp_wipe(text, sizeof text);
}

/* The stored form of the Idempotency-Key: only an HMAC, because the key gives access to a credential. */
static void stored_idempotency_key(const struct onboarding *o, char hex[ACP_SHA256_HEX])
{
	acp_subkey_hex(o->kernel->config->key_pepper, ACP_FOR_ONBOARDING_IDEMPOTENCY, o->idempotency_key,
		       strlen(o->idempotency_key), hex);
}

static bool make_event(const struct onboarding *o, struct acp_event *event)
{
	char action[160];
	snprintf(action, sizeof action, "onboard.%s", o->product);
	return acp_audit_public_event(o->kernel, o->request, action, o->code, o->error, o->body, event);
}

static struct json_object *event_json(const struct onboarding *o)
{
	struct acp_event event;
	struct json_object *json = make_event(o, &event) ? acp_event_json(&event) : NULL;
	acp_event_release(&event);
	return json;
}

enum {
	WITHIN_MS = 1700, /* counted from the request's start; the reply is promised within 2 s */
	MOST_WAITING = 64 /* onboardings that may wait for Repo C at a time on this host */
};

static bool wait_for_customer(const struct onboarding *o)
{
	char obligation[ACP_OBLIGATION_MAX + 1];
	int64_t spent_ms = (int64_t)(acp_monotonic_us() - o->request->started_us) / 1000;
	snprintf(obligation, sizeof obligation, "customer-%s", o->tenant.tenant_id);
	return acp_outbox_work_on(o->kernel, o->tenant.tenant_id, obligation, o->request->request_id,
				  (int)(WITHIN_MS - spent_ms)) == ACP_OUTBOX_DONE;
}

/* Has Repo C create the customer before the reply. If it is unreachable or slow, or if many onboardings wait for it,
 * the outbox creates the customer later: the obligation was committed with the tenant. */
static void make_customer(const struct onboarding *o)
{
	struct acp_share share = {0};
	struct acp_shares *shares = o->kernel->shares;
	bool may_wait = !shares || acp_shares_acquire(shares, "onboarding", MOST_WAITING, &share);
	if (!may_wait || !wait_for_customer(o))
		acp_log(ACP_LOG_INFO, "request %s: the customer of tenant %s will be created later",
			o->request->request_id, o->tenant.tenant_id);
	if (shares)
		acp_shares_release(shares, &share);
}

#define EXAMPLE_ACTION "domain.leadscoring.scores.compute"

static struct json_object *example_request(const struct onboarding *o)
{
	static const char body_text[] =
		"{\"action\":\"" EXAMPLE_ACTION "\",\"params\":{\"weights\":{\"visits\":0.5,"
		"\"employees\":0.01},"
		"\"leads\":[{\"id\":\"lead-1\",\"features\":{\"visits\":12,\"employees\":250}}]}}";
	const struct acp_config *config = o->kernel->config;
	char url[512];
	struct json_object *request = json_object_new_object();
	struct json_object *headers = json_object_new_object();
	snprintf(url, sizeof url, "%s%s/api/manage", config->public_url, config->url_prefix);
	bool ok = request && headers &&
		  acp_json_put(headers, "Content-Type", json_object_new_string("application/json")) &&
		  acp_json_put(headers, "X-API-Key", json_object_new_string(o->api_key)) &&
		  acp_json_put(request, "method", json_object_new_string("POST")) &&
		  acp_json_put(request, "url", json_object_new_string(url)) &&
		  acp_json_put(request, "headers", json_object_get(headers)) &&
		  acp_json_put(request, "body", acp_json_own(body_text));
	json_object_put(headers);
	if (ok)
		return request;
	json_object_put(request);
	return NULL;
}

/* NULL: out of memory. */
static struct json_object *setup_steps(void)
{
	static const char *const steps[] = {
		"Store api_key now: it is shown only once and cannot be read again.",
		"Send it as X-API-Key with every call to the url of example_request; meta.actions lists the actions.",
		"Call GET /api/usage to see how many free calls are left; this call is free.",
	};
	struct json_object *list = json_object_new_array();
	for (size_t i = 0; list && i < ACP_COUNT(steps); i++) {
		struct json_object *step = json_object_new_string(steps[i]);
		if (step && json_object_array_add(list, step) == 0)
			continue;
		json_object_put(step);
		json_object_put(list);
		return NULL;
	}
	return list;
}

static struct json_object *instructions(const struct onboarding *o)
{
	const struct acp_config *config = o->kernel->config;
	const char *documentation = config->documentation_url;
	char url[512];
	struct json_object *out = json_object_new_object();
	snprintf(url, sizeof url, "%s%s/llms.txt", config->public_url, config->url_prefix);
	if (out && acp_json_put(out, "setup_steps", setup_steps()) &&
	    acp_json_put(out, "example_request", example_request(o)) &&
	    acp_json_put(out, "documentation_url", json_object_new_string(*documentation ? documentation : url)))
		return out;
	json_object_put(out);
	return NULL;
}

static struct json_object *upgrade_info(const struct onboarding *o)
{
	char url[512];
	char message[256];
	const struct acp_config *config = o->kernel->config;
	const char *how =
		acp_outbox_offered(o->kernel)
			? "For more, a human opens upgrade_url in a browser and adds a payment method."
			: "This installation accepts no payments yet (Stripe is not configured); its operator can "
			  "move the tenant to the paid tier.";
	struct json_object *out = json_object_new_object();
	acp_upgrade_url(config, o->tenant.tenant_id, o->tenant.created_at + config->upgrade_link_ttl * 86400, url);
	snprintf(message, sizeof message, "%lld billable calls a month are free. %s",
		 (long long)config->free_calls_limit, how);
	if (out && acp_json_put(out, "message", json_object_new_string(message)) &&
	    acp_json_put(out, "upgrade_url", json_object_new_string(url)))
		return out;
	json_object_put(out);
	return NULL;
}

static bool is_per_call(struct json_object *price)
{
	const char *unit = acp_json_string(price, "unit");
	return unit && strcmp(unit, "call") == 0;
}

/* The actions whose calls do not cost per_call. NULL: out of memory. */
static struct json_object *other_prices(struct json_object *prices, struct json_object *per_call)
{
	struct json_object *list = json_object_new_array();
	bool ok = list != NULL;
	json_object_object_foreach(prices, action, price)
	{
		struct json_object *row = NULL;
		struct json_object *amount = acp_json_member(price, "unit_amount");
		if (!ok || strcmp(action, "*") == 0 || (is_per_call(price) && json_object_equal(amount, per_call)))
			continue;
		ok = json_object_deep_copy(price, &row, NULL) == 0 && acp_json_add_string(row, "action", action) &&
		     json_object_array_add(list, json_object_get(row)) == 0;
		json_object_put(row);
	}
	if (ok)
		return list;
	json_object_put(list);
	return NULL;
}

/* per_call: the price of example_request if it is charged by the call, else the price per call of all actions. Null if
 * the prices cannot be read. */
static bool put_prices(struct json_object *out, struct json_object *prices)
{
	struct json_object *example = acp_json_member(prices, EXAMPLE_ACTION);
	struct json_object *price = is_per_call(example) ? example : acp_json_member(prices, "*");
	struct json_object *per_call = acp_json_member(price, "unit_amount");
	if (!per_call)
		return acp_json_add_null(out, "per_call") && acp_json_add_null(out, "currency");
	struct json_object *others = other_prices(prices, per_call);
	bool some = others && json_object_array_length(others) > 0;
	bool ok = others && acp_json_put(out, "per_call", json_object_get(per_call)) &&
		  acp_json_put(out, "currency", json_object_get(acp_json_member(price, "currency"))) &&
		  (!some || acp_json_put(out, "actions", json_object_get(others)));
	json_object_put(others);
	return ok;
}

static struct json_object *pricing(const struct onboarding *o)
{
	struct json_object *out = json_object_new_object();
	struct json_object *prices = acp_prices_by_action(o->tenant.pricing);
	bool ok = out && (prices || !o->tenant.pricing) && put_prices(out, prices) &&
		  acp_json_put(out, "billing_period", json_object_new_string("monthly"));
	json_object_put(prices);
	if (ok)
		return out;
	json_object_put(out);
	return NULL;
}

/* Prepares the part of the reply that is known before the tenant exists. Above all, this is the API key, which could
 * not be recovered later. */
static bool begin_reply(struct onboarding *o)
{
	enum { REST_MAX = 4096 }; /* room in bytes for the parts added later */
	const struct acp_config *config = o->kernel->config;
	struct acp_buf *out = o->request->out;
	struct json_object *body = json_object_new_object();
	const char *payments = acp_outbox_offered(o->kernel) ? "stripe" : "not_configured";
	o->success = body;
	if (!body || !acp_json_put(body, "ok", json_object_new_boolean(true)) ||
	    !acp_json_put(body, "request_id", json_object_new_string(o->request->request_id)) ||
	    !acp_json_put(body, "onboarded", json_object_new_boolean(true)) ||
	    !acp_json_put(body, "tier", json_object_new_string("free")) ||
	    !acp_json_add_secret(body, "api_key", o->api_key) ||
	    !acp_json_put(body, "api_key_id", json_object_new_string(o->tenant.api_key_id)) ||
	    !acp_json_put(body, "tenant_uuid", json_object_new_string(o->tenant.tenant_id)) ||
	    !acp_json_put(body, "free_calls_remaining", json_object_new_int64(config->free_calls_limit)) ||
	    !acp_json_put(body, "payments", json_object_new_string(payments)) ||
	    !acp_json_put(body, "instructions", instructions(o)))
		return false;
	if (!out)
		return true;
	acp_buf_clear(out);
	acp_json_write(body, out);
	return acp_buf_ok(out) && acp_buf_reserve(out, REST_MAX);
}

static bool end_reply(struct onboarding *o)
{
	return acp_json_put(o->success, "upgrade_info", upgrade_info(o)) &&
	       acp_json_put(o->success, "pricing", pricing(o));
}

/* Repeats the reply of an earlier onboarding with the same key. */
static enum acp_code repeat_reply(struct onboarding *o)
{
	derive_key(o, o->tenant.salt, o->api_key);
	json_object_put(o->success);
	if (begin_reply(o) && end_reply(o))
		return ACP_OK;
	return refuse(o, ACP_INTERNAL_ERROR, "", "%s", acp_code_sentence(ACP_INTERNAL_ERROR));
}

static enum acp_code refuse_email(struct onboarding *o)
{
	return refuse(o, ACP_CEILING_EXCEEDED, "",
		      "%lld agents without a payment method have this e-mail address already, as many as may; add a "
		      "payment method to one of them, or use another address",
		      (long long)o->kernel->config->onboard_per_email);
}

/* Creates the tenant, then its customer at Repo C, then completes the reply with the key. The hub creates tenant and
 * key in one transaction, so no tenant exists whose key nobody has. */
static enum acp_code create_tenant(struct onboarding *o)
{
	const struct acp_control_plane *plane = o->kernel->plane;
	uint8_t random[ACP_SHA256_LEN], hash[ACP_SHA256_LEN];
	char salt[ACP_SHA256_HEX], idempotency_key[ACP_SHA256_HEX], fingerprint[ACP_SHA256_HEX];
	char tenant_id[ACP_UUID_LEN], api_key_id[ACP_UUID_LEN], shown[ACP_KEY_SHOWN + 1];
	acp_random(random, sizeof random);
	acp_hex(random, sizeof random, salt);
	acp_uuid(tenant_id);
	acp_uuid(api_key_id);
	derive_key(o, salt, o->api_key);
	stored_idempotency_key(o, idempotency_key);
	acp_key_hash(o->kernel->config->key_pepper, o->api_key, hash);
	acp_key_shown(o->api_key, shown);
	acp_copy(o->tenant.tenant_id, sizeof o->tenant.tenant_id, tenant_id);
	acp_copy(o->tenant.api_key_id, sizeof o->tenant.api_key_id, api_key_id);
	bool ready = begin_reply(o) && acp_json_hash(o->body, fingerprint);
	const struct acp_onboarding in = {
		.product = o->product,
		.agent_id = o->agent_id,
		.email = o->email,
		.organization_name = o->organization_name,
		.tenant_id = tenant_id,
		.api_key_id = api_key_id,
		.key_hash = hash,
		.key_shown = shown,
		.scopes = o->kernel->config->onboard_scopes,
		.salt = salt,
		.idempotency_key = idempotency_key,
		.fingerprint = fingerprint,
		.per_email = o->kernel->config->onboard_per_email,
		.customer = acp_outbox_offered(o->kernel),
		.priced = acp_prices_question(o->kernel),
		.event = ready ? event_json(o) : NULL,
	};
	enum acp_code code =
		in.event && in.priced ? plane->call.onboard(plane->self, &in, &o->tenant) : ACP_INTERNAL_ERROR;
	json_object_put(in.event);
	json_object_put(in.priced);
	if (code != ACP_OK) {
		o->tenant.tenant_id[0] = '\0';
		return code == ACP_CEILING_EXCEEDED ? refuse_email(o)
						    : refuse(o, code, "", "%s", acp_code_sentence(code));
	}
	if (o->tenant.replay)
		return repeat_reply(o);
	if (in.customer)
		make_customer(o);
	/* The hub may have chosen other ids. Setting a text of the same length allocates no memory. */
	json_object_set_string(acp_json_member(o->success, "tenant_uuid"), o->tenant.tenant_id);
	json_object_set_string(acp_json_member(o->success, "api_key_id"), o->tenant.api_key_id);
	if (!end_reply(o)) /* the tenant exists: returning its key matters more than the rest */
		acp_log(ACP_LOG_WARNING, "request %s: out of memory: onboarded without upgrade_info or pricing",
			o->request->request_id);
	return ACP_OK;
}

/* Records a refusal; a success was recorded together with its tenant. No answer is sent without a record. */
static void record_refusal(struct onboarding *o)
{
	const struct acp_control_plane *plane = o->kernel->plane;
	struct acp_event event;
	const struct acp_settlement end = {.event = &event};
	bool made = make_event(o, &event);
	/* The hub may have created the tenant, or may still create it. */
	if (o->code == ACP_OUTCOME_UNKNOWN)
		event.unless_onboarded = o->tenant.api_key_id;
	if (!made || plane->call.record(plane->self, &end) != ACP_OK) {
		acp_log(ACP_LOG_ERROR, "request %s: the audit row of a refused onboarding could not be written",
			o->request->request_id);
		if (o->code != ACP_OUTCOME_UNKNOWN)
			refuse(o, ACP_UNAVAILABLE, "", "%s", acp_code_sentence(ACP_UNAVAILABLE));
	}
	acp_event_release(&event);
}

static struct json_object *refusal_body(const struct onboarding *o)
{
	struct json_object *body = acp_error_body(o->code, o->request->request_id, o->error, o->field);
	if (o->code == ACP_OUTCOME_UNKNOWN && !acp_json_add_string(body, "idempotency_key", o->idempotency_key))
		acp_log(ACP_LOG_ERROR, "request %s: out of memory: its reply lacks the idempotency_key",
			o->request->request_id);
	return body;
}

void acp_onboard(const struct acp_kernel *kernel, const struct acp_request *request, const char *product,
		 struct acp_reply *reply)
{
	struct onboarding o = {.kernel = kernel, .request = request, .product = product, .code = ACP_OK};
	*reply = (struct acp_reply){0};
	if (strcmp(request->method, "POST") != 0) {
		reply->allow = "POST";
		refuse(&o, ACP_METHOD_NOT_ALLOWED, "", "use POST here, not %.20s", request->method);
	} else if (check_rate(&o, reply) == ACP_OK && read_request(&o) == ACP_OK) {
		create_tenant(&o);
	}
	if (o.code != ACP_OK)
		record_refusal(&o);
	reply->code = o.code;
	reply->http = o.code == ACP_OK ? 201 : acp_code_http(o.code);
	reply->replayed = o.tenant.replay;
	reply->body = o.code == ACP_OK ? json_object_get(o.success) : refusal_body(&o);
	if (!reply->retry_after)
		reply->retry_after = acp_code_retry_after(o.code);
	snprintf(reply->tenant_id, sizeof reply->tenant_id, "%s", o.tenant.tenant_id);
	acp_wipe(o.api_key, sizeof o.api_key);
	json_object_put(o.success);
	json_object_put(o.tenant.pricing);
	json_object_put(o.body);
}
