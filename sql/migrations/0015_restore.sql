-- breaking: no
-- 0015 restore: what Stripe holds counts more than records that were lost with the end of a database (a restored backup).

SET LOCAL ROLE acp_owner;

ALTER TABLE acp.billing_periods ADD COLUMN stripe_hash bytea CHECK (length(stripe_hash) = 32);
COMMENT ON COLUMN acp.billing_periods.stripe_hash IS
	'Hash of the invoice that Stripe has, where it is another one: made from rows that a restored database lacks, or has in another place. Null: the same as hash.';

ALTER TABLE acp.invoice_lines DROP CONSTRAINT IF EXISTS invoice_lines_kind_check;
ALTER TABLE acp.invoice_lines ADD CONSTRAINT invoice_lines_kind_check CHECK (kind IN ('usage', 'carry', 'credit', 'adjustment'));
ALTER TABLE acp.invoice_lines ADD CHECK (kind <> 'adjustment' OR reason IS NOT NULL);
COMMENT ON COLUMN acp.invoice_lines.kind IS
	'usage; carry: what the invoice before left; credit: a correction; adjustment: the difference to the invoice that Stripe had already, made from rows that were lost since.';
COMMENT ON COLUMN acp.invoice_lines.reason IS 'Why there is a credit or an adjustment.';

CREATE TABLE acp.billing_adjustments (
	tenant_id         uuid NOT NULL,
	period            date NOT NULL,
	amount            numeric NOT NULL CHECK (amount <> 0),
	currency          text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
	reason            text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
	stripe_invoice_id text NOT NULL,
	created_at        timestamptz NOT NULL,
	PRIMARY KEY (tenant_id, period),
	FOREIGN KEY (tenant_id, period) REFERENCES acp.billing_periods
);
COMMENT ON TABLE acp.billing_adjustments IS
	'Invoices of Stripe that were adopted (acpctl billing adopt): the amount by which Stripe''s differs from what the rows say.';
COMMENT ON COLUMN acp.billing_adjustments.tenant_id IS 'The tenant.';
COMMENT ON COLUMN acp.billing_adjustments.period IS 'Month of the invoice.';
COMMENT ON COLUMN acp.billing_adjustments.amount IS 'Stripe''s amount minus the unrounded total of the other lines, in the major unit.';
COMMENT ON COLUMN acp.billing_adjustments.currency IS 'ISO 4217 code.';
COMMENT ON COLUMN acp.billing_adjustments.reason IS 'Why; stands on the invoice.';
COMMENT ON COLUMN acp.billing_adjustments.stripe_invoice_id IS 'in_…, as adopted.';
COMMENT ON COLUMN acp.billing_adjustments.created_at IS 'When.';

GRANT SELECT, INSERT ON acp.billing_adjustments TO acp_app;
