-- 50_maintain.sql - periodic maintenance and the change feed.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(26);

-- Shifts the program's clock so that this transaction happens at a moment. The ROLLBACK undoes it.
CREATE FUNCTION pg_temp.clock_at(moment timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('ALTER DATABASE %I SET acp.clock_offset = %L', current_database(), moment - now());
END
$$;

CREATE TEMP VIEW months AS
	SELECT substr(relname, 12)::text COLLATE "default" AS month FROM pg_class JOIN pg_inherits ON inhrelid = oid
	WHERE inhparent = 'acp.audit_logs'::regclass;

INSERT INTO acp.idempotency (tenant_id, action, key, fingerprint, state, created_at, expires_at)
SELECT '55555555-0000-4000-8000-000000000001',
	'maintain.' || what, n::text, repeat('f', 64), state, expires_at - interval '24 hours', expires_at
FROM (VALUES ('old', 'done', '2052-05-15 11:59:59+00'::timestamptz), ('stuck', 'running', '2052-05-15 12:00:00+00'),
	('live', 'done', '2052-05-15 12:00:00.000001+00')) v(what, state, expires_at), generate_series(1, 3) n;
CREATE TEMP VIEW remembered AS
	SELECT action, count(*) AS keys FROM acp.idempotency WHERE action LIKE 'maintain.%' GROUP BY action;
GRANT SELECT ON remembered TO PUBLIC;

SELECT pg_temp.clock_at('2052-05-14 12:00:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT lives_ok('SELECT acp.maintain()', 'the role of the program runs maintenance');
RESET ROLE;
SELECT set_eq($$SELECT month FROM months WHERE month LIKE '2052%'$$, ARRAY['2052_05', '2052_06', '2052_07', '2052_08'],
	'maintenance creates audit partitions three months ahead');
SELECT is((SELECT sum(keys) FROM remembered), 9::numeric, 'no key has expired yet');

SELECT pg_temp.clock_at('2052-05-15 12:00:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT lives_ok('SELECT acp.maintain()', 'maintenance runs a day later');
SELECT results_eq('TABLE remembered', $$VALUES ('maintain.live', 3::bigint)$$,
	'keys are deleted from the instant of their expiry');
SELECT lives_ok('SELECT acp.maintain()', 'maintenance runs again');
SELECT results_eq('TABLE remembered', $$VALUES ('maintain.live', 3::bigint)$$, 'the second run changes nothing');
RESET ROLE;

SELECT pg_temp.clock_at('2052-11-30 23:59:59.999999+00') \gset ignored_
SELECT lives_ok('SELECT acp.maintain()', 'maintenance runs half a year later, at the end of a month');
SELECT set_eq($$SELECT month FROM months WHERE month > '2052'$$,
	ARRAY['2052_05', '2052_06', '2052_07', '2052_08', '2052_11', '2052_12', '2053_01', '2053_02'],
	'maintenance creates the months from there on, across the end of the year');
SELECT is((SELECT count(*) FROM remembered), 0::bigint, 'the last keys are deleted');

INSERT INTO acp.idempotency (tenant_id, action, key, fingerprint, state, created_at, expires_at)
SELECT '55555555-0000-4000-8000-000000000001', 'maintain.many', n::text, repeat('f', 64), 'done', now(),
	'2052-01-01 00:00:00+00'::timestamptz + n * interval '1 s'
FROM generate_series(1, 1500) n;
SELECT lives_ok('SELECT acp.maintain()', 'maintenance runs with many expired keys');
SELECT results_eq($$SELECT count(*), min(key::integer) FROM acp.idempotency WHERE action = 'maintain.many'$$,
	'VALUES (500::bigint, 1001)',
	'maintenance deletes a thousand keys at a time, oldest first');
SELECT is(acp.discard_old(), false, 'when the other keys are deleted, nothing old is left');
SELECT is((SELECT count(*) FROM remembered), 0::bigint, 'and they are');
INSERT INTO acp.changes (version, at) SELECT -n, now() - interval '2 days' FROM generate_series(1, 1500) n;
SELECT is(acp.discard_old(), true, 'when a thousand changes are deleted, there is more');
SELECT is(acp.discard_old(), false, 'when the others are deleted, there is not');
SELECT is((SELECT count(*) FROM acp.changes WHERE version < 0), 0::bigint, 'old changes are deleted');

-- Changes -------------------------------------------------------------------------------------------------------------

INSERT INTO acp.changes (version, tenant_id, at)
SELECT version + n, '50505050-0000-4000-8000-000000000001'::uuid, now() - age FROM acp.change_clock,
	(VALUES (10, interval '25 hours'), (20, interval '23 hours'), (30, interval '22 hours')) v(n, age);
UPDATE acp.change_clock SET version = version + 30;
CREATE TEMP VIEW latest AS SELECT n.version FROM acp.change_feed(0, false) n;
SELECT is((SELECT changed FROM latest c, acp.change_feed(c.version - 20, false)), ARRAY['50505050-0000-4000-8000-000000000001'::uuid, '50505050-0000-4000-8000-000000000001'::uuid],
	'the feed returns both changes after a number');
SELECT is((SELECT changed FROM latest c, acp.change_feed(c.version, false)), NULL, 'the feed returns no changes after the last number');
SELECT is((SELECT changed FROM latest c, acp.change_feed(c.version - 5, false)),
	ARRAY['00000000-0000-0000-0000-000000000000'::uuid], 'a number that was lost in a failover: everything may have changed');
SELECT is((SELECT changed FROM latest c, acp.change_feed(c.version + 5, false)),
	ARRAY['00000000-0000-0000-0000-000000000000'::uuid], 'a number above the last one: everything may have changed');
SELECT lives_ok('SELECT acp.maintain()', 'maintenance runs');
SELECT is((SELECT count(*) FROM acp.changes, acp.change_clock c WHERE changes.version > c.version - 30), 2::bigint,
	'a change more than a day old is deleted, newer ones are kept');
SELECT is((SELECT changed FROM latest c, acp.change_feed(c.version - 20, false)),
	ARRAY['00000000-0000-0000-0000-000000000000'::uuid], 'a number before the deleted change: everything may have changed');
SELECT is((SELECT changed FROM acp.change_clock c, acp.change_feed(c.version, false)),
	ARRAY['00000000-0000-0000-0000-000000000000'::uuid], 'the last number of another server: everything may have changed');
SELECT cmp_ok((SELECT version FROM acp.change_clock), '<', extract(epoch FROM clock_timestamp())::bigint * 1000000 + 60000000,
	'numbers follow the clock');

SELECT * FROM finish();
ROLLBACK;
