-- Sample data for docs/reporting.md: seven tenants in February and March 2026. Load into an empty database as superuser.
SET timezone = 'UTC';
SELECT acp.ensure_partitions('2026-02-01', 1);

CREATE TEMP TABLE agent (n integer, agent_id text, organization text, paid boolean, onboarded timestamptz, upgraded timestamptz);
INSERT INTO agent VALUES
	(1, 'crm-bot', 'Northwind Ltd', true, '2026-02-02 09:00', '2026-02-10 09:00'),
	(2, 'lead-sorter', 'Harbour AG', true, '2026-02-03 12:00', '2026-02-05 18:00'),
	(3, 'weekend-project', NULL, false, '2026-02-14 20:00', NULL),
	(4, 'never-came-back', NULL, false, '2026-02-20 08:00', NULL),
	(5, 'scout-7', 'Ferrum Oy', true, '2026-03-01 07:00', '2026-03-09 07:00'),
	(6, 'trial-agent', 'Blue Fig', false, '2026-03-04 10:00', NULL),
	(7, 'nearly-there', NULL, false, '2026-03-05 10:00', NULL);
CREATE FUNCTION pg_temp.t(n integer) RETURNS uuid LANGUAGE sql AS $$ SELECT ('a0000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid $$;
SELECT count(acp.tenant_create(pg_temp.t(n), 'leadscoring', agent_id, 'ops@example.com', organization)) FROM agent;
UPDATE acp.tenants t SET onboarded_at = onboarded, upgraded_at = upgraded, tier = CASE WHEN paid THEN 'paid' ELSE 'free' END,
	payment_method_status = CASE WHEN paid THEN 'active' ELSE 'none' END
FROM agent WHERE t.tenant_id = pg_temp.t(n);

INSERT INTO acp.prices (unit, action_pattern, unit_amount, currency, valid_from) VALUES
	('row', 'domain.leadscoring.scores.compute', 0.0004, 'USD', '2026-03-01 00:00+00');

-- Each row creates the given number of calls, one per minute from its time on. Latency grows by 0.1 ms per call.
CREATE TEMP TABLE calls (tenant integer, at timestamptz, calls integer, pack text, action text, status text, code text, tier text, unit text,
	quantity integer, latency real, ip inet);
INSERT INTO calls VALUES
	(1, '2026-02-02 10:00', 60, 'domain.leadscoring', 'scores.compute', 'success', NULL, 'free', 'row', 2, 4, '192.0.2.10'),
	(1, '2026-02-12 10:00', 900, 'domain.leadscoring', 'scores.compute', 'success', NULL, 'paid', 'row', 3, 4, '192.0.2.10'),
	(1, '2026-02-12 10:00', 30, 'domain.leadscoring', 'models.list', 'success', NULL, 'paid', NULL, 1, 2, '192.0.2.10'),
	(2, '2026-02-06 08:00', 400, 'domain.leadscoring', 'scores.compute', 'success', NULL, 'paid', 'row', 1, 5, '192.0.2.20'),
	(2, '2026-02-06 08:00', 12, 'domain.leadscoring', 'scores.compute', 'error', 'UPSTREAM_FAILED', 'paid', 'row', 0, 900, '192.0.2.20'),
	(3, '2026-02-14 20:30', 100, 'domain.leadscoring', 'scores.compute', 'success', NULL, 'free', 'row', 1, 3, '192.0.2.30'),
	(3, '2026-02-14 22:30', 9, 'domain.leadscoring', 'scores.compute', 'denied', 'UPGRADE_REQUIRED', 'free', 'row', 0, 1, '192.0.2.30'),
	(1, '2026-03-02 06:00', 1200, 'domain.leadscoring', 'scores.compute', 'success', NULL, 'paid', 'row', 4, 4, '192.0.2.10'),
	(1, '2026-03-02 06:00', 50, 'domain.leadscoring', 'models.create', 'success', NULL, 'paid', NULL, 1, 7, '192.0.2.10'),
	(2, '2026-03-02 06:00', 250, 'domain.leadscoring', 'scores.compute', 'success', NULL, 'paid', 'row', 10, 6, '192.0.2.20'),
	(2, '2026-03-02 06:00', 25, 'domain.leadscoring', 'scores.compute', 'error', 'UPSTREAM_FAILED', 'paid', 'row', 0, 1200, '192.0.2.20'),
	(2, '2026-03-03 06:00', 8, 'iam', 'keys.create', 'denied', 'SCOPE_DENIED', 'paid', NULL, 1, 1, '192.0.2.20'),
	(5, '2026-03-01 08:00', 100, 'domain.leadscoring', 'scores.compute', 'success', NULL, 'free', 'row', 1, 3, '198.51.100.7'),
	(5, '2026-03-02 08:00', 3, 'domain.leadscoring', 'scores.compute', 'denied', 'UPGRADE_REQUIRED', 'free', 'row', 0, 1, '198.51.100.7'),
	(5, '2026-03-09 08:00', 500, 'domain.leadscoring', 'scores.compute', 'success', NULL, 'paid', 'row', 2, 3, '198.51.100.7'),
	(6, '2026-03-04 11:00', 40, 'domain.leadscoring', 'models.list', 'success', NULL, 'free', NULL, 1, 2, '198.51.100.9'),
	(6, '2026-03-04 11:00', 5, 'meta', 'version', 'success', NULL, 'free', NULL, 1, 1, '198.51.100.9'),
	(7, '2026-03-05 11:00', 94, 'domain.leadscoring', 'scores.compute', 'success', NULL, 'free', 'row', 1, 3, '198.51.100.11'),
	(NULL, '2026-03-03 02:00', 35, NULL, NULL, 'denied', 'INVALID_API_KEY', NULL, NULL, 1, 1, '203.0.113.66'),
	(NULL, '2026-03-03 09:00', 2, NULL, NULL, 'denied', 'INVALID_API_KEY', NULL, NULL, 1, 1, '198.51.100.9');

SELECT count(acp.audit_append(jsonb_build_object('event_id', gen_random_uuid(), 'request_id', gen_random_uuid(),
	'ts', at + i * interval '1 minute', 'tenant_id', coalesce(pg_temp.t(tenant), '00000000-0000-0000-0000-000000000000'),
	'integration', 'acp-fcgi', 'pack', pack, 'action', pack || '.' || action,
	'actor_type', CASE WHEN tenant IS NULL THEN 'anonymous' ELSE 'api_key' END, 'status', status, 'error_code', code,
	'latency_ms', latency + i * 0.1, 'dry_run', false, 'billable', status = 'success' AND pack = 'domain.leadscoring',
	'billing_unit', unit, 'billing_quantity', quantity, 'tier', tier, 'ip_address', host(ip))))
FROM calls, generate_series(0, calls - 1) i;
