-- 20_keys.sql - tenants, keys, authentication, onboarding. All calls are made as acp_app, the role of the program.
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

CREATE FUNCTION pg_temp.hash(key text) RETURNS bytea LANGUAGE sql AS $$ SELECT sha256(convert_to(key, 'UTF8')) $$;

CREATE FUNCTION pg_temp.caller(key text) RETURNS uuid LANGUAGE sql AS $$ SELECT tenant_id
	FROM acp.authenticate(pg_temp.hash(key), 0) $$;

SELECT '11111111-0000-4000-8000-000000000001' AS tenant, '11111111-0000-4000-9000-000000000001' AS key \gset
SELECT pg_temp.clock_at('2027-05-15 12:00:00+00') \gset ignored_

-- Tenants ------------------------------------------------------------------------------------------------------------

SET LOCAL ROLE acp_app;
SELECT ok(acp.tenant_create(:'tenant', 'leadscoring', 'agent:one', 'one@example.com', 'One Ltd'),
	'a tenant is created');
SELECT results_eq($$
	SELECT agent_id, billing_email, organization_name, product, tier, payment_method_status, stripe_customer_id,
		calls_limit,
		status, onboarded_at, upgraded_at, updated_at
	FROM acp.tenants WHERE tenant_id = '11111111-0000-4000-8000-000000000001'$$, $$VALUES
	('agent:one', 'one@example.com', 'One Ltd', 'leadscoring', 'free', 'none', NULL::text, NULL::integer, 'active',
		'2027-05-15 12:00:00+00'::timestamptz, NULL::timestamptz, '2027-05-15 12:00:00+00'::timestamptz)$$,
	'a new tenant is free, active and has no payment method');
SELECT is((SELECT tenant_id FROM acp.agents WHERE agent_id = 'agent:one'), :'tenant', 'the agent_id leads to the tenant');
SELECT ok(NOT acp.tenant_create(gen_random_uuid(), 'leadscoring', 'agent:one', 'two@example.com', NULL),
	'a second tenant with the agent_id is refused');
SELECT is((SELECT count(*) FROM acp.tenants WHERE billing_email = 'two@example.com'), 0::bigint,
	'the refusal leaves no second tenant');
SELECT ok(acp.tenant_create(gen_random_uuid(), 'leadscoring', 'Agent:one', 'one@example.com', NULL),
	'agent ids are case-sensitive; an e-mail address may have many tenants');
SELECT throws_ok($$SELECT acp.tenant_create(gen_random_uuid(), 'x', 'not allowed', 'a@example.com', NULL)$$,
	'23514', NULL,
	'an agent_id with a space is refused');
SELECT throws_ok($$SELECT acp.tenant_create(gen_random_uuid(), 'x', 'agent:bad' || chr(10), 'a@example.com', NULL)$$,
	'23514', NULL,
	'an agent_id with a trailing newline is refused');

SELECT ok(NOT acp.tenant_update(gen_random_uuid(), 'paid', NULL, NULL, NULL), 'an unknown tenant cannot be changed');
SELECT ok(acp.tenant_update(:'tenant', NULL, NULL, NULL, 5), 'the free calls of a tenant are changed');
SELECT results_eq($$SELECT tier, payment_method_status, status, calls_limit, upgraded_at
	FROM acp.tenants WHERE agent_id = 'agent:one'$$, $$VALUES ('free', 'none', 'active', 5, NULL::timestamptz)$$,
	'the change leaves other columns alone');
SELECT throws_ok(format('SELECT acp.tenant_update(%L, ''gold'', NULL, NULL, NULL)', :'tenant'), '23514', NULL,
	'an unknown tier is refused');
SELECT throws_ok(format('SELECT acp.tenant_update(%L, NULL, NULL, NULL, -2)', :'tenant'), '23514', NULL,
	'a negative allowance is refused');

SELECT is(acp.effective_tier(tier, method), expected, tier || ' with payment method ' || method)
FROM (VALUES ('free', 'none', 'free'), ('free', 'active', 'free'), ('paid', 'none', 'free'),
	('paid', 'setup_pending', 'free'),
	('paid', 'active', 'paid')) t(tier, method, expected);

-- Keys ---------------------------------------------------------------------------------------------------------------

SELECT lives_ok(format($$SELECT acp.key_create(%L, %L, pg_temp.hash('a'), 'ock_aaaaaaaa', 'first',
	'{manage.read,manage.domain}', NULL)$$,
	:'tenant', :'key'), 'a key is stored');
SELECT results_eq($$SELECT key_hash = pg_temp.hash('a'), key_prefix, name, scopes, created_at, expires_at, revoked_at
	FROM acp.api_keys WHERE api_key_id = '11111111-0000-4000-9000-000000000001'$$, $$VALUES
	(true, 'ock_aaaaaaaa', 'first', '{manage.read,manage.domain}'::text[], '2027-05-15 12:00:00+00'::timestamptz,
		NULL::timestamptz, NULL::timestamptz)$$, 'a key is stored with its hash and display prefix only');
SELECT is(pg_temp.refusal(format($$SELECT acp.key_create(%L, gen_random_uuid(), pg_temp.hash('b'), 'ock_bbbbbbbb', 'n',
	'{}',
	'2027-05-15 12:00:00+00')$$, :'tenant')), ARRAY['ACP01', 'VALIDATION_ERROR', '/expires_at'],
	'an expired key is refused');
SELECT is(pg_temp.refusal($$SELECT acp.key_create(gen_random_uuid(), gen_random_uuid(), pg_temp.hash('b'),
	'ock_bbbbbbbb', 'n', '{}', NULL)$$),
	ARRAY['ACP01', 'NOT_FOUND', ''], 'a key of an unknown tenant is refused');
SELECT throws_ok(format($$SELECT acp.key_create(%L, gen_random_uuid(), pg_temp.hash('a'), 'ock_aaaaaaaa', 'n',
	'{}', NULL)$$, :'tenant'),
	'23505', NULL, 'the same key cannot be stored twice');
SELECT is((SELECT count(*) FROM acp.key_lookup WHERE tenant_id = :'tenant'), 1::bigint, 'a refused key leaves no row');
SELECT lives_ok(format($$SELECT acp.key_create(%L, '11111111-0000-4000-9000-000000000002', pg_temp.hash('b'),
	'ock_bbbbbbbb', 'second',
	'{}', '2027-05-15 13:00:00+00')$$, :'tenant'), 'a tenant has a second key with an expiry');

-- Authentication -----------------------------------------------------------------------------------------------------

SELECT results_eq($$SELECT ts, tenant_id, api_key_id, key_prefix, scopes, tier
	FROM acp.authenticate(pg_temp.hash('a'), 0)$$, $$VALUES
	('2027-05-15 12:00:00+00'::timestamptz, '11111111-0000-4000-8000-000000000001'::uuid,
	'11111111-0000-4000-9000-000000000001'::uuid,
	 'ock_aaaaaaaa', '{manage.read,manage.domain}'::text[], 'free')$$, 'a usable key is found');
SELECT results_eq($$SELECT ts, tenant_id, api_key_id, key_prefix, scopes, tier, rate_limit, policed FROM acp.authenticate(pg_temp.hash('nobody''s'), 0)$$, $$VALUES
	('2027-05-15 12:00:00+00'::timestamptz, NULL::uuid, NULL::uuid, NULL::text, NULL::text[], NULL::text, NULL::integer,
	 NULL::boolean)$$, 'an unknown key gives one row with the clock and no tenant');
SELECT is(pg_temp.caller(NULL), NULL, 'a null hash gives no tenant');
SELECT is(pg_temp.caller('b'), :'tenant'::uuid, 'a key is usable before its expiry');
RESET ROLE;
SELECT pg_temp.clock_at('2027-05-15 12:59:59.999999+00') \gset ignored_
SELECT is(pg_temp.caller('b'), :'tenant'::uuid, 'a key is usable up to the last microsecond');
SELECT pg_temp.clock_at('2027-05-15 13:00:00+00') \gset ignored_
SELECT is(pg_temp.caller('b'), NULL, 'a key is not usable from expires_at on');
SELECT is(pg_temp.caller('a'), :'tenant'::uuid, 'the other key is still usable');

SET LOCAL ROLE acp_app;
SELECT ok(acp.tenant_update(:'tenant', NULL, NULL, 'suspended', NULL), 'a tenant is suspended');
SELECT is(pg_temp.caller('a'), NULL, 'the key of a suspended tenant is refused');
SELECT ok(acp.tenant_update(:'tenant', NULL, NULL, 'closed', NULL), 'a tenant is closed');
SELECT is(pg_temp.caller('a'), NULL, 'the key of a closed tenant is refused');
SELECT ok(acp.tenant_update(:'tenant', NULL, NULL, 'active', NULL), 'a tenant is active again');
SELECT is(pg_temp.caller('a'), :'tenant'::uuid, 'the key of a reactivated tenant is usable');

SELECT ok(acp.tenant_update(:'tenant', 'paid', NULL, NULL, NULL), 'a tenant is upgraded');
SELECT is((acp.authenticate(pg_temp.hash('a'), 0)).tier, 'free', 'paid without a payment method is treated as free');
SELECT ok(acp.tenant_update(:'tenant', NULL, 'active', NULL, NULL), 'a payment method becomes active');
SELECT is((acp.authenticate(pg_temp.hash('a'), 0)).tier, 'paid', 'paid with a payment method is paid');
RESET ROLE;
SELECT pg_temp.clock_at('2027-06-01 00:00:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT ok(acp.tenant_update(:'tenant', 'free', 'none', NULL, NULL) AND acp.tenant_update(:'tenant',
	'paid', NULL, NULL, NULL),
	'a tenant is downgraded and upgraded again');
SELECT results_eq($$SELECT upgraded_at, updated_at FROM acp.tenants WHERE agent_id = 'agent:one'$$,
	$$VALUES ('2027-05-15 13:00:00+00'::timestamptz, '2027-06-01 00:00:00+00'::timestamptz)$$,
	'upgraded_at keeps the first time');

SELECT ok(acp.key_revoke(:'key'), 'a key is revoked');
SELECT is(pg_temp.caller('a'), NULL, 'a revoked key is refused');
RESET ROLE;
SELECT pg_temp.clock_at('2027-06-02 00:00:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT ok(NOT acp.key_revoke(:'key'), 'a key is revoked once');
SELECT is((SELECT revoked_at FROM acp.api_keys WHERE api_key_id = :'key'), '2027-06-01 00:00:00+00',
	'a second revocation keeps the time of the first');
SELECT ok(NOT acp.key_revoke(gen_random_uuid()), 'an unknown key cannot be revoked');

-- Onboarding ---------------------------------------------------------------------------------------------------------

-- One request: agent, Idempotency-Key (null: none), fingerprint of the body, number of the attempt, product.
CREATE FUNCTION pg_temp.apply(agent text, idem_key text, asked text, attempt integer,
	product text DEFAULT 'leadscoring', tenant integer DEFAULT NULL, customer boolean DEFAULT NULL,
	OUT verdict text, OUT tenant_id uuid, OUT api_key_id uuid, OUT salt text, OUT created_at timestamptz)
LANGUAGE sql AS $$
	SELECT o.* FROM acp.onboard(jsonb_strip_nulls(jsonb_build_object('product', product, 'agent_id', agent, 'email',
	'a@example.com',
			'tenant_id', '22222222-0000-4000-8000-' || lpad(coalesce(tenant, attempt)::text, 12, '0'),
			'api_key_id', '22222222-0000-4000-9000-' || lpad(attempt::text, 12, '0'),
			'key_prefix', 'ock_' || lpad(attempt::text, 8, '0'), 'key_name', 'first key', 'salt', 'salt' || attempt,
			'scopes', '["manage.read", "manage.domain"]'::jsonb, 'idempotency_key', idem_key, 'customer', customer,
			'fingerprint', encode(sha256(convert_to(asked, 'UTF8')), 'hex'))),
		pg_temp.hash('onboarded ' || attempt),
		jsonb_build_object('event_id', '22222222-0000-4000-a000-' || lpad(attempt::text, 12, '0'),
		'request_id', gen_random_uuid(),
			'tenant_id', '00000000-0000-0000-0000-000000000000', 'integration', 'pgtap', 'action',
			'onboard.' || product,
			'actor_type', 'anonymous', 'status', 'success', 'latency_ms', 1.5, 'dry_run', false, 'billable', false,
			'billing_quantity', 1)) o
$$;
CREATE FUNCTION pg_temp.id(kind text, attempt integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('22222222-0000-4000-' || kind || '-' || lpad(attempt::text, 12, '0'))::uuid
$$;
CREATE TEMP VIEW traces AS
	SELECT (SELECT count(*) FROM acp.tenants WHERE tenant_id::text LIKE '22222222%') AS tenants,
		(SELECT count(*) FROM acp.api_keys WHERE api_key_id::text LIKE '22222222%') AS keys,
		(SELECT count(*) FROM acp.idempotency WHERE action LIKE 'onboard.%') AS idempotency,
		(SELECT count(*) FROM acp.audit_logs WHERE integration = 'pgtap') AS audit_rows;

SELECT results_eq($$SELECT * FROM pg_temp.apply('new:1', 'idem', 'body', 1)$$,
	$$VALUES ('created', pg_temp.id('8000', 1), pg_temp.id('9000', 1), 'salt1',
	'2027-06-02 00:00:00+00'::timestamptz)$$, 'onboard: created');
SELECT results_eq('TABLE traces', 'VALUES (1::bigint, 1::bigint, 1::bigint, 1::bigint)',
	'onboarding stores tenant, key, idempotency key and audit row');
SELECT results_eq($$SELECT tenant_id, api_key_id, key_prefix, scopes, tier
	FROM acp.authenticate(pg_temp.hash('onboarded 1'), 0)$$, $$VALUES
	(pg_temp.id('8000', 1), pg_temp.id('9000', 1), 'ock_00000001', '{manage.read,manage.domain}'::text[], 'free')$$,
	'the new key is usable');
SELECT results_eq($$SELECT tenant_id, action, status, billable, ts, result_meta FROM acp.audit_logs
	WHERE event_id = pg_temp.id('a000', 1)$$,
	$$VALUES ('00000000-0000-0000-0000-000000000000'::uuid, 'onboard.leadscoring', 'success', false,
	'2027-06-02 00:00:00+00'::timestamptz,
		jsonb_build_object('resource_type', 'tenant', 'resource_id', pg_temp.id('8000', 1)))$$,
	'the audit row has the nil tenant and names the new tenant');
SELECT results_eq($$SELECT tenant_id, state, reply, created_at, expires_at FROM acp.idempotency WHERE key = 'idem'$$,
	$$VALUES
	('00000000-0000-0000-0000-000000000000'::uuid, 'done', jsonb_build_object('tenant_id', pg_temp.id('8000', 1),
		'api_key_id', pg_temp.id('9000', 1), 'salt', 'salt1'), '2027-06-02 00:00:00+00'::timestamptz,
		'2027-06-03 00:00:00+00'::timestamptz)$$,
	'the stored reply can rebuild the answer for a day and holds no key');
SELECT is_empty($$SELECT 1 FROM acp.usage_counters WHERE action LIKE 'onboard.%'$$, 'an onboarding is not usage');

RESET ROLE;
SELECT pg_temp.clock_at('2027-06-02 23:59:59.999999+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT results_eq($$SELECT * FROM pg_temp.apply('new:1', 'idem', 'body', 2)$$,
	$$VALUES ('replay', pg_temp.id('8000', 1), pg_temp.id('9000', 1), 'salt1', '2027-06-02 00:00:00+00'::timestamptz)$$,
	'a repeat within 24 hours with the same key and body gets ids, salt and time of the first call');
SELECT results_eq('TABLE traces', 'VALUES (1::bigint, 1::bigint, 1::bigint, 2::bigint)',
	'the repeat adds one audit row and nothing else');
SELECT is((SELECT result_meta->>'resource_id' FROM acp.audit_logs WHERE event_id = pg_temp.id('a000', 2)),
	pg_temp.id('8000', 1)::text,
	'the row of the repeat names the tenant of the first call');
SELECT results_eq($$SELECT verdict, tenant_id, api_key_id FROM pg_temp.apply('new:2', 'idem', 'another body', 3)$$,
	$$VALUES ('mismatch', NULL::uuid, NULL::uuid)$$, 'same Idempotency-Key, other body: mismatch');
SELECT results_eq($$SELECT verdict, tenant_id, api_key_id FROM pg_temp.apply('new:1', NULL, 'body', 4)$$,
	$$VALUES ('taken', NULL::uuid, NULL::uuid)$$, 'same agent_id without a key: taken');
SELECT is((SELECT verdict FROM pg_temp.apply('new:1', 'other idem', 'body', 5)), 'taken', 'same agent_id with another key: taken');
SELECT results_eq('TABLE traces', 'VALUES (1::bigint, 1::bigint, 1::bigint, 2::bigint)',
	'refused calls leave nothing: the caller writes their audit row');
SELECT is((SELECT verdict FROM pg_temp.apply('new:6', 'idem', 'body 6', 6, 'other')), 'created',
	'Idempotency-Keys are separate per product');
SELECT is((SELECT verdict FROM pg_temp.apply('new:7', NULL, 'body', 7)), 'created', 'without a key: created');
SELECT results_eq('TABLE traces', 'VALUES (3::bigint, 3::bigint, 2::bigint, 4::bigint)',
	'nothing is remembered without a key');

RESET ROLE;
SELECT pg_temp.clock_at('2027-06-03 00:00:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT is((SELECT verdict FROM pg_temp.apply('new:1', 'idem', 'body', 8)), 'taken',
	'after 24 hours the key is free again, but the agent_id is taken');
SELECT results_eq($$SELECT verdict, tenant_id FROM pg_temp.apply('new:9', 'idem', 'another body', 9)$$,
	$$VALUES ('created', pg_temp.id('8000', 9))$$, 'after 24 hours another request may use the key');
SELECT results_eq($$SELECT reply->>'salt', expires_at FROM acp.idempotency WHERE key = 'idem'
	AND action = 'onboard.leadscoring'$$,
	$$VALUES ('salt9', '2027-06-04 00:00:00+00'::timestamptz)$$, 'the new entry replaces the old one');
SELECT results_eq('TABLE traces', 'VALUES (4::bigint, 4::bigint, 2::bigint, 5::bigint)', 'that call has one audit row');

SELECT results_eq($$SELECT * FROM pg_temp.apply('new:9', 'idem', 'another body', 9)$$,
	$$VALUES ('created', pg_temp.id('8000', 9), pg_temp.id('9000', 9), 'salt9', '2027-06-03 00:00:00+00'::timestamptz)$$,
	'a repeat after a lost answer gets the same answer');
SELECT results_eq($$SELECT * FROM pg_temp.apply('new:7', NULL, 'body 7', 7)$$,
	$$VALUES ('created', pg_temp.id('8000', 7), pg_temp.id('9000', 7), 'salt7',
	'2027-06-02 23:59:59.999999+00'::timestamptz)$$, 'a repeat without a key gets the same answer');
SELECT is((SELECT verdict FROM pg_temp.apply('new:1', NULL, 'body', 7)), 'taken', 'the same api_key_id for another agent is refused');
SELECT is((SELECT verdict FROM pg_temp.apply('new:7', NULL, 'body 7', 8, tenant => 7)), 'taken', 'another api_key_id is refused, even with the tenant id from a hub');
SELECT is((SELECT verdict FROM pg_temp.apply('new:9', 'idem', 'another body', 8, tenant => 9)), 'replay', 'a repeat with an Idempotency-Key is replayed');
SELECT results_eq('TABLE traces', 'VALUES (4::bigint, 4::bigint, 2::bigint, 6::bigint)',
	'nothing is done twice: only the replay left a row');

-- A request that is reported as failed because the database did not answer
SELECT ok(acp.onboard_give_up(pg_temp.id('9000', 11)), 'a request that has not arrived is given up');
SELECT throws_ok($$SELECT pg_temp.apply('new:11', 'idem 11', 'body', 11)$$, 'ACP01', NULL, 'a given-up request fails when it arrives');
SELECT ok(acp.onboard_give_up(pg_temp.id('9000', 11)), 'giving up twice changes nothing');
SELECT results_eq('TABLE traces', 'VALUES (4::bigint, 4::bigint, 2::bigint, 6::bigint)', 'a given-up request leaves nothing');
SELECT ok(NOT acp.onboard_give_up(pg_temp.id('9000', 9)), 'a request that created its tenant is not given up');
SELECT ok(NOT acp.onboard_give_up(pg_temp.id('9000', 8)), 'a request that replayed another is not given up');
SELECT ok(acp.onboard_give_up(pg_temp.id('9000', 3)), 'a refused request is given up: it has no row yet');
SELECT is((SELECT verdict FROM pg_temp.apply('new:9', 'idem', 'another body', 8, tenant => 9)), 'replay', 'the replay is repeated');
SELECT is((SELECT verdict FROM pg_temp.apply('new:11', 'idem 11', 'body', 12)), 'created', 'the agent asks again and is onboarded');
SELECT results_eq('TABLE traces', 'VALUES (5::bigint, 5::bigint, 3::bigint, 7::bigint)', 'the new request has one audit row; the replay left no second one');

SELECT throws_ok(format($$SELECT acp.onboard(jsonb_build_object('product', 'p', 'agent_id', 'new:10', 'email',
	'a@example.com',
	'tenant_id', gen_random_uuid(), 'api_key_id', gen_random_uuid(), 'key_prefix', 'ock_00000010', 'key_name', 'n',
	'salt', 's',
	'scopes', '[]'::jsonb), pg_temp.hash('ten'), to_jsonb(a)) FROM acp.audit_logs a WHERE event_id = %L$$,
	pg_temp.id('a000', 9)),
	'23505', NULL, 'a repeated event is refused');
SELECT is((SELECT count(*) FROM acp.agents WHERE agent_id = 'new:10'), 0::bigint, 'the refusal rolls the tenant back');

-- The customer of a new tenant. Only the process that onboards the tenant may create it within the first 2 seconds.
CREATE FUNCTION pg_temp.due(name text DEFAULT NULL) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM jsonb_array_elements(acp.outbox_take(1000, interval '1 s', pg_temp.id('8000', 13), name)) o
	WHERE o->>'obligation' = 'customer-' || pg_temp.id('8000', 13)
$$;
SELECT is((SELECT verdict FROM pg_temp.apply('new:13', NULL, 'body 13', 13, customer => true)), 'created', 'a tenant with a customer is created');
SELECT is(pg_temp.due(), 0::bigint, 'the customer is not due for others');
SELECT is(pg_temp.due('customer-' || pg_temp.id('8000', 13)), 1::bigint, 'the customer can be claimed by name');
RESET ROLE;
SELECT pg_temp.clock_at('2027-06-03 00:00:02+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT is(pg_temp.due(), 1::bigint, 'after 2 seconds the customer is due for everybody');

-- The program may run these statements twice, without a transaction around them that keeps them from writing.
CREATE FUNCTION pg_temp.in_read_only(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('transaction_read_only', 'on', true);
	EXECUTE statement;
	RAISE EXCEPTION USING ERRCODE = 'ACP99';
EXCEPTION WHEN OTHERS THEN -- the subtransaction's end makes the transaction writable again
	RETURN CASE SQLSTATE WHEN 'ACP99' THEN 'read' ELSE SQLSTATE END;
END
$$;
SELECT is(pg_temp.in_read_only('SELECT acp.authenticate(sha256(''none''), 0)'), 'read', 'acp.authenticate writes nothing');
SELECT is(pg_temp.in_read_only(format('SELECT acp.usage(%L, NULL, 100)', pg_temp.id('8000', 13))), 'read', 'acp.usage writes nothing');
SELECT is(pg_temp.in_read_only(format('SELECT acp.tenant_update(%L, NULL, NULL, NULL, NULL)', pg_temp.id('8000', 13))), '25006',
	'a function that writes is found');

SELECT * FROM finish();
ROLLBACK;
