-- 45_billing.sql - invoices: prices, months, rounding, carry-over, late rows, credits, runs, and later states.
-- One session cannot be killed or race with itself; tests that call the program do that.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(152);

CREATE FUNCTION pg_temp.clock_at(moment timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('ALTER DATABASE %I SET acp.clock_offset = %L', current_database(), moment - now());
END
$$;

-- Code and message of a refusal; null if the statement succeeds. Rolled back either way.
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
	SELECT ('45454545-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
$$;

-- Inserts calls of a paid tenant, a microsecond apart from a moment on. more: members that differ.
CREATE FUNCTION pg_temp.calls(t integer, n integer, at timestamptz, more jsonb DEFAULT '{}') RETURNS void LANGUAGE sql AS $$
	SELECT acp.audit_append_rows(array_agg(jsonb_populate_record(NULL::acp.audit_logs, jsonb_build_object(
		'event_id', gen_random_uuid(), 'request_id', gen_random_uuid(), 'ts', at + i * interval '1 microsecond',
		'tenant_id', pg_temp.t(t), 'integration', 'pgtap', 'pack', 'test', 'action', 'test.one', 'actor_type', 'api_key',
		'status', 'success', 'latency_ms', 2, 'dry_run', false, 'billable', true, 'billing_quantity', 1, 'tier', 'paid') || more)))
	FROM generate_series(0, n - 1) i
$$;
CREATE FUNCTION pg_temp.run(period date, minimum numeric DEFAULT 0.5) RETURNS jsonb LANGUAGE sql AS $$
	SELECT acp.billing_run(NULL, period, false, minimum)
$$;
CREATE FUNCTION pg_temp.dry(period date, minimum numeric DEFAULT 0.5) RETURNS jsonb LANGUAGE sql AS $$
	SELECT acp.billing_run(NULL, period, true, minimum)
$$;
-- "status total amount carried_in>carried_out" of an invoice.
CREATE FUNCTION pg_temp.bill(t integer, p date) RETURNS text LANGUAGE sql AS $$
	SELECT format('%s %s %s %s>%s', status, trim_scale(total), amount, trim_scale(carried_in), trim_scale(carried_out))
	FROM acp.billing_periods WHERE tenant_id = pg_temp.t(t) AND period = p
$$;
-- The lines of an invoice: "kind source action calls quantity*unit_amount=amount (minor)".
CREATE FUNCTION pg_temp.lines(t integer, p date) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(concat_ws(' ', kind, to_char(source_period, 'YYYY-MM'), action, nullif(calls, 0),
		quantity || '*' || trim_scale(unit_amount), '= ' || trim_scale(amount), '(' || amount_minor || ')'), '; ' ORDER BY line)
	FROM acp.invoice_lines WHERE tenant_id = pg_temp.t(t) AND period = p
$$;
-- The documented proof: each billed call has exactly one line, and each line exactly its calls.
CREATE TEMP VIEW wrong AS
	SELECT tenant_id, event_id::text AS what, count(line) AS found FROM acp_report.billed_calls WHERE period IS NOT NULL
	GROUP BY 1, 2 HAVING count(line) <> 1
	UNION ALL
	SELECT i.tenant_id, i.period || ' line ' || i.line, count(c.event_id) FROM acp_report.invoice_lines i
	LEFT JOIN acp_report.billed_calls c USING (tenant_id, period, line) WHERE i.kind = 'usage'
	GROUP BY 1, 2, i.calls HAVING count(c.event_id) <> i.calls;
GRANT SELECT ON wrong TO acp_app;

SELECT count(acp.tenant_create(pg_temp.t(n), 'leadscoring', 'billing:' || n, 'a@example.com', NULL)) FROM generate_series(1, 40) n \gset ignored_
SELECT pg_temp.clock_at('2026-01-15') \gset ignored_

-- Amounts ------------------------------------------------------------------------------------------------------------

SELECT is(acp.money_minor(amount, currency), minor, format('%s %s is %s', amount, currency, minor)) FROM (VALUES
	(1.2, 'USD', 120::bigint), (0.005, 'USD', 1), (0.00499999, 'USD', 0), (1.005, 'USD', 101), (1.004, 'EUR', 100), (0, 'USD', 0),
	(12, 'JPY', 12), (12.5, 'JPY', 13), (12.49, 'JPY', 12), (1.2345, 'KWD', 1230), (1.235, 'KWD', 1240), (5.5, 'ISK', 600),
	(5.4, 'UGX', 500), (99999999999.995, 'USD', 10000000000000)) v(amount, currency, minor);
SELECT is(acp.money_major(minor, currency), major, format('%s minor units of %s are %s', minor, currency, major)) FROM (VALUES
	(120::bigint, 'USD', 1.2), (12, 'JPY', 12), (1230, 'KWD', 1.23), (0, 'USD', 0)) v(minor, currency, major);

-- An invoice ---------------------------------------------------------------------------------------------------------

SET LOCAL ROLE acp_app;
SELECT pg_temp.calls(1, 1200, '2026-01-10'), pg_temp.calls(1, 50, '2026-01-11', '{"status": "error", "billable": false}'),
	pg_temp.calls(1, 90, '2026-01-01', '{"tier": "free"}'), pg_temp.calls(1, 3, '2026-01-12', '{"dry_run": true, "billable": false}'),
	pg_temp.calls(2, 1, '2026-01-10'), pg_temp.calls(3, 90, '2026-01-10', '{"tier": "free"}'),
	pg_temp.calls(4, 500, '2026-01-10'), pg_temp.calls(5, 499, '2026-01-10') \gset ignored_
SELECT is(acp.invoice_json(pg_temp.t(1), NULL, 0.5) #>> '{charges,total_charge}', '1.2', 'the open month shows its current charge');
SELECT is(acp.invoice_json(pg_temp.t(1), NULL, 0.5)->>'status', 'open', 'the status of an open month is open');
SELECT is(acp.invoice_json(pg_temp.t(1), NULL, 0.5)->'usage', '{"total_calls": 1250, "successful_calls": 1200, "failed_calls": 50}',
	'the usage excludes calls made while free and dry runs');
SELECT is(pg_temp.refusal('SELECT pg_temp.run(''2026-01-01'')'),
	'VALIDATION_ERROR: 2026-01 has not ended; only a dry run is possible', 'an open month cannot be billed');
SELECT is(jsonb_array_length(pg_temp.dry('2026-01-01')->'invoices'), 4, 'a dry run of an open month works');
RESET ROLE;
SELECT pg_temp.clock_at('2026-02-01') \gset ignored_
SET LOCAL ROLE acp_app;
CREATE TEMP TABLE said AS SELECT 'dry' AS what, pg_temp.dry(NULL) AS result;
SELECT is_empty('SELECT 1 FROM acp.billing_periods UNION ALL SELECT 1 FROM acp.billing_closings', 'a dry run stores nothing');
INSERT INTO said SELECT 'run', pg_temp.run(NULL);
SELECT is((SELECT (result - 'dry_run')::text FROM said WHERE what = 'dry'), (SELECT (result - 'dry_run')::text FROM said WHERE what = 'run'),
	'the run gives the invoices of the dry run, byte for byte');
SELECT is(pg_temp.bill(1, '2026-01-01'), 'pending 1.2 120 0>0', '1200 calls at 0.001 are 1.20');
SELECT is(pg_temp.lines(1, '2026-01-01'), 'usage 2026-01 test.one 1200 1200*0.001 = 1.2 (120)', 'the calls are in one line');
SELECT is(pg_temp.bill(2, '2026-01-01'), 'carried 0.001 0 0>0.001', 'a single call is carried over');
SELECT is(pg_temp.bill(3, '2026-01-01'), NULL, 'free calls create no invoice');
SELECT is(pg_temp.bill(4, '2026-01-01'), 'pending 0.5 50 0>0', 'an amount equal to the minimum is charged');
SELECT is(pg_temp.bill(5, '2026-01-01'), 'carried 0.499 0 0>0.499', 'an amount below the minimum is not charged');
SELECT is((SELECT encode(sha256(convert_to(i->>'invoice', 'UTF8')), 'hex') FROM said, jsonb_array_elements(result->'invoices') i
	WHERE what = 'run' AND i->>'tenant_uuid' = pg_temp.t(1)::text), (SELECT encode(hash, 'hex') FROM acp.billing_periods
	WHERE tenant_id = pg_temp.t(1)), 'the hash is the SHA-256 of the text');
SELECT is((SELECT i->>'invoice' FROM said, jsonb_array_elements(result->'invoices') i WHERE what = 'run'
	AND i->>'tenant_uuid' = pg_temp.t(2)::text),
	format('{"amount":0,"carried_in":"0","carried_out":"0.001","currency":"USD","lines":[{"action":"test.one","amount":"0.001",'
	'"amount_minor":0,"billing_unit":"call","calls":1,"first":"%1$s","first_ts":"2026-01-10T00:00:00.000000Z",'
	'"from":"2026-01-01T00:00:00.000000Z","kind":"usage","last":"%1$s","last_ts":"2026-01-10T00:00:00.000000Z","line":1,'
	'"period":"2026-01","price_pattern":"*","price_version":1,"quantity":1,"to":"2026-02-01T00:00:00.000000Z","unit":"call",'
	'"unit_amount":"0.001"}],"period":"2026-01","period_end":"2026-02-01T00:00:00.000000Z",'
	'"period_start":"2026-01-01T00:00:00.000000Z","tenant_uuid":"45454545-0000-4000-8000-000000000002","total":"0.001"}',
	(SELECT chain_id || ':' || chain_seq FROM acp.audit_logs WHERE tenant_id = pg_temp.t(2))), 'the text is canonical JSON');
SELECT results_eq($$SELECT obligation, action, params - 'hash' FROM acp.outbox WHERE tenant_id = pg_temp.t(1) AND action LIKE '%invoices%'$$,
	$$VALUES ('billing-45454545-0000-4000-8000-000000000001-2026-01', 'stripe.invoices.create', jsonb_build_object(
	'tenant_uuid', pg_temp.t(1), 'period', '2026-01', 'currency', 'usd', 'amount', 120,
	'lines', '[{"amount": 120, "description": "test.one, 2026-01: 1200 calls at 0.001 USD"}]'::jsonb))$$, 'a charged invoice is in the outbox');
SELECT is((SELECT count(*) FROM acp.outbox WHERE action LIKE '%invoices%'), 2::bigint, 'an amount carried over is not in the outbox');
SELECT is(pg_temp.run('2026-01-01')::text, (SELECT result::text FROM said WHERE what = 'run'), 'a repeated run returns the same result');
SELECT is(acp.billing_run('another', '2026-01-01', false, 9)::text, (SELECT result::text FROM said WHERE what = 'run'),
	'another run of the month with another minimum bills no tenant again');
SELECT is((SELECT count(*) FROM acp.outbox WHERE action LIKE '%invoices%'), 2::bigint, 'that run queues no more obligations');
SELECT is(pg_temp.refusal($$SELECT acp.billing_run('another', '2025-12-01', false, 0.5)$$),
	'IDEMPOTENCY_MISMATCH: this key belongs to the run of 2026-01', 'a key belongs to one month');
SELECT is(pg_temp.refusal($$SELECT acp.billing_run('before', '2025-12-01', false, 0.5)$$),
	'VALIDATION_ERROR: a month after 2025-12 is already billed; the rest of 2025-12 is billed with the next month', 'months are billed in order');
SELECT is(acp.invoice_json(pg_temp.t(1), '2026-01-01', 0.5)->>'status', 'pending', 'the tenant sees the status');
SELECT is(acp.invoice_json(pg_temp.t(3), '2026-01-01', 0.5) #>> '{charges,total_charge}', '0', 'a tenant with nothing to pay sees a charge of 0');
SELECT is(acp.invoice_json(pg_temp.t(3), '2026-01-01', 0.5)->>'status', 'none', 'a tenant without an invoice sees the status none');
SELECT results_eq($$SELECT i->>'status', i #>> '{charges,total_charge}', i #>> '{charges,currency}', i->>'period', i #>> '{charges,per_call}'
	FROM acp.invoice_json(pg_temp.t(1), '1999-01-01', 0.5) i$$,
	$$VALUES ('none', '0', 'USD', '1999-01', '0.001')$$, 'a month before the tenant and before any price has no invoice');

-- Late rows, order of months, carry-over -----------------------------------------------------------------------------

SELECT pg_temp.calls(1, 2, '2026-01-31 23:59:59.999999'), pg_temp.calls(2, 600, '2026-02-10'), pg_temp.calls(6, 700, '2026-01-31 23:59:59') \gset ignored_
SELECT is(acp.billing_unbilled('2026-01-01'), 701::bigint, 'of two late rows at the end of January, one belongs to February');
SELECT is(acp.billing_run('again', '2026-01-01', false, 0.5)->'invoices', (SELECT result->'invoices' FROM said WHERE what = 'run'),
	'the month of the late rows is closed');
RESET ROLE;
SELECT pg_temp.clock_at('2026-04-01') \gset ignored_
SELECT is(pg_temp.refusal($$SELECT acp.billing_run('another', NULL, false, 0.5)$$),
	'IDEMPOTENCY_MISMATCH: this key belongs to the run of 2026-01', 'the key also belongs to its month when the month is omitted');
SET LOCAL ROLE acp_app;
SELECT is(pg_temp.refusal('SELECT pg_temp.run(''2026-03-01'')'),
	'VALIDATION_ERROR: bill 2026-02 first: it has unbilled paid calls', 'a month cannot be skipped');
SELECT is(acp.invoice_json(pg_temp.t(1), '2026-02-01', 0.5) #>> '{charges,carried_out}', '0.002', 'a month that has ended but is not billed is shown');
SELECT isnt(pg_temp.run('2026-02-01'), NULL, 'February is billed');
SELECT is(pg_temp.lines(1, '2026-02-01'),
	'usage 2026-02 test.one 1 1*0.001 = 0.001 (0); usage 2026-01 test.one 1 1*0.001 = 0.001 (0)', 'late rows are in separate lines that name their month');
SELECT is(pg_temp.bill(6, '2026-02-01'), 'pending 0.7 70 0>0', 'late rows also bill a tenant that had no invoice');
SELECT is(pg_temp.lines(2, '2026-02-01'), 'usage 2026-02 test.one 600 600*0.001 = 0.6 (60); carry 2026-01 = 0.001 (0)',
	'a carried-over amount is a line');
SELECT is(pg_temp.bill(2, '2026-02-01'), 'pending 0.601 60 0.001>0', 'the carried-over amount is charged');
SELECT is(pg_temp.bill(5, '2026-02-01'), 'carried 0.499 0 0.499>0.499', 'without calls the amount is carried over again');
SELECT is(acp.billing_unbilled('2026-01-01'), 0::bigint, 'nothing of January is unbilled');
SELECT is_empty('TABLE wrong', 'each paid call is in one line');
SELECT is_empty('SELECT * FROM acp.billing_differences(NULL)', 'there are no differences');
SELECT is((pg_temp.dry('2026-01-01')->'invoices')::text, (SELECT (result->'invoices')::text FROM said WHERE what = 'dry'),
	'computing January again gives the same result');

-- Credits ------------------------------------------------------------------------------------------------------------

SELECT pg_temp.calls(7, 2000, '2026-03-10'), pg_temp.calls(8, 1000, '2026-03-10'), pg_temp.calls(9, 700, '2026-03-10') \gset ignored_
SELECT acp.billing_credit(pg_temp.t(7), 0.75, NULL, 'an outage "in March"'), acp.billing_credit(pg_temp.t(8), 1, NULL, 'as agreed'),
	acp.billing_credit(pg_temp.t(9), 2, NULL, 'more than it owes') \gset ignored_
SELECT is(pg_temp.refusal($$SELECT acp.billing_credit(pg_temp.t(7), -1, NULL, 'x')$$), 'VALIDATION_ERROR: the amount must be more than 0',
	'a credit must be positive');
SELECT is(pg_temp.refusal($$SELECT acp.billing_credit(pg_temp.t(7), 0.00000001, NULL, 'x')$$),
	'VALIDATION_ERROR: 0.00000001 is not a multiple of the smallest unit of USD (1/100)', 'a credit must be a multiple of the smallest unit');
SELECT is(pg_temp.refusal($$SELECT acp.price_add('call', 'bad pattern', 1, 'USD', '2027-01-01')$$),
	'VALIDATION_ERROR: the pattern must be the name of an action, or a prefix followed by *', 'a price that matches nothing is refused');
CREATE TEMP TABLE march AS SELECT pg_temp.dry('2026-03-01') AS result;
SELECT is((pg_temp.run('2026-03-01')->'invoices')::text, (SELECT (result->'invoices')::text FROM march), 'the dry run includes credits');
SELECT is(pg_temp.lines(7, '2026-03-01'), 'usage 2026-03 test.one 2000 2000*0.001 = 2 (200); credit = -0.75 (-75)', 'a credit is a negative line');
SELECT is(pg_temp.bill(7, '2026-03-01'), 'pending 1.25 125 0>0', 'the charge is reduced');
SELECT is(pg_temp.bill(8, '2026-03-01'), 'paid 0 0 0>0', 'a larger credit leaves nothing to pay');
SELECT is(pg_temp.bill(9, '2026-03-01'), 'carried -1.3 0 0>-1.3', 'the rest of a credit is carried over');
SELECT is((SELECT array_agg(i->>'status' ORDER BY i->>'tenant_uuid') FROM jsonb_array_elements(acp.billing_result('2026-01-01', false, 0.5)->'invoices') i),
	(SELECT array_agg(status ORDER BY tenant_id) FROM acp.billing_periods WHERE period = '2026-01-01'), 'the result of a run shows the state of its invoices');
SELECT is((SELECT count(*) FROM acp.billing_credits WHERE period = '2026-03-01'), 3::bigint, 'each credit is used once');
SELECT acp.billing_credit(pg_temp.t(7), 0.1, NULL, 'later') \gset ignored_
SELECT is((pg_temp.dry('2026-03-01')->'invoices')::text, (SELECT (result->'invoices')::text FROM march), 'a later credit does not change the month');
SELECT is_empty('SELECT * FROM acp.billing_differences(NULL)', 'there are no differences with credits');

-- Prices -------------------------------------------------------------------------------------------------------------

RESET ROLE;
SELECT is(pg_temp.refusal($$SELECT acp.price_add('call', '*', 1, 'USD', '2026-03-31')$$),
	'VALIDATION_ERROR: 2026-03 is already billed; valid_from must be 2026-04-01T00:00:00Z or later', 'a price within a billed month is refused');
SELECT is(pg_temp.refusal($$SELECT acp.price_add('call', '*', 1, 'EUR', NULL)$$),
	'VALIDATION_ERROR: this installation has billed in USD, so the currency cannot change; give the price in USD', 'another currency is refused');
SELECT is(acp.price_add('call', '*', 0.002, 'USD', '2026-04-10 12:00:00'), 2::bigint, 'a price can start in the middle of a month');
SELECT is(acp.price_add('row', 'test.*', 0.0005, 'USD', '2026-04-01'), 3::bigint, 'a price per row can be added');
SELECT is(acp.price_add('call', 'test.two', 0, 'USD', '2026-04-20'), 4::bigint, 'a price of zero can be added');
SELECT is(pg_temp.refusal($$SELECT acp.price_add('call', '*', 0.002, 'USD', '2026-04-10 12:00:00')$$),
	'VALIDATION_ERROR: a price for this unit, pattern and valid_from exists already', 'the same price twice is refused');
SELECT throws_ok('UPDATE acp.prices SET unit_amount = 1', '23000', NULL, 'a price cannot be changed');
SELECT throws_ok('DELETE FROM acp.prices WHERE version = 1', '23000', NULL, 'a price of a billed month cannot be deleted');
SELECT lives_ok('DELETE FROM acp.prices WHERE version = 4', 'a price that no invoice has used can be deleted');
SELECT is(acp.price_add('call', 'test.two', 0, 'USD', '2026-04-20'), 4::bigint, 'a deleted price can be added again');
SET LOCAL ROLE acp_app;
SELECT pg_temp.calls(10, 10, '2026-04-10 11:59:59.999995'), pg_temp.calls(10, 4, '2026-04-05', '{"billing_unit": "row", "billing_quantity": 7}'),
	pg_temp.calls(10, 3, '2026-04-25', '{"action": "test.two"}'),
	pg_temp.calls(10, 2, '2026-04-25', '{"action": "test.two", "billing_unit": "sec", "billing_quantity": 60}'),
	pg_temp.calls(10, 2, '2026-04-11', '{"action": "other.one", "billing_unit": "token", "billing_quantity": 60}'),
	pg_temp.calls(10, 1000, '2026-04-01 00:00:00') \gset ignored_
RESET ROLE;
SELECT pg_temp.clock_at('2026-05-01') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT isnt(pg_temp.run('2026-04-01'), NULL, 'April is billed');
SELECT is(pg_temp.lines(10, '2026-04-01'),
	'usage 2026-04 other.one 2 2*0.002 = 0.004 (0); usage 2026-04 test.one 1005 1005*0.001 = 1.005 (101); '
	'usage 2026-04 test.one 5 5*0.002 = 0.01 (1); usage 2026-04 test.one 4 28*0.0005 = 0.014 (1); '
	'usage 2026-04 test.two 3 3*0 = 0 (0); usage 2026-04 test.two 2 2*0 = 0 (0)',
	'each call has the price of its moment; rows cost per row; a unit without a price costs per call');
SELECT is(pg_temp.bill(10, '2026-04-01'), 'pending 1.033 103 0>0', 'the total is rounded once; the parts add up to it');
RESET ROLE;
SELECT is(acp.price_add('call', 'test.one', 7, 'USD', NULL), 5::bigint, 'a new price is added');
INSERT INTO acp.prices (unit, action_pattern, unit_amount, currency, valid_from) VALUES ('call', 'test.*', 9, 'USD', '2026-04-02');
SELECT pg_temp.clock_at('2027-05-01') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT is(encode((SELECT hash FROM acp.billing_periods WHERE tenant_id = pg_temp.t(10) AND period = '2026-04-01'), 'hex'),
	(SELECT i->>'hash' FROM jsonb_array_elements(pg_temp.dry('2026-04-01')->'invoices') i WHERE i->>'tenant_uuid' = pg_temp.t(10)::text),
	'a year later, with other prices, even some put into that month, the result is the same');
SELECT is_empty('TABLE wrong', 'each paid call is in one line');
SELECT is_empty('SELECT * FROM acp.billing_differences(NULL)', 'there are no differences with prices');

-- Boundaries ---------------------------------------------------------------------------------------------------------

RESET ROLE;
SELECT pg_temp.clock_at('2028-04-01') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT count(pg_temp.calls(11, 1, at)), count(pg_temp.calls(12, 1, at)) FROM (VALUES ('2026-12-31 23:59:59.999+00'::timestamptz), ('2026-12-31 23:59:59.999999+00'),
	('2027-01-01 00:00:00+00'), ('2028-02-28 23:59:59.999+00'), ('2028-02-29 00:00:00+00'), ('2028-02-29 23:59:59.999+00'),
	('2028-03-01 00:00:00+00'), ('2028-02-29 23:30:00-01'), ('2028-03-01 00:30:00+01')) v(at) \gset ignored_
SET LOCAL timezone = 'Pacific/Kiritimati';
SELECT count(pg_temp.run(month::date, 0)) FROM unnest('{2026-05-01, 2026-12-01, 2027-01-01, 2028-02-01, 2028-03-01}'::date[]) month \gset ignored_
SET LOCAL timezone = 'UTC';
SELECT results_eq($$SELECT period, calls FROM acp.invoice_lines WHERE tenant_id = pg_temp.t(11) AND kind = 'usage' ORDER BY 1$$,
	$$VALUES ('2026-12-01'::date, 2::bigint), ('2027-01-01', 1), ('2028-02-01', 4), ('2028-03-01', 2)$$,
	'months, years and a leap February are in UTC, whatever the session uses');
SELECT is_empty($$SELECT * FROM acp.invoice_lines WHERE first_ts < from_ts OR last_ts >= to_ts OR from_ts < acp.period_start(source_period)
	OR to_ts > acp.period_end(source_period)$$, 'every line is within its month');

-- Life of an invoice after the run -----------------------------------------------------------------------------------

CREATE FUNCTION pg_temp.name(t integer, p text) RETURNS text LANGUAGE sql AS $$ SELECT 'billing-' || pg_temp.t(t) || '-' || p $$;
CREATE FUNCTION pg_temp.now_is(t integer, p date) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', status, stripe_invoice_id, error) FROM acp.billing_periods WHERE tenant_id = pg_temp.t(t) AND period = p
$$;
SELECT acp.billing_executed(pg_temp.t(1), pg_temp.name(1, '2026-01'), '{"invoice": "in_1", "status": "open", "amount": 120}') \gset ignored_
SELECT is(pg_temp.now_is(1, '2026-01-01'), 'invoiced in_1', 'Stripe has created the invoice');
SELECT ok(acp.billing_paid('in_1', false, '2028-04-01 00:00:10'), 'a payment fails');
SELECT is(pg_temp.now_is(1, '2026-01-01'), 'failed in_1 the payment failed', 'the invoice has failed');
SELECT is(acp.billing_retry(pg_temp.t(1), '2026-01-01'), pg_temp.name(1, '2026-01') || '-pay-1', 'the invoice is retried');
SELECT is((SELECT params FROM acp.outbox WHERE obligation LIKE '%-pay-1'), '{"invoice": "in_1"}', 'the retry goes through the outbox');
SELECT is(pg_temp.now_is(1, '2026-01-01'), 'invoiced in_1', 'the invoice is pending payment');
SELECT acp.billing_executed(pg_temp.t(1), pg_temp.name(1, '2026-01') || '-pay-1', '{"invoice": "in_1", "status": "open"}') \gset ignored_
SELECT is(pg_temp.now_is(1, '2026-01-01'), 'failed in_1 the payment failed', 'the payment fails again');
SELECT is(acp.billing_retry(pg_temp.t(1), '2026-01-01'), pg_temp.name(1, '2026-01') || '-pay-2', 'each retry has its own key');
SELECT ok(acp.billing_paid('in_1', true, '2028-04-01 00:00:30'), 'Stripe reports the payment');
SELECT ok(NOT acp.billing_paid('in_1', false, '2028-04-01 00:00:20'), 'an older failure arrives late');
SELECT ok(NOT acp.billing_paid('in_1', false, '2028-04-01 00:00:40'), 'a newer failure arrives');
SELECT acp.billing_executed(pg_temp.t(1), pg_temp.name(1, '2026-01') || '-pay-2', '{"invoice": "in_1", "status": "open"}'),
	acp.billing_not_executed(pg_temp.t(1), pg_temp.name(1, '2026-01') || '-pay-2', 'too late') \gset ignored_
SELECT is(pg_temp.now_is(1, '2026-01-01'), 'paid in_1', 'a paid invoice stays paid');
SELECT is(pg_temp.refusal($$SELECT acp.billing_retry(pg_temp.t(1), '2026-01-01')$$),
	'VALIDATION_ERROR: the invoice is paid; only a failed or unpaid invoice can be retried', 'a paid invoice is not paid twice');
SELECT ok(NOT acp.billing_paid('in_4', true, '2028-04-01'), 'Stripe reports a payment before the invoice id is known');
SELECT acp.billing_executed(pg_temp.t(4), pg_temp.name(4, '2026-01'), '{"invoice": "in_4", "status": "open"}') \gset ignored_
SELECT is(pg_temp.now_is(4, '2026-01-01'), 'paid in_4', 'the payment is applied later');
SELECT ok(NOT acp.billing_paid('in_6', false, '2028-04-01'), 'Stripe reports a failure before the invoice id is known');
SELECT acp.billing_executed(pg_temp.t(6), pg_temp.name(6, '2026-02'), '{"invoice": "in_6", "status": "open"}') \gset ignored_
SELECT is(pg_temp.now_is(6, '2026-02-01'), 'failed in_6 the payment failed', 'the failure is applied later');
SELECT acp.billing_not_executed(pg_temp.t(7), pg_temp.name(7, '2026-03'), 'Stripe refused') \gset ignored_
SELECT is(pg_temp.now_is(7, '2026-03-01'), 'failed Stripe refused', 'the obligation is given up');
RESET ROLE;
UPDATE acp.outbox SET dead = true, attempts = 9 WHERE obligation = pg_temp.name(7, '2026-03');
SET LOCAL ROLE acp_app;
SELECT is(acp.billing_retry(pg_temp.t(7), '2026-03-01'), pg_temp.name(7, '2026-03'), 'the obligation is revived');
SELECT results_eq($$SELECT dead, attempts FROM acp.outbox WHERE obligation = pg_temp.name(7, '2026-03')$$, 'VALUES (false, 0)', 'the revived obligation keeps its name and has all attempts');
SELECT ok(acp.outbox_drop(outbox_id), 'the obligation is dropped') FROM acp.outbox WHERE obligation = pg_temp.name(7, '2026-03');
SELECT matches(pg_temp.now_is(7, '2026-03-01'), '^failed', 'a dropped obligation makes the invoice fail');
SELECT is(acp.billing_retry(pg_temp.t(7), '2026-03-01'), pg_temp.name(7, '2026-03'), 'a retry revives the dropped obligation');
SELECT results_eq($$SELECT done_at IS NULL AND NOT dead AND due_at <= acp.now(), result FROM acp.outbox WHERE obligation = pg_temp.name(7, '2026-03')$$,
	'VALUES (true, NULL::jsonb)', 'the revived obligation shows no sign of the drop');
SELECT is(pg_temp.refusal($$SELECT acp.billing_credit(pg_temp.t(7), 1, 'JPY', 'x')$$),
	'VALIDATION_ERROR: this installation bills in USD', 'a credit has the currency of the invoices');
SELECT is(pg_temp.refusal($$SELECT acp.billing_retry(pg_temp.t(3), '2026-03-01')$$),
	'NOT_FOUND: this tenant has no invoice for this month', 'a month without an invoice cannot be retried');

-- Random months: each line against its rows --------------------------------------------------------------------------

SELECT setseed(0.45) \gset ignored_
RESET ROLE;
SELECT count(acp.price_add((ARRAY['call', 'row', 'sec'])[1 + n % 3], (ARRAY['*', 'rnd.*', 'rnd.a', 'rnd.b'])[1 + n % 4],
	round((random() / 50)::numeric, 6), 'USD', '2028-04-01'::timestamptz + random() * interval '120 days')) FROM generate_series(1, 24) n \gset ignored_
SELECT pg_temp.clock_at('2028-08-01') \gset ignored_
SET LOCAL ROLE acp_app;
CREATE FUNCTION pg_temp.random_calls(n integer, first timestamptz, span interval) RETURNS void LANGUAGE sql AS $$
	SELECT acp.audit_append_rows(array_agg(jsonb_populate_record(NULL::acp.audit_logs, jsonb_build_object(
		'event_id', gen_random_uuid(), 'request_id', gen_random_uuid(), 'ts', first + random() * span, 'tenant_id', pg_temp.t(20 + (random() * 9)::integer),
		'integration', 'pgtap', 'pack', 'test', 'action', (ARRAY['rnd.a', 'rnd.b', 'rnd.c', 'x.d'])[1 + floor(random() * 4)], 'actor_type', 'api_key',
		'status', s.status, 'latency_ms', 2, 'dry_run', false, 'billable', s.status = 'success',
		'billing_unit', (ARRAY[NULL, 'call', 'row', 'sec', 'token'])[1 + floor(random() * 5)],
		'billing_quantity', floor(random() * 100), 'tier', (ARRAY['paid', 'paid', 'free'])[1 + floor(random() * 3)]))))
	FROM generate_series(1, n), LATERAL (SELECT CASE WHEN random() < 0.9 THEN 'success' ELSE 'error' END AS status) s
$$;
CREATE TEMP TABLE fresh AS SELECT NULL::uuid AS event_id, NULL::date AS period WHERE false;
-- The lines of an open month, from its rows or from the counters.
CREATE FUNCTION pg_temp.open_lines(p date, counted boolean) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_agg(to_jsonb(l) - '{first_ts,last_ts,first_chain,first_seq,last_chain,last_seq}'::text[] ORDER BY l.tenant_id, l.line)
	FROM acp.billing_compute(ARRAY(SELECT pg_temp.t(n) FROM generate_series(20, 29) n), acp.billing_terms(p, 0.5), false, counted) m, unnest(m.lines) l
$$;
CREATE FUNCTION pg_temp.month(p date) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	dry     text := pg_temp.dry(p)->'invoices';
	open    jsonb := pg_temp.open_lines(p, false);
	counted jsonb := pg_temp.open_lines(p, true);
BEGIN
	IF jsonb_array_length(open) < 100 THEN
		RETURN format('only %s lines', jsonb_array_length(open));
	END IF;
	IF dry <> (pg_temp.run(p)->'invoices')::text THEN
		RETURN 'the dry run differs';
	END IF;
	IF open <> counted THEN
		RETURN 'the counters say something else';
	END IF;
	INSERT INTO fresh SELECT l.event_id, p FROM acp.audit_logs l
	WHERE l.billable AND l.tier = 'paid' AND l.ts < p + interval '1 month' AND l.tenant_id BETWEEN pg_temp.t(20) AND pg_temp.t(29)
	  AND NOT EXISTS (SELECT FROM fresh f WHERE f.event_id = l.event_id);
	RETURN 'ok';
END
$$;
SELECT pg_temp.random_calls(1500, '2028-04-01', '30 days') \gset ignored_
SELECT is(pg_temp.month('2028-04-01'), 'ok', 'April 2028');
SELECT pg_temp.random_calls(1500, '2028-05-01', '31 days'), pg_temp.random_calls(200, '2028-04-01', '30 days') \gset ignored_
SELECT is(pg_temp.month('2028-05-01'), 'ok', 'May, with late rows of April');
SELECT pg_temp.random_calls(1500, '2028-06-01', '30 days'), pg_temp.random_calls(200, '2028-04-01', '61 days') \gset ignored_
SELECT is(pg_temp.month('2028-06-01'), 'ok', 'June, with late rows of both months');
CREATE TEMP VIEW by_rows AS
	SELECT l.tenant_id, f.period, count(*) AS calls, sum(p.unit_amount * CASE WHEN p.unit = coalesce(l.billing_unit, 'call') THEN l.billing_quantity
		ELSE 1 END) AS amount
	FROM fresh f JOIN acp.audit_logs l USING (event_id), LATERAL acp.price(coalesce(l.billing_unit, 'call'), l.action, l.ts) p
	GROUP BY 1, 2;
SELECT cmp_ok((SELECT sum(calls) FROM by_rows), '>', 2500::numeric, 'there are thousands of calls');
SELECT results_eq('SELECT tenant_id, period, calls::numeric, trim_scale(amount) FROM by_rows ORDER BY 1, 2',
	$$SELECT tenant_id, period, sum(calls), trim_scale(sum(amount)) FROM acp.invoice_lines
	WHERE kind = 'usage' AND period >= '2028-04-01' AND tenant_id BETWEEN pg_temp.t(20) AND pg_temp.t(29) GROUP BY 1, 2 ORDER BY 1, 2$$,
	'each line is the sum of its rows, each at the price of its moment');
SELECT is_empty($$SELECT * FROM acp.billing_periods b WHERE amount <> (SELECT sum(amount_minor) FROM acp.invoice_lines l
	WHERE l.tenant_id = b.tenant_id AND l.period = b.period)$$, 'amounts in minor units add up');
SELECT is_empty($$SELECT * FROM acp.billing_periods b JOIN acp.invoice_lines l USING (tenant_id, period) WHERE b.amount > 0
	AND abs(l.amount_minor - l.amount * 100) >= 1$$, 'no amount is a full cent away from its line');
SELECT is_empty('TABLE wrong', 'each paid call is in one line');
SELECT is_empty('SELECT * FROM acp.billing_differences(NULL)', 'there are no differences in random months');

-- Differences are found ----------------------------------------------------------------------------------------------

RESET ROLE;
CREATE FUNCTION pg_temp.after(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	found text[];
BEGIN
	BEGIN
		EXECUTE statement;
		found := ARRAY(SELECT DISTINCT regexp_replace(what, '[0-9]+', 'N', 'g') FROM acp.billing_differences(NULL) ORDER BY 1);
		RAISE SQLSTATE 'UNDO0';
	EXCEPTION WHEN SQLSTATE 'UNDO0' THEN NULL;
	END;
	RETURN QUERY SELECT unnest(found);
END
$$;
SELECT set_has('SELECT pg_temp.after(' || quote_literal(statement) || ')', 'VALUES (' || quote_literal(what) || ')', 'found: ' || split_part(statement, chr(10), 1)) FROM (VALUES
	('UPDATE acp.invoice_lines SET calls = calls + 1 WHERE tenant_id = pg_temp.t(1) AND line = 1', 'calls of line N'),
	('UPDATE acp.invoice_lines SET amount = amount + 1 WHERE tenant_id = pg_temp.t(1) AND line = 1', 'sum of the lines'),
	('UPDATE acp.invoice_lines SET amount_minor = amount_minor + 1 WHERE tenant_id = pg_temp.t(1) AND line = 1', 'sum of the lines in minor units'),
	('UPDATE acp.invoice_lines SET unit_amount = 1 WHERE tenant_id = pg_temp.t(1) AND line = 1', 'unit_amount of line N'),
	('DELETE FROM acp.invoice_lines WHERE tenant_id = pg_temp.t(1) AND period = ''2026-01-01''',
		'calls of test.one, unit call, that are billed with N-N but are in no line'),
	('UPDATE acp.billing_periods SET amount = amount + 1 WHERE tenant_id = pg_temp.t(1) AND amount > 0', 'amount'),
	('UPDATE acp.billing_periods SET hash = sha256(hash) WHERE tenant_id = pg_temp.t(1)', 'hash'),
	('UPDATE acp.billing_periods SET carried_out = carried_out + 1 WHERE tenant_id = pg_temp.t(5) AND amount = 0', 'carried over'),
	('DELETE FROM acp.outbox WHERE obligation = pg_temp.name(1, ''2026-01'')', 'obligations'),
	('UPDATE acp.billing_credits SET amount = amount + 1 WHERE tenant_id = pg_temp.t(7) AND period IS NOT NULL', 'credit N'),
	('DELETE FROM acp.audit_logs WHERE tenant_id = pg_temp.t(4)', 'calls of test.one, unit call, on invoices'),
	('INSERT INTO acp.audit_logs SELECT (jsonb_populate_record(l, jsonb_build_object(''event_id'', gen_random_uuid()))).* FROM acp.audit_logs l
		WHERE tenant_id = pg_temp.t(2) LIMIT 1', 'calls of line N')) v(statement, what);

-- An archived month --------------------------------------------------------------------------------------------------

SELECT is(acp.billing_unbilled('2028-06-01'), 0::bigint, 'all of June 2028 is billed');
SELECT pg_temp.calls(30, 2, '2026-01-05') \gset ignored_
SELECT is(acp.billing_unbilled('2026-01-01'), 2::bigint, 'two late rows of January 2026 are not billed');
SELECT * FROM acp.audit_archive_begin('2026-02-01') \gset archive_
INSERT INTO acp.audit_archives SELECT '2026-02-01', :archive_part, now(), :archive_run_rows, 'x', 1, h, h, h, h FROM sha256('') h;
SELECT is(acp.audit_archive_end('2026-02-01', :archive_run_rows, NULL), 'done', 'February 2026 is archived');
SELECT is_empty('SELECT * FROM acp.billing_differences(NULL)', 'the totals of the archive match the invoices of February 2026');
UPDATE acp.audit_archive_totals SET calls = calls + 1 WHERE tenant_id = pg_temp.t(2) AND month = '2026-02-01';
SELECT results_eq('SELECT what, billed, rows FROM acp.billing_differences(''2026-02-01'')',
	$$VALUES ('calls of test.one, unit call, on invoices', '600', '601')$$, 'changed totals are found');

-- Another currency ---------------------------------------------------------------------------------------------------

SELECT is((acp.billing_terms('1999-01-01', 0)).currency, 'USD', 'a month before the first price is billed in the currency of the installation');
INSERT INTO acp.prices (unit, action_pattern, unit_amount, currency, valid_from) VALUES ('token', 'x', 1, 'JPY', '2029-01-01');
SELECT is(pg_temp.refusal($$SELECT acp.billing_terms('2029-01-01', 0)$$),
	'VALIDATION_ERROR: prices in force in 2029-01 are in JPY and USD: a month needs one currency; acpctl doctor shows what to do', 'two currencies in a month are refused');
CREATE FUNCTION pg_temp.yen(VARIADIC amounts numeric[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	b acp.billing_periods;
	l acp.invoice_lines;
	made record;
	all_lines acp.invoice_lines[];
BEGIN
	b.currency := 'JPY';
	b.period := '2029-01-01';
	b.carried_in := 0;
	FOREACH l.amount IN ARRAY amounts LOOP
		all_lines := all_lines || l;
	END LOOP;
	SELECT * INTO made FROM acp.invoice_round(b, all_lines, 0);
	RETURN concat((made.b).amount, ' =', (SELECT string_agg(' ' || x.amount_minor, '' ORDER BY x.line) FROM unnest(made.p_lines) x));
END
$$;
SELECT is(pg_temp.yen(0.4, 0.4, 0.4), '1 = 1 0 0', 'yen have no hundredths; of equal fractions the first one gets the remaining unit');
SELECT is(pg_temp.yen(1.5), '2 = 2', 'half a yen is rounded up');
SELECT is(pg_temp.yen(10.7, -3.2, 0.9), '8 = 10 -3 1', 'with a credit, 8.4 becomes 8');
SELECT is(pg_temp.yen(0.3), '0 = 0', 'an amount below the smallest unit is carried over');

-- acp_report can read all of this.
RESET ROLE;
CREATE TEMP TABLE billed AS SELECT tenant_id, period, acp.money_major(amount, currency) AS amount FROM acp.billing_periods;
GRANT SELECT ON billed TO acp_report;
SET LOCAL ROLE acp_report;
SELECT isnt_empty('TABLE billed', 'acp_report reads invoices');
SELECT set_eq('SELECT tenant_id, period, amount FROM acp_report.invoices', 'TABLE billed', 'acp_report reads all invoices with their amounts');
SELECT isnt_empty('SELECT l::text FROM acp_report.invoice_lines l', 'acp_report reads invoice lines');
SELECT isnt_empty('SELECT c::text FROM acp_report.billed_calls c', 'acp_report reads billed calls');
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;
