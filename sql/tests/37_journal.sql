-- 37_journal.sql - audit rows from the local journal: stored once, counted, within the allowance.
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

-- The event of call n of tenant t, as core/router/audit.c builds it: by default a billable success of a free tenant in
-- the last second of February.
CREATE FUNCTION pg_temp.event(t integer, n integer, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('event_id', pg_temp.e(n), 'request_id', pg_temp.e(n), 'ts', '2027-02-28 23:59:59.123456+00',
		'tenant_id', pg_temp.t(t), 'integration', 'pgtap', 'pack', 'test', 'action', 'test.one', 'actor_type', 'api_key',
		'status', 'success', 'latency_ms', 2, 'dry_run', false, 'billable', true, 'billing_quantity', 1, 'tier', 'free') || more
$$;
CREATE FUNCTION pg_temp.events(t integer, first integer, last integer, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT coalesce(jsonb_agg(pg_temp.event(t, n, more) ORDER BY n), '[]') FROM generate_series(first, last) n
$$;
-- Replays events with an allowance of 3: "stored duplicates uncounted".
CREATE FUNCTION pg_temp.replay(events jsonb, max_calls integer DEFAULT 3) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', r->>'stored', r->>'duplicates', r->>'uncounted') FROM acp.journal_replay(events, max_calls, 90) r
$$;
-- State of tenant t: used+reserved of each month, reservations, audit rows, billable audit rows, calls counted, billable
-- calls counted.
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

-- Stored once --------------------------------------------------------------------------------------------------------

SELECT is(pg_temp.replay('[]'), '0 0 0', 'an empty batch changes nothing');
SELECT is(pg_temp.replay(pg_temp.events(1, 101, 102)), '2 0 0', 'two events are stored');
SELECT is(pg_temp.record(1), '2+0 0 2 2 2 2', 'they are counted in the month in which they happened');
SELECT is((SELECT period FROM acp.usage_quota WHERE tenant_id = pg_temp.t(1)), '2027-02-01', 'which is February by UTC');
SELECT is(to_jsonb((pg_temp.row(101))) - '{chain_id,chain_seq,chain_hash,chain_form,ts}'::text[],
	(SELECT jsonb_object_agg(key, NULL) FROM jsonb_object_keys(to_jsonb(pg_temp.row(101))) key)
		- '{chain_id,chain_seq,chain_hash,chain_form,ts}'::text[] || pg_temp.event(1, 101) - 'ts',
	'each member is in its column, and nothing in the others');
SELECT is((pg_temp.row(101)).ts, '2027-02-28 23:59:59.123456+00'::timestamptz, 'the time is exact to the microsecond');
SELECT is(pg_temp.replay(pg_temp.events(1, 101, 102)), '0 2 0', 'a repeated batch is recognised');
SELECT is(pg_temp.record(1), '2+0 0 2 2 2 2', 'the repeated batch changes nothing');
SELECT is(pg_temp.replay(pg_temp.events(1, 102, 103)), '1 1 0', 'the rest of a partly stored batch is stored');
SELECT is(pg_temp.replay(pg_temp.events(2, 201, 201) || pg_temp.events(2, 201, 201)), '1 1 0', 'an event listed twice in a batch is stored once');
SELECT is(pg_temp.record(2), '1+0 0 1 1 1 1', 'that event is counted once');
SELECT acp.audit_append(pg_temp.event(2, 202, '{"status": "error", "billable": false, "error_code": "X"}')) \gset ignored_
SELECT is(pg_temp.replay(pg_temp.events(2, 202, 202, '{"status": "error", "billable": false, "error_code": "X"}')), '0 1 0',
	'a row committed before PostgreSQL failed is recognised');

-- The allowance ------------------------------------------------------------------------------------------------------

SELECT is(pg_temp.replay(pg_temp.events(3, 301, 305, '{"result_meta": {"count": 7}}')), '5 0 2', 'of five calls with room for three, two are not counted');
SELECT is(pg_temp.record(3), '3+0 0 5 3 5 3', 'all five have rows, three are billable');
SELECT is((SELECT array_agg(event_id ORDER BY event_id) FROM acp.audit_logs WHERE tenant_id = pg_temp.t(3) AND billable),
	ARRAY[pg_temp.e(301), pg_temp.e(302), pg_temp.e(303)], 'the first three are billable');
SELECT is((pg_temp.row(305)).result_meta, '{"count": 7, "usage_check": "failed_open_over_limit"}', 'the other rows give the reason');
SELECT is((pg_temp.row(301)).result_meta, '{"count": 7}', 'the first rows give none');
SELECT is(pg_temp.replay(pg_temp.events(3, 301, 305, '{"result_meta": {"count": 7}}')), '0 5 0', 'a repeated batch counts nothing');
SELECT is(pg_temp.record(3), '3+0 0 5 3 5 3', 'the repeated batch adds none of the others');
SELECT is(pg_temp.replay(pg_temp.events(3, 306, 306)), '1 0 1', 'a later call finds no room either');
SELECT is(pg_temp.replay(pg_temp.events(3, 307, 309, '{"ts": "2027-03-01T00:00:00Z"}')), '3 0 0', 'the next month has room');
SELECT is(pg_temp.record(3), '3+0,3+0 0 9 6 9 6', 'the call is in the quota of that month');
SELECT is(pg_temp.replay(pg_temp.events(4, 401, 405), NULL), '5 0 0', 'without enforcement all calls count');
SELECT is(pg_temp.record(4), '5+0 0 5 5 5 5', 'they are all used');
SELECT is(pg_temp.replay(pg_temp.events(5, 501, 505, '{"tier": "paid"}')), '5 0 0', 'paid calls have no limit');
SELECT is(pg_temp.record(5), '- 0 5 5 5 5', 'paid calls use no free call');

-- Reservations -------------------------------------------------------------------------------------------------------

SELECT count(acp.usage_reserve(pg_temp.t(6), pg_temp.e(n), '2027-02-28 23:59:59+00', 3, interval '1 hour')) FROM generate_series(601, 603) n \gset ignored_
SELECT is(pg_temp.record(6), '0+3 3 0 0 0 0', 'three calls hold all reservations');
SELECT is(pg_temp.replay(pg_temp.events(6, 604, 604)), '1 0 1', 'another call finds no room');
SELECT is(pg_temp.replay(pg_temp.events(6, 602, 603)
	|| pg_temp.event(6, 601, '{"status": "error", "billable": false, "error_code": "UPSTREAM_FAILED"}')), '3 0 0',
	'two of them succeeded, one did not');
SELECT is(pg_temp.record(6), '2+0 0 4 2 4 2', 'their reservations are used or released');

-- Calls that are not billable ----------------------------------------------------------------------------------------

SELECT is(pg_temp.replay(pg_temp.events(7, 701, 702, '{"status": "denied", "billable": false, "error_code": "SCOPE_DENIED"}')
	|| pg_temp.event(7, 703, '{"dry_run": true, "billable": false}')
	|| jsonb_build_array(pg_temp.event(7, 704, '{"tenant_id": "00000000-0000-0000-0000-000000000000", "status": "denied",
		"billable": false, "error_code": "INVALID_API_KEY", "actor_type": "anonymous"}') - 'tier' - 'pack')), '4 0 0',
	'refused calls, dry runs and unknown callers have rows');
SELECT is(pg_temp.record(7), '- 0 3 0 3 0', 'they use nothing');
SELECT is((pg_temp.row(704)).tenant_id, '00000000-0000-0000-0000-000000000000', 'an unknown caller stays unknown');

-- Several tenants, mixed; the remote hub; all or nothing -------------------------------------------------------------

SELECT is(pg_temp.replay((SELECT jsonb_agg(pg_temp.event(8 + n % 4, 800 + n, (CASE WHEN n = 18 THEN '{"forward": true}' WHEN n % 2 = 1
	THEN '{"forward": false}' ELSE '{}' END)::jsonb)) FROM generate_series(1, 20) n)), '20 0 8', 'one batch has events of four tenants');
SELECT is(ARRAY(SELECT pg_temp.record(t) FROM generate_series(8, 11) t), array_fill('3+0 0 5 3 5 3'::text, ARRAY[4]),
	'each has its own allowance');
SELECT is((SELECT jsonb_agg(event) FROM acp.audit_outbox WHERE event->>'integration' = 'pgtap'),
	jsonb_build_array(acp.audit_event_json(pg_temp.row(818))), 'events for a remote hub are queued as stored');
SELECT throws_ok($$SELECT pg_temp.replay(pg_temp.events(12, 1201, 1202) || pg_temp.events(99, 1203, 1203))$$, 'P0002', NULL,
	'a batch with an invalid event fails');
SELECT is(pg_temp.record(12), '- 0 0 0 0 0', 'nothing of that batch is stored');

-- Refusals of onboardings that may have succeeded --------------------------------------------------------------------

SELECT acp.onboard_record(pg_temp.t(21), pg_temp.event(13, 1301)) \gset ignored_
SELECT is(pg_temp.replay(jsonb_build_array(pg_temp.event(13, 1302, jsonb_build_object('status', 'error', 'billable', false,
	'unless_onboarded', pg_temp.t(21))))), '0 1 0', 'the refusal of a recorded onboarding is not stored');
SELECT is(pg_temp.replay(jsonb_build_array(pg_temp.event(13, 1303, jsonb_build_object('status', 'error', 'billable', false,
	'unless_onboarded', pg_temp.t(22))))), '1 0 0', 'the refusal of another one is stored');
SELECT throws_ok($$SELECT acp.onboard_record(pg_temp.t(22), pg_temp.event(13, 1304))$$, 'ACP01', NULL, 'the refused onboarding can no longer succeed');
SELECT results_eq($$SELECT event_id FROM acp.audit_logs WHERE tenant_id = pg_temp.t(13) ORDER BY event_id$$,
	$$VALUES (pg_temp.e(1301)), (pg_temp.e(1303))$$, 'each onboarding has one row');

-- Rows whose commit was not acknowledged -----------------------------------------------------------------------------

SELECT pg_current_wal_insert_lsn() AS before \gset
SELECT ok(acp.audit_found(pg_temp.t(8), (pg_temp.row(804)).ts, pg_temp.e(804)), 'a stored row is found');
SELECT cmp_ok(pg_current_wal_insert_lsn(), '>', :'before'::pg_lsn, 'the commit of the finder waits for the standbys');
SELECT pg_current_wal_insert_lsn() AS before \gset
SELECT is(acp.audit_stored(ARRAY[pg_temp.row(804)]), ARRAY[true], 'a repeated batch finds it, too');
SELECT cmp_ok(pg_current_wal_insert_lsn(), '>', :'before'::pg_lsn, 'the commit of the repeated batch waits, too');
SELECT ok(NOT acp.audit_found(pg_temp.t(8), (pg_temp.row(804)).ts, pg_temp.e(999)), 'a missing row is not found');

-- Counters and chains ------------------------------------------------------------------------------------------------

RESET ROLE;

SELECT is_empty($$SELECT * FROM acp_report.usage_drift WHERE tenant_id IN (SELECT pg_temp.t(n) FROM generate_series(1, 20) n)$$,
	'counters match the rows');
SELECT is_empty($$
	SELECT l.event_id FROM (SELECT l AS line, l.*, lag(l.chain_hash, 1, decode(repeat('00', 32), 'hex')) OVER w AS before, row_number() OVER w AS place
		FROM acp.audit_logs l WINDOW w AS (PARTITION BY l.chain_id ORDER BY l.chain_seq)) l
	WHERE l.chain_seq <> l.place
	   OR l.chain_hash <> sha256(l.before || convert_to((acp.audit_texts(ARRAY[l.line]))[1], 'UTF8'))$$,
	'every row is linked to the one before it');

SELECT * FROM finish();
ROLLBACK;
