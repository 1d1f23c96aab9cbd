-- The clock, months, partitions, and how a function refuses a call.
--
-- Functions on the path of every call are written in PL/pgSQL even where one expression would do. PL/pgSQL keeps its plan
-- for the session; PostgreSQL plans an SQL function with a pinned search_path again at each call (measured for
-- acp.now(): 0.03 ms against 0.13 ms).

CREATE OR REPLACE FUNCTION acp.now() RETURNS timestamptz
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	settings text[];
BEGIN
	-- Read the offset from the catalog, not from the session: a shifted clock must reach connections that are already
	-- open, and a session must not be able to shift its own clock.
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
	'Start of the transaction by the clock of the program. Shift it with ALTER DATABASE … SET acp.clock_offset = ''40 days''; it takes effect at once in every session.';

CREATE OR REPLACE FUNCTION acp.period(p_ts timestamptz) RETURNS date
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN date_trunc('month', p_ts AT TIME ZONE 'UTC')::date; END $$;
COMMENT ON FUNCTION acp.period(timestamptz) IS 'The billing period of a moment: first day of its UTC month.';

CREATE OR REPLACE FUNCTION acp.day(p_ts timestamptz) RETURNS date
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN (p_ts AT TIME ZONE 'UTC')::date; END $$;
COMMENT ON FUNCTION acp.day(timestamptz) IS 'The UTC day of a moment.';

-- These small functions are in PL/pgSQL too, for the reason above.

CREATE OR REPLACE FUNCTION acp.period_start(p_period date) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN p_period::timestamp AT TIME ZONE 'UTC'; END $$;
COMMENT ON FUNCTION acp.period_start(date) IS 'First instant of a period.';

CREATE OR REPLACE FUNCTION acp.period_end(p_period date) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN (p_period + interval '1 month') AT TIME ZONE 'UTC'; END $$;
COMMENT ON FUNCTION acp.period_end(date) IS 'First instant after a period. Periods are half-open.';

CREATE OR REPLACE FUNCTION acp.rfc3339(p_ts timestamptz) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN to_char(p_ts AT TIME ZONE 'UTC',
		CASE WHEN date_trunc('second', p_ts) = p_ts THEN 'YYYY-MM-DD"T"HH24:MI:SS"Z"' ELSE 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"' END);
END
$$;
COMMENT ON FUNCTION acp.rfc3339(timestamptz) IS 'Formats a moment for replies: RFC 3339 in UTC, with milliseconds only when they are not zero.';

CREATE OR REPLACE FUNCTION acp.instant(p_text text) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET datestyle = 'ISO'
AS $$
BEGIN
	RETURN p_text::timestamptz;
EXCEPTION WHEN data_exception THEN
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION acp.instant(text) IS
	'Reads a moment that someone else wrote. Null: PostgreSQL cannot represent it; RFC 3339 allows the year 0000 and offsets up to 23:59.';

-- SQLSTATEs of this schema: ACP01: a refusal by acp.fail(), shown to the caller; ACP02: a tenant is near its limit;
-- ACP03: the rows do not continue the chain; ACP04: a handler reported a quantity that its action does not allow;
-- ACP05: ends a trial run, which is rolled back.
CREATE OR REPLACE FUNCTION acp.fail(p_code text, p_message text, p_field text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION USING ERRCODE = 'ACP01', MESSAGE = p_message, HINT = p_code, DETAIL = coalesce(p_field, '');
END
$$;
COMMENT ON FUNCTION acp.fail(text, text, text) IS
	'Refuses the call and rolls the transaction back. Arguments: code of the reply (contract section 2), message for the caller, JSON pointer to the faulty member.';

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
	'Called by a handler function to set result_meta and billing_quantity in the audit row of this transaction.';

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
		-- An archived month gets a new partition only for a late row, which must not be lost.
		IF to_regclass('acp.' || child) IS NULL AND (i = 0 OR NOT EXISTS (SELECT FROM acp.audit_archives a WHERE a.month = to_date(right(child, 7), 'YYYY_MM'))) THEN
			-- Create one at a time. ATTACH takes a weaker lock on the log than CREATE … PARTITION OF, so calls continue.
			PERFORM pg_advisory_xact_lock(hashtext('acp.ensure_partitions'));
			-- to_regclass() may return a result cached before the wait.
			IF NOT EXISTS (SELECT FROM pg_class WHERE relname = child AND relnamespace = 'acp'::regnamespace) THEN
				EXECUTE format('CREATE TABLE acp.%I (LIKE acp.audit_logs INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', child);
				late := CASE WHEN EXISTS (SELECT FROM acp.audit_archives a WHERE a.month = to_date(right(child, 7), 'YYYY_MM'))
					THEN ' that arrived after the month was archived' ELSE '' END;
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
	'Creates the missing audit partitions for the month of p_from and for p_months months after it. An archived month gets a partition only if it is the month of p_from. Returns the number of partitions created.';

GRANT EXECUTE ON FUNCTION acp.now(), acp.period(timestamptz), acp.day(timestamptz), acp.period_start(date), acp.period_end(date),
	acp.rfc3339(timestamptz), acp.instant(text), acp.fail(text, text, text), acp.report(jsonb, bigint), acp.ensure_partitions(timestamptz, integer) TO acp_app;
