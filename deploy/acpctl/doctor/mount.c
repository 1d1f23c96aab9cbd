/* mount.c - acpctl doctor --url: sends requests to an installation from outside, and names the line of the web server's
 * configuration that corrects a fault. GET /healthz?received tells what arrived of a request. */
#include "doctor.h"

#include <curl/curl.h>
#include <ctype.h>
#include <strings.h>
#include <time.h>

/* An address that no host has (RFC 5737): a client that claims it must not be believed. */
#define NOBODY "192.0.2.77"

/* Web servers ------------------------------------------------------------------------------------------------------ */

/* By the beginning of the header Server. The texts are lines to write; %lld is the number of units. */
static const struct web_server {
	const char *name, *authorization, *body_limit;
	int64_t unit; /* bytes */
} web_servers[] = {
	{"Apache", "CGIPassAuth On   (in its <Location>)",
	 "LimitRequestBody 0, and with mod_fcgid FcgidMaxRequestLen %lld", 1},
	{"nginx", "fastcgi_pass_request_headers on;   (and no fastcgi_param HTTP_AUTHORIZATION)",
	 "client_max_body_size %lldm;", 1 << 20},
	{"lighttpd", "no setenv.set-request-header and no auth.require for Authorization on this path",
	 "server.max-request-size = %lld   (KiB)", 1 << 10},
	{"Caddy", "no line request_header -Authorization for this path", "request_body { max_size %lldMiB }", 1 << 20},
	{"h2o", "no header.unset for Authorization on this path", "limit-request-body: %lld", 1},
	{"OpenBSD httpd", "no authenticate for this path", "connection max request body %lld", 1},
	{"LiteSpeed", "an extprocessor of type fcgiauth must not take this path", "maxReqBodySize %lld", 1},
	{"", "let the web server pass the header Authorization on as HTTP_AUTHORIZATION",
	 "let the web server take bodies of %lld bytes", 1},
};

static const struct web_server *find_server(const char *server)
{
	const struct web_server *at = web_servers;
	while (strncasecmp(server, at->name, strlen(at->name)) != 0)
		at++;
	return at;
}

/* The line that allows bodies so large that acp.fcgi itself refuses the ones over its limit. */
static void body_limit_line(const struct acp_config *config, const char *server, char line[192])
{
	const struct web_server *known = find_server(server);
	int64_t wanted = config->max_body_bytes * 2 > 8 << 20 ? config->max_body_bytes * 2 : 8 << 20;
	snprintf(line, 192, known->body_limit, (long long)(wanted / known->unit));
}

/* Requests --------------------------------------------------------------------------------------------------------- */

struct question {
	const char *path;
	const char *header; /* "Name: value", or NULL */
	size_t body_len;    /* 0: GET; else POST of a call that is padded to this length */
	bool chunked;
};

struct answer {
	int status; /* -1: no answer, see why */
	char why[CURL_ERROR_SIZE];
	char server[64], location[256];
	time_t date;    /* of the header; 0: none */
	time_t expires; /* of the certificate; 0: none */
	bool untrusted; /* its certificate */
	struct acp_buf body;
	struct json_object *json; /* NULL: the body is not JSON */
};

static void forget(struct answer *answer)
{
	json_object_put(answer->json);
	acp_buf_release(&answer->body);
}

static size_t take_body(char *bytes, size_t one, size_t len, void *arg)
{
	struct answer *answer = arg;
	acp_buf_add(&answer->body, bytes, one * len);
	return acp_buf_ok(&answer->body) ? one * len : 0;
}

/* Copies the value of a header line without the white space around it. */
static void take_value(const char *line, size_t len, const char *name, char *out, size_t size)
{
	size_t name_len = strlen(name);
	if (len <= name_len || strncasecmp(line, name, name_len) != 0)
		return;
	line += name_len;
	len -= name_len;
	while (len && isspace((unsigned char)*line))
		line++, len--;
	while (len && isspace((unsigned char)line[len - 1]))
		len--;
	snprintf(out, size, "%.*s", (int)len, line);
	for (char *c = out; *c; c++)
		if (!isprint((unsigned char)*c))
			*c = '?';
}

static size_t take_header(char *line, size_t one, size_t len, void *arg)
{
	struct answer *answer = arg;
	char date[64] = "";
	take_value(line, one * len, "Server:", answer->server, sizeof answer->server);
	take_value(line, one * len, "Location:", answer->location, sizeof answer->location);
	take_value(line, one * len, "Date:", date, sizeof date);
	if (*date && curl_getdate(date, NULL) > 0)
		answer->date = curl_getdate(date, NULL);
	return one * len;
}

static void take_expiry(CURL *curl, struct answer *answer)
{
	struct curl_certinfo *chain = NULL;
	if (curl_easy_getinfo(curl, CURLINFO_CERTINFO, &chain) != CURLE_OK || !chain || chain->num_of_certs < 1)
		return;
	for (const struct curl_slist *field = chain->certinfo[0]; field; field = field->next)
		if (strncmp(field->data, "Expire date:", 12) == 0 && curl_getdate(field->data + 12, NULL) > 0)
			answer->expires = curl_getdate(field->data + 12, NULL);
}

/* A call without a key, padded to this length: it is valid JSON only if all of it arrives. */
static char *padded_call(size_t len)
{
	static const char call[] = "{\"action\":\"meta.version\",\"params\":{}";
	char *body = malloc(len + 1);
	if (body) {
		memset(body, ' ', len);
		memcpy(body, call, sizeof call - 1);
		body[len - 1] = '}';
		body[len] = '\0';
	}
	return body;
}

struct upload {
	const char *at;
	size_t left;
};

static size_t give_body(char *out, size_t one, size_t len, void *arg)
{
	struct upload *upload = arg;
	size_t part = one * len < upload->left ? one * len : upload->left;
	memcpy(out, upload->at, part);
	upload->at += part;
	upload->left -= part;
	return part;
}

static struct curl_slist *headers_of(const struct question *question)
{
	/* No Expect: servers treat it differently, and it is not part of these checks. */
	struct curl_slist *headers = curl_slist_append(NULL, "Expect:");
	if (question->header)
		headers = curl_slist_append(headers, question->header);
	if (question->body_len)
		headers = curl_slist_append(headers, "Content-Type: application/json");
	if (question->chunked)
		headers = curl_slist_append(headers, "Transfer-Encoding: chunked");
	return headers;
}

static void set_up(CURL *curl, const struct question *question, struct answer *answer, struct upload *upload)
{
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_PROXY, "");
	curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1); /* HTTP/1.1 has chunked bodies */
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, 5000L);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, 30000L);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, answer->why);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, answer);
	curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, take_header);
	curl_easy_setopt(curl, CURLOPT_HEADERDATA, answer);
	curl_easy_setopt(curl, CURLOPT_CERTINFO, 1L);
	if (!question->body_len)
		return;
	curl_easy_setopt(curl, CURLOPT_POST, 1L);
	curl_easy_setopt(curl, CURLOPT_READFUNCTION, give_body);
	curl_easy_setopt(curl, CURLOPT_READDATA, upload);
	if (!question->chunked)
		curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)question->body_len);
}

static void read_json(struct answer *answer)
{
	struct acp_json_error error;
	const struct acp_json_limits limits = {1 << 20, 32, 20000};
	if (!answer->body.len || acp_json_parse(answer->body.ptr, answer->body.len, &limits, &answer->json, &error))
		answer->json = NULL;
}

/* Sends a request to url + path. The caller releases the answer with forget(). */
static void ask(const char *url, const struct question *question, struct answer *answer)
{
	char whole[2048];
	long status = 0;
	memset(answer, 0, sizeof *answer);
	acp_buf_init(&answer->body, 1 << 20);
	answer->status = -1;
	char *body = question->body_len ? padded_call(question->body_len) : NULL;
	struct upload upload = {body, question->body_len};
	struct curl_slist *headers = headers_of(question);
	CURL *curl = curl_easy_init();
	if (curl && headers && (body || !question->body_len)) {
		snprintf(whole, sizeof whole, "%s%s", url, question->path);
		curl_easy_setopt(curl, CURLOPT_URL, whole);
		curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
		set_up(curl, question, answer, &upload);
		CURLcode code = curl_easy_perform(curl);
		curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
		/* A server that refuses a body may stop reading it: its answer counts. */
		if (code == CURLE_OK || status >= 400)
			answer->status = (int)status;
		else if (!*answer->why)
			acp_copy(answer->why, sizeof answer->why, curl_easy_strerror(code));
		answer->untrusted = code == CURLE_PEER_FAILED_VERIFICATION;
		take_expiry(curl, answer);
		read_json(answer);
	}
	curl_easy_cleanup(curl);
	curl_slist_free_all(headers);
	free(body);
}

/* --- checks ------------------------------------------------------------------------------------------------------- */

static void check_certificate(const char *url, const struct answer *answer)
{
	if (strncasecmp(url, "https://", 8) != 0)
		return;
	double days = difftime(answer->expires, time(NULL)) / 86400;
	if (answer->untrusted)
		ctl_check(false, "certificate", "%s: clients will refuse it; renew it, for example with certbot",
			  answer->why);
	else if (answer->expires && days < 14)
		ctl_check(false, "certificate", "ends in %.0f days: renew it, and set up automatic renewal", days);
	else if (answer->expires)
		ctl_check(true, "certificate", "good for another %.0f days", days);
}

static void check_web_clock(const struct answer *answer)
{
	double skew = answer->date ? difftime(answer->date, time(NULL)) : 0;
	if (answer->date)
		ctl_check(skew > -5 &&
					  skew<5, "clock of web server", "differs from this host by %.0f s%s", skew,
						  skew> -
						  5 &&
					  skew < 5
				  ? ""
				  : ": run an NTP client on both");
}

/* Does acp.fcgi answer at this URL? */
static bool check_alive(const char *url, char server[64])
{
	struct answer answer;
	ask(url, &(struct question){.path = "/healthz"}, &answer);
	const char *status = acp_json_string(answer.json, "status");
	bool ours = answer.status == 200 && status && strcmp(status, "alive") == 0;
	acp_copy(server, 64, answer.server);
	check_certificate(url, &answer);
	if (ours)
		ctl_check(true, "GET /healthz", "200 from %s", *server ? server : "a server without a name");
	else if (answer.status < 0 && !answer.untrusted)
		ctl_check(false, "GET /healthz", "%s: is the web server up?", answer.why);
	else if (answer.status >= 300 && answer.status < 400)
		ctl_check(false, "GET /healthz", "%d to %s: give that address to --url and to clients (public_url)",
			  answer.status, answer.location);
	else if (answer.status == 502 || answer.status == 503)
		ctl_check(false, "GET /healthz",
			  "%d: the web server does not reach acp.fcgi; does it run, and may the web "
			  "server's user connect to its socket?",
			  answer.status);
	else if (answer.status >= 0)
		ctl_check(false, "GET /healthz", "%d%s: map this path to acp.fcgi", answer.status,
			  answer.status == 200 ? ", but not by acp.fcgi" : "");
	if (ours)
		check_web_clock(&answer);
	forget(&answer);
	return ours;
}

static void check_ready(const char *url)
{
	struct answer answer;
	ask(url, &(struct question){.path = "/readyz"}, &answer);
	ctl_check(answer.status == 200, "GET /readyz", "%d%s", answer.status,
		  answer.status == 200 ? "" : ": see the log of acp.fcgi");
	forget(&answer);
}

/* The report of acp.fcgi on a request with this header; owned by the answer. */
static struct json_object *received(const char *url, const char *header, struct answer *answer)
{
	ask(url, &(struct question){.path = "/healthz?received", .header = header}, answer);
	return acp_json_member(answer->json, "received");
}

static void check_credentials(const char *url, const char *server)
{
	struct answer answer;
	bool came = acp_json_bool(received(url, "Authorization: Bearer doctor", &answer), "authorization");
	ctl_check(came, "Authorization", "%s%s",
		  came ? "reaches acp.fcgi" : "does not reach acp.fcgi, so agents that send Bearer get 401: ",
		  came ? "" : find_server(server)->authorization);
	forget(&answer);
	came = acp_json_bool(received(url, "X-API-Key: doctor", &answer), "x_api_key");
	ctl_check(came, "X-API-Key", "%s",
		  came ? "reaches acp.fcgi"
		       : "does not reach acp.fcgi: let the web server pass it on as HTTP_X_API_KEY");
	forget(&answer);
}

/* The address that is recorded and limited must be the client's, and not one that a client claims. */
static void check_address(const struct acp_config *config, const char *url)
{
	struct answer plain, claimed;
	struct json_object *got = received(url, NULL, &plain);
	const char *address = acp_json_string(got, "address");
	bool proxy = acp_json_bool(got, "forwarded_for");
	const char *claim = acp_json_string(received(url, "X-Forwarded-For: " NOBODY, &claimed), "address");
	bool local = address && (strncmp(address, "127.", 4) == 0 || strcmp(address, "::1") == 0);
	if (!address || !claim)
		ctl_check(false, "client address", "acp.fcgi does not get it: let the web server pass on REMOTE_ADDR");
	else if (proxy && !*config->trusted_proxies)
		ctl_check(false, "client address",
			  "a proxy is in front, and all clients count as %s: trusted_proxies = %s", address, address);
	else if (strcmp(claim, NOBODY) == 0 && local)
		ctl_check(true, "client address", "%s; X-Forwarded-For is believed from this host (trusted_proxies)",
			  address);
	else if (strcmp(claim, NOBODY) == 0)
		ctl_check(false, "client address",
			  "anybody's X-Forwarded-For is believed: trusted_proxies must name "
			  "proxies only, and a proxy must add to that header or replace it");
	else
		ctl_check(true, "client address", "%s; a claimed X-Forwarded-For is not believed", address);
	forget(&plain);
	forget(&claimed);
}

/* Sends a call of that length without a key; code: "" if the answer is not from acp.fcgi. Returns the HTTP status. */
static int send_call(const char *url, size_t len, bool chunked, char code[32], char why[CURL_ERROR_SIZE])
{
	struct answer answer;
	ask(url, &(struct question){.path = "/api/manage", .body_len = len, .chunked = chunked}, &answer);
	const char *own = acp_json_string(answer.json, "code");
	acp_copy(code, 32, own ? own : "");
	acp_copy(why, CURL_ERROR_SIZE, answer.why);
	int status = answer.status;
	forget(&answer);
	return status;
}

/* The longest allowed body must arrive whole: a body that was cut must never look like a request. */
static void check_allowed_body(const struct acp_config *config, const char *url, const char *server)
{
	char code[32], line[192], why[CURL_ERROR_SIZE];
	long long size = (long long)config->max_body_bytes;
	int status = send_call(url, (size_t)size, false, code, why);
	body_limit_line(config, server, line);
	if (strcmp(code, "INVALID_API_KEY") == 0)
		ctl_check(true, "largest body", "%lld bytes arrive whole", size);
	else if (strcmp(code, "VALIDATION_ERROR") == 0)
		ctl_check(false, "largest body", "of %lld bytes only a part arrives: %s", size, line);
	else if (status == 404 || status == 405)
		ctl_check(false, "largest body", "POST /api/manage is answered %d: map /api to acp.fcgi", status);
	else if (status < 0)
		ctl_check(false, "largest body", "of %lld bytes: %s: %s", size, why, line);
	else
		ctl_check(false, "largest body", "of %lld bytes is answered %d by the web server: %s", size, status,
			  line);
}

static void check_refused_body(const struct acp_config *config, const char *url, const char *server)
{
	char code[32], line[192], why[CURL_ERROR_SIZE];
	long long size = (long long)config->max_body_bytes + 1;
	int status = send_call(url, (size_t)size, false, code, why);
	body_limit_line(config, server, line);
	if (strcmp(code, "PAYLOAD_TOO_LARGE") == 0)
		ctl_check(true, "body that is too large", "413 PAYLOAD_TOO_LARGE");
	else if (status == 413)
		ctl_check(true, "body that is too large",
			  "413 by the web server; for an audit row and a JSON reply: %s", line);
	else if (*code)
		ctl_check(false, "body that is too large", "of %lld bytes is cut and passed on (%s): %s", size, code,
			  line);
	else
		ctl_check(false, "body that is too large", "%d instead of 413%s%s: %s", status, *why ? ": " : "", why,
			  line);
}

/* A web server either passes a chunked body on with its length, or refuses it with 411. */
static void check_chunked_body(const char *url)
{
	char code[32], why[CURL_ERROR_SIZE];
	int status = send_call(url, 1000, true, code, why);
	bool whole = strcmp(code, "INVALID_API_KEY") == 0;
	if (whole || status == 411)
		ctl_check(true, "chunked body", "%s", whole ? "arrives whole" : "is refused with 411");
	else if (status < 0)
		ctl_check(false, "chunked body", "no answer: %s", why);
	else
		ctl_check(false, "chunked body",
			  "%d %s: it does not arrive whole; let the web server buffer bodies or refuse chunked ones "
			  "with 411",
			  status, code);
}

/* The given address, with url_prefix unless it ends so already. */
static void base_of(const struct acp_config *config, const char *url, char *base, size_t size)
{
	size_t len = strlen(url), prefix = strlen(config->url_prefix);
	while (len && url[len - 1] == '/')
		len--;
	bool has = len >= prefix && strncmp(url + len - prefix, config->url_prefix, prefix) == 0;
	snprintf(base, size, "%.*s%s", (int)len, url, has ? "" : config->url_prefix);
}

void doctor_mount(const struct acp_config *config, const char *url)
{
	char base[1024], server[64];
	base_of(config, url, base, sizeof base);
	if (!check_alive(base, server))
		return;
	check_ready(base);
	check_credentials(base, server);
	check_address(config, base);
	check_allowed_body(config, base, server);
	check_refused_body(config, base, server);
	check_chunked_body(base);
}
