#include "webhooks.h"

#include "clock.h"
#include "log.h"
#include "outbound.h"
#include "subkey.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <strings.h>

enum {
	URL_MAX = 2048,
	CONNECT_TIMEOUT_MS = 5000,
	TIMEOUT_MS = 15000,
	LEASE = 60,        /* seconds; much longer than an attempt and its report take */
	REPLY_MAX = 65536, /* only the status of the receiver's reply matters */
};

/* Seconds before the second attempt, the third, … */
static const int64_t retry_after[] = {5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400};

/* URLs ---------------------------------------------------------------------------------------------------------- */

/* The host part of a URL without the brackets of an address literal. *port is the text after the colon, or NULL. Splits
 * authority in place. NULL: unbalanced brackets. */
static char *split_host(char *authority, char **port)
{
	char *colon;
	*port = NULL;
	if (*authority == '[') {
		char *end = strchr(authority, ']');
		if (!end || (end[1] && end[1] != ':'))
			return NULL;
		colon = end[1] ? end + 1 : NULL;
		*end = '\0';
		authority++;
	} else {
		colon = strchr(authority, ':');
	}
	if (colon) {
		*colon = '\0';
		*port = colon + 1;
	}
	return authority;
}

static bool port_ok(const char *port)
{
	size_t digits = strspn(port, "0123456789");
	long number = digits <= 5 ? strtol(port, NULL, 10) : 0;
	return digits > 0 && !port[digits] && number >= 1 && number <= 65535;
}

/* Is the host itself a private address or name? inet_aton() accepts the same forms as resolvers: 127.1, 0x7f000001. */
static bool is_private_host(const char *host)
{
	struct in_addr v4;
	struct in6_addr v6;
	size_t len = strlen(host);
	if (inet_pton(AF_INET6, host, &v6) == 1)
		return !acp_outbound_public(AF_INET6, &v6);
	if (inet_aton(host, &v4))
		return !acp_outbound_public(AF_INET, &v4);
	while (len && host[len - 1] == '.')
		len--;
	return (len == 9 && strncasecmp(host, "localhost", 9) == 0) ||
	       (len > 10 && strncasecmp(host + len - 10, ".localhost", 10) == 0);
}

static const char *authority_fault(const struct acp_config *config, char *authority)
{
	char *port;
	if (strchr(authority, '@'))
		return "must not contain a user or a password";
	char *host = split_host(authority, &port);
	if (!host || !*host || host[strspn(host, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_:")])
		return "has no valid host name (write an international name in its xn-- form)";
	if (port && !port_ok(port))
		return "has an invalid port";
	if (!config->webhook_allow_private && is_private_host(host))
		return "points to a private address";
	return NULL;
}

static const char *url_fault(const struct acp_config *config, const char *url)
{
	char authority[256];
	bool https = strncasecmp(url, "https://", 8) == 0;
	bool http = strncasecmp(url, "http://", 7) == 0;
	if (strlen(url) > URL_MAX)
		return "is too long";
	if (!https && !(http && config->webhook_allow_http))
		return config->webhook_allow_http ? "must start with https:// or http://" : "must start with https://";
	for (const char *c = url; *c; c++)
		if (*c <= ' ' || *c > '~' || strchr("\"\\<>^`{|}#", *c))
			return "contains a character that must be %-encoded, or a fragment";
	const char *start = url + (https ? 8 : 7);
	size_t len = strcspn(start, "/?");
	if (len == 0 || len >= sizeof authority)
		return "has no valid host name (write an international name in its xn-- form)";
	memcpy(authority, start, len);
	authority[len] = '\0';
	return authority_fault(config, authority);
}

bool acp_webhook_url_ok(const struct acp_config *config, const char *url, char *why, size_t why_size)
{
	const char *fault = url_fault(config, url);
	snprintf(why, why_size, "%s", fault ? fault : "");
	return !fault;
}

/* Secrets ------------------------------------------------------------------------------------------------------- */

/* Derives the key for a webhook's secret. The id is lowercased first, so the case of its hex digits does not matter. */
static void derive_sealing_key(const struct acp_config *config, const char *webhook_id, uint8_t key[ACP_SHA256_LEN])
{
	char id[ACP_UUID_LEN];
	snprintf(id, sizeof id, "%s", webhook_id);
	for (char *c = id; *c; c++)
		*c = (char)tolower((unsigned char)*c);
	acp_subkey(config->key_pepper, ACP_FOR_WEBHOOK_SECRET, id, strlen(id), key);
}

bool acp_webhook_new_secret(const struct acp_config *config, const char *webhook_id, char text[ACP_WEBHOOK_SECRET_TEXT],
			    char sealed_hex[ACP_WEBHOOK_SEALED_HEX])
{
	uint8_t secret[ACP_WEBHOOK_SECRET_LEN], key[ACP_SHA256_LEN], sealed[ACP_WEBHOOK_SEALED_LEN];
	acp_random(secret, sizeof secret);
	memcpy(text, "whsec_", 6);
	acp_base64(secret, sizeof secret, text + 6);
	derive_sealing_key(config, webhook_id, key);
	bool ok = acp_encrypt(key, secret, sizeof secret, sealed);
	if (ok)
		acp_hex(sealed, sizeof sealed, sealed_hex);
	acp_wipe(secret, sizeof secret);
	acp_wipe(key, sizeof key);
	return ok;
}

bool acp_webhook_open_secret(const struct acp_config *config, const char *webhook_id, const char *sealed_hex,
			     uint8_t secret[ACP_WEBHOOK_SECRET_LEN])
{
	uint8_t key[ACP_SHA256_LEN], sealed[ACP_WEBHOOK_SEALED_LEN];
	if (!acp_unhex(sealed_hex, sealed, sizeof sealed))
		return false;
	derive_sealing_key(config, webhook_id, key);
	bool opened = acp_decrypt(key, sealed, sizeof sealed, secret);
	acp_wipe(key, sizeof key);
	return opened;
}

void acp_webhook_sign(const uint8_t *secret, size_t secret_len, const char *id, int64_t timestamp, const char *body,
		      char out[ACP_WEBHOOK_SIGNATURE])
{
	char head[160]; /* ids have at most 128 characters */
	uint8_t mac[ACP_SHA256_LEN];
	snprintf(head, sizeof head, "%.128s.%lld.", id, (long long)timestamp);
	acp_hmac_sha256_behind(secret, secret_len, head, body, strlen(body), mac);
	memcpy(out, "v1,", 3);
	acp_base64(mac, sizeof mac, out + 3);
}

/* Deliveries ---------------------------------------------------------------------------------------------------- */

double acp_webhook_retry_delay(int64_t attempt, uint32_t random)
{
	if (attempt < 1 || attempt > (int64_t)ACP_COUNT(retry_after))
		return -1;
	return (double)retry_after[attempt - 1] * (0.9 + 0.2 * random / UINT32_MAX);
}

/* A delivery claimed from the hub. The strings point into its JSON. */
struct delivery {
	const char *tenant_id, *webhook_id, *delivery_id, *url, *payload, *sealed, *sealed_before;
	int64_t attempt;
	int64_t ts;
};

static bool read_delivery(struct json_object *json, struct delivery *d)
{
	*d = (struct delivery){
		.tenant_id = acp_json_string(json, "tenant_id"),
		.webhook_id = acp_json_string(json, "webhook_id"),
		.delivery_id = acp_json_string(json, "delivery_id"),
		.url = acp_json_string(json, "url"),
		.payload = acp_json_string(json, "payload"),
		.sealed = acp_json_string(json, "sealed"),
		.sealed_before = acp_json_string(json, "sealed_before"),
		.attempt = json_object_get_int64(acp_json_member(json, "attempt")),
		.ts = json_object_get_int64(acp_json_member(json, "ts")),
	};
	return d->tenant_id && d->webhook_id && d->delivery_id && d->url && d->payload && d->sealed;
}

/* Appends the signature made with one secret. False: the secret cannot be read. */
static bool add_signature(const struct acp_config *config, const struct delivery *d, const char *sealed,
			  struct acp_buf *out)
{
	uint8_t secret[ACP_WEBHOOK_SECRET_LEN];
	char signature[ACP_WEBHOOK_SIGNATURE];
	if (!acp_webhook_open_secret(config, d->webhook_id, sealed, secret))
		return false;
	acp_webhook_sign(secret, sizeof secret, d->delivery_id, d->ts, d->payload, signature);
	acp_wipe(secret, sizeof secret);
	acp_buf_printf(out, "%s%s", out->len ? " " : "", signature);
	return true;
}

/* Makes the header webhook-signature: signed with the current secret and, for a day after a rotation, with the previous
 * one too. */
static bool sign_delivery(const struct acp_config *config, const struct delivery *d, struct acp_buf *out)
{
	bool ok = add_signature(config, d, d->sealed, out);
	if (ok && d->sealed_before && !add_signature(config, d, d->sealed_before, out))
		acp_log(ACP_LOG_WARNING, "webhook %s: the previous secret cannot be read", d->webhook_id);
	return ok && acp_buf_ok(out);
}

/* Sends the delivery and fills reply, which the caller releases. */
static enum acp_outbound_result post(const struct acp_config *config, const struct delivery *d, const char *signatures,
				     struct acp_outbound_reply *reply)
{
	char timestamp[24];
	snprintf(timestamp, sizeof timestamp, "%lld", (long long)d->ts);
	const struct acp_header headers[] = {
		{"Content-Type", "application/json"},
		{"webhook-id", d->delivery_id},
		{"webhook-timestamp", timestamp},
		{"webhook-signature", signatures},
	};
	const struct acp_outbound_request request = {
		.method = "POST",
		.url = d->url,
		.headers = headers,
		.header_count = ACP_COUNT(headers),
		.body = d->payload,
		.body_len = strlen(d->payload),
		.connect_timeout_ms = CONNECT_TIMEOUT_MS,
		.timeout_ms = TIMEOUT_MS,
		.max_reply = REPLY_MAX,
		.allow_private = config->webhook_allow_private,
		.allow_http = config->webhook_allow_http,
	};
	return acp_outbound_send(&request, reply);
}

/* The outcome of the attempt, in the form that webhooks.report of the plane expects. */
static struct json_object *outcome_json(const struct delivery *d, int status, const char *error, bool silent)
{
	uint32_t random;
	bool delivered = status >= 200 && status <= 299;
	acp_random(&random, sizeof random);
	double retry_delay = status == 410 ? -1 : acp_webhook_retry_delay(d->attempt, random);
	struct json_object *outcome = json_object_new_object();
	if (outcome && acp_json_add_string(outcome, "tenant_id", d->tenant_id) &&
	    acp_json_add_string(outcome, "webhook_id", d->webhook_id) &&
	    acp_json_add_string(outcome, "delivery_id", d->delivery_id) &&
	    acp_json_add(outcome, "attempt", json_object_new_int64(d->attempt)) &&
	    acp_json_add(outcome, "delivered", json_object_new_boolean(delivered)) &&
	    (!status || acp_json_add(outcome, "status", json_object_new_int(status))) &&
	    (delivered || acp_json_add_string(outcome, "error", error)) &&
	    (delivered || retry_delay < 0 || acp_json_add(outcome, "retry_after", acp_json_double(retry_delay))) &&
	    acp_json_add(outcome, "gone", json_object_new_boolean(status == 410)) &&
	    acp_json_add(outcome, "silent", json_object_new_boolean(silent)))
		return outcome;
	json_object_put(outcome);
	return NULL;
}

/* Makes the attempt and returns its outcome. NULL: out of memory. */
static struct json_object *attempt(const struct acp_config *config, const struct delivery *d)
{
	char error[320];
	struct acp_buf signatures;
	struct acp_outbound_reply reply = {0};
	uint64_t start = acp_monotonic_us();
	acp_buf_init(&signatures, 1024);
	if (!sign_delivery(config, d, &signatures)) {
		acp_buf_release(&signatures);
		acp_log(ACP_LOG_ERROR, "webhook %s: its secret cannot be read: was key_pepper changed?", d->webhook_id);
		return outcome_json(d, 0, "the signing secret cannot be read; rotate it", false);
	}
	enum acp_outbound_result result = post(config, d, signatures.ptr, &reply);
	/* A reply that is too long still counts as a reply. */
	int status = result == ACP_OUTBOUND_REPLIED || result == ACP_OUTBOUND_UNKNOWN ? reply.status : 0;
	if (status)
		snprintf(error, sizeof error, "the receiver answered with status %d", status);
	else
		snprintf(error, sizeof error, "%s", reply.error);
	acp_log(ACP_LOG_DEBUG, "webhook %s: delivery %s, attempt %lld: %s", d->webhook_id, d->delivery_id,
		(long long)d->attempt, error);
	bool silent = !status && acp_monotonic_us() - start > CONNECT_TIMEOUT_MS * 1000ull / 2;
	struct json_object *outcome = outcome_json(d, status, error, silent);
	acp_buf_release(&reply.body);
	acp_buf_release(&signatures);
	return outcome;
}

enum acp_webhooks_step acp_webhooks_deliver(const struct acp_config *config, const struct acp_control_plane *plane)
{
	struct json_object *list = NULL;
	struct json_object *outcome = NULL;
	struct delivery delivery;
	enum acp_code code = plane->webhooks.claim(plane->self, 1, LEASE, &list);
	size_t count =
		code == ACP_OK && json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
	if (count && read_delivery(json_object_array_get_idx(list, 0), &delivery))
		outcome = attempt(config, &delivery);
	if (outcome)
		code = plane->webhooks.report(plane->self, outcome);
	else if (count)
		code = ACP_INTERNAL_ERROR; /* the delivery becomes due again when its lease ends */
	json_object_put(outcome);
	json_object_put(list);
	if (code != ACP_OK)
		return ACP_WEBHOOKS_TROUBLE;
	return count ? ACP_WEBHOOKS_SENT : ACP_WEBHOOKS_IDLE;
}
