/* Other kernels: this kernel as their hub, and the queue of audit rows for its own hub. */
#include "pg_parts.h"

#include "json.h"

/* Other kernels ------------------------------------------------------------------------------------------------ */

enum hub_trait {
	READS = 1,
	CHANGES_ACCESS = 2,
	OF_A_CALL = 4, /* counts to the share of its tenant: the calls of one may not use up the connections */
};

struct hub_statement {
	const char *name;
	const char *sql;
	int traits;
	int timeout_ms; /* 0: the default */
};

/* Billing a month of all tenants takes longer than a call may. */
enum { TEN_MINUTES_MS = 600000 };

static const struct hub_statement hub_statements[ACP_HUB_REQUESTS] = {
	[ACP_HUB_TENANTS_CREATE] = {"tenants_create", "SELECT acp.hub_tenants_create($1, $2)", 0, 0},
	[ACP_HUB_TENANTS_UPDATE] = {"tenants_update", "SELECT acp.hub_tenants_update($1, $2)", CHANGES_ACCESS, 0},
	[ACP_HUB_USAGE] = {"usage", "SELECT acp.hub_usage($1, $2)", READS | OF_A_CALL, 0},
	[ACP_HUB_USAGE_RESERVE] = {"usage_reserve", "SELECT acp.hub_usage_reserve($1, $2)", OF_A_CALL, 0},
	[ACP_HUB_USAGE_SETTLE] = {"usage_settle", "SELECT acp.hub_usage_settle($1, $2)", OF_A_CALL, 0},
	[ACP_HUB_USAGE_PRICES] = {"usage_prices", "SELECT acp.hub_usage_prices($1, $2)", READS, 0},
	[ACP_HUB_AUDIT_INGEST] = {"audit_ingest", "SELECT acp.hub_audit_ingest($1, $2)", 0, 0},
	[ACP_HUB_AUDIT_QUERY] = {"audit_query", "SELECT acp.hub_audit_query($1, $2)", READS | OF_A_CALL, 0},
	[ACP_HUB_AUTHORIZE] = {"authorize", "SELECT acp.hub_authorize($1, $2)", OF_A_CALL, 0},
	[ACP_HUB_HEARTBEAT] = {"heartbeat", "SELECT acp.hub_heartbeat($1, $2)", 0, 0},
	[ACP_HUB_POLICY_PROPOSE] = {"policy_propose", "SELECT acp.hub_policy_propose($1, $2)", 0, 0},
	[ACP_HUB_REVOKE] = {"revoke", "SELECT acp.hub_revoke($1, $2)", CHANGES_ACCESS, 0},
	[ACP_HUB_BILLING_RUN] = {"billing_run", "SELECT acp.hub_billing_run($1, $2)", 0, TEN_MINUTES_MS},
	[ACP_HUB_BILLING_INVOICE] = {"billing_invoice", "SELECT acp.hub_billing_invoice($1, $2)", READS | OF_A_CALL, 0},
};

/* Adds the arguments of acp.hub_… besides the body: settings, and the time of the audit row. */
static bool complete_context(struct acp_pg_plane *pg, struct json_object *ctx)
{
	char ts[ACP_TS_LEN];
	struct json_object *event = acp_json_member(ctx, "event");
	acp_key_cache_clock(pg->keys, ts);
	return (!event || acp_json_add_string(event, "ts", ts)) &&
	       acp_json_add_string(ctx, "free_limit", pg->free_limit) &&
	       acp_json_add_string(ctx, "reservation_ttl", pg->reservation_ttl) &&
	       acp_json_add(ctx, "ceiling_approvals", json_object_new_int64(pg->config->ceiling_approvals)) &&
	       acp_json_add_string(ctx, "invoice_minimum", pg->config->invoice_minimum);
}

static enum acp_code hub_answer(void *self, enum acp_hub_request request, struct json_object *body,
				struct json_object *ctx, struct json_object **reply, struct acp_refusal *refusal)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error = {0};
	const struct hub_statement *to = &hub_statements[request];
	if (!complete_context(pg, ctx))
		return ACP_INTERNAL_ERROR;
	const char *tenant = to->traits & OF_A_CALL ? acp_json_string(body, "tenant_id") : NULL;
	const char *values[] = {acp_pg_text(body), acp_pg_text(ctx)};
	enum acp_code code =
		to->traits & READS
			? acp_pg_read_json(pg, tenant, to->sql, 2, values, reply, &error, to->name)
			: acp_pg_write_json(pg, tenant, to->sql, 2, values, to->timeout_ms, reply, &error, to->name);
	if (to->traits & CHANGES_ACCESS)
		acp_shared_counter_add(pg->changes);
	acp_pg_refusal(code, &error, refusal);
	/* The kernel then finds the event that cannot be stored, and goes on with the others. One that was stored a
	 * moment ago (23505) is found when it comes again. */
	if (request == ACP_HUB_AUDIT_INGEST && code == ACP_INTERNAL_ERROR && acp_pg_is_data_error(&error) &&
	    strcmp(error.sqlstate, "23505") != 0) {
		snprintf(refusal->message, sizeof refusal->message, "an event cannot be stored here");
		return ACP_VALIDATION_ERROR;
	}
	return code;
}

/* Audit events for a remote hub -------------------------------------------------------------------------------- */

static enum acp_code forward_take(void *self, int64_t most, struct acp_tx **out, struct json_object **events)
{
	struct acp_tx *tx = NULL;
	struct acp_db_error error = {0};
	PGresult *rows = NULL;
	char number[24];
	snprintf(number, sizeof number, "%lld", (long long)most);
	const char *values[] = {number};
	enum acp_code code = acp_pg_begin(self, NULL, false, &tx);
	if (code != ACP_OK)
		return code;
	enum acp_db_status status = acp_db_exec(tx->conn, "SELECT acp.forward_take($1)", 1, values, 0, &rows, &error);
	code = acp_pg_take_json(status, rows, events, &error, "outbox");
	bool some = code == ACP_OK && json_object_array_length(*events) > 0;
	if (!some)
		acp_pg_rollback(tx);
	*out = some ? tx : NULL;
	return code;
}

static enum acp_code forward_done(struct acp_tx *tx, enum acp_delivery delivery, struct json_object *events,
				  const char *reason)
{
	struct acp_db_error error = {0};
	enum acp_db_status status = ACP_DB_OK;
	if (delivery == ACP_DELIVERY_REFUSED) {
		const char *values[] = {acp_pg_text(json_object_array_get_idx(events, 0)), reason};
		status = acp_db_exec(tx->conn, "SELECT acp.forward_refused($1, $2)", 2, values, 0, NULL, &error);
	}
	if (delivery != ACP_NOT_DELIVERED && status == ACP_DB_OK)
		status = acp_db_commit(tx->conn, &error);
	if (delivery == ACP_NOT_DELIVERED || status == ACP_DB_REFUSED)
		acp_pg_rollback(tx);
	else
		acp_pg_end_tx(tx);
	return acp_pg_code(status, &error, "outbox");
}

const struct acp_plane_hub acp_pg_hub = {
	.answer = hub_answer,
	.forward_take = forward_take,
	.forward_done = forward_done,
};
