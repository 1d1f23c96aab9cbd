-- breaking: no
-- 0016 shares: which webhook deliveries are being sent, so that each tenant gets its share of the senders; and the end
-- of approvals and proposals; and how many bytes of results are kept for a tenant's idempotency keys.

SET LOCAL ROLE acp_owner;

CREATE TABLE acp.webhook_leases (
	tenant_id   uuid NOT NULL,
	delivery_id uuid NOT NULL,
	attempt     integer NOT NULL,
	lease_until timestamptz NOT NULL,
	PRIMARY KEY (tenant_id, delivery_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE acp.webhook_leases IS
	'Attempts that run now, one row a sender in use. It has no foreign key: who deletes a webhook gets no sender back before its attempt ends.';
COMMENT ON COLUMN acp.webhook_leases.tenant_id IS 'The tenant.';
COMMENT ON COLUMN acp.webhook_leases.delivery_id IS 'The delivery that is being sent.';
COMMENT ON COLUMN acp.webhook_leases.attempt IS 'Number of the attempt.';
COMMENT ON COLUMN acp.webhook_leases.lease_until IS 'After this the attempt counts as crashed.';

ALTER TABLE acp.webhooks ADD COLUMN paused_until timestamptz;
COMMENT ON COLUMN acp.webhooks.paused_until IS
	'Nothing is sent before this: the receiver did not answer in time, or asked to be left alone; null: no pause.';

CREATE INDEX webhook_deliveries_queue ON acp.webhook_deliveries (tenant_id, webhook_id, next_attempt_at) WHERE status = 'pending';
ALTER TABLE acp.webhook_deliveries SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

GRANT SELECT, INSERT, UPDATE, DELETE ON acp.webhook_leases TO acp_app;

CREATE INDEX approvals_expires_at ON acp.approvals (expires_at);
CREATE INDEX policy_proposals_decided_at ON acp.policy_proposals (decided_at) WHERE status IN ('rejected', 'published');
GRANT DELETE ON acp.approvals, acp.policy_proposals TO acp_app;

ALTER TABLE acp.idempotency ADD COLUMN large integer, ADD COLUMN quota bigint;
COMMENT ON COLUMN acp.idempotency.large IS 'Bytes of the result if they are more than 2048, even if it did not fit and was not kept; null: it is small, or comes from before version 16.';
COMMENT ON COLUMN acp.idempotency.quota IS 'How many bytes of results under keys of its calls the tenant may have; null: the program chose the key, or is of an earlier version.';
CREATE INDEX idempotency_large ON acp.idempotency (tenant_id) INCLUDE (large, expires_at) WHERE large IS NOT NULL;
