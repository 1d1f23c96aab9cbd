#include "webhooks.h"

#include "outbound.h"
#include "subkey.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <strings.h>

enum { URL_MAX = 2048 };

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
