#include "outbound_parts.h"

#include "crypto.h"
#include "thread.h"
#include "version.h"

#include <ctype.h>
#include <malloc.h>
#include <pthread.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

/* libcurl 7.80 added a hook that can stop a request after connecting and before sending. Without it a reused connection
 * would go unchecked, and libcurl would repeat a request on it. With older versions, each request therefore opens a new
 * connection. */
#define CAN_KEEP (LIBCURL_VERSION_NUM >= 0x075000)

/* Addresses ---------------------------------------------------------------------------------------------------- */

struct network {
	uint8_t bytes[4];
	unsigned bits;
};

/* IANA's special-purpose addresses, and multicast. */
static const struct network not_public_v4[] = {
	{{0}, 8},         {{10}, 8},       {{100, 64}, 10},      {{127}, 8},
	{{169, 254}, 16}, {{172, 16}, 12}, {{192, 0, 0}, 24},    {{192, 0, 2}, 24},
	{{192, 168}, 16}, {{198, 18}, 15}, {{198, 51, 100}, 24}, {{203, 0, 113}, 24},
	{{224}, 3},
};

/* Inside 2000::/3: protocol assignments with Teredo, and two documentation ranges. */
static const struct network not_public_v6[] = {
	{{0x20, 0x01, 0x00}, 23},
	{{0x20, 0x01, 0x0d, 0xb8}, 32},
	{{0x3f, 0xff}, 20},
};

static uint32_t be32(const uint8_t *bytes)
{
	return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static bool in_any(const uint8_t *address, const struct network *networks, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if ((be32(address) ^ be32(networks[i].bytes)) >> (32 - networks[i].bits) == 0)
			return true;
	return false;
}

static bool public_v4(const uint8_t *address)
{
	return !in_any(address, not_public_v4, ACP_COUNT(not_public_v4));
}

/* Public means inside 2000::/3, or an address that gateways translate to a public IPv4 address. */
static bool public_v6(const uint8_t *address)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	static const uint8_t nat64[12] = {0x00, 0x64, 0xff, 0x9b};
	if (memcmp(address, mapped, sizeof mapped) == 0 || memcmp(address, nat64, sizeof nat64) == 0)
		return public_v4(address + 12);
	if (address[0] == 0x20 && address[1] == 0x02)
		return public_v4(address + 2);
	return address[0] >> 5 == 1 && !in_any(address, not_public_v6, ACP_COUNT(not_public_v6));
}

bool acp_outbound_public(int family, const void *address)
{
	if (family == AF_INET)
		return public_v4(address);
	return family == AF_INET6 && public_v6(address);
}

/* Request ------------------------------------------------------------------------------------------------------ */

static bool get_url_part(CURLU *parts, CURLUPart which, char out[64])
{
	char *text = NULL;
	if (curl_url_get(parts, which, &text, 0) != CURLUE_OK)
		return false;
	snprintf(out, 64, "%s", text);
	curl_free(text);
	return true;
}

static const char *find_url_fault(CURLU *parts, const char *url, bool allow_http)
{
	char text[64];
	for (const char *at = url; *at; at++)
		if ((unsigned char)*at <= ' ' || *at == 0x7f)
			return "the URL contains a space or a control character";
	if (curl_url_set(parts, CURLUPART_URL, url, CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK)
		return "the URL is malformed";
	if (!get_url_part(parts, CURLUPART_SCHEME, text) ||
	    (strcmp(text, "https") != 0 && !(allow_http && strcmp(text, "http") == 0)))
		return allow_http ? "the URL must begin with https:// or http://" : "the URL must begin with https://";
	if (!get_url_part(parts, CURLUPART_HOST, text) || !*text)
		return "the URL has no host";
	if (get_url_part(parts, CURLUPART_USER, text) || get_url_part(parts, CURLUPART_PASSWORD, text))
		return "the URL must not contain a user or a password";
	if (get_url_part(parts, CURLUPART_FRAGMENT, text))
		return "the URL must not have a fragment";
	return NULL;
}

bool acp_outbound_url_ok(const char *url, bool allow_http, char *why, size_t why_size)
{
	CURLU *parts = curl_url();
	const char *fault = parts ? find_url_fault(parts, url, allow_http) : "out of memory";
	curl_url_cleanup(parts);
	if (fault)
		snprintf(why, why_size, "%s", fault);
	return !fault;
}

bool acp_outbound_header_ok(const char *name, const char *value)
{
	static const char token[] = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
	size_t len = strspn(name, token);
	if (len == 0 || name[len])
		return false;
	for (; *value; value++)
		if (((unsigned char)*value < ' ' && *value != '\t') || *value == 0x7f)
			return false;
	return true;
}

static bool method_ok(const char *method)
{
	size_t len = strspn(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
	return len > 0 && len <= 20 && !method[len];
}

static bool has_header(const struct acp_outbound_request *request, const char *name)
{
	for (size_t i = 0; i < request->header_count; i++)
		if (strcasecmp(request->headers[i].name, name) == 0)
			return true;
	return false;
}

static bool add_line(struct exchange *x, const char *format, const char *name, const char *value) ACP_PRINTF(2, 0);

static bool add_line(struct exchange *x, const char *format, const char *name, const char *value)
{
	char line[8192];
	int len = snprintf(line, sizeof line, format, name, value);
	struct curl_slist *longer = len < (int)sizeof line ? curl_slist_append(x->headers, line) : NULL;
	acp_wipe(line, strnlen(line, sizeof line)); /* the line may hold a key */
	if (longer)
		x->headers = longer;
	return longer != NULL;
}

/* "Name:" removes a header that libcurl would add; "Name;" sends an empty one. */
static bool add_headers(struct exchange *x)
{
	const struct acp_outbound_request *request = x->request;
	bool ok = add_line(x, "%s:%s", "Expect", "") &&
		  (has_header(request, "Content-Type") || add_line(x, "%s:%s", "Content-Type", ""));
	for (size_t i = 0; ok && i < request->header_count; i++) {
		const char *value = request->headers[i].value + strspn(request->headers[i].value, " \t");
		ok = add_line(x, *value ? "%s: %s" : "%s;%s", request->headers[i].name, value);
	}
	return ok;
}

/* Refuses an invalid request before anything is sent. */
static bool check_request(const struct acp_outbound_request *request, struct acp_outbound_reply *reply)
{
	if (!acp_outbound_url_ok(request->url, request->allow_http, reply->error, sizeof reply->error))
		return false;
	if (!method_ok(request->method)) {
		snprintf(reply->error, sizeof reply->error, "the method is not valid");
		return false;
	}
	for (size_t i = 0; i < request->header_count; i++) {
		if (acp_outbound_header_ok(request->headers[i].name, request->headers[i].value))
			continue;
		snprintf(reply->error, sizeof reply->error,
			 "header %zu contains a character that is not allowed in headers", i + 1);
		return false;
	}
	return true;
}

/* Callbacks of libcurl -------------------------------------------------------------------------------------------- */

static bool address_allowed(struct exchange *x, int family, const void *address)
{
	if (x->request->allow_private || acp_outbound_public(family, address))
		return true;
	if (!inet_ntop(family, address, x->refused, sizeof x->refused))
		snprintf(x->refused, sizeof x->refused, "of family %d", family);
	return false;
}

/* Checks the resolved address at the moment of use. */
static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *to)
{
	struct exchange *x = arg;
	const void *address;
	if (to->family == AF_INET)
		address = &((const struct sockaddr_in *)(const void *)&to->addr)->sin_addr;
	else if (to->family == AF_INET6)
		address = &((const struct sockaddr_in6 *)(const void *)&to->addr)->sin6_addr;
	else
		return CURL_SOCKET_BAD;
	if (purpose != CURLSOCKTYPE_IPCXN || !address_allowed(x, to->family, address))
		return CURL_SOCKET_BAD;
	x->opened = true;
	return socket(to->family, to->socktype | SOCK_CLOEXEC, to->protocol);
}

#if CAN_KEEP
/* Runs before each send. Checks the address of a reused connection, which may have been opened under other rules. Also
 * stops libcurl from repeating a request, which it does when a reused connection dies before the reply begins: only the
 * caller may decide to send again. */
static int before_sending(void *arg, char *to, char *from, int to_port, int from_port)
{
	struct exchange *x = arg;
	uint8_t address[16];
	int family = strchr(to, ':') ? AF_INET6 : AF_INET;
	const char *method = x->request->method;
	(void)from;
	(void)to_port;
	(void)from_port;
	if (inet_pton(family, to, address) != 1 || !address_allowed(x, family, address))
		return CURL_PREREQFUNC_ABORT;
	x->repeated = x->sending && strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0;
	x->sending = true;
	return x->repeated ? CURL_PREREQFUNC_ABORT : CURL_PREREQFUNC_OK;
}
#endif

static size_t receive_body(char *bytes, size_t size, size_t count, void *arg)
{
	struct exchange *x = arg;
	size_t len = size * count;
	x->received += len;
	if (!x->request->status_only)
		acp_buf_add(&x->reply->body, bytes, len);
	if (acp_buf_ok(&x->reply->body) && x->received <= x->request->max_reply)
		return len;
	x->too_long = true;
	return 0;
}

/* Stores the value of a requested header. A new status line drops the headers of an interim reply. */
static size_t receive_header(char *line, size_t size, size_t count, void *arg)
{
	struct exchange *x = arg;
	size_t len = size * count;
	if (len > 5 && strncmp(line, "HTTP/", 5) == 0)
		memset(x->reply->headers, 0, sizeof x->reply->headers);
	for (size_t i = 0; i < ACP_OUTBOUND_KEPT && x->request->reply_headers[i]; i++) {
		const char *name = x->request->reply_headers[i];
		size_t at = strlen(name);
		if (len <= at || line[at] != ':' || strncasecmp(line, name, at) != 0)
			continue;
		for (at++; at < len && (line[at] == ' ' || line[at] == '\t'); at++)
			;
		size_t end = len;
		while (end > at && strchr(" \t\r\n", line[end - 1]))
			end--;
		snprintf(x->reply->headers[i], sizeof x->reply->headers[i], "%.*s", (int)(end - at), line + at);
	}
	return len;
}

int acp_outbound_retry_after(const char *value, int64_t now)
{
	int64_t seconds = 0;
	size_t digits = strspn(value, "0123456789");
	if (digits && !value[digits]) {
		seconds = digits > 9 ? ACP_OUTBOUND_RETRY_MAX : strtoll(value, NULL, 10);
	} else if (isalpha((unsigned char)*value)) { /* curl_getdate() reads more than HTTP dates */
		time_t at = curl_getdate(value, NULL);
		if (at < 0)
			return 0;
		seconds = (int64_t)at - now;
	} else {
		return 0;
	}
	if (seconds < 1)
		return 1;
	return seconds < ACP_OUTBOUND_RETRY_MAX ? (int)seconds : ACP_OUTBOUND_RETRY_MAX;
}

/* Setting up ----------------------------------------------------------------------------------------------------- */

/* If an option cannot be set, the request is not sent: the option may be one that keeps the request safe. */
#define SET(option, value) (x->option_failed = curl_easy_setopt(curl, option, value) != CURLE_OK || x->option_failed)

static void set_limits(CURL *curl, struct exchange *x)
{
	const struct acp_outbound_request *request = x->request;
#if LIBCURL_VERSION_NUM >= 0x075500
	SET(CURLOPT_PROTOCOLS_STR, request->allow_http ? "http,https" : "https");
	SET(CURLOPT_REDIR_PROTOCOLS_STR, "https");
#else
	SET(CURLOPT_PROTOCOLS, request->allow_http ? CURLPROTO_HTTP | CURLPROTO_HTTPS : CURLPROTO_HTTPS);
	SET(CURLOPT_REDIR_PROTOCOLS, CURLPROTO_HTTPS);
#endif
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_PROXY, "");
	SET(CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
	SET(CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
	SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	SET(CURLOPT_HTTP09_ALLOWED, 0L);
	SET(CURLOPT_SSL_VERIFYPEER, 1L);
	SET(CURLOPT_SSL_VERIFYHOST, 2L);
	SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_CONNECTTIMEOUT_MS, (long)request->connect_timeout_ms);
	SET(CURLOPT_TIMEOUT_MS, (long)request->timeout_ms);
	/* Stops an announced long reply at once; receive_body() checks the length in any case. */
	SET(CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)request->max_reply);
#if LIBCURL_VERSION_NUM >= 0x075700
	/* Otherwise a request that ends waits until the resolver gives up, and all others of its thread with it. */
	SET(CURLOPT_QUICK_EXIT, 1L);
#endif
}

static void set_body(CURL *curl, struct exchange *x)
{
	const struct acp_outbound_request *request = x->request;
	if (request->body || strcmp(request->method, "POST") == 0) {
		SET(CURLOPT_POSTFIELDS, request->body ? request->body : "");
		SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)(request->body ? request->body_len : 0));
	} else if (strcmp(request->method, "HEAD") == 0) {
		SET(CURLOPT_NOBODY, 1L);
	}
	SET(CURLOPT_CUSTOMREQUEST, request->method);
}

static void set_hooks(CURL *curl, struct exchange *x)
{
	SET(CURLOPT_ERRORBUFFER, x->curl_error);
	SET(CURLOPT_WRITEFUNCTION, receive_body);
	SET(CURLOPT_WRITEDATA, x);
	SET(CURLOPT_HEADERFUNCTION, receive_header);
	SET(CURLOPT_HEADERDATA, x);
	SET(CURLOPT_OPENSOCKETFUNCTION, open_socket);
	SET(CURLOPT_OPENSOCKETDATA, x);
#if CAN_KEEP
	SET(CURLOPT_PREREQFUNCTION, before_sending);
	SET(CURLOPT_PREREQDATA, x);
#endif
}

/* Each thread's handle, which keeps its connections open. */
static pthread_key_t kept_key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool usable;

static void free_kept(void *curl)
{
	curl_easy_cleanup(curl);
}

/* libcurl does not wipe requests before it frees them, and they hold vendors' keys. */
static void wipe_and_free(void *memory)
{
	if (memory)
		acp_wipe(memory, malloc_usable_size(memory));
	free(memory);
}

/* realloc() might leave a copy in the old memory. */
static void *resize(void *memory, size_t size)
{
	size_t old = memory ? malloc_usable_size(memory) : 0;
	void *moved = malloc(size ? size : 1);
	if (moved && memory) {
		memcpy(moved, memory, old < size ? old : size);
		wipe_and_free(memory);
	}
	return moved;
}

static void init_once(void)
{
	usable = curl_global_init_mem(CURL_GLOBAL_DEFAULT, malloc, wipe_and_free, resize, strdup, calloc) == CURLE_OK &&
		 pthread_key_create(&kept_key, free_kept) == 0;
}

bool acp_outbound_init(void)
{
	return pthread_once(&once, init_once) == 0 && usable;
}

static bool keeps_connection(const struct acp_outbound_request *request)
{
	return CAN_KEEP && request->keep_alive;
}

static CURL *acquire_handle(const struct acp_outbound_request *request)
{
	if (!keeps_connection(request))
		return curl_easy_init();
	CURL *curl = pthread_getspecific(kept_key);
	if (curl) {
		curl_easy_reset(curl); /* the connections stay open */
		return curl;
	}
	curl = curl_easy_init();
	if (curl && pthread_setspecific(kept_key, curl) != 0) {
		curl_easy_cleanup(curl);
		return NULL;
	}
	return curl;
}

static void release_handle(CURL *curl, const struct exchange *x)
{
	/* Otherwise the kept handle would still point to memory that is about to be freed. */
	if (keeps_connection(x->request))
		curl_easy_reset(curl);
	else
		curl_easy_cleanup(curl);
}

/* Sending -------------------------------------------------------------------------------------------------------- */

static bool was_sent(CURL *curl, const struct exchange *x)
{
	long sent = 0;
	return x->repeated || curl_easy_getinfo(curl, CURLINFO_REQUEST_SIZE, &sent) != CURLE_OK || sent > 0;
}

static enum acp_outbound_result classify(CURL *curl, CURLcode code, struct exchange *x)
{
	struct acp_outbound_reply *reply = x->reply;
	long status = 0;
	/* If the status is enough, the rest may be broken or missing. A status below 200 is not the last one. */
	bool enough = code == CURLE_OK || x->request->status_only;
	if (enough && curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status) == CURLE_OK &&
	    status >= (x->request->status_only ? 200 : 1)) {
		reply->status = (int)status;
		return ACP_OUTBOUND_REPLIED;
	}
	if (x->too_long || code == CURLE_FILESIZE_EXCEEDED)
		snprintf(reply->error, sizeof reply->error, "the reply is longer than %zu bytes",
			 x->request->max_reply);
	else if (x->repeated)
		snprintf(reply->error, sizeof reply->error, "the connection was closed before a reply came");
	else if (*x->refused && !x->opened)
		snprintf(reply->error, sizeof reply->error, "the address %s is not on the public internet", x->refused);
	else
		snprintf(reply->error, sizeof reply->error, "%s",
			 *x->curl_error ? x->curl_error : curl_easy_strerror(code));
	if (was_sent(curl, x))
		return ACP_OUTBOUND_UNKNOWN;
	return *x->refused && !x->opened ? ACP_OUTBOUND_REFUSED : ACP_OUTBOUND_FAILED;
}

bool acp_exchange_prepare(struct exchange *x, const struct acp_outbound_request *request,
			  struct acp_outbound_reply *reply)
{
	*x = (struct exchange){.request = request, .reply = reply};
	*reply = (struct acp_outbound_reply){0};
	acp_buf_init(&reply->body, request->max_reply);
	return check_request(request, reply);
}

CURL *acp_exchange_open(struct exchange *x)
{
	CURL *curl = acp_outbound_init() && add_headers(x) ? acquire_handle(x->request) : NULL;
	if (!curl) {
		snprintf(x->reply->error, sizeof x->reply->error, "libcurl cannot be used, or out of memory");
		return NULL;
	}
	SET(CURLOPT_URL, x->request->url);
	SET(CURLOPT_USERAGENT, "acp-fcgi/" ACP_VERSION);
	SET(CURLOPT_HTTPHEADER, x->headers);
	set_limits(curl, x);
	set_body(curl, x);
	set_hooks(curl, x);
	if (!keeps_connection(x->request)) {
		SET(CURLOPT_FRESH_CONNECT, 1L);
		SET(CURLOPT_FORBID_REUSE, 1L);
		SET(CURLOPT_DNS_CACHE_TIMEOUT, 0L);
	}
	if (!x->option_failed)
		return curl;
	snprintf(x->reply->error, sizeof x->reply->error, "libcurl refused an option of the request");
	release_handle(curl, x);
	return NULL;
}

enum acp_outbound_result acp_exchange_close(struct exchange *x, CURL *curl, CURLcode code)
{
	enum acp_outbound_result result = classify(curl, code, x);
	release_handle(curl, x);
	return result;
}

void acp_exchange_release(struct exchange *x)
{
	curl_slist_free_all(x->headers);
	x->headers = NULL;
}

/* The other side may be slow, so another thread serves requests in place of this one meanwhile. */
static CURLcode wait_for_reply(CURL *curl)
{
	acp_thread_blocks();
	CURLcode code = curl_easy_perform(curl);
	acp_thread_goes_on();
	return code;
}

enum acp_outbound_result acp_outbound_send(const struct acp_outbound_request *request, struct acp_outbound_reply *reply)
{
	struct exchange x;
	if (!acp_exchange_prepare(&x, request, reply))
		return ACP_OUTBOUND_REFUSED;
	CURL *curl = acp_exchange_open(&x);
	enum acp_outbound_result result =
		curl ? acp_exchange_close(&x, curl, wait_for_reply(curl)) : ACP_OUTBOUND_FAILED;
	acp_exchange_release(&x);
	return result;
}
