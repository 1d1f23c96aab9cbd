-- 65_router_state.sql - state that the router keeps between calls: idempotency, ceilings, policies, approvals, proposals;
-- and refusals of the iam handlers. All as acp_app, the role of the program.
-- tests/e2e (idempotency, limits, policy) checks concurrent calls, because one session cannot race.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(188);

-- Shifts the program's clock so that this transaction happens at a moment. The ROLLBACK undoes it.
CREATE FUNCTION pg_temp.clock_at(moment timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('ALTER DATABASE %I SET acp.clock_offset = %L', current_database(), moment - now());
END
$$;

-- Code and member of a refusal; null if the statement succeeds.
CREATE FUNCTION pg_temp.refusal(statement text) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
	hint   text;
	detail text;
BEGIN
	EXECUTE statement;
	RETURN NULL;
EXCEPTION WHEN SQLSTATE 'ACP01' THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT, detail = PG_EXCEPTION_DETAIL;
	RETURN ARRAY[hint, detail];
END
$$;

CREATE FUNCTION pg_temp.t(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('65656565-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
$$;
CREATE FUNCTION pg_temp.k(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('65656565-0000-4000-9000-' || lpad(n::text, 12, '0'))::uuid
$$;
CREATE FUNCTION pg_temp.e(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('65656565-0000-4000-a000-' || lpad(n::text, 12, '0'))::uuid
$$;
CREATE FUNCTION pg_temp.p(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('65656565-0000-4000-b000-' || lpad(n::text, 12, '0'))::uuid
$$;

-- The answer to a claim by call e: verdict, and the stored result.
CREATE FUNCTION pg_temp.claim(t integer, key text, request text, e integer, action text DEFAULT 'a.b') RETURNS text
LANGUAGE sql AS $$
	SELECT concat_ws(' ', verdict, encode(sealed, 'hex')) FROM acp.idempotency_claim(pg_temp.t(t), action, key,
		encode(sha256(convert_to(request, 'UTF8')), 'hex'), pg_temp.e(e), interval '2 minutes')
$$;
CREATE FUNCTION pg_temp.finish(t integer, key text, e integer, result bytea) RETURNS text[] LANGUAGE sql AS $$
	SELECT pg_temp.refusal(format('SELECT acp.idempotency_finish(%L, %L, %L, %L, %L)', pg_temp.t(t), 'a.b', key,
		pg_temp.e(e), result))
$$;
CREATE FUNCTION pg_temp.store(t integer, key text, request text, e integer, result bytea) RETURNS text[] LANGUAGE sql AS $$
	SELECT pg_temp.refusal(format('SELECT acp.idempotency_store(%L, %L, %L, %L, %L, %L)', pg_temp.t(t), 'a.b', key,
		encode(sha256(convert_to(request, 'UTF8')), 'hex'), pg_temp.e(e), result))
$$;
CREATE FUNCTION pg_temp.claims(t integer) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM acp.idempotency WHERE tenant_id = pg_temp.t(t)
$$;

-- Calls a handler for tenant t.
CREATE FUNCTION pg_temp.run(t integer, handler text, params jsonb, ctx jsonb DEFAULT '{}') RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
	data jsonb;
BEGIN
	EXECUTE format('SELECT acp.%I($1, $2, $3)', handler) INTO data USING pg_temp.t(t), params,
		jsonb_build_object('dry_run', false, 'ceiling', 3, 'request_id', 'r', 'api_key_id', pg_temp.k(1),
			'event_id', pg_temp.e(900)) || ctx;
	RETURN data;
END
$$;
CREATE FUNCTION pg_temp.refused(t integer, handler text, params jsonb, ctx jsonb DEFAULT '{}') RETURNS text[]
LANGUAGE sql AS $$
	SELECT pg_temp.refusal(format('SELECT pg_temp.run(%s, %L, %L, %L)', t, handler, params, ctx))
$$;
CREATE FUNCTION pg_temp.fresh(n integer, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('name', 'key ' || n, 'scopes', '["manage.read"]'::jsonb, 'new_id', pg_temp.k(n),
		'new_hash', encode(sha256(convert_to('65' || n, 'UTF8')), 'hex'), 'new_prefix', 'ock_' || lpad(n::text, 8, '0'))
		|| more
$$;
CREATE FUNCTION pg_temp.named(n integer, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('api_key_id', pg_temp.k(n)) || more
$$;

-- The query of tenant t about an action, as event e.
CREATE FUNCTION pg_temp.q(t integer, action text, e integer, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('tenant_id', pg_temp.t(t), 'api_key_id', pg_temp.k(1), 'actor_type', 'api_key', 'action',
		action, 'request_hash', repeat('a', 64), 'event_id', pg_temp.e(e), 'dry_run', false) || more
$$;
CREATE FUNCTION pg_temp.decision(t integer, action text, more jsonb DEFAULT '{}') RETURNS text LANGUAGE sql AS $$
	SELECT acp.authorize(pg_temp.q(t, action, 800, more))->>'decision'
$$;
CREATE FUNCTION pg_temp.approval(n integer) RETURNS text LANGUAGE sql AS $$
	SELECT status || ' ' || coalesce(used_by::text, '-') FROM acp.approvals WHERE approval_id = pg_temp.e(n)
$$;
-- The audit row of call n of tenant t.
CREATE FUNCTION pg_temp.event(t integer, n integer, more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('event_id', pg_temp.e(n), 'request_id', pg_temp.e(n), 'ts', acp.now(), 'tenant_id', pg_temp.t(t),
		'integration', 'pgtap', 'pack', 'test', 'action', 'a.b', 'actor_type', 'api_key', 'status', 'success', 'latency_ms', 2,
		'dry_run', false, 'billable', false, 'billing_quantity', 1, 'tier', 'free') || more
$$;
CREATE FUNCTION pg_temp.policy(p integer, t integer, policy jsonb) RETURNS void LANGUAGE sql AS $$
	SELECT acp.policy_add(pg_temp.p(p), pg_temp.t(t), '{"name": "p"}' || policy)
$$;
CREATE FUNCTION pg_temp.at(window_ jsonb, moment timestamptz) RETURNS boolean LANGUAGE sql AS $$
	SELECT acp.window_open(window_, moment)
$$;

SELECT pg_temp.clock_at('2027-05-15 12:00:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT count(acp.tenant_create(pg_temp.t(n), 'leadscoring', 'router:' || n, 'a@example.com', NULL))
	FROM generate_series(1, 9) n \gset ignored_

-- Idempotency --------------------------------------------------------------------------------------------------------

SELECT is(pg_temp.claim(1, 'key', 'one', 1), 'run', 'the first call runs');
SELECT is(pg_temp.claim(1, 'key', 'one', 2), 'conflict', 'a second call conflicts with the first');
SELECT is(pg_temp.claim(1, 'key', 'two', 3), 'mismatch', 'another request with the key is a mismatch');
SELECT is(pg_temp.claim(1, 'key', 'one', 4, 'a.c'), 'run', 'another action may use the key');
SELECT is(pg_temp.claim(2, 'key', 'one', 5), 'run', 'another tenant may use the key');
SELECT is(pg_temp.finish(1, 'key', 2, '\x00'), ARRAY['IDEMPOTENCY_CONFLICT', ''], 'a call without a claim cannot store a result');
SELECT is(pg_temp.finish(1, 'key', 1, '\xbeef'), NULL, 'the call with the claim stores its result');
SELECT is(pg_temp.claim(1, 'key', 'one', 6), 'replay beef', 'the result is replayed');
SELECT is(pg_temp.claim(1, 'key', 'two', 7), 'mismatch', 'the result is not replayed to another request');
SELECT is(pg_temp.finish(1, 'key', 1, '\xdead'), ARRAY['IDEMPOTENCY_CONFLICT', ''], 'a result is stored once');
SELECT is(pg_temp.claim(1, 'key', 'one', 6), 'replay beef', 'the first result stays');
SELECT lives_ok($$SELECT acp.idempotency_give_up(pg_temp.t(1), 'a.b', 'key', pg_temp.e(1))$$, 'a finished call gives up its claim');
SELECT is(pg_temp.claim(1, 'key', 'one', 6), 'replay beef', 'giving up after the result changes nothing');

SELECT is(pg_temp.store(1, 'auto', 'one', 21, '\xbeef'), NULL, 'a result is stored under an unclaimed key');
SELECT is(pg_temp.claim(1, 'auto', 'one', 22), 'replay beef', 'the result is replayed to a repeat');
SELECT is(pg_temp.claim(1, 'auto', 'two', 22), 'mismatch', 'the result is not replayed to another request');
SELECT is(pg_temp.claim(1, 'auto 2', 'one', 23), 'run', 'a repeat of a running call claims its key');
SELECT is(pg_temp.store(1, 'auto 2', 'one', 24, '\xdead'), ARRAY['IDEMPOTENCY_CONFLICT', ''], 'the first call is then refused');
SELECT is(pg_temp.finish(1, 'auto 2', 23, '\xbeef'), NULL, 'the repeat stores its result');

SELECT is(pg_temp.claim(3, 'key', 'one', 1), 'run', 'a call of tenant 3 runs');
SELECT lives_ok($$SELECT acp.idempotency_give_up(pg_temp.t(3), 'a.b', 'key', pg_temp.e(2))$$, 'another call tries to give up the claim');
SELECT is(pg_temp.claims(3), 1::bigint, 'the claim of the running call stays');
SELECT lives_ok($$SELECT acp.idempotency_give_up(pg_temp.t(3), 'a.b', 'key', pg_temp.e(1))$$, 'the running call gives up its claim');
SELECT is(pg_temp.claims(3), 0::bigint, 'no claim is left');
SELECT is(pg_temp.claim(3, 'key', 'two', 3), 'run', 'any request may use the key');

RESET ROLE;
SELECT pg_temp.clock_at('2027-05-15 12:01:59+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT is(pg_temp.claim(3, 'key', 'two', 4), 'conflict', 'a claim holds for its lease');
RESET ROLE;
SELECT pg_temp.clock_at('2027-05-15 12:02:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT is(pg_temp.claim(3, 'key', 'other', 5), 'run', 'the claim of a crashed call can be taken over');
SELECT is(pg_temp.claim(3, 'key', 'other', 6), 'conflict', 'only one call takes over the claim');
SELECT is(pg_temp.finish(3, 'key', 3, '\x03'), ARRAY['IDEMPOTENCY_CONFLICT', ''], 'the call that lost its claim stores nothing');
SELECT is(pg_temp.finish(3, 'key', 5, '\x05'), NULL, 'the call that took over stores its result');
SELECT is(pg_temp.claim(3, 'key', 'other', 7), 'replay 05', 'the result of the call that took over is replayed');
RESET ROLE;
SELECT pg_temp.clock_at('2027-05-16 11:59:59+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT is(pg_temp.claim(1, 'key', 'one', 8), 'replay beef', 'a result is kept for 24 hours');
RESET ROLE;
SELECT pg_temp.clock_at('2027-05-16 12:00:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT is(pg_temp.claim(1, 'key', 'new', 9), 'run', 'after 24 hours the key is free');
SELECT ok((SELECT sealed IS NULL AND state = 'running' FROM acp.idempotency
	WHERE tenant_id = pg_temp.t(1) AND action = 'a.b' AND key = 'key'), 'the old result is gone');
RESET ROLE;
SELECT pg_temp.clock_at('2027-05-15 12:00:00+00') \gset ignored_
SET LOCAL ROLE acp_app;

-- Ceilings -----------------------------------------------------------------------------------------------------------

SELECT is(acp.live_count(pg_temp.t(1), 'keys'), 0::bigint, 'a tenant starts without keys here');
SELECT ok(pg_temp.run(1, 'iam_keys_create', pg_temp.fresh(1)) IS NOT NULL, 'one key');
SELECT ok(pg_temp.run(1, 'iam_keys_create', pg_temp.fresh(2, '{"expires_at": "2027-05-15T13:00:00Z"}')) IS NOT NULL,
	'a second key with an expiry');
SELECT ok(pg_temp.run(1, 'iam_keys_create', pg_temp.fresh(3)) IS NOT NULL, 'a third key');
SELECT is(acp.live_count(pg_temp.t(1), 'keys'), 3::bigint, 'three keys are live');
SELECT is(pg_temp.refused(1, 'iam_keys_create', pg_temp.fresh(4)), ARRAY['CEILING_EXCEEDED', ''], 'the ceiling refuses a fourth');
SELECT is(pg_temp.refused(1, 'iam_keys_rotate', pg_temp.fresh(4, pg_temp.named(1))), ARRAY['CEILING_EXCEEDED', ''],
	'the ceiling refuses a rotation');
SELECT is(acp.live_count(pg_temp.t(2), 'keys'), 0::bigint, 'another tenant does not count them');
SELECT is(pg_temp.refusal($$SELECT acp.ceiling_hold(pg_temp.t(1), 'keys', '{"ceiling": 4}')$$), NULL, 'a higher ceiling has room for one');
SELECT is(pg_temp.refusal($$SELECT acp.ceiling_hold(pg_temp.t(1), 'keys', '{"ceiling": 3}')$$),
	ARRAY['CEILING_EXCEEDED', ''], 'an equal ceiling has no room');
SELECT throws_ok($$SELECT acp.live_count(pg_temp.t(1), 'apples')$$, '20000', NULL, 'an unknown resource is an error');
SELECT ok(pg_temp.run(1, 'iam_keys_revoke', pg_temp.named(3)) IS NOT NULL, 'a key is revoked');
SELECT is(acp.live_count(pg_temp.t(1), 'keys'), 2::bigint, 'a revoked key does not count');
RESET ROLE;
SELECT pg_temp.clock_at('2027-05-15 13:00:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT is(acp.live_count(pg_temp.t(1), 'keys'), 1::bigint, 'an expired key does not count');

-- iam ----------------------------------------------------------------------------------------------------------------

SELECT is(pg_temp.refused(1, h, pg_temp.fresh(9, pg_temp.named(2, '{"name": "x"}'))),
	ARRAY['VALIDATION_ERROR', '/params/api_key_id'], 'an expired key: ' || h)
FROM unnest(ARRAY['iam_keys_update', 'iam_keys_rotate', 'iam_keys_scopes']) h;
SELECT is(pg_temp.refused(1, h, pg_temp.fresh(9, pg_temp.named(3, '{"name": "x"}'))),
	ARRAY['VALIDATION_ERROR', '/params/api_key_id'], 'a revoked key: ' || h)
FROM unnest(ARRAY['iam_keys_update', 'iam_keys_rotate', 'iam_keys_scopes']) h;
SELECT is(pg_temp.refused(2, h, pg_temp.fresh(9, pg_temp.named(1))), ARRAY['NOT_FOUND', '/params/api_key_id'],
	'another tenant''s key: ' || h)
FROM unnest(ARRAY['iam_keys_update', 'iam_keys_rotate', 'iam_keys_scopes', 'iam_keys_revoke']) h;
SELECT is(pg_temp.refused(2, h, pg_temp.fresh(9, pg_temp.named(1)), '{"dry_run": true}'),
	ARRAY['NOT_FOUND', '/params/api_key_id'], 'another tenant''s key, dry run: ' || h)
FROM unnest(ARRAY['iam_keys_update', 'iam_keys_rotate', 'iam_keys_revoke']) h;
SELECT is(pg_temp.run(2, 'iam_keys_list', '{}'), '[]', 'the list of another tenant is empty');
SELECT is(pg_temp.run(2, 'iam_keys_list', jsonb_build_object('after', pg_temp.k(1))), '[]', 'the key of another tenant is no valid cursor');
SELECT is(pg_temp.refused(1, 'iam_keys_create', pg_temp.fresh(5, '{"expires_at": "2027-05-15T13:00:00Z"}')),
	ARRAY['VALIDATION_ERROR', '/params/expires_at'], 'a key that expires now is refused');
SELECT is(pg_temp.refused(1, 'iam_keys_create', pg_temp.fresh(5, '{"expires_at": "2027-05-15T13:00:00Z"}'),
	'{"dry_run": true}'), ARRAY['VALIDATION_ERROR', '/params/expires_at'], 'it is refused in a dry run');
SELECT is(pg_temp.refused(1, 'iam_keys_update', pg_temp.named(1, '{"expires_at": "2020-01-01T00:00:00Z"}')),
	ARRAY['VALIDATION_ERROR', '/params/expires_at'], 'it is refused in an update');
SELECT is(pg_temp.refused(1, 'iam_keys_update', pg_temp.named(1)), ARRAY['VALIDATION_ERROR', '/params'],
	'an empty update is refused');
SELECT is(pg_temp.run(1, 'iam_keys_update', pg_temp.named(1, '{"name": "new", "scopes": ["manage.iam"]}'))
	- ARRAY['created_at', 'key_prefix', 'api_key_id'], '{"name": "new", "scopes": ["manage.iam"], "rate_limit": null,
	"expires_at": null, "revoked_at": null, "status": "active"}', 'an update sets name and scopes');
SELECT is(pg_temp.run(1, 'iam_keys_scopes', pg_temp.named(1)), '["manage.iam"]', 'the scopes are set');
SELECT is((pg_temp.run(1, 'iam_keys_rotate', pg_temp.fresh(6, pg_temp.named(1, '{"grace_seconds": 60}'))))
	#>> '{replaces,expires_at}', '2027-05-15T13:01:00Z', 'a rotation ends the old key after the grace period');
SELECT is((SELECT ARRAY[name, scopes::text] FROM acp.api_keys WHERE tenant_id = pg_temp.t(1) AND api_key_id = pg_temp.k(6)),
	ARRAY['new', '{manage.iam}'], 'the new key has the name and scopes of the old one');
SELECT is(acp.live_count(pg_temp.t(1), 'keys'), 2::bigint, 'both keys are live');
SELECT is(pg_temp.run(1, 'iam_keys_revoke', pg_temp.named(3))->>'revoked_at', '2027-05-15T12:00:00Z',
	'revoking a revoked key changes nothing');
SELECT is(pg_temp.run(1, 'iam_keys_revoke', pg_temp.named(1), '{"dry_run": true}')->'warnings',
	'["this is the key that makes this call"]', 'the dry run warns about revoking the calling key');
SELECT ok(NOT EXISTS (SELECT FROM jsonb_array_elements(pg_temp.run(1, 'iam_keys_list', '{}')) x WHERE x ? 'key_hash'),
	'the list has no hash');

-- Policies -----------------------------------------------------------------------------------------------------------

SELECT is(acp.pattern_fits(pattern, 'iam.keys.create'), fits, 'pattern ' || pattern)
FROM (VALUES ('iam.keys.create', true), ('iam.*', true), ('*', true), ('*.create', true), ('iam.*.create', true),
	('iam', false), ('iam.keys', false), ('keys.create', false), ('iamxkeys.create', false), ('', false),
	('iam.keys.create.*', false)) v (pattern, fits);
SELECT ok(pg_temp.at(NULL, '2027-05-15 12:00+00'), 'a missing window is always open');
SELECT is(pg_temp.at('{"from": "09:00", "to": "17:00"}', m::timestamptz), open, 'office hours at ' || m)
FROM (VALUES ('2027-05-15 08:59:59+00', false), ('2027-05-15 09:00+00', true), ('2027-05-15 16:59:59+00', true),
	('2027-05-15 17:00+00', false)) v (m, open);
SELECT is(pg_temp.at('{"from": "22:00", "to": "06:00"}', m::timestamptz), open, 'a window across midnight at ' || m)
FROM (VALUES ('2027-05-15 21:59+00', false), ('2027-05-15 23:00+00', true), ('2027-05-15 05:59+00', true),
	('2027-05-15 06:00+00', false)) v (m, open);
SELECT ok(pg_temp.at('{"days": [6]}', '2027-05-15 12:00+00') AND NOT pg_temp.at('{"days": [1, 7]}', '2027-05-15 12:00+00'),
	'days: 15 May 2027 is a Saturday');
SELECT ok(pg_temp.at('{"from": "21:00", "timezone": "Asia/Tokyo"}', '2027-05-15 12:00+00'), 'windows have time zones');

SELECT is(pg_temp.decision(4, 'a.b'), 'allow', 'without a policy a call is allowed');
SELECT pg_temp.policy(1, 4, '{"decision": "deny", "action": "a.*", "priority": 20}') \gset ignored_
SELECT is(pg_temp.decision(4, 'a.b'), 'deny', 'a policy denies the call');
SELECT is(pg_temp.decision(5, 'a.b'), 'allow', 'the policy does not deny calls of another tenant');
SELECT pg_temp.policy(2, 4, '{"decision": "allow", "action": "a.b", "priority": 10}') \gset ignored_
SELECT is(pg_temp.decision(4, 'a.b') || pg_temp.decision(4, 'a.c'), 'allowdeny', 'the lowest priority number decides');
SELECT ok(acp.policy_enable(pg_temp.p(2), false), 'that policy is disabled');
SELECT is(pg_temp.decision(4, 'a.b'), 'deny', 'the next policy decides');
SELECT ok(NOT acp.policy_enable(pg_temp.p(99), false), 'an unknown policy cannot be disabled');
SELECT pg_temp.policy(3, 5, '{"decision": "deny", "amount_over": 100}') \gset ignored_
SELECT is(pg_temp.decision(5, 'a.b', '{"amount": 100}') || pg_temp.decision(5, 'a.b', '{"amount": 100.001}')
	|| pg_temp.decision(5, 'a.b'), 'allowdenyallow', 'a policy for amounts denies only larger amounts');

-- An invalid policy is refused, from every source.
SELECT is(pg_temp.refusal(format('SELECT pg_temp.policy(20, 8, %L)', policy)), ARRAY['VALIDATION_ERROR', '/params/policy/' || place],
	'no policy: ' || policy)
FROM (VALUES ('{"decision": "deny", "actoin": "a.b"}', 'actoin'), ('{}', 'decision'), ('{"decision": "maybe"}', 'decision'),
	('{"decision": "deny", "name": ""}', 'name'), ('{"decision": "deny", "action": "a b"}', 'action'),
	('{"decision": "deny", "priority": 1.5}', 'priority'), ('{"decision": "deny", "amount_over": "NaN"}', 'amount_over'),
	('{"decision": "deny", "actor_type": "robot"}', 'actor_type'), ('{"decision": "deny", "time_window": 5}', 'time_window'),
	('{"decision": "deny", "time_window": {"from": "9am"}}', 'time_window/from'),
	('{"decision": "deny", "time_window": {"form": "09:00"}}', 'time_window/form'),
	('{"decision": "deny", "time_window": {"days": [8]}}', 'time_window/days'),
	('{"decision": "deny", "time_window": {"timezone": "Europe/Berln"}}', 'time_window/timezone'),
	('{"decision": "deny", "time_window": {"timezone": "UTC+3"}}', 'time_window/timezone')) v (policy, place);
SELECT is(pg_temp.decision(8, 'a.b'), 'allow', 'no invalid policy is stored');

-- An invalid policy in the table denies the calls that it matches, whatever its decision, and is named.
SELECT is(pg_temp.at(w::jsonb, '2027-05-15 12:00+00'), NULL, 'cannot be evaluated: ' || w)
FROM (VALUES ('{"from": "9am"}'), ('{"to": "25:00"}'), ('{"timezone": "Europe/Berln"}'), ('{"days": "monday"}'), ('{"days": [8]}'),
	('5')) v (w);
INSERT INTO acp.policies (policy_id, tenant_id, name, priority, enabled, action_pattern, time_window, decision, version, created_at)
VALUES (pg_temp.p(21), pg_temp.t(9), 'office', 50, true, 'a.*', '{"from": "9am"}', 'allow', 1000, now());
SELECT is(pg_temp.decision(9, 'a.b') || pg_temp.decision(9, 'b.c'), 'denyallow', 'a policy that cannot be evaluated denies');
SELECT is(acp.authorize(pg_temp.q(9, 'a.b', 1))->>'fault', 'policy ' || pg_temp.p(21) || ' (office)', 'the fault names the policy');
SELECT pg_temp.policy(22, 9, '{"decision": "allow", "action": "a.b", "priority": 10}') \gset ignored_
SELECT is(pg_temp.decision(9, 'a.b') || pg_temp.decision(9, 'a.c'), 'allowdeny', 'such a policy keeps its place in the priority order');
SELECT is((SELECT array_agg(name || ' ' || place || ' ' || refuses) FROM acp.policy_faults()), ARRAY['office /time_window/from true'],
	'an enabled policy that cannot be evaluated is listed');
SELECT acp.policy_enable(pg_temp.p(21), false) \gset ignored_
SELECT is(pg_temp.decision(9, 'a.c') || (SELECT count(*) FROM acp.policy_faults()), 'allow0', 'a disabled policy is not listed');

-- Approvals ----------------------------------------------------------------------------------------------------------

SELECT pg_temp.policy(4, 6, '{"decision": "require_approval"}') \gset ignored_
SELECT is(acp.authorize(pg_temp.q(6, 'a.b', 1, '{"dry_run": true}')) ? 'approval_id', false, 'a dry run needs no approval');
SELECT is(acp.authorize(pg_temp.q(6, 'a.b', 1))->>'approval_id', pg_temp.e(1)::text, 'a call needs an approval');
SELECT is(acp.authorize(pg_temp.q(6, 'a.b', 2))->>'approval_id', pg_temp.e(1)::text, 'the same call gets the same approval');
SELECT is(acp.authorize(pg_temp.q(6, 'a.b', n, more))->>'approval_id', pg_temp.e(n)::text, 'another call gets another approval: ' || more::text)
FROM (VALUES (3, jsonb_build_object('request_hash', repeat('b', 64))), (4, jsonb_build_object('api_key_id', pg_temp.k(9))),
	(5, '{"action": "a.c"}'::jsonb)) v (n, more);
SELECT is(pg_temp.refusal($$SELECT acp.approval_use(pg_temp.t(6), pg_temp.e(1), pg_temp.e(7))$$),
	ARRAY['APPROVAL_REQUIRED', ''], 'a pending approval allows nothing');
SELECT ok(acp.approval_decide(pg_temp.e(1), 'approved') AND NOT acp.approval_decide(pg_temp.e(1), 'rejected'),
	'an approval is decided once');
SELECT is(pg_temp.decision(6, 'a.b'), 'allow', 'the approved call is allowed');
SELECT is(pg_temp.refusal($$SELECT acp.approval_use(pg_temp.t(5), pg_temp.e(1), pg_temp.e(7))$$),
	ARRAY['APPROVAL_REQUIRED', ''], 'another tenant cannot use the approval');
SELECT is(pg_temp.refusal($$SELECT acp.approval_use(pg_temp.t(6), pg_temp.e(1), pg_temp.e(7))$$), NULL, 'the approval is used: ' || n)
FROM (VALUES ('once'), ('a repetition for the same call changes nothing')) v (n);
SELECT is(pg_temp.refusal($$SELECT acp.approval_use(pg_temp.t(6), pg_temp.e(1), pg_temp.e(8))$$),
	ARRAY['APPROVAL_REQUIRED', ''], 'an approval is used once');
SELECT acp.approval_give_back(pg_temp.t(6), pg_temp.e(1), pg_temp.e(8)) \gset ignored_
SELECT is(pg_temp.approval(1), 'used ' || pg_temp.e(7), 'another call cannot give it back');
SELECT acp.settle(pg_temp.event(6, 8, '{"status": "error", "error_code": "NOT_FOUND"}'), NULL, NULL, NULL, NULL, pg_temp.e(1)) \gset ignored_
SELECT is(pg_temp.approval(1), 'used ' || pg_temp.e(7), 'the end of another failed call does not give it back');
SELECT acp.settle(pg_temp.event(6, 7, '{"status": "error", "error_code": "NOT_FOUND"}'), NULL, NULL, NULL, NULL, pg_temp.e(1)) \gset ignored_
SELECT is(pg_temp.approval(1), 'approved -', 'a call that did nothing gives it back');
SELECT is(pg_temp.refusal($$SELECT acp.approval_use(pg_temp.t(6), pg_temp.e(1), pg_temp.e(10))$$), NULL, 'it is used again');
SELECT is(acp.settle_doubt(pg_temp.event(6, 10, '{"status": "error", "error_code": "UNAVAILABLE"}'), NULL, NULL, pg_temp.e(1)), false,
	'a call whose commit is not known was not committed');
SELECT is(pg_temp.approval(1), 'approved -', 'it gives its approval back');
SELECT is(pg_temp.refusal($$SELECT acp.approval_use(pg_temp.t(6), pg_temp.e(1), pg_temp.e(11))$$), NULL, 'it is used again');
SELECT acp.settle(pg_temp.event(6, 11), NULL, NULL) \gset ignored_
SELECT is(acp.settle_doubt(pg_temp.event(6, 11, '{"status": "error", "error_code": "UNAVAILABLE"}'), NULL, NULL, pg_temp.e(1)), true,
	'a call whose commit is not known was committed');
SELECT is(pg_temp.approval(1), 'used ' || pg_temp.e(11), 'it keeps its approval');
SELECT ok(acp.approval_decide(pg_temp.e(3), 'rejected'), 'an approval is rejected');
SELECT is(acp.authorize(pg_temp.q(6, 'a.b', 20, jsonb_build_object('request_hash', repeat('b', 64))))->>'decision',
	'require_approval', 'a rejected approval allows nothing');

-- Proposals ----------------------------------------------------------------------------------------------------------

SELECT is(pg_temp.refused(7, 'governance_propose_policy', '{"policy": {"name": "n", "decision": "deny", "time_window": {"timezone": "Mars/Olympus"}}}'),
	ARRAY['VALIDATION_ERROR', '/params/policy/time_window/timezone'], 'a policy with an unknown time zone is refused');
SELECT ok(pg_temp.run(7, 'governance_propose_policy', '{"policy": {"name": "n", "decision": "deny"}}', '{"dry_run": true}')
	? 'creates' AND NOT EXISTS (SELECT FROM acp.policy_proposals WHERE tenant_id = pg_temp.t(7)), 'a dry run proposes nothing');
SELECT is(pg_temp.run(7, 'governance_propose_policy', '{"policy": {"name": "n", "decision": "deny"}}')->>'status', 'proposed',
	'a policy is proposed');
SELECT ok(NOT acp.policy_publish(pg_temp.e(900), pg_temp.p(7)), 'a pending proposal cannot be published');
SELECT ok(NOT acp.proposal_decide(pg_temp.e(900), 'published'), 'an unknown decision is refused');
SELECT ok(acp.proposal_decide(pg_temp.e(900), 'approved'), 'the proposal is approved');
SELECT is(pg_temp.decision(7, 'a.b'), 'allow', 'an approved proposal has no effect yet');
SELECT ok(acp.policy_publish(pg_temp.e(900), pg_temp.p(7)) AND NOT acp.policy_publish(pg_temp.e(900), pg_temp.p(8)),
	'a proposal is published once');
SELECT is(pg_temp.decision(7, 'a.b') || pg_temp.decision(8, 'a.b'), 'denyallow', 'the policy decides only calls of its tenant');

-- What is kept for idempotency keys ----------------------------------------------------------------------------------

CREATE FUNCTION pg_temp.quota_claim(t integer, key text, e integer, quota bigint) RETURNS text LANGUAGE sql AS $$
	SELECT verdict FROM acp.idempotency_claim(pg_temp.t(t), 'a.b', key, repeat('f', 64), pg_temp.e(e), interval '1 minute', quota)
$$;
SELECT is(pg_temp.quota_claim(9, 'small', 300, 65536), 'run', 'a call with a key runs');
SELECT is(pg_temp.finish(9, 'small', 300, decode(repeat('00', 2048), 'hex')), NULL, 'its small result is stored');
SELECT is(acp.idempotency_bytes(pg_temp.t(9), true), 0::bigint, 'a small result is not counted');
SELECT is(pg_temp.quota_claim(9, 'large', 301, 65536), 'run', 'a second call runs');
SELECT is(pg_temp.finish(9, 'large', 301, decode(repeat('00', 65536), 'hex')), NULL, 'its large result is stored');
SELECT is(acp.idempotency_bytes(pg_temp.t(9), true), 65536::bigint, 'a large result is counted');
SELECT is(pg_temp.quota_claim(9, 'more', 302, 65536), 'full', 'a new key is refused when the quota is used up');
SELECT is((SELECT count(*) FROM acp.idempotency WHERE tenant_id = pg_temp.t(9)), 2::bigint, 'the refused call leaves no row');
SELECT is(pg_temp.quota_claim(9, 'large', 303, 65536), 'replay', 'a known key is replayed');
SELECT is(pg_temp.quota_claim(8, 'more', 304, 65536), 'run', 'another tenant is not affected');
SELECT is(pg_temp.quota_claim(9, 'more', 305, NULL), 'run', 'a program of the previous version has no quota');
SELECT is(pg_temp.quota_claim(8, 'huge', 306, 65536), 'run', 'a call whose result will be too large runs');
SELECT is(pg_temp.finish(8, 'huge', 306, decode(repeat('00', 65537), 'hex')), NULL, 'it succeeds');
SELECT ok((SELECT state = 'done' AND sealed IS NULL AND large = 65537 FROM acp.idempotency WHERE tenant_id = pg_temp.t(8) AND key = 'huge'),
	'its key is known, and its result is counted, but not kept');
SELECT is(pg_temp.quota_claim(8, 'next', 308, 65536), 'full', 'so the next call is refused');
SELECT is(pg_temp.store(8, 'own', 'r', 307, decode(repeat('00', 20000000), 'hex')), NULL, 'the same holds for a key of the program');
SELECT is(pg_temp.store(7, 'own-1', 'r', 309, decode(repeat('00', 65537), 'hex')), NULL, 'a large result is stored under a key of the program');
SELECT is(acp.idempotency_bytes(pg_temp.t(7), false), 65537::bigint, 'such results are counted by themselves');
SELECT is(pg_temp.quota_claim(7, 'mine', 310, 65536), 'run', 'they leave the quota of the tenant''s own keys alone');

-- What waits for an operator -----------------------------------------------------------------------------------------

SELECT pg_temp.policy(90, 9, '{"decision": "require_approval", "priority": 1}') \gset ignored_
CREATE FUNCTION pg_temp.ask(n integer) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', d->>'decision', d->>'code') FROM acp.authorize(pg_temp.q(9, 'a.b', 500 + n,
		jsonb_build_object('request_hash', lpad(n::text, 64, '0'), 'ceiling', 3))) d
$$;
SELECT is((SELECT string_agg(pg_temp.ask(n), ', ' ORDER BY n) FROM generate_series(1, 4) n),
	'require_approval, require_approval, require_approval, deny CEILING_EXCEEDED', 'so many calls may wait for an approval');
SELECT is(pg_temp.ask(3), 'require_approval', 'a call that waits already may ask again');
SELECT is((SELECT count(*) FROM acp.approvals WHERE tenant_id = pg_temp.t(9)), 3::bigint, 'the others leave no row');
SELECT count(pg_temp.run(9, 'governance_propose_policy', '{"policy": {"name": "n", "decision": "deny"}}', jsonb_build_object('event_id', pg_temp.e(600 + n))))
	FROM generate_series(1, 3) n \gset ignored_
SELECT is(pg_temp.refused(9, 'governance_propose_policy', '{"policy": {"name": "n", "decision": "deny"}}', jsonb_build_object('event_id', pg_temp.e(604))),
	ARRAY['CEILING_EXCEEDED', ''], 'so many proposals may wait for a decision');
SELECT acp.proposal_decide(pg_temp.e(601), 'rejected') \gset ignored_
RESET ROLE;
SELECT pg_temp.clock_at('2027-07-15 12:00:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT acp.maintain() \gset ignored_
SELECT is((SELECT count(*) FROM acp.approvals WHERE tenant_id = pg_temp.t(9)) || ' ' || (SELECT count(*) FROM acp.policy_proposals
	WHERE tenant_id = pg_temp.t(9)), '0 2', 'maintenance ends approvals and decided proposals, and keeps open proposals');

SELECT * FROM finish();
ROLLBACK;
