-- 75_hub.sql - functions of the hub for other kernels, and the transfer to a remote hub. One session cannot race with
-- itself; tests/e2e/test_hub.py checks that counting is exact under load.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'Pacific/Auckland'; -- nothing may depend on the session's time zone
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(38);

-- Code and member of a refusal; null if the statement succeeds.
CREATE FUNCTION pg_temp.refusal(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	hint   text;
	detail text;
BEGIN
	EXECUTE statement;
	RETURN NULL;
EXCEPTION WHEN SQLSTATE 'ACP01' THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT, detail = PG_EXCEPTION_DETAIL;
	RETURN hint || ' ' || detail;
END
$$;
CREATE FUNCTION pg_temp.t(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('75757575-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
$$;
CREATE FUNCTION pg_temp.e(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('75757575-0000-4000-a000-' || lpad(n::text, 12, '0'))::uuid
$$;
-- The context of a call, as core/hub/hub.c and sql/plane/pg_hub.c build it.
CREATE FUNCTION pg_temp.ctx(n integer, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('id', pg_temp.e(n), 'free_limit', '2', 'reservation_ttl', '60', 'event', jsonb_build_object(
		'event_id', pg_temp.e(n), 'request_id', pg_temp.e(n), 'tenant_id', pg_temp.t(0), 'integration', 'tap', 'actor_type', 'system',
		'action', 'hub.tap', 'status', 'success', 'latency_ms', 1, 'billable', false, 'billing_quantity', 1, 'dry_run', false)) || more
$$;
CREATE FUNCTION pg_temp.place(tenant integer, event integer, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('tenant_id', pg_temp.t(tenant), 'event_id', pg_temp.e(event), 'ts', '2026-01-31T23:59:59.5Z') || more
$$;
CREATE FUNCTION pg_temp.event(tenant integer, event integer, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT pg_temp.place(tenant, event) || jsonb_build_object('request_id', pg_temp.e(event), 'integration', 'k', 'pack', 'p',
		'action', 'p.a', 'actor', '{"type": "user", "id": "alice"}'::jsonb, 'status', 'success', 'billable', true, 'tier', 'free') || more
$$;
CREATE FUNCTION pg_temp.ingest(VARIADIC events jsonb[]) RETURNS text LANGUAGE sql AS $$
	SELECT (r->>'accepted') || ' new, ' || (r->>'duplicates') || ' known'
	FROM acp.hub_audit_ingest(jsonb_build_object('events', to_jsonb(events)), pg_temp.ctx(0)) r
$$;
CREATE FUNCTION pg_temp.quota(tenant integer) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(period || ': ' || used || '+' || reserved, ', ' ORDER BY period) FROM acp.usage_quota WHERE tenant_id = pg_temp.t(tenant)
$$;

-- Tenants ------------------------------------------------------------------------------------------------------------

SELECT is(acp.hub_tenants_create('{"agent_id": "tap:1", "email": "a@example.com", "product": "p"}', pg_temp.ctx(1))->>'tenant_uuid',
	pg_temp.e(1)::text, 'tenants/create returns the tenant_uuid');
SELECT is(pg_temp.refusal($$SELECT acp.hub_tenants_create('{"agent_id": "tap:1", "email": "a@example.com", "product": "p"}', pg_temp.ctx(2))$$),
	'ALREADY_ONBOARDED ', 'a taken agent_id is refused');
CREATE TEMP TABLE made AS SELECT n, acp.hub_tenants_create('{"agent_id": "tap:2", "email": "a@example.com", "product": "p"}',
	pg_temp.ctx(n, '{"idempotency_key": "k", "fingerprint": "0000000000000000000000000000000000000000000000000000000000000000"}')) AS reply
	FROM generate_series(3, 4) n;
SELECT is((SELECT count(DISTINCT reply) FROM made), 1::bigint, 'a repeat with the idempotency key gets the first reply');
SELECT is(pg_temp.refusal($$SELECT acp.hub_tenants_create('{}', pg_temp.ctx(5, '{"idempotency_key": "k", "fingerprint": "1"}'))$$),
	'IDEMPOTENCY_MISMATCH ', 'the idempotency key with another body is refused');
SELECT is((SELECT array_agg(result_meta ORDER BY event_id) FROM acp.audit_logs WHERE event_id IN (pg_temp.e(1), pg_temp.e(4))),
	ARRAY[jsonb_build_object('tenant_id', pg_temp.e(1)), jsonb_build_object('tenant_id', pg_temp.e(3), 'replay', true)],
	'each call has a row that names the tenant');

SELECT count(acp.tenant_create(pg_temp.t(n), 'p', 'tap:t' || n, 'a@example.com', NULL)) FROM generate_series(1, 4) n \gset ignored_
SELECT is(acp.hub_tenants_update(jsonb_build_object('tenant_id', pg_temp.t(4), 'tier', 'paid', 'payment_method_status', 'active',
	'stripe_customer_id', 'cus_1'), pg_temp.ctx(6)) - 'upgraded_at' - 'updated_at',
	jsonb_build_object('tenant_id', pg_temp.t(4), 'tier', 'paid', 'payment_method_status', 'active', 'status', 'active',
		'stripe_customer_id', 'cus_1'), 'tenants/update sets the given members');
SELECT is(acp.hub_tenants_update(jsonb_build_object('tenant_id', pg_temp.t(4), 'status', 'active'), pg_temp.ctx(7))->>'stripe_customer_id',
	'cus_1', 'tenants/update leaves other members unchanged');
SELECT is(pg_temp.refusal(format('SELECT acp.hub_%s(%L, pg_temp.ctx(8))', f, pg_temp.place(9, 9, '{"outcome": "success"}'))),
	'NOT_FOUND /tenant_id', f || ' of an unknown tenant')
FROM unnest(ARRAY['tenants_update', 'usage', 'usage_reserve', 'usage_settle', 'authorize', 'policy_propose', 'revoke']) f;

-- Usage --------------------------------------------------------------------------------------------------------------

SELECT is(acp.hub_usage(jsonb_build_object('tenant_id', pg_temp.t(1), 'period_start', '2026-01-01T00:00:00Z', 'period_end', e), pg_temp.ctx(0))
	->>'period_end', '2026-02-01T00:00:00Z', 'January ends at ' || e) FROM unnest(ARRAY['2026-01-31', '2026-02-01', '2026-01-31T23:59:59Z']) e;
SELECT is(pg_temp.refusal(format('SELECT acp.hub_usage(%L, pg_temp.ctx(0))', jsonb_build_object('tenant_id', pg_temp.t(1), 'period_start', s,
	'period_end', e))), 'VALIDATION_ERROR /period_end', coalesce(s, 'nothing') || ' to ' || e || ' is no month')
FROM (VALUES ('2026-01-01', '2026-01-30'), ('2026-01-01', '2026-03-01'), (NULL, '2026-01-31')) v(s, e);

SELECT is(array_agg((acp.hub_usage_reserve(pg_temp.place(1, n), pg_temp.ctx(0))->>'allowed')::boolean ORDER BY n), ARRAY[true, true, false],
	'of three calls two get a reservation') FROM generate_series(21, 23) n;
SELECT is(acp.hub_usage_reserve(pg_temp.place(1, 21), pg_temp.ctx(0))->>'allowed', 'true', 'a repeated request keeps one reservation');
SELECT is(pg_temp.quota(1), '2026-01-01: 0+2', 'reservations are from the UTC month of ts');
SELECT is(acp.hub_usage_settle(pg_temp.place(1, 21, '{"outcome": "success"}'), pg_temp.ctx(0))->>'calls_used', '1', 'settled: '  || n)
FROM generate_series(1, 2) n;
SELECT acp.hub_usage_settle(pg_temp.place(1, 22, '{"outcome": "failure"}'), pg_temp.ctx(0)) \gset ignored_
SELECT is(pg_temp.quota(1), '2026-01-01: 1+0', 'a success is counted once, a failure releases its reservation');
SELECT acp.hub_usage_settle(pg_temp.place(1, 21, '{"outcome": "failure"}'), pg_temp.ctx(0)) \gset ignored_
SELECT is(pg_temp.quota(1), '2026-01-01: 0+0', 'a success that could not be committed is undone');

-- Audit --------------------------------------------------------------------------------------------------------------

SELECT count(acp.hub_usage_reserve(pg_temp.place(2, n), pg_temp.ctx(0, '{"free_limit": "9"}'))) FROM generate_series(31, 33) n \gset ignored_
SELECT acp.hub_usage_settle(pg_temp.place(2, 31, '{"outcome": "success"}'), pg_temp.ctx(0)) \gset ignored_
SELECT is(pg_temp.ingest(pg_temp.event(2, 31), pg_temp.event(2, 32), pg_temp.event(2, 33, '{"billable": false, "status": "error"}'),
	pg_temp.event(2, 34), pg_temp.event(2, 34)), '4 new, 1 known', 'events are stored once');
SELECT is(pg_temp.quota(2), '2026-01-01: 3+0', 'settled, reserved and unannounced successes count once; reservations are released');
SELECT is(pg_temp.ingest(pg_temp.event(2, 31), pg_temp.event(2, 35, '{"ts": 1769903999500}')), '1 new, 1 known', 'ts may be milliseconds since 1970');
SELECT is((SELECT array_agg(DISTINCT ts) FROM acp.audit_logs WHERE tenant_id = pg_temp.t(2)), ARRAY['2026-01-31 23:59:59.5+00'::timestamptz],
	'both forms of ts give the same moment');
SELECT is((SELECT array_agg(e.actor_type || ' ' || e.actor_id || ' ' || e.billing_quantity) FROM acp.audit_logs e WHERE event_id = pg_temp.e(34)),
	ARRAY['user alice 1'], 'the actor is stored; missing members have defaults');
SELECT is_empty('SELECT * FROM acp_report.usage_drift WHERE tenant_id = pg_temp.t(2)', 'counters match the rows');
SELECT is(pg_temp.ingest(acp.audit_event_json(l)), '0 new, 1 known', 'audit-ingest recognises rows from audit-query')
FROM acp.audit_logs l WHERE event_id = pg_temp.e(34);

CREATE TEMP TABLE pages AS
	WITH RECURSIVE page AS (
		SELECT acp.hub_audit_query(jsonb_build_object('tenant_id', pg_temp.t(2), 'limit', 2), '{}') AS p
		UNION ALL SELECT acp.hub_audit_query(jsonb_build_object('tenant_id', pg_temp.t(2), 'limit', 2, 'cursor', p->>'next_cursor'), '{}')
		FROM page WHERE p->>'next_cursor' IS NOT NULL)
	SELECT p FROM page;
SELECT is((SELECT array_agg(e->>'event_id') FROM pages, jsonb_array_elements(p->'events') e),
	(SELECT array_agg(event_id::text ORDER BY ts DESC, event_id DESC) FROM acp.audit_logs WHERE tenant_id = pg_temp.t(2)),
	'pages list every row once and in order, including rows of the same moment');

-- The way to a remote hub ---------------------------------------------------------------------------------------------

SELECT count(acp.audit_append(pg_temp.ctx(41)->'event' || jsonb_build_object('forward', f, 'event_id', pg_temp.e(40 + f::integer))))
FROM unnest(ARRAY[true, false]) f \gset ignored_
CREATE TEMP TABLE taken AS SELECT acp.forward_take(100) AS events;
SELECT is((SELECT jsonb_path_query_array(events, '$[*].event_id') FROM taken), jsonb_build_array(pg_temp.e(41)),
	'only rows with forward wait for the hub');
SELECT acp.forward_refused(events->0, 'no') FROM taken \gset ignored_
SELECT is(acp.forward_take(100), '[]', 'an event that the hub has refused is not sent again');
SELECT acp.audit_append(pg_temp.ctx(43)->'event' || jsonb_build_object('forward', true, 'event_id', pg_temp.e(43))) \gset ignored_
SELECT is(acp.outbox_take(100)->0->>'event_id', pg_temp.e(43)::text, 'the old name of the function also takes rows');

SELECT * FROM finish();
ROLLBACK;
