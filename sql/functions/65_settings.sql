-- Pack settings: handlers (tenant, params, ctx) -> data.

CREATE OR REPLACE FUNCTION acp.settings_get(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT jsonb_build_object('organization_name', t.organization_name, 'billing_email', t.billing_email,
		'timezone', s.settings->'timezone', 'locale', s.settings->'locale', 'metadata', coalesce(s.settings->'metadata', '{}'))
		FROM acp.tenants t LEFT JOIN acp.tenant_settings s USING (tenant_id) WHERE t.tenant_id = p_tenant);
END
$$;
COMMENT ON FUNCTION acp.settings_get(uuid, jsonb, jsonb) IS 'settings.get';

CREATE OR REPLACE FUNCTION acp.settings_update(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	wanted  CONSTANT jsonb := p_params->'settings';
	before  CONSTANT jsonb := acp.settings_get(p_tenant, '{}', p_ctx);
	changed CONSTANT jsonb := (SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(wanted)
		WHERE value IS DISTINCT FROM coalesce(before->key, 'null'));
BEGIN
	IF wanted->>'timezone' IS NOT NULL AND NOT EXISTS (SELECT FROM pg_timezone_names WHERE name = wanted->>'timezone') THEN
		PERFORM acp.fail('VALIDATION_ERROR', 'timezone is not a name of the tz database, for example Europe/Berlin', '/params/settings/timezone');
	END IF;
	IF octet_length(wanted::text) > 65536 THEN
		PERFORM acp.fail('VALIDATION_ERROR', 'settings may have at most 65536 bytes; shorten the names and values of metadata', '/params/settings');
	END IF;
	IF (p_ctx->>'dry_run')::boolean THEN
		RETURN acp.impact(p_updates => CASE WHEN changed = '{}' THEN '[]' ELSE jsonb_build_array(jsonb_build_object('type', 'settings',
			'changes', changed)) END);
	END IF;
	UPDATE acp.tenants SET
		organization_name = CASE WHEN wanted ? 'organization_name' THEN wanted->>'organization_name' ELSE organization_name END,
		billing_email = coalesce(wanted->>'billing_email', billing_email), updated_at = acp.now()
	WHERE tenant_id = p_tenant AND wanted ?| ARRAY['organization_name', 'billing_email'];
	IF wanted ?| ARRAY['timezone', 'locale', 'metadata'] THEN
		INSERT INTO acp.tenant_settings AS s (tenant_id, settings, updated_at)
		VALUES (p_tenant, jsonb_strip_nulls(wanted - 'organization_name' - 'billing_email'), acp.now())
		ON CONFLICT (tenant_id) DO UPDATE SET
			settings = jsonb_strip_nulls(s.settings || (wanted - 'organization_name' - 'billing_email')), updated_at = excluded.updated_at;
	END IF;
	PERFORM acp.report(jsonb_build_object('resource_type', 'settings'));
	RETURN acp.settings_get(p_tenant, '{}', p_ctx);
END
$$;
COMMENT ON FUNCTION acp.settings_update(uuid, jsonb, jsonb) IS 'settings.update: sets the given members; null removes one. A dry run lists the changes.';

GRANT EXECUTE ON FUNCTION acp.settings_get(uuid, jsonb, jsonb), acp.settings_update(uuid, jsonb, jsonb) TO acp_app;
