-- Erasure: removes personal values from the audit log; its chains still verify. Only the owner may do it.

CREATE OR REPLACE FUNCTION acp.audit_erase_tables() RETURNS SETOF text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'acp'::regnamespace AND c.relkind = 'r'
	  AND c.relname ~ '^audit_(logs|kept)_[0-9]{4}_[0-9]{2}' ORDER BY 1
$$;
COMMENT ON FUNCTION acp.audit_erase_tables() IS 'Lists the tables with audit rows: partitions, and archived months whose table was kept.';

CREATE OR REPLACE FUNCTION acp.audit_erase(p_table text, p_tenant uuid, p_before timestamptz, p_integration text, p_dry boolean,
	OUT values_of bigint, OUT old bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF p_table NOT IN (SELECT acp.audit_erase_tables()) THEN
		RAISE EXCEPTION 'this table does not hold audit rows' USING ERRCODE = 'undefined_table';
	END IF;
	EXECUTE format('SELECT count(*) FILTER (WHERE l.chain_form = 2 AND l.salt IS NOT NULL), count(*) FILTER (WHERE l.chain_form IS NULL
			AND num_nonnulls(l.actor_id, l.error_message_redacted, l.ip_address, l.idempotency_key) > 0)
		FROM acp.%I l WHERE (l.tenant_id = $1 OR $1 IS NULL) AND (l.ts < $2 OR $2 IS NULL)', p_table)
	INTO values_of, old USING p_tenant, p_before;
	IF p_dry OR values_of = 0 THEN
		RETURN;
	END IF;
	-- The row keeps the commitments that its text contains. Without the salt, no value can be recovered from them.
	EXECUTE format('UPDATE acp.%I l SET actor_id = NULL, error_message_redacted = NULL, ip_address = NULL, idempotency_key = NULL, salt = NULL,
			erased = jsonb_strip_nulls(jsonb_build_object(
				''actor_id'', acp.audit_commitment(l.salt, ''actor_id'', l.actor_id),
				''error_message_redacted'', acp.audit_commitment(l.salt, ''error_message_redacted'', l.error_message_redacted),
				''ip_address'', acp.audit_commitment(l.salt, ''ip_address'', acp.audit_address(l.ip_address)),
				''idempotency_key'', acp.audit_commitment(l.salt, ''idempotency_key'', l.idempotency_key)))
		WHERE l.chain_form = 2 AND l.salt IS NOT NULL AND (l.tenant_id = $1 OR $1 IS NULL) AND (l.ts < $2 OR $2 IS NULL)', p_table)
	USING p_tenant, p_before;
	GET DIAGNOSTICS values_of = ROW_COUNT;
	PERFORM acp.audit_append(jsonb_build_object('event_id', gen_random_uuid(), 'request_id', gen_random_uuid(),
		'tenant_id', '00000000-0000-0000-0000-000000000000', 'integration', p_integration, 'action', 'audit.erase', 'actor_type', 'system',
		'status', 'success', 'latency_ms', 0, 'dry_run', false, 'billable', false, 'billing_quantity', 1,
		'result_meta', jsonb_build_object('resource_type', p_table, 'tenant_id', p_tenant, 'before', acp.audit_instant(p_before), 'count', values_of)));
END
$$;
COMMENT ON FUNCTION acp.audit_erase(text, uuid, timestamptz, text, boolean) IS
	'Removes the personal values from the rows of a table, of one tenant or (null) of all, before a time or (null) of all time. The rows keep the commitments, so that their chains still verify; an audit row records the erasure. p_dry: only counts. values_of: number of rows that had values. old: number of rows of the old form (chain_form is null) that keep their values, because the hashed text contains them.';

CREATE OR REPLACE FUNCTION acp.audit_erase_waiting(p_tenant uuid, p_before timestamptz) RETURNS SETOF uuid
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT o.event_id FROM acp.audit_outbox o
	WHERE (o.tenant_id = p_tenant OR p_tenant IS NULL) AND (o.ts < p_before OR p_before IS NULL)
	  AND (o.event ?| '{error_message_redacted,ip_address,idempotency_key}'::text[] OR o.event->'actor' ? 'id')
$$;
COMMENT ON FUNCTION acp.audit_erase_waiting(uuid, timestamptz) IS 'Lists the rows with personal values that wait for a remote hub, of one tenant or (null) of all, before a time or (null) of all time.';

CREATE OR REPLACE FUNCTION acp.audit_erase_outbox(p_tenant uuid, p_before timestamptz) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	changed bigint;
BEGIN
	UPDATE acp.audit_outbox o SET event = o.event - '{error_message_redacted,ip_address,idempotency_key}'::text[] || jsonb_build_object(
		'actor', coalesce(nullif(o.event->'actor', 'null'), '{}') - 'id')
	WHERE o.event_id IN (SELECT acp.audit_erase_waiting(p_tenant, p_before));
	GET DIAGNOSTICS changed = ROW_COUNT;
	RETURN changed;
END
$$;
COMMENT ON FUNCTION acp.audit_erase_outbox(uuid, timestamptz) IS 'Removes personal values, as acp.audit_erase() does, from rows that wait for a remote hub. Returns the number of rows.';

CREATE OR REPLACE FUNCTION acp.audit_erase_archives(p_tenant uuid, p_before timestamptz)
RETURNS TABLE (file text, rows bigint)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT a.file, sum(t.calls)::bigint
	FROM acp.audit_archives a JOIN acp.audit_archive_totals t ON t.month = a.month AND t.part = a.part
	WHERE (t.tenant_id = p_tenant OR p_tenant IS NULL) AND (p_before IS NULL OR t.day::timestamp AT TIME ZONE 'UTC' < p_before)
	GROUP BY a.month, a.part ORDER BY a.month, a.part
$$;
COMMENT ON FUNCTION acp.audit_erase_archives(uuid, timestamptz) IS 'Lists archives whose files hold rows of a tenant, or rows of days that began before a time. The files are outside this database, and their rows may have been erased before they were archived.';
