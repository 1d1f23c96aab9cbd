-- breaking: yes
-- 0002 chains: every audit row is the next link of a hash chain, and a change of a key, tenant or policy has a number.
--
-- Breaking: a program that knows only 0001 would write rows without a link, which the table refuses.

SET LOCAL ROLE acp_owner;
SET LOCAL datestyle = 'ISO';
SET LOCAL extra_float_digits = 1;

-- Hash chains -----------------------------------------------------------------------------------------------------

CREATE TABLE acp.audit_chains (
	chain_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	seq      bigint NOT NULL DEFAULT 0,
	head     bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex') CHECK (length(head) = 32)
) WITH (fillfactor = 20);
COMMENT ON TABLE acp.audit_chains IS
	'Ends of the hash chains that audit rows form. A transaction that writes rows takes any chain that no other one holds, so no chain is waited for; there are as many as transactions ever ran at a time.';
COMMENT ON SEQUENCE acp.audit_chains_chain_id_seq IS 'Numbers of chains.';
COMMENT ON COLUMN acp.audit_chains.chain_id IS 'Identity.';
COMMENT ON COLUMN acp.audit_chains.seq IS 'Number of its last row; rows are numbered from 1 without a gap.';
COMMENT ON COLUMN acp.audit_chains.head IS 'chain_hash of its last row; 32 zero bytes before the first.';

ALTER TABLE acp.audit_logs ADD COLUMN chain_id integer, ADD COLUMN chain_seq bigint, ADD COLUMN chain_hash bytea;
COMMENT ON COLUMN acp.audit_logs.chain_id IS 'Chain that the row is a link of.';
COMMENT ON COLUMN acp.audit_logs.chain_seq IS 'Its place there, from 1.';
COMMENT ON COLUMN acp.audit_logs.chain_hash IS 'SHA-256 of the chain_hash before it (32 zero bytes for the first) and of the row''s text (acp.audit_texts).';

-- The rows that exist become one chain, in the order of their time. Their text is what acp.audit_texts() makes of them;
-- functions are made after migrations, so it stands here as well.
DO $chain$
DECLARE
	l    record;
	link acp.audit_chains;
BEGIN
	INSERT INTO acp.audit_chains DEFAULT VALUES RETURNING * INTO link;
	FOR l IN
		SELECT tenant_id, ts, event_id, ROW(event_id, request_id, ts AT TIME ZONE 'UTC', tenant_id, integration, pack, action,
			actor_type, actor_id, api_key_id, request_hash, status, error_code, error_message_redacted, result_meta, latency_ms,
			ip_address, idempotency_key, dry_run, policy_decision_id, trace_id, billable, billing_unit, billing_quantity,
			tier)::text AS line
		FROM acp.audit_logs ORDER BY audit_logs.ts, audit_logs.event_id
	LOOP
		link.seq := link.seq + 1;
		link.head := sha256(link.head || convert_to(l.line, 'UTF8'));
		UPDATE acp.audit_logs SET chain_id = link.chain_id, chain_seq = link.seq, chain_hash = link.head
		WHERE tenant_id = l.tenant_id AND ts = l.ts AND event_id = l.event_id;
	END LOOP;
	UPDATE acp.audit_chains SET seq = link.seq, head = link.head WHERE chain_id = link.chain_id;
END
$chain$;

ALTER TABLE acp.audit_logs ALTER COLUMN chain_id SET NOT NULL, ALTER COLUMN chain_seq SET NOT NULL,
	ALTER COLUMN chain_hash SET NOT NULL;

-- One door: rows are written by acp.audit_append_rows() alone, which runs as the owner. It holds them to the rules that
-- CHECK constraints held them to; those were read and planned anew for every statement, a quarter of what it costs.
REVOKE INSERT ON acp.audit_logs FROM acp_app;
DO $checks$
DECLARE
	c record;
BEGIN
	FOR c IN SELECT conname FROM pg_constraint WHERE conrelid = 'acp.audit_logs'::regclass AND contype = 'c' LOOP
		EXECUTE format('ALTER TABLE acp.audit_logs DROP CONSTRAINT %I', c.conname);
	END LOOP;
END
$checks$;

-- Changes that caches must hear of ----------------------------------------------------------------------------------

CREATE TABLE acp.change_clock (
	only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
	version  bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 20);
INSERT INTO acp.change_clock DEFAULT VALUES;
COMMENT ON TABLE acp.change_clock IS
	'Number of the last change of a key, tenant or policy. Whoever makes one holds the row until its commit, so numbers become visible in their order.';
COMMENT ON COLUMN acp.change_clock.only_row IS 'There is one row.';
COMMENT ON COLUMN acp.change_clock.version IS 'The number.';

CREATE TABLE acp.changes (
	version   bigint PRIMARY KEY,
	tenant_id uuid,
	at        timestamptz NOT NULL
);
COMMENT ON TABLE acp.changes IS 'Whose key, tenant or policy each change was about; kept for a day.';
COMMENT ON COLUMN acp.changes.version IS 'Number of the change.';
COMMENT ON COLUMN acp.changes.tenant_id IS 'Whose; null: everybody''s (a policy over all tenants).';
COMMENT ON COLUMN acp.changes.at IS 'When.';

GRANT SELECT ON acp.audit_chains TO acp_app;
GRANT SELECT, UPDATE ON acp.change_clock TO acp_app;
GRANT SELECT, INSERT, DELETE ON acp.changes TO acp_app;
