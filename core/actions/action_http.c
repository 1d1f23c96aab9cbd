#include "action_http.h"

#include "call.h"
#include "log.h"
#include "redact.h"
#include "share.h"

#include <strings.h>

enum {
	CONNECT_MS = 3000,
	BODY_MAX = 64 << 20,
	ERROR_MAX = 200, /* bytes of an upstream's error text, and of its field, shown to the caller */
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

/* A key that a header cannot carry unchanged is sent as its hash. */
static void make_key_header(const struct acp_call *call, char out[256])
{
	const char *key = get_key(call);
	size_t len = key ? strlen(key) : 0;
	bool plain = true;
	for (size_t i = 0; i < len; i++)
		plain = plain && key[i] > ' ' && key[i] < 0x7f;
	if (key && !plain) {
		uint8_t hash[ACP_SHA256_LEN];
		acp_sha256(key, len, hash);
		acp_hex(hash, sizeof hash, out);
	} else {
		snprintf(out, 256, "%s", key ? key : call->event_id);
	}
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
	char key[256];
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
		.keep_alive = true,
	};
	return acp_outbound_send(&request, reply);
}

/* Reply ---------------------------------------------------------------------------------------------------------- */

/* Tells the caller that the upstream failed, and logs the details for the operator. */
static enum acp_code upstream_failed(struct acp_call *call, bool sent, const char *format, ...) ACP_PRINTF(3, 4);

static enum acp_code upstream_failed(struct acp_call *call, bool sent, const char *format, ...)
{
	char detail[320];
	va_list args;
	va_start(args, format);
	vsnprintf(detail, sizeof detail, format, args);
	va_end(args);
	acp_log(ACP_LOG_WARNING, "action %s: the upstream failed: %s; request %s", call->entry->action->name, detail,
		call->request->request_id);
	return acp_call_fail(call, ACP_UPSTREAM_FAILED, NULL,
			     sent ? "the upstream of this action gave no usable reply; it may or may not have acted"
				  : "the upstream of this action cannot be reached; nothing was done");
}

static bool read_json(const struct acp_outbound_reply *reply, struct json_object **document)
{
	struct acp_json_error ignored;
	const struct acp_json_limits limits = {reply->body.max, 64, 1000000};
	return reply->body.len > 0 &&
	       acp_json_parse(reply->body.ptr, reply->body.len, &limits, document, &ignored) == ACP_JSON_OK;
}

/* result_meta goes into the audit row: it must be short and free of credentials. */
static bool copy_meta(const struct acp_call *call, struct json_object *meta, struct acp_result *result)
{
	size_t len;
	if (!json_object_is_type(meta, json_type_object) || !acp_json_text(meta, JSON_C_TO_STRING_SPACED, &len) ||
	    len > META_MAX)
		return false;
	return acp_redact_copy(meta, call->kernel->config->api_key_prefix, &result->meta);
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
	if (quantity && (!json_object_is_type(quantity, json_type_int) || json_object_get_int64(quantity) < 0))
		return upstream_failed(call, true, "quantity is not a whole number of at least 0");
	if (meta && !copy_meta(call, meta, result))
		return upstream_failed(call, true, "result_meta is not an object of at most %d bytes", META_MAX);
	if (quantity)
		result->quantity = json_object_get_int64(quantity);
	result->data = json_object_get(data);
	return ACP_OK;
}

/* The upstream's own error text, without credentials and cut at a character boundary. Falls back to the default
 * sentence of the code. */
static void make_error_text(const struct acp_call *call, struct json_object *document, enum acp_code code,
			    char out[256])
{
	struct acp_buf clean;
	const char *text = acp_json_string(document, "error");
	acp_buf_init(&clean, BODY_MAX);
	if (text)
		acp_redact_text(&clean, text, strlen(text), call->kernel->config->api_key_prefix);
	size_t len = acp_buf_ok(&clean) ? clean.len : 0;
	if (len > ERROR_MAX)
		for (len = ERROR_MAX; len > 0 && ((unsigned char)clean.ptr[len] & 0xc0) == 0x80; len--)
			;
	snprintf(out, 256, "%.*s", (int)len, len ? clean.ptr : "");
	if (!len)
		snprintf(out, 256, "%s", acp_code_sentence(code));
	acp_buf_release(&clean);
}

/* Passes the upstream's error about the caller's params on to the caller. */
static enum acp_code refused_by_upstream(struct acp_call *call, const struct acp_outbound_reply *reply,
					 enum acp_code code)
{
	char text[256];
	struct json_object *document = NULL;
	if (!read_json(reply, &document))
		document = NULL;
	make_error_text(call, document, code, text);
	const char *field = acp_json_string(document, "field");
	if (code != ACP_VALIDATION_ERROR)
		field = NULL;
	else if (!field || strncmp(field, "/params", 7) != 0 || strlen(field) > ERROR_MAX)
		field = "/params";
	acp_call_fail(call, code, field, "%s", text);
	json_object_put(document);
	return code;
}

static enum acp_code read_reply(struct acp_call *call, const struct acp_outbound_reply *reply,
				struct acp_result *result)
{
	struct json_object *document = NULL;
	if (reply->status == 404)
		return refused_by_upstream(call, reply, ACP_NOT_FOUND);
	if (reply->status == 400 || reply->status == 422)
		return refused_by_upstream(call, reply, ACP_VALIDATION_ERROR);
	if (reply->status < 200 || reply->status > 299)
		return upstream_failed(call, true, "status %d", reply->status);
	if (!read_json(reply, &document))
		return upstream_failed(call, true, "status %d, but the body is not JSON", reply->status);
	enum acp_code code = read_result(call, document, result);
	json_object_put(document);
	return code;
}

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
			       ? read_reply(call, &reply, result)
			       : upstream_failed(call, sent == ACP_OUTBOUND_UNKNOWN, "%s%s", reply.error,
						 sent == ACP_OUTBOUND_REFUSED ? " (set allow_private to allow it)"
									      : "");
		acp_buf_release(&reply.body);
	}
	acp_buf_release(&body);
	return code;
}
