-- 28_erase.sql - the text of rows in form 2, and erasure: it removes the values and leaves the chain unchanged.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'Pacific/Auckland'; -- nothing may depend on the session's time zone
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(39);

CREATE FUNCTION pg_temp.t(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('28282828-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
$$;
CREATE FUNCTION pg_temp.e(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('28282828-0000-4000-a000-' || lpad(n::text, 12, '0'))::uuid
$$;
-- Stores the row of call n of tenant t, by default with the most common personal values.
CREATE FUNCTION pg_temp.call(t integer, n integer, more jsonb DEFAULT '{}') RETURNS timestamptz LANGUAGE sql AS $$
	SELECT acp.audit_append(jsonb_build_object('event_id', pg_temp.e(n), 'request_id', pg_temp.e(n), 'ts', '2028-02-29 23:59:59.5+00',
		'tenant_id', pg_temp.t(t), 'integration', 'pgtap', 'actor_type', 'api_key', 'actor_id', 'ock_abcdefgh', 'status', 'success',
		'latency_ms', 2.5, 'ip_address', '192.0.2.7', 'dry_run', false, 'billable', false, 'billing_quantity', 1) || more)
$$;
CREATE FUNCTION pg_temp.row(n integer) RETURNS acp.audit_logs LANGUAGE sql AS $$
	SELECT l FROM acp.audit_logs l WHERE event_id = pg_temp.e(n)
$$;
CREATE FUNCTION pg_temp.text(r acp.audit_logs) RETURNS text LANGUAGE sql AS $$ SELECT (acp.audit_texts(ARRAY[r]))[1] $$;
-- Erases in all tables, as acpctl does: "rows whose values were erased, rows of the old form that keep their values".
CREATE FUNCTION pg_temp.erase(tenant uuid, before timestamptz, dry boolean DEFAULT false) RETURNS text LANGUAGE sql AS $$
	SELECT sum(values_of) || ' ' || sum(old) FROM acp.audit_erase_tables() t, acp.audit_erase(t, tenant, before, 'pgtap', dry)
$$;
-- Rows of these tests whose hash does not follow from the row before them.
CREATE FUNCTION pg_temp.broken() RETURNS SETOF uuid LANGUAGE sql AS $$
	SELECT l.event_id FROM acp.audit_logs l LEFT JOIN acp.audit_logs b ON b.chain_id = l.chain_id AND b.chain_seq = l.chain_seq - 1
	WHERE l.integration = 'pgtap' AND l.chain_hash IS DISTINCT FROM sha256(coalesce(b.chain_hash, decode(repeat('00', 32), 'hex'))
		|| convert_to(pg_temp.text(l), 'UTF8'))
$$;

-- The text ------------------------------------------------------------------------------------------------------------

SET LOCAL ROLE acp_app;
SELECT pg_temp.call(1, 1), pg_temp.call(1, 2, '{"idempotency_key": "k", "error_code": "X", "error_message_redacted": "no", "status": "error"}'),
	pg_temp.call(1, 3, '{"actor_id": null, "ip_address": null, "actor_type": "system"}'), pg_temp.call(2, 4), pg_temp.call(2, 5, '{"ts": "2028-03-31 12:00:00+00"}'),
	pg_temp.call(1, 6, '{"salt": "\\x00", "erased": {"actor_id": "00"}, "chain_form": 1}') \gset ignored_
SELECT is((pg_temp.row(1)).chain_form, 2::smallint, 'rows are written in form 2');
SELECT is(length((pg_temp.row(1)).salt), 16, 'the salt has 16 bytes');
SELECT isnt((pg_temp.row(1)).salt, (pg_temp.row(2)).salt, 'each row has its own salt');
SELECT is((pg_temp.row(3)).salt, NULL, 'a row without personal values has no salt');
SELECT is(ROW((pg_temp.row(6)).chain_form, length((pg_temp.row(6)).salt), (pg_temp.row(6)).erased)::text, '(2,16,)', 'an event cannot set its own form, salt or erased values');
SELECT is(pg_temp.text(pg_temp.row(3)), concat_ws(E'\n', 'acp audit row 2', 'event_id 36:' || pg_temp.e(3), 'request_id 36:' || pg_temp.e(3),
	'ts 16:1835481599500000', 'tenant_id 36:' || pg_temp.t(1), 'integration 5:pgtap', 'pack -', 'action -', 'actor_type 6:system', 'actor_id -',
	'api_key_id -', 'request_hash -', 'status 7:success', 'error_code -', 'error_message_redacted -', 'result_meta -', 'latency_ms 8:40200000',
	'ip_address -', 'idempotency_key -', 'dry_run 5:false', 'policy_decision_id -', 'trace_id -', 'billable 5:false', 'billing_unit -',
	'billing_quantity 1:1', 'tier -', ''), 'the text has one line per column');
SELECT matches(pg_temp.text(pg_temp.row(1)), E'\nip_address 64:' || encode(sha256((pg_temp.row(1)).salt || convert_to(E'ip_address 8:c0000207\n', 'UTF8')), 'hex') || E'\n',
	'the text contains the commitment of a personal value');
SELECT is(acp.audit_address(a), t, 'the address ' || a) FROM (VALUES ('192.0.2.7'::inet, 'c0000207'), ('10.1.0.0/16', '0a010000/16'), ('0.0.0.0/0', '00000000/0'),
	('2001:db8::1', '20010db8000000000000000000000001'), ('2001:db8::/32', '20010db8000000000000000000000000/32'), ('::ffff:192.0.2.1', '00000000000000000000ffffc0000201')) x(a, t);
SELECT is_empty('SELECT * FROM pg_temp.broken()', 'the hash of every row follows from the row before it');
SELECT throws_ok($$SELECT acp.audit_erase('audit_logs_2028_02', NULL, now(), 'pgtap', false)$$, '42501', NULL, 'the program cannot erase');
SELECT throws_ok($$UPDATE acp.audit_logs SET ip_address = NULL$$, '42501', NULL, 'the program cannot update a row');
RESET ROLE;

-- Erasure -------------------------------------------------------------------------------------------------------------

CREATE TEMP TABLE before AS SELECT l.*, pg_temp.text(l) AS line FROM acp.audit_logs l WHERE integration = 'pgtap';
SELECT is(pg_temp.erase(pg_temp.t(1), NULL, true), '3 0', 'a dry run counts the rows of a tenant that have personal values');
SELECT is_empty($$SELECT event_id FROM before EXCEPT SELECT event_id FROM acp.audit_logs WHERE integration = 'pgtap' AND erased IS NULL$$, 'the dry run changes nothing');
SELECT is(pg_temp.erase(pg_temp.t(1), NULL), '3 0', 'the values of these rows are erased');
SELECT is_empty($$SELECT event_id FROM acp.audit_logs WHERE tenant_id = pg_temp.t(1) AND (salt IS NOT NULL
	OR num_nonnulls(actor_id, error_message_redacted, ip_address, idempotency_key) > 0)$$, 'the rows have no values and no salt');
SELECT set_eq($$SELECT e.key FROM acp.audit_logs, jsonb_object_keys(erased) e(key) WHERE event_id = pg_temp.e(2)$$,
	ARRAY['actor_id', 'error_message_redacted', 'ip_address', 'idempotency_key'], 'each erased value leaves its commitment');
SELECT set_eq($$SELECT e.key FROM acp.audit_logs, jsonb_object_keys(erased) e(key) WHERE event_id = pg_temp.e(1)$$,
	ARRAY['actor_id', 'ip_address'], 'a null leaves no commitment');
SELECT is((pg_temp.row(3)).erased, NULL, 'a row without personal values is unchanged');
SELECT is_empty($$SELECT b.event_id FROM before b JOIN acp.audit_logs l USING (event_id) WHERE b.line IS DISTINCT FROM pg_temp.text(l) OR b.chain_hash <> l.chain_hash$$,
	'texts and hashes are unchanged');
SELECT is_empty('SELECT * FROM pg_temp.broken()', 'the hash of every row still follows from the row before it');
SELECT results_eq($$SELECT count(*) FROM acp.audit_logs WHERE tenant_id = pg_temp.t(2) AND ip_address IS NOT NULL$$, 'VALUES (2::bigint)', 'another tenant keeps its values');
SELECT results_eq($$SELECT status, actor_type, result_meta FROM acp.audit_logs WHERE integration = 'pgtap' AND action = 'audit.erase'$$,
	$$VALUES ('success', 'system', jsonb_build_object('resource_type', 'audit_logs_2028_02', 'tenant_id', pg_temp.t(1), 'before', NULL, 'count', 3))$$,
	'an audit row records the erasure');
SELECT is(pg_temp.erase(pg_temp.t(1), NULL), '0 0', 'a second erasure changes nothing');
SELECT results_eq($$SELECT count(*) FROM acp.audit_logs WHERE integration = 'pgtap' AND action = 'audit.erase'$$, 'VALUES (1::bigint)', 'a second erasure writes no audit row');
SELECT is(pg_temp.erase(pg_temp.t(2), '2028-03-01 00:00+00'), '1 0', 'rows of a tenant before a moment are erased');
SELECT ok((pg_temp.row(5)).ip_address IS NOT NULL, 'later rows keep their values');

-- Tampering changes the text ------------------------------------------------------------------------------------------

CREATE FUNCTION pg_temp.tampered(change text) RETURNS uuid[] LANGUAGE plpgsql AS $$
DECLARE
	found uuid[];
BEGIN
	EXECUTE format('UPDATE acp.audit_logs SET %s WHERE event_id = %L', change, pg_temp.e(1));
	found := ARRAY(SELECT * FROM pg_temp.broken() b WHERE b = pg_temp.e(1));
	RAISE EXCEPTION 'undo' USING DETAIL = found::text;
EXCEPTION WHEN raise_exception THEN
	RETURN found;
END
$$;
SELECT is(pg_temp.tampered(change), ARRAY[pg_temp.e(1)], change) FROM (VALUES
	('ip_address = ''192.0.2.7'''), ('ip_address = ''192.0.2.7'', erased = erased - ''ip_address'''), ('erased = NULL'),
	('erased = jsonb_set(erased, ''{actor_id}'', to_jsonb(repeat(''0'', 64)))'), ('erased = erased - ''actor_id''')) x(change);

-- Rows of the old form ------------------------------------------------------------------------------------------------

UPDATE acp.audit_logs SET chain_form = NULL, salt = NULL WHERE event_id IN (pg_temp.e(3), pg_temp.e(5));
SELECT is(pg_temp.text(pg_temp.row(3)), '(' || pg_temp.e(3) || ',' || pg_temp.e(3) || ',"2028-02-29 23:59:59.5",' || pg_temp.t(1)
	|| ',pgtap,,,system,,,,success,,,,2.5,,,f,,,f,,1,)', 'the text of old rows is PostgreSQL''s literal');
SELECT is(pg_temp.erase(pg_temp.t(1), NULL) || ', ' || pg_temp.erase(pg_temp.t(2), NULL), '0 0, 0 1', 'old rows keep their values and are counted');
SELECT throws_ok($$SELECT acp.audit_erase('tenants', NULL, now(), 'pgtap', false)$$, '42P01', NULL, 'other tables are refused');

SELECT * FROM finish();
ROLLBACK;
