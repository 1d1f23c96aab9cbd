-- 46_prices.sql - prices: adding, removing, the currency of the installation, invoice_minimum, and what calls cost now.
BEGIN;
SET LOCAL client_min_messages = warning;
-- Nothing may depend on these.
SET LOCAL timezone = 'America/St_Johns';
SET LOCAL datestyle = 'SQL, DMY';
SET LOCAL intervalstyle = 'sql_standard';
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(50);

CREATE FUNCTION pg_temp.clock_at(moment timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('ALTER DATABASE %I SET acp.clock_offset = %L', current_database(), extract(epoch FROM moment - now()) || ' seconds');
END
$$;
CREATE FUNCTION pg_temp.refusal(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	hint  text;
	said  text;
	field text;
BEGIN
	EXECUTE statement;
	RETURN NULL;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT, said = MESSAGE_TEXT, field = PG_EXCEPTION_DETAIL;
	RETURN coalesce(nullif(hint, ''), SQLSTATE) || ' ' || field || ': ' || said;
END
$$;
CREATE FUNCTION pg_temp.t(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('46464646-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
$$;
-- A call of a paid tenant.
CREATE FUNCTION pg_temp.call(t integer, at timestamptz, more jsonb DEFAULT '{}') RETURNS void LANGUAGE sql AS $$
	SELECT acp.audit_append_rows(ARRAY[jsonb_populate_record(NULL::acp.audit_logs, jsonb_build_object(
		'event_id', gen_random_uuid(), 'request_id', gen_random_uuid(), 'ts', at,
		'tenant_id', pg_temp.t(t), 'integration', 'pgtap', 'pack', 'test', 'action', 'test.one', 'actor_type', 'api_key',
		'status', 'success', 'latency_ms', 2, 'dry_run', false, 'billable', true, 'billing_quantity', 1, 'tier', 'paid') || more)])
$$;

-- A fresh installation ----------------------------------------------------------------------------------------------

SELECT pg_temp.clock_at('2027-03-15 12:00:00+00') \gset ignored_
SELECT is(acp.currency(), 'USD', 'a fresh installation has prices in USD');
SELECT is(pg_temp.refusal($$SELECT acp.price_add('call', '*', 0.02, 'EUR', NULL)$$),
	'VALIDATION_ERROR /currency: the prices of this installation are in USD; give the price in USD, or replace all prices with: '
	'acpctl price currency EUR --amount AMOUNT', 'a first price in another currency is refused');
SELECT is(acp.price_add('call', 'test.*', 0.02, 'USD', '2027-04-01 00:00:00+00'), 2::bigint, 'a price is added');
SELECT is(pg_temp.refusal(format('SELECT acp.price_add(%L, %L, %s, %L, %s)', 'call', '*', amount, currency, since)), said, why)
FROM (VALUES ('''NaN''::numeric', 'USD', 'NULL', 'VALIDATION_ERROR /amount: the amount must be a number', 'not a number'),
	('-0.01', 'USD', 'NULL', 'VALIDATION_ERROR /amount: the amount must be from 0 to 999999999, with at most 12 decimals', 'below zero'),
	('1000000000', 'USD', 'NULL', 'VALIDATION_ERROR /amount: the amount must be from 0 to 999999999, with at most 12 decimals', 'too much'),
	('0.0000000000001', 'USD', 'NULL', 'VALIDATION_ERROR /amount: the amount must be from 0 to 999999999, with at most 12 decimals', 'too fine'),
	('1', 'usd', 'NULL', 'VALIDATION_ERROR /currency: the prices of this installation are in USD; give the price in USD, or replace all prices with: '
		'acpctl price currency usd --amount AMOUNT', 'no code'),
	('1', 'USD', '''infinity''', 'VALIDATION_ERROR /valid_from: valid_from must be a moment from 2000 to 9999', 'never valid'),
	('1', 'USD', '''1999-12-31 23:59:59+00''', 'VALIDATION_ERROR /valid_from: valid_from must be a moment from 2000 to 9999', 'valid before the first price'))
	x(amount, currency, since, said, why);
SELECT is(pg_temp.refusal('SELECT acp.price_remove(99)'), 'NOT_FOUND /version: no price has the version 99; acpctl price list shows them', 'no such price');
SELECT is(pg_temp.refusal('SELECT acp.price_remove(1)'), 'VALIDATION_ERROR /version: price 1 is the last price per call of all actions in force, '
	'and every call needs a price; add another one first (acpctl price add)', 'the last price per call stays');
SELECT is((acp.price_remove(2)).action_pattern, 'test.*', 'a price that nothing was billed with is removed');
SELECT is(acp.price_add('call', '*', 0.003, 'USD', '2027-03-15 11:00:00+00'), 2::bigint, 'another price per call of all actions');
SELECT is((acp.price_remove(1)).version, 1::bigint, 'then the first one can be removed');
SELECT is((acp.price_add('call', '*', 0.001, 'USD', '2000-01-01 00:00:00+00')), 3::bigint, 'and added again');
SET CONSTRAINTS ALL IMMEDIATE;
SELECT is(pg_temp.refusal('DELETE FROM acp.prices'),
	'23000 : every call needs a price: the last price per call of all actions cannot be removed', 'not even the owner removes all prices');
SET CONSTRAINTS ALL DEFERRED;

-- Another currency --------------------------------------------------------------------------------------------------

SELECT is(acp.price_currency('JPY', 2), 1::bigint, 'all prices are replaced by one');
SELECT results_eq('SELECT unit, action_pattern, unit_amount, currency, valid_from FROM acp.prices',
	$$VALUES ('call', '*', 2::numeric, 'JPY', '2000-01-01 00:00:00+00'::timestamptz)$$, 'per call of all actions, from the beginning');
SELECT is(acp.currency(), 'JPY', 'the installation has this currency');
SELECT is(acp.price_add('row', 'test.*', 5, 'JPY', '2027-03-10 12:00:00+00'), 2::bigint, 'prices are added in it');
SELECT is(pg_temp.refusal($$SELECT acp.price_currency('yen', 2)$$),
	'VALIDATION_ERROR /currency: the currency must be an ISO 4217 code in capitals, for example USD', 'no code');
SELECT count(acp.tenant_create(pg_temp.t(n), 'leadscoring', 'prices-' || n, 'p@example.com', NULL)) FROM generate_series(1, 3) n \gset ignored_
SELECT acp.tenant_update(pg_temp.t(1), 'paid', 'active', NULL, NULL) \gset ignored_
SELECT pg_temp.call(1, '2027-03-10 11:59:59.999999+00', '{"billing_unit": "row", "billing_quantity": 3}'),
	pg_temp.call(1, '2027-03-10 12:00:00+00', '{"billing_unit": "row", "billing_quantity": 3}'),
	pg_temp.call(1, '2027-03-09 23:59:59.999999+00', '{"action": "other"}') \gset ignored_
SELECT is(acp.usage(pg_temp.t(1), NULL, 100)->>'cost', '{"amount" : 19, "currency" : "JPY"}',
	'usage: a call at 2 before the price per row, three rows at 5 after it, another call at 2');
SELECT is(acp.invoice_json(pg_temp.t(1), NULL, NULL) #>> '{charges,total_charge}', '19', 'the preview: the same');
SELECT is(acp.invoice_json(pg_temp.t(1), NULL, 0.5) #>> '{charges,minimum}', '50', 'no invoice is below what Stripe charges');
SELECT is(acp.invoice_json(pg_temp.t(1), NULL, NULL) #>> '{charges,carried_out}', '19', 'a smaller amount is carried over');
SELECT results_eq($$SELECT sum(amount) FROM acp_report.revenue_lines WHERE tenant_id = pg_temp.t(1)$$, 'SELECT 19::numeric', 'the report: the same');
SELECT is(acp.usage_prices('{"actions": [{"action": "test.one", "unit": "row", "quantity": 7}, {"action": "test.one", "unit": "sec", "quantity": 7},
	{"action": "other"}]}'),
	'{"currency": "JPY", "prices": [{"action": "test.one", "unit": "row", "unit_amount": 5, "currency": "JPY", "amount": 35},
	{"action": "test.one", "unit": "call", "unit_amount": 2, "currency": "JPY", "amount": 2},
	{"action": "other", "unit": "call", "unit_amount": 2, "currency": "JPY", "amount": 2}]}', 'what calls cost now');
SELECT acp.billing_credit(pg_temp.t(2), 3, NULL, 'sorry') \gset ignored_
SELECT is(pg_temp.refusal($$SELECT acp.price_currency('USD', 1)$$), format('VALIDATION_ERROR /currency: credit %s of tenant %s is in JPY, '
	'so the currency of this installation cannot change', credit_id, tenant_id), 'a credit keeps its currency') FROM acp.billing_credits;

-- Two currencies, which older versions accepted ------------------------------------------------------------------------

INSERT INTO acp.prices (unit, action_pattern, unit_amount, currency, valid_from) VALUES ('call', '*', 1, 'EUR', '2027-03-15 11:00:00+00');
SELECT is(acp.currency(), 'JPY', 'the first price decides');
SELECT results_eq('SELECT version, currency FROM acp.price_strays()', $$VALUES (3::bigint, 'EUR')$$, 'a price in another currency is found');
SELECT is(pg_temp.refusal('SELECT acp.invoice_json(pg_temp.t(1), NULL, NULL)'),
	'VALIDATION_ERROR /period: prices in force in 2027-03 are in EUR and JPY: a month needs one currency; acpctl doctor shows what to do',
	'the month cannot be billed, and the refusal names a member');
SELECT is(acp.usage(pg_temp.t(1), NULL, 100)->>'cost', '{"amount" : 19, "currency" : "JPY"}', 'usage is still shown');
SELECT is(acp.billing_run(NULL, '2027-02-01', false, NULL)->>'currency', 'JPY', 'an earlier month is billed');
SELECT is((acp.price_remove(3)).currency, 'EUR', 'the price that no month used can still be removed');
SELECT is(acp.invoice_json(pg_temp.t(1), NULL, NULL) #>> '{charges,total_charge}', '19', 'the month can be billed again');
SELECT is(pg_temp.refusal($$SELECT acp.price_currency('EUR', 1)$$), 'VALIDATION_ERROR /currency: 2027-02 is billed in JPY, '
	'so the currency of this installation cannot change', 'the first billed month fixes the currency');
SELECT is(pg_temp.refusal('SELECT acp.price_remove(1)'), 'VALIDATION_ERROR /version: price 1 applies to a month that is billed, so it cannot be removed; '
	'a newer price replaces it from a later moment on', 'a price of a billed month stays');
SELECT ok(acp.price_add('call', 'test.*', 1, 'JPY', NULL) > 3, 'no version that a closed month knows is given again');

-- invoice_minimum ---------------------------------------------------------------------------------------------------

SELECT is(acp.invoice_minimum(currency, setting), wanted, format('invoice_minimum %s in %s', coalesce(setting::text, 'not set'), currency))
FROM (VALUES ('USD', NULL, 0.5), ('USD', 0.1, 0.5), ('USD', 0.505, 0.51), ('USD', 20, 20), ('GBP', NULL, 0.3), ('JPY', NULL, 50), ('JPY', 99.5, 100),
	('KWD', NULL, 1), ('KWD', 1.234, 1.24), ('KRW', 0.5, 1000), ('ISK', 1.5, 2)) x(currency, setting, wanted);

SELECT * FROM finish();
ROLLBACK;
