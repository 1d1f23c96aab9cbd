-- 80_gauges.sql - acp.gauges(): the database gauges of GET /metrics, read as acp_app.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(10);

CREATE FUNCTION pg_temp.gauge(name text, labels text DEFAULT NULL) RETURNS numeric LANGUAGE sql AS $$
	SELECT (s->>'value')::numeric FROM jsonb_array_elements(acp.gauges()) g, jsonb_array_elements(g->'samples') s
	WHERE g->>'name' = $1 AND s->>'labels' IS NOT DISTINCT FROM $2
$$;
CREATE FUNCTION pg_temp.t(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('88888888-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
$$;

DELETE FROM acp.audit_outbox;
DELETE FROM acp.webhook_deliveries;
DELETE FROM acp.usage_reservations;
SET LOCAL ROLE acp_app;
SELECT is_empty($$SELECT g FROM jsonb_array_elements(acp.gauges()) g WHERE g->>'name' !~ '^acp_[a-z_]+$'
	OR coalesce(g->>'help', '') = '' OR jsonb_array_length(g->'samples') = 0$$, 'each gauge has a name, a help text and a sample');
SELECT is(pg_temp.gauge('acp_schema_version'), (SELECT max(version)::numeric FROM acp.schema_migrations), 'the schema version is shown');
SELECT results_eq($$SELECT pg_temp.gauge(n) FROM unnest(ARRAY['acp_outbox_rows', 'acp_outbox_refused_rows', 'acp_outbox_oldest_seconds',
	'acp_webhook_deliveries_pending', 'acp_webhook_delivery_overdue_seconds', 'acp_usage_reservations']) n$$,
	$$SELECT 0::numeric FROM generate_series(1, 6)$$, 'empty backlogs are zero, not missing');
SELECT cmp_ok(pg_temp.gauge('acp_db_connections', 'state="active"'), '>=', 0::numeric, 'database sessions are counted');
RESET ROLE;

INSERT INTO acp.audit_outbox (tenant_id, ts, event_id, event, refused) VALUES
	(pg_temp.t(1), acp.now() - interval '90 seconds', pg_temp.t(1), '{}', NULL),
	(pg_temp.t(1), acp.now() - interval '30 seconds', pg_temp.t(2), '{}', NULL),
	(pg_temp.t(1), acp.now() - interval '900 seconds', pg_temp.t(3), '{}', 'no');
INSERT INTO acp.usage_reservations VALUES (pg_temp.t(1), '2026-01-01', pg_temp.t(1), acp.now());
SET LOCAL ROLE acp_app;
SELECT is(pg_temp.gauge('acp_outbox_rows'), 2::numeric, 'pending rows are counted');
SELECT is(pg_temp.gauge('acp_outbox_refused_rows'), 1::numeric, 'rejected rows are counted');
SELECT is(pg_temp.gauge('acp_outbox_oldest_seconds'), 90::numeric, 'the oldest pending row counts; a rejected one does not');
SELECT is(pg_temp.gauge('acp_usage_reservations'), 1::numeric, 'reservations are counted');
SELECT ok(NOT EXISTS (SELECT FROM acp.audit_seals) OR pg_temp.gauge('acp_audit_seal_age_seconds') >= 0, 'the age of the last seal is shown');
SELECT ok(acp.gauges()::text NOT LIKE '%88888888%', 'no label names a tenant');

SELECT * FROM finish();
ROLLBACK;
