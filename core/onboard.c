#include "onboard.h"

#include "audit.h"
#include "clock.h"
#include "envelope.h"
#include "log.h"
#include "usage.h"

#include <ctype.h>

struct applicant {
	const struct acp_kernel *kernel;
	const struct acp_request *request;
	const char *product;
	struct json_object *body;
	const char *agent_id, *email, *organization_name;
	enum acp_code code;
	char error[256];
	char field[280];
	bool replay;
	char api_key[ACP_KEY_MAX];
	struct acp_onboarded tenant;
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

/* The address forms people have (RFC 5321 without quoted local parts and address literals): dot-separated atoms, and
 * a domain of at least two labels. */
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

/* A string member: *value is NULL where it is missing. */
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

/* Registering is free and open to everybody, so it has limits of its own: for one address, and over all. */
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

static enum acp_code read_application(struct applicant *a)
{
	const struct acp_config *config = a->kernel->config;
	a->code = acp_body_parse(config, a->request, config->onboard_max_body_bytes, &a->body, a->error, a->field);
	if (a->code != ACP_OK)
		return a->code;
	if (!json_object_is_type(a->body, json_type_object))
		return refuse(a, ACP_VALIDATION_ERROR, "", "the body must be a JSON object");
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
	return ACP_OK;
}

/* The key of an onboarding follows from the salt that is stored, the pepper, and the Idempotency-Key that is not
 * stored: so the first reply can be given again, and nobody can make the key from the database alone. */
static void derive_key(const struct applicant *a, const char *salt, char out[ACP_KEY_MAX])
{
	static const char purpose[] = "acp-fcgi onboarding key v1|";
	const struct acp_config *config = a->kernel->config;
	uint8_t seed[ACP_SHA256_LEN];
	struct acp_buf text;
	acp_buf_init(&text, 1024);
	acp_buf_printf(&text, "%s%s|%s", purpose, salt, a->request->idempotency_key ? a->request->idempotency_key : "");
	acp_hmac_sha256(config->key_pepper, strlen(config->key_pepper), text.ptr, text.len, seed);
	acp_key_from_seed(config->key_prefix, seed, out);
	acp_wipe(seed, sizeof seed);
	acp_buf_release(&text);
}

/* The Idempotency-Key as it is stored: it leads to a credential, so only its HMAC is. */
static const char *stored_idempotency_key(const struct applicant *a, char hex[ACP_SHA256_HEX])
{
	static const char purpose[] = "acp-fcgi onboarding idempotency v1|";
	const struct acp_config *config = a->kernel->config;
	uint8_t mac[ACP_SHA256_LEN];
	struct acp_buf text;
	if (!a->request->idempotency_key)
		return NULL;
	acp_buf_init(&text, 1024);
	acp_buf_printf(&text, "%s%s", purpose, a->request->idempotency_key);
	acp_hmac_sha256(config->key_pepper, strlen(config->key_pepper), text.ptr, text.len, mac);
	acp_buf_release(&text);
	acp_hex(mac, sizeof mac, hex);
	return hex;
}

static struct json_object *make_event(const struct applicant *a)
{
	char action[160];
	snprintf(action, sizeof action, "onboard.%s", a->product);
	return acp_audit_public_event(a->kernel, a->request, action, a->code, a->error, a->body);
}

/* Tenant first, then its key, in one transaction of the hub. (Repo C is asked for a customer between the two once it
 * is configured.) */
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
	acp_key_hash(a->kernel->config->key_pepper, a->api_key, hash);
	acp_key_shown(a->api_key, shown);
	if (!acp_json_hash(a->body, fingerprint))
		return refuse(a, ACP_INTERNAL_ERROR, "", "%s", "");
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
		.idempotency_key = stored_idempotency_key(a, idempotency_key),
		.fingerprint = fingerprint,
		.event = make_event(a),
	};
	enum acp_code code = in.event ? plane->onboard(plane->self, &in, &a->tenant) : ACP_INTERNAL_ERROR;
	json_object_put(in.event);
	if (code != ACP_OK)
		return refuse(a, code, "", "%s", acp_code_sentence(code));
	if (a->tenant.replay)
		derive_key(a, a->tenant.salt, a->api_key);
	return ACP_OK;
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
	if (headers) {
		acp_json_add_string(headers, "Content-Type", "application/json");
		acp_json_add_string(headers, "X-API-Key", a->api_key);
	}
	if (request) {
		acp_json_add_string(request, "method", "POST");
		acp_json_add_string(request, "url", url);
		acp_json_add(request, "headers", json_object_get(headers));
		acp_json_add(request, "body", json_tokener_parse(body_text));
	}
	json_object_put(headers);
	return request;
}

static struct json_object *instructions(const struct applicant *a)
{
	static const char *const steps[] = {
		"Store api_key now: it is shown only once and cannot be read again.",
		"Send it as X-API-Key with every POST to the url of example_request; the action meta.actions lists "
		"what you can call.",
		"Read GET /api/usage to see what is left of the free calls; reading it costs nothing.",
	};
	const struct acp_config *config = a->kernel->config;
	char url[512];
	struct json_object *out = json_object_new_object();
	struct json_object *list = json_object_new_array();
	for (size_t i = 0; list && i < ACP_COUNT(steps); i++)
		json_object_array_add(list, json_object_new_string(steps[i]));
	snprintf(url, sizeof url, "%s%s", config->public_url, config->url_prefix);
	if (out) {
		acp_json_add(out, "setup_steps", json_object_get(list));
		acp_json_add(out, "example_request", example_request(a));
		acp_json_add_string(out, "documentation_url",
				    *config->documentation_url ? config->documentation_url : url);
	}
	json_object_put(list);
	return out;
}

static struct json_object *upgrade_info(const struct applicant *a)
{
	char url[512];
	char message[256];
	const struct acp_config *config = a->kernel->config;
	struct json_object *out = json_object_new_object();
	acp_upgrade_url(config, a->tenant.tenant_id, a->tenant.created_at + config->upgrade_link_ttl * 86400, url);
	snprintf(message, sizeof message,
		 "%lld billable calls a month are free. This installation takes no payments yet (Stripe is not "
		 "configured); "
		 "its operator can make the tenant a paid one.",
		 (long long)config->free_calls_limit);
	if (out) {
		acp_json_add_string(out, "message", message);
		acp_json_add_string(out, "upgrade_url", url);
	}
	return out;
}

static struct json_object *pricing(const struct applicant *a)
{
	struct json_object *out = json_object_new_object();
	struct json_object *unit_amount = acp_json_member(a->tenant.pricing, "unit_amount");
	if (out) {
		acp_json_add(out, "per_call", json_object_get(unit_amount));
		acp_json_add_string(out, "currency", acp_json_string(a->tenant.pricing, "currency"));
		acp_json_add_string(out, "billing_period", "monthly");
	}
	return out;
}

static struct json_object *welcome(const struct applicant *a)
{
	const struct acp_config *config = a->kernel->config;
	struct json_object *body = json_object_new_object();
	bool ok = body && acp_json_add(body, "ok", json_object_new_boolean(true)) &&
		  acp_json_add_string(body, "request_id", a->request->request_id) &&
		  acp_json_add(body, "onboarded", json_object_new_boolean(true)) &&
		  acp_json_add_string(body, "tier", "free") && acp_json_add_string(body, "api_key", a->api_key) &&
		  acp_json_add_string(body, "api_key_id", a->tenant.api_key_id) &&
		  acp_json_add_string(body, "tenant_uuid", a->tenant.tenant_id) &&
		  acp_json_add(body, "free_calls_remaining", json_object_new_int64(config->free_calls_limit)) &&
		  acp_json_add_string(body, "payments", "not_configured") &&
		  acp_json_add(body, "instructions", instructions(a)) &&
		  acp_json_add(body, "upgrade_info", upgrade_info(a)) && acp_json_add(body, "pricing", pricing(a));
	if (ok)
		return body;
	json_object_put(body);
	return NULL;
}

/* A refusal; a success was recorded with the tenant it made. Nothing is answered that is not on record. */
static void record_refusal(struct applicant *a)
{
	const struct acp_control_plane *plane = a->kernel->plane;
	struct json_object *event = make_event(a);
	const struct acp_settlement end = {.event = event};
	if (!event || plane->record(plane->self, &end) != ACP_OK) {
		acp_log(ACP_LOG_ERROR, "request %s: the audit row of a refused onboarding could not be written",
			a->request->request_id);
		refuse(a, ACP_UNAVAILABLE, "", "%s", acp_code_sentence(ACP_UNAVAILABLE));
	}
	json_object_put(event);
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
	reply->body = a.code == ACP_OK ? welcome(&a) : acp_error_body(a.code, request->request_id, a.error, a.field);
	if (a.code == ACP_UNAVAILABLE)
		reply->retry_after = 1;
	snprintf(reply->tenant_id, sizeof reply->tenant_id, "%s", a.tenant.tenant_id);
	acp_wipe(a.api_key, sizeof a.api_key);
	json_object_put(a.tenant.pricing);
	json_object_put(a.body);
}
