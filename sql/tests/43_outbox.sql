-- 43_outbox.sql - what Repo C owes: put, taken with a lease, done with its effect, given up, revived. All as acp_app.
-- That two processes never execute one obligation at a time is shown by tests/e2e/test_outbox.py.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(40);

-- Shifts the program's clock so that this transaction happens at a moment. Undone by the ROLLBACK.
CREATE FUNCTION pg_temp.clock_at(moment timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('ALTER DATABASE %I SET acp.clock_offset = %L', current_database(), moment - now());
END
$$;
-- A shift that lasts until the next: the owner of the database makes it, acp_app may not.
CREATE FUNCTION pg_temp.later(seconds integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	RESET ROLE;
	PERFORM pg_temp.clock_at(timestamptz '2031-05-01 12:00:00+00' + make_interval(secs => seconds));
	SET LOCAL ROLE acp_app;
END
$$;
CREATE FUNCTION pg_temp.t(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('43434343-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
$$;
-- Takes one obligation, or the one named.
CREATE FUNCTION pg_temp.take() RETURNS jsonb LANGUAGE sql AS $$ SELECT acp.outbox_take(1, interval '60 s')->0 $$;
CREATE FUNCTION pg_temp.take(n integer, name text) RETURNS jsonb LANGUAGE sql AS $$
	SELECT acp.outbox_take(1, interval '60 s', pg_temp.t(n), name)->0
$$;
CREATE FUNCTION pg_temp.done(taken jsonb, outcome jsonb) RETURNS boolean LANGUAGE sql AS $$
	SELECT acp.outbox_done((taken->>'tenant_id')::uuid, taken->>'obligation', (taken->>'attempts')::integer, outcome)
$$;
CREATE FUNCTION pg_temp.state(name text) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', attempts, CASE WHEN dead THEN 'dead' WHEN done_at IS NOT NULL THEN 'done' ELSE 'owed' END,
		coalesce(error_code, '-'), coalesce(result::text, '-'))
	FROM acp.outbox WHERE obligation = name
$$;
-- The tables may hold what others owe; here they are empty.
DELETE FROM acp.outbox;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pg_temp TO acp_app;
SELECT pg_temp.later(0);

SELECT acp.tenant_create(pg_temp.t(n), 'leadscoring', 'outbox-' || n, n || '@example.com', CASE n WHEN 1 THEN 'One Inc' END)
FROM generate_series(1, 3) n;

-- Putting ------------------------------------------------------------------------------------------------------------

SELECT ok(acp.outbox_put(pg_temp.t(1), 'thing-1', 'stripe.customers.create', '{"a":1}'), 'what is owed is put');
SELECT ok(NOT acp.outbox_put(pg_temp.t(1), 'thing-1', 'stripe.customers.create', '{"a":2}'), 'and put once');
SELECT is((SELECT params FROM acp.outbox WHERE obligation = 'thing-1'), '{"a":1}', 'the first one stands');

-- Taking -------------------------------------------------------------------------------------------------------------

SELECT is(pg_temp.take() - 'obliged_at', jsonb_build_object('tenant_id', pg_temp.t(1), 'obligation', 'thing-1', 'action',
	'stripe.customers.create', 'attempts', 1, 'params', '{"a":1}'::jsonb), 'an obligation as its executor gets it');
SELECT is(pg_temp.take(), NULL, 'while an attempt runs nobody else gets it');
SELECT is(pg_temp.take(1, 'thing-1'), NULL, 'by its name neither');
SELECT pg_temp.later(59);
SELECT is(pg_temp.take(), NULL, 'until the lease is over');
SELECT pg_temp.later(60);
SELECT is(pg_temp.take()->>'attempts', '2', 'then the attempt counts as crashed, and it is due again');
SELECT is(pg_temp.take(2, 'thing-1'), NULL, 'another tenant has no obligation of that name');

-- Failing ------------------------------------------------------------------------------------------------------------

SELECT ok(NOT acp.outbox_done(pg_temp.t(1), 'thing-1', 1, '{"ok": false, "retry_after": 1}'),
	'an attempt that outlived its lease has no say');
SELECT ok(acp.outbox_done(pg_temp.t(1), 'thing-1', 2, '{"ok": false, "retry_after": 5, "error_code": "AWAY", "error": "e"}'),
	'an attempt that failed says so');
SELECT is(pg_temp.state('thing-1'), '2 owed AWAY -', 'what went wrong is kept');
SELECT is(pg_temp.take(), NULL, 'it is not due at once');
SELECT isnt(pg_temp.take(1, 'thing-1'), NULL, 'but whoever needs it need not wait');
SELECT ok(acp.outbox_done(pg_temp.t(1), 'thing-1', 3, '{"ok": false, "retry_after": 5, "error_code": "AWAY", "error": "e"}'), 'it failed again');
SELECT pg_temp.later(65);
SELECT is(pg_temp.done(pg_temp.take(), '{"ok": false, "error_code": "resource_missing", "error": "no"}'), true,
	'a failure without a next attempt');
SELECT is(pg_temp.state('thing-1'), '4 dead resource_missing -', 'is a dead letter');
SELECT pg_temp.later(100000);
SELECT is(pg_temp.take(), NULL, 'that nobody takes');
SELECT is((acp.outbox_list('{"which": "dead", "limit": 10}')->'obligations'->0) - '{outbox_id,created_at,due_at}'::text[],
	jsonb_build_object('tenant_id', pg_temp.t(1), 'obligation', 'thing-1', 'action', 'stripe.customers.create', 'attempts', 4,
		'error_code', 'resource_missing', 'error', 'no', 'state', 'dead'), 'and that the operator sees');

-- Reviving -----------------------------------------------------------------------------------------------------------

SELECT is(acp.outbox_retry(NULL), 1, 'dead letters are revived');
SELECT is(acp.outbox_retry(NULL), 0, 'once');
SELECT is(pg_temp.take()->>'attempts', '1', 'and have all their attempts again');
SELECT is(acp.outbox_retry((SELECT outbox_id FROM acp.outbox)), 0, 'one that is being executed is left alone');
SELECT ok(NOT acp.outbox_drop((SELECT outbox_id FROM acp.outbox)), 'and cannot be dropped');

-- Done ---------------------------------------------------------------------------------------------------------------

SELECT pg_temp.later(100061);
SELECT is(pg_temp.take()->>'attempts', '2', 'a second worker has it');
SELECT ok(acp.outbox_done(pg_temp.t(1), 'thing-1', 1, '{"ok": true, "data": {"customer": "cus_1"}}'),
	'an attempt that did it counts, also after its lease');
SELECT is((SELECT stripe_customer_id FROM acp.tenants WHERE tenant_id = pg_temp.t(1)), 'cus_1', 'with its effect');
SELECT ok(NOT acp.outbox_done(pg_temp.t(1), 'thing-1', 2, '{"ok": true, "data": {"customer": "cus_2"}}'), 'once');
SELECT is((SELECT stripe_customer_id FROM acp.tenants WHERE tenant_id = pg_temp.t(1)), 'cus_1', 'and the effect too');

-- Customers ----------------------------------------------------------------------------------------------------------

SELECT is(acp.outbox_customer(pg_temp.t(1)), NULL, 'who has a customer is owed none');
SELECT is(acp.outbox_customer(pg_temp.t(2)), 'customer-' || pg_temp.t(2), 'who has none is owed one');
SELECT acp.outbox_put(pg_temp.t(n), 'billing-' || n, 'stripe.invoices.create', '{"amount": 100}') FROM generate_series(1, 2) n;
SELECT is(pg_temp.take(1, 'billing-1')->'params', '{"amount": 100, "customer": "cus_1"}', 'an invoice gets its customer when it is taken');
SELECT is((SELECT params->>'customer' FROM acp.outbox WHERE tenant_id = pg_temp.t(1) AND obligation = 'billing-1'), 'cus_1',
	'and keeps it: another customer by then would be another invoice');
SELECT is(pg_temp.take(2, 'billing-2'), NULL, 'without a customer it waits');
SELECT ok(pg_temp.done(pg_temp.take(2, 'customer-' || pg_temp.t(2)), '{"ok": true, "data": {"customer": "cus_22"}}'), 'the customer is made');
SELECT is(pg_temp.take(2, 'billing-2')->'params'->>'customer', 'cus_22', 'and the invoice goes on');

-- Cards that were replaced, and dropping ----------------------------------------------------------------------------

SELECT acp.outbox_put(pg_temp.t(1), 'default-old', 'stripe.customers.update', '{"default_payment_method": "pm_old"}');
UPDATE acp.tenants SET stripe_payment_method = 'pm_new' WHERE tenant_id = pg_temp.t(1);
SELECT is(pg_temp.take(), NULL, 'a card that was replaced does not become the default');
SELECT is(pg_temp.state('default-old'), '0 done - {"superseded": true}', 'which has lost its point');

SELECT acp.outbox_put(pg_temp.t(3), 'thing-3', 'stripe.customers.update', '{"customer": "cus_3", "name": "x"}');
SELECT ok(pg_temp.done(pg_temp.take(3, 'thing-3'), '{"ok": false, "retry_after": 1}'), 'an attempt failed');
SELECT ok(acp.outbox_drop((SELECT outbox_id FROM acp.outbox WHERE obligation = 'thing-3'))
	AND pg_temp.state('thing-3') LIKE '1 done % {"dropped": true}', 'what is dropped is owed no more');

SELECT * FROM finish();
ROLLBACK;
