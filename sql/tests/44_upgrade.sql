-- 44_upgrade.sql - checkout sessions, Stripe events, and the resulting state of a tenant in every order of events.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(92);

CREATE FUNCTION pg_temp.clock_at(moment timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('ALTER DATABASE %I SET acp.clock_offset = %L', current_database(), moment - now());
END
$$;
CREATE FUNCTION pg_temp.later(seconds integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	RESET ROLE;
	PERFORM pg_temp.clock_at(timestamptz '2031-05-01 12:00:00+00' + make_interval(secs => seconds));
	SET LOCAL ROLE acp_app;
END
$$;
CREATE FUNCTION pg_temp.t(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('44444444-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
$$;
CREATE FUNCTION pg_temp.row_of(id uuid) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('event_id', gen_random_uuid(), 'request_id', id, 'tenant_id', '00000000-0000-0000-0000-000000000000',
		'integration', 'k', 'action', 'stripe.webhook', 'actor_type', 'system', 'status', 'success', 'latency_ms', 1,
		'billing_quantity', 1, 'dry_run', false, 'billable', false)
$$;
-- A Stripe event about tenant n, the given number of seconds after noon.
CREATE FUNCTION pg_temp.event(id text, type text, n integer, at integer, object text, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('event_id', id, 'type', type, 'livemode', false, 'object_id', object,
		'created', extract(epoch FROM timestamptz '2031-05-01 12:00:00+00')::bigint + at, 'event', pg_temp.row_of(gen_random_uuid()))
		|| CASE WHEN n > 0 THEN jsonb_build_object('customer', 'cus_' || n) ELSE '{}' END || more
$$;
CREATE FUNCTION pg_temp.completed(id text, n integer, at integer, session text, intent text, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT pg_temp.event(id, 'checkout.session.completed', n, at, session, jsonb_build_object('client_reference_id', pg_temp.t(n),
		'tenant_uuid', pg_temp.t(n), 'setup_intent', intent, 'mode', 'setup', 'status', 'complete') || more)
$$;
CREATE FUNCTION pg_temp.take(event jsonb) RETURNS text LANGUAGE sql AS $$ SELECT acp.stripe_event(event)->>'effect' $$;
-- The executor looks up payment methods: seti_x has the method pm_x.
CREATE FUNCTION pg_temp.look_up(n integer, backwards boolean DEFAULT false) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	o record;
BEGIN
	FOR o IN SELECT * FROM acp.outbox WHERE tenant_id = pg_temp.t(n) AND action = 'stripe.setup_intents.get' AND done_at IS NULL
		ORDER BY CASE WHEN backwards THEN -outbox_id ELSE outbox_id END LOOP
		PERFORM acp.outbox_done(o.tenant_id, o.obligation, o.attempts, jsonb_build_object('ok', true, 'data', jsonb_build_object(
			'payment_method', replace(o.params->>'setup_intent', 'seti', 'pm'), 'customer', 'cus_' || n, 'status', 'succeeded')));
	END LOOP;
END
$$;
CREATE FUNCTION pg_temp.state(n integer) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', tier, payment_method_status, coalesce(stripe_payment_method, '-'), acp.effective_tier(tier, payment_method_status))
	FROM acp.tenants WHERE tenant_id = pg_temp.t(n)
$$;
CREATE FUNCTION pg_temp.begin_(n integer) RETURNS jsonb LANGUAGE sql AS $$
	SELECT acp.upgrade_begin(jsonb_build_object('tenant_id', pg_temp.t(n)))
$$;
CREATE FUNCTION pg_temp.opened(n integer, attempt integer, session text, seconds integer) RETURNS jsonb LANGUAGE sql AS $$
	SELECT acp.upgrade_opened(jsonb_build_object('tenant_id', pg_temp.t(n), 'attempt', attempt, 'session_id', session,
		'url', 'https://checkout.example/' || session, 'event', pg_temp.row_of(gen_random_uuid()),
		'expires_at', extract(epoch FROM acp.now())::bigint + seconds))
$$;
-- Replaces acp.billing_paid() to record its arguments.
CREATE TEMP TABLE reported (invoice text, paid boolean);
GRANT ALL ON reported TO acp_app;
CREATE OR REPLACE FUNCTION acp.billing_paid(p_stripe_invoice text, p_paid boolean, p_at timestamptz) RETURNS boolean
LANGUAGE sql AS $$ INSERT INTO pg_temp.reported VALUES (p_stripe_invoice, p_paid); SELECT true $$;
GRANT EXECUTE ON FUNCTION acp.billing_paid(text, boolean, timestamptz) TO acp_app;
SELECT pg_temp.later(0);

SELECT acp.tenant_create(pg_temp.t(n), 'leadscoring', 'upgrade-' || n, n || '@example.com', NULL) FROM generate_series(1, 9) n;
UPDATE acp.tenants SET stripe_customer_id = 'cus_' || right(agent_id, 1) WHERE agent_id LIKE 'upgrade-%' AND agent_id <> 'upgrade-9';

-- Sessions -----------------------------------------------------------------------------------------------------------

SELECT is(pg_temp.begin_(9), jsonb_build_object('verdict', 'customer', 'obligation', 'customer-' || pg_temp.t(9)), 'the customer is created first');
SELECT is(pg_temp.begin_(1) - 'obliged_at', jsonb_build_object('verdict', 'create', 'attempt', 1, 'customer', 'cus_1', 'currency', 'usd',
	'idempotency_key', 'checkout-' || pg_temp.t(1) || '-1'), 'the session is created next');
SELECT is(pg_temp.begin_(1)->>'attempt', '1', 'until the outcome is known, the same session is requested again');
SELECT is(pg_temp.state(1), 'free none - free', 'a request changes nothing');
SELECT is(pg_temp.opened(1, 1, 'cs_1', 3600)->>'checkout_url', 'https://checkout.example/cs_1', 'the session is open');
SELECT is(pg_temp.state(1), 'free setup_pending - free', 'none -> setup_pending');
SELECT is(pg_temp.begin_(1) - 'expires_at', '{"verdict": "open", "checkout_url": "https://checkout.example/cs_1"}', 'the next click gets the same session');
SELECT is(pg_temp.opened(1, 1, 'cs_1', 3600)->>'checkout_url', 'https://checkout.example/cs_1', 'two simultaneous clicks share one session');
SELECT pg_temp.later(3500);
SELECT is(pg_temp.begin_(1)->>'attempt', '2', 'shortly before a session ends a new one is created');
SELECT pg_temp.opened(1, 2, 'cs_2', 3600);
SELECT pg_temp.later(3600);
SELECT is(acp.checkouts_expire_due(), 1, 'sessions expire by time');
SELECT is(pg_temp.state(1), 'free setup_pending - free', 'setup_pending stays while another session is open');
SELECT is(pg_temp.take(pg_temp.event('evt_x1', 'checkout.session.expired', 1, 7000, 'cs_2')), 'applied', 'sessions expire by their event');
SELECT is(pg_temp.state(1), 'free none - free', 'the last expiry changes setup_pending to none');
SELECT is(pg_temp.take(pg_temp.event('evt_x2', 'checkout.session.expired', 1, 7000, 'cs_2')), 'unchanged', 'an expiry counts once');
SELECT is(pg_temp.begin_(1)->>'attempt', '3', 'a new upgrade can begin');
SELECT acp.upgrade_failed(jsonb_build_object('tenant_id', pg_temp.t(1), 'attempt', 3, 'unknown', true, 'event', pg_temp.row_of(gen_random_uuid())));
SELECT is(pg_temp.begin_(1)->>'attempt', '3', 'after a lost answer the same key is used');
SELECT acp.upgrade_failed(jsonb_build_object('tenant_id', pg_temp.t(1), 'attempt', 3, 'event', pg_temp.row_of(gen_random_uuid())));
RESET ROLE;
SELECT isnt(acp.price_currency('EUR', 0.001), NULL, 'the installation changes its currency');
SET LOCAL ROLE acp_app;
SELECT is(pg_temp.begin_(1) - 'obliged_at' - 'customer', jsonb_build_object('verdict', 'create', 'attempt', 4, 'currency', 'eur',
	'idempotency_key', 'checkout-' || pg_temp.t(1) || '-4'), 'after a refusal the next key is used, with the currency of now');
RESET ROLE;
SELECT acp.price_currency('USD', 0.001);
SET LOCAL ROLE acp_app;
SELECT is(pg_temp.begin_(1)->>'currency', 'eur', 'an attempt keeps its currency, because it keeps its key');
RESET ROLE;
UPDATE acp.checkouts SET currency = NULL WHERE tenant_id = pg_temp.t(1) AND attempt = 4;
SET LOCAL ROLE acp_app;
SELECT ok(NOT pg_temp.begin_(1) ? 'currency', 'an attempt of an older version was without one, and stays so');
SELECT throws_ok('SELECT pg_temp.begin_(77)', 'ACP01', NULL, 'an unknown tenant is not found');

-- The upgrade --------------------------------------------------------------------------------------------------------

SELECT pg_temp.opened(1, 4, 'cs_4', 3600);
SELECT is(pg_temp.take(pg_temp.completed('evt_1', 1, 7200, 'cs_4', 'seti_1')), 'applied', 'a person saves a card');
SELECT is(pg_temp.state(1), 'paid active - paid', 'the tenant is paid at once');
SELECT isnt((SELECT upgraded_at FROM acp.tenants WHERE tenant_id = pg_temp.t(1)), NULL, 'upgraded_at is set');
SELECT is(pg_temp.take(pg_temp.completed('evt_1', 1, 7200, 'cs_4', 'seti_1')), 'duplicate', 'a repeated event is a duplicate');
SELECT is((SELECT effect FROM acp.stripe_events WHERE event_id = 'evt_1'), 'applied', 'the effect of the first delivery is kept');
SELECT is((SELECT string_agg(result_meta->>'effect', ' ' ORDER BY chain_id, chain_seq) FROM acp.audit_logs
	WHERE tenant_id = pg_temp.t(1) AND result_meta->>'resource_id' = 'evt_1'), 'applied duplicate', 'each delivery leaves its own audit row');
SELECT pg_temp.look_up(1);
SELECT is(pg_temp.state(1), 'paid active pm_1 paid', 'the executor reports the payment method');
SELECT is((SELECT params FROM acp.outbox WHERE obligation = 'default-' || pg_temp.t(1) || '-pm_1'), '{"default_payment_method": "pm_1"}',
	'the payment method becomes the default of the customer');
SELECT is(pg_temp.begin_(1), '{"verdict": "paid"}', 'there is nothing left to upgrade');
SELECT is(pg_temp.take(pg_temp.event('evt_d0', 'payment_method.detached', 1, 7300, 'pm_other')), 'unchanged', 'detaching another method has no effect');
SELECT is(pg_temp.state(1), 'paid active pm_1 paid', 'the state is unchanged');
SELECT is(pg_temp.take(pg_temp.event('evt_d1', 'payment_method.detached', 0, 7300, 'pm_1')), 'applied', 'the method in use is detached');
SELECT is(pg_temp.state(1), 'paid none pm_1 free', 'the tenant is treated as free');
SELECT is(pg_temp.begin_(1)->>'verdict', 'create', 'the tenant can upgrade again');
-- Stripe times are in seconds, and event ids do not show an order.
SELECT pg_temp.opened(1, 5, 'cs_5', 3600);
SELECT is(pg_temp.take(pg_temp.completed('evt_0', 1, 7200, 'cs_5', 'seti_5')), 'applied', 'a later attempt in the same second counts');
SELECT pg_temp.look_up(1);
SELECT is(pg_temp.state(1), 'paid active pm_5 paid', 'the tenant is paid by the new method');
SELECT is(pg_temp.take(pg_temp.completed('evt_2', 1, 7200, 'cs_4', 'seti_1')), 'older', 'an earlier attempt in the same second does not count');
SELECT is(pg_temp.state(1), 'paid active pm_5 paid', 'the payment method is unchanged');
SELECT is((SELECT count(*) FROM acp.changes WHERE tenant_id = pg_temp.t(1)), 0::bigint, 'changes are numbered at commit');
RESET ROLE;
SET CONSTRAINTS ALL IMMEDIATE;
SELECT cmp_ok((SELECT count(*) FROM acp.changes WHERE tenant_id = pg_temp.t(1)), '>=', 4::bigint, 'the change feed has the changes');
SET LOCAL ROLE acp_app;

-- Events that name no tenant or two ----------------------------------------------------------------------------------

SELECT is(pg_temp.take(pg_temp.completed('evt_m1', 2, 0, 'cs_m1', 'seti_m', jsonb_build_object('tenant_uuid', pg_temp.t(3)))), 'mismatch',
	'a checkout that names two tenants is not applied');
SELECT is(pg_temp.take(pg_temp.completed('evt_m2', 2, 0, 'cs_m2', 'seti_m', '{"tenant_uuid": null}')), 'mismatch', 'a checkout without a tenant in its metadata is not applied');
SELECT is(pg_temp.take(pg_temp.completed('evt_m3', 77, 0, 'cs_m3', 'seti_m')), 'unknown_tenant', 'a checkout of another program is not applied');
SELECT is(pg_temp.take(pg_temp.completed('evt_m4', 2, 0, 'cs_m4', 'seti_m', '{"mode": "payment"}')), 'ignored', 'a checkout in another mode is not applied');
SELECT is(pg_temp.take(pg_temp.event('evt_m5', 'customer.created', 2, 0, 'cus_2')), 'ignored', 'irrelevant event types are stored');
SELECT is(pg_temp.state(2) || pg_temp.state(3), 'free none - freefree none - free', 'none of them upgrades a tenant');
SELECT is((SELECT count(*) FROM acp.stripe_events WHERE event_id LIKE 'evt\_m_'), 5::bigint, 'all of them are stored');

-- Another installation with the same Stripe account, and a copy of this database --------------------------------------

SELECT is(pg_temp.take(pg_temp.completed('evt_k1', 3, 0, 'cs_k1', 'seti_k', '{"foreign": true}')), 'foreign', 'a checkout of another installation');
SELECT is(pg_temp.take(pg_temp.event('evt_k2', 'checkout.session.expired', 3, 0, 'cs_k2', '{"foreign": true}')), 'foreign', 'the end of one');
SELECT is(pg_temp.take(pg_temp.event('evt_k3', 'invoice.paid', 3, 0, 'in_k3', '{"foreign": true, "charge": "ch_k3"}')), 'foreign', 'an invoice of another installation');
SELECT is(pg_temp.take(pg_temp.event('evt_k4', 'customer.deleted', 0, 0, 'cus_k4', jsonb_build_object('foreign', true, 'tenant_uuid', pg_temp.t(3)))), 'foreign',
	'a customer of another installation');
SELECT is(pg_temp.take(pg_temp.completed('evt_k1', 3, 0, 'cs_k1', 'seti_k')), 'duplicate', 'its event is stored');
SELECT is(pg_temp.state(3), 'free none - free', 'the tenant is unchanged');
SELECT is_empty('SELECT FROM reported', 'no invoice is paid');
SELECT is_empty($$SELECT FROM acp.stripe_payments WHERE payment = 'ch_k3'$$, 'no payment is linked');
SELECT is((SELECT count(*) FROM acp.stripe_events WHERE event_id LIKE 'evt\_k_' AND effect = 'foreign' AND tenant_id IS NULL), 4::bigint, 'all four are stored, without a tenant');
-- What the books name is ours, even if kernel_id was changed since.
RESET ROLE;
INSERT INTO acp.billing_closings (period, closed_at, price_version, currency, minimum) VALUES ('2031-04-01', acp.now(), 1, 'USD', 0.5);
INSERT INTO acp.billing_periods (tenant_id, period, status, currency, total, amount, carried_in, carried_out, hash, stripe_invoice_id, billed_at, updated_at)
VALUES (pg_temp.t(3), '2031-04-01', 'invoiced', 'USD', 1, 100, 0, 0, sha256('x'), 'in_k5', acp.now(), acp.now());
SET LOCAL ROLE acp_app;
SELECT is(pg_temp.take(pg_temp.event('evt_k5', 'invoice.paid', 3, 0, 'in_k5', '{"foreign": true}')), 'applied', 'an invoice that the books name is paid');
SELECT is(pg_temp.take(pg_temp.event('evt_k6', 'customer.deleted', 3, 0, 'cus_3', '{"foreign": true}')), 'applied', 'the customer of a tenant is deleted');
DELETE FROM reported;

-- Invoices -----------------------------------------------------------------------------------------------------------

SELECT is(pg_temp.take(pg_temp.event('evt_i1', 'invoice.payment_failed', 2, 10, 'in_1')), 'applied', 'a payment fails');
SELECT is(pg_temp.take(pg_temp.event('evt_i2', 'invoice.payment_failed', 2, 5, 'in_1')), 'older', 'an older failure has no effect');
SELECT is(pg_temp.take(pg_temp.event('evt_i3', 'invoice.paid', 2, 10, 'in_1')), 'applied', 'the invoice is paid in the same second');
SELECT is(pg_temp.take(pg_temp.event('evt_i4', 'invoice.payment_failed', 2, 99, 'in_1')), 'older', 'a paid invoice stays paid');
SELECT results_eq('SELECT paid FROM reported', ARRAY[false, true], 'billing gets each change once');

-- All orders ---------------------------------------------------------------------------------------------------------

-- Two checkouts, the first card detached after the second began, an expired session, a repeated event: in all orders, with
-- methods looked up after each event or at the end, forwards or backwards.
CREATE TEMP TABLE story (n integer, tenant integer, event jsonb);
INSERT INTO story VALUES
	(1, 4, pg_temp.completed('evt_o1', 4, 10, 'cs_o1', 'seti_o1')),
	(2, 4, pg_temp.completed('evt_o2', 4, 20, 'cs_o2', 'seti_o2')),
	(3, 4, pg_temp.event('evt_o3', 'payment_method.detached', 4, 20, 'pm_o1')),
	(4, 4, pg_temp.event('evt_o4', 'checkout.session.expired', 4, 30, 'cs_o3')),
	(5, 4, pg_temp.completed('evt_o2', 4, 20, 'cs_o2', 'seti_o2')),
	(1, 5, pg_temp.completed('evt_p1', 5, 10, 'cs_p1', 'seti_p1')),
	(2, 5, pg_temp.event('evt_p2', 'payment_method.detached', 5, 10, 'pm_p1')),
	(3, 5, pg_temp.event('evt_p3', 'checkout.session.expired', 5, 12, 'cs_p1')),
	(4, 5, pg_temp.event('evt_p4', 'payment_method.detached', 5, 9, 'pm_p0')),
	(5, 5, pg_temp.event('evt_p2', 'payment_method.detached', 5, 10, 'pm_p1'));
CREATE FUNCTION pg_temp.play(p_tenant integer, steps integer[], variant integer) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result   text;
	step     integer;
	happened jsonb;
BEGIN
	FOREACH step IN ARRAY steps LOOP
		SELECT event INTO happened FROM pg_temp.story WHERE n = step AND tenant = p_tenant;
		PERFORM acp.stripe_event(happened);
		IF variant = 0 THEN
			PERFORM pg_temp.look_up(p_tenant);
		END IF;
	END LOOP;
	PERFORM pg_temp.look_up(p_tenant, variant = 2);
	result := pg_temp.state(p_tenant);
	RAISE SQLSTATE 'UNDO0' USING MESSAGE = result;
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
SELECT results_eq('SELECT DISTINCT pg_temp.play(4, steps, v) FROM orders, generate_series(0, 2) v', ARRAY['paid active pm_o2 paid'],
	'in each order the newer card is in use, and the end of the older one changes nothing');
SELECT results_eq('SELECT DISTINCT pg_temp.play(5, steps, v) FROM orders, generate_series(0, 2) v', ARRAY['paid none pm_p1 free'],
	'in each order the detached card is gone');
SELECT is(pg_temp.state(4), 'free none - free', 'each order was rolled back');

-- Cards --------------------------------------------------------------------------------------------------------------

-- What a customer says about its default payment method, in Stripe's form.
CREATE FUNCTION pg_temp.chosen(id text, n integer, at integer, method text, former text DEFAULT NULL) RETURNS jsonb LANGUAGE sql AS $$
	SELECT pg_temp.event(id, 'customer.updated', n, at, 'cus_' || n, jsonb_strip_nulls(jsonb_build_object('default_changed', true, 'former_told', true,
		'default_method', method, 'former_default', former)))
$$;
SELECT pg_temp.take(pg_temp.completed('evt_c1', 6, 10, 'cs_c1', 'seti_c1')), pg_temp.look_up(6) \gset ignored_
SELECT is(pg_temp.take(pg_temp.event('evt_c2', 'customer.updated', 6, 20, 'cus_6', '{"default_changed": false}')), 'unchanged', 'a new address does not concern the card');
SELECT is(pg_temp.take(pg_temp.chosen('evt_c3', 6, 30, NULL, 'pm_c1')), 'applied', 'the customer has no default any more');
SELECT is(pg_temp.state(6), 'paid none pm_c1 free', 'the tenant is treated as free');
SELECT is(pg_temp.take(pg_temp.chosen('evt_c4', 6, 40, 'pm_c2')), 'applied', 'a person chooses another card at Stripe');
SELECT is(pg_temp.state(6), 'paid active pm_c2 paid', 'the tenant is paid by it');
SELECT is(pg_temp.take(pg_temp.event('evt_c5', 'customer.updated', 6, 50, 'cus_6', '{"default_changed": true, "former_told": false}')), 'applied',
	'an event that does not say which default there was');
SELECT is(pg_temp.state(6), 'paid none pm_c2 free', 'concerns the newest one');
SELECT is(pg_temp.take(pg_temp.event('evt_c6', 'customer.deleted', 0, 60, 'cus_other', '{"customer": "cus_other"}')), 'unknown_tenant', 'another customer is deleted');
SELECT is(pg_temp.take(pg_temp.event('evt_c7', 'customer.deleted', 0, 60, 'cus_x', jsonb_build_object('customer', 'cus_x', 'tenant_uuid', pg_temp.t(6)))),
	'foreign', 'a second customer that somebody made for the tenant is deleted');
SELECT is(pg_temp.take(pg_temp.chosen('evt_c8', 6, 70, 'pm_c3')), 'applied', 'the tenant has a card again');
SELECT is(pg_temp.opened(6, 1, 'cs_c8', 3600)->>'checkout_url' IS NOT NULL, true, 'a session');
SELECT is(pg_temp.take(pg_temp.event('evt_c9', 'customer.deleted', 6, 80, 'cus_6')), 'applied', 'the customer is deleted');
SELECT is(pg_temp.state(6), 'paid none pm_c3 free', 'the tenant is treated as free');
SELECT is(pg_temp.take(pg_temp.event('evt_ca', 'payment_method.attached', 6, 75, 'pm_c4')), 'unknown_tenant', 'what comes late about this customer concerns nobody');
SELECT is(pg_temp.begin_(6), jsonb_build_object('verdict', 'customer', 'obligation', 'customer-' || pg_temp.t(6) || '-2'),
	'the next upgrade makes another customer, under another key');
SELECT ok(acp.outbox_done(pg_temp.t(6), 'customer-' || pg_temp.t(6) || '-2', 1, '{"ok": true, "data": {"customer": "cus_6b"}}'), 'it is made');
SELECT is(pg_temp.begin_(6)->>'customer', 'cus_6b', 'the next session is for the new customer');
SELECT is(pg_temp.take(pg_temp.completed('evt_cb', 6, 80, 'cs_cb', 'seti_cb', '{"customer": "cus_6b"}')), 'applied', 'a person saves a card, in the second of the deletion');
SELECT is(split_part(pg_temp.state(6), ' ', 2), 'active', 'the tenant is paid');

-- A card is replaced at Stripe: in all orders, with repeats, and with the old card looked up late.
INSERT INTO pg_temp.story VALUES
	(1, 7, pg_temp.completed('evt_q1', 7, 10, 'cs_q1', 'seti_q1')),
	(2, 7, pg_temp.event('evt_q2', 'payment_method.attached', 7, 20, 'pm_q2')),
	(3, 7, pg_temp.chosen('evt_q3', 7, 20, 'pm_q2', 'pm_q1')),
	(4, 7, pg_temp.event('evt_q4', 'payment_method.detached', 7, 20, 'pm_q1')),
	(5, 7, pg_temp.chosen('evt_q3', 7, 20, 'pm_q2', 'pm_q1')),
	-- The same without customer.updated, which the endpoint may not be subscribed to.
	(1, 8, pg_temp.completed('evt_r1', 8, 10, 'cs_r1', 'seti_r1')),
	(2, 8, pg_temp.event('evt_r2', 'payment_method.attached', 8, 20, 'pm_r2')),
	(3, 8, pg_temp.event('evt_r3', 'payment_method.detached', 8, 21, 'pm_r1')),
	(4, 8, pg_temp.event('evt_r4', 'payment_method.attached', 8, 5, 'pm_r0')),
	(5, 8, pg_temp.event('evt_r3', 'payment_method.detached', 8, 21, 'pm_r1')),
	-- The new default is removed again.
	(1, 9, pg_temp.completed('evt_s1', 9, 10, 'cs_s1', 'seti_s1')),
	(2, 9, pg_temp.chosen('evt_s2', 9, 20, 'pm_s2', 'pm_s1')),
	(3, 9, pg_temp.chosen('evt_s3', 9, 30, NULL, 'pm_s2')),
	(4, 9, pg_temp.event('evt_s4', 'payment_method.detached', 9, 30, 'pm_s2')),
	(5, 9, pg_temp.event('evt_s5', 'payment_method.attached', 9, 19, 'pm_s2'));
UPDATE acp.tenants SET stripe_customer_id = 'cus_9' WHERE tenant_id = pg_temp.t(9);
SELECT results_eq('SELECT DISTINCT pg_temp.play(7, steps, v) FROM orders, generate_series(0, 2) v', ARRAY['paid active pm_q2 paid'],
	'in each order the tenant stays paid by the new card');
SELECT results_eq('SELECT DISTINCT pg_temp.play(8, steps, v) FROM orders, generate_series(0, 2) v', ARRAY['paid active pm_r2 paid'],
	'in each order a card that was attached later replaces the detached one');
SELECT results_eq('SELECT DISTINCT pg_temp.play(9, steps, v) FROM orders, generate_series(0, 2) v', ARRAY['paid none pm_s2 free'],
	'in each order the last card is gone');
SELECT pg_temp.take(event) FROM pg_temp.story WHERE tenant = 8 AND n < 4 ORDER BY n \g /dev/null
SELECT pg_temp.look_up(8) \g /dev/null
SELECT is(pg_temp.state(8), 'paid active pm_r2 paid', 'the replacement is used');
SELECT is((SELECT params FROM acp.outbox WHERE obligation = 'default-' || pg_temp.t(8) || '-pm_r2'), '{"default_payment_method": "pm_r2"}',
	'and becomes the default, so that invoices are paid with it');

SELECT * FROM finish();
ROLLBACK;
