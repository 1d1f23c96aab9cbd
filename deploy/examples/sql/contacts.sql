-- Example of an action of kind sql (actions.d/contacts.json): a table of the operator, and the function that the action
-- runs. Run this file once as the owner of the database: psql -d acp -f contacts.sql
--
-- The function receives the calling tenant, the call's params (checked against params_schema) and ctx: request_id,
-- event_id, api_key_id, dry_run, ts. It runs in the call's transaction: a failed call undoes its writes.

CREATE SCHEMA IF NOT EXISTS demo;

CREATE TABLE IF NOT EXISTS demo.contacts (
	contact_id integer PRIMARY KEY,
	name       text NOT NULL,
	company    text NOT NULL,
	email      text NOT NULL
);

INSERT INTO demo.contacts (contact_id, name, company, email) VALUES
	(1, 'Ada Marsh', 'Northwind Tools', 'ada@northwind.example'),
	(2, 'Ben Okafor', 'Northwind Tools', 'ben@northwind.example'),
	(3, 'Chiara Conti', 'Lago Print', 'chiara@lago.example'),
	(4, 'Dan Whitfield', 'Harbour Foods', 'dan@harbour.example'),
	(5, 'Elif Demir', 'Anadolu Glass', 'elif@anadolu.example'),
	(6, 'Freya Lund', 'Nordlys Energy', 'freya@nordlys.example')
ON CONFLICT DO NOTHING;

CREATE OR REPLACE FUNCTION demo.contacts_search(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	found jsonb;
BEGIN
	IF btrim(p_params->>'query') = '' THEN
		-- Refuse the call: code of the reply, message for the caller, faulty member.
		PERFORM acp.fail('VALIDATION_ERROR', 'query must hold more than spaces', '/params/query');
	END IF;
	SELECT coalesce(jsonb_agg(to_jsonb(c) ORDER BY c.contact_id), '[]') INTO found FROM (
		SELECT contact_id, name, company, email FROM demo.contacts x
		WHERE strpos(lower(x.name || ' ' || x.company), lower(btrim(p_params->>'query'))) > 0
		ORDER BY x.contact_id LIMIT coalesce((p_params->>'limit')::integer, 20)) c;
	-- Set result_meta of the audit row, and the quantity that is billed.
	PERFORM acp.report(jsonb_build_object('resource_type', 'contact', 'count', jsonb_array_length(found)),
		jsonb_array_length(found));
	RETURN jsonb_build_object('contacts', found);
END
$$;

GRANT USAGE ON SCHEMA demo TO acp_app;
GRANT SELECT ON demo.contacts TO acp_app;
REVOKE EXECUTE ON FUNCTION demo.contacts_search(uuid, jsonb, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION demo.contacts_search(uuid, jsonb, jsonb) TO acp_app;
