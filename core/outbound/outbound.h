/* outbound.h - HTTP requests that the program itself makes: http actions, webhooks, a remote hub or executor.
 * outbound.c is the only file of core/ that speaks libcurl.
 *
 * A request goes to exactly the URL given: no redirects, no proxies from the environment, no credentials in the
 * URL. The address that the name resolved to is checked when the socket is opened, so that a name cannot change its
 * mind between check and use. Private, loopback, link-local, multicast and translated addresses are refused unless
 * allowed. */
#ifndef ACP_OUTBOUND_H
#define ACP_OUTBOUND_H

#include "attr.h"
#include "buf.h"

struct acp_header {
	const char *name;
	const char *value; /* one with CR, LF or NUL makes the request fail before it is sent */
};

enum { ACP_OUTBOUND_KEPT = 3 }; /* headers of a reply that can be asked for */

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
	bool allow_private; /* private and loopback addresses are meant */
	bool allow_http;    /* plain http:// is meant; else only https:// */
	/* Names of headers whose values the reply tells, up to a NULL where they are fewer. */
	const char *reply_headers[ACP_OUTBOUND_KEPT];
	bool keep_alive; /* reuse a connection to the same host from this thread: only for hosts of the operator's */
};

/* A request is sent once at most, also where a kept connection turns out to be dead: what is worth another try is for
 * the caller to decide. (GET and HEAD excepted, which libcurl repeats on a fresh connection.) */

enum acp_outbound_result {
	ACP_OUTBOUND_REPLIED, /* reply.status is an HTTP status, whatever it is */
	ACP_OUTBOUND_REFUSED, /* not sent: URL, header or address not allowed */
	ACP_OUTBOUND_FAILED,  /* not sent: no connection */
	ACP_OUTBOUND_UNKNOWN, /* sent at least in part, no usable reply: what happened there is not known */
};

struct acp_outbound_reply {
	int status;
	struct acp_buf body; /* initialised by acp_outbound_send; release it with acp_buf_release in every case */
	char headers[ACP_OUTBOUND_KEPT][64]; /* values of reply_headers, cut; "" where there is none */
	char error[256];                     /* sentence for the log; names no secret, and not the URL's query */
};

/* Once in each process, before threads. False: libcurl cannot be used. */
bool acp_outbound_init(void) ACP_MUSTCHECK;

enum acp_outbound_result acp_outbound_send(const struct acp_outbound_request *request,
					   struct acp_outbound_reply *reply) ACP_MUSTCHECK;

/* Can such a URL be asked at all? Else a sentence in why. Says nothing of where its name leads. */
bool acp_outbound_url_ok(const char *url, bool allow_http, char *why, size_t why_size) ACP_MUSTCHECK;

/* May a header have this name (a token of RFC 9110) and this value (no control characters)? */
bool acp_outbound_header_ok(const char *name, const char *value) ACP_MUSTCHECK;

/* Is the address (network byte order, 4 or 16 bytes) one of the public internet? Covers IPv4-mapped, NAT64 and 6to4. */
bool acp_outbound_public(int family, const void *address);

#endif
