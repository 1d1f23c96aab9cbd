#include "executor_local.h"

#include "audit.h"
#include "clock.h"
#include "executor_stripe.h"
#include "log.h"
#include "redact.h"
#include "schemas.h"

enum { ACTIONS_MAX = 16, TIMEOUT_MS = 10000 };

struct local {
	struct acp_executor executor; /* must be first: callers hold a pointer to this member */
	const struct acp_config *config;
	const struct acp_control_plane *plane;
	struct acp_schema *schemas[ACTIONS_MAX]; /* of acp_stripe_actions, in the same order */
	struct acp_schema *body;
};

static struct acp_schema *compile(const char *name, const char *text, char *why, size_t why_size)
{
	struct acp_schema_error bad = {0};
	struct json_object *schema = acp_json_own(text);
	struct acp_schema *compiled = acp_schema_compile(schema, &bad);
	json_object_put(schema);
	if (!compiled)
		snprintf(why, why_size, "executor: %s: schema%s: %s", name, bad.pointer, bad.message);
	return compiled;
}

/* Execution -------------------------------------------------------------------------------------------------------- */

static void run(const struct local *local, size_t index, const struct acp_execution *what, struct acp_executed *out)
{
	char own_key[ACP_UUID_LEN];
	int ms = what->timeout_ms > 0 ? what->timeout_ms : TIMEOUT_MS;
	/* Used if the caller sent no key. It still makes retries within this execution safe. */
	acp_uuid(own_key);
	struct acp_stripe stripe = {.config = local->config,
				    .key = what->idempotency_key ? what->idempotency_key : own_key,
				    .deadline_us = acp_monotonic_us() + (uint64_t)ms * 1000,
				    .out = out};
	if (!acp_stripe_actions[index].run(&stripe, what))
		out->ok = false;
}

/* Checks the call against the allow-list, then executes it. Returns the code for the audit event. */
static enum acp_code check_and_run(const struct local *local, const struct acp_execution *what,
				   struct acp_executed *out)
{
	struct acp_schema_error bad;
	size_t i = 0;
	while (acp_stripe_actions[i].name && strcmp(acp_stripe_actions[i].name, what->action) != 0)
		i++;
	if (!acp_stripe_actions[i].name) {
		acp_executed_fail(out, "NOT_FOUND", false, "this executor has no such action");
		return ACP_NOT_FOUND;
	}
	if (!acp_schema_check(local->schemas[i], what->params, &bad)) {
		if (bad.no_memory) {
			acp_executed_fail(out, "UNAVAILABLE", true, "out of memory; nothing was done");
			return ACP_UNAVAILABLE;
		}
		acp_executed_fail(out, "VALIDATION_ERROR", false, "/params%s %s", bad.pointer, bad.message);
		return ACP_VALIDATION_ERROR;
	}
	run(local, i, what, out);
	return out->ok ? ACP_OK : ACP_UPSTREAM_FAILED;
}

/* The audit event -------------------------------------------------------------------------------------------------- */

/* {action, params}, the input of the event's request_hash. */
static struct json_object *envelope_of(const struct acp_execution *what)
{
	struct json_object *envelope = json_object_new_object();
	if (envelope && acp_json_add_string(envelope, "action", what->action) &&
	    acp_json_add(envelope, "params", json_object_get(what->params)))
		return envelope;
	json_object_put(envelope);
	return NULL;
}

static bool fill_meta(struct acp_event *event, const struct acp_execution *what, const struct acp_executed *out)
{
	struct json_object *meta = json_object_new_object();
	bool ok = meta && acp_json_add_string(meta, "tenant_id", what->tenant_id) &&
		  (!what->request_id || acp_json_add_string(meta, "request_id", what->request_id)) &&
		  (!out->status || acp_json_add(meta, "vendor_status", json_object_new_int(out->status)));
	event->result_meta = meta;
	if (ok && out->meta) {
		json_object_object_foreach(out->meta, name, value) ok =
			ok && acp_json_add(meta, name, json_object_get(value));
	}
	return ok;
}

/* As with the hub's own changes, the row belongs to the installation and result_meta names the tenant, because a
 * tenant's own rows are the calls it makes. */
static bool make_event(const struct local *local, const struct acp_request *request, const char *request_hash,
		       const struct acp_execution *what, enum acp_code code, const struct acp_executed *out,
		       struct acp_event *event)
{
	const struct acp_kernel kernel = {.config = local->config, .plane = local->plane};
	struct json_object *envelope = envelope_of(what);
	bool ok = envelope && acp_audit_public_event(&kernel, request, what->action, code, out->error, envelope, event);
	json_object_put(envelope);
	if (!ok)
		return false;
	acp_redact_in_place(event->own.action, sizeof event->own.action, local->config->api_key_prefix);
	acp_utf8_trim(event->own.action);
	event->actor_type = "system";
	event->pack = code == ACP_NOT_FOUND ? NULL : "stripe";
	if (request_hash)
		event->request_hash = request_hash;
	if (code != ACP_OK)
		event->error_code = out->error_code;
	if (what->idempotency_key) {
		snprintf(event->own.idempotency_key, sizeof event->own.idempotency_key, "%s", what->idempotency_key);
		acp_redact_in_place(event->own.idempotency_key, sizeof event->own.idempotency_key,
				    local->config->api_key_prefix);
		acp_utf8_trim(event->own.idempotency_key);
		event->idempotency_key = event->own.idempotency_key;
	}
	return fill_meta(event, what, out);
}

static bool record(const struct local *local, const struct acp_request *request, const char *request_hash,
		   const struct acp_execution *what, enum acp_code code, const struct acp_executed *out)
{
	struct acp_event event = {0};
	const struct acp_settlement end = {.event = &event};
	bool ok = make_event(local, request, request_hash, what, code, out, &event) &&
		  local->plane->call.record(local->plane->self, &end) == ACP_OK;
	acp_event_release(&event);
	return ok;
}

void acp_executor_local_run(const struct acp_executor *executor, const struct acp_request *request,
			    const char *request_hash, const struct acp_execution *what, struct acp_executed *out)
{
	const struct local *local = executor->self;
	*out = (struct acp_executed){0};
	enum acp_code code = check_and_run(local, what, out);
	if (record(local, request, request_hash, what, code, out))
		return;
	/* Never report success without an audit row. A retry with the same key has no further effect. */
	acp_log(ACP_LOG_ERROR, "request %s: the audit row of an execution of %.100s could not be written",
		request->request_id, code == ACP_NOT_FOUND ? "an unknown action" : what->action);
	acp_executed_release(out);
	acp_executed_fail(out, "UNAVAILABLE", true, "the audit row could not be written; try again");
}

static void execute(void *self, const struct acp_execution *what, struct acp_executed *out)
{
	const struct local *local = self;
	char id[ACP_UUID_LEN];
	acp_uuid(id);
	const struct acp_request request = {.request_id = id, .started_us = acp_monotonic_us()};
	struct acp_execution own = *what;
	own.kernel_id = *local->config->kernel_id ? local->config->kernel_id : NULL;
	acp_executor_local_run(&local->executor, &request, NULL, &own, out);
}

/* Constructor ------------------------------------------------------------------------------------------------------ */

struct acp_executor *acp_executor_local_new(const struct acp_config *config, const struct acp_control_plane *plane,
					    char *why, size_t why_size)
{
	struct local *local = calloc(1, sizeof *local);
	snprintf(why, why_size, "out of memory");
	if (!local)
		return NULL;
	*local = (struct local){.executor = {local, execute}, .config = config, .plane = plane};
	bool ok = (local->body = compile("the body", acp_schema_executor_execute, why, why_size)) != NULL;
	for (size_t i = 0; ok && acp_stripe_actions[i].name; i++)
		ok = i < ACTIONS_MAX && (local->schemas[i] = compile(acp_stripe_actions[i].name,
								     acp_stripe_actions[i].schema, why, why_size));
	if (ok)
		return &local->executor;
	acp_executor_local_free(&local->executor);
	return NULL;
}

void acp_executor_local_free(struct acp_executor *executor)
{
	struct local *local = executor->self;
	for (size_t i = 0; i < ACTIONS_MAX; i++)
		acp_schema_free(local->schemas[i]);
	acp_schema_free(local->body);
	free(local);
}

bool acp_executor_is_local(const struct acp_executor *executor)
{
	return executor && executor->execute == execute;
}

const struct acp_schema *acp_executor_local_schema(const struct acp_executor *executor)
{
	const struct local *local = executor->self;
	return local->body;
}
