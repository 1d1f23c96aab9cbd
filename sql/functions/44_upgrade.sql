-- The upgrade: a person enters a payment method in a Stripe checkout session, and Stripe reports it by events.
--
-- Events may be repeated and arrive in any order. The state of a tenant is therefore computed from all known facts, not
-- from the last event (acp.upgrade_settle). Three rules decide between events:
--   1. Of two completed checkouts the newer one counts: by created (in seconds), then by our attempt number, then by
--      event id.
--   2. A detached payment method never comes back. A paid invoice stays paid.
--   3. While the payment method of a checkout is unknown, a detachment for the same customer that is not older is
--      assumed to concern that method. On equal seconds the tenant counts as not paid.
-- Lock order: the row of the event, the row of the tenant, then checkouts, marks and obligations.

CREATE OR REPLACE FUNCTION acp.checkouts_expire(p_tenant uuid) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE acp.checkouts SET status = CASE status WHEN 'open' THEN 'expired' ELSE 'failed' END, url = NULL
	WHERE tenant_id = p_tenant AND status IN ('asked', 'open') AND expires_at <= acp.now();
	UPDATE acp.tenants t SET payment_method_status = 'none', updated_at = acp.now()
	WHERE t.tenant_id = p_tenant AND t.payment_method_status = 'setup_pending'
	  AND NOT EXISTS (SELECT FROM acp.checkouts c WHERE c.tenant_id = p_tenant AND c.status = 'open');
END
$$;
COMMENT ON FUNCTION acp.checkouts_expire(uuid) IS
	'Expires old checkout sessions of a tenant. setup_pending ends with its last open session.';

CREATE OR REPLACE FUNCTION acp.checkouts_expire_due() RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t    record;
	seen integer := 0;
BEGIN
	FOR t IN SELECT x.tenant_id FROM acp.tenants x WHERE x.tenant_id IN (SELECT c.tenant_id FROM acp.checkouts c
			WHERE c.status IN ('asked', 'open') AND c.expires_at <= acp.now() ORDER BY c.expires_at LIMIT 100)
		FOR NO KEY UPDATE SKIP LOCKED
	LOOP
		PERFORM acp.checkouts_expire(t.tenant_id);
		seen := seen + 1;
	END LOOP;
	RETURN seen;
END
$$;
COMMENT ON FUNCTION acp.checkouts_expire_due() IS 'Expires old checkout sessions of all tenants. Returns the number of tenants affected. Called by a background thread.';

CREATE OR REPLACE FUNCTION acp.upgrade_begin(p jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	tenant CONSTANT uuid := p->>'tenant_id';
	t      acp.tenants;
	c      acp.checkouts;
BEGIN
	PERFORM FROM acp.tenants WHERE tenant_id = tenant AND status = 'active' FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		PERFORM acp.fail('NOT_FOUND', 'no active tenant has this id', '/tenant_uuid');
	END IF;
	PERFORM acp.checkouts_expire(tenant);
	SELECT * INTO t FROM acp.tenants WHERE tenant_id = tenant;
	IF acp.effective_tier(t.tier, t.payment_method_status) = 'paid' THEN
		RETURN jsonb_build_object('verdict', 'paid');
	ELSIF t.stripe_customer_id IS NULL THEN
		RETURN jsonb_build_object('verdict', 'customer', 'obligation', acp.outbox_customer(tenant));
	END IF;
	SELECT * INTO c FROM acp.checkouts WHERE tenant_id = tenant ORDER BY attempt DESC LIMIT 1;
	-- A person who is being redirected there needs time to fill in the form.
	IF c.status = 'open' AND c.expires_at > acp.now() + interval '5 minutes' THEN
		RETURN jsonb_build_object('verdict', 'open', 'checkout_url', c.url, 'expires_at', acp.rfc3339(c.expires_at));
	ELSIF c.status IS DISTINCT FROM 'asked' THEN
		INSERT INTO acp.checkouts (tenant_id, attempt, status, asked_at, expires_at)
		VALUES (tenant, coalesce(c.attempt, 0) + 1, 'asked', acp.now(), acp.now() + interval '1 hour') RETURNING * INTO c;
	END IF;
	RETURN jsonb_build_object('verdict', 'create', 'attempt', c.attempt, 'customer', t.stripe_customer_id,
		'idempotency_key', 'checkout-' || tenant || '-' || c.attempt, 'obliged_at', floor(extract(epoch FROM c.asked_at))::bigint);
END
$$;
COMMENT ON FUNCTION acp.upgrade_begin(jsonb) IS
	'Returns the next step for the upgrade of tenant_id. verdict: paid (nothing to do), customer (execute this obligation first, then ask again), open (use this session), create (create a session with this attempt and key, which stay the same until the outcome is known).';

CREATE OR REPLACE FUNCTION acp.upgrade_opened(p jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	tenant CONSTANT uuid := p->>'tenant_id';
	ends   CONSTANT timestamptz := to_timestamp(least((p->>'expires_at')::bigint, 253402300799)); -- the year 9999
	c      acp.checkouts;
BEGIN
	PERFORM FROM acp.tenants WHERE tenant_id = tenant FOR NO KEY UPDATE;
	-- Two simultaneous clicks get the same session. The second finds it recorded, or even completed.
	UPDATE acp.checkouts SET session_id = p->>'session_id', url = p->>'url', expires_at = ends, status = CASE
			WHEN EXISTS (SELECT FROM acp.stripe_events e WHERE e.object_id = p->>'session_id' AND e.type = 'checkout.session.completed')
			THEN 'completed' ELSE 'open' END
	WHERE tenant_id = tenant AND attempt = (p->>'attempt')::integer AND status = 'asked' RETURNING * INTO c;
	IF FOUND THEN
		PERFORM acp.audit_append(p->'event' || jsonb_build_object('result_meta',
			jsonb_build_object('resource_type', 'checkout_session', 'resource_id', c.session_id, 'attempt', c.attempt)));
	END IF;
	IF c.status = 'open' THEN
		UPDATE acp.tenants SET payment_method_status = 'setup_pending', updated_at = acp.now()
		WHERE tenant_id = tenant AND payment_method_status = 'none';
	END IF;
	RETURN jsonb_build_object('checkout_url', p->>'url', 'expires_at', acp.rfc3339(ends));
END
$$;
COMMENT ON FUNCTION acp.upgrade_opened(jsonb) IS
	'Records a session that the executor created: tenant_id, attempt, session_id, url, expires_at (seconds), event (audit row). State none becomes setup_pending.';

CREATE OR REPLACE FUNCTION acp.upgrade_failed(p jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- Stripe would repeat its refusal under the same key for a day, so the next attempt gets a new key.
	IF NOT coalesce((p->>'unknown')::boolean, false) THEN
		UPDATE acp.checkouts SET status = 'failed'
		WHERE tenant_id = (p->>'tenant_id')::uuid AND attempt = (p->>'attempt')::integer AND status = 'asked';
	END IF;
	PERFORM acp.audit_append(p->'event');
	RETURN '{}';
END
$$;
COMMENT ON FUNCTION acp.upgrade_failed(jsonb) IS
	'Records that the executor did not create a session: tenant_id, attempt, event (audit row), unknown? (true: it may have; the next attempt uses the same key).';

CREATE OR REPLACE FUNCTION acp.upgrade_settle(p_tenant uuid) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t        acp.tenants;
	method   acp.stripe_marks;
	detached acp.stripe_marks;
	active   boolean;
	state    text;
BEGIN
	SELECT * INTO t FROM acp.tenants WHERE tenant_id = p_tenant;
	SELECT * INTO method FROM acp.stripe_marks WHERE tenant_id = p_tenant AND subject = 'method';
	SELECT * INTO detached FROM acp.stripe_marks WHERE tenant_id = p_tenant AND subject = 'detached';
	IF method.tenant_id IS NULL THEN
		RETURN t.payment_method_status; -- no completed checkout: keep what an operator set
	END IF;
	active := CASE WHEN t.stripe_payment_method IS NULL
		THEN detached.tenant_id IS NULL OR detached.created < method.created
			-- The detached method belongs to another checkout: it is a replaced card.
			OR EXISTS (SELECT FROM acp.outbox o WHERE o.tenant_id = p_tenant AND o.action = 'stripe.setup_intents.get'
				AND o.result->>'payment_method' = detached.reference AND o.params->>'setup_intent' <> method.reference)
		ELSE NOT EXISTS (SELECT FROM acp.stripe_events e
			WHERE e.object_id = t.stripe_payment_method AND e.type = 'payment_method.detached') END;
	state := CASE WHEN active THEN 'active'
		WHEN EXISTS (SELECT FROM acp.checkouts c WHERE c.tenant_id = p_tenant AND c.status = 'open') THEN 'setup_pending'
		ELSE 'none' END;
	IF state <> t.payment_method_status THEN
		PERFORM acp.tenant_update(p_tenant, NULL, state, NULL, NULL);
	END IF;
	RETURN state;
END
$$;
COMMENT ON FUNCTION acp.upgrade_settle(uuid) IS
	'Computes payment_method_status of a tenant from all Stripe events, stores and returns it. The caller holds the lock of the tenant''s row.';

CREATE OR REPLACE FUNCTION acp.upgrade_method(p_tenant uuid, p_setup_intent text, p_data jsonb) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	method CONSTANT text := p_data->>'payment_method';
BEGIN
	UPDATE acp.tenants t SET stripe_payment_method = method, updated_at = acp.now()
	FROM acp.stripe_marks m
	WHERE t.tenant_id = p_tenant AND m.tenant_id = p_tenant AND m.subject = 'method' AND m.reference = p_setup_intent AND method IS NOT NULL;
	IF FOUND AND acp.upgrade_settle(p_tenant) = 'active' THEN
		PERFORM acp.outbox_put(p_tenant, 'default-' || p_tenant || '-' || method, 'stripe.customers.update',
			jsonb_build_object('default_payment_method', method));
	END IF;
END
$$;
COMMENT ON FUNCTION acp.upgrade_method(uuid, text, jsonb) IS
	'Handles the lookup of a setup intent by the executor: if it belongs to the checkout that counts, invoices are paid with its payment method.';

-- Stripe's events -------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION acp.uuid_or_null(p_text text) RETURNS uuid
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN CASE WHEN p_text ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' THEN p_text::uuid END;
END
$$;
COMMENT ON FUNCTION acp.uuid_or_null(text) IS 'Converts text to a UUID; null if it is not one.';

CREATE OR REPLACE FUNCTION acp.stripe_attempt(p_event text) RETURNS integer
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN coalesce((SELECT c.attempt FROM acp.stripe_events e JOIN acp.checkouts c ON c.session_id = e.object_id
		WHERE e.event_id = p_event), 0);
END
$$;
COMMENT ON FUNCTION acp.stripe_attempt(text) IS 'Attempt number of the checkout that an event is about; 0: not a checkout of ours.';

CREATE OR REPLACE FUNCTION acp.stripe_mark(p_tenant uuid, p_subject text, p jsonb, p_reference text, p_rank boolean DEFAULT false) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO acp.stripe_marks AS m (tenant_id, subject, created, event_id, reference)
	VALUES (p_tenant, p_subject, to_timestamp((p->>'created')::bigint), p->>'event_id', p_reference)
	ON CONFLICT (tenant_id, subject) DO UPDATE SET created = excluded.created, event_id = excluded.event_id, reference = excluded.reference
	WHERE p_rank OR (m.created, acp.stripe_attempt(m.event_id), m.event_id COLLATE "C")
		< (excluded.created, acp.stripe_attempt(excluded.event_id), excluded.event_id COLLATE "C");
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION acp.stripe_mark(uuid, text, jsonb, text, boolean) IS
	'Stores an event as the newest of its subject. False: a newer one is already stored. p_rank: store it in any case.';

CREATE OR REPLACE FUNCTION acp.stripe_tenant(p jsonb) RETURNS uuid
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	named CONSTANT uuid := coalesce(acp.uuid_or_null(p->>'tenant_uuid'), acp.uuid_or_null(p->>'client_reference_id'));
	tenant uuid;
BEGIN
	IF named IS NULL THEN
		SELECT t.tenant_id INTO tenant FROM acp.tenants t
		WHERE t.stripe_customer_id = p->>'customer' OR t.stripe_payment_method = p->>'object_id'
		ORDER BY t.stripe_payment_method IS NOT DISTINCT FROM p->>'object_id' DESC LIMIT 1;
	END IF;
	SELECT t.tenant_id INTO tenant FROM acp.tenants t WHERE t.tenant_id = coalesce(named, tenant) FOR NO KEY UPDATE;
	RETURN tenant;
END
$$;
COMMENT ON FUNCTION acp.stripe_tenant(jsonb) IS
	'Finds and locks the tenant of an event: by the tenant it names, else by its customer or payment method. Null: unknown.';

CREATE OR REPLACE FUNCTION acp.stripe_checkout_completed(p_tenant uuid, p jsonb) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- Any creator of a payment link can choose its client reference. Only the owner of the Stripe key can set metadata.
	IF p_tenant IS DISTINCT FROM acp.uuid_or_null(p->>'client_reference_id')
	   OR p_tenant IS DISTINCT FROM acp.uuid_or_null(p->>'tenant_uuid') THEN
		RETURN 'mismatch';
	ELSIF coalesce(p->>'mode', 'setup') <> 'setup' OR coalesce(p->>'status', 'complete') <> 'complete' THEN
		RETURN 'ignored';
	END IF;
	UPDATE acp.checkouts SET status = 'completed', url = NULL WHERE tenant_id = p_tenant AND session_id = p->>'object_id';
	IF NOT acp.stripe_mark(p_tenant, 'method', p, p->>'setup_intent') THEN
		RETURN 'older';
	END IF;
	UPDATE acp.tenants SET stripe_payment_method = NULL, stripe_customer_id = coalesce(stripe_customer_id, p->>'customer'),
		updated_at = acp.now()
	WHERE tenant_id = p_tenant;
	PERFORM acp.tenant_update(p_tenant, 'paid', NULL, NULL, NULL);
	PERFORM acp.upgrade_settle(p_tenant);
	IF p->>'setup_intent' IS NOT NULL THEN
		PERFORM acp.outbox_put(p_tenant, 'method-' || p_tenant || '-' || (p->>'setup_intent'), 'stripe.setup_intents.get',
			jsonb_build_object('setup_intent', p->'setup_intent'));
	END IF;
	RETURN 'applied';
END
$$;
COMMENT ON FUNCTION acp.stripe_checkout_completed(uuid, jsonb) IS
	'Handles a completed checkout: the tenant becomes paid, and the lookup of its payment method is queued for the executor.';

CREATE OR REPLACE FUNCTION acp.stripe_checkout_expired(p_tenant uuid, p jsonb) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE acp.checkouts SET status = 'expired', url = NULL
	WHERE tenant_id = p_tenant AND session_id = p->>'object_id' AND status = 'open';
	IF NOT FOUND THEN
		RETURN 'unchanged';
	END IF;
	PERFORM acp.checkouts_expire(p_tenant);
	RETURN 'applied';
END
$$;
COMMENT ON FUNCTION acp.stripe_checkout_expired(uuid, jsonb) IS 'Handles a checkout session that ended without a payment method. setup_pending ends with the last open session.';

CREATE OR REPLACE FUNCTION acp.stripe_method_detached(p_tenant uuid, p jsonb) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	before CONSTANT acp.tenants := (SELECT t FROM acp.tenants t WHERE t.tenant_id = p_tenant);
BEGIN
	PERFORM acp.stripe_mark(p_tenant, 'detached', p, p->>'object_id');
	RETURN CASE WHEN acp.upgrade_settle(p_tenant) = before.payment_method_status THEN 'unchanged' ELSE 'applied' END;
END
$$;
COMMENT ON FUNCTION acp.stripe_method_detached(uuid, jsonb) IS
	'Handles a detached payment method. If it is the one in use, the tenant is treated as free from now on.';

CREATE OR REPLACE FUNCTION acp.stripe_invoice(p_tenant uuid, p jsonb) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	paid CONSTANT boolean := p->>'type' = 'invoice.paid';
BEGIN
	IF (NOT paid AND EXISTS (SELECT FROM acp.stripe_marks m
			WHERE m.tenant_id = p_tenant AND m.subject = p->>'object_id' AND m.reference = 'paid'))
	   OR NOT acp.stripe_mark(p_tenant, p->>'object_id', p, CASE WHEN paid THEN 'paid' ELSE 'failed' END, paid) THEN
		RETURN 'older';
	END IF;
	PERFORM acp.billing_paid(p->>'object_id', paid, to_timestamp((p->>'created')::bigint));
	RETURN 'applied';
END
$$;
COMMENT ON FUNCTION acp.stripe_invoice(uuid, jsonb) IS 'Handles a paid invoice or a failed payment. A paid invoice stays paid.';

CREATE OR REPLACE FUNCTION acp.stripe_effect(p_tenant uuid, p jsonb) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF p->>'type' NOT IN ('checkout.session.completed', 'checkout.session.expired', 'payment_method.detached',
		'invoice.paid', 'invoice.payment_failed') THEN
		RETURN 'ignored';
	ELSIF p->>'object_id' IS NULL THEN
		RETURN 'ignored'; -- names no object
	ELSIF p_tenant IS NULL THEN
		RETURN 'unknown_tenant';
	END IF;
	RETURN CASE p->>'type'
		WHEN 'checkout.session.completed' THEN acp.stripe_checkout_completed(p_tenant, p)
		WHEN 'checkout.session.expired' THEN acp.stripe_checkout_expired(p_tenant, p)
		WHEN 'payment_method.detached' THEN acp.stripe_method_detached(p_tenant, p)
		ELSE acp.stripe_invoice(p_tenant, p) END;
END
$$;
COMMENT ON FUNCTION acp.stripe_effect(uuid, jsonb) IS 'Applies an event that arrives for the first time. Returns acp.stripe_events.effect.';

CREATE OR REPLACE FUNCTION acp.stripe_event(p jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	tenant uuid;
	result text := 'duplicate';
BEGIN
	-- A concurrent repeat of the event waits here for the commit of the first.
	INSERT INTO acp.stripe_events (event_id, type, created, livemode, object_id, effect, received_at)
	VALUES (p->>'event_id', p->>'type', to_timestamp((p->>'created')::bigint), (p->>'livemode')::boolean, p->>'object_id', '', acp.now())
	ON CONFLICT DO NOTHING;
	IF FOUND THEN
		tenant := acp.stripe_tenant(p);
		result := acp.stripe_effect(tenant, p);
		IF result = 'mismatch' THEN
			tenant := NULL;
		END IF;
		UPDATE acp.stripe_events e SET tenant_id = tenant, effect = result WHERE e.event_id = p->>'event_id';
	ELSE
		SELECT e.tenant_id INTO tenant FROM acp.stripe_events e WHERE e.event_id = p->>'event_id';
	END IF;
	PERFORM acp.audit_append(p->'event' || jsonb_build_object(
		'tenant_id', coalesce(tenant, '00000000-0000-0000-0000-000000000000'),
		'result_meta', jsonb_build_object('resource_type', 'stripe_event', 'resource_id', p->'event_id', 'type', p->'type', 'effect', result)));
	RETURN jsonb_build_object('effect', result, 'tenant_id', tenant);
END
$$;
COMMENT ON FUNCTION acp.stripe_event(jsonb) IS
	'Processes an event with a valid signature: event_id, type, created (seconds), livemode, object_id?, client_reference_id?, tenant_uuid? (from its metadata), customer?, setup_intent?, mode?, status?, event (audit row). Repeats have no further effect.';

GRANT EXECUTE ON FUNCTION acp.checkouts_expire(uuid), acp.checkouts_expire_due(), acp.upgrade_begin(jsonb), acp.upgrade_opened(jsonb),
	acp.upgrade_failed(jsonb), acp.upgrade_settle(uuid), acp.upgrade_method(uuid, text, jsonb), acp.uuid_or_null(text),
	acp.stripe_attempt(text), acp.stripe_mark(uuid, text, jsonb, text, boolean), acp.stripe_tenant(jsonb), acp.stripe_checkout_completed(uuid, jsonb),
	acp.stripe_checkout_expired(uuid, jsonb), acp.stripe_method_detached(uuid, jsonb), acp.stripe_invoice(uuid, jsonb),
	acp.stripe_effect(uuid, jsonb), acp.stripe_event(jsonb) TO acp_app;
