-- Tenants and keys: authentication, onboarding, changes by the operator.

CREATE OR REPLACE FUNCTION acp.effective_tier(p_tier text, p_payment_method_status text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN CASE WHEN p_tier = 'paid' AND p_payment_method_status = 'active' THEN 'paid' ELSE 'free' END; END $$;
COMMENT ON FUNCTION acp.effective_tier(text, text) IS 'Returns paid only with an active payment method, else free (contract section 3, usage).';

CREATE OR REPLACE FUNCTION acp.effective_tier(p_tier text, p_payment_method_status text, p_past_due_until timestamptz, p_at timestamptz) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN CASE WHEN p_tier = 'paid' AND p_payment_method_status = 'active' AND coalesce(p_at < p_past_due_until, true) THEN 'paid' ELSE 'free' END; END $$;
COMMENT ON FUNCTION acp.effective_tier(text, text, timestamptz, timestamptz) IS
	'Returns paid only with an active payment method and, if an invoice is past due, before its days of grace end at p_past_due_until; else free. p_at: the moment of the call. (The form without the last two is for queries that do not look at unpaid invoices.)';

-- Signatures up to schema versions 1 and 10.
DROP FUNCTION IF EXISTS acp.authenticate(bytea), acp.authenticate(bytea, bigint);

CREATE OR REPLACE FUNCTION acp.authenticate(p_key_hash bytea, p_since bigint,
	OUT ts timestamptz, OUT tenant_id uuid, OUT api_key_id uuid, OUT key_prefix text, OUT scopes text[], OUT tier text,
	OUT rate_limit integer, OUT policed boolean, OUT calls_limit integer, OUT expires_at timestamptz, OUT version bigint, OUT changed uuid[],
	OUT past_due_since timestamptz, OUT past_due_until timestamptz)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
	-- Read the change number before the key: the key data is then at least as new as the number.
	SELECT n.at, n.version, n.changed INTO ts, version, changed FROM acp.change_feed(p_since, true) n;
	SELECT k.tenant_id, k.api_key_id, k.key_prefix, k.scopes,
		acp.effective_tier(t.tier, t.payment_method_status, t.past_due_until, ts), k.rate_limit,
		EXISTS (SELECT FROM acp.policies p WHERE p.enabled AND (p.tenant_id IS NULL OR p.tenant_id = k.tenant_id)), t.calls_limit,
		k.expires_at, t.past_due_since, t.past_due_until
	INTO tenant_id, api_key_id, key_prefix, scopes, tier, rate_limit, policed, calls_limit, expires_at, past_due_since, past_due_until
	FROM acp.key_lookup l
	JOIN acp.api_keys k ON k.tenant_id = l.tenant_id AND k.api_key_id = l.api_key_id
	JOIN acp.tenants t ON t.tenant_id = k.tenant_id
	WHERE l.key_hash = p_key_hash
	  AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > ts)
	  AND t.status = 'active';
END
$$;
COMMENT ON FUNCTION acp.authenticate(bytea, bigint) IS
	'Finds the caller by key hash; also returns the change feed (acp.change_feed) and the clock. tenant_id is null unless the key is usable: known, not revoked, not expired, tenant active. policed: a policy may apply to its calls. past_due_until: from then on a tier of paid is to be read as free.';

CREATE OR REPLACE FUNCTION acp.key_create(p_tenant uuid, p_api_key_id uuid, p_key_hash bytea, p_key_prefix text, p_name text,
	p_scopes text[], p_expires_at timestamptz) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF p_expires_at <= acp.now() THEN
		PERFORM acp.fail('VALIDATION_ERROR', 'expires_at is in the past', '/expires_at');
	END IF;
	IF NOT EXISTS (SELECT FROM acp.tenants WHERE tenant_id = p_tenant) THEN
		PERFORM acp.fail('NOT_FOUND', 'no tenant has this id');
	END IF;
	INSERT INTO acp.key_lookup (key_hash, tenant_id, api_key_id) VALUES (p_key_hash, p_tenant, p_api_key_id);
	INSERT INTO acp.api_keys (tenant_id, api_key_id, key_hash, key_prefix, name, scopes, created_at, expires_at)
	VALUES (p_tenant, p_api_key_id, p_key_hash, p_key_prefix, p_name, p_scopes, acp.now(), p_expires_at);
END
$$;
COMMENT ON FUNCTION acp.key_create(uuid, uuid, bytea, text, text, text[], timestamptz) IS
	'Stores a key of a tenant: its hash and display prefix, never the key itself. p_expires_at null: the key does not expire.';

CREATE OR REPLACE FUNCTION acp.key_revoke(p_api_key_id uuid) RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	WITH revoked AS (
		UPDATE acp.api_keys SET revoked_at = acp.now() WHERE api_key_id = p_api_key_id AND revoked_at IS NULL RETURNING 1)
	SELECT EXISTS (SELECT FROM revoked)
$$;
COMMENT ON FUNCTION acp.key_revoke(uuid) IS 'Revokes a key. False: no such key, or already revoked.';

CREATE OR REPLACE FUNCTION acp.tenant_create(p_tenant uuid, p_product text, p_agent_id text, p_email text, p_organization text) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO acp.agents (agent_id, tenant_id) VALUES (p_agent_id, p_tenant) ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	INSERT INTO acp.tenants (tenant_id, agent_id, billing_email, organization_name, product, onboarded_at, updated_at)
	VALUES (p_tenant, p_agent_id, p_email, p_organization, p_product, acp.now(), acp.now());
	RETURN true;
END
$$;
COMMENT ON FUNCTION acp.tenant_create(uuid, text, text, text, text) IS 'Creates a free tenant. False: another tenant has this agent_id.';

CREATE OR REPLACE FUNCTION acp.tenant_update(p_tenant uuid, p_tier text, p_payment_method_status text, p_status text, p_calls_limit integer) RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	WITH changed AS (
		UPDATE acp.tenants SET
			tier = coalesce(p_tier, tier),
			payment_method_status = coalesce(p_payment_method_status, payment_method_status),
			status = coalesce(p_status, status),
			calls_limit = CASE WHEN p_calls_limit = -1 THEN NULL ELSE coalesce(p_calls_limit, calls_limit) END,
			upgraded_at = CASE WHEN p_tier = 'paid' THEN coalesce(upgraded_at, acp.now()) ELSE upgraded_at END,
			updated_at = acp.now()
		WHERE tenant_id = p_tenant RETURNING 1)
	SELECT EXISTS (SELECT FROM changed)
$$;
COMMENT ON FUNCTION acp.tenant_update(uuid, text, text, text, integer) IS
	'Changes the tier, payment method status, status and free calls per month of a tenant. Null leaves a value as it is; p_calls_limit -1 restores the default. False: no such tenant.';

CREATE OR REPLACE FUNCTION acp.onboard_meta(p_tenant uuid) RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT jsonb_build_object('result_meta', jsonb_build_object('resource_type', 'tenant', 'resource_id', p_tenant)) $$;
COMMENT ON FUNCTION acp.onboard_meta(uuid) IS 'Returns result_meta for the audit row of an onboarding: the tenant created.';

CREATE OR REPLACE FUNCTION acp.onboard_decide(p_api_key_id uuid, p_outcome text) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- Of two concurrent calls, the second waits here for the commit of the first.
	INSERT INTO acp.idempotency (tenant_id, action, key, fingerprint, state, reply, created_at, expires_at)
	VALUES ('00000000-0000-0000-0000-000000000000', 'onboarding', p_api_key_id::text, repeat('0', 64), 'done', to_jsonb(p_outcome),
		acp.now(), acp.now() + interval '31 days')
	ON CONFLICT DO NOTHING;
	IF FOUND THEN
		RETURN NULL;
	END IF;
	RETURN (SELECT i.reply #>> '{}' FROM acp.idempotency i
		WHERE i.tenant_id = '00000000-0000-0000-0000-000000000000' AND i.action = 'onboarding' AND i.key = p_api_key_id::text);
END
$$;
COMMENT ON FUNCTION acp.onboard_decide(uuid, text) IS
	'Decides the outcome of one onboarding request, identified by its proposed key id: recorded (acp.onboard() wrote its audit row) or given_up (the caller was told that it failed). Returns null if p_outcome now applies, else the earlier decision.';

CREATE OR REPLACE FUNCTION acp.onboard_record(p_api_key_id uuid, p_event jsonb) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	CASE acp.onboard_decide(p_api_key_id, 'recorded')
		WHEN 'recorded' THEN PERFORM acp.audit_confirm(); -- a repeat: the answer was lost
		WHEN 'given_up' THEN PERFORM acp.fail('UNAVAILABLE', 'this request was answered as failed before');
		ELSE PERFORM acp.audit_append(p_event);
	END CASE;
END
$$;
COMMENT ON FUNCTION acp.onboard_record(uuid, jsonb) IS
	'Writes the audit row of an onboarding once, even if the request is repeated. Fails if the request was given up.';

CREATE OR REPLACE FUNCTION acp.onboard_give_up(p_api_key_id uuid) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF acp.onboard_decide(p_api_key_id, 'given_up') = 'recorded' THEN
		PERFORM acp.audit_confirm();
		RETURN false;
	END IF;
	RETURN true;
END
$$;
COMMENT ON FUNCTION acp.onboard_give_up(uuid) IS
	'Gives up an onboarding that got no answer from the database and was reported as failed. acp.onboard() refuses it if it arrives later. False: it was already recorded and has its audit row.';

CREATE OR REPLACE FUNCTION acp.onboard(p jsonb, p_key_hash bytea, p_event jsonb,
	OUT verdict text, OUT tenant_id uuid, OUT api_key_id uuid, OUT salt text, OUT created_at timestamptz)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	nil      CONSTANT uuid := '00000000-0000-0000-0000-000000000000';
	op       CONSTANT text := 'onboard.' || (p->>'product');
	idem_key CONSTANT text := p->>'idempotency_key';
	per_email CONSTANT bigint := coalesce((p->>'per_email')::bigint, 0);
	earlier  acp.idempotency;
	made_at  timestamptz;
	customer text;
BEGIN
	created_at := acp.now();
	IF idem_key IS NOT NULL THEN
		-- Of two first calls with one key, the second waits here and then finds the row of the first.
		PERFORM pg_advisory_xact_lock(hashtextextended(op || idem_key, 0));
		SELECT * INTO earlier FROM acp.idempotency i WHERE i.tenant_id = nil AND i.action = op AND i.key = idem_key;
		IF earlier.expires_at > created_at THEN
			IF earlier.fingerprint <> p->>'fingerprint' THEN
				verdict := 'mismatch';
				RETURN;
			END IF;
			tenant_id := earlier.reply->>'tenant_id';
			api_key_id := earlier.reply->>'api_key_id';
			salt := earlier.reply->>'salt';
			created_at := earlier.created_at;
			-- The same call was repeated because its answer was lost. Everything is already stored.
			IF api_key_id = (p->>'api_key_id')::uuid THEN
				PERFORM acp.audit_confirm();
				verdict := 'created';
				RETURN;
			END IF;
			verdict := 'replay';
			PERFORM acp.onboard_record((p->>'api_key_id')::uuid, p_event || acp.onboard_meta(tenant_id));
			RETURN;
		END IF;
	END IF;
	tenant_id := p->>'tenant_id';
	api_key_id := p->>'api_key_id';
	salt := p->>'salt';
	IF per_email > 0 THEN
		-- Concurrent tenants with one address wait for each other, so that all of them are counted.
		PERFORM pg_advisory_xact_lock(hashtextextended('email ' || lower(p->>'email'), 0));
	END IF;
	IF NOT acp.tenant_create(tenant_id, p->>'product', p->>'agent_id', p->>'email', p->>'organization_name') THEN
		-- This call may have created it before and be repeated because its answer was lost. (A tenant_id from a
		-- hub may be older.)
		SELECT t.onboarded_at INTO made_at FROM acp.api_keys k JOIN acp.tenants t ON t.tenant_id = k.tenant_id
		WHERE k.tenant_id = (p->>'tenant_id')::uuid AND k.api_key_id = (p->>'api_key_id')::uuid AND t.agent_id = p->>'agent_id';
		IF FOUND THEN
			created_at := made_at;
			PERFORM acp.audit_confirm();
			verdict := 'created';
			RETURN;
		END IF;
		verdict := 'taken';
		tenant_id := NULL;
		api_key_id := NULL;
		RETURN;
	END IF;
	IF (SELECT count(*) FROM acp.tenants t WHERE lower(t.billing_email) = lower(p->>'email') AND t.tier = 'free') > nullif(per_email, 0) THEN
		PERFORM acp.fail('CEILING_EXCEEDED', format('%s free tenants already have this e-mail address', per_email), '/email');
	END IF;
	PERFORM acp.key_create(tenant_id, api_key_id, p_key_hash, p->>'key_prefix', p->>'key_name',
		ARRAY(SELECT jsonb_array_elements_text(p->'scopes')), NULL);
	IF idem_key IS NOT NULL THEN
		DELETE FROM acp.idempotency i WHERE i.tenant_id = nil AND i.action = op AND i.key = idem_key;
		INSERT INTO acp.idempotency (tenant_id, action, key, fingerprint, state, reply, created_at, expires_at)
		VALUES (nil, op, idem_key, p->>'fingerprint', 'done',
			jsonb_build_object('tenant_id', tenant_id, 'api_key_id', api_key_id, 'salt', salt), created_at, created_at + interval '24 hours');
	END IF;
	IF (p->>'customer')::boolean THEN
		customer := acp.outbox_customer(tenant_id);
		-- The caller claims this obligation by name and replies within 2 seconds. Until then it is due for nobody else.
		UPDATE acp.outbox o SET due_at = o.due_at + interval '2 seconds'
		WHERE o.tenant_id = onboard.tenant_id AND o.obligation = customer;
	END IF;
	PERFORM acp.onboard_record(api_key_id, p_event || acp.onboard_meta(tenant_id));
	verdict := 'created';
END
$$;
COMMENT ON FUNCTION acp.onboard(jsonb, bytea, jsonb) IS
	'Creates in one transaction: the tenant, its first key, the audit row p_event and, with member customer, the obligation to create the Stripe customer, which is due after 2 seconds unless the caller claims it by name. verdict: created (also for a repeat with the same api_key_id, which changes nothing); replay (same Idempotency-Key, same request: ids and salt of the first call); mismatch (same key, other request); taken (agent_id in use). With member per_email (above 0), refuses a further free tenant with the same e-mail address. Fails if acp.onboard_give_up() came first.';

GRANT EXECUTE ON FUNCTION acp.onboard_decide(uuid, text), acp.onboard_record(uuid, jsonb), acp.onboard_give_up(uuid), acp.effective_tier(text, text),
	acp.effective_tier(text, text, timestamptz, timestamptz), acp.authenticate(bytea, bigint), acp.key_create(uuid, uuid, bytea, text, text, text[], timestamptz),
	acp.key_revoke(uuid), acp.tenant_create(uuid, text, text, text, text), acp.tenant_update(uuid, text, text, text, integer),
	acp.onboard_meta(uuid), acp.onboard(jsonb, bytea, jsonb) TO acp_app;
