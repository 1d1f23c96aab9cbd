-- 00_rules.sql - rules for every object of the two schemas. Each rule is a view of its violations. The view must be
-- empty, and must find the violation that is created at the end, so a rule that checks nothing fails.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(55);

-- Objects under the rules --------------------------------------------------------------------------------------------

CREATE TEMP VIEW relations AS
	SELECT c.oid, n.nspname || '.' || c.relname AS name, c.relkind, c.relispartition, c.relowner
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE n.nspname IN ('acp', 'acp_report') AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S');

CREATE TEMP VIEW functions AS
	SELECT p.oid, p.oid::regprocedure::text AS name, p.prosrc, p.prosecdef, p.proconfig, p.proowner
	FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
	WHERE n.nspname IN ('acp', 'acp_report');

SELECT cmp_ok((SELECT count(*) FROM relations WHERE NOT relispartition), '>=', 18::bigint,
	'the rules cover the tables and views');
SELECT cmp_ok((SELECT count(*) FROM functions), '>=', 34::bigint, 'the rules cover the functions');

-- The rules ----------------------------------------------------------------------------------------------------------

CREATE TEMP VIEW relation_without_comment AS
	SELECT name FROM relations WHERE coalesce(obj_description(oid, 'pg_class'), '') = '';

CREATE TEMP VIEW column_without_comment AS
	SELECT name || '.' || attname AS name
	FROM relations JOIN pg_attribute a ON a.attrelid = oid AND attnum > 0 AND NOT attisdropped
	WHERE relkind IN ('r', 'p') AND NOT relispartition AND coalesce(col_description(oid, attnum), '') = '';

CREATE TEMP VIEW function_without_comment AS
	SELECT name FROM functions WHERE coalesce(obj_description(oid, 'pg_proc'), '') = '';

CREATE TEMP VIEW function_without_search_path AS
	SELECT name FROM functions WHERE NOT coalesce(proconfig, '{}') @> ARRAY['search_path=pg_catalog, pg_temp'];

CREATE TEMP VIEW function_for_public AS
	SELECT name FROM functions WHERE has_function_privilege('public', oid, 'EXECUTE');

CREATE TEMP VIEW relation_for_public AS
	SELECT name FROM relations
	WHERE CASE WHEN relkind = 'S' THEN has_sequence_privilege('public', oid, 'USAGE, SELECT, UPDATE')
		ELSE has_table_privilege('public', oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
		     OR has_any_column_privilege('public', oid, 'SELECT, INSERT, UPDATE, REFERENCES') END;

CREATE TEMP VIEW not_owned_by_owner AS
	SELECT name FROM relations WHERE pg_get_userbyid(relowner) <> 'acp_owner'
	UNION ALL SELECT name FROM functions WHERE pg_get_userbyid(proowner) <> 'acp_owner';

-- Allowed: a role that must not create tables creates partitions on demand, and these functions write rows of the log
-- and of the counters.
CREATE TEMP VIEW function_with_owners_rights AS
	SELECT name FROM functions WHERE prosecdef
	  AND name <> ALL (ARRAY['acp.ensure_partitions(timestamp with time zone,integer)', 'acp.audit_append_rows(acp.audit_logs[])',
		'acp.audit_append_links(acp.audit_logs[],bigint,bytea)', 'acp.audit_chain_own(uuid)', 'acp.console_link(bytea,integer)', 'acp.console_open(jsonb)', 'acp.console_data(jsonb)', 'acp.usage_roll_up()']);

-- Dynamic SQL is format() of one literal, with %I and %L only. (A simple check of the text.)
CREATE TEMP VIEW function_with_concatenated_sql AS
	SELECT name FROM functions
	WHERE prosrc ~* '\mexecute\M(?!\s+format\s*\(\s*'')' OR prosrc ~* '\mexecute\s+format\s*\(\s*''[^'']*%s'
	   OR prosrc ~* '\mexecute\s+format\s*\(\s*''[^'']*''\s*\|\|';

-- Names without a schema are searched in pg_catalog and then in pg_temp, where any user can create objects; a function
-- with the owner's rights would use them. (Operators are never searched in pg_temp.) These rules read the text without
-- comments and literals, and know the names of common table expressions.
CREATE TEMP VIEW bodies AS
	SELECT name, regexp_replace(regexp_replace(prosrc, '--[^\n]*', '', 'g'), '''[^'']*''', '''''', 'g') AS body FROM functions;

CREATE TEMP VIEW function_with_bare_table AS
	WITH b AS MATERIALIZED (SELECT * FROM bodies)
	SELECT DISTINCT f.name || ' ' || c.relname AS name
	FROM b f, pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE n.nspname IN ('acp', 'acp_report') AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND NOT c.relispartition
	  AND f.body ~* ('\m(from|join|insert\s+into|update|only|table)\s+' || c.relname || '\M(?!\s*[(.])')
	  AND f.body !~* ('\m' || c.relname || '\s*(\([a-z_, ]+\)\s*)?\mas\s+((not\s+)?materialized\s+)?\(');

CREATE TEMP VIEW function_with_bare_call AS
	WITH b AS MATERIALIZED (SELECT * FROM bodies)
	SELECT DISTINCT f.name || ' ' || called.proname AS name
	FROM b f, (SELECT DISTINCT p.proname FROM pg_proc p JOIN functions o ON o.oid = p.oid
		WHERE NOT EXISTS (SELECT FROM pg_proc b WHERE b.proname = p.proname AND b.pronamespace = 'pg_catalog'::regnamespace)) called
	WHERE f.body ~ ('(^|[^.[:alnum:]_])' || called.proname || '\s*\(');

-- A body that changes its role or accesses files of the server.
CREATE TEMP VIEW function_beyond_its_place AS
	SELECT name FROM functions
	WHERE prosrc ~* '\mset\s+(local\s+|session\s+)?(role|session\s+authorization)\M(?!\s*=)'
	   OR prosrc ~* 'set_config\s*\(\s*''(role|session_authorization|search_path)'
	   OR prosrc ~* '\m(pg_read_file|pg_read_binary_file|pg_ls_dir|pg_stat_file|lo_import|lo_export|dblink\w*)\s*\('
	   OR prosrc ~* '\mcopy\s+[\w.(][^;]*\m(from|to)\s+(program\M|'')';

CREATE TEMP VIEW function_of_another_language AS
	SELECT f.name FROM functions f JOIN pg_proc p USING (oid) JOIN pg_language l ON l.oid = p.prolang
	WHERE l.lanname NOT IN ('sql', 'plpgsql');

-- Functions are granted to our roles only, without grant option.
CREATE TEMP VIEW function_given_to_others AS
	SELECT f.name || ' ' || a.grantee::regrole AS name
	FROM functions f JOIN pg_proc p USING (oid), aclexplode(p.proacl) a
	WHERE a.grantee <> 0 AND (pg_get_userbyid(a.grantee) NOT LIKE 'acp\_%' OR a.is_grantable AND a.grantee <> p.proowner);

-- Tables that cannot be keyed by the tenant: they are used to find the tenant, or belong to none.
CREATE TEMP VIEW table_not_keyed_by_tenant AS
	SELECT name FROM relations r
	WHERE relkind IN ('r', 'p')
	  AND name <> ALL (ARRAY['acp.agents', 'acp.audit_archive_runs', 'acp.audit_archives', 'acp.audit_chains', 'acp.audit_seals', 'acp.billing_closings', 'acp.billing_cuts', 'acp.billing_runs', 'acp.change_clock', 'acp.changes', 'acp.console_access', 'acp.key_lookup', 'acp.invoice_payments', 'acp.invoice_states', 'acp.kernels', 'acp.policies', 'acp.prices', 'acp.schema_migrations', 'acp.stripe_events', 'acp.stripe_payments', 'acp.stripe_returns', 'acp.usage_pending', 'acp.usage_rolled'])
	  AND NOT EXISTS (SELECT FROM pg_constraint k JOIN pg_attribute a ON a.attrelid = k.conrelid
	AND a.attnum = k.conkey[1]
	                  WHERE k.conrelid = r.oid AND k.contype = 'p' AND a.attname = 'tenant_id');

CREATE TEMP VIEW foreign_key_without_index AS
	SELECT conrelid::regclass || ' ' || conname AS name
	FROM pg_constraint k JOIN relations r ON r.oid = k.conrelid
	WHERE contype = 'f' AND NOT EXISTS (
		SELECT FROM pg_index i
		WHERE i.indrelid = k.conrelid AND i.indpred IS NULL AND i.indisvalid
		  AND (i.indkey::smallint[])[0:cardinality(k.conkey) - 1] @> k.conkey);

-- The name of a partition gives its month in UTC.
CREATE TEMP VIEW partition_of_another_month AS
	SELECT r.name || ' ' || bounds AS name
	FROM relations r, LATERAL (SELECT pg_get_expr(relpartbound, oid) AS bounds,
		to_timestamp(substring(relname FROM '^audit_logs_(\d{4}_\d{2})$') || ' 00', 'YYYY_MM TZH') AS month
		FROM pg_class WHERE oid = r.oid) p
	WHERE relispartition AND bounds IS DISTINCT FROM
		format('FOR VALUES FROM (''%s'') TO (''%s'')', month, month + interval '1 month');

CREATE TEMP VIEW not_in_time_zone_safe_type AS
	SELECT name || '.' || attname AS name
	FROM relations JOIN pg_attribute a ON a.attrelid = oid AND attnum > 0 AND NOT attisdropped
	WHERE atttypid IN ('timestamp'::regtype, 'time'::regtype, 'timetz'::regtype, 'money'::regtype, 'json'::regtype);

CREATE TEMP TABLE rules (rule text, sentence text);
INSERT INTO rules VALUES
	('relation_without_comment', 'every table, partition and view has a comment'),
	('column_without_comment', 'every column of a table has a comment'),
	('function_without_comment', 'every function has a comment'),
	('function_without_search_path', 'every function pins search_path = pg_catalog, pg_temp'),
	('function_for_public', 'PUBLIC may not call any function'),
	('relation_for_public', 'PUBLIC has no rights on tables and views'),
	('not_owned_by_owner', 'acp_owner owns all objects'),
	('function_with_owners_rights', 'only listed functions are SECURITY DEFINER'),
	('function_with_concatenated_sql', 'no function executes concatenated text'),
	('function_with_bare_table', 'no function names one of our tables without its schema'),
	('function_with_bare_call', 'no function calls one of our functions without its schema'),
	('function_beyond_its_place', 'no function changes its role or search path, or accesses files'),
	('function_of_another_language', 'all functions are in SQL or PL/pgSQL'),
	('function_given_to_others', 'only our roles may call functions'),
	('table_not_keyed_by_tenant', 'primary keys start with tenant_id'),
	('foreign_key_without_index', 'foreign keys have an index'),
	('partition_of_another_month', 'each partition holds the UTC month of its name'),
	('not_in_time_zone_safe_type', 'no column is a timestamp without time zone, money or json');

SELECT is_empty('SELECT name FROM ' || quote_ident(rule) || ' ORDER BY 1', sentence) FROM rules;

SELECT ok(NOT has_schema_privilege('public', s, p), 'PUBLIC has no ' || p || ' on schema ' || s)
FROM unnest(ARRAY['acp', 'acp_report']) s, unnest(ARRAY['USAGE', 'CREATE']) p;

SELECT isnt(obj_description(oid, 'pg_namespace'), NULL, 'schema ' || nspname || ' has a comment')
FROM pg_namespace WHERE nspname IN ('acp', 'acp_report') ORDER BY nspname;

-- The rights that SECURITY DEFINER gives.
SELECT is_empty($$
	SELECT rolname FROM pg_roles WHERE rolname IN ('acp_owner', 'acp_app', 'acp_report')
	  AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication)$$, 'our roles have no special attributes');
SELECT is_empty($$
	SELECT r FROM unnest(ARRAY['acp_app', 'acp_report']) r WHERE pg_has_role(r, 'acp_owner', 'MEMBER')$$,
	'neither acp_app nor acp_report can become the owner');
SELECT is_empty($$
	SELECT s || ' ' || r FROM unnest(ARRAY['acp', 'acp_report']) s, unnest(ARRAY['acp_app', 'acp_report']) r
	WHERE has_schema_privilege(r, s, 'CREATE')$$, 'neither acp_app nor acp_report can create objects in our schemas');
SELECT is_empty($$
	SELECT oid::regoperator::text FROM pg_operator WHERE oprnamespace IN ('acp'::regnamespace, 'acp_report'::regnamespace)
	UNION ALL SELECT format('%s as %s', castsource::regtype, casttarget::regtype) FROM pg_cast WHERE oid >= 16384
	UNION ALL SELECT evtname::text FROM pg_event_trigger$$, 'we define no operators, casts or event triggers');

-- The audit log ------------------------------------------------------------------------------------------------------

SELECT is(pg_get_partkeydef('acp.audit_logs'::regclass), 'RANGE (ts)', 'audit_logs is partitioned by ts');
SELECT col_is_pk('acp', 'audit_logs', ARRAY['tenant_id', 'ts', 'event_id'],
	'a repeated event is refused by the primary key');
SELECT col_type_is('acp', 'audit_logs', 'billable', 'boolean', 'billable is a boolean');
SELECT col_not_null('acp', 'audit_logs', 'billable', 'billable is NOT NULL');
SELECT col_default_is('acp', 'audit_logs', 'billable', 'true', 'billable is true by default');
SELECT cmp_ok((SELECT count(*) FROM relations WHERE relispartition), '>=', 13::bigint,
	'a migrated database has the partitions of this month and the next twelve');
SELECT is_empty($$
	SELECT name FROM relations r WHERE relispartition AND NOT EXISTS (SELECT FROM pg_constraint
		WHERE conrelid = r.oid AND pg_get_constraintdef(oid) = 'PRIMARY KEY (tenant_id, ts, event_id)')$$,
	'each partition has the primary key');

-- Each rule finds a violation ----------------------------------------------------------------------------------------

CREATE TABLE acp.bad (id integer PRIMARY KEY, tenant uuid REFERENCES acp.tenants, at timestamp);
GRANT SELECT ON acp.bad TO PUBLIC;
CREATE TABLE acp.audit_logs_2071_01 PARTITION OF acp.audit_logs FOR VALUES FROM ('2071-02-01') TO ('2071-03-01');
CREATE FUNCTION acp.bad(what text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS
	$$ BEGIN EXECUTE 'DROP TABLE ' || what; PERFORM effective_tier(t.tier, 'x') FROM tenants t; SET LOCAL ROLE acp_owner; END $$;
GRANT EXECUTE ON FUNCTION acp.bad(text) TO PUBLIC, pg_monitor;
CREATE FUNCTION acp.bad_language(integer) RETURNS integer LANGUAGE internal AS 'int4inc';

CREATE FUNCTION pg_temp.offenders(rule text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	names text;
BEGIN
	EXECUTE format('SELECT string_agg(name, '' '') FROM pg_temp.%I', rule) INTO names;
	RETURN coalesce(names, '');
END
$$;

SELECT matches(pg_temp.offenders(rule),
	CASE rule WHEN 'partition_of_another_month' THEN 'acp.audit_logs_2071_01' ELSE 'bad' END,
	'the rule "' || sentence || '" finds a violation') FROM rules;

SELECT * FROM finish();
ROLLBACK;
