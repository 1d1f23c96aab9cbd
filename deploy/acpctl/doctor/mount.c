/* mount.c - acpctl doctor --url: sends requests to an installation from outside, and names the line of the web server's
 * configuration that corrects a fault. GET /healthz?received reports which parts of a request arrived. */
#include "doctor.h"

#include <curl/curl.h>
#include <ctype.h>
#include <strings.h>
#include <time.h>

/* An address that no host has (RFC 5737). A client that claims it must not be believed. */
#define UNUSED_ADDRESS "192.0.2.77"

/* Web servers ------------------------------------------------------------------------------------------------------ */

/* Selected by the beginning of the header Server. The texts are lines to write. %lld is the number of units. */
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
	 "let the web server accept bodies of %lld bytes", 1},
};

static const struct web_server *find_server(const char *server)
{
	const struct web_server *at = web_servers;
	while (strncasecmp(server, at->name, strlen(at->name)) != 0)
		at++;
	return at;
}

/* Writes the line that allows bodies large enough for acp.fcgi itself to refuse those over its limit. */
static void body_limit_line(const struct acp_config *config, const char *server, char line[192])
{
	const struct web_server *known = find_server(server);
	int64_t wanted = config->max_body_bytes * 2 > 8 << 20 ? config->max_body_bytes * 2 : 8 << 20;
	snprintf(line, 192, known->body_limit, (long long)(wanted / known->unit));
}

/* Requests --------------------------------------------------------------------------------------------------------- */

struct request {
	const char *path;
	const char *header; /* "Name: value", or NULL */
	size_t body_len;    /* 0: GET; else POST of a call that is padded to this length */
	bool chunked;
};

struct reply {
	int status; /* -1: no reply, see why */
	char why[CURL_ERROR_SIZE];
	char server[64], location[256];
	time_t date;    /* of the header; 0: none */
	time_t expires; /* of the certificate; 0: none */
	bool untrusted; /* its certificate */
	struct acp_buf body;
	struct json_object *json; /* NULL: the body is not JSON */
};

static void release_reply(struct reply *reply)
{
	json_object_put(reply->json);
	acp_buf_release(&reply->body);
}

static size_t save_body(char *bytes, size_t one, size_t len, void *arg)
{
	struct reply *reply = arg;
	acp_buf_add(&reply->body, bytes, one * len);
	return acp_buf_ok(&reply->body) ? one * len : 0;
}

/* Copies the value of a header line without surrounding white space. */
static void save_value(const char *line, size_t len, const char *name, char *out, size_t size)
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

static size_t save_header(char *line, size_t one, size_t len, void *arg)
{
	struct reply *reply = arg;
	char date[64] = "";
	save_value(line, one * len, "Server:", reply->server, sizeof reply->server);
	save_value(line, one * len, "Location:", reply->location, sizeof reply->location);
	save_value(line, one * len, "Date:", date, sizeof date);
	if (*date && curl_getdate(date, NULL) > 0)
		reply->date = curl_getdate(date, NULL);
	return one * len;
}

static void save_expiry(CURL *curl, struct reply *reply)
{
	struct curl_certinfo *chain = NULL;
	if (curl_easy_getinfo(curl, CURLINFO_CERTINFO, &chain) != CURLE_OK || !chain || chain->num_of_certs < 1)
		return;
	for (const struct curl_slist *field = chain->certinfo[0]; field; field = field->next)
		if (strncmp(field->data, "Expire date:", 12) == 0 && curl_getdate(field->data + 12, NULL) > 0)
			reply->expires = curl_getdate(field->data + 12, NULL);
}

/* Returns a call without a key, padded to this length. It is valid JSON only if all of it arrives. */
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

static size_t read_upload(char *out, size_t one, size_t len, void *arg)
{
	struct upload *upload = arg;
	size_t part = one * len < upload->left ? one * len : upload->left;
	memcpy(out, upload->at, part);
	upload->at += part;
	upload->left -= part;
	return part;
}

static struct curl_slist *headers_of(const struct request *request)
{
	/* Send no Expect: servers treat it differently, and these checks do not cover it. */
	struct curl_slist *headers = curl_slist_append(NULL, "Expect:");
	if (request->header)
		headers = curl_slist_append(headers, request->header);
	if (request->body_len)
		headers = curl_slist_append(headers, "Content-Type: application/json");
	if (request->chunked)
		headers = curl_slist_append(headers, "Transfer-Encoding: chunked");
	return headers;
}

static void set_options(CURL *curl, const struct request *request, struct reply *reply, struct upload *upload)
{
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_PROXY, "");
	curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1); /* HTTP/1.1 has chunked bodies */
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, 5000L);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, 30000L);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, reply->why);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, save_body);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, reply);
	curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, save_header);
	curl_easy_setopt(curl, CURLOPT_HEADERDATA, reply);
	curl_easy_setopt(curl, CURLOPT_CERTINFO, 1L);
	if (!request->body_len)
		return;
	curl_easy_setopt(curl, CURLOPT_POST, 1L);
	curl_easy_setopt(curl, CURLOPT_READFUNCTION, read_upload);
	curl_easy_setopt(curl, CURLOPT_READDATA, upload);
	if (!request->chunked)
		curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_len);
}

static void read_json(struct reply *reply)
{
	struct acp_json_error error;
	const struct acp_json_limits limits = {1 << 20, 32, 20000};
	if (!reply->body.len || acp_json_parse(reply->body.ptr, reply->body.len, &limits, &reply->json, &error))
		reply->json = NULL;
}

/* Sends a request to url + path. The caller releases the reply with release_reply(). */
static void send_request(const char *url, const struct request *request, struct reply *reply)
{
	char whole[2048];
	long status = 0;
	memset(reply, 0, sizeof *reply);
	acp_buf_init(&reply->body, 1 << 20);
	reply->status = -1;
	char *body = request->body_len ? padded_call(request->body_len) : NULL;
	struct upload upload = {body, request->body_len};
	struct curl_slist *headers = headers_of(request);
	CURL *curl = curl_easy_init();
	if (curl && headers && (body || !request->body_len)) {
		snprintf(whole, sizeof whole, "%s%s", url, request->path);
		curl_easy_setopt(curl, CURLOPT_URL, whole);
		curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
		set_options(curl, request, reply, &upload);
		CURLcode code = curl_easy_perform(curl);
		curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
		/* A server that refuses a body may stop reading it. Its reply still counts. */
		if (code == CURLE_OK || status >= 400)
			reply->status = (int)status;
		else if (!*reply->why)
			acp_copy(reply->why, sizeof reply->why, curl_easy_strerror(code));
		reply->untrusted = code == CURLE_PEER_FAILED_VERIFICATION;
		save_expiry(curl, reply);
		read_json(reply);
	}
	curl_easy_cleanup(curl);
	curl_slist_free_all(headers);
	free(body);
}

/* --- checks ------------------------------------------------------------------------------------------------------- */

static void check_certificate(const char *url, const struct reply *reply)
{
	if (strncasecmp(url, "https://", 8) != 0)
		return;
	double days = difftime(reply->expires, time(NULL)) / 86400;
	if (reply->untrusted)
		ctl_check(false, "certificate", "%s: clients will refuse it; renew it, for example with certbot",
			  reply->why);
	else if (reply->expires && days < 14)
		ctl_check(false, "certificate", "ends in %.0f days: renew it, and set up automatic renewal", days);
	else if (reply->expires)
		ctl_check(true, "certificate", "good for another %.0f days", days);
}

static void check_web_clock(const struct reply *reply)
{
	double skew = reply->date ? difftime(reply->date, time(NULL)) : 0;
	if (reply->date)
		ctl_check(skew > -5 &&
					  skew<5, "clock of web server", "differs from this host by %.0f s%s", skew,
						  skew> -
						  5 &&
					  skew < 5
				  ? ""
				  : ": run an NTP client on both");
}

/* Returns whether acp.fcgi replies at this URL. */
static bool check_alive(const char *url, char server[64])
{
	struct reply reply;
	send_request(url, &(struct request){.path = "/healthz"}, &reply);
	const char *status = acp_json_string(reply.json, "status");
	bool ours = reply.status == 200 && status && strcmp(status, "alive") == 0;
	acp_copy(server, 64, reply.server);
	check_certificate(url, &reply);
	if (ours)
		ctl_check(true, "GET /healthz", "200 from %s", *server ? server : "a server without a name");
	else if (reply.status < 0 && !reply.untrusted)
		ctl_check(false, "GET /healthz", "%s: is the web server up?", reply.why);
	else if (reply.status >= 300 && reply.status < 400)
		ctl_check(false, "GET /healthz", "%d to %s: give that address to --url and to clients (public_url)",
			  reply.status, reply.location);
	else if (reply.status == 502 || reply.status == 503)
		ctl_check(false, "GET /healthz",
			  "%d: the web server does not reach acp.fcgi; does it run, and may the web "
			  "server's user connect to its socket?",
			  reply.status);
	else if (reply.status >= 0)
		ctl_check(false, "GET /healthz", "%d%s: map this path to acp.fcgi", reply.status,
			  reply.status == 200 ? ", but not by acp.fcgi" : "");
	if (ours)
		check_web_clock(&reply);
	release_reply(&reply);
	return ours;
}

static void check_ready(const char *url)
{
	struct reply reply;
	send_request(url, &(struct request){.path = "/readyz"}, &reply);
	ctl_check(reply.status == 200, "GET /readyz", "%d%s", reply.status,
		  reply.status == 200 ? "" : ": see the log of acp.fcgi");
	release_reply(&reply);
}

/* Returns the report of acp.fcgi on a request with this header. Owned by the reply. */
static struct json_object *received(const char *url, const char *header, struct reply *reply)
{
	send_request(url, &(struct request){.path = "/healthz?received", .header = header}, reply);
	return acp_json_member(reply->json, "received");
}

static void check_credentials(const char *url, const char *server)
{
	struct reply reply;
	bool came = acp_json_bool(received(url, "Authorization: Bearer doctor", &reply), "authorization");
	ctl_check(came, "Authorization", "%s%s",
		  came ? "reaches acp.fcgi" : "does not reach acp.fcgi, so agents that send Bearer get 401: ",
		  came ? "" : find_server(server)->authorization);
	release_reply(&reply);
	came = acp_json_bool(received(url, "X-API-Key: doctor", &reply), "x_api_key");
	ctl_check(came, "X-API-Key", "%s",
		  came ? "reaches acp.fcgi"
		       : "does not reach acp.fcgi: let the web server pass it on as HTTP_X_API_KEY");
	release_reply(&reply);
}

/* The address that is recorded and limited must be the client's own, not one that a client claims. */
static void check_address(const struct acp_config *config, const char *url)
{
	struct reply plain, claimed;
	struct json_object *got = received(url, NULL, &plain);
	const char *address = acp_json_string(got, "address");
	bool proxy = acp_json_bool(got, "forwarded_for");
	const char *claim = acp_json_string(received(url, "X-Forwarded-For: " UNUSED_ADDRESS, &claimed), "address");
	bool local = address && (strncmp(address, "127.", 4) == 0 || strcmp(address, "::1") == 0);
	if (!address || !claim)
		ctl_check(false, "client address", "acp.fcgi does not get it: let the web server pass on REMOTE_ADDR");
	else if (proxy && !*config->trusted_proxies)
		ctl_check(false, "client address",
			  "a proxy is in front, and all clients count as %s: trusted_proxies = %s", address, address);
	else if (strcmp(claim, UNUSED_ADDRESS) == 0 && local)
		ctl_check(true, "client address", "%s; X-Forwarded-For is believed from this host (trusted_proxies)",
			  address);
	else if (strcmp(claim, UNUSED_ADDRESS) == 0)
		ctl_check(false, "client address",
			  "anybody's X-Forwarded-For is believed: trusted_proxies must name "
			  "proxies only, and a proxy must add to that header or replace it");
	else
		ctl_check(true, "client address", "%s; a claimed X-Forwarded-For is not believed", address);
	release_reply(&plain);
	release_reply(&claimed);
}

/* Sends a call of this length without a key. code: "" if the reply is not from acp.fcgi. Returns the HTTP status. */
static int send_call(const char *url, size_t len, bool chunked, char code[32], char why[CURL_ERROR_SIZE])
{
	struct reply reply;
	send_request(url, &(struct request){.path = "/api/manage", .body_len = len, .chunked = chunked}, &reply);
	const char *own = acp_json_string(reply.json, "code");
	acp_copy(code, 32, own ? own : "");
	acp_copy(why, CURL_ERROR_SIZE, reply.why);
	int status = reply.status;
	release_reply(&reply);
	return status;
}

/* The longest allowed body must arrive whole: a truncated body must never look like a request. */
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

/* Writes the given address, with url_prefix unless it already ends with it. */
static void base_of(const struct acp_config *config, const char *url, char *base, size_t size)
{
	size_t len = strlen(url), prefix = strlen(config->url_prefix);
	while (len && url[len - 1] == '/')
		len--;
	bool present = len >= prefix && strncmp(url + len - prefix, config->url_prefix, prefix) == 0;
	snprintf(base, size, "%.*s%s", (int)len, url, present ? "" : config->url_prefix);
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
