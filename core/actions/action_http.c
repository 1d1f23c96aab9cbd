#include "action_http.h"

#include "call.h"
#include "log.h"
#include "redact.h"
#include "share.h"
#include "subkey.h"

#include <ctype.h>
#include <strings.h>
#include <time.h>

enum {
	CONNECT_MS = 3000,
	BODY_MAX = 64 << 20,
	ERROR_MAX = 200, /* bytes of an upstream's error text, and of its field, that are shown or logged */
	META_MAX = 4096, /* bytes of result_meta, which describes the result and must not contain it */
	OWN_HEADERS = 4,
};

bool acp_upstream_header_taken(const char *name)
{
	static const char *const taken[] = {"Content-Type",   "X-Request-Id",      "Idempotency-Key", "traceparent",
					    "Content-Length", "Transfer-Encoding", "Connection",      "Expect"};
	for (size_t i = 0; i < ACP_COUNT(taken); i++)
		if (strcasecmp(taken[i], name) == 0)
			return true;
	return false;
}

/* Request ------------------------------------------------------------------------------------------------------- */

/* The key by which the upstream can recognise a repeated call. NULL: the call has none, or is a dry run, which must not
 * be mistaken for the real call. */
static const char *get_key(const struct acp_call *call)
{
	return call->idempotency_key && !call->dry_run ? call->idempotency_key : NULL;
}

static bool make_body(const struct acp_call *call, struct json_object *params, struct acp_buf *out)
{
	size_t len = 0;
	const char *key = get_key(call);
	struct json_object *body = json_object_new_object();
	bool ok =
		body && acp_json_add_string(body, "action", call->entry->action->name) &&
		acp_json_add(body, "params", json_object_get(params)) &&
		acp_json_add(body, "dry_run", json_object_new_boolean(call->dry_run)) &&
		acp_json_add_string(body, "tenant_id", call->principal.tenant_id) &&
		acp_json_add_string(body, "request_id", call->request->request_id) &&
		(key ? acp_json_add_string(body, "idempotency_key", key) : acp_json_add_null(body, "idempotency_key"));
	const char *text = ok ? acp_json_text(body, JSON_C_TO_STRING_PLAIN, &len) : NULL;
	acp_buf_init(out, BODY_MAX);
	if (text)
		acp_buf_add(out, text, len);
	json_object_put(body);
	return text && acp_buf_ok(out);
}

/* The key in the header is scoped: two tenants, or two actions, that chose the same key must not be taken for one
 * caller by an upstream. It is the same for every repetition of the call, in every process, and nobody else can guess
 * it. A call without a key gets one from its event's id, which a reply with an unknown outcome names as the key to
 * repeat it with. */
static void make_key_header(const struct acp_call *call, char out[ACP_SHA256_HEX])
{
	char parts[2048];
	const char *key = get_key(call);
	const struct acp_config *config = call->kernel->config;
	int len = snprintf(parts, sizeof parts, "%.500s|%s|%s|%.1024s", config->kernel_id, call->principal.tenant_id,
			   call->entry->action->name, key ? key : call->event_id);
	acp_subkey_hex(config->key_pepper, ACP_FOR_UPSTREAM_KEY, parts, (size_t)len, out);
}

static size_t make_headers(const struct acp_call *call, const char *key,
			   struct acp_header out[OWN_HEADERS + ACP_UPSTREAM_HEADERS])
{
	char trace_id[33];
	const struct acp_upstream *upstream = call->entry->action->upstream;
	size_t count = 0;
	out[count++] = (struct acp_header){"Content-Type", "application/json"};
	out[count++] = (struct acp_header){"X-Request-Id", call->request->request_id};
	out[count++] = (struct acp_header){"Idempotency-Key", key};
	if (acp_audit_trace_id(call->request->traceparent, trace_id))
		out[count++] = (struct acp_header){"traceparent", call->request->traceparent};
	for (size_t i = 0; i < upstream->header_count; i++)
		out[count++] = upstream->headers[i];
	return count;
}

static enum acp_outbound_result send_call(const struct acp_call *call, const struct acp_buf *body,
					  struct acp_outbound_reply *reply)
{
	char key[ACP_SHA256_HEX];
	struct acp_header headers[OWN_HEADERS + ACP_UPSTREAM_HEADERS];
	const struct acp_upstream *upstream = call->entry->action->upstream;
	make_key_header(call, key);
	const struct acp_outbound_request request = {
		.method = upstream->method,
		.url = upstream->url,
		.headers = headers,
		.header_count = make_headers(call, key, headers),
		.body = body->ptr,
		.body_len = body->len,
		.connect_timeout_ms = upstream->timeout_ms < CONNECT_MS ? upstream->timeout_ms : CONNECT_MS,
		.timeout_ms = upstream->timeout_ms,
		.max_reply = upstream->max_reply,
		.allow_private = upstream->allow_private,
		.allow_http = upstream->allow_http,
		.reply_headers = {"Retry-After"},
		.keep_alive = true,
	};
	return acp_outbound_send(&request, reply);
}

/* Reply ---------------------------------------------------------------------------------------------------------- */

/* Tells the caller that the upstream failed, and logs the details for the operator. */
static enum acp_code upstream_failed(struct acp_call *call, const char *sentence, const char *format, ...)
	ACP_PRINTF(3, 4);

static enum acp_code upstream_failed(struct acp_call *call, const char *sentence, const char *format, ...)
{
	char detail[512];
	va_list args;
	va_start(args, format);
	vsnprintf(detail, sizeof detail, format, args);
	va_end(args);
	acp_log(ACP_LOG_WARNING, "action %s: the upstream failed: %s; request %s", call->entry->action->name, detail,
		call->request->request_id);
	return acp_call_fail(call, ACP_UPSTREAM_FAILED, NULL, "%s", sentence);
}

/* Copies text without credentials, cut at a character boundary. */
static void copy_clean(const struct acp_call *call, const char *text, size_t text_len, char out[256])
{
	struct acp_buf clean;
	acp_buf_init(&clean, BODY_MAX);
	acp_redact_text(&clean, text, text_len, call->kernel->config->api_key_prefix);
	size_t len = acp_buf_ok(&clean) ? clean.len : 0;
	if (len > ERROR_MAX)
		for (len = ERROR_MAX; len > 0 && ((unsigned char)clean.ptr[len] & 0xc0) == 0x80; len--)
			;
	snprintf(out, 256, "%.*s", (int)len, len ? clean.ptr : "");
	acp_buf_release(&clean);
}

static bool is_empty(const struct acp_buf *body)
{
	for (size_t i = 0; i < body->len; i++)
		if (!strchr(" \t\r\n", body->ptr[i]) || !body->ptr[i])
			return false;
	return true;
}

/* Reads every document that RFC 8259 permits: the upstream has acted, so a reply that others can read must not make the
 * call a failure. An empty body is null. The size of the body bounds the number of values. */
static bool read_json(const struct acp_outbound_reply *reply, struct json_object **document,
		      struct acp_json_error *error)
{
	*document = NULL;
	if (reply->status == 204 || reply->status == 205 || is_empty(&reply->body))
		return true;
	return acp_json_parse_any(reply->body.ptr, reply->body.len, document, error) == ACP_JSON_OK;
}

/* result_meta goes into the audit row: it must be short, free of credentials, and something that PostgreSQL can store,
 * which is less than what RFC 8259 permits. */
static bool copy_meta(const struct acp_call *call, struct json_object *meta, struct acp_result *result)
{
	size_t len;
	struct acp_json_error ignored;
	struct json_object *storable = NULL;
	const char *text =
		json_object_is_type(meta, json_type_object) ? acp_json_text(meta, JSON_C_TO_STRING_SPACED, &len) : NULL;
	bool ok = text && len <= META_MAX && acp_json_parse_own(text, len, &storable, &ignored) == ACP_JSON_OK &&
		  acp_redact_copy(storable, call->kernel->config->api_key_prefix, &result->meta);
	json_object_put(storable);
	return ok;
}

/* Reads a whole number from 0 to 2^53, in whatever form it is written: 1, 1.0 and 1e0 are the same. */
static bool read_quantity(struct json_object *value, int64_t *quantity)
{
	const int64_t most = 1LL << 53;
	bool number = json_object_is_type(value, json_type_int) || json_object_is_type(value, json_type_double);
	double given = number ? json_object_get_double(value) : -1;
	if (!(given >= 0 && given <= (double)most) || (double)(int64_t)given != given)
		return false;
	*quantity = (int64_t)given;
	return true;
}

static enum acp_code read_result(struct acp_call *call, struct json_object *document, struct acp_result *result)
{
	struct json_object *data = NULL;
	struct json_object *quantity = acp_json_member(document, "quantity");
	struct json_object *meta = acp_json_member(document, "result_meta");
	if (!json_object_is_type(document, json_type_object) || !json_object_object_get_ex(document, "data", &data)) {
		result->data = json_object_get(document);
		return ACP_OK;
	}
	if (quantity && !read_quantity(quantity, &result->quantity))
		return upstream_failed(call, acp_call_may_have_acted, "quantity is not a whole number from 0 to 2^53");
	if (meta && !copy_meta(call, meta, result))
		return upstream_failed(call, acp_call_may_have_acted,
				       "result_meta is not an object of at most %d bytes that can be stored", META_MAX);
	result->data = json_object_get(data);
	return ACP_OK;
}

/* The sentence of an error reply: the member error, as a text or an object with a message, or what RFC 9457 and other
 * common forms call it. NULL: none. */
static const char *find_sentence(struct json_object *document)
{
	static const char *const names[] = {"error", "detail", "message", "error_description", "title"};
	const char *text = acp_json_string(acp_json_member(document, "error"), "message");
	for (size_t i = 0; i < ACP_COUNT(names) && !(text && *text); i++)
		text = acp_json_string(document, names[i]);
	return text && *text ? text : NULL;
}

/* Passes the upstream's error about the caller's request on to the caller. An upstream that refuses a request has not
 * acted. */
static enum acp_code refused_by_upstream(struct acp_call *call, const struct acp_outbound_reply *reply,
					 enum acp_code code)
{
	char text[256] = "";
	struct acp_json_error ignored;
	struct json_object *document = NULL;
	if (!read_json(reply, &document, &ignored))
		document = NULL;
	const char *sentence = find_sentence(document);
	if (sentence)
		copy_clean(call, sentence, strlen(sentence), text);
	const char *field = acp_json_string(document, "field");
	if (code != ACP_VALIDATION_ERROR)
		field = NULL;
	else if (!field || strncmp(field, "/params", 7) != 0 || strlen(field) > ERROR_MAX)
		field = "/params";
	call->acted = false;
	acp_call_fail(call, code, field, "%s", *text ? text : acp_code_sentence(code));
	json_object_put(document);
	return code;
}

/* The beginning of a reply in any encoding, as printable text. */
static void copy_printable(const struct acp_call *call, const struct acp_buf *body, char out[256])
{
	char text[4096];
	size_t len = body->len < sizeof text ? body->len : sizeof text;
	for (size_t i = 0; i < len; i++)
		text[i] = (char)(isprint((unsigned char)body->ptr[i]) ? body->ptr[i] : ' ');
	copy_clean(call, text, len, out);
}

/* What a failed upstream said, for the operator's log: its sentence, or the beginning of its reply. */
static void make_log_text(const struct acp_call *call, const struct acp_outbound_reply *reply, char out[256])
{
	struct acp_json_error ignored;
	struct json_object *document = NULL;
	if (!read_json(reply, &document, &ignored))
		document = NULL;
	const char *sentence = find_sentence(document);
	if (sentence)
		copy_clean(call, sentence, strlen(sentence), out);
	else
		copy_printable(call, &reply->body, out);
	json_object_put(document);
}

/* The upstream answered with an error that is not about the caller's request. */
static enum acp_code failed_upstream(struct acp_call *call, const struct acp_outbound_reply *reply)
{
	char said[256];
	const char *sentence = acp_call_may_have_acted;
	make_log_text(call, reply, said);
	if (reply->status == 429 || reply->status == 503)
		call->retry_after = acp_outbound_retry_after(reply->headers[0], (int64_t)time(NULL));
	if (reply->status == 401 || reply->status == 403) {
		sentence =
			"the upstream of this action does not accept this service's request, which only the operator "
			"can change; nothing was done";
		call->acted = false;
	} else if (reply->status == 429) {
		sentence = "the upstream of this action accepts no more requests for now; nothing was done";
		call->acted = false;
	}
	return upstream_failed(call, sentence, "status %d%s%s", reply->status, *said ? ": " : "", said);
}

static enum acp_code read_reply(struct acp_call *call, const struct acp_outbound_reply *reply,
				struct acp_result *result)
{
	struct acp_json_error bad;
	struct json_object *document = NULL;
	switch (reply->status) {
	case 400:
	case 422: return refused_by_upstream(call, reply, ACP_VALIDATION_ERROR);
	case 404: return refused_by_upstream(call, reply, ACP_NOT_FOUND);
	case 409: return refused_by_upstream(call, reply, ACP_CONFLICT);
	default: break;
	}
	if (reply->status < 200 || reply->status > 299)
		return failed_upstream(call, reply);
	if (!read_json(reply, &document, &bad))
		return upstream_failed(call, acp_call_may_have_acted, "status %d, but the body is not JSON: %s",
				       reply->status, bad.message);
	enum acp_code code = read_result(call, document, result);
	json_object_put(document);
	return code;
}

static enum acp_code take_reply(struct acp_call *call, const struct acp_outbound_reply *reply,
				struct acp_result *result)
{
	if (call->size < reply->body.len)
		call->size = reply->body.len;
	acp_share_begin_turn(call);
	enum acp_code code = read_reply(call, reply, result);
	acp_share_end_turn(call);
	return code;
}

static const char not_reached[] = "the upstream of this action cannot be reached; nothing was done";

enum acp_code acp_run_http(struct acp_call *call, struct json_object *params, struct acp_result *result)
{
	struct acp_buf body;
	struct acp_outbound_reply reply = {0};
	enum acp_code code = acp_share_upstream(call);
	if (code != ACP_OK)
		return code;
	code = ACP_INTERNAL_ERROR;
	if (make_body(call, params, &body)) {
		enum acp_outbound_result sent = send_call(call, &body, &reply);
		call->acted = !call->dry_run && (sent == ACP_OUTBOUND_REPLIED || sent == ACP_OUTBOUND_UNKNOWN);
		code = sent == ACP_OUTBOUND_REPLIED
			       ? take_reply(call, &reply, result)
			       : upstream_failed(
					 call, sent == ACP_OUTBOUND_UNKNOWN ? acp_call_may_have_acted : not_reached,
					 "%s%s", reply.error,
					 sent == ACP_OUTBOUND_REFUSED ? " (set allow_private to allow it)" : "");
		acp_buf_release(&reply.body);
	}
	acp_buf_release(&body);
	return code;
}
