-- Periodic maintenance. Any process may run it; concurrent runs are harmless.

CREATE OR REPLACE FUNCTION acp.maintain() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	q       record;
	expired integer;
BEGIN
	PERFORM acp.ensure_partitions(acp.now(), 3);
	-- Expired reservations. In a month without further calls nothing else would release them.
	FOR q IN SELECT u.tenant_id, u.period FROM acp.usage_quota u
		WHERE u.reserved > 0 AND EXISTS (SELECT FROM acp.usage_reservations r
			WHERE r.tenant_id = u.tenant_id AND r.period = u.period AND r.expires_at <= acp.now())
		LIMIT 100 FOR NO KEY UPDATE SKIP LOCKED
	LOOP
		DELETE FROM acp.usage_reservations r
		WHERE r.tenant_id = q.tenant_id AND r.period = q.period AND r.expires_at <= acp.now();
		GET DIAGNOSTICS expired = ROW_COUNT;
		UPDATE acp.usage_quota u SET reserved = reserved - expired WHERE u.tenant_id = q.tenant_id AND u.period = q.period;
	END LOOP;
	DELETE FROM acp.idempotency i USING (
		SELECT tenant_id, action, key FROM acp.idempotency WHERE expires_at <= acp.now() ORDER BY expires_at
		LIMIT 1000 FOR UPDATE SKIP LOCKED) old
	WHERE i.tenant_id = old.tenant_id AND i.action = old.action AND i.key = old.key;
	-- If a cache asks for changes since a deleted number, the answer is that everything may have changed.
	DELETE FROM acp.changes WHERE at <= now() - interval '1 day';
	DELETE FROM acp.webhook_deliveries d USING (
		SELECT tenant_id, delivery_id FROM acp.webhook_deliveries
		WHERE status <> 'pending' AND created_at <= acp.now() - interval '30 days' ORDER BY created_at
		LIMIT 1000 FOR UPDATE SKIP LOCKED) old
	WHERE d.tenant_id = old.tenant_id AND d.delivery_id = old.delivery_id;
	DELETE FROM acp.approvals a USING (
		SELECT tenant_id, approval_id FROM acp.approvals WHERE expires_at <= acp.now() - interval '30 days' ORDER BY expires_at
		LIMIT 1000 FOR UPDATE SKIP LOCKED) old
	WHERE a.tenant_id = old.tenant_id AND a.approval_id = old.approval_id;
	DELETE FROM acp.policy_proposals x USING (
		SELECT tenant_id, proposal_id FROM acp.policy_proposals
		WHERE status IN ('rejected', 'published') AND decided_at <= acp.now() - interval '30 days' ORDER BY decided_at
		LIMIT 1000 FOR UPDATE SKIP LOCKED) old
	WHERE x.tenant_id = old.tenant_id AND x.proposal_id = old.proposal_id;
END
$$;
COMMENT ON FUNCTION acp.maintain() IS 'Creates audit partitions three months ahead. Deletes expired reservations and idempotency keys, change feed entries older than a day, and what ended 30 days ago: webhook deliveries, approvals, decided proposals.';

GRANT EXECUTE ON FUNCTION acp.maintain() TO acp_app;
