#include "onboard.h"

#include "audit.h"
#include "clock.h"
#include "envelope.h"
#include "log.h"
#include "outbox.h"
#include "usage.h"

#include <ctype.h>

struct applicant {
	const struct acp_kernel *kernel;
	const struct acp_request *request;
	const char *product;
	struct json_object *body;
	const char *agent_id, *email, *organization_name;
	const char *idempotency_key; /* the client's, or own_key */
	char own_key[ACP_UUID_LEN];  /* used when the client sends no key, in case the outcome is not known */
	enum acp_code code;
	char error[256];
	char field[280];
	bool replay;
	char api_key[ACP_KEY_MAX];
	struct acp_onboarded tenant;
	struct json_object *welcome; /* owned: the reply of a success */
};

static enum acp_code refuse(struct applicant *a, enum acp_code code, const char *field, const char *format, ...)
	ACP_PRINTF(4, 5);

static enum acp_code refuse(struct applicant *a, enum acp_code code, const char *field, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(a->error, sizeof a->error, format, args);
	va_end(args);
	snprintf(a->field, sizeof a->field, "%s", field);
	acp_utf8_trim(a->error);
	return a->code = code;
}

bool acp_onboard_offered(const struct acp_kernel *kernel, const char *product)
{
	return kernel->config->onboarding && kernel->plane->onboard &&
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
static bool take_string(struct applicant *a, const char *name, bool required, const char **value)
{
	char field[64];
	struct json_object *member = NULL;
	snprintf(field, sizeof field, "/%s", name);
	bool there = json_object_object_get_ex(a->body, name, &member);
	if (there && json_object_is_type(member, json_type_string)) {
		*value = json_object_get_string(member);
		return true;
	}
	if (there && (required || member))
		refuse(a, ACP_VALIDATION_ERROR, field, "%s must be a string", name);
	else if (required)
		refuse(a, ACP_VALIDATION_ERROR, field, "%s is required", name);
	return a->code == ACP_OK;
}

static size_t characters(const char *text)
{
	size_t count = 0;
	for (; *text; text++)
		count += ((unsigned char)*text & 0xc0) != 0x80;
	return count;
}

/* Onboarding is free and open to everybody, so it has its own rate limits: one per address, and one in total. */
static enum acp_code check_rate(struct applicant *a, struct acp_reply *reply)
{
	enum { HOUR = 3600 };
	char name[96];
	const struct acp_kernel *kernel = a->kernel;
	uint64_t now = acp_monotonic_us();
	if (!kernel->limits)
		return ACP_OK;
	snprintf(name, sizeof name, "onboard %.80s", a->request->ip_address ? a->request->ip_address : "");
	acp_ratelimit_take(kernel->limits, name, kernel->config->onboard_per_ip, HOUR, now, &reply->rate);
	if (reply->rate.allowed) {
		struct acp_rate total;
		acp_ratelimit_take(kernel->limits, "onboard", kernel->config->onboard_total, HOUR, now, &total);
		if (total.allowed)
			return ACP_OK;
		acp_ratelimit_give_back(kernel->limits, name, HOUR, now);
		reply->rate = total;
	}
	reply->retry_after = (int)reply->rate.reset;
	return refuse(a, ACP_RATE_LIMITED, "", "too many onboarding requests; try again in %lld s",
		      (long long)reply->rate.reset);
}

/* Repeating an onboarding with its key returns the tenant's API key again, so a key made here must be unguessable. */
static void choose_key(struct applicant *a)
{
	acp_uuid(a->own_key);
	a->idempotency_key = a->request->idempotency_key ? a->request->idempotency_key : a->own_key;
}

static enum acp_code read_application(struct applicant *a)
{
	const struct acp_config *config = a->kernel->config;
	a->code = acp_body_parse(config, a->request, config->onboard_max_body_bytes, &a->body, a->error, a->field);
	if (a->code != ACP_OK)
		return a->code;
	if (!json_object_is_type(a->body, json_type_object))
		return refuse(a, ACP_VALIDATION_ERROR, "", "the body must be a JSON object with agent_id and email");
	if (!take_string(a, "agent_id", true, &a->agent_id) || !take_string(a, "email", true, &a->email) ||
	    !take_string(a, "organization_name", false, &a->organization_name))
		return a->code;
	if (!agent_id_ok(a->agent_id))
		return refuse(a, ACP_VALIDATION_ERROR, "/agent_id",
			      "agent_id must be 1 to 128 characters of A-Z a-z 0-9 . _ : -");
	if (!email_ok(a->email))
		return refuse(a, ACP_VALIDATION_ERROR, "/email",
			      "email must be an address like name@example.com, at most 254 characters");
	if (a->organization_name && characters(a->organization_name) > 255)
		return refuse(a, ACP_VALIDATION_ERROR, "/organization_name",
			      "organization_name must have at most 255 characters");
	if (a->request->idempotency_key && (!*a->request->idempotency_key || strlen(a->request->idempotency_key) > 255))
		return refuse(a, ACP_VALIDATION_ERROR, "/idempotency_key",
			      "Idempotency-Key must have 1 to 255 characters");
	choose_key(a);
	return ACP_OK;
}

/* Derives the new API key from the stored salt, the pepper, and the Idempotency-Key, which is not stored. So the first
 * reply can be repeated, and the database alone is not enough to make the key. */
static void derive_key(const struct applicant *a, const char *salt, char out[ACP_KEY_MAX])
{
	static const char purpose[] = "acp-fcgi onboarding key v1|";
	const struct acp_config *config = a->kernel->config;
	uint8_t seed[ACP_SHA256_LEN];
	char text[512];
	int len = snprintf(text, sizeof text, "%s%s|%s", purpose, salt, a->idempotency_key);
	acp_hmac_sha256(config->key_pepper, strlen(config->key_pepper), text, (size_t)len, seed);
	acp_key_from_seed(config->key_prefix, seed, out);
	acp_wipe(seed, sizeof seed);
	acp_wipe(text, sizeof text);
}

/* The stored form of the Idempotency-Key: only an HMAC, because the key gives access to a credential. */
static void stored_idempotency_key(const struct applicant *a, char hex[ACP_SHA256_HEX])
{
	static const char purpose[] = "acp-fcgi onboarding idempotency v1|";
	const struct acp_config *config = a->kernel->config;
	uint8_t mac[ACP_SHA256_LEN];
	char text[512];
	int len = snprintf(text, sizeof text, "%s%s", purpose, a->idempotency_key);
	acp_hmac_sha256(config->key_pepper, strlen(config->key_pepper), text, (size_t)len, mac);
	acp_hex(mac, sizeof mac, hex);
}

static bool make_event(const struct applicant *a, struct acp_event *event)
{
	char action[160];
	snprintf(action, sizeof action, "onboard.%s", a->product);
	return acp_audit_public_event(a->kernel, a->request, action, a->code, a->error, a->body, event);
}

static struct json_object *event_json(const struct applicant *a)
{
	struct acp_event event;
	struct json_object *json = make_event(a, &event) ? acp_event_json(&event) : NULL;
	acp_event_release(&event);
	return json;
}

/* Asks Repo C for a customer before the reply. If it is unreachable or slow, the outbox makes the customer later: the
 * obligation was committed with the tenant. */
static void make_customer(const struct applicant *a)
{
	enum { WITHIN_MS = 1700 }; /* counted from the request's start; the reply is promised within 2 s */
	char obligation[ACP_OBLIGATION_MAX + 1];
	int64_t spent_ms = (int64_t)(acp_monotonic_us() - a->request->started_us) / 1000;
	snprintf(obligation, sizeof obligation, "customer-%s", a->tenant.tenant_id);
	if (acp_outbox_work_on(a->kernel, a->tenant.tenant_id, obligation, a->request->request_id,
			       (int)(WITHIN_MS - spent_ms)) != ACP_OUTBOX_DONE)
		acp_log(ACP_LOG_INFO, "request %s: the customer of tenant %s is made later", a->request->request_id,
			a->tenant.tenant_id);
}

static struct json_object *example_request(const struct applicant *a)
{
	static const char body_text[] =
		"{\"action\":\"domain.leadscoring.scores.compute\",\"params\":{\"weights\":{\"visits\":0.5,"
		"\"employees\":0.01},"
		"\"leads\":[{\"id\":\"lead-1\",\"features\":{\"visits\":12,\"employees\":250}}]}}";
	const struct acp_config *config = a->kernel->config;
	char url[512];
	struct json_object *request = json_object_new_object();
	struct json_object *headers = json_object_new_object();
	snprintf(url, sizeof url, "%s%s/api/manage", config->public_url, config->url_prefix);
	bool ok = request && headers &&
		  acp_json_put(headers, "Content-Type", json_object_new_string("application/json")) &&
		  acp_json_put(headers, "X-API-Key", json_object_new_string(a->api_key)) &&
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
		"Read GET /api/usage to see what is left of the free calls; reading it costs nothing.",
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

static struct json_object *instructions(const struct applicant *a)
{
	const struct acp_config *config = a->kernel->config;
	const char *documentation = config->documentation_url;
	char url[512];
	struct json_object *out = json_object_new_object();
	snprintf(url, sizeof url, "%s%s/llms.txt", config->public_url, config->url_prefix);
	if (out && acp_json_put(out, "setup_steps", setup_steps()) &&
	    acp_json_put(out, "example_request", example_request(a)) &&
	    acp_json_put(out, "documentation_url", json_object_new_string(*documentation ? documentation : url)))
		return out;
	json_object_put(out);
	return NULL;
}

static struct json_object *upgrade_info(const struct applicant *a)
{
	char url[512];
	char message[256];
	const struct acp_config *config = a->kernel->config;
	const char *how =
		acp_outbox_offered(a->kernel)
			? "For more, a human opens upgrade_url in a browser and adds a payment method."
			: "This installation takes no payments yet (Stripe is not configured); its operator can "
			  "make the tenant a paid one.";
	struct json_object *out = json_object_new_object();
	acp_upgrade_url(config, a->tenant.tenant_id, a->tenant.created_at + config->upgrade_link_ttl * 86400, url);
	snprintf(message, sizeof message, "%lld billable calls a month are free. %s",
		 (long long)config->free_calls_limit, how);
	if (out && acp_json_put(out, "message", json_object_new_string(message)) &&
	    acp_json_put(out, "upgrade_url", json_object_new_string(url)))
		return out;
	json_object_put(out);
	return NULL;
}

static struct json_object *pricing(const struct applicant *a)
{
	struct json_object *out = json_object_new_object();
	struct json_object *per_call = acp_json_member(a->tenant.pricing, "unit_amount");
	struct json_object *currency = acp_json_member(a->tenant.pricing, "currency");
	if (out && acp_json_put(out, "per_call", json_object_get(per_call)) &&
	    acp_json_put(out, "currency", json_object_get(currency)) &&
	    acp_json_put(out, "billing_period", json_object_new_string("monthly")))
		return out;
	json_object_put(out);
	return NULL;
}

/* What is known of the reply before there is a tenant: above all its key, which nobody could give again. */
static bool begin_welcome(struct applicant *a)
{
	enum { REST_MAX = 4096 }; /* bytes of what comes to it later */
	const struct acp_config *config = a->kernel->config;
	struct acp_buf *out = a->request->out;
	struct json_object *body = json_object_new_object();
	const char *payments = acp_outbox_offered(a->kernel) ? "stripe" : "not_configured";
	a->welcome = body;
	if (!body || !acp_json_put(body, "ok", json_object_new_boolean(true)) ||
	    !acp_json_put(body, "request_id", json_object_new_string(a->request->request_id)) ||
	    !acp_json_put(body, "onboarded", json_object_new_boolean(true)) ||
	    !acp_json_put(body, "tier", json_object_new_string("free")) ||
	    !acp_json_add_secret(body, "api_key", a->api_key) ||
	    !acp_json_put(body, "api_key_id", json_object_new_string(a->tenant.api_key_id)) ||
	    !acp_json_put(body, "tenant_uuid", json_object_new_string(a->tenant.tenant_id)) ||
	    !acp_json_put(body, "free_calls_remaining", json_object_new_int64(config->free_calls_limit)) ||
	    !acp_json_put(body, "payments", json_object_new_string(payments)) ||
	    !acp_json_put(body, "instructions", instructions(a)))
		return false;
	if (!out)
		return true;
	acp_buf_clear(out);
	acp_json_write(body, out);
	return acp_buf_ok(out) && acp_buf_reserve(out, REST_MAX);
}

static bool end_welcome(struct applicant *a)
{
	return acp_json_put(a->welcome, "upgrade_info", upgrade_info(a)) &&
	       acp_json_put(a->welcome, "pricing", pricing(a));
}

/* The reply to an onboarding that was there before can be asked for again. */
static enum acp_code welcome_again(struct applicant *a)
{
	derive_key(a, a->tenant.salt, a->api_key);
	json_object_put(a->welcome);
	if (begin_welcome(a) && end_welcome(a))
		return ACP_OK;
	return refuse(a, ACP_INTERNAL_ERROR, "", "%s", acp_code_sentence(ACP_INTERNAL_ERROR));
}

/* Tenant first, then its customer at Repo C, then the reply with the key. Tenant and key come into being together, in
 * one transaction of the hub: there is no tenant that nobody has a key of. */
static enum acp_code enrol(struct applicant *a)
{
	const struct acp_control_plane *plane = a->kernel->plane;
	uint8_t random[ACP_SHA256_LEN], hash[ACP_SHA256_LEN];
	char salt[ACP_SHA256_HEX], idempotency_key[ACP_SHA256_HEX], fingerprint[ACP_SHA256_HEX];
	char tenant_id[ACP_UUID_LEN], api_key_id[ACP_UUID_LEN], shown[ACP_KEY_SHOWN + 1];
	acp_random(random, sizeof random);
	acp_hex(random, sizeof random, salt);
	acp_uuid(tenant_id);
	acp_uuid(api_key_id);
	derive_key(a, salt, a->api_key);
	stored_idempotency_key(a, idempotency_key);
	acp_key_hash(a->kernel->config->key_pepper, a->api_key, hash);
	acp_key_shown(a->api_key, shown);
	acp_copy(a->tenant.tenant_id, sizeof a->tenant.tenant_id, tenant_id);
	acp_copy(a->tenant.api_key_id, sizeof a->tenant.api_key_id, api_key_id);
	bool ready = begin_welcome(a) && acp_json_hash(a->body, fingerprint);
	const struct acp_onboarding in = {
		.product = a->product,
		.agent_id = a->agent_id,
		.email = a->email,
		.organization_name = a->organization_name,
		.tenant_id = tenant_id,
		.api_key_id = api_key_id,
		.key_hash = hash,
		.key_shown = shown,
		.scopes = a->kernel->config->onboard_scopes,
		.salt = salt,
		.idempotency_key = idempotency_key,
		.fingerprint = fingerprint,
		.customer = acp_outbox_offered(a->kernel),
		.event = ready ? event_json(a) : NULL,
	};
	enum acp_code code = in.event ? plane->onboard(plane->self, &in, &a->tenant) : ACP_INTERNAL_ERROR;
	json_object_put(in.event);
	if (code != ACP_OK) {
		a->tenant.tenant_id[0] = '\0';
		return refuse(a, code, "", "%s", acp_code_sentence(code));
	}
	if (a->tenant.replay)
		return welcome_again(a);
	if (in.customer)
		make_customer(a);
	/* The hub may have chosen other ids. Setting a text of the same length needs no memory. */
	json_object_set_string(acp_json_member(a->welcome, "tenant_uuid"), a->tenant.tenant_id);
	json_object_set_string(acp_json_member(a->welcome, "api_key_id"), a->tenant.api_key_id);
	if (!end_welcome(a)) /* the tenant exists: returning its key matters more than the rest */
		acp_log(ACP_LOG_WARNING, "request %s: memory is lacking: onboarded without upgrade_info or pricing",
			a->request->request_id);
	return ACP_OK;
}

/* A refusal; a success was recorded with the tenant it made. Nothing is answered that is not on record. */
static void record_refusal(struct applicant *a)
{
	const struct acp_control_plane *plane = a->kernel->plane;
	struct acp_event event;
	const struct acp_settlement end = {.event = &event};
	bool made = make_event(a, &event);
	/* The hub may have made the tenant, or may still make it. */
	if (a->code == ACP_OUTCOME_UNKNOWN)
		event.unless_onboarded = a->tenant.api_key_id;
	if (!made || plane->record(plane->self, &end) != ACP_OK) {
		acp_log(ACP_LOG_ERROR, "request %s: the audit row of a refused onboarding could not be written",
			a->request->request_id);
		if (a->code != ACP_OUTCOME_UNKNOWN)
			refuse(a, ACP_UNAVAILABLE, "", "%s", acp_code_sentence(ACP_UNAVAILABLE));
	}
	acp_event_release(&event);
}

static struct json_object *refusal_body(const struct applicant *a)
{
	struct json_object *body = acp_error_body(a->code, a->request->request_id, a->error, a->field);
	if (a->code == ACP_OUTCOME_UNKNOWN && !acp_json_add_string(body, "idempotency_key", a->idempotency_key))
		acp_log(ACP_LOG_ERROR, "request %s: out of memory: its reply lacks the idempotency_key",
			a->request->request_id);
	return body;
}

void acp_onboard(const struct acp_kernel *kernel, const struct acp_request *request, const char *product,
		 struct acp_reply *reply)
{
	struct applicant a = {.kernel = kernel, .request = request, .product = product, .code = ACP_OK};
	*reply = (struct acp_reply){0};
	if (strcmp(request->method, "POST") != 0) {
		reply->allow = "POST";
		refuse(&a, ACP_METHOD_NOT_ALLOWED, "", "use POST here, not %.20s", request->method);
	} else if (check_rate(&a, reply) == ACP_OK && read_application(&a) == ACP_OK) {
		enrol(&a);
	}
	if (a.code != ACP_OK)
		record_refusal(&a);
	reply->code = a.code;
	reply->http = a.code == ACP_OK ? 201 : acp_code_http(a.code);
	reply->replayed = a.tenant.replay;
	reply->body = a.code == ACP_OK ? json_object_get(a.welcome) : refusal_body(&a);
	if (!reply->retry_after)
		reply->retry_after = acp_code_retry_after(a.code);
	snprintf(reply->tenant_id, sizeof reply->tenant_id, "%s", a.tenant.tenant_id);
	acp_wipe(a.api_key, sizeof a.api_key);
	json_object_put(a.welcome);
	json_object_put(a.tenant.pricing);
	json_object_put(a.body);
}
