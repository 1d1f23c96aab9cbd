-- Quantities that are charged: those of the audit rows, or those that an operator put in their place.
--
-- Whatever computes a charge reads these, and nothing else; the proofs of counters and archives read the rows as they are.

CREATE OR REPLACE FUNCTION acp.quantity_max() RETURNS bigint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN 1000000000000; END $$;
COMMENT ON FUNCTION acp.quantity_max() IS 'The largest quantity of one call: ACP_QUANTITY_MAX of core/kernel/acp.h. An action may have a lower maximum.';

CREATE OR REPLACE VIEW acp.charged_calls AS
	SELECT l.tenant_id, l.event_id, l.ts, l.action, coalesce(l.billing_unit, 'call') AS billing_unit, l.chain_id, l.chain_seq,
		coalesce(k.charged, l.billing_quantity) AS quantity, CASE WHEN k.charged = 0 THEN 0 ELSE 1 END AS charged_calls
	FROM acp.audit_logs l
	LEFT JOIN acp.billing_corrections k ON k.tenant_id = l.tenant_id AND k.event_id = l.event_id AND k.ts = l.ts
	WHERE l.billable AND l.tier = 'paid';
COMMENT ON VIEW acp.charged_calls IS
	'The paid calls of the log, as they are charged. quantity: after corrections. charged_calls: 1, or 0 if the quantity was corrected to 0.';

CREATE OR REPLACE VIEW acp.charged_counters AS
	SELECT c.tenant_id, c.day, c.action, c.status, c.billable, c.tier, c.billing_unit, c.calls, c.quantity, c.calls AS charged_calls
	FROM acp.usage_counters c
	UNION ALL
	SELECT k.tenant_id, (k.ts AT TIME ZONE 'UTC')::date, k.action, 'success', true, 'paid', k.billing_unit, 0, k.charged::numeric - k.quantity,
		CASE WHEN k.charged = 0 THEN -1 ELSE 0 END
	FROM acp.billing_corrections k;
COMMENT ON VIEW acp.charged_counters IS
	'acp.usage_counters, and for each correction a row with the difference: the sums are those of acp.charged_calls.';

CREATE OR REPLACE FUNCTION acp.charged_of(p_tenant uuid, p_period date, p_billable boolean DEFAULT false)
RETURNS TABLE (day date, action text, status text, billable boolean, tier text, billing_unit text, calls bigint, quantity numeric, charged_calls bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
	RETURN QUERY
	SELECT u.day, u.action, u.status, u.billable, u.tier, u.billing_unit, u.calls, u.quantity, u.calls
	FROM acp.usage_of(p_tenant, p_period, p_billable) u
	UNION ALL
	SELECT (k.ts AT TIME ZONE 'UTC')::date, k.action, 'success', true, 'paid', k.billing_unit, 0, k.charged::numeric - k.quantity,
		CASE WHEN k.charged = 0 THEN -1 ELSE 0 END
	FROM acp.billing_corrections k
	WHERE k.tenant_id = p_tenant AND k.ts >= acp.period_start(p_period) AND k.ts < acp.period_end(p_period);
END
$$;
COMMENT ON FUNCTION acp.charged_of(uuid, date, boolean) IS
	'Returns acp.charged_counters of one tenant and month, as acp.usage_of() returns acp.usage_counters.';

GRANT SELECT ON acp.charged_calls, acp.charged_counters TO acp_app;
GRANT EXECUTE ON FUNCTION acp.quantity_max(), acp.charged_of(uuid, date, boolean) TO acp_app;
