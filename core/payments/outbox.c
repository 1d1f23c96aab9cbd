#include "outbox.h"

#include "json.h"
#include "log.h"

enum {
	TIMEOUT_MS = 20000, /* for one attempt; less than shutdown_timeout. An invoice takes several requests */
	LEASE = 90,         /* seconds; much longer than an attempt and its report take */
	FIRST_DELAY = 1,    /* seconds before the second attempt; doubles each time */
	LONGEST_DELAY = 3600,
	MOST_ATTEMPTS = 60, /* 12 in the first hour, then hourly: longer than Stripe keeps an answer under its key */
};

bool acp_outbox_offered(const struct acp_kernel *kernel)
{
	return kernel->executor && kernel->plane->payments.obligations_take;
}

double acp_outbox_retry_delay(int64_t attempt, uint32_t random)
{
	if (attempt < 1 || attempt >= MOST_ATTEMPTS)
		return -1;
	double seconds = attempt > 12 ? LONGEST_DELAY : FIRST_DELAY << (attempt - 1);
	return (seconds > LONGEST_DELAY ? LONGEST_DELAY : seconds) * (0.9 + 0.2 * random / UINT32_MAX);
}

/* One obligation ------------------------------------------------------------------------------------------------ */

static bool read_obligation(struct json_object *json, struct acp_execution *what, int64_t *attempts)
{
	what->tenant_id = acp_json_string(json, "tenant_id");
	what->idempotency_key = acp_json_string(json, "obligation");
	what->action = acp_json_string(json, "action");
	what->params = acp_json_member(json, "params");
	what->obliged_at = json_object_get_int64(acp_json_member(json, "obliged_at"));
	what->lookup = acp_json_bool(json, "lookup");
	what->email = acp_json_string(json, "email");
	*attempts = json_object_get_int64(acp_json_member(json, "attempts"));
	return what->tenant_id && what->idempotency_key && what->action && what->params;
}

/* The outcome of the attempt, in the form that obligation_done expects. */
static struct json_object *outcome_json(const struct acp_kernel *kernel, const struct acp_execution *what,
					const struct acp_executed *done, int64_t attempts)
{
	uint32_t random;
	acp_random(&random, sizeof random);
	double retry_delay = done->ok || !done->retry ? -1 : acp_outbox_retry_delay(attempts, random);
	struct json_object *outcome = json_object_new_object();
	if (outcome && acp_json_add_string(outcome, "tenant_id", what->tenant_id) &&
	    acp_json_add_string(outcome, "obligation", what->idempotency_key) &&
	    acp_json_add(outcome, "attempts", json_object_new_int64(attempts)) &&
	    acp_json_add(outcome, "ok", json_object_new_boolean(done->ok)) &&
	    acp_json_add(outcome, "grace_days", json_object_new_int64(kernel->config->grace_days)) &&
	    (!done->data || acp_json_add(outcome, "data", json_object_get(done->data))) &&
	    (done->ok || (acp_json_add_string(outcome, "error_code", done->error_code) &&
			  acp_json_add_string(outcome, "error", done->error))) &&
	    (retry_delay < 0 || acp_json_add(outcome, "retry_after", acp_json_double(retry_delay))))
		return outcome;
	json_object_put(outcome);
	return NULL;
}

static enum acp_code ask_plane(const struct acp_kernel *kernel, acp_plane_question *function, struct json_object *what,
			       struct json_object **reply)
{
	struct acp_refusal refusal = {0};
	return what ? function(kernel->plane->self, what, reply, &refusal) : ACP_INTERNAL_ERROR;
}

/* Reports the attempt. No work is lost if this fails: the obligation becomes due again, with the same key, when the
 * lease ends. */
static enum acp_outbox_step report(const struct acp_kernel *kernel, const struct acp_execution *what,
				   const struct acp_executed *done, int64_t attempts)
{
	struct json_object *reply = NULL;
	struct json_object *outcome = outcome_json(kernel, what, done, attempts);
	enum acp_code code = ask_plane(kernel, kernel->plane->payments.obligation_done, outcome, &reply);
	bool counted = acp_json_bool(reply, "counted");
	bool given_up = !done->ok && !acp_json_member(outcome, "retry_after");
	acp_log(done->ok || !given_up ? ACP_LOG_DEBUG : ACP_LOG_WARNING, "outbox: %s, attempt %lld: %s%s%s",
		what->idempotency_key, (long long)attempts, done->ok ? "done" : done->error_code, done->ok ? "" : ": ",
		done->ok ? "" : done->error);
	if (counted && done->ok && attempts == 1 && acp_json_bool(done->meta, "found"))
		acp_log(ACP_LOG_WARNING,
			"outbox: %s: Stripe had this invoice already, and this database did not know it; if it was "
			"restored from a backup, see docs/restore.md",
			what->idempotency_key);
	if (counted && given_up)
		acp_log(ACP_LOG_ERROR, "outbox: gave up on %s; see: acpctl outbox list --state dead",
			what->idempotency_key);
	json_object_put(outcome);
	json_object_put(reply);
	if (code != ACP_OK)
		return ACP_OUTBOX_TROUBLE;
	return done->ok ? ACP_OUTBOX_DONE : ACP_OUTBOX_FAILED;
}

static enum acp_outbox_step execute(const struct acp_kernel *kernel, struct json_object *obligation,
				    struct acp_execution *what)
{
	int64_t attempts;
	struct acp_executed done = {0};
	if (!read_obligation(obligation, what, &attempts))
		return ACP_OUTBOX_TROUBLE;
	kernel->executor->execute(kernel->executor->self, what, &done);
	enum acp_outbox_step step = report(kernel, what, &done, attempts);
	acp_executed_release(&done);
	return step;
}

static enum acp_outbox_step claim_and_execute(const struct acp_kernel *kernel, struct json_object *which,
					      struct acp_execution *what)
{
	struct json_object *reply = NULL;
	bool ready = which && acp_json_add(which, "lease", json_object_new_int(LEASE));
	acp_plane_question *function = kernel->plane->payments.obligations_take;
	enum acp_code code = ready ? ask_plane(kernel, function, which, &reply) : ACP_INTERNAL_ERROR;
	struct json_object *list = acp_json_member(reply, "obligations");
	enum acp_outbox_step step = code == ACP_OK ? ACP_OUTBOX_IDLE : ACP_OUTBOX_TROUBLE;
	if (json_object_is_type(list, json_type_array) && json_object_array_length(list) > 0)
		step = execute(kernel, json_object_array_get_idx(list, 0), what);
	json_object_put(reply);
	json_object_put(which);
	return step;
}

enum acp_outbox_step acp_outbox_work(const struct acp_kernel *kernel)
{
	struct acp_execution what = {.timeout_ms = TIMEOUT_MS};
	return acp_outbox_offered(kernel) ? claim_and_execute(kernel, json_object_new_object(), &what)
					  : ACP_OUTBOX_IDLE;
}

enum acp_outbox_step acp_outbox_work_on(const struct acp_kernel *kernel, const char *tenant_id, const char *obligation,
					const char *request_id, int timeout_ms)
{
	struct acp_execution what = {.timeout_ms = timeout_ms, .request_id = request_id};
	if (!acp_outbox_offered(kernel) || timeout_ms <= 0)
		return ACP_OUTBOX_IDLE;
	struct json_object *which = json_object_new_object();
	if (which && acp_json_add_string(which, "tenant_id", tenant_id) &&
	    acp_json_add_string(which, "obligation", obligation))
		return claim_and_execute(kernel, which, &what);
	json_object_put(which);
	return ACP_OUTBOX_TROUBLE;
}
