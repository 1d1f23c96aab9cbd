-- breaking: yes
-- 0006 pending: rows are counted in passing and added up about once a second; a chain may belong to one process.
--
-- Breaking: a program that knows only 0005 would write usage_counters, which is a view now.

SET LOCAL ROLE acp_owner;

ALTER TABLE acp.usage_counters RENAME TO usage_counted;
COMMENT ON TABLE acp.usage_counted IS 'The part of acp.usage_counters that is added up, by day.';

CREATE TABLE acp.usage_pending (
	day          date NOT NULL,
	action       text NOT NULL,
	status       text NOT NULL,
	billable     boolean NOT NULL,
	tier         text NOT NULL,
	billing_unit text NOT NULL,
	tenants      uuid[] NOT NULL,
	quantities   bigint[] NOT NULL
) WITH (autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE acp.usage_pending IS
	'The part of acp.usage_counters that is not added up yet (acp.usage_roll_up, about once a second): what each statement that writes audit rows counted, in its transaction.';
COMMENT ON COLUMN acp.usage_pending.day IS 'As in acp.usage_counters.';
COMMENT ON COLUMN acp.usage_pending.action IS 'As in acp.usage_counters.';
COMMENT ON COLUMN acp.usage_pending.status IS 'As in acp.usage_counters.';
COMMENT ON COLUMN acp.usage_pending.billable IS 'As in acp.usage_counters.';
COMMENT ON COLUMN acp.usage_pending.tier IS 'As in acp.usage_counters.';
COMMENT ON COLUMN acp.usage_pending.billing_unit IS 'As in acp.usage_counters.';
COMMENT ON COLUMN acp.usage_pending.tenants IS 'The tenant of each row.';
COMMENT ON COLUMN acp.usage_pending.quantities IS 'The billing_quantity of each row.';

CREATE VIEW acp.usage_counters AS
	SELECT c.tenant_id, c.day, c.action, c.status, c.billable, c.tier, c.billing_unit, c.calls, c.quantity FROM acp.usage_counted c
	UNION ALL
	SELECT t.tenant_id, p.day, p.action, p.status, p.billable, p.tier, p.billing_unit, 1, t.quantity
	FROM acp.usage_pending p, unnest(p.tenants, p.quantities) t(tenant_id, quantity);
COMMENT ON VIEW acp.usage_counters IS
	'How many audit rows of known actions a tenant has, by day, in one row or in several: counted in the transaction that writes the row, so their sum equals the rows.';

REVOKE INSERT, UPDATE ON acp.usage_counted FROM acp_app;
GRANT SELECT ON acp.usage_counters, acp.usage_pending TO acp_app;

ALTER TABLE acp.audit_chains ADD COLUMN owner uuid, ADD COLUMN owned_until timestamptz;
COMMENT ON COLUMN acp.audit_chains.owner IS 'The process whose rows it takes, and nobody else''s; null: those of any transaction.';
COMMENT ON COLUMN acp.audit_chains.owned_until IS 'After this another process may have it. By the server''s clock.';
