-- 30_usage.sql - reserve, settle, release; the usage object; prices; the audit row and its counters.
-- One session cannot race with itself. Tests that call the program check that the limit is exact under load.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(170);

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

CREATE FUNCTION pg_temp.t(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('33333333-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
$$;
CREATE FUNCTION pg_temp.e(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('33333333-0000-4000-a000-' || lpad(n::text, 12, '0'))::uuid
$$;

-- The event of call n of tenant t. more: members that differ from a billable success of a free tenant.
CREATE FUNCTION pg_temp.event(t integer, n integer, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('event_id', pg_temp.e(n), 'request_id', gen_random_uuid(), 'ts', acp.now(), 'tenant_id',
	pg_temp.t(t),
		'integration', 'pgtap', 'pack', 'test', 'action', 'test.one', 'actor_type', 'api_key', 'status', 'success',
		'latency_ms', 2,
		'dry_run', false, 'billable', true, 'billing_quantity', 1, 'tier', 'free') || more
$$;

-- Makes a reservation for call n of tenant t, with a default limit of 3, for 10 seconds: "allowed used/limit".
CREATE FUNCTION pg_temp.reserve(t integer, n integer) RETURNS text LANGUAGE sql AS $$
	SELECT concat(CASE WHEN allowed THEN 'yes ' ELSE 'no ' END, coalesce(calls_used::text, '-'), '/',
	coalesce(calls_limit::text, '-'))
	FROM acp.usage_reserve(pg_temp.t(t), pg_temp.e(n), acp.now(), 3, interval '10 s')
$$;
CREATE FUNCTION pg_temp.settle(t integer, n integer, held boolean DEFAULT true, more jsonb DEFAULT '{}',
	max_calls integer DEFAULT 3)
RETURNS bigint LANGUAGE sql AS $$
	SELECT acp.settle(pg_temp.event(t, n, more), CASE WHEN held THEN pg_temp.e(n) END, max_calls)
$$;
-- State of tenant t in the current month: used+reserved, reservations, audit rows, billable audit rows, calls counted,
-- billable calls counted.
CREATE FUNCTION pg_temp.record(t integer) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', (SELECT used || '+' || reserved FROM acp.usage_quota WHERE tenant_id = pg_temp.t(t)
	AND period = acp.period(acp.now())),
		(SELECT count(*) FROM acp.usage_reservations WHERE tenant_id = pg_temp.t(t) AND period = acp.period(acp.now())),
		(SELECT count(*) || ' ' || count(*) FILTER (WHERE billable) FROM acp.audit_logs
		 WHERE tenant_id = pg_temp.t(t) AND ts >= acp.period_start(acp.period(acp.now()))),
		(SELECT coalesce(sum(calls), 0) || ' ' || coalesce(sum(calls) FILTER (WHERE billable), 0)
		FROM acp.usage_counters
		 WHERE tenant_id = pg_temp.t(t) AND day >= acp.period(acp.now())))
$$;

SELECT pg_temp.clock_at('2027-02-28 23:59:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT count(acp.tenant_create(pg_temp.t(n), 'leadscoring', 'usage:' || n, 'a@example.com', NULL))
	FROM generate_series(1, 20) n \gset ignored_

-- Up to the limit ----------------------------------------------------------------------------------------------------

SELECT is(pg_temp.reserve(1, 101), 'yes 1/3', 'the first call gets a reservation');
SELECT is(pg_temp.record(1), '0+1 1 0 0 0 0', 'the reservation is held, not used');
SELECT is(pg_temp.settle(1, 101), 1::bigint, 'a success uses the reservation');
SELECT is(pg_temp.record(1), '1+0 0 1 1 1 1', 'the success leaves a counted audit row');
SELECT isnt_empty($$SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objid::bigint =
	hashtextextended('acp.audit_pending ' || pg_temp.e(101), 0) & 4294967295$$,
	'acp.audit_found() waits for that transaction');
SELECT is(pg_temp.reserve(1, 102), 'yes 2/3', 'the second call gets a reservation');
SELECT is(pg_temp.reserve(1, 103), 'yes 3/3', 'the third call gets one at the same time');
SELECT is(pg_temp.reserve(1, 104), 'no 3/3', 'a fourth call is refused while three run');
SELECT is(pg_temp.settle(1, 104, false, '{"status": "denied", "error_code": "UPGRADE_REQUIRED",
	"billable": false}'), NULL,
	'a refused call uses nothing');
SELECT is(pg_temp.settle(1, 102, true, '{"status": "error", "error_code": "INTERNAL_ERROR", "billable": false}'), NULL,
	'a failed call releases its reservation');
SELECT is(pg_temp.record(1), '1+1 1 3 1 3 1', 'each call has its audit row');
SELECT is(pg_temp.reserve(1, 105), 'yes 3/3', 'another call gets the released reservation');
SELECT is(pg_temp.settle(1, 103), 2::bigint, 'the third call succeeds');
SELECT is(pg_temp.settle(1, 105), 3::bigint, 'the last free call succeeds');
SELECT is(pg_temp.reserve(1, 106), 'no 3/3', 'the allowance is used up');
SELECT is(pg_temp.reserve(1, 106), 'no 3/3', 'the allowance stays used up');
SELECT is(pg_temp.record(1), '3+0 0 5 3 5 3', 'three calls are used, none is held');
SELECT is(pg_temp.settle(1, 107, false, '{"dry_run": true, "billable": false}'), NULL, 'a dry run uses nothing');
SELECT is(pg_temp.record(1), '3+0 0 6 3 6 3', 'a dry run leaves its row');
SELECT is(pg_temp.reserve(2, 108), 'yes 1/3', 'another tenant has its own allowance');
SELECT ok(acp.usage_release(pg_temp.t(2), pg_temp.e(108), acp.now()), 'a reservation is released');
SELECT ok(NOT acp.usage_release(pg_temp.t(2), pg_temp.e(108), acp.now()), 'a reservation is released only once');
SELECT is(pg_temp.record(2), '0+0 0 0 0 0 0', 'the release leaves nothing behind');
SELECT throws_ok($$SELECT pg_temp.reserve(2, 109), pg_temp.reserve(2, 109)$$, '23505', NULL,
	'a call cannot have two reservations');
SELECT throws_ok('SELECT pg_temp.reserve(99, 110)', 'P0002', NULL, 'an unknown tenant gets no reservation');

-- A call whose commit was not acknowledged ---------------------------------------------------------------------------

CREATE FUNCTION pg_temp.doubt(t integer, n integer, held boolean DEFAULT true, claim text DEFAULT NULL) RETURNS boolean LANGUAGE sql AS $$
	SELECT acp.settle_doubt(pg_temp.event(t, n, '{"status": "error", "error_code": "UNAVAILABLE", "billable": false}'),
		CASE WHEN held THEN pg_temp.e(n) END, claim)
$$;
SELECT is(pg_temp.reserve(18, 180), 'yes 1/3', 'a call has a reservation');
SELECT is(pg_temp.settle(18, 180), 1::bigint, 'the call was committed without an acknowledgement');
SELECT ok(pg_temp.doubt(18, 180), 'settle_doubt finds the committed call');
SELECT is(pg_temp.record(18), '1+0 0 1 1 1 1', 'settle_doubt changes nothing for a committed call');
SELECT is(pg_temp.reserve(18, 181), 'yes 2/3', 'another call has a reservation');
SELECT is((acp.idempotency_claim(pg_temp.t(18), 'test.one', 'doubt', repeat('a', 64), pg_temp.e(181), interval '1 minute')).verdict, 'run',
	'the call also claims its key');
SELECT ok(NOT pg_temp.doubt(18, 181, claim => 'doubt'), 'settle_doubt finds that the other call was not committed');
SELECT is(pg_temp.record(18), '1+0 0 2 1 2 1', 'the refusal becomes the row of that call, and the reservation is released');
SELECT is_empty($$SELECT FROM acp.idempotency WHERE key = 'doubt'$$, 'the claim is released, too');
SELECT throws_ok('SELECT pg_temp.settle(18, 181)', '23505', NULL, 'a later commit of that call fails');
SELECT ok(NOT pg_temp.doubt(18, 181), 'a second settle_doubt gives the same result');
SELECT is(pg_temp.record(18), '1+0 0 2 1 2 1', 'the second settle_doubt changes nothing');
SELECT is((SELECT error_code FROM acp.audit_logs WHERE event_id = pg_temp.e(181)), 'UNAVAILABLE', 'the row has the code UNAVAILABLE');
SELECT isnt_empty($$SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objid::bigint =
	hashtextextended('acp.audit_pending ' || pg_temp.e(181), 0) & 4294967295$$, 'settle_doubt waits for a commit in progress');

-- The end of the month -----------------------------------------------------------------------------------------------

SELECT is(acp.usage(pg_temp.t(1), NULL, 3)->>'calls_remaining', '0', 'at the end of February no calls are left');
SELECT is(pg_temp.reserve(3, 111), 'yes 1/3', 'a call starts in the last minute of February');
SELECT pg_temp.event(3, 111) AS february_event \gset
RESET ROLE;
SELECT pg_temp.clock_at('2027-03-01 00:00:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT is(pg_temp.reserve(1, 112), 'yes 1/3', 'in March the allowance is full again');
SELECT is(pg_temp.settle(1, 112), 1::bigint, 'counting starts at one in March');
SELECT is(acp.settle(:'february_event', pg_temp.e(111), 3), 1::bigint, 'a call that started in February ends in March');
SELECT results_eq($$SELECT period, used, reserved FROM acp.usage_quota WHERE tenant_id = pg_temp.t(3)$$,
	$$VALUES ('2027-02-01'::date, 1, 0)$$, 'the call uses the month in which it started');
SELECT is(acp.usage(pg_temp.t(1), '2027-02-01', 3)->>'calls_used', '3', 'usage still shows February');
SELECT is(acp.usage(pg_temp.t(1), NULL, 3)->>'calls_used', '1', 'usage shows March by default');
SELECT is(acp.usage(pg_temp.t(1), '2027-04-01', 3)->>'calls_used', '0', 'usage of April is empty');

-- Expired reservations -----------------------------------------------------------------------------------------------

RESET ROLE;
SELECT pg_temp.clock_at('2027-03-10 12:00:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT is(string_agg(pg_temp.reserve(4, n), ', ' ORDER BY n), 'yes 1/3, yes 2/3, yes 3/3', 'three calls start')
FROM generate_series(201, 203) n;
RESET ROLE;
SELECT pg_temp.clock_at('2027-03-10 12:00:09.999999+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT is(pg_temp.reserve(4, 204), 'no 3/3', 'reservations last for ten seconds');
RESET ROLE;
SELECT pg_temp.clock_at('2027-03-10 12:00:10+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT is(pg_temp.reserve(4, 205), 'yes 1/3', 'after ten seconds a reservation is reused');
SELECT is(pg_temp.record(4), '0+1 1 0 0 0 0', 'all three reservations have expired');
SELECT is(pg_temp.settle(4, 201), 1::bigint, 'a call with an expired reservation counts if there is room');
SELECT is(pg_temp.record(4), '1+1 1 1 1 1 1', 'that call does not touch the reservation of another');
SELECT is(pg_temp.reserve(4, 206), 'yes 3/3', 'the last free call is reserved');
SELECT is(pg_temp.refusal('SELECT pg_temp.settle(4, 202)'), ARRAY['ACP01', 'UPGRADE_REQUIRED', ''],
	'a call with an expired reservation is refused if there is no room');
SELECT is(pg_temp.record(4), '1+2 2 1 1 1 1', 'the refusal leaves nothing behind');
SELECT is(pg_temp.settle(4, 203, true, '{"status": "error", "billable": false}'), NULL,
	'a failed call with an expired reservation releases nothing');
SELECT is(pg_temp.record(4), '1+2 2 2 1 2 1', 'the failed call only leaves its row');
SELECT is(ARRAY[pg_temp.settle(4, 205), pg_temp.settle(4, 206)], ARRAY[2, 3]::bigint[], 'the other calls succeed');
SELECT is(pg_temp.record(4), '3+0 0 4 3 4 3', 'exactly three calls are used');

-- Without a reservation: the check failed or is off ------------------------------------------------------------------

SELECT is(pg_temp.settle(5, 301, false), 1::bigint, 'a success without a reservation counts');
SELECT is(pg_temp.reserve(5, 302), 'yes 2/3', 'the next check counts it, too');
SELECT is(ARRAY[pg_temp.settle(5, 302), pg_temp.settle(5, 303, false)], ARRAY[2, 3]::bigint[],
	'the next call without a reservation counts');
SELECT is(pg_temp.refusal('SELECT pg_temp.settle(5, 304, false)'), ARRAY['ACP01', 'UPGRADE_REQUIRED', ''],
	'the limit also holds without a reservation');
SELECT is(pg_temp.record(5), '3+0 0 3 3 3 3', 'a refused call leaves nothing');
SELECT is(pg_temp.settle(5, 304, false, max_calls => NULL), 4::bigint,
	'without enforcement a call counts beyond the limit');
SELECT is(pg_temp.reserve(5, 305), 'no 4/3', 'nothing is left when the limit is enforced again');
SELECT is(pg_temp.reserve(16, 306), 'yes 1/3', 'a call gets a reservation, but the reply is lost');
SELECT is(pg_temp.settle(16, 307, false) + pg_temp.settle(16, 308, false), 3::bigint,
	'two other calls use the rest');
SELECT lives_ok('SELECT pg_temp.settle(16, 306, false)', 'the call still owns its reservation');
SELECT is(pg_temp.record(16), '3+0 0 3 3 3 3', 'the reservation is no longer held');
SELECT is(acp.usage(pg_temp.t(5), NULL, 3)->>'calls_remaining', '0', 'calls_remaining is never negative');

-- Paid, then free again ----------------------------------------------------------------------------------------------

SELECT ok(acp.tenant_update(pg_temp.t(6), 'paid', 'active', NULL, NULL), 'a tenant becomes paid');
SELECT is(pg_temp.reserve(6, 401), 'yes -/-', 'a paid tenant needs no reservation');
SELECT is((acp.usage_reserve(pg_temp.t(6), pg_temp.e(401), acp.now(), 3, '10 s')).tier, 'paid', 'the reply says that the tenant is paid');
SELECT is(pg_temp.settle(6, 401, false, '{"tier": "paid"}'), NULL, 'a paid call uses no free call');
SELECT is(pg_temp.settle(6, 402, false, '{"tier": "paid"}'), NULL, 'the next paid call uses none either');
SELECT is(pg_temp.record(6), '0 2 2 2 2', 'there is no quota row, but two counted audit rows');
SELECT is(acp.paid_calls(pg_temp.t(6), acp.period(acp.now())), 2::bigint, 'paid_calls counts two calls');
SELECT is(acp.paid_calls(pg_temp.t(6), '2027-02-01'), 0::bigint, 'paid_calls counts none in another month');
SELECT ok(acp.tenant_update(pg_temp.t(6), NULL, 'none', NULL, NULL), 'the payment method is detached');
SELECT is(pg_temp.reserve(6, 403), 'yes 3/3', 'paid calls count toward the free limit now');
SELECT is(pg_temp.reserve(6, 404), 'no 3/3', 'only one call was left');
SELECT is(pg_temp.settle(6, 403), 3::bigint, 'the last free call is the third');
SELECT is(acp.usage(pg_temp.t(6), NULL, 3)->>'calls_used', '3', 'usage also shows three calls');
SELECT is(pg_temp.settle(7, 405, false), 1::bigint, 'another tenant uses a free call');
SELECT ok(acp.tenant_update(pg_temp.t(7), 'paid', 'setup_pending', NULL, NULL), 'the tenant starts an upgrade');
SELECT is(pg_temp.reserve(7, 406), 'yes 2/3', 'paid without a payment method is limited');
SELECT is(pg_temp.reserve(8, 407), 'yes 1/3', 'a call of a free tenant starts');
SELECT ok(acp.tenant_update(pg_temp.t(8), 'paid', 'active', NULL, NULL), 'the tenant becomes paid before the call ends');
SELECT is(pg_temp.settle(8, 407), 1::bigint, 'the call still ends as a free one');

-- A limit for one tenant ---------------------------------------------------------------------------------------------

SELECT ok(acp.tenant_update(pg_temp.t(9), NULL, NULL, NULL, 1)
	AND acp.tenant_update(pg_temp.t(10), NULL, NULL, NULL, 0), 'two tenants get the limits 1 and 0');
SELECT is(pg_temp.reserve(9, 501), 'yes 1/1', 'limit 1: one call is allowed');
SELECT is(pg_temp.reserve(9, 502), 'no 1/1', 'limit 1: a second call is refused');
SELECT is(pg_temp.reserve(10, 503), 'no 0/0', 'limit 0: no call is allowed');
SELECT is(pg_temp.reserve(10, 503), 'no 0/0', 'limit 0: a second attempt is refused, too');
SELECT is((acp.usage_reserve(pg_temp.t(11), pg_temp.e(504), acp.now(), 0, '10 s')).allowed, false,
	'a default limit of 0 refuses too');
SELECT ok(acp.tenant_update(pg_temp.t(9), NULL, NULL, NULL, 2), 'the limit is raised');
SELECT is(pg_temp.reserve(9, 502), 'yes 2/2', 'the raised limit applies at once');
SELECT ok(acp.tenant_update(pg_temp.t(9), NULL, NULL, NULL, 1), 'the limit is lowered');
SELECT is(pg_temp.reserve(9, 505), 'no 2/1', 'a lower limit does not cancel reservations');
SELECT is(acp.usage(pg_temp.t(10), NULL, 3)->>'calls_limit', '0', 'usage shows the limit of the tenant');

-- The audit row ------------------------------------------------------------------------------------------------------

SELECT is(pg_temp.settle(12, 601, false), 1::bigint, 'a call is settled');
SELECT throws_ok('SELECT pg_temp.settle(12, 601, false)', '23505', NULL, 'a repeated event is refused');
SELECT is(pg_temp.record(12), '1+0 0 1 1 1 1', 'the call is counted once');
SELECT throws_ok($$SELECT pg_temp.settle(12, 602, false, '{"status": "error"}')$$, '23514', NULL,
	'a failure cannot be billable');
SELECT throws_ok($$SELECT pg_temp.settle(12, 602, false, '{"dry_run": true}')$$, '23514', NULL, 'a dry run cannot be billable');
SELECT throws_ok($$SELECT pg_temp.settle(12, 602, false, '{"tier": null}')$$, '23514', NULL, 'a call without a tier cannot be billable');
SELECT throws_ok($$SELECT pg_temp.settle(12, 602, false, '{"billing_quantity": -1}')$$, '23514', NULL,
	'a negative quantity is refused');
SELECT lives_ok($$SELECT acp.audit_append(pg_temp.event(12, 603,
	'{"tenant_id": "00000000-0000-0000-0000-000000000000", "pack": null, "tier": null, "billable": false,
	"status": "denied"}'))$$,
	'a call of an unknown caller gets a row');
SELECT lives_ok($$SELECT acp.audit_append(pg_temp.event(12, 604, '{"pack": null, "action": "no.such",
	"billable": false, "status": "denied"}'))$$,
	'a call of an unknown action gets a row');
SELECT is_empty($$SELECT 1 FROM acp.usage_counters
	WHERE action = 'no.such' OR tenant_id = '00000000-0000-0000-0000-000000000000'$$,
	'such rows are not counted');
SELECT lives_ok($$SELECT acp.report('{"resource_type": "thing", "count": 2}', 5)$$, 'a handler reports what it did');
SELECT is(pg_temp.settle(12, 605, false, '{"billing_unit": "row", "result_meta": {"usage_check": "failed_open",
	"count": 1}}'), 2::bigint,
	'the call ends with the report');
SELECT results_eq($$SELECT billing_quantity, result_meta FROM acp.audit_logs WHERE event_id = pg_temp.e(605)$$,
	$$VALUES (5::bigint, '{"usage_check": "failed_open", "resource_type": "thing", "count": 2}'::jsonb)$$,
	'the row has the reported values');
SELECT lives_ok('SELECT acp.report(NULL)', 'the report is cleared');
SELECT results_eq($$SELECT billing_unit, sum(calls)::bigint, sum(quantity)::bigint FROM acp.usage_counters
	WHERE tenant_id = pg_temp.t(12) GROUP BY 1 ORDER BY 1$$, $$VALUES ('call', 1::bigint, 1::bigint),
	('row', 1::bigint, 5::bigint)$$,
	'calls are counted by unit; no unit counts as call');

-- Prices -------------------------------------------------------------------------------------------------------------

SELECT is(acp.pricing('call', '*', 1), '{"unit": "call", "unit_amount": 0.001, "currency": "USD", "amount": 0.001}',
	'a new database has one price');
RESET ROLE;
INSERT INTO acp.prices (unit, action_pattern, unit_amount, currency, valid_from) VALUES
	('call', 'test.*', 0.002, 'USD', '2027-01-01 00:00:00+00'),
	('call', 'test.o*', 0.003, 'USD', '2027-01-01 00:00:00+00'),
	('call', 'test.two', 0.004, 'USD', '2027-01-01 00:00:00+00'),
	('call', 'test.two', 0.005, 'USD', '2027-03-20 00:00:00+00'),
	('call', 'other.one', 0.006, 'USD', '2027-01-01 00:00:00+00'),
	('call', 'other.one*', 0.007, 'USD', '2027-01-01 00:00:00+00'),
	('row', 'test.one', 0.0100, 'USD', '2027-01-01 00:00:00+00');
SET LOCAL ROLE acp_app;
CREATE TEMP TABLE asked (unit text, action text, at timestamptz, amount numeric, why text);
INSERT INTO asked VALUES
	('call', 'other', '2027-03-10', 0.001, 'the price for everything'),
	('call', 'test.x', '2027-03-10', 0.002, 'a prefix that fits'),
	('call', 'test.one', '2027-03-10', 0.003, 'the longest prefix that fits'),
	('call', 'test.two', '2027-03-10', 0.004, 'a name before a shorter prefix'),
	('call', 'other.one', '2027-03-10', 0.006, 'a name before the same as a prefix'),
	('call', 'test.twofold', '2027-03-10', 0.002, 'a name is not a prefix'),
	('call', 'test.two', '2027-03-19 23:59:59.999999+00', 0.004, 'until a new price is valid'),
	('call', 'test.two', '2027-03-20 00:00:00+00', 0.005, 'from its first instant on'),
	('call', 'test.one', '2026-12-31 23:59:59+00', 0.001, 'not before prices are valid'),
	('call', 'test.one', '1999-12-31', 0.001, 'before the first price, that price'),
	('row', 'test.one', '2027-03-10', 0.01, 'the price of the unit'),
	('row', 'test.two', '2027-03-10', 0.004, 'without a price for the unit, the price of a call applies');
SELECT is((acp.price(unit, action, at)).unit_amount, amount, 'price: ' || why) FROM asked;
SELECT is(acp.pricing('row', 'test.one', 7), '{"unit": "row", "unit_amount": 0.01, "currency": "USD", "amount": 0.07}',
	'seven rows are priced by the row');
SELECT is(acp.pricing('sec', 'test.one', 7), '{"unit": "call", "unit_amount": 0.003, "currency": "USD",
	"amount": 0.003}',
	'seven seconds without a price for seconds cost one call');

-- The usage object ---------------------------------------------------------------------------------------------------

RESET ROLE;
SELECT pg_temp.clock_at('2027-03-11 00:00:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT pg_temp.settle(13, 701, false, max_calls => NULL),
	pg_temp.settle(13, 702, false, '{"action": "test.two", "billing_unit": "row", "billing_quantity": 4}'),
	pg_temp.settle(13, 703, false, '{"status": "error", "billable": false}'),
	pg_temp.settle(13, 704, false, '{"dry_run": true, "billable": false}') \gset ignored_
RESET ROLE;
SELECT pg_temp.clock_at('2027-03-12 00:00:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT pg_temp.settle(13, 705, false, max_calls => NULL), pg_temp.settle(13, 706,
	false, max_calls => NULL) \gset ignored_
SELECT is(acp.usage(pg_temp.t(13), NULL, 100)::jsonb, jsonb_build_object('tenant_id', pg_temp.t(13), 'tier', 'free',
	'calls_used', 4, 'calls_held', 0,
	'calls_limit', 100, 'calls_remaining', 96, 'period_start', '2027-03-01T00:00:00Z', 'period_end',
	'2027-04-01T00:00:00Z',
	'by_action', '[{"action": "test.one", "calls": 3, "billing_unit": "call", "quantity": 3},
	               {"action": "test.two", "calls": 1, "billing_unit": "row", "quantity": 4}]'::jsonb,
	'by_day', '[{"day": "2027-03-11", "calls": 2}, {"day": "2027-03-12", "calls": 2}]'::jsonb,
	'cost', '{"amount": 0, "currency": "USD"}'::jsonb), 'usage of a free tenant: its calls cost nothing');
SELECT ok(acp.tenant_update(pg_temp.t(14), 'paid', 'active', NULL, NULL), 'a tenant becomes paid');
SELECT pg_temp.settle(14, 707, false, '{"tier": "paid"}'),
	pg_temp.settle(14, 708, false, '{"tier": "paid", "billing_unit": "row", "billing_quantity": 4}'),
	pg_temp.settle(14, 709, false, '{"tier": "paid", "action": "test.two", "billing_unit": "row",
	"billing_quantity": 4}'),
	pg_temp.settle(14, 710, false, '{"action": "test.two"}', NULL) \gset ignored_
SELECT is(acp.usage(pg_temp.t(14), NULL, 100)->'cost'->>'amount', '0.047',
	'one call at 0.003, four rows at 0.01, one call at 0.004 for rows without a price; free calls cost nothing');
SELECT is(acp.usage(pg_temp.t(14), NULL, 100)->>'calls_used', '4', 'usage shows four calls');
SELECT is(acp.usage(pg_temp.t(14), NULL, 100)->>'calls_limit', NULL, 'a paid tenant has no limit');
SELECT is(acp.usage(pg_temp.t(14), NULL, 100)->>'calls_remaining', NULL, 'without a limit calls_remaining is null');
SELECT is(acp.usage(pg_temp.t(15), NULL, 100)::jsonb, jsonb_build_object('tenant_id', pg_temp.t(15), 'tier', 'free',
	'calls_used', 0, 'calls_held', 0,
	'calls_limit', 100, 'calls_remaining', 100, 'period_start', '2027-03-01T00:00:00Z', 'period_end',
	'2027-04-01T00:00:00Z',
	'by_action', '[]'::jsonb, 'by_day', '[]'::jsonb, 'cost', '{"amount": 0, "currency": "USD"}'::jsonb),
	'usage of a tenant without calls');
SELECT is(pg_temp.refusal($$SELECT acp.usage(pg_temp.t(99), NULL, 100)$$), ARRAY['ACP01', 'NOT_FOUND', ''],
	'usage of an unknown tenant');
SELECT is(acp.usage(pg_temp.t(13), '2028-02-01', 100)->>'period_end', '2028-03-01T00:00:00Z', 'usage of a leap February');
RESET ROLE;
INSERT INTO acp.prices (unit, action_pattern, unit_amount, currency, valid_from) VALUES
	('call', 'test.one', 0.005, 'USD', '2027-05-10 12:00+00'), ('call', 'test.one', 0.006, 'USD', '2027-05-20');
SELECT pg_temp.clock_at('2027-05-09 13:00+00') \gset ignored_
SELECT pg_temp.settle(14, 720, false, '{"tier": "paid"}') \gset ignored_
SELECT pg_temp.clock_at('2027-05-10 13:00+00') \gset ignored_
SELECT pg_temp.settle(14, 721, false, '{"tier": "paid"}') \gset ignored_
SELECT pg_temp.clock_at('2027-05-11 13:00+00') \gset ignored_
SELECT pg_temp.settle(14, 722, false, '{"tier": "paid"}') \gset ignored_
SELECT pg_temp.clock_at('2027-05-20 00:00+00') \gset ignored_
SELECT pg_temp.settle(14, 723, false, '{"tier": "paid"}') \gset ignored_
SELECT is(acp.usage(pg_temp.t(14), '2027-05-01', 100)->'cost'->>'amount', '0.019',
	'price changes within a month and a day: each call has the price of its moment');
SELECT pg_temp.clock_at('2027-03-12 00:00:00+00') \gset ignored_
SET LOCAL ROLE acp_app;

-- Counters, quota and audit rows agree -------------------------------------------------------------------------------

RESET ROLE;
CREATE TEMP VIEW quota_drift AS
	SELECT * FROM (SELECT tenant_id, period, used::bigint AS calls, reserved::bigint FROM acp.usage_quota) q
	FULL JOIN (SELECT tenant_id, acp.period(ts) AS period, count(*) AS calls FROM acp.audit_logs
	           WHERE billable AND tier = 'free' GROUP BY 1, 2) a USING (tenant_id, period, calls)
	WHERE (q IS NULL OR a IS NULL) AND calls > 0;
SELECT is_empty('TABLE acp_report.usage_drift', 'no counter differs from the audit rows');
SELECT is_empty('TABLE quota_drift', 'used is the number of free billable rows');
SELECT is_empty($$SELECT tenant_id, period, reserved FROM acp.usage_quota EXCEPT
	SELECT tenant_id, period, (SELECT count(*)::integer FROM acp.usage_reservations r
	WHERE (r.tenant_id, r.period) = (q.tenant_id, q.period))
	FROM acp.usage_quota q$$, 'reserved is the number of reservations');

-- Rows linked by the program: their sequence number and hash are computed outside the database.
CREATE TEMP TABLE mine AS SELECT * FROM acp.audit_chain_own(pg_temp.e(1));
CREATE FUNCTION pg_temp.link(n integer, seq bigint, more jsonb DEFAULT '{}') RETURNS acp.audit_logs LANGUAGE sql AS $$
	SELECT jsonb_populate_record(NULL::acp.audit_logs, pg_temp.event(2, n, jsonb_build_object('chain_id', (SELECT chain_id FROM mine),
		'chain_seq', seq, 'chain_hash', sha256(n::text::bytea), 'chain_form', 2, 'tier', 'paid') || more))
$$;
CREATE FUNCTION pg_temp.append(seq bigint, head bytea, VARIADIC links acp.audit_logs[]) RETURNS text LANGUAGE sql AS $$
	SELECT (pg_temp.refusal(format('SELECT acp.audit_append_links(%L, %s, %L)', links, seq, head)))[1]
$$;
SELECT results_eq('SELECT seq, head, row_type FROM mine', $$VALUES (0::bigint, decode(repeat('00', 32), 'hex'), 'acp.audit_logs'::regtype::oid)$$,
	'a new chain is empty');
SELECT is((acp.audit_chain_own(pg_temp.e(1))).chain_id, (SELECT chain_id FROM mine), 'the owner of a chain gets it again');
SELECT isnt((acp.audit_chain_own(pg_temp.e(2))).chain_id, (SELECT chain_id FROM mine), 'another owner gets another chain');
SELECT is(pg_temp.append(0, (SELECT head FROM mine), pg_temp.link(901, 1), pg_temp.link(902, 2)), NULL, 'two rows are appended');
SELECT is(pg_temp.append(0, (SELECT head FROM mine), pg_temp.link(903, 1)), 'ACP03', 'a link to an earlier end of the chain is refused');
SELECT is(pg_temp.append(2, sha256('901'), pg_temp.link(903, 3)), 'ACP03', 'a link to another hash is refused');
SELECT is(pg_temp.append(2, sha256('902'), pg_temp.link(903, 4)), 'ACP03', 'a gap in the sequence numbers is refused');
SELECT is(pg_temp.append(2, sha256('902'), pg_temp.link(903, 3, '{"status": "denied"}')), '23514', 'a row that violates a rule is refused');
SELECT is(pg_temp.append(2, sha256('902'), pg_temp.link(903, 3, '{"chain_form": null}')), '23514', 'a row of the old form is refused');
SELECT is(pg_temp.append(2, sha256('902'), pg_temp.link(903, 3, '{"ip_address": "192.0.2.7"}')), '23514', 'a personal value without a salt is refused');
SELECT is(pg_temp.append(2, sha256('902'), pg_temp.link(903, 3, '{"salt": "\\x00112233445566778899aabbccddeeff"}')), '23514', 'a salt without a personal value is refused');
SELECT is(pg_temp.append(2, sha256('902'), pg_temp.link(903, 3, '{"erased": {}}')), '23514', 'a row that is already erased is refused');
UPDATE acp.audit_chains SET owned_until = now() - interval '1 s' WHERE owner = pg_temp.e(1);
SELECT results_eq('SELECT chain_id, seq, head FROM acp.audit_chain_own(pg_temp.e(3))', $$SELECT chain_id, 2::bigint, sha256('902') FROM mine$$,
	'another owner takes over a silent chain and continues at its end');

CREATE TEMP TABLE before AS SELECT tenant_id, day, action, status, billable, tier, billing_unit, sum(calls) AS calls, sum(quantity) AS quantity
	FROM acp.usage_counters GROUP BY 1, 2, 3, 4, 5, 6, 7;
-- The usage of each tenant in every month, as acp.usage_of() returns it.
CREATE TEMP VIEW tenant_usage AS SELECT x.tenant_id, u.day, u.action, u.status, u.billable, u.tier, u.billing_unit, sum(u.calls) AS calls, sum(u.quantity) AS quantity
	FROM (SELECT DISTINCT tenant_id, date_trunc('month', day)::date AS month FROM before) x, acp.usage_of(x.tenant_id, x.month) u
	GROUP BY 1, 2, 3, 4, 5, 6, 7;
-- Rows without a sequence number, as written by functions of the previous schema.
UPDATE acp.usage_pending SET chain_id = DEFAULT, chain_seq = DEFAULT WHERE ctid IN (SELECT ctid FROM acp.usage_pending LIMIT 2);
SELECT isnt_empty('SELECT FROM acp.usage_pending WHERE chain_id > 0', 'some rows are pending');
SELECT set_eq('TABLE tenant_usage', 'TABLE before', 'tenants see pending rows');
SELECT acp.usage_roll_up() \gset ignored_
SELECT set_eq('SELECT tenant_id, day, action, status, billable, tier, billing_unit, calls, quantity FROM acp.usage_counters', 'TABLE before',
	'the roll-up does not change the counters');
SELECT set_eq('TABLE tenant_usage', 'TABLE before', 'the roll-up does not change what tenants see');
SELECT is_empty('TABLE acp.usage_pending', 'nothing is pending after the roll-up');
SELECT is(pg_temp.append(2, sha256('902'), pg_temp.link(904, 3), pg_temp.link(905, 4)), NULL, 'the chain continues');
CREATE TEMP VIEW now_ AS SELECT tenant_id, day, action, status, billable, tier, billing_unit, sum(calls) AS calls, sum(quantity) AS quantity
	FROM acp.usage_counters GROUP BY 1, 2, 3, 4, 5, 6, 7;
SELECT isnt_empty('TABLE now_ EXCEPT TABLE before', 'new rows are counted');
SELECT set_eq('TABLE tenant_usage', 'TABLE now_', 'tenants see the new rows');
SELECT acp.usage_roll_up() \gset ignored_
SELECT set_eq('TABLE tenant_usage', 'TABLE now_', 'tenants see the new rows after the roll-up, too');
SELECT is_empty('TABLE acp.usage_pending', 'nothing is pending after the second roll-up');
UPDATE acp.usage_counted SET calls = calls + 2 WHERE tenant_id = pg_temp.t(14) AND billing_unit = 'row'
	AND action = 'test.two';
DELETE FROM acp.usage_counted WHERE tenant_id = pg_temp.t(5);
INSERT INTO acp.usage_counted VALUES (pg_temp.t(15), '2027-03-11', 'test.none', 'success', true, 'free',
	'call', 0, 1, 1);
SELECT results_eq($$SELECT tenant_id, day, action, status, billable, tier, audit_rows, counted
	FROM acp_report.usage_drift ORDER BY 1, 3$$, $$VALUES
	(pg_temp.t(5), '2027-03-10'::date, 'test.one', 'success', true, 'free', 4::bigint, 0::bigint),
	(pg_temp.t(14), '2027-03-12'::date, 'test.two', 'success', true, 'paid', 1::bigint, 3::bigint),
	(pg_temp.t(15), '2027-03-11'::date, 'test.none', 'success', true, 'free', 0::bigint, 1::bigint)$$,
	'forced drift is shown: too few, too many, missing rows');

SELECT * FROM finish();
ROLLBACK;
