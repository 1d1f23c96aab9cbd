/* Converts CGI variables to a request, and a reply to bytes, in spite of the differences between four web servers. */
#include "../tmain.h"
#include "http.h"

static struct acp_http http;
static struct acp_response response;

static void expect_at(bool ok, unsigned line, const char *what, const char *detail)
{
	char shown[500];
	snprintf(shown, sizeof shown, "%.180s: %.300s", what, detail);
	CU_assertImplementation(ok ? CU_TRUE : CU_FALSE, line, shown, __FILE__, "", CU_FALSE);
}
#define EXPECT(condition, detail) expect_at(condition, __LINE__, #condition, detail)

static void expect_text_at(const char *got, const char *wanted, const char *of, unsigned line)
{
	char shown[400];
	snprintf(shown, sizeof shown, "%.120s gives %.120s, not %.120s", of, got ? got : "(null)",
		 wanted ? wanted : "(null)");
	expect_at(got && wanted ? strcmp(got, wanted) == 0 : got == wanted, line, "expected", shown);
}
#define EXPECT_TEXT(got, wanted, of) expect_text_at(got, wanted, of, __LINE__)

/* --- the path ------------------------------------------------------------------------------------------- */

static void read_variables(char **variables, const char *prefix)
{
	char copy[64];
	char no_proxies[] = "";
	const struct acp_config config = {.url_prefix = copy, .trusted_proxies = no_proxies};
	snprintf(copy, sizeof copy, "%s", prefix);
	acp_http_read(&http, variables, &config);
}

static void read_uri(const char *uri, const char *prefix)
{
	static char variable[8192];
	char *variables[] = {variable, NULL};
	snprintf(variable, sizeof variable, "REQUEST_URI=%s", uri);
	read_variables(variables, prefix);
}

static void path_is(const char *uri, const char *prefix, const char *path)
{
	read_uri(uri, prefix);
	EXPECT_TEXT(http.path, path, uri);
}

/* The four servers agree only on REQUEST_URI, and Apache keeps the absolute form. */
static void test_paths(void)
{
	path_is("/api/manage", "", "/api/manage");
	path_is("/api/manage?x=1", "", "/api/manage");
	EXPECT_TEXT(http.query, "x=1", "query");
	path_is("/api/manage", "", "/api/manage");
	EXPECT_TEXT(http.query, "", "no query");
	path_is("http://evil/api/manage", "", "/api/manage");
	path_is("HTTPS://evil:8443/api/manage?a://b/c", "", "/api/manage");
	EXPECT_TEXT(http.query, "a://b/c", "query");
	path_is("/api/x?u=http://h/api/manage", "", "/api/x");
	path_is("/api/onboard/lead%73coring", "", "/api/onboard/leadscoring");
	path_is("/a%20b~c", "", "/a b~c");
	path_is("/", "", "/");
	path_is("/api/manage/", "", "/api/manage/");
	path_is("/a.b/..c/.d/e..", "", "/a.b/..c/.d/e..");
}

/* Every path that two parsers could read differently. */
static void test_refused_paths(void)
{
	static const char *const uris[] = {
		"/api%2Fmanage",
		"/api%2fmanage",
		"/api/%2e%2e/manage",
		"/api/../manage",
		"/api/./manage",
		"/%2e/api/manage",
		"/api//manage",
		"//api/manage",
		"/api/manage%00",
		"/api/manage%",
		"/api/manage%2",
		"/api/manage%zz",
		"/api/man%c3%a9",
		"/api/man\xc3\xa9",
		"/api/manage%0a",
		"/api/manage%7f",
		"/api/\tmanage",
		"",
		"*",
		"api/manage",
		"http://evil",
		"?x",
		"/api/manage%%32%46",
	};
	for (size_t i = 0; i < ACP_COUNT(uris); i++)
		path_is(uris[i], "", "");
}

/* A dot segment at the end of the path counts, too. */
static void test_trailing_dot_segments(void)
{
	path_is("/api/manage/..", "", "");
	path_is("/api/manage/.", "", "");
	path_is("/..", "", "");
	path_is("/.", "", "");
	path_is("/api/onboard/%2e%2e", "", "");
}

/* The authority of an absolute form also ends at the query; a text without a scheme is not an absolute form. */
static void test_absolute_forms(void)
{
	path_is("http://evil?x=/api/manage", "", "");
	path_is("api?u=http://h/api/manage", "", "");
	path_is("*?u=http://h/api/manage", "", "");
	path_is("://h/api/manage", "", "");
}

static void test_path_length(void)
{
	char uri[ACP_PATH_MAX + 3];
	memset(uri, 'a', sizeof uri - 1);
	uri[0] = '/';
	uri[sizeof uri - 1] = '\0'; /* one byte too many */
	path_is(uri, "", "");
	uri[ACP_PATH_MAX] = '\0';
	path_is(uri, "", uri);
}

static void test_url_prefix(void)
{
	path_is("/acp/api/manage", "/acp", "/api/manage");
	path_is("http://h/acp/api/manage?q", "/acp", "/api/manage");
	path_is("/acp/", "/acp", "/");
	path_is("/acp", "/acp", "");
	path_is("/api/manage", "/acp", "");
	path_is("/acpx/api/manage", "/acp", "");
	path_is("/ACP/api/manage", "/acp", "");
	path_is("/acp%2Fapi/manage", "/acp", "");
}

static void test_no_variables(void)
{
	char *none[] = {NULL};
	read_variables(none, "");
	EXPECT_TEXT(http.path, "", "no REQUEST_URI");
	EXPECT_TEXT(http.method, "UNKNOWN", "no REQUEST_METHOD");
	EXPECT(!http.request.credential && !http.request.content_type && !http.wants_problem, "nothing");
	read_variables(NULL, "");
	EXPECT_TEXT(http.path, "", "no environment");
}

/* PATH_INFO and SCRIPT_NAME mean different things on each server, so they are ignored. */
static void test_other_variables_ignored(void)
{
	char *variables[] = {"PATH_INFO=/api/manage",
			     "SCRIPT_NAME=/api/manage",
			     "DOCUMENT_URI=/api/manage",
			     "XREQUEST_URI=/a",
			     "REQUEST_URIX=/b",
			     "REQUEST_URI=/healthz",
			     "REQUEST_UR=/c",
			     "=/d",
			     "noequals",
			     "HTTP_X_FORWARDED_FOR=9.9.9.9",
			     "REMOTE_ADDR=192.0.2.1",
			     NULL};
	read_variables(variables, "");
	EXPECT_TEXT(http.path, "/healthz", "REQUEST_URI");
	EXPECT_TEXT(http.request.ip_address, "192.0.2.1", "REMOTE_ADDR");
}

static void test_request_ids(void)
{
	char first[ACP_UUID_LEN];
	char *none[] = {NULL};
	read_variables(none, "");
	memcpy(first, http.request_id, sizeof first);
	read_variables(none, "");
	EXPECT(acp_is_uuid(first) && acp_is_uuid(http.request_id) && strcmp(first, http.request_id) != 0, first);
	EXPECT(http.request.request_id == http.request_id, "the request refers to it");
}

/* --- method, headers ------------------------------------------------------------------------------------ */

static void test_methods(void)
{
	static const struct {
		char *variable;
		const char *method;
	} rows[] = {
		{"REQUEST_METHOD=GET", "GET"},          {"REQUEST_METHOD=POST", "POST"},
		{"REQUEST_METHOD=FOO", "FOO"},          {"REQUEST_METHOD=TRACE", "TRACE"},
		{"REQUEST_METHOD=post", "UNKNOWN"},     {"REQUEST_METHOD=", "UNKNOWN"},
		{"REQUEST_METHOD=PO ST", "UNKNOWN"},    {"REQUEST_METHOD=POST\r\nX: y", "UNKNOWN"},
		{"REQUEST_METHOD=M-SEARCH", "UNKNOWN"}, {"REQUEST_METHOD=ABCDEFGHIJKLMNOPQRSTUVWXYZ", "UNKNOWN"},
	};
	for (size_t i = 0; i < ACP_COUNT(rows); i++) {
		char *variables[] = {rows[i].variable, NULL};
		read_variables(variables, "");
		EXPECT_TEXT(http.method, rows[i].method, rows[i].variable);
		EXPECT(http.request.method == http.method, "the request refers to it");
	}
}

static void credential_is(const char *wanted, char *first, char *second, char *third)
{
	char *variables[] = {first, second, third, NULL};
	read_variables(variables, "");
	EXPECT_TEXT(http.request.credential, wanted, first);
}

static void test_credentials(void)
{
	credential_is("k1", "HTTP_X_API_KEY=k1", NULL, NULL);
	credential_is("k1", "HTTP_AUTHORIZATION=Bearer k1", NULL, NULL);
	credential_is("k1", "HTTP_AUTHORIZATION=bEARER   k1", NULL, NULL);
	credential_is("k1", "HTTP_X_API_KEY=k1", "HTTP_AUTHORIZATION=Bearer k1", NULL);
	credential_is("k1", "HTTP_X_API_KEY=k1", "HTTP_AUTHORIZATION=Basic dXNlcg==", NULL); /* for the web server */
	credential_is("k1", "HTTP_X_API_KEY=", "HTTP_AUTHORIZATION=Bearer k1", NULL);
	credential_is(NULL, "HTTP_AUTHORIZATION=Basic dXNlcg==", NULL, NULL);
	credential_is(NULL, "HTTP_AUTHORIZATION=Bearer", NULL, NULL);
	credential_is(NULL, "HTTP_AUTHORIZATION=Bearer ", NULL, NULL);
	credential_is(NULL, "HTTP_AUTHORIZATION=Bearerk1", NULL, NULL);
	credential_is(NULL, "HTTP_X_API_KEY=", NULL, NULL);
}

/* lighttpd passes X-API-Key and X_API_Key as two variables with the same name: two credentials count as none. */
static void test_contradictory_credentials(void)
{
	credential_is(NULL, "HTTP_X_API_KEY=k1", "HTTP_X_API_KEY=k2", NULL);
	credential_is(NULL, "HTTP_X_API_KEY=k1", "HTTP_X_API_KEY=k1", NULL);
	credential_is(NULL, "HTTP_X_API_KEY=", "HTTP_X_API_KEY=k1", NULL);
	credential_is(NULL, "HTTP_X_API_KEY=k1", "HTTP_X_API_KEY=k1", "HTTP_X_API_KEY=k1");
	credential_is(NULL, "HTTP_AUTHORIZATION=Bearer k1", "HTTP_AUTHORIZATION=Bearer k1", NULL);
	credential_is(NULL, "HTTP_X_API_KEY=k1", "HTTP_AUTHORIZATION=Bearer k2", NULL);
	credential_is(NULL, "HTTP_X_API_KEY=k1", "HTTP_AUTHORIZATION=Basic x", "HTTP_AUTHORIZATION=Bearer k1");
	/* Another kernel's token is not accepted then, either. */
	credential_is(NULL, "HTTP_X_API_KEY=k1", "HTTP_X_API_KEY=", "HTTP_AUTHORIZATION=Bearer k2");
	EXPECT(http.bearer == NULL, "bearer beside two keys");
}

/* Apache joins two Authorization headers. No part of the result is accepted as a key. */
static void test_joined_credentials(void)
{
	char *variables[] = {"HTTP_AUTHORIZATION=Bearer ock_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA2iSblX, Bearer x", NULL};
	read_variables(variables, "");
	EXPECT(!http.request.credential || !acp_key_wellformed("ock_", http.request.credential), "joined");
}

static void idempotency_key_is(const char *wanted, char *first, char *second)
{
	char *variables[] = {first, second, NULL};
	read_variables(variables, "");
	EXPECT_TEXT(http.request.idempotency_key, wanted, first);
}

/* "" is refused later as an empty key. */
static void test_idempotency_key(void)
{
	idempotency_key_is("order 7!", "HTTP_IDEMPOTENCY_KEY=order 7!", NULL);
	idempotency_key_is("", "HTTP_IDEMPOTENCY_KEY=", NULL);
	idempotency_key_is("", "HTTP_IDEMPOTENCY_KEY=a", "HTTP_IDEMPOTENCY_KEY=a");
	idempotency_key_is("", "HTTP_IDEMPOTENCY_KEY=a\x01", NULL);
	idempotency_key_is("", "HTTP_IDEMPOTENCY_KEY=a\x7f", NULL);
	idempotency_key_is("", "HTTP_IDEMPOTENCY_KEY=\xc3\xa9", NULL);
	idempotency_key_is(NULL, "REMOTE_ADDR=::1", NULL);
}

static void test_other_headers(void)
{
	char *variables[] = {"CONTENT_TYPE=application/json",
			     "HTTP_CONTENT_ENCODING=gzip",
			     "REMOTE_ADDR=::1",
			     "HTTP_TRACEPARENT=00-x",
			     "HTTP_ACCEPT=text/html, application/problem+json;q=0.9",
			     NULL};
	read_variables(variables, "");
	EXPECT_TEXT(http.request.content_type, "application/json", "CONTENT_TYPE");
	EXPECT_TEXT(http.request.content_encoding, "gzip", "HTTP_CONTENT_ENCODING");
	EXPECT_TEXT(http.request.ip_address, "::1", "REMOTE_ADDR");
	EXPECT_TEXT(http.request.traceparent, "00-x", "HTTP_TRACEPARENT");
	EXPECT(http.wants_problem, "HTTP_ACCEPT");
	variables[4] = "HTTP_ACCEPT=application/json, */*";
	read_variables(variables, "");
	EXPECT(!http.wants_problem, "HTTP_ACCEPT");
}

/* --- the query ------------------------------------------------------------------------------------------ */

static void query_is(const char *query, const char *wanted)
{
	char uri[300], out[16] = "unset";
	snprintf(uri, sizeof uri, "/x?%s", query);
	read_uri(uri, "");
	bool found = acp_http_query(&http, "period", out, sizeof out);
	EXPECT(found == (wanted != NULL), query);
	if (found && wanted)
		EXPECT_TEXT(out, wanted, query);
}

static void test_query(void)
{
	query_is("period=2026-11", "2026-11");
	query_is("a=1&period=2026-11&b=2", "2026-11");
	query_is("&&period=x&&", "x");
	query_is("period=a+b%20c%2B", "a b c+");
	query_is("period=%32026", "2026");
	query_is("period=a=b?c", "a=b?c");
	query_is("period=", "");
	query_is("period", NULL);
	query_is("", NULL);
	query_is("periods=1", NULL);
	query_is("xperiod=1&period_=2", NULL);
	query_is("Period=1", NULL);
}

static void test_query_refused(void)
{
	query_is("period=1&period=1", NULL);
	query_is("period=%", NULL);
	query_is("period=%4", NULL);
	query_is("period=%4&a=1", NULL);
	query_is("period=%00", NULL);
	query_is("period=%0a", NULL);
	query_is("period=%c3%a9", NULL);
	query_is("period=123456789012345", "123456789012345");
	query_is("period=1234567890123456", NULL);
}

/* --- the reply ------------------------------------------------------------------------------------------ */

static void begin_reply(char *accept)
{
	char *variables[] = {accept, NULL};
	read_variables(variables, "");
	response = (struct acp_response){0};
	acp_buf_init(&response.body, 1 << 20);
}

static struct json_object *body_of_response(void)
{
	struct json_object *body = NULL;
	struct acp_json_error bad;
	const struct acp_json_limits limits = {1 << 20, 32, 20000};
	EXPECT(acp_json_parse(response.body.ptr, response.body.len, &limits, &body, &bad) == ACP_JSON_OK,
	       response.body.ptr);
	return body;
}

static void test_reply(void)
{
	begin_reply("HTTP_ACCEPT=application/problem+json");
	struct acp_reply reply = {.code = ACP_OK, .http = 201, .retry_after = 3, .replayed = true, .action = "test.do"};
	snprintf(reply.tenant_id, sizeof reply.tenant_id, "tenant");
	snprintf(reply.key_shown, sizeof reply.key_shown, "shown");
	reply.body = json_tokener_parse("{\"ok\":true,\"url\":\"http://x/y\"}");
	acp_http_reply(&http, &reply, &response);
	EXPECT(response.status == 201 && response.retry_after == 3 && response.replayed, "members");
	EXPECT_TEXT(response.content_type, "application/json", "a success is not problem+json");
	EXPECT_TEXT(response.body.ptr, "{\"ok\":true,\"url\":\"http://x/y\"}", "body");
	EXPECT_TEXT(response.code, "OK", "code");
	EXPECT_TEXT(response.action, "test.do", "action");
	EXPECT(strcmp(response.tenant_id, "tenant") == 0 && strcmp(response.key_shown, "shown") == 0, "for the log");
	EXPECT(reply.body == NULL, "the body is released");
	acp_buf_release(&response.body);
}

/* If memory for the reply is missing, there is still an answer, and it is JSON. */
static void test_reply_without_body(void)
{
	static char *const accepts[] = {"HTTP_ACCEPT=*/*", "HTTP_ACCEPT=application/problem+json"};
	for (size_t i = 0; i < ACP_COUNT(accepts); i++) {
		begin_reply(accepts[i]);
		struct acp_reply reply = {
			.code = i ? ACP_VALIDATION_ERROR : ACP_OK, .http = i ? 400 : 200, .body = NULL};
		acp_http_reply(&http, &reply, &response);
		struct json_object *body = body_of_response();
		EXPECT(response.status == 500, "a reply without a body is an internal error");
		EXPECT(!acp_json_bool(body, "ok"), response.body.ptr);
		EXPECT_TEXT(acp_json_string(body, "code"), "INTERNAL_ERROR", "code");
		EXPECT_TEXT(response.code, "INTERNAL_ERROR", "the log line");
		json_object_put(body);
		acp_buf_release(&response.body);
	}
}

/* RFC 9457: our members, and the standard ones. */
static void test_problem(void)
{
	begin_reply("HTTP_ACCEPT=application/problem+json");
	acp_http_error(&http, ACP_NOT_FOUND, "no such path", &response);
	struct json_object *body = body_of_response();
	EXPECT(response.status == 404, "status");
	EXPECT_TEXT(response.content_type, "application/problem+json", "type");
	EXPECT_TEXT(acp_json_string(body, "type"), "urn:acp-fcgi:error:NOT_FOUND", "type");
	EXPECT_TEXT(acp_json_string(body, "title"), acp_code_sentence(ACP_NOT_FOUND), "title");
	EXPECT_TEXT(acp_json_string(body, "detail"), "no such path", "detail");
	EXPECT(json_object_get_int(acp_json_member(body, "status")) == 404, "status");
	EXPECT_TEXT(acp_json_string(body, "code"), "NOT_FOUND", "code");
	EXPECT_TEXT(acp_json_string(body, "error"), "no such path", "error");
	EXPECT_TEXT(acp_json_string(body, "request_id"), http.request_id, "request_id");
	EXPECT(!acp_json_bool(body, "ok"), "ok");
	json_object_put(body);
	acp_buf_release(&response.body);
}

static void test_error(void)
{
	for (int code = ACP_VALIDATION_ERROR; code < ACP_CODE_COUNT; code++) {
		begin_reply("HTTP_ACCEPT=application/json");
		acp_http_error(&http, (enum acp_code)code, "", &response);
		struct json_object *body = body_of_response();
		const char *name = acp_code_name((enum acp_code)code);
		EXPECT(response.status == acp_code_http((enum acp_code)code), name);
		EXPECT_TEXT(response.content_type, "application/json", name);
		EXPECT_TEXT(acp_json_string(body, "code"), name, name);
		EXPECT_TEXT(acp_json_string(body, "error"), acp_code_sentence((enum acp_code)code), name);
		EXPECT((response.retry_after > 0) == (response.status == 503 || response.status == 429), name);
		EXPECT(strcmp(acp_http_reason(response.status), "Unknown") != 0, name);
		EXPECT(json_object_object_length(body) == (code == ACP_VALIDATION_ERROR ? 5 : 4), name);
		json_object_put(body);
		acp_buf_release(&response.body);
	}
}

static void test_require_get(void)
{
	static char *const methods[] = {"REQUEST_METHOD=GET", "REQUEST_METHOD=HEAD", "REQUEST_METHOD=POST",
					"REQUEST_METHOD=DELETE", "REQUEST_METHOD=get"};
	for (size_t i = 0; i < ACP_COUNT(methods); i++) {
		begin_reply(methods[i]);
		bool good = acp_http_require_get(&http, &response);
		EXPECT(good == (i < 2), methods[i]);
		EXPECT(good == (response.status == 0), methods[i]);
		EXPECT(good || (response.status == 405 && strcmp(response.allow, "GET, HEAD") == 0), methods[i]);
		acp_buf_release(&response.body);
	}
}

static void test_reasons(void)
{
	EXPECT_TEXT(acp_http_reason(402), "Payment Required", "402");
	EXPECT_TEXT(acp_http_reason(201), "Created", "201");
	for (int code = 0; code < ACP_CODE_COUNT; code++)
		EXPECT(strcmp(acp_http_reason(acp_code_http((enum acp_code)code)), "Unknown") != 0,
		       acp_code_name((enum acp_code)code));
}

const char *const acp_suite_name = "http";

CU_TestInfo acp_tests[] = {
	{"paths", test_paths},
	{"refused_paths", test_refused_paths},
	{"trailing_dot_segments", test_trailing_dot_segments},
	{"absolute_forms", test_absolute_forms},
	{"path_length", test_path_length},
	{"url_prefix", test_url_prefix},
	{"no_variables", test_no_variables},
	{"other_variables_ignored", test_other_variables_ignored},
	{"request_ids", test_request_ids},
	{"methods", test_methods},
	{"credentials", test_credentials},
	{"contradictory_credentials", test_contradictory_credentials},
	{"joined_credentials", test_joined_credentials},
	{"idempotency_key", test_idempotency_key},
	{"other_headers", test_other_headers},
	{"query", test_query},
	{"query_refused", test_query_refused},
	{"reply", test_reply},
	{"reply_without_body", test_reply_without_body},
	{"problem", test_problem},
	{"error", test_error},
	{"require_get", test_require_get},
	{"reasons", test_reasons},
	CU_TEST_INFO_NULL,
};
