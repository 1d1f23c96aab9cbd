-- breaking: no
-- 0003 seals: signed ends of the audit chains, and the months that left the table for a file.

SET LOCAL ROLE acp_owner;

CREATE TABLE acp.audit_seals (
	seal_id   bigint PRIMARY KEY CHECK (seal_id > 0),
	at        timestamptz NOT NULL,
	rows      bigint NOT NULL,
	chain_ids integer[] NOT NULL,
	seqs      bigint[] NOT NULL,
	heads     bytea[] NOT NULL,
	previous  bytea NOT NULL CHECK (length(previous) = 32),
	hash      bytea NOT NULL CHECK (length(hash) = 32),
	signature bytea NOT NULL CHECK (length(signature) = 32),
	CHECK (cardinality(seqs) = cardinality(chain_ids) AND cardinality(heads) = cardinality(chain_ids))
);
COMMENT ON TABLE acp.audit_seals IS
	'Where all audit chains ended at a moment, signed with a key that the database does not have: what was written before cannot be rewritten unnoticed, not even by a superuser.';
COMMENT ON COLUMN acp.audit_seals.seal_id IS 'Number, from 1 without a gap.';
COMMENT ON COLUMN acp.audit_seals.at IS 'When.';
COMMENT ON COLUMN acp.audit_seals.rows IS 'Audit rows sealed so far: the sum of seqs.';
COMMENT ON COLUMN acp.audit_seals.chain_ids IS 'Every chain that had a row.';
COMMENT ON COLUMN acp.audit_seals.seqs IS 'Number of the last row of each.';
COMMENT ON COLUMN acp.audit_seals.heads IS 'chain_hash of the last row of each.';
COMMENT ON COLUMN acp.audit_seals.previous IS 'hash of the seal before; 32 zero bytes for the first.';
COMMENT ON COLUMN acp.audit_seals.hash IS 'SHA-256 of the seal''s text: number, time, previous, rows, ends of the chains.';
COMMENT ON COLUMN acp.audit_seals.signature IS 'HMAC-SHA-256 of that text with a key made from key_pepper.';

CREATE TABLE acp.audit_archives (
	month         date NOT NULL CHECK (extract(day FROM month) = 1),
	part          smallint NOT NULL CHECK (part > 0),
	at            timestamptz NOT NULL,
	rows          bigint NOT NULL,
	file          text NOT NULL,
	bytes         bigint NOT NULL,
	sha256        bytea NOT NULL CHECK (length(sha256) = 32),
	runs_sha256   bytea NOT NULL CHECK (length(runs_sha256) = 32),
	totals_sha256 bytea NOT NULL CHECK (length(totals_sha256) = 32),
	signature     bytea NOT NULL CHECK (length(signature) = 32),
	PRIMARY KEY (month, part)
);
COMMENT ON TABLE acp.audit_archives IS 'Months whose audit rows left the table for a file (acpctl audit archive).';
COMMENT ON COLUMN acp.audit_archives.month IS 'First day of the UTC month.';
COMMENT ON COLUMN acp.audit_archives.part IS '1, or more for rows that came after the month had been archived.';
COMMENT ON COLUMN acp.audit_archives.at IS 'When.';
COMMENT ON COLUMN acp.audit_archives.rows IS 'Rows in the file.';
COMMENT ON COLUMN acp.audit_archives.file IS 'Its name, without the folder.';
COMMENT ON COLUMN acp.audit_archives.bytes IS 'Its length.';
COMMENT ON COLUMN acp.audit_archives.sha256 IS 'SHA-256 of its bytes.';
COMMENT ON COLUMN acp.audit_archives.runs_sha256 IS 'SHA-256 of its lines in acp.audit_archive_runs.';
COMMENT ON COLUMN acp.audit_archives.totals_sha256 IS 'SHA-256 of its lines in acp.audit_archive_totals.';
COMMENT ON COLUMN acp.audit_archives.signature IS 'HMAC-SHA-256 of all of this with a key made from key_pepper.';

CREATE TABLE acp.audit_archive_runs (
	chain_id  integer NOT NULL,
	first_seq bigint NOT NULL,
	last_seq  bigint NOT NULL CHECK (last_seq >= first_seq),
	last_hash bytea NOT NULL CHECK (length(last_hash) = 32),
	month     date NOT NULL,
	part      smallint NOT NULL,
	PRIMARY KEY (chain_id, first_seq)
);
CREATE INDEX audit_archive_runs_archive ON acp.audit_archive_runs (month, part);
COMMENT ON TABLE acp.audit_archive_runs IS
	'Which stretches of which chains are in an archive: where they stood, the chain goes on from last_hash.';
COMMENT ON COLUMN acp.audit_archive_runs.chain_id IS 'The chain.';
COMMENT ON COLUMN acp.audit_archive_runs.first_seq IS 'First row of the stretch.';
COMMENT ON COLUMN acp.audit_archive_runs.last_seq IS 'Last row of the stretch.';
COMMENT ON COLUMN acp.audit_archive_runs.last_hash IS 'chain_hash of the last row.';
COMMENT ON COLUMN acp.audit_archive_runs.month IS 'The archive: month.';
COMMENT ON COLUMN acp.audit_archive_runs.part IS 'The archive: part.';

CREATE TABLE acp.audit_archive_totals (
	tenant_id    uuid NOT NULL,
	month        date NOT NULL,
	part         smallint NOT NULL,
	day          date NOT NULL,
	action       text NOT NULL,
	status       text NOT NULL,
	billable     boolean NOT NULL,
	tier         text NOT NULL,
	billing_unit text NOT NULL,
	counted      boolean NOT NULL,
	calls        bigint NOT NULL,
	quantity     bigint NOT NULL,
	PRIMARY KEY (tenant_id, month, part, day, action, status, billable, tier, billing_unit, counted)
);
COMMENT ON TABLE acp.audit_archive_totals IS
	'What the rows of archived months add up to, so that counters and quotas can still be proved: the same sums as acp.usage_counters.';
COMMENT ON COLUMN acp.audit_archive_totals.tenant_id IS 'The tenant; the nil UUID for unknown callers.';
COMMENT ON COLUMN acp.audit_archive_totals.month IS 'The archive: month.';
COMMENT ON COLUMN acp.audit_archive_totals.part IS 'The archive: part.';
COMMENT ON COLUMN acp.audit_archive_totals.day IS 'UTC day of ts.';
COMMENT ON COLUMN acp.audit_archive_totals.action IS 'As in the audit row; empty where that is null.';
COMMENT ON COLUMN acp.audit_archive_totals.status IS 'As in the audit row.';
COMMENT ON COLUMN acp.audit_archive_totals.billable IS 'As in the audit row.';
COMMENT ON COLUMN acp.audit_archive_totals.tier IS 'As in the audit row; empty where that is null.';
COMMENT ON COLUMN acp.audit_archive_totals.billing_unit IS 'As in the audit row; call where that is null.';
COMMENT ON COLUMN acp.audit_archive_totals.counted IS 'Such rows are counted in acp.usage_counters: they have an action that is known, and a tier.';
COMMENT ON COLUMN acp.audit_archive_totals.calls IS 'Number of rows.';
COMMENT ON COLUMN acp.audit_archive_totals.quantity IS 'Sum of their billing_quantity.';

GRANT SELECT, INSERT ON acp.audit_seals TO acp_app;
GRANT SELECT ON acp.audit_archives, acp.audit_archive_runs, acp.audit_archive_totals TO acp_app;
