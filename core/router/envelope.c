#include "envelope.h"

#include "json_scan.h"
#include "redact.h"
#include "share.h"

#include <strings.h>

/* application/json, with or without parameters; JSON's only charset is UTF-8. */
static bool is_json_type(const char *content_type)
{
	static const char name[] = "application/json";
	if (!content_type || strncasecmp(content_type, name, sizeof name - 1) != 0)
		return false;
	const char *rest = content_type + sizeof name - 1;
	while (*rest == ' ' || *rest == '\t')
		rest++;
	return *rest == '\0' || *rest == ';';
}

static enum acp_code check_media(const struct acp_request *request, char error[256])
{
	if (!is_json_type(request->content_type)) {
		snprintf(error, 256, "send the body as Content-Type: application/json");
		return ACP_UNSUPPORTED_MEDIA_TYPE;
	}
	if (request->content_encoding && *request->content_encoding &&
	    strcasecmp(request->content_encoding, "identity") != 0) {
		snprintf(error, 256, "send the body without Content-Encoding");
		return ACP_UNSUPPORTED_MEDIA_TYPE;
	}
	return ACP_OK;
}

enum acp_code acp_body_parse(const struct acp_config *config, const struct acp_request *request, int64_t max_bytes,
			     struct json_object **out, char error[256], char field[280])
{
	const struct acp_json_limits limits = {(size_t)max_bytes, (unsigned)config->max_json_depth,
					       (unsigned)config->max_json_tokens};
	enum acp_code code = acp_body_parse_within(&limits, request, out, error, field);
	acp_redact_in_place(field, 280, config->api_key_prefix);
	return code;
}

enum acp_code acp_body_parse_within(const struct acp_json_limits *limits, const struct acp_request *request,
				    struct json_object **out, char error[256], char field[280])
{
	struct acp_json_error bad = {0};
	enum acp_code code = check_media(request, error);
	if (code != ACP_OK)
		return code;
	if (request->body_too_large || request->body_len > limits->max_bytes) {
		snprintf(error, 256, "the request body is larger than %zu bytes", limits->max_bytes);
		return ACP_PAYLOAD_TOO_LARGE;
	}
	if (request->body_lost)
		return ACP_INTERNAL_ERROR;
	if (request->body_broken) {
		snprintf(error, 256, "the request body did not arrive whole");
		return ACP_VALIDATION_ERROR;
	}
	switch (acp_json_parse(request->body, request->body_len, limits, out, &bad)) {
	case ACP_JSON_OK: return ACP_OK;
	case ACP_JSON_NO_MEMORY: return ACP_INTERNAL_ERROR;
	case ACP_JSON_TOO_LARGE: code = ACP_PAYLOAD_TOO_LARGE; break;
	case ACP_JSON_MALFORMED: code = ACP_VALIDATION_ERROR; break;
	}
	snprintf(error, 256, "malformed JSON at byte %zu: %s", bad.offset, bad.message);
	if (code == ACP_PAYLOAD_TOO_LARGE)
		snprintf(error, 256, "%s (at byte %zu)", bad.message, bad.offset);
	snprintf(field, 280, "%s", bad.pointer);
	return code;
}

enum acp_code acp_envelope_parse(struct acp_call *call)
{
	const struct acp_request *request = call->request;
	if (strcmp(request->method, "POST") != 0) {
		call->allow = "POST";
		return acp_call_fail(call, ACP_METHOD_NOT_ALLOWED, NULL, "use POST here, not %.20s", request->method);
	}
	call->size = request->body_len;
	call->code = acp_share_body(call);
	if (call->code == ACP_OK) {
		acp_share_begin_turn(call);
		call->code = acp_body_parse(call->kernel->config, request, call->kernel->config->max_body_bytes,
					    &call->envelope, call->error, call->field);
		acp_share_end_turn(call);
	}
	acp_share_leave(call);
	return call->code;
}

/* The idempotency_key of the body and the header Idempotency-Key mean the same. A request may have both if they
 * agree. */
static enum acp_code check_idempotency_key(struct acp_call *call)
{
	bool there = json_object_object_get_ex(call->envelope, "idempotency_key", NULL);
	const char *in_body = acp_json_string(call->envelope, "idempotency_key");
	const char *in_header = call->request->idempotency_key;
	if (there && !in_body)
		return acp_call_fail(call, ACP_VALIDATION_ERROR, "/idempotency_key",
				     "idempotency_key must be a string, for example a UUID");
	if (in_body && in_header && strcmp(in_body, in_header) != 0)
		return acp_call_fail(call, ACP_VALIDATION_ERROR, "/idempotency_key",
				     "idempotency_key differs from the Idempotency-Key header; send one of them, or "
				     "the same value in both");
	call->idempotency_key = in_body ? in_body : in_header;
	size_t len = call->idempotency_key ? strlen(call->idempotency_key) : 1;
	if (len < 1 || len > 255)
		return acp_call_fail(call, ACP_VALIDATION_ERROR, "/idempotency_key",
				     "idempotency_key must have 1 to 255 characters");
	return ACP_OK;
}

static enum acp_code check_params(struct acp_call *call)
{
	struct json_object *params = NULL;
	if (!json_object_object_get_ex(call->envelope, "params", &params))
		params = call->no_params = json_object_new_object();
	if (!params && !json_object_object_get_ex(call->envelope, "params", NULL))
		return acp_call_fail(call, ACP_INTERNAL_ERROR, NULL, "%s", acp_code_sentence(ACP_INTERNAL_ERROR));
	if (!json_object_is_type(params, json_type_object))
		return acp_call_fail(call, ACP_VALIDATION_ERROR, "/params",
				     "params must be an object; meta.actions has its schema");
	call->params = params;
	return ACP_OK;
}

/* Refuses unknown members. Otherwise a call with a misspelt dry_run would run for real. */
static enum acp_code check_member_names(struct acp_call *call)
{
	json_object_object_foreach(call->envelope, name, value)
	{
		(void)value;
		if (acp_word_in_list("action params idempotency_key dry_run", name))
			continue;
		char pointer[256] = "";
		acp_json_pointer_add(pointer, sizeof pointer, name, strlen(name));
		return acp_call_fail(call, ACP_VALIDATION_ERROR, pointer,
				     "a call may have only the members action, params, idempotency_key and dry_run");
	}
	return ACP_OK;
}

enum acp_code acp_envelope_check(struct acp_call *call)
{
	if (!json_object_is_type(call->envelope, json_type_object))
		return acp_call_fail(call, ACP_VALIDATION_ERROR, "", "the body must be a JSON object");
	call->action_name = acp_json_string(call->envelope, "action");
	if (!call->action_name || !*call->action_name) {
		call->action_name = NULL;
		return acp_call_fail(call, ACP_VALIDATION_ERROR, "/action",
				     "action must be the name of an action, for example meta.actions");
	}
	struct json_object *dry_run = NULL;
	if (json_object_object_get_ex(call->envelope, "dry_run", &dry_run) &&
	    !json_object_is_type(dry_run, json_type_boolean))
		return acp_call_fail(call, ACP_VALIDATION_ERROR, "/dry_run", "dry_run must be true or false");
	call->dry_run = json_object_get_boolean(dry_run);
	enum acp_code code = check_params(call);
	if (code == ACP_OK)
		code = check_idempotency_key(call);
	if (code == ACP_OK)
		code = check_member_names(call);
	return code;
}

struct json_object *acp_error_body(enum acp_code code, const char *request_id, const char *error, const char *field)
{
	struct json_object *body = json_object_new_object();
	bool ok = body && acp_json_add(body, "ok", json_object_new_boolean(false)) &&
		  acp_json_add_string(body, "request_id", request_id) &&
		  acp_json_add_string(body, "error", *error ? error : acp_code_sentence(code)) &&
		  acp_json_add_string(body, "code", acp_code_name(code));
	if (ok && code == ACP_VALIDATION_ERROR)
		ok = acp_json_add_string(body, "field", field);
	if (ok)
		return body;
	json_object_put(body);
	return NULL;
}

static bool add_text(struct json_object *array, const struct acp_buf *text)
{
	struct json_object *value = acp_buf_ok(text) ? json_object_new_string_len(text->ptr, (int)text->len) : NULL;
	if (value && json_object_array_add(array, value) == 0)
		return true;
	json_object_put(value);
	return false;
}

/* Lists the limits that the call had to observe. NULL: out of memory. */
static struct json_object *constraints_of(const struct acp_call *call)
{
	char memory[80];
	struct acp_buf text;
	struct json_object *constraints = json_object_new_array();
	acp_buf_borrow(&text, memory, sizeof memory);
	acp_buf_puts(&text, "tenant_scoped: ");
	acp_buf_puts(&text, call->principal.tenant_id);
	bool ok = constraints && add_text(constraints, &text);
	if (ok && call->rate.window) {
		acp_buf_clear(&text);
		acp_buf_puts(&text, "rate_limit: ");
		acp_buf_put_int(&text, call->rate.remaining);
		acp_buf_putc(&text, '/');
		acp_buf_put_int(&text, call->rate.limit);
		acp_buf_puts(&text, " remaining");
		ok = add_text(constraints, &text);
	}
	if (ok)
		return constraints;
	json_object_put(constraints);
	return NULL;
}

static struct json_object *success_body(struct acp_call *call)
{
	struct json_object *body = json_object_new_object();
	bool ok = body && acp_json_put(body, "ok", json_object_new_boolean(true)) &&
		  acp_json_put(body, "request_id", json_object_new_string(call->request->request_id));
	if (ok && call->result.data)
		ok = acp_json_put(body, "data", json_object_get(call->result.data));
	else
		ok = ok && acp_json_add_null(body, "data");
	ok = ok && acp_json_put(body, "dry_run", json_object_new_boolean(call->dry_run)) &&
	     acp_json_put(body, "constraints_applied", constraints_of(call));
	if (ok && call->code == ACP_IDEMPOTENT_REPLAY)
		ok = acp_json_add_string(body, "code", acp_code_name(call->code));
	if (ok)
		return body;
	json_object_put(body);
	return NULL;
}

enum { WARNING_MAX = 2048 }; /* size limit in bytes of the warning that may be added to a finished reply */

bool acp_envelope_prepare(struct acp_call *call)
{
	struct acp_buf *out = call->request->out;
	call->body = success_body(call);
	if (!call->body || !out)
		return call->body != NULL;
	acp_buf_clear(out);
	acp_share_begin_turn(call);
	acp_json_write(call->body, out);
	acp_share_end_turn(call);
	return acp_buf_ok(out) && acp_buf_reserve(out, WARNING_MAX);
}

/* Makes the body of an error reply, with the members specific to this error. NULL: out of memory. */
static struct json_object *refusal_body(struct acp_call *call)
{
	struct json_object *body = acp_error_body(call->code, call->request->request_id, call->error, call->field);
	bool ok = body != NULL;
	if (ok && call->extra) {
		json_object_object_foreach(call->extra, name, value) ok =
			ok && acp_json_add(body, name, json_object_get(value));
	}
	if (ok)
		return body;
	json_object_put(body);
	return NULL;
}

void acp_envelope_reply(struct acp_call *call, struct acp_reply *reply)
{
	*reply = (struct acp_reply){.code = call->code, .allow = call->allow, .retry_after = call->retry_after};
	reply->rate = call->rate;
	reply->replayed = call->code == ACP_IDEMPOTENT_REPLAY;
	if (acp_code_outcome(call->code) == ACP_SUCCESS) {
		reply->body = call->body;
		call->body = NULL;
		acp_copy(reply->idempotency_key, sizeof reply->idempotency_key, call->own_key);
		/* The call is done and counted, so a reply without its warning is better than none. */
		bool warned = call->warning && acp_json_put(reply->body, "warning", json_object_get(call->warning));
		reply->written = call->request->out && !warned;
	} else {
		reply->body = refusal_body(call);
	}
	if (!reply->retry_after)
		reply->retry_after = acp_code_retry_after(call->code);
	reply->http = acp_code_http(call->code);
	acp_copy(reply->tenant_id, sizeof reply->tenant_id, call->principal.tenant_id);
	acp_copy(reply->key_shown, sizeof reply->key_shown, call->principal.key_shown);
	reply->action = call->entry ? call->entry->action->name : NULL;
}
