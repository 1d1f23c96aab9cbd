-- The hub for other kernels: functions behind the endpoints under /functions/v1/, (p, p_ctx) -> members of the reply.
--
-- p: the body, or the query as an object, checked by core/hub/hub.c. p_ctx: id (a new UUID), free_limit, reservation_ttl
-- and, for calls that change something, event: their audit row, written with the change.

CREATE OR REPLACE FUNCTION acp.audit_event_json(e acp.audit_logs) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN to_jsonb(e) - '{actor_type,actor_id,api_key_id,chain_id,chain_seq,chain_hash,chain_form,salt,erased}'::text[] || jsonb_build_object(
		'tenant_id', nullif(e.tenant_id, '00000000-0000-0000-0000-000000000000'),
		'ts', to_char(e.ts AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
		'actor', jsonb_build_object('type', e.actor_type, 'id', e.actor_id, 'api_key_id', e.api_key_id));
END
$$;
COMMENT ON FUNCTION acp.audit_event_json(acp.audit_logs) IS 'Converts an audit row to an AuditEvent, as returned by audit-query and accepted by audit-ingest.';

CREATE OR REPLACE FUNCTION acp.hub_tenant(p jsonb) RETURNS acp.tenants
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t acp.tenants;
BEGIN
	SELECT * INTO t FROM acp.tenants WHERE tenant_id = (p->>'tenant_id')::uuid;
	IF NOT FOUND THEN
		PERFORM acp.fail('NOT_FOUND', 'no tenant has this tenant_id; tenants/create creates one', '/tenant_id');
	END IF;
	RETURN t;
END
$$;
COMMENT ON FUNCTION acp.hub_tenant(jsonb) IS 'Returns the tenant that a kernel names, or refuses the call.';

CREATE OR REPLACE FUNCTION acp.hub_changed(p_ctx jsonb, p_meta jsonb) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM acp.audit_append(p_ctx->'event' || jsonb_build_object('result_meta', p_meta));
END
$$;
COMMENT ON FUNCTION acp.hub_changed(jsonb, jsonb) IS
	'Writes the audit row for a change by a kernel. The row belongs to the hub; result_meta names the tenant affected.';

CREATE OR REPLACE FUNCTION acp.hub_replay(p_op text, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	nil      CONSTANT uuid := '00000000-0000-0000-0000-000000000000';
	idem_key CONSTANT text := p_ctx->>'idempotency_key';
	earlier  acp.idempotency;
BEGIN
	IF idem_key IS NULL THEN
		RETURN NULL;
	END IF;
	-- Of two first calls with one key, the second waits here and then finds the row of the first.
	PERFORM pg_advisory_xact_lock(hashtextextended(p_op || idem_key, 0));
	SELECT * INTO earlier FROM acp.idempotency i WHERE i.tenant_id = nil AND i.action = p_op AND i.key = idem_key;
	IF earlier.expires_at > acp.now() THEN
		IF earlier.fingerprint <> p_ctx->>'fingerprint' THEN
			PERFORM acp.fail('IDEMPOTENCY_MISMATCH', 'this idempotency key was used with another request; use a separate key for each request');
		END IF;
		PERFORM acp.hub_changed(p_ctx, jsonb_build_object('tenant_id', coalesce(earlier.reply->'tenant_uuid', earlier.reply->'tenant_id'),
			'replay', true));
		RETURN earlier.reply;
	END IF;
	DELETE FROM acp.idempotency i WHERE i.tenant_id = nil AND i.action = p_op AND i.key = idem_key;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION acp.hub_replay(text, jsonb) IS
	'Returns the reply to an earlier request of a kernel with the same Idempotency-Key and body, within 24 hours, and writes the audit row of this one; null: there was none, and acp.hub_keep() must follow.';

CREATE OR REPLACE FUNCTION acp.hub_keep(p_op text, p_ctx jsonb, p_reply jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF p_ctx->>'idempotency_key' IS NOT NULL THEN
		INSERT INTO acp.idempotency (tenant_id, action, key, fingerprint, state, reply, created_at, expires_at)
		VALUES ('00000000-0000-0000-0000-000000000000', p_op, p_ctx->>'idempotency_key', p_ctx->>'fingerprint', 'done', p_reply, acp.now(),
			acp.now() + interval '24 hours');
	END IF;
	RETURN p_reply;
END
$$;
COMMENT ON FUNCTION acp.hub_keep(text, jsonb, jsonb) IS 'Keeps the reply to a request of a kernel under its Idempotency-Key, or under the key that the program gave it. Returns the reply.';

CREATE OR REPLACE FUNCTION acp.hub_tenants_create(p jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	op     CONSTANT text := 'hub.tenants.create';
	result jsonb := acp.hub_replay(op, p_ctx);
BEGIN
	IF result IS NOT NULL THEN
		RETURN result;
	END IF;
	IF NOT acp.tenant_create((p_ctx->>'id')::uuid, p->>'product', p->>'agent_id', p->>'email', p->>'organization_name') THEN
		PERFORM acp.fail('ALREADY_ONBOARDED', 'this agent_id is taken; choose another one');
	END IF;
	result := jsonb_build_object('tenant_uuid', p_ctx->'id', 'tier', 'free', 'created_at', acp.rfc3339(acp.now()));
	PERFORM acp.hub_changed(p_ctx, jsonb_build_object('tenant_id', p_ctx->'id'));
	RETURN acp.hub_keep(op, p_ctx, result);
END
$$;
COMMENT ON FUNCTION acp.hub_tenants_create(jsonb, jsonb) IS
	'tenants/create: creates a free tenant without a key. Refuses an existing agent_id, unless the Idempotency-Key and the body are the same.';

CREATE OR REPLACE FUNCTION acp.hub_tenants_update(p jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	op     CONSTANT text := 'hub.tenants.update';
	t      acp.tenants := acp.hub_tenant(p);
	result CONSTANT jsonb := acp.hub_replay(op, p_ctx);
BEGIN
	IF result IS NOT NULL THEN
		RETURN result;
	END IF;
	PERFORM acp.tenant_update(t.tenant_id, p->>'tier', p->>'payment_method_status', p->>'status', NULL);
	UPDATE acp.tenants SET stripe_customer_id = coalesce(p->>'stripe_customer_id', stripe_customer_id)
	WHERE tenant_id = t.tenant_id RETURNING * INTO t;
	PERFORM acp.hub_changed(p_ctx, jsonb_build_object('tenant_id', t.tenant_id,
		'changed', (SELECT jsonb_agg(key ORDER BY key) FROM jsonb_object_keys(p - 'tenant_id') key)));
	RETURN acp.hub_keep(op, p_ctx, jsonb_build_object('tenant_id', t.tenant_id, 'tier', t.tier,
		'payment_method_status', t.payment_method_status, 'stripe_customer_id', t.stripe_customer_id, 'status', t.status,
		'upgraded_at', acp.rfc3339(t.upgraded_at), 'updated_at', acp.rfc3339(t.updated_at)));
END
$$;
COMMENT ON FUNCTION acp.hub_tenants_update(jsonb, jsonb) IS 'tenants/update: sets the given members of tier, payment_method_status, status and stripe_customer_id.';

CREATE OR REPLACE FUNCTION acp.hub_usage(p jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t          CONSTANT acp.tenants := acp.hub_tenant(p);
	month      CONSTANT date := coalesce(left(p->>'period_start', 10), p->>'period' || '-01')::date;
	next_month CONSTANT date := month + interval '1 month';
BEGIN
	IF p ? 'period_end' AND (month IS NULL
	   OR left(p->>'period_end', 10) NOT IN (to_char(next_month, 'YYYY-MM-DD'), to_char(next_month - 1, 'YYYY-MM-DD'))) THEN
		PERFORM acp.fail('VALIDATION_ERROR', 'period_start and period_end must be the first and the last day of one UTC month, or the first of the next',
			'/period_end');
	END IF;
	RETURN acp.usage(t.tenant_id, month, (p_ctx->>'free_limit')::integer)::jsonb;
END
$$;
COMMENT ON FUNCTION acp.hub_usage(jsonb, jsonb) IS 'usage: the usage object of a tenant and UTC month, given by period_start and period_end or by period; default: the current month.';

CREATE OR REPLACE FUNCTION acp.hub_time(p_at timestamptz, p_field text) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF p_at BETWEEN acp.now() - interval '400 days' AND acp.now() + interval '15 minutes' THEN
		RETURN p_at;
	END IF;
	PERFORM acp.fail('VALIDATION_ERROR', format('%s must be at most 15 minutes after the hub''s time, which is %s, and at most 400 days before it',
		p_field, acp.rfc3339(date_trunc('second', acp.now()))), p_field);
END
$$;
COMMENT ON FUNCTION acp.hub_time(timestamptz, text) IS
	'Returns the moment of a call of another kernel, or refuses it: a kernel''s clock may be off by minutes, and its rows may be late, but not by years. Null: the moment cannot be represented.';
CREATE OR REPLACE FUNCTION acp.hub_usage_prices(p jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN acp.usage_prices(p); END $$;
COMMENT ON FUNCTION acp.hub_usage_prices(jsonb, jsonb) IS 'usage/prices: what calls of actions cost now.';

CREATE OR REPLACE FUNCTION acp.hub_usage_reserve(p jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t     CONSTANT acp.tenants := acp.hub_tenant(p);
	at    CONSTANT timestamptz := acp.hub_time(acp.instant(p->>'ts'), '/ts');
	place record;
	used  bigint;
	held  bigint;
BEGIN
	-- A kernel that missed the first answer asks again: release its reservation, so that it holds only one.
	PERFORM acp.usage_release(t.tenant_id, (p->>'event_id')::uuid, at);
	SELECT * INTO place FROM acp.usage_reserve(t.tenant_id, (p->>'event_id')::uuid, at, (p_ctx->>'free_limit')::integer,
		make_interval(secs => (p_ctx->>'reservation_ttl')::integer));
	IF place.tier = 'free' THEN
		SELECT f.calls_used, f.calls_held INTO used, held FROM acp.usage_figures(t.tenant_id, acp.period(at), (p_ctx->>'free_limit')::integer) f;
	END IF;
	RETURN jsonb_build_object('allowed', place.allowed, 'tier', place.tier, 'calls_used', used, 'calls_held', held, 'calls_limit', place.calls_limit,
		'policy_version', acp.policy_version())
		|| CASE WHEN t.past_due_since IS NULL THEN '{}' ELSE jsonb_build_object('past_due', acp.past_due(t)) END;
END
$$;
COMMENT ON FUNCTION acp.hub_usage_reserve(jsonb, jsonb) IS
	'usage/reserve: reserves a call of the allowance of the tenant for a kernel, until usage/settle or the audit row of the call ends it.';

CREATE OR REPLACE FUNCTION acp.hub_usage_consume(p jsonb, p_ctx jsonb) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	tenant   CONSTANT uuid := p->>'tenant_id';
	event    CONSTANT uuid := p->>'event_id';
	at       CONSTANT timestamptz := acp.hub_time(acp.instant(p->>'ts'), '/ts');
BEGIN
	-- A kernel that got no answer sends the audit row while this call may still be running. The locks of acp.audit_stored()
	-- make one of the two see the other.
	PERFORM pg_advisory_xact_lock_shared(hashtext('acp.audit_stored'));
	PERFORM pg_advisory_xact_lock(hashtext('acp.audit_stored'), hashtext(event::text));
	INSERT INTO acp.usage_settled (tenant_id, period, reservation_id, settled_at)
	VALUES (tenant, acp.period(at), event, acp.now()) ON CONFLICT DO NOTHING;
	IF FOUND AND NOT EXISTS (SELECT FROM acp.audit_logs l WHERE l.tenant_id = tenant AND l.ts = at AND l.event_id = event) THEN
		RETURN acp.usage_consume(tenant, event, at, (p_ctx->>'free_limit')::integer);
	END IF;
	-- The call was counted before: this is a repeat, or its audit row arrived first.
	DELETE FROM acp.usage_settled s WHERE s.tenant_id = tenant AND s.period = acp.period(at) AND s.reservation_id = event
		AND EXISTS (SELECT FROM acp.audit_logs l WHERE l.tenant_id = tenant AND l.ts = at AND l.event_id = event);
	RETURN (SELECT f.calls_used FROM acp.usage_figures(tenant, acp.period(at), (p_ctx->>'free_limit')::integer) f);
END
$$;
COMMENT ON FUNCTION acp.hub_usage_consume(jsonb, jsonb) IS 'Counts a call of a kernel once, even if it is repeated, and in either order with its audit row.';

CREATE OR REPLACE FUNCTION acp.hub_usage_settle(p jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t        CONSTANT acp.tenants := acp.hub_tenant(p);
	at       CONSTANT timestamptz := acp.hub_time(acp.instant(p->>'ts'), '/ts');
	now_used bigint;
BEGIN
	IF p->>'outcome' = 'success' THEN
		IF coalesce((p->>'reserved')::boolean, true) THEN
			now_used := acp.hub_usage_consume(p, p_ctx);
		END IF;
		IF p ? 'approval_id' THEN
			PERFORM acp.approval_use(t.tenant_id, (p->>'approval_id')::uuid, (p->>'event_id')::uuid);
		END IF;
	ELSE
		IF p ? 'approval_id' THEN
			PERFORM acp.approval_give_back(t.tenant_id, (p->>'approval_id')::uuid, (p->>'event_id')::uuid);
		END IF;
		IF NOT acp.usage_release(t.tenant_id, (p->>'event_id')::uuid, at) THEN
			DELETE FROM acp.usage_settled
			WHERE tenant_id = t.tenant_id AND period = acp.period(at) AND reservation_id = (p->>'event_id')::uuid;
			IF FOUND THEN
				UPDATE acp.usage_quota SET used = used - 1 WHERE tenant_id = t.tenant_id AND period = acp.period(at);
			END IF;
		END IF;
	END IF;
	RETURN jsonb_build_object('calls_used', now_used, 'calls_held', acp.usage_held(t.tenant_id, acp.period(at)));
END
$$;
COMMENT ON FUNCTION acp.hub_usage_settle(jsonb, jsonb) IS
	'usage/settle: called before a kernel commits a call. Success counts it and uses up its approval, or refuses it; with reserved false it only uses up the approval, before the call runs. Failure releases the reservation and gives the approval back.';

CREATE OR REPLACE FUNCTION acp.hub_event_row(p_event jsonb) RETURNS acp.audit_logs
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	actor CONSTANT jsonb := coalesce(nullif(p_event->'actor', 'null'), '{}');
	e     acp.audit_logs := jsonb_populate_record(NULL::acp.audit_logs,
		jsonb_strip_nulls(p_event - '{ts,latency_ms,result_meta,chain_form,salt,erased}'::text[]));
BEGIN
	e.ts := CASE jsonb_typeof(p_event->'ts') WHEN 'number' THEN to_timestamp((p_event->>'ts')::numeric / 1000)
		ELSE acp.instant(p_event->>'ts') END;
	e.latency_ms := round((p_event->>'latency_ms')::numeric, 6); -- a column of type real refuses what is almost 0
	e.result_meta := nullif(p_event->'result_meta', 'null');
	e.tenant_id := coalesce(e.tenant_id, '00000000-0000-0000-0000-000000000000');
	e.actor_type := coalesce(actor->>'type', e.actor_type);
	e.actor_id := coalesce(actor->>'id', e.actor_id);
	e.api_key_id := coalesce((actor->>'api_key_id')::uuid, e.api_key_id);
	e.latency_ms := coalesce(e.latency_ms, 0);
	e.dry_run := coalesce(e.dry_run, false);
	e.billable := coalesce(e.billable, false);
	e.billing_quantity := coalesce(e.billing_quantity, 1);
	IF e.billable THEN
		e.pack := coalesce(e.pack, split_part(e.action, '.', 1)); -- a call without a pack would be neither counted nor billed
	END IF;
	RETURN e;
END
$$;
COMMENT ON FUNCTION acp.hub_event_row(jsonb) IS 'Converts an AuditEvent to an audit row. billable defaults to false; unknown members are dropped. ts is null if it cannot be represented.';

DROP FUNCTION IF EXISTS acp.hub_count(acp.audit_logs[]);
CREATE OR REPLACE FUNCTION acp.hub_count(p_rows acp.audit_logs[], p_default_limit integer) RETURNS uuid[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	no_room uuid[] := '{}';
	q       record;
	call    record;
BEGIN
	-- A call already counted by usage/settle is not counted again. A call with a reservation releases it. A call that ran
	-- without a usage check is counted if the allowance has room. A tenant that the hub does not know has none.
	FOR q IN
		WITH settled AS (
			DELETE FROM acp.usage_settled s USING unnest(p_rows) e
			WHERE s.tenant_id = e.tenant_id AND s.period = acp.period(e.ts) AND s.reservation_id = e.event_id
			RETURNING e.tenant_id, s.period, e.event_id
		), held AS (
			DELETE FROM acp.usage_reservations r USING unnest(p_rows) e
			WHERE r.tenant_id = e.tenant_id AND r.period = acp.period(e.ts) AND r.reservation_id = e.event_id
			RETURNING e.tenant_id, r.period, e.event_id
		), calls AS (
			SELECT e.tenant_id, acp.period(e.ts) AS period, e.event_id, e.ts, h.event_id IS NOT NULL AS released,
				e.billable AND e.tier = 'free' AND s.event_id IS NULL AND t.tenant_id IS NOT NULL AS uses,
				h.event_id IS NULL AND coalesce(e.result_meta->>'usage_check' = 'failed_open'
					AND acp.effective_tier(t.tier, t.payment_method_status, t.past_due_until, e.ts) = 'free', false) AS unasked
			FROM unnest(p_rows) e LEFT JOIN settled s USING (tenant_id, event_id) LEFT JOIN held h USING (tenant_id, event_id)
				LEFT JOIN acp.tenants t USING (tenant_id)
		)
		SELECT c.tenant_id, c.period, count(*) FILTER (WHERE c.released)::integer AS released,
			count(*) FILTER (WHERE c.uses AND NOT c.unasked)::integer AS used,
			jsonb_agg(jsonb_build_object('event_id', c.event_id, 'ts', c.ts) ORDER BY c.ts) FILTER (WHERE c.uses AND c.unasked) AS unasked
		FROM calls c GROUP BY 1, 2 HAVING bool_or(c.released OR c.uses) ORDER BY 1, 2
	LOOP
		INSERT INTO acp.usage_quota AS u (tenant_id, period, used) VALUES (q.tenant_id, q.period, q.used)
		ON CONFLICT (tenant_id, period) DO UPDATE SET used = u.used + excluded.used, reserved = u.reserved - q.released;
		FOR call IN SELECT * FROM jsonb_to_recordset(q.unasked) c(event_id uuid, ts timestamptz) LOOP
			IF acp.usage_count(q.tenant_id, NULL, call.ts, p_default_limit) IS NULL THEN
				no_room := no_room || call.event_id;
			END IF;
		END LOOP;
	END LOOP;
	RETURN no_room || ARRAY(SELECT e.event_id FROM unnest(p_rows) e
		WHERE e.billable AND e.tier = 'free' AND NOT EXISTS (SELECT FROM acp.tenants t WHERE t.tenant_id = e.tenant_id));
END
$$;
COMMENT ON FUNCTION acp.hub_count(acp.audit_logs[], integer) IS
	'Counts audit rows that are about to be stored against the quotas of their tenants, and ends their reservations. Returns the events that were not counted: calls that ran without a usage check and found no room in the allowance.';

-- A kernel whose rows must wait sends them again. The calls of all tenants wait for this statement, so it waits for its
-- turn not for long, and then for a tenant that is locked hardly at all.
CREATE OR REPLACE FUNCTION acp.hub_audit_ingest(p jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '2s'
AS $$
DECLARE
	rows    CONSTANT acp.audit_logs[] := ARRAY(SELECT acp.hub_event_row(value) FROM jsonb_array_elements(p->'events') WITH ORDINALITY x(value, n) ORDER BY n);
	stored  CONSTANT boolean[] := acp.audit_stored(rows);
	fresh   acp.audit_logs[];
	no_room uuid[];
BEGIN
	FOR i IN 1 .. cardinality(rows) LOOP
		IF NOT stored[i] THEN
			PERFORM acp.hub_time((rows[i]).ts, CASE WHEN (p->>'many')::boolean THEN '/' || (i - 1) ELSE '' END || '/ts');
		END IF;
	END LOOP;
	fresh := acp.rows_where(rows, ARRAY(SELECT NOT s FROM unnest(stored) WITH ORDINALITY x(s, n) ORDER BY n));
	PERFORM set_config('lock_timeout', '250ms', true);
	no_room := acp.hub_count(fresh, (p_ctx->>'free_limit')::integer);
	PERFORM set_config('lock_timeout', '2s', true);
	IF cardinality(no_room) > 0 THEN
		FOR i IN 1 .. cardinality(fresh) LOOP
			IF (fresh[i]).event_id = ANY (no_room) THEN
				fresh[i] := acp.journal_no_room(fresh[i]);
			END IF;
		END LOOP;
	END IF;
	IF cardinality(fresh) > 0 THEN
		PERFORM acp.audit_append_rows(fresh);
	END IF;
	RETURN jsonb_build_object('accepted', cardinality(fresh), 'duplicates', jsonb_array_length(p->'events') - cardinality(fresh));
END
$$;
COMMENT ON FUNCTION acp.hub_audit_ingest(jsonb, jsonb) IS
	'audit-ingest: stores and counts the events that are new by tenant, ts and event_id, all or none. p: events, and many (true: they were sent as an array, so a refusal names the place). A call that ran without a usage check and found no room in the allowance is stored as not billable.';

CREATE OR REPLACE FUNCTION acp.hub_audit_query(p jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	most     CONSTANT integer := coalesce((p->>'limit')::integer, 100);
	tenant   CONSTANT uuid := p->>'tenant_id';
	since    CONSTANT timestamptz := coalesce(acp.instant(p->>'from'), '-infinity');
	before   CONSTANT timestamptz := coalesce(acp.instant(p->>'to'), 'infinity');
	-- The cursor is the last row returned: microseconds since 1970, and event_id.
	last_ts  CONSTANT timestamptz := coalesce('epoch'::timestamptz + split_part(p->>'cursor', '.', 1)::bigint * interval '1 microsecond', 'infinity');
	last_id  CONSTANT uuid := coalesce(split_part(p->>'cursor', '.', 2), 'ffffffff-ffff-ffff-ffff-ffffffffffff')::uuid;
	until    CONSTANT timestamptz := least(last_ts, before);
	found    acp.audit_logs[];
	last_row acp.audit_logs;
BEGIN
	IF (p ? 'from' AND since = '-infinity') OR (p ? 'to' AND before = 'infinity') THEN
		PERFORM acp.fail('VALIDATION_ERROR', 'the offset from UTC is not one that exists', CASE WHEN since = '-infinity' AND p ? 'from' THEN '/from' ELSE '/to' END);
	END IF;
	found := ARRAY(
		SELECT l FROM acp.audit_logs l
		WHERE (tenant IS NULL OR l.tenant_id = tenant) AND l.ts >= since AND l.ts <= until
		  AND (l.ts < last_ts OR l.event_id < last_id) AND (NOT p ? 'to' OR l.ts < before)
		  AND (NOT p ? 'action_prefix' OR starts_with(l.action, p->>'action_prefix')) AND (NOT p ? 'status' OR l.status = p->>'status')
		ORDER BY l.ts DESC, l.event_id DESC LIMIT most + 1);
	last_row := found[most];
	RETURN jsonb_build_object(
		'events', (SELECT coalesce(jsonb_agg(acp.audit_event_json(e) ORDER BY e.ts DESC, e.event_id DESC), '[]') FROM unnest(found[:most]) e),
		'next_cursor', CASE WHEN cardinality(found) > most
			THEN (extract(epoch FROM last_row.ts) * 1000000)::bigint || '.' || last_row.event_id END);
END
$$;
COMMENT ON FUNCTION acp.hub_audit_query(jsonb, jsonb) IS
	'audit-query: returns audit rows, newest first, that match tenant_id, action_prefix, status, from (inclusive) and to (exclusive); next_cursor selects the next page.';

CREATE OR REPLACE FUNCTION acp.hub_authorize(p jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t      CONSTANT acp.tenants := acp.hub_tenant(p);
	actor  CONSTANT jsonb := p->'actor';
	key_id CONSTANT text := coalesce(actor->>'api_key_id', CASE WHEN actor->>'type' = 'api_key' THEN actor->>'id' END);
	query  jsonb := p - 'actor' || jsonb_build_object('actor_type', actor->'type', 'api_key_id', key_id);
BEGIN
	IF t.status <> 'active' THEN
		RETURN jsonb_build_object('decision_id', p_ctx->'id', 'decision', 'deny', 'reason', 'the tenant is ' || t.status,
			'policy_version', acp.policy_version(), 'decision_ttl_ms', 0);
	END IF;
	-- An approval belongs to one key. A query without a key cannot get one.
	query := query || jsonb_build_object('event_id', CASE WHEN key_id IS NOT NULL THEN coalesce(p->'event_id', p_ctx->'id') END,
		'ceiling', p_ctx->'ceiling_approvals');
	RETURN jsonb_build_object('decision_id', p_ctx->'id') || jsonb_strip_nulls(acp.authorize(query));
END
$$;
COMMENT ON FUNCTION acp.hub_authorize(jsonb, jsonb) IS 'authorize: decides whether a call of a tenant may run in a kernel. Denies calls of a suspended tenant.';

CREATE OR REPLACE FUNCTION acp.hub_heartbeat(p jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO acp.kernels (kernel_id, version, info, last_seen_at)
	VALUES (p->>'kernel_id', p->>'version', p - 'kernel_id' - 'version', acp.now())
	ON CONFLICT (kernel_id) DO UPDATE SET version = excluded.version, info = excluded.info, last_seen_at = excluded.last_seen_at;
	RETURN jsonb_build_object('policy_version', acp.policy_version(), 'now', acp.rfc3339(acp.now()));
END
$$;
COMMENT ON FUNCTION acp.hub_heartbeat(jsonb, jsonb) IS 'heartbeat: records the kernel; returns the time and the number of the newest policy change.';

CREATE OR REPLACE FUNCTION acp.hub_policy_propose(p jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	op     CONSTANT text := 'hub.policy-propose';
	t      CONSTANT acp.tenants := acp.hub_tenant(p);
	result jsonb := acp.hub_replay(op, p_ctx);
BEGIN
	IF result IS NOT NULL THEN
		RETURN result;
	END IF;
	result := acp.governance_propose_policy(t.tenant_id, p, jsonb_build_object('event_id', p_ctx->'id',
		'api_key_id', '00000000-0000-0000-0000-000000000000'));
	PERFORM acp.hub_changed(p_ctx, jsonb_build_object('tenant_id', t.tenant_id, 'resource_type', 'policy_proposal', 'resource_id', p_ctx->'id'));
	RETURN acp.hub_keep(op, p_ctx, result);
END
$$;
COMMENT ON FUNCTION acp.hub_policy_propose(jsonb, jsonb) IS 'policy-propose: governance.propose_policy for a tenant, without a key (nil api_key_id).';

CREATE OR REPLACE FUNCTION acp.hub_revoke(p jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	op     CONSTANT text := 'hub.revoke';
	tenant uuid;
	ended  uuid[];
	fresh  bigint;
	result CONSTANT jsonb := acp.hub_replay(op, p_ctx);
BEGIN
	IF result IS NOT NULL THEN
		RETURN result;
	END IF;
	IF p ? 'tenant_id' THEN
		tenant := (acp.hub_tenant(p)).tenant_id;
	ELSE
		SELECT tenant_id INTO tenant FROM acp.api_keys WHERE api_key_id = (p->>'api_key_id')::uuid;
		IF NOT FOUND THEN
			PERFORM acp.fail('NOT_FOUND', 'no key has this api_key_id', '/api_key_id');
		END IF;
	END IF;
	UPDATE acp.api_keys SET revoked_at = acp.now()
	WHERE tenant_id = tenant AND revoked_at IS NULL AND (NOT p ? 'api_key_id' OR api_key_id = (p->>'api_key_id')::uuid);
	GET DIAGNOSTICS fresh = ROW_COUNT;
	-- A repeated request answers what the first one did: if nothing is left to revoke, the keys that were revoked last.
	SELECT coalesce(array_agg(k.api_key_id ORDER BY k.api_key_id), '{}') INTO ended FROM acp.api_keys k
	WHERE k.tenant_id = tenant AND (NOT p ? 'api_key_id' OR k.api_key_id = (p->>'api_key_id')::uuid)
	  AND k.revoked_at = (SELECT max(l.revoked_at) FROM acp.api_keys l
		WHERE l.tenant_id = tenant AND (NOT p ? 'api_key_id' OR l.api_key_id = (p->>'api_key_id')::uuid));
	PERFORM acp.hub_changed(p_ctx, jsonb_build_object('tenant_id', tenant, 'resource_type', 'api_key', 'count', fresh));
	RETURN acp.hub_keep(op, p_ctx, jsonb_build_object('tenant_id', tenant, 'revoked', to_jsonb(ended)));
END
$$;
COMMENT ON FUNCTION acp.hub_revoke(jsonb, jsonb) IS
	'revoke: revokes one key or all keys of a tenant. revoked: ids of the keys that this request revoked; if it found nothing to revoke, those that were revoked last.';

-- Transfer to a remote hub -------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION acp.forward_take(p_most integer) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	result jsonb;
BEGIN
	WITH taken AS (
		DELETE FROM acp.audit_outbox o USING (
			SELECT tenant_id, ts, event_id FROM acp.audit_outbox WHERE refused IS NULL ORDER BY ts LIMIT p_most FOR UPDATE SKIP LOCKED) next
		WHERE o.tenant_id = next.tenant_id AND o.ts = next.ts AND o.event_id = next.event_id RETURNING o.event, o.ts)
	SELECT coalesce(jsonb_agg(event ORDER BY ts), '[]') INTO result FROM taken;
	RETURN result;
END
$$;
COMMENT ON FUNCTION acp.forward_take(integer) IS
	'Takes audit events that wait for the remote hub, oldest first. The caller commits if the hub has accepted them, and rolls back otherwise.';

CREATE OR REPLACE FUNCTION acp.forward_refused(p_event jsonb, p_reason text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO acp.audit_outbox (tenant_id, ts, event_id, event, refused)
	VALUES (coalesce(p_event->>'tenant_id', '00000000-0000-0000-0000-000000000000')::uuid, (p_event->>'ts')::timestamptz,
		(p_event->>'event_id')::uuid, p_event, p_reason);
END
$$;
COMMENT ON FUNCTION acp.forward_refused(jsonb, text) IS 'Keeps an event that the remote hub has rejected permanently, so that an operator can look at it.';

-- Old names of these functions, for programs that still run while the schema is upgraded.
CREATE OR REPLACE FUNCTION acp.outbox_take(p_most integer) RETURNS jsonb
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$ SELECT acp.forward_take(p_most) $$;
COMMENT ON FUNCTION acp.outbox_take(integer) IS 'The old name of acp.forward_take().';

CREATE OR REPLACE FUNCTION acp.outbox_refused(p_event jsonb, p_reason text) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$ SELECT acp.forward_refused(p_event, p_reason) $$;
COMMENT ON FUNCTION acp.outbox_refused(jsonb, text) IS 'The old name of acp.forward_refused().';

GRANT EXECUTE ON FUNCTION acp.audit_event_json(acp.audit_logs), acp.hub_tenant(jsonb), acp.hub_changed(jsonb, jsonb),
	acp.hub_replay(text, jsonb), acp.hub_keep(text, jsonb, jsonb), acp.hub_tenants_create(jsonb, jsonb), acp.hub_tenants_update(jsonb, jsonb), acp.hub_usage(jsonb, jsonb),
	acp.hub_usage_prices(jsonb, jsonb), acp.hub_time(timestamptz, text), acp.hub_usage_reserve(jsonb, jsonb), acp.hub_usage_consume(jsonb, jsonb), acp.hub_usage_settle(jsonb, jsonb),
	acp.hub_event_row(jsonb), acp.hub_count(acp.audit_logs[], integer), acp.hub_audit_ingest(jsonb, jsonb), acp.hub_audit_query(jsonb, jsonb),
	acp.hub_authorize(jsonb, jsonb), acp.hub_heartbeat(jsonb, jsonb), acp.hub_policy_propose(jsonb, jsonb), acp.hub_revoke(jsonb, jsonb),
	acp.forward_take(integer), acp.forward_refused(jsonb, text), acp.outbox_take(integer), acp.outbox_refused(jsonb, text) TO acp_app;
