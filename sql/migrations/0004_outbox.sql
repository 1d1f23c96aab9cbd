-- breaking: no
-- 0004 outbox: what is owed to the outside world, the upgrade of a tenant, and the inbox of Stripe's events.

SET LOCAL ROLE acp_owner;

ALTER TABLE acp.tenants ADD COLUMN stripe_payment_method text;
CREATE INDEX tenants_stripe_customer ON acp.tenants (stripe_customer_id) WHERE stripe_customer_id IS NOT NULL;
CREATE INDEX tenants_stripe_payment_method ON acp.tenants (stripe_payment_method) WHERE stripe_payment_method IS NOT NULL;
COMMENT ON COLUMN acp.tenants.stripe_payment_method IS
	'pm_… that invoices are paid with; null: there is none, or Repo C has not been asked for it yet.';

-- The outbox ------------------------------------------------------------------------------------------------------

CREATE TABLE acp.outbox (
	tenant_id    uuid NOT NULL REFERENCES acp.tenants,
	obligation   text NOT NULL CHECK (length(obligation) BETWEEN 1 AND 200),
	outbox_id    bigint GENERATED ALWAYS AS IDENTITY,
	action       text NOT NULL,
	params       jsonb NOT NULL,
	created_at   timestamptz NOT NULL,
	due_at       timestamptz NOT NULL,
	attempts     integer NOT NULL DEFAULT 0,
	leased_until timestamptz,
	done_at      timestamptz,
	result       jsonb,
	error_code   text,
	error        text,
	dead         boolean NOT NULL DEFAULT false CHECK (NOT dead OR done_at IS NULL),
	PRIMARY KEY (tenant_id, obligation)
);
CREATE INDEX outbox_due ON acp.outbox (due_at) WHERE done_at IS NULL AND NOT dead;
CREATE INDEX outbox_dead ON acp.outbox (outbox_id) WHERE dead;
COMMENT ON TABLE acp.outbox IS
	'What Repo C is to do: written with its cause, worked off by any process that has an executor, once in effect.';
COMMENT ON SEQUENCE acp.outbox_outbox_id_seq IS 'Numbers of obligations.';
COMMENT ON COLUMN acp.outbox.tenant_id IS 'The tenant.';
COMMENT ON COLUMN acp.outbox.obligation IS 'What is owed, for example customer-<tenant>: the idempotency key at every attempt.';
COMMENT ON COLUMN acp.outbox.outbox_id IS 'Number by which acpctl outbox names it.';
COMMENT ON COLUMN acp.outbox.action IS 'Action of the executor, for example stripe.customers.create.';
COMMENT ON COLUMN acp.outbox.params IS 'Its parameters; what only the tenant''s row knows is added when it is taken.';
COMMENT ON COLUMN acp.outbox.created_at IS 'Since when it is owed.';
COMMENT ON COLUMN acp.outbox.due_at IS 'When the next attempt may begin.';
COMMENT ON COLUMN acp.outbox.attempts IS 'Attempts begun; which of them may say how it ended.';
COMMENT ON COLUMN acp.outbox.leased_until IS 'An attempt runs; after this it counts as crashed. Null: none runs.';
COMMENT ON COLUMN acp.outbox.done_at IS 'When it was done, or dropped by an operator; null: not.';
COMMENT ON COLUMN acp.outbox.result IS 'What the executor answered; of a dropped one {"dropped": true}, of one that lost its point {"superseded": true}.';
COMMENT ON COLUMN acp.outbox.error_code IS 'Of the last attempt; null: none failed.';
COMMENT ON COLUMN acp.outbox.error IS 'Sentence of the last failure, without secrets.';
COMMENT ON COLUMN acp.outbox.dead IS 'Given up, until an operator retries or drops it.';

-- The upgrade -----------------------------------------------------------------------------------------------------

CREATE TABLE acp.checkouts (
	tenant_id  uuid NOT NULL REFERENCES acp.tenants,
	attempt    integer NOT NULL CHECK (attempt > 0),
	status     text NOT NULL CHECK (status IN ('asked', 'open', 'completed', 'expired', 'failed')),
	session_id text,
	url        text CHECK (url IS NOT NULL OR status <> 'open'),
	asked_at   timestamptz NOT NULL,
	expires_at timestamptz NOT NULL,
	PRIMARY KEY (tenant_id, attempt)
);
CREATE INDEX checkouts_session ON acp.checkouts (session_id);
CREATE INDEX checkouts_open ON acp.checkouts (expires_at) WHERE status IN ('asked', 'open');
COMMENT ON TABLE acp.checkouts IS 'Checkout sessions in which a tenant''s human gives a payment method.';
COMMENT ON COLUMN acp.checkouts.tenant_id IS 'The tenant.';
COMMENT ON COLUMN acp.checkouts.attempt IS 'From 1; the session''s idempotency key is checkout-<tenant>-<attempt>.';
COMMENT ON COLUMN acp.checkouts.status IS
	'asked (Repo C is being asked) -> open -> completed or expired; failed: Repo C refused, or its answer was of no use.';
COMMENT ON COLUMN acp.checkouts.session_id IS 'cs_… once Repo C made it.';
COMMENT ON COLUMN acp.checkouts.url IS 'Where the human goes; null once it is of no use.';
COMMENT ON COLUMN acp.checkouts.asked_at IS 'When it was asked for.';
COMMENT ON COLUMN acp.checkouts.expires_at IS 'When the session ends; while it is asked for, when the next one that asks may begin anew.';

-- Stripe's events -------------------------------------------------------------------------------------------------

CREATE TABLE acp.stripe_events (
	event_id    text PRIMARY KEY CHECK (length(event_id) BETWEEN 1 AND 255),
	type        text NOT NULL,
	created     timestamptz NOT NULL,
	livemode    boolean NOT NULL,
	object_id   text,
	tenant_id   uuid,
	effect      text NOT NULL,
	received_at timestamptz NOT NULL
);
CREATE INDEX stripe_events_object ON acp.stripe_events (object_id, type);
COMMENT ON TABLE acp.stripe_events IS
	'Each event of Stripe that was accepted, for ever: a repetition finds its row and has no effect. Without the payload, which holds names and addresses.';
COMMENT ON COLUMN acp.stripe_events.event_id IS 'evt_…';
COMMENT ON COLUMN acp.stripe_events.type IS 'For example checkout.session.completed.';
COMMENT ON COLUMN acp.stripe_events.created IS 'When it happened, by Stripe''s clock (seconds).';
COMMENT ON COLUMN acp.stripe_events.livemode IS 'False: of Stripe''s test mode.';
COMMENT ON COLUMN acp.stripe_events.object_id IS 'What it is about: cs_…, in_…, pm_…';
COMMENT ON COLUMN acp.stripe_events.tenant_id IS 'Whose; null: nobody''s that is known.';
COMMENT ON COLUMN acp.stripe_events.effect IS
	'applied, or why not: ignored (a type that means nothing here), unknown_tenant, mismatch (it names two tenants), older (a newer one came first), unchanged.';
COMMENT ON COLUMN acp.stripe_events.received_at IS 'When it came first.';

CREATE TABLE acp.stripe_marks (
	tenant_id uuid NOT NULL REFERENCES acp.tenants,
	subject   text NOT NULL,
	created   timestamptz NOT NULL,
	event_id  text NOT NULL,
	reference text,
	PRIMARY KEY (tenant_id, subject)
);
COMMENT ON TABLE acp.stripe_marks IS
	'The newest event that set something, so that an older one which comes later does not undo it.';
COMMENT ON COLUMN acp.stripe_marks.tenant_id IS 'The tenant.';
COMMENT ON COLUMN acp.stripe_marks.subject IS 'What was set: method (the checkout that counts), detached (a method of its customer went), in_… (an invoice).';
COMMENT ON COLUMN acp.stripe_marks.created IS 'When that event happened.';
COMMENT ON COLUMN acp.stripe_marks.event_id IS 'Which.';
COMMENT ON COLUMN acp.stripe_marks.reference IS 'method: the setup intent; detached: the payment method; in_…: paid or failed.';

GRANT SELECT, INSERT, UPDATE ON acp.outbox, acp.checkouts, acp.stripe_events, acp.stripe_marks TO acp_app;
