-- The local journal: audit rows kept on disk while this database was unavailable.

CREATE OR REPLACE FUNCTION acp.journal_no_room(e acp.audit_logs) RETURNS acp.audit_logs
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	e.billable := false;
	e.result_meta := coalesce(nullif(e.result_meta, 'null'), '{}') || '{"usage_check": "failed_open_over_limit"}';
	RETURN e;
END
$$;
COMMENT ON FUNCTION acp.journal_no_room(acp.audit_logs) IS
	'Marks the row of a call as not billable: the call ran without the usage check, and the allowance was already used up.';

CREATE OR REPLACE FUNCTION acp.journal_replay(p_events jsonb, p_default_limit integer, p_warn_percent integer DEFAULT 90) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rows      acp.audit_logs[];
	forwarded boolean[];
	unless    uuid[];
	stored    boolean[];
	uncounted bigint := 0;
	e         acp.audit_logs;
	i         integer;
BEGIN
	-- All transactions that lock several quota rows lock them in this order: by tenant, then month.
	SELECT array_agg(r.row ORDER BY (r.row).tenant_id, (r.row).ts, r.ordinality), array_agg(r.forward ORDER BY (r.row).tenant_id, (r.row).ts, r.ordinality),
		array_agg(r.unless ORDER BY (r.row).tenant_id, (r.row).ts, r.ordinality)
	INTO rows, forwarded, unless
	FROM (SELECT jsonb_populate_record(NULL::acp.audit_logs, v.value) AS row, v.value->'forward' = 'true' AS forward,
		(v.value->>'unless_onboarded')::uuid AS unless, v.ordinality
	      FROM jsonb_array_elements(p_events) WITH ORDINALITY v) r;
	IF rows IS NULL THEN
		RETURN '{"stored": 0, "duplicates": 0, "uncounted": 0}';
	END IF;
	stored := acp.audit_stored(rows);
	FOR i IN 1 .. cardinality(rows) LOOP
		CONTINUE WHEN stored[i];
		e := rows[i];
		IF unless[i] IS NOT NULL AND NOT acp.onboard_give_up(unless[i]) THEN
			stored[i] := true; -- the onboarding succeeded after all
			CONTINUE;
		END IF;
		IF e.billable AND e.status = 'success' AND e.tier = 'free' THEN
			IF acp.usage_count(e.tenant_id, e.event_id, e.ts, p_default_limit, p_warn_percent) IS NULL THEN
				rows[i] := acp.journal_no_room(e);
				uncounted := uncounted + 1;
			END IF;
		ELSIF e.tier = 'free' THEN
			PERFORM acp.usage_release(e.tenant_id, e.event_id, e.ts);
		END IF;
	END LOOP;
	PERFORM acp.audit_append_rows(acp.rows_where(rows, ARRAY(SELECT NOT s FROM unnest(stored) WITH ORDINALITY u(s, n) ORDER BY n)));
	INSERT INTO acp.audit_outbox (tenant_id, ts, event_id, event)
	SELECT r.tenant_id, r.ts, r.event_id, acp.audit_event_json(r)
	FROM unnest(acp.rows_where(rows, ARRAY(SELECT forwarded[n] AND NOT s FROM unnest(stored) WITH ORDINALITY u(s, n) ORDER BY n))) r;
	RETURN jsonb_build_object('stored', (SELECT count(*) FILTER (WHERE NOT s) FROM unnest(stored) s),
		'duplicates', (SELECT count(*) FILTER (WHERE s) FROM unnest(stored) s), 'uncounted', uncounted);
END
$$;
COMMENT ON FUNCTION acp.journal_replay(jsonb, integer, integer) IS
	'Stores events of the local journal in one transaction. p_events: an array of objects with ts, as for acp.audit_append(). Each event is stored once, however often it is replayed. Counts free calls and ends their reservations. If the allowance is used up, the row is stored as not billable (uncounted), so that no tenant gets more than its allowance. p_default_limit null: the allowance is not enforced.';

GRANT EXECUTE ON FUNCTION acp.journal_no_room(acp.audit_logs), acp.journal_replay(jsonb, integer, integer) TO acp_app;
