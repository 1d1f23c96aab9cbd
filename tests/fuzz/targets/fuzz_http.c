/* FastCGI parameters as a request (fcgi/http.c). The input: parameters NAME=VALUE, each followed by a NUL; the last one
 * is a url_prefix. Whatever the input, endpoints see a path that all parsers read alike, an upper-case method, one
 * credential or none, and nothing unprintable in stored or displayed text. */
#include "../fuzz.h"
#include "http.h"

#include "../../unit/fake_plane.h"

#include <strings.h>

enum { PARAMETERS_MAX = 40 };

/* Returns how often a variable occurs. *value: its last value. */
static int find(char **variables, const char *name, const char **value)
{
	int count = 0;
	size_t len = strlen(name);
	*value = NULL;
	for (; *variables; variables++) {
		if (strncmp(*variables, name, len) != 0 || (*variables)[len] != '=')
			continue;
		count++;
		*value = *variables + len + 1;
	}
	return count;
}

static bool printable(const char *text)
{
	for (; *text; text++)
		if (*text < 0x20 || *text > 0x7e)
			return false;
	return true;
}

static void check_path(const char *path)
{
	if (!*path)
		return;
	FUZZ_CHECK(*path == '/' && printable(path) && strlen(path) <= ACP_PATH_MAX, "%s", path);
	FUZZ_CHECK(!strstr(path, "//") && !strstr(path, "/./") && !strstr(path, "/../"), "%s", path);
	size_t len = strlen(path);
	FUZZ_CHECK(!(len >= 2 && strcmp(path + len - 2, "/.") == 0) &&
			   !(len >= 3 && strcmp(path + len - 3, "/..") == 0),
		   "%s", path);
}

/* Checks that the requested path begins with the prefix. */
static void check_prefix(const struct acp_http *http, char **variables, const char *prefix)
{
	const char *uri;
	find(variables, "REQUEST_URI", &uri);
	FUZZ_CHECK(!*http->path || uri, "a path, but no REQUEST_URI");
	if (!*http->path || *uri != '/')
		return;
	FUZZ_CHECK(strncmp(uri, prefix, strlen(prefix)) == 0, "%s is not below %s", uri, prefix);
	/* Without escapes, the path is the same text. */
	size_t len = strcspn(uri, "?");
	if (!memchr(uri, '%', len))
		FUZZ_CHECK(len == strlen(prefix) + strlen(http->path) &&
				   strncmp(uri + strlen(prefix), http->path, strlen(http->path)) == 0,
			   "%s from %s", http->path, uri);
}

static void check_credential(const struct acp_http *http, char **variables)
{
	const char *key, *authorization;
	int keys = find(variables, "HTTP_X_API_KEY", &key);
	int others = find(variables, "HTTP_AUTHORIZATION", &authorization);
	const char *shown = http->request.credential;
	const char *bearer = authorization && strncasecmp(authorization, "Bearer ", 7) == 0 ? authorization + 7 : NULL;
	if (bearer)
		bearer += strspn(bearer, " ");
	FUZZ_CHECK(!shown || (keys <= 1 && others <= 1), "one of two credentials is accepted: %s", shown);
	FUZZ_CHECK(!shown || *shown, "an empty credential");
	if (shown && key && *key)
		FUZZ_CHECK(strcmp(shown, key) == 0 && (!bearer || strcmp(bearer, key) == 0), "%s of %s and %s", shown,
			   key, bearer ? bearer : "none");
	else if (shown)
		FUZZ_CHECK(bearer && strcmp(shown, bearer) == 0, "%s is not in the request", shown);
	FUZZ_CHECK(!http->bearer || (shown && strcmp(http->bearer, shown) == 0 && !(key && *key)), "bearer");
}

static void check_rest(const struct acp_http *http, char **variables)
{
	const char *value;
	int count = find(variables, "HTTP_IDEMPOTENCY_KEY", &value);
	const char *key = http->request.idempotency_key;
	FUZZ_CHECK((key != NULL) == (count > 0), "idempotency key");
	FUZZ_CHECK(!key || !*key || (count == 1 && printable(key) && strcmp(key, value) == 0), "%s", key);
	count = find(variables, "HTTP_STRIPE_SIGNATURE", &value);
	FUZZ_CHECK((http->stripe_signature != NULL) == (count == 1), "%d signatures", count);
	FUZZ_CHECK(acp_is_uuid(http->request_id), "%s", http->request_id);
	FUZZ_CHECK(*http->method && strspn(http->method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == strlen(http->method), "%s",
		   http->method);
	FUZZ_CHECK(strspn(http->address, "0123456789abcdefABCDEF:.") == strlen(http->address), "%s", http->address);
}

/* Checks that an error reply is JSON without unescaped parts of the request. */
static void check_error(const struct acp_http *http)
{
	struct acp_response response = {0};
	acp_buf_init(&response.body, 1 << 20);
	if (acp_http_require_get(http, &response))
		acp_http_error(http, ACP_NOT_FOUND, "no such path", &response);
	struct oracle oracle = oracle_read((const uint8_t *)response.body.ptr, response.body.len);
	FUZZ_CHECK(oracle.valid, "%s", response.body.ptr);
	FUZZ_CHECK(response.status == 404 || response.status == 405, "%d", response.status);
	acp_buf_release(&response.body);
}

void fuzz_http(const uint8_t *data, size_t size)
{
	static struct acp_config config;
	static struct acp_http http;
	struct fuzz_input in = {data, size};
	char *variables[PARAMETERS_MAX + 1] = {NULL};
	size_t count = 0;
	if (!config.key_pepper)
		fake_config_init(&config);
	while (in.left && count < PARAMETERS_MAX)
		variables[count++] = fuzz_part(&in, NULL);
	/* A prefix that the configuration would refuse is not used. */
	char *last = count ? variables[--count] : NULL;
	variables[count] = NULL;
	size_t len = last ? strlen(last) : 0;
	char *usual = config.url_prefix;
	if (len && *last == '/' && last[len - 1] != '/')
		config.url_prefix = last;
	acp_http_read(&http, variables, &config);
	check_path(http.path);
	check_prefix(&http, variables, config.url_prefix);
	check_credential(&http, variables);
	check_rest(&http, variables);
	check_error(&http);
	config.url_prefix = usual;
	free(last);
	while (count)
		free(variables[--count]);
}
