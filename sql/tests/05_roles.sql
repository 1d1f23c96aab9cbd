-- 05_roles.sql - rights. acp_app: what the program needs; acp_report: the views; all other roles: nothing.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(32);

-- Rights in the short form of psql: r select, a insert, w update, d delete, D truncate, x references, t trigger.
CREATE FUNCTION pg_temp.rights(role text, relation regclass) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(string_agg(letter, '' ORDER BY n), '')
	FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER'],
	            ARRAY['r', 'a', 'w', 'd', 'D', 'x', 't']) WITH ORDINALITY AS p(privilege, letter, n)
	WHERE has_table_privilege(role, relation, privilege)
$$;

-- Runs a statement as a role and rolls it back. Returns its SQLSTATE, or 'done'.
CREATE FUNCTION pg_temp.as_role(role text, statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	state text := 'done';
BEGIN
	BEGIN
		PERFORM set_config('role', role, true);
		EXECUTE statement;
		RAISE SQLSTATE 'UNDO0';
	EXCEPTION
		WHEN SQLSTATE 'UNDO0' THEN NULL;
		WHEN OTHERS THEN state := SQLSTATE;
	END;
	RETURN state;
END
$$;

CREATE TEMP TABLE expected (relation text PRIMARY KEY, app text, report text);
INSERT INTO expected VALUES
	('acp.agents', 'ra', ''),
	('acp.approvals', 'rawd', ''),
	('acp.audit_archive_runs', 'r', ''),
	('acp.audit_archive_totals', 'r', ''),
	('acp.audit_archives', 'r', ''),
	('acp.audit_chains', 'r', ''),
	('acp.audit_outbox', 'rawd', ''),
	('acp.audit_seals', 'ra', ''),
	('acp.billing_blocked', 'rawd', ''),
	('acp.billing_closings', 'ra', ''),
	('acp.billing_adjustments', 'ra', ''),
	('acp.billing_corrections', 'ra', ''),
	('acp.billing_credits', 'raw', ''),
	('acp.billing_cuts', 'ra', ''),
	('acp.billing_periods', 'raw', ''),
	('acp.billing_runs', 'raw', ''),
	('acp.charged_calls', 'r', ''),
	('acp.charged_counters', 'r', ''),
	('acp.change_clock', 'rw', ''),
	('acp.checkouts', 'raw', ''),
	('acp.changes', 'rad', ''),
	('acp.console_access', '', ''),
	('acp.invoice_lines', 'ra', ''),
	('acp.invoice_payments', 'raw', ''),
	('acp.invoice_states', 'raw', ''),
	('acp.stripe_cards', 'raw', ''),
	('acp.stripe_payments', 'raw', ''),
	('acp.stripe_returns', 'raw', ''),
	('acp.kernels', 'raw', ''),
	('acp.outbox', 'raw', ''),
	('acp.stripe_events', 'raw', ''),
	('acp.stripe_marks', 'raw', ''),
	('acp.usage_settled', 'rad', ''),
	('acp.policies', 'raw', ''),
	('acp.policy_proposals', 'rawd', ''),
	('acp.team_members', 'raw', ''),
	('acp.tenant_settings', 'raw', ''),
	('acp.webhook_deliveries', 'rawd', ''),
	('acp.webhook_leases', 'rawd', ''),
	('acp.webhooks', 'rawd', ''),
	('acp.api_keys', 'raw', ''),
	('acp.audit_logs', 'r', ''),
	('acp.idempotency', 'rawd', ''),
	('acp.key_lookup', 'ra', ''),
	('acp.leadscoring_models', 'raw', ''),
	('acp.leadscoring_questions', 'raw', ''),
	('acp.prices', 'r', ''),
	('acp.schema_migrations', 'r', ''),
	('acp.tenants', 'raw', ''),
	('acp.usage_counted', 'r', ''),
	('acp.usage_counters', 'r', ''),
	('acp.usage_pending', 'r', ''),
	('acp.usage_pending_from', 'r', ''),
	('acp.usage_rolled', 'r', ''),
	('acp.usage_quota', 'raw', ''),
	('acp.usage_reservations', 'rawd', ''),
	('acp_report.audit_logs', '', 'r'),
	('acp_report.audit_months', '', 'r'),
	('acp_report.conversion_by_month', '', 'r'),
	('acp_report.billed_calls', '', 'r'),
	('acp_report.denials', '', 'r'),
	('acp_report.error_rate_by_action_day', '', 'r'),
	('acp_report.latency_by_action_day', '', 'r'),
	('acp_report.prices', '', 'r'),
	('acp_report.revenue_by_month', '', 'r'),
	('acp_report.revenue_by_tenant_month', '', 'r'),
	('acp_report.revenue_lines', '', 'r'),
	('acp_report.invoice_lines', '', 'r'),
	('acp_report.invoices', '', 'r'),
	('acp_report.tenants', '', 'r'),
	('acp_report.usage_by_action_day', '', 'r'),
	('acp_report.usage_by_tenant_month', '', 'r'),
	('acp_report.usage_drift', '', 'r');

SELECT set_eq($$
	SELECT c.oid::regclass::text, pg_temp.rights('acp_app', c.oid) AS app, pg_temp.rights('acp_report', c.oid) AS report
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE nspname IN ('acp', 'acp_report') AND relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT relispartition$$,
	'TABLE expected', 'every table and view: acp_app and acp_report have exactly the expected rights');

SELECT is_empty($$
	SELECT oid::regclass FROM pg_class
	WHERE relispartition AND pg_temp.rights('acp_app', oid) || pg_temp.rights('acp_report', oid) <> ''$$,
	'nobody reaches a partition except through audit_logs');

SELECT is_empty($$
	SELECT a.attrelid::regclass, attname, r.role FROM pg_attribute a, unnest(ARRAY['acp_app', 'acp_report']) AS r(role)
	WHERE attacl IS NOT NULL AND attrelid::regclass::text LIKE 'acp%'$$,
	'no rights on single columns');

SELECT set_eq($$
	SELECT nspname::text, role, has_schema_privilege(role, oid, 'USAGE') AS usage, has_schema_privilege(role, oid,
	'CREATE') AS creates
	FROM pg_namespace, unnest(ARRAY['acp_app', 'acp_report']) role WHERE nspname IN ('acp', 'acp_report')$$,
	$$VALUES ('acp', 'acp_app', true, false), ('acp', 'acp_report', false, false),
		('acp_report', 'acp_app', false, false), ('acp_report', 'acp_report', true, false)$$,
	'acp_app uses schema acp, acp_report uses schema acp_report, and neither can create objects');

SELECT set_eq($$
	SELECT oid::regprocedure::text FROM pg_proc
	WHERE pronamespace = 'acp'::regnamespace AND NOT has_function_privilege('acp_app', oid, 'EXECUTE')$$,
	ARRAY['acp.audit_archive_begin(date)', 'acp.audit_archive_end(date,bigint,integer)',
		'acp.audit_erase(text,uuid,timestamp with time zone,text,boolean)', 'acp.audit_erase_archives(uuid,timestamp with time zone)',
		'acp.audit_erase_outbox(uuid,timestamp with time zone)', 'acp.audit_erase_tables()',
		'acp.audit_erase_waiting(uuid,timestamp with time zone)', 'acp.audit_insert(acp.audit_logs[])',
		'acp.console_calls()', 'acp.console_drift(date)', 'acp.console_money()', 'acp.console_month(date,integer)', 'acp.console_state()'],
	'acp_app may run all functions of acp except those that remove a month or a value from the log, store unlinked rows, or read reports without a session');

SELECT set_eq($$
	SELECT oid::regprocedure::text FROM pg_proc
	WHERE pronamespace = 'acp'::regnamespace AND has_function_privilege('acp_report', oid, 'EXECUTE')$$,
	ARRAY['acp.effective_tier(text,text,timestamp with time zone,timestamp with time zone)', 'acp.now()', 'acp.day(timestamp with time zone)',
	'acp.currency_unit(text)', 'acp.invoice_owed(acp.invoice_states,bigint)'],
	'acp_report may run the functions that its views call');

SELECT ok(NOT (rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication),
	rolname || ' is an ordinary role')
FROM pg_roles WHERE rolname IN ('acp_app', 'acp_owner', 'acp_report') ORDER BY rolname;

SELECT ok(NOT pg_has_role(member, target, 'MEMBER'), member || ' is not a member of ' || target)
FROM (VALUES ('acp_app', 'acp_owner'), ('acp_report', 'acp_owner'), ('acp_report', 'acp_app'),
	('acp_app', 'acp_report'))
	AS m(member, target);

SELECT bag_has($$
	SELECT unnest(setconfig) FROM pg_db_role_setting
	WHERE setrole = 'acp_report'::regrole AND setdatabase = (SELECT oid FROM pg_database
	WHERE datname = current_database())$$,
	$$VALUES ('search_path=acp_report, pg_catalog')$$,
	'select … from audit_logs works for acp_report without a schema name');

-- The same, by trying ------------------------------------------------------------------------------------------------

CREATE TEMP TABLE tries (role text, statement text, expected text);
INSERT INTO tries VALUES
	('acp_report', 'SELECT key_hash FROM acp.api_keys', '42501'),
	('acp_report', 'SELECT key_hash FROM acp.key_lookup', '42501'),
	('acp_report', 'SELECT billing_email FROM acp.tenants', '42501'),
	('acp_report', 'SELECT acp.authenticate(NULL)', '42501'),
	('acp_report', 'DELETE FROM acp.audit_logs', '42501'),
	('acp_report', 'DELETE FROM acp_report.tenants', '42501'),
	('acp_report', 'CREATE TABLE acp_report.mine ()', '42501'),
	('acp_app', 'UPDATE acp.audit_logs SET billable = false', '42501'),
	('acp_app', 'DELETE FROM acp.audit_logs', '42501'),
	('acp_app', 'TRUNCATE acp.audit_logs', '42501'),
	('acp_app', 'UPDATE acp.prices SET unit_amount = 0', '42501'),
	('acp_app', 'UPDATE acp.key_lookup SET tenant_id = NULL', '42501'),
	('acp_app', 'DELETE FROM acp.tenants', '42501'),
	('acp_app', 'CREATE TABLE acp.mine ()', '42501'),
	('acp_app', 'ALTER TABLE acp.audit_logs ALTER billable DROP NOT NULL', '42501'),
	('acp_app', 'SELECT FROM acp.audit_logs', 'done');

SELECT is(pg_temp.as_role(role, statement), expected, role || ': ' || statement) FROM tries;

SELECT is_empty($$
	SELECT c.oid::regclass FROM pg_class c WHERE relnamespace = 'acp_report'::regnamespace
	AND pg_temp.as_role('acp_report', 'SELECT count(*) FROM ' || c.oid::regclass) <> 'done'$$,
	'acp_report can read every view to its end');

SELECT is_empty($$
	SELECT r.ev_class::regclass, a.attname FROM pg_depend d
	JOIN pg_rewrite r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass
	JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
	WHERE d.refobjid = 'acp.key_lookup'::regclass OR (d.refobjid = 'acp.idempotency'::regclass)
	   OR (d.refobjid = 'acp.api_keys'::regclass AND a.attname = 'key_hash')
	   OR (d.refobjid = 'acp.tenants'::regclass AND a.attname = 'billing_email')$$,
	'no view uses a key hash, a stored reply or an e-mail address');

SELECT * FROM finish();
ROLLBACK;
