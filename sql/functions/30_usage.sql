-- Usage: reserve -> run -> settle, the audit row, and the usage report for a tenant.
--
-- Lock order everywhere: the locks of a handler, the quota row of the tenant, its reservations, then (for a warning)
-- its webhooks.

DROP FUNCTION IF EXISTS acp.usage_of(uuid, date);
CREATE OR REPLACE FUNCTION acp.usage_of(p_tenant uuid, p_period date, p_billable boolean DEFAULT false)
RETURNS TABLE (day date, action text, status text, billable boolean, tier text, billing_unit text, calls bigint, quantity numeric)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off -- PostgreSQL plans while acp.usage_pending is small
AS $$
BEGIN
	RETURN QUERY
	SELECT c.day, c.action, c.status, c.billable, c.tier, c.billing_unit, c.calls, c.quantity FROM acp.usage_counted c
	WHERE c.tenant_id = p_tenant AND c.day >= p_period AND c.day < p_period + interval '1 month'
	  AND c.billable >= p_billable -- so that the index alone selects the table rows to read
	UNION ALL
	SELECT p.day, p.action, p.status, p.billable, p.tier, p.billing_unit, 1::bigint, t.quantity
	FROM acp.usage_pending_from f JOIN acp.usage_pending p ON p.chain_id = f.chain_id AND p.chain_seq > f.chain_seq,
		unnest(p.tenants, p.quantities) t(tenant_id, quantity)
	WHERE p.tenants @> ARRAY[p_tenant] AND t.tenant_id = p_tenant AND p.day >= p_period AND p.day < p_period + interval '1 month'
	  AND p.billable >= p_billable;
END
$$;
COMMENT ON FUNCTION acp.usage_of(uuid, date, boolean) IS
	'Returns acp.usage_counters of one tenant and month, without reading pending rows of other tenants. p_billable: billable calls only.';

CREATE OR REPLACE FUNCTION acp.usage_roll_up() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
	rolled bigint := 0;
BEGIN
	-- Only one session rolls up at a time, so it needs no lock order. Writers of audit rows never wait for it.
	IF NOT pg_try_advisory_xact_lock(hashtext('acp.usage_roll_up')) THEN
		RETURN rolled;
	END IF;
	WITH taken AS (
		DELETE FROM acp.usage_pending p USING acp.usage_pending_from f
		WHERE p.chain_id = f.chain_id AND p.chain_seq > f.chain_seq RETURNING p.*
	), place AS (
		INSERT INTO acp.usage_rolled AS r (chain_id, chain_seq)
		SELECT p.chain_id, max(p.chain_seq) FROM taken p WHERE p.chain_id > 0 GROUP BY 1
		ON CONFLICT (chain_id) DO UPDATE SET chain_seq = excluded.chain_seq
	)
	INSERT INTO acp.usage_counted AS c (tenant_id, day, action, status, billable, tier, billing_unit, slot, calls, quantity)
	SELECT t.tenant_id, p.day, p.action, p.status, p.billable, p.tier, p.billing_unit, 0, count(*), sum(t.quantity)
	FROM taken p, unnest(p.tenants, p.quantities) t(tenant_id, quantity)
	GROUP BY 1, 2, 3, 4, 5, 6, 7
	ON CONFLICT (tenant_id, day, action, status, billable, tier, billing_unit, slot)
	DO UPDATE SET calls = c.calls + excluded.calls, quantity = c.quantity + excluded.quantity;
	GET DIAGNOSTICS rolled = ROW_COUNT;
	RETURN rolled;
END
$$;
COMMENT ON FUNCTION acp.usage_roll_up() IS
	'Adds the pending rows to acp.usage_counted in one transaction; the result of acp.usage_counters does not change. Returns the number of counters changed; 0 also while another session is rolling up.';

CREATE OR REPLACE FUNCTION acp.paid_calls(p_tenant uuid, p_period date) RETURNS bigint
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(sum(calls), 0)::bigint FROM acp.usage_of(p_tenant, p_period, true) WHERE tier = 'paid'
$$;
COMMENT ON FUNCTION acp.paid_calls(uuid, date) IS 'Number of billable calls of a period made as a paid tenant. They count toward the free limit when the tenant is treated as free again.';

CREATE OR REPLACE FUNCTION acp.usage_held(p_tenant uuid, p_period date) RETURNS bigint
LANGUAGE plpgsql -- volatile: sees what the statement itself has changed
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
	RETURN (SELECT count(*) FROM acp.usage_reservations r WHERE r.tenant_id = p_tenant AND r.period = p_period AND r.expires_at > acp.now());
END
$$;
COMMENT ON FUNCTION acp.usage_held(uuid, date) IS
	'calls_held of acp.usage_figures(), for the statement that counts a call.';

CREATE OR REPLACE FUNCTION acp.usage_figures(p_tenant uuid, p_period date, p_default_limit integer,
	OUT tier text, OUT calls_used bigint, OUT calls_held bigint, OUT calls_limit integer, OUT calls_remaining bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t       acp.tenants;
	quota   CONSTANT bigint := coalesce((SELECT q.used FROM acp.usage_quota q WHERE q.tenant_id = p_tenant AND q.period = p_period), 0);
	counted record;
BEGIN
	SELECT * INTO t FROM acp.tenants WHERE tenant_id = p_tenant;
	IF NOT FOUND THEN
		PERFORM acp.fail('NOT_FOUND', 'no tenant has this id');
	END IF;
	tier := acp.effective_tier(t.tier, t.payment_method_status, t.past_due_until, acp.now());
	SELECT coalesce(sum(u.calls), 0)::bigint AS calls, coalesce(sum(u.calls) FILTER (WHERE u.tier = 'paid'), 0)::bigint AS paid INTO counted
	FROM acp.usage_of(p_tenant, p_period, true) u;
	-- A row of another kernel arrives after its call was counted in the quota, and an imported row may never be.
	calls_used := greatest(counted.calls, quota + counted.paid);
	calls_held := 0;
	IF tier = 'free' THEN
		calls_held := (SELECT count(*) FROM acp.usage_reservations r
			WHERE r.tenant_id = p_tenant AND r.period = p_period AND r.expires_at > acp.now());
		calls_limit := coalesce(t.calls_limit, p_default_limit);
		calls_remaining := greatest(calls_limit - calls_used - calls_held, 0);
	END IF;
END
$$;
COMMENT ON FUNCTION acp.usage_figures(uuid, date, integer) IS
	'The figures of the allowance, wherever they are shown. calls_used: billable calls that ended with a success; calls_held: places of calls that still run; calls_limit null: no limit (and calls_remaining null).';

CREATE OR REPLACE FUNCTION acp.usage_told(p_held bigint[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$ BEGIN PERFORM set_config('acp.usage_held', coalesce(p_held::text, ''), true); END $$;
COMMENT ON FUNCTION acp.usage_told(bigint[]) IS
	'Leaves acp.usage_held() for the calls that acp.settle() or acp.settle_batch() counts, as setting acp.usage_held of the transaction: the statement reads it there.';

CREATE OR REPLACE FUNCTION acp.usage_reserve(p_tenant uuid, p_reservation uuid, p_ts timestamptz, p_default_limit integer, p_ttl interval,
	OUT allowed boolean, OUT tier text, OUT calls_used bigint, OUT calls_limit integer)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	this_period CONSTANT date := acp.period(p_ts);
	this_moment CONSTANT timestamptz := acp.now();
	paid        bigint := 0;
	expired     integer := 0;
	t           acp.tenants;
BEGIN
	SELECT * INTO STRICT t FROM acp.tenants WHERE tenant_id = p_tenant;
	tier := acp.effective_tier(t.tier, t.payment_method_status, t.past_due_until, this_moment);
	allowed := true;
	IF tier = 'paid' THEN
		RETURN; -- unlimited: no reservation needed
	END IF;
	calls_limit := coalesce(t.calls_limit, p_default_limit, 0);
	IF t.upgraded_at IS NOT NULL THEN
		paid := acp.paid_calls(p_tenant, this_period);
	END IF;
	-- The allowance is full and no expired reservation can be reused: refuse without a lock.
	SELECT used + reserved + paid INTO calls_used FROM acp.usage_quota WHERE tenant_id = p_tenant AND period = this_period;
	IF calls_used >= calls_limit AND NOT EXISTS (SELECT FROM acp.usage_reservations
			WHERE tenant_id = p_tenant AND period = this_period AND expires_at <= this_moment) THEN
		allowed := false;
		RETURN;
	END IF;
	IF calls_used IS NULL THEN
		INSERT INTO acp.usage_quota (tenant_id, period) VALUES (p_tenant, this_period) ON CONFLICT DO NOTHING;
	END IF;
	SELECT used + reserved + paid INTO STRICT calls_used FROM acp.usage_quota
	WHERE tenant_id = p_tenant AND period = this_period FOR NO KEY UPDATE;
	IF calls_used >= calls_limit THEN
		DELETE FROM acp.usage_reservations WHERE tenant_id = p_tenant AND period = this_period AND expires_at <= this_moment;
		GET DIAGNOSTICS expired = ROW_COUNT;
		calls_used := calls_used - expired;
	END IF;
	allowed := calls_used < calls_limit;
	IF allowed THEN
		calls_used := calls_used + 1;
		INSERT INTO acp.usage_reservations (tenant_id, period, reservation_id, expires_at)
		VALUES (p_tenant, this_period, p_reservation, this_moment + p_ttl);
	END IF;
	IF allowed OR expired > 0 THEN
		UPDATE acp.usage_quota SET reserved = reserved - expired + allowed::integer
		WHERE tenant_id = p_tenant AND period = this_period;
	END IF;
END
$$;
COMMENT ON FUNCTION acp.usage_reserve(uuid, uuid, timestamptz, integer, interval) IS
	'Reserves one call of the free allowance for the month of p_ts. allowed: false if there is none left. calls_used includes reservations. Paid tenants need no reservation: tier paid, calls_limit null.';

CREATE OR REPLACE FUNCTION acp.usage_release(p_tenant uuid, p_reservation uuid, p_ts timestamptz) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM FROM acp.usage_quota WHERE tenant_id = p_tenant AND period = acp.period(p_ts) FOR NO KEY UPDATE;
	DELETE FROM acp.usage_reservations
	WHERE tenant_id = p_tenant AND period = acp.period(p_ts) AND reservation_id = p_reservation;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	UPDATE acp.usage_quota SET reserved = reserved - 1 WHERE tenant_id = p_tenant AND period = acp.period(p_ts);
	RETURN true;
END
$$;
COMMENT ON FUNCTION acp.usage_release(uuid, uuid, timestamptz) IS 'Releases a reservation. False: it had expired and was reused.';

CREATE OR REPLACE FUNCTION acp.usage_count(p_tenant uuid, p_reservation uuid, p_ts timestamptz, p_default_limit integer,
	p_warn_percent integer DEFAULT 90) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
	this_period CONSTANT date := date_trunc('month', p_ts AT TIME ZONE 'UTC')::date;
	held        integer := 0;
	paid        bigint := 0;
	now_used    bigint;
	max_calls   integer;
	upgraded    timestamptz;
BEGIN
	SELECT calls_limit, upgraded_at INTO STRICT max_calls, upgraded FROM acp.tenants WHERE tenant_id = p_tenant;
	max_calls := CASE WHEN p_default_limit IS NOT NULL THEN coalesce(max_calls, p_default_limit) END;
	IF upgraded IS NOT NULL THEN
		paid := acp.paid_calls(p_tenant, this_period);
	END IF;
	IF p_reservation IS NOT NULL THEN
		PERFORM FROM acp.usage_quota WHERE tenant_id = p_tenant AND period = this_period FOR NO KEY UPDATE;
		DELETE FROM acp.usage_reservations WHERE tenant_id = p_tenant AND period = this_period AND reservation_id = p_reservation;
		GET DIAGNOSTICS held = ROW_COUNT;
	END IF;
	-- A call may have no reservation (it checks only now, its reservation expired, or the usage check failed open).
	-- It counts only if the allowance has room, so the allowance stays exact.
	FOR attempt IN 1 .. 2 LOOP
		UPDATE acp.usage_quota SET used = used + 1, reserved = reserved - held
		WHERE tenant_id = p_tenant AND period = this_period
		  AND (held = 1 OR max_calls IS NULL OR used + reserved + paid < max_calls)
		RETURNING used + paid INTO now_used;
		EXIT WHEN FOUND OR attempt = 2;
		-- Either the row is missing (concurrent creators wait here), or the allowance is full: release expired
		-- reservations.
		INSERT INTO acp.usage_quota (tenant_id, period) VALUES (p_tenant, this_period) ON CONFLICT DO NOTHING;
		PERFORM acp.usage_expire(p_tenant, this_period);
	END LOOP;
	IF now_used * 100 >= max_calls::bigint * p_warn_percent THEN
		PERFORM acp.webhook_usage(p_tenant, now_used, max_calls, p_warn_percent, p_ts);
	END IF;
	RETURN now_used;
END
$$;
COMMENT ON FUNCTION acp.usage_count(uuid, uuid, timestamptz, integer, integer) IS
	'Counts one billable success of a tenant treated as free and ends its reservation, if there is one with this id (null: none was requested). p_default_limit null: the allowance is not enforced. p_warn_percent: percentage of the allowance from which usage is near the limit. Returns the calls used, including this one; null: no room, nothing was counted.';

CREATE OR REPLACE FUNCTION acp.usage_expire(p_tenant uuid, p_period date) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	expired integer;
BEGIN
	IF NOT EXISTS (SELECT FROM acp.usage_reservations
			WHERE tenant_id = p_tenant AND period = p_period AND expires_at <= acp.now()) THEN
		RETURN false;
	END IF;
	PERFORM FROM acp.usage_quota WHERE tenant_id = p_tenant AND period = p_period FOR NO KEY UPDATE;
	DELETE FROM acp.usage_reservations WHERE tenant_id = p_tenant AND period = p_period AND expires_at <= acp.now();
	GET DIAGNOSTICS expired = ROW_COUNT;
	UPDATE acp.usage_quota SET reserved = reserved - expired WHERE tenant_id = p_tenant AND period = p_period;
	RETURN expired > 0;
END
$$;
COMMENT ON FUNCTION acp.usage_expire(uuid, date) IS 'Releases expired reservations of a tenant. False: none had expired.';

CREATE OR REPLACE FUNCTION acp.usage_consume(p_tenant uuid, p_reservation uuid, p_ts timestamptz, p_default_limit integer,
	p_warn_percent integer DEFAULT 90) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	now_used bigint := acp.usage_count(p_tenant, p_reservation, p_ts, p_default_limit, p_warn_percent);
BEGIN
	IF now_used IS NULL THEN
		PERFORM acp.fail('UPGRADE_REQUIRED', 'the free allowance is used up');
	END IF;
	RETURN now_used;
END
$$;
COMMENT ON FUNCTION acp.usage_consume(uuid, uuid, timestamptz, integer, integer) IS
	'acp.usage_count() for one call. Looks for a reservation even if the router does not know of one, because the reply that granted it may have been lost. Refuses the call if there is no room.';

-- Signatures up to schema versions 8 and 10.
DROP FUNCTION IF EXISTS acp.settle(jsonb, uuid, integer, text, bytea, uuid, integer),
	acp.settle(jsonb, uuid, integer, text, bytea, uuid, integer, text);
CREATE OR REPLACE FUNCTION acp.settle(p_event jsonb, p_reservation uuid, p_default_limit integer, p_claim text DEFAULT NULL,
	p_sealed bytea DEFAULT NULL, p_approval uuid DEFAULT NULL, p_warn_percent integer DEFAULT 90, p_fingerprint text DEFAULT NULL,
	p_max_quantity bigint DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	now_used bigint;
	meta     CONSTANT text := nullif(current_setting('acp.result_meta', true), '');
	quantity CONSTANT text := nullif(current_setting('acp.quantity', true), '');
	most     CONSTANT bigint := coalesce(p_max_quantity, acp.quantity_max());
BEGIN
	IF quantity::numeric NOT BETWEEN 0 AND most THEN
		RAISE EXCEPTION USING ERRCODE = 'ACP04', MESSAGE = format('action %s reported the quantity %s, which is not from 0 to %s',
			p_event->>'action', quantity, most);
	END IF;
	PERFORM acp.audit_pending((p_event->>'event_id')::uuid);
	IF (p_event->>'billable')::boolean AND p_event->>'tier' = 'free' THEN
		now_used := acp.usage_consume((p_event->>'tenant_id')::uuid, (p_event->>'event_id')::uuid, (p_event->>'ts')::timestamptz,
			p_default_limit, p_warn_percent);
		PERFORM acp.usage_told(ARRAY[acp.usage_held((p_event->>'tenant_id')::uuid, acp.period((p_event->>'ts')::timestamptz))]);
	ELSIF p_reservation IS NOT NULL THEN
		PERFORM acp.usage_release((p_event->>'tenant_id')::uuid, p_reservation, (p_event->>'ts')::timestamptz);
	END IF;
	IF p_approval IS NOT NULL AND p_event->>'status' = 'success' THEN
		-- Programs of schema version 10 use it up only here.
		PERFORM acp.approval_use((p_event->>'tenant_id')::uuid, p_approval, (p_event->>'event_id')::uuid);
	ELSIF p_approval IS NOT NULL THEN
		PERFORM acp.approval_give_back((p_event->>'tenant_id')::uuid, p_approval, (p_event->>'event_id')::uuid);
	END IF;
	IF p_fingerprint IS NOT NULL AND p_event->>'status' = 'success' THEN
		PERFORM acp.idempotency_store((p_event->>'tenant_id')::uuid, p_event->>'action', p_claim, p_fingerprint,
			(p_event->>'event_id')::uuid, p_sealed);
	ELSIF p_claim IS NOT NULL AND p_event->>'status' = 'success' THEN
		PERFORM acp.idempotency_finish((p_event->>'tenant_id')::uuid, p_event->>'action', p_claim, (p_event->>'event_id')::uuid, p_sealed);
	ELSIF p_claim IS NOT NULL THEN
		PERFORM acp.idempotency_give_up((p_event->>'tenant_id')::uuid, p_event->>'action', p_claim, (p_event->>'event_id')::uuid);
	END IF;
	IF meta IS NOT NULL THEN
		p_event := p_event || jsonb_build_object('result_meta', coalesce(nullif(p_event->'result_meta', 'null'), '{}') || meta::jsonb);
	END IF;
	IF quantity IS NOT NULL THEN
		p_event := p_event || jsonb_build_object('billing_quantity', quantity::bigint);
	END IF;
	PERFORM acp.audit_append(p_event);
	RETURN now_used;
END
$$;
COMMENT ON FUNCTION acp.settle(jsonb, uuid, integer, text, bytea, uuid, integer, text, bigint) IS
	'Ends a call in the transaction of the caller: consumes or releases its reservation, ends its idempotency claim (p_claim: the key; a success stores p_sealed; with p_fingerprint the program chose the key and has not claimed it), gives p_approval back unless it is a success, counts the call and writes its audit row. p_default_limit null: the allowance is not enforced. p_max_quantity: largest quantity that the action may report (null: acp.quantity_max()). Returns the free calls used, including this one; null if the call used none. Error ACP04: the handler reported another quantity; nothing was stored.';

CREATE OR REPLACE FUNCTION acp.settle_found(p_event jsonb) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	found_status text;
BEGIN
	SELECT l.status INTO found_status FROM acp.audit_logs l
	WHERE l.tenant_id = (p_event->>'tenant_id')::uuid AND l.ts = (p_event->>'ts')::timestamptz AND l.event_id = (p_event->>'event_id')::uuid;
	IF found_status IS NOT NULL THEN
		PERFORM acp.audit_confirm();
	END IF;
	RETURN found_status = 'success';
END
$$;
COMMENT ON FUNCTION acp.settle_found(jsonb) IS 'Returns the outcome of the call of this event. True: success; false: refused; null: no audit row. The answer is as durable as an acknowledged commit of that row.';

DROP FUNCTION IF EXISTS acp.settle_doubt(jsonb, uuid, text); -- signature up to schema version 10
CREATE OR REPLACE FUNCTION acp.settle_doubt(p_event jsonb, p_reservation uuid, p_claim text, p_approval uuid DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	done boolean;
BEGIN
	PERFORM acp.audit_pending((p_event->>'event_id')::uuid);
	done := acp.settle_found(p_event);
	IF done IS NULL THEN
		PERFORM acp.settle(p_event, p_reservation, NULL, p_claim, NULL, p_approval);
		RETURN false;
	END IF;
	RETURN done;
EXCEPTION WHEN unique_violation THEN
	-- The row of the call was stored first: batches are stored without acp.audit_pending().
	done := acp.settle_found(p_event);
	IF done IS NULL THEN
		RAISE; -- another constraint was violated
	END IF;
	RETURN done;
END
$$;
COMMENT ON FUNCTION acp.settle_doubt(jsonb, uuid, text, uuid) IS
	'Resolves a call whose commit was not acknowledged. True: it was committed. False: it was not; p_event, a refusal with the same event_id and ts, is now its audit row, so a commit that arrives later fails. Waits for a commit in progress.';

CREATE OR REPLACE FUNCTION acp.settle_far(p_rows acp.audit_logs[], p_skipped boolean[], p_default_limit integer, p_warn_percent integer)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
	used bigint[] := array_fill(-1::bigint, ARRAY[cardinality(p_rows)]);
	e    record;
BEGIN
	FOR e IN
		WITH wanted AS (
			SELECT r.tenant_id, date_trunc('month', r.ts AT TIME ZONE 'UTC')::date AS period, count(*) AS calls,
				array_agg(r.ordinality ORDER BY r.ordinality) AS places
			FROM unnest(p_rows) WITH ORDINALITY r
			WHERE r.billable AND r.tier = 'free' AND NOT coalesce(p_skipped[r.ordinality], false)
			GROUP BY 1, 2
		), locked AS MATERIALIZED (
			SELECT q.tenant_id, q.period FROM wanted w JOIN acp.usage_quota q USING (tenant_id, period)
			ORDER BY 1, 2 FOR NO KEY UPDATE OF q
		)
		UPDATE acp.usage_quota q SET used = q.used + w.calls
		FROM wanted w JOIN locked USING (tenant_id, period) JOIN acp.tenants t USING (tenant_id)
		WHERE q.tenant_id = w.tenant_id AND q.period = w.period AND t.upgraded_at IS NULL
		  AND (p_default_limit IS NULL
		       OR (q.used + q.reserved + w.calls) * 100 < coalesce(t.calls_limit, p_default_limit)::bigint * p_warn_percent)
		RETURNING q.used, w.places
	LOOP
		FOR i IN 1 .. cardinality(e.places) LOOP
			used[e.places[i]] := e.used - cardinality(e.places) + i;
		END LOOP;
	END LOOP;
	RETURN used;
END
$$;
COMMENT ON FUNCTION acp.settle_far(acp.audit_logs[], boolean[], integer, integer) IS
	'Counts in one statement the free calls of tenants far from their limit. Returns for each row the calls used, including this one; -1: not counted.';

CREATE OR REPLACE FUNCTION acp.settle_rows(p_rows acp.audit_logs[], p_held boolean[], p_default_limit integer, p_warn_percent integer,
	p_again boolean) RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
	used    bigint[];
	held    bigint[];
	skipped boolean[] := CASE WHEN p_again THEN acp.audit_stored(p_rows) ELSE array_fill(false, ARRAY[cardinality(p_rows)]) END;
	e       record;
BEGIN
	used := acp.settle_far(p_rows, ARRAY(SELECT h OR s FROM unnest(p_held, skipped) WITH ORDINALITY x(h, s, n) ORDER BY n),
		p_default_limit, p_warn_percent);
	-- Count the others one by one.
	FOR e IN
		SELECT r.* FROM unnest(p_rows) WITH ORDINALITY r
		WHERE used[r.ordinality] = -1 AND NOT skipped[r.ordinality] AND (p_held[r.ordinality] OR (r.billable AND r.tier = 'free'))
		ORDER BY r.tenant_id, r.ts
	LOOP
		IF e.billable AND e.tier = 'free' THEN
			used[e.ordinality] := acp.usage_count(e.tenant_id, CASE WHEN p_held[e.ordinality] THEN e.event_id END, e.ts, p_default_limit, p_warn_percent);
			skipped[e.ordinality] := used[e.ordinality] IS NULL;
			held := coalesce(held, array_fill(0::bigint, ARRAY[cardinality(p_rows)]));
			held[e.ordinality] := acp.usage_held(e.tenant_id, acp.period(e.ts));
			IF skipped[e.ordinality] AND p_again AND (acp.audit_stored(p_rows[e.ordinality:e.ordinality]))[1] THEN
				-- The earlier attempt took the last place and was committed while this one waited for the quota.
				used[e.ordinality] := -1;
			END IF;
		ELSE
			PERFORM acp.usage_release(e.tenant_id, e.event_id, e.ts);
		END IF;
	END LOOP;
	PERFORM acp.usage_told(held);
	IF false = ALL (skipped) THEN
		PERFORM acp.audit_append_rows(p_rows);
	ELSIF false = ANY (skipped) THEN
		PERFORM acp.audit_append_rows(acp.rows_where(p_rows, ARRAY(SELECT NOT s FROM unnest(skipped) WITH ORDINALITY x(s, n) ORDER BY n)));
	END IF;
	RETURN used;
END
$$;
COMMENT ON FUNCTION acp.settle_rows(acp.audit_logs[], boolean[], integer, integer, boolean) IS
	'Does the same as acp.settle(), for several calls that hold at most a reservation (p_held). Returns for each call the free calls used, including this one; -1: it used none; null: refused because the allowance is used up, and no row was written. p_again: an earlier attempt had an unknown outcome; calls already stored are left unchanged.';

CREATE OR REPLACE FUNCTION acp.settle_batch(p_event uuid[], p_request uuid[], p_ts timestamptz[], p_tenant uuid[], p_integration text[],
	p_pack text[], p_action text[], p_actor_type text[], p_actor text[], p_api_key uuid[], p_hash text[], p_status text[], p_code text[],
	p_message text[], p_meta jsonb[], p_latency real[], p_ip inet[], p_idempotency text[], p_dry boolean[], p_decision uuid[], p_trace text[],
	p_billable boolean[], p_unit text[], p_quantity bigint[], p_tier text[], p_held boolean[], p_default_limit integer,
	p_warn_percent integer, p_again boolean, p_since bigint, p_clock boolean,
	OUT used bigint[], OUT version bigint, OUT changed uuid[], OUT at timestamptz)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
	rows acp.audit_logs[];
BEGIN
	SELECT n.version, n.changed, n.at INTO version, changed, at FROM acp.change_feed(p_since, p_clock) n;
	IF cardinality(p_event) > 1 OR NOT p_again THEN
		-- A locked tenant must not delay calls of others. On this timeout the program sends each call again by itself.
		PERFORM set_config('lock_timeout', '250ms', true);
	END IF;
	rows := ARRAY(
		SELECT ROW(r.*, 0, 0, NULL, 2, NULL, NULL)::acp.audit_logs
		FROM unnest(p_event, p_request, p_ts, p_tenant, p_integration, p_pack, p_action, p_actor_type, p_actor, p_api_key, p_hash,
			p_status, p_code, p_message, p_meta, p_latency, p_ip, p_idempotency, p_dry, p_decision, p_trace, p_billable, p_unit,
			p_quantity, p_tier) r);
	IF p_again OR true = ANY (p_held) OR 'free' = ANY (p_tier) THEN
		used := acp.settle_rows(rows, p_held, p_default_limit, p_warn_percent, p_again);
	ELSE
		PERFORM acp.audit_append_rows(rows);
		used := array_fill(-1::bigint, ARRAY[cardinality(rows)]);
	END IF;
END
$$;
COMMENT ON FUNCTION acp.settle_batch(uuid[], uuid[], timestamptz[], uuid[], text[], text[], text[], text[], text[], uuid[], text[], text[],
	text[], text[], jsonb[], real[], inet[], text[], boolean[], uuid[], text[], boolean[], text[], bigint[], text[], boolean[], integer,
	integer, boolean, bigint, boolean) IS
	'Does the same as acp.settle_rows(), with one array per column, as the program sends them in binary. Also returns acp.change_feed().';

CREATE OR REPLACE FUNCTION acp.settle_links(p_rows acp.audit_logs[], p_seq bigint, p_head bytea, p_free boolean,
	p_default_limit integer, p_warn_percent integer, p_since bigint, p_clock boolean,
	OUT used bigint[], OUT version bigint, OUT changed uuid[], OUT at timestamptz)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET lock_timeout = '250ms'
AS $$
BEGIN
	SELECT n.version, n.changed, n.at INTO version, changed, at FROM acp.change_feed(p_since, p_clock) n;
	IF p_free THEN
		used := acp.settle_far(p_rows, NULL, p_default_limit, p_warn_percent);
		IF -1 = ANY (used) THEN
			-- In the first calls of a month, a tenant has no quota row yet.
			INSERT INTO acp.usage_quota (tenant_id, period)
			SELECT DISTINCT r.tenant_id, date_trunc('month', r.ts AT TIME ZONE 'UTC')::date
			FROM unnest(p_rows) WITH ORDINALITY r WHERE r.billable AND r.tier = 'free' AND used[r.ordinality] = -1 ORDER BY 1, 2
			ON CONFLICT DO NOTHING;
			IF FOUND THEN
				used := ARRAY(SELECT greatest(u, v) FROM unnest(used, acp.settle_far(p_rows, ARRAY(SELECT x <> -1 FROM unnest(used)
					WITH ORDINALITY y(x, n) ORDER BY n), p_default_limit, p_warn_percent)) WITH ORDINALITY z(u, v, n) ORDER BY n);
			END IF;
		END IF;
		IF EXISTS (SELECT FROM unnest(p_rows) WITH ORDINALITY r WHERE r.billable AND r.tier = 'free' AND used[r.ordinality] = -1) THEN
			RAISE EXCEPTION 'a tenant is near its limit' USING ERRCODE = 'ACP02';
		END IF;
	END IF;
	PERFORM acp.audit_append_links(p_rows, p_seq, p_head);
END
$$;
COMMENT ON FUNCTION acp.settle_links(acp.audit_logs[], bigint, bytea, boolean, integer, integer, bigint, boolean) IS
	'Does the same as acp.settle_batch(), for calls that hold nothing, are tried for the first time and are already linked (acp.audit_append_links). p_free: some of the calls are free; otherwise used is null. Error ACP02: a free call must be counted by itself; nothing was stored.';

CREATE OR REPLACE FUNCTION acp.price(p_unit text, p_action text, p_ts timestamptz) RETURNS acp.prices
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN acp.billing_price(p_unit, p_action, p_ts, NULL); END $$;
COMMENT ON FUNCTION acp.price(text, text, timestamptz) IS
	'Finds the price of an action at a moment: acp.billing_price() with all prices.';

CREATE OR REPLACE FUNCTION acp.usage(p_tenant uuid, p_period date, p_default_limit integer) RETURNS json
LANGUAGE plpgsql STABLE -- all figures are of one moment
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
	this_period CONSTANT date := coalesce(p_period, acp.period(acp.now()));
	f           CONSTANT record := acp.usage_figures(p_tenant, this_period, p_default_limit);
	cost        record;
	result      json;
BEGIN
	IF EXISTS (SELECT FROM acp.tenants t WHERE t.tenant_id = p_tenant AND t.upgraded_at IS NULL)
	   AND NOT EXISTS (SELECT FROM acp.usage_of(p_tenant, this_period, true) u WHERE u.tier = 'paid')
	   AND NOT EXISTS (SELECT FROM acp.usage_counted u WHERE u.tenant_id = p_tenant AND u.billable AND u.tier = 'paid') THEN
		SELECT 0::numeric AS amount, (acp.billing_terms_now(this_period, NULL)).currency INTO cost;
	ELSE
		cost := acp.usage_cost(p_tenant, this_period);
	END IF;
	WITH counted AS MATERIALIZED (
		SELECT c.day, c.action, c.billing_unit, sum(c.calls)::bigint AS calls, sum(c.quantity) AS quantity
		FROM acp.charged_of(p_tenant, this_period, true) c
		GROUP BY GROUPING SETS ((c.day), (c.action, c.billing_unit))
	)
	SELECT json_build_object(
		'tenant_id', p_tenant, 'tier', f.tier, 'calls_used', f.calls_used, 'calls_held', f.calls_held, 'calls_limit', f.calls_limit,
		'calls_remaining', f.calls_remaining,
		'period_start', acp.rfc3339(acp.period_start(this_period)), 'period_end', acp.rfc3339(acp.period_end(this_period)),
		'by_action', (
			SELECT coalesce(json_agg(json_build_object('action', a.action, 'calls', a.calls, 'billing_unit', a.billing_unit,
				'quantity', a.quantity) ORDER BY a.action COLLATE "C", a.billing_unit COLLATE "C"), '[]')
			FROM counted a WHERE a.day IS NULL),
		'by_day', (
			SELECT coalesce(json_agg(json_build_object('day', d.day, 'calls', d.calls) ORDER BY d.day), '[]')
			FROM counted d WHERE d.day IS NOT NULL),
		'cost', json_build_object('amount', cost.amount, 'currency', cost.currency))
	INTO result;
	RETURN (SELECT CASE WHEN t.past_due_since IS NULL THEN result ELSE (result::jsonb || jsonb_build_object('past_due', acp.past_due(t)))::json END
		FROM acp.tenants t WHERE t.tenant_id = p_tenant);
END
$$;
COMMENT ON FUNCTION acp.usage(uuid, date, integer) IS
	'Builds the usage object of a tenant and period (null: the current one) from the counters. cost: the usage lines of the invoice or of its preview, by the same function. Reads rows of the log only for days on which a price changes.';

CREATE OR REPLACE FUNCTION acp.usage_prices(p jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	moment CONSTANT timestamptz := acp.now();
BEGIN
	RETURN jsonb_build_object('currency', acp.currency(), 'prices', (
		SELECT coalesce(jsonb_agg(jsonb_build_object('action', x.value->>'action', 'unit', c.unit, 'unit_amount', trim_scale(c.unit_amount),
				'currency', c.currency, 'amount', trim_scale(c.unit_amount * CASE WHEN c.unit = coalesce(x.value->>'unit', 'call')
					THEN coalesce((x.value->>'quantity')::bigint, 1) ELSE 1 END)) ORDER BY x.ordinality), '[]')
		FROM jsonb_array_elements(p->'actions') WITH ORDINALITY x
		CROSS JOIN LATERAL acp.price(coalesce(x.value->>'unit', 'call'), x.value->>'action', moment) c
		WHERE c.unit IS NOT NULL));
END
$$;
COMMENT ON FUNCTION acp.usage_prices(jsonb) IS
	'What calls of actions cost now: p: actions [{action, unit (of the action; null: call), quantity (null: 1)}]. Returns currency, prices [{action, unit, unit_amount, currency, amount (of the quantity)}]. unit: by which the call is charged; call if the unit of the action has no price.';

CREATE OR REPLACE FUNCTION acp.pricing(p_unit text, p_action text, p_quantity bigint) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object('unit', p.unit, 'unit_amount', trim_scale(p.unit_amount), 'currency', p.currency,
		'amount', trim_scale(p.unit_amount * CASE WHEN p.unit = p_unit THEN p_quantity ELSE 1 END))
	FROM acp.price(p_unit, p_action, acp.now()) p
$$;
COMMENT ON FUNCTION acp.pricing(text, text, bigint) IS
	'Returns the current price of p_quantity units of an action: unit, unit_amount, currency, amount. A unit without a price is charged as one call.';

GRANT EXECUTE ON FUNCTION acp.usage_of(uuid, date, boolean), acp.usage_roll_up(), acp.settle_far(acp.audit_logs[], boolean[], integer, integer),
	acp.settle_links(acp.audit_logs[], bigint, bytea, boolean, integer, integer, bigint, boolean), acp.paid_calls(uuid, date), acp.usage_held(uuid, date),
	acp.usage_figures(uuid, date, integer), acp.usage_told(bigint[]), acp.usage_prices(jsonb), acp.usage_reserve(uuid, uuid, timestamptz, integer, interval),
	acp.usage_release(uuid, uuid, timestamptz), acp.usage_consume(uuid, uuid, timestamptz, integer, integer),
	acp.usage_count(uuid, uuid, timestamptz, integer, integer), acp.usage_expire(uuid, date),
	acp.settle_rows(acp.audit_logs[], boolean[], integer, integer, boolean),
	acp.settle_batch(uuid[], uuid[], timestamptz[], uuid[], text[], text[], text[], text[], text[], uuid[], text[], text[], text[], text[],
		jsonb[], real[], inet[], text[], boolean[], uuid[], text[], boolean[], text[], bigint[], text[], boolean[], integer, integer, boolean, bigint, boolean),
	acp.settle(jsonb, uuid, integer, text, bytea, uuid, integer, text, bigint), acp.settle_found(jsonb), acp.settle_doubt(jsonb, uuid, text, uuid), acp.price(text, text, timestamptz), acp.usage(uuid, date, integer), acp.pricing(text, text, bigint) TO acp_app;
