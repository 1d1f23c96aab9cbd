-- 46_payment_state.sql - when a payment fails: past due, its days of grace, and money that comes back, in every order of events.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'America/New_York'; -- with a change of the clocks within the days of grace
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(63);

CREATE FUNCTION pg_temp.noon() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz '2031-03-07 12:00:00+00' $$;
CREATE FUNCTION pg_temp.later(passed interval) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	RESET ROLE;
	-- In seconds: a day is not always 24 hours in this time zone.
	EXECUTE format('ALTER DATABASE %I SET acp.clock_offset = %L', current_database(),
		make_interval(secs => extract(epoch FROM pg_temp.noon() + passed - now())::double precision));
	SET LOCAL ROLE acp_app;
END
$$;
CREATE FUNCTION pg_temp.t(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('46464646-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
$$;
CREATE FUNCTION pg_temp.row_of(id uuid) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('event_id', gen_random_uuid(), 'request_id', id, 'tenant_id', '00000000-0000-0000-0000-000000000000',
		'integration', 'k', 'action', 'stripe.webhook', 'actor_type', 'system', 'status', 'success', 'latency_ms', 1,
		'billing_quantity', 1, 'dry_run', false, 'billable', false)
$$;
CREATE FUNCTION pg_temp.event(id text, type text, at integer, object text, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('event_id', id, 'type', type, 'livemode', false, 'object_id', object,
		'created', extract(epoch FROM pg_temp.noon())::bigint + at, 'event', pg_temp.row_of(gen_random_uuid())) || more
$$;
CREATE FUNCTION pg_temp.take(event jsonb) RETURNS text LANGUAGE sql AS $$ SELECT acp.stripe_event(event)->>'effect' $$;
-- In seconds after noon.
CREATE FUNCTION pg_temp.due(n integer) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(format('%s..%s', extract(epoch FROM past_due_since - pg_temp.noon())::integer, extract(epoch FROM past_due_until - pg_temp.noon())::integer), 'no')
	FROM acp.tenants WHERE tenant_id = pg_temp.t(n) AND past_due_since IS NOT NULL UNION ALL SELECT 'no' LIMIT 1
$$;
CREATE FUNCTION pg_temp.tier(n integer) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(DISTINCT x, ' and ') FROM unnest(ARRAY[acp.usage(pg_temp.t(n), NULL, 100)->>'tier',
		(SELECT tier FROM acp.usage_reserve(pg_temp.t(n), gen_random_uuid(), acp.now(), 100, interval '1 minute')),
		(SELECT tier FROM acp.authenticate(sha256(n::text::bytea), 0))]) x
$$;
CREATE FUNCTION pg_temp.invoice(n integer) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', b.status, 'refunded', s.refunded, 'credited', s.credited, s.dispute)
	FROM acp.billing_periods b LEFT JOIN acp.invoice_states s USING (stripe_invoice_id) WHERE b.tenant_id = pg_temp.t(n)
$$;
SELECT pg_temp.later('0');

SELECT acp.tenant_create(pg_temp.t(n), 'leadscoring', 'owing-' || n, n || '@example.com', NULL) FROM generate_series(1, 18) n \g /dev/null
SELECT acp.key_create(pg_temp.t(n), gen_random_uuid(), sha256(n::text::bytea), 'ock_00000046', 'k', ARRAY['manage.read'], NULL)
	FROM generate_series(1, 18) n \g /dev/null
SELECT acp.tenant_update(pg_temp.t(n), 'paid', 'active', NULL, NULL) FROM generate_series(1, 18) n \g /dev/null
UPDATE acp.tenants SET stripe_customer_id = 'cus_' || agent_id WHERE agent_id LIKE 'owing-%';
RESET ROLE;
INSERT INTO acp.billing_closings (period, closed_at, price_version, currency, minimum) VALUES ('2031-02-01', pg_temp.noon(), 1, 'USD', 0.5);
INSERT INTO acp.billing_periods (tenant_id, period, status, currency, total, amount, carried_in, carried_out, hash, billed_at, updated_at)
SELECT pg_temp.t(n), '2031-02-01', 'pending', 'USD', 1, 100, 0, 0, sha256('x'), pg_temp.noon(), pg_temp.noon() FROM generate_series(1, 18) n;
SET LOCAL ROLE acp_app;
-- The executor's answer about the invoice of tenant n, whose id is in_n.
CREATE FUNCTION pg_temp.executed(n integer, status text, more jsonb DEFAULT '{}', pay text DEFAULT '') RETURNS void LANGUAGE sql AS $$
	SELECT acp.billing_executed(pg_temp.t(n), acp.billing_obligation(pg_temp.t(n), '2031-02-01') || pay,
		jsonb_build_object('invoice', 'in_' || n, 'status', status, 'amount', 100) || more)
$$;

-- The way of a failed payment ----------------------------------------------------------------------------------------

SELECT pg_temp.executed(1, 'open') \g /dev/null
SELECT is(pg_temp.invoice(1) || pg_temp.due(1), 'invoiced refunded creditedno', 'an invoice whose payment is being processed');
SELECT is(pg_temp.take(pg_temp.event('evt_1', 'invoice.payment_failed', 10, 'in_1', '{"grace_days": 3}')), 'applied', 'its payment fails');
SELECT is(pg_temp.due(1), '10..259210', 'the tenant is past due, with grace_days counted in hours');
SELECT is(pg_temp.tier(1), 'paid', 'its calls go on as paid');
SELECT is(acp.usage(pg_temp.t(1), NULL, 100)::jsonb->'past_due', '{"since": "2031-03-07T12:00:10Z", "until": "2031-03-10T12:00:10Z"}', 'the usage says so');
SELECT is(acp.upgrade_begin(jsonb_build_object('tenant_id', pg_temp.t(1)))->>'verdict', 'create', 'a person can add another card');
SELECT is(pg_temp.take(pg_temp.event('evt_2', 'invoice.payment_failed', 90, 'in_1', '{"grace_days": 3}')), 'applied', 'a retry fails');
SELECT is(pg_temp.due(1), '10..259210', 'a retry does not give more days');
SELECT pg_temp.later('259209 s');
SELECT is(pg_temp.tier(1), 'paid', 'a second before the end it is paid');
SELECT pg_temp.later('259210 s');
SELECT is(pg_temp.tier(1), 'free', 'at the end it is treated as free');
SELECT is(acp.usage(pg_temp.t(1), NULL, 100)::jsonb->>'calls_limit', '100', 'with the free calls');
SELECT is((SELECT tier FROM acp.tenants WHERE tenant_id = pg_temp.t(1)), 'paid', 'it has not left the paid tier');
SELECT is(pg_temp.take(pg_temp.event('evt_3', 'invoice.paid', 259211, 'in_1')), 'applied', 'the invoice is paid');
SELECT is(pg_temp.tier(1) || pg_temp.due(1), 'paidno', 'the tenant is paid again, at once');
SELECT pg_temp.later('0');
SELECT is(pg_temp.take(pg_temp.event('evt_4', 'invoice.payment_failed', 20, 'in_2', '{"grace_days": 0}' || jsonb_build_object('tenant_uuid', pg_temp.t(2)))), 'applied',
	'a payment fails before the id of the invoice is known');
SELECT is(pg_temp.due(2), 'no', 'nobody knows yet whose invoice it is');
SELECT set_config('acp.grace_days', '0', true) \g /dev/null
SELECT pg_temp.executed(2, 'open') \g /dev/null
SELECT is(pg_temp.invoice(2) || ' ' || pg_temp.due(2), 'failed refunded 0 credited 0 20..20', 'then it is past due, here without days of grace');

-- A lost event --------------------------------------------------------------------------------------------------------

SELECT set_config('acp.grace_days', '', true) \g /dev/null
SELECT pg_temp.executed(3, 'open', '{"payment_error": "card_declined"}') \g /dev/null
SELECT is(pg_temp.invoice(3) || ' ' || pg_temp.due(3), 'failed refunded 0 credited 0 0..604800', 'a declined card makes past due without an event, for 7 days by default');
SELECT is(acp.payment_collect(pg_temp.t(3)), 1, 'another card pays the invoice');
SELECT is(acp.payment_collect(pg_temp.t(3)), 0, 'once');
SELECT is(pg_temp.due(3), '0..604800', 'the tenant stays past due while the payment is tried');
SELECT pg_temp.executed(3, 'paid', '{}', '-pay-1') \g /dev/null
SELECT is(pg_temp.invoice(3) || pg_temp.due(3), 'paid refunded 0 credited 0no', 'until it is paid');
SELECT is(pg_temp.take(pg_temp.event('evt_5', 'invoice.payment_failed', 5, 'in_3')), 'applied', 'the lost event comes late');
SELECT is(pg_temp.invoice(3) || pg_temp.due(3), 'paid refunded 0 credited 0no', 'the paid invoice stays paid');

-- Invoices that are not ours -------------------------------------------------------------------------------------------

SELECT is(pg_temp.take(pg_temp.event('evt_6', 'invoice.payment_failed', 10, 'in_by_hand', '{"customer": "cus_owing-4"}')), 'applied', 'an invoice made by hand fails');
SELECT is(pg_temp.take(pg_temp.event('evt_7', 'invoice.payment_failed', 10, 'in_other', jsonb_build_object('tenant_uuid', pg_temp.t(77)))), 'unknown_tenant',
	'so does one of another installation');
SELECT is(pg_temp.take(pg_temp.event('evt_8', 'charge.dispute.closed', 10, 'dp_x', '{"charge": "ch_x", "amount": 5, "status": "lost"}')), 'unknown_invoice',
	'a dispute about something else is lost');
SELECT is(pg_temp.due(4) || pg_temp.tier(4), 'nopaid', 'none of them concerns the tenant');

-- The operator --------------------------------------------------------------------------------------------------------

SELECT pg_temp.executed(5, 'paid') \g /dev/null
SELECT is(pg_temp.take(pg_temp.event('evt_9', 'invoice_payment.paid', 1, 'inpay_5', '{"invoice": "in_5", "payment_intent": "pi_5"}')), 'applied', 'which payment it was');
SELECT is(pg_temp.take(pg_temp.event('evt_a', 'charge.dispute.created', 10, 'dp_5', '{"payment_intent": "pi_5", "amount": 100, "status": "needs_response"}')), 'applied', 'a dispute');
SELECT is(pg_temp.invoice(5) || ' ' || pg_temp.due(5), 'paid refunded 0 credited 0 needs_response no', 'is shown, and the tenant goes on');
SELECT is(pg_temp.take(pg_temp.event('evt_b', 'charge.dispute.closed', 20, 'dp_5', '{"payment_intent": "pi_5", "amount": 100, "status": "lost"}')), 'applied', 'it is lost');
SELECT is(pg_temp.due(5), '20..604820', 'the amount is owed again');
SELECT is(acp.payment_collect(pg_temp.t(5)), 0, 'Stripe would not take a payment for the paid invoice');
SELECT pg_temp.later('100 s');
SELECT is(acp.billing_settle(pg_temp.t(5), '2031-02-01', 7), false, 'the operator got the money in another way');
SELECT is(pg_temp.due(5), 'no', 'nothing is owed');
SELECT throws_ok(format('SELECT acp.billing_settle(%L, ''2031-02-01'', 7)', pg_temp.t(5)), 'ACP01', NULL, 'there is nothing more to settle');
SELECT is(acp.invoice_json(pg_temp.t(5), '2031-02-01', 0.5)->>'dispute', 'lost', 'the invoice shows the dispute');
SELECT pg_temp.executed(13, 'open', '{"payment_error": "card_declined"}') \g /dev/null
SELECT is(acp.billing_settle(pg_temp.t(13), '2031-02-01', 7), false, 'a failed invoice is paid by bank transfer');
SELECT throws_ok(format('SELECT acp.billing_retry(%L, ''2031-02-01'')', pg_temp.t(13)), 'ACP01',
	'the invoice is settled, so its customer is not charged again', 'a settled invoice is not charged, too');
SELECT pg_temp.executed(14, 'void') \g /dev/null
SELECT throws_ok(format('SELECT acp.billing_retry(%L, ''2031-02-01'')', pg_temp.t(14)), 'ACP01',
	'the invoice is void at Stripe, so nothing is charged for it', 'a void invoice is not charged');
SELECT is(pg_temp.invoice(13) || ', ' || pg_temp.invoice(14), 'failed refunded 0 credited 0, failed refunded 0 credited 0', 'neither is changed');
SELECT is(pg_temp.take(pg_temp.event('evt_c', 'charge.dispute.closed', 200, 'dp_13', '{"invoice": "in_13", "amount": 100, "status": "lost"}')), 'applied',
	'a dispute about what was settled is lost later');
SELECT is(pg_temp.due(13), '200..605000', 'it is owed again');
SELECT is(acp.payment_collect(pg_temp.t(13)), 0, 'another card does not pay it, but does not fail');
SELECT is(pg_temp.take(pg_temp.event('evt_d', 'charge.dispute.updated', 200, 'dp_5', '{"payment_intent": "pi_5", "amount": 100, "status": "lost"}')), 'applied',
	'another event about the lost dispute');
SELECT is(pg_temp.due(5), 'no', 'what was settled is not owed again');
SELECT is(pg_temp.take(pg_temp.event('evt_e', 'charge.dispute.closed', 300, 'dp_5b', '{"payment_intent": "pi_5", "amount": 100, "status": "lost"}')), 'applied',
	'another dispute is lost');
SELECT is(pg_temp.due(5), '300..605100', 'the amount is owed again');
SELECT pg_temp.later('400 s');
SELECT is(acp.billing_settle(pg_temp.t(5), '2031-02-01', 7), false, 'the operator settles this one, too');
SELECT is(pg_temp.due(5), 'no', 'then nothing is owed');
SELECT pg_temp.later('0');

-- All orders ----------------------------------------------------------------------------------------------------------

CREATE TEMP TABLE story (tenant integer, n integer, event jsonb);
-- 'executed' is not an event of Stripe, but the executor's answer, which tells the id of the invoice.
INSERT INTO story VALUES
	(6, 1, pg_temp.event('evt_f1', 'invoice.payment_failed', 10, 'in_6')), (6, 2, pg_temp.event('evt_f2', 'invoice.payment_failed', 20, 'in_6')),
	(6, 3, pg_temp.event('evt_f3', 'invoice.paid', 30, 'in_6')), (6, 4, pg_temp.event('evt_f4', 'invoice.updated', 30, 'in_6', '{"status": "open"}')),
	(6, 5, '{"type": "executed", "status": "open", "more": {"payment_error": "card_declined"}}'),
	(7, 1, pg_temp.event('evt_g1', 'invoice.payment_failed', 20, 'in_7')), (7, 2, pg_temp.event('evt_g2', 'invoice.payment_action_required', 10, 'in_7')),
	(7, 3, pg_temp.event('evt_g2', 'invoice.payment_action_required', 10, 'in_7')), (7, 4, pg_temp.event('evt_g4', 'invoice.marked_uncollectible', 40, 'in_7')),
	(7, 5, '{"type": "executed", "status": "open", "more": {}}'),
	(8, 1, pg_temp.event('evt_h1', 'invoice.payment_failed', 10, 'in_8')), (8, 2, pg_temp.event('evt_h2', 'invoice.marked_uncollectible', 20, 'in_8')),
	(8, 3, pg_temp.event('evt_h3', 'invoice.voided', 30, 'in_8')), (8, 4, pg_temp.event('evt_h4', 'invoice.overdue', 40, 'in_8')),
	(8, 5, '{"type": "executed", "status": "open", "more": {"payment_error": "card_declined"}}'),
	(9, 1, pg_temp.event('evt_i1', 'invoice.payment_failed', 10, 'in_9')), (9, 2, pg_temp.event('evt_i2', 'credit_note.created', 20, 'cn_1', '{"invoice": "in_9", "amount": 60, "status": "issued"}')),
	(9, 3, pg_temp.event('evt_i3', 'credit_note.created', 30, 'cn_2', '{"invoice": "in_9", "amount": 40, "status": "issued"}')),
	(9, 4, pg_temp.event('evt_i4', 'credit_note.updated', 30, 'cn_2', '{"invoice": "in_9", "amount": 40, "status": "issued"}')),
	(9, 5, '{"type": "executed", "status": "open", "more": {}}'),
	(10, 1, pg_temp.event('evt_j1', 'invoice_payment.paid', 10, 'inpay_1', '{"invoice": "in_10", "payment_intent": "pi_10", "charge": "ch_10"}')),
	(10, 2, pg_temp.event('evt_j2', 'charge.dispute.created', 20, 'dp_1', '{"charge": "ch_10", "payment_intent": "pi_10", "amount": 100, "status": "needs_response"}')),
	(10, 3, pg_temp.event('evt_j3', 'charge.dispute.funds_withdrawn', 20, 'dp_1', '{"charge": "ch_10", "payment_intent": "pi_10", "amount": 100, "status": "needs_response"}')),
	(10, 4, pg_temp.event('evt_j4', 'charge.dispute.closed', 20, 'dp_1', '{"charge": "ch_10", "payment_intent": "pi_10", "amount": 100, "status": "lost"}')),
	(10, 5, '{"type": "executed", "status": "paid", "more": {}}'),
	(11, 1, pg_temp.event('evt_k1', 'charge.refunded', 20, 'ch_11', '{"payment_intent": "pi_11", "amount": 100, "amount_refunded": 70, "status": "succeeded"}')),
	(11, 2, pg_temp.event('evt_k2', 'refund.created', 20, 're_1', '{"payment_intent": "pi_11", "charge": "ch_11", "amount": 40, "status": "succeeded"}')),
	(11, 3, pg_temp.event('evt_k3', 'refund.created', 20, 're_2', '{"payment_intent": "pi_11", "charge": "ch_11", "amount": 30, "status": "pending"}')),
	(11, 4, pg_temp.event('evt_k4', 'refund.failed', 30, 're_2', '{"payment_intent": "pi_11", "charge": "ch_11", "amount": 30, "status": "failed"}')),
	(11, 5, pg_temp.event('evt_k5', 'invoice_payment.paid', 10, 'inpay_2', '{"invoice": "in_11", "payment_intent": "pi_11"}')),
	(12, 1, pg_temp.event('evt_l1', 'radar.early_fraud_warning.created', 10, 'issfr_1', '{"charge": "ch_12"}')),
	(12, 2, pg_temp.event('evt_l2', 'charge.dispute.created', 20, 'dp_2', '{"charge": "ch_12", "amount": 100, "status": "needs_response"}')),
	(12, 3, pg_temp.event('evt_l3', 'charge.dispute.closed', 30, 'dp_2', '{"charge": "ch_12", "amount": 100, "status": "won"}')),
	(12, 4, pg_temp.event('evt_l4', 'charge.refunded', 9, 'ch_12', '{"invoice": "in_12", "amount": 100, "amount_refunded": 1}')),
	(12, 5, '{"type": "executed", "status": "paid", "more": {}}'),
	(15, 1, pg_temp.event('evt_n1', 'invoice_payment.paid', 10, 'inpay_15', '{"invoice": "in_15", "payment_intent": "pi_15"}')),
	(15, 2, pg_temp.event('evt_n2', 'charge.dispute.closed', 20, 'dp_15', '{"payment_intent": "pi_15", "amount": 100, "status": "lost"}')),
	(15, 3, pg_temp.event('evt_n3', 'charge.dispute.funds_withdrawn', 30, 'dp_15', '{"payment_intent": "pi_15", "amount": 100, "status": "lost"}')),
	(15, 4, pg_temp.event('evt_n4', 'charge.dispute.updated', 40, 'dp_15', '{"payment_intent": "pi_15", "amount": 100, "status": "lost"}')),
	(15, 5, '{"type": "executed", "status": "paid", "more": {}}'),
	(16, 1, pg_temp.event('evt_o1', 'charge.dispute.closed', 20, 'dp_16', '{"invoice": "in_16", "amount": 100, "status": "lost"}')),
	(16, 2, pg_temp.event('evt_o2', 'charge.dispute.closed', 30, 'dp_17', '{"invoice": "in_16", "amount": 100, "status": "lost"}')),
	(16, 3, pg_temp.event('evt_o3', 'charge.dispute.updated', 40, 'dp_16', '{"invoice": "in_16", "amount": 100, "status": "lost"}')),
	(16, 4, '{"type": "settled", "at": 25}'), (16, 5, '{"type": "executed", "status": "paid", "more": {}}'),
	(17, 1, pg_temp.event('evt_p1', 'charge.dispute.closed', 20, 'dp_18', '{"invoice": "in_17", "amount": 100, "status": "lost"}')),
	(17, 2, pg_temp.event('evt_p2', 'charge.dispute.closed', 30, 'dp_18', '{"invoice": "in_17", "amount": 100, "status": "won"}')),
	(17, 3, pg_temp.event('evt_p3', 'charge.dispute.created', 10, 'dp_18', '{"invoice": "in_17", "amount": 100, "status": "needs_response"}')),
	(17, 4, pg_temp.event('evt_p4', 'charge.dispute.updated', 15, 'dp_18', '{"invoice": "in_17", "amount": 100, "status": "under_review"}')),
	(17, 5, '{"type": "executed", "status": "paid", "more": {}}');
SELECT pg_temp.executed(11, 'paid') \g /dev/null
-- As acp.billing_settle() at that moment, but without its refusal if nothing is owed yet.
CREATE FUNCTION pg_temp.settled(n integer, at integer) RETURNS void LANGUAGE sql AS $$
	SELECT acp.invoice_told('in_' || n, 'settled', pg_temp.noon() + make_interval(secs => at)), acp.invoice_returns('in_' || n), acp.payment_settle(pg_temp.t(n))
$$;
CREATE FUNCTION pg_temp.play(p_tenant integer, steps integer[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	step     integer;
	happened jsonb;
BEGIN
	FOREACH step IN ARRAY steps LOOP
		SELECT event INTO happened FROM pg_temp.story WHERE n = step AND tenant = p_tenant;
		IF happened->>'type' = 'executed' THEN
			PERFORM pg_temp.executed(p_tenant, happened->>'status', happened->'more');
		ELSIF happened->>'type' = 'settled' THEN
			PERFORM pg_temp.settled(p_tenant, (happened->>'at')::integer);
		ELSE
			-- Our invoices name their tenant. Refunds and disputes do not.
			PERFORM acp.stripe_event(CASE WHEN happened->>'type' LIKE 'invoice.%' THEN jsonb_build_object('tenant_uuid', pg_temp.t(p_tenant)) ELSE '{}' END || happened);
		END IF;
	END LOOP;
	RAISE SQLSTATE 'UNDO0' USING MESSAGE = pg_temp.invoice(p_tenant) || ': ' || pg_temp.due(p_tenant);
EXCEPTION WHEN SQLSTATE 'UNDO0' THEN
	RETURN SQLERRM;
END
$$;
CREATE TEMP VIEW orders AS
	WITH RECURSIVE p(steps) AS (
		SELECT ARRAY[]::integer[] UNION ALL
		SELECT steps || n FROM p, generate_series(1, 5) n WHERE NOT n = ANY (steps))
	SELECT steps FROM p WHERE cardinality(steps) = 5;
SELECT is(count(*), 120::bigint, 'five events have 120 orders') FROM orders;
SELECT results_eq('SELECT DISTINCT pg_temp.play(' || tenant || ', steps) FROM orders', ARRAY[expected], 'in each order: ' || what)
FROM (VALUES (6, 'paid refunded 0 credited 0: no', 'a paid invoice is paid, whatever failed before'),
	(7, 'failed refunded 0 credited 0: 10..604810', 'the first failure counts, and an uncollectible invoice is owed'),
	(8, 'failed refunded 0 credited 0: no', 'a void invoice is not owed'),
	(9, 'failed refunded 0 credited 100: no', 'an invoice that was credited as a whole is not owed'),
	(10, 'paid refunded 0 credited 0 lost: 20..604820', 'a lost dispute makes past due'),
	(11, 'paid refunded 40 credited 0: no', 'a refund that failed does not count'),
	(12, 'paid refunded 1 credited 0 won: no', 'a dispute that was won changes nothing'),
	(15, 'paid refunded 0 credited 0 lost: 20..604820', 'later events about a lost dispute give no more days'),
	(16, 'paid refunded 0 credited 0 lost: 30..604830', 'of two lost disputes, only the one after the settlement counts'),
	(17, 'paid refunded 0 credited 0 won: no', 'a lost dispute that is won after all is not owed')) s(tenant, expected, what);

-- The functions that judge a tenant by its tier look at the days of grace.
RESET ROLE;
SELECT is_empty($$
	SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace IN ('acp'::regnamespace, 'acp_report'::regnamespace)
	  AND p.prosrc ~ 'effective_tier\([a-z_.]*tier, [a-z_.]*payment_method_status\)' AND p.prosrc !~ 'past_due_since IS NULL'
	UNION ALL SELECT c.oid::regclass::text FROM pg_class c WHERE c.relnamespace = 'acp_report'::regnamespace AND c.relkind = 'v'
	  AND pg_get_viewdef(c.oid) ~ 'effective_tier\([a-z_.]*tier, [a-z_.]*payment_method_status\)'$$, 'no query forgets them');

SELECT * FROM finish();
ROLLBACK;
