#include "../tmain.h"
#include "webhook_sender.h"
#include "webhooks.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#define WEBHOOK "11111111-2222-4333-8444-abcdefabcdef"

/* The delivery to send, and its reported outcome. */
static struct json_object *queued;
static struct json_object *last_outcome;
static int takes;

static char pepper[] = "0123456789abcdef0123456789abcdef";
static struct acp_config config = {
	.key_pepper = pepper, .webhook_senders = 8, .webhook_share = 3, .webhook_poll_ms = 20};

/* The example published at https://www.standardwebhooks.com/ (and used by its libraries). */
static void test_published_signature(void)
{
	static const uint8_t secret[] = {0x31, 0xf2, 0x90, 0xf6, 0xbf, 0x06, 0x29, 0x8a, 0xab, 0x4f, 0x08, 0xd4,
					 0x3c, 0x3f, 0x08, 0x2c, 0xf6, 0x48, 0xa3, 0x62, 0xda, 0x2d, 0xa4, 0xb0};
	char text[ACP_BASE64_SIZE(sizeof secret)], signature[ACP_WEBHOOK_SIGNATURE];
	acp_base64(secret, sizeof secret, text);
	CU_ASSERT_STRING_EQUAL(text, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"); /* after whsec_ */
	acp_webhook_sign(secret, sizeof secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, "{\"test\": 2432232314}",
			 signature);
	CU_ASSERT_STRING_EQUAL(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

/* RFC 4648, section 10; and decoding hex again. */
static void test_encodings(void)
{
	static const char *const base64[] = {"", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"};
	char text[16];
	uint8_t bytes[2];
	for (size_t i = 0; i < ACP_COUNT(base64); i++) {
		acp_base64((const uint8_t *)"foobar", i, text);
		CU_ASSERT_STRING_EQUAL(text, base64[i]);
		CU_ASSERT_EQUAL(strlen(text) + 1, ACP_BASE64_SIZE(i));
	}
	CU_ASSERT_TRUE(acp_unhex("0aff", bytes, 2));
	CU_ASSERT_TRUE(bytes[0] == 0x0a && bytes[1] == 0xff);
	CU_ASSERT_FALSE(acp_unhex("0af", bytes, 2));
	CU_ASSERT_FALSE(acp_unhex("0aff0", bytes, 2));
	CU_ASSERT_FALSE(acp_unhex("0afg", bytes, 2));
	CU_ASSERT_FALSE(acp_unhex("0aFF", bytes, 2));
}

static void test_secret_round_trip(void)
{
	char text[ACP_WEBHOOK_SECRET_TEXT], again[ACP_WEBHOOK_SECRET_TEXT], sealed[ACP_WEBHOOK_SEALED_HEX],
		id[ACP_UUID_LEN];
	uint8_t secret[ACP_WEBHOOK_SECRET_LEN];
	CU_ASSERT_TRUE(acp_webhook_new_secret(&config, WEBHOOK, text, sealed));
	CU_ASSERT_EQUAL(strlen(text), 6 + 44);
	CU_ASSERT_EQUAL(strncmp(text, "whsec_", 6), 0);
	CU_ASSERT_TRUE(acp_webhook_open_secret(&config, WEBHOOK, sealed, secret));
	acp_base64(secret, sizeof secret, again);
	CU_ASSERT_STRING_EQUAL(text + 6, again);
	for (size_t i = 0; i < sizeof id; i++)
		id[i] = (char)toupper((unsigned char)WEBHOOK[i]);
	CU_ASSERT_TRUE(acp_webhook_open_secret(&config, id, sealed, secret));
	CU_ASSERT_TRUE(acp_webhook_new_secret(&config, WEBHOOK, again, sealed));
	CU_ASSERT_STRING_NOT_EQUAL(text, again);
}

static void test_secret_needs_its_key(void)
{
	char text[ACP_WEBHOOK_SECRET_TEXT], sealed[ACP_WEBHOOK_SEALED_HEX];
	uint8_t secret[ACP_WEBHOOK_SECRET_LEN];
	char another[] = "another pepper of enough characters";
	const struct acp_config other = {.key_pepper = another};
	CU_ASSERT_TRUE(acp_webhook_new_secret(&config, WEBHOOK, text, sealed));
	CU_ASSERT_FALSE(acp_webhook_open_secret(&other, WEBHOOK, sealed, secret));
	CU_ASSERT_FALSE(acp_webhook_open_secret(&config, "11111111-2222-4333-8444-abcdefabcdee", sealed, secret));
	sealed[10] = sealed[10] == '0' ? '1' : '0';
	CU_ASSERT_FALSE(acp_webhook_open_secret(&config, WEBHOOK, sealed, secret));
	CU_ASSERT_FALSE(acp_webhook_open_secret(&config, WEBHOOK, "", secret));
}

static bool url_ok(bool http, bool private, const char *url)
{
	char why[128];
	config.webhook_allow_http = http;
	config.webhook_allow_private = private;
	bool ok = acp_webhook_url_ok(&config, url, why, sizeof why);
	CU_ASSERT_TRUE(ok == !*why);
	return ok;
}

static void test_urls(void)
{
	static const char *const good[] = {
		"https://example.com", "https://example.com/hook?a=b%20c&d=@", "HTTPS://Example.COM:8443/",
		"https://8.8.8.8/x",   "https://[2001:4860:4860::8888]:443/",  "https://xn--bcher-kva.example/"};
	static const char *const bad[] = {
		"",
		"example.com",
		"ftp://example.com",
		"http://example.com",
		"https://",
		"https:///x",
		"https://?x",
		"https://user@example.com",
		"https://user:pass@example.com/",
		"https://example.com:0",
		"https://example.com:65536",
		"https://example.com:",
		"https://example.com:80x",
		"https://exa mple.com",
		"https://example.com/\r\nx: y",
		"https://example.com/#here",
		"https://example.com\\@evil.example/",
		"https://b\303\274cher.example/",
		"https://[::1",
		"https://[2001:4860:4860::8888]x/",
	};
	char long_url[2100] = "https://example.com/";
	for (size_t i = 0; i < ACP_COUNT(good); i++)
		CU_ASSERT_TRUE(url_ok(false, false, good[i]));
	for (size_t i = 0; i < ACP_COUNT(bad); i++)
		CU_ASSERT_FALSE(url_ok(false, true, bad[i]));
	memset(long_url + strlen(long_url), 'x', sizeof long_url - strlen(long_url) - 1);
	CU_ASSERT_FALSE(url_ok(true, true, long_url));
	CU_ASSERT_TRUE(url_ok(true, false, "http://example.com/"));
	CU_ASSERT_FALSE(url_ok(true, false, "gopher://example.com/"));
}

/* Includes other forms that resolvers accept as addresses. */
static void test_private_urls(void)
{
	static const char *const private[] = {
		"https://127.0.0.1/",     "https://127.1/",       "https://2130706433/",
		"https://0x7f000001/",    "https://0177.0.0.1/",  "https://10.1.2.3:8443",
		"https://192.168.1.1/",   "https://172.16.0.1/",  "https://169.254.169.254/",
		"https://0.0.0.0/",       "https://[::1]/",       "https://[::ffff:127.0.0.1]/",
		"https://[fe80::1]:443/", "https://[fd00::1]/",   "https://localhost/",
		"https://LOCALHOST.:80/", "https://a.localhost/",
	};
	for (size_t i = 0; i < ACP_COUNT(private); i++) {
		CU_ASSERT_FALSE(url_ok(false, false, private[i]));
		CU_ASSERT_TRUE(url_ok(false, true, private[i]));
	}
	CU_ASSERT_TRUE(url_ok(false, false, "https://notlocalhost/"));
}

static void test_retry_delays(void)
{
	static const double wanted[] = {5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400};
	for (size_t i = 0; i < ACP_COUNT(wanted); i++) {
		int64_t attempt = (int64_t)i + 1;
		CU_ASSERT_DOUBLE_EQUAL(acp_webhook_retry_delay(attempt, 0), wanted[i] * 0.9, 1e-6);
		CU_ASSERT_DOUBLE_EQUAL(acp_webhook_retry_delay(attempt, UINT32_MAX / 2), wanted[i], wanted[i] * 1e-6);
		CU_ASSERT_DOUBLE_EQUAL(acp_webhook_retry_delay(attempt, UINT32_MAX), wanted[i] * 1.1, 1e-6);
	}
	CU_ASSERT_TRUE(acp_webhook_retry_delay(10, 0) < 0);
	CU_ASSERT_TRUE(acp_webhook_retry_delay(0, 0) < 0);
	CU_ASSERT_TRUE(acp_webhook_retry_delay(INT64_MAX, 0) < 0);
}

/* Delivery, with a queue made here and receivers that need no network ---------------------------------------------- */

static int asked, asked_share;

static enum acp_code take(void *self, int max, int lease, int share, struct json_object **list)
{
	(void)self;
	takes++;
	asked = max;
	asked_share = share;
	CU_ASSERT_TRUE(max >= 1 && lease > 15 && share >= 1);
	*list = json_object_new_array();
	if (queued)
		json_object_array_add(*list, queued);
	queued = NULL;
	return ACP_OK;
}

static enum acp_code report_code = ACP_OK;
static int reports;

static enum acp_code done(void *self, struct json_object *outcomes)
{
	(void)self;
	reports++;
	json_object_put(last_outcome);
	last_outcome = json_object_get(json_object_array_get_idx(outcomes, 0));
	return report_code;
}

static enum acp_code away(void *self, int max, int lease, int share, struct json_object **list)
{
	(void)self, (void)max, (void)lease, (void)share, (void)list;
	return ACP_UNAVAILABLE;
}

/* Claims once, and ends when what was claimed is reported. Returns whether the first claim succeeded. */
static bool deliver(const struct acp_control_plane *from)
{
	struct acp_webhook_sender *sender = acp_webhook_sender_start(&config, from);
	CU_ASSERT_PTR_NOT_NULL_FATAL(sender);
	CU_ASSERT_TRUE(acp_webhook_sender_round(sender));
	bool ok = acp_webhook_sender_ok(sender);
	acp_webhook_sender_stop(sender);
	while (acp_webhook_sender_round(sender))
		;
	CU_ASSERT_EQUAL(acp_webhook_sender_running(sender), 0);
	acp_webhook_sender_end(sender);
	return ok;
}

static const struct acp_control_plane plane = {.webhooks.claim = take, .webhooks.report = done};

static void queue_one(const char *url, const char *sealed, int attempt)
{
	queued = json_object_new_object();
	bool ok = acp_json_add_string(queued, "tenant_id", ACP_NIL_UUID) &&
		  acp_json_add_string(queued, "webhook_id", WEBHOOK) &&
		  acp_json_add_string(queued, "delivery_id", ACP_NIL_UUID) && acp_json_add_string(queued, "url", url) &&
		  acp_json_add_string(queued, "payload", "{}") && acp_json_add_string(queued, "sealed", sealed) &&
		  acp_json_add(queued, "attempt", json_object_new_int(attempt)) &&
		  acp_json_add(queued, "ts", json_object_new_int(1614265330));
	CU_ASSERT_TRUE(ok);
}

static void test_deliver_nothing(void)
{
	const struct acp_control_plane broken = {.webhooks.claim = away, .webhooks.report = done};
	takes = reports = 0;
	CU_ASSERT_TRUE(deliver(&plane));
	CU_ASSERT_EQUAL(takes, 1);
	CU_ASSERT_EQUAL(reports, 0);
	CU_ASSERT_EQUAL(asked, 8);
	CU_ASSERT_EQUAL(asked_share, 2); /* a quarter of the free senders */
	CU_ASSERT_FALSE(deliver(&broken));
}

/* If an address is refused at the time of use, the attempt fails and is retried like any other. */
static void test_deliver_to_private_address(void)
{
	char text[ACP_WEBHOOK_SECRET_TEXT], sealed[ACP_WEBHOOK_SEALED_HEX];
	config.webhook_allow_http = true;
	config.webhook_allow_private = false;
	CU_ASSERT_TRUE(acp_webhook_new_secret(&config, WEBHOOK, text, sealed));
	queue_one("http://127.0.0.1:9/", sealed, 1);
	CU_ASSERT_TRUE(deliver(&plane));
	CU_ASSERT_PTR_NOT_NULL_FATAL(last_outcome);
	CU_ASSERT_FALSE(acp_json_bool(last_outcome, "delivered"));
	CU_ASSERT_PTR_NULL(acp_json_member(last_outcome, "status"));
	CU_ASSERT_PTR_NOT_NULL(acp_json_string(last_outcome, "error"));
	double again = json_object_get_double(acp_json_member(last_outcome, "retry_after"));
	CU_ASSERT_TRUE(again >= 4.5 && again <= 5.5);
	CU_ASSERT_STRING_EQUAL(acp_json_string(last_outcome, "delivery_id"), ACP_NIL_UUID);
	queue_one("http://127.0.0.1:9/", sealed, 10);
	CU_ASSERT_TRUE(deliver(&plane));
	CU_ASSERT_PTR_NULL(acp_json_member(last_outcome, "retry_after"));
	CU_ASSERT_EQUAL(json_object_get_int(acp_json_member(last_outcome, "attempt")), 10);
	json_object_put(last_outcome);
	last_outcome = NULL;
}

static void test_deliver_without_secret(void)
{
	queue_one("https://example.com/", "00", 1);
	CU_ASSERT_TRUE(deliver(&plane));
	CU_ASSERT_PTR_NOT_NULL_FATAL(last_outcome);
	CU_ASSERT_FALSE(acp_json_bool(last_outcome, "delivered"));
	CU_ASSERT_PTR_NOT_NULL(acp_json_member(last_outcome, "retry_after"));
	json_object_put(last_outcome);
	last_outcome = NULL;
}

/* Receivers on loopback ------------------------------------------------------------------------------------------- */

static const char *answer; /* what the receiver says */
static char receiver_url[64];
static int listener;

static void *receive(void *arg)
{
	int fd;
	(void)arg;
	while ((fd = accept(listener, NULL, NULL)) >= 0) {
		char request[8192];
		(void)!read(fd, request, sizeof request);
		(void)!write(fd, answer, strlen(answer));
		close(fd);
	}
	return NULL;
}

/* Delivers once to a receiver that says text. */
static void deliver_to(const char *text)
{
	char secret[ACP_WEBHOOK_SECRET_TEXT], sealed[ACP_WEBHOOK_SEALED_HEX];
	struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof here;
	pthread_t thread;
	config.webhook_allow_http = config.webhook_allow_private = true;
	signal(SIGPIPE, SIG_IGN);
	answer = text;
	listener = socket(AF_INET, SOCK_STREAM, 0);
	CU_ASSERT_FATAL(bind(listener, (struct sockaddr *)&here, sizeof here) == 0 && listen(listener, 8) == 0);
	getsockname(listener, (struct sockaddr *)&here, &len);
	snprintf(receiver_url, sizeof receiver_url, "http://127.0.0.1:%d/", ntohs(here.sin_port));
	CU_ASSERT_FATAL(pthread_create(&thread, NULL, receive, NULL) == 0);
	CU_ASSERT_TRUE(acp_webhook_new_secret(&config, WEBHOOK, secret, sealed));
	queue_one(receiver_url, sealed, 1);
	CU_ASSERT_TRUE(deliver(&plane));
	shutdown(listener, SHUT_RDWR);
	pthread_join(thread, NULL);
	close(listener);
	CU_ASSERT_PTR_NOT_NULL_FATAL(last_outcome);
}

/* What a receiver says beyond its status does not make a delivered webhook a failed one. */
static void test_only_the_status_matters(void)
{
	static const char *const delivered[] = {
		"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
		"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
		"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\nnot a chunk\r\n",
		"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nnot gzip",
		"HTTP/1.1 200 OK\r\nX-Cut: off",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
	};
	static const char *const failed[] = {"HTTP/1.1 500 No\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n",
					     "HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", "no HTTP\r\n\r\n", ""};
	for (size_t i = 0; i < ACP_COUNT(delivered); i++) {
		deliver_to(delivered[i]);
		CU_ASSERT_TRUE(acp_json_bool(last_outcome, "delivered"));
		CU_ASSERT_PTR_NULL(acp_json_member(last_outcome, "error"));
	}
	for (size_t i = 0; i < ACP_COUNT(failed); i++) {
		deliver_to(failed[i]);
		CU_ASSERT_FALSE(acp_json_bool(last_outcome, "delivered"));
		CU_ASSERT_PTR_NOT_NULL(acp_json_member(last_outcome, "retry_after"));
		CU_ASSERT_PTR_NULL(acp_json_member(last_outcome, "pause"));
	}
	json_object_put(last_outcome);
	last_outcome = NULL;
}

static int64_t number(const char *name)
{
	return json_object_get_int64(acp_json_member(last_outcome, name));
}

static void test_retry_after(void)
{
	deliver_to("HTTP/1.1 429 Slow\r\nRetry-After: 120\r\n\r\n");
	CU_ASSERT_EQUAL(number("retry_after"), 120);
	CU_ASSERT_EQUAL(number("pause"), 120);
	deliver_to("HTTP/1.1 503 Away\r\nRetry-After: 99999999999999999999\r\n\r\n");
	CU_ASSERT_EQUAL(number("retry_after"), 86400); /* no longer than a day */
	deliver_to("HTTP/1.1 503 Away\r\nRetry-After: Fri, 31 Dec 2100 23:59:59 GMT\r\n\r\n");
	CU_ASSERT_EQUAL(number("retry_after"), 86400);
	deliver_to("HTTP/1.1 429 Slow\r\nRetry-After: 1\r\n\r\n");
	CU_ASSERT_TRUE(number("retry_after") >= 4); /* not sooner than the schedule says */
	deliver_to("HTTP/1.1 429 Slow\r\nRetry-After: soon\r\n\r\n");
	CU_ASSERT_TRUE(number("retry_after") <= 6);
	CU_ASSERT_PTR_NULL(acp_json_member(last_outcome, "pause"));
	deliver_to("HTTP/1.1 500 No\r\nRetry-After: 120\r\n\r\n");
	CU_ASSERT_TRUE(number("retry_after") <= 6);
	json_object_put(last_outcome);
	last_outcome = NULL;
}

/* While the hub is away, an outcome is kept: the delivery must not be sent again because of it. */
static void test_report_is_repeated(void)
{
	char text[ACP_WEBHOOK_SECRET_TEXT], sealed[ACP_WEBHOOK_SEALED_HEX];
	config.webhook_allow_private = false;
	CU_ASSERT_TRUE(acp_webhook_new_secret(&config, WEBHOOK, text, sealed));
	queue_one("http://127.0.0.1:9/", sealed, 1);
	struct acp_webhook_sender *sender = acp_webhook_sender_start(&config, &plane);
	CU_ASSERT_PTR_NOT_NULL_FATAL(sender);
	CU_ASSERT_TRUE(acp_webhook_sender_round(sender));
	takes = reports = 0;
	report_code = ACP_UNAVAILABLE;
	while (reports == 0)
		CU_ASSERT_TRUE(acp_webhook_sender_round(sender));
	int takes_before = takes;
	CU_ASSERT_FALSE(acp_webhook_sender_ok(sender));
	report_code = ACP_OK;
	acp_webhook_sender_stop(sender);
	CU_ASSERT_FALSE(acp_webhook_sender_round(sender));
	CU_ASSERT_EQUAL(reports, 2);
	CU_ASSERT_EQUAL(takes, takes_before);
	CU_ASSERT_PTR_NOT_NULL(last_outcome);
	acp_webhook_sender_end(sender);
	json_object_put(last_outcome);
	last_outcome = NULL;
}

const char *const acp_suite_name = "webhooks";
CU_TestInfo acp_tests[] = {
	{"published signature", test_published_signature},
	{"encodings", test_encodings},
	{"secret round trip", test_secret_round_trip},
	{"secret needs its key", test_secret_needs_its_key},
	{"urls", test_urls},
	{"private urls", test_private_urls},
	{"retry delays", test_retry_delays},
	{"deliver nothing", test_deliver_nothing},
	{"deliver to private address", test_deliver_to_private_address},
	{"deliver without secret", test_deliver_without_secret},
	{"only_status_matters", test_only_the_status_matters},
	{"retry after", test_retry_after},
	{"report is repeated", test_report_is_repeated},
	CU_TEST_INFO_NULL,
};
