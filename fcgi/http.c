#include "http.h"

#include "envelope.h"

#include <ctype.h>
#include <strings.h>

/* The relevant variables, found in one pass. A header that arrives twice (lighttpd passes X-API-Key and X_API_Key as
 * two variables with the same name) is marked: two credentials count as none. */
struct variable {
	const char *name;
	size_t len; /* of the name */
	const char *value;
	bool twice;
};

#define NAMED(text)                                                                                                    \
	{                                                                                                              \
		.name = (text), .len = sizeof(text) - 1                                                                \
	}

enum {
	METHOD,
	URI,
	TYPE,
	ENCODING,
	ADDRESS,
	KEY,
	AUTHORIZATION,
	IDEMPOTENCY,
	ACCEPT,
	TRACE,
	FORWARDED,
	FORWARDED_RFC,
	STRIPE,
	VARIABLES
};

static void collect(struct variable *wanted, char **variables)
{
	for (; variables && *variables; variables++) {
		const char *equals = strchr(*variables, '=');
		size_t len = equals ? (size_t)(equals - *variables) : 0;
		for (size_t i = 0; equals && i < VARIABLES; i++) {
			if (len != wanted[i].len || memcmp(wanted[i].name, *variables, len) != 0)
				continue;
			wanted[i].twice = wanted[i].value != NULL;
			wanted[i].value = equals + 1;
			break;
		}
	}
}

static const char *nonempty(const char *value)
{
	return value && *value ? value : NULL;
}

/* Returns X-API-Key, or Authorization: Bearer. Both are allowed only if they agree. */
static const char *find_credential(const struct variable *found)
{
	const char *key = nonempty(found[KEY].value);
	const char *bearer = found[AUTHORIZATION].value;
	if (found[KEY].twice || found[AUTHORIZATION].twice)
		return NULL;
	if (!bearer || strncasecmp(bearer, "Bearer ", 7) != 0)
		return key;
	bearer += 7;
	bearer += strspn(bearer, " ");
	return !key || strcmp(key, bearer) == 0 ? nonempty(bearer) : NULL;
}

/* Returns Authorization: Bearer if there is no X-API-Key: this is how other kernels authenticate. */
static const char *find_bearer(const struct variable *found)
{
	const char *value = found[AUTHORIZATION].value;
	bool key = found[KEY].twice || nonempty(found[KEY].value);
	if (!value || found[AUTHORIZATION].twice || key || strncasecmp(value, "Bearer ", 7) != 0)
		return NULL;
	value += 7;
	return nonempty(value + strspn(value, " "));
}

/* Stored header text must be printable ASCII; any other text becomes "", which is refused later. */
static const char *printable(const char *value)
{
	for (const char *c = value; c && *c; c++)
		if (*c < 0x20 || *c > 0x7e)
			return "";
	return value;
}

static int hex_digit(char c)
{
	static const char digits[] = "0123456789abcdef";
	const char *at = c ? strchr(digits, tolower((unsigned char)c)) : NULL;
	return at ? (int)(at - digits) : -1;
}

/* Decodes %XX into out. False: a broken escape, a control character, or a byte outside ASCII. plus: '+' means ' '. */
static bool decode(const char *text, size_t len, bool plus, char *out, size_t size)
{
	size_t used = 0;
	for (size_t i = 0; i < len; i++) {
		int c = (unsigned char)text[i];
		if (c == '%') {
			bool whole = len - i >= 3;
			int high = whole ? hex_digit(text[i + 1]) : -1;
			int low = whole ? hex_digit(text[i + 2]) : -1;
			if (high < 0 || low < 0)
				return false;
			c = high * 16 + low;
			i += 2;
		} else if (c == '+' && plus) {
			c = ' ';
		}
		if (c < 0x20 || c > 0x7e || used + 1 >= size)
			return false;
		out[used++] = (char)c;
	}
	out[used] = '\0';
	return true;
}

/* True unless a segment is "." or "..", or one before the last is empty. */
static bool plain_segments(const char *path)
{
	for (const char *segment = path + 1;; segment++) {
		size_t len = strcspn(segment, "/");
		bool dots = len > 0 && len <= 2 && strspn(segment, ".") >= len;
		if (dots || (len == 0 && segment[len] == '/'))
			return false;
		segment += len;
		if (!*segment)
			return true;
	}
}

/* Reads the path of REQUEST_URI, the one variable that all web servers set alike. A path that two parsers could read
 * differently is refused (""): one with dot segments, empty segments, encoded slashes, or control or non-ASCII
 * bytes. */
static void read_path(struct acp_http *http, const char *uri, const char *url_prefix)
{
	http->path[0] = '\0';
	http->query = "";
	if (!uri)
		return;
	/* Apache keeps the absolute form of a request line. */
	size_t scheme = strncasecmp(uri, "http://", 7) == 0 ? 7 : strncasecmp(uri, "https://", 8) == 0 ? 8 : 0;
	if (scheme)
		uri += scheme + strcspn(uri + scheme, "/?#");
	if (*uri != '/')
		return;
	size_t len = strcspn(uri, "?");
	if (uri[len] == '?')
		http->query = uri + len + 1;
	size_t prefix_len = strlen(url_prefix);
	if (len > ACP_PATH_MAX || len < prefix_len || strncmp(uri, url_prefix, prefix_len) != 0)
		return;
	uri += prefix_len;
	len -= prefix_len;
	for (size_t i = 0; i + 2 < len; i++)
		if (strncasecmp(uri + i, "%2f", 3) == 0)
			return;
	if (!decode(uri, len, false, http->path, sizeof http->path) || http->path[0] != '/' ||
	    !plain_segments(http->path))
		http->path[0] = '\0';
}

/* Methods are upper-case words; any other method is unknown and never echoed. */
static void read_method(struct acp_http *http, const char *method)
{
	size_t len = method ? strspn(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") : 0;
	bool plain = len > 0 && len < sizeof http->method && method[len] == '\0';
	acp_copy(http->method, sizeof http->method, plain ? method : "UNKNOWN");
}

void acp_http_read(struct acp_http *http, char **variables, const struct acp_config *config)
{
	struct variable found[VARIABLES] = {
		[METHOD] = NAMED("REQUEST_METHOD"),
		[URI] = NAMED("REQUEST_URI"),
		[TYPE] = NAMED("CONTENT_TYPE"),
		[ENCODING] = NAMED("HTTP_CONTENT_ENCODING"),
		[ADDRESS] = NAMED("REMOTE_ADDR"),
		[KEY] = NAMED("HTTP_X_API_KEY"),
		[AUTHORIZATION] = NAMED("HTTP_AUTHORIZATION"),
		[IDEMPOTENCY] = NAMED("HTTP_IDEMPOTENCY_KEY"),
		[ACCEPT] = NAMED("HTTP_ACCEPT"),
		[TRACE] = NAMED("HTTP_TRACEPARENT"),
		[FORWARDED] = NAMED("HTTP_X_FORWARDED_FOR"),
		[FORWARDED_RFC] = NAMED("HTTP_FORWARDED"),
		[STRIPE] = NAMED("HTTP_STRIPE_SIGNATURE"),
	};
	collect(found, variables);
	acp_uuid(http->request_id);
	read_method(http, found[METHOD].value);
	read_path(http, found[URI].value, config->url_prefix);
	acp_client_address(config->trusted_proxies, found[ADDRESS].value,
			   found[FORWARDED].twice ? NULL : found[FORWARDED].value, http->address);
	http->bearer = find_bearer(found);
	http->forwarded = found[FORWARDED].value || found[FORWARDED_RFC].value;
	http->wants_problem = found[ACCEPT].value && strstr(found[ACCEPT].value, "application/problem+json");
	http->wants_html = found[ACCEPT].value && strstr(found[ACCEPT].value, "text/html");
	http->stripe_signature = found[STRIPE].twice ? NULL : found[STRIPE].value;
	http->request = (struct acp_request){
		.request_id = http->request_id,
		.method = http->method,
		.content_type = found[TYPE].value,
		.content_encoding = found[ENCODING].value,
		.credential = find_credential(found),
		.idempotency_key = found[IDEMPOTENCY].twice ? "" : printable(found[IDEMPOTENCY].value),
		.ip_address = *http->address ? http->address : NULL,
		.traceparent = found[TRACE].value,
	};
}

/* RFC 9457: keeps the members of the error reply, and adds the standard ones derived from them. */
static bool add_problem_members(struct json_object *body, const struct acp_reply *reply)
{
	char type[96];
	snprintf(type, sizeof type, "urn:acp-fcgi:error:%s", acp_code_name(reply->code));
	return acp_json_add_string(body, "type", type) &&
	       acp_json_add_string(body, "title", acp_code_sentence(reply->code)) &&
	       acp_json_add(body, "status", json_object_new_int(reply->http)) &&
	       acp_json_add_string(body, "detail", acp_json_string(body, "error"));
}

/* Writes the body as text. False: out of memory. */
static bool write_body(const struct acp_http *http, struct acp_reply *reply, struct acp_buf *out)
{
	bool problem = reply->http >= 400 && http->wants_problem;
	if (!reply->body || (problem && !add_problem_members(reply->body, reply)))
		return false;
	if (reply->written && out == http->request.out)
		return true;
	acp_buf_clear(out);
	acp_json_write(reply->body, out);
	return acp_buf_ok(out);
}

/* Uses memory that every exchange reserves at its start. The request may have been executed before memory ran out: the
 * router writes its replies before it commits, but other endpoints cannot. */
static void write_no_memory(const struct acp_http *http, struct acp_buf *out)
{
	acp_buf_clear(out);
	acp_buf_puts(out, "{\"ok\":false,\"request_id\":\"");
	acp_buf_puts(out, http->request_id);
	acp_buf_puts(out, "\",\"error\":\"out of memory; the request may have been done\","
			  "\"code\":\"INTERNAL_ERROR\"}");
}

void acp_http_reply(const struct acp_http *http, struct acp_reply *reply, struct acp_response *response)
{
	bool whole = write_body(http, reply, &response->body);
	bool problem = whole && reply->http >= 400 && http->wants_problem;
	if (!whole)
		write_no_memory(http, &response->body);
	response->status = whole ? reply->http : 500;
	response->content_type = problem ? "application/problem+json" : "application/json";
	response->allow = reply->allow;
	response->retry_after = reply->retry_after;
	response->replayed = reply->replayed;
	memcpy(response->idempotency_key, reply->idempotency_key, sizeof response->idempotency_key);
	response->rate = reply->rate;
	response->outcome = whole ? reply->code : ACP_INTERNAL_ERROR;
	response->code = acp_code_name(response->outcome);
	response->action = reply->action;
	memcpy(response->tenant_id, reply->tenant_id, sizeof response->tenant_id);
	memcpy(response->key_shown, reply->key_shown, sizeof response->key_shown);
	json_object_put(reply->body);
	reply->body = NULL;
}

void acp_http_error(const struct acp_http *http, enum acp_code code, const char *error, struct acp_response *response)
{
	struct acp_reply reply = {.code = code, .http = acp_code_http(code)};
	reply.body = acp_error_body(code, http->request_id, error, "");
	reply.allow = response->allow;
	reply.retry_after = acp_code_retry_after(code);
	acp_http_reply(http, &reply, response);
}

void acp_http_nothing(const struct acp_http *http, const struct acp_config *config, const char *error,
		      struct acp_response *response)
{
	char text[1024];
	const char *mark = strchr(error, '%');
	size_t before = mark ? (size_t)(mark - error) : strlen(error);
	snprintf(text, sizeof text, "%.*s%.500s%s", (int)before, error, mark ? config->url_prefix : "",
		 mark ? mark + 1 : "");
	acp_http_error(http, ACP_NOT_FOUND, text, response);
}

bool acp_http_require_get(const struct acp_http *http, struct acp_response *response)
{
	char error[64];
	if (strcmp(http->method, "GET") == 0 || strcmp(http->method, "HEAD") == 0)
		return true;
	response->allow = "GET, HEAD";
	snprintf(error, sizeof error, "use GET here, not %s", http->method);
	acp_http_error(http, ACP_METHOD_NOT_ALLOWED, error, response);
	return false;
}

bool acp_http_query(const struct acp_http *http, const char *name, char *out, size_t size)
{
	size_t name_len = strlen(name);
	const char *value = NULL;
	size_t value_len = 0;
	for (const char *at = http->query; *at;) {
		size_t len = strcspn(at, "&");
		if (len > name_len && at[name_len] == '=' && strncmp(at, name, name_len) == 0) {
			if (value)
				return false;
			value = at + name_len + 1;
			value_len = len - name_len - 1;
		}
		at += len + (at[len] == '&');
	}
	return value && decode(value, value_len, true, out, size);
}

bool acp_http_query_has(const struct acp_http *http, const char *name)
{
	size_t len = strlen(name);
	for (const char *at = http->query; *at; at += strcspn(at, "&"), at += *at == '&')
		if (strncmp(at, name, len) == 0 && (at[len] == '=' || at[len] == '&' || !at[len]))
			return true;
	return false;
}

const char *acp_http_reason(int status)
{
	static const struct {
		int status;
		const char *reason;
	} reasons[] = {
		{200, "OK"},
		{201, "Created"},
		{202, "Accepted"},
		{303, "See Other"},
		{400, "Bad Request"},
		{401, "Unauthorized"},
		{402, "Payment Required"},
		{403, "Forbidden"},
		{404, "Not Found"},
		{405, "Method Not Allowed"},
		{409, "Conflict"},
		{413, "Content Too Large"},
		{415, "Unsupported Media Type"},
		{422, "Unprocessable Content"},
		{429, "Too Many Requests"},
		{500, "Internal Server Error"},
		{502, "Bad Gateway"},
		{503, "Service Unavailable"},
	};
	for (size_t i = 0; i < ACP_COUNT(reasons); i++)
		if (reasons[i].status == status)
			return reasons[i].reason;
	return "Unknown";
}
