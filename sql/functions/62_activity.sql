-- meta.activity: the calls of a tenant with details that billing does not need, for the console and for agents.

CREATE OR REPLACE FUNCTION acp.meta_activity(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	most  CONSTANT integer := 1000; -- rows read, so the cost does not grow with the log
	shown CONSTANT integer := coalesce((p_params->>'limit')::integer, 50);
	month CONSTANT date := coalesce((p_params->>'period' || '-01')::date, acp.period(acp.now()));
	reply jsonb;
BEGIN
	WITH counted AS (
		SELECT c.day, c.action, coalesce(sum(c.calls) FILTER (WHERE c.status = 'success'), 0) AS success,
			coalesce(sum(c.calls) FILTER (WHERE c.status = 'error'), 0) AS error,
			coalesce(sum(c.calls) FILTER (WHERE c.status = 'denied'), 0) AS denied
		FROM acp.usage_of(p_tenant, month) c GROUP BY 1, 2
	), days AS (
		SELECT day, sum(success) AS success, sum(error) AS error, sum(denied) AS denied FROM counted GROUP BY 1
	), actions AS (
		SELECT action, sum(success) AS success, sum(error) AS error, sum(denied) AS denied FROM counted GROUP BY 1
	), latest AS MATERIALIZED (
		SELECT l.ts, l.event_id, l.request_id, l.action, l.status, l.error_code, l.error_message_redacted, l.api_key_id, l.actor_id
		FROM acp.audit_logs l WHERE l.tenant_id = p_tenant ORDER BY l.ts DESC, l.event_id DESC LIMIT most
	), used AS (
		SELECT api_key_id, max(ts) AS ts FROM latest WHERE api_key_id IS NOT NULL GROUP BY 1
	), failed AS (
		SELECT * FROM latest WHERE status <> 'success' ORDER BY ts DESC, event_id DESC LIMIT shown
	)
	SELECT jsonb_build_object('period', to_char(month, 'YYYY-MM'),
		'by_day', (SELECT coalesce(jsonb_agg(to_jsonb(d) ORDER BY d.day), '[]') FROM days d),
		'by_action', (SELECT coalesce(jsonb_agg(to_jsonb(a) ORDER BY a.action), '[]') FROM actions a),
		'looked_at', (SELECT jsonb_build_object('calls', count(*), 'since', acp.rfc3339(min(ts)), 'all', count(*) < most) FROM latest),
		'keys', (SELECT coalesce(jsonb_agg(jsonb_build_object('api_key_id', u.api_key_id, 'last_used_at', acp.rfc3339(u.ts))
			ORDER BY u.ts DESC), '[]') FROM used u),
		'failures', (SELECT coalesce(jsonb_agg(jsonb_build_object('ts', acp.rfc3339(f.ts), 'request_id', f.request_id, 'action', f.action,
			'status', f.status, 'code', f.error_code, 'error', f.error_message_redacted, 'api_key_id', f.api_key_id,
			'key_prefix', f.actor_id) ORDER BY f.ts DESC, f.event_id DESC), '[]') FROM failed f))
	INTO reply;
	RETURN reply;
END
$$;
COMMENT ON FUNCTION acp.meta_activity(uuid, jsonb, jsonb) IS
	'meta.activity: calls of a month by outcome, exact, from the counters; failures and last use of each key, from the latest 1000 calls of the tenant.';

GRANT EXECUTE ON FUNCTION acp.meta_activity(uuid, jsonb, jsonb) TO acp_app;
