/* A whole exchange (fcgi/exchange.c, http.c, every endpoint, libfcgi) on a socket, over a control plane in memory. The
 * input: a byte of options, then
 * - with bit 0 of the options: the bytes that the web server sends, FastCGI records or not;
 * - otherwise parameters NAME=VALUE, each followed by a NUL, another NUL, and the body: they are sent as records.
 * Whatever the input, the exchange ends. The answer is one response whose head consists of complete lines, whose body
 * has the announced length, and whose JSON is valid. */
#include "exchange.h"
#include "../fuzz.h"
#include "log.h"
#include "openapi.h"

#include "../../unit/fake_plane.h"

#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RAW = 1, ADD_LENGTH = 2, SHORT_RECORDS = 4, ADD_KEY = 8 };
enum { BEGIN_REQUEST = 1, END_REQUEST = 3, PARAMS = 4, STDIN = 5, STDOUT = 6, STDERR = 7 };

static struct acp_config config;
static struct fake_plane fake;
static struct acp_kernel kernel;
static struct acp_exchange *exchange;

static enum acp_code ready(void *self, char *why, size_t why_size)
{
	(void)self;
	snprintf(why, why_size, "the hub is down");
	return ACP_UNAVAILABLE;
}

static void begin(void)
{
	char why[512];
	static bool begun;
	if (begun)
		return;
	begun = true;
	acp_log_open("text", "error", "/dev/null");
	fake_config_init(&config);
	config.max_body_bytes = 4096;
	fake_plane_init(&fake);
	fake.plane.upkeep.ready = ready;
	FUZZ_CHECK(acp_kernel_init(&kernel, &config, &fake.plane, acp_builtin_packs, why, sizeof why), "%s", why);
	kernel.openapi = acp_openapi_text(&kernel);
	FUZZ_CHECK(acp_exchange_init(), "libfcgi");
	exchange = acp_exchange_new(&config);
	FUZZ_CHECK(exchange, "memory");
}

/* Requests --------------------------------------------------------------------------------------------------------- */

static void put_record(struct acp_buf *out, int type, const char *content, size_t len)
{
	const uint8_t head[8] = {1, (uint8_t)type, 0, 1, (uint8_t)(len >> 8), (uint8_t)len, 0, 0};
	acp_buf_add(out, head, sizeof head);
	acp_buf_add(out, content, len);
}

/* A stream as records, followed by the empty record that ends it. */
static void put_stream(struct acp_buf *out, int type, const char *content, size_t len, size_t most)
{
	for (size_t at = 0; at < len; at += most)
		put_record(out, type, content + at, len - at < most ? len - at : most);
	put_record(out, type, "", 0);
}

static void put_length(struct acp_buf *out, size_t len)
{
	const uint8_t bytes[4] = {(uint8_t)(0x80 | len >> 24), (uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len};
	if (len < 128)
		acp_buf_putc(out, (char)len);
	else
		acp_buf_add(out, bytes, sizeof bytes);
}

static void put_parameter(struct acp_buf *out, const char *text)
{
	size_t name = strcspn(text, "=");
	const char *value = text[name] ? text + name + 1 : "";
	put_length(out, name);
	put_length(out, strlen(value));
	acp_buf_add(out, text, name);
	acp_buf_puts(out, value);
}

static void put_request(struct acp_buf *out, uint8_t how, struct fuzz_input *in)
{
	char text[128];
	size_t len, most = how & SHORT_RECORDS ? 5 : 60000;
	struct acp_buf parameters;
	acp_buf_init(&parameters, 1 << 20);
	char *part;
	for (; *(part = fuzz_part(in, NULL)); free(part))
		put_parameter(&parameters, part);
	free(part);
	char *body = fuzz_rest(in, &len);
	snprintf(text, sizeof text, "CONTENT_LENGTH=%zu", len);
	if (how & ADD_LENGTH)
		put_parameter(&parameters, text);
	snprintf(text, sizeof text, "HTTP_X_API_KEY=%s", fake.key);
	if (how & ADD_KEY)
		put_parameter(&parameters, text);
	put_record(out, BEGIN_REQUEST, "\0\1\0\0\0\0\0\0", 8);
	put_stream(out, PARAMS, parameters.ptr ? parameters.ptr : "", parameters.len, most);
	put_stream(out, STDIN, body, len, most);
	acp_buf_release(&parameters);
	free(body);
}

/* Responses -------------------------------------------------------------------------------------------------------- */

struct peer {
	int fd;
	struct acp_buf got;
};

static void *receive(void *arg)
{
	struct peer *peer = arg;
	char block[65536];
	ssize_t got;
	while ((got = read(peer->fd, block, sizeof block)) > 0)
		acp_buf_add(&peer->got, block, (size_t)got);
	return NULL;
}

/* The content of the response's records. False: the bytes are not records, or the end is missing. */
static bool take_stdout(const struct acp_buf *got, struct acp_buf *out)
{
	bool end = false;
	for (size_t at = 0; at < got->len;) {
		const uint8_t *head = (const uint8_t *)got->ptr + at;
		if (got->len - at < 8 || head[0] != 1)
			return false;
		size_t len = (size_t)(head[4] << 8 | head[5]);
		if (got->len - at < 8 + len + head[6])
			return false;
		if (head[1] == STDOUT)
			acp_buf_add(out, head + 8, len);
		end = end || head[1] == END_REQUEST;
		at += 8 + len + head[6];
	}
	return end;
}

/* Checks complete lines "Name: value" of printable ASCII up to an empty one. Returns the start of the body. */
static const char *check_head(const char *text, size_t *length)
{
	const char *at = text, *end;
	FUZZ_CHECK(strncmp(text, "Status: ", 8) == 0, "%s", text);
	*length = SIZE_MAX;
	for (; strncmp(at, "\r\n", 2) != 0; at = end + 2) {
		end = strstr(at, "\r\n");
		FUZZ_CHECK(end, "the head does not end: %s", text);
		for (const char *c = at; c < end; c++)
			FUZZ_CHECK(*c >= 0x20 && *c <= 0x7e, "byte %02x in the head: %s", (uint8_t)*c, text);
		const char *colon = memchr(at, ':', (size_t)(end - at));
		FUZZ_CHECK(colon && colon > at && colon[1] == ' ', "a line of the head: %s", at);
		if (strncmp(at, "Content-Length: ", 16) == 0)
			*length = strtoul(at + 16, NULL, 10);
	}
	return at + 2;
}

static void check_response(const struct acp_buf *response)
{
	size_t length;
	if (!response->len)
		return; /* no request: the connection was closed */
	const char *body = check_head(response->ptr, &length);
	size_t len = response->len - (size_t)(body - response->ptr);
	FUZZ_CHECK(len == length || len == 0, "%zu bytes, not %zu", len, length); /* 0: HEAD */
	if (len && strstr(response->ptr, "json\r\n") && strstr(response->ptr, "json\r\n") < body) {
		struct oracle oracle = oracle_read((const uint8_t *)body, len);
		FUZZ_CHECK(oracle.valid, "%s", body);
	}
	FUZZ_CHECK(strncmp(response->ptr, "Status: 500", 11) != 0, "%s", response->ptr);
}

/* libfcgi 2.4.2 adds the lengths of a name and its value as int, and ends the process when it cannot allocate the sum.
 * Only the web server can send such a record. It is excluded here, because it would hide everything else. */
static bool beyond_libfcgi(const uint8_t *bytes, size_t len)
{
	for (size_t i = 0; i + 3 < len; i++)
		if (bytes[i] >= 0x80 && (bytes[i] > 0x80 || bytes[i + 1] > 0x0f))
			return true;
	return false;
}

static void left(void *arg)
{
	++*(int *)arg;
}

static void exchange_bytes(const struct acp_buf *request, struct acp_buf *got)
{
	int ends[2], times = 0;
	pthread_t thread;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
		abort();
	struct peer peer = {.fd = ends[1]};
	acp_buf_init(&peer.got, (size_t)8 << 20);
	if (request->len && send(ends[1], request->ptr, request->len, MSG_NOSIGNAL) != (ssize_t)request->len)
		abort();
	shutdown(ends[1], SHUT_WR);
	if (pthread_create(&thread, NULL, receive, &peer) != 0)
		abort();
	acp_exchange_serve(exchange, &kernel, ends[0], left, &times);
	FUZZ_CHECK(times == 1, "left %d times", times);
	pthread_join(thread, NULL);
	close(ends[1]);
	*got = peer.got;
}

void fuzz_exchange(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	struct acp_buf request, got, response;
	if (size && data[0] & RAW && beyond_libfcgi(data + 1, size - 1))
		return;
	begin();
	acp_buf_init(&request, 1 << 20);
	acp_buf_init(&response, (size_t)8 << 20);
	uint8_t how = fuzz_byte(&in);
	if (how & RAW)
		acp_buf_add(&request, in.at, in.left);
	else
		put_request(&request, how, &in);
	if (request.len < 100000) {
		exchange_bytes(&request, &got);
		bool whole = take_stdout(&got, &response);
		FUZZ_CHECK(whole || (how & RAW), "%zu bytes, but no end of the response", got.len);
		if (whole)
			check_response(&response);
		acp_buf_release(&got);
	}
	FUZZ_CHECK(fake.open == 0 && fake.held == 0, "%d transactions are open", fake.open);
	fake_plane_forget(&fake);
	for (; fake.agent_count; fake.agent_count--) {
		struct fake_agent *agent = &fake.agents[fake.agent_count - 1];
		free(agent->agent_id);
		free(agent->idempotency_key);
		free(agent->fingerprint);
	}
	acp_buf_release(&request);
	acp_buf_release(&response);
}
