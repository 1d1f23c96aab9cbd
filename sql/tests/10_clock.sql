-- 10_clock.sql - the clock and its shift, billing periods, audit partitions, refusals.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(55);

-- Shifts the program's clock so that this transaction happens at a moment. The ROLLBACK undoes it.
CREATE FUNCTION pg_temp.clock_at(moment timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('ALTER DATABASE %I SET acp.clock_offset = %L', current_database(), moment - now());
END
$$;

-- SQLSTATE, code and member of a refusal; null if the statement succeeds.
CREATE FUNCTION pg_temp.refusal(statement text) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
	hint   text;
	detail text;
BEGIN
	EXECUTE statement;
	RETURN NULL;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT, detail = PG_EXCEPTION_DETAIL;
	RETURN ARRAY[SQLSTATE, hint, detail];
END
$$;

-- The clock ----------------------------------------------------------------------------------------------------------

SELECT is(acp.now(), now(), 'without a shift: the start of the transaction');

ALTER DATABASE :"DBNAME" SET acp.clock_offset = '40 days';
SELECT is(acp.now(), now() + interval '40 days', 'a shift of 40 days applies at once in an open session');
SET LOCAL ROLE acp_app;
SELECT is(acp.now(), now() + interval '40 days', 'the shift also applies to the role of the program');
SET LOCAL acp.clock_offset = '99 days';
SELECT is(acp.now(), now() + interval '40 days', 'a session cannot shift its own clock');
RESET ROLE;
ALTER ROLE acp_app IN DATABASE :"DBNAME" SET acp.clock_offset = '7 days';
SELECT is(acp.now(), now() + interval '40 days', 'a role cannot shift its own clock');
ALTER DATABASE :"DBNAME" SET acp.clock_offset = '-2 hours';
SELECT is(acp.now(), now() - interval '2 hours', 'the last acp.clock_offset counts: two hours back');
ALTER DATABASE :"DBNAME" SET work_mem = '8MB';
SELECT is(acp.now(), now() - interval '2 hours', 'other settings of the database do not matter');
ALTER DATABASE :"DBNAME" SET acp.clock_offset = 'soon';
SELECT throws_ok('SELECT acp.now()', '22007', NULL,
	'a malformed offset is an error, not zero');
ALTER DATABASE :"DBNAME" RESET acp.clock_offset;
SELECT is(acp.now(), now(), 'the shift has ended');

SELECT pg_temp.clock_at('2027-12-31 23:59:59.999999+00') \gset ignored_
SELECT is(acp.now(), '2027-12-31 23:59:59.999999+00', 'the last microsecond of a year');
SELECT is(acp.period(acp.now()), '2027-12-01', 'the last microsecond of a year belongs to December');
SELECT pg_temp.clock_at('2028-01-01 00:00:00+00') \gset ignored_
SELECT is(acp.period(acp.now()), '2028-01-01', 'the next microsecond belongs to January');
ALTER DATABASE :"DBNAME" RESET acp.clock_offset;

-- Days and periods are UTC in every session --------------------------------------------------------------------------

CREATE TEMP TABLE moments (ts timestamptz, day date, period date);
INSERT INTO moments VALUES
	('2028-02-28 23:59:59.999999+00', '2028-02-28', '2028-02-01'),
	('2028-02-29 00:00:00+00', '2028-02-29', '2028-02-01'),
	('2028-02-29 23:59:59.999999+00', '2028-02-29', '2028-02-01'),
	('2028-03-01 00:00:00+00', '2028-03-01', '2028-03-01'),
	('2027-02-28 23:59:59.999999+00', '2027-02-28', '2027-02-01'),
	('2027-03-01 00:00:00+00', '2027-03-01', '2027-03-01'),
	('2026-12-31 23:59:59.999999+00', '2026-12-31', '2026-12-01'),
	('2027-01-01 00:00:00+00', '2027-01-01', '2027-01-01'),
	('2027-01-01 00:30:00+02', '2026-12-31', '2026-12-01'),
	('2026-12-31 22:30:00-05', '2027-01-01', '2027-01-01');
SET LOCAL timezone = 'Pacific/Kiritimati';
SELECT results_eq('SELECT acp.day(ts), acp.period(ts) FROM moments', 'SELECT day, period FROM moments',
	'days and periods, in a session 14 hours east of UTC');
SET LOCAL timezone = 'America/New_York';
SELECT results_eq('SELECT acp.day(ts), acp.period(ts) FROM moments', 'SELECT day, period FROM moments',
	'days and periods, in a session west of UTC');
SELECT is_empty($$
	SELECT p FROM (SELECT ('1999-12-01'::date + make_interval(months => n))::date AS p
	FROM generate_series(1, 600) n) months
	WHERE acp.period(acp.period_start(p)) <> p OR acp.period(acp.period_end(p) - interval '1 microsecond') <> p
	   OR acp.period(acp.period_end(p)) <> (p + interval '1 month')::date
	   OR acp.period_end(p) <> acp.period_start((p + interval '1 month')::date)$$,
	'fifty years of periods are half-open and have no gaps');
SET LOCAL timezone = 'UTC';
SELECT is(acp.period_start('2028-02-01'), '2028-02-01 00:00:00+00', 'start of a leap February');
SELECT is(acp.period_end('2028-02-01') - acp.period_start('2028-02-01'), interval '29 days', 'a leap February has 29 days');
SELECT is(acp.period_end('2027-02-01') - acp.period_start('2027-02-01'), interval '28 days', 'the February before has 28 days');
SELECT is(acp.period_end('2027-12-01'), '2028-01-01 00:00:00+00', 'December ends with the year');

SET LOCAL timezone = 'Asia/Kolkata';
SELECT is(acp.rfc3339('2028-02-29 12:00:00+00'), '2028-02-29T12:00:00Z', 'RFC 3339, whole seconds');
SELECT is(acp.rfc3339('2028-02-29 12:00:00.25+00'), '2028-02-29T12:00:00.250Z', 'RFC 3339, milliseconds');
SELECT is(acp.rfc3339('2028-02-29 01:00:00+05:30'), '2028-02-28T19:30:00Z', 'RFC 3339, another zone');
SELECT is(acp.rfc3339(NULL), NULL, 'rfc3339 of null is null');
SET LOCAL timezone = 'UTC';

-- Refusals -----------------------------------------------------------------------------------------------------------

SELECT throws_ok($$SELECT acp.fail('NOT_FOUND', 'no such thing', '/params/id')$$, 'ACP01', 'no such thing',
	'fail: message');
SELECT is(pg_temp.refusal($$SELECT acp.fail('NOT_FOUND', 'no such thing', '/params/id')$$),
	ARRAY['ACP01', 'NOT_FOUND', '/params/id'], 'fail: code in the hint, member in the detail');
SELECT is(pg_temp.refusal($$SELECT acp.fail('NOT_FOUND', 'no such thing')$$), ARRAY['ACP01', 'NOT_FOUND', ''],
	'fail: without a member');

SELECT lives_ok($$SELECT acp.report('{"count": 3}', 7)$$, 'report: a handler sets values');
SELECT is(current_setting('acp.result_meta'), '{"count": 3}', 'report: result_meta');
SELECT is(current_setting('acp.quantity'), '7', 'report: quantity');
SELECT lives_ok('SELECT acp.report(NULL)', 'report: a handler sets nothing');
SELECT is(current_setting('acp.result_meta') || current_setting('acp.quantity'), '', 'report: nothing');

-- Partitions ---------------------------------------------------------------------------------------------------------

CREATE TEMP VIEW partitions AS
	SELECT relname::text COLLATE "default" AS name, pg_get_expr(relpartbound, oid) COLLATE "default" AS bounds
	FROM pg_class WHERE relispartition AND oid IN (SELECT inhrelid FROM pg_inherits
	WHERE inhparent = 'acp.audit_logs'::regclass);

SELECT is(acp.ensure_partitions(acp.now(), 12), 0, 'a migrated database has all partitions of the next twelve months');
SET LOCAL ROLE acp_app;
SELECT is(acp.ensure_partitions('2041-12-31 23:59:59+00', 2), 3,
	'the program''s role creates a month and two after it');
SELECT is(acp.ensure_partitions('2041-12-01 00:00:00+00', 2), 0, 'partitions are created once');
SELECT is(acp.ensure_partitions('2041-11-30 00:00:00+00', 4), 2, 'only missing partitions are created, before and after existing ones');
SELECT is(acp.ensure_partitions('2041-12-15 00:00:00+00', 0), 0, 'p_months 0 creates no further month');
RESET ROLE;
SELECT results_eq($$SELECT name, bounds FROM partitions WHERE name ~ '204[12]' ORDER BY name$$, $$VALUES
	('audit_logs_2041_11', $b$FOR VALUES FROM ('2041-11-01 00:00:00+00') TO ('2041-12-01 00:00:00+00')$b$),
	('audit_logs_2041_12', $b$FOR VALUES FROM ('2041-12-01 00:00:00+00') TO ('2042-01-01 00:00:00+00')$b$),
	('audit_logs_2042_01', $b$FOR VALUES FROM ('2042-01-01 00:00:00+00') TO ('2042-02-01 00:00:00+00')$b$),
	('audit_logs_2042_02', $b$FOR VALUES FROM ('2042-02-01 00:00:00+00') TO ('2042-03-01 00:00:00+00')$b$),
	('audit_logs_2042_03', $b$FOR VALUES FROM ('2042-03-01 00:00:00+00') TO ('2042-04-01 00:00:00+00')$b$)$$,
	'partitions are UTC months');
SELECT is(obj_description('acp.audit_logs_2042_02'::regclass), 'Audit rows of 2042-02 (UTC).',
	'a partition has a comment');
SELECT ok(NOT has_table_privilege('acp_app', 'acp.audit_logs_2042_02', 'SELECT, INSERT, UPDATE, DELETE'),
	'the creator of a partition has no rights on it');
SELECT is((SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'acp.audit_logs_2042_02'::regclass),
	'acp_owner'::name,
	'the partition belongs to acp_owner');

SET LOCAL timezone = 'America/New_York';
SELECT acp.ensure_partitions('2043-06-30 23:00:00-04', 0) \gset ignored_
SET LOCAL timezone = 'Asia/Kolkata';
SET LOCAL datestyle = 'SQL, DMY';
SELECT acp.ensure_partitions('2043-09-15 12:00:00+00', 0) \gset ignored_
SET LOCAL timezone = 'UTC';
SET LOCAL datestyle = 'ISO';
SELECT results_eq($$SELECT name, bounds FROM partitions WHERE name ~ '2043' ORDER BY name$$, $$VALUES
	('audit_logs_2043_07', $b$FOR VALUES FROM ('2043-07-01 00:00:00+00') TO ('2043-08-01 00:00:00+00')$b$),
	('audit_logs_2043_09', $b$FOR VALUES FROM ('2043-09-01 00:00:00+00') TO ('2043-10-01 00:00:00+00')$b$)$$,
	'time zone and date style of a session do not move a partition');

CREATE FUNCTION pg_temp.event(ts timestamptz) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_strip_nulls(jsonb_build_object('event_id', gen_random_uuid(), 'request_id', gen_random_uuid(),
	'ts', ts,
		'tenant_id', '00000000-0000-0000-0000-000000000000', 'integration', 'pgtap', 'action', 'clock.test',
		'actor_type', 'anonymous', 'status', 'denied', 'latency_ms', 1, 'dry_run', false, 'billable', false,
		'billing_quantity', 1))
$$;
CREATE TEMP VIEW written AS
	SELECT tableoid::regclass::text AS partition, ts FROM acp.audit_logs WHERE integration = 'pgtap'
	AND action = 'clock.test';

SET LOCAL ROLE acp_app;
SELECT is(acp.audit_append(pg_temp.event('2041-12-31 23:59:59.999999+00')), '2041-12-31 23:59:59.999999+00',
	'a row at the end of a month keeps its ts');
SELECT is(acp.audit_append(pg_temp.event('2042-01-01 00:00:00+00')), '2042-01-01 00:00:00+00',
	'a row in the next microsecond keeps its ts');
SELECT is(acp.audit_append(pg_temp.event('2003-02-28 23:59:59+00')), '2003-02-28 23:59:59+00',
	'a row goes into a month without a partition');
RESET ROLE;
SELECT pg_temp.clock_at('2045-12-31 23:59:59+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT is(acp.audit_append(pg_temp.event(NULL)), '2045-12-31 23:59:59+00', 'a row without a ts gets the shifted current time');
RESET ROLE;
SELECT results_eq('SELECT partition, ts FROM written ORDER BY ts', $$VALUES
	('acp.audit_logs_2003_02', '2003-02-28 23:59:59+00'::timestamptz),
	('acp.audit_logs_2041_12', '2041-12-31 23:59:59.999999+00'),
	('acp.audit_logs_2042_01', '2042-01-01 00:00:00+00'),
	('acp.audit_logs_2045_12', '2045-12-31 23:59:59+00')$$,
	'each row is in the partition of its month, created on demand');
SELECT set_eq($$SELECT name FROM partitions WHERE name ~ '_(2003|2045|2046)_'$$,
	ARRAY['audit_logs_2003_02', 'audit_logs_2003_03', 'audit_logs_2003_04', 'audit_logs_2003_05',
	      'audit_logs_2045_12', 'audit_logs_2046_01', 'audit_logs_2046_02', 'audit_logs_2046_03'],
	'three more months are created with it');
SELECT col_is_pk('acp', name::name, ARRAY['tenant_id', 'ts', 'event_id'], name || ' has the primary key')
FROM partitions WHERE name ~ '_(2003|2046)_' ORDER BY name;
SELECT is(acp.ensure_partitions('2090-05-01 00:00:00+00', 100000), 121, 'at most ten years are created at once');

SELECT * FROM finish();
ROLLBACK;
