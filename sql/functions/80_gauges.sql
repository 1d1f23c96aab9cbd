-- Database gauges for GET /metrics. Their queries use an index, so the cost does not depend on the size of the tables.

CREATE OR REPLACE FUNCTION acp.gauges() RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	most CONSTANT integer := 100000; -- a larger backlog is reported as this number
BEGIN
	RETURN (
		WITH sample (name, help, labels, value) AS (
			SELECT 'acp_schema_version', 'Version of the database schema.', NULL, max(version)::numeric FROM acp.schema_migrations
			UNION ALL
			SELECT 'acp_db_connections', 'Sessions of the program''s role in its database, of all hosts, by state.',
				format('state="%s"', s.state), count(a.pid)
			FROM unnest(ARRAY['active', 'idle', 'idle in transaction']) s(state)
			LEFT JOIN pg_stat_activity a ON a.datname = current_database() AND a.usename = current_user
				AND CASE WHEN starts_with(a.state, 'idle in') THEN 'idle in transaction' ELSE a.state END = s.state
			GROUP BY s.state
			UNION ALL
			SELECT 'acp_outbox_rows', 'Audit rows that wait for the remote hub (at most 100000 are counted).', NULL, count(*)
			FROM (SELECT FROM acp.audit_outbox WHERE refused IS NULL LIMIT most) o
			UNION ALL
			SELECT 'acp_outbox_refused_rows', 'Audit rows that the remote hub will never take (at most 100000 are counted).', NULL, count(*)
			FROM (SELECT FROM acp.audit_outbox WHERE refused IS NOT NULL LIMIT most) o
			UNION ALL
			SELECT 'acp_outbox_oldest_seconds', 'Age of the oldest audit row that waits for the remote hub; 0: none waits.', NULL,
				greatest(coalesce(extract(epoch FROM acp.now() - min(ts)), 0), 0)
			FROM acp.audit_outbox WHERE refused IS NULL
			UNION ALL
			SELECT 'acp_webhook_deliveries_pending', 'Webhook deliveries that are not done (at most 100000 are counted).', NULL, count(*)
			FROM (SELECT FROM acp.webhook_deliveries WHERE status = 'pending' LIMIT most) d
			UNION ALL
			-- Who waits for a sender of its own, or for the end of a pause, is not overdue.
			SELECT 'acp_webhook_delivery_overdue_seconds',
				'How long the most overdue webhook delivery of a tenant that uses no sender has been due; 0: none is.', NULL,
				greatest(coalesce(extract(epoch FROM acp.now() - min(q.due)), 0), 0)
			FROM acp.webhook_queues('00000000-0000-0000-0000-000000000000', NULL, 2000) q JOIN acp.webhooks w USING (tenant_id, webhook_id)
			WHERE (w.paused_until IS NULL OR w.paused_until <= acp.now())
			  AND NOT EXISTS (SELECT FROM acp.webhook_leases l WHERE l.tenant_id = q.tenant_id AND l.lease_until > acp.now())
			UNION ALL
			SELECT 'acp_webhook_senders_busy', 'Webhook deliveries that are being sent, by all hosts.', NULL, count(*)
			FROM acp.webhook_leases WHERE lease_until > acp.now()
			UNION ALL
			SELECT 'acp_usage_reservations', 'Places in free allowances that running calls hold (at most 100000 are counted).', NULL, count(*)
			FROM (SELECT FROM acp.usage_reservations LIMIT most) r
			UNION ALL
			SELECT 'acp_audit_seal_age_seconds', 'Age of the newest signature over the ends of the audit chains.', NULL,
				greatest(extract(epoch FROM acp.now() - s.at), 0)
			FROM (SELECT at FROM acp.audit_seals ORDER BY seal_id DESC LIMIT 1) s
		)
		SELECT jsonb_agg(jsonb_build_object('name', name, 'help', help, 'samples', samples) ORDER BY name)
		FROM (SELECT name, help, jsonb_agg(jsonb_build_object('labels', labels, 'value', trim_scale(round(value, 3))) ORDER BY labels) AS samples
			FROM sample GROUP BY name, help) metric);
END
$$;
COMMENT ON FUNCTION acp.gauges() IS
	'Database gauges for GET /metrics: [{name, help, samples: [{labels, value}]}]. Keep each one cheap: it is read every few seconds.';

GRANT EXECUTE ON FUNCTION acp.gauges() TO acp_app;
