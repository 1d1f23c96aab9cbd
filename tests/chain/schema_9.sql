-- schema_9.sql - forty audit rows as schema version 9 wrote them, in two chains, one of them owned by a process. The
-- hash of a row was computed from PostgreSQL's literal of its columns. For a database with the migrations up to 0009 and
-- its partitions.
SET datestyle = 'ISO';
SET extra_float_digits = 1;
SET timezone = 'UTC';
SET ROLE acp_owner;

INSERT INTO acp.audit_chains DEFAULT VALUES;
INSERT INTO acp.audit_chains (owner, owned_until) VALUES (gen_random_uuid(), now());
INSERT INTO acp.audit_logs (event_id, request_id, ts, tenant_id, integration, action, actor_type, actor_id, api_key_id, request_hash, status,
	error_code, error_message_redacted, result_meta, latency_ms, ip_address, idempotency_key, dry_run, trace_id, billable, billing_quantity,
	tier, chain_id, chain_seq, chain_hash)
SELECT gen_random_uuid(), gen_random_uuid(), now() + i * interval '1.25 ms', '11111111-1111-4111-8111-111111111111', 'acp-fcgi', 'meta.version', 'api_key',
	'ock_abcdefgh', gen_random_uuid(), repeat('a', 64), 'success', nullif('', repeat('x', i % 2)), 'a "b", \c)', '{"n": 1.50, "name": "x y"}', i / 7.0,
	CASE i % 3 WHEN 0 THEN '2001:db8::1' ELSE '192.0.2.7' END::inet, '', false, 'abc', false, 1, 'free', 1 + i % 2, (i + 1) / 2, ''
FROM generate_series(1, 40) i;

DO $$
DECLARE
	l    record;
	link acp.audit_chains;
BEGIN
	FOR l IN SELECT chain_id, chain_seq, tenant_id, ts, event_id, ROW(event_id, request_id, ts AT TIME ZONE 'UTC', tenant_id, integration, pack, action,
		actor_type, actor_id, api_key_id, request_hash, status, error_code, error_message_redacted, result_meta, latency_ms, ip_address,
		idempotency_key, dry_run, policy_decision_id, trace_id, billable, billing_unit, billing_quantity, tier)::text AS line
		FROM acp.audit_logs ORDER BY chain_id, chain_seq
	LOOP
		UPDATE acp.audit_chains c SET seq = l.chain_seq, head = sha256(c.head || convert_to(l.line, 'UTF8')) WHERE c.chain_id = l.chain_id RETURNING * INTO link;
		UPDATE acp.audit_logs a SET chain_hash = link.head WHERE a.tenant_id = l.tenant_id AND a.ts = l.ts AND a.event_id = l.event_id;
	END LOOP;
END
$$;
