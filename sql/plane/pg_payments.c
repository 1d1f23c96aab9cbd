/* Payments, webhook deliveries, and the operator's view of the console. */
#include "pg_parts.h"

/* Payments ------------------------------------------------------------------------------------------------------ */

/* Calls a function of the schema acp that takes and returns JSON. timeout_ms: as for acp_pg_write_json(). */
static enum acp_code call_json(struct acp_pg_plane *pg, const char *sql, int timeout_ms, const char *name,
			       struct json_object *what, struct json_object **reply, struct acp_refusal *refusal)
{
	struct acp_db_error error = {0};
	const char *values[] = {acp_pg_text(what)};
	enum acp_code code = acp_pg_write_json(pg, NULL, sql, 1, values, timeout_ms, reply, &error, name);
	acp_pg_refusal(code, &error, refusal);
	return code;
}

/* The same for a function that may change a tenant's tier. Reports a change even if there was none: an extra query is
 * harmless. */
static enum acp_code call_tier(struct acp_pg_plane *pg, const char *sql, const char *name, struct json_object *what,
			       struct json_object **reply, struct acp_refusal *refusal)
{
	enum acp_code code = call_json(pg, sql, 0, name, what, reply, refusal);
	acp_shared_counter_add(pg->changes);
	return code;
}

static enum acp_code upgrade_begin(void *self, struct json_object *what, struct json_object **reply,
				   struct acp_refusal *refusal)
{
	return call_tier(self, "SELECT acp.upgrade_begin($1)", "upgrade_begin", what, reply, refusal);
}

static enum acp_code upgrade_opened(void *self, struct json_object *what, struct json_object **reply,
				    struct acp_refusal *refusal)
{
	return call_tier(self, "SELECT acp.upgrade_opened($1)", "upgrade_opened", what, reply, refusal);
}

static enum acp_code upgrade_failed(void *self, struct json_object *what, struct json_object **reply,
				    struct acp_refusal *refusal)
{
	return call_tier(self, "SELECT acp.upgrade_failed($1)", "upgrade_failed", what, reply, refusal);
}

static enum acp_code obligations_take(void *self, struct json_object *what, struct json_object **reply,
				      struct acp_refusal *refusal)
{
	return call_json(self, "SELECT acp.obligations_take($1)", 0, "obligations_take", what, reply, refusal);
}

static enum acp_code obligation_done(void *self, struct json_object *what, struct json_object **reply,
				     struct acp_refusal *refusal)
{
	return call_tier(self, "SELECT acp.obligation_done($1)", "obligation_done", what, reply, refusal);
}

static enum acp_code stripe_event(void *self, struct json_object *what, struct json_object **reply,
				  struct acp_refusal *refusal)
{
	return call_tier(self, "SELECT acp.stripe_event($1)", "stripe_event", what, reply, refusal);
}

static enum acp_code get_invoice(void *self, const char *tenant_id, const char *period, struct json_object **invoice)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error = {0};
	const char *values[] = {tenant_id, period, *pg->config->invoice_minimum ? pg->config->invoice_minimum : NULL};
	static const char sql[] = "SELECT acp.invoice_json($1, ($2 || '-01')::date, $3)";
	PGresult *rows = NULL;
	enum acp_db_status status = acp_db_read(pg->pool, tenant_id, sql, 3, values, 0, &rows, &error);
	enum acp_code code = acp_pg_take_json(status, rows, invoice, &error, "invoice");
	return acp_pg_operators_fault(code, &error, "invoice");
}

/* The operator's view of the console. Reading a month of all tenants takes longer than a call may. */
enum { HALF_MINUTE_MS = 30000 };

static enum acp_code console_open(void *self, struct json_object *what, struct json_object **reply,
				  struct acp_refusal *refusal)
{
	return call_json(self, "SELECT acp.console_open($1)", HALF_MINUTE_MS, "console_open", what, reply, refusal);
}

static enum acp_code console_data(void *self, struct json_object *what, struct json_object **reply,
				  struct acp_refusal *refusal)
{
	return call_json(self, "SELECT acp.console_data($1)", HALF_MINUTE_MS, "console_data", what, reply, refusal);
}

/* Webhooks ----------------------------------------------------------------------------------------------------- */

static enum acp_code claim_deliveries(void *self, int max, int lease, int share, struct json_object **list)
{
	struct acp_db_error error = {0};
	char most[16], seconds[16], each[16];
	snprintf(most, sizeof most, "%d", max);
	snprintf(seconds, sizeof seconds, "%d", lease);
	snprintf(each, sizeof each, "%d", share);
	const char *values[] = {most, seconds, each};
	return acp_pg_write_json(self, NULL, "SELECT acp.deliveries_take($1, make_interval(secs => $2), $3)", 3, values,
				 0, list, &error, "webhook deliveries");
}

static enum acp_code report_deliveries(void *self, struct json_object *outcomes)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error = {0};
	const char *values[] = {acp_pg_text(outcomes)};
	return acp_pg_code(acp_db_write(pg->pool, NULL, "SELECT acp.deliveries_done($1)", 1, values, 0, NULL, &error),
			   &error, "end of webhook deliveries");
}

const struct acp_plane_payments acp_pg_payments = {
	.get_invoice = get_invoice,
	.upgrade_begin = upgrade_begin,
	.upgrade_opened = upgrade_opened,
	.upgrade_failed = upgrade_failed,
	.obligations_take = obligations_take,
	.obligation_done = obligation_done,
	.stripe_event = stripe_event,
};

const struct acp_plane_webhooks acp_pg_webhooks = {.claim = claim_deliveries, .report = report_deliveries};

const struct acp_plane_console acp_pg_console = {.open = console_open, .data = console_data};
