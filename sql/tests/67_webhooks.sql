-- 67_webhooks.sql - events become deliveries; deliveries are taken and finished; handlers of the pack. All as acp_app.
-- tests/e2e/test_webhooks.py checks that two processes never send one row at the same time, because one session cannot
-- race.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(106);

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
	SELECT ('67676767-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
$$;
CREATE FUNCTION pg_temp.w(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('67676767-0000-4000-9000-' || lpad(n::text, 12, '0'))::uuid
$$;
CREATE FUNCTION pg_temp.k(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('67676767-0000-4000-a000-' || lpad(n::text, 12, '0'))::uuid
$$;

-- Calls a handler of the pack or of iam for tenant t.
CREATE FUNCTION pg_temp.run(t integer, handler text, params jsonb, ctx jsonb DEFAULT '{}') RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
	data jsonb;
BEGIN
	EXECUTE format('SELECT acp.%I($1, $2, $3)', handler) INTO data USING pg_temp.t(t), params,
		'{"dry_run": false, "ceiling": 3, "request_id": "r"}' || ctx;
	RETURN data;
END
$$;
CREATE FUNCTION pg_temp.dry(t integer, handler text, params jsonb) RETURNS jsonb LANGUAGE sql AS $$
	SELECT pg_temp.run(t, handler, params, '{"dry_run": true}')
$$;
CREATE FUNCTION pg_temp.make(t integer, w integer, events jsonb) RETURNS jsonb LANGUAGE sql AS $$
	SELECT pg_temp.run(t, 'webhooks_create', jsonb_build_object('url', 'https://example.com/' || w, 'events', events,
		'new_id', pg_temp.w(w), 'new_sealed', 'aa' || lpad(w::text, 2, '0')))
$$;
CREATE FUNCTION pg_temp.key_params(n integer) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('name', 'key ' || n, 'scopes', '["manage.read"]'::jsonb, 'new_id', pg_temp.k(n),
		'new_hash', encode(sha256(convert_to(n::text, 'UTF8')), 'hex'), 'new_prefix', 'ock_' || lpad(n::text, 8, '0'))
$$;

-- "event>webhook" of every pending delivery of tenant t, sorted.
CREATE FUNCTION pg_temp.queue(t integer) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(string_agg(event || '>' || ltrim(right(webhook_id::text, 12), '0'), ' ' ORDER BY event, webhook_id), '')
	FROM acp.webhook_deliveries WHERE tenant_id = pg_temp.t(t) AND status = 'pending'
$$;
CREATE FUNCTION pg_temp.forget(t integer) RETURNS void LANGUAGE sql AS $$
	DELETE FROM acp.webhook_deliveries WHERE tenant_id = pg_temp.t(t)
$$;

-- Takes one delivery and records the outcome of the attempt.
CREATE FUNCTION pg_temp.take() RETURNS jsonb LANGUAGE sql AS $$
	SELECT acp.deliveries_take(1, interval '60 s')->0
$$;
CREATE FUNCTION pg_temp.outcome(taken jsonb, more jsonb) RETURNS boolean LANGUAGE sql AS $$
	SELECT acp.delivery_done(jsonb_build_object('tenant_id', taken->'tenant_id', 'webhook_id', taken->'webhook_id',
		'delivery_id', taken->'delivery_id', 'attempt', taken->'attempt', 'delivered', false) || more)
$$;
-- "status attempts last_status next_attempt_at" (in seconds from now) of the only delivery of tenant t.
CREATE FUNCTION pg_temp.state(t integer) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', status, attempts, coalesce(last_status::text, '-'),
		coalesce(round(extract(epoch FROM next_attempt_at - acp.now()))::text, '-'))
	FROM acp.webhook_deliveries WHERE tenant_id = pg_temp.t(t)
$$;

SELECT pg_temp.clock_at('2027-05-15 12:00:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT count(acp.tenant_create(pg_temp.t(n), 'leadscoring', 'webhooks:' || n, 'a@example.com', NULL))
	FROM generate_series(1, 9) n \gset ignored_

-- Webhooks -----------------------------------------------------------------------------------------------------------

SELECT is(acp.live_count(pg_temp.t(1), 'webhooks'), 0::bigint, 'a tenant starts without webhooks');
SELECT is(pg_temp.make(1, 1, '["key.*"]') - 'webhook_id', '{"url": "https://example.com/1", "events": ["key.*"],
	"description": null, "status": "active", "disabled_reason": null, "created_at": "2027-05-15T12:00:00Z",
	"updated_at": "2027-05-15T12:00:00Z"}', 'a webhook is created and shown without its secret');
SELECT is(acp.live_count(pg_temp.t(1), 'webhooks'), 1::bigint, 'the webhook counts toward the ceiling');
SELECT is(pg_temp.refusal($$SELECT pg_temp.make(1, 9, '["key.*", "nothing.*"]')$$),
	ARRAY['VALIDATION_ERROR', '/params/events/1'], 'a pattern that matches no event is refused');
SELECT is(pg_temp.refusal($$SELECT pg_temp.make(1, 9, '["key.create"]')$$), ARRAY['VALIDATION_ERROR', '/params/events/0'],
	'a partial event name is refused');
SELECT ok(pg_temp.make(1, 2, '["usage.warning", "key.revoked"]') IS NOT NULL, 'a second webhook is created');
SELECT ok(pg_temp.make(1, 3, '["*"]') IS NOT NULL, 'a third webhook is created');
SELECT is(pg_temp.refusal($$SELECT pg_temp.make(1, 4, '["*"]')$$), ARRAY['CEILING_EXCEEDED', ''], 'the ceiling refuses a fourth');
SELECT is(jsonb_array_length(pg_temp.run(1, 'webhooks_list', '{}')), 3, 'the three webhooks are listed');
SELECT is(pg_temp.run(1, 'webhooks_list', '{"limit": 1}')->0->>'webhook_id', pg_temp.w(1)::text, 'the first page');
SELECT is(pg_temp.run(1, 'webhooks_list', jsonb_build_object('limit', 1, 'after', pg_temp.w(1)))->0->>'webhook_id',
	pg_temp.w(2)::text, 'the next page');
SELECT is(pg_temp.run(2, 'webhooks_list', '{}'), '[]', 'another tenant sees none');
SELECT is(pg_temp.run(2, 'webhooks_list', jsonb_build_object('after', pg_temp.w(1))), '[]', 'another tenant cannot read one by id');
SELECT is(pg_temp.refusal(format('SELECT pg_temp.run(2, %L, %L)', handler, jsonb_build_object('webhook_id', pg_temp.w(1)))),
	ARRAY['NOT_FOUND', '/params/webhook_id'], 'another tenant''s webhook: ' || handler)
FROM unnest(ARRAY['webhooks_update', 'webhooks_delete', 'webhooks_test', 'webhooks_deliveries']) handler;
SELECT ok(strpos(pg_temp.run(1, 'webhooks_list', '{}')::text, 'aa0') = 0, 'the list has no sealed secret');

-- Events of keys -----------------------------------------------------------------------------------------------------

SELECT is(pg_temp.dry(1, 'iam_keys_create', pg_temp.key_params(1))->'side_effects', jsonb_build_array(
	jsonb_build_object('type', 'webhook_delivery', 'event', 'key.created', 'webhook_id', pg_temp.w(1), 'url', 'https://example.com/1'),
	jsonb_build_object('type', 'webhook_delivery', 'event', 'key.created', 'webhook_id', pg_temp.w(3), 'url', 'https://example.com/3')),
	'a dry run lists the deliveries that creating a key would queue');
SELECT is(pg_temp.queue(1), '', 'the dry run queues no delivery');
SELECT ok(pg_temp.run(1, 'iam_keys_create', pg_temp.key_params(1), '{"ceiling": 25}') IS NOT NULL, 'a key is created');
SELECT is(pg_temp.queue(1), 'key.created>1 key.created>3', 'subscribed webhooks get deliveries');
SELECT is(payload - 'data', '{"type": "key.created", "timestamp": "2027-05-15T12:00:00Z"}', 'the payload has type and time')
FROM acp.webhook_deliveries WHERE tenant_id = pg_temp.t(1) AND webhook_id = pg_temp.w(1);
SELECT is(payload->'data', acp.iam_key_json(k), 'the data is the key as in lists')
FROM acp.webhook_deliveries d, acp.api_keys k
WHERE d.tenant_id = pg_temp.t(1) AND webhook_id = pg_temp.w(1) AND k.tenant_id = d.tenant_id AND api_key_id = pg_temp.k(1);
SELECT ok(NOT EXISTS (SELECT FROM acp.webhook_deliveries WHERE payload::text LIKE '%' || (pg_temp.key_params(1)->>'new_hash') || '%'),
	'no payload has the hash of the key');
SELECT pg_temp.forget(1) \gset ignored_

SELECT ok(pg_temp.run(1, 'iam_keys_rotate', pg_temp.key_params(2) || jsonb_build_object('api_key_id', pg_temp.k(1)),
	'{"ceiling": 25}') IS NOT NULL, 'a key is rotated');
SELECT is(pg_temp.queue(1), 'key.rotated>1 key.rotated>3', 'a rotation is one event, not also a creation');
SELECT is(payload->'data'->'replaces'->>'api_key_id', pg_temp.k(1)::text, 'the event names the replaced key')
FROM acp.webhook_deliveries WHERE tenant_id = pg_temp.t(1) AND webhook_id = pg_temp.w(1);
SELECT pg_temp.forget(1) \gset ignored_

SELECT is(jsonb_array_length(pg_temp.dry(1, 'iam_keys_revoke', jsonb_build_object('api_key_id', pg_temp.k(1)))->'side_effects'), 3,
	'a dry run of revoking lists three deliveries');
SELECT ok(pg_temp.run(1, 'iam_keys_revoke', jsonb_build_object('api_key_id', pg_temp.k(1))) IS NOT NULL, 'a key is revoked');
SELECT is(pg_temp.queue(1), 'key.revoked>1 key.revoked>2 key.revoked>3', 'three deliveries are queued');
SELECT ok(pg_temp.run(1, 'iam_keys_revoke', jsonb_build_object('api_key_id', pg_temp.k(1))) IS NOT NULL, 'the key is revoked again');
SELECT is((SELECT count(*) FROM acp.webhook_deliveries WHERE tenant_id = pg_temp.t(1)), 3::bigint, 'a second revocation queues no delivery');
SELECT is(pg_temp.dry(1, 'iam_keys_revoke', jsonb_build_object('api_key_id', pg_temp.k(1)))->'side_effects', '[]',
	'the dry run of a second revocation lists none');
SELECT ok(pg_temp.run(2, 'iam_keys_create', pg_temp.key_params(3), '{"ceiling": 25}') IS NOT NULL, 'another tenant creates a key');
SELECT is((SELECT count(*) FROM acp.webhook_deliveries WHERE event = 'key.created'), 0::bigint, 'no delivery is queued');
SELECT pg_temp.forget(1) \gset ignored_

-- Events of usage ----------------------------------------------------------------------------------------------------

SELECT ok(pg_temp.make(3, 31, '["usage.*"]') IS NOT NULL, 'a webhook for usage events');
CREATE FUNCTION pg_temp.consume(t integer, calls integer, most integer, percent integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. calls LOOP
		PERFORM acp.usage_consume(pg_temp.t(t), NULL, acp.now(), most, percent);
	END LOOP;
END
$$;
SELECT pg_temp.consume(3, 8, 10, 90) \gset ignored_
SELECT is(pg_temp.queue(3), '', '8 of 10: no event');
SELECT pg_temp.consume(3, 1, 10, 90) \gset ignored_
SELECT is(pg_temp.queue(3), 'usage.warning>31', '9 of 10: the warning');
SELECT is(payload->'data', '{"calls_used": 9, "calls_held": 0, "calls_limit": 10, "calls_remaining": 1, "period": "2027-05",
	"resets_at": "2027-06-01T00:00:00Z"}', 'the event has the numbers of the call')
FROM acp.webhook_deliveries WHERE tenant_id = pg_temp.t(3);
SELECT pg_temp.consume(3, 1, 10, 90) \gset ignored_
SELECT is(pg_temp.queue(3), 'usage.limit_reached>31 usage.warning>31', '10 of 10: the limit is reached');
SELECT throws_ok('SELECT pg_temp.consume(3, 1, 10, 90)', 'ACP01', NULL, 'an eleventh call is refused');
SELECT is(pg_temp.queue(3), 'usage.limit_reached>31 usage.warning>31', 'the refusal queues no event');
SELECT ok(pg_temp.make(4, 41, '["*"]') IS NOT NULL, 'a tenant has a limit that is not a multiple of 10');
SELECT pg_temp.consume(4, 6, 7, 90) \gset ignored_
SELECT is(pg_temp.queue(4), '', '6 of 7 are 85 %');
SELECT pg_temp.consume(4, 1, 7, 90) \gset ignored_
SELECT is(pg_temp.queue(4), 'usage.limit_reached>41 usage.warning>41', 'the seventh call gives warning and limit events');
SELECT ok(pg_temp.make(5, 51, '["*"]') IS NOT NULL, 'a tenant has no limit');
SELECT pg_temp.consume(5, 100, NULL, 90) \gset ignored_
SELECT is(pg_temp.queue(5), '', 'an unlimited tenant gets no event');
SELECT count(pg_temp.forget(n)::text) FROM generate_series(3, 5) n \gset ignored_

-- Taking and finishing -----------------------------------------------------------------------------------------------

SELECT ok(pg_temp.make(6, 61, '["key.*"]') IS NOT NULL, 'a webhook without webhook.test');
SELECT is(pg_temp.take(), NULL, 'nothing is due');
SELECT is(pg_temp.dry(6, 'webhooks_test', jsonb_build_object('webhook_id', pg_temp.w(61)))->'creates', jsonb_build_array(
	jsonb_build_object('type', 'webhook_delivery', 'event', 'webhook.test', 'webhook_id', pg_temp.w(61),
	'url', 'https://example.com/61', 'count', 1)), 'a dry run of webhooks.test');
SELECT is(pg_temp.run(6, 'webhooks_test', jsonb_build_object('webhook_id', pg_temp.w(61)))->>'status', 'pending',
	'the test queues a delivery');
CREATE TEMP TABLE taken AS SELECT pg_temp.take() AS one;
SELECT is(one - ARRAY['delivery_id', 'payload', 'tenant_id', 'webhook_id'], '{"attempt": 1, "ts": 1810382400,
	"url": "https://example.com/61", "sealed": "aa61", "sealed_before": null}', 'the worker gets everything that it needs') FROM taken;
SELECT is((one->>'payload')::jsonb->>'type', 'webhook.test', 'the worker gets the text to send') FROM taken;
SELECT is(pg_temp.take(), NULL, 'no one else gets the delivery');
SELECT is(pg_temp.state(6), 'pending 1 - 60', 'the lease protects the delivery');
SELECT ok(pg_temp.outcome(one, '{"status": 500, "error": "x", "retry_after": 5.25}'), 'the attempt fails') FROM taken;
SELECT is(pg_temp.state(6), 'pending 1 500 5', 'the next attempt is due later');
SELECT is(pg_temp.take(), NULL, 'the delivery is not taken before');
RESET ROLE;
SELECT pg_temp.clock_at('2027-05-15 12:00:06+00') \gset ignored_
SET LOCAL ROLE acp_app;
CREATE TEMP TABLE again AS SELECT pg_temp.take() AS one;
SELECT is(again.one->'attempt', '2', 'the delivery is taken again when it is due') FROM again;
SELECT is(again.one->>'delivery_id', taken.one->>'delivery_id', 'the second attempt has the same delivery id') FROM taken, again;
SELECT is(again.one->>'payload', taken.one->>'payload', 'the second attempt sends the same bytes') FROM taken, again;
SELECT ok(NOT pg_temp.outcome(one, '{"status": 500, "error": "late", "retry_after": 300}'),
	'a late failure of the first attempt is ignored') FROM taken;
RESET ROLE;
SELECT pg_temp.clock_at('2027-05-15 12:01:07+00') \gset ignored_
SET LOCAL ROLE acp_app;
UPDATE again SET one = pg_temp.take();
SELECT is(one->'attempt', '3', 'an attempt without an outcome counts as crashed after its lease') FROM again;
SELECT ok(pg_temp.outcome(one, '{"delivered": true, "status": 204}'), 'a late success counts') FROM taken;
SELECT is(pg_temp.state(6), 'delivered 3 204 -', 'the delivery has ended');
SELECT ok(NOT pg_temp.outcome(one, '{"status": 500, "error": "x", "retry_after": 5}'), 'the later attempt is ignored') FROM again;
SELECT is((pg_temp.run(6, 'webhooks_deliveries', '{"status": "delivered"}')->0) - ARRAY['delivery_id', 'payload', 'webhook_id'],
	'{"event": "webhook.test", "status": "delivered", "attempts": 3, "last_status": 204, "last_error": null,
	"next_attempt_at": null, "created_at": "2027-05-15T12:00:00Z", "delivered_at": "2027-05-15T12:01:07Z"}', 'the delivery is listed');
SELECT is(pg_temp.run(7, 'webhooks_deliveries', '{}'), '[]', 'another tenant does not see the delivery');
SELECT pg_temp.forget(6) \gset ignored_

SELECT pg_temp.run(6, 'webhooks_test', jsonb_build_object('webhook_id', pg_temp.w(61))) \gset ignored_
UPDATE taken SET one = pg_temp.take();
SELECT ok(pg_temp.outcome(one, '{"error": "no answer"}'), 'the last attempt fails') FROM taken;
SELECT is(pg_temp.state(6), 'failed 1 - -', 'the delivery has failed');
SELECT pg_temp.forget(6) \gset ignored_

-- A silent receiver, and one that is gone ----------------------------------------------------------------------------

SELECT count(pg_temp.run(6, 'webhooks_test', jsonb_build_object('webhook_id', pg_temp.w(61)))) FROM generate_series(1, 3) \gset ignored_
UPDATE taken SET one = pg_temp.take();
SELECT ok(pg_temp.outcome(one, '{"error": "time-out", "silent": true, "retry_after": 5}'), 'an attempt gets no answer in time') FROM taken;
SELECT is(pg_temp.take(), NULL, 'other deliveries to that receiver wait a minute');
RESET ROLE;
SELECT pg_temp.clock_at('2027-05-15 12:02:30+00') \gset ignored_
SET LOCAL ROLE acp_app;
UPDATE taken SET one = pg_temp.take();
SELECT ok(pg_temp.outcome(one, '{"status": 410, "error": "gone", "gone": true}'), '410 Gone') FROM taken;
SELECT is((SELECT status || ': ' || disabled_reason FROM acp.webhooks WHERE webhook_id = pg_temp.w(61)),
	'disabled: the receiver answered 410 Gone', '410 disables the webhook');
SELECT is(pg_temp.queue(6), '', 'the pending deliveries of the webhook fail');
SELECT is(pg_temp.refusal($$SELECT pg_temp.run(6, 'webhooks_test', jsonb_build_object('webhook_id', pg_temp.w(61)))$$),
	ARRAY['VALIDATION_ERROR', '/params/webhook_id'], 'a disabled webhook cannot be tested');

-- Update and deletion ------------------------------------------------------------------------------------------------

SELECT is(pg_temp.run(6, 'webhooks_update', jsonb_build_object('webhook_id', pg_temp.w(61), 'status', 'active'))->'disabled_reason',
	'null', 'the owner enables the webhook again');
SELECT pg_temp.run(6, 'webhooks_test', jsonb_build_object('webhook_id', pg_temp.w(61))) \gset ignored_
SELECT is(pg_temp.dry(6, 'webhooks_update', jsonb_build_object('webhook_id', pg_temp.w(61), 'url', 'https://example.com/61',
	'events', '["*"]'::jsonb, 'status', 'disabled', 'rotate_secret', true, 'new_sealed', 'bb'))->'updates', jsonb_build_array(
	jsonb_build_object('type', 'webhook', 'webhook_id', pg_temp.w(61), 'changes',
		'{"events": ["*"], "status": "disabled", "secret": "rotated"}'::jsonb),
	jsonb_build_object('type', 'webhook_delivery', 'webhook_id', pg_temp.w(61), 'changes', '{"status": "failed"}'::jsonb, 'count', 1)),
	'a dry run lists only the changes');
SELECT is(pg_temp.refusal(format('SELECT pg_temp.run(6, %L, %L)', 'webhooks_update', jsonb_build_object('webhook_id', pg_temp.w(61)))),
	ARRAY['VALIDATION_ERROR', '/params'], 'an empty update is refused');
SELECT pg_temp.run(6, 'webhooks_update', jsonb_build_object('webhook_id', pg_temp.w(61), 'rotate_secret', true, 'new_sealed', 'bb')) \gset ignored_
SELECT is((pg_temp.take() - ARRAY['delivery_id', 'payload', 'tenant_id', 'webhook_id', 'ts', 'url', 'attempt']),
	'{"sealed": "bb", "sealed_before": "aa61"}', 'after a rotation deliveries are signed with the old secret, too');
SELECT pg_temp.run(6, 'webhooks_test', jsonb_build_object('webhook_id', pg_temp.w(61))) \gset ignored_
RESET ROLE;
SELECT pg_temp.clock_at('2027-05-16 12:02:31+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT is(pg_temp.take()->'sealed_before', 'null', 'the old secret is used for one day');
SELECT is(pg_temp.dry(6, 'webhooks_delete', jsonb_build_object('webhook_id', pg_temp.w(61)))->'deletes'->1->'count',
	to_jsonb((SELECT count(*) FROM acp.webhook_deliveries WHERE tenant_id = pg_temp.t(6))), 'a dry run of deleting counts the deliveries');
SELECT is(pg_temp.run(6, 'webhooks_delete', jsonb_build_object('webhook_id', pg_temp.w(61)))->'deleted', 'true', 'a webhook is deleted');
SELECT is((SELECT count(*) FROM acp.webhook_deliveries WHERE tenant_id = pg_temp.t(6)), 0::bigint, 'the deliveries of the webhook are deleted');

-- Shares -------------------------------------------------------------------------------------------------------------

DELETE FROM acp.webhook_deliveries;
DELETE FROM acp.webhook_leases;
SELECT count(pg_temp.make(t, t * 10 + 1, '["usage.limit_reached"]')) FROM generate_series(7, 9) t \gset ignored_
SELECT pg_temp.make(7, 72, '["usage.limit_reached"]') \gset ignored_
CREATE FUNCTION pg_temp.fill(t integer, w integer, n integer) RETURNS void LANGUAGE sql AS $$
	INSERT INTO acp.webhook_deliveries (tenant_id, delivery_id, webhook_id, event, payload, status, next_attempt_at, created_at)
	SELECT pg_temp.t(t), gen_random_uuid(), pg_temp.w(w), 'webhook.test', '{}', 'pending', acp.now() - interval '1 hour', acp.now()
	FROM generate_series(1, n)
$$;
-- Claims, and returns "webhook:number" of what was claimed.
CREATE TEMP TABLE held (one jsonb);
GRANT ALL ON held TO PUBLIC;
CREATE FUNCTION pg_temp.claim(most integer, share integer) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	list CONSTANT jsonb := acp.deliveries_take(most, interval '60 s', share);
BEGIN
	INSERT INTO held SELECT jsonb_array_elements(list);
	RETURN (SELECT string_agg(w || ':' || n, ' ' ORDER BY w) FROM (
		SELECT ltrim(right(x->>'webhook_id', 12), '0') AS w, count(*) AS n FROM jsonb_array_elements(list) x GROUP BY 1) c);
END
$$;
SELECT pg_temp.fill(7, 71, 20), pg_temp.fill(8, 81, 1) \gset ignored_
SELECT is(pg_temp.claim(10, 3), '71:3 81:1', 'a tenant gets its share, and another one its turn');
SELECT is(pg_temp.claim(10, 3), NULL, 'a tenant whose share is in use gets nothing more');
SELECT pg_temp.fill(9, 91, 5) \gset ignored_
SELECT is(pg_temp.claim(2, 10), '91:2', 'the tenant that uses the fewest senders goes first');
SELECT is(pg_temp.claim(4, 10), '71:2 91:2', 'then they take turns');
SELECT is(acp.deliveries_done((SELECT jsonb_agg(one || '{"delivered": true, "status": 200}') FROM held
	WHERE one->>'webhook_id' = pg_temp.w(91)::text)), 4::bigint, 'the outcomes of several attempts are recorded');
SELECT is((SELECT count(*) FROM acp.webhook_leases WHERE tenant_id = pg_temp.t(9)), 0::bigint, 'their senders are free');
SELECT is(acp.deliveries_done((SELECT jsonb_agg(one || '{"delivered": true, "status": 200}') FROM held
	WHERE one->>'webhook_id' = pg_temp.w(91)::text)), 0::bigint, 'a repeated report counts nothing');
SELECT pg_temp.run(7, 'webhooks_delete', jsonb_build_object('webhook_id', pg_temp.w(71))) \gset ignored_
SELECT pg_temp.fill(7, 72, 20) \gset ignored_
SELECT is((SELECT count(*) FROM acp.webhook_leases WHERE tenant_id = pg_temp.t(7)), 5::bigint, 'a deleted webhook frees no sender before its attempts end');
SELECT is(pg_temp.claim(50, 6), '72:1 91:1', 'so its tenant gets what is left of its share');
SELECT ok(NOT acp.delivery_done(one || '{"delivered": true, "status": 200}'), 'the outcome of a deleted delivery is ignored')
	FROM held WHERE one->>'webhook_id' = pg_temp.w(71)::text LIMIT 1;
SELECT is(pg_temp.claim(50, 6), '72:1', 'and its sender is free');
RESET ROLE;
SELECT pg_temp.clock_at('2027-05-16 12:04:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT is(pg_temp.claim(50, 6), '72:6 81:1 91:1', 'senders of crashed processes are free when their leases end');

-- A pause belongs to the webhook, and costs one row.
SELECT ok(acp.delivery_done(one || '{"delivered": false, "status": 429, "error": "x", "retry_after": 120, "pause": 120}'), 'a receiver asks for a pause')
	FROM held WHERE one->>'webhook_id' = pg_temp.w(72)::text AND (one->>'attempt')::integer = 1 ORDER BY one->>'ts' DESC LIMIT 1;
SELECT is(pg_temp.claim(50, 20), NULL, 'nothing is sent to it before');
SELECT is((pg_temp.run(7, 'webhooks_update', jsonb_build_object('webhook_id', pg_temp.w(72), 'status', 'active'))->>'status'), 'active',
	'its owner enables the webhook');
SELECT is(pg_temp.claim(50, 8), '72:3', 'the pause is over');

-- How many may wait, and how many are kept.
DELETE FROM acp.webhook_deliveries;
SELECT pg_temp.fill(8, 81, 10000) \gset ignored_
SELECT acp.webhook_emit(pg_temp.t(8), 'usage.limit_reached', '{}') \gset ignored_
SELECT is((SELECT string_agg(status || ': ' || last_error, '') FROM acp.webhook_deliveries WHERE event = 'usage.limit_reached'),
	'failed: not sent: 10000 deliveries of this tenant were waiting', 'an event beyond 10000 pending deliveries fails at once');
SELECT is(pg_temp.refusal($$SELECT pg_temp.run(8, 'webhooks_test', jsonb_build_object('webhook_id', pg_temp.w(81)), '{"ceiling": 10000}')$$),
	ARRAY['CEILING_EXCEEDED', ''], 'a test beyond the ceiling is refused');
UPDATE acp.webhook_deliveries SET status = 'failed', created_at = created_at - random() * interval '1 day' WHERE status = 'pending';
SELECT acp.webhook_trim(pg_temp.t(8), pg_temp.w(81), 9900) \gset ignored_
SELECT is((SELECT count(*) FROM acp.webhook_deliveries WHERE tenant_id = pg_temp.t(8)), 9900::bigint, 'the oldest ended deliveries are deleted');
SELECT acp.webhook_trim(pg_temp.t(8), pg_temp.w(81), 9900) \gset ignored_
SELECT is((SELECT count(*) FROM acp.webhook_deliveries WHERE tenant_id = pg_temp.t(8)), 9900::bigint, 'no more than that');
DELETE FROM acp.webhook_deliveries;
DELETE FROM acp.webhook_leases;

-- Retention ----------------------------------------------------------------------------------------------------------

SELECT count(pg_temp.run(1, 'webhooks_test', jsonb_build_object('webhook_id', pg_temp.w(1)))) FROM generate_series(1, 2) \gset ignored_
UPDATE taken SET one = pg_temp.take();
SELECT pg_temp.outcome(one, '{"delivered": true, "status": 200}') FROM taken \gset ignored_
RESET ROLE;
SELECT pg_temp.clock_at('2027-06-15 12:04:01+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT acp.maintain() \gset ignored_
SELECT is((SELECT string_agg(status, ' ') FROM acp.webhook_deliveries WHERE tenant_id = pg_temp.t(1)), 'pending',
	'deliveries that ended 30 days ago are deleted, pending ones are kept');

SELECT * FROM finish();
ROLLBACK;
