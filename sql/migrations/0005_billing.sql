-- breaking: no
-- 0005 billing: closed months, invoices and their lines, credits, and prices that are never changed.

SET LOCAL ROLE acp_owner;

-- Prices ----------------------------------------------------------------------------------------------------------

ALTER TABLE acp.prices ADD COLUMN version bigint, ADD COLUMN created_at timestamptz;
UPDATE acp.prices p SET version = n.version, created_at = now()
FROM (SELECT unit, action_pattern, valid_from, row_number() OVER (ORDER BY valid_from, unit, action_pattern) AS version FROM acp.prices) n
WHERE p.unit = n.unit AND p.action_pattern = n.action_pattern AND p.valid_from = n.valid_from;
ALTER TABLE acp.prices ALTER COLUMN version SET NOT NULL, ALTER COLUMN created_at SET NOT NULL, ADD UNIQUE (version);
COMMENT ON COLUMN acp.prices.version IS 'Number of the row, in the order in which rows were added: a month is billed with those that existed when it was closed.';
COMMENT ON COLUMN acp.prices.created_at IS 'When it was added.';

-- Months ----------------------------------------------------------------------------------------------------------

CREATE TABLE acp.billing_closings (
	period        date PRIMARY KEY CHECK (extract(day FROM period) = 1),
	closed_at     timestamptz NOT NULL,
	price_version bigint NOT NULL,
	currency      text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
	minimum       numeric NOT NULL CHECK (minimum >= 0)
);
COMMENT ON TABLE acp.billing_closings IS
	'Months that are billed, with what their invoices are computed from besides audit rows: written by the first run of a month, never changed.';
COMMENT ON COLUMN acp.billing_closings.period IS 'First day of the UTC month.';
COMMENT ON COLUMN acp.billing_closings.closed_at IS 'When its first run began.';
COMMENT ON COLUMN acp.billing_closings.price_version IS 'Prices up to this version apply.';
COMMENT ON COLUMN acp.billing_closings.currency IS 'ISO 4217 code: a month has one.';
COMMENT ON COLUMN acp.billing_closings.minimum IS 'The setting invoice_minimum: smaller amounts are carried over.';

CREATE TABLE acp.billing_cuts (
	period    date NOT NULL REFERENCES acp.billing_closings,
	chain_id  integer NOT NULL,
	chain_seq bigint NOT NULL,
	PRIMARY KEY (period, chain_id)
);
CREATE INDEX billing_cuts_chain ON acp.billing_cuts (chain_id, chain_seq, period);
COMMENT ON TABLE acp.billing_cuts IS
	'Where the audit chains ended when a month was closed: rows of that month, or of an earlier one, which came later are billed with the next month.';
COMMENT ON COLUMN acp.billing_cuts.period IS 'The month.';
COMMENT ON COLUMN acp.billing_cuts.chain_id IS 'The chain.';
COMMENT ON COLUMN acp.billing_cuts.chain_seq IS 'Its last row.';

CREATE TABLE acp.billing_runs (
	run_key     text PRIMARY KEY CHECK (length(run_key) BETWEEN 1 AND 255),
	period      date NOT NULL REFERENCES acp.billing_closings,
	started_at  timestamptz NOT NULL,
	finished_at timestamptz
);
CREATE INDEX billing_runs_period ON acp.billing_runs (period);
COMMENT ON TABLE acp.billing_runs IS 'Runs of the billing. The same key again is the same run.';
COMMENT ON COLUMN acp.billing_runs.run_key IS 'The Idempotency-Key or --key it was started with; billing-YYYY-MM where none was given.';
COMMENT ON COLUMN acp.billing_runs.period IS 'The month it bills.';
COMMENT ON COLUMN acp.billing_runs.started_at IS 'When it was first started.';
COMMENT ON COLUMN acp.billing_runs.finished_at IS 'When all tenants were done; null: start it again.';

-- Invoices --------------------------------------------------------------------------------------------------------

CREATE TABLE acp.billing_periods (
	tenant_id         uuid NOT NULL REFERENCES acp.tenants,
	period            date NOT NULL REFERENCES acp.billing_closings,
	status            text NOT NULL CHECK (status IN ('pending', 'invoiced', 'paid', 'failed', 'carried')),
	currency          text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
	total             numeric NOT NULL,
	amount            bigint NOT NULL CHECK (amount >= 0),
	carried_in        numeric NOT NULL,
	carried_out       numeric NOT NULL CHECK (carried_out = 0 OR amount = 0),
	hash              bytea NOT NULL CHECK (length(hash) = 32),
	billed_at         timestamptz NOT NULL,
	stripe_invoice_id text,
	paid_at           timestamptz,
	error             text,
	retries           integer NOT NULL DEFAULT 0,
	updated_at        timestamptz NOT NULL,
	PRIMARY KEY (tenant_id, period)
);
CREATE INDEX billing_periods_period ON acp.billing_periods (period);
CREATE INDEX billing_periods_stripe ON acp.billing_periods (stripe_invoice_id) WHERE stripe_invoice_id IS NOT NULL;
COMMENT ON TABLE acp.billing_periods IS 'One invoice a tenant and UTC month, where there is anything to charge or to carry over.';
COMMENT ON COLUMN acp.billing_periods.tenant_id IS 'The tenant.';
COMMENT ON COLUMN acp.billing_periods.period IS 'First day of the UTC month.';
COMMENT ON COLUMN acp.billing_periods.status IS
	'pending (owed to the outbox) -> invoiced (Stripe has it) -> paid or failed; carried: below the minimum, it goes to the next month.';
COMMENT ON COLUMN acp.billing_periods.currency IS 'ISO 4217 code.';
COMMENT ON COLUMN acp.billing_periods.total IS 'Sum of its lines, unrounded, in the major unit.';
COMMENT ON COLUMN acp.billing_periods.amount IS 'What is charged, in the minor unit (cents): total, rounded half up once; 0 where it is carried over.';
COMMENT ON COLUMN acp.billing_periods.carried_in IS 'What the invoice before left, unrounded: a line of this one.';
COMMENT ON COLUMN acp.billing_periods.carried_out IS 'What it leaves to the next one; negative: a credit that was not used up.';
COMMENT ON COLUMN acp.billing_periods.hash IS 'SHA-256 of the invoice''s text (acp.invoice_text).';
COMMENT ON COLUMN acp.billing_periods.billed_at IS 'When it was made.';
COMMENT ON COLUMN acp.billing_periods.stripe_invoice_id IS 'in_… once Stripe has it.';
COMMENT ON COLUMN acp.billing_periods.paid_at IS 'When it was paid, as Stripe tells; for one without an amount: when it was made.';
COMMENT ON COLUMN acp.billing_periods.error IS 'Why it failed; null: it did not.';
COMMENT ON COLUMN acp.billing_periods.retries IS 'How often its payment was tried again (acpctl billing retry).';
COMMENT ON COLUMN acp.billing_periods.updated_at IS 'Last change of its status.';

CREATE TABLE acp.invoice_lines (
	tenant_id     uuid NOT NULL,
	period        date NOT NULL,
	line          integer NOT NULL CHECK (line > 0),
	kind          text NOT NULL CHECK (kind IN ('usage', 'carry', 'credit')),
	source_period date,
	action        text,
	billing_unit  text,
	unit          text,
	price_pattern text,
	price_version bigint,
	unit_amount   numeric,
	calls         bigint NOT NULL,
	quantity      bigint NOT NULL,
	amount        numeric NOT NULL,
	amount_minor  bigint NOT NULL,
	from_ts       timestamptz,
	to_ts         timestamptz,
	first_ts      timestamptz,
	last_ts       timestamptz,
	first_chain   integer,
	first_seq     bigint,
	last_chain    integer,
	last_seq      bigint,
	credit_id     bigint,
	reason        text,
	PRIMARY KEY (tenant_id, period, line),
	FOREIGN KEY (tenant_id, period) REFERENCES acp.billing_periods,
	CHECK (kind <> 'usage' OR num_nulls(source_period, action, billing_unit, unit, price_pattern, price_version, unit_amount, from_ts, to_ts,
		first_ts, last_ts, first_chain, first_seq, last_chain, last_seq) = 0),
	CHECK (kind <> 'credit' OR (num_nulls(credit_id, reason) = 0 AND amount < 0))
);
CREATE INDEX invoice_lines_rows ON acp.invoice_lines (tenant_id, source_period, action);
COMMENT ON TABLE acp.invoice_lines IS
	'What each invoice is made of. A usage line stands for the billable paid audit rows of one action, unit and price, of one month, that no line before stands for.';
COMMENT ON COLUMN acp.invoice_lines.tenant_id IS 'The invoice: tenant.';
COMMENT ON COLUMN acp.invoice_lines.period IS 'The invoice: month.';
COMMENT ON COLUMN acp.invoice_lines.line IS 'Number, from 1.';
COMMENT ON COLUMN acp.invoice_lines.kind IS 'usage; carry: what the invoice before left; credit: a correction.';
COMMENT ON COLUMN acp.invoice_lines.source_period IS 'Month of the calls, or of the invoice that left an amount. Usage of an earlier month: its rows came after that one was closed.';
COMMENT ON COLUMN acp.invoice_lines.action IS 'Action of the calls.';
COMMENT ON COLUMN acp.invoice_lines.billing_unit IS 'Unit of the action, as in the audit rows; call where that is null.';
COMMENT ON COLUMN acp.invoice_lines.unit IS 'Unit of the price: billing_unit, or call where that has no price.';
COMMENT ON COLUMN acp.invoice_lines.price_pattern IS 'action_pattern of the price.';
COMMENT ON COLUMN acp.invoice_lines.price_version IS 'version of the price.';
COMMENT ON COLUMN acp.invoice_lines.unit_amount IS 'Price of one unit, in the major unit of the currency.';
COMMENT ON COLUMN acp.invoice_lines.calls IS 'Number of audit rows.';
COMMENT ON COLUMN acp.invoice_lines.quantity IS 'Units that are charged: sum of billing_quantity, or calls where the price is for a call and the unit is another.';
COMMENT ON COLUMN acp.invoice_lines.amount IS 'quantity times unit_amount, unrounded.';
COMMENT ON COLUMN acp.invoice_lines.amount_minor IS 'Its part of the invoice''s amount, in the minor unit: the parts sum to it.';
COMMENT ON COLUMN acp.invoice_lines.from_ts IS 'The rows have a ts from here on,';
COMMENT ON COLUMN acp.invoice_lines.to_ts IS 'and before this.';
COMMENT ON COLUMN acp.invoice_lines.first_ts IS 'ts of the earliest row.';
COMMENT ON COLUMN acp.invoice_lines.last_ts IS 'ts of the latest row.';
COMMENT ON COLUMN acp.invoice_lines.first_chain IS 'chain_id of the first row, in the order of chains and places.';
COMMENT ON COLUMN acp.invoice_lines.first_seq IS 'Its chain_seq.';
COMMENT ON COLUMN acp.invoice_lines.last_chain IS 'chain_id of the last row, in that order.';
COMMENT ON COLUMN acp.invoice_lines.last_seq IS 'Its chain_seq.';
COMMENT ON COLUMN acp.invoice_lines.credit_id IS 'The credit (acp.billing_credits).';
COMMENT ON COLUMN acp.invoice_lines.reason IS 'Why there is a credit.';

CREATE TABLE acp.billing_credits (
	tenant_id  uuid NOT NULL REFERENCES acp.tenants,
	credit_id  bigint GENERATED ALWAYS AS IDENTITY,
	amount     numeric NOT NULL CHECK (amount > 0),
	currency   text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
	reason     text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
	created_at timestamptz NOT NULL,
	period     date,
	PRIMARY KEY (tenant_id, credit_id)
);
CREATE INDEX billing_credits_waiting ON acp.billing_credits (tenant_id) WHERE period IS NULL;
COMMENT ON TABLE acp.billing_credits IS 'Amounts that an operator takes off a tenant''s next invoice.';
COMMENT ON SEQUENCE acp.billing_credits_credit_id_seq IS 'Numbers of credits.';
COMMENT ON COLUMN acp.billing_credits.tenant_id IS 'The tenant.';
COMMENT ON COLUMN acp.billing_credits.credit_id IS 'Number.';
COMMENT ON COLUMN acp.billing_credits.amount IS 'How much, in the major unit; its line is negative.';
COMMENT ON COLUMN acp.billing_credits.currency IS 'ISO 4217 code.';
COMMENT ON COLUMN acp.billing_credits.reason IS 'Why; stands on the invoice.';
COMMENT ON COLUMN acp.billing_credits.created_at IS 'When.';
COMMENT ON COLUMN acp.billing_credits.period IS 'Month of the invoice that has it; null: it waits for the next one.';

CREATE TABLE acp.invoice_payments (
	stripe_invoice_id text PRIMARY KEY,
	paid              boolean NOT NULL,
	at                timestamptz NOT NULL
);
COMMENT ON TABLE acp.invoice_payments IS
	'What Stripe told of the payment of an invoice: it may tell before we know which invoice that is.';
COMMENT ON COLUMN acp.invoice_payments.stripe_invoice_id IS 'in_…';
COMMENT ON COLUMN acp.invoice_payments.paid IS 'Paid; false: a payment failed. What is paid stays paid.';
COMMENT ON COLUMN acp.invoice_payments.at IS 'When, by Stripe''s clock.';

GRANT SELECT, INSERT ON acp.billing_closings, acp.billing_cuts, acp.invoice_lines TO acp_app;
GRANT SELECT, INSERT, UPDATE ON acp.billing_runs, acp.billing_periods, acp.billing_credits, acp.invoice_payments TO acp_app;
