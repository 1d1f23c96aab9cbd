#include "execute.h"

#include "audit.h"
#include "envelope.h"
#include "executor_local.h"
#include "log.h"
#include "subkey.h"

bool acp_execute_offered(const struct acp_kernel *kernel)
{
	const struct acp_config *config = kernel->config;
	return *config->executor_key && !*config->executor_url && acp_executor_is_local(kernel->executor);
}

bool acp_execute_key_ok(const struct acp_kernel *kernel, const char *bearer)
{
	const struct acp_config *config = kernel->config;
	return bearer && *config->executor_key && acp_same_secret(config->key_pepper, bearer, config->executor_key);
}

/* Parses the body and checks it, including rules that a schema cannot express. */
static enum acp_code read_body(const struct acp_kernel *kernel, const struct acp_request *request,
			       struct json_object **body, char error[256], char field[280])
{
	struct acp_schema_error bad;
	enum acp_code code =
		acp_body_parse(kernel->config, request, kernel->config->max_body_bytes, body, error, field);
	if (code != ACP_OK)
		return code;
	if (!acp_schema_check(acp_executor_local_schema(kernel->executor), *body, &bad)) {
		if (bad.no_memory)
			return ACP_INTERNAL_ERROR;
		snprintf(error, 256, "%.60s %s", *bad.pointer ? bad.pointer : "the body", bad.message);
		snprintf(field, 280, "%s", bad.pointer);
		return ACP_VALIDATION_ERROR;
	}
	const char *integration = acp_json_string(*body, "integration");
	const char *action = acp_json_string(*body, "action");
	size_t len = strlen(integration);
	if (strncmp(action, integration, len) == 0 && action[len] == '.')
		return ACP_OK;
	snprintf(error, 256, "action must begin with the integration and a dot");
	snprintf(field, 280, "/action");
	return ACP_VALIDATION_ERROR;
}

/* Audits an execution that was refused before it began. */
static bool record_refusal(const struct acp_kernel *kernel, const struct acp_request *request, enum acp_code code,
			   const char *error, struct json_object *body)
{
	struct acp_event event = {0};
	const struct acp_settlement end = {.event = &event};
	bool ok = acp_audit_public_event(kernel, request, "execute", code, error, body, &event);
	event.actor_type = "system";
	ok = ok && kernel->plane->call.record(kernel->plane->self, &end) == ACP_OK;
	acp_event_release(&event);
	return ok;
}

static bool add_or_null(struct json_object *body, const char *name, struct json_object *value)
{
	return value ? acp_json_add(body, name, json_object_get(value)) : acp_json_add_null(body, name);
}

static bool add_error(struct json_object *body, const struct acp_executed *done)
{
	if (done->ok)
		return acp_json_add_null(body, "error_code") && acp_json_add_null(body, "error_message_redacted");
	return acp_json_add_string(body, "error_code", done->error_code) &&
	       acp_json_add_string(body, "error_message_redacted", done->error) &&
	       acp_json_add(body, "retry", json_object_new_boolean(done->retry));
}

static struct json_object *answer_body(const char *request_id, const struct acp_executed *done)
{
	struct json_object *body = json_object_new_object();
	struct json_object *meta = done->meta ? json_object_get(done->meta) : json_object_new_object();
	if (acp_json_add(body, "ok", json_object_new_boolean(done->ok)) &&
	    acp_json_add_string(body, "request_id", request_id) &&
	    (done->status ? acp_json_add(body, "status", json_object_new_int(done->status))
			  : acp_json_add_null(body, "status")) &&
	    add_or_null(body, "data", done->data) && acp_json_add(body, "result_meta", json_object_get(meta)) &&
	    add_error(body, done)) {
		json_object_put(meta);
		return body;
	}
	json_object_put(meta);
	json_object_put(body);
	return NULL;
}

static void run(const struct acp_kernel *kernel, const struct acp_request *request, struct json_object *body,
		struct acp_reply *reply)
{
	struct acp_executed done;
	struct json_object *trace = acp_json_member(body, "trace");
	const struct acp_execution what = {
		.tenant_id = acp_json_string(body, "tenant_id"),
		.action = acp_json_string(body, "action"),
		.params = acp_json_member(body, "params"),
		.idempotency_key = acp_json_string(body, "idempotency_key"),
		.obliged_at = json_object_get_int64(acp_json_member(trace, "obliged_at")),
		.lookup = acp_json_bool(trace, "lookup"),
		.email = acp_json_string(trace, "email"),
		.kernel_id = acp_json_string(trace, "kernel_id"),
		.request_id = acp_json_string(trace, "request_id"),
		.timeout_ms = json_object_get_int(acp_json_member(trace, "timeout_ms")),
	};
	acp_executor_local_run(kernel->executor, request, acp_json_string(body, "request_hash"), &what, &done);
	reply->code = done.ok ? ACP_OK : ACP_UPSTREAM_FAILED;
	reply->http = 200;
	reply->body = answer_body(request->request_id, &done);
	snprintf(reply->tenant_id, sizeof reply->tenant_id, "%s", what.tenant_id);
	acp_executed_release(&done);
}

void acp_execute_call(const struct acp_kernel *kernel, const struct acp_request *request, struct acp_reply *reply)
{
	char error[256] = "";
	char field[280] = "";
	struct json_object *body = NULL;
	enum acp_code code = read_body(kernel, request, &body, error, field);
	*reply = (struct acp_reply){.code = code, .http = acp_code_http(code), .action = "execute"};
	if (code == ACP_OK) {
		run(kernel, request, body, reply);
	} else {
		if (!record_refusal(kernel, request, code, error, body)) {
			acp_log(ACP_LOG_ERROR, "request %s: the audit row of a refused execution could not be written",
				request->request_id);
			reply->code = code = ACP_UNAVAILABLE;
			reply->http = acp_code_http(code);
			reply->retry_after = 1;
			*field = '\0';
			snprintf(error, sizeof error, "%s", acp_code_sentence(code));
		}
		reply->body = acp_error_body(code, request->request_id, error, field);
	}
	json_object_put(body);
}
