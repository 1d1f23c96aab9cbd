-- Stable views for SQL reporting (schema acp_report). They run with the rights of their owner and show no secrets.

-- Two parts, so that a condition on tenant_id applies to the column itself: PostgreSQL cannot use the index for an
-- expression.
CREATE OR REPLACE VIEW acp_report.audit_logs AS
	SELECT event_id, request_id, ts, tenant_id,
		integration, pack, action, actor_type, actor_id, api_key_id, request_hash, status, error_code, error_message_redacted,
		result_meta, latency_ms, ip_address, idempotency_key, dry_run, policy_decision_id, trace_id,
		billable, billing_unit, billing_quantity, tier
	FROM acp.audit_logs WHERE tenant_id <> '00000000-0000-0000-0000-000000000000'
	UNION ALL
	SELECT event_id, request_id, ts, NULL,
		integration, pack, action, actor_type, actor_id, api_key_id, request_hash, status, error_code, error_message_redacted,
		result_meta, latency_ms, ip_address, idempotency_key, dry_run, policy_decision_id, trace_id,
		billable, billing_unit, billing_quantity, tier
	FROM acp.audit_logs WHERE tenant_id = '00000000-0000-0000-0000-000000000000';
COMMENT ON VIEW acp_report.audit_logs IS
	'The audit log: one row per call; tenant_id is null for unknown callers. A range of ts reads only the months in it, a tenant_id only that tenant''s rows.';

CREATE OR REPLACE VIEW acp_report.tenants AS
	SELECT tenant_id, agent_id, organization_name, product, acp.effective_tier(tier, payment_method_status, past_due_until, acp.now()) AS tier,
		payment_method_status, status, onboarded_at, upgraded_at, past_due_since, past_due_until
	FROM acp.tenants;
COMMENT ON VIEW acp_report.tenants IS 'Tenants. tier is the effective tier: paid only with an active payment method, and not after past_due_until. past_due_since: since when an invoice is owed whose payment failed.';

-- From the counters: exact like the log, and equally fast with 20 million calls --------------------------------------

CREATE OR REPLACE VIEW acp_report.usage_by_tenant_month AS
	SELECT c.tenant_id, t.agent_id, date_trunc('month', c.day::timestamp)::date AS period, c.tier,
		coalesce(sum(c.calls) FILTER (WHERE c.billable), 0)::bigint AS billable_calls,
		coalesce(sum(c.quantity) FILTER (WHERE c.billable), 0) AS billable_quantity,
		coalesce(sum(c.calls) FILTER (WHERE c.status = 'success'), 0)::bigint AS successful_calls,
		coalesce(sum(c.calls) FILTER (WHERE c.status = 'error'), 0)::bigint AS failed_calls,
		coalesce(sum(c.calls) FILTER (WHERE c.status = 'denied'), 0)::bigint AS denied_calls
	FROM acp.charged_counters c JOIN acp.tenants t USING (tenant_id)
	GROUP BY 1, 2, 3, 4;
COMMENT ON VIEW acp_report.usage_by_tenant_month IS 'Calls of each tenant by UTC month and tier, from the counters. Quantities are those that are charged, after corrections.';

CREATE OR REPLACE VIEW acp_report.usage_by_action_day AS
	SELECT c.day, c.action, c.status, c.billable, c.tier, c.billing_unit,
		sum(c.calls)::bigint AS calls, sum(c.quantity) AS quantity
	FROM acp.charged_counters c
	GROUP BY 1, 2, 3, 4, 5, 6;
COMMENT ON VIEW acp_report.usage_by_action_day IS 'Calls by UTC day, action, status, billable, tier and unit, over all tenants. Quantities are those that are charged, after corrections.';

CREATE OR REPLACE VIEW acp_report.error_rate_by_action_day AS
	SELECT c.day, c.action, sum(c.calls)::bigint AS calls,
		coalesce(sum(c.calls) FILTER (WHERE c.status = 'error'), 0)::bigint AS errors,
		coalesce(sum(c.calls) FILTER (WHERE c.status = 'denied'), 0)::bigint AS denied,
		round(coalesce(sum(c.calls) FILTER (WHERE c.status = 'error'), 0) / sum(c.calls), 4) AS error_rate
	FROM acp.usage_counters c
	GROUP BY 1, 2;
COMMENT ON VIEW acp_report.error_rate_by_action_day IS
	'Number of calls that failed (errors) or were refused (denied), by action and UTC day. error_rate is errors / calls, from 0 to 1.';

CREATE OR REPLACE VIEW acp_report.prices AS
	SELECT unit, action_pattern, unit_amount, currency, valid_from FROM acp.prices;
COMMENT ON VIEW acp_report.prices IS
	'Prices of units, valid from a moment on. Of the patterns that match an action the longest applies, then the newest price.';

-- The rule of acp.billing_price() in place: a function would run a separate statement for every line.
--
-- The paid calls of a closed month are those of the invoice lines: calls that came late, and those of a blocked tenant,
-- are on no invoice yet. All other calls are read from the counters. Counters have no time of day. So the calls of a day
-- on which a price changes are read from the log, as acp.billing_usage() does; in a closed month such days are not read.
CREATE OR REPLACE VIEW acp_report.revenue_lines AS
	WITH changing AS MATERIALIZED (
		SELECT x.day FROM (SELECT DISTINCT (p.valid_from AT TIME ZONE 'UTC')::date AS day FROM acp.prices p
			WHERE p.valid_from <> date_trunc('day', p.valid_from, 'UTC')) x
		WHERE date_trunc('month', x.day::timestamp)::date NOT IN (SELECT k.period FROM acp.billing_closings k)
	), counted AS (
		SELECT u.tenant_id, u.day, u.action, u.tier, u.billing_unit, u.day::timestamp AT TIME ZONE 'UTC' AS ts, sum(u.calls) AS calls,
			sum(u.charged_calls) AS charged_calls, sum(u.quantity) AS quantity
		FROM acp.charged_counters u
		WHERE u.billable AND NOT EXISTS (SELECT FROM changing d WHERE d.day = u.day)
		  AND NOT (u.tier = 'paid' AND date_trunc('month', u.day::timestamp)::date IN (SELECT k.period FROM acp.billing_closings k))
		GROUP BY 1, 2, 3, 4, 5
		UNION ALL
		SELECT l.tenant_id, d.day, l.action, l.tier, coalesce(l.billing_unit, 'call'), min(l.ts), count(*),
			sum(CASE WHEN k.charged = 0 THEN 0 ELSE 1 END), sum(coalesce(k.charged, l.billing_quantity))
		FROM changing d JOIN acp.audit_logs l ON l.ts >= d.day::timestamp AT TIME ZONE 'UTC' AND l.ts < (d.day + 1)::timestamp AT TIME ZONE 'UTC'
		LEFT JOIN acp.billing_corrections k ON k.tenant_id = l.tenant_id AND k.event_id = l.event_id AND k.ts = l.ts
		WHERE l.billable
		GROUP BY 1, 2, 3, 4, 5,
			width_bucket(l.ts, (SELECT '{-infinity}'::timestamptz[] || array_agg(DISTINCT p.valid_from ORDER BY p.valid_from) FROM acp.prices p))
	), priced AS (
		SELECT c.tenant_id, date_trunc('month', c.day::timestamp)::date AS period, c.action, c.tier, p.unit, p.unit_amount, p.currency, c.calls,
			CASE WHEN p.unit = c.billing_unit THEN c.quantity ELSE c.charged_calls END AS units
		FROM counted c
		LEFT JOIN LATERAL (
			SELECT q.unit, q.unit_amount, q.currency FROM acp.prices q
			WHERE q.unit IN (c.billing_unit, 'call')
			  AND (q.action_pattern = c.action OR (right(q.action_pattern, 1) = '*' AND starts_with(c.action, left(q.action_pattern, -1))))
			ORDER BY q.valid_from <= c.ts DESC, CASE WHEN q.valid_from > c.ts THEN q.valid_from END,
				q.unit = c.billing_unit DESC, q.action_pattern = c.action DESC, length(q.action_pattern) DESC, q.valid_from DESC
			LIMIT 1) p ON true
		UNION ALL
		SELECT l.tenant_id, l.source_period, l.action, 'paid', l.unit, l.unit_amount, b.currency, l.calls, l.quantity
		FROM acp.invoice_lines l JOIN acp.billing_periods b USING (tenant_id, period)
		WHERE l.kind = 'usage' AND l.source_period IN (SELECT k.period FROM acp.billing_closings k)
	)
	SELECT c.tenant_id, t.agent_id, c.period, c.action, c.tier, c.unit, c.unit_amount, c.currency, sum(c.calls)::bigint AS calls,
		sum(c.units) AS units, trim_scale(coalesce(sum(c.unit_amount * c.units) FILTER (WHERE c.tier = 'paid'), 0)) AS amount,
		trim_scale(coalesce(sum(c.unit_amount * c.units), 0)) AS list_amount
	FROM priced c JOIN acp.tenants t USING (tenant_id)
	GROUP BY 1, 2, 3, 4, 5, 6, 7, 8;
COMMENT ON VIEW acp_report.revenue_lines IS
	'Unrounded amount of the billable calls by tenant, UTC month, action and price. amount: revenue (tier paid), as on the invoices and their previews, by the month of the calls; list_amount: the amount if every call were paid. unit_amount is null if no price matches. A price applies from its valid_from on; in a closed month, free calls of that day still count at the price of its first instant, and paid calls appear when they are billed: those that came late with a later month, those of a blocked tenant when it is no longer blocked. Invoices are rounded and may carry amounts over.';

CREATE OR REPLACE VIEW acp_report.revenue_by_tenant_month AS
	SELECT tenant_id, agent_id, period, currency, sum(calls) FILTER (WHERE tier = 'paid')::bigint AS paid_calls, sum(amount) AS amount
	FROM acp_report.revenue_lines
	GROUP BY 1, 2, 3, 4
	HAVING bool_or(tier = 'paid');
COMMENT ON VIEW acp_report.revenue_by_tenant_month IS 'Unrounded revenue from the paid calls of each tenant by UTC month: the sum of revenue_lines.';

CREATE OR REPLACE VIEW acp_report.revenue_by_month AS
	SELECT period, currency, count(*) AS paying_tenants, sum(paid_calls)::bigint AS paid_calls, sum(amount) AS amount
	FROM acp_report.revenue_by_tenant_month
	GROUP BY 1, 2;
COMMENT ON VIEW acp_report.revenue_by_month IS 'Unrounded revenue from paid calls by UTC month, and the number of paying tenants.';

CREATE OR REPLACE VIEW acp_report.conversion_by_month AS
	SELECT date_trunc('month', t.onboarded_at AT TIME ZONE 'UTC')::date AS onboarded_in, count(*) AS tenants,
		count(*) FILTER (WHERE u.active) AS active_tenants,
		count(t.upgraded_at) AS upgraded_tenants,
		round(count(t.upgraded_at)::numeric / count(*), 4) AS conversion_rate,
		round(percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM t.upgraded_at - t.onboarded_at)::double precision / 86400)::numeric, 1)
			AS median_days
	FROM acp.tenants t
	LEFT JOIN (SELECT DISTINCT tenant_id, true AS active FROM acp.usage_counters WHERE billable) u USING (tenant_id)
	GROUP BY 1;
COMMENT ON VIEW acp_report.conversion_by_month IS
	'By UTC month of onboarding: number of tenants, those that ever made a billable call (active), those that became paid, their share (0 to 1), and the median days until then.';

-- From the log: data that no counter has. With a condition on period only the rows of that month are read ------------

-- PostgreSQL may test a condition on period for every table, before the join: names that are not months must not fail.
CREATE OR REPLACE VIEW acp_report.audit_months AS
	SELECT CASE WHEN c.relname ~ '^audit_logs_[0-9]{4}_[0-9]{2}$' THEN to_date(right(c.relname, 7), 'YYYY_MM') END AS period
	FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
	WHERE i.inhparent = 'acp.audit_logs'::regclass;
COMMENT ON VIEW acp_report.audit_months IS 'UTC months that have a partition of the log: archived months are missing, some future months are included.';

CREATE OR REPLACE VIEW acp_report.denials AS
	SELECT d.day, d.error_code, d.action, d.calls, m.period
	FROM acp_report.audit_months m CROSS JOIN LATERAL (
		SELECT (l.ts AT TIME ZONE 'UTC')::date AS day, l.error_code, l.action, count(*) AS calls
		FROM acp.audit_logs l
		WHERE l.ts >= m.period::timestamp AT TIME ZONE 'UTC' AND l.ts < (m.period + interval '1 month') AT TIME ZONE 'UTC'
		  AND l.status = 'denied'
		GROUP BY 1, 2, 3) d;
COMMENT ON VIEW acp_report.denials IS
	'Refused calls by UTC day, code and action, including calls of unknown callers. Reads the log: add a condition on period (UTC month).';

CREATE OR REPLACE VIEW acp_report.latency_by_action_day AS
	SELECT d.day, d.action, d.calls, d.p50_ms, d.p95_ms, d.p99_ms, d.max_ms, m.period
	FROM acp_report.audit_months m CROSS JOIN LATERAL (
		SELECT g.day, g.action, g.calls, round(g.p[1]::numeric, 1) AS p50_ms, round(g.p[2]::numeric, 1) AS p95_ms,
			round(g.p[3]::numeric, 1) AS p99_ms, round(g.p[4]::numeric, 1) AS max_ms
		FROM (SELECT (l.ts AT TIME ZONE 'UTC')::date AS day, l.action, count(*) AS calls,
				percentile_cont(ARRAY[0.5, 0.95, 0.99, 1]) WITHIN GROUP (ORDER BY l.latency_ms) AS p
			FROM acp.audit_logs l
			WHERE l.ts >= m.period::timestamp AT TIME ZONE 'UTC' AND l.ts < (m.period + interval '1 month') AT TIME ZONE 'UTC'
			  AND l.status <> 'denied' AND l.pack IS NOT NULL
			GROUP BY 1, 2) g) d;
COMMENT ON VIEW acp_report.latency_by_action_day IS
	'Latency of calls in ms by UTC day and action: median, 95th and 99th percentile, maximum. Refused calls are not included. Reads the log: add a condition on period (UTC month).';

CREATE OR REPLACE VIEW acp_report.usage_drift AS
	SELECT d.tenant_id, d.day, d.action, d.status, d.billable, d.tier, d.audit_rows, d.counted,
		d.billing_unit, d.audit_quantity, d.counted_quantity, m.period
	FROM (
		SELECT period FROM acp_report.audit_months
		UNION SELECT date_trunc('month', day::timestamp)::date FROM acp.usage_counters
		UNION SELECT date_trunc('month', day::timestamp)::date FROM acp.audit_archive_totals) m
	CROSS JOIN LATERAL (
		SELECT r.tenant_id, r.day, r.action, r.status, r.billable, r.tier, sum(r.audit_rows)::bigint AS audit_rows,
			sum(r.counted)::bigint AS counted, r.billing_unit, sum(r.audit_quantity) AS audit_quantity,
			sum(r.counted_quantity) AS counted_quantity
		FROM (
			SELECT l.tenant_id, (l.ts AT TIME ZONE 'UTC')::date AS day, l.action, l.status, l.billable, l.tier,
				coalesce(l.billing_unit, 'call') AS billing_unit, count(*) AS audit_rows, sum(l.billing_quantity) AS audit_quantity,
				0 AS counted, 0 AS counted_quantity
			FROM acp.audit_logs l
			WHERE l.ts >= m.period::timestamp AT TIME ZONE 'UTC' AND l.ts < (m.period + interval '1 month') AT TIME ZONE 'UTC'
			  AND l.pack IS NOT NULL AND l.action IS NOT NULL AND l.tier IS NOT NULL
			GROUP BY 1, 2, 3, 4, 5, 6, 7
			UNION ALL
			SELECT a.tenant_id, a.day, a.action, a.status, a.billable, a.tier, a.billing_unit, a.calls, a.quantity, 0, 0
			FROM acp.audit_archive_totals a
			WHERE a.counted AND a.day >= m.period AND a.day < m.period + interval '1 month'
			UNION ALL
			SELECT c.tenant_id, c.day, c.action, c.status, c.billable, c.tier, c.billing_unit, 0, 0, c.calls, c.quantity
			FROM acp.usage_counters c
			WHERE c.day >= m.period AND c.day < m.period + interval '1 month') r
		GROUP BY r.tenant_id, r.day, r.action, r.status, r.billable, r.tier, r.billing_unit
		HAVING sum(r.audit_rows) <> sum(r.counted) OR sum(r.audit_quantity) <> sum(r.counted_quantity)) d;
COMMENT ON VIEW acp_report.usage_drift IS
	'Differences between counters and audit rows (including archived ones) in calls or quantity. Must always be empty. Reads the log: add a condition on period (UTC month).';

-- A view runs its functions with the rights of its reader.
REVOKE EXECUTE ON FUNCTION acp.effective_tier(text, text) FROM acp_report;
GRANT EXECUTE ON FUNCTION acp.effective_tier(text, text, timestamptz, timestamptz), acp.now(), acp.day(timestamptz) TO acp_report;
GRANT SELECT ON ALL TABLES IN SCHEMA acp_report TO acp_report;
