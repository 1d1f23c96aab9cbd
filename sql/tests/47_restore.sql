-- 47_restore.sql - invoices that Stripe has and a restored database lacks; what the executor must look up first.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(56);

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
	SELECT ('47474747-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
$$;

CREATE FUNCTION pg_temp.calls(t integer, n integer, at timestamptz) RETURNS void LANGUAGE sql AS $$
	SELECT acp.audit_append_rows(array_agg(jsonb_populate_record(NULL::acp.audit_logs, jsonb_build_object(
		'event_id', gen_random_uuid(), 'request_id', gen_random_uuid(), 'ts', at + i * interval '1 microsecond',
		'tenant_id', pg_temp.t(t), 'integration', 'pgtap', 'pack', 'test', 'action', 'test.one', 'actor_type', 'api_key',
		'status', 'success', 'latency_ms', 2, 'dry_run', false, 'billable', true, 'billing_quantity', 1, 'tier', 'paid'))))
	FROM generate_series(0, n - 1) i
$$;

-- An invoice as stripe.invoices.list returns it.
CREATE FUNCTION pg_temp.held(t integer, amount bigint, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('invoice', 'in_' || t, 'amount', amount, 'status', 'paid', 'currency', 'usd', 'customer', 'cus_' || t,
		'metadata', jsonb_build_object('tenant_uuid', pg_temp.t(t), 'period', '2026-01', 'kernel_id', 'k', 'invoice_hash', repeat('ab', 32))) || more
$$;
CREATE FUNCTION pg_temp.adopt(t integer, invoice jsonb, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT acp.billing_adopt(jsonb_build_object('tenant_id', pg_temp.t(t), 'period', '2026-01', 'integration', 'k', 'invoice', invoice) || more)
$$;
CREATE FUNCTION pg_temp.bill(t integer) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', status, trim_scale(total), amount, trim_scale(carried_out), stripe_invoice_id, encode(stripe_hash, 'hex') = repeat('ab', 32))
	FROM acp.billing_periods WHERE tenant_id = pg_temp.t(t) AND period = '2026-01-01'
$$;
CREATE FUNCTION pg_temp.lines(t integer) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(format('%s %s (%s)', kind, trim_scale(amount), amount_minor), '; ' ORDER BY line)
	FROM acp.invoice_lines WHERE tenant_id = pg_temp.t(t) AND period = '2026-01-01'
$$;
-- Does the invoice, computed again from its rows and adjustments, have the stored hash?
CREATE FUNCTION pg_temp.same_again(t integer) RETURNS boolean LANGUAGE sql AS $$
	SELECT (m.invoice).hash = b.hash AND acp.invoice_text(m.invoice, m.lines) = acp.invoice_text(b, acp.invoice_stored_lines(b.tenant_id, b.period))
	FROM acp.billing_periods b, acp.billing_closings c, acp.billing_compute(ARRAY[pg_temp.t(t)], c, true) m
	WHERE b.tenant_id = pg_temp.t(t) AND b.period = '2026-01-01' AND c.period = b.period
$$;
GRANT USAGE ON SCHEMA tap TO acp_app;

SELECT pg_temp.clock_at('2026-01-01 12:00Z');
SELECT count(acp.tenant_create(pg_temp.t(n), 'leadscoring', 'restore-' || n, n || '@example.com', NULL)) FROM generate_series(1, 9) n \gset ignored_
SELECT count(acp.tenant_update(pg_temp.t(n), 'paid', 'active', NULL, NULL)) FROM generate_series(1, 9) n \gset ignored_
SELECT pg_temp.calls(1, 900, '2026-01-10'), pg_temp.calls(2, 100, '2026-01-10'), pg_temp.calls(4, 905, '2026-01-10'), pg_temp.calls(5, 1000, '2026-01-10'),
	pg_temp.calls(6, 100, '2026-01-10'), pg_temp.calls(7, 1000, '2026-01-10');
SELECT pg_temp.clock_at('2026-02-02 12:00Z');
SET LOCAL ROLE acp_app;

-- Adopting -----------------------------------------------------------------------------------------------------------

SELECT is(pg_temp.refusal('SELECT pg_temp.adopt(1, pg_temp.held(1, 120))'),
	'VALIDATION_ERROR: 2026-01 is not billed yet; run first: acpctl billing run --period 2026-01', 'a month must be billed first');
SELECT acp.billing_run(NULL, '2026-01-01', false, 0.5) \gset ignored_
SELECT is(pg_temp.bill(1), 'pending 0.9 90 0', 'the books lack 300 calls');

SELECT is(pg_temp.refusal($$SELECT pg_temp.adopt(1, pg_temp.held(1, 120, '{"status": "draft"}'))$$),
	'VALIDATION_ERROR: in_1 is a draft, which charges nobody; delete it at Stripe, then: acpctl billing retry', 'a draft is not adopted');
SELECT is(pg_temp.refusal($$SELECT pg_temp.adopt(1, pg_temp.held(1, 120, '{"currency": "eur"}'))$$),
	'VALIDATION_ERROR: in_1 is in EUR, but 2026-01 was billed in USD', 'an invoice in another currency is not adopted');
SELECT is(pg_temp.refusal('SELECT pg_temp.adopt(1, pg_temp.held(1, 0))'), 'VALIDATION_ERROR: in_1 has no amount to charge', 'nothing is not adopted');
UPDATE acp.outbox SET leased_until = acp.now() + interval '1 minute' WHERE obligation = acp.billing_obligation(pg_temp.t(1), '2026-01-01');
SELECT is(pg_temp.refusal('SELECT pg_temp.adopt(1, pg_temp.held(1, 120))'),
	format('VALIDATION_ERROR: %s is running; try again in two minutes', acp.billing_obligation(pg_temp.t(1), '2026-01-01')), 'not while an attempt runs');
UPDATE acp.outbox SET leased_until = NULL;

CREATE TEMP TABLE before AS SELECT b::text FROM acp.billing_periods b;
SELECT is(pg_temp.adopt(1, pg_temp.held(1, 120), '{"dry_run": true}') - 'tenant_uuid', '{"period": "2026-01", "stripe_invoice_id": "in_1", "stripe_status": "paid",
	"currency": "USD", "stripe_amount": "1.2", "our_amount": "0.9", "adjustment": "0.3"}', 'a dry run shows both amounts');
SELECT set_eq('SELECT b::text FROM acp.billing_periods b', 'TABLE before', 'a dry run stores nothing');
SELECT is(pg_temp.adopt(1, pg_temp.held(1, 120))->>'adjustment', '0.3', 'an invoice is adopted');
SELECT is(pg_temp.bill(1), 'paid 1.2 120 0 in_1 t', 'the amount, the state and the hash are Stripe''s');
SELECT is(pg_temp.lines(1), 'usage 0.9 (90); adjustment 0.3 (30)', 'the difference is a line');
SELECT is((SELECT reason FROM acp.invoice_lines WHERE tenant_id = pg_temp.t(1) AND kind = 'adjustment'), 'calls whose records were lost in a restore', 'with a reason');
SELECT is(acp.invoice_json(pg_temp.t(1), '2026-01-01', 0.5)->'charges'->'lines'->1->>'description',
	'Adjustment: calls whose records were lost in a restore', 'the tenant sees it');
SELECT ok(pg_temp.same_again(1), 'computed again, the invoice has the same text and hash');
SELECT is((SELECT format('%s %s %s', done_at IS NOT NULL, dead, result) FROM acp.outbox WHERE obligation = acp.billing_obligation(pg_temp.t(1), '2026-01-01')),
	't f {"adopted": "in_1"}', 'nothing is owed for it any more');
SELECT is((SELECT stripe_customer_id FROM acp.tenants WHERE tenant_id = pg_temp.t(1)), 'cus_1', 'the tenant has the customer of the invoice');
SELECT is((SELECT format('%s %s %s', actor_type, tenant_id = '00000000-0000-0000-0000-000000000000', result_meta) FROM acp.audit_logs WHERE action = 'billing.adopt'),
	format('system t %s', jsonb_build_object('period', '2026-01', 'stripe_invoice_id', 'in_1', 'stripe_status', 'paid', 'currency', 'USD', 'stripe_amount', '1.2',
	'our_amount', '0.9', 'adjustment', '0.3', 'tenant_id', pg_temp.t(1), 'resource_type', 'invoice', 'resource_id', 'in_1')), 'it has one audit row');
SELECT is(pg_temp.adopt(1, pg_temp.held(1, 120))->>'adjustment', '0', 'adopted again, nothing changes');
SELECT is(pg_temp.lines(1), 'usage 0.9 (90); adjustment 0.3 (30)', 'there is one line');
SELECT is(pg_temp.refusal('SELECT pg_temp.adopt(1, pg_temp.held(1, 130))'),
	'VALIDATION_ERROR: an invoice of this month was adopted before, with another amount', 'an invoice is not adopted twice with two amounts');
SELECT is(pg_temp.refusal($$SELECT pg_temp.adopt(1, pg_temp.held(1, 120, '{"invoice": "in_other"}'))$$),
	'VALIDATION_ERROR: the books have in_1 for this month, and Stripe has in_other too; void one of them at Stripe', 'a second invoice is not adopted');

SELECT is(pg_temp.bill(2), 'carried 0.1 0 0.1', 'an amount below the minimum is carried over');
SELECT is(pg_temp.adopt(2, pg_temp.held(2, 77))->>'adjustment', '0.67', 'its invoice is adopted');
SELECT is(pg_temp.bill(2), 'paid 0.77 77 0 in_2 t', 'nothing is carried over any more');
SELECT is(pg_temp.lines(2), 'usage 0.1 (0); adjustment 0.67 (77)', 'the lines add up in both units');
SELECT ok(pg_temp.same_again(2), 'computed again, it is the same');

SELECT is(pg_temp.bill(3), NULL, 'a tenant whose calls were all lost has no invoice');
SELECT is(pg_temp.adopt(3, pg_temp.held(3, 55, '{"status": "open"}'), '{"reason": "an odd reason"}')->>'our_amount', '0', 'its invoice is adopted');
SELECT is(pg_temp.bill(3), 'invoiced 0.55 55 0 in_3 t', 'an open invoice is not paid');
SELECT ok(pg_temp.same_again(3), 'computed again, it is the same');
SELECT is((SELECT reason FROM acp.invoice_lines WHERE tenant_id = pg_temp.t(3)), 'an odd reason', 'the operator may give the reason');

SELECT is(pg_temp.adopt(4, pg_temp.held(4, 90, '{"status": "void"}'))->>'adjustment', '-0.005', 'Stripe''s invoice may be smaller');
SELECT is(pg_temp.bill(4), 'failed 0.9 90 0 in_4 t', 'a void invoice is adopted as failed');
SELECT is(pg_temp.adopt(5, pg_temp.held(5, 100))->>'adjustment', '0', 'the amounts may be equal');
SELECT is(pg_temp.lines(5), 'usage 1 (100)', 'then there is no line');
SELECT is(pg_temp.bill(5), 'paid 1 100 0 in_5 t', 'and the hash that Stripe has is noted');
SELECT is_empty('SELECT * FROM acp.billing_differences(NULL)', 'there are no differences');
RESET ROLE;
UPDATE acp.billing_adjustments SET amount = amount + 1 WHERE tenant_id = pg_temp.t(3);
SELECT results_eq('SELECT what, billed, rows FROM acp.billing_differences(NULL)', $$VALUES ('adjustment', '0.55', '1.55')$$, 'a changed adjustment is found');
UPDATE acp.billing_adjustments SET amount = amount - 1 WHERE tenant_id = pg_temp.t(3);
SET LOCAL ROLE acp_app;

SELECT acp.billing_executed(pg_temp.t(7), acp.billing_obligation(pg_temp.t(7), '2026-01-01'), jsonb_build_object('invoice', 'in_7', 'status', 'paid',
	'hash', (SELECT encode(hash, 'hex') FROM acp.billing_periods WHERE tenant_id = pg_temp.t(7)))) \gset ignored_
SELECT is((SELECT stripe_hash FROM acp.billing_periods WHERE tenant_id = pg_temp.t(7)), NULL, 'the hash of Stripe is noted only if it is another one');
SELECT is((SELECT jsonb_agg(u->'invoice') FROM jsonb_array_elements(acp.billing_unknown(jsonb_build_array(pg_temp.held(1, 120), pg_temp.held(6, 10),
	pg_temp.held(7, 100), pg_temp.held(7, 100, '{"invoice": "in_77"}'), pg_temp.held(8, 5), pg_temp.held(99, 5),
	pg_temp.held(98, 5, jsonb_build_object('metadata', jsonb_build_object('tenant_uuid', pg_temp.t(98), 'period', '2026-01')))))) u),
	'["in_6", "in_77", "in_8", "in_99"]', 'unknown: not billed, another one, no tenant; without kernel_id only with a tenant');

RESET ROLE;
SELECT pg_temp.clock_at('2026-03-02 12:00Z');
SELECT pg_temp.calls(6, 1000, '2026-02-10') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT acp.billing_run(NULL, '2026-02-01', false, 0.5) \gset ignored_
SELECT is(pg_temp.refusal('SELECT pg_temp.adopt(6, pg_temp.held(6, 99))'),
	'VALIDATION_ERROR: what 2026-01 left is on a later invoice already; void in_6 at Stripe, or give a credit', 'an amount that is on a later invoice is not charged twice');
SELECT is_empty('SELECT * FROM acp.billing_differences(NULL)', 'there are no differences in the month after');

-- What the executor looks up first -----------------------------------------------------------------------------------

RESET ROLE;
CREATE FUNCTION pg_temp.asked(t integer, name text) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', j->'lookup', j->>'email') FROM acp.outbox o, acp.outbox_json(o) j WHERE o.tenant_id = pg_temp.t(t) AND o.obligation LIKE name
$$;
SELECT acp.tenant_create(pg_temp.t(20), 'leadscoring', 'restore-20', '20@example.com', NULL), acp.outbox_customer(pg_temp.t(20)) \gset ignored_
SELECT is(pg_temp.asked(20, 'customer-%'), '', 'an onboarding asks for its customer without a search');
UPDATE acp.outbox SET attempts = 2 WHERE tenant_id = pg_temp.t(20);
SELECT is(pg_temp.asked(20, 'customer-%'), 'true', 'another attempt searches');
UPDATE acp.outbox SET attempts = 1, created_at = created_at - interval '2 minutes' WHERE tenant_id = pg_temp.t(20);
UPDATE acp.tenants SET onboarded_at = onboarded_at - interval '2 minutes' WHERE tenant_id = pg_temp.t(20);
SELECT is(pg_temp.asked(20, 'customer-%'), 'true', 'and so does a late first one: its database may have been restored');
SELECT is(pg_temp.asked(1, 'customer-%'), 'true', 'a customer that is owed since the billing may exist since before a restore');
SELECT is(pg_temp.asked(7, 'billing-%'), '7@example.com', 'the invoice may then be at another customer');
SELECT is(acp.outbox_done(pg_temp.t(20), 'customer-' || pg_temp.t(20), 1, '{"ok": true, "data": {"customer": "cus_20"}}'), true, 'the customer is created');
SELECT acp.outbox_put(pg_temp.t(20), 'billing-20', 'stripe.invoices.create', '{}') \gset ignored_
SELECT is(pg_temp.asked(20, 'billing-%'), '', 'the only customer of a tenant is known to be the only one');
UPDATE acp.outbox SET done_at = created_at + interval '1 day' WHERE tenant_id = pg_temp.t(20) AND done_at IS NOT NULL;
SELECT is(pg_temp.asked(20, 'billing-%'), '20@example.com', 'unless it was created after Stripe forgot its key');
UPDATE acp.outbox SET done_at = created_at WHERE tenant_id = pg_temp.t(20) AND done_at IS NOT NULL;
UPDATE acp.tenants SET stripe_customer_id = 'cus_21' WHERE tenant_id = pg_temp.t(20);
SELECT is(pg_temp.asked(20, 'billing-%'), '20@example.com', 'or somebody set another one');
SELECT ok(NOT acp.outbox_json(o) ? 'email', 'other obligations name no address') FROM acp.outbox o WHERE o.tenant_id = pg_temp.t(20) AND o.obligation LIKE 'customer-%';

-- A journal may have rows of tenants that the restored database lacks ---------------------------------------------------

SELECT is(acp.journal_replay(jsonb_build_array(e, e || jsonb_build_object('event_id', gen_random_uuid(), 'tenant_id', pg_temp.t(1))), 100) - 'uncounted',
	'{"stored": 2, "duplicates": 0}', 'a paid call is stored, and holds up no other row')
FROM jsonb_build_object('event_id', gen_random_uuid(), 'request_id', gen_random_uuid(), 'ts', acp.now(), 'tenant_id', pg_temp.t(97), 'integration', 'pgtap',
	'pack', 'test', 'action', 'test.one', 'actor_type', 'api_key', 'status', 'success', 'latency_ms', 2, 'dry_run', false, 'billable', true,
	'billing_quantity', 1, 'tier', 'paid') e;
SELECT is((SELECT sum(calls) FROM acp.usage_counters WHERE tenant_id = pg_temp.t(97) AND tier = 'paid'), 1::numeric, 'and counted');
SELECT is_empty('SELECT * FROM acp.billing_differences(NULL)', 'there are no differences');
SELECT is_empty($$SELECT * FROM acp.usage_differences(NULL, 100, interval '20 minutes')$$, 'nor in the counters');

SELECT * FROM finish();
ROLLBACK;
