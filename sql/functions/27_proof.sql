-- Proof of the audit log: seals, archives, and the comparison of counters and quotas with the rows.

-- Seals -------------------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION acp.audit_instant(p_ts timestamptz) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN to_char(p_ts AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'); END $$;
COMMENT ON FUNCTION acp.audit_instant(timestamptz) IS 'Formats a time for signed texts.';

CREATE OR REPLACE FUNCTION acp.audit_seal_heads(p_seal acp.audit_seals) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(string_agg(format('%s %s %s', chain_id, seq, encode(head, 'hex')), chr(10) ORDER BY n), '')
	FROM unnest(p_seal.chain_ids, p_seal.seqs, p_seal.heads) WITH ORDINALITY h(chain_id, seq, head, n)
$$;
COMMENT ON FUNCTION acp.audit_seal_heads(acp.audit_seals) IS 'Formats the chain ends of a seal, one per line: chain, seq, hash in hex.';

CREATE OR REPLACE FUNCTION acp.audit_seal_next(p_age interval, OUT seal_id bigint, OUT at text, OUT previous text, OUT heads text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	moment CONSTANT timestamptz := acp.now();
	latest acp.audit_seals;
BEGIN
	-- If another session is sealing, wait for it (p_age null) or leave the seal to it.
	IF p_age IS NULL THEN
		PERFORM pg_advisory_xact_lock(hashtext('acp.audit_seals'));
	ELSIF NOT pg_try_advisory_xact_lock(hashtext('acp.audit_seals')) THEN
		RETURN;
	END IF;
	SELECT * INTO latest FROM acp.audit_seals s ORDER BY s.seal_id DESC LIMIT 1;
	-- A clock that was set back must not stop sealing.
	IF p_age IS NOT NULL AND latest.at > moment - p_age AND latest.at <= moment THEN
		RETURN;
	END IF;
	-- One snapshot, no locks: the row of a chain shows its committed end.
	SELECT string_agg(format('%s %s %s', c.chain_id, c.seq, encode(c.head, 'hex')), chr(10) ORDER BY c.chain_id)
	INTO heads FROM acp.audit_chains c WHERE c.seq > 0;
	IF heads IS NOT NULL AND heads IS DISTINCT FROM acp.audit_seal_heads(latest) THEN
		seal_id := coalesce(latest.seal_id, 0) + 1;
		at := acp.audit_instant(moment);
		previous := encode(coalesce(latest.hash, decode(repeat('00', 32), 'hex')), 'hex');
	END IF;
END
$$;
COMMENT ON FUNCTION acp.audit_seal_next(interval) IS
	'Returns the content of the next seal. No other session can make a seal until the end of this transaction. seal_id null: there is nothing to seal, or the last seal is younger than p_age, or (p_age not null) another session is making one.';

CREATE OR REPLACE FUNCTION acp.audit_seal_add(p_seal bigint, p_at timestamptz, p_previous bytea, p_heads text, p_hash bytea,
	p_signature bytea) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	total bigint;
BEGIN
	INSERT INTO acp.audit_seals (seal_id, at, rows, chain_ids, seqs, heads, previous, hash, signature)
	SELECT p_seal, p_at, sum(split_part(line, ' ', 2)::bigint), array_agg(split_part(line, ' ', 1)::integer ORDER BY n),
		array_agg(split_part(line, ' ', 2)::bigint ORDER BY n), array_agg(decode(split_part(line, ' ', 3), 'hex') ORDER BY n),
		p_previous, p_hash, p_signature
	FROM unnest(string_to_array(p_heads, chr(10))) WITH ORDINALITY h(line, n)
	RETURNING rows INTO total;
	RETURN total;
END
$$;
COMMENT ON FUNCTION acp.audit_seal_add(bigint, timestamptz, bytea, text, bytea, bytea) IS
	'Stores a seal that was made from acp.audit_seal_next() in the same transaction. Returns the number of rows sealed.';

-- Archives ----------------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION acp.audit_runs(p_from timestamptz, p_to timestamptz)
RETURNS TABLE (chain_id integer, first_seq bigint, last_seq bigint, last_hash bytea)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT e.chain_id, e.first_seq, e.chain_seq, e.chain_hash FROM (
		SELECT m.chain_id, m.chain_seq, m.chain_hash, m.ends,
			max(m.chain_seq) FILTER (WHERE m.starts) OVER (PARTITION BY m.chain_id ORDER BY m.chain_seq) AS first_seq
		FROM (
			SELECT l.chain_id, l.chain_seq, l.chain_hash, lag(l.chain_seq) OVER w IS DISTINCT FROM l.chain_seq - 1 AS starts,
				lead(l.chain_seq) OVER w IS DISTINCT FROM l.chain_seq + 1 AS ends
			FROM acp.audit_logs l WHERE l.ts >= p_from AND l.ts < p_to
			WINDOW w AS (PARTITION BY l.chain_id ORDER BY l.chain_seq)) m) e
	WHERE e.ends
$$;
COMMENT ON FUNCTION acp.audit_runs(timestamptz, timestamptz) IS
	'Returns the ranges without gaps that the rows of [p_from, p_to) form in each chain.';

CREATE OR REPLACE FUNCTION acp.audit_archive_begin(p_month date, OUT part integer, OUT run_rows bigint, OUT total_rows bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	SELECT coalesce(max(a.part), 0) + 1 INTO part FROM acp.audit_archives a WHERE a.month = p_month;
	INSERT INTO acp.audit_archive_runs (chain_id, first_seq, last_seq, last_hash, month, part)
	SELECT r.chain_id, r.first_seq, r.last_seq, r.last_hash, p_month, audit_archive_begin.part
	FROM acp.audit_runs(acp.period_start(p_month), acp.period_end(p_month)) r;
	INSERT INTO acp.audit_archive_totals (tenant_id, month, part, day, action, status, billable, tier, billing_unit, counted, calls, quantity)
	SELECT l.tenant_id, p_month, audit_archive_begin.part, (l.ts AT TIME ZONE 'UTC')::date, coalesce(l.action, ''), l.status, l.billable,
		coalesce(l.tier, ''), coalesce(l.billing_unit, 'call'), l.pack IS NOT NULL AND l.action IS NOT NULL AND l.tier IS NOT NULL,
		count(*), sum(l.billing_quantity)
	FROM acp.audit_logs l WHERE l.ts >= acp.period_start(p_month) AND l.ts < acp.period_end(p_month)
	GROUP BY 1, 4, 5, 6, 7, 8, 9, 10;
	SELECT sum(r.last_seq - r.first_seq + 1) INTO run_rows FROM acp.audit_archive_runs r
	WHERE r.month = p_month AND r.part = audit_archive_begin.part;
	SELECT sum(t.calls) INTO total_rows FROM acp.audit_archive_totals t
	WHERE t.month = p_month AND t.part = audit_archive_begin.part;
END
$$;
COMMENT ON FUNCTION acp.audit_archive_begin(date) IS
	'Stores the ranges and totals of a month that is being archived. The caller compares the numbers of rows with its file.';

CREATE OR REPLACE FUNCTION acp.audit_archive_end(p_month date, p_rows bigint, p_keep integer) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	child CONSTANT text := 'audit_logs_' || to_char(p_month, 'YYYY_MM');
	kept  CONSTANT text := 'audit_kept_' || to_char(p_month, 'YYYY_MM') || coalesce('_' || p_keep, '');
	found_rows bigint;
BEGIN
	-- Calls must not wait: if the locks are not free at once, the caller tries again later.
	SET LOCAL lock_timeout = '200ms';
	EXECUTE format('LOCK TABLE acp.%I IN SHARE MODE', child);
	-- The table is append-only, so if it has as many rows as the file, they are the rows of the file.
	EXECUTE format('SELECT count(*) FROM acp.%I', child) INTO found_rows;
	IF found_rows <> p_rows THEN
		RETURN 'changed';
	END IF;
	EXECUTE format('ALTER TABLE acp.audit_logs DETACH PARTITION acp.%I', child);
	IF p_keep IS NULL THEN
		EXECUTE format('DROP TABLE acp.%I', child);
	ELSE
		EXECUTE format('ALTER TABLE acp.%I RENAME TO %I', child, kept);
		EXECUTE format('COMMENT ON TABLE acp.%I IS %L', kept, 'Audit rows of ' || to_char(p_month, 'YYYY-MM') || ' (UTC), archived and kept.');
	END IF;
	RETURN 'done';
EXCEPTION
	WHEN lock_not_available OR deadlock_detected THEN
		RETURN 'busy';
END
$$;
COMMENT ON FUNCTION acp.audit_archive_end(date, bigint, integer) IS
	'Removes an archived month from the log, in the transaction that stores its archive. Returns done; changed: the month no longer has p_rows rows; or busy: other transactions are using the log. p_keep: number of the archive whose detached table is kept; null: the table is dropped.';

-- Counters and quotas -----------------------------------------------------------------------------------------------

DROP FUNCTION IF EXISTS acp.usage_differences(date, integer, interval); -- its sums were bigint up to schema version 10
CREATE FUNCTION acp.usage_differences(p_period date, p_default_limit integer, p_grace interval)
RETURNS TABLE (tenant_id uuid, period date, what text, counted numeric, rows numeric)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH bounds AS (
		SELECT coalesce(p_period, '-infinity')::date AS first, coalesce(p_period + interval '1 month', 'infinity')::date AS past
	), said AS MATERIALIZED (
		-- The only pass over the log; archived months have sums.
		SELECT l.tenant_id, (l.ts AT TIME ZONE 'UTC')::date AS day, l.action, l.status, l.billable, l.tier,
			coalesce(l.billing_unit, 'call') AS unit, l.pack IS NOT NULL AND l.action IS NOT NULL AND l.tier IS NOT NULL AS counted,
			count(*) AS calls, sum(l.billing_quantity) AS quantity
		FROM acp.audit_logs l
		WHERE (p_period IS NULL OR (l.ts >= (SELECT acp.period_start(p_period)) AND l.ts < (SELECT acp.period_end(p_period))))
		GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
		UNION ALL
		SELECT a.tenant_id, a.day, a.action, a.status, a.billable, a.tier, a.billing_unit, a.counted, a.calls, a.quantity
		FROM acp.audit_archive_totals a WHERE p_period IS NULL OR a.month = p_period
	), counters AS (
		SELECT s.tenant_id, s.day, s.action, s.status, s.billable, s.tier, s.unit, sum(s.counter_calls)::bigint AS counter_calls,
			sum(s.row_calls)::bigint AS row_calls, sum(s.counter_quantity) AS counter_quantity,
			sum(s.row_quantity) AS row_quantity
		FROM (
			SELECT x.tenant_id, x.day, x.action, x.status, x.billable, x.tier, x.unit, 0 AS counter_calls, x.calls AS row_calls,
				0 AS counter_quantity, x.quantity AS row_quantity
			FROM said x WHERE x.counted
			UNION ALL
			SELECT c.tenant_id, c.day, c.action, c.status, c.billable, c.tier, c.billing_unit, c.calls, 0, c.quantity, 0
			FROM acp.usage_counters c, bounds b WHERE c.day >= b.first AND c.day < b.past) s
		GROUP BY 1, 2, 3, 4, 5, 6, 7
	), months AS (
		SELECT m.tenant_id, m.period, sum(m.used)::bigint AS used, sum(m.row_used)::bigint AS row_used, sum(m.reserved)::bigint AS reserved,
			sum(m.places)::bigint AS places, sum(m.expired)::bigint AS expired
		FROM (
			SELECT x.tenant_id, date_trunc('month', x.day::timestamp)::date AS period, 0 AS used, x.calls AS row_used, 0 AS reserved, 0 AS places, 0 AS expired
			FROM said x WHERE x.billable AND x.tier = 'free'
			UNION ALL
			-- Settled calls of other kernels whose rows have not arrived yet.
			SELECT s.tenant_id, s.period, 0, 1, 0, 0, 0 FROM acp.usage_settled s
			UNION ALL
			SELECT q.tenant_id, q.period, q.used, 0, q.reserved, 0, 0 FROM acp.usage_quota q
			UNION ALL
			SELECT r.tenant_id, r.period, 0, 0, 0, 1, (r.expires_at <= acp.now() - p_grace)::integer FROM acp.usage_reservations r) m, bounds b
		WHERE m.period >= b.first AND m.period < b.past
		GROUP BY 1, 2
	), archives AS (
		SELECT a.month, a.part, a.rows, coalesce((SELECT sum(t.calls) FROM acp.audit_archive_totals t WHERE t.month = a.month AND t.part = a.part), 0) AS calls,
			coalesce((SELECT sum(r.last_seq - r.first_seq + 1) FROM acp.audit_archive_runs r WHERE r.month = a.month AND r.part = a.part), 0) AS linked
		FROM acp.audit_archives a, bounds b WHERE a.month >= b.first AND a.month < b.past
	)
	SELECT c.tenant_id, date_trunc('month', c.day::timestamp)::date,
		format('%s of %s, %s, %s, %s, tier %s, unit %s', w.what, c.day, c.action, c.status,
			CASE WHEN c.billable THEN 'billable' ELSE 'not billable' END, c.tier, c.unit), w.counted, w.rows
	FROM counters c, LATERAL (VALUES ('calls', c.counter_calls, c.row_calls), ('quantity', c.counter_quantity, c.row_quantity)) w(what, counted, rows)
	WHERE w.counted <> w.rows
	UNION ALL
	SELECT m.tenant_id, m.period, 'free calls used in usage_quota', m.used, m.row_used FROM months m WHERE m.used <> m.row_used
	UNION ALL
	SELECT m.tenant_id, m.period, 'places reserved in usage_quota', m.reserved, m.places FROM months m WHERE m.reserved <> m.places
	UNION ALL
	SELECT m.tenant_id, m.period, 'places held by calls that died', m.expired, 0 FROM months m WHERE m.expired > 0
	UNION ALL
	-- Skips tenants that may have had another limit in that month than today.
	SELECT m.tenant_id, m.period, 'free calls above the limit', m.used, coalesce(t.calls_limit, p_default_limit)
	FROM months m JOIN acp.tenants t ON t.tenant_id = m.tenant_id
	WHERE p_default_limit IS NOT NULL AND t.upgraded_at IS NULL AND m.used > coalesce(t.calls_limit, p_default_limit)
	  AND (t.calls_limit IS NULL OR t.updated_at = t.onboarded_at OR t.updated_at < acp.period_start(m.period))
	UNION ALL
	SELECT NULL, a.month, format('rows in %s of the archive, part %s', w.what, a.part), a.rows, w.found
	FROM archives a, LATERAL (VALUES ('the totals', a.calls), ('the ranges', a.linked)) w(what, found) WHERE w.found <> a.rows
$$;
COMMENT ON FUNCTION acp.usage_differences(date, integer, interval) IS
	'Lists differences between the audit rows and the counters, quotas, reservations and archives, of one month or (null) of all. p_default_limit: free calls of a tenant without its own limit; null: limits are not compared. p_grace: time for which a reservation may remain after its expiry. No rows: everything matches.';

GRANT EXECUTE ON FUNCTION acp.audit_instant(timestamptz), acp.audit_seal_heads(acp.audit_seals), acp.audit_seal_next(interval),
	acp.audit_seal_add(bigint, timestamptz, bytea, text, bytea, bytea), acp.audit_runs(timestamptz, timestamptz),
	acp.usage_differences(date, integer, interval) TO acp_app;
