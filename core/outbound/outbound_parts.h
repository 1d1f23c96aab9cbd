/* outbound_parts.h - one exchange over libcurl, shared by the one request at a time of outbound.c and the many of
 * outbound_many.c. Whatever keeps a request safe is set here, so that it holds for both. */
#ifndef ACP_OUTBOUND_PARTS_H
#define ACP_OUTBOUND_PARTS_H

#include "outbound.h"

#include <arpa/inet.h>
#include <curl/curl.h>

struct exchange {
	bool option_failed; /* a libcurl option could not be set */
	const struct acp_outbound_request *request;
	struct acp_outbound_reply *reply;
	struct curl_slist *headers;
	size_t received; /* bytes of the body */
	char curl_error[CURL_ERROR_SIZE];
	char refused[INET6_ADDRSTRLEN]; /* the last address that was not allowed; "" = none */
	bool opened;                    /* a socket to an allowed address was opened */
	bool sending;                   /* the connection was established and sending began */
	bool repeated;                  /* libcurl was about to send a second time */
	bool too_long;
};

/* Begins an exchange. request and reply are borrowed until it is released; the body of reply is initialised in every
 * case. False: the request is refused, and reply->error says why; nothing needs to be released. */
bool acp_exchange_prepare(struct exchange *x, const struct acp_outbound_request *request,
			  struct acp_outbound_reply *reply) ACP_MUSTCHECK;

/* Makes the handle of a prepared exchange, which points to *x: do not move it. NULL: reply->error says why. */
CURL *acp_exchange_open(struct exchange *x) ACP_MUSTCHECK;

/* Reads the reply of a transfer that ended with code, and releases the handle. */
enum acp_outbound_result acp_exchange_close(struct exchange *x, CURL *curl, CURLcode code) ACP_MUSTCHECK;

/* Releases what a prepared exchange holds, after it was closed or could not be opened. */
void acp_exchange_release(struct exchange *x);

#endif
