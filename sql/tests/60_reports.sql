-- 60_reports.sql - the views of acp_report: their columns, which users depend on, and their contents for a day in 2061,
-- read as acp_report.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(25);

-- Shifts the program's clock so that this transaction happens at a moment. The ROLLBACK undoes it.
CREATE FUNCTION pg_temp.clock_at(moment timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('ALTER DATABASE %I SET acp.clock_offset = %L', current_database(), moment - now());
END
$$;
CREATE FUNCTION pg_temp.t(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('66666666-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
$$;

-- Columns ------------------------------------------------------------------------------------------------------------

CREATE TEMP VIEW shapes AS
	SELECT relname::text COLLATE "default" AS view,
		string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
			COLLATE "default" AS columns
	FROM pg_class c JOIN pg_attribute ON attrelid = c.oid AND attnum > 0
	WHERE relnamespace = 'acp_report'::regnamespace GROUP BY relname;
CREATE TEMP TABLE promised (view text, columns text);
INSERT INTO promised VALUES
	('audit_logs',
		'event_id uuid, request_id uuid, ts timestamp with time zone, tenant_id uuid, integration text, '
		'pack text, action text, actor_type text, actor_id text, api_key_id uuid, request_hash text, '
		'status text, error_code text, error_message_redacted text, result_meta jsonb, latency_ms real, '
		'ip_address inet, idempotency_key text, dry_run boolean, policy_decision_id uuid, trace_id text, '
		'billable boolean, billing_unit text, billing_quantity bigint, tier text'),
	('audit_months', 'period date'),
	('conversion_by_month',
		'onboarded_in date, tenants bigint, active_tenants bigint, upgraded_tenants bigint, conversion_rate numeric, '
		'median_days numeric'),
	('billed_calls',
		'tenant_id uuid, event_id uuid, ts timestamp with time zone, action text, billing_unit text, '
		'billing_quantity bigint, chain_id integer, chain_seq bigint, period date, line integer, unit_amount numeric, '
		'charged_quantity bigint'),
	('invoice_lines',
		'tenant_id uuid, period date, line integer, kind text, source_period date, action text, billing_unit text, '
		'unit text, price_pattern text, price_version bigint, unit_amount numeric, calls bigint, quantity numeric, '
		'amount numeric, amount_minor bigint, from_ts timestamp with time zone, to_ts timestamp with time zone, '
		'first_ts timestamp with time zone, last_ts timestamp with time zone, first_chain integer, first_seq bigint, '
		'last_chain integer, last_seq bigint, credit_id bigint, reason text'),
	('invoices',
		'tenant_id uuid, agent_id text, organization_name text, period date, status text, currency text, '
		'total numeric, amount_minor bigint, amount numeric, carried_in numeric, carried_out numeric, sha256 text, '
		'billed_at timestamp with time zone, stripe_invoice_id text, paid_at timestamp with time zone, error text, '
		'refunded_minor bigint, credited_minor bigint, dispute text, disputed_at timestamp with time zone, '
		'settled_at timestamp with time zone, past_due_since timestamp with time zone'),
	('denials',
		'day date, error_code text, action text, calls bigint, period date'),
	('error_rate_by_action_day',
		'day date, action text, calls bigint, errors bigint, denied bigint, error_rate numeric'),
	('latency_by_action_day',
		'day date, action text, calls bigint, p50_ms numeric, p95_ms numeric, p99_ms numeric, max_ms numeric, period date'),
	('prices', 'unit text, action_pattern text, unit_amount numeric, currency text, valid_from timestamp with time zone'),
	('revenue_by_month', 'period date, currency text, paying_tenants bigint, paid_calls bigint, amount numeric'),
	('revenue_by_tenant_month',
		'tenant_id uuid, agent_id text, period date, currency text, paid_calls bigint, amount numeric'),
	('revenue_lines',
		'tenant_id uuid, agent_id text, period date, action text, tier text, unit text, unit_amount numeric, currency text, '
		'calls bigint, units numeric, amount numeric, list_amount numeric'),
	('tenants',
		'tenant_id uuid, agent_id text, organization_name text, product text, tier text, '
		'payment_method_status text, status text, onboarded_at timestamp with time zone, '
		'upgraded_at timestamp with time zone, past_due_since timestamp with time zone, past_due_until timestamp with time zone'),
	('usage_by_action_day',
		'day date, action text, status text, billable boolean, tier text, billing_unit text, calls bigint, '
		'quantity numeric'),
	('usage_by_tenant_month',
		'tenant_id uuid, agent_id text, period date, tier text, billable_calls bigint, '
		'billable_quantity numeric, successful_calls bigint, failed_calls bigint, denied_calls bigint'),
	('usage_drift',
		'tenant_id uuid, day date, action text, status text, billable boolean, tier text, audit_rows bigint, '
		'counted bigint, billing_unit text, audit_quantity numeric, counted_quantity numeric, period date');
SELECT results_eq('SELECT view, columns FROM shapes ORDER BY view', 'SELECT view, columns FROM promised ORDER BY view',
	'the views have exactly the documented columns');

-- Calls --------------------------------------------------------------------------------------------------------------

SELECT pg_temp.clock_at('2061-01-31 23:59:59+00') \gset ignored_
SELECT count(acp.tenant_create(pg_temp.t(n), 'leadscoring', 'reports:' || n,
	'a@example.com', CASE n WHEN 1 THEN 'One Ltd' END))
FROM generate_series(1, 3) n \gset ignored_
SELECT acp.tenant_update(pg_temp.t(2), 'paid', 'active', NULL, NULL), acp.tenant_update(pg_temp.t(3), 'paid',
	'setup_pending', 'suspended', NULL)
	\gset ignored_

CREATE TEMP TABLE calls (n integer, tenant integer, ts timestamptz, action text, status text,
	billable boolean, tier text, unit text, quantity integer, code text);
INSERT INTO calls VALUES
	(1, 1, '2061-01-31 23:59:59+00', 'report.one', 'success', true, 'free', NULL, 1, NULL),
	(2, 1, '2061-02-01 00:00:00+00', 'report.one', 'success', true, 'free', NULL, 1, NULL),
	(3, 1, '2061-02-01 00:00:01+00', 'report.one', 'success', true, 'free', NULL, 1, NULL),
	(4, 1, '2061-02-01 00:00:02+00', 'report.rows', 'success', true, 'free', 'row', 40, NULL),
	(5, 1, '2061-02-02 00:00:00+00', 'report.one', 'success', false, 'free', NULL, 1, NULL),
	(6, 1, '2061-02-02 00:00:00+00', 'report.one', 'error', false, 'free', NULL, 1, 'INTERNAL_ERROR'),
	(7, 1, '2061-02-02 00:00:00+00', 'report.one', 'denied', false, 'free', NULL, 1, 'UPGRADE_REQUIRED'),
	(8, 1, '2061-02-02 00:00:01+00', 'report.one', 'denied', false, 'free', NULL, 1, 'UPGRADE_REQUIRED'),
	(9, 1, '2061-02-02 00:00:02+00', 'report.one', 'denied', false, 'free', NULL, 1, 'SCOPE_DENIED'),
	(10, 2, '2061-02-28 23:59:59+00', 'report.rows', 'success', true, 'paid', 'row', 7, NULL),
	(11, 2, '2061-02-28 23:59:59+00', 'report.rows', 'success', true, 'free', 'row', 2, NULL),
	(12, NULL, '2061-02-28 23:59:59+00', NULL, 'denied', false, NULL, NULL, 1, 'INVALID_API_KEY');
SELECT count(acp.audit_append(jsonb_build_object('event_id', gen_random_uuid(), 'request_id', gen_random_uuid(),
	'ts', ts,
	'tenant_id', coalesce(pg_temp.t(tenant), '00000000-0000-0000-0000-000000000000'), 'integration', 'pgtap',
	'pack', substring(action FROM '^report'), 'action', action,
	'actor_type', CASE WHEN tenant IS NULL THEN 'anonymous' ELSE 'api_key' END,
	'status', status, 'error_code', code, 'latency_ms', n, 'dry_run', false, 'billable', billable, 'billing_unit', unit,
	'billing_quantity', quantity, 'tier', tier, 'ip_address', '192.0.2.1', 'idempotency_key', 'key ' || n)))
	FROM calls \gset ignored_

INSERT INTO acp.prices (unit, action_pattern, unit_amount, currency, valid_from) VALUES
	('call', 'report.*', 0.5, 'USD', '2061-01-01'), ('call', 'report.*', 0.7, 'USD', '2061-02-01'),
	('row', 'report.rows', 0.01, 'USD', '2061-01-01'), ('call', 'report.one', 9, 'USD', '2061-03-01');
CREATE FUNCTION pg_temp.cost(tenant uuid, period date) RETURNS jsonb LANGUAGE sql SECURITY DEFINER AS
	$$ SELECT (acp.usage(tenant, period, 100)::jsonb)->'cost' $$;
CREATE FUNCTION pg_temp.plan_of(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	line text;
	plan text := '';
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS off, TIMING off) ' || query LOOP
		plan := plan || line || chr(10);
	END LOOP;
	RETURN plan;
END
$$;

-- A session of acp_report, with its rights and the search path of its logins.
SET LOCAL search_path = acp_report, :tap, pg_catalog;
SET LOCAL ROLE acp_report;

SELECT is((SELECT count(*) FROM audit_logs WHERE integration = 'pgtap'), 12::bigint,
	'audit_logs works without a schema name and has every row');
SELECT results_eq($$SELECT billable, count(*) FROM audit_logs WHERE integration = 'pgtap' GROUP BY 1 ORDER BY 1$$,
	$$VALUES (false, 6::bigint), (true, 6::bigint)$$, 'audit_logs shows billable and other rows');
SELECT results_eq($$SELECT tenant_id, action, actor_type, tier, status, error_code FROM audit_logs
	WHERE integration = 'pgtap' AND latency_ms = 12$$,
	$$VALUES (NULL::uuid, NULL::text, 'anonymous', NULL::text, 'denied', 'INVALID_API_KEY')$$,
	'an unknown caller is null, not the nil UUID');
SELECT results_eq($$SELECT tenant_id, ts, pack, action, status, billable, billing_unit, billing_quantity, tier,
		host(ip_address), idempotency_key
	FROM audit_logs WHERE integration = 'pgtap' AND latency_ms = 10$$, $$VALUES (pg_temp.t(2),
	'2061-02-28 23:59:59+00'::timestamptz,
	'report', 'report.rows', 'success', true, 'row', 7::bigint, 'paid', '192.0.2.1', 'key 10')$$,
	'the row of a known caller is complete');
SELECT is_empty($$SELECT 1 FROM audit_logs WHERE tenant_id = '00000000-0000-0000-0000-000000000000'$$,
	'the nil UUID is never shown');

SELECT results_eq($$SELECT * FROM tenants WHERE agent_id LIKE 'reports:%' ORDER BY agent_id$$, $$VALUES
	(pg_temp.t(1), 'reports:1', 'One Ltd', 'leadscoring', 'free', 'none', 'active',
	'2061-01-31 23:59:59+00'::timestamptz, NULL::timestamptz, NULL::timestamptz, NULL::timestamptz),
	(pg_temp.t(2), 'reports:2', NULL, 'leadscoring', 'paid', 'active', 'active', '2061-01-31 23:59:59+00',
	'2061-01-31 23:59:59+00', NULL, NULL),
	(pg_temp.t(3), 'reports:3', NULL, 'leadscoring', 'free', 'setup_pending', 'suspended', '2061-01-31 23:59:59+00',
	'2061-01-31 23:59:59+00', NULL, NULL)$$,
	'tenants: tier is the effective tier');

SELECT results_eq($$SELECT agent_id, period, tier, coalesce(billable_calls, 0), coalesce(billable_quantity, 0),
	coalesce(successful_calls, 0),
	coalesce(failed_calls, 0), coalesce(denied_calls, 0) FROM usage_by_tenant_month
	WHERE agent_id LIKE 'reports:%' ORDER BY 1, 2, 3$$, $$VALUES
	('reports:1', '2061-01-01'::date, 'free', 1::bigint, 1::numeric, 1::bigint, 0::bigint, 0::bigint),
	('reports:1', '2061-02-01', 'free', 3, 42, 4, 1, 3),
	('reports:2', '2061-02-01', 'free', 1, 2, 1, 0, 0),
	('reports:2', '2061-02-01', 'paid', 1, 7, 1, 0, 0)$$, 'usage_by_tenant_month');
SELECT is_empty($$SELECT 1 FROM usage_by_tenant_month WHERE agent_id LIKE 'reports:%'
	AND concat_ws(' ', billable_calls, billable_quantity,
	successful_calls, failed_calls, denied_calls) !~ '^\d+ \d+ \d+ \d+ \d+$'$$,
	'usage_by_tenant_month: missing counts are 0, not null');

SELECT results_eq($$SELECT * FROM usage_by_action_day WHERE action LIKE 'report.%' ORDER BY 1, 2, 3, 4, 5$$, $$VALUES
	('2061-01-31'::date, 'report.one', 'success', true, 'free', 'call', 1::bigint, 1::numeric),
	('2061-02-01', 'report.one', 'success', true, 'free', 'call', 2, 2),
	('2061-02-01', 'report.rows', 'success', true, 'free', 'row', 1, 40),
	('2061-02-02', 'report.one', 'denied', false, 'free', 'call', 3, 3),
	('2061-02-02', 'report.one', 'error', false, 'free', 'call', 1, 1),
	('2061-02-02', 'report.one', 'success', false, 'free', 'call', 1, 1),
	('2061-02-28', 'report.rows', 'success', true, 'free', 'row', 1, 2),
	('2061-02-28', 'report.rows', 'success', true, 'paid', 'row', 1, 7)$$, 'usage_by_action_day');

SELECT results_eq($$SELECT * FROM denials WHERE day >= '2061-01-01' ORDER BY 1, 2$$, $$VALUES
	('2061-02-02'::date, 'SCOPE_DENIED', 'report.one', 1::bigint, '2061-02-01'::date),
	('2061-02-02', 'UPGRADE_REQUIRED', 'report.one', 2, '2061-02-01'),
	('2061-02-28', 'INVALID_API_KEY', NULL, 1, '2061-02-01')$$, 'denials: includes unknown callers');

SELECT results_eq($$SELECT * FROM error_rate_by_action_day WHERE action LIKE 'report.%' ORDER BY 1, 2$$, $$VALUES
	('2061-01-31'::date, 'report.one', 1::bigint, 0::bigint, 0::bigint, 0.0000),
	('2061-02-01', 'report.one', 2, 0, 0, 0), ('2061-02-01', 'report.rows', 1, 0, 0, 0),
	('2061-02-02', 'report.one', 5, 1, 3, 0.2), ('2061-02-28', 'report.rows', 2, 0, 0, 0)$$, 'error_rate_by_action_day');

-- latency_ms is the number of the call.
SELECT results_eq($$SELECT * FROM latency_by_action_day WHERE period >= '2061-01-01' ORDER BY 1, 2$$, $$VALUES
	('2061-01-31'::date, 'report.one', 1::bigint, 1.0, 1.0, 1.0, 1.0, '2061-01-01'::date),
	('2061-02-01', 'report.one', 2, 2.5, 3.0, 3.0, 3.0, '2061-02-01'), ('2061-02-01', 'report.rows', 1, 4.0, 4.0, 4.0, 4.0, '2061-02-01'),
	('2061-02-02', 'report.one', 2, 5.5, 6.0, 6.0, 6.0, '2061-02-01'),
	('2061-02-28', 'report.rows', 2, 10.5, 11.0, 11.0, 11.0, '2061-02-01')$$,
	'latency_by_action_day: without refused calls');

SELECT results_eq($$SELECT agent_id, period, action, tier, unit, unit_amount, units, amount, list_amount FROM revenue_lines
	WHERE agent_id LIKE 'reports:%' ORDER BY 1, 2, 3, 4$$, $$VALUES
	('reports:1', '2061-01-01'::date, 'report.one', 'free', 'call', 0.5, 1::numeric, 0::numeric, 0.5),
	('reports:1', '2061-02-01', 'report.one', 'free', 'call', 0.7, 2, 0, 1.4),
	('reports:1', '2061-02-01', 'report.rows', 'free', 'row', 0.01, 40, 0, 0.4),
	('reports:2', '2061-02-01', 'report.rows', 'free', 'row', 0.01, 2, 0, 0.02),
	('reports:2', '2061-02-01', 'report.rows', 'paid', 'row', 0.01, 7, 0.07, 0.07)$$,
	'revenue_lines: the price of the day, per unit where there is one; free calls earn nothing');
SELECT is_empty($$SELECT l.* FROM revenue_lines l, LATERAL (SELECT sum((c->>'amount')::numeric) AS cost
	FROM (SELECT pg_temp.cost(l.tenant_id, l.period) AS c) u) own
	WHERE l.agent_id = 'reports:2' AND l.tier = 'paid' AND l.amount IS DISTINCT FROM own.cost$$,
	'revenue_lines: agrees with GET /api/usage');
SELECT results_eq($$SELECT agent_id, paid_calls, amount FROM revenue_by_tenant_month WHERE period = '2061-02-01'$$,
	$$VALUES ('reports:2', 1::bigint, 0.07)$$, 'revenue_by_tenant_month: paying tenants');
SELECT results_eq($$SELECT * FROM revenue_by_month WHERE period >= '2061-01-01'$$,
	$$VALUES ('2061-02-01'::date, 'USD', 1::bigint, 1::bigint, 0.07)$$, 'revenue_by_month');
SELECT results_eq($$SELECT * FROM conversion_by_month WHERE onboarded_in = '2061-01-01'$$,
	$$VALUES ('2061-01-01'::date, 3::bigint, 2::bigint, 2::bigint, 0.6667, 0.0)$$, 'conversion_by_month');

-- The rows of a tenant are found by the index, also through the view. A month is read without the others.
SET LOCAL enable_seqscan = off;
SELECT matches(pg_temp.plan_of($$SELECT * FROM audit_logs WHERE tenant_id = pg_temp.t(1) AND ts >= '2061-02-01'$$),
	'Index Cond: \(\(tenant_id = ', 'audit_logs: a tenant is found by the index');
SELECT matches(pg_temp.plan_of($$SELECT * FROM denials WHERE period = '2061-02-01'$$), 'never executed',
	'denials: with a period other months are not read');
SELECT is((SELECT count(*) FROM audit_months WHERE period BETWEEN '2061-01-01' AND '2061-02-01'), 2::bigint, 'audit_months');
RESET enable_seqscan;

SELECT is_empty($$SELECT * FROM usage_drift WHERE day >= '2061-01-01'$$, 'usage_drift: empty');
RESET ROLE;
SELECT acp.usage_roll_up() \gset ignored_
UPDATE acp.usage_counted SET calls = 9 WHERE tenant_id = pg_temp.t(2) AND tier = 'paid';
INSERT INTO acp.audit_logs (event_id, request_id, ts, tenant_id, integration, pack, action, actor_type, status,
	latency_ms, tier, chain_id, chain_seq, chain_hash)
VALUES (gen_random_uuid(), gen_random_uuid(), '2061-02-28 12:00:00+00', pg_temp.t(1), 'pgtap', 'report', 'report.one',
	'system', 'success', 1, 'free', 0, 0, '');
SET LOCAL ROLE acp_report;
SELECT results_eq($$SELECT * FROM usage_drift WHERE day >= '2061-01-01' ORDER BY tenant_id$$, $$VALUES
	(pg_temp.t(1), '2061-02-28'::date, 'report.one', 'success', true, 'free', 1::bigint, 0::bigint, 'call', 1::numeric, 0::numeric,
	'2061-02-01'::date),
	(pg_temp.t(2), '2061-02-28', 'report.rows', 'success', true, 'paid', 1, 9, 'row', 7, 7, '2061-02-01')$$,
	'usage_drift: an uncounted row and a wrong counter');

SET LOCAL timezone = 'Pacific/Kiritimati';
SELECT is((SELECT count(*) FROM usage_by_tenant_month WHERE agent_id = 'reports:1'
	AND period = '2061-02-01'), 1::bigint,
	'months are in UTC in every session');
SELECT is((SELECT sum(calls) FROM denials WHERE day = '2061-02-02'), 3::numeric, 'days are in UTC in every session');

SELECT * FROM finish();
ROLLBACK;
