/* POST /console/operator/session and GET /console/operator/data - the operator's view of the console. The link that
 * acpctl console prints can be exchanged once for a session of one hour. Link and session are random tokens, sent as
 * Bearer tokens. The database stores only their hashes (sql/functions/82_console.sql). */
#include "endpoints.h"

#include "envelope.h"
#include "journal.h"

enum { TOKEN_LEN = 32, TOKEN_HEX = 2 * TOKEN_LEN };

/* Hashes a token to hex. False: it is not a token. */
static bool hash_token(const char *token, char hex[ACP_SHA256_HEX])
{
	uint8_t hash[ACP_SHA256_LEN];
	if (!token || strlen(token) != TOKEN_HEX || strspn(token, "0123456789abcdef") != TOKEN_HEX)
		return false;
	acp_sha256(token, TOKEN_HEX, hash);
	acp_hex(hash, sizeof hash, hex);
	return true;
}

static void answer(const struct acp_http *http, enum acp_code code, const char *error, const char *field,
		   struct json_object *body, struct acp_response *response)
{
	struct acp_reply reply = {.code = code, .http = acp_code_http(code), .body = body};
	reply.retry_after = acp_code_retry_after(code);
	if (code == ACP_OK) {
		acp_json_add(body, "ok", json_object_new_boolean(true));
		acp_json_add_string(body, "request_id", http->request_id);
	} else {
		json_object_put(body);
		reply.body = acp_error_body(code, http->request_id, error, field);
	}
	acp_http_reply(http, &reply, response);
}

/* Calls the control plane, and releases what. */
static enum acp_code call_plane(const struct acp_kernel *kernel, acp_plane_question *question, struct json_object *what,
				struct json_object **reply, struct acp_refusal *refusal)
{
	enum acp_code code = what ? question(kernel->plane->self, what, reply, refusal) : ACP_INTERNAL_ERROR;
	json_object_put(what);
	return code;
}

static const char no_link[] = "send the token of the link as Authorization: Bearer; acpctl console prints a link";

static void open_session(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	uint8_t random[TOKEN_LEN];
	char token[TOKEN_HEX + 1], link[ACP_SHA256_HEX], session[ACP_SHA256_HEX];
	struct acp_refusal refusal = {.message = ""};
	struct json_object *reply = NULL;
	if (strcmp(http->method, "POST") != 0) {
		response->allow = "POST";
		acp_http_error(http, ACP_METHOD_NOT_ALLOWED, "use POST here", response);
		return;
	}
	if (!hash_token(http->bearer, link)) {
		answer(http, ACP_INVALID_API_KEY, no_link, "", NULL, response);
		return;
	}
	acp_random(random, sizeof random);
	acp_hex(random, sizeof random, token);
	struct json_object *what = json_object_new_object();
	if (what && hash_token(token, session)) {
		acp_json_add_string(what, "link", link);
		acp_json_add_string(what, "session", session);
	}
	enum acp_code code = call_plane(kernel, kernel->plane->console.open, what, &reply, &refusal);
	if (code == ACP_OK && !acp_json_add_secret(reply, "session", token))
		code = ACP_INTERNAL_ERROR;
	answer(http, code, refusal.message, "", reply, response);
	acp_wipe(random, sizeof random);
	acp_wipe(token, sizeof token);
}

/* Adds the state of the journal on this host's disk. */
static void add_journal(const struct acp_kernel *kernel, struct json_object *body)
{
	struct acp_journal_waiting waiting = {0};
	struct json_object *journal = json_object_new_object();
	if (*kernel->config->journal_dir)
		waiting = acp_journal_waiting(kernel->config->journal_dir);
	if (!journal)
		return;
	acp_json_add(journal, "rows", json_object_new_int64((int64_t)waiting.rows));
	acp_json_add(journal, "bytes", json_object_new_int64((int64_t)waiting.bytes));
	acp_json_add(journal, "bad_files", json_object_new_int64((int64_t)waiting.bad));
	acp_json_add(body, "journal", journal);
}

static void show_data(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	char session[ACP_SHA256_HEX], period[16] = "";
	struct acp_refusal refusal = {.message = ""};
	struct json_object *reply = NULL;
	if (!acp_http_require_get(http, response))
		return;
	if (!hash_token(http->bearer, session)) {
		answer(http, ACP_INVALID_API_KEY, no_link, "", NULL, response);
		return;
	}
	bool asked = acp_http_query_has(http, "period");
	if (asked && (!acp_http_query(http, "period", period, sizeof period) || !acp_period_ok(period))) {
		answer(http, ACP_VALIDATION_ERROR, "period must be a month like 2026-11", "/period", NULL, response);
		return;
	}
	struct json_object *what = json_object_new_object();
	if (what) {
		acp_json_add_string(what, "session", session);
		acp_json_add_string(what, "period", asked ? period : NULL);
		acp_json_add(what, "free_limit", json_object_new_int64(kernel->config->free_calls_limit));
	}
	enum acp_code code = call_plane(kernel, kernel->plane->console.data, what, &reply, &refusal);
	if (code == ACP_OK)
		add_journal(kernel, reply);
	answer(http, code, refusal.message, "", reply, response);
}

void acp_endpoint_operator(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	const char *part = http->path + strlen("/console/operator/");
	if (!kernel->plane->console.open)
		acp_http_error(http, ACP_NOT_FOUND, "this installation has no database to show", response);
	else if (strcmp(part, "session") == 0)
		open_session(kernel, http, response);
	else if (strcmp(part, "data") == 0)
		show_data(kernel, http, response);
	else
		acp_http_nothing(http, kernel->config, "no such path; the console is at %/console", response);
}
