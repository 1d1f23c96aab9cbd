-- 27_proof.sql - seals, archives, and the proof that counters and quotas match the rows; as acp_app where the program
-- does it. End-to-end tests check the signatures, because the database has no key.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(45);

-- Shifts the program's clock so that this transaction happens at a moment. The ROLLBACK undoes it.
CREATE FUNCTION pg_temp.clock_at(moment timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('ALTER DATABASE %I SET acp.clock_offset = %L', current_database(), moment - now());
END
$$;
CREATE FUNCTION pg_temp.t(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('27272727-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
$$;

-- Inserts one row of a tenant at the current clock; returns its event_id.
CREATE FUNCTION pg_temp.row(n integer, what jsonb DEFAULT '{}') RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
	event CONSTANT uuid := gen_random_uuid();
BEGIN
	PERFORM acp.audit_append(jsonb_build_object('event_id', event, 'request_id', gen_random_uuid(), 'tenant_id', pg_temp.t(n),
		'integration', 'pgtap', 'pack', 'proof', 'action', 'proof.one', 'actor_type', 'system', 'status', 'success', 'latency_ms', 1,
		'billable', true, 'billing_quantity', 1, 'dry_run', false, 'tier', 'paid') || what);
	RETURN event;
END
$$;
CREATE FUNCTION pg_temp.rows(count integer, n integer, what jsonb DEFAULT '{}') RETURNS bigint LANGUAGE sql AS $$
	SELECT count(pg_temp.row(n, what)) FROM generate_series(1, count)
$$;

-- The database may hold other rows; their totals must already match.
SELECT is_empty($$SELECT * FROM acp.usage_differences(NULL, NULL, interval '1 hour')$$, 'no differences at the start');
TRUNCATE acp.audit_seals;

-- Seals --------------------------------------------------------------------------------------------------------------

SELECT pg_temp.clock_at('2071-03-10 12:00:00+00') \gset ignored_
SELECT count(acp.tenant_create(pg_temp.t(n), 'leadscoring', 'proof:' || n, 'a@example.com', NULL)) FROM generate_series(1, 4) n \gset ignored_
SET LOCAL ROLE acp_app;
SELECT pg_temp.rows(5, 1) \gset ignored_

CREATE TEMP TABLE next AS SELECT * FROM acp.audit_seal_next(NULL);
SELECT is((SELECT seal_id FROM next), 1::bigint, 'the first seal has number 1');
SELECT is((SELECT at FROM next), '2071-03-10T12:00:00.000000Z', 'the time of the seal is from the clock of the program');
SELECT is((SELECT previous FROM next), repeat('00', 32), 'the first seal has no previous seal');
SELECT is((SELECT heads FROM next),
	(SELECT string_agg(chain_id || ' ' || seq || ' ' || encode(head, 'hex'), chr(10) ORDER BY chain_id) FROM acp.audit_chains WHERE seq > 0),
	'the seal contains the end of each chain');
SELECT is(acp.audit_seal_add(seal_id, at::timestamptz, decode(previous, 'hex'), heads, sha256('one'), sha256('signature')),
	(SELECT sum(seq)::bigint FROM acp.audit_chains), 'a stored seal counts the rows of all chains') FROM next;
SELECT is(acp.audit_seal_heads(s), n.heads, 'a stored seal returns its lines') FROM acp.audit_seals s, next n;
SELECT throws_ok($$SELECT acp.audit_seal_add(1, now(), sha256(''), '1 1 00', sha256(''), sha256(''))$$, '23505', NULL,
	'a seal number is used once');
SELECT is((SELECT seal_id FROM acp.audit_seal_next(NULL)), NULL, 'without new rows there is nothing to seal');
SELECT pg_temp.rows(1, 1) \gset ignored_
SELECT results_eq($$SELECT seal_id, previous FROM acp.audit_seal_next(NULL)$$, $$VALUES (2::bigint, encode(sha256('one'), 'hex'))$$,
	'the second seal names the first');
SELECT is((SELECT seal_id FROM acp.audit_seal_next('10 minutes')), NULL, 'a recent seal is not replaced');
RESET ROLE;
SELECT pg_temp.clock_at('2071-03-10 12:10:00+00') \gset ignored_
SELECT is((SELECT seal_id FROM acp.audit_seal_next('10 minutes')), 2::bigint, 'a seal is due when it reaches the given age');
SELECT pg_temp.clock_at('2071-03-10 11:00:00+00') \gset ignored_
SELECT is((SELECT seal_id FROM acp.audit_seal_next('10 minutes')), 2::bigint, 'a seal is due after the clock was set back');

-- Archives -----------------------------------------------------------------------------------------------------------

CREATE TEMP TABLE months AS SELECT '2071-03-01'::date AS march, '2071-04-01'::date AS april;
GRANT SELECT ON months TO PUBLIC;
SELECT pg_temp.clock_at('2071-03-20 12:00:00+00') \gset ignored_
SELECT pg_temp.rows(3, 1) AS a, pg_temp.rows(2, 2, '{"action": "proof.rows", "billing_unit": "row", "billing_quantity": 40}'),
	pg_temp.rows(1, 2, '{"status": "denied", "billable": false, "action": null, "pack": null, "tier": null}') \gset ignored_
SELECT pg_temp.clock_at('2071-04-01 00:00:00+00') \gset ignored_
SELECT pg_temp.rows(1, 1) \gset ignored_
SELECT pg_temp.clock_at('2071-03-31 23:59:59+00') \gset ignored_
SELECT pg_temp.rows(2, 1) \gset ignored_
SELECT pg_temp.clock_at('2071-05-02 00:00:00+00') \gset ignored_
SELECT pg_temp.rows(1, 1) \gset ignored_

SELECT results_eq($$SELECT last_seq - first_seq + 1 FROM acp.audit_runs('2071-03-01+00', '2071-04-01+00') ORDER BY first_seq$$,
	ARRAY[12, 2]::bigint[], 'rows of a month written after a row of the next month are a separate range');
SELECT is((SELECT count(*) FROM acp.audit_runs('2071-03-01+00', '2071-04-01+00') r
	JOIN acp.audit_logs l ON l.chain_id = r.chain_id AND l.chain_seq = r.last_seq AND l.chain_hash = r.last_hash), 2::bigint,
	'each range has the hash of its last row');
SELECT is((SELECT count(*) FROM acp.audit_runs('2099-01-01+00', '2099-02-01+00')), 0::bigint, 'a month without rows has no range');

SELECT results_eq($$SELECT b.* FROM months, acp.audit_archive_begin(march) b$$, 'VALUES (1, 14::bigint, 14::bigint)',
	'archiving counts the rows twice, by ranges and by totals');
SELECT set_eq($$SELECT tenant_id, day, action, status, billable, tier, billing_unit, counted, calls, quantity FROM acp.audit_archive_totals
	WHERE month = '2071-03-01'$$, $$VALUES
	(pg_temp.t(1), '2071-03-10'::date, 'proof.one', 'success', true, 'paid', 'call', true, 6::bigint, 6::bigint),
	(pg_temp.t(1), '2071-03-20', 'proof.one', 'success', true, 'paid', 'call', true, 3, 3),
	(pg_temp.t(1), '2071-03-31', 'proof.one', 'success', true, 'paid', 'call', true, 2, 2),
	(pg_temp.t(2), '2071-03-20', 'proof.rows', 'success', true, 'paid', 'row', true, 2, 80),
	(pg_temp.t(2), '2071-03-20', '', 'denied', false, '', 'call', false, 1, 1)$$, 'totals are grouped by everything that billing uses');
INSERT INTO acp.audit_archives SELECT march, 1, acp.now(), 14, 'f', 1, sha256(''), sha256(''), sha256(''), sha256('') FROM months;
SELECT is(acp.audit_archive_end(march, 13, NULL), 'changed', 'the month stays if the file has another number of rows') FROM months;
SELECT is((SELECT count(*) FROM acp.audit_logs WHERE ts >= '2071-03-01+00' AND ts < '2071-04-01+00'), 14::bigint, 'all rows of the month are still there');
SELECT is(acp.audit_archive_end(march, 14, NULL), 'done', 'the month is removed if the number matches') FROM months;
SELECT is(to_regclass('acp.audit_logs_2071_03'), NULL, 'the table of the month is removed, too');
SELECT is_empty($$SELECT * FROM acp.usage_differences('2071-03-01', NULL, interval '1 hour')$$, 'the counters of the month match its totals');
SELECT is_empty($$SELECT * FROM acp_report.usage_drift WHERE day >= '2071-01-01'$$, 'the report shows no differences');

SELECT is(acp.ensure_partitions('2071-02-01 00:00:00+00', 3), 1, 'creating months ahead skips an archived month');
SELECT is(to_regclass('acp.audit_logs_2071_03'), NULL, 'the archived month has no table');
SELECT pg_temp.clock_at('2071-03-15 00:00:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT lives_ok('SELECT pg_temp.row(1)', 'a late row is accepted');
RESET ROLE;
SELECT is(obj_description('acp.audit_logs_2071_03'::regclass),
	'Audit rows of 2071-03 (UTC) that arrived after the month was archived.', 'the new table has a comment about late rows');
SELECT is_empty($$SELECT * FROM acp.usage_differences('2071-03-01', NULL, interval '1 hour')$$, 'late and archived rows are counted together');
SELECT is((SELECT part FROM months, acp.audit_archive_begin(march)), 2, 'late rows become another part');
INSERT INTO acp.audit_archives SELECT march, 2, acp.now(), 1, 'f2', 1, sha256(''), sha256(''), sha256(''), sha256('') FROM months;
SELECT is(acp.audit_archive_end(march, 1, 2), 'done', 'a part can be kept as a table') FROM months;
SELECT is((SELECT count(*) FROM acp.audit_kept_2071_03_2), 1::bigint, 'the kept table has the late row');
SELECT is((SELECT count(*) FROM acp.audit_logs WHERE ts >= '2071-03-01+00' AND ts < '2071-04-01+00'), 0::bigint, 'the kept row is no longer in the log');

-- Differences --------------------------------------------------------------------------------------------------------

CREATE FUNCTION pg_temp.differences(p_limit integer DEFAULT NULL) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT format('%s %s: %s, %s', right(tenant_id::text, 1), what, counted, rows)
	FROM acp.usage_differences('2071-05-01', p_limit, interval '20 minutes') ORDER BY 1
$$;
GRANT USAGE ON SCHEMA tap TO acp_app;

SELECT pg_temp.clock_at('2071-05-10 12:00:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT allowed FROM acp.usage_reserve(pg_temp.t(3), pg_temp.t(31), acp.now(), 100, '2 minutes') \gset ignored_
SELECT count(acp.settle(jsonb_build_object('event_id', pg_temp.t(30 + n), 'request_id', gen_random_uuid(), 'ts', acp.now(), 'tenant_id', pg_temp.t(3),
	'integration', 'pgtap', 'pack', 'proof', 'action', 'proof.one', 'actor_type', 'system', 'status', 'success', 'latency_ms', 1,
	'billable', true, 'billing_quantity', 1, 'dry_run', false, 'tier', 'free'), NULL, 100)) FROM generate_series(1, 3) n \gset ignored_
SELECT is_empty('SELECT pg_temp.differences(100)', 'settled calls show no differences, also for acp_app');
RESET ROLE;
SAVEPOINT s;
UPDATE acp.usage_quota SET used = used + 1 WHERE tenant_id = pg_temp.t(3);
SELECT results_eq('SELECT pg_temp.differences()', ARRAY['3 free calls used in usage_quota: 4, 3'], 'a quota that is too large is found');
ROLLBACK TO s;
UPDATE acp.usage_quota SET reserved = reserved + 1 WHERE tenant_id = pg_temp.t(3);
SELECT results_eq('SELECT pg_temp.differences()', ARRAY['3 places reserved in usage_quota: 1, 0'], 'a reserved count without a reservation is found');
ROLLBACK TO s;
INSERT INTO acp.usage_settled VALUES (pg_temp.t(3), '2071-05-01', pg_temp.t(99), now());
SELECT results_eq('SELECT pg_temp.differences()', ARRAY['3 free calls used in usage_quota: 3, 4'],
	'a settled call of another kernel counts before its row arrives');
ROLLBACK TO s;
INSERT INTO acp.usage_reservations VALUES (pg_temp.t(3), '2071-05-01', pg_temp.t(98), acp.now() - interval '20 minutes'),
	(pg_temp.t(3), '2071-05-01', pg_temp.t(97), acp.now() - interval '19 minutes');
UPDATE acp.usage_quota SET reserved = reserved + 2 WHERE tenant_id = pg_temp.t(3);
SELECT results_eq('SELECT pg_temp.differences()', ARRAY['3 places held by calls that died: 1, 0'], 'a reservation held too long after its expiry is found');
SELECT acp.maintain() \gset ignored_
SELECT is_empty('SELECT pg_temp.differences()', 'maintenance releases expired reservations');
ROLLBACK TO s;
SELECT results_eq('SELECT pg_temp.differences(2)', ARRAY['3 free calls above the limit: 3, 2'], 'more free calls than the limit are found');
UPDATE acp.tenants SET upgraded_at = now() WHERE tenant_id = pg_temp.t(3);
SELECT is_empty('SELECT pg_temp.differences(2)', 'the check of the limit skips an upgraded tenant');
ROLLBACK TO s;
SELECT acp.usage_roll_up() \gset ignored_
UPDATE acp.usage_counted SET calls = calls + 1, quantity = quantity + 7 WHERE tenant_id = pg_temp.t(3);
SELECT results_eq('SELECT pg_temp.differences()', ARRAY[
	'3 calls of 2071-05-10, proof.one, success, billable, tier free, unit call: 4, 3',
	'3 quantity of 2071-05-10, proof.one, success, billable, tier free, unit call: 10, 3'], 'counters that are too large are found');
ROLLBACK TO s;
SELECT acp.usage_roll_up() \gset ignored_
DELETE FROM acp.usage_counted WHERE tenant_id = pg_temp.t(3);
SELECT is((SELECT count(*) FROM pg_temp.differences()), 2::bigint, 'missing counters are found');
ROLLBACK TO s;
UPDATE acp.audit_archive_totals SET calls = calls + 1 WHERE month = '2071-03-01' AND part = 2;
SELECT set_eq($$SELECT what, counted, rows FROM acp.usage_differences('2071-03-01', NULL, '1 hour')$$, $$VALUES
	('calls of 2071-03-15, proof.one, success, billable, tier paid, unit call', 1::bigint, 2::bigint),
	('rows in the totals of the archive, part 2', 1, 2)$$, 'altered totals are found');
ROLLBACK TO s;
SELECT is_empty('SELECT pg_temp.differences(100)', 'no differences remain at the end');

SELECT * FROM finish();
ROLLBACK;
