-- The outbox: work for the executor, stored in the transaction that causes it, with exactly one effect.
--
-- Lock order: the row of the tenant before its obligations. The name of an obligation is its idempotency key, so a repeated
-- attempt by any process has no further effect.

CREATE OR REPLACE FUNCTION acp.outbox_put(p_tenant uuid, p_obligation text, p_action text, p_params jsonb) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	fresh boolean;
BEGIN
	INSERT INTO acp.outbox (tenant_id, obligation, action, params, created_at, due_at)
	VALUES (p_tenant, p_obligation, p_action, p_params, acp.now(), acp.now()) ON CONFLICT DO NOTHING;
	fresh := FOUND;
	-- An invoice needs a customer. A tenant created without Stripe gets its customer now.
	IF fresh AND p_action = 'stripe.invoices.create' THEN
		PERFORM acp.outbox_customer(p_tenant);
	END IF;
	RETURN fresh;
END
$$;
COMMENT ON FUNCTION acp.outbox_put(uuid, text, text, jsonb) IS
	'Queues an action for the executor when this transaction commits. An invoice also queues the customer if it is missing. False: the obligation is already queued or done.';

CREATE OR REPLACE FUNCTION acp.outbox_customer(p_tenant uuid) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t    acp.tenants;
	name text := 'customer-' || p_tenant;
BEGIN
	SELECT * INTO t FROM acp.tenants WHERE tenant_id = p_tenant;
	IF FOUND AND t.stripe_customer_id IS NULL THEN
		-- Under the key of a customer that was deleted, Stripe would return that one.
		IF t.stripe_customers_gone > 0 THEN
			name := name || '-' || t.stripe_customers_gone + 1;
		END IF;
		PERFORM acp.outbox_put(p_tenant, name, 'stripe.customers.create', jsonb_strip_nulls(jsonb_build_object(
			'tenant_uuid', t.tenant_id, 'agent_id', t.agent_id, 'email', t.billing_email, 'organization_name', t.organization_name)));
		UPDATE acp.outbox SET dead = false, due_at = acp.now(), attempts = 0 WHERE tenant_id = p_tenant AND obligation = name AND dead;
		RETURN name;
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION acp.outbox_customer(uuid) IS 'Queues the creation of the Stripe customer of a tenant without one; revives an obligation that was given up. Returns the name of the obligation; null: nothing to do.';

CREATE OR REPLACE FUNCTION acp.outbox_blocked(o acp.outbox) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN o.action IN ('stripe.customers.update', 'stripe.invoices.create') AND NOT o.params ? 'customer'
		AND NOT EXISTS (SELECT FROM acp.tenants t WHERE t.tenant_id = o.tenant_id AND t.stripe_customer_id IS NOT NULL);
END
$$;
COMMENT ON FUNCTION acp.outbox_blocked(acp.outbox) IS 'True if the obligation must wait until its tenant has a Stripe customer.';

CREATE OR REPLACE FUNCTION acp.outbox_only_customer(o acp.outbox, t acp.tenants) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- An obligation that is as old as its tenant was the first of its kind, whatever was restored since.
	RETURN EXISTS (SELECT FROM acp.outbox c WHERE c.tenant_id = o.tenant_id AND c.obligation = 'customer-' || o.tenant_id
		AND c.created_at = t.onboarded_at AND c.done_at < c.created_at + interval '23 hours'
		AND c.result->>'customer' = coalesce(o.params->>'customer', t.stripe_customer_id));
END
$$;
COMMENT ON FUNCTION acp.outbox_only_customer(acp.outbox, acp.tenants) IS
	'True if the records prove that the customer of an obligation is the only one that was ever created for its tenant: it was created in time under the key that was made together with the tenant.';

CREATE OR REPLACE FUNCTION acp.outbox_json(o acp.outbox) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t CONSTANT acp.tenants := (SELECT x FROM acp.tenants x WHERE x.tenant_id = o.tenant_id);
BEGIN
	RETURN jsonb_strip_nulls(jsonb_build_object('tenant_id', o.tenant_id, 'obligation', o.obligation, 'action', o.action, 'attempts', o.attempts,
		'obliged_at', floor(extract(epoch FROM o.created_at))::bigint,
		-- Only the attempt of an onboarding that is under way is certainly the first one.
		'lookup', CASE WHEN o.action = 'stripe.customers.create'
			THEN nullif(o.created_at <> t.onboarded_at OR o.attempts > 1 OR o.created_at < acp.now() - interval '1 minute', false) END,
		'email', CASE WHEN o.action = 'stripe.invoices.create' AND NOT acp.outbox_only_customer(o, t) THEN coalesce((SELECT c.params->>'email'
			FROM acp.outbox c WHERE c.tenant_id = o.tenant_id AND c.obligation = 'customer-' || o.tenant_id), t.billing_email) END))
		|| jsonb_build_object('params', CASE WHEN o.action IN ('stripe.customers.update', 'stripe.invoices.create') AND NOT o.params ? 'customer'
			THEN o.params || jsonb_build_object('customer', t.stripe_customer_id) ELSE o.params END);
END
$$;
COMMENT ON FUNCTION acp.outbox_json(acp.outbox) IS
	'Builds the JSON of an obligation for an attempt. params.customer is the customer of the tenant, where the action needs one. lookup and email say what the executor must look for first, because a restored database may lack the record of an earlier attempt.';

CREATE OR REPLACE FUNCTION acp.outbox_take(p_max integer, p_lease interval, p_tenant uuid DEFAULT NULL, p_obligation text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	moment CONSTANT timestamptz := acp.now();
	list   jsonb;
BEGIN
	-- A card that was replaced meanwhile must not become the default after the new card.
	UPDATE acp.outbox o SET done_at = moment, result = '{"superseded": true}' FROM acp.tenants t
	WHERE t.tenant_id = o.tenant_id AND o.done_at IS NULL AND NOT o.dead AND o.due_at <= moment AND o.action = 'stripe.customers.update'
	  AND (o.leased_until IS NULL OR o.leased_until <= moment)
	  AND o.params->>'default_payment_method' <> coalesce(t.stripe_payment_method, '');
	WITH due AS (
		SELECT o.tenant_id, o.obligation FROM acp.outbox o
		WHERE o.done_at IS NULL AND NOT o.dead AND (o.leased_until IS NULL OR o.leased_until <= moment)
		  AND (CASE WHEN p_obligation IS NULL THEN o.due_at <= moment
			ELSE o.tenant_id = p_tenant AND o.obligation = p_obligation END)
		  AND NOT acp.outbox_blocked(o)
		ORDER BY o.due_at LIMIT p_max FOR UPDATE SKIP LOCKED
	), taken AS (
		-- All attempts use the parameters of the first one: the same key with other parameters would be another obligation.
		UPDATE acp.outbox o SET attempts = o.attempts + 1, leased_until = moment + p_lease, params = (acp.outbox_json(o))->'params'
		FROM due WHERE o.tenant_id = due.tenant_id AND o.obligation = due.obligation RETURNING o.*
	)
	SELECT jsonb_agg(acp.outbox_json(taken::acp.outbox) ORDER BY outbox_id) INTO list FROM taken;
	RETURN coalesce(list, '[]');
END
$$;
COMMENT ON FUNCTION acp.outbox_take(integer, interval, uuid, text) IS
	'Claims due obligations (or the named one, due or not), each for one attempt that must be reported within p_lease. No other caller gets them during the lease. When the lease ends, the attempt counts as crashed and the obligation is due again.';

CREATE OR REPLACE FUNCTION acp.outbox_effect(o acp.outbox, p_data jsonb) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF o.action = 'stripe.customers.create' THEN
		UPDATE acp.tenants SET stripe_customer_id = p_data->>'customer', updated_at = acp.now()
		WHERE tenant_id = o.tenant_id AND stripe_customer_id IS NULL;
	ELSIF o.action = 'stripe.setup_intents.get' THEN
		PERFORM acp.upgrade_method(o.tenant_id, o.params->>'setup_intent', p_data);
	ELSIF o.action = 'stripe.customers.update' THEN
		PERFORM acp.payment_collect(o.tenant_id);
	ELSIF o.action IN ('stripe.invoices.create', 'stripe.invoices.pay') THEN
		PERFORM acp.billing_executed(o.tenant_id, o.obligation, p_data);
	END IF;
END
$$;
COMMENT ON FUNCTION acp.outbox_effect(acp.outbox, jsonb) IS 'Applies the effect of a completed obligation in the transaction that records it.';

CREATE OR REPLACE FUNCTION acp.outbox_give_up(o acp.outbox) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF o.action IN ('stripe.invoices.create', 'stripe.invoices.pay') THEN
		PERFORM acp.billing_not_executed(o.tenant_id, o.obligation, coalesce(o.error, 'no attempt succeeded'));
	END IF;
END
$$;
COMMENT ON FUNCTION acp.outbox_give_up(acp.outbox) IS 'Applies the effect of an obligation that is given up.';

CREATE OR REPLACE FUNCTION acp.outbox_done(p_tenant uuid, p_obligation text, p_attempts integer, p_outcome jsonb) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	ok     CONSTANT boolean := coalesce((p_outcome->>'ok')::boolean, false);
	again  CONSTANT timestamptz := acp.now() + make_interval(secs => (p_outcome->>'retry_after')::double precision);
	o      acp.outbox;
BEGIN
	PERFORM FROM acp.tenants WHERE tenant_id = p_tenant FOR NO KEY UPDATE;
	-- An attempt that outlived its lease is ignored, unless it succeeded: a success needs no further attempt.
	UPDATE acp.outbox x SET leased_until = NULL,
		done_at = CASE WHEN ok THEN acp.now() END, result = CASE WHEN ok THEN p_outcome->'data' END,
		due_at = CASE WHEN ok OR again IS NULL THEN x.due_at ELSE again END, dead = NOT ok AND again IS NULL,
		error_code = CASE WHEN NOT ok THEN p_outcome->>'error_code' END, error = CASE WHEN NOT ok THEN p_outcome->>'error' END
	WHERE x.tenant_id = p_tenant AND x.obligation = p_obligation AND x.done_at IS NULL
	  AND (ok OR (x.attempts = p_attempts AND x.leased_until IS NOT NULL))
	RETURNING * INTO o;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	IF ok THEN
		PERFORM acp.outbox_effect(o, coalesce(p_outcome->'data', '{}'));
	ELSIF o.dead THEN
		PERFORM acp.outbox_give_up(o);
	END IF;
	RETURN true;
END
$$;
COMMENT ON FUNCTION acp.outbox_done(uuid, text, integer, jsonb) IS
	'Records the outcome of an attempt and applies its effect. p_outcome: ok, data?, error_code?, error?, retry_after? (seconds; missing: give up). False: the attempt outlived its lease and is ignored.';

-- Entry points for the program ---------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION acp.obligations_take(p jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT p ? 'obligation' THEN
		PERFORM acp.checkouts_expire_due();
	END IF;
	RETURN jsonb_build_object('obligations', acp.outbox_take(1, make_interval(secs => (p->>'lease')::integer),
		(p->>'tenant_id')::uuid, p->>'obligation'));
END
$$;
COMMENT ON FUNCTION acp.obligations_take(jsonb) IS
	'Calls acp.outbox_take() for one obligation. p: lease (seconds), tenant_id? and obligation? (to name it). Also expires checkout sessions.';

CREATE OR REPLACE FUNCTION acp.obligation_done(p jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM set_config('acp.grace_days', coalesce(p->>'grace_days', ''), true);
	RETURN jsonb_build_object('counted', acp.outbox_done((p->>'tenant_id')::uuid, p->>'obligation', (p->>'attempts')::integer, p));
END
$$;
COMMENT ON FUNCTION acp.obligation_done(jsonb) IS 'Calls acp.outbox_done(). p: tenant_id, obligation, attempts, grace_days?, and the members of the outcome.';

CREATE OR REPLACE FUNCTION acp.outbox_list(p jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT jsonb_build_object('obligations', coalesce(jsonb_agg(jsonb_build_object('outbox_id', l.outbox_id,
			'tenant_id', l.tenant_id, 'obligation', l.obligation, 'action', l.action, 'created_at', acp.rfc3339(l.created_at),
			'due_at', acp.rfc3339(l.due_at), 'attempts', l.attempts, 'error_code', l.error_code, 'error', l.error,
			'state', CASE WHEN l.dead THEN 'dead' WHEN l.done_at IS NOT NULL THEN 'done' WHEN l.leased_until > acp.now() THEN 'running'
				WHEN acp.outbox_blocked(l) THEN 'waits for customer' ELSE 'due' END) ORDER BY l.outbox_id), '[]'))
		FROM (SELECT * FROM acp.outbox o
			WHERE CASE p->>'which' WHEN 'dead' THEN o.dead WHEN 'all' THEN true ELSE o.done_at IS NULL END
			ORDER BY o.outbox_id DESC LIMIT (p->>'limit')::integer) l);
END
$$;
COMMENT ON FUNCTION acp.outbox_list(jsonb) IS 'Lists the newest obligations, oldest first. p: which (owed, dead or all) and limit.';

-- The operator -------------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION acp.outbox_retry(p_outbox_id bigint) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	revived integer;
BEGIN
	UPDATE acp.outbox SET dead = false, due_at = acp.now(), attempts = 0
	WHERE done_at IS NULL AND (leased_until IS NULL OR leased_until <= acp.now())
	  AND CASE WHEN p_outbox_id IS NULL THEN dead ELSE outbox_id = p_outbox_id END;
	GET DIAGNOSTICS revived = ROW_COUNT;
	RETURN revived;
END
$$;
COMMENT ON FUNCTION acp.outbox_retry(bigint) IS 'Makes an obligation due now, even a dead one; null: all dead ones. Skips obligations that are running or done. Returns the number made due.';

CREATE OR REPLACE FUNCTION acp.outbox_drop(p_outbox_id bigint) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	o acp.outbox;
BEGIN
	UPDATE acp.outbox SET dead = false, done_at = acp.now(), result = '{"dropped": true}'
	WHERE outbox_id = p_outbox_id AND done_at IS NULL AND (leased_until IS NULL OR leased_until <= acp.now())
	RETURNING * INTO o;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM acp.outbox_give_up(o);
	RETURN true;
END
$$;
COMMENT ON FUNCTION acp.outbox_drop(bigint) IS 'Drops an obligation. False: it does not exist, is done, or is running.';

GRANT EXECUTE ON FUNCTION acp.outbox_put(uuid, text, text, jsonb), acp.outbox_customer(uuid), acp.outbox_blocked(acp.outbox),
	acp.outbox_only_customer(acp.outbox, acp.tenants), acp.outbox_json(acp.outbox), acp.outbox_take(integer, interval, uuid, text), acp.outbox_effect(acp.outbox, jsonb),
	acp.outbox_give_up(acp.outbox), acp.outbox_done(uuid, text, integer, jsonb), acp.outbox_retry(bigint), acp.outbox_drop(bigint),
	acp.obligations_take(jsonb), acp.obligation_done(jsonb), acp.outbox_list(jsonb) TO acp_app;
