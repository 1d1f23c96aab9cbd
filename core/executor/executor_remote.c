#include "executor_remote.h"

#include "clock.h"
#include "crypto.h"
#include "log.h"
#include "outbound.h"
#include "retry.h"
#include "stripe.h"

enum {
	CONNECT_MS = 5000,
	TIMEOUT_MS = 10000,
	LEAST_MS = 100,  /* the shortest timeout sent to an executor */
	MARGIN_MS = 100, /* part of our time limit, reserved for the network */
	LONGEST_MS = 60000,
};

struct remote {
	struct acp_executor executor; /* must be first: callers hold a pointer to this member */
	const struct acp_config *config;
};

/* An execution in progress. */
struct job {
	const struct remote *remote;
	const struct acp_execution *what;
	const char *key;
	uint64_t deadline_us;
	struct acp_executed *out;
};

static int left_ms(const struct job *job)
{
	uint64_t now = acp_monotonic_us();
	return now < job->deadline_us ? (int)((job->deadline_us - now) / 1000) : 0;
}

/* Request ---------------------------------------------------------------------------------------------------------- */

static bool add_hash(struct json_object *body, const struct acp_execution *what)
{
	char hex[ACP_SHA256_HEX];
	struct json_object *envelope = json_object_new_object();
	bool ok = acp_json_add_string(envelope, "action", what->action) &&
		  acp_json_add(envelope, "params", json_object_get(what->params)) && acp_json_hash(envelope, hex) &&
		  acp_json_add_string(body, "request_hash", hex);
	json_object_put(envelope);
	return ok;
}

static struct json_object *make_trace(const struct job *job)
{
	int ms = left_ms(job) - MARGIN_MS;
	const struct acp_execution *what = job->what;
	const char *kernel_id = job->remote->config->kernel_id;
	struct json_object *trace = json_object_new_object();
	if (ms < LEAST_MS)
		ms = LEAST_MS;
	if (ms > LONGEST_MS)
		ms = LONGEST_MS;
	if (acp_json_add(trace, "timeout_ms", json_object_new_int(ms)) &&
	    (!what->request_id || acp_json_add_string(trace, "request_id", what->request_id)) &&
	    (!what->obliged_at || acp_json_add(trace, "obliged_at", json_object_new_int64(what->obliged_at))) &&
	    (!what->lookup || acp_json_add(trace, "lookup", json_object_new_boolean(true))) &&
	    (!what->email || acp_json_add_string(trace, "email", what->email)) &&
	    (!*kernel_id || acp_json_add_string(trace, "kernel_id", kernel_id)))
		return trace;
	json_object_put(trace);
	return NULL;
}

static struct json_object *make_body(const struct job *job)
{
	char integration[64];
	const struct acp_execution *what = job->what;
	struct json_object *body = json_object_new_object();
	snprintf(integration, sizeof integration, "%.*s", (int)strcspn(what->action, "."), what->action);
	if (acp_json_add_string(body, "tenant_id", what->tenant_id) &&
	    acp_json_add_string(body, "integration", integration) &&
	    acp_json_add_string(body, "action", what->action) &&
	    acp_json_add(body, "params", json_object_get(what->params)) && add_hash(body, what) &&
	    acp_json_add_string(body, "idempotency_key", job->key) && acp_json_add(body, "trace", make_trace(job)))
		return body;
	json_object_put(body);
	return NULL;
}

static enum acp_outbound_result send_once(const struct job *job, struct json_object *body,
					  struct acp_outbound_reply *reply)
{
	char url[1024];
	char bearer[1024];
	size_t len = 0;
	int ms = left_ms(job);
	const struct acp_config *config = job->remote->config;
	const struct acp_header headers[] = {{"Authorization", bearer}, {"Content-Type", "application/json"}};
	snprintf(url, sizeof url, "%s/functions/v1/execute", config->executor_url);
	snprintf(bearer, sizeof bearer, "Bearer %s", config->executor_key);
	const char *text = acp_json_text(body, JSON_C_TO_STRING_PLAIN, &len);
	if (!text) {
		*reply = (struct acp_outbound_reply){.error = "out of memory"};
		return ACP_OUTBOUND_FAILED;
	}
	const struct acp_outbound_request request = {
		.method = "POST",
		.url = url,
		.headers = headers,
		.header_count = ACP_COUNT(headers),
		.body = text,
		.body_len = len,
		.connect_timeout_ms = ms < CONNECT_MS ? ms : CONNECT_MS,
		.timeout_ms = ms > 0 ? ms : 1,
		.max_reply = ACP_STRIPE_REPLY_MAX,
		.allow_private = true, /* the operator set this address */
		.allow_http = strncmp(config->executor_url, "http:", 5) == 0,
		.keep_alive = true,
	};
	enum acp_outbound_result result = acp_outbound_send(&request, reply);
	acp_wipe(bearer, sizeof bearer);
	return result;
}

/* Reply ---------------------------------------------------------------------------------------------------------- */

/* Reports a failure of the executor itself, not of the vendor. The action was probably not executed. */
static void fail_at_executor(struct job *job, enum acp_outbound_result result, const struct acp_outbound_reply *reply)
{
	int status = result == ACP_OUTBOUND_REPLIED ? reply->status : 0;
	const char *why = "the executor (executor_url) cannot be reached; nothing was done";
	if (result == ACP_OUTBOUND_UNKNOWN)
		why = "the executor gave no usable reply; it may or may not have acted";
	else if (status == 401)
		why = "the executor refuses this installation's executor_key";
	else if (status == 404)
		why = "there is no executor at executor_url, or its executor_key is not set";
	else if (status)
		why = "the executor answered with an error";
	acp_log(ACP_LOG_WARNING, "executor: %s: %s (%s)", job->what->action, why, status ? "answered" : reply->error);
	acp_executed_fail(job->out, status && status < 500 ? "UPSTREAM_FAILED" : "UNAVAILABLE", status != 400, "%s",
			  why);
}

/* Copies an answer that has the contract's format. Other implementations of the executor may omit retry. */
static void copy_answer(struct job *job, struct json_object *tree)
{
	struct acp_executed *out = job->out;
	const char *code = acp_json_string(tree, "error_code");
	const char *error = acp_json_string(tree, "error_message_redacted");
	struct json_object *data = acp_json_member(tree, "data");
	struct json_object *meta = acp_json_member(tree, "result_meta");
	struct json_object *retry = acp_json_member(tree, "retry");
	out->status = json_object_get_int(acp_json_member(tree, "status"));
	if (json_object_is_type(meta, json_type_object))
		out->meta = json_object_get(meta);
	out->ok = acp_json_bool(tree, "ok");
	if (out->ok) {
		out->data = json_object_get(data);
		return;
	}
	acp_executed_fail(out, code ? code : "UPSTREAM_FAILED",
			  retry ? json_object_get_boolean(retry) : acp_retry_worth(out->status, ""), "%s",
			  error ? error : "the executor failed without giving a reason");
}

/* Parses an answer. NULL: it does not have the contract's format. */
static struct json_object *read_answer(const struct acp_outbound_reply *reply)
{
	struct json_object *tree = reply->status == 200 ? acp_stripe_read(reply->body.ptr, reply->body.len) : NULL;
	if (json_object_is_type(acp_json_member(tree, "ok"), json_type_boolean))
		return tree;
	json_object_put(tree);
	return NULL;
}

/* Processes the result of one attempt. False: another attempt may succeed. */
static bool classify(struct job *job, enum acp_outbound_result result, const struct acp_outbound_reply *reply)
{
	bool replied = result == ACP_OUTBOUND_REPLIED;
	struct json_object *tree = replied ? read_answer(reply) : NULL;
	if (tree) {
		copy_answer(job, tree);
		json_object_put(tree);
		return true;
	}
	fail_at_executor(job, result, reply);
	return result == ACP_OUTBOUND_REFUSED || (replied && !acp_retry_worth(reply->status, ""));
}

static void run(struct job *job, struct json_object *body)
{
	for (int attempt = 1;; attempt++) {
		struct acp_outbound_reply reply;
		enum acp_outbound_result result = send_once(job, body, &reply);
		bool final = classify(job, result, &reply);
		acp_buf_release(&reply.body);
		int pause = acp_retry_pause_ms(attempt, acp_retry_chance());
		if (final || pause + LEAST_MS >= left_ms(job))
			return;
		acp_retry_sleep(pause);
	}
}

static void execute(void *self, const struct acp_execution *what, struct acp_executed *out)
{
	char own_key[ACP_UUID_LEN];
	int ms = what->timeout_ms > 0 ? what->timeout_ms : TIMEOUT_MS;
	acp_uuid(own_key);
	*out = (struct acp_executed){0};
	struct job job = {.remote = self,
			  .what = what,
			  .key = what->idempotency_key ? what->idempotency_key : own_key,
			  .deadline_us = acp_monotonic_us() + (uint64_t)ms * 1000,
			  .out = out};
	struct json_object *body = make_body(&job);
	if (body)
		run(&job, body);
	else
		acp_executed_fail(out, "INTERNAL_ERROR", true, "out of memory");
	json_object_put(body);
}

struct acp_executor *acp_executor_remote_new(const struct acp_config *config, char *why, size_t why_size)
{
	struct remote *remote = calloc(1, sizeof *remote);
	if (!remote) {
		snprintf(why, why_size, "out of memory");
		return NULL;
	}
	*remote = (struct remote){.executor = {remote, execute}, .config = config};
	return &remote->executor;
}

void acp_executor_remote_free(struct acp_executor *executor)
{
	free(executor->self);
}
