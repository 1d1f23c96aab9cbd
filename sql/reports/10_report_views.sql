-- Stable views for SQL reporting (schema acp_report). They run with their owner's rights and show no secret.

CREATE OR REPLACE VIEW acp_report.audit_logs AS
	SELECT event_id, request_id, ts, nullif(tenant_id, '00000000-0000-0000-0000-000000000000') AS tenant_id,
		integration, pack, action, actor_type, actor_id, api_key_id, request_hash, status, error_code, error_message_redacted,
		result_meta, latency_ms, ip_address, idempotency_key, dry_run, policy_decision_id, trace_id,
		billable, billing_unit, billing_quantity, tier
	FROM acp.audit_logs;
COMMENT ON VIEW acp_report.audit_logs IS 'The audit log: one row a call; tenant_id is null for unknown callers.';

CREATE OR REPLACE VIEW acp_report.tenants AS
	SELECT tenant_id, agent_id, organization_name, product, acp.effective_tier(tier, payment_method_status) AS tier,
		payment_method_status, status, onboarded_at, upgraded_at
	FROM acp.tenants;
COMMENT ON VIEW acp_report.tenants IS 'Tenants; tier is the one they are treated as.';

CREATE OR REPLACE VIEW acp_report.usage_by_tenant_month AS
	SELECT c.tenant_id, t.agent_id, date_trunc('month', c.day)::date AS period, c.tier,
		coalesce(sum(c.calls) FILTER (WHERE c.billable), 0)::bigint AS billable_calls,
		coalesce(sum(c.quantity) FILTER (WHERE c.billable), 0)::bigint AS billable_quantity,
		coalesce(sum(c.calls) FILTER (WHERE c.status = 'success'), 0)::bigint AS successful_calls,
		coalesce(sum(c.calls) FILTER (WHERE c.status = 'error'), 0)::bigint AS failed_calls,
		coalesce(sum(c.calls) FILTER (WHERE c.status = 'denied'), 0)::bigint AS denied_calls
	FROM acp.usage_counters c JOIN acp.tenants t USING (tenant_id)
	GROUP BY 1, 2, 3, 4;
COMMENT ON VIEW acp_report.usage_by_tenant_month IS 'Calls of each tenant by UTC month and tier, from the counters.';

CREATE OR REPLACE VIEW acp_report.usage_by_action_day AS
	SELECT c.day, c.action, c.status, c.billable, c.tier, c.billing_unit,
		sum(c.calls)::bigint AS calls, sum(c.quantity)::bigint AS quantity
	FROM acp.usage_counters c
	GROUP BY 1, 2, 3, 4, 5, 6;
COMMENT ON VIEW acp_report.usage_by_action_day IS 'Calls by UTC day, action, status, billable, tier and unit, over all tenants.';

CREATE OR REPLACE VIEW acp_report.denials AS
	SELECT acp.day(ts) AS day, error_code, action, count(*) AS calls
	FROM acp.audit_logs WHERE status = 'denied'
	GROUP BY 1, 2, 3;
COMMENT ON VIEW acp_report.denials IS 'Refused calls by UTC day, code and action.';

CREATE OR REPLACE VIEW acp_report.usage_drift AS
	SELECT coalesce(a.tenant_id, c.tenant_id) AS tenant_id, coalesce(a.day, c.day) AS day, coalesce(a.action, c.action) AS action,
		coalesce(a.status, c.status) AS status, coalesce(a.billable, c.billable) AS billable, coalesce(a.tier, c.tier) AS tier,
		coalesce(a.calls, 0) AS audit_rows, coalesce(c.calls, 0) AS counted
	FROM (SELECT tenant_id, acp.day(ts) AS day, action, status, billable, tier, count(*) AS calls
	      FROM acp.audit_logs WHERE pack IS NOT NULL AND tier IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6) a
	FULL JOIN (SELECT tenant_id, day, action, status, billable, tier, sum(calls)::bigint AS calls
	      FROM acp.usage_counters GROUP BY 1, 2, 3, 4, 5, 6) c
	USING (tenant_id, day, action, status, billable, tier)
	WHERE coalesce(a.calls, 0) <> coalesce(c.calls, 0);
COMMENT ON VIEW acp_report.usage_drift IS 'Where the counters and the audit rows differ. Always empty.';

-- A view runs its functions as its reader.
GRANT EXECUTE ON FUNCTION acp.effective_tier(text, text), acp.day(timestamptz) TO acp_report;
GRANT SELECT ON ALL TABLES IN SCHEMA acp_report TO acp_report;
