-- The change feed for key caches: each change of a key, tenant or policy gets a number when it commits.
--
-- The number is the time in microseconds, or the last number plus one if the clock is behind it. After lost commits a new
-- change must not reuse a number: a cache that has seen that number would miss the change.

CREATE OR REPLACE FUNCTION acp.note_change() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	tenant uuid := coalesce(to_jsonb(NEW), to_jsonb(OLD))->>'tenant_id';
	number bigint;
BEGIN
	-- The trigger is deferred to the commit. This row is the last lock of every transaction, so it cannot cause a deadlock.
	UPDATE acp.change_clock SET version = greatest(version + 1, floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
	RETURNING version INTO number;
	INSERT INTO acp.changes (version, tenant_id, at) VALUES (number, tenant, now());
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION acp.note_change() IS 'Trigger: numbers a change of a key, tenant or policy at the end of its transaction.';

-- Only where they are missing: making a trigger stops everyone who uses the table.
DO $triggers$
DECLARE
	w record;
BEGIN
	FOR w IN SELECT * FROM (VALUES ('key_change', 'acp.api_keys', 'UPDATE OR DELETE'),
		('tenant_change', 'acp.tenants', 'UPDATE OF tier, payment_method_status, status, calls_limit'),
		('past_due_change', 'acp.tenants', 'UPDATE OF past_due_since, past_due_until'),
		('policy_change', 'acp.policies', 'INSERT OR UPDATE OR DELETE')) v(name, watched, events)
	LOOP
		IF NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = w.watched::regclass AND t.tgname = w.name) THEN
			EXECUTE format('CREATE CONSTRAINT TRIGGER %I AFTER %s ON %s DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION acp.note_change()',
				w.name, w.events, w.watched);
		END IF;
	END LOOP;
END
$triggers$;

CREATE OR REPLACE FUNCTION acp.change_feed(p_since bigint, p_clock boolean, OUT version bigint, OUT changed uuid[], OUT at timestamptz)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	-- A promoted or restored server may lack changes of the old one, including new keys and tenants. It has another
	-- start time, so its numbers differ: no cache survives a failover.
	history CONSTANT bigint := hashint8extended((extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint, 0)
		& x'3fffffffffffffff'::bigint;
	last    bigint;
BEGIN
	IF p_clock THEN
		at := acp.now();
	END IF;
	SELECT c.version INTO last FROM acp.change_clock c;
	version := history + last;
	IF version = p_since THEN
		RETURN;
	END IF;
	-- The number p_since is missing if it is older than the kept changes or belongs to another history.
	IF EXISTS (SELECT FROM acp.changes c WHERE c.version = p_since - history) THEN
		SELECT array_agg(coalesce(c.tenant_id, '00000000-0000-0000-0000-000000000000'))
		INTO changed FROM acp.changes c WHERE c.version > p_since - history AND c.version <= last;
	END IF;
	IF changed IS NULL OR cardinality(changed) > 1000 THEN
		changed := ARRAY['00000000-0000-0000-0000-000000000000'::uuid];
	END IF;
END
$$;
COMMENT ON FUNCTION acp.change_feed(bigint, boolean) IS
	'Returns what a cache must know: the number of the last change, the tenants of all changes after p_since (the nil UUID: all tenants; null: none) and, with p_clock, the clock.';

CREATE OR REPLACE FUNCTION acp.news(p_since bigint, p_clock boolean, OUT version bigint, OUT changed uuid[], OUT at timestamptz)
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$ SELECT f.version, f.changed, f.at FROM acp.change_feed(p_since, p_clock) f $$;
COMMENT ON FUNCTION acp.news(bigint, boolean) IS 'The old name of acp.change_feed().';

GRANT EXECUTE ON FUNCTION acp.note_change(), acp.change_feed(bigint, boolean), acp.news(bigint, boolean) TO acp_app;
