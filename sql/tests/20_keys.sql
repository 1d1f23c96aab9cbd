-- 20_keys.sql - tenants, keys, who is calling, onboarding. Everything is called as acp_app, the program's role.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(87);

-- Shifts the program's clock so that this transaction happens at a moment. Undone by the ROLLBACK.
CREATE FUNCTION pg_temp.clock_at(moment timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('ALTER DATABASE %I SET acp.clock_offset = %L', current_database(), moment - now());
END
$$;

-- SQLSTATE, code and member of a refusal; null when the statement works.
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
	'free, active, without a payment method');
SELECT is((SELECT tenant_id FROM acp.agents WHERE agent_id = 'agent:one'), :'tenant', 'its agent_id leads to it');
SELECT ok(NOT acp.tenant_create(gen_random_uuid(), 'leadscoring', 'agent:one', 'two@example.com', NULL),
	'an agent_id is taken once');
SELECT is((SELECT count(*) FROM acp.tenants WHERE billing_email = 'two@example.com'), 0::bigint,
	'and no second tenant made');
SELECT ok(acp.tenant_create(gen_random_uuid(), 'leadscoring', 'Agent:one', 'one@example.com', NULL),
	'agent ids differ by case; an e-mail address may have many tenants');
SELECT throws_ok($$SELECT acp.tenant_create(gen_random_uuid(), 'x', 'not allowed', 'a@example.com', NULL)$$,
	'23514', NULL,
	'an agent_id with a space is refused');
SELECT throws_ok($$SELECT acp.tenant_create(gen_random_uuid(), 'x', 'agent:bad' || chr(10), 'a@example.com', NULL)$$,
	'23514', NULL,
	'an agent_id with a newline at its end is refused');

SELECT ok(NOT acp.tenant_update(gen_random_uuid(), 'paid', NULL, NULL, NULL), 'an unknown tenant cannot be changed');
SELECT ok(acp.tenant_update(:'tenant', NULL, NULL, NULL, 5), 'a tenant''s free calls are changed');
SELECT results_eq($$SELECT tier, payment_method_status, status, calls_limit, upgraded_at
	FROM acp.tenants WHERE agent_id = 'agent:one'$$, $$VALUES ('free', 'none', 'active', 5, NULL::timestamptz)$$,
	'and nothing else');
SELECT throws_ok(format('SELECT acp.tenant_update(%L, ''gold'', NULL, NULL, NULL)', :'tenant'), '23514', NULL,
	'no other tier');
SELECT throws_ok(format('SELECT acp.tenant_update(%L, NULL, NULL, NULL, -2)', :'tenant'), '23514', NULL,
	'no negative allowance');

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
		NULL::timestamptz, NULL::timestamptz)$$, 'by its hash and display prefix');
SELECT is(pg_temp.refusal(format($$SELECT acp.key_create(%L, gen_random_uuid(), pg_temp.hash('b'), 'ock_bbbbbbbb', 'n',
	'{}',
	'2027-05-15 12:00:00+00')$$, :'tenant')), ARRAY['ACP01', 'VALIDATION_ERROR', '/expires_at'],
	'a key that has expired already is refused');
SELECT is(pg_temp.refusal($$SELECT acp.key_create(gen_random_uuid(), gen_random_uuid(), pg_temp.hash('b'),
	'ock_bbbbbbbb', 'n', '{}', NULL)$$),
	ARRAY['ACP01', 'NOT_FOUND', ''], 'a key of an unknown tenant is refused');
SELECT throws_ok(format($$SELECT acp.key_create(%L, gen_random_uuid(), pg_temp.hash('a'), 'ock_aaaaaaaa', 'n',
	'{}', NULL)$$, :'tenant'),
	'23505', NULL, 'the same key cannot be stored twice');
SELECT is((SELECT count(*) FROM acp.key_lookup WHERE tenant_id = :'tenant'), 1::bigint, 'a refused key leaves nothing');
SELECT lives_ok(format($$SELECT acp.key_create(%L, '11111111-0000-4000-9000-000000000002', pg_temp.hash('b'),
	'ock_bbbbbbbb', 'second',
	'{}', '2027-05-15 13:00:00+00')$$, :'tenant'), 'a tenant has a second key, which expires');

-- Who is calling -----------------------------------------------------------------------------------------------------

SELECT results_eq($$SELECT ts, tenant_id, api_key_id, key_prefix, scopes, tier
	FROM acp.authenticate(pg_temp.hash('a'), 0)$$, $$VALUES
	('2027-05-15 12:00:00+00'::timestamptz, '11111111-0000-4000-8000-000000000001'::uuid,
	'11111111-0000-4000-9000-000000000001'::uuid,
	 'ock_aaaaaaaa', '{manage.read,manage.domain}'::text[], 'free')$$, 'a usable key');
SELECT results_eq($$SELECT ts, tenant_id, api_key_id, key_prefix, scopes, tier, rate_limit, policed FROM acp.authenticate(pg_temp.hash('nobody''s'), 0)$$, $$VALUES
	('2027-05-15 12:00:00+00'::timestamptz, NULL::uuid, NULL::uuid, NULL::text, NULL::text[], NULL::text, NULL::integer,
	 NULL::boolean)$$, 'an unknown key: one row, with the clock and nobody');
SELECT is(pg_temp.caller(NULL), NULL, 'no key, nobody');
SELECT is(pg_temp.caller('b'), :'tenant'::uuid, 'a key before its end is usable');
RESET ROLE;
SELECT pg_temp.clock_at('2027-05-15 12:59:59.999999+00') \gset ignored_
SELECT is(pg_temp.caller('b'), :'tenant'::uuid, 'up to the last microsecond');
SELECT pg_temp.clock_at('2027-05-15 13:00:00+00') \gset ignored_
SELECT is(pg_temp.caller('b'), NULL, 'not from expires_at on');
SELECT is(pg_temp.caller('a'), :'tenant'::uuid, 'the other key still is');

SET LOCAL ROLE acp_app;
SELECT ok(acp.tenant_update(:'tenant', NULL, NULL, 'suspended', NULL), 'the tenant is suspended');
SELECT is(pg_temp.caller('a'), NULL, 'then its key is refused');
SELECT ok(acp.tenant_update(:'tenant', NULL, NULL, 'closed', NULL), 'closed');
SELECT is(pg_temp.caller('a'), NULL, 'then too');
SELECT ok(acp.tenant_update(:'tenant', NULL, NULL, 'active', NULL), 'active again');
SELECT is(pg_temp.caller('a'), :'tenant'::uuid, 'then it is usable again');

SELECT ok(acp.tenant_update(:'tenant', 'paid', NULL, NULL, NULL), 'the tenant is upgraded');
SELECT is((acp.authenticate(pg_temp.hash('a'), 0)).tier, 'free', 'paid without a payment method is treated as free');
SELECT ok(acp.tenant_update(:'tenant', NULL, 'active', NULL, NULL), 'its payment method is active');
SELECT is((acp.authenticate(pg_temp.hash('a'), 0)).tier, 'paid', 'now it is paid');
RESET ROLE;
SELECT pg_temp.clock_at('2027-06-01 00:00:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT ok(acp.tenant_update(:'tenant', 'free', 'none', NULL, NULL) AND acp.tenant_update(:'tenant',
	'paid', NULL, NULL, NULL),
	'down and up again');
SELECT results_eq($$SELECT upgraded_at, updated_at FROM acp.tenants WHERE agent_id = 'agent:one'$$,
	$$VALUES ('2027-05-15 13:00:00+00'::timestamptz, '2027-06-01 00:00:00+00'::timestamptz)$$,
	'upgraded_at is the first time');

SELECT ok(acp.key_revoke(:'key'), 'a key is revoked');
SELECT is(pg_temp.caller('a'), NULL, 'then it is refused');
RESET ROLE;
SELECT pg_temp.clock_at('2027-06-02 00:00:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT ok(NOT acp.key_revoke(:'key'), 'it is revoked once');
SELECT is((SELECT revoked_at FROM acp.api_keys WHERE api_key_id = :'key'), '2027-06-01 00:00:00+00',
	'and stays revoked since then');
SELECT ok(NOT acp.key_revoke(gen_random_uuid()), 'there is no such key');

-- Onboarding ---------------------------------------------------------------------------------------------------------

-- One application: agent, Idempotency-Key (null: none), what was asked (fingerprint), number of the attempt, product.
CREATE FUNCTION pg_temp.apply(agent text, idem_key text, asked text, attempt integer,
	product text DEFAULT 'leadscoring', tenant integer DEFAULT NULL,
	OUT verdict text, OUT tenant_id uuid, OUT api_key_id uuid, OUT salt text, OUT created_at timestamptz)
LANGUAGE sql AS $$
	SELECT o.* FROM acp.onboard(jsonb_strip_nulls(jsonb_build_object('product', product, 'agent_id', agent, 'email',
	'a@example.com',
			'tenant_id', '22222222-0000-4000-8000-' || lpad(coalesce(tenant, attempt)::text, 12, '0'),
			'api_key_id', '22222222-0000-4000-9000-' || lpad(attempt::text, 12, '0'),
			'key_prefix', 'ock_' || lpad(attempt::text, 8, '0'), 'key_name', 'first key', 'salt', 'salt' || attempt,
			'scopes', '["manage.read", "manage.domain"]'::jsonb, 'idempotency_key', idem_key,
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
	'with tenant, key, idempotency and audit row');
SELECT results_eq($$SELECT tenant_id, api_key_id, key_prefix, scopes, tier
	FROM acp.authenticate(pg_temp.hash('onboarded 1'), 0)$$, $$VALUES
	(pg_temp.id('8000', 1), pg_temp.id('9000', 1), 'ock_00000001', '{manage.read,manage.domain}'::text[], 'free')$$,
	'whose key is usable');
SELECT results_eq($$SELECT tenant_id, action, status, billable, ts, result_meta FROM acp.audit_logs
	WHERE event_id = pg_temp.id('a000', 1)$$,
	$$VALUES ('00000000-0000-0000-0000-000000000000'::uuid, 'onboard.leadscoring', 'success', false,
	'2027-06-02 00:00:00+00'::timestamptz,
		jsonb_build_object('resource_type', 'tenant', 'resource_id', pg_temp.id('8000', 1)))$$,
	'the audit row has the nil tenant and names the new one');
SELECT results_eq($$SELECT tenant_id, state, reply, created_at, expires_at FROM acp.idempotency WHERE key = 'idem'$$,
	$$VALUES
	('00000000-0000-0000-0000-000000000000'::uuid, 'done', jsonb_build_object('tenant_id', pg_temp.id('8000', 1),
		'api_key_id', pg_temp.id('9000', 1), 'salt', 'salt1'), '2027-06-02 00:00:00+00'::timestamptz,
		'2027-06-03 00:00:00+00'::timestamptz)$$,
	'what is remembered for a day makes the reply again, and holds no key');
SELECT is_empty($$SELECT 1 FROM acp.usage_counters WHERE action LIKE 'onboard.%'$$, 'an onboarding is not usage');

RESET ROLE;
SELECT pg_temp.clock_at('2027-06-02 23:59:59.999999+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT results_eq($$SELECT * FROM pg_temp.apply('new:1', 'idem', 'body', 2)$$,
	$$VALUES ('replay', pg_temp.id('8000', 1), pg_temp.id('9000', 1), 'salt1', '2027-06-02 00:00:00+00'::timestamptz)$$,
	'same Idempotency-Key and body within 24 hours: ids, salt and time of the first call');
SELECT results_eq('TABLE traces', 'VALUES (1::bigint, 1::bigint, 1::bigint, 2::bigint)',
	'and one more audit row, nothing else');
SELECT is((SELECT result_meta->>'resource_id' FROM acp.audit_logs WHERE event_id = pg_temp.id('a000', 2)),
	pg_temp.id('8000', 1)::text,
	'it names the first call''s tenant');
SELECT results_eq($$SELECT verdict, tenant_id, api_key_id FROM pg_temp.apply('new:2', 'idem', 'another body', 3)$$,
	$$VALUES ('mismatch', NULL::uuid, NULL::uuid)$$, 'another body: mismatch');
SELECT results_eq($$SELECT verdict, tenant_id, api_key_id FROM pg_temp.apply('new:1', NULL, 'body', 4)$$,
	$$VALUES ('taken', NULL::uuid, NULL::uuid)$$, 'same agent_id without a key: taken');
SELECT is((SELECT verdict FROM pg_temp.apply('new:1', 'other idem', 'body', 5)), 'taken', 'with another key too');
SELECT results_eq('TABLE traces', 'VALUES (1::bigint, 1::bigint, 1::bigint, 2::bigint)',
	'refused ones leave nothing: their audit row is the caller''s to write');
SELECT is((SELECT verdict FROM pg_temp.apply('new:6', 'idem', 'body 6', 6, 'other')), 'created',
	'keys are apart by product');
SELECT is((SELECT verdict FROM pg_temp.apply('new:7', NULL, 'body', 7)), 'created', 'no key: created');
SELECT results_eq('TABLE traces', 'VALUES (3::bigint, 3::bigint, 2::bigint, 4::bigint)',
	'and nothing remembered for it');

RESET ROLE;
SELECT pg_temp.clock_at('2027-06-03 00:00:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT is((SELECT verdict FROM pg_temp.apply('new:1', 'idem', 'body', 8)), 'taken',
	'after 24 hours the key is as new, the agent_id taken');
SELECT results_eq($$SELECT verdict, tenant_id FROM pg_temp.apply('new:9', 'idem', 'another body', 9)$$,
	$$VALUES ('created', pg_temp.id('8000', 9))$$, 'and another request may use it');
SELECT results_eq($$SELECT reply->>'salt', expires_at FROM acp.idempotency WHERE key = 'idem'
	AND action = 'onboard.leadscoring'$$,
	$$VALUES ('salt9', '2027-06-04 00:00:00+00'::timestamptz)$$, 'in the place of the old one');
SELECT results_eq('TABLE traces', 'VALUES (4::bigint, 4::bigint, 2::bigint, 5::bigint)', 'with one audit row');

SELECT results_eq($$SELECT * FROM pg_temp.apply('new:9', 'idem', 'another body', 9)$$,
	$$VALUES ('created', pg_temp.id('8000', 9), pg_temp.id('9000', 9), 'salt9', '2027-06-03 00:00:00+00'::timestamptz)$$,
	'a call that is sent again, because its answer was lost, is told the same');
SELECT results_eq($$SELECT * FROM pg_temp.apply('new:7', NULL, 'body 7', 7)$$,
	$$VALUES ('created', pg_temp.id('8000', 7), pg_temp.id('9000', 7), 'salt7',
	'2027-06-02 23:59:59.999999+00'::timestamptz)$$, 'also one without a key');
SELECT is((SELECT verdict FROM pg_temp.apply('new:1', NULL, 'body', 7)), 'taken', 'but not for another agent');
SELECT is((SELECT verdict FROM pg_temp.apply('new:7', NULL, 'body 7', 8, tenant => 7)), 'taken', 'nor with another key: a hub gives the tenant''s id again');
SELECT is((SELECT verdict FROM pg_temp.apply('new:9', 'idem', 'another body', 8, tenant => 9)), 'replay', 'which replays where it was asked to');
SELECT results_eq('TABLE traces', 'VALUES (4::bigint, 4::bigint, 2::bigint, 6::bigint)',
	'and nothing is done twice: the replay left its row, and no other');

-- One that is answered as failed, because its answer did not come
SELECT ok(acp.onboard_give_up(pg_temp.id('9000', 11)), 'one that has not arrived is given up');
SELECT throws_ok($$SELECT pg_temp.apply('new:11', 'idem 11', 'body', 11)$$, 'ACP01', NULL, 'and fails when it does');
SELECT ok(acp.onboard_give_up(pg_temp.id('9000', 11)), 'giving it up again changes nothing');
SELECT results_eq('TABLE traces', 'VALUES (4::bigint, 4::bigint, 2::bigint, 6::bigint)', 'nothing of it is there');
SELECT ok(NOT acp.onboard_give_up(pg_temp.id('9000', 9)), 'one that made its tenant is not given up');
SELECT ok(NOT acp.onboard_give_up(pg_temp.id('9000', 8)), 'nor one that replayed another');
SELECT ok(acp.onboard_give_up(pg_temp.id('9000', 3)), 'but one that was refused is: it has no row yet');
SELECT is((SELECT verdict FROM pg_temp.apply('new:9', 'idem', 'another body', 8, tenant => 9)), 'replay', 'a replay that is sent again');
SELECT is((SELECT verdict FROM pg_temp.apply('new:11', 'idem 11', 'body', 12)), 'created', 'the agent asks again, and is onboarded');
SELECT results_eq('TABLE traces', 'VALUES (5::bigint, 5::bigint, 3::bigint, 7::bigint)', 'with one audit row; the replay left no second one');

SELECT throws_ok(format($$SELECT acp.onboard(jsonb_build_object('product', 'p', 'agent_id', 'new:10', 'email',
	'a@example.com',
	'tenant_id', gen_random_uuid(), 'api_key_id', gen_random_uuid(), 'key_prefix', 'ock_00000010', 'key_name', 'n',
	'salt', 's',
	'scopes', '[]'::jsonb), pg_temp.hash('ten'), to_jsonb(a)) FROM acp.audit_logs a WHERE event_id = %L$$,
	pg_temp.id('a000', 9)),
	'23505', NULL, 'a repeated event is refused');
SELECT is((SELECT count(*) FROM acp.agents WHERE agent_id = 'new:10'), 0::bigint, 'and the tenant with it');

SELECT * FROM finish();
ROLLBACK;
