#include "exchange.h"

#include "clock.h"
#include "crypto.h"
#include "endpoints.h"
#include "log.h"
#include "redact.h"

#include <fcgiapp.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/time.h>

struct acp_exchange {
	const struct acp_config *config;
	FCGX_Request fcgi;
	struct acp_buf body; /* of the request; its memory is reused */
	struct acp_http http;
	struct acp_response response;
	struct acp_call *call; /* memory for one call */
	struct acp_metrics *metrics;
	pthread_t reader; /* the thread that read the request */
	void (*left)(void *arg);
	void *arg;
};

/* The maximum number of bytes read of a refused body, so that the web server can deliver the answer. */
enum { DRAIN_MAX = 64 << 20 };

bool acp_exchange_init(void)
{
	/* libfcgi waits for the web server to close first, by default for 2 s. */
	setenv("LIBFCGI_OS_CLOSE_POLL_TIMEOUT", "100", 0);
	return FCGX_Init() == 0;
}

enum {
	ERROR_MAX = 1024,    /* bytes reserved for the reply that reports that memory ran out */
	KEEP_MAX = 64 << 10, /* bytes of a buffer that are kept for the next request */
};

struct acp_exchange *acp_exchange_new(const struct acp_config *config)
{
	struct acp_exchange *exchange = calloc(1, sizeof *exchange);
	if (!exchange)
		return NULL;
	exchange->config = config;
	exchange->call = acp_call_new();
	if (!exchange->call) {
		free(exchange);
		return NULL;
	}
	acp_buf_init(&exchange->body, (size_t)config->max_body_bytes);
	acp_buf_init(&exchange->response.body, (size_t)64 << 20);
	if (!acp_buf_reserve(&exchange->response.body, ERROR_MAX)) {
		acp_exchange_free(exchange);
		return NULL;
	}
	FCGX_InitRequest(&exchange->fcgi, -1, 0);
	return exchange;
}

void acp_exchange_free(struct acp_exchange *exchange)
{
	acp_buf_release(&exchange->body);
	acp_buf_release(&exchange->response.body);
	acp_call_free(exchange->call);
	free(exchange);
}

/* Replies up to SMALL_REPLY fit into the empty send buffer of any socket, up to LARGE_REPLY into that of a Unix
 * socket. */
enum { SMALL_REPLY = 2048, LARGE_REPLY = 32768 };

/* libfcgi has no timeouts, so set them on the socket: a silent web server then blocks a thread for io_timeout seconds
 * at most. which: SO_RCVTIMEO or SO_SNDTIMEO. */
static void limit_waiting(const struct acp_exchange *exchange, int connection, int which)
{
	const struct timeval limit = {.tv_sec = exchange->config->io_timeout};
	setsockopt(connection, SOL_SOCKET, which, &limit, sizeof limit);
}

/* Makes libfcgi read a request from a connection that we accepted: it takes an open ipcFd for a kept-alive connection
 * and does not accept one itself. (Its own accept has a signal race, and stalls for 2 s on silent peers.) */
static bool begin(struct acp_exchange *exchange, int connection)
{
	limit_waiting(exchange, connection, SO_RCVTIMEO);
	exchange->fcgi.ipcFd = connection;
	exchange->fcgi.keepConnection = 1;
	if (FCGX_Accept_r(&exchange->fcgi) != 0)
		return false; /* not a FastCGI request; libfcgi has closed the connection */
	/* A kept-alive connection would hold its thread while other requests wait. */
	exchange->fcgi.keepConnection = 0;
	return true;
}

/* True if the announced length matches. Only digits are allowed, because strtoull() accepts -1. */
static bool is_length(const char *announced, size_t total)
{
	return strspn(announced, "0123456789") == strlen(announced) && strtoull(announced, NULL, 10) == total;
}

/* Reads the body to its end, even if it is too large to keep. */
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
	/* Shorter than announced, or a read error: the body is incomplete. */
	const char *announced = FCGX_GetParam("CONTENT_LENGTH", exchange->fcgi.envp);
	bool whole = !announced || !*announced || is_length(announced, total);
	request->body_too_large = total > exchange->body.max;
	request->body_lost = !request->body_too_large && !acp_buf_ok(&exchange->body);
	request->body_broken = FCGX_GetError(exchange->fcgi.in) != 0 || (!whole && !request->body_too_large);
	request->body = exchange->body.ptr ? exchange->body.ptr : "";
	request->body_len = exchange->body.len;
	/* If nothing is left unread, closing at once loses nothing, so there is no need to linger. */
	if (!request->body_broken && total < DRAIN_MAX)
		exchange->fcgi.detached = 1;
}

static void put_number_header(struct acp_buf *head, const char *name, int64_t value)
{
	acp_buf_puts(head, name);
	acp_buf_put_int(head, value);
	acp_buf_puts(head, "\r\n");
}

static void put_header(struct acp_buf *head, const char *name, const char *value)
{
	acp_buf_puts(head, name);
	acp_buf_puts(head, value);
	acp_buf_puts(head, "\r\n");
}

/* draft-ietf-httpapi-ratelimit-headers-10 */
static void put_rate(struct acp_buf *head, const struct acp_rate *rate)
{
	acp_buf_puts(head, "RateLimit-Policy: \"default\";q=");
	acp_buf_put_int(head, rate->limit);
	put_number_header(head, ";w=", rate->window);
	acp_buf_puts(head, "RateLimit: \"default\";r=");
	acp_buf_put_int(head, rate->remaining);
	put_number_header(head, ";t=", rate->reset);
}

/* Writes status and headers. The values come from our own tables and from numbers, never from the request. */
static void write_head(const struct acp_response *response, const struct acp_http *http, struct acp_buf *head)
{
	acp_buf_puts(head, "Status: ");
	acp_buf_put_int(head, response->status);
	put_header(head, " ", acp_http_reason(response->status));
	put_header(head, "Content-Type: ", response->content_type);
	put_number_header(head, "Content-Length: ", (int64_t)response->body.len);
	put_header(head, "X-Request-Id: ", http->request_id);
	put_header(head, "Cache-Control: ", response->cache ? response->cache : "no-store");
	acp_buf_puts(head, "X-Content-Type-Options: nosniff\r\n");
	if (response->headers)
		acp_buf_puts(head, response->headers);
	if (response->status == 401)
		acp_buf_puts(head, "WWW-Authenticate: Bearer realm=\"acp\"\r\n");
	if (response->allow)
		put_header(head, "Allow: ", response->allow);
	if (response->retry_after)
		put_number_header(head, "Retry-After: ", response->retry_after);
	if (response->replayed)
		acp_buf_puts(head, "Idempotency-Replayed: true\r\n");
	if (*response->idempotency_key)
		put_header(head, "Idempotency-Key: ", response->idempotency_key);
	if (response->rate.window)
		put_rate(head, &response->rate);
	if (*response->location)
		put_header(head, "Location: ", response->location);
	acp_buf_puts(head, "\r\n");
}

static void write_response(struct acp_exchange *exchange, const struct acp_http *http)
{
	struct acp_response *response = &exchange->response;
	struct acp_buf head;
	char memory[4097];
	acp_buf_borrow(&head, memory, sizeof memory);
	write_head(response, http, &head);
	if (head.len + response->body.len > SMALL_REPLY)
		limit_waiting(exchange, exchange->fcgi.ipcFd, SO_SNDTIMEO);
	FCGX_PutStr(head.ptr, (int)head.len, exchange->fcgi.out);
	if (strcmp(http->method, "HEAD") != 0)
		FCGX_PutStr(response->body.ptr, (int)response->body.len, exchange->fcgi.out);
}

/* Formats microseconds as milliseconds with three decimals. */
static const char *show_ms(uint64_t us, char out[32])
{
	char *at = acp_digits(out + 31, 1000 + us % 1000);
	out[31] = '\0';
	*at = '.';
	return acp_digits(at, us / 1000);
}

static void count_request(struct acp_metrics *metrics, const struct acp_response *response, uint64_t us)
{
	const struct acp_served served = {.endpoint = response->endpoint,
					  .http = response->status,
					  .code = response->outcome,
					  .action = response->action,
					  .us = us};
	acp_metrics_end(metrics, &served);
}

static const char *show_status(int status, char out[12])
{
	out[11] = '\0';
	return acp_digits(out + 11, (uint64_t)status);
}

/* A client may put a key into a path, or into another part of a request that has none. NULL stays NULL. */
static const char *show_path(const char *path, const struct acp_config *config, char out[ACP_PATH_MAX + 1])
{
	if (!path || !acp_redact_needed(path, strlen(path), config->api_key_prefix))
		return path;
	acp_copy(out, ACP_PATH_MAX + 1, path);
	acp_redact_in_place(out, ACP_PATH_MAX + 1, config->api_key_prefix);
	return out;
}

static void log_request(const struct acp_http *http, const struct acp_response *response,
			const struct acp_config *config, uint64_t us)
{
	char status[12];
	char ms[32];
	char path[ACP_PATH_MAX + 1];
	const struct acp_log_field fields[] = {
		{"request_id", http->request_id, false},
		{"method", http->method, false},
		{"path", *http->path ? show_path(http->path, config, path) : "(refused)", false},
		{"status", show_status(response->status, status), true},
		{"code", response->code, false},
		{"action", response->action, false},
		{"tenant", *response->tenant_id ? response->tenant_id : NULL, false},
		{"key", *response->key_shown ? response->key_shown : NULL, false},
		{"ip", http->request.ip_address, false},
		{"ms", show_ms(us, ms), true},
	};
	acp_log_fields(ACP_LOG_INFO, fields, ACP_COUNT(fields));
}

/* A 404 often means a wrong mount point, so log how the web server split the path (without its query). */
static void log_mount(const struct acp_exchange *exchange, const struct acp_http *http)
{
	char **variables = exchange->fcgi.envp;
	const char *sent = FCGX_GetParam("REQUEST_URI", variables);
	char uri[ACP_PATH_MAX + 1] = "";
	char clean[3][ACP_PATH_MAX + 1];
	if (sent)
		snprintf(uri, sizeof uri, "%.*s", (int)strcspn(sent, "?"), sent);
	const struct acp_log_field fields[] = {
		{"request_id", http->request_id, false},
		{"request_uri", show_path(uri, exchange->config, clean[0]), false},
		{"script_name", show_path(FCGX_GetParam("SCRIPT_NAME", variables), exchange->config, clean[1]), false},
		{"path_info", show_path(FCGX_GetParam("PATH_INFO", variables), exchange->config, clean[2]), false},
		{"url_prefix", exchange->config->url_prefix, false},
	};
	acp_log_fields(ACP_LOG_DEBUG, fields, ACP_COUNT(fields));
}

static void reset_response(struct acp_response *response)
{
	struct acp_buf body = response->body;
	acp_buf_clear(&body);
	*response = (struct acp_response){.body = body};
}

/* libfcgi frees a stream's buffer without wiping it, and the buffer may hold a key. The first two members of a stream's
 * data are its position and size, in every libfcgi release so far. If libfcgi's own pointers lie outside, nothing is
 * touched. */
static void wipe_stream(const FCGX_Stream *stream)
{
	struct {
		unsigned char *start;
		int size;
	} kept;
	memcpy(&kept, stream->data, sizeof kept);
	if (kept.start && kept.size > 0 && kept.size <= 65536 && stream->stop >= kept.start &&
	    stream->stop <= kept.start + kept.size)
		acp_wipe(kept.start, (size_t)kept.size);
}

/* Keys arrive with the request and may leave with the reply; wipe both from memory. */
static void wipe(struct acp_exchange *exchange)
{
	const struct acp_buf *body = &exchange->response.body;
	for (char **variable = exchange->fcgi.envp; *variable; variable++)
		acp_wipe(*variable, strlen(*variable));
	wipe_stream(exchange->fcgi.in);
	wipe_stream(exchange->fcgi.out);
	if (body->len)
		acp_wipe(body->ptr, body->len);
}

/* Writes the response, closes the connection, and calls left: the exchange can then be reused. */
static void *finish_here(void *arg)
{
	struct acp_exchange *exchange = arg;
	const struct acp_http *http = &exchange->http;
	write_response(exchange, http);
	if (exchange->response.status == 404)
		log_mount(exchange, http);
	FCGX_FClose(exchange->fcgi.err);
	FCGX_FClose(exchange->fcgi.out);
	wipe(exchange);
	acp_buf_shrink(&exchange->response.body, KEEP_MAX);
	acp_buf_shrink(&exchange->body, KEEP_MAX);
	FCGX_Finish_r(&exchange->fcgi);
	uint64_t us = acp_monotonic_us() - http->request.started_us;
	log_request(http, &exchange->response, exchange->config, us);
	count_request(exchange->metrics, &exchange->response, us);
	exchange->left(exchange->arg);
	return NULL;
}

/* A large reply to a web server that does not read it would block the thread that stores all calls, so it gets its own
 * thread. */
static void finish(struct acp_exchange *exchange)
{
	pthread_t thread;
	bool own = pthread_equal(pthread_self(), exchange->reader);
	if (!own && exchange->response.body.len > LARGE_REPLY &&
	    pthread_create(&thread, NULL, finish_here, exchange) == 0)
		pthread_detach(thread);
	else
		finish_here(exchange);
}

void acp_exchange_serve(struct acp_exchange *exchange, const struct acp_kernel *kernel, int connection,
			void (*left)(void *arg), void *arg)
{
	bool taken = false;
	struct acp_http *http = &exchange->http;
	exchange->left = left;
	exchange->arg = arg;
	exchange->reader = pthread_self();
	if (!begin(exchange, connection)) {
		left(arg);
		return;
	}
	exchange->metrics = kernel->metrics;
	acp_metrics_begin(kernel->metrics);
	reset_response(&exchange->response);
	acp_http_read(http, exchange->fcgi.envp, exchange->config);
	http->request.out = &exchange->response.body;
	http->later = (struct acp_later){&taken, &exchange->response, exchange, finish, exchange->call};
	read_body(exchange, &http->request, acp_paths_body_max(kernel, http));
	http->request.started_us = acp_monotonic_us();
	acp_paths_answer(kernel, http, &exchange->response);
	if (!taken)
		finish_here(exchange);
}
