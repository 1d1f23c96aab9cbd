-- Usage: reserve -> run -> settle, the audit row, and what a tenant may read of it.
--
-- Lock order, everywhere: what a handler locks, then the tenant's quota row, then its reservations, then (at a warning) its webhooks, then its counters.

CREATE OR REPLACE FUNCTION acp.paid_calls(p_tenant uuid, p_period date) RETURNS bigint
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(sum(calls), 0)::bigint FROM acp.usage_counters
	WHERE tenant_id = p_tenant AND day >= p_period AND day < p_period + interval '1 month' AND billable AND tier = 'paid'
$$;
COMMENT ON FUNCTION acp.paid_calls(uuid, date) IS 'Billable calls made while paid, in a period. They count when the tenant is treated as free again.';

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
	tier := acp.effective_tier(t.tier, t.payment_method_status);
	allowed := true;
	IF tier = 'paid' THEN
		RETURN; -- no reservation: nothing limits it
	END IF;
	calls_limit := coalesce(t.calls_limit, p_default_limit, 0);
	IF t.upgraded_at IS NOT NULL THEN
		paid := acp.paid_calls(p_tenant, this_period);
	END IF;
	-- Full, and no place of a dead call to take over: refused without a lock.
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
	'Holds one place of the free allowance of the month of p_ts, or refuses: allowed. calls_used includes places held. Paid tenants need none: tier paid, calls_limit null.';

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
COMMENT ON FUNCTION acp.usage_release(uuid, uuid, timestamptz) IS 'Gives a reserved place back. False: it had expired and was given away.';

CREATE OR REPLACE FUNCTION acp.usage_consume(p_tenant uuid, p_reservation uuid, p_ts timestamptz, p_default_limit integer,
	p_warn_percent integer DEFAULT 90) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	this_period CONSTANT date := acp.period(p_ts);
	held        integer;
	paid        bigint := 0;
	now_used    bigint;
	max_calls   integer;
	t           acp.tenants;
BEGIN
	SELECT * INTO STRICT t FROM acp.tenants WHERE tenant_id = p_tenant;
	IF t.upgraded_at IS NOT NULL THEN
		paid := acp.paid_calls(p_tenant, this_period);
	END IF;
	IF p_default_limit IS NOT NULL THEN
		max_calls := coalesce(t.calls_limit, p_default_limit);
	END IF;
	PERFORM FROM acp.usage_quota WHERE tenant_id = p_tenant AND period = this_period FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		INSERT INTO acp.usage_quota (tenant_id, period) VALUES (p_tenant, this_period) ON CONFLICT DO NOTHING;
	END IF;
	DELETE FROM acp.usage_reservations WHERE tenant_id = p_tenant AND period = this_period AND reservation_id = p_reservation;
	GET DIAGNOSTICS held = ROW_COUNT;
	-- Without a held place (the call outlived its reservation, or the check had failed open) the allowance is exact all
	-- the same: such a call counts only if there is still room.
	UPDATE acp.usage_quota SET used = used + 1, reserved = reserved - held
	WHERE tenant_id = p_tenant AND period = this_period
	  AND (held = 1 OR max_calls IS NULL OR used + reserved + paid < max_calls)
	RETURNING used + paid INTO now_used;
	IF NOT FOUND THEN
		PERFORM acp.fail('UPGRADE_REQUIRED', 'the free allowance is used up');
	END IF;
	IF now_used * 100 >= max_calls::bigint * p_warn_percent THEN
		PERFORM acp.webhook_usage(p_tenant, now_used, max_calls, p_warn_percent, p_ts);
	END IF;
	RETURN now_used;
END
$$;
COMMENT ON FUNCTION acp.usage_consume(uuid, uuid, timestamptz, integer, integer) IS
	'Counts one billable success of a tenant treated as free and ends its reservation, which is looked for even where the router does not know that it was made: its answer may have been lost. p_default_limit null: the allowance is not enforced. p_warn_percent: from which part of it on usage is near the limit. Returns the calls used, this one included.';

CREATE OR REPLACE FUNCTION acp.audit_append(p_event jsonb) RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	e acp.audit_logs := jsonb_populate_record(NULL::acp.audit_logs, p_event);
BEGIN
	e.ts := coalesce(e.ts, acp.now());
	-- Partitions are made months ahead; this is for a shifted clock and for a database that slept.
	IF to_regclass('acp.audit_logs_' || to_char(acp.period(e.ts), 'YYYY_MM')) IS NULL THEN
		PERFORM acp.ensure_partitions(e.ts, 3);
	END IF;
	INSERT INTO acp.audit_logs SELECT e.*;
	IF e.pack IS NOT NULL AND e.tier IS NOT NULL THEN
		INSERT INTO acp.usage_counters AS c (tenant_id, day, action, status, billable, tier, billing_unit, slot, calls, quantity)
		VALUES (e.tenant_id, acp.day(e.ts), e.action, e.status, e.billable, e.tier, coalesce(e.billing_unit, 'call'),
			pg_backend_pid() % 16, 1, e.billing_quantity)
		ON CONFLICT (tenant_id, day, action, status, billable, tier, billing_unit, slot)
		DO UPDATE SET calls = c.calls + 1, quantity = c.quantity + excluded.quantity;
	END IF;
	IF (p_event->>'forward')::boolean THEN
		INSERT INTO acp.audit_outbox (tenant_id, ts, event_id, event) VALUES (e.tenant_id, e.ts, e.event_id, acp.audit_event_json(e));
	END IF;
	RETURN e.ts;
END
$$;
COMMENT ON FUNCTION acp.audit_append(jsonb) IS
	'Writes one audit row from an object whose members are the columns, and counts it. ts missing: now. Member forward: the row also goes to the remote hub. Returns ts.';

CREATE OR REPLACE FUNCTION acp.settle(p_event jsonb, p_reservation uuid, p_default_limit integer, p_claim text DEFAULT NULL,
	p_sealed bytea DEFAULT NULL, p_approval uuid DEFAULT NULL, p_warn_percent integer DEFAULT 90) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	now_used bigint;
	meta     CONSTANT text := nullif(current_setting('acp.result_meta', true), '');
	quantity CONSTANT text := nullif(current_setting('acp.quantity', true), '');
BEGIN
	IF (p_event->>'billable')::boolean AND p_event->>'tier' = 'free' THEN
		now_used := acp.usage_consume((p_event->>'tenant_id')::uuid, (p_event->>'event_id')::uuid, (p_event->>'ts')::timestamptz,
			p_default_limit, p_warn_percent);
	ELSIF p_reservation IS NOT NULL THEN
		PERFORM acp.usage_release((p_event->>'tenant_id')::uuid, p_reservation, (p_event->>'ts')::timestamptz);
	END IF;
	IF p_approval IS NOT NULL AND p_event->>'status' = 'success' THEN
		PERFORM acp.approval_use((p_event->>'tenant_id')::uuid, p_approval, (p_event->>'event_id')::uuid);
	END IF;
	IF p_claim IS NOT NULL AND p_event->>'status' = 'success' THEN
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
COMMENT ON FUNCTION acp.settle(jsonb, uuid, integer, text, bytea, uuid, integer) IS
	'Ends a call: consumes or gives back its reservation, ends its idempotency claim (p_claim: the key; a success stores p_sealed) and uses p_approval up, counts it and writes its audit row, all in the caller''s transaction. p_default_limit null: the allowance is not enforced. Returns the free calls used, this one included; null where none was used.';

CREATE OR REPLACE FUNCTION acp.price(p_unit text, p_action text, p_ts timestamptz) RETURNS acp.prices
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT p FROM acp.prices p
	WHERE p.unit IN (p_unit, 'call') AND p.valid_from <= p_ts
	  AND (p.action_pattern = p_action OR (right(p.action_pattern, 1) = '*'
	       AND starts_with(p_action, left(p.action_pattern, -1))))
	ORDER BY p.unit = p_unit DESC, p.action_pattern = p_action DESC, length(p.action_pattern) DESC, p.valid_from DESC
	LIMIT 1
$$;
COMMENT ON FUNCTION acp.price(text, text, timestamptz) IS
	'The price row that applies to an action at a moment: by its unit, else by the call; the longest pattern, then the newest.';

CREATE OR REPLACE FUNCTION acp.usage(p_tenant uuid, p_period date, p_default_limit integer) RETURNS json
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	this_period CONSTANT date := coalesce(p_period, acp.period(acp.now()));
	t           acp.tenants;
	tier        text;
	max_calls   integer;
	result      json;
BEGIN
	SELECT * INTO t FROM acp.tenants WHERE tenant_id = p_tenant;
	IF NOT FOUND THEN
		PERFORM acp.fail('NOT_FOUND', 'no tenant has this id');
	END IF;
	tier := acp.effective_tier(t.tier, t.payment_method_status);
	IF tier = 'free' THEN
		max_calls := coalesce(t.calls_limit, p_default_limit);
	END IF;
	WITH counted AS (
		SELECT c.day, c.action, c.billing_unit, c.tier, sum(c.calls) AS calls, sum(c.quantity) AS quantity
		FROM acp.usage_counters c
		WHERE c.tenant_id = p_tenant AND c.day >= this_period AND c.day < this_period + interval '1 month' AND c.billable
		GROUP BY 1, 2, 3, 4
	), priced AS (
		SELECT c.*, p.currency, CASE WHEN c.tier <> 'paid' THEN 0
			WHEN p.unit = c.billing_unit THEN c.quantity * p.unit_amount ELSE c.calls * p.unit_amount END AS amount
		FROM counted c, LATERAL acp.price(c.billing_unit, c.action, c.day::timestamp AT TIME ZONE 'UTC') p
	), total AS (
		SELECT coalesce(sum(calls), 0)::bigint AS calls, coalesce(sum(amount), 0) AS amount, max(currency) AS currency FROM priced
	)
	SELECT json_build_object(
		'tenant_id', p_tenant, 'tier', tier, 'calls_used', total.calls, 'calls_limit', max_calls,
		'calls_remaining', CASE WHEN max_calls IS NOT NULL THEN greatest(max_calls - total.calls, 0) END,
		'period_start', acp.rfc3339(acp.period_start(this_period)), 'period_end', acp.rfc3339(acp.period_end(this_period)),
		'by_action', (SELECT coalesce(json_agg(x ORDER BY x->>'action'), '[]') FROM (
			SELECT json_build_object('action', action, 'calls', sum(calls), 'billing_unit', billing_unit, 'quantity', sum(quantity)) AS x
			FROM priced GROUP BY action, billing_unit) a),
		'by_day', (SELECT coalesce(json_agg(x ORDER BY x->>'day'), '[]') FROM (
			SELECT json_build_object('day', day, 'calls', sum(calls)) AS x FROM priced GROUP BY day) d),
		'cost', json_build_object('amount', trim_scale(total.amount),
			'currency', coalesce(total.currency, (acp.price('call', '*', acp.now())).currency)))
	INTO result FROM total;
	RETURN result;
END
$$;
COMMENT ON FUNCTION acp.usage(uuid, date, integer) IS
	'The usage object of a tenant and period (null: now) from the counters: its cost does not grow with the audit log.';

CREATE OR REPLACE FUNCTION acp.pricing(p_unit text, p_action text, p_quantity bigint) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object('unit', p.unit, 'unit_amount', trim_scale(p.unit_amount), 'currency', p.currency,
		'amount', trim_scale(p.unit_amount * CASE WHEN p.unit = p_unit THEN p_quantity ELSE 1 END))
	FROM acp.price(p_unit, p_action, acp.now()) p
$$;
COMMENT ON FUNCTION acp.pricing(text, text, bigint) IS
	'What so many units of an action cost now: unit, unit_amount, currency, amount. A unit without a price is charged as one call.';

GRANT EXECUTE ON FUNCTION acp.paid_calls(uuid, date), acp.usage_reserve(uuid, uuid, timestamptz, integer, interval),
	acp.usage_release(uuid, uuid, timestamptz), acp.usage_consume(uuid, uuid, timestamptz, integer, integer), acp.audit_append(jsonb),
	acp.settle(jsonb, uuid, integer, text, bytea, uuid, integer), acp.price(text, text, timestamptz), acp.usage(uuid, date, integer), acp.pricing(text, text, bigint) TO acp_app;
