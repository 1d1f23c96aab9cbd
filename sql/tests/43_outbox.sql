-- 43_outbox.sql - obligations: queued, taken with a lease, done with their effect, given up, revived. All as acp_app.
-- tests/e2e/test_outbox.py checks that two processes never execute one obligation at the same time.
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

-- Shifts the program's clock so that this transaction happens at a moment. The ROLLBACK undoes it.
CREATE FUNCTION pg_temp.clock_at(moment timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('ALTER DATABASE %I SET acp.clock_offset = %L', current_database(), moment - now());
END
$$;
-- Shifts the clock until the next call. Runs as the owner of the database, because acp_app has no right to do it.
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
-- Takes one obligation, or the named one.
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
-- The table may hold other obligations; delete them for these tests.
DELETE FROM acp.outbox;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pg_temp TO acp_app;
SELECT pg_temp.later(0);

SELECT acp.tenant_create(pg_temp.t(n), 'leadscoring', 'outbox-' || n, n || '@example.com', CASE n WHEN 1 THEN 'One Inc' END)
FROM generate_series(1, 3) n;

-- Queueing -----------------------------------------------------------------------------------------------------------

SELECT ok(acp.outbox_put(pg_temp.t(1), 'thing-1', 'stripe.customers.create', '{"a":1}'), 'an obligation is queued');
SELECT ok(NOT acp.outbox_put(pg_temp.t(1), 'thing-1', 'stripe.customers.create', '{"a":2}'), 'an obligation is queued only once');
SELECT is((SELECT params FROM acp.outbox WHERE obligation = 'thing-1'), '{"a":1}', 'the first parameters are kept');

-- Taking -------------------------------------------------------------------------------------------------------------

SELECT is(pg_temp.take() - 'obliged_at', jsonb_build_object('tenant_id', pg_temp.t(1), 'obligation', 'thing-1', 'action',
	'stripe.customers.create', 'attempts', 1, 'params', '{"a":1}'::jsonb), 'an obligation has everything that the executor needs');
SELECT is(pg_temp.take(), NULL, 'no one else gets the obligation while an attempt runs');
SELECT is(pg_temp.take(1, 'thing-1'), NULL, 'no one else gets the obligation by name');
SELECT pg_temp.later(59);
SELECT is(pg_temp.take(), NULL, 'the obligation stays taken until the lease ends');
SELECT pg_temp.later(60);
SELECT is(pg_temp.take()->>'attempts', '2', 'after the lease the attempt counts as crashed, and the obligation is due again');
SELECT is(pg_temp.take(2, 'thing-1'), NULL, 'another tenant has no obligation with that name');

-- Failures -----------------------------------------------------------------------------------------------------------

SELECT ok(NOT acp.outbox_done(pg_temp.t(1), 'thing-1', 1, '{"ok": false, "retry_after": 1}'),
	'an attempt that outlived its lease is ignored');
SELECT ok(acp.outbox_done(pg_temp.t(1), 'thing-1', 2, '{"ok": false, "retry_after": 5, "error_code": "AWAY", "error": "e"}'),
	'a failed attempt is recorded');
SELECT is(pg_temp.state('thing-1'), '2 owed AWAY -', 'the error is stored');
SELECT is(pg_temp.take(), NULL, 'the obligation is not due at once');
SELECT isnt(pg_temp.take(1, 'thing-1'), NULL, 'the obligation can be taken by name at once');
SELECT ok(acp.outbox_done(pg_temp.t(1), 'thing-1', 3, '{"ok": false, "retry_after": 5, "error_code": "AWAY", "error": "e"}'), 'the next attempt fails');
SELECT pg_temp.later(65);
SELECT is(pg_temp.done(pg_temp.take(), '{"ok": false, "error_code": "resource_missing", "error": "no"}'), true,
	'a failure without a next attempt is recorded');
SELECT is(pg_temp.state('thing-1'), '4 dead resource_missing -', 'the obligation is dead');
SELECT pg_temp.later(100000);
SELECT is(pg_temp.take(), NULL, 'a dead obligation is not taken');
SELECT is((acp.outbox_list('{"which": "dead", "limit": 10}')->'obligations'->0) - '{outbox_id,created_at,due_at}'::text[],
	jsonb_build_object('tenant_id', pg_temp.t(1), 'obligation', 'thing-1', 'action', 'stripe.customers.create', 'attempts', 4,
		'error_code', 'resource_missing', 'error', 'no', 'state', 'dead'), 'the operator sees the dead obligation');

-- Revival ------------------------------------------------------------------------------------------------------------

SELECT is(acp.outbox_retry(NULL), 1, 'dead obligations are revived');
SELECT is(acp.outbox_retry(NULL), 0, 'dead obligations are revived only once');
SELECT is(pg_temp.take()->>'attempts', '1', 'a revived obligation has all attempts again');
SELECT is(acp.outbox_retry((SELECT outbox_id FROM acp.outbox)), 0, 'a running obligation is not retried');
SELECT ok(NOT acp.outbox_drop((SELECT outbox_id FROM acp.outbox)), 'a running obligation cannot be dropped');

-- Completion ---------------------------------------------------------------------------------------------------------

SELECT pg_temp.later(100061);
SELECT is(pg_temp.take()->>'attempts', '2', 'a second worker has taken the obligation');
SELECT ok(acp.outbox_done(pg_temp.t(1), 'thing-1', 1, '{"ok": true, "data": {"customer": "cus_1"}}'),
	'a success counts, even after the lease');
SELECT is((SELECT stripe_customer_id FROM acp.tenants WHERE tenant_id = pg_temp.t(1)), 'cus_1', 'the success has its effect');
SELECT ok(NOT acp.outbox_done(pg_temp.t(1), 'thing-1', 2, '{"ok": true, "data": {"customer": "cus_2"}}'), 'the success is recorded only once');
SELECT is((SELECT stripe_customer_id FROM acp.tenants WHERE tenant_id = pg_temp.t(1)), 'cus_1', 'the effect happens only once');

-- Customers ----------------------------------------------------------------------------------------------------------

SELECT is(acp.outbox_customer(pg_temp.t(1)), NULL, 'a tenant with a customer needs no obligation');
SELECT is(acp.outbox_customer(pg_temp.t(2)), 'customer-' || pg_temp.t(2), 'a tenant without a customer gets an obligation');
SELECT acp.outbox_put(pg_temp.t(n), 'billing-' || n, 'stripe.invoices.create', '{"amount": 100}') FROM generate_series(1, 2) n;
SELECT is(pg_temp.take(1, 'billing-1')->'params', '{"amount": 100, "customer": "cus_1"}', 'an invoice gets its customer when it is taken');
SELECT is((SELECT params->>'customer' FROM acp.outbox WHERE tenant_id = pg_temp.t(1) AND obligation = 'billing-1'), 'cus_1',
	'the invoice keeps that customer, because another customer would be another invoice');
SELECT is(pg_temp.take(2, 'billing-2'), NULL, 'an invoice without a customer waits');
SELECT ok(pg_temp.done(pg_temp.take(2, 'customer-' || pg_temp.t(2)), '{"ok": true, "data": {"customer": "cus_22"}}'), 'the customer is created');
SELECT is(pg_temp.take(2, 'billing-2')->'params'->>'customer', 'cus_22', 'the waiting invoice is due');

-- Replaced cards, and dropping ---------------------------------------------------------------------------------------

SELECT acp.outbox_put(pg_temp.t(1), 'default-old', 'stripe.customers.update', '{"default_payment_method": "pm_old"}');
UPDATE acp.tenants SET stripe_payment_method = 'pm_new' WHERE tenant_id = pg_temp.t(1);
SELECT is(pg_temp.take(), NULL, 'a replaced card does not become the default');
SELECT is(pg_temp.state('default-old'), '0 done - {"superseded": true}', 'the obligation for the replaced card ends without an effect');

SELECT acp.outbox_put(pg_temp.t(3), 'thing-3', 'stripe.customers.update', '{"customer": "cus_3", "name": "x"}');
SELECT ok(pg_temp.done(pg_temp.take(3, 'thing-3'), '{"ok": false, "retry_after": 1}'), 'an attempt fails');
SELECT ok(acp.outbox_drop((SELECT outbox_id FROM acp.outbox WHERE obligation = 'thing-3'))
	AND pg_temp.state('thing-3') LIKE '1 done % {"dropped": true}', 'a dropped obligation is done');

SELECT * FROM finish();
ROLLBACK;
