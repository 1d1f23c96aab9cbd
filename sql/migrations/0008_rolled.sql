-- breaking: no
-- 0008 rolled: what is pending is found by its place in a chain, past the dead rows of what is added up already.

SET LOCAL ROLE acp_owner;

-- A chain is written by one transaction at a time, in the order of its numbers: whoever adds up to a number misses none
-- that comes later. Chain 0 is for rows from before, and for those that come until the functions are renewed.
ALTER TABLE acp.usage_pending ADD COLUMN chain_id integer NOT NULL DEFAULT 0, ADD COLUMN chain_seq bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN acp.usage_pending.chain_id IS 'The chain that the rows stand in; 0: not known.';
COMMENT ON COLUMN acp.usage_pending.chain_seq IS 'The number of the last of them.';
CREATE INDEX usage_pending_chain ON acp.usage_pending (chain_id, chain_seq);

CREATE TABLE acp.usage_rolled (
	chain_id  integer PRIMARY KEY,
	chain_seq bigint NOT NULL
) WITH (fillfactor = 20);
COMMENT ON TABLE acp.usage_rolled IS 'Up to where acp.usage_roll_up() has added a chain''s rows up.';
COMMENT ON COLUMN acp.usage_rolled.chain_id IS 'The chain.';
COMMENT ON COLUMN acp.usage_rolled.chain_seq IS 'Rows with a higher number are pending still.';

CREATE VIEW acp.usage_pending_from AS
	SELECT c.chain_id, coalesce(r.chain_seq, -1) AS chain_seq
	FROM (SELECT a.chain_id FROM acp.audit_chains a UNION ALL SELECT 0) c LEFT JOIN acp.usage_rolled r ON r.chain_id = c.chain_id;
COMMENT ON VIEW acp.usage_pending_from IS 'For each chain, the number that all rows of acp.usage_pending are above.';

GRANT SELECT ON acp.usage_pending_from, acp.usage_rolled TO acp_app;
