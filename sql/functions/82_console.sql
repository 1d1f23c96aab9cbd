-- The console for operators: access and data.
--
-- The role of the program has no rights on the table of links and sessions, nor on the reports. It only has these
-- functions, and they require a token. All reads of the log are bounded, because the page may be opened at any time.

CREATE OR REPLACE FUNCTION acp.console_link(p_hash bytea, p_minutes integer) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	ends CONSTANT timestamptz := acp.now() + make_interval(mins => least(greatest(p_minutes, 1), 60));
BEGIN
	DELETE FROM acp.console_access WHERE expires_at <= acp.now();
	INSERT INTO acp.console_access (hash, kind, created_at, expires_at) VALUES (p_hash, 'link', acp.now(), ends);
	RETURN ends;
END
$$;
COMMENT ON FUNCTION acp.console_link(bytea, integer) IS 'acpctl console: stores a link by the hash of its token, valid for p_minutes.';

CREATE OR REPLACE FUNCTION acp.console_open(p jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	ends CONSTANT timestamptz := acp.now() + interval '1 hour';
BEGIN
	DELETE FROM acp.console_access WHERE hash = decode(p->>'link', 'hex') AND kind = 'link' AND expires_at > acp.now();
	IF NOT FOUND THEN
		PERFORM acp.fail('INVALID_API_KEY', 'this link has been used or has expired; acpctl console prints a new one');
	END IF;
	INSERT INTO acp.console_access (hash, kind, created_at, expires_at) VALUES (decode(p->>'session', 'hex'), 'session', acp.now(), ends);
	RETURN jsonb_build_object('expires_at', acp.rfc3339(ends));
END
$$;
COMMENT ON FUNCTION acp.console_open(jsonb) IS
	'Consumes a link (hex of its hash) and begins a session (hex of its hash). Of two concurrent requests one succeeds.';

CREATE OR REPLACE FUNCTION acp.console_calls() RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	most  CONSTANT integer := 50000; -- rows of the log to read
	today CONSTANT date := acp.day(acp.now());
	many  CONSTANT boolean := (SELECT coalesce(sum(c.calls), 0) > most FROM acp.usage_counters c WHERE c.day >= today - 1);
	since CONSTANT timestamptz := acp.now() - CASE WHEN many THEN interval '1 hour' ELSE interval '1 day' END;
BEGIN
	RETURN (
		WITH latest AS MATERIALIZED (
			SELECT l.action, l.pack, l.status, l.error_code, l.latency_ms FROM acp.audit_logs l WHERE l.ts >= since LIMIT most
		), denied AS (
			SELECT error_code, action, count(*) AS calls FROM latest WHERE status = 'denied' GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 50
		), timed AS (
			SELECT action, count(*) AS calls, percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY latency_ms) AS p
			FROM latest WHERE status <> 'denied' AND pack IS NOT NULL GROUP BY 1 ORDER BY 2 DESC LIMIT 50
		)
		SELECT jsonb_build_object('since', acp.rfc3339(since), 'calls', (SELECT count(*) FROM latest),
			'all', (SELECT count(*) < most FROM latest),
			'denials', (SELECT coalesce(jsonb_agg(jsonb_build_object('code', d.error_code, 'action', d.action, 'calls', d.calls)
				ORDER BY d.calls DESC, d.error_code), '[]') FROM denied d),
			'latency', (SELECT coalesce(jsonb_agg(jsonb_build_object('action', t.action, 'calls', t.calls, 'p50_ms', round(t.p[1]::numeric, 1),
				'p95_ms', round(t.p[2]::numeric, 1), 'p99_ms', round(t.p[3]::numeric, 1)) ORDER BY t.calls DESC, t.action), '[]') FROM timed t)));
END
$$;
COMMENT ON FUNCTION acp.console_calls() IS
	'Denials by code and latency by action for the last day, or for the last hour if the day had more than 50000 calls. Reads at most 50000 rows.';

CREATE OR REPLACE FUNCTION acp.console_drift(p_month date) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	most  CONSTANT integer := 200000;
	calls CONSTANT bigint := (SELECT coalesce(sum(c.calls), 0) FROM acp.usage_counters c WHERE c.day >= p_month AND c.day < p_month + interval '1 month');
BEGIN
	IF calls > most THEN
		RETURN jsonb_build_object('compared', false, 'calls', calls);
	END IF;
	RETURN jsonb_build_object('compared', true, 'calls', calls,
		'differences', (SELECT count(*) FROM acp_report.usage_drift d WHERE d.period = p_month));
END
$$;
COMMENT ON FUNCTION acp.console_drift(date) IS
	'Number of differences between the counters and the log of a month. Does not compare more than 200000 rows; acpctl reconcile does.';

CREATE OR REPLACE FUNCTION acp.console_month(p_month date, p_default_limit integer) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (
		WITH counted AS (
			SELECT c.tenant_id, c.day, c.action, sum(c.calls) FILTER (WHERE c.billable) AS billable,
				sum(c.calls) FILTER (WHERE c.status = 'success') AS success, sum(c.calls) FILTER (WHERE c.status = 'error') AS error,
				sum(c.calls) FILTER (WHERE c.status = 'denied') AS denied
			FROM acp.usage_counters c WHERE c.day >= p_month AND c.day < p_month + interval '1 month' GROUP BY 1, 2, 3
		), tenants AS (
			SELECT tenant_id, coalesce(sum(billable), 0) AS billable, coalesce(sum(success), 0) AS success,
				coalesce(sum(error), 0) AS error, coalesce(sum(denied), 0) AS denied
			FROM counted GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 50
		), named AS (
			SELECT x.*, t.agent_id, acp.effective_tier(t.tier, t.payment_method_status, t.past_due_until, acp.now()) AS tier, t.calls_limit, acp.past_due(t) AS past_due
			FROM tenants x JOIN acp.tenants t USING (tenant_id)
		), days AS (
			SELECT day, coalesce(sum(success), 0) AS success, coalesce(sum(error), 0) AS error, coalesce(sum(denied), 0) AS denied
			FROM counted GROUP BY 1
		), actions AS (
			SELECT action, coalesce(sum(success), 0) AS success, coalesce(sum(error), 0) AS error, coalesce(sum(denied), 0) AS denied
			FROM counted GROUP BY 1 ORDER BY 3 DESC, 2 DESC LIMIT 50
		)
		SELECT jsonb_build_object('period', to_char(p_month, 'YYYY-MM'),
			'tenants', (SELECT coalesce(jsonb_agg(jsonb_build_object('tenant_id', n.tenant_id, 'agent_id', n.agent_id, 'tier', n.tier, 'past_due', n.past_due,
				'billable', n.billable, 'success', n.success, 'error', n.error, 'denied', n.denied,
				'limit', CASE WHEN n.tier = 'free' THEN coalesce(n.calls_limit, p_default_limit) END)
				ORDER BY n.billable DESC, n.tenant_id), '[]') FROM named n),
			'by_day', (SELECT coalesce(jsonb_agg(to_jsonb(d) ORDER BY d.day), '[]') FROM days d),
			'by_action', (SELECT coalesce(jsonb_agg(to_jsonb(a) ORDER BY a.error DESC, a.action), '[]') FROM actions a)));
END
$$;
COMMENT ON FUNCTION acp.console_month(date, integer) IS 'From the counters of a month: the 50 tenants with the most billable calls, outcomes by day and by action.';

CREATE OR REPLACE FUNCTION acp.console_money() RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	first CONSTANT date := (acp.period(acp.now()) - interval '11 months')::date;
BEGIN
	RETURN jsonb_build_object(
		'revenue', (SELECT coalesce(jsonb_agg(jsonb_build_object('period', to_char(r.period, 'YYYY-MM'), 'currency', r.currency,
			'paying_tenants', r.paying_tenants, 'paid_calls', r.paid_calls, 'amount', r.amount) ORDER BY r.period, r.currency), '[]')
			FROM acp_report.revenue_by_month r WHERE r.period >= first),
		'invoices', (SELECT coalesce(jsonb_agg(to_jsonb(i) ORDER BY i.period DESC, i.status), '[]') FROM (
			SELECT to_char(b.period, 'YYYY-MM') AS period, b.status, b.currency, count(*) AS invoices, sum(acp.money_major(b.amount, b.currency)) AS amount
			FROM acp.billing_periods b WHERE b.period >= first GROUP BY 1, 2, 3) i),
		'funnel', (SELECT jsonb_build_object('tenants', count(*), 'active', count(*) FILTER (WHERE u.tenant_id IS NOT NULL),
			'setup_pending', count(*) FILTER (WHERE t.payment_method_status = 'setup_pending'),
			'upgraded', count(t.upgraded_at), 'paid', count(*) FILTER (WHERE acp.effective_tier(t.tier, t.payment_method_status, t.past_due_until, acp.now()) = 'paid'),
			'past_due', count(t.past_due_since))
			FROM acp.tenants t LEFT JOIN (SELECT DISTINCT c.tenant_id FROM acp.usage_counters c WHERE c.billable) u USING (tenant_id)));
END
$$;
COMMENT ON FUNCTION acp.console_money() IS 'Revenue and invoices of the last twelve months, and the number of tenants at each stage: onboarded, active, upgraded, paid.';

CREATE OR REPLACE FUNCTION acp.console_state() RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT jsonb_build_object('obligations_owed', count(*) FILTER (WHERE NOT o.dead), 'obligations_dead', count(*) FILTER (WHERE o.dead),
			'oldest_owed_at', acp.rfc3339(min(o.created_at) FILTER (WHERE NOT o.dead)))
		FROM (SELECT dead, created_at FROM acp.outbox WHERE done_at IS NULL LIMIT 100000) o)
		|| jsonb_build_object('audit_outbox', (SELECT count(*) FROM (SELECT FROM acp.audit_outbox LIMIT 100000) a),
			'deliveries_pending', (SELECT count(*) FROM (SELECT FROM acp.webhook_deliveries WHERE status = 'pending' LIMIT 100000) d),
			'sealed_at', (SELECT acp.rfc3339(s.at) FROM acp.audit_seals s ORDER BY s.seal_id DESC LIMIT 1),
			'schema_version', (SELECT max(version) FROM acp.schema_migrations));
END
$$;
COMMENT ON FUNCTION acp.console_state() IS 'Backlogs: Stripe obligations, audit rows for a remote hub, webhook deliveries. Also the time of the last seal over the chains.';

CREATE OR REPLACE FUNCTION acp.console_data(p jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	ends  CONSTANT timestamptz := (SELECT a.expires_at FROM acp.console_access a
		WHERE a.hash = decode(p->>'session', 'hex') AND a.kind = 'session' AND a.expires_at > acp.now());
	month CONSTANT date := coalesce((p->>'period' || '-01')::date, acp.period(acp.now()));
BEGIN
	IF ends IS NULL THEN
		PERFORM acp.fail('INVALID_API_KEY', 'this session has ended; acpctl console prints a new link');
	END IF;
	RETURN acp.console_month(month, (p->>'free_limit')::integer) || acp.console_money() || jsonb_build_object('expires_at', acp.rfc3339(ends),
		'latest', acp.console_calls(), 'drift', acp.console_drift(month), 'state', acp.console_state());
END
$$;
COMMENT ON FUNCTION acp.console_data(jsonb) IS 'GET /console/operator/data: p: session (hex of the hash of its token), period?, free_limit.';

REVOKE ALL ON acp.console_access FROM acp_app;
GRANT EXECUTE ON FUNCTION acp.console_link(bytea, integer), acp.console_open(jsonb), acp.console_data(jsonb) TO acp_app;
