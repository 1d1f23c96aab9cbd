-- breaking: no
-- 0001 foundation: roles, the clock, tenants, keys, audit log, usage, idempotency, prices, lead scoring.
--
-- A released migration is never edited: `acpctl migrate` compares its SHA-256 with the one it stored.
-- It runs in one transaction, under an advisory lock, as a role that may create roles and schemas (or whose
-- database already has the three roles). Functions and views are not here: sql/functions and sql/reports are run
-- again whenever they change.
--
-- Every tenant's data is keyed by tenant_id first, so that the tables can be distributed by it; what must be unique
-- over all tenants (agent ids, key hashes) stands in small tables of its own that can be replicated.

DO $roles$
DECLARE
	role_name text;
BEGIN
	FOREACH role_name IN ARRAY ARRAY['acp_owner', 'acp_app', 'acp_report'] LOOP
		BEGIN
			EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
		EXCEPTION
			WHEN duplicate_object OR unique_violation THEN
				NULL; -- roles belong to the whole cluster: another database made it
			WHEN insufficient_privilege THEN
				IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
					RAISE EXCEPTION 'role % is missing and % may not create it', role_name, current_user
						USING HINT = 'let a superuser run: CREATE ROLE acp_owner NOLOGIN; CREATE ROLE acp_app NOLOGIN; '
							'CREATE ROLE acp_report NOLOGIN; GRANT acp_owner TO ' || quote_ident(current_user);
				END IF;
		END;
	END LOOP;
	-- From 16 on whoever creates a role may grant it but is not yet allowed to act as it.
	IF NOT pg_has_role(current_user, 'acp_owner', CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END) THEN
		EXECUTE format('GRANT acp_owner TO %I', current_user);
	END IF;
END
$roles$;

-- acpctl made the schema and its register of migrations to have something to write this migration into.
ALTER SCHEMA acp OWNER TO acp_owner;
ALTER TABLE acp.schema_migrations OWNER TO acp_owner;
CREATE SCHEMA IF NOT EXISTS acp_report AUTHORIZATION acp_owner;

SET LOCAL ROLE acp_owner;

COMMENT ON SCHEMA acp IS 'acp-fcgi: tenants, keys, usage, audit (Repo B). The program calls functions of this schema.';
COMMENT ON SCHEMA acp_report IS 'acp-fcgi: stable, documented views for SQL reporting; nothing here shows a secret.';

ALTER DEFAULT PRIVILEGES FOR ROLE acp_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
GRANT USAGE ON SCHEMA acp TO acp_app;
GRANT USAGE ON SCHEMA acp_report TO acp_report;

-- Tenants ---------------------------------------------------------------------------------------------------------

CREATE TABLE acp.tenants (
	tenant_id             uuid PRIMARY KEY,
	agent_id              text NOT NULL CHECK (agent_id ~ '^[A-Za-z0-9._:-]{1,128}$'),
	billing_email         text NOT NULL CHECK (length(billing_email) <= 254),
	organization_name     text CHECK (length(organization_name) <= 255),
	product               text NOT NULL,
	tier                  text NOT NULL DEFAULT 'free' CHECK (tier IN ('free', 'paid')),
	payment_method_status text NOT NULL DEFAULT 'none' CHECK (payment_method_status IN ('none', 'setup_pending', 'active')),
	stripe_customer_id    text,
	calls_limit           integer CHECK (calls_limit >= 0),
	status                text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'closed')),
	onboarded_at          timestamptz NOT NULL,
	upgraded_at           timestamptz,
	updated_at            timestamptz NOT NULL
);
COMMENT ON TABLE acp.tenants IS 'One row a customer or agent. Keys, usage, quota and money belong to it.';
COMMENT ON COLUMN acp.tenants.tenant_id IS 'tenant_id / tenant_uuid of the API, minted when the tenant is created.';
COMMENT ON COLUMN acp.tenants.agent_id IS 'The name the agent chose for itself; unique (acp.agents).';
COMMENT ON COLUMN acp.tenants.billing_email IS 'Where invoices go.';
COMMENT ON COLUMN acp.tenants.organization_name IS 'Optional, shown on invoices.';
COMMENT ON COLUMN acp.tenants.product IS 'The product it was onboarded to: the last part of /api/onboard/{product}.';
COMMENT ON COLUMN acp.tenants.tier IS 'free or paid; paid counts only while payment_method_status is active.';
COMMENT ON COLUMN acp.tenants.payment_method_status IS 'none -> setup_pending -> active.';
COMMENT ON COLUMN acp.tenants.stripe_customer_id IS 'cus_… once Repo C made the customer.';
COMMENT ON COLUMN acp.tenants.calls_limit IS 'Free calls a month for this tenant; null: the setting free_calls_limit.';
COMMENT ON COLUMN acp.tenants.status IS 'Only an active tenant''s keys are accepted.';
COMMENT ON COLUMN acp.tenants.onboarded_at IS 'When the tenant was created.';
COMMENT ON COLUMN acp.tenants.upgraded_at IS 'When it first became paid; null: never.';
COMMENT ON COLUMN acp.tenants.updated_at IS 'Last change of the row.';

CREATE TABLE acp.agents (
	agent_id  text PRIMARY KEY,
	tenant_id uuid NOT NULL
);
COMMENT ON TABLE acp.agents IS 'Which tenant an agent_id belongs to: the uniqueness over all tenants.';
COMMENT ON COLUMN acp.agents.agent_id IS 'As in acp.tenants.';
COMMENT ON COLUMN acp.agents.tenant_id IS 'The tenant that has this agent_id.';

-- Keys ------------------------------------------------------------------------------------------------------------

CREATE TABLE acp.key_lookup (
	key_hash   bytea PRIMARY KEY CHECK (length(key_hash) = 32),
	tenant_id  uuid NOT NULL,
	api_key_id uuid NOT NULL
);
COMMENT ON TABLE acp.key_lookup IS 'From the hash of a presented key to its row in acp.api_keys.';
COMMENT ON COLUMN acp.key_lookup.key_hash IS 'HMAC-SHA-256(pepper, key text). The key itself is never stored.';
COMMENT ON COLUMN acp.key_lookup.tenant_id IS 'First half of the key of acp.api_keys.';
COMMENT ON COLUMN acp.key_lookup.api_key_id IS 'Second half of the key of acp.api_keys.';

CREATE TABLE acp.api_keys (
	tenant_id  uuid NOT NULL REFERENCES acp.tenants,
	api_key_id uuid NOT NULL,
	key_hash   bytea NOT NULL REFERENCES acp.key_lookup,
	key_prefix text NOT NULL CHECK (length(key_prefix) = 12),
	name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
	scopes     text[] NOT NULL,
	created_at timestamptz NOT NULL,
	rate_limit integer CHECK (rate_limit BETWEEN 1 AND 1000000),
	expires_at timestamptz,
	revoked_at timestamptz,
	PRIMARY KEY (tenant_id, api_key_id)
);
CREATE INDEX api_keys_key_hash ON acp.api_keys (key_hash);
CREATE INDEX api_keys_api_key_id ON acp.api_keys (api_key_id);
COMMENT ON TABLE acp.api_keys IS 'API keys: an actor inside one tenant. One tenant has many.';
COMMENT ON COLUMN acp.api_keys.tenant_id IS 'Owner.';
COMMENT ON COLUMN acp.api_keys.api_key_id IS 'Public id of the key, shown in audit rows.';
COMMENT ON COLUMN acp.api_keys.key_hash IS 'HMAC-SHA-256(pepper, key text).';
COMMENT ON COLUMN acp.api_keys.key_prefix IS 'First 12 characters of the key, for people to recognise it.';
COMMENT ON COLUMN acp.api_keys.name IS 'What its owner calls it.';
COMMENT ON COLUMN acp.api_keys.scopes IS 'What it may do, for example {manage.read,manage.domain}.';
COMMENT ON COLUMN acp.api_keys.created_at IS 'When it was made.';
COMMENT ON COLUMN acp.api_keys.rate_limit IS 'Calls of one action a minute for this key; null: the setting rate_limit.';
COMMENT ON COLUMN acp.api_keys.expires_at IS 'From then on it is refused; null: never.';
COMMENT ON COLUMN acp.api_keys.revoked_at IS 'When it was revoked; null: not.';

CREATE TABLE acp.team_members (
	tenant_id  uuid NOT NULL REFERENCES acp.tenants,
	email      text NOT NULL CHECK (length(email) <= 254),
	role       text NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
	status     text NOT NULL CHECK (status IN ('invited', 'active')),
	invited_at timestamptz NOT NULL,
	PRIMARY KEY (tenant_id, email)
);
COMMENT ON TABLE acp.team_members IS 'People of a tenant.';
COMMENT ON COLUMN acp.team_members.tenant_id IS 'The tenant.';
COMMENT ON COLUMN acp.team_members.email IS 'Address, in lower case.';
COMMENT ON COLUMN acp.team_members.role IS 'owner, admin, member or viewer.';
COMMENT ON COLUMN acp.team_members.status IS 'invited or active.';
COMMENT ON COLUMN acp.team_members.invited_at IS 'When.';

CREATE TABLE acp.tenant_settings (
	tenant_id  uuid PRIMARY KEY REFERENCES acp.tenants,
	settings   jsonb NOT NULL,
	updated_at timestamptz NOT NULL
);
COMMENT ON TABLE acp.tenant_settings IS 'What a tenant set for itself, where it has no column in acp.tenants.';
COMMENT ON COLUMN acp.tenant_settings.tenant_id IS 'The tenant.';
COMMENT ON COLUMN acp.tenant_settings.settings IS 'timezone, locale, metadata.';
COMMENT ON COLUMN acp.tenant_settings.updated_at IS 'Last change.';

-- Policies -------------------------------------------------------------------------------------------------------

CREATE TABLE acp.policies (
	policy_id      uuid PRIMARY KEY,
	tenant_id      uuid,
	name           text NOT NULL,
	priority       integer NOT NULL,
	enabled        boolean NOT NULL,
	action_pattern text NOT NULL,
	actor_type     text CHECK (actor_type IN ('api_key', 'user', 'system')),
	time_window    jsonb,
	amount_over    numeric,
	decision       text NOT NULL CHECK (decision IN ('allow', 'deny', 'require_approval')),
	reason         text,
	version        bigint NOT NULL,
	created_at     timestamptz NOT NULL
);
COMMENT ON TABLE acp.policies IS 'Rules over calls: of the enabled ones that fit, the one with the lowest priority number decides; none: allowed.';
COMMENT ON COLUMN acp.policies.policy_id IS 'Identity.';
COMMENT ON COLUMN acp.policies.tenant_id IS 'Whose calls; null: everybody''s.';
COMMENT ON COLUMN acp.policies.name IS 'What people call it.';
COMMENT ON COLUMN acp.policies.priority IS 'Lower numbers are looked at first.';
COMMENT ON COLUMN acp.policies.enabled IS 'Off: as if it were not there.';
COMMENT ON COLUMN acp.policies.action_pattern IS 'Which actions; * stands for anything.';
COMMENT ON COLUMN acp.policies.actor_type IS 'Which actors; null: all.';
COMMENT ON COLUMN acp.policies.time_window IS '{days, from, to, timezone}; null: always.';
COMMENT ON COLUMN acp.policies.amount_over IS 'Only calls whose params.amount is above this; null: all.';
COMMENT ON COLUMN acp.policies.decision IS 'allow, deny or require_approval.';
COMMENT ON COLUMN acp.policies.reason IS 'Sentence for the refused caller.';
COMMENT ON COLUMN acp.policies.version IS 'Number of the change that made it what it is.';
COMMENT ON COLUMN acp.policies.created_at IS 'When.';

CREATE TABLE acp.policy_proposals (
	tenant_id   uuid NOT NULL REFERENCES acp.tenants,
	proposal_id uuid NOT NULL,
	api_key_id  uuid NOT NULL,
	policy      jsonb NOT NULL,
	status      text NOT NULL CHECK (status IN ('proposed', 'approved', 'rejected', 'published')),
	proposed_at timestamptz NOT NULL,
	decided_at  timestamptz,
	PRIMARY KEY (tenant_id, proposal_id)
);
COMMENT ON TABLE acp.policy_proposals IS 'Policies that tenants propose for their own calls.';
COMMENT ON COLUMN acp.policy_proposals.tenant_id IS 'Who.';
COMMENT ON COLUMN acp.policy_proposals.proposal_id IS 'Identity: the event_id of the call that proposed it.';
COMMENT ON COLUMN acp.policy_proposals.api_key_id IS 'With which key.';
COMMENT ON COLUMN acp.policy_proposals.policy IS 'name, decision, priority, action, actor_type, amount_over, reason, time_window.';
COMMENT ON COLUMN acp.policy_proposals.status IS 'proposed -> approved or rejected; approved -> published.';
COMMENT ON COLUMN acp.policy_proposals.proposed_at IS 'When.';
COMMENT ON COLUMN acp.policy_proposals.decided_at IS 'When it was approved or rejected.';

CREATE TABLE acp.approvals (
	tenant_id    uuid NOT NULL REFERENCES acp.tenants,
	approval_id  uuid NOT NULL,
	api_key_id   uuid NOT NULL,
	action       text NOT NULL,
	request_hash text NOT NULL,
	fingerprint  text,
	status       text NOT NULL CHECK (status IN ('pending', 'approved', 'rejected', 'used')),
	requested_at timestamptz NOT NULL,
	decided_at   timestamptz,
	expires_at   timestamptz NOT NULL,
	used_by      uuid,
	PRIMARY KEY (tenant_id, approval_id)
);
CREATE INDEX approvals_call ON acp.approvals (tenant_id, request_hash, status);
COMMENT ON TABLE acp.approvals IS 'Calls that wait, or waited, for a human: an approved one lets exactly that call through, once.';
COMMENT ON COLUMN acp.approvals.tenant_id IS 'Who calls.';
COMMENT ON COLUMN acp.approvals.approval_id IS 'Identity: the event_id of the call that asked first.';
COMMENT ON COLUMN acp.approvals.api_key_id IS 'With which key.';
COMMENT ON COLUMN acp.approvals.action IS 'Which action.';
COMMENT ON COLUMN acp.approvals.request_hash IS 'Which request, as in the audit row.';
COMMENT ON COLUMN acp.approvals.fingerprint IS 'Secret-keyed hash of the request as it was sent: request_hash has credentials redacted. Null: asked for by another kernel.';
COMMENT ON COLUMN acp.approvals.status IS 'pending -> approved or rejected; approved -> used.';
COMMENT ON COLUMN acp.approvals.requested_at IS 'When it was asked for.';
COMMENT ON COLUMN acp.approvals.decided_at IS 'When a human decided.';
COMMENT ON COLUMN acp.approvals.expires_at IS 'From then on it counts no more.';
COMMENT ON COLUMN acp.approvals.used_by IS 'event_id of the call it let through.';

-- Audit -----------------------------------------------------------------------------------------------------------

CREATE TABLE acp.audit_logs (
	event_id               uuid NOT NULL,
	request_id             uuid NOT NULL,
	ts                     timestamptz NOT NULL,
	tenant_id              uuid NOT NULL,
	integration            text NOT NULL,
	pack                   text,
	action                 text,
	actor_type             text NOT NULL CHECK (actor_type IN ('api_key', 'user', 'system', 'anonymous')),
	actor_id               text,
	api_key_id             uuid,
	request_hash           text CHECK (length(request_hash) = 64),
	status                 text NOT NULL CHECK (status IN ('success', 'error', 'denied')),
	error_code             text,
	error_message_redacted text,
	result_meta            jsonb,
	latency_ms             real NOT NULL,
	ip_address             inet,
	idempotency_key        text,
	dry_run                boolean NOT NULL DEFAULT false,
	policy_decision_id     uuid,
	trace_id               text,
	billable               boolean NOT NULL DEFAULT TRUE,
	billing_unit           text CHECK (billing_unit IN ('call', 'token', 'row', 'sec')),
	billing_quantity       bigint NOT NULL DEFAULT 1 CHECK (billing_quantity >= 0),
	tier                   text CHECK (tier IN ('free', 'paid')),
	PRIMARY KEY (tenant_id, ts, event_id),
	CHECK (NOT billable OR (status = 'success' AND NOT dry_run AND tier IS NOT NULL))
) PARTITION BY RANGE (ts);
CREATE INDEX audit_logs_ts ON acp.audit_logs USING brin (ts);
COMMENT ON TABLE acp.audit_logs IS
	'One row a call, append-only, partitioned by UTC month. Reports read acp_report.audit_logs, which shows the nil tenant as null.';
COMMENT ON COLUMN acp.audit_logs.event_id IS 'Identity of the row; with tenant_id and ts it makes a repeated event be refused.';
COMMENT ON COLUMN acp.audit_logs.request_id IS 'The request_id of the reply and of the X-Request-Id header.';
COMMENT ON COLUMN acp.audit_logs.ts IS 'acp.now() when the call was authenticated (or refused before): decides the billing period.';
COMMENT ON COLUMN acp.audit_logs.tenant_id IS 'The tenant; 00000000-0000-0000-0000-000000000000 for unknown callers.';
COMMENT ON COLUMN acp.audit_logs.integration IS 'The setting kernel_id: which installation answered.';
COMMENT ON COLUMN acp.audit_logs.pack IS 'Pack of the action; null when the action is unknown.';
COMMENT ON COLUMN acp.audit_logs.action IS 'Action name as asked for; null when the request was not readable.';
COMMENT ON COLUMN acp.audit_logs.actor_type IS 'api_key for authenticated calls, anonymous for unknown callers.';
COMMENT ON COLUMN acp.audit_logs.actor_id IS 'Display prefix of the key.';
COMMENT ON COLUMN acp.audit_logs.api_key_id IS 'acp.api_keys.api_key_id of the caller.';
COMMENT ON COLUMN acp.audit_logs.request_hash IS 'hex SHA-256 of the RFC 8785 form of the redacted envelope; null when it was not readable.';
COMMENT ON COLUMN acp.audit_logs.status IS 'success, error, or denied (refused by a rule).';
COMMENT ON COLUMN acp.audit_logs.error_code IS 'Code of the reply, for example UPGRADE_REQUIRED; null on success.';
COMMENT ON COLUMN acp.audit_logs.error_message_redacted IS 'Sentence of the reply without credentials; null on success.';
COMMENT ON COLUMN acp.audit_logs.result_meta IS 'What the call touched (resource_type, resource_id, count, …), never a payload.';
COMMENT ON COLUMN acp.audit_logs.latency_ms IS 'From the request being read to the row being written.';
COMMENT ON COLUMN acp.audit_logs.ip_address IS 'REMOTE_ADDR as the web server gives it.';
COMMENT ON COLUMN acp.audit_logs.idempotency_key IS 'As sent by the client.';
COMMENT ON COLUMN acp.audit_logs.dry_run IS 'The call only asked what would happen.';
COMMENT ON COLUMN acp.audit_logs.policy_decision_id IS 'Decision of the policy engine; null when none was asked.';
COMMENT ON COLUMN acp.audit_logs.trace_id IS 'trace-id of the W3C traceparent header.';
COMMENT ON COLUMN acp.audit_logs.billable IS 'True only for a success of a billable action that is neither dry run nor replay.';
COMMENT ON COLUMN acp.audit_logs.billing_unit IS 'Unit of the action: call, token, row or sec; null counts as call.';
COMMENT ON COLUMN acp.audit_logs.billing_quantity IS 'How many units.';
COMMENT ON COLUMN acp.audit_logs.tier IS 'Tier the tenant was treated as at that moment; null for unknown callers.';

-- Usage -----------------------------------------------------------------------------------------------------------

CREATE TABLE acp.usage_quota (
	tenant_id uuid NOT NULL,
	period    date NOT NULL CHECK (extract(day FROM period) = 1),
	used      integer NOT NULL DEFAULT 0 CHECK (used >= 0),
	reserved  integer NOT NULL DEFAULT 0 CHECK (reserved >= 0),
	PRIMARY KEY (tenant_id, period)
) WITH (fillfactor = 50);
COMMENT ON TABLE acp.usage_quota IS 'The exact free allowance: one row a tenant and UTC month, locked for the moment of a reservation.';
COMMENT ON COLUMN acp.usage_quota.tenant_id IS 'The tenant.';
COMMENT ON COLUMN acp.usage_quota.period IS 'First day of the UTC month.';
COMMENT ON COLUMN acp.usage_quota.used IS 'Billable successes made while treated as free = audit rows with billable and tier free.';
COMMENT ON COLUMN acp.usage_quota.reserved IS 'Places held by calls that run now = rows in acp.usage_reservations.';

CREATE TABLE acp.usage_reservations (
	tenant_id      uuid NOT NULL,
	period         date NOT NULL,
	reservation_id uuid NOT NULL,
	expires_at     timestamptz NOT NULL,
	PRIMARY KEY (tenant_id, period, reservation_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE acp.usage_reservations IS 'A place in the free allowance held by a running call; freed by its end or, after a crash, by expiry.';
COMMENT ON COLUMN acp.usage_reservations.tenant_id IS 'The tenant.';
COMMENT ON COLUMN acp.usage_reservations.period IS 'Month the place is taken from.';
COMMENT ON COLUMN acp.usage_reservations.reservation_id IS 'Made by the router: the event_id of the call.';
COMMENT ON COLUMN acp.usage_reservations.expires_at IS 'After this the place may be given to another call.';

CREATE TABLE acp.usage_counters (
	tenant_id    uuid NOT NULL,
	day          date NOT NULL,
	action       text NOT NULL,
	status       text NOT NULL,
	billable     boolean NOT NULL,
	tier         text NOT NULL,
	billing_unit text NOT NULL,
	slot         smallint NOT NULL,
	calls        bigint NOT NULL,
	quantity     bigint NOT NULL,
	PRIMARY KEY (tenant_id, day, action, status, billable, tier, billing_unit, slot)
) WITH (fillfactor = 70);
COMMENT ON TABLE acp.usage_counters IS
	'How many audit rows of known actions a tenant has, by day: counted in the transaction that writes the row, so their sum equals the rows.';
COMMENT ON COLUMN acp.usage_counters.tenant_id IS 'The tenant.';
COMMENT ON COLUMN acp.usage_counters.day IS 'UTC day of ts.';
COMMENT ON COLUMN acp.usage_counters.action IS 'Action.';
COMMENT ON COLUMN acp.usage_counters.status IS 'As in the audit row.';
COMMENT ON COLUMN acp.usage_counters.billable IS 'As in the audit row.';
COMMENT ON COLUMN acp.usage_counters.tier IS 'As in the audit row.';
COMMENT ON COLUMN acp.usage_counters.billing_unit IS 'As in the audit row; call where that is null.';
COMMENT ON COLUMN acp.usage_counters.slot IS 'Sub-counter: spreads one busy tenant over several rows; sum over it.';
COMMENT ON COLUMN acp.usage_counters.calls IS 'Number of audit rows.';
COMMENT ON COLUMN acp.usage_counters.quantity IS 'Sum of their billing_quantity.';

-- Idempotency -----------------------------------------------------------------------------------------------------

CREATE TABLE acp.idempotency (
	tenant_id   uuid NOT NULL,
	action      text NOT NULL,
	key         text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
	fingerprint text NOT NULL CHECK (length(fingerprint) = 64),
	state       text NOT NULL CHECK (state IN ('running', 'done')),
	owner       uuid,
	lease_until timestamptz,
	reply       jsonb,
	sealed      bytea,
	created_at  timestamptz NOT NULL,
	expires_at  timestamptz NOT NULL,
	PRIMARY KEY (tenant_id, action, key)
);
CREATE INDEX idempotency_expires_at ON acp.idempotency (expires_at);
COMMENT ON TABLE acp.idempotency IS 'What was answered to a call that carried an idempotency key; kept for 24 hours.';
COMMENT ON COLUMN acp.idempotency.tenant_id IS 'The tenant; the nil UUID for onboarding, which has none yet.';
COMMENT ON COLUMN acp.idempotency.action IS 'Action, or onboard.{product}.';
COMMENT ON COLUMN acp.idempotency.key IS 'The client''s key; for onboarding its HMAC, because there it leads to a credential.';
COMMENT ON COLUMN acp.idempotency.fingerprint IS 'Hash of the canonical request, in hex: another request under the same key is refused.';
COMMENT ON COLUMN acp.idempotency.state IS 'running until the result is committed.';
COMMENT ON COLUMN acp.idempotency.owner IS 'event_id of the call that holds or held the claim.';
COMMENT ON COLUMN acp.idempotency.lease_until IS 'While running: after this the claim of a crashed call is free.';
COMMENT ON COLUMN acp.idempotency.reply IS 'Onboarding: what the reply is made from; never a credential.';
COMMENT ON COLUMN acp.idempotency.sealed IS 'Calls: the reply''s data, encrypted with a key made from the pepper and the idempotency key.';
COMMENT ON COLUMN acp.idempotency.created_at IS 'Time of the first call.';
COMMENT ON COLUMN acp.idempotency.expires_at IS 'From then on the key is as new.';

-- Prices ----------------------------------------------------------------------------------------------------------

CREATE TABLE acp.prices (
	unit           text NOT NULL CHECK (unit IN ('call', 'token', 'row', 'sec')),
	action_pattern text NOT NULL DEFAULT '*',
	unit_amount    numeric NOT NULL CHECK (unit_amount >= 0),
	currency       text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
	valid_from     timestamptz NOT NULL,
	PRIMARY KEY (unit, action_pattern, valid_from)
);
COMMENT ON TABLE acp.prices IS 'What a unit costs from a moment on. An action whose unit has no price is charged by the call.';
COMMENT ON COLUMN acp.prices.unit IS 'call, token, row or sec.';
COMMENT ON COLUMN acp.prices.action_pattern IS 'Which actions: a name, or a prefix followed by *; the longest that fits wins.';
COMMENT ON COLUMN acp.prices.unit_amount IS 'Price of one unit in the major unit of the currency (dollars, not cents).';
COMMENT ON COLUMN acp.prices.currency IS 'ISO 4217 code.';
COMMENT ON COLUMN acp.prices.valid_from IS 'The newest row not after the moment of the call applies.';

INSERT INTO acp.prices (unit, unit_amount, currency, valid_from) VALUES ('call', 0.001, 'USD', '2000-01-01 00:00:00+00');

-- Lead scoring (pack domain.leadscoring) --------------------------------------------------------------------------

CREATE TABLE acp.leadscoring_models (
	tenant_id   uuid NOT NULL REFERENCES acp.tenants,
	model_id    uuid NOT NULL,
	name        text NOT NULL,
	model_type  text NOT NULL CHECK (model_type IN ('linear', 'ml', 'rule_based')),
	description text,
	weights     jsonb NOT NULL,
	created_at  timestamptz NOT NULL,
	PRIMARY KEY (tenant_id, model_id)
);
CREATE INDEX leadscoring_models_created ON acp.leadscoring_models (tenant_id, created_at, model_id);
COMMENT ON TABLE acp.leadscoring_models IS 'Scoring models of a tenant.';
COMMENT ON COLUMN acp.leadscoring_models.tenant_id IS 'Owner.';
COMMENT ON COLUMN acp.leadscoring_models.model_id IS 'Id that scores.compute takes.';
COMMENT ON COLUMN acp.leadscoring_models.name IS 'What the tenant calls it.';
COMMENT ON COLUMN acp.leadscoring_models.model_type IS 'linear, ml or rule_based.';
COMMENT ON COLUMN acp.leadscoring_models.description IS 'Free text.';
COMMENT ON COLUMN acp.leadscoring_models.weights IS 'Feature name -> weight.';
COMMENT ON COLUMN acp.leadscoring_models.created_at IS 'When it was made.';

CREATE TABLE acp.leadscoring_questions (
	tenant_id  uuid NOT NULL REFERENCES acp.tenants,
	key        text NOT NULL,
	text       text NOT NULL,
	weight     double precision NOT NULL,
	updated_at timestamptz NOT NULL,
	PRIMARY KEY (tenant_id, key)
);
COMMENT ON TABLE acp.leadscoring_questions IS 'Qualification questions of a tenant.';
COMMENT ON COLUMN acp.leadscoring_questions.tenant_id IS 'Owner.';
COMMENT ON COLUMN acp.leadscoring_questions.key IS 'Name of the question, unique in the tenant.';
COMMENT ON COLUMN acp.leadscoring_questions.text IS 'The question.';
COMMENT ON COLUMN acp.leadscoring_questions.weight IS 'How much an answer counts.';
COMMENT ON COLUMN acp.leadscoring_questions.updated_at IS 'Last upsert.';

-- Webhooks --------------------------------------------------------------------------------------------------------

CREATE TABLE acp.webhooks (
	tenant_id       uuid NOT NULL REFERENCES acp.tenants,
	webhook_id      uuid NOT NULL,
	url             text NOT NULL CHECK (length(url) <= 2048),
	events          text[] NOT NULL,
	description     text CHECK (length(description) <= 255),
	status          text NOT NULL CHECK (status IN ('active', 'disabled')),
	disabled_reason text,
	sealed          bytea NOT NULL,
	sealed_before   bytea,
	before_until    timestamptz,
	created_at      timestamptz NOT NULL,
	updated_at      timestamptz NOT NULL,
	PRIMARY KEY (tenant_id, webhook_id)
);
COMMENT ON TABLE acp.webhooks IS 'Where a tenant wants to be told of what happens.';
COMMENT ON COLUMN acp.webhooks.tenant_id IS 'The tenant.';
COMMENT ON COLUMN acp.webhooks.webhook_id IS 'Identity.';
COMMENT ON COLUMN acp.webhooks.url IS 'Receiver.';
COMMENT ON COLUMN acp.webhooks.events IS 'Names of events, in which * stands for anything.';
COMMENT ON COLUMN acp.webhooks.description IS 'What its owner calls it.';
COMMENT ON COLUMN acp.webhooks.status IS 'active, or disabled: by its owner, or because the receiver answered 410.';
COMMENT ON COLUMN acp.webhooks.disabled_reason IS 'Why it is disabled; null: its owner did it.';
COMMENT ON COLUMN acp.webhooks.sealed IS 'The signing secret, encrypted with a key made from the pepper and webhook_id.';
COMMENT ON COLUMN acp.webhooks.sealed_before IS 'The secret before the last rotation: deliveries are signed with both for a while.';
COMMENT ON COLUMN acp.webhooks.before_until IS 'Until then.';
COMMENT ON COLUMN acp.webhooks.created_at IS 'When it was made.';
COMMENT ON COLUMN acp.webhooks.updated_at IS 'Last change.';

CREATE TABLE acp.webhook_deliveries (
	tenant_id       uuid NOT NULL,
	delivery_id     uuid NOT NULL,
	webhook_id      uuid NOT NULL,
	event           text NOT NULL,
	payload         jsonb NOT NULL,
	status          text NOT NULL CHECK (status IN ('pending', 'delivered', 'failed')),
	attempts        integer NOT NULL DEFAULT 0,
	next_attempt_at timestamptz CHECK (next_attempt_at IS NOT NULL OR status <> 'pending'),
	last_status     integer,
	last_error      text,
	created_at      timestamptz NOT NULL,
	delivered_at    timestamptz,
	PRIMARY KEY (tenant_id, delivery_id),
	FOREIGN KEY (tenant_id, webhook_id) REFERENCES acp.webhooks ON DELETE CASCADE
);
CREATE INDEX webhook_deliveries_due ON acp.webhook_deliveries (next_attempt_at) WHERE status = 'pending';
CREATE INDEX webhook_deliveries_ended ON acp.webhook_deliveries (created_at) WHERE status <> 'pending';
CREATE INDEX webhook_deliveries_webhook ON acp.webhook_deliveries (tenant_id, webhook_id, created_at);
COMMENT ON TABLE acp.webhook_deliveries IS 'Events on their way to a webhook: written with their cause, sent by any process, kept for 30 days.';
COMMENT ON COLUMN acp.webhook_deliveries.tenant_id IS 'The tenant.';
COMMENT ON COLUMN acp.webhook_deliveries.delivery_id IS 'Identity: the header webhook-id, the same at every attempt.';
COMMENT ON COLUMN acp.webhook_deliveries.webhook_id IS 'To which webhook.';
COMMENT ON COLUMN acp.webhook_deliveries.event IS 'Name of the event, for example key.created.';
COMMENT ON COLUMN acp.webhook_deliveries.payload IS 'What is sent: type, timestamp, data. Never a secret.';
COMMENT ON COLUMN acp.webhook_deliveries.status IS 'pending -> delivered, or failed after the last attempt.';
COMMENT ON COLUMN acp.webhook_deliveries.attempts IS 'Attempts begun; which of them may say how it ended.';
COMMENT ON COLUMN acp.webhook_deliveries.next_attempt_at IS 'While pending: when it is due; while it is being sent, when that attempt counts as crashed.';
COMMENT ON COLUMN acp.webhook_deliveries.last_status IS 'HTTP status of the last attempt; null: there was no answer.';
COMMENT ON COLUMN acp.webhook_deliveries.last_error IS 'What went wrong at the last attempt; null: nothing.';
COMMENT ON COLUMN acp.webhook_deliveries.created_at IS 'When the event happened.';
COMMENT ON COLUMN acp.webhook_deliveries.delivered_at IS 'When a receiver took it.';

-- Other kernels ---------------------------------------------------------------------------------------------------

CREATE TABLE acp.kernels (
	kernel_id    text PRIMARY KEY CHECK (length(kernel_id) BETWEEN 1 AND 255),
	version      text,
	info         jsonb NOT NULL,
	last_seen_at timestamptz NOT NULL
);
COMMENT ON TABLE acp.kernels IS 'Kernels that use this installation as their hub, as their heartbeats tell.';
COMMENT ON COLUMN acp.kernels.kernel_id IS 'The name it has for itself: the same as in audit_logs.integration of its rows.';
COMMENT ON COLUMN acp.kernels.version IS 'Its program and version.';
COMMENT ON COLUMN acp.kernels.info IS 'What else it tells, for example actions_count.';
COMMENT ON COLUMN acp.kernels.last_seen_at IS 'When its last heartbeat came.';

CREATE TABLE acp.usage_settled (
	tenant_id      uuid NOT NULL,
	period         date NOT NULL,
	reservation_id uuid NOT NULL,
	settled_at     timestamptz NOT NULL,
	PRIMARY KEY (tenant_id, period, reservation_id)
);
COMMENT ON TABLE acp.usage_settled IS
	'Calls of other kernels that are counted in acp.usage_quota and whose audit row has not arrived yet; its arrival ends the row.';
COMMENT ON COLUMN acp.usage_settled.tenant_id IS 'The tenant.';
COMMENT ON COLUMN acp.usage_settled.period IS 'Month it is counted in.';
COMMENT ON COLUMN acp.usage_settled.reservation_id IS 'event_id of the call.';
COMMENT ON COLUMN acp.usage_settled.settled_at IS 'When it was counted.';

CREATE TABLE acp.audit_outbox (
	tenant_id uuid NOT NULL,
	ts        timestamptz NOT NULL,
	event_id  uuid NOT NULL,
	event     jsonb NOT NULL,
	refused   text,
	PRIMARY KEY (tenant_id, ts, event_id)
);
CREATE INDEX audit_outbox_ts ON acp.audit_outbox (ts) WHERE refused IS NULL;
COMMENT ON TABLE acp.audit_outbox IS 'Audit rows on their way to a remote hub (setting hub_url): written with the row, deleted when the hub has it.';
COMMENT ON COLUMN acp.audit_outbox.tenant_id IS 'As in the row.';
COMMENT ON COLUMN acp.audit_outbox.ts IS 'As in the row.';
COMMENT ON COLUMN acp.audit_outbox.event_id IS 'As in the row.';
COMMENT ON COLUMN acp.audit_outbox.event IS 'The row as the hub takes it.';
COMMENT ON COLUMN acp.audit_outbox.refused IS 'Why the hub will never take it; null: it has not been asked, or was away.';

-- What the program may do: read and write through the functions it is granted, and append to the log. ---------------

GRANT SELECT, INSERT ON acp.audit_logs TO acp_app;
GRANT SELECT, INSERT, UPDATE ON acp.tenants, acp.api_keys, acp.team_members, acp.tenant_settings, acp.policies, acp.policy_proposals, acp.approvals, acp.leadscoring_models TO acp_app;
GRANT SELECT, INSERT ON acp.agents, acp.key_lookup TO acp_app;
GRANT SELECT, INSERT, UPDATE ON acp.usage_quota, acp.usage_counters, acp.leadscoring_questions TO acp_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON acp.usage_reservations, acp.idempotency TO acp_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON acp.webhooks, acp.webhook_deliveries TO acp_app;
GRANT SELECT ON acp.prices TO acp_app;
GRANT SELECT, INSERT, UPDATE ON acp.kernels TO acp_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON acp.audit_outbox TO acp_app;
GRANT SELECT, INSERT, DELETE ON acp.usage_settled TO acp_app;
