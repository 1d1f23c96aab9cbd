-- The upgrade: a human gives a payment method in a checkout session of Stripe, and Stripe's events tell of it.
--
-- Events come more than once and in any order. So what a tenant's state becomes is computed from what is known, not from
-- which event came last (acp.upgrade_settle), and three rules decide between events:
--   1. Of two completed checkouts the newer one counts: created, which Stripe gives in seconds, then our number of the
--      attempt, then event id.
--   2. A payment method that was detached never comes back; an invoice that was paid stays paid.
--   3. Until it is known which method a checkout brought, a detachment of the same customer that is not older counts as
--      its; equal seconds are decided against the tenant being paid.
-- Lock order: the event's row, the tenant's row, then checkouts, marks and obligations.

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
	'Ends a tenant''s checkout sessions whose time is over; setup_pending ends with the last of them.';

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
COMMENT ON FUNCTION acp.checkouts_expire_due() IS 'The same for every tenant that has one; returns how many tenants had. For a thread that runs now and then.';

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
	-- Somebody who is just being sent there needs some time to fill it in.
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
	'What the upgrade of tenant_id needs now. verdict: paid (nothing), customer (do this obligation first, then ask again), open (the session that is there), create (a session, under this attempt and key: the same ones until its outcome is known).';

CREATE OR REPLACE FUNCTION acp.upgrade_opened(p jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	tenant CONSTANT uuid := p->>'tenant_id';
	ends   CONSTANT timestamptz := to_timestamp((p->>'expires_at')::bigint);
	c      acp.checkouts;
BEGIN
	PERFORM FROM acp.tenants WHERE tenant_id = tenant FOR NO KEY UPDATE;
	-- Two that clicked at once got the same session; the second finds it recorded, or even completed.
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
	'Repo C made the session: tenant_id, attempt, session_id, url, expires_at (seconds), event (audit row). State none becomes setup_pending.';

CREATE OR REPLACE FUNCTION acp.upgrade_failed(p jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- Asked again under the same key, Stripe would repeat its refusal for a day.
	IF NOT coalesce((p->>'unknown')::boolean, false) THEN
		UPDATE acp.checkouts SET status = 'failed'
		WHERE tenant_id = (p->>'tenant_id')::uuid AND attempt = (p->>'attempt')::integer AND status = 'asked';
	END IF;
	PERFORM acp.audit_append(p->'event');
	RETURN '{}';
END
$$;
COMMENT ON FUNCTION acp.upgrade_failed(jsonb) IS
	'Repo C did not make it: tenant_id, attempt, event (audit row), unknown? (true: perhaps it did; the next one asks under the same key).';

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
		RETURN t.payment_method_status; -- no checkout was completed: an operator's word stands
	END IF;
	active := CASE WHEN t.stripe_payment_method IS NULL
		THEN detached.tenant_id IS NULL OR detached.created < method.created
			-- It is known to be the method of another checkout: a card that was replaced.
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
	'Sets a tenant''s payment_method_status to what follows from all that Stripe told, and returns it. The caller holds the tenant''s row.';

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
	'Repo C looked a setup intent up: if it is that of the checkout that counts, its payment method becomes the one that invoices are paid with.';

-- Stripe's events -------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION acp.uuid_or_null(p_text text) RETURNS uuid
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN CASE WHEN p_text ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' THEN p_text::uuid END;
END
$$;
COMMENT ON FUNCTION acp.uuid_or_null(text) IS 'The UUID that a text is; null: it is none.';

CREATE OR REPLACE FUNCTION acp.stripe_attempt(p_event text) RETURNS integer
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN coalesce((SELECT c.attempt FROM acp.stripe_events e JOIN acp.checkouts c ON c.session_id = e.object_id
		WHERE e.event_id = p_event), 0);
END
$$;
COMMENT ON FUNCTION acp.stripe_attempt(text) IS 'Which attempt of its tenant the checkout was that an event is about; 0: none of ours.';

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
	'Remembers an event as the newest of its subject. False: a newer one came before. p_rank: it counts whatever came before.';

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
	'Whom an event is about, its row held: by the tenant it names, else by its customer or payment method. Null: nobody who is known.';

CREATE OR REPLACE FUNCTION acp.stripe_checkout_completed(p_tenant uuid, p jsonb) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- Whoever makes a payment link may choose the reference that comes with it; metadata only the key's owner sets.
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
	'A human gave a payment method: the tenant is paid from now on, and Repo C is asked which method it is.';

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
COMMENT ON FUNCTION acp.stripe_checkout_expired(uuid, jsonb) IS 'A checkout session ended without a payment method: setup_pending ends with the last open one.';

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
	'A payment method is gone: if it is the one in use, the tenant is treated as free from now on.';

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
COMMENT ON FUNCTION acp.stripe_invoice(uuid, jsonb) IS 'An invoice was paid, or its payment failed; one that was paid stays paid.';

CREATE OR REPLACE FUNCTION acp.stripe_effect(p_tenant uuid, p jsonb) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF p->>'type' NOT IN ('checkout.session.completed', 'checkout.session.expired', 'payment_method.detached',
		'invoice.paid', 'invoice.payment_failed') THEN
		RETURN 'ignored';
	ELSIF p->>'object_id' IS NULL THEN
		RETURN 'ignored'; -- about nothing
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
COMMENT ON FUNCTION acp.stripe_effect(uuid, jsonb) IS 'What an event that comes for the first time changes; returns acp.stripe_events.effect.';

CREATE OR REPLACE FUNCTION acp.stripe_event(p jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	tenant uuid;
	result text := 'duplicate';
BEGIN
	-- A repetition that comes at the same time waits here for the first one's commit.
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
	'Takes an event whose signature was good: event_id, type, created (seconds), livemode, object_id?, client_reference_id?, tenant_uuid? (of its metadata), customer?, setup_intent?, mode?, status?, event (audit row). Once in effect, however often it comes.';

GRANT EXECUTE ON FUNCTION acp.checkouts_expire(uuid), acp.checkouts_expire_due(), acp.upgrade_begin(jsonb), acp.upgrade_opened(jsonb),
	acp.upgrade_failed(jsonb), acp.upgrade_settle(uuid), acp.upgrade_method(uuid, text, jsonb), acp.uuid_or_null(text),
	acp.stripe_attempt(text), acp.stripe_mark(uuid, text, jsonb, text, boolean), acp.stripe_tenant(jsonb), acp.stripe_checkout_completed(uuid, jsonb),
	acp.stripe_checkout_expired(uuid, jsonb), acp.stripe_method_detached(uuid, jsonb), acp.stripe_invoice(uuid, jsonb),
	acp.stripe_effect(uuid, jsonb), acp.stripe_event(jsonb) TO acp_app;
