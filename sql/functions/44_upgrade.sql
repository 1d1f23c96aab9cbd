-- The upgrade: a person enters a payment method in a Stripe checkout session, and Stripe reports it by events.
--
-- Events may be repeated and arrive in any order. The state of a tenant is therefore computed from all known facts, not
-- from the last event (acp.upgrade_settle). Three rules decide between events:
--   1. Of two completed checkouts the newer one counts: by created (in seconds), then by our attempt number, then by
--      event id.
--   2. A detached payment method and a deleted customer never come back. A paid invoice stays paid.
--   3. While the payment method of a checkout is unknown, a detachment for the same customer that is not older is
--      assumed to concern that method. On equal seconds the tenant counts as not paid.
--   4. The newest choice of a payment method counts: a completed checkout, or a new default of the customer. If that
--      method was detached, a method that was attached later replaces it (a person replaced the card).
-- Lock order: the row of the event, the lock acp.stripe_money, the row of the tenant, then checkouts, marks and obligations.

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
	IF acp.effective_tier(t.tier, t.payment_method_status) = 'paid' AND t.past_due_since IS NULL THEN
		RETURN jsonb_build_object('verdict', 'paid');
	ELSIF t.stripe_customer_id IS NULL THEN
		RETURN jsonb_build_object('verdict', 'customer', 'obligation', acp.outbox_customer(tenant));
	END IF;
	SELECT * INTO c FROM acp.checkouts WHERE tenant_id = tenant ORDER BY attempt DESC LIMIT 1;
	-- A person who is being redirected there needs time to fill in the form.
	IF c.status = 'open' AND c.expires_at > acp.now() + interval '5 minutes' THEN
		RETURN jsonb_build_object('verdict', 'open', 'checkout_url', c.url, 'expires_at', acp.rfc3339(c.expires_at));
	ELSIF c.status IS DISTINCT FROM 'asked' THEN
		INSERT INTO acp.checkouts (tenant_id, attempt, status, asked_at, expires_at, currency)
		VALUES (tenant, coalesce(c.attempt, 0) + 1, 'asked', acp.now(), acp.now() + interval '1 hour', acp.currency()) RETURNING * INTO c;
	END IF;
	RETURN jsonb_build_object('verdict', 'create', 'attempt', c.attempt, 'customer', t.stripe_customer_id,
		'idempotency_key', 'checkout-' || tenant || '-' || c.attempt, 'obliged_at', floor(extract(epoch FROM c.asked_at))::bigint)
		|| CASE WHEN c.currency IS NOT NULL THEN jsonb_build_object('currency', lower(c.currency COLLATE "C")) ELSE '{}' END;
END
$$;
COMMENT ON FUNCTION acp.upgrade_begin(jsonb) IS
	'Returns the next step for the upgrade of tenant_id. verdict: paid (nothing to do; a tenant that is past due may add another card), customer (execute this obligation first, then ask again), open (use this session), create (create a session with this attempt, key and currency, which stay the same until the outcome is known).';

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

CREATE OR REPLACE FUNCTION acp.stripe_card(p_tenant uuid, p_method text, p_fact text, p_at timestamptz, p_customer text DEFAULT NULL,
	p_setup_intent text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO acp.stripe_cards AS c (tenant_id, payment_method, customer, setup_intent, attached_at, default_at, ceased_at, detached_at)
	VALUES (p_tenant, p_method, p_customer, p_setup_intent, CASE p_fact WHEN 'attached' THEN p_at END, CASE p_fact WHEN 'default' THEN p_at END,
		CASE p_fact WHEN 'ceased' THEN p_at END, CASE p_fact WHEN 'detached' THEN p_at END)
	ON CONFLICT (tenant_id, payment_method) DO UPDATE SET customer = coalesce(c.customer, excluded.customer),
		setup_intent = coalesce(c.setup_intent, excluded.setup_intent), attached_at = greatest(c.attached_at, excluded.attached_at),
		default_at = greatest(c.default_at, excluded.default_at), ceased_at = greatest(c.ceased_at, excluded.ceased_at),
		detached_at = greatest(c.detached_at, excluded.detached_at);
END
$$;
COMMENT ON FUNCTION acp.stripe_card(uuid, text, text, timestamptz, text, text) IS
	'Stores a fact about a payment method of a tenant: attached, default, ceased (to be the default), detached, or null (only its customer and setup intent).';

CREATE OR REPLACE FUNCTION acp.customer_gone(p_customer text) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN EXISTS (SELECT FROM acp.stripe_events e WHERE e.object_id = p_customer AND e.type = 'customer.deleted'); END $$;
COMMENT ON FUNCTION acp.customer_gone(text) IS 'Was this customer deleted at Stripe? Null: no.';

CREATE OR REPLACE FUNCTION acp.upgrade_card(p_tenant uuid, p_method acp.stripe_marks, OUT card acp.stripe_cards, OUT gone boolean)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	nothing CONSTANT timestamptz := (SELECT m.created FROM acp.stripe_marks m WHERE m.tenant_id = p_tenant AND m.subject = 'no_default');
	known   CONSTANT boolean := EXISTS (SELECT FROM acp.stripe_cards c WHERE c.tenant_id = p_tenant AND c.setup_intent = p_method.reference);
	other   acp.stripe_cards;
BEGIN
	-- Of two that became the default within one second, the one that did not cease to be it again.
	SELECT * INTO card FROM acp.stripe_cards c WHERE c.tenant_id = p_tenant AND c.default_at IS NOT NULL
	ORDER BY c.default_at DESC, coalesce(c.ceased_at >= c.default_at, false), c.detached_at IS NOT NULL, coalesce(c.setup_intent = p_method.reference, false) DESC, c.payment_method COLLATE "C" DESC LIMIT 1;
	IF NOT known AND coalesce(card.default_at <= p_method.created, true) THEN
		card := NULL; -- the method of the checkout, which the executor has not looked up yet
		card.default_at := p_method.created;
		gone := acp.customer_gone(p_method.customer) OR coalesce(nothing > card.default_at, false)
			OR EXISTS (SELECT FROM acp.stripe_cards c WHERE c.tenant_id = p_tenant AND c.detached_at >= p_method.created
				AND (c.setup_intent IS NULL OR c.setup_intent = p_method.reference) AND coalesce(c.default_at >= p_method.created, true));
		RETURN;
	END IF;
	gone := acp.customer_gone(card.customer) OR card.detached_at IS NOT NULL OR coalesce(greatest(card.ceased_at, nothing + interval '-1 second') >= card.default_at, false);
	IF card.detached_at IS NOT NULL AND coalesce(greatest(card.ceased_at, nothing) < card.default_at, true) THEN
		SELECT * INTO other FROM acp.stripe_cards c WHERE c.tenant_id = p_tenant AND c.attached_at >= card.default_at AND c.detached_at IS NULL
		  AND c.ceased_at IS NULL AND NOT acp.customer_gone(c.customer)
		ORDER BY c.attached_at DESC, c.payment_method COLLATE "C" DESC LIMIT 1;
		IF FOUND THEN
			card := other;
			gone := false;
		END IF;
	END IF;
END
$$;
COMMENT ON FUNCTION acp.upgrade_card(uuid, acp.stripe_marks) IS
	'Finds the payment method that counts for a tenant with a completed checkout (p_method), and whether it is gone. payment_method is null while it is not known. An event that names no former default (mark no_default) concerns methods chosen in earlier seconds.';

CREATE OR REPLACE FUNCTION acp.upgrade_settle(p_tenant uuid) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t      acp.tenants;
	method acp.stripe_marks;
	chosen record;
	pays   text;
	state  text;
BEGIN
	SELECT * INTO t FROM acp.tenants WHERE tenant_id = p_tenant;
	SELECT * INTO method FROM acp.stripe_marks WHERE tenant_id = p_tenant AND subject = 'method';
	IF method.tenant_id IS NULL THEN
		RETURN t.payment_method_status; -- no completed checkout: keep what an operator set
	END IF;
	SELECT * INTO chosen FROM acp.upgrade_card(p_tenant, method);
	pays := (chosen.card).payment_method;
	state := CASE WHEN NOT chosen.gone THEN 'active'
		WHEN EXISTS (SELECT FROM acp.checkouts c WHERE c.tenant_id = p_tenant AND c.status = 'open') THEN 'setup_pending'
		ELSE 'none' END;
	IF pays IS DISTINCT FROM t.stripe_payment_method THEN
		UPDATE acp.tenants SET stripe_payment_method = pays, updated_at = acp.now() WHERE tenant_id = p_tenant;
	END IF;
	IF state <> t.payment_method_status THEN
		PERFORM acp.tenant_update(p_tenant, NULL, state, NULL, NULL);
	END IF;
	IF state = 'active' AND pays IS DISTINCT FROM t.stripe_payment_method AND pays IS NOT NULL THEN
		IF (chosen.card).default_at IS NULL THEN
			-- A person added this card and removed the one before. Invoices are paid with the default only.
			PERFORM acp.outbox_put(p_tenant, 'default-' || p_tenant || '-' || pays, 'stripe.customers.update',
				jsonb_build_object('default_payment_method', pays));
		ELSIF (chosen.card).default_at > method.created THEN
			PERFORM acp.payment_collect(p_tenant); -- after a checkout, this is done once the card is the default
		END IF;
	END IF;
	RETURN state;
END
$$;
COMMENT ON FUNCTION acp.upgrade_settle(uuid) IS
	'Computes payment method and payment_method_status of a tenant from all Stripe events, stores and returns the status. A new card pays the invoices that are past due. The caller holds the lock of the tenant''s row.';

CREATE OR REPLACE FUNCTION acp.upgrade_method(p_tenant uuid, p_setup_intent text, p_data jsonb) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	method CONSTANT text := p_data->>'payment_method';
	counts CONSTANT acp.stripe_marks := (SELECT m FROM acp.stripe_marks m WHERE m.tenant_id = p_tenant AND m.subject = 'method' AND m.reference = p_setup_intent);
	state  text;
BEGIN
	IF method IS NULL THEN
		RETURN;
	END IF;
	PERFORM acp.stripe_card(p_tenant, method, CASE WHEN counts.tenant_id IS NOT NULL THEN 'default' END, counts.created, p_data->>'customer', p_setup_intent);
	state := acp.upgrade_settle(p_tenant);
	IF state = 'active' AND EXISTS (SELECT FROM acp.tenants t WHERE t.tenant_id = p_tenant AND t.stripe_payment_method = method) THEN
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
		tenant := coalesce(
			(SELECT t.tenant_id FROM acp.tenants t WHERE t.stripe_payment_method = p->>'object_id' LIMIT 1),
			(SELECT c.tenant_id FROM acp.stripe_cards c WHERE c.payment_method = p->>'object_id' LIMIT 1),
			(SELECT t.tenant_id FROM acp.tenants t WHERE t.stripe_customer_id = p->>'customer' LIMIT 1),
			(SELECT b.tenant_id FROM acp.billing_periods b WHERE b.stripe_invoice_id IN (p->>'object_id', p->>'invoice',
				acp.payment_invoice(p->>'object_id'), acp.payment_invoice(p->>'payment_intent'), acp.payment_invoice(p->>'charge')) LIMIT 1));
	END IF;
	SELECT t.tenant_id INTO tenant FROM acp.tenants t WHERE t.tenant_id = coalesce(named, tenant) FOR NO KEY UPDATE;
	RETURN tenant;
END
$$;
COMMENT ON FUNCTION acp.stripe_tenant(jsonb) IS
	'Finds and locks the tenant of an event: by the tenant it names, else by its payment method, its customer or the invoice it is about. Null: unknown.';

CREATE OR REPLACE FUNCTION acp.stripe_foreign(p jsonb) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- What these books name is theirs, even if kernel_id was changed since.
	RETURN coalesce((p->>'foreign')::boolean, false)
		AND NOT EXISTS (SELECT FROM acp.billing_periods b WHERE b.stripe_invoice_id = p->>'object_id')
		AND NOT EXISTS (SELECT FROM acp.tenants t WHERE t.stripe_customer_id = p->>'object_id');
END
$$;
COMMENT ON FUNCTION acp.stripe_foreign(jsonb) IS
	'Is an event about an object of another installation? It may have a copy of this database, so the tenants it names can be those of this one.';

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
	UPDATE acp.stripe_marks SET customer = p->>'customer' WHERE tenant_id = p_tenant AND subject = 'method';
	UPDATE acp.tenants SET stripe_customer_id = coalesce(stripe_customer_id, CASE WHEN NOT acp.customer_gone(p->>'customer') THEN p->>'customer' END),
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

DROP FUNCTION IF EXISTS acp.stripe_method_detached(uuid, jsonb); -- up to schema version 10

CREATE OR REPLACE FUNCTION acp.stripe_own_customer(p_tenant uuid, p_customer text) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN coalesce((SELECT t.stripe_customer_id = p_customer FROM acp.tenants t WHERE t.tenant_id = p_tenant), true);
END
$$;
COMMENT ON FUNCTION acp.stripe_own_customer(uuid, text) IS
	'False if the tenant has another customer at Stripe: one that was made by hand, or by another program. True also if one of the two is not known.';

CREATE OR REPLACE FUNCTION acp.stripe_cards_told(p_tenant uuid, p jsonb) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	at   CONSTANT timestamptz := to_timestamp((p->>'created')::bigint);
	cus  CONSTANT text := p->>'customer';
	now_ CONSTANT text := p->>'default_method';
	was  CONSTANT text := p->>'former_default';
BEGIN
	IF p->>'type' = 'payment_method.attached' THEN
		PERFORM acp.stripe_card(p_tenant, p->>'object_id', 'attached', at, cus);
	ELSIF p->>'type' = 'payment_method.detached' THEN
		PERFORM acp.stripe_card(p_tenant, p->>'object_id', 'detached', at, cus);
	ELSIF (p->>'default_changed')::boolean THEN
		IF was IS NOT NULL AND was IS DISTINCT FROM now_ THEN
			PERFORM acp.stripe_card(p_tenant, was, 'ceased', at, cus);
		END IF;
		IF now_ IS NOT NULL THEN
			PERFORM acp.stripe_card(p_tenant, now_, 'default', at, cus);
		ELSIF was IS NULL AND NOT coalesce((p->>'former_told')::boolean, false) THEN
			PERFORM acp.stripe_mark(p_tenant, 'no_default', p, NULL);
			-- Within one second, the order of arrival decides.
			UPDATE acp.stripe_cards c SET ceased_at = greatest(c.ceased_at, at) WHERE c.tenant_id = p_tenant AND c.default_at = at;
		END IF;
	END IF;
END
$$;
COMMENT ON FUNCTION acp.stripe_cards_told(uuid, jsonb) IS
	'Stores what payment_method.attached, payment_method.detached or customer.updated says about the payment methods of a tenant.';

CREATE OR REPLACE FUNCTION acp.stripe_customer_deleted(p_tenant uuid, p jsonb) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE acp.tenants SET stripe_customer_id = NULL, stripe_customers_gone = stripe_customers_gone + 1, updated_at = acp.now()
	WHERE tenant_id = p_tenant;
	UPDATE acp.checkouts SET status = CASE status WHEN 'open' THEN 'expired' ELSE 'failed' END, url = NULL
	WHERE tenant_id = p_tenant AND status IN ('asked', 'open');
	UPDATE acp.outbox SET done_at = acp.now(), result = '{"superseded": true}', dead = false
	WHERE tenant_id = p_tenant AND done_at IS NULL AND action IN ('stripe.customers.create', 'stripe.customers.update');
	-- An invoice that is still owed goes to the next customer.
	UPDATE acp.outbox SET params = params - 'customer'
	WHERE tenant_id = p_tenant AND done_at IS NULL AND action = 'stripe.invoices.create';
	IF NOT EXISTS (SELECT FROM acp.stripe_marks m WHERE m.tenant_id = p_tenant AND m.subject = 'method') THEN
		PERFORM acp.tenant_update(p_tenant, NULL, 'none', NULL, NULL);
	END IF;
	IF EXISTS (SELECT FROM acp.outbox o WHERE o.tenant_id = p_tenant AND o.done_at IS NULL AND o.action = 'stripe.invoices.create') THEN
		PERFORM acp.outbox_customer(p_tenant);
	END IF;
END
$$;
COMMENT ON FUNCTION acp.stripe_customer_deleted(uuid, jsonb) IS
	'Handles a deleted customer: the tenant has no payment method any more, and its next checkout or invoice makes another customer.';

CREATE OR REPLACE FUNCTION acp.stripe_customer(p_tenant uuid, p jsonb) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	before acp.tenants;
	after  acp.tenants;
BEGIN
	IF NOT acp.stripe_own_customer(p_tenant, CASE WHEN p->>'type' LIKE 'customer.%' THEN p->>'object_id' ELSE p->>'customer' END) THEN
		RETURN 'foreign';
	END IF;
	SELECT * INTO before FROM acp.tenants t WHERE t.tenant_id = p_tenant;
	IF p->>'type' = 'customer.deleted' THEN
		PERFORM acp.stripe_customer_deleted(p_tenant, p);
	ELSE
		PERFORM acp.stripe_cards_told(p_tenant, p);
	END IF;
	PERFORM acp.upgrade_settle(p_tenant);
	SELECT * INTO after FROM acp.tenants t WHERE t.tenant_id = p_tenant;
	RETURN CASE WHEN (before.payment_method_status, before.stripe_payment_method, before.stripe_customer_id)
		IS DISTINCT FROM (after.payment_method_status, after.stripe_payment_method, after.stripe_customer_id) THEN 'applied' ELSE 'unchanged' END;
END
$$;
COMMENT ON FUNCTION acp.stripe_customer(uuid, jsonb) IS
	'Handles an event about a customer or its payment methods. If the tenant has no usable method after it, it is treated as free from now on.';

CREATE OR REPLACE FUNCTION acp.stripe_invoice(p_tenant uuid, p jsonb) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	fact   CONSTANT text := CASE
		WHEN p->>'type' IN ('invoice.paid', 'invoice.payment_succeeded') OR p->>'status' = 'paid' THEN 'paid'
		WHEN p->>'type' IN ('invoice.voided', 'invoice.deleted') OR p->>'status' = 'void' THEN 'void'
		WHEN p->>'type' IN ('invoice.payment_failed', 'invoice.payment_action_required', 'invoice.marked_uncollectible', 'invoice.overdue')
			OR p->>'status' = 'uncollectible' THEN 'failed' END;
	at     CONSTANT timestamptz := to_timestamp((p->>'created')::bigint);
	result text := 'applied';
BEGIN
	PERFORM acp.stripe_link(p);
	IF fact IS NULL THEN
		RETURN 'unchanged';
	END IF;
	PERFORM acp.invoice_told(p->>'object_id', fact, at);
	IF fact = 'void' THEN
		UPDATE acp.billing_periods b SET status = 'failed', error = 'the invoice is void at Stripe', updated_at = acp.now()
		WHERE b.stripe_invoice_id = p->>'object_id' AND b.status <> 'paid';
	ELSIF (fact = 'failed' AND EXISTS (SELECT FROM acp.stripe_marks m
			WHERE m.tenant_id = p_tenant AND m.subject = p->>'object_id' AND m.reference = 'paid'))
	   OR NOT acp.stripe_mark(p_tenant, p->>'object_id', p, fact, fact = 'paid') THEN
		result := 'older';
	ELSIF fact = 'paid' OR NOT EXISTS (SELECT FROM acp.invoice_states s WHERE s.stripe_invoice_id = p->>'object_id' AND s.void_at IS NOT NULL) THEN
		PERFORM acp.billing_paid(p->>'object_id', fact = 'paid', at);
	END IF;
	PERFORM acp.payment_settle(p_tenant);
	RETURN result;
END
$$;
COMMENT ON FUNCTION acp.stripe_invoice(uuid, jsonb) IS
	'Handles an event about an invoice: paid, failed or void. A paid or void invoice stays so. Only an invoice of ours makes the tenant past due.';

CREATE OR REPLACE FUNCTION acp.stripe_kind(p_type text) RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN CASE
		WHEN p_type = 'checkout.session.completed' THEN 'completed'
		WHEN p_type = 'checkout.session.expired' THEN 'expired'
		WHEN p_type IN ('payment_method.attached', 'payment_method.detached', 'customer.updated', 'customer.deleted') THEN 'customer'
		WHEN p_type IN ('invoice.paid', 'invoice.payment_succeeded', 'invoice.payment_failed', 'invoice.payment_action_required',
			'invoice.marked_uncollectible', 'invoice.overdue', 'invoice.voided', 'invoice.deleted', 'invoice.updated') THEN 'invoice'
		WHEN p_type IN ('invoice_payment.paid', 'payment_intent.succeeded', 'charge.succeeded') THEN 'payment'
		WHEN p_type IN ('charge.refunded', 'charge.refund.updated', 'refund.created', 'refund.updated', 'refund.failed', 'credit_note.created',
			'credit_note.updated', 'credit_note.voided', 'charge.dispute.created', 'charge.dispute.updated', 'charge.dispute.closed',
			'charge.dispute.funds_withdrawn', 'charge.dispute.funds_reinstated', 'radar.early_fraud_warning.created',
			'radar.early_fraud_warning.updated') THEN 'return' END;
END
$$;
COMMENT ON FUNCTION acp.stripe_kind(text) IS
	'Which function handles a type of event (docs/billing.md has the table): completed, expired, customer, invoice, payment or return. Null: none; it is stored without effect.';

CREATE OR REPLACE FUNCTION acp.stripe_effect(p_tenant uuid, p jsonb) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	kind CONSTANT text := acp.stripe_kind(p->>'type');
BEGIN
	IF kind IS NULL OR p->>'object_id' IS NULL THEN
		RETURN 'ignored'; -- means nothing here, or names no object
	ELSIF kind IN ('payment', 'return') THEN
		RETURN acp.stripe_money(p);
	ELSIF p_tenant IS NULL THEN
		RETURN 'unknown_tenant';
	END IF;
	RETURN CASE kind
		WHEN 'completed' THEN acp.stripe_checkout_completed(p_tenant, p)
		WHEN 'expired' THEN acp.stripe_checkout_expired(p_tenant, p)
		WHEN 'customer' THEN acp.stripe_customer(p_tenant, p)
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
		PERFORM set_config('acp.grace_days', coalesce(p->>'grace_days', ''), true);
		IF acp.stripe_kind(p->>'type') IN ('invoice', 'payment', 'return') THEN
			-- Of two events that belong together, the second sees what the first stored.
			PERFORM pg_advisory_xact_lock(hashtext('acp.stripe_money'));
		END IF;
		IF acp.stripe_foreign(p) THEN
			result := 'foreign';
		ELSE
			tenant := acp.stripe_tenant(p);
			result := acp.stripe_effect(tenant, p);
		END IF;
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
	'Processes an event with a valid signature: event_id, type, created (seconds), livemode, object_id?, client_reference_id?, tenant_uuid? (from its metadata), foreign? (its metadata has another kernel_id), customer?, setup_intent?, mode?, status?, invoice?, payment_intent?, charge?, amount?, amount_refunded? (minor units), default_changed?, default_method?, former_told?, former_default? (of a customer), grace_days?, event (audit row). Repeats have no further effect.';

GRANT EXECUTE ON FUNCTION acp.checkouts_expire(uuid), acp.checkouts_expire_due(), acp.upgrade_begin(jsonb), acp.upgrade_opened(jsonb),
	acp.upgrade_failed(jsonb), acp.upgrade_settle(uuid), acp.upgrade_method(uuid, text, jsonb), acp.uuid_or_null(text),
	acp.stripe_attempt(text), acp.stripe_mark(uuid, text, jsonb, text, boolean), acp.stripe_tenant(jsonb), acp.stripe_foreign(jsonb),
	acp.stripe_checkout_completed(uuid, jsonb),
	acp.stripe_checkout_expired(uuid, jsonb), acp.stripe_card(uuid, text, text, timestamptz, text, text), acp.customer_gone(text),
	acp.upgrade_card(uuid, acp.stripe_marks), acp.stripe_own_customer(uuid, text), acp.stripe_cards_told(uuid, jsonb),
	acp.stripe_customer_deleted(uuid, jsonb), acp.stripe_customer(uuid, jsonb), acp.stripe_invoice(uuid, jsonb), acp.stripe_kind(text),
	acp.stripe_effect(uuid, jsonb), acp.stripe_event(jsonb) TO acp_app;
