-- 82_console.sql - access to the operator console, and the data of meta.activity and the console.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(22);

CREATE FUNCTION pg_temp.h(what text) RETURNS text LANGUAGE sql AS $$ SELECT encode(sha256(convert_to(what, 'UTF8')), 'hex') $$;
CREATE FUNCTION pg_temp.t(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('82828282-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
$$;
CREATE FUNCTION pg_temp.open(link text, session text) RETURNS jsonb LANGUAGE sql AS $$
	SELECT acp.console_open(jsonb_build_object('link', pg_temp.h(link), 'session', pg_temp.h(session)))
$$;
CREATE FUNCTION pg_temp.data(session text) RETURNS jsonb LANGUAGE sql AS $$
	SELECT acp.console_data(jsonb_build_object('session', pg_temp.h(session), 'free_limit', 100))
$$;

-- The role of the program can call the functions, but not read the tables behind them.
SET LOCAL ROLE acp_app;
SELECT throws_ok('SELECT * FROM acp.console_access', '42501', NULL, 'acp_app cannot read links and sessions');
SELECT throws_ok('SELECT acp.console_money()', '42501', NULL, 'acp_app cannot read parts of the data without a session');
SELECT throws_ok('SELECT * FROM acp_report.revenue_by_month', '42501', NULL, 'acp_app cannot read the reports');

SELECT lives_ok($$SELECT acp.console_link(decode(pg_temp.h('a'), 'hex'), 10)$$, 'a link is created');
SELECT throws_like($$SELECT pg_temp.open('b', 's')$$, '%has been used or has expired%', 'an unknown token opens nothing');
SELECT throws_like($$SELECT pg_temp.data('a')$$, '%session has ended%', 'a link is not a session');
SELECT is(round(extract(epoch FROM (pg_temp.open('a', 's')->>'expires_at')::timestamptz - acp.now()) / 60), 60::numeric,
	'a link opens a session of one hour');
SELECT throws_like($$SELECT pg_temp.open('a', 's2')$$, '%has been used or has expired%', 'a link works once');
SELECT throws_like($$SELECT pg_temp.open('s', 's2')$$, '%has been used or has expired%', 'a session is not a link');
SELECT is(pg_temp.data('s')->>'period', to_char(acp.now(), 'YYYY-MM'), 'a session can read the data');
SELECT throws_like($$SELECT pg_temp.data('s2')$$, '%session has ended%', 'an unknown session cannot read the data');

-- Expiry.
RESET ROLE;
UPDATE acp.console_access SET expires_at = acp.now();
SET LOCAL ROLE acp_app;
SELECT throws_like($$SELECT pg_temp.data('s')$$, '%session has ended%', 'an expired session cannot read the data');
SELECT ok(acp.console_link(decode(pg_temp.h('c'), 'hex'), 100000) <= acp.now() + interval '1 hour', 'a link is valid for at most an hour');
RESET ROLE;
SELECT is((SELECT count(*) FROM acp.console_access), 1::bigint, 'expired rows are deleted');
UPDATE acp.console_access SET expires_at = acp.now();
SET LOCAL ROLE acp_app;
SELECT throws_like($$SELECT pg_temp.open('c', 's')$$, '%has been used or has expired%', 'an expired link opens nothing');

-- The data.
RESET ROLE;
SELECT count(acp.tenant_create(pg_temp.t(n), 'leadscoring', 'console-' || n, 'a@example.com', NULL)) FROM generate_series(1, 2) n \gset ignored_
SELECT count(acp.audit_append(jsonb_build_object('event_id', pg_temp.t(10 + n), 'request_id', pg_temp.t(10 + n), 'tenant_id', pg_temp.t(1 + n / 5),
	'integration', 'test', 'pack', 'p', 'action', 'p.do', 'actor_type', 'api_key', 'actor_id', 'ock_x',
	'api_key_id', pg_temp.t(7), 'dry_run', false, 'billing_quantity', 1,
	'status', (ARRAY['success', 'error', 'denied'])[1 + n % 3], 'error_code', (ARRAY[NULL, 'NOT_FOUND', 'SCOPE_DENIED'])[1 + n % 3],
	'latency_ms', n, 'billable', false, 'tier', 'free'))) FROM generate_series(0, 5) n \gset ignored_
SET LOCAL ROLE acp_app;
SELECT is((SELECT jsonb_agg(f->>'code') FROM jsonb_array_elements(acp.meta_activity(pg_temp.t(1), '{}', '{}')->'failures') f),
	'["NOT_FOUND", "SCOPE_DENIED", "NOT_FOUND"]', 'only failures of the tenant are shown, newest first');
SELECT is(jsonb_array_length(acp.meta_activity(pg_temp.t(1), '{"limit": 1}', '{}')->'failures'), 1, 'the limit applies');
SELECT is(acp.meta_activity(pg_temp.t(1), '{}', '{}')->'looked_at'->>'calls', '5', 'all calls of the tenant are read');
SELECT is(acp.meta_activity(pg_temp.t(1), '{}', '{}')->'keys'->0->>'api_key_id', pg_temp.t(7)::text, 'the last use of the key is shown');
SELECT is(acp.meta_activity(pg_temp.t(1), '{"period": "2001-01"}', '{}')->'by_day', '[]', 'a month without calls is empty');
RESET ROLE;
SELECT is((SELECT sum((d->>'calls')::integer) FROM jsonb_array_elements(acp.console_calls()->'denials') d
	WHERE d->>'action' = 'p.do' AND d->>'code' = 'SCOPE_DENIED'), 2::bigint, 'denials cover all tenants');

-- Another query plan tests the condition on the month on the names of all tables.
SET LOCAL enable_nestloop = off;
SELECT lives_ok($$SELECT acp.console_drift(acp.period(acp.now()))$$, 'months are found with every plan');

SELECT * FROM finish();
ROLLBACK;
