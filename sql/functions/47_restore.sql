-- After a restore: the invoices that Stripe has, made from rows that this database lacks, become part of its books.
--
-- Lock order: the lock acp.billing, then the row of the tenant.

CREATE OR REPLACE FUNCTION acp.billing_adopt_line(b acp.billing_periods, p_invoice jsonb, p_reason text) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	l acp.invoice_lines;
	r record;
BEGIN
	l.tenant_id := b.tenant_id;
	l.period := b.period;
	l.kind := 'adjustment';
	l.calls := 0;
	l.quantity := 0;
	l.amount := acp.money_major((p_invoice->>'amount')::bigint, b.currency) - coalesce(b.total, 0);
	l.reason := p_reason;
	IF l.amount = 0 THEN
		RETURN false;
	END IF;
	SELECT * INTO r FROM acp.invoice_round(b, acp.invoice_stored_lines(b.tenant_id, b.period) || l,
		(SELECT c.minimum FROM acp.billing_closings c WHERE c.period = b.period));
	b := r.b;
	INSERT INTO acp.billing_periods SELECT b.* ON CONFLICT (tenant_id, period) DO UPDATE SET status = 'pending', total = excluded.total,
		amount = excluded.amount, carried_out = excluded.carried_out, hash = excluded.hash, paid_at = NULL, error = NULL, updated_at = acp.now();
	INSERT INTO acp.billing_adjustments (tenant_id, period, amount, currency, reason, stripe_invoice_id, created_at)
	VALUES (b.tenant_id, b.period, l.amount, b.currency, p_reason, p_invoice->>'invoice', acp.now());
	INSERT INTO acp.invoice_lines SELECT x.* FROM unnest(r.p_lines) x WHERE x.kind = 'adjustment';
	RETURN true;
END
$$;
COMMENT ON FUNCTION acp.billing_adopt_line(acp.billing_periods, jsonb, text) IS
	'Adds the line to an invoice (new or stored) that makes its amount the one of Stripe''s invoice. False: it has this amount.';

CREATE OR REPLACE FUNCTION acp.billing_adoptable(p_tenant uuid, p_period date, p_invoice jsonb) RETURNS acp.billing_periods
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	label CONSTANT text := to_char(p_period, 'YYYY-MM');
	held  CONSTANT text := p_invoice->>'invoice';
	c     acp.billing_closings;
	b     acp.billing_periods;
BEGIN
	SELECT * INTO c FROM acp.billing_closings x WHERE x.period = p_period;
	IF NOT FOUND OR NOT EXISTS (SELECT FROM acp.billing_runs r WHERE r.period = p_period AND r.finished_at IS NOT NULL) THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('%s is not billed yet; run first: acpctl billing run --period %s', label, label), '/period');
	ELSIF p_invoice->>'status' = 'draft' THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('%s is a draft, which charges nobody; delete it at Stripe, then: acpctl billing retry', held));
	ELSIF upper(p_invoice->>'currency') <> c.currency THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('%s is in %s, but %s was billed in %s', held, upper(p_invoice->>'currency'), label, c.currency));
	ELSIF (p_invoice->>'amount')::bigint <= 0 THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('%s has no amount to charge', held));
	END IF;
	SELECT * INTO b FROM acp.billing_periods x WHERE x.tenant_id = p_tenant AND x.period = p_period FOR NO KEY UPDATE;
	IF b.stripe_invoice_id <> held THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('the books have %s for this month, and Stripe has %s too; void one of them at Stripe',
			b.stripe_invoice_id, held));
	ELSIF EXISTS (SELECT FROM acp.billing_adjustments a WHERE a.tenant_id = p_tenant AND a.period = p_period)
		AND b.amount <> (p_invoice->>'amount')::bigint THEN
		PERFORM acp.fail('VALIDATION_ERROR', 'an invoice of this month was adopted before, with another amount');
	ELSIF b.carried_out <> 0 AND EXISTS (SELECT FROM acp.billing_periods x WHERE x.tenant_id = p_tenant AND x.period > p_period) THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('what %s left is on a later invoice already; void %s at Stripe, or give a credit', label, held));
	ELSIF EXISTS (SELECT FROM acp.outbox o WHERE o.tenant_id = p_tenant AND o.obligation = acp.billing_obligation(p_tenant, p_period)
		AND o.done_at IS NULL AND o.leased_until > acp.now()) THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('%s is running; try again in two minutes', acp.billing_obligation(p_tenant, p_period)));
	END IF;
	IF b.tenant_id IS NULL THEN
		b.tenant_id := p_tenant;
		b.period := p_period;
		b.status := 'pending';
		b.currency := c.currency;
		b.carried_in := 0;
		b.billed_at := acp.now();
		b.retries := 0;
		b.updated_at := acp.now();
	END IF;
	RETURN b;
END
$$;
COMMENT ON FUNCTION acp.billing_adoptable(uuid, date, jsonb) IS
	'Returns the invoice of these books that takes over Stripe''s p_invoice (total null: the tenant has none for this month). Fails if it cannot.';

CREATE OR REPLACE FUNCTION acp.billing_adopt(p jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	tenant   CONSTANT uuid := p->>'tenant_id';
	month    CONSTANT date := (p->>'period' || '-01')::date;
	invoice  CONSTANT jsonb := p->'invoice';
	told     CONSTANT bytea := decode(invoice->'metadata'->>'invoice_hash', 'hex');
	name     CONSTANT text := acp.billing_obligation(tenant, month);
	b        acp.billing_periods;
	more     numeric;
	result   jsonb;
BEGIN
	PERFORM pg_advisory_xact_lock(hashtext('acp.billing'));
	PERFORM FROM acp.tenants t WHERE t.tenant_id = tenant FOR NO KEY UPDATE;
	b := acp.billing_adoptable(tenant, month, invoice);
	more := acp.money_major((invoice->>'amount')::bigint, b.currency) - CASE WHEN b.amount = (invoice->>'amount')::bigint
		THEN acp.money_major(b.amount, b.currency) ELSE coalesce(b.total, 0) END;
	result := jsonb_build_object('tenant_uuid', tenant, 'period', p->'period', 'stripe_invoice_id', invoice->'invoice', 'stripe_status', invoice->'status',
		'currency', b.currency, 'stripe_amount', acp.money_major((invoice->>'amount')::bigint, b.currency)::text,
		'our_amount', coalesce(acp.money_major(b.amount, b.currency), 0)::text, 'adjustment', trim_scale(more)::text);
	IF (p->>'dry_run')::boolean THEN
		RETURN result;
	END IF;
	IF more <> 0 THEN
		PERFORM acp.billing_adopt_line(b, invoice, coalesce(p->>'reason', CASE WHEN more > 0 THEN 'calls whose records were lost in a restore'
			ELSE 'calls that came after this invoice was made' END));
		SELECT * INTO b FROM acp.billing_periods x WHERE x.tenant_id = tenant AND x.period = month;
	END IF;
	INSERT INTO acp.outbox AS o (tenant_id, obligation, action, params, created_at, due_at, done_at, result)
	VALUES (tenant, name, 'stripe.invoices.create', acp.billing_params(b, acp.invoice_stored_lines(tenant, month)), acp.now(), acp.now(), acp.now(),
		jsonb_build_object('adopted', invoice->'invoice'))
	ON CONFLICT (tenant_id, obligation) DO UPDATE SET params = o.params || excluded.params, done_at = excluded.done_at, result = excluded.result,
		dead = false, leased_until = NULL, error_code = NULL, error = NULL;
	UPDATE acp.tenants t SET stripe_customer_id = invoice->>'customer', updated_at = acp.now()
	WHERE t.tenant_id = tenant AND t.stripe_customer_id IS NULL AND invoice->>'customer' IS NOT NULL;
	PERFORM set_config('acp.grace_days', coalesce(p->>'grace_days', ''), true);
	PERFORM acp.billing_executed(tenant, name, invoice || jsonb_build_object('hash', invoice->'metadata'->'invoice_hash'));
	PERFORM acp.audit_append(jsonb_build_object('event_id', gen_random_uuid(), 'request_id', gen_random_uuid(),
		'tenant_id', '00000000-0000-0000-0000-000000000000', 'integration', p->'integration', 'action', 'billing.adopt', 'actor_type', 'system',
		'status', 'success', 'latency_ms', 0, 'dry_run', false, 'billable', false, 'billing_quantity', 1,
		'result_meta', (result - 'tenant_uuid') || jsonb_build_object('tenant_id', tenant, 'resource_type', 'invoice',
			'resource_id', invoice->'invoice')));
	RETURN result;
END
$$;
COMMENT ON FUNCTION acp.billing_adopt(jsonb) IS
	'Takes over an invoice that Stripe has for a billed month: a line of kind adjustment makes the amounts equal. p: tenant_id, period, invoice (an element of stripe.invoices.list), integration (kernel_id), grace_days?, reason?, dry_run?. Returns both amounts. Writes an audit row.';

CREATE OR REPLACE FUNCTION acp.billing_unknown(p_invoices jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT coalesce(jsonb_agg(i.value ORDER BY i.ordinality), '[]')
		FROM jsonb_array_elements(p_invoices) WITH ORDINALITY i
		WHERE NOT EXISTS (SELECT FROM acp.billing_periods b WHERE b.tenant_id = acp.uuid_or_null(i.value->'metadata'->>'tenant_uuid')
			AND to_char(b.period, 'YYYY-MM') = i.value->'metadata'->>'period'
			AND (b.amount > 0 OR b.stripe_invoice_id = i.value->>'invoice')
			AND coalesce(b.stripe_invoice_id, i.value->>'invoice') = i.value->>'invoice')
		  -- One of two invoices of a month, which the operator has voided.
		  AND NOT (i.value->>'status' = 'void' AND EXISTS (SELECT FROM acp.billing_periods b
			WHERE b.tenant_id = acp.uuid_or_null(i.value->'metadata'->>'tenant_uuid')
			  AND to_char(b.period, 'YYYY-MM') = i.value->'metadata'->>'period' AND b.stripe_invoice_id IS NOT NULL))
		  AND (i.value->'metadata' ? 'kernel_id' OR EXISTS (SELECT FROM acp.tenants t
			WHERE t.tenant_id = acp.uuid_or_null(i.value->'metadata'->>'tenant_uuid'))));
END
$$;
COMMENT ON FUNCTION acp.billing_unknown(jsonb) IS
	'Of the invoices that Stripe has for this installation (elements of stripe.invoices.list), those that these books do not have.';

GRANT EXECUTE ON FUNCTION acp.billing_adopt_line(acp.billing_periods, jsonb, text), acp.billing_adoptable(uuid, date, jsonb),
	acp.billing_adopt(jsonb), acp.billing_unknown(jsonb) TO acp_app;
