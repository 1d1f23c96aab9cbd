-- Webhooks: deliveries are queued in the transaction that causes the event, and any process sends them. Handlers of the
-- pack.
--
-- Lock order: a webhook before its deliveries. Both come before the counter rows of a tenant (30_usage.sql). What locks
-- several webhooks goes by tenant_id and webhook_id.

CREATE OR REPLACE FUNCTION acp.webhook_known_events() RETURNS text[]
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN ARRAY['key.created', 'key.revoked', 'key.rotated', 'usage.warning', 'usage.limit_reached', 'webhook.test'];
END
$$;
COMMENT ON FUNCTION acp.webhook_known_events() IS 'Names of all events.';

CREATE OR REPLACE FUNCTION acp.webhook_wants(w acp.webhooks, p_event text) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN w.status = 'active' AND EXISTS (SELECT FROM unnest(w.events) AS pattern WHERE acp.pattern_fits(pattern, p_event));
END
$$;
COMMENT ON FUNCTION acp.webhook_wants(acp.webhooks, text) IS 'True if this webhook subscribes to the event.';

CREATE OR REPLACE FUNCTION acp.webhook_trim(p_tenant uuid, p_webhook uuid, p_keep integer) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	DELETE FROM acp.webhook_deliveries d USING (
		SELECT x.delivery_id FROM acp.webhook_deliveries x
		WHERE x.tenant_id = p_tenant AND x.webhook_id = p_webhook AND x.status <> 'pending' AND x.created_at <= (
			SELECT k.created_at FROM acp.webhook_deliveries k WHERE k.tenant_id = p_tenant AND k.webhook_id = p_webhook
			ORDER BY k.created_at DESC OFFSET p_keep LIMIT 1)
		ORDER BY x.created_at LIMIT 500 FOR UPDATE SKIP LOCKED) old
	WHERE d.tenant_id = p_tenant AND d.delivery_id = old.delivery_id;
END
$$;
COMMENT ON FUNCTION acp.webhook_trim(uuid, uuid, integer) IS
	'Deletes the oldest ended deliveries of a webhook that has more than p_keep deliveries, some hundred at a time.';

CREATE OR REPLACE FUNCTION acp.webhook_deliver(w acp.webhooks, p_event text, p_data jsonb) RETURNS acp.webhook_deliveries
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	-- A tenant may have this many pending deliveries, and a webhook this many deliveries in all. docs/operations.md names it.
	most    CONSTANT integer := 10000;
	crowded CONSTANT boolean := acp.deliveries_pending(w.tenant_id, most) >= most;
	d       acp.webhook_deliveries;
BEGIN
	-- Now and then, so that an event stays cheap.
	IF random() < 0.01 THEN
		PERFORM acp.webhook_trim(w.tenant_id, w.webhook_id, most);
	END IF;
	INSERT INTO acp.webhook_deliveries (tenant_id, delivery_id, webhook_id, event, payload, status, next_attempt_at, last_error, created_at)
	VALUES (w.tenant_id, gen_random_uuid(), w.webhook_id, p_event,
		jsonb_build_object('type', p_event, 'timestamp', acp.rfc3339(acp.now()), 'data', p_data),
		CASE WHEN crowded THEN 'failed' ELSE 'pending' END, CASE WHEN NOT crowded THEN acp.now() END,
		CASE WHEN crowded THEN format('not sent: %s deliveries of this tenant were waiting', most) END, acp.now())
	RETURNING * INTO d;
	RETURN d;
END
$$;
COMMENT ON FUNCTION acp.webhook_deliver(acp.webhooks, text, jsonb) IS
	'Queues the delivery of one event to one webhook. If too many deliveries of the tenant wait already, it fails at once.';

CREATE OR REPLACE FUNCTION acp.deliveries_pending(p_tenant uuid, p_most bigint) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT count(*) FROM (
		SELECT FROM acp.webhook_deliveries d WHERE d.tenant_id = p_tenant AND d.status = 'pending' LIMIT p_most) x);
END
$$;
COMMENT ON FUNCTION acp.deliveries_pending(uuid, bigint) IS 'Number of pending deliveries of a tenant; counts no further than p_most.';

CREATE OR REPLACE FUNCTION acp.webhook_emit(p_tenant uuid, p_event text, p_data jsonb) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	w acp.webhooks;
BEGIN
	-- This is the lock that the foreign key takes. If a webhook is being deleted, wait for that and skip it; the call
	-- that caused the event must not fail.
	FOR w IN SELECT * FROM acp.webhooks x WHERE x.tenant_id = p_tenant ORDER BY x.webhook_id FOR KEY SHARE LOOP
		IF acp.webhook_wants(w, p_event) THEN
			PERFORM acp.webhook_deliver(w, p_event, p_data);
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION acp.webhook_emit(uuid, text, jsonb) IS
	'Queues the event for every subscribed webhook of the tenant, as part of this transaction. p_data must not contain secrets.';

CREATE OR REPLACE FUNCTION acp.webhook_effects(p_tenant uuid, p_event text) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT coalesce(jsonb_agg(jsonb_build_object('type', 'webhook_delivery', 'event', p_event, 'webhook_id', w.webhook_id,
		'url', w.url) ORDER BY w.webhook_id), '[]') FROM acp.webhooks w WHERE w.tenant_id = p_tenant AND acp.webhook_wants(w, p_event));
END
$$;
COMMENT ON FUNCTION acp.webhook_effects(uuid, text) IS 'Builds side_effects of an impact: the deliveries that acp.webhook_emit would queue.';

CREATE OR REPLACE FUNCTION acp.webhook_usage(p_tenant uuid, p_used bigint, p_limit integer, p_percent integer, p_ts timestamptz) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	-- The counter grows by one under its lock, so each value occurs once.
	near    CONSTANT boolean := p_used = ceil(p_limit::numeric * p_percent / 100);
	last    CONSTANT boolean := p_used = p_limit;
	held    bigint;
	numbers jsonb;
BEGIN
	IF NOT near AND NOT last THEN
		RETURN;
	END IF;
	held := acp.usage_held(p_tenant, acp.period(p_ts));
	numbers := jsonb_build_object('calls_used', p_used, 'calls_held', held, 'calls_limit', p_limit,
		'calls_remaining', greatest(p_limit - p_used - held, 0),
		'period', to_char(acp.period(p_ts), 'YYYY-MM'), 'resets_at', acp.rfc3339(acp.period_end(acp.period(p_ts))));
	IF near THEN
		PERFORM acp.webhook_emit(p_tenant, 'usage.warning', numbers);
	END IF;
	IF last THEN
		PERFORM acp.webhook_emit(p_tenant, 'usage.limit_reached', numbers);
	END IF;
END
$$;
COMMENT ON FUNCTION acp.webhook_usage(uuid, bigint, integer, integer, timestamptz) IS
	'Emits the events for a counted free call: usage.warning at the first call whose reply carries a warning, usage.limit_reached at the last call.';

-- The delivery worker ------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION acp.webhook_queues(p_from uuid, p_below uuid, p_most integer)
RETURNS TABLE (tenant_id uuid, webhook_id uuid, due timestamptz)
LANGUAGE plpgsql STABLE ROWS 100
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- One step of the index for each webhook, however many deliveries it has.
	RETURN QUERY WITH RECURSIVE queue (tenant_id, webhook_id, due, step) AS (
		(SELECT d.tenant_id, d.webhook_id, d.next_attempt_at, 1 FROM acp.webhook_deliveries d
		 WHERE d.status = 'pending' AND d.tenant_id >= p_from
		 ORDER BY d.tenant_id, d.webhook_id, d.next_attempt_at LIMIT 1)
		UNION ALL
		SELECT x.tenant_id, x.webhook_id, x.next_attempt_at, q.step + 1 FROM queue q CROSS JOIN LATERAL (
			SELECT d.tenant_id, d.webhook_id, d.next_attempt_at FROM acp.webhook_deliveries d
			WHERE d.status = 'pending' AND (d.tenant_id, d.webhook_id) > (q.tenant_id, q.webhook_id)
			ORDER BY d.tenant_id, d.webhook_id, d.next_attempt_at LIMIT 1) x
		WHERE q.step < p_most AND (p_below IS NULL OR q.tenant_id < p_below))
	SELECT q.tenant_id, q.webhook_id, q.due FROM queue q WHERE p_below IS NULL OR q.tenant_id < p_below;
END
$$;
COMMENT ON FUNCTION acp.webhook_queues(uuid, uuid, integer) IS
	'The first p_most webhooks with pending deliveries of tenants from p_from on and below p_below (null: all others), and when the first delivery of each is due.';

DROP FUNCTION IF EXISTS acp.deliveries_take(integer, interval);
CREATE OR REPLACE FUNCTION acp.deliveries_take(p_max integer, p_lease interval, p_share integer DEFAULT 8) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	moment CONSTANT timestamptz := acp.now();
	-- So many webhooks are looked at, from a random tenant on: with more, each has its turn after some claims.
	wide   CONSTANT integer := 2000;
	start  CONSTANT uuid := gen_random_uuid();
	list   jsonb;
BEGIN
	IF coalesce((SELECT d.next_attempt_at FROM acp.webhook_deliveries d WHERE d.status = 'pending'
		ORDER BY d.next_attempt_at LIMIT 1) > moment, true) THEN
		RETURN '[]';
	END IF;
	-- One claim at a time: otherwise two of them would each give a tenant its whole share.
	PERFORM pg_advisory_xact_lock(hashtextextended('acp.deliveries_take', 0));
	DELETE FROM acp.webhook_leases l WHERE l.lease_until <= moment;
	-- turn: which of the senders that its tenant would then use it gets. The lowest turn goes first.
	WITH running AS MATERIALIZED (
		SELECT l.tenant_id, count(*) AS senders FROM acp.webhook_leases l GROUP BY l.tenant_id
	), queues AS MATERIALIZED (
		SELECT q.tenant_id, q.webhook_id, coalesce(r.senders, 0) AS senders,
			coalesce(r.senders, 0) + row_number() OVER (PARTITION BY q.tenant_id ORDER BY q.due, q.webhook_id) AS turn
		FROM (SELECT * FROM acp.webhook_queues(start, NULL, wide)
			UNION ALL SELECT * FROM acp.webhook_queues('00000000-0000-0000-0000-000000000000', start, wide)) q
		JOIN acp.webhooks w USING (tenant_id, webhook_id) LEFT JOIN running r USING (tenant_id)
		WHERE q.due <= moment AND (w.paused_until IS NULL OR w.paused_until <= moment) AND coalesce(r.senders, 0) < p_share
		ORDER BY turn, q.due LIMIT p_max
	), waiting AS MATERIALIZED (
		SELECT d.tenant_id, d.delivery_id, d.next_attempt_at,
			q.senders + row_number() OVER (PARTITION BY d.tenant_id ORDER BY d.place, d.next_attempt_at) AS turn
		FROM queues q CROSS JOIN LATERAL (
			-- In this form only the index webhook_deliveries_queue fits; that of all that is due holds the others, too.
			SELECT x.tenant_id, x.delivery_id, x.next_attempt_at,
				row_number() OVER (ORDER BY x.tenant_id, x.webhook_id, x.next_attempt_at) AS place
			FROM acp.webhook_deliveries x
			WHERE x.status = 'pending' AND (x.tenant_id, x.webhook_id) >= (q.tenant_id, q.webhook_id)
			  AND (x.tenant_id, x.webhook_id, x.next_attempt_at) <= (q.tenant_id, q.webhook_id, moment)
			ORDER BY x.tenant_id, x.webhook_id, x.next_attempt_at LIMIT p_share) d
	), chosen AS MATERIALIZED (
		SELECT w.tenant_id, w.delivery_id FROM waiting w WHERE w.turn <= p_share ORDER BY w.turn, w.next_attempt_at LIMIT p_max
	), free AS MATERIALIZED (
		SELECT d.tenant_id, d.delivery_id FROM chosen c JOIN acp.webhook_deliveries d USING (tenant_id, delivery_id)
		WHERE d.status = 'pending' AND d.next_attempt_at <= moment FOR UPDATE OF d SKIP LOCKED
	), taken AS (
		UPDATE acp.webhook_deliveries d SET attempts = d.attempts + 1, next_attempt_at = moment + p_lease
		FROM free WHERE d.tenant_id = free.tenant_id AND d.delivery_id = free.delivery_id RETURNING d.*
	), leased AS (
		INSERT INTO acp.webhook_leases (tenant_id, delivery_id, attempt, lease_until)
		SELECT t.tenant_id, t.delivery_id, t.attempts, moment + p_lease FROM taken t
		ON CONFLICT (tenant_id, delivery_id) DO UPDATE SET attempt = excluded.attempt, lease_until = excluded.lease_until
	)
	SELECT jsonb_agg(jsonb_build_object('tenant_id', t.tenant_id, 'delivery_id', t.delivery_id, 'webhook_id', t.webhook_id,
		'attempt', t.attempts, 'ts', floor(extract(epoch FROM moment))::bigint, 'url', w.url, 'payload', t.payload::text,
		'sealed', encode(w.sealed, 'hex'), 'sealed_before', CASE WHEN w.before_until > moment THEN encode(w.sealed_before, 'hex') END))
	INTO list FROM taken t JOIN acp.webhooks w USING (tenant_id, webhook_id);
	RETURN coalesce(list, '[]');
END
$$;
COMMENT ON FUNCTION acp.deliveries_take(integer, interval, integer) IS
	'Claims due deliveries for an attempt that must be reported within p_lease. After that the attempt counts as crashed and they are due again. Tenants that use few senders go first, and none uses more than p_share.';

CREATE OR REPLACE FUNCTION acp.webhook_disable(p_tenant uuid, p_webhook uuid, p_reason text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE acp.webhooks SET status = 'disabled', disabled_reason = p_reason, updated_at = acp.now()
	WHERE tenant_id = p_tenant AND webhook_id = p_webhook;
	UPDATE acp.webhook_deliveries SET status = 'failed', next_attempt_at = NULL, last_error = 'the webhook was disabled'
	WHERE tenant_id = p_tenant AND webhook_id = p_webhook AND status = 'pending';
END
$$;
COMMENT ON FUNCTION acp.webhook_disable(uuid, uuid, text) IS 'Disables a webhook and fails its pending deliveries. p_reason null: its owner disabled it.';

CREATE OR REPLACE FUNCTION acp.delivery_done(p jsonb) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	tenant    CONSTANT uuid := p->>'tenant_id';
	webhook   CONSTANT uuid := p->>'webhook_id';
	delivered CONSTANT boolean := p->>'delivered';
	again     CONSTANT timestamptz := acp.now() + make_interval(secs => (p->>'retry_after')::double precision);
	pause     CONSTANT interval := make_interval(secs => CASE WHEN (p->>'silent')::boolean THEN 60 ELSE (p->>'pause')::double precision END);
	counted   boolean;
BEGIN
	DELETE FROM acp.webhook_leases
	WHERE tenant_id = tenant AND delivery_id = (p->>'delivery_id')::uuid AND attempt = (p->>'attempt')::integer;
	IF NOT delivered THEN
		-- More rows may change below, so handle one failure of a webhook at a time.
		PERFORM FROM acp.webhooks WHERE tenant_id = tenant AND webhook_id = webhook FOR NO KEY UPDATE;
	END IF;
	-- An attempt that outlived its lease is ignored, unless it delivered: a success needs no further attempt.
	UPDATE acp.webhook_deliveries SET
		status = CASE WHEN delivered THEN 'delivered' WHEN again IS NULL THEN 'failed' ELSE 'pending' END,
		next_attempt_at = CASE WHEN NOT delivered THEN again END,
		last_status = (p->>'status')::integer, last_error = p->>'error',
		delivered_at = CASE WHEN delivered THEN acp.now() END
	WHERE tenant_id = tenant AND delivery_id = (p->>'delivery_id')::uuid AND status = 'pending'
	  AND (delivered OR attempts = (p->>'attempt')::integer);
	counted := FOUND;
	IF counted AND (p->>'gone')::boolean THEN
		PERFORM acp.webhook_disable(tenant, webhook, 'the receiver answered 410 Gone');
	ELSIF counted AND pause > interval '0' THEN
		UPDATE acp.webhooks SET paused_until = greatest(paused_until, acp.now() + pause)
		WHERE tenant_id = tenant AND webhook_id = webhook;
	END IF;
	RETURN counted;
END
$$;
COMMENT ON FUNCTION acp.delivery_done(jsonb) IS
	'Records the outcome of an attempt: tenant_id, webhook_id, delivery_id, attempt, delivered, status?, error?, retry_after? (seconds; missing: the last attempt), pause? (seconds in which nothing is sent to the webhook), gone? (disable the webhook), silent? (from earlier versions: a pause of a minute). False: the attempt had outlived its lease and is ignored.';

CREATE OR REPLACE FUNCTION acp.deliveries_done(p_list jsonb) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT count(*) FILTER (WHERE acp.delivery_done(ended.one)) FROM (
		-- A failure locks its webhook before its delivery, so failures come first: a success locks only its delivery.
		SELECT one FROM jsonb_array_elements(p_list) x(one)
		ORDER BY (one->>'tenant_id')::uuid, (one->>'webhook_id')::uuid, (one->>'delivered')::boolean) ended);
END
$$;
COMMENT ON FUNCTION acp.deliveries_done(jsonb) IS
	'Records the outcomes of several attempts, in the order in which webhooks are locked. Returns how many counted: the others had outlived their leases.';

-- The pack: handlers (tenant, params, ctx) -> data -------------------------------------------------------------------

CREATE OR REPLACE FUNCTION acp.webhook_json(w acp.webhooks) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN jsonb_build_object('webhook_id', w.webhook_id, 'url', w.url, 'events', to_jsonb(w.events), 'description', w.description,
		'status', w.status, 'disabled_reason', w.disabled_reason, 'created_at', acp.rfc3339(w.created_at),
		'updated_at', acp.rfc3339(w.updated_at));
END
$$;
COMMENT ON FUNCTION acp.webhook_json(acp.webhooks) IS 'JSON of a webhook for replies. Never contains its secret.';

CREATE OR REPLACE FUNCTION acp.webhook_of(p_tenant uuid, p_params jsonb) RETURNS acp.webhooks
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	w acp.webhooks;
BEGIN
	SELECT * INTO w FROM acp.webhooks WHERE tenant_id = p_tenant AND webhook_id = (p_params->>'webhook_id')::uuid;
	IF NOT FOUND THEN
		PERFORM acp.fail('NOT_FOUND', 'no webhook has this webhook_id; webhooks.list shows them', '/params/webhook_id');
	END IF;
	RETURN w;
END
$$;
COMMENT ON FUNCTION acp.webhook_of(uuid, jsonb) IS 'Returns the webhook of the tenant that params.webhook_id names, or refuses the call.';

CREATE OR REPLACE FUNCTION acp.webhook_check_events(p_params jsonb) RETURNS text[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	known CONSTANT text[] := acp.webhook_known_events();
	wrong integer;
BEGIN
	SELECT n - 1 INTO wrong FROM jsonb_array_elements_text(p_params->'events') WITH ORDINALITY AS e(pattern, n)
	WHERE NOT EXISTS (SELECT FROM unnest(known) AS name WHERE acp.pattern_fits(pattern, name)) ORDER BY n LIMIT 1;
	IF wrong IS NOT NULL THEN
		PERFORM acp.fail('VALIDATION_ERROR', 'this pattern matches no event; the events are ' || array_to_string(known, ', '),
			'/params/events/' || wrong);
	END IF;
	RETURN ARRAY(SELECT jsonb_array_elements_text(p_params->'events'));
END
$$;
COMMENT ON FUNCTION acp.webhook_check_events(jsonb) IS 'Returns params.events, or refuses the call if a pattern matches no event.';

CREATE OR REPLACE FUNCTION acp.webhooks_list(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	list jsonb;
BEGIN
	SELECT coalesce(jsonb_agg(acp.webhook_json(w) ORDER BY w.created_at, w.webhook_id), '[]') INTO list FROM (
		SELECT * FROM acp.webhooks x
		WHERE x.tenant_id = p_tenant AND (p_params->>'after' IS NULL OR (x.created_at, x.webhook_id) >
			(SELECT a.created_at, a.webhook_id FROM acp.webhooks a
			 WHERE a.tenant_id = p_tenant AND a.webhook_id = (p_params->>'after')::uuid))
		ORDER BY x.created_at, x.webhook_id LIMIT coalesce((p_params->>'limit')::integer, 100)) w;
	PERFORM acp.report(jsonb_build_object('resource_type', 'webhook', 'count', jsonb_array_length(list)));
	RETURN list;
END
$$;
COMMENT ON FUNCTION acp.webhooks_list(uuid, jsonb, jsonb) IS 'webhooks.list: oldest first.';

CREATE OR REPLACE FUNCTION acp.webhooks_create(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	wanted CONSTANT text[] := acp.webhook_check_events(p_params);
	w      acp.webhooks;
BEGIN
	IF (p_ctx->>'dry_run')::boolean THEN
		RETURN acp.impact(p_creates => jsonb_build_array(jsonb_build_object('type', 'webhook', 'url', p_params->'url',
			'events', p_params->'events', 'description', p_params->'description', 'count', 1)));
	END IF;
	PERFORM acp.ceiling_hold(p_tenant, 'webhooks', p_ctx);
	INSERT INTO acp.webhooks (tenant_id, webhook_id, url, events, description, status, sealed, created_at, updated_at)
	VALUES (p_tenant, (p_params->>'new_id')::uuid, p_params->>'url', wanted, p_params->>'description', 'active',
		decode(p_params->>'new_sealed', 'hex'), acp.now(), acp.now())
	RETURNING * INTO w;
	PERFORM acp.report(jsonb_build_object('resource_type', 'webhook', 'resource_id', w.webhook_id));
	RETURN acp.webhook_json(w);
END
$$;
COMMENT ON FUNCTION acp.webhooks_create(uuid, jsonb, jsonb) IS 'webhooks.create: id and sealed secret are in params.';

CREATE OR REPLACE FUNCTION acp.webhook_pending(w acp.webhooks) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	waiting CONSTANT bigint := (SELECT count(*) FROM acp.webhook_deliveries d
		WHERE d.tenant_id = w.tenant_id AND d.webhook_id = w.webhook_id AND d.status = 'pending');
BEGIN
	RETURN CASE WHEN waiting = 0 THEN '[]' ELSE jsonb_build_array(jsonb_build_object('type', 'webhook_delivery',
		'webhook_id', w.webhook_id, 'changes', jsonb_build_object('status', 'failed'), 'count', waiting)) END;
END
$$;
COMMENT ON FUNCTION acp.webhook_pending(acp.webhooks) IS 'Builds updates of an impact: the pending deliveries that disabling would fail.';

CREATE OR REPLACE FUNCTION acp.webhook_changes(w acp.webhooks, p_params jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT coalesce(jsonb_object_agg(c.key, c.value), '{}')
		FROM jsonb_each(p_params - ARRAY['webhook_id', 'rotate_secret', 'new_sealed']) c
		WHERE c.value IS DISTINCT FROM to_jsonb(w)->c.key)
		|| CASE WHEN (p_params->>'rotate_secret')::boolean THEN jsonb_build_object('secret', 'rotated') ELSE '{}' END;
END
$$;
COMMENT ON FUNCTION acp.webhook_changes(acp.webhooks, jsonb) IS 'The changes that webhooks.update would make.';

CREATE OR REPLACE FUNCTION acp.webhooks_update(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	w       acp.webhooks := acp.webhook_of(p_tenant, p_params);
	wanted  CONSTANT text[] := acp.webhook_check_events(p_params);
	changes CONSTANT jsonb := acp.webhook_changes(w, p_params);
	rotate  CONSTANT boolean := coalesce((p_params->>'rotate_secret')::boolean, false);
BEGIN
	IF p_params - ARRAY['webhook_id', 'new_sealed'] = '{}' THEN
		PERFORM acp.fail('VALIDATION_ERROR', 'name at least one of url, events, description, status, rotate_secret', '/params');
	END IF;
	IF (p_ctx->>'dry_run')::boolean THEN
		RETURN acp.impact(p_updates => CASE WHEN changes = '{}' THEN '[]' ELSE jsonb_build_array(jsonb_build_object(
			'type', 'webhook', 'webhook_id', w.webhook_id, 'changes', changes)) END
			|| CASE WHEN changes->>'status' = 'disabled' THEN acp.webhook_pending(w) ELSE '[]' END);
	END IF;
	UPDATE acp.webhooks SET
		url = coalesce(p_params->>'url', url),
		events = CASE WHEN p_params ? 'events' THEN wanted ELSE events END,
		description = CASE WHEN p_params ? 'description' THEN p_params->>'description' ELSE description END,
		status = coalesce(p_params->>'status', status),
		disabled_reason = CASE WHEN p_params ? 'status' THEN NULL ELSE disabled_reason END,
		sealed_before = CASE WHEN rotate THEN sealed ELSE sealed_before END,
		before_until = CASE WHEN rotate THEN acp.now() + interval '24 hours' ELSE before_until END,
		sealed = CASE WHEN rotate THEN decode(p_params->>'new_sealed', 'hex') ELSE sealed END,
		paused_until = CASE WHEN p_params ? 'url' OR p_params ? 'status' THEN NULL ELSE paused_until END,
		updated_at = acp.now()
	WHERE tenant_id = p_tenant AND webhook_id = w.webhook_id RETURNING * INTO w;
	IF w.status = 'disabled' THEN
		PERFORM acp.webhook_disable(p_tenant, w.webhook_id, w.disabled_reason);
	END IF;
	PERFORM acp.report(jsonb_build_object('resource_type', 'webhook', 'resource_id', w.webhook_id));
	RETURN acp.webhook_json(w);
END
$$;
COMMENT ON FUNCTION acp.webhooks_update(uuid, jsonb, jsonb) IS
	'webhooks.update: sets the given members. A new secret is in params.new_sealed; for one day deliveries are signed with the old secret too.';

CREATE OR REPLACE FUNCTION acp.webhooks_delete(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	w    CONSTANT acp.webhooks := acp.webhook_of(p_tenant, p_params);
	gone CONSTANT bigint := (SELECT count(*) FROM acp.webhook_deliveries WHERE tenant_id = p_tenant AND webhook_id = w.webhook_id);
BEGIN
	IF (p_ctx->>'dry_run')::boolean THEN
		RETURN acp.impact(p_risk => 'medium', p_deletes => jsonb_build_array(jsonb_build_object('type', 'webhook',
			'webhook_id', w.webhook_id, 'url', w.url, 'count', 1)) || CASE WHEN gone = 0 THEN '[]' ELSE jsonb_build_array(
			jsonb_build_object('type', 'webhook_delivery', 'webhook_id', w.webhook_id, 'count', gone)) END);
	END IF;
	DELETE FROM acp.webhooks WHERE tenant_id = p_tenant AND webhook_id = w.webhook_id;
	PERFORM acp.report(jsonb_build_object('resource_type', 'webhook', 'resource_id', w.webhook_id));
	RETURN jsonb_build_object('webhook_id', w.webhook_id, 'deleted', true);
END
$$;
COMMENT ON FUNCTION acp.webhooks_delete(uuid, jsonb, jsonb) IS 'webhooks.delete: also deletes its deliveries.';

CREATE OR REPLACE FUNCTION acp.webhooks_test(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	w acp.webhooks := acp.webhook_of(p_tenant, p_params);
	d acp.webhook_deliveries;
BEGIN
	IF w.status <> 'active' THEN
		PERFORM acp.fail('VALIDATION_ERROR', 'this webhook is disabled; webhooks.update with status active enables it', '/params/webhook_id');
	END IF;
	IF (p_ctx->>'dry_run')::boolean THEN
		RETURN acp.impact(p_creates => jsonb_build_array(jsonb_build_object('type', 'webhook_delivery', 'event', 'webhook.test',
			'webhook_id', w.webhook_id, 'url', w.url, 'count', 1)));
	END IF;
	PERFORM acp.ceiling_hold(p_tenant, 'pending_deliveries', p_ctx);
	-- As in acp.webhook_emit: wait for a concurrent deletion. Who asks for a test does not want to wait for the end of a pause.
	UPDATE acp.webhooks SET paused_until = NULL WHERE tenant_id = p_tenant AND webhook_id = w.webhook_id AND paused_until IS NOT NULL;
	PERFORM FROM acp.webhooks WHERE tenant_id = p_tenant AND webhook_id = w.webhook_id FOR KEY SHARE;
	w := acp.webhook_of(p_tenant, p_params);
	d := acp.webhook_deliver(w, 'webhook.test', jsonb_build_object('webhook_id', w.webhook_id, 'request_id', p_ctx->'request_id'));
	PERFORM acp.report(jsonb_build_object('resource_type', 'webhook_delivery', 'resource_id', d.delivery_id));
	RETURN acp.delivery_json(d);
END
$$;
COMMENT ON FUNCTION acp.webhooks_test(uuid, jsonb, jsonb) IS 'webhooks.test: queues a delivery to this webhook, whatever its subscriptions.';

CREATE OR REPLACE FUNCTION acp.delivery_json(d acp.webhook_deliveries) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN jsonb_build_object('delivery_id', d.delivery_id, 'webhook_id', d.webhook_id, 'event', d.event, 'payload', d.payload,
		'status', d.status, 'attempts', d.attempts, 'next_attempt_at', acp.rfc3339(d.next_attempt_at), 'last_status', d.last_status,
		'last_error', d.last_error, 'created_at', acp.rfc3339(d.created_at), 'delivered_at', acp.rfc3339(d.delivered_at));
END
$$;
COMMENT ON FUNCTION acp.delivery_json(acp.webhook_deliveries) IS 'JSON of a delivery for replies.';

CREATE OR REPLACE FUNCTION acp.webhooks_deliveries(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	list jsonb;
BEGIN
	IF p_params ? 'webhook_id' THEN
		PERFORM acp.webhook_of(p_tenant, p_params);
	END IF;
	SELECT coalesce(jsonb_agg(acp.delivery_json(d) ORDER BY d.created_at DESC, d.delivery_id DESC), '[]') INTO list FROM (
		SELECT * FROM acp.webhook_deliveries x
		WHERE x.tenant_id = p_tenant
		  AND (p_params->>'webhook_id' IS NULL OR x.webhook_id = (p_params->>'webhook_id')::uuid)
		  AND (p_params->>'status' IS NULL OR x.status = p_params->>'status')
		  AND (p_params->>'after' IS NULL OR (x.created_at, x.delivery_id) <
			(SELECT a.created_at, a.delivery_id FROM acp.webhook_deliveries a
			 WHERE a.tenant_id = p_tenant AND a.delivery_id = (p_params->>'after')::uuid))
		ORDER BY x.created_at DESC, x.delivery_id DESC LIMIT coalesce((p_params->>'limit')::integer, 100)) d;
	PERFORM acp.report(jsonb_build_object('resource_type', 'webhook_delivery', 'count', jsonb_array_length(list)));
	RETURN list;
END
$$;
COMMENT ON FUNCTION acp.webhooks_deliveries(uuid, jsonb, jsonb) IS 'webhooks.deliveries: newest first.';

GRANT EXECUTE ON FUNCTION acp.webhook_known_events(), acp.webhook_wants(acp.webhooks, text), acp.webhook_deliver(acp.webhooks, text, jsonb),
	acp.webhook_emit(uuid, text, jsonb), acp.webhook_effects(uuid, text), acp.webhook_usage(uuid, bigint, integer, integer, timestamptz),
	acp.webhook_trim(uuid, uuid, integer), acp.deliveries_pending(uuid, bigint), acp.webhook_queues(uuid, uuid, integer),
	acp.deliveries_take(integer, interval, integer), acp.webhook_disable(uuid, uuid, text), acp.delivery_done(jsonb), acp.deliveries_done(jsonb), acp.webhook_json(acp.webhooks),
	acp.webhook_of(uuid, jsonb), acp.webhook_check_events(jsonb), acp.webhooks_list(uuid, jsonb, jsonb),
	acp.webhooks_create(uuid, jsonb, jsonb), acp.webhook_pending(acp.webhooks), acp.webhook_changes(acp.webhooks, jsonb),
	acp.webhooks_update(uuid, jsonb, jsonb), acp.webhooks_delete(uuid, jsonb, jsonb), acp.webhooks_test(uuid, jsonb, jsonb),
	acp.delivery_json(acp.webhook_deliveries), acp.webhooks_deliveries(uuid, jsonb, jsonb) TO acp_app;
