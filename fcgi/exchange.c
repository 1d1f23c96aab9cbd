#include "exchange.h"

#include "clock.h"
#include "endpoints.h"
#include "log.h"

#include <fcgiapp.h>
#include <sys/socket.h>
#include <sys/time.h>

struct acp_exchange {
	const struct acp_config *config;
	FCGX_Request fcgi;
	struct acp_buf body; /* of the request; memory kept from one to the next */
	struct acp_response response;
};

/* How much of a body that is refused anyway is read, so that the web server can deliver the answer. */
enum { DRAIN_MAX = 64 << 20 };

bool acp_exchange_init(void)
{
	/* libfcgi waits for the web server to close first, 2 s unless told otherwise. */
	setenv("LIBFCGI_OS_CLOSE_POLL_TIMEOUT", "100", 0);
	return FCGX_Init() == 0;
}

struct acp_exchange *acp_exchange_new(const struct acp_config *config)
{
	struct acp_exchange *exchange = calloc(1, sizeof *exchange);
	if (!exchange)
		return NULL;
	exchange->config = config;
	acp_buf_init(&exchange->body, (size_t)config->max_body_bytes);
	acp_buf_init(&exchange->response.body, (size_t)64 << 20);
	FCGX_InitRequest(&exchange->fcgi, -1, 0);
	return exchange;
}

void acp_exchange_free(struct acp_exchange *exchange)
{
	acp_buf_release(&exchange->body);
	acp_buf_release(&exchange->response.body);
	free(exchange);
}

/* libfcgi has no time-outs; the socket has. A web server that falls silent then costs a thread io_timeout seconds. */
static void limit_waiting(const struct acp_exchange *exchange, int connection)
{
	const struct timeval limit = {.tv_sec = exchange->config->io_timeout};
	setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

/* Lets libfcgi read a request from a connection that we accepted: it takes an open ipcFd for a kept-alive one and
 * does not accept itself. (Its own accept has a signal race, and a 2 s stall for silent peers.) */
static bool begin(struct acp_exchange *exchange, int connection)
{
	limit_waiting(exchange, connection);
	exchange->fcgi.ipcFd = connection;
	exchange->fcgi.keepConnection = 1;
	if (FCGX_Accept_r(&exchange->fcgi) != 0)
		return false; /* not a FastCGI request; libfcgi has closed the connection */
	/* A connection kept alive would hold its thread while other requests wait. */
	exchange->fcgi.keepConnection = 0;
	return true;
}

/* Reads the body to its end, also when it is too large to keep. */
static void read_body(struct acp_exchange *exchange, struct acp_request *request, size_t max)
{
	char block[8192];
	size_t total = 0;
	int got;
	acp_buf_clear(&exchange->body);
	exchange->body.max = max;
	while (total < DRAIN_MAX && (got = FCGX_GetStr(block, sizeof block, exchange->fcgi.in)) > 0) {
		total += (size_t)got;
		acp_buf_add(&exchange->body, block, (size_t)got);
	}
	/* Less than announced, or an error on the way: what arrived is not what was sent. */
	const char *announced = FCGX_GetParam("CONTENT_LENGTH", exchange->fcgi.envp);
	bool whole = !announced || !*announced || strtoull(announced, NULL, 10) == total;
	request->body_too_large = total > exchange->body.max;
	request->body_broken = FCGX_GetError(exchange->fcgi.in) != 0 || (!whole && !request->body_too_large);
	request->body = exchange->body.ptr ? exchange->body.ptr : "";
	request->body_len = exchange->body.len;
	/* With nothing left unread, closing at once loses nothing: no need to linger. */
	if (!request->body_broken && total < DRAIN_MAX)
		exchange->fcgi.detached = 1;
}

/* Status and headers. Values come from our own tables and from numbers: nothing of the request gets in. */
static void write_head(const struct acp_response *response, const struct acp_http *http, struct acp_buf *head)
{
	acp_buf_printf(head, "Status: %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nX-Request-Id: %s\r\n",
		       response->status, acp_http_reason(response->status), response->content_type, response->body.len,
		       http->request_id);
	acp_buf_puts(head, "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n");
	if (response->status == 401)
		acp_buf_puts(head, "WWW-Authenticate: Bearer realm=\"acp\"\r\n");
	if (response->allow)
		acp_buf_printf(head, "Allow: %s\r\n", response->allow);
	if (response->retry_after)
		acp_buf_printf(head, "Retry-After: %d\r\n", response->retry_after);
	if (response->replayed)
		acp_buf_puts(head, "Idempotency-Replayed: true\r\n");
	if (response->rate.window) /* draft-ietf-httpapi-ratelimit-headers-10 */
		acp_buf_printf(
			head, "RateLimit-Policy: \"default\";q=%lld;w=%lld\r\nRateLimit: \"default\";r=%lld;t=%lld\r\n",
			(long long)response->rate.limit, (long long)response->rate.window,
			(long long)response->rate.remaining, (long long)response->rate.reset);
	if (*response->location)
		acp_buf_printf(head, "Location: %s\r\n", response->location);
	acp_buf_puts(head, "\r\n");
}

static void write_response(struct acp_exchange *exchange, const struct acp_http *http)
{
	struct acp_response *response = &exchange->response;
	struct acp_buf head;
	acp_buf_init(&head, 4096);
	write_head(response, http, &head);
	FCGX_PutStr(head.ptr, (int)head.len, exchange->fcgi.out);
	if (strcmp(http->method, "HEAD") != 0)
		FCGX_PutStr(response->body.ptr, (int)response->body.len, exchange->fcgi.out);
	acp_buf_release(&head);
}

static void log_request(const struct acp_http *http, const struct acp_response *response)
{
	char status[16];
	char ms[32];
	snprintf(status, sizeof status, "%d", response->status);
	snprintf(ms, sizeof ms, "%.3f", (double)(acp_monotonic_us() - http->request.started_us) / 1000.0);
	const struct acp_log_field fields[] = {
		{"request_id", http->request_id, false},
		{"method", http->method, false},
		{"path", *http->path ? http->path : "(refused)", false},
		{"status", status, true},
		{"code", response->code, false},
		{"action", response->action, false},
		{"tenant", *response->tenant_id ? response->tenant_id : NULL, false},
		{"key", *response->key_shown ? response->key_shown : NULL, false},
		{"ip", http->request.ip_address, false},
		{"ms", ms, true},
	};
	acp_log_fields(ACP_LOG_INFO, fields, ACP_COUNT(fields));
}

static void reset_response(struct acp_response *response)
{
	struct acp_buf body = response->body;
	acp_buf_clear(&body);
	*response = (struct acp_response){.body = body};
}

void acp_exchange_serve(struct acp_exchange *exchange, const struct acp_kernel *kernel, int connection)
{
	struct acp_http http;
	if (!begin(exchange, connection))
		return;
	reset_response(&exchange->response);
	acp_http_read(&http, exchange->fcgi.envp, exchange->config);
	read_body(exchange, &http.request, acp_paths_body_max(kernel, &http));
	http.request.started_us = acp_monotonic_us();
	acp_paths_answer(kernel, &http, &exchange->response);
	write_response(exchange, &http);
	FCGX_Finish_r(&exchange->fcgi);
	log_request(&http, &exchange->response);
}
