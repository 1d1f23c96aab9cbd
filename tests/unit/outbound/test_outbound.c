#include "../tmain.h"
#include "clock.h"
#include "outbound.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

/* Older versions open a new connection for each request (outbound.c). */
#define KEEPS (LIBCURL_VERSION_NUM >= 0x075000)

/* A single-threaded server: one connection at a time, one request at a time ---------------------------------------- */

enum behaviour {
	SAY_OK,         /* 200, keeps the connection */
	SAY_REDIRECT,   /* 302 to itself */
	SAY_LONG,       /* 200, 5000 bytes, with Content-Length */
	SAY_LONG_PLAIN, /* 200, 5000 bytes without Content-Length, until the connection is closed */
	SAY_NOTHING,    /* reads, then closes */
	SAY_ONCE,       /* 200 to the first request of a connection; reads the second, then closes */
	SAY_LATE,       /* reads, then waits for the client to close */
	SAY_HALF,       /* a reply that ends early */
};

static struct {
	int listener;
	int port;
	_Atomic enum behaviour behaviour;
	pthread_t thread;
	char request[16384]; /* the last one */
	_Atomic int connections, requests;
} server;

/* Reads one request with a body as long as its Content-Length. False: the client closed the connection. */
static bool read_request(int fd)
{
	size_t len = 0;
	for (;;) {
		ssize_t got = read(fd, server.request + len, sizeof server.request - 1 - len);
		if (got <= 0)
			return false;
		len += (size_t)got;
		server.request[len] = '\0';
		const char *end = strstr(server.request, "\r\n\r\n");
		const char *length = strstr(server.request, "Content-Length: ");
		size_t body = length && length < end ? strtoul(length + 16, NULL, 10) : 0;
		if (end && len >= (size_t)(end + 4 - server.request) + body)
			return true;
	}
}

static bool say(int fd, const char *text)
{
	return write(fd, text, strlen(text)) == (ssize_t)strlen(text);
}

/* False: the connection is finished. */
static bool answer(int fd, int nth)
{
	char blanks[5001];
	char byte;
	memset(blanks, ' ', 5000);
	blanks[5000] = '\0';
	enum behaviour behaviour = server.behaviour;
	switch (behaviour) {
	case SAY_ONCE:
		if (nth > 0)
			return false;
		/* fall through */
	case SAY_OK: return say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{\"a\":1}");
	case SAY_REDIRECT: return say(fd, "HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n");
	case SAY_LONG: return say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n") && say(fd, blanks);
	case SAY_LONG_PLAIN:
		say(fd, "HTTP/1.1 200 OK\r\n\r\n");
		say(fd, blanks);
		return false;
	case SAY_HALF: say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"); return false;
	case SAY_LATE: (void)!read(fd, &byte, 1); return false;
	case SAY_NOTHING: break;
	}
	return false;
}

static void *serve(void *arg)
{
	int fd;
	(void)arg;
	while ((fd = accept(server.listener, NULL, NULL)) >= 0) {
		server.connections++;
		for (int nth = 0; read_request(fd); nth++) {
			server.requests++;
			if (!answer(fd, nth))
				break;
		}
		close(fd);
	}
	return NULL;
}

static void start(enum behaviour behaviour)
{
	struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof here;
	signal(SIGPIPE, SIG_IGN);
	server.behaviour = behaviour;
	server.connections = server.requests = 0;
	server.listener = socket(AF_INET, SOCK_STREAM, 0);
	CU_ASSERT_FATAL(bind(server.listener, (struct sockaddr *)&here, sizeof here) == 0);
	CU_ASSERT_FATAL(listen(server.listener, 8) == 0);
	getsockname(server.listener, (struct sockaddr *)&here, &len);
	server.port = ntohs(here.sin_port);
	CU_ASSERT_FATAL(pthread_create(&server.thread, NULL, serve, NULL) == 0);
}

static void stop(void)
{
	shutdown(server.listener, SHUT_RDWR);
	pthread_join(server.thread, NULL);
	close(server.listener);
}

/* Returns a request that may reach the server. Each test changes the relevant parts. */
static struct acp_outbound_request to_server(void)
{
	static char url[64];
	static const struct acp_header headers[] = {{"Content-Type", "application/json"}, {"X-Empty", ""}};
	snprintf(url, sizeof url, "http://127.0.0.1:%d/path?q=hidden", server.port);
	return (struct acp_outbound_request){.method = "POST",
					     .url = url,
					     .headers = headers,
					     .header_count = 2,
					     .body = "{}",
					     .body_len = 2,
					     .connect_timeout_ms = 2000,
					     .timeout_ms = 3000,
					     .max_reply = 4096,
					     .allow_private = true,
					     .allow_http = true};
}

/* Sends in a separate thread, because its kept connections are closed when the thread ends. Otherwise a server that
 * waits for the next request would never end. */
struct job {
	const struct acp_outbound_request *request;
	struct acp_outbound_reply *reply;
	enum acp_outbound_result result;
};

static void *run_job(void *arg)
{
	struct job *job = arg;
	job->result = acp_outbound_send(job->request, job->reply);
	return NULL;
}

static enum acp_outbound_result ask(const struct acp_outbound_request *request, struct acp_outbound_reply *reply)
{
	struct job job = {request, reply, ACP_OUTBOUND_FAILED};
	pthread_t thread;
	CU_ASSERT_FATAL(pthread_create(&thread, NULL, run_job, &job) == 0);
	pthread_join(thread, NULL);
	return job.result;
}

/* Returns the result of the request. Its error must contain this text, and no part of the query. */
static enum acp_outbound_result ask_expecting(const struct acp_outbound_request *request, const char *error)
{
	struct acp_outbound_reply reply;
	enum acp_outbound_result result = ask(request, &reply);
	CU_ASSERT_PTR_NOT_NULL(strstr(reply.error, error));
	CU_ASSERT_PTR_NULL(strstr(reply.error, "hidden"));
	acp_buf_release(&reply.body);
	return result;
}

/* Addresses ---------------------------------------------------------------------------------------------------- */

static void expect_public(bool wanted, const char *const *addresses, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		uint8_t bytes[16];
		int family = strchr(addresses[i], ':') ? AF_INET6 : AF_INET;
		CU_ASSERT_FATAL(inet_pton(family, addresses[i], bytes) == 1);
		CU_assertImplementation(acp_outbound_public(family, bytes) == wanted, __LINE__, addresses[i], __FILE__,
					"", CU_FALSE);
	}
}

static void test_private_addresses(void)
{
	static const char *const v4[] = {
		"0.0.0.0",         "0.255.255.255",   "10.0.0.0",        "10.255.255.255", "100.64.0.0",
		"100.127.255.255", "127.0.0.1",       "127.255.255.255", "169.254.0.0",    "169.254.169.254",
		"172.16.0.0",      "172.31.255.255",  "192.0.0.0",       "192.0.0.255",    "192.0.2.1",
		"192.168.0.0",     "192.168.255.255", "198.18.0.0",      "198.19.255.255", "198.51.100.7",
		"203.0.113.200",   "224.0.0.1",       "239.255.255.255", "240.0.0.1",      "255.255.255.255",
	};
	static const char *const v6[] = {
		"::",
		"::1",
		"::7f00:1",
		"::8.8.8.8",
		"fc00::",
		"fdff:ffff::1",
		"fe80::1",
		"febf::1",
		"fec0::1",
		"ff00::",
		"ff02::1",
		"100::1",
		"5f00::1",
		"64:ff9b:1::808:808",
		"2001::1",
		"2001:0:808:808::1",
		"2001:1ff::1",
		"2001:db8::1",
		"2001:db8:ffff::",
		"3fff::1",
		"3fff:fff::1",
		"4000::1",
		"::ffff:0.0.0.0",
		"::ffff:10.1.2.3",
		"::ffff:127.0.0.1",
		"::ffff:169.254.169.254",
		"::ffff:192.168.1.1",
		"::ffff:224.0.0.1",
		"64:ff9b::10.0.0.1",
		"64:ff9b::127.0.0.1",
		"64:ff9b::169.254.169.254",
		"2002:0a00:0001::1",
		"2002:7f00:0001::",
		"2002:a9fe:a9fe::1",
		"2002:c0a8:0101::1",
		"2002:ac10:0001::1",
	};
	expect_public(false, v4, ACP_COUNT(v4));
	expect_public(false, v6, ACP_COUNT(v6));
}

static void test_public_addresses(void)
{
	static const char *const v4[] = {
		"1.0.0.0",         "8.8.8.8",     "9.255.255.255",   "11.0.0.0",    "100.63.255.255", "100.128.0.0",
		"126.255.255.255", "128.0.0.0",   "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0",
		"192.0.1.0",       "192.0.3.0",   "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0",
		"203.0.112.255",   "203.0.114.0", "223.255.255.255",
	};
	static const char *const v6[] = {
		"2000::1",           "2001:200::1", "2001:4860:4860::8888", "2001:db7::1",    "2001:db9::1",
		"2606:4700::1111",   "3ffe::1",     "3fff:1000::1",         "::ffff:8.8.8.8", "64:ff9b::8.8.8.8",
		"2002:0808:0808::1",
	};
	expect_public(true, v4, ACP_COUNT(v4));
	expect_public(true, v6, ACP_COUNT(v6));
	CU_ASSERT_FALSE(acp_outbound_public(AF_UNIX, "0123456789abcdef"));
}

static void test_private_is_refused(void)
{
	start(SAY_OK);
	for (int kept = 0; kept < 2; kept++) {
		struct acp_outbound_request request = to_server();
		request.allow_private = false;
		request.keep_alive = kept;
		CU_ASSERT_EQUAL(ask_expecting(&request, "127.0.0.1"), ACP_OUTBOUND_REFUSED);
		char url[64];
		snprintf(url, sizeof url, "http://localhost:%d/", server.port);
		request.url = url; /* a name that resolves to this address */
		CU_ASSERT_EQUAL(ask_expecting(&request, "not on the public internet"), ACP_OUTBOUND_REFUSED);
	}
	stop();
	CU_ASSERT_EQUAL(server.connections, 0);
}

/* An allowed request must not leave a connection open for a forbidden one. */
static void test_kept_connection_is_checked(void)
{
	start(SAY_OK);
	struct acp_outbound_reply reply;
	struct acp_outbound_request request = to_server();
	request.keep_alive = true;
	CU_ASSERT_EQUAL(acp_outbound_send(&request, &reply), ACP_OUTBOUND_REPLIED);
	acp_buf_release(&reply.body);
	request.allow_private = false;
	CU_ASSERT_EQUAL(acp_outbound_send(&request, &reply), ACP_OUTBOUND_REFUSED);
	acp_buf_release(&reply.body);
	CU_ASSERT_EQUAL(server.requests, 1);
	/* Closes the connection that this thread keeps. */
	server.behaviour = SAY_NOTHING;
	request.allow_private = true;
	CU_ASSERT_EQUAL(acp_outbound_send(&request, &reply), ACP_OUTBOUND_UNKNOWN);
	acp_buf_release(&reply.body);
	stop();
}

/* Refused requests ------------------------------------------------------------------------------------------------ */

static void test_urls(void)
{
	char why[128];
	static const char *const bad[] = {
		"",
		"example.com",
		"ftp://example.com/",
		"file:///etc/passwd",
		"gopher://example.com",
		"https://",
		"https://?x",
		"https://user@example.com/",
		"https://user:secret@example.com/",
		"https://:secret@example.com/",
		"https://example.com/a b",
		"https://example.com/\r\nX: y",
		"https://example.com/#part",
		"http://example.com/",
		"https://example.com:99999/",
		"javascript:alert(1)",
	};
	for (size_t i = 0; i < ACP_COUNT(bad); i++) {
		*why = '\0';
		CU_assertImplementation(!acp_outbound_url_ok(bad[i], false, why, sizeof why) && *why, __LINE__, bad[i],
					__FILE__, "", CU_FALSE);
	}
	CU_ASSERT_TRUE(acp_outbound_url_ok("https://example.com", false, why, sizeof why));
	CU_ASSERT_TRUE(acp_outbound_url_ok("https://example.com:8443/a?b=c", false, why, sizeof why));
	CU_ASSERT_TRUE(acp_outbound_url_ok("https://[2606:4700::1]/", false, why, sizeof why));
	CU_ASSERT_TRUE(acp_outbound_url_ok("http://example.com/", true, why, sizeof why));
	CU_ASSERT_FALSE(acp_outbound_url_ok("ftp://example.com/", true, why, sizeof why));
}

static void test_http_is_refused(void)
{
	start(SAY_OK);
	struct acp_outbound_request request = to_server();
	request.allow_http = false;
	CU_ASSERT_EQUAL(ask_expecting(&request, "https://"), ACP_OUTBOUND_REFUSED);
	request = to_server();
	request.method = "POST / HTTP/1.1\r\nX: y\r\n\r\nGET";
	CU_ASSERT_EQUAL(ask_expecting(&request, "method"), ACP_OUTBOUND_REFUSED);
	stop();
	CU_ASSERT_EQUAL(server.connections, 0);
}

static void test_header_injection(void)
{
	static const struct acp_header bad[] = {
		{"X-A", "1\r\nX-B: 2"}, {"X-A", "1\nX-B: 2"}, {"X-A", "1\rX"}, {"X-A", "\x01"}, {"X-A", "\x7f"},
		{"X-A\r\nX-B", "2"},    {"X A", "1"},         {"", "1"},       {"X-A:", "1"},   {"X\xc3\xa4", "1"},
	};
	start(SAY_OK);
	for (size_t i = 0; i < ACP_COUNT(bad); i++) {
		struct acp_outbound_request request = to_server();
		request.headers = &bad[i];
		request.header_count = 1;
		CU_ASSERT_EQUAL(ask_expecting(&request, "header 1"), ACP_OUTBOUND_REFUSED);
	}
	stop();
	CU_ASSERT_EQUAL(server.connections, 0);
	CU_ASSERT_TRUE(acp_outbound_header_ok("X-A", "a\tb \xc3\xa4"));
}

static void test_no_connection(void)
{
	start(SAY_OK);
	struct acp_outbound_request request = to_server();
	stop(); /* now nothing listens on this port */
	CU_ASSERT_EQUAL(ask_expecting(&request, "connect"), ACP_OUTBOUND_FAILED);
	request.url = "http://nothing.invalid/";
	CU_ASSERT_EQUAL(ask_expecting(&request, "resolve"), ACP_OUTBOUND_FAILED);
}

/* A proxy from the environment would see everything, and would resolve names without our checks. */
static void test_no_proxy(void)
{
	start(SAY_OK);
	struct acp_outbound_reply reply;
	struct acp_outbound_request request = to_server();
	setenv("http_proxy", "http://127.0.0.1:1", 1);
	setenv("all_proxy", "http://127.0.0.1:1", 1);
	CU_ASSERT_EQUAL(ask(&request, &reply), ACP_OUTBOUND_REPLIED);
	acp_buf_release(&reply.body);
	unsetenv("http_proxy");
	unsetenv("all_proxy");
	stop();
}

/* Replies --------------------------------------------------------------------------------------------------------- */

static void test_reply(void)
{
	start(SAY_OK);
	struct acp_outbound_reply reply;
	struct acp_outbound_request request = to_server();
	CU_ASSERT_EQUAL(ask(&request, &reply), ACP_OUTBOUND_REPLIED);
	CU_ASSERT_EQUAL(reply.status, 200);
	CU_ASSERT_STRING_EQUAL(reply.body.ptr, "{\"a\":1}");
	CU_ASSERT_STRING_EQUAL(reply.error, "");
	acp_buf_release(&reply.body);
	stop();
	CU_ASSERT_EQUAL(strncmp(server.request, "POST /path?q=hidden HTTP/1.1\r\n", 29), 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(server.request, "\r\nContent-Type: application/json\r\n"));
	CU_ASSERT_PTR_NOT_NULL(strstr(server.request, "\r\nX-Empty:\r\n"));
	CU_ASSERT_PTR_NOT_NULL(strstr(server.request, "\r\n\r\n{}"));
	CU_ASSERT_PTR_NULL(strstr(server.request, "Expect:"));
	CU_ASSERT_PTR_NULL(strstr(server.request, "Accept-Encoding:"));
}

static void test_methods(void)
{
	static const char *const methods[] = {"GET", "PUT", "PATCH", "DELETE", "POST"};
	for (size_t i = 0; i < ACP_COUNT(methods); i++) {
		start(SAY_OK);
		struct acp_outbound_reply reply;
		struct acp_outbound_request request = to_server();
		request.method = methods[i];
		request.headers = NULL;
		request.header_count = 0;
		request.body = i % 2 ? "{}" : NULL;
		CU_ASSERT_EQUAL(ask(&request, &reply), ACP_OUTBOUND_REPLIED);
		acp_buf_release(&reply.body);
		stop();
		CU_ASSERT_EQUAL(strncmp(server.request, methods[i], strlen(methods[i])), 0);
		CU_ASSERT_EQUAL(strstr(server.request, "\r\n\r\n{}") != NULL, i % 2 == 1);
		CU_ASSERT_PTR_NULL(strstr(server.request, "Content-Type:"));
	}
}

static void test_redirect_is_not_followed(void)
{
	start(SAY_REDIRECT);
	struct acp_outbound_reply reply;
	struct acp_outbound_request request = to_server();
	CU_ASSERT_EQUAL(ask(&request, &reply), ACP_OUTBOUND_REPLIED);
	CU_ASSERT_EQUAL(reply.status, 302);
	acp_buf_release(&reply.body);
	stop();
	CU_ASSERT_EQUAL(server.requests, 1);
}

static void test_long_reply(void)
{
	for (enum behaviour how = SAY_LONG; how <= SAY_LONG_PLAIN; how++) {
		start(how);
		struct acp_outbound_reply reply;
		struct acp_outbound_request request = to_server();
		CU_ASSERT_EQUAL(ask_expecting(&request, "longer than 4096 bytes"), ACP_OUTBOUND_UNKNOWN);
		request.max_reply = 5000; /* exactly enough */
		CU_ASSERT_EQUAL(ask(&request, &reply), ACP_OUTBOUND_REPLIED);
		CU_ASSERT_EQUAL(reply.body.len, 5000);
		acp_buf_release(&reply.body);
		stop();
	}
}

static void test_late_reply(void)
{
	start(SAY_LATE);
	struct acp_outbound_request request = to_server();
	request.timeout_ms = 300;
	uint64_t begin = acp_monotonic_us();
	CU_ASSERT_EQUAL(ask_expecting(&request, "timed out"), ACP_OUTBOUND_UNKNOWN);
	uint64_t took = acp_monotonic_us() - begin;
	CU_ASSERT_TRUE(took >= 250000 && took < 2000000);
	stop();
	CU_ASSERT_EQUAL(server.requests, 1);
}

/* Sent without a reply: the effect is unknown. */
static void test_unknown_outcome(void)
{
	static const enum behaviour how[] = {SAY_NOTHING, SAY_HALF};
	for (size_t i = 0; i < ACP_COUNT(how); i++) {
		start(how[i]);
		struct acp_outbound_request request = to_server();
		CU_ASSERT_EQUAL(ask_expecting(&request, ""), ACP_OUTBOUND_UNKNOWN);
		stop();
		CU_ASSERT_EQUAL(server.requests, 1);
	}
}

/* Connections ------------------------------------------------------------------------------------------------------ */

static void send_three(bool keep_alive, enum acp_outbound_result last)
{
	struct acp_outbound_request request = to_server();
	request.keep_alive = keep_alive;
	for (int i = 0; i < 3; i++) {
		struct acp_outbound_reply reply;
		if (i == 2 && last == ACP_OUTBOUND_UNKNOWN)
			server.behaviour = SAY_NOTHING;
		CU_ASSERT_EQUAL(acp_outbound_send(&request, &reply), i < 2 ? ACP_OUTBOUND_REPLIED : last);
		acp_buf_release(&reply.body);
	}
}

static void test_fresh_connections(void)
{
	start(SAY_OK);
	send_three(false, ACP_OUTBOUND_REPLIED);
	stop();
	CU_ASSERT_EQUAL(server.connections, 3);
	CU_ASSERT_EQUAL(server.requests, 3);
}

/* One connection serves all requests. If it breaks after the request was read, the request is not repeated: libcurl
 * opens another connection, but it stays unused. */
static void test_kept_connection(void)
{
	start(SAY_OK);
	send_three(true, ACP_OUTBOUND_REPLIED);
	CU_ASSERT_EQUAL(server.connections, KEEPS ? 1 : 3);
	send_three(true, ACP_OUTBOUND_UNKNOWN);
	stop();
	CU_ASSERT(server.connections <= (KEEPS ? 2 : 6)); /* the server may stop before it accepts the unused one */
	CU_ASSERT_EQUAL(server.requests, 6);
}

static void test_get_is_repeated(void)
{
	start(SAY_ONCE);
	struct acp_outbound_request request = to_server();
	request.method = "GET";
	request.body = NULL;
	request.keep_alive = true;
	for (int i = 0; i < 2; i++) {
		struct acp_outbound_reply reply;
		CU_ASSERT_EQUAL(acp_outbound_send(&request, &reply), ACP_OUTBOUND_REPLIED);
		acp_buf_release(&reply.body);
	}
	CU_ASSERT_EQUAL(server.connections, 2);
	CU_ASSERT_EQUAL(server.requests, KEEPS ? 3 : 2);
	/* Closes the connection that this thread keeps. */
	struct acp_outbound_reply reply;
	request.method = "POST";
	CU_ASSERT_EQUAL(acp_outbound_send(&request, &reply), KEEPS ? ACP_OUTBOUND_UNKNOWN : ACP_OUTBOUND_REPLIED);
	acp_buf_release(&reply.body);
	stop();
}

static void test_retry_after(void)
{
	static const struct {
		const char *value;
		int seconds;
	} cases[] = {
		{"", 0},
		{"soon", 0},
		{"-1", 0},
		{"1.5", 0},
		{"7 s", 0},
		{"0", 1},
		{"7", 7},
		{"86400", 86400},
		{"86401", 86400},
		{"99999999999999999999999", 86400},
		{"Sun, 06 Nov 1994 08:49:37 GMT", 10},
		{"Sunday, 06-Nov-94 08:49:37 GMT", 10},
		{"Sun Nov  6 08:49:37 1994", 10},
		{"Sun, 06 Nov 1994 08:49:00 GMT", 1},
		{"Sun, 06 Nov 2094 08:49:37 GMT", 86400},
	};
	for (size_t i = 0; i < ACP_COUNT(cases); i++)
		CU_ASSERT_EQUAL(acp_outbound_retry_after(cases[i].value, 784111767), cases[i].seconds);
}

const char *const acp_suite_name = "outbound";
CU_TestInfo acp_tests[] = {
	{"private_addresses", test_private_addresses},
	{"public_addresses", test_public_addresses},
	{"private_is_refused", test_private_is_refused},
	{"kept_connection_is_checked", test_kept_connection_is_checked},
	{"urls", test_urls},
	{"http_is_refused", test_http_is_refused},
	{"header_injection", test_header_injection},
	{"no_connection", test_no_connection},
	{"no_proxy", test_no_proxy},
	{"reply", test_reply},
	{"retry_after", test_retry_after},
	{"methods", test_methods},
	{"redirect_is_not_followed", test_redirect_is_not_followed},
	{"long_reply", test_long_reply},
	{"late_reply", test_late_reply},
	{"unknown_outcome", test_unknown_outcome},
	{"fresh_connections", test_fresh_connections},
	{"kept_connection", test_kept_connection},
	{"get_is_repeated", test_get_is_repeated},
	CU_TEST_INFO_NULL,
};
