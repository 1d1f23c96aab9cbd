/* http.h - one HTTP exchange as endpoints see it: a request made from CGI variables, and the response to write.
 * Independent of FastCGI. */
#ifndef ACP_HTTP_H
#define ACP_HTTP_H

#include "address.h"
#include "buf.h"
#include "pipeline.h"

enum { ACP_PATH_MAX = 2048 };

struct acp_exchange;
struct acp_response;

/* For an endpoint that answers after it has returned. It sets *taken; later it fills response and calls finish. */
struct acp_later {
	bool *taken; /* read when the endpoint returns; invalid after that */
	struct acp_response *response;
	struct acp_exchange *exchange;
	void (*finish)(struct acp_exchange *exchange); /* writes the response; the exchange may be gone afterwards */
	struct acp_call *call;                         /* memory for a call */
};

struct acp_http {
	struct acp_request request; /* the input of core; strings live as long as the exchange */
	char request_id[ACP_UUID_LEN];
	char method[24];
	char path[ACP_PATH_MAX + 1];   /* of REQUEST_URI: without query and url_prefix, decoded; "" if refused */
	char address[ACP_ADDRESS_MAX]; /* of the client; "" if unknown */
	const char *query;             /* raw query string, "" if there is none */
	const char *bearer;            /* of Authorization: Bearer, if that is the only credential; otherwise NULL */
	const char *stripe_signature;  /* the header Stripe-Signature; NULL: none, or several */
	bool wants_problem;            /* Accept: application/problem+json */
	bool forwarded;                /* a proxy header names the client, trusted or not */
	bool wants_html;               /* Accept: text/html */
	struct acp_later later;
};

struct acp_response {
	int status;
	const char *content_type;
	struct acp_buf body;
	const char *headers; /* extra headers, each with its line end; NULL = none */
	const char *cache;   /* Cache-Control; NULL = no-store */
	char location[2048]; /* "" = none */
	const char *allow;   /* NULL = none */
	int retry_after;     /* 0 = none */
	bool replayed;
	char idempotency_key[ACP_UUID_LEN]; /* "" = none */
	struct acp_rate rate;               /* window 0 = none */

	/* for the log line and the metrics */
	size_t endpoint; /* see acp_paths_names() */
	enum acp_code outcome;
	const char *code;
	const char *action;
	char tenant_id[ACP_UUID_LEN];
	char key_shown[ACP_KEY_SHOWN + 1];
};

/* Answers one path. Fills the response; never fails. */
typedef void acp_endpoint(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response);

/* Fills http from a NULL-terminated array of NAME=VALUE. The values are borrowed. */
void acp_http_read(struct acp_http *http, char **variables, const struct acp_config *config);

/* Turns a reply of core into the response, as problem+json if the client asked for it. Releases the body. */
void acp_http_reply(const struct acp_http *http, struct acp_reply *reply, struct acp_response *response);

/* Makes an error response from a code and a sentence. */
void acp_http_error(const struct acp_http *http, enum acp_code code, const char *error, struct acp_response *response);

/* Makes a 404 response that suggests other paths; % in error is replaced with url_prefix. */
void acp_http_nothing(const struct acp_http *http, const struct acp_config *config, const char *error,
		      struct acp_response *response);

/* Returns true for GET and HEAD; otherwise makes a 405 response. */
bool acp_http_require_get(const struct acp_http *http, struct acp_response *response);

/* Copies the decoded value of a query parameter. False: it is missing, repeated, malformed or too long. */
bool acp_http_query(const struct acp_http *http, const char *name, char *out, size_t size);

/* True if the query has a parameter of this name. */
bool acp_http_query_has(const struct acp_http *http, const char *name);

/* Returns the reason phrase of a status code. */
const char *acp_http_reason(int status);

#endif
