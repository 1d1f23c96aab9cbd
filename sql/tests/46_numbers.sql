-- 46_numbers.sql - numbers that no call should have: sums beyond bigint, tenants that cannot be billed, corrections, a
-- moment before the first price. What is wrong with one tenant changes nothing for another.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(94);

CREATE FUNCTION pg_temp.clock_at(moment timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('ALTER DATABASE %I SET acp.clock_offset = %L', current_database(), moment - now());
END
$$;

-- Code and message of a refusal, or the SQLSTATE; null if the statement succeeds.
CREATE FUNCTION pg_temp.refusal(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	hint text;
	said text;
BEGIN
	EXECUTE statement;
	RETURN NULL;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT, said = MESSAGE_TEXT;
	RETURN coalesce(nullif(hint, ''), SQLSTATE) || ': ' || said;
END
$$;

CREATE FUNCTION pg_temp.t(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('46464646-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
$$;
CREATE FUNCTION pg_temp.e(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('e4646464-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
$$;

-- Inserts calls of a paid tenant, a microsecond apart from a moment on. more: members that differ.
CREATE FUNCTION pg_temp.calls(t integer, n integer, at timestamptz, more jsonb DEFAULT '{}') RETURNS void LANGUAGE sql AS $$
	SELECT acp.audit_append_rows(array_agg(jsonb_populate_record(NULL::acp.audit_logs, jsonb_build_object(
		'event_id', gen_random_uuid(), 'request_id', gen_random_uuid(), 'ts', at + i * interval '1 microsecond',
		'tenant_id', pg_temp.t(t), 'integration', 'pgtap', 'pack', 'test', 'action', 'test.one', 'actor_type', 'api_key',
		'status', 'success', 'latency_ms', 2, 'dry_run', false, 'billable', true, 'billing_quantity', 1, 'tier', 'paid') || more)))
	FROM generate_series(0, n - 1) i
$$;
-- One call of test.rows.
CREATE FUNCTION pg_temp.rows(t integer, e integer, at timestamptz, quantity bigint, more jsonb DEFAULT '{}') RETURNS void LANGUAGE sql AS $$
	SELECT pg_temp.calls(t, 1, at, jsonb_build_object('event_id', pg_temp.e(e), 'action', 'test.rows', 'billing_unit', 'row',
		'billing_quantity', quantity) || more)
$$;
CREATE FUNCTION pg_temp.run(period date, dry boolean DEFAULT false) RETURNS jsonb LANGUAGE sql AS $$
	SELECT acp.billing_run(NULL, period, dry, 0.5)
$$;
-- "status total amount carried_in>carried_out" of an invoice.
CREATE FUNCTION pg_temp.bill(t integer, p date) RETURNS text LANGUAGE sql AS $$
	SELECT format('%s %s %s %s>%s', status, trim_scale(total), amount, trim_scale(carried_in), trim_scale(carried_out))
	FROM acp.billing_periods WHERE tenant_id = pg_temp.t(t) AND period = p
$$;
CREATE FUNCTION pg_temp.blocked(t integer, p date) RETURNS text LANGUAGE sql AS $$
	SELECT reason FROM acp.billing_blocked WHERE tenant_id = pg_temp.t(t) AND period = p
$$;
-- What the reports say of a tenant and month: paid calls and their amount.
CREATE FUNCTION pg_temp.revenue(t integer, p date) RETURNS text LANGUAGE sql SECURITY DEFINER AS $$
	SELECT coalesce((SELECT concat_ws(' ', paid_calls, trim_scale(amount)) FROM acp_report.revenue_by_tenant_month
		WHERE tenant_id = pg_temp.t(t) AND period = p), 'none')
$$;
-- Tenants of the invoices and of the blocked ones in a result.
CREATE FUNCTION pg_temp.of(result jsonb) RETURNS text LANGUAGE sql AS $$
	SELECT concat((SELECT string_agg(right(i->>'tenant_uuid', 1), '' ORDER BY i->>'tenant_uuid') FROM jsonb_array_elements(result->'invoices') i), '/',
		(SELECT string_agg(right(b->>'tenant_uuid', 1), '' ORDER BY b->>'tenant_uuid') FROM jsonb_array_elements(result->'blocked') b))
$$;

SELECT count(acp.tenant_create(pg_temp.t(n), 'leadscoring', 'numbers:' || n, 'a@example.com', NULL)) FROM generate_series(1, 9) n \gset ignored_
SELECT pg_temp.clock_at('2026-01-15') \gset ignored_
SELECT acp.price_add('row', 'test.rows', 0.02, 'USD', '2026-01-01') \gset ignored_

-- Sums ---------------------------------------------------------------------------------------------------------------

SET LOCAL ROLE acp_app;
-- 1: two absurd rows; 2: usual calls; 3: what 1 is after its corrections; 4: usual rows.
SELECT pg_temp.rows(1, 1, '2026-01-10', 9223372036854775807), pg_temp.rows(1, 2, '2026-01-11', 9223372036854775807),
	pg_temp.calls(2, 1000, '2026-01-10'), pg_temp.rows(3, 3, '2026-01-10', 5), pg_temp.rows(4, 4, '2026-01-10', 50),
	pg_temp.rows(5, 5, '2026-01-10', 9, '{"tier": "free"}') \gset ignored_
SELECT is(acp.usage(pg_temp.t(1), NULL, 3) #>> '{by_action,0,quantity}', '18446744073709551614', 'pending quantities are added exactly');
SELECT lives_ok('SELECT acp.usage_roll_up()', 'quantities beyond bigint are rolled up');
SELECT is((SELECT sum(quantity) FROM acp.usage_counted WHERE tenant_id = pg_temp.t(1)), 18446744073709551614, 'the counter has their sum');
SELECT is(acp.usage(pg_temp.t(1), NULL, 3) #>> '{by_action,0,quantity}', '18446744073709551614', 'the usage shows their sum');
SELECT is(acp.usage(pg_temp.t(1), NULL, 3) #>> '{cost,amount}', '368934881474191032.28', 'and its exact cost');
SELECT is((acp.usage(pg_temp.t(4), NULL, 3) #>> '{cost,amount}')::numeric, 1.00, 'the usage of another tenant is right');
SELECT pg_temp.rows(1, 6, '2026-01-12', 9223372036854775807), acp.usage_roll_up() \gset ignored_
SELECT is((SELECT sum(quantity) FROM acp.usage_counted WHERE tenant_id = pg_temp.t(1)), 27670116110564327421, 'a later roll-up adds to such a sum');
SELECT is_empty('SELECT * FROM acp.usage_differences(''2026-01-01'', NULL, ''1 minute'') WHERE tenant_id IN (pg_temp.t(1), pg_temp.t(2), pg_temp.t(4))',
	'counters and rows agree');
RESET ROLE;
GRANT USAGE ON SCHEMA tap TO acp_report;
SELECT is((SELECT billable_quantity FROM acp_report.usage_by_tenant_month WHERE tenant_id = pg_temp.t(1) AND period = '2026-01-01'),
	27670116110564327421, 'usage_by_tenant_month');
SELECT is((SELECT sum(quantity) FROM acp_report.usage_by_action_day WHERE action = 'test.rows' AND tier = 'paid'), 27670116110564327476,
	'usage_by_action_day');
SELECT is((SELECT units FROM acp_report.revenue_lines WHERE tenant_id = pg_temp.t(1)), 27670116110564327421, 'revenue_lines');
SELECT is((SELECT amount FROM acp_report.revenue_by_tenant_month WHERE tenant_id = pg_temp.t(2)), 1.000, 'revenue of another tenant');
SELECT is_empty('SELECT * FROM acp_report.usage_drift WHERE period = ''2026-01-01''', 'usage_drift');
SELECT lives_ok('SELECT acp.console_month(''2026-01-01'', 3), acp.console_money(), acp.gauges()', 'the console and the gauges show such a month');

-- One tenant cannot be billed ----------------------------------------------------------------------------------------

SET LOCAL ROLE acp_app;
SELECT is(acp.invoice_json(pg_temp.t(1), NULL, 0.5)->>'status', 'blocked', 'the preview says that it would not become an invoice');
SELECT is(acp.invoice_json(pg_temp.t(1), NULL, 0.5) #>> '{charges,lines,0,quantity}', '27670116110564327421', 'and shows why');
SELECT is(acp.invoice_json(pg_temp.t(2), NULL, 0.5) #>> '{charges,total_charge}', '1', 'the preview of another tenant');
SELECT is(pg_temp.of(pg_temp.run('2026-01-01', true)), '234/1', 'a dry run of an open month names the tenant that is blocked');
RESET ROLE;
SELECT pg_temp.clock_at('2026-02-01') \gset ignored_
SET LOCAL ROLE acp_app;
CREATE TEMP TABLE said AS SELECT 'dry' AS what, pg_temp.run('2026-01-01', true) AS result;
SELECT is_empty('SELECT 1 FROM acp.billing_blocked', 'a dry run stores nothing');
INSERT INTO said SELECT 'run', pg_temp.run('2026-01-01');
SELECT is((SELECT (result - 'dry_run')::text FROM said WHERE what = 'dry'), (SELECT (result - 'dry_run')::text FROM said WHERE what = 'run'),
	'the run gives the result of the dry run, byte for byte');
SELECT is(pg_temp.of((SELECT result FROM said WHERE what = 'run')), '234/1', 'all others are billed');
SELECT is(pg_temp.bill(2, '2026-01-01'), 'pending 1 100 0>0', 'their invoices are right');
SELECT is(pg_temp.bill(4, '2026-01-01'), 'pending 1 100 0>0', 'also those of the same action');
SELECT is(pg_temp.blocked(1, '2026-01-01'), '553402322211286548.42 USD is too large to be charged', 'the reason is recorded');
SELECT isnt((SELECT finished_at FROM acp.billing_runs WHERE period = '2026-01-01'), NULL, 'the run has finished');
SELECT is(acp.invoice_json(pg_temp.t(1), '2026-01-01', 0.5)->>'status', 'blocked', 'the tenant sees that its invoice is blocked');
SELECT results_eq('SELECT tenant_id, what FROM acp.billing_differences(''2026-01-01'')',
	$$VALUES (pg_temp.t(1), 'invoice, which is blocked: 553402322211286548.42 USD is too large to be charged')$$,
	'reconcile names the blocked invoice, and nothing else');

-- The next month -----------------------------------------------------------------------------------------------------

SELECT pg_temp.calls(1, 600, '2026-02-10'), pg_temp.calls(2, 700, '2026-02-10'), pg_temp.calls(3, 600, '2026-02-10') \gset ignored_
SELECT is(acp.invoice_json(pg_temp.t(1), '2026-02-01', 0.5)->>'status', 'open', 'the preview of the next month works');
RESET ROLE;
SELECT pg_temp.clock_at('2026-03-01') \gset ignored_
SET LOCAL ROLE acp_app;
UPDATE said SET result = pg_temp.run('2026-02-01', true) WHERE what = 'dry';
UPDATE said SET result = pg_temp.run('2026-02-01') WHERE what = 'run';
SELECT is((SELECT (result - 'dry_run')::text FROM said WHERE what = 'dry'), (SELECT (result - 'dry_run')::text FROM said WHERE what = 'run'),
	'the run of the next month gives the result of its dry run');
SELECT is(pg_temp.bill(2, '2026-02-01'), 'pending 0.7 70 0>0', 'other tenants are billed');
SELECT is(pg_temp.blocked(1, '2026-02-01'), 'the invoice of 2026-01 is blocked', 'the blocked tenant stays blocked, because invoices carry over');
SELECT is(pg_temp.blocked(1, '2026-01-01'), '553402322211286548.42 USD is too large to be charged', 'its first month was tried again');
SELECT is(pg_temp.of(pg_temp.run('2026-01-01')), '234/1', 'running the month again gives the same');

SELECT is(pg_temp.revenue(1, '2026-01-01'), 'none', 'reports: a blocked tenant has no revenue in a closed month');
SELECT is(pg_temp.revenue(2, '2026-01-01'), '1000 1', 'another one has that of its invoice');

-- Corrections --------------------------------------------------------------------------------------------------------

CREATE FUNCTION pg_temp.correct(t integer, e integer, quantity bigint) RETURNS text LANGUAGE sql AS $$
	SELECT format('SELECT acp.billing_correct(%L, %L, %L, ''a test'', ''pgtap'')', pg_temp.t(t), pg_temp.e(e), quantity)
$$;
SELECT is(pg_temp.refusal(pg_temp.correct(1, 99, 1)), 'NOT_FOUND: the tenant has no audit row with the event_id ' || pg_temp.e(99), 'an event that is not there');
SELECT is(pg_temp.refusal(pg_temp.correct(2, 1, 1)), 'NOT_FOUND: the tenant has no audit row with the event_id ' || pg_temp.e(1), 'an event of another tenant');
SELECT is(pg_temp.refusal(pg_temp.correct(5, 5, 1)), 'VALIDATION_ERROR: this call is not charged; only a paid call can be corrected', 'a free call');
SELECT is(pg_temp.refusal(pg_temp.correct(1, 1, n)), 'VALIDATION_ERROR: the quantity must be from 0 to 1000000000000', format('the quantity %s', n))
FROM unnest(ARRAY[-1, 1000000000001]) n;
SELECT is(pg_temp.refusal(pg_temp.correct(4, 4, 1)),
	'VALIDATION_ERROR: this call is on the invoice of 2026-01, which does not change; acpctl billing credit takes an amount off the next one',
	'a call that is on an invoice');
SELECT is(pg_temp.refusal(pg_temp.correct(1, e, q)), NULL, format('event %s is corrected to %s', e, q))
FROM (VALUES (1, 5), (2, 0), (6, 0)) v(e, q);
SELECT is(pg_temp.refusal(pg_temp.correct(1, 1, 6)), 'VALIDATION_ERROR: this call has been corrected already; each call can be corrected once', 'a second correction');
SELECT results_eq($$SELECT result_meta->>'resource_id', result_meta->>'tenant_id', result_meta->>'charged', actor_type, billable FROM acp.audit_logs
	WHERE action = 'billing.correct' ORDER BY 1$$, $$VALUES (pg_temp.e(1)::text, pg_temp.t(1)::text, '5', 'system', false),
	(pg_temp.e(2)::text, pg_temp.t(1)::text, '0', 'system', false), (pg_temp.e(6)::text, pg_temp.t(1)::text, '0', 'system', false)$$,
	'each correction has an audit row');
SELECT throws_ok('UPDATE acp.billing_corrections SET charged = 1', '42501', NULL, 'a correction cannot be changed');
SELECT is(acp.usage(pg_temp.t(1), '2026-01-01', 3) #>> '{by_action,0,quantity}', '5', 'the usage shows what is charged');
SELECT is((acp.usage(pg_temp.t(1), '2026-01-01', 3) #>> '{cost,amount}')::numeric, 0::numeric,
	'its cost is that of the invoice, which cannot be made yet');
SELECT is((acp.usage(pg_temp.t(1), '2026-01-01', 3) #>> '{by_action,0,calls}'), '3', 'the calls remain');
SELECT is_empty('SELECT * FROM acp.usage_differences(NULL, NULL, ''1 minute'') WHERE tenant_id = pg_temp.t(1)', 'counters and rows stay as they are');
SELECT is((SELECT count(*) FROM acp.billing_blocked), 2::bigint, 'a correction alone bills nothing');
SELECT is(pg_temp.of(pg_temp.run('2026-01-01', true)), '1234/', 'a dry run shows the invoice that a run would now make');
SELECT is((SELECT count(*) FROM acp.billing_blocked), 2::bigint, 'and stores nothing');
SELECT is(pg_temp.of(pg_temp.run('2026-01-01')), '1234/', 'a run bills the month');
SELECT is(pg_temp.bill(1, '2026-01-01'), pg_temp.bill(3, '2026-01-01'), 'as if the rows had had the right quantities');
SELECT is(pg_temp.bill(1, '2026-02-01'), pg_temp.bill(3, '2026-02-01'), 'also the month after it');
SELECT is(pg_temp.bill(1, '2026-02-01'), 'pending 0.7 70 0.1>0', 'with what the first month carried over');
SELECT is_empty('TABLE acp.billing_blocked', 'nobody is blocked any more');
SELECT is(pg_temp.revenue(1, '2026-01-01'), '3 0.1', 'reports: then it has revenue');
SELECT is_empty('SELECT * FROM acp.billing_differences(NULL) WHERE tenant_id BETWEEN pg_temp.t(1) AND pg_temp.t(9)', 'everything agrees');
SELECT is((SELECT lines::text FROM (SELECT jsonb_agg(concat_ws(' ', calls, quantity, trim_scale(amount)) ORDER BY line) AS lines FROM acp.invoice_lines
	WHERE tenant_id = pg_temp.t(1) AND period = '2026-01-01') l), '["3 5 0.1"]', 'the line has all calls and the corrected quantity');
SELECT is((SELECT encode(hash, 'hex') FROM acp.billing_periods WHERE tenant_id = pg_temp.t(1) AND period = '2026-01-01'),
	(SELECT encode((m.invoice).hash, 'hex') FROM acp.billing_closings c, acp.billing_compute(ARRAY[pg_temp.t(1)], c, true) m WHERE c.period = '2026-01-01'),
	'computed again it has the same hash');

-- A unit without a price is charged by the call; a correction to 0 makes the call free. The preview reads counters, the
-- dry run reads rows.
SELECT pg_temp.calls(6, 700, '2026-03-05', '{"action": "test.tokens", "billing_unit": "token", "billing_quantity": 40}'),
	pg_temp.calls(6, 1, '2026-03-06', jsonb_build_object('event_id', pg_temp.e(60), 'action', 'test.tokens', 'billing_unit', 'token')) \gset ignored_
SELECT acp.billing_correct(pg_temp.t(6), pg_temp.e(60), 0, 'a test', 'pgtap') \gset ignored_
SELECT is(acp.invoice_json(pg_temp.t(6), '2026-03-01', 0.5) #>> '{charges,total_charge}', '0.7', 'a call corrected to 0 costs nothing in the preview');
SELECT is((SELECT i->>'total' FROM jsonb_array_elements(pg_temp.run('2026-03-01', true)->'invoices') i WHERE i->>'tenant_uuid' = pg_temp.t(6)::text),
	'0.7', 'nor in the invoice');

-- What Stripe cannot charge ------------------------------------------------------------------------------------------

SELECT is(acp.charge_max(currency), most, format('the most that Stripe charges in %s', currency))
FROM (VALUES ('USD', 99999999::bigint), ('JPY', 99999999), ('KWD', 99999999), ('INR', 999999999), ('IDR', 999999999999)) v(currency, most);
CREATE FUNCTION pg_temp.preview(t integer) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', m.blocked, (m.invoice).amount)
	FROM acp.billing_terms('2026-03-01', 0.5) c, acp.billing_compute(ARRAY[pg_temp.t(t)], c, false) m
$$;
SELECT pg_temp.rows(9, 90, '2026-03-10', 49999999) \gset ignored_
SELECT is(pg_temp.preview(9), '99999998', 'an amount of eight digits can be charged');
SELECT pg_temp.rows(9, 91, '2026-03-11', 1) \gset ignored_
SELECT is(pg_temp.preview(9), '1000000 USD is too large to be charged', 'a larger one blocks the tenant');
SELECT is(acp.invoice_json(pg_temp.t(9), NULL, 0.5)->>'status', 'blocked', 'its preview says so');
SELECT acp.billing_credit(pg_temp.t(9), 100, 'USD', 'a test') \gset ignored_
SELECT is(pg_temp.preview(9), 'a line of 1000000 USD is too large to be charged', 'also a line of an amount that could be charged');
SELECT is(pg_temp.refusal(pg_temp.correct(9, 91, 0)), NULL, 'a correction');
SELECT is(pg_temp.preview(9), '99989998', 'repairs it');

-- Limits and errors --------------------------------------------------------------------------------------------------

CREATE FUNCTION pg_temp.settle(reported bigint, most bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	event jsonb := jsonb_build_object('event_id', gen_random_uuid(), 'request_id', gen_random_uuid(), 'ts', acp.now(), 'tenant_id', pg_temp.t(7),
		'integration', 'pgtap', 'pack', 'test', 'action', 'test.one', 'actor_type', 'api_key', 'status', 'success', 'latency_ms', 2,
		'dry_run', false, 'billable', true, 'billing_quantity', 1, 'tier', 'paid');
BEGIN
	PERFORM acp.report(NULL, reported);
	PERFORM acp.settle(event, NULL, NULL, NULL, NULL, NULL, 90, NULL, most);
	RETURN (SELECT billing_quantity FROM acp.audit_logs WHERE event_id = (event->>'event_id')::uuid);
EXCEPTION WHEN SQLSTATE 'ACP04' THEN
	RETURN SQLERRM;
END
$$;
SELECT is(pg_temp.settle(reported, most), expected, format('a report of %s, at most %s', reported, most)) FROM (VALUES
	(7::bigint, 7::bigint, '7'), (0, 7, '0'), (NULL, 7, '1'), (8, 7, 'action test.one reported the quantity 8, which is not from 0 to 7'),
	(-1, 7, 'action test.one reported the quantity -1, which is not from 0 to 7'), (1000000000000, NULL, '1000000000000'),
	(9223372036854775807, NULL, 'action test.one reported the quantity 9223372036854775807, which is not from 0 to 1000000000000'))
	v(reported, most, expected);
SELECT is(acp.billing_fault(state, 'm'), fault, 'an error ' || state) FROM (VALUES ('40P01', NULL), ('53100', NULL), ('57014', NULL), ('ACP01', 'm'),
	('22003', 'm (SQLSTATE 22003)')) v(state, fault);

-- Before the first price ---------------------------------------------------------------------------------------------

SELECT pg_temp.calls(8, 2, '1999-12-31 10:00:00+00') \gset ignored_
SELECT is((SELECT concat_ws(' ', m.blocked, (m.invoice).total, (m.lines[1]).price_version, (m.lines[1]).from_ts AT TIME ZONE 'UTC')
	FROM acp.billing_terms('1999-12-01', 0.5) c, acp.billing_compute(ARRAY[pg_temp.t(8)], c, false) m),
	'0.002 1 1999-12-01 00:00:00', 'the first price applies, and the line begins with the month');

-- Late calls ---------------------------------------------------------------------------------------------------------

SELECT pg_temp.calls(2, 5, '2026-01-20') \gset ignored_
SELECT is(pg_temp.revenue(2, '2026-01-01'), '1000 1', 'reports: calls that came after the run of their month are no revenue yet');
RESET ROLE;
SELECT pg_temp.clock_at('2026-04-01') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT pg_temp.run('2026-03-01') \gset ignored_
SELECT is(pg_temp.revenue(2, '2026-01-01'), '1005 1.005', 'but when they are billed');
SELECT is((SELECT sum(amount) FROM acp.invoice_lines WHERE tenant_id = pg_temp.t(2) AND kind = 'usage'), 1.705, 'the lines have the same');

-- Archives -----------------------------------------------------------------------------------------------------------

RESET ROLE;
SELECT lives_ok('SELECT acp.audit_archive_begin(''2026-01-01'')', 'a month with such quantities can be archived');
SELECT is((SELECT sum(quantity) FROM acp.audit_archive_totals WHERE tenant_id = pg_temp.t(1)), 27670116110564327421, 'its totals are exact');

SELECT * FROM finish();
ROLLBACK;
