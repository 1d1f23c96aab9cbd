-- breaking: no
-- 0010 chain text: the text that a row's hash is made from has a form of our own, in which personal values are
-- commitments, so that they can be erased and the chain still verifies. Rows that exist keep the form they were written in.
--
-- Not breaking: a program of schema version 9 sends its rows column by column (acp.settle_batch) once the row that it
-- links itself is refused for its number of columns.

SET LOCAL ROLE acp_owner;

ALTER TABLE acp.audit_logs ADD COLUMN chain_form smallint, ADD COLUMN salt bytea, ADD COLUMN erased jsonb;
COMMENT ON COLUMN acp.audit_logs.chain_form IS 'Form of the text that chain_hash is made from: 2, lines of our own (docs/internals.md, "The chain''s text"); null, PostgreSQL''s literal of the row, as before schema version 10.';
COMMENT ON COLUMN acp.audit_logs.salt IS '16 random bytes, with which personal values enter the text of form 2; null where there is none, or none any more.';
COMMENT ON COLUMN acp.audit_logs.erased IS 'Personal values that were erased (acpctl audit erase): name of the column -> its commitment, in hex; null: none was.';

-- Months that were archived and kept: they are apart from the table.
DO $kept$
DECLARE
	t record;
BEGIN
	FOR t IN SELECT relname FROM pg_class WHERE relnamespace = 'acp'::regnamespace AND relkind = 'r' AND relname ~ '^audit_kept_' LOOP
		EXECUTE format('ALTER TABLE acp.%I ADD COLUMN chain_form smallint, ADD COLUMN salt bytea, ADD COLUMN erased jsonb', t.relname);
	END LOOP;
END
$kept$;

-- Calls go on until the functions are renewed, a moment after this: those that make a row of all columns make the new ones, too.
-- (A call that waits for this migration has its row already, without them: they are null, which is form 1.)
DO $functions$
DECLARE
	f record;
BEGIN
	FOR f IN SELECT p.oid, p.proname FROM pg_proc p WHERE p.pronamespace = 'acp'::regnamespace AND p.proname IN ('audit_append_rows', 'settle_batch') LOOP
		EXECUTE replace(replace(pg_get_functiondef(f.oid),
			'hashes[r.ordinality])::acp.audit_logs', 'hashes[r.ordinality], NULL, NULL, NULL)::acp.audit_logs'),
			'ROW(r.*, 0, 0, NULL)::acp.audit_logs', 'ROW(r.*, 0, 0, NULL, NULL, NULL, NULL)::acp.audit_logs');
	END LOOP;
END
$functions$;
