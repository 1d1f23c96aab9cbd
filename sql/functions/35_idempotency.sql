-- Idempotency of router calls: claim before the handler, result in the handler's transaction (contract section 3).

DROP FUNCTION IF EXISTS acp.idempotency_bytes(uuid);
CREATE OR REPLACE FUNCTION acp.idempotency_bytes(p_tenant uuid, p_claimed boolean) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT coalesce(sum(i.large), 0) FROM acp.idempotency i
		WHERE i.tenant_id = p_tenant AND i.large IS NOT NULL AND i.expires_at > acp.now() AND (i.quota IS NOT NULL) = p_claimed);
END
$$;
COMMENT ON FUNCTION acp.idempotency_bytes(uuid, boolean) IS
	'Bytes of the large results that are kept for a tenant: under keys that its calls sent (p_claimed), or under keys that the program chose. A quota bounds their number, and so the cost of this sum.';

CREATE OR REPLACE FUNCTION acp.idempotency_kept(p_tenant uuid, p_sealed bytea, p_quota bigint) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- Small results are no larger than the audit row of their call, and are not counted.
	IF p_sealed IS NULL OR octet_length(p_sealed) <= 2048 THEN
		RETURN true;
	END IF;
	-- Those that could pass the quota together by much go one after the other.
	IF octet_length(p_sealed) > 65536 THEN
		PERFORM pg_advisory_xact_lock(hashtextextended(p_tenant::text, 7236459004));
	END IF;
	RETURN acp.idempotency_bytes(p_tenant, p_quota IS NOT NULL) + octet_length(p_sealed) <= coalesce(p_quota, 16777216);
END
$$;
COMMENT ON FUNCTION acp.idempotency_kept(uuid, bytea, bigint) IS
	'True if a result fits into what may be kept for the tenant. p_quota null: for a result under a key that the program chose; such results have 16 MiB of their own, so they never use up the quota of the tenant''s keys.';

DROP FUNCTION IF EXISTS acp.idempotency_claim(uuid, text, text, text, uuid, interval);
CREATE OR REPLACE FUNCTION acp.idempotency_claim(p_tenant uuid, p_action text, p_key text, p_fingerprint text, p_owner uuid,
	p_lease interval, p_quota bigint DEFAULT NULL, OUT verdict text, OUT sealed bytea)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	this_moment CONSTANT timestamptz := acp.now();
	earlier     acp.idempotency;
BEGIN
	LOOP
		INSERT INTO acp.idempotency (tenant_id, action, key, fingerprint, state, owner, lease_until, quota, created_at, expires_at)
		VALUES (p_tenant, p_action, p_key, p_fingerprint, 'running', p_owner, this_moment + p_lease, p_quota, this_moment,
			this_moment + interval '24 hours')
		ON CONFLICT DO NOTHING;
		IF FOUND THEN
			verdict := 'run';
			IF acp.idempotency_bytes(p_tenant, true) >= p_quota THEN
				PERFORM acp.idempotency_give_up(p_tenant, p_action, p_key, p_owner);
				verdict := 'full';
			END IF;
			RETURN;
		END IF;
		SELECT * INTO earlier FROM acp.idempotency i
		WHERE i.tenant_id = p_tenant AND i.action = p_action AND i.key = p_key FOR UPDATE;
		CONTINUE WHEN NOT FOUND; -- released or expired meanwhile: try again
		IF earlier.expires_at <= this_moment OR (earlier.state = 'running' AND earlier.lease_until <= this_moment) THEN
			UPDATE acp.idempotency i SET fingerprint = p_fingerprint, state = 'running', owner = p_owner,
				lease_until = this_moment + p_lease, sealed = NULL, large = NULL, quota = p_quota, created_at = this_moment,
				expires_at = this_moment + interval '24 hours'
			WHERE i.tenant_id = p_tenant AND i.action = p_action AND i.key = p_key;
			verdict := 'run';
		ELSIF earlier.fingerprint <> p_fingerprint THEN
			verdict := 'mismatch';
		ELSIF earlier.state = 'running' THEN
			verdict := 'conflict';
		ELSE
			verdict := 'replay';
			sealed := earlier.sealed;
		END IF;
		RETURN;
	END LOOP;
END
$$;
COMMENT ON FUNCTION acp.idempotency_claim(uuid, text, text, text, uuid, interval, bigint) IS
	'Decides whether a call may run. run: the caller holds the claim for p_lease; full: p_quota bytes of results are kept for the tenant, so the call may not run; replay: sealed is the stored result, null if it was too large to be kept; conflict: the first call is still running; mismatch: the key was used for another request.';

CREATE OR REPLACE FUNCTION acp.idempotency_finish(p_tenant uuid, p_action text, p_key text, p_owner uuid, p_sealed bytea) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	kept CONSTANT boolean := octet_length(p_sealed) <= 2048 OR acp.idempotency_kept(p_tenant, p_sealed,
		(SELECT i.quota FROM acp.idempotency i WHERE i.tenant_id = p_tenant AND i.action = p_action AND i.key = p_key));
BEGIN
	UPDATE acp.idempotency SET state = 'done', sealed = CASE WHEN kept THEN p_sealed END, lease_until = NULL,
		-- One that is not kept counts, too: the quota is used up, and the next call learns it before it does anything.
		large = CASE WHEN octet_length(p_sealed) > 2048 THEN octet_length(p_sealed) END
	WHERE tenant_id = p_tenant AND action = p_action AND key = p_key AND owner = p_owner AND state = 'running';
	IF NOT FOUND THEN
		PERFORM acp.fail('IDEMPOTENCY_CONFLICT', 'the call ran longer than its claim, and another call with this key took over; nothing was done; send the call again to get the result of the other one');
	END IF;
END
$$;
COMMENT ON FUNCTION acp.idempotency_finish(uuid, text, text, uuid, bytea) IS
	'Stores the result of the call that holds the claim, in its transaction, unless it is too large to be kept. Refuses if another call took the claim over.';

CREATE OR REPLACE FUNCTION acp.idempotency_store(p_tenant uuid, p_action text, p_key text, p_fingerprint text, p_owner uuid, p_sealed bytea) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	this_moment CONSTANT timestamptz := acp.now();
	kept        CONSTANT boolean := octet_length(p_sealed) <= 2048 OR acp.idempotency_kept(p_tenant, p_sealed, NULL);
BEGIN
	INSERT INTO acp.idempotency (tenant_id, action, key, fingerprint, state, owner, sealed, large, created_at, expires_at)
	VALUES (p_tenant, p_action, p_key, p_fingerprint, 'done', p_owner, CASE WHEN kept THEN p_sealed END,
		CASE WHEN kept AND octet_length(p_sealed) > 2048 THEN octet_length(p_sealed) END, this_moment, this_moment + interval '24 hours')
	ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		PERFORM acp.fail('IDEMPOTENCY_CONFLICT', 'this call was repeated under its key before it ended; nothing was done; the repeated call counts');
	END IF;
END
$$;
COMMENT ON FUNCTION acp.idempotency_store(uuid, text, text, text, uuid, bytea) IS
	'Stores the result of a call, in its transaction, under a key that the program chose and did not claim. Refuses if a repeat of the call has claimed the key.';

CREATE OR REPLACE FUNCTION acp.idempotency_give_up(p_tenant uuid, p_action text, p_key text, p_owner uuid) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	DELETE FROM acp.idempotency
	WHERE tenant_id = p_tenant AND action = p_action AND key = p_key AND owner = p_owner AND state = 'running';
END
$$;
COMMENT ON FUNCTION acp.idempotency_give_up(uuid, text, text, uuid) IS 'Releases the claim of a failed call, so the key can be used again.';

GRANT EXECUTE ON FUNCTION acp.idempotency_bytes(uuid, boolean), acp.idempotency_kept(uuid, bytea, bigint),
	acp.idempotency_claim(uuid, text, text, text, uuid, interval, bigint),
	acp.idempotency_finish(uuid, text, text, uuid, bytea), acp.idempotency_store(uuid, text, text, text, uuid, bytea),
	acp.idempotency_give_up(uuid, text, text, uuid) TO acp_app;
