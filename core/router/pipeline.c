/* pipeline.c - the router. run_stages() runs the stages in the contract's order (section 3); finish() is its single
 * exit. */
#include "pipeline.h"

#include "auth.h"
#include "call.h"
#include "clock.h"
#include "envelope.h"
#include "idempotency.h"
#include "log.h"
#include "policy.h"
#include "redact.h"
#include "share.h"
#include "usage.h"

enum { RATE_WINDOW = 60 }; /* seconds */

typedef enum acp_code stage(struct acp_call *call);

const char acp_call_may_have_acted[] = "the upstream of this action gave no usable reply; it may or may not have acted";

enum acp_code acp_call_vfail(struct acp_call *call, enum acp_code code, const char *field, const char *format,
			     va_list args)
{
	call->code = code;
	vsnprintf(call->error, sizeof call->error, format, args);
	snprintf(call->field, sizeof call->field, "%s", field ? field : "");
	/* Both may contain the caller's text. */
	acp_redact_in_place(call->error, sizeof call->error, call->kernel->config->api_key_prefix);
	acp_redact_in_place(call->field, sizeof call->field, call->kernel->config->api_key_prefix);
	return code;
}

enum acp_code acp_call_fail(struct acp_call *call, enum acp_code code, const char *field, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	acp_call_vfail(call, code, field, format, args);
	va_end(args);
	return code;
}

/* Fails the call with the code's default sentence. */
static enum acp_code fail_plain(struct acp_call *call, enum acp_code code)
{
	return acp_call_fail(call, code, NULL, "%s", acp_code_sentence(code));
}

static enum acp_code authenticate(struct acp_call *call)
{
	enum acp_code code = acp_authenticate(call->kernel, call->request->credential, &call->principal);
	if (code != ACP_OK)
		return fail_plain(call, code);
	call->authenticated = true;
	call->reservation.tier = call->principal.tier;
	return ACP_OK;
}

static enum acp_code look_up(struct acp_call *call)
{
	const char *name = call->action_name;
	size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_.");
	call->entry = acp_kernel_find(call->kernel, name);
	if (call->entry)
		return ACP_OK;
	/* Echo only text that looks like a name. Anything else may be a secret in the wrong place. */
	bool plain = len <= 100 && name[len] == '\0';
	return acp_call_fail(call, ACP_NOT_FOUND, NULL, "there is no action %s; meta.actions lists them",
			     plain ? name : "of this name");
}

static enum acp_code check_scope(struct acp_call *call)
{
	const struct acp_action *action = call->entry->action;
	if (acp_call_has_scope(call, action->scope))
		return ACP_OK;
	return acp_call_fail(call, ACP_SCOPE_DENIED, NULL,
			     "action %s needs scope %s, which this API key does not have; call with a key that has it",
			     action->name, action->scope);
}

static enum acp_code check_dry_run(struct acp_call *call)
{
	if (!call->dry_run || call->entry->action->supports_dry_run)
		return ACP_OK;
	return acp_call_fail(call, ACP_VALIDATION_ERROR, "/dry_run",
			     "action %s does not support dry_run; leave it out to run it", call->action_name);
}

/* Makes the name of the limit of refused calls, which applies to a tenant. */
static void refusals_name(const struct acp_call *call, char out[160])
{
	snprintf(out, 160, "refused %s", call->principal.tenant_id);
}

static int64_t refusals_limit(const struct acp_config *config)
{
	int64_t limit = config->rate_limit / config->rate_limit_hosts;
	return limit > 0 ? limit : 1;
}

/* Calls that a rule refuses do not count against the rate limit of their key and action, but each of them costs a row.
 * So a tenant whose calls are refused too often must wait. */
static enum acp_code check_refusals(struct acp_call *call)
{
	char name[160];
	struct acp_rate rate;
	int64_t limit = refusals_limit(call->kernel->config);
	if (!call->kernel->limits)
		return ACP_OK;
	refusals_name(call, name);
	acp_ratelimit_look(call->kernel->limits, name, limit, RATE_WINDOW, acp_monotonic_us(), &rate);
	if (rate.allowed)
		return ACP_OK;
	call->rate = rate;
	call->retry_after = (int)rate.reset;
	return acp_call_fail(call, ACP_RATE_LIMITED, NULL,
			     "more than %lld calls of this tenant were refused within a minute; try again in %lld s",
			     (long long)limit, (long long)rate.reset);
}

/* Calls with an error before the rate limit, such as an unknown action, count too: nothing else limits them. */
static void count_refusal(const struct acp_call *call)
{
	char name[160];
	struct acp_rate ignored;
	bool refused = acp_code_outcome(call->code) == ACP_DENIED || !call->rate_taken_us;
	if (!call->kernel->limits || !call->authenticated || call->code == ACP_RATE_LIMITED || !refused)
		return;
	refusals_name(call, name);
	acp_ratelimit_acquire(call->kernel->limits, name, refusals_limit(call->kernel->config), RATE_WINDOW,
			      acp_monotonic_us(), &ignored);
}

/* Makes the name of the rate limit, which applies to one key calling one action. */
static void rate_name(const struct acp_call *call, char out[160])
{
	snprintf(out, 160, "%s %.100s", call->principal.api_key_id, call->entry->action->name);
}

static enum acp_code check_rate(struct acp_call *call)
{
	char name[160];
	const struct acp_config *config = call->kernel->config;
	int64_t limit = call->principal.rate_limit ? call->principal.rate_limit : config->rate_limit;
	int64_t own = call->entry->action->rate_limit;
	if (!call->kernel->limits)
		return ACP_OK;
	limit = (own && own < limit ? own : limit) / config->rate_limit_hosts;
	rate_name(call, name);
	call->rate_taken_us = acp_monotonic_us();
	acp_ratelimit_acquire(call->kernel->limits, name, limit > 0 ? limit : 1, RATE_WINDOW, call->rate_taken_us,
			      &call->rate);
	if (call->rate.allowed)
		return ACP_OK;
	call->retry_after = (int)call->rate.reset;
	return acp_call_fail(call, ACP_RATE_LIMITED, NULL,
			     "more than %lld calls of %.100s a minute with this key; try again in %lld s",
			     (long long)limit, call->entry->action->name, (long long)call->rate.reset);
}

/* A call counts only if all rules allow it. So a call that a later rule denies does not count against the rate limit. A
 * call beyond a share does, because a client may repeat it at once. */
static void release_rate(struct acp_call *call)
{
	char name[160];
	if (!call->rate.allowed || call->code == ACP_RATE_LIMITED || acp_code_outcome(call->code) != ACP_DENIED)
		return;
	rate_name(call, name);
	acp_ratelimit_release(call->kernel->limits, name, RATE_WINDOW, call->rate_taken_us);
	call->rate.remaining++;
}

static enum acp_code check_params(struct acp_call *call)
{
	struct acp_schema_error bad;
	char field[280];
	if (acp_schema_check(call->entry->schema, call->params, &bad))
		return ACP_OK;
	if (bad.no_memory)
		return fail_plain(call, ACP_INTERNAL_ERROR);
	snprintf(field, sizeof field, "/params%s", bad.pointer);
	return acp_call_fail(call, ACP_VALIDATION_ERROR, field, "%s %s", field, bad.message);
}

struct ceiling {
	int64_t most;
	bool check_first;
	char sentence[160]; /* of the refusal */
};

/* Finds the ceiling of a resource in the table of ceilings. */
static void find_ceiling(const struct acp_config *config, const char *resource, struct ceiling *ceiling)
{
	*ceiling = (struct ceiling){.most = INT64_MAX};
#define ACP_CEILING(name, setting, first, text)                                                                        \
	if (strcmp(name, resource) == 0) {                                                                             \
		*ceiling = (struct ceiling){.most = config->setting, .check_first = (first)};                          \
		snprintf(ceiling->sentence, sizeof ceiling->sentence, text, (long long)config->setting);               \
	}
#include "ceilings.def"
#undef ACP_CEILING
}

static enum acp_code check_ceiling(struct acp_call *call)
{
	int64_t count = 0;
	struct ceiling ceiling;
	const struct acp_control_plane *plane = call->kernel->plane;
	const char *resource = call->entry->action->ceiling;
	if (!resource || !plane->usage.live_count)
		return ACP_OK;
	find_ceiling(call->kernel->config, resource, &ceiling);
	if (!ceiling.check_first)
		return ACP_OK;
	enum acp_code code = plane->usage.live_count(plane->self, call->principal.tenant_id, resource, &count);
	if (code != ACP_OK)
		return fail_plain(call, code);
	if (count < ceiling.most)
		return ACP_OK;
	return acp_call_fail(call, ACP_CEILING_EXCEEDED, NULL, "%s", ceiling.sentence);
}

/* Rolls back the handler's transaction, if there is one. */
static void roll_back(struct acp_call *call)
{
	if (call->tx)
		call->kernel->plane->call.rollback(call->tx);
	call->tx = NULL;
}

static bool quantity_ok(const struct acp_call *call)
{
	return call->result.quantity >= 0 && call->result.quantity <= acp_action_max_quantity(call->entry->action);
}

/* The only check of the quantity of a call, except for one that a function reports in a transaction that is committed:
 * settle checks that one. Sums of quantities are money, so a handler's mistake must not get into them. */
static enum acp_code check_quantity(struct acp_call *call)
{
	const struct acp_action *action = call->entry->action;
	if (quantity_ok(call))
		return ACP_OK;
	acp_log(ACP_LOG_ERROR, "action %s reported the quantity %lld, which is not from 0 to %lld; request %s",
		action->name, (long long)call->result.quantity, (long long)acp_action_max_quantity(action),
		call->request->request_id);
	if (!action->upstream)
		return fail_plain(call, ACP_INTERNAL_ERROR);
	return acp_call_fail(call, ACP_UPSTREAM_FAILED, NULL, "%s", acp_call_may_have_acted);
}

/* A dry run has no settlement that would read the quantity. */
static enum acp_code read_reported(struct acp_call *call)
{
	const struct acp_control_plane *plane = call->kernel->plane;
	if (!call->dry_run || !call->tx || !plane->call.reported)
		return ACP_OK;
	return plane->call.reported(call->tx, &call->result.quantity);
}

static enum acp_code run_handler(struct acp_call *call)
{
	enum acp_code code = call->entry->action->run(call, call->params, &call->result);
	if (code == ACP_OK)
		code = read_reported(call);
	if (code == ACP_OK)
		code = check_quantity(call);
	if (code != ACP_OK && call->code != code)
		fail_plain(call, code);
	if (code != ACP_OK && !quantity_ok(call))
		call->result.quantity = 1; /* the row of the failure must be stored */
	if (code != ACP_OK)
		return acp_usage_after_failure(call);
	if (code == ACP_OK && call->dry_run) {
		/* A dry run stores only its row. Its transaction ends here, so that the price query does not need a
		 * second connection. */
		roll_back(call);
		if (!acp_usage_estimate(call))
			return fail_plain(call, ACP_INTERNAL_ERROR);
	}
	return code;
}

static void release_end(struct acp_call *call)
{
	acp_event_release(&call->event);
	acp_buf_release(&call->sealed);
}

/* Returns the code for a call that could not be stored. Its upstream may nevertheless have acted; then no refusal is
 * true. */
static enum acp_code failed_end(const struct acp_call *call, enum acp_code code)
{
	return call->acted ? ACP_OUTCOME_UNKNOWN : code;
}

/* Prepares a success: effect, usage and audit row are committed together. */
static bool make_end(struct acp_call *call)
{
	call->end = (struct acp_settlement){.event = &call->event,
					    .reserved = call->reserved,
					    .max_quantity = acp_action_max_quantity(call->entry->action),
					    .calls_held = &call->calls_held,
					    .changes_access = call->entry->action->changes_access};
	if (!acp_audit_event(call, &call->event)) {
		call->code = fail_plain(call, failed_end(call, ACP_INTERNAL_ERROR));
		return false;
	}
	/* Everything here that can fail does so before the commit, so that every committed call gets its reply. */
	if (acp_idempotency_seal(call, &call->sealed, &call->end) && acp_envelope_prepare(call))
		return true;
	release_end(call);
	call->code = fail_plain(call, failed_end(call, ACP_INTERNAL_ERROR));
	return false;
}

/* Determines whether a call whose commit was not answered took effect. If it did not, records its refusal. */
static enum acp_code resolve(struct acp_call *call)
{
	struct acp_event event;
	const struct acp_control_plane *plane = call->kernel->plane;
	const struct acp_settlement end = {.event = &event,
					   .reserved = call->reserved,
					   .claim = call->claimed ? call->idempotency_key : NULL,
					   .approval = acp_policy_unused_approval(call)};
	fail_plain(call, ACP_UNAVAILABLE);
	if (!plane->call.resolve || !acp_audit_event(call, &event))
		return ACP_OUTCOME_UNKNOWN;
	enum acp_code code = plane->call.resolve(plane->self, &end);
	acp_event_release(&event);
	call->recorded = true;
	call->code = code;
	return code;
}

static void handle_end(struct acp_call *call, enum acp_code code, int64_t calls_used)
{
	release_end(call);
	if (code == ACP_OUTCOME_UNKNOWN)
		code = resolve(call);
	if (code == ACP_OK) {
		call->reserved = call->claimed = false;
		acp_usage_warn(call, calls_used);
		return;
	}
	code = failed_end(call, code);
	call->code = code == ACP_UPGRADE_REQUIRED ? acp_usage_refuse(call) : fail_plain(call, code);
}

static void settle(struct acp_call *call)
{
	const struct acp_control_plane *plane = call->kernel->plane;
	int64_t calls_used = -1;
	struct acp_tx *tx = call->tx;
	call->tx = NULL;
	enum acp_code code = plane->call.settle(plane->self, tx, &call->end, &calls_used);
	handle_end(call, code, calls_used);
}

/* The stages in order (contract section 3), up to the call's end. A stage returns ACP_OK to continue. */
/* clang-format off */
static stage *const stages[] = {
	acp_envelope_parse,
	acp_envelope_check,
	authenticate,
	check_refusals,
	look_up,
	check_scope,
	check_dry_run,
	check_rate,
	acp_share_enter,
	check_params,
	acp_idempotency_claim,
	check_ceiling,
	acp_policy_check,
	acp_usage_reserve,
	acp_policy_use_approval,
	run_handler,
};
/* clang-format on */

static void run_stages(struct acp_call *call)
{
	call->code = ACP_OK;
	for (size_t i = 0; i < ACP_COUNT(stages) && call->code == ACP_OK; i++)
		call->code = stages[i](call);
}

static void log_lost(const struct acp_event *event)
{
	struct json_object *json = event ? acp_event_json(event) : NULL;
	const struct acp_log_field fields[] = {
		{"msg", "the audit row could not be written", false},
		{"event", json ? json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN) : NULL, false}};
	acp_log_fields(ACP_LOG_ERROR, fields, ACP_COUNT(fields));
	json_object_put(json);
}

/* Ends every call that is not a settled success: rolls back the handler's work, releases reservation and claim, and
 * writes the single audit row. If that row cannot be written, the reply is always 503. */
static void record_exit(struct acp_call *call)
{
	const struct acp_control_plane *plane = call->kernel->plane;
	roll_back(call);
	release_rate(call);
	count_refusal(call);
	if (call->recorded)
		return;
	struct acp_event event;
	const struct acp_settlement end = {.event = &event,
					   .reserved = call->reserved,
					   .claim = call->claimed ? call->idempotency_key : NULL,
					   .approval = acp_policy_unused_approval(call)};
	bool made = acp_audit_event(call, &event);
	if (!made || plane->call.record(plane->self, &end) != ACP_OK) {
		log_lost(made ? &event : NULL);
		json_object_put(call->extra);
		call->extra = NULL;
		fail_plain(call, call->code == ACP_OUTCOME_UNKNOWN ? call->code : failed_end(call, ACP_UNAVAILABLE));
	}
	if (made)
		acp_event_release(&event);
}

static void release(struct acp_call *call)
{
	json_object_put(call->body);
	json_object_put(call->result.data);
	json_object_put(call->result.meta);
	json_object_put(call->decision);
	json_object_put(call->extra);
	json_object_put(call->warning);
	json_object_put(call->no_params);
	json_object_put(call->envelope);
}

static void begin(struct acp_call *call, const struct acp_kernel *kernel, const struct acp_request *request)
{
	*call = (struct acp_call){.kernel = kernel, .request = request, .result = {.quantity = 1}};
	acp_uuid(call->event_id);
}

/* The single exit of every call. */
static void finish(struct acp_call *call, struct acp_reply *reply)
{
	if (call->code == ACP_IDEMPOTENT_REPLAY && !acp_envelope_prepare(call))
		fail_plain(call, ACP_INTERNAL_ERROR);
	acp_share_leave(call);
	if (call->code != ACP_OK)
		record_exit(call);
	if (call->code == ACP_OUTCOME_UNKNOWN || (call->code == ACP_UPSTREAM_FAILED && call->acted))
		acp_idempotency_tell(call);
	if (acp_code_outcome(call->code) == ACP_SUCCESS)
		acp_usage_warn_past_due(call);
	acp_envelope_reply(call, reply);
	release(call);
}

void acp_manage(const struct acp_kernel *kernel, const struct acp_request *request, struct acp_reply *reply)
{
	struct acp_call call;
	begin(&call, kernel, request);
	run_stages(&call);
	if (call.code == ACP_OK && make_end(&call))
		settle(&call);
	finish(&call, reply);
}

static void answer(struct acp_call *call)
{
	struct acp_reply reply;
	acp_answered *answered = call->answered;
	void *arg = call->arg;
	finish(call, &reply);
	answered(arg, &reply);
}

static void settled(void *arg, enum acp_code code, int64_t calls_used)
{
	struct acp_call *call = arg;
	handle_end(call, code, calls_used);
	answer(call);
}

/* Ends the call without a connection of its own. True: it may already have been answered. A call that only waits for
 * its commit holds no share. */
static bool settle_later(struct acp_call *call)
{
	const struct acp_control_plane *plane = call->kernel->plane;
	if (call->tx || call->end.claim || call->end.approval || !plane->call.settle_later)
		return false;
	acp_share_leave(call);
	return plane->call.settle_later(plane->self, &call->end, settled, call);
}

void acp_manage_later(struct acp_call *call, const struct acp_kernel *kernel, const struct acp_request *request,
		      acp_answered *answered, void *arg)
{
	begin(call, kernel, request);
	call->answered = answered;
	call->arg = arg;
	run_stages(call);
	if (call->code == ACP_OK && make_end(call)) {
		if (settle_later(call))
			return;
		settle(call);
	}
	answer(call);
}

struct acp_call *acp_call_new(void)
{
	return malloc(sizeof(struct acp_call));
}

void acp_call_free(struct acp_call *call)
{
	free(call);
}

/* Functions for handlers --------------------------------------------------------------------------------------- */

int64_t acp_call_rate_limit(const struct acp_call *call)
{
	int64_t usual = call->kernel->config->rate_limit;
	return call->principal.rate_limit > usual ? call->principal.rate_limit : usual;
}

bool acp_call_has_scope(const struct acp_call *call, const char *scope)
{
	return acp_word_in_list(call->principal.scopes, scope);
}

bool acp_call_dry_run(const struct acp_call *call)
{
	return call->dry_run;
}

const char *acp_call_tenant(const struct acp_call *call)
{
	return call->principal.tenant_id;
}

const struct acp_kernel *acp_call_kernel(const struct acp_call *call)
{
	return call->kernel;
}

static bool add_ceiling(const struct acp_call *call, struct json_object *ctx)
{
	struct ceiling ceiling;
	if (!call->entry->action->ceiling)
		return true;
	find_ceiling(call->kernel->config, call->entry->action->ceiling, &ceiling);
	return acp_json_add(ctx, "ceiling", json_object_new_int64(ceiling.most)) &&
	       acp_json_add_string(ctx, "ceiling_sentence", ceiling.sentence);
}

static struct json_object *sql_context(const struct acp_call *call)
{
	struct json_object *ctx = json_object_new_object();
	if (ctx && acp_json_add_string(ctx, "request_id", call->request->request_id) &&
	    acp_json_add_string(ctx, "event_id", call->event_id) &&
	    acp_json_add_string(ctx, "api_key_id", call->principal.api_key_id) &&
	    acp_json_add_string(ctx, "ts", call->principal.ts) &&
	    acp_json_add(ctx, "dry_run", json_object_new_boolean(call->dry_run)) && add_ceiling(call, ctx))
		return ctx;
	json_object_put(ctx);
	return NULL;
}

/* Calls the function in the call's transaction, which it begins if necessary. */
static enum acp_code run_sql(struct acp_call *call, const char *function, struct json_object *params,
			     struct json_object *ctx, struct json_object **data, struct acp_refusal *refusal)
{
	const struct acp_control_plane *plane = call->kernel->plane;
	/* A dry run cannot write even if its function tries to: its transaction is read-only. */
	enum acp_code code =
		call->tx ? ACP_OK : plane->call.begin(plane->self, call->principal.tenant_id, call->dry_run, &call->tx);
	if (code != ACP_OK)
		return code;
	return plane->call.run(call->tx, function, call->principal.tenant_id, params, ctx, data, refusal);
}

/* Calls the function without a transaction: a read has nothing to commit at the end of the call. */
static enum acp_code read_sql(struct acp_call *call, const char *function, struct json_object *params,
			      struct json_object *ctx, struct json_object **data, struct acp_refusal *refusal)
{
	const struct acp_control_plane *plane = call->kernel->plane;
	struct acp_result found = {.quantity = call->result.quantity};
	enum acp_code code =
		plane->call.read(plane->self, function, call->principal.tenant_id, params, ctx, &found, refusal);
	if (code == ACP_OK) {
		*data = found.data;
		call->result.quantity = found.quantity;
		json_object_put(call->result.meta);
		call->result.meta = found.meta;
	}
	return code;
}

enum acp_code acp_call_sql(struct acp_call *call, const char *function, struct json_object *params,
			   struct json_object **data)
{
	const struct acp_control_plane *plane = call->kernel->plane;
	struct acp_refusal refusal = {0};
	struct json_object *ctx = sql_context(call);
	if (!ctx)
		return fail_plain(call, ACP_INTERNAL_ERROR);
	enum acp_code code = plane->call.read && !call->entry->action->writes
				     ? read_sql(call, function, params, ctx, data, &refusal)
				     : run_sql(call, function, params, ctx, data, &refusal);
	json_object_put(ctx);
	if (code == ACP_OK)
		return ACP_OK;
	if (!*refusal.message)
		return fail_plain(call, code);
	return acp_call_fail(call, code, refusal.field, "%s", refusal.message);
}

enum acp_code acp_run_sql(struct acp_call *call, struct json_object *params, struct acp_result *result)
{
	return acp_call_sql(call, call->entry->action->sql_function, params, &result->data);
}

struct json_object *acp_impact(const char *risk)
{
	static const char *const lists[] = {"creates", "updates", "deletes", "side_effects", "warnings"};
	struct json_object *impact = json_object_new_object();
	bool ok = impact && acp_json_add_string(impact, "risk", risk);
	for (size_t i = 0; ok && i < ACP_COUNT(lists); i++)
		ok = acp_json_add(impact, lists[i], json_object_new_array());
	if (ok)
		return impact;
	json_object_put(impact);
	return NULL;
}
