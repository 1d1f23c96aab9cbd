-- 00_rules.sql - rules that every object of the two schemas follows. Each rule is a view of its offenders: it must be
-- empty, and it must name the offender that is made for it at the end (so no rule can pass because it looks nowhere).
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(41);

-- What the rules look at ---------------------------------------------------------------------------------------------

CREATE TEMP VIEW relations AS
	SELECT c.oid, n.nspname || '.' || c.relname AS name, c.relkind, c.relispartition, c.relowner
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE n.nspname IN ('acp', 'acp_report') AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S');

CREATE TEMP VIEW functions AS
	SELECT p.oid, p.oid::regprocedure::text AS name, p.prosrc, p.prosecdef, p.proconfig, p.proowner
	FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
	WHERE n.nspname IN ('acp', 'acp_report');

SELECT cmp_ok((SELECT count(*) FROM relations WHERE NOT relispartition), '>=', 18::bigint,
	'the rules see the tables and views');
SELECT cmp_ok((SELECT count(*) FROM functions), '>=', 34::bigint, 'the rules see the functions');

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

-- The one that may: partitions are made on demand by a role that must not create tables.
CREATE TEMP VIEW function_with_owners_rights AS
	SELECT name FROM functions WHERE prosecdef AND name <> 'acp.ensure_partitions(timestamp with time zone,integer)';

-- Dynamic SQL is format() of one literal, with %I and %L only. (A crude check: it reads the text.)
CREATE TEMP VIEW function_with_concatenated_sql AS
	SELECT name FROM functions
	WHERE prosrc ~* '\mexecute\M(?!\s+format\s*\(\s*'')' OR prosrc ~* '\mexecute\s+format\s*\(\s*''[^'']*%s'
	   OR prosrc ~* '\mexecute\s+format\s*\(\s*''[^'']*''\s*\|\|';

-- What cannot be keyed by the tenant: it is looked up to find the tenant, or belongs to none.
CREATE TEMP VIEW table_not_keyed_by_tenant AS
	SELECT name FROM relations r
	WHERE relkind IN ('r', 'p')
	  AND name <> ALL (ARRAY['acp.agents', 'acp.key_lookup', 'acp.kernels', 'acp.policies', 'acp.prices', 'acp.schema_migrations'])
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

-- The name says which month a partition holds; months are UTC.
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
	('function_for_public', 'no function is for PUBLIC'),
	('relation_for_public', 'no table or view is for PUBLIC'),
	('not_owned_by_owner', 'everything belongs to acp_owner'),
	('function_with_owners_rights', 'SECURITY DEFINER only where it is meant'),
	('function_with_concatenated_sql', 'no function executes concatenated text'),
	('table_not_keyed_by_tenant', 'primary keys start with tenant_id'),
	('foreign_key_without_index', 'foreign keys have an index'),
	('partition_of_another_month', 'each partition holds the UTC month of its name'),
	('not_in_time_zone_safe_type', 'no timestamp without time zone, money or json column');

SELECT is_empty('SELECT name FROM ' || quote_ident(rule) || ' ORDER BY 1', sentence) FROM rules;

SELECT ok(NOT has_schema_privilege('public', s, p), 'PUBLIC has no ' || p || ' on schema ' || s)
FROM unnest(ARRAY['acp', 'acp_report']) s, unnest(ARRAY['USAGE', 'CREATE']) p;

SELECT isnt(obj_description(oid, 'pg_namespace'), NULL, 'schema ' || nspname || ' has a comment')
FROM pg_namespace WHERE nspname IN ('acp', 'acp_report') ORDER BY nspname;

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

-- The rules find offenders -------------------------------------------------------------------------------------------

CREATE TABLE acp.bad (id integer PRIMARY KEY, tenant uuid REFERENCES acp.tenants, at timestamp);
GRANT SELECT ON acp.bad TO PUBLIC;
CREATE TABLE acp.audit_logs_2071_01 PARTITION OF acp.audit_logs FOR VALUES FROM ('2071-02-01') TO ('2071-03-01');
CREATE FUNCTION acp.bad(what text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS
	$$ BEGIN EXECUTE 'DROP TABLE ' || what; END $$;
GRANT EXECUTE ON FUNCTION acp.bad(text) TO PUBLIC;

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
	'the rule "' || sentence || '" sees an offender') FROM rules;

SELECT * FROM finish();
ROLLBACK;
