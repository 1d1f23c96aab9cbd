-- breaking: no
-- 0018 lost disputes: since when each one is lost. Before, a later event about it moved that moment, so that an amount
-- that the operator had settled was owed again, and the days of grace began anew.

SET LOCAL ROLE acp_owner;

ALTER TABLE acp.stripe_returns ADD COLUMN lost_at timestamptz;
COMMENT ON COLUMN acp.stripe_returns.lost_at IS
	'dispute: when the oldest event with the status lost happened; it counts while the status is lost. Null: it was not lost.';
COMMENT ON COLUMN acp.invoice_states.lost_at IS
	'When a dispute was lost: the amount is owed again. Of several, the first that was lost after the settlement, else the last.';

-- A dispute that is lost was lost when it was closed: the statuses of older events are not stored.
UPDATE acp.stripe_returns r SET lost_at = least(r.created, (SELECT min(e.created) FROM acp.stripe_events e
	WHERE e.object_id = r.object_id AND e.type = 'charge.dispute.closed'))
WHERE r.kind = 'dispute' AND r.status = 'lost';
UPDATE acp.invoice_states s SET lost_at = n.lost_at FROM (
	SELECT x.stripe_invoice_id, coalesce(min(r.lost_at) FILTER (WHERE r.lost_at > x.settled_at OR x.settled_at IS NULL), max(r.lost_at)) AS lost_at
	FROM acp.invoice_states x JOIN acp.stripe_returns r ON r.lost_at IS NOT NULL AND (r.stripe_invoice_id = x.stripe_invoice_id
		OR EXISTS (SELECT FROM acp.stripe_payments l WHERE l.stripe_invoice_id = x.stripe_invoice_id AND l.payment IN (r.payment_intent, r.charge)))
	WHERE x.lost_at IS NOT NULL GROUP BY 1) n
WHERE s.stripe_invoice_id = n.stripe_invoice_id AND s.lost_at <> n.lost_at;
-- What is owed is computed here as acp.invoice_owed() does. The days of grace that were promised stay.
UPDATE acp.tenants t SET past_due_since = n.since, past_due_until = CASE WHEN n.since IS NOT NULL THEN t.past_due_until END FROM (
	SELECT b.tenant_id, min(least(
		CASE WHEN num_nonnulls(s.paid_at, s.void_at, s.settled_at) = 0 AND s.credited < b.amount THEN s.failed_at END,
		CASE WHEN s.settled_at IS NULL OR s.settled_at < s.lost_at THEN s.lost_at END)) AS since
	FROM acp.billing_periods b JOIN acp.invoice_states s USING (stripe_invoice_id) GROUP BY 1) n
WHERE n.tenant_id = t.tenant_id AND t.past_due_since <> coalesce(n.since, 'infinity');
