/* outbox.c - acpctl outbox: lists, does, retries and cancels the work that is queued for the executor. */
#include "acpctl.h"

#include "executor_open.h"
#include "executor_plane.h"
#include "outbound.h"
#include "outbox.h"

int ctl_outbox_list(struct ctl *ctl)
{
	const char *state = ctl_option(ctl, "state");
	const char *values[] = {state ? state : "owed", ctl_limit(ctl)};
	return values[1] ? ctl_print_query(ctl, "outbox list", values) : ACPCTL_USAGE;
}

static bool id_ok(const char *id)
{
	size_t digits = strspn(id, "0123456789");
	return digits >= 1 && digits <= 18 && !id[digits];
}

int ctl_outbox_retry(struct ctl *ctl)
{
	const char *id = ctl_operand(ctl);
	bool all = strcmp(id, "all") == 0;
	if (!all && !id_ok(id))
		return ctl_misuse("%s: must be the number of an obligation (acpctl outbox list shows it), or all", id);
	const char *values[] = {all ? NULL : id};
	struct json_object *rows = ctl_query(ctl, "outbox retry", values);
	if (!rows)
		return ACPCTL_FAILED;
	int64_t count = json_object_get_int64(ctl_value(rows, "revived"));
	if ((count || all) && (ctl->json || ctl->csv)) {
		ctl_print_one(ctl, rows);
		return ACPCTL_OK;
	}
	json_object_put(rows);
	if (!count && !all)
		return ctl_fail("%s: no such obligation is queued, or it is being executed", id);
	printf("%lld due now\n", (long long)count);
	return ACPCTL_OK;
}

int ctl_outbox_drop(struct ctl *ctl)
{
	const char *id = ctl_operand(ctl);
	if (!id_ok(id))
		return ctl_misuse("%s: must be the number of an obligation (acpctl outbox list shows it)", id);
	const char *values[] = {id};
	struct json_object *rows = ctl_query(ctl, "outbox drop", values);
	if (!rows)
		return ACPCTL_FAILED;
	bool dropped = json_object_get_boolean(ctl_value(rows, "dropped"));
	json_object_put(rows);
	if (!dropped)
		return ctl_fail("%s: no such obligation is queued, or it is being executed", id);
	ctl_print_done(ctl, "outbox_id", id, "dropped");
	return ACPCTL_OK;
}

/* Runs a query whose only parameter is what. Its only row has the reply. */
static enum acp_code run_query(struct ctl *ctl, const char *query, struct json_object *what, struct json_object **reply)
{
	const char *values[] = {json_object_to_json_string_ext(what, JSON_C_TO_STRING_PLAIN)};
	struct json_object *rows = ctl_query(ctl, query, values);
	if (!rows)
		return ACP_UNAVAILABLE;
	*reply = json_object_get(ctl_value(rows, "reply"));
	json_object_put(rows);
	return ACP_OK;
}

static enum acp_code obligations_take(void *self, struct json_object *what, struct json_object **reply,
				      struct acp_refusal *refusal)
{
	(void)refusal;
	return run_query(self, "outbox take", what, reply);
}

static enum acp_code obligation_done(void *self, struct json_object *what, struct json_object **reply,
				     struct acp_refusal *refusal)
{
	(void)refusal;
	return run_query(self, "outbox done", what, reply);
}

/* Stores an audit event of the executor. */
static enum acp_code record(void *self, const struct acp_settlement *end)
{
	struct json_object *event = acp_event_json(end->event);
	const char *values[] = {json_object_to_json_string_ext(event, JSON_C_TO_STRING_PLAIN)};
	struct json_object *rows = event ? ctl_query(self, "audit append", values) : NULL;
	enum acp_code code = rows ? ACP_OK : ACP_UNAVAILABLE;
	json_object_put(rows);
	json_object_put(event);
	return code;
}

struct acp_control_plane ctl_executor_plane(struct ctl *ctl)
{
	return (struct acp_control_plane){.self = ctl,
					  .call.record = record,
					  .payments.obligations_take = obligations_take,
					  .payments.obligation_done = obligation_done};
}

/* Works until nothing is due. This ends, because an obligation that fails is due again only later. */
static int run(const struct acp_kernel *kernel)
{
	int done = 0, failed = 0;
	enum acp_outbox_step step;
	while ((step = acp_outbox_work(kernel)) == ACP_OUTBOX_DONE || step == ACP_OUTBOX_FAILED) {
		done += step == ACP_OUTBOX_DONE;
		failed += step == ACP_OUTBOX_FAILED;
	}
	printf("%d done, %d failed\n", done, failed);
	if (step == ACP_OUTBOX_TROUBLE)
		return ctl_fail("stopped before the end: the database or memory failed");
	return failed ? ACPCTL_FAILED : ACPCTL_OK;
}

int ctl_outbox_run(struct ctl *ctl)
{
	char why[512];
	struct acp_executor *executor = NULL;
	const struct acp_control_plane plane = ctl_executor_plane(ctl);
	if (!acp_outbound_init())
		return ctl_fail("libcurl cannot be used");
	if (!acp_executor_open(&ctl->config, &plane, &executor, why, sizeof why))
		return ctl_fail("%s", why);
	if (!executor)
		return ctl_fail("no executor is configured; set stripe_key, or executor_url and executor_key");
	const struct acp_kernel kernel = {.config = &ctl->config, .plane = &plane, .executor = executor};
	int status = run(&kernel);
	acp_executor_close(executor);
	return status;
}
