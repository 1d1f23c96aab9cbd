-- When a payment fails, and when money comes back.
--
-- Stripe's events and our own attempts add facts (acp.invoice_states, acp.stripe_payments, acp.stripe_returns). What an
-- invoice owes and since when a tenant is past due is computed from all facts, so repeats and order do not matter. Only
-- invoices that this installation made (acp.billing_periods names their id) make a tenant past due.
--
-- Lock order: the row of the event, the lock acp.stripe_money, the row of the tenant, then its invoices.

CREATE OR REPLACE FUNCTION acp.invoice_told(p_invoice text, p_fact text, p_at timestamptz) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO acp.invoice_states AS s (stripe_invoice_id, failed_at, paid_at, void_at, settled_at)
	VALUES (p_invoice, CASE p_fact WHEN 'failed' THEN p_at END, CASE p_fact WHEN 'paid' THEN p_at END,
		CASE p_fact WHEN 'void' THEN p_at END, CASE p_fact WHEN 'settled' THEN p_at END)
	ON CONFLICT (stripe_invoice_id) DO UPDATE SET failed_at = least(s.failed_at, excluded.failed_at), paid_at = least(s.paid_at, excluded.paid_at),
		void_at = least(s.void_at, excluded.void_at), settled_at = greatest(s.settled_at, excluded.settled_at);
END
$$;
COMMENT ON FUNCTION acp.invoice_told(text, text, timestamptz) IS
	'Stores a fact about an invoice at Stripe: failed, paid, void (also for a deleted one) or settled (by the operator). The first moment of a fact counts, of settled the last.';

CREATE OR REPLACE FUNCTION acp.invoice_owed(s acp.invoice_states, p_amount bigint) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN least(
		CASE WHEN num_nonnulls(s.paid_at, s.void_at, s.settled_at) = 0 AND coalesce(s.credited, 0) < p_amount THEN s.failed_at END,
		CASE WHEN s.settled_at IS NULL OR s.settled_at < s.lost_at THEN s.lost_at END);
END
$$;
COMMENT ON FUNCTION acp.invoice_owed(acp.invoice_states, bigint) IS
	'Since when an invoice of this amount (minor units) is owed although its payment was tried, or because a dispute about it was lost. Null: it is not.';

CREATE OR REPLACE FUNCTION acp.invoice_closed(p_invoice text) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- Such an invoice keeps its status (failed). A settled one is still open at Stripe, which would take the money again.
	RETURN (SELECT CASE WHEN s.settled_at IS NOT NULL THEN 'the invoice is settled, so its customer is not charged again'
			WHEN s.void_at IS NOT NULL THEN 'the invoice is void at Stripe, so nothing is charged for it' END
		FROM acp.invoice_states s WHERE s.stripe_invoice_id = p_invoice);
END
$$;
COMMENT ON FUNCTION acp.invoice_closed(text) IS 'Why an invoice at Stripe may not be charged any more: the operator settled it, or it is void. Null: it may.';

CREATE OR REPLACE FUNCTION acp.payment_settle(p_tenant uuid) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	grace CONSTANT integer := coalesce(nullif(current_setting('acp.grace_days', true), '')::integer, 7);
	since CONSTANT timestamptz := (SELECT min(acp.invoice_owed(s, b.amount)) FROM acp.billing_periods b JOIN acp.invoice_states s USING (stripe_invoice_id)
		WHERE b.tenant_id = p_tenant);
BEGIN
	UPDATE acp.tenants t SET past_due_since = since, past_due_until = since + grace * interval '24 hours', updated_at = acp.now()
	WHERE t.tenant_id = p_tenant AND t.past_due_since IS DISTINCT FROM since;
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION acp.payment_settle(uuid) IS
	'Computes since and until when a tenant is past due. False: nothing changed. The caller holds the lock of the tenant''s row, and has set acp.grace_days for its transaction (days; default 7).';

CREATE OR REPLACE FUNCTION acp.past_due(t acp.tenants) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN CASE WHEN t.past_due_since IS NOT NULL
		THEN jsonb_build_object('since', acp.rfc3339(t.past_due_since), 'until', acp.rfc3339(t.past_due_until)) END;
END
$$;
COMMENT ON FUNCTION acp.past_due(acp.tenants) IS 'Member past_due of replies: since when the tenant is past due, and until when it is still treated as paid. Null: it is not past due.';

CREATE OR REPLACE FUNCTION acp.payment_collect(p_tenant uuid) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	b       record;
	retried integer := 0;
BEGIN
	-- An invoice whose retry is under way is not failed, so it is not paid twice.
	FOR b IN SELECT x.period FROM acp.billing_periods x JOIN acp.invoice_states s USING (stripe_invoice_id)
		WHERE x.tenant_id = p_tenant AND x.status = 'failed' AND acp.invoice_owed(s, x.amount) IS NOT NULL AND s.paid_at IS NULL
		AND acp.invoice_closed(x.stripe_invoice_id) IS NULL ORDER BY 1
	LOOP
		PERFORM acp.billing_retry(p_tenant, b.period);
		retried := retried + 1;
	END LOOP;
	RETURN retried;
END
$$;
COMMENT ON FUNCTION acp.payment_collect(uuid) IS 'Tries again to pay the failed invoices of a tenant, because it has another card. Returns their number.';

CREATE OR REPLACE FUNCTION acp.billing_settle(p_tenant uuid, p_period date, p_grace_days integer) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	b acp.billing_periods;
	s acp.invoice_states;
BEGIN
	PERFORM FROM acp.tenants t WHERE t.tenant_id = p_tenant FOR NO KEY UPDATE;
	SELECT * INTO b FROM acp.billing_periods x WHERE x.tenant_id = p_tenant AND x.period = p_period;
	IF b.tenant_id IS NULL THEN
		PERFORM acp.fail('NOT_FOUND', 'this tenant has no invoice for this month');
	END IF;
	SELECT * INTO s FROM acp.invoice_states x WHERE x.stripe_invoice_id = b.stripe_invoice_id;
	IF acp.invoice_owed(s, b.amount) IS NULL THEN
		PERFORM acp.fail('VALIDATION_ERROR', format('the invoice is %s and not past due; only an invoice that is can be settled', b.status));
	END IF;
	PERFORM acp.invoice_told(b.stripe_invoice_id, 'settled', date_trunc('second', acp.now()));
	PERFORM set_config('acp.grace_days', p_grace_days::text, true);
	PERFORM acp.payment_settle(p_tenant);
	RETURN EXISTS (SELECT FROM acp.tenants t WHERE t.tenant_id = p_tenant AND t.past_due_since IS NOT NULL);
END
$$;
COMMENT ON FUNCTION acp.billing_settle(uuid, date, integer) IS
	'Declares an invoice that is past due as settled outside Stripe: the tenant does not owe it any more. True: the tenant owes another one.';

-- Money that comes back ----------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION acp.return_rank(p_status text) RETURNS integer
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN CASE WHEN p_status IN ('won', 'lost', 'warning_closed', 'prevented', 'failed', 'canceled', 'void') THEN 2
		WHEN p_status IN ('under_review', 'warning_under_review', 'succeeded') THEN 1 ELSE 0 END;
END
$$;
COMMENT ON FUNCTION acp.return_rank(text) IS 'Order of the statuses of refunds, disputes and credit notes: decides between two events of the same second.';

CREATE OR REPLACE FUNCTION acp.payment_invoice(p_payment text) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN (SELECT l.stripe_invoice_id FROM acp.stripe_payments l WHERE l.payment = p_payment); END $$;
COMMENT ON FUNCTION acp.payment_invoice(text) IS 'The invoice that a payment intent or charge paid; null: not known.';

CREATE OR REPLACE FUNCTION acp.invoice_returns(p_invoice text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	WITH found AS (
		SELECT r.* FROM acp.stripe_returns r WHERE r.stripe_invoice_id = p_invoice
		UNION SELECT r.* FROM acp.stripe_payments l JOIN acp.stripe_returns r ON r.payment_intent = l.payment OR r.charge = l.payment
			WHERE l.stripe_invoice_id = p_invoice
	), settled AS (
		SELECT (SELECT s.settled_at FROM acp.invoice_states s WHERE s.stripe_invoice_id = p_invoice) AS at
	), sums AS (
		-- A charge shows what of it was refunded, but not a refund that failed later.
		SELECT greatest(coalesce(sum(f.amount) FILTER (WHERE f.kind = 'refund' AND f.status NOT IN ('failed', 'canceled')), 0),
				coalesce(sum(f.amount) FILTER (WHERE f.kind = 'charge'), 0)
					- coalesce(sum(f.amount) FILTER (WHERE f.kind = 'refund' AND f.status IN ('failed', 'canceled')), 0)) AS refunded,
			coalesce(sum(f.amount) FILTER (WHERE f.kind = 'credit_note' AND f.status <> 'void'), 0) AS credited,
			(array_agg(CASE f.kind WHEN 'dispute' THEN f.status ELSE 'early_fraud_warning' END
				ORDER BY f.kind = 'dispute' DESC, f.status = 'lost' DESC, f.opened_at DESC, f.object_id) FILTER (WHERE f.kind IN ('dispute', 'warning')))[1] AS dispute,
			coalesce(min(f.opened_at) FILTER (WHERE f.kind = 'dispute'), min(f.opened_at) FILTER (WHERE f.kind = 'warning')) AS disputed_at,
			-- A dispute that was lost before the settlement is settled. Of the others, the first counts.
			coalesce(min(f.lost_at) FILTER (WHERE f.status = 'lost' AND coalesce(f.lost_at > settled.at, true)),
				max(f.lost_at) FILTER (WHERE f.status = 'lost')) AS lost_at
		FROM settled LEFT JOIN found f ON true
	)
	INSERT INTO acp.invoice_states AS s (stripe_invoice_id, refunded, credited, dispute, disputed_at, lost_at)
	SELECT p_invoice, n.refunded, n.credited, n.dispute, n.disputed_at, n.lost_at FROM sums n
	ON CONFLICT (stripe_invoice_id) DO UPDATE SET refunded = excluded.refunded, credited = excluded.credited, dispute = excluded.dispute,
		disputed_at = excluded.disputed_at, lost_at = excluded.lost_at;
END
$$;
COMMENT ON FUNCTION acp.invoice_returns(text) IS 'Computes what came back of an invoice from all refunds, credit notes and disputes that belong to it.';

CREATE OR REPLACE FUNCTION acp.stripe_link(p jsonb) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	invoice CONSTANT text := CASE WHEN p->>'type' LIKE 'invoice.%' THEN p->>'object_id' ELSE p->>'invoice' END;
	fresh   integer;
BEGIN
	INSERT INTO acp.stripe_payments (payment, stripe_invoice_id)
	SELECT DISTINCT x, invoice FROM unnest(ARRAY[p->>'payment_intent', p->>'charge',
		CASE WHEN p->>'object_id' ~ '^(pi|ch|py)_' THEN p->>'object_id' END]) x
	WHERE x IS NOT NULL AND invoice IS NOT NULL ON CONFLICT DO NOTHING;
	GET DIAGNOSTICS fresh = ROW_COUNT;
	IF fresh > 0 THEN
		PERFORM acp.invoice_returns(invoice);
	END IF;
	RETURN CASE WHEN fresh > 0 THEN invoice END;
END
$$;
COMMENT ON FUNCTION acp.stripe_link(jsonb) IS 'Stores which invoice the payments of an event belong to. Returns the invoice if this was not known before.';

CREATE OR REPLACE FUNCTION acp.stripe_return(p jsonb) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	kind CONSTANT text := CASE
		WHEN p->>'type' LIKE 'charge.dispute.%' THEN 'dispute' WHEN p->>'type' IN ('charge.refunded', 'charge.updated') THEN 'charge'
		WHEN p->>'type' LIKE 'credit\_note.%' THEN 'credit_note' WHEN p->>'type' LIKE 'radar.%' THEN 'warning' ELSE 'refund' END;
	at   CONSTANT timestamptz := to_timestamp((p->>'created')::bigint);
	lost CONSTANT timestamptz := CASE WHEN kind = 'dispute' AND p->>'status' = 'lost' THEN at END;
	r    acp.stripe_returns;
BEGIN
	INSERT INTO acp.stripe_returns AS m (object_id, kind, stripe_invoice_id, payment_intent, charge, amount, status, created, event_id, opened_at)
	VALUES (p->>'object_id', kind, p->>'invoice', p->>'payment_intent', CASE kind WHEN 'charge' THEN p->>'object_id' ELSE p->>'charge' END,
		coalesce(CASE kind WHEN 'charge' THEN p->>'amount_refunded' ELSE p->>'amount' END, '0')::bigint,
		CASE kind WHEN 'charge' THEN '' ELSE coalesce(p->>'status', '') END, at, p->>'event_id', at)
	ON CONFLICT (object_id) DO UPDATE SET amount = excluded.amount, status = excluded.status, created = excluded.created, event_id = excluded.event_id
	WHERE (m.created, acp.return_rank(m.status), m.amount, m.event_id COLLATE "C")
		< (excluded.created, acp.return_rank(excluded.status), excluded.amount, excluded.event_id COLLATE "C");
	UPDATE acp.stripe_returns m SET opened_at = least(m.opened_at, at), stripe_invoice_id = coalesce(m.stripe_invoice_id, p->>'invoice'),
		payment_intent = coalesce(m.payment_intent, p->>'payment_intent'), charge = coalesce(m.charge, p->>'charge'),
		lost_at = least(m.lost_at, lost) -- ignores nulls: later events about a lost dispute do not move it
	WHERE m.object_id = p->>'object_id' RETURNING * INTO r;
	r.stripe_invoice_id := coalesce(r.stripe_invoice_id, acp.payment_invoice(r.payment_intent), acp.payment_invoice(r.charge));
	IF r.stripe_invoice_id IS NOT NULL THEN
		PERFORM acp.invoice_returns(r.stripe_invoice_id);
	END IF;
	RETURN r.stripe_invoice_id;
END
$$;
COMMENT ON FUNCTION acp.stripe_return(jsonb) IS
	'Stores a refund, credit note, dispute, early fraud warning, or what of a charge is refunded. Of several events about one object the newest counts; a dispute is lost since the oldest that says so. Returns the invoice; null: not known yet.';

CREATE OR REPLACE FUNCTION acp.stripe_money(p jsonb) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	linked  CONSTANT text := acp.stripe_link(p);
	invoice CONSTANT text := CASE WHEN acp.stripe_kind(p->>'type') = 'return' THEN acp.stripe_return(p) ELSE linked END;
	tenant  uuid;
BEGIN
	SELECT b.tenant_id INTO tenant FROM acp.billing_periods b WHERE b.stripe_invoice_id = invoice;
	IF tenant IS NULL THEN
		RETURN CASE WHEN invoice IS NULL AND acp.stripe_kind(p->>'type') <> 'return' THEN 'unchanged' ELSE 'unknown_invoice' END;
	END IF;
	PERFORM FROM acp.tenants t WHERE t.tenant_id = tenant FOR NO KEY UPDATE;
	PERFORM acp.payment_settle(tenant);
	RETURN 'applied';
END
$$;
COMMENT ON FUNCTION acp.stripe_money(jsonb) IS
	'Handles an event about a payment, refund, credit note, dispute or fraud warning. unknown_invoice: it is stored, and counts once its invoice is known to be one of ours.';

CREATE OR REPLACE FUNCTION acp.invoice_returned(p_stripe_invoice text, p_currency text) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN coalesce((SELECT jsonb_strip_nulls(jsonb_build_object(
			'refunded', CASE WHEN s.refunded > 0 THEN acp.money_major(s.refunded, p_currency) END,
			'credited', CASE WHEN s.credited > 0 THEN acp.money_major(s.credited, p_currency) END,
			'dispute', s.dispute, 'disputed_at', acp.rfc3339(s.disputed_at), 'settled_at', acp.rfc3339(s.settled_at)))
		FROM acp.invoice_states s WHERE s.stripe_invoice_id = p_stripe_invoice), '{}');
END
$$;
COMMENT ON FUNCTION acp.invoice_returned(text, text) IS
	'Members that an invoice has only if something came back: refunded, credited (major unit), dispute, disputed_at, settled_at.';

GRANT EXECUTE ON FUNCTION acp.invoice_told(text, text, timestamptz), acp.invoice_owed(acp.invoice_states, bigint), acp.invoice_closed(text),
	acp.payment_settle(uuid), acp.past_due(acp.tenants), acp.payment_collect(uuid), acp.billing_settle(uuid, date, integer), acp.return_rank(text), acp.payment_invoice(text),
	acp.invoice_returns(text), acp.stripe_link(jsonb), acp.stripe_return(jsonb), acp.stripe_money(jsonb), acp.invoice_returned(text, text) TO acp_app;
