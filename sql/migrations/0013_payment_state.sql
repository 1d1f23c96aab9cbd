-- breaking: no
-- 0013 payment state: since when a tenant is past due, its cards, and what Stripe told of each invoice and of money that
-- came back.

SET LOCAL ROLE acp_owner;

ALTER TABLE acp.tenants ADD COLUMN past_due_since timestamptz, ADD COLUMN past_due_until timestamptz,
	ADD COLUMN stripe_customers_gone integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN acp.tenants.past_due_since IS 'Since when an invoice of the tenant is owed whose payment failed, or was lost in a dispute; null: none.';
COMMENT ON COLUMN acp.tenants.past_due_until IS 'Until then a tenant that is past due is still treated as paid, after that as free; null: not past due.';
COMMENT ON COLUMN acp.tenants.stripe_customers_gone IS 'How many customers of the tenant were deleted at Stripe: the next one needs another idempotency key.';

ALTER TABLE acp.stripe_marks ADD COLUMN customer text;
COMMENT ON COLUMN acp.stripe_marks.customer IS 'method: the customer of the checkout; null: not told.';
COMMENT ON COLUMN acp.stripe_marks.subject IS
	'What was set: method (the checkout that counts), no_default (the customer has no default payment method, and the event does not say which one it had), in_… (an invoice). detached: not used any more.';

CREATE TABLE acp.stripe_cards (
	tenant_id      uuid NOT NULL REFERENCES acp.tenants,
	payment_method text NOT NULL,
	customer       text,
	setup_intent   text,
	attached_at    timestamptz,
	default_at     timestamptz,
	ceased_at      timestamptz,
	detached_at    timestamptz,
	PRIMARY KEY (tenant_id, payment_method)
);
CREATE INDEX stripe_cards_payment_method ON acp.stripe_cards (payment_method);
COMMENT ON TABLE acp.stripe_cards IS
	'What Stripe told of the payment methods of a tenant. Each column is the newest moment of its kind, so the order of the events does not matter.';
COMMENT ON COLUMN acp.stripe_cards.tenant_id IS 'The tenant.';
COMMENT ON COLUMN acp.stripe_cards.payment_method IS 'pm_…';
COMMENT ON COLUMN acp.stripe_cards.customer IS 'cus_… that it belongs to; null: not told.';
COMMENT ON COLUMN acp.stripe_cards.setup_intent IS 'seti_… of the checkout that saved it; null: it was saved elsewhere.';
COMMENT ON COLUMN acp.stripe_cards.attached_at IS 'When it was attached to the customer.';
COMMENT ON COLUMN acp.stripe_cards.default_at IS 'When it was chosen to pay invoices: by a checkout, or as the default of the customer.';
COMMENT ON COLUMN acp.stripe_cards.ceased_at IS 'When it ceased to be the default of the customer.';
COMMENT ON COLUMN acp.stripe_cards.detached_at IS 'When it was detached; it never comes back.';

CREATE TABLE acp.invoice_states (
	stripe_invoice_id text PRIMARY KEY,
	failed_at         timestamptz,
	paid_at           timestamptz,
	void_at           timestamptz,
	settled_at        timestamptz,
	refunded          bigint NOT NULL DEFAULT 0,
	credited          bigint NOT NULL DEFAULT 0,
	dispute           text,
	disputed_at       timestamptz,
	lost_at           timestamptz
);
COMMENT ON TABLE acp.invoice_states IS
	'What is known of the payment of an invoice at Stripe, from its events and from our own attempts. Invoices that are not ours have rows too; no tenant is judged by them.';
COMMENT ON COLUMN acp.invoice_states.stripe_invoice_id IS 'in_…';
COMMENT ON COLUMN acp.invoice_states.failed_at IS 'When a payment first failed, or the invoice was first called overdue or uncollectible.';
COMMENT ON COLUMN acp.invoice_states.paid_at IS 'When it was paid.';
COMMENT ON COLUMN acp.invoice_states.void_at IS 'When it was voided or deleted: nothing is owed.';
COMMENT ON COLUMN acp.invoice_states.settled_at IS 'When an operator declared it settled outside Stripe.';
COMMENT ON COLUMN acp.invoice_states.refunded IS 'Refunded, in the minor unit.';
COMMENT ON COLUMN acp.invoice_states.credited IS 'Sum of its credit notes, in the minor unit.';
COMMENT ON COLUMN acp.invoice_states.dispute IS 'Stripe''s status of its dispute, or early_fraud_warning; null: there is none.';
COMMENT ON COLUMN acp.invoice_states.disputed_at IS 'When the dispute or warning began.';
COMMENT ON COLUMN acp.invoice_states.lost_at IS 'When a dispute was lost: the amount is owed again.';

CREATE TABLE acp.stripe_payments (
	payment           text PRIMARY KEY,
	stripe_invoice_id text NOT NULL
);
CREATE INDEX stripe_payments_invoice ON acp.stripe_payments (stripe_invoice_id);
COMMENT ON TABLE acp.stripe_payments IS 'Which invoice a payment belongs to: refunds and disputes name only the payment.';
COMMENT ON COLUMN acp.stripe_payments.payment IS 'pi_… or ch_…';
COMMENT ON COLUMN acp.stripe_payments.stripe_invoice_id IS 'in_…';

CREATE TABLE acp.stripe_returns (
	object_id         text PRIMARY KEY,
	kind              text NOT NULL CHECK (kind IN ('charge', 'refund', 'credit_note', 'dispute', 'warning')),
	stripe_invoice_id text,
	payment_intent    text,
	charge            text,
	amount            bigint NOT NULL,
	status            text NOT NULL,
	created           timestamptz NOT NULL,
	event_id          text NOT NULL,
	opened_at         timestamptz NOT NULL
);
CREATE INDEX stripe_returns_invoice ON acp.stripe_returns (stripe_invoice_id) WHERE stripe_invoice_id IS NOT NULL;
CREATE INDEX stripe_returns_payment_intent ON acp.stripe_returns (payment_intent) WHERE payment_intent IS NOT NULL;
CREATE INDEX stripe_returns_charge ON acp.stripe_returns (charge) WHERE charge IS NOT NULL;
COMMENT ON TABLE acp.stripe_returns IS 'Money that came back, or may: one row per object of Stripe, as its newest event shows it.';
COMMENT ON COLUMN acp.stripe_returns.object_id IS 're_…, cn_…, dp_…, issfr_…, or ch_… of a charge that was refunded.';
COMMENT ON COLUMN acp.stripe_returns.kind IS 'charge (amount: what of it is refunded), refund, credit_note, dispute, or warning (an early fraud warning).';
COMMENT ON COLUMN acp.stripe_returns.stripe_invoice_id IS 'in_… if the object names it; else the payment leads to it (acp.stripe_payments).';
COMMENT ON COLUMN acp.stripe_returns.payment_intent IS 'pi_…';
COMMENT ON COLUMN acp.stripe_returns.charge IS 'ch_…';
COMMENT ON COLUMN acp.stripe_returns.amount IS 'In the minor unit.';
COMMENT ON COLUMN acp.stripe_returns.status IS 'Stripe''s status; empty: it has none.';
COMMENT ON COLUMN acp.stripe_returns.created IS 'When the newest event happened.';
COMMENT ON COLUMN acp.stripe_returns.event_id IS 'Which.';
COMMENT ON COLUMN acp.stripe_returns.opened_at IS 'When the oldest event happened.';

COMMENT ON COLUMN acp.stripe_events.effect IS
	'applied, or why not: ignored (a type that means nothing here), unknown_tenant, unknown_invoice (stored, until its invoice is known), foreign (of another customer or program), mismatch (it names two tenants), older (a newer one came first), unchanged.';

GRANT SELECT, INSERT, UPDATE ON acp.stripe_cards, acp.invoice_states, acp.stripe_payments, acp.stripe_returns TO acp_app;

-- What is known from before.
INSERT INTO acp.stripe_cards (tenant_id, payment_method, customer, setup_intent)
SELECT DISTINCT ON (o.tenant_id, o.result->>'payment_method') o.tenant_id, o.result->>'payment_method', o.result->>'customer', o.params->>'setup_intent'
FROM acp.outbox o WHERE o.action = 'stripe.setup_intents.get' AND o.result->>'payment_method' IS NOT NULL;
INSERT INTO acp.stripe_cards (tenant_id, payment_method, customer, setup_intent, default_at)
SELECT t.tenant_id, t.stripe_payment_method, t.stripe_customer_id, m.reference, m.created
FROM acp.tenants t JOIN acp.stripe_marks m ON m.tenant_id = t.tenant_id AND m.subject = 'method'
WHERE t.stripe_payment_method IS NOT NULL
ON CONFLICT (tenant_id, payment_method) DO UPDATE SET default_at = excluded.default_at, setup_intent = excluded.setup_intent;
INSERT INTO acp.stripe_cards (tenant_id, payment_method, detached_at)
SELECT e.tenant_id, e.object_id, max(e.created) FROM acp.stripe_events e JOIN acp.tenants t USING (tenant_id)
WHERE e.type = 'payment_method.detached' AND e.object_id IS NOT NULL GROUP BY 1, 2
ON CONFLICT (tenant_id, payment_method) DO UPDATE SET detached_at = excluded.detached_at;
-- An invoice whose payment failed before this version has its days of grace from now on.
INSERT INTO acp.invoice_states (stripe_invoice_id, failed_at)
SELECT DISTINCT b.stripe_invoice_id, now() FROM acp.billing_periods b JOIN acp.invoice_payments i USING (stripe_invoice_id)
WHERE b.status = 'failed' AND NOT i.paid AND NOT EXISTS (SELECT FROM acp.stripe_events e
	WHERE e.object_id = b.stripe_invoice_id AND e.type IN ('invoice.voided', 'invoice.deleted'));
UPDATE acp.tenants t SET past_due_since = now(), past_due_until = now() + interval '168 hours'
WHERE EXISTS (SELECT FROM acp.billing_periods b JOIN acp.invoice_states s USING (stripe_invoice_id) WHERE b.tenant_id = t.tenant_id);
