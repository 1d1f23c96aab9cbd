-- The audit log: functions that write rows. acp.audit_insert() stores every row, already linked to its chain.
--
-- Functions that take arrays of rows force generic plans. Otherwise PostgreSQL would plan them again for each array,
-- because it considers its length, and the plan would always be the same (measured: a fifth of the time of a batch).

CREATE OR REPLACE FUNCTION acp.audit_commitment(p_salt bytea, p_name text, p_value text) RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN encode(sha256(p_salt || convert_to(p_name || ' ' || octet_length(p_value) || ':' || p_value || E'\n', 'UTF8')), 'hex');
END
$$;
COMMENT ON FUNCTION acp.audit_commitment(bytea, text, text) IS
	'Returns the commitment that replaces a personal value in the text of a row: the SHA-256, in hex, of the row''s salt followed by the line with the value. Null if the value or the salt is null.';

CREATE OR REPLACE FUNCTION acp.audit_address(p_address inet) RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN encode(substr(inet_send(p_address), 5), 'hex')
		|| CASE WHEN masklen(p_address) < CASE family(p_address) WHEN 4 THEN 32 ELSE 128 END THEN '/' || masklen(p_address) ELSE '' END;
END
$$;
COMMENT ON FUNCTION acp.audit_address(inet) IS 'Formats an address for the text of a row: its bytes in hex, followed by /n for a network.';

CREATE OR REPLACE FUNCTION acp.audit_texts(p_rows acp.audit_logs[]) RETURNS text[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET datestyle = 'ISO'
SET extra_float_digits = 1
AS $$
BEGIN
	-- The bodies of acp.audit_commitment() and acp.audit_address() are repeated here: calling them costs as much as all the rest.
	RETURN ARRAY(
		SELECT CASE WHEN r.chain_form = 2 THEN
				E'acp audit row 2\nevent_id ' || coalesce('36:' || r.event_id, '-')
				|| E'\nrequest_id ' || coalesce('36:' || r.request_id, '-')
				|| E'\nts ' || length(t.us) || ':' || t.us
				|| E'\ntenant_id ' || coalesce('36:' || r.tenant_id, '-')
				|| E'\nintegration ' || coalesce(octet_length(r.integration) || ':' || r.integration, '-')
				|| E'\npack ' || coalesce(octet_length(r.pack) || ':' || r.pack, '-')
				|| E'\naction ' || coalesce(octet_length(r.action) || ':' || r.action, '-')
				|| E'\nactor_type ' || coalesce(octet_length(r.actor_type) || ':' || r.actor_type, '-')
				|| E'\nactor_id ' || CASE WHEN r.actor_id IS NULL THEN coalesce('64:' || (r.erased->>'actor_id'), '-')
					ELSE '64:' || encode(sha256(r.salt || convert_to('actor_id ' || octet_length(r.actor_id) || ':' || r.actor_id || E'\n', 'UTF8')), 'hex') END
				|| E'\napi_key_id ' || coalesce('36:' || r.api_key_id, '-')
				|| E'\nrequest_hash ' || coalesce(octet_length(r.request_hash) || ':' || r.request_hash, '-')
				|| E'\nstatus ' || coalesce(octet_length(r.status) || ':' || r.status, '-')
				|| E'\nerror_code ' || coalesce(octet_length(r.error_code) || ':' || r.error_code, '-')
				|| E'\nerror_message_redacted ' || CASE WHEN r.error_message_redacted IS NULL THEN coalesce('64:' || (r.erased->>'error_message_redacted'), '-')
					ELSE '64:' || encode(sha256(r.salt || convert_to('error_message_redacted ' || octet_length(r.error_message_redacted) || ':' || r.error_message_redacted || E'\n', 'UTF8')), 'hex') END
				|| E'\nresult_meta ' || coalesce(octet_length(r.result_meta::text) || ':' || r.result_meta::text, '-')
				|| E'\nlatency_ms ' || '8:' || encode(float4send(r.latency_ms), 'hex')
				|| E'\nip_address ' || CASE WHEN r.ip_address IS NULL THEN coalesce('64:' || (r.erased->>'ip_address'), '-')
					ELSE '64:' || encode(sha256(r.salt || convert_to('ip_address ' || octet_length(t.ip) || ':' || t.ip || E'\n', 'UTF8')), 'hex') END
				|| E'\nidempotency_key ' || CASE WHEN r.idempotency_key IS NULL THEN coalesce('64:' || (r.erased->>'idempotency_key'), '-')
					ELSE '64:' || encode(sha256(r.salt || convert_to('idempotency_key ' || octet_length(r.idempotency_key) || ':' || r.idempotency_key || E'\n', 'UTF8')), 'hex') END
				|| E'\ndry_run ' || length(r.dry_run::text) || ':' || r.dry_run
				|| E'\npolicy_decision_id ' || coalesce('36:' || r.policy_decision_id, '-')
				|| E'\ntrace_id ' || coalesce(octet_length(r.trace_id) || ':' || r.trace_id, '-')
				|| E'\nbillable ' || length(r.billable::text) || ':' || r.billable
				|| E'\nbilling_unit ' || coalesce(octet_length(r.billing_unit) || ':' || r.billing_unit, '-')
				|| E'\nbilling_quantity ' || length(r.billing_quantity::text) || ':' || r.billing_quantity
				|| E'\ntier ' || coalesce(octet_length(r.tier) || ':' || r.tier, '-')
				|| E'\n'
			WHEN r.chain_form IS NULL THEN
				ROW(r.event_id, r.request_id, r.ts AT TIME ZONE 'UTC', r.tenant_id, r.integration, r.pack, r.action, r.actor_type,
				r.actor_id, r.api_key_id, r.request_hash, r.status, r.error_code, r.error_message_redacted, r.result_meta, r.latency_ms,
				r.ip_address, r.idempotency_key, r.dry_run, r.policy_decision_id, r.trace_id, r.billable, r.billing_unit,
				r.billing_quantity, r.tier)::text
			END
		FROM unnest(p_rows) WITH ORDINALITY r, LATERAL (SELECT (extract(epoch FROM r.ts) * 1000000)::bigint::text,
			encode(substr(inet_send(r.ip_address), 5), 'hex') || CASE WHEN masklen(r.ip_address) < CASE family(r.ip_address) WHEN 4 THEN 32 ELSE 128 END
				THEN '/' || masklen(r.ip_address) ELSE '' END) t(us, ip)
		ORDER BY r.ordinality);
END
$$;
COMMENT ON FUNCTION acp.audit_texts(acp.audit_logs[]) IS
	'Returns for each row the text from which its chain_hash is computed, in the form given by chain_form (docs/internals.md, "The chain''s text"). Null: the row cannot have such a text, for example because it has a personal value without a salt.';

CREATE OR REPLACE FUNCTION acp.audit_chain_take() RETURNS acp.audit_chains
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	taken acp.audit_chains;
BEGIN
	SELECT * INTO taken FROM acp.audit_chains WHERE owner IS NULL FOR NO KEY UPDATE SKIP LOCKED LIMIT 1;
	IF NOT FOUND THEN
		INSERT INTO acp.audit_chains DEFAULT VALUES RETURNING * INTO taken;
	END IF;
	RETURN taken;
END
$$;
COMMENT ON FUNCTION acp.audit_chain_take() IS 'Locks a chain that has no owner and that no other transaction has locked, until the end of this transaction.';

CREATE OR REPLACE FUNCTION acp.audit_chain_own(p_owner uuid, OUT chain_id integer, OUT seq bigint, OUT head bytea, OUT row_type oid)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	mine acp.audit_chains;
BEGIN
	SELECT * INTO mine FROM acp.audit_chains c WHERE c.owner = p_owner FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		SELECT * INTO mine FROM acp.audit_chains c WHERE c.owned_until < now() FOR NO KEY UPDATE SKIP LOCKED LIMIT 1;
	END IF;
	IF NOT FOUND THEN
		INSERT INTO acp.audit_chains DEFAULT VALUES RETURNING * INTO mine;
	END IF;
	UPDATE acp.audit_chains c SET owner = p_owner, owned_until = now() + interval '10 minutes' WHERE c.chain_id = mine.chain_id;
	chain_id := mine.chain_id;
	seq := mine.seq;
	head := mine.head;
	row_type := 'acp.audit_logs'::regtype;
END
$$;
COMMENT ON FUNCTION acp.audit_chain_own(uuid) IS
	'Assigns a chain to one process, which adds rows to it with acp.audit_append_links(): the chain it already owns, else one whose owner has been silent for ten minutes, else a new one. Returns the end of the chain and the OID of the row type of audit_logs.';

CREATE OR REPLACE FUNCTION acp.audit_insert(p_rows acp.audit_logs[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
	stored integer;
BEGIN
	INSERT INTO acp.audit_logs
	SELECT r.* FROM unnest(p_rows) r
	WHERE r.actor_type IN ('api_key', 'user', 'system', 'anonymous') AND r.status IN ('success', 'error', 'denied')
	  AND (r.request_hash IS NULL OR length(r.request_hash) = 64) AND (r.tier IS NULL OR r.tier IN ('free', 'paid'))
	  AND (r.billing_unit IS NULL OR r.billing_unit IN ('call', 'token', 'row', 'sec')) AND r.billing_quantity >= 0
	  AND (NOT r.billable OR (r.status = 'success' AND NOT r.dry_run AND r.tier IS NOT NULL))
	  AND r.chain_form = 2 AND r.erased IS NULL AND coalesce(length(r.salt), 0) = CASE WHEN num_nonnulls(r.actor_id, r.error_message_redacted,
		r.ip_address, r.idempotency_key) > 0 THEN 16 ELSE 0 END;
	GET DIAGNOSTICS stored = ROW_COUNT;
	IF stored <> cardinality(p_rows) THEN
		RAISE EXCEPTION 'an audit row violates a rule of its columns' USING ERRCODE = 'check_violation';
	END IF;
	INSERT INTO acp.usage_pending (day, action, status, billable, tier, billing_unit, tenants, quantities, chain_id, chain_seq)
	SELECT (r.ts AT TIME ZONE 'UTC')::date, r.action, r.status, r.billable, r.tier, coalesce(r.billing_unit, 'call'),
		array_agg(r.tenant_id), array_agg(r.billing_quantity), max(r.chain_id), max(r.chain_seq)
	FROM unnest(p_rows) r WHERE r.pack IS NOT NULL AND r.tier IS NOT NULL AND r.action IS NOT NULL
	GROUP BY 1, 2, 3, 4, 5, 6;
END
$$;
COMMENT ON FUNCTION acp.audit_insert(acp.audit_logs[]) IS 'Checks, stores and counts rows. The caller has linked them.';

CREATE OR REPLACE FUNCTION acp.audit_append_rows(p_rows acp.audit_logs[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET timezone = 'UTC'
AS $$
DECLARE
	month  timestamptz;
	line   text;
	link   acp.audit_chains;
	fresh  acp.audit_logs[];
	hashes bytea[] := '{}';
BEGIN
	-- Partitions are created months ahead. This handles a shifted clock and a database that was down for months.
	FOR month IN SELECT DISTINCT date_trunc('month', r.ts) FROM unnest(p_rows) r ORDER BY 1 LOOP
		IF to_regclass('acp.audit_logs_' || to_char(month, 'YYYY_MM')) IS NULL THEN
			PERFORM acp.ensure_partitions(month, 3);
		ELSE
			-- A partition that another session has just created is visible before this session knows it as
			-- part of audit_logs. The other session releases its lock after that, so wait for the lock.
			PERFORM pg_advisory_lock_shared(hashtext('acp.ensure_partitions')),
				pg_advisory_unlock_shared(hashtext('acp.ensure_partitions'));
		END IF;
	END LOOP;
	link := acp.audit_chain_take();
	fresh := ARRAY(
		SELECT ROW(r.event_id, r.request_id, r.ts, r.tenant_id, r.integration, r.pack, r.action, r.actor_type, r.actor_id,
			r.api_key_id, r.request_hash, r.status, r.error_code, r.error_message_redacted, r.result_meta, r.latency_ms,
			r.ip_address, r.idempotency_key, r.dry_run, r.policy_decision_id, r.trace_id, r.billable, r.billing_unit,
			r.billing_quantity, r.tier, link.chain_id, link.seq + r.ordinality, NULL, 2,
			CASE WHEN num_nonnulls(r.actor_id, r.error_message_redacted, r.ip_address, r.idempotency_key) > 0 THEN uuid_send(gen_random_uuid()) END,
			NULL)::acp.audit_logs
		FROM unnest(p_rows) WITH ORDINALITY r ORDER BY r.ordinality);
	FOREACH line IN ARRAY acp.audit_texts(fresh) LOOP
		link.head := sha256(link.head || convert_to(line, 'UTF8'));
		hashes := hashes || link.head;
	END LOOP;
	UPDATE acp.audit_chains c SET seq = link.seq + cardinality(hashes), head = link.head WHERE c.chain_id = link.chain_id;
	PERFORM acp.audit_insert(ARRAY(
		SELECT ROW(r.event_id, r.request_id, r.ts, r.tenant_id, r.integration, r.pack, r.action, r.actor_type, r.actor_id,
			r.api_key_id, r.request_hash, r.status, r.error_code, r.error_message_redacted, r.result_meta, r.latency_ms,
			r.ip_address, r.idempotency_key, r.dry_run, r.policy_decision_id, r.trace_id, r.billable, r.billing_unit,
			r.billing_quantity, r.tier, r.chain_id, r.chain_seq, hashes[r.ordinality], r.chain_form, r.salt, r.erased)::acp.audit_logs
		FROM unnest(fresh) WITH ORDINALITY r ORDER BY r.ordinality));
END
$$;
COMMENT ON FUNCTION acp.audit_append_rows(acp.audit_logs[]) IS
	'Writes rows into audit_logs for roles that have no right to write to it: creates missing partitions, adds salts, links the rows in their order, checks and counts them. No row may be stored already.';

CREATE OR REPLACE FUNCTION acp.audit_append_links(p_rows acp.audit_logs[], p_seq bigint, p_head bytea) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
	count CONSTANT integer := cardinality(p_rows);
	last  CONSTANT acp.audit_logs := p_rows[count];
BEGIN
	UPDATE acp.audit_chains c SET seq = last.chain_seq, head = last.chain_hash, owned_until = now() + interval '10 minutes'
	WHERE c.chain_id = last.chain_id AND c.seq = p_seq AND c.head = p_head AND last.chain_seq = p_seq + count AND c.owner IS NOT NULL;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'the rows do not continue the chain' USING ERRCODE = 'ACP03';
	END IF;
	PERFORM acp.audit_insert(p_rows);
END
$$;
COMMENT ON FUNCTION acp.audit_append_links(acp.audit_logs[], bigint, bytea) IS
	'Writes rows that the program has linked to the end of a chain that it owns (p_seq, p_head). Their hashes must be those that acp.audit_append_rows() would compute; acpctl audit verify reports any other. ACP03: the chain ends elsewhere by now; nothing was stored.';

CREATE OR REPLACE FUNCTION acp.audit_confirm() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- If a server stops while a commit waits for its standbys, the transaction is committed without them. Such a row must not
	-- be reported before the standbys have it. A commit that writes to the WAL waits for everything written before.
	PERFORM pg_logical_emit_message(true, 'acp', 'confirm');
END
$$;
COMMENT ON FUNCTION acp.audit_confirm() IS
	'Makes the commit of this transaction wait for everything that it has seen, as a writing transaction does (synchronous_commit).';

CREATE OR REPLACE FUNCTION acp.audit_pending(p_event uuid) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$ SELECT pg_advisory_xact_lock(hashtextextended('acp.audit_pending ' || p_event, 0)) $$;
COMMENT ON FUNCTION acp.audit_pending(uuid) IS
	'Makes other transactions that look up this event wait until this one ends, because a commit may still be in progress after its connection is gone.';

CREATE OR REPLACE FUNCTION acp.audit_found(p_tenant uuid, p_ts timestamptz, p_event uuid) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM acp.audit_pending(p_event);
	IF NOT EXISTS (SELECT FROM acp.audit_logs WHERE tenant_id = p_tenant AND ts = p_ts AND event_id = p_event) THEN
		RETURN false;
	END IF;
	PERFORM acp.audit_confirm();
	RETURN true;
END
$$;
COMMENT ON FUNCTION acp.audit_found(uuid, timestamptz, uuid) IS 'True if the row of a call is stored as durably as after an acknowledged commit. For programs up to schema version 8; later ones use acp.settle_doubt().';

CREATE OR REPLACE FUNCTION acp.audit_stored(p_rows acp.audit_logs[]) RETURNS boolean[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	stored boolean[];
BEGIN
	-- If two transactions bring the same rows, the second one waits here and then finds the rows of the first. Single rows
	-- wait for each other only if they are the same, because one of them may wait a long time for its tenant.
	IF cardinality(p_rows) = 1 THEN
		PERFORM pg_advisory_xact_lock_shared(hashtext('acp.audit_stored'));
		PERFORM pg_advisory_xact_lock(hashtext('acp.audit_stored'), hashtext(p_rows[1].event_id::text));
	ELSE
		PERFORM pg_advisory_xact_lock(hashtext('acp.audit_stored'));
	END IF;
	stored := ARRAY(
		SELECT row_number() OVER (PARTITION BY r.tenant_id, r.ts, r.event_id ORDER BY r.ordinality) > 1
		    OR EXISTS (SELECT FROM acp.audit_logs l WHERE l.tenant_id = r.tenant_id AND l.ts = r.ts AND l.event_id = r.event_id)
		FROM unnest(p_rows) WITH ORDINALITY r ORDER BY r.ordinality);
	IF true = ANY (stored) THEN
		PERFORM acp.audit_confirm();
	END IF;
	RETURN stored;
END
$$;
COMMENT ON FUNCTION acp.audit_stored(acp.audit_logs[]) IS
	'Returns for each row, which may be a repeat, whether it is already stored or occurs earlier in the array. Until the end of this transaction, no other transaction that calls this function can store these rows.';

CREATE OR REPLACE FUNCTION acp.audit_append(p_event jsonb) RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	e acp.audit_logs := jsonb_populate_record(NULL::acp.audit_logs, p_event);
BEGIN
	e.ts := coalesce(e.ts, acp.now());
	IF p_event ? 'unless_onboarded' AND NOT acp.onboard_give_up((p_event->>'unless_onboarded')::uuid) THEN
		RETURN e.ts;
	END IF;
	PERFORM acp.audit_append_rows(ARRAY[e]);
	IF (p_event->>'forward')::boolean THEN
		INSERT INTO acp.audit_outbox (tenant_id, ts, event_id, event) VALUES (e.tenant_id, e.ts, e.event_id, acp.audit_event_json(e));
	END IF;
	RETURN e.ts;
END
$$;
COMMENT ON FUNCTION acp.audit_append(jsonb) IS
	'Writes one audit row from an object whose members are the columns. ts missing: now. Member forward: the row also goes to the remote hub. Member unless_onboarded (the id of a key): nothing is written if that onboarding was recorded; otherwise it can no longer succeed. Returns ts.';

CREATE OR REPLACE FUNCTION acp.rows_where(p_rows acp.audit_logs[], p_which boolean[]) RETURNS acp.audit_logs[]
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN ARRAY(SELECT p_rows[i] FROM generate_subscripts(p_rows, 1) i WHERE p_which[i] ORDER BY i); END $$;
COMMENT ON FUNCTION acp.rows_where(acp.audit_logs[], boolean[]) IS 'Returns the rows whose flag is true.';

GRANT EXECUTE ON FUNCTION acp.audit_commitment(bytea, text, text), acp.audit_address(inet), acp.audit_texts(acp.audit_logs[]), acp.audit_chain_take(), acp.audit_chain_own(uuid), acp.audit_append_links(acp.audit_logs[], bigint, bytea), acp.audit_append_rows(acp.audit_logs[]),
	acp.audit_confirm(), acp.audit_pending(uuid), acp.audit_found(uuid, timestamptz, uuid), acp.audit_stored(acp.audit_logs[]), acp.audit_append(jsonb), acp.rows_where(acp.audit_logs[], boolean[]) TO acp_app;
