-- Invoices for SQL reporting, and the proof that each paid call is in one line. Functions used here must not name objects
-- of schema acp in their bodies: readers of these views have no rights there.

CREATE OR REPLACE VIEW acp_report.invoices AS
	SELECT b.tenant_id, t.agent_id, t.organization_name, b.period, b.status, b.currency, b.total, b.amount AS amount_minor,
		trim_scale(b.amount::numeric / (acp.currency_unit(b.currency)).per_major) AS amount, b.carried_in, b.carried_out, encode(b.hash, 'hex') AS sha256, b.billed_at,
		b.stripe_invoice_id, b.paid_at, b.error, coalesce(s.refunded, 0) AS refunded_minor, coalesce(s.credited, 0) AS credited_minor,
		s.dispute, s.disputed_at, s.settled_at, acp.invoice_owed(s, b.amount) AS past_due_since
	FROM acp.billing_periods b JOIN acp.tenants t USING (tenant_id) LEFT JOIN acp.invoice_states s ON s.stripe_invoice_id = b.stripe_invoice_id;
COMMENT ON VIEW acp_report.invoices IS
	'One row per tenant and billed UTC month. total: unrounded; amount: charged amount, 0 if it is carried over. status: pending, invoiced, paid, failed or carried. What came back does not change amount or status: refunded_minor, credited_minor (credit notes), dispute (Stripe''s status). past_due_since: since when it is owed although its payment was tried, or because a dispute was lost; null: it is not.';

CREATE OR REPLACE VIEW acp_report.invoice_lines AS
	SELECT tenant_id, period, line, kind, source_period, action, billing_unit, unit, price_pattern, price_version, unit_amount, calls, quantity,
		amount, amount_minor, from_ts, to_ts, first_ts, last_ts, first_chain, first_seq, last_chain, last_seq, credit_id, reason
	FROM acp.invoice_lines;
COMMENT ON VIEW acp_report.invoice_lines IS
	'The lines of acp_report.invoices: usage, carry (carried over from the previous invoice), credit or adjustment (to an invoice that Stripe had before a restore). Usage of an earlier month is from late rows.';

CREATE OR REPLACE VIEW acp_report.billed_calls AS
	SELECT l.tenant_id, l.event_id, l.ts, l.action, coalesce(l.billing_unit, 'call') AS billing_unit, l.billing_quantity, l.chain_id, l.chain_seq,
		k.period, i.line, i.unit_amount, coalesce(c.charged, l.billing_quantity) AS charged_quantity
	FROM acp.audit_logs l
	LEFT JOIN acp.billing_corrections c ON c.tenant_id = l.tenant_id AND c.event_id = l.event_id AND c.ts = l.ts
	LEFT JOIN LATERAL (
		SELECT x.period FROM acp.billing_cuts x
		WHERE x.chain_id = l.chain_id AND x.chain_seq >= l.chain_seq AND x.period >= date_trunc('month', l.ts AT TIME ZONE 'UTC')::date
		ORDER BY x.period LIMIT 1) k ON true
	LEFT JOIN acp.invoice_lines i ON i.tenant_id = l.tenant_id AND i.period = k.period AND i.action = l.action
		AND i.billing_unit = coalesce(l.billing_unit, 'call') AND l.ts >= i.from_ts AND l.ts < i.to_ts
	WHERE l.billable AND l.tier = 'paid';
COMMENT ON VIEW acp_report.billed_calls IS
	'Each paid call (billable audit row of tier paid) with the invoice (period) and line that charges it. period null: not billed yet. charged_quantity: billing_quantity, or what it was corrected to. A call with a period but no line, or a call listed twice, would be an error.';

GRANT EXECUTE ON FUNCTION acp.currency_unit(text), acp.invoice_owed(acp.invoice_states, bigint) TO acp_report;
REVOKE EXECUTE ON FUNCTION acp.money_major(bigint, text) FROM acp_report;
GRANT SELECT ON acp_report.invoices, acp_report.invoice_lines, acp_report.billed_calls TO acp_report;
