-- The one clock, the months, the partitions, and how a function refuses.
--
-- What every call runs is PL/pgSQL even where one expression would do: it keeps its plan for the session, while an SQL
-- function with a pinned search_path is planned again at each call (measured: 0.13 ms against 0.03 ms for acp.now()).

CREATE OR REPLACE FUNCTION acp.now() RETURNS timestamptz
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	settings text[];
BEGIN
	-- Read from the catalog, not from the session: a shifted clock must reach connections that are already open, and
	-- a session must not be able to shift its own.
	SELECT s.setconfig INTO settings FROM pg_db_role_setting s
	WHERE s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) AND s.setrole = 0;
	IF settings IS NULL THEN
		RETURN now();
	END IF;
	RETURN now() + coalesce(
		(SELECT substr(setting, 18)::interval FROM unnest(settings) AS setting WHERE setting LIKE 'acp.clock\_offset=%'),
		interval '0');
END
$$;
COMMENT ON FUNCTION acp.now() IS
	'Start of the transaction by the program''s clock. Shift it with ALTER DATABASE … SET acp.clock_offset = ''40 days''; it takes effect at once in every session.';

CREATE OR REPLACE FUNCTION acp.period(p_ts timestamptz) RETURNS date
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN date_trunc('month', p_ts AT TIME ZONE 'UTC')::date; END $$;
COMMENT ON FUNCTION acp.period(timestamptz) IS 'The billing period of a moment: first day of its UTC month.';

CREATE OR REPLACE FUNCTION acp.day(p_ts timestamptz) RETURNS date
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN (p_ts AT TIME ZONE 'UTC')::date; END $$;
COMMENT ON FUNCTION acp.day(timestamptz) IS 'UTC day of a moment.';

-- Small functions are in PL/pgSQL: one in SQL with a pinned search_path is parsed and planned at every call.

CREATE OR REPLACE FUNCTION acp.period_start(p_period date) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN p_period::timestamp AT TIME ZONE 'UTC'; END $$;
COMMENT ON FUNCTION acp.period_start(date) IS 'First instant of a period.';

CREATE OR REPLACE FUNCTION acp.period_end(p_period date) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN (p_period + interval '1 month') AT TIME ZONE 'UTC'; END $$;
COMMENT ON FUNCTION acp.period_end(date) IS 'First instant after a period: periods are half-open.';

CREATE OR REPLACE FUNCTION acp.rfc3339(p_ts timestamptz) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN to_char(p_ts AT TIME ZONE 'UTC',
		CASE WHEN date_trunc('second', p_ts) = p_ts THEN 'YYYY-MM-DD"T"HH24:MI:SS"Z"' ELSE 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"' END);
END
$$;
COMMENT ON FUNCTION acp.rfc3339(timestamptz) IS 'A moment as replies show it: RFC 3339 in UTC, milliseconds only where there are some.';

-- SQLSTATEs of this schema: ACP01 a refusal of acp.fail(), for the caller; ACP02 a tenant is near its limit; ACP03 a chain ends elsewhere.
CREATE OR REPLACE FUNCTION acp.fail(p_code text, p_message text, p_field text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION USING ERRCODE = 'ACP01', MESSAGE = p_message, HINT = p_code, DETAIL = coalesce(p_field, '');
END
$$;
COMMENT ON FUNCTION acp.fail(text, text, text) IS
	'Refuses the call: code of the reply (as in contract section 2), sentence for the caller, JSON pointer of the member at fault. Undoes the transaction.';

CREATE OR REPLACE FUNCTION acp.report(p_result_meta jsonb, p_quantity bigint DEFAULT NULL) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM set_config('acp.result_meta', coalesce(p_result_meta::text, ''), true),
	        set_config('acp.quantity', coalesce(p_quantity::text, ''), true);
END
$$;
COMMENT ON FUNCTION acp.report(jsonb, bigint) IS
	'Called by a handler function: what goes into result_meta and billing_quantity of the audit row of this transaction.';

CREATE OR REPLACE FUNCTION acp.ensure_partitions(p_from timestamptz, p_months integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET datestyle = 'ISO'
AS $$
DECLARE
	month date := acp.period(p_from);
	made  integer := 0;
	late  text;
	child text;
BEGIN
	FOR i IN 0 .. least(coalesce(p_months, 0), 120) LOOP
		child := 'audit_logs_' || to_char(month, 'YYYY_MM');
		-- A month that was archived gets a partition again only for a row that came late: it must not be lost.
		IF to_regclass('acp.' || child) IS NULL AND (i = 0 OR NOT EXISTS (SELECT FROM acp.audit_archives a WHERE a.month = to_date(right(child, 7), 'YYYY_MM'))) THEN
			-- One creator at a time; ATTACH takes a weaker lock on the log than CREATE … PARTITION OF, so calls go on.
			PERFORM pg_advisory_xact_lock(hashtext('acp.ensure_partitions'));
			-- to_regclass() may remember what was before the wait.
			IF NOT EXISTS (SELECT FROM pg_class WHERE relname = child AND relnamespace = 'acp'::regnamespace) THEN
				EXECUTE format('CREATE TABLE acp.%I (LIKE acp.audit_logs INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', child);
				late := CASE WHEN EXISTS (SELECT FROM acp.audit_archives a WHERE a.month = to_date(right(child, 7), 'YYYY_MM'))
					THEN ' that came after the month had been archived' ELSE '' END;
				EXECUTE format('COMMENT ON TABLE acp.%I IS %L', child, 'Audit rows of ' || to_char(month, 'YYYY-MM') || ' (UTC)' || late || '.');
				EXECUTE format('ALTER TABLE acp.audit_logs ATTACH PARTITION acp.%I FOR VALUES FROM (%L) TO (%L)',
					child, acp.period_start(month), acp.period_end(month));
				made := made + 1;
			END IF;
		END IF;
		month := (month + interval '1 month')::date;
	END LOOP;
	RETURN made;
END
$$;
COMMENT ON FUNCTION acp.ensure_partitions(timestamptz, integer) IS
	'Makes the audit partitions of the month of a moment and of so many months after it, where missing; an archived month gets one only as the first. Returns how many were made.';

GRANT EXECUTE ON FUNCTION acp.now(), acp.period(timestamptz), acp.day(timestamptz), acp.period_start(date), acp.period_end(date),
	acp.rfc3339(timestamptz), acp.fail(text, text, text), acp.report(jsonb, bigint), acp.ensure_partitions(timestamptz, integer) TO acp_app;
