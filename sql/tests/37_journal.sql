-- 37_journal.sql - audit rows from the local journal: once each, counted, and never more than the allowance.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'Pacific/Auckland'; -- nothing may depend on the session's time zone
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(49);

CREATE FUNCTION pg_temp.t(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('37373737-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
$$;
CREATE FUNCTION pg_temp.e(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('37373737-0000-4000-a000-' || lpad(n::text, 12, '0'))::uuid
$$;

-- The event of call n of tenant t, as core/router/audit.c makes it: a billable success of a free tenant in the last second of
-- February, if not said otherwise.
CREATE FUNCTION pg_temp.event(t integer, n integer, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('event_id', pg_temp.e(n), 'request_id', pg_temp.e(n), 'ts', '2027-02-28 23:59:59.123456+00',
		'tenant_id', pg_temp.t(t), 'integration', 'pgtap', 'pack', 'test', 'action', 'test.one', 'actor_type', 'api_key',
		'status', 'success', 'latency_ms', 2, 'dry_run', false, 'billable', true, 'billing_quantity', 1, 'tier', 'free') || more
$$;
CREATE FUNCTION pg_temp.events(t integer, first integer, last integer, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT coalesce(jsonb_agg(pg_temp.event(t, n, more) ORDER BY n), '[]') FROM generate_series(first, last) n
$$;
-- Replays with an allowance of 3: "stored duplicates uncounted".
CREATE FUNCTION pg_temp.replay(events jsonb, max_calls integer DEFAULT 3) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', r->>'stored', r->>'duplicates', r->>'uncounted') FROM acp.journal_replay(events, max_calls, 90) r
$$;
-- What is on record of tenant t: used+reserved of each month, reservations, audit rows, billable ones of them, calls
-- counted, billable ones of them.
CREATE FUNCTION pg_temp.record(t integer) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', coalesce((SELECT string_agg(used || '+' || reserved, ',' ORDER BY period) FROM acp.usage_quota
		WHERE tenant_id = pg_temp.t(t)), '-'),
		(SELECT count(*) FROM acp.usage_reservations WHERE tenant_id = pg_temp.t(t)),
		(SELECT count(*) || ' ' || count(*) FILTER (WHERE billable) FROM acp.audit_logs WHERE tenant_id = pg_temp.t(t)),
		(SELECT coalesce(sum(calls), 0) || ' ' || coalesce(sum(calls) FILTER (WHERE billable), 0)
		 FROM acp.usage_counters WHERE tenant_id = pg_temp.t(t)))
$$;
CREATE FUNCTION pg_temp.row(n integer) RETURNS acp.audit_logs LANGUAGE sql AS $$
	SELECT l FROM acp.audit_logs l WHERE event_id = pg_temp.e(n)
$$;

DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET acp.clock_offset = %L', current_database(), '2027-03-10 12:00+00'::timestamptz - now()); END $$;
SET LOCAL ROLE acp_app;
SELECT count(acp.tenant_create(pg_temp.t(n), 'leadscoring', 'journal:' || n, 'a@example.com', NULL))
	FROM generate_series(1, 20) n \gset ignored_

-- Once ---------------------------------------------------------------------------------------------------------------

SELECT is(pg_temp.replay('[]'), '0 0 0', 'nothing is nothing');
SELECT is(pg_temp.replay(pg_temp.events(1, 101, 102)), '2 0 0', 'two events are stored');
SELECT is(pg_temp.record(1), '2+0 0 2 2 2 2', 'and counted, in the month they happened in');
SELECT is((SELECT period FROM acp.usage_quota WHERE tenant_id = pg_temp.t(1)), '2027-02-01', 'which is February by UTC');
SELECT is(to_jsonb((pg_temp.row(101))) - '{chain_id,chain_seq,chain_hash,chain_form,ts}'::text[],
	(SELECT jsonb_object_agg(key, NULL) FROM jsonb_object_keys(to_jsonb(pg_temp.row(101))) key)
		- '{chain_id,chain_seq,chain_hash,chain_form,ts}'::text[] || pg_temp.event(1, 101) - 'ts',
	'each member is in its column, and nothing in the others');
SELECT is((pg_temp.row(101)).ts, '2027-02-28 23:59:59.123456+00'::timestamptz, 'to the microsecond');
SELECT is(pg_temp.replay(pg_temp.events(1, 101, 102)), '0 2 0', 'a second time they are known');
SELECT is(pg_temp.record(1), '2+0 0 2 2 2 2', 'and change nothing');
SELECT is(pg_temp.replay(pg_temp.events(1, 102, 103)), '1 1 0', 'of a batch that was stored in part, the rest is');
SELECT is(pg_temp.replay(pg_temp.events(2, 201, 201) || pg_temp.events(2, 201, 201)), '1 1 0', 'one that stands twice in a batch is stored once');
SELECT is(pg_temp.record(2), '1+0 0 1 1 1 1', 'and counted once');
SELECT acp.audit_append(pg_temp.event(2, 202, '{"status": "error", "billable": false, "error_code": "X"}')) \gset ignored_
SELECT is(pg_temp.replay(pg_temp.events(2, 202, 202, '{"status": "error", "billable": false, "error_code": "X"}')), '0 1 0',
	'a row that PostgreSQL took before it went away is known');

-- The allowance ------------------------------------------------------------------------------------------------------

SELECT is(pg_temp.replay(pg_temp.events(3, 301, 305, '{"result_meta": {"count": 7}}')), '5 0 2', 'five calls, three places: two are not counted');
SELECT is(pg_temp.record(3), '3+0 0 5 3 5 3', 'all have rows, three are billable');
SELECT is((SELECT array_agg(event_id ORDER BY event_id) FROM acp.audit_logs WHERE tenant_id = pg_temp.t(3) AND billable),
	ARRAY[pg_temp.e(301), pg_temp.e(302), pg_temp.e(303)], 'the first three');
SELECT is((pg_temp.row(305)).result_meta, '{"count": 7, "usage_check": "failed_open_over_limit"}', 'the others say why not');
SELECT is((pg_temp.row(301)).result_meta, '{"count": 7}', 'the first do not');
SELECT is(pg_temp.replay(pg_temp.events(3, 301, 305, '{"result_meta": {"count": 7}}')), '0 5 0', 'a second time none is counted');
SELECT is(pg_temp.record(3), '3+0 0 5 3 5 3', 'and none of the others gets in');
SELECT is(pg_temp.replay(pg_temp.events(3, 306, 306)), '1 0 1', 'nor does a later one');
SELECT is(pg_temp.replay(pg_temp.events(3, 307, 309, '{"ts": "2027-03-01T00:00:00Z"}')), '3 0 0', 'a month later there is room');
SELECT is(pg_temp.record(3), '3+0,3+0 0 9 6 9 6', 'in the quota of that month');
SELECT is(pg_temp.replay(pg_temp.events(4, 401, 405), NULL), '5 0 0', 'where the allowance is not enforced, all count');
SELECT is(pg_temp.record(4), '5+0 0 5 5 5 5', 'as used');
SELECT is(pg_temp.replay(pg_temp.events(5, 501, 505, '{"tier": "paid"}')), '5 0 0', 'paid calls have no limit');
SELECT is(pg_temp.record(5), '- 0 5 5 5 5', 'and use no place');

-- Places held --------------------------------------------------------------------------------------------------------

SELECT count(acp.usage_reserve(pg_temp.t(6), pg_temp.e(n), '2027-02-28 23:59:59+00', 3, interval '1 hour')) FROM generate_series(601, 603) n \gset ignored_
SELECT is(pg_temp.record(6), '0+3 3 0 0 0 0', 'three calls hold the places');
SELECT is(pg_temp.replay(pg_temp.events(6, 604, 604)), '1 0 1', 'another one finds no room');
SELECT is(pg_temp.replay(pg_temp.events(6, 602, 603)
	|| pg_temp.event(6, 601, '{"status": "error", "billable": false, "error_code": "UPSTREAM_FAILED"}')), '3 0 0',
	'two of them succeeded, one did not');
SELECT is(pg_temp.record(6), '2+0 0 4 2 4 2', 'their places are used, or given back');

-- What is not billable ------------------------------------------------------------------------------------------------

SELECT is(pg_temp.replay(pg_temp.events(7, 701, 702, '{"status": "denied", "billable": false, "error_code": "SCOPE_DENIED"}')
	|| pg_temp.event(7, 703, '{"dry_run": true, "billable": false}')
	|| jsonb_build_array(pg_temp.event(7, 704, '{"tenant_id": "00000000-0000-0000-0000-000000000000", "status": "denied",
		"billable": false, "error_code": "INVALID_API_KEY", "actor_type": "anonymous"}') - 'tier' - 'pack')), '4 0 0',
	'refused calls, dry runs and unknown callers have rows');
SELECT is(pg_temp.record(7), '- 0 3 0 3 0', 'and use nothing');
SELECT is((pg_temp.row(704)).tenant_id, '00000000-0000-0000-0000-000000000000', 'who is unknown stays unknown');

-- Several tenants, mixed; the remote hub; all or nothing ---------------------------------------------------------------

SELECT is(pg_temp.replay((SELECT jsonb_agg(pg_temp.event(8 + n % 4, 800 + n, (CASE WHEN n = 18 THEN '{"forward": true}' WHEN n % 2 = 1
	THEN '{"forward": false}' ELSE '{}' END)::jsonb)) FROM generate_series(1, 20) n)), '20 0 8', 'events of four tenants in one batch');
SELECT is(ARRAY(SELECT pg_temp.record(t) FROM generate_series(8, 11) t), array_fill('3+0 0 5 3 5 3'::text, ARRAY[4]),
	'each has its own allowance');
SELECT is((SELECT jsonb_agg(event) FROM acp.audit_outbox WHERE event->>'integration' = 'pgtap'),
	jsonb_build_array(acp.audit_event_json(pg_temp.row(818))), 'what is for a remote hub waits for it, as it is stored');
SELECT throws_ok($$SELECT pg_temp.replay(pg_temp.events(12, 1201, 1202) || pg_temp.events(99, 1203, 1203))$$, 'P0002', NULL,
	'with an event that cannot be stored');
SELECT is(pg_temp.record(12), '- 0 0 0 0 0', 'none of its batch is');

-- Refusals of onboardings that may have been done ------------------------------------------------------------------------

SELECT acp.onboard_record(pg_temp.t(21), pg_temp.event(13, 1301)) \gset ignored_
SELECT is(pg_temp.replay(jsonb_build_array(pg_temp.event(13, 1302, jsonb_build_object('status', 'error', 'billable', false,
	'unless_onboarded', pg_temp.t(21))))), '0 1 0', 'the refusal of an onboarding that is on record is not stored');
SELECT is(pg_temp.replay(jsonb_build_array(pg_temp.event(13, 1303, jsonb_build_object('status', 'error', 'billable', false,
	'unless_onboarded', pg_temp.t(22))))), '1 0 0', 'that of another one is');
SELECT throws_ok($$SELECT acp.onboard_record(pg_temp.t(22), pg_temp.event(13, 1304))$$, 'ACP01', NULL, 'which is not done any more');
SELECT results_eq($$SELECT event_id FROM acp.audit_logs WHERE tenant_id = pg_temp.t(13) ORDER BY event_id$$,
	$$VALUES (pg_temp.e(1301)), (pg_temp.e(1303))$$, 'one row each');

-- Rows whose commit's answer was lost ------------------------------------------------------------------------------------

SELECT pg_current_wal_insert_lsn() AS before \gset
SELECT ok(acp.audit_found(pg_temp.t(8), (pg_temp.row(804)).ts, pg_temp.e(804)), 'a row that is stored is found');
SELECT cmp_ok(pg_current_wal_insert_lsn(), '>', :'before'::pg_lsn, 'and the commit of who found it waits for the standbys');
SELECT pg_current_wal_insert_lsn() AS before \gset
SELECT is(acp.audit_stored(ARRAY[pg_temp.row(804)]), ARRAY[true], 'also where it comes again');
SELECT cmp_ok(pg_current_wal_insert_lsn(), '>', :'before'::pg_lsn, 'and that commit waits, too');
SELECT ok(NOT acp.audit_found(pg_temp.t(8), (pg_temp.row(804)).ts, pg_temp.e(999)), 'one that is not is not');

-- Counters and chains --------------------------------------------------------------------------------------------------

RESET ROLE;

SELECT is_empty($$SELECT * FROM acp_report.usage_drift WHERE tenant_id IN (SELECT pg_temp.t(n) FROM generate_series(1, 20) n)$$,
	'counters are what the rows say');
SELECT is_empty($$
	SELECT l.event_id FROM (SELECT l AS line, l.*, lag(l.chain_hash, 1, decode(repeat('00', 32), 'hex')) OVER w AS before, row_number() OVER w AS place
		FROM acp.audit_logs l WINDOW w AS (PARTITION BY l.chain_id ORDER BY l.chain_seq)) l
	WHERE l.chain_seq <> l.place
	   OR l.chain_hash <> sha256(l.before || convert_to((acp.audit_texts(ARRAY[l.line]))[1], 'UTF8'))$$,
	'every row is the link after the one before it');

SELECT * FROM finish();
ROLLBACK;
