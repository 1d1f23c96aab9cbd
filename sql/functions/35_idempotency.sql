-- Idempotency of router calls: claim before the handler, result in the handler's transaction (contract section 3).

CREATE OR REPLACE FUNCTION acp.idempotency_claim(p_tenant uuid, p_action text, p_key text, p_fingerprint text, p_owner uuid,
	p_lease interval, OUT verdict text, OUT sealed bytea)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	this_moment CONSTANT timestamptz := acp.now();
	earlier     acp.idempotency;
BEGIN
	LOOP
		INSERT INTO acp.idempotency (tenant_id, action, key, fingerprint, state, owner, lease_until, created_at, expires_at)
		VALUES (p_tenant, p_action, p_key, p_fingerprint, 'running', p_owner, this_moment + p_lease, this_moment,
			this_moment + interval '24 hours')
		ON CONFLICT DO NOTHING;
		IF FOUND THEN
			verdict := 'run';
			RETURN;
		END IF;
		SELECT * INTO earlier FROM acp.idempotency i
		WHERE i.tenant_id = p_tenant AND i.action = p_action AND i.key = p_key FOR UPDATE;
		CONTINUE WHEN NOT FOUND; -- released or expired meanwhile: try again
		IF earlier.expires_at <= this_moment OR (earlier.state = 'running' AND earlier.lease_until <= this_moment) THEN
			UPDATE acp.idempotency i SET fingerprint = p_fingerprint, state = 'running', owner = p_owner,
				lease_until = this_moment + p_lease, sealed = NULL, created_at = this_moment,
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
COMMENT ON FUNCTION acp.idempotency_claim(uuid, text, text, text, uuid, interval) IS
	'Decides whether a call may run. run: the caller holds the claim for p_lease; replay: sealed is the stored result; conflict: the first call is still running; mismatch: the key was used for another request.';

CREATE OR REPLACE FUNCTION acp.idempotency_finish(p_tenant uuid, p_action text, p_key text, p_owner uuid, p_sealed bytea) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE acp.idempotency SET state = 'done', sealed = p_sealed, lease_until = NULL
	WHERE tenant_id = p_tenant AND action = p_action AND key = p_key AND owner = p_owner AND state = 'running';
	IF NOT FOUND THEN
		PERFORM acp.fail('IDEMPOTENCY_CONFLICT', 'the call ran longer than its claim, and another call with this key took over; nothing was done; send the call again to get the result of the other one');
	END IF;
END
$$;
COMMENT ON FUNCTION acp.idempotency_finish(uuid, text, text, uuid, bytea) IS
	'Stores the result of the call that holds the claim, in its transaction. Refuses if another call took the claim over.';

CREATE OR REPLACE FUNCTION acp.idempotency_store(p_tenant uuid, p_action text, p_key text, p_fingerprint text, p_owner uuid, p_sealed bytea) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	this_moment CONSTANT timestamptz := acp.now();
BEGIN
	INSERT INTO acp.idempotency (tenant_id, action, key, fingerprint, state, owner, sealed, created_at, expires_at)
	VALUES (p_tenant, p_action, p_key, p_fingerprint, 'done', p_owner, p_sealed, this_moment, this_moment + interval '24 hours')
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

GRANT EXECUTE ON FUNCTION acp.idempotency_claim(uuid, text, text, text, uuid, interval),
	acp.idempotency_finish(uuid, text, text, uuid, bytea), acp.idempotency_store(uuid, text, text, text, uuid, bytea),
	acp.idempotency_give_up(uuid, text, text, uuid) TO acp_app;
