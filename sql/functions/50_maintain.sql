-- What is done now and then, by any process; two at once are harmless.

CREATE OR REPLACE FUNCTION acp.maintain() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM acp.ensure_partitions(acp.now(), 3);
	DELETE FROM acp.idempotency i USING (
		SELECT tenant_id, action, key FROM acp.idempotency WHERE expires_at <= acp.now() ORDER BY expires_at
		LIMIT 1000 FOR UPDATE SKIP LOCKED) old
	WHERE i.tenant_id = old.tenant_id AND i.action = old.action AND i.key = old.key;
	DELETE FROM acp.webhook_deliveries d USING (
		SELECT tenant_id, delivery_id FROM acp.webhook_deliveries
		WHERE status <> 'pending' AND created_at <= acp.now() - interval '30 days' ORDER BY created_at
		LIMIT 1000 FOR UPDATE SKIP LOCKED) old
	WHERE d.tenant_id = old.tenant_id AND d.delivery_id = old.delivery_id;
END
$$;
COMMENT ON FUNCTION acp.maintain() IS 'Makes audit partitions three months ahead and forgets expired idempotency keys and deliveries that ended 30 days ago.';

GRANT EXECUTE ON FUNCTION acp.maintain() TO acp_app;
