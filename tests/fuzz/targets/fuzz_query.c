/* Query strings (fcgi/http.c) and signed upgrade links (upgrade_link.c). The input: a query string. A parameter has the
 * value that a second implementation finds, or none. A link is valid for its own tenant, time and signature only. */
#include "../fuzz.h"
#include "http.h"
#include "upgrade_link.h"

#include "../../unit/fake_plane.h"

/* Decodes like a form. NULL: invalid, or not printable. */
static char *decoded(const char *text)
{
	char *out = strdup(text), *to = out;
	bool ok = true;
	for (; ok && *text; text++) {
		unsigned code = (unsigned char)*text;
		if (*text == '%') {
			ok = strspn(text + 1, "0123456789abcdefABCDEF") >= 2 && sscanf(text + 1, "%2x", &code) == 1;
			text += ok ? 2 : 0;
		} else if (*text == '+') {
			code = ' ';
		}
		ok = ok && code >= 0x20 && code <= 0x7e;
		*to++ = (char)code;
	}
	*to = '\0';
	if (ok)
		return out;
	free(out);
	return NULL;
}

static char *expected(const char *query, const char *name)
{
	char *copy = strdup(query), *at = copy, *part;
	const char *value = NULL;
	int found = 0;
	while ((part = strsep(&at, "&"))) {
		size_t len = strlen(name);
		if (strncmp(part, name, len) == 0 && part[len] == '=') {
			found++;
			value = part + len + 1;
		}
	}
	char *out = found == 1 ? decoded(value) : NULL;
	free(copy);
	return out;
}

static void check_parameter(const struct acp_http *http, const char *name)
{
	char value[64];
	char *wanted = expected(http->query, name);
	bool fits = wanted && strlen(wanted) < sizeof value;
	bool found = acp_http_query(http, name, value, sizeof value);
	FUZZ_CHECK(found == fits, "%s was found: %d", name, found);
	FUZZ_CHECK(!found || strcmp(value, wanted) == 0, "%s is %s, not %s", name, value, wanted);
	FUZZ_CHECK(!found || acp_http_query_has(http, name), "%s has a value, but was not found", name);
	free(wanted);
}

/* True if acp_upgrade_url makes a link with these three. */
static bool made(const struct acp_config *config, const char *tenant, const char *expires, const char *signature)
{
	char url[512], wanted[512];
	if (strlen(expires) > 12 || !acp_is_uuid(tenant))
		return false;
	acp_upgrade_url(config, tenant, strtoll(expires, NULL, 10), url);
	snprintf(wanted, sizeof wanted, "/api/upgrade/checkout?tenant=%s&exp=%s&sig=%s", tenant, expires, signature);
	return strlen(url) > strlen(wanted) && strcmp(url + strlen(url) - strlen(wanted), wanted) == 0;
}

static void check_link(const struct acp_config *config, const struct acp_http *http)
{
	const int64_t now = 1800000000;
	char tenant[64], expires[32], signature[80];
	if (!acp_http_query(http, "tenant", tenant, sizeof tenant) ||
	    !acp_http_query(http, "exp", expires, sizeof expires) ||
	    !acp_http_query(http, "sig", signature, sizeof signature))
		return;
	bool ours = made(config, tenant, expires, signature);
	bool lives = strtoll(expires, NULL, 10) > now;
	FUZZ_CHECK(acp_upgrade_url_ok(config, tenant, expires, signature, now) == (ours && lives), "%s", http->query);
	FUZZ_CHECK(!acp_upgrade_url_ok(config, tenant, expires, signature, now * 1000), "still valid after the end: %s",
		   http->query);
}

void fuzz_query(const uint8_t *data, size_t size)
{
	static struct acp_config config;
	struct fuzz_input in = {data, size};
	struct acp_http http = {0};
	static const char *const names[] = {"tenant", "exp", "sig", "checkout", "period", "a", "tenant_id", "cursor"};
	if (!config.key_pepper)
		fake_config_init(&config);
	char *query = fuzz_part(&in, NULL);
	http.query = query;
	for (size_t i = 0; i < ACP_COUNT(names); i++)
		check_parameter(&http, names[i]);
	check_link(&config, &http);
	free(query);
}
