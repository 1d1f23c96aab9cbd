-- breaking: no
-- 0011 numbers: sums of quantities are exact, however large; tenants whose month cannot be billed; corrections.
--
-- Not breaking: functions that return a sum are changed here, too, so that calls go on until the functions are renewed.

SET LOCAL ROLE acp_owner;

-- Sums of quantities ----------------------------------------------------------------------------------------------

-- A bigint ends at 2^63: two rows with such a quantity stopped everybody's billing. Views keep their columns, without the
-- conversion to bigint.
DO $sums$
DECLARE
	v      record;
	f      record;
	remake text[] := '{}';
BEGIN
	FOR v IN
		WITH RECURSIVE d AS (
			SELECT r.ev_class AS oid, 1 AS depth FROM pg_depend p JOIN pg_rewrite r ON r.oid = p.objid
			WHERE p.classid = 'pg_rewrite'::regclass AND p.refclassid = 'pg_class'::regclass
			  AND p.refobjid IN ('acp.usage_counted'::regclass, 'acp.audit_archive_totals'::regclass, 'acp.invoice_lines'::regclass)
			UNION
			SELECT r.ev_class, d.depth + 1 FROM d JOIN pg_depend p ON p.refobjid = d.oid JOIN pg_rewrite r ON r.oid = p.objid
			WHERE p.classid = 'pg_rewrite'::regclass AND p.refclassid = 'pg_class'::regclass AND r.ev_class <> d.oid
		)
		SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, c.relacl, obj_description(c.oid, 'pg_class') AS comment, max(d.depth) AS depth
		FROM d JOIN pg_class c ON c.oid = d.oid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname IN ('acp', 'acp_report') GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC, 1
	LOOP
		remake := ARRAY[format('CREATE VIEW %s AS %s', v.name, regexp_replace(pg_get_viewdef(v.oid),
			'::bigint AS (billable_quantity|quantity|units|audit_quantity|counted_quantity)\M', ' AS \1', 'g')),
			format('COMMENT ON VIEW %s IS %L', v.name, v.comment)]
			|| ARRAY(SELECT format('GRANT %s ON %s TO %s%s', a.privilege_type, v.name,
				CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END, CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
				FROM aclexplode(v.relacl) a WHERE a.grantee <> (SELECT oid FROM pg_roles WHERE rolname = 'acp_owner'))
			|| remake;
		EXECUTE format('DROP VIEW %s', v.name);
	END LOOP;
	ALTER TABLE acp.usage_counted ALTER COLUMN quantity TYPE numeric;
	ALTER TABLE acp.audit_archive_totals ALTER COLUMN quantity TYPE numeric;
	ALTER TABLE acp.invoice_lines ALTER COLUMN quantity TYPE numeric;
	FOR i IN 1 .. cardinality(remake) LOOP
		EXECUTE remake[i];
	END LOOP;
	FOR f IN SELECT p.oid, p.oid::regprocedure::text AS name, pg_get_functiondef(p.oid) AS text FROM pg_proc p
		WHERE p.pronamespace = 'acp'::regnamespace AND p.proname IN ('usage_of', 'billing_usage')
	LOOP
		IF f.text LIKE '%quantity bigint)%' THEN
			EXECUTE format('DROP FUNCTION %s', f.name);
		END IF;
		EXECUTE replace(replace(f.text, 'quantity bigint)', 'quantity numeric)'), 'x.quantity::bigint', 'x.quantity');
		EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO acp_app', f.name);
	END LOOP;
END
$sums$;

-- What cannot be billed -------------------------------------------------------------------------------------------

CREATE TABLE acp.billing_blocked (
	tenant_id  uuid NOT NULL REFERENCES acp.tenants,
	period     date NOT NULL REFERENCES acp.billing_closings,
	reason     text NOT NULL,
	blocked_at timestamptz NOT NULL,
	PRIMARY KEY (tenant_id, period)
);
CREATE INDEX billing_blocked_period ON acp.billing_blocked (period);
COMMENT ON TABLE acp.billing_blocked IS
	'Tenants whose invoice of a closed month could not be made. The next run of that month, or of a later one, tries again.';
COMMENT ON COLUMN acp.billing_blocked.tenant_id IS 'The tenant.';
COMMENT ON COLUMN acp.billing_blocked.period IS 'First day of the UTC month.';
COMMENT ON COLUMN acp.billing_blocked.reason IS 'Why the latest attempt failed.';
COMMENT ON COLUMN acp.billing_blocked.blocked_at IS 'When the first attempt failed.';
GRANT SELECT, INSERT, UPDATE, DELETE ON acp.billing_blocked TO acp_app;

CREATE TABLE acp.billing_corrections (
	tenant_id    uuid NOT NULL REFERENCES acp.tenants,
	event_id     uuid NOT NULL,
	ts           timestamptz NOT NULL,
	chain_id     integer NOT NULL,
	chain_seq    bigint NOT NULL,
	action       text NOT NULL,
	billing_unit text NOT NULL,
	quantity     bigint NOT NULL,
	charged      bigint NOT NULL CHECK (charged >= 0),
	reason       text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
	corrected_at timestamptz NOT NULL,
	PRIMARY KEY (tenant_id, event_id)
);
COMMENT ON TABLE acp.billing_corrections IS
	'Quantities that an operator put in the place of those of audit rows (acpctl billing correct), before the row was on an invoice. Append-only, like the log.';
COMMENT ON COLUMN acp.billing_corrections.tenant_id IS 'The tenant.';
COMMENT ON COLUMN acp.billing_corrections.event_id IS 'The audit row.';
COMMENT ON COLUMN acp.billing_corrections.ts IS 'Its ts.';
COMMENT ON COLUMN acp.billing_corrections.chain_id IS 'Its chain.';
COMMENT ON COLUMN acp.billing_corrections.chain_seq IS 'Its place in the chain.';
COMMENT ON COLUMN acp.billing_corrections.action IS 'Its action.';
COMMENT ON COLUMN acp.billing_corrections.billing_unit IS 'Its unit; call where that is null.';
COMMENT ON COLUMN acp.billing_corrections.quantity IS 'Its billing_quantity.';
COMMENT ON COLUMN acp.billing_corrections.charged IS 'What is charged instead; 0: the call costs nothing.';
COMMENT ON COLUMN acp.billing_corrections.reason IS 'Why.';
COMMENT ON COLUMN acp.billing_corrections.corrected_at IS 'When.';
GRANT SELECT, INSERT ON acp.billing_corrections TO acp_app;
