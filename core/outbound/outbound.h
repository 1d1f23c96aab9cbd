/* outbound.h - HTTP requests that the program itself makes: to http actions, webhooks, a remote hub or executor.
 * outbound.c and outbound_many.c are the only files of core/ that use libcurl.
 *
 * A request goes to exactly the given URL: without redirects, without proxies from the environment, and without
 * credentials in the URL. The resolved address is checked when the socket is opened, so that a name cannot resolve
 * differently between check and use. Private, loopback, link-local, multicast and translated addresses are refused
 * unless allowed. */
#ifndef ACP_OUTBOUND_H
#define ACP_OUTBOUND_H

#include "attr.h"
#include "buf.h"

struct acp_header {
	const char *name;
	const char *value; /* a value with CR, LF or NUL makes the request fail before it is sent */
};

enum { ACP_OUTBOUND_KEPT = 3 }; /* number of reply headers that can be requested */

struct acp_outbound_request {
	const char *method; /* "POST", "GET", … */
	const char *url;
	const struct acp_header *headers;
	size_t header_count;
	const char *body; /* NULL: none */
	size_t body_len;
	int connect_timeout_ms;
	int timeout_ms;     /* of the whole exchange */
	size_t max_reply;   /* bytes; a longer reply fails */
	bool allow_private; /* allow private and loopback addresses */
	bool allow_http;    /* allow plain http://; otherwise only https:// */
	/* Names of the reply headers to return; NULL ends a shorter list. */
	const char *reply_headers[ACP_OUTBOUND_KEPT];
	bool keep_alive; /* reuse this thread's connection to the same host: only for hosts that the operator runs */
	/* Only the status of the reply matters: a reply with a final status counts, however its rest ends. At most
	 * max_reply bytes of the body are read, and none is returned. */
	bool status_only;
};

/* A request is sent at most once, even when a reused connection turns out to be dead: the caller decides whether to
 * retry. (GET and HEAD are exceptions: libcurl repeats them on a new connection.) */

enum acp_outbound_result {
	ACP_OUTBOUND_REPLIED, /* reply.status is the HTTP status, success or not */
	ACP_OUTBOUND_REFUSED, /* not sent: URL, header or address not allowed */
	ACP_OUTBOUND_FAILED,  /* not sent: no connection */
	ACP_OUTBOUND_UNKNOWN, /* sent at least in part, without a usable reply: the effect is unknown */
};

struct acp_outbound_reply {
	int status;
	struct acp_buf body; /* initialised by acp_outbound_send; release it with acp_buf_release in every case */
	char headers[ACP_OUTBOUND_KEPT][64]; /* values of reply_headers, truncated; "" for a missing header */
	char error[256];                     /* sentence for the log; contains no secrets and not the URL's query */
};

/* Call once in each process, before any thread starts. False: libcurl cannot be used. */
bool acp_outbound_init(void) ACP_MUSTCHECK;

enum acp_outbound_result acp_outbound_send(const struct acp_outbound_request *request,
					   struct acp_outbound_reply *reply) ACP_MUSTCHECK;

/* Reads the value of a Retry-After header: seconds, or an HTTP date, as seconds from now (seconds since 1970). Returns
 * 1 to ACP_OUTBOUND_RETRY_MAX, or 0 if there is none that can be read. */
enum { ACP_OUTBOUND_RETRY_MAX = 86400 };
int acp_outbound_retry_after(const char *value, int64_t now);

/* Checks a URL. If it is not acceptable, writes a sentence to why. Does not check the address that the host name
 * resolves to. */
bool acp_outbound_url_ok(const char *url, bool allow_http, char *why, size_t why_size) ACP_MUSTCHECK;

/* Is this a valid header? The name must be a token of RFC 9110; the value must not contain control characters. */
bool acp_outbound_header_ok(const char *name, const char *value) ACP_MUSTCHECK;

/* Is the address (network byte order, 4 or 16 bytes) on the public internet? Covers IPv4-mapped, NAT64 and 6to4
 * addresses. */
bool acp_outbound_public(int family, const void *address);

#endif
