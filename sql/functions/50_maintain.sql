-- Periodic maintenance. Any process may run it; concurrent runs are harmless.

CREATE OR REPLACE FUNCTION acp.discard_old() RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	most CONSTANT bigint := 1000; -- of each kind, so that the transaction is short
	more boolean;
BEGIN
	WITH keys AS (
		DELETE FROM acp.idempotency i USING (
			SELECT tenant_id, action, key FROM acp.idempotency WHERE expires_at <= acp.now() ORDER BY expires_at
			LIMIT most FOR UPDATE SKIP LOCKED) old
		WHERE i.tenant_id = old.tenant_id AND i.action = old.action AND i.key = old.key RETURNING 1
	), changes AS (
		-- If a cache asks for changes since a deleted number, the answer is that everything may have changed.
		DELETE FROM acp.changes c USING (
			SELECT version FROM acp.changes ORDER BY version LIMIT most) old
		WHERE c.version = old.version AND c.at <= now() - interval '1 day' RETURNING 1
	), deliveries AS (
		DELETE FROM acp.webhook_deliveries d USING (
			SELECT tenant_id, delivery_id FROM acp.webhook_deliveries
			WHERE status <> 'pending' AND created_at <= acp.now() - interval '30 days' ORDER BY created_at
			LIMIT most FOR UPDATE SKIP LOCKED) old
		WHERE d.tenant_id = old.tenant_id AND d.delivery_id = old.delivery_id RETURNING 1
	), approvals AS (
		DELETE FROM acp.approvals a USING (
			SELECT tenant_id, approval_id FROM acp.approvals WHERE expires_at <= acp.now() - interval '30 days' ORDER BY expires_at
			LIMIT most FOR UPDATE SKIP LOCKED) old
		WHERE a.tenant_id = old.tenant_id AND a.approval_id = old.approval_id RETURNING 1
	), proposals AS (
		DELETE FROM acp.policy_proposals x USING (
			SELECT tenant_id, proposal_id FROM acp.policy_proposals
			WHERE status IN ('rejected', 'published') AND decided_at <= acp.now() - interval '30 days' ORDER BY decided_at
			LIMIT most FOR UPDATE SKIP LOCKED) old
		WHERE x.tenant_id = old.tenant_id AND x.proposal_id = old.proposal_id RETURNING 1
	)
	SELECT most IN ((SELECT count(*) FROM keys), (SELECT count(*) FROM changes), (SELECT count(*) FROM deliveries),
		(SELECT count(*) FROM approvals), (SELECT count(*) FROM proposals)) INTO more;
	RETURN more;
END
$$;
COMMENT ON FUNCTION acp.discard_old() IS 'Deletes expired idempotency keys, change feed entries older than a day, and what ended 30 days ago: webhook deliveries, approvals, decided proposals. True: there is more; call it again.';

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
	PERFORM acp.discard_old();
END
$$;
COMMENT ON FUNCTION acp.maintain() IS 'Creates audit partitions three months ahead, releases expired reservations, and calls acp.discard_old() once.';

GRANT EXECUTE ON FUNCTION acp.maintain(), acp.discard_old() TO acp_app;
