-- Pack iam: handlers (tenant, params, ctx) -> data. params have passed the schema of the action; ctx.ceiling is the
-- maximum number.

CREATE OR REPLACE FUNCTION acp.live_count(p_tenant uuid, p_resource text) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	CASE p_resource
	WHEN 'keys' THEN
		RETURN (SELECT count(*) FROM acp.api_keys
			WHERE tenant_id = p_tenant AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > acp.now()));
	WHEN 'webhooks' THEN
		RETURN (SELECT count(*) FROM acp.webhooks WHERE tenant_id = p_tenant);
	WHEN 'pending_deliveries' THEN
		RETURN acp.deliveries_pending(p_tenant, 10000);
	WHEN 'team_members' THEN
		RETURN (SELECT count(*) FROM acp.team_members WHERE tenant_id = p_tenant);
	WHEN 'proposals' THEN
		RETURN (SELECT count(*) FROM acp.policy_proposals WHERE tenant_id = p_tenant AND status = 'proposed');
	WHEN 'models' THEN
		RETURN (SELECT count(*) FROM acp.leadscoring_models WHERE tenant_id = p_tenant);
	WHEN 'questions' THEN
		RETURN (SELECT count(*) FROM acp.leadscoring_questions WHERE tenant_id = p_tenant);
	END CASE;
END
$$;
COMMENT ON FUNCTION acp.live_count(uuid, text) IS 'Number of live resources of a kind that a tenant has, for comparison with the ceiling.';

DROP FUNCTION IF EXISTS acp.ceiling_hold(uuid, text, jsonb);
CREATE OR REPLACE FUNCTION acp.ceiling_hold(p_tenant uuid, p_resource text, p_ctx jsonb, p_more bigint DEFAULT 1) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	most CONSTANT bigint := p_ctx->>'ceiling';
BEGIN
	-- Far from the ceiling calls need not wait for each other: there are never 500 transactions at a time.
	IF p_more <= 0 OR most IS NULL OR (most > 500 AND acp.live_count(p_tenant, p_resource) + 500 * p_more <= most) THEN
		RETURN;
	END IF;
	-- Here the second of two concurrent calls waits for the first.
	IF NOT coalesce((p_ctx->>'dry_run')::boolean, false) THEN
		PERFORM FROM acp.tenants WHERE tenant_id = p_tenant FOR NO KEY UPDATE;
	END IF;
	IF acp.live_count(p_tenant, p_resource) + p_more > most THEN
		PERFORM acp.fail('CEILING_EXCEEDED', coalesce(p_ctx->>'ceiling_sentence',
			format('at most %s %s may exist; delete or revoke one first', most, p_resource)));
	END IF;
END
$$;
COMMENT ON FUNCTION acp.ceiling_hold(uuid, text, jsonb, bigint) IS
	'Call before an insert of p_more objects: enforces a ceiling exactly by serialising the inserts of a tenant that is near it.';

CREATE OR REPLACE FUNCTION acp.iam_key_json(k acp.api_keys) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN jsonb_build_object('api_key_id', k.api_key_id, 'key_prefix', k.key_prefix, 'name', k.name, 'scopes', to_jsonb(k.scopes),
		'rate_limit', k.rate_limit, 'created_at', acp.rfc3339(k.created_at), 'expires_at', acp.rfc3339(k.expires_at),
		'revoked_at', acp.rfc3339(k.revoked_at),
		'status', CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked' WHEN k.expires_at <= acp.now() THEN 'expired' ELSE 'active' END);
END
$$;
COMMENT ON FUNCTION acp.iam_key_json(acp.api_keys) IS 'JSON of a key for replies. Never contains its hash.';

CREATE OR REPLACE FUNCTION acp.iam_key_of(p_tenant uuid, p_params jsonb) RETURNS acp.api_keys
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	k acp.api_keys;
BEGIN
	SELECT * INTO k FROM acp.api_keys WHERE tenant_id = p_tenant AND api_key_id = (p_params->>'api_key_id')::uuid;
	IF NOT FOUND THEN
		PERFORM acp.fail('NOT_FOUND', 'no key has this api_key_id; iam.keys.list shows them', '/params/api_key_id');
	END IF;
	RETURN k;
END
$$;
COMMENT ON FUNCTION acp.iam_key_of(uuid, jsonb) IS 'Returns the key of the tenant that params.api_key_id names, or refuses the call.';

CREATE OR REPLACE FUNCTION acp.iam_usable_key(p_tenant uuid, p_params jsonb) RETURNS acp.api_keys
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	k acp.api_keys := acp.iam_key_of(p_tenant, p_params);
BEGIN
	IF k.revoked_at IS NOT NULL OR k.expires_at <= acp.now() THEN
		PERFORM acp.fail('VALIDATION_ERROR', 'this key is already revoked or expired', '/params/api_key_id');
	END IF;
	RETURN k;
END
$$;
COMMENT ON FUNCTION acp.iam_usable_key(uuid, jsonb) IS 'acp.iam_key_of, but refuses a revoked or expired key.';

CREATE OR REPLACE FUNCTION acp.iam_check_expiry(p_params jsonb) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	expires CONSTANT timestamptz := acp.instant(p_params->>'expires_at');
BEGIN
	IF expires IS NULL AND p_params->>'expires_at' IS NOT NULL THEN
		PERFORM acp.fail('VALIDATION_ERROR', 'expires_at cannot be represented: the year 0000, or an offset from UTC that does not exist',
			'/params/expires_at');
	ELSIF expires <= acp.now() THEN
		PERFORM acp.fail('VALIDATION_ERROR', 'expires_at is in the past', '/params/expires_at');
	END IF;
	RETURN expires;
END
$$;
COMMENT ON FUNCTION acp.iam_check_expiry(jsonb) IS 'Returns params.expires_at, or refuses the call if it is in the past or cannot be represented.';

CREATE OR REPLACE FUNCTION acp.iam_keys_list(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	list jsonb;
BEGIN
	SELECT coalesce(jsonb_agg(acp.iam_key_json(k) ORDER BY k.created_at, k.api_key_id), '[]') INTO list FROM (
		SELECT * FROM acp.api_keys x
		WHERE x.tenant_id = p_tenant AND (p_params->>'after' IS NULL OR (x.created_at, x.api_key_id) >
			(SELECT a.created_at, a.api_key_id FROM acp.api_keys a
			 WHERE a.tenant_id = p_tenant AND a.api_key_id = (p_params->>'after')::uuid))
		ORDER BY x.created_at, x.api_key_id LIMIT coalesce((p_params->>'limit')::integer, 100)) k;
	PERFORM acp.report(jsonb_build_object('resource_type', 'api_key', 'count', jsonb_array_length(list)));
	RETURN list;
END
$$;
COMMENT ON FUNCTION acp.iam_keys_list(uuid, jsonb, jsonb) IS 'iam.keys.list: oldest first.';

CREATE OR REPLACE FUNCTION acp.iam_keys_scopes(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN to_jsonb((acp.iam_usable_key(p_tenant, p_params)).scopes);
END
$$;
COMMENT ON FUNCTION acp.iam_keys_scopes(uuid, jsonb, jsonb) IS 'Returns the scopes of a usable key, for iam.keys.rotate.';

CREATE OR REPLACE FUNCTION acp.iam_key_insert(p_tenant uuid, p_params jsonb, p_name text, p_scopes text[], p_rate_limit integer,
	p_expires timestamptz) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	k acp.api_keys;
BEGIN
	PERFORM acp.key_create(p_tenant, (p_params->>'new_id')::uuid, decode(p_params->>'new_hash', 'hex'), p_params->>'new_prefix',
		p_name, p_scopes, p_expires);
	UPDATE acp.api_keys SET rate_limit = p_rate_limit WHERE tenant_id = p_tenant AND api_key_id = (p_params->>'new_id')::uuid
	RETURNING * INTO k;
	PERFORM acp.report(jsonb_build_object('resource_type', 'api_key', 'resource_id', k.api_key_id));
	RETURN acp.iam_key_json(k);
END
$$;
COMMENT ON FUNCTION acp.iam_key_insert(uuid, jsonb, text, text[], integer, timestamptz) IS 'Stores the key whose id, hash and prefix are in params.';

CREATE OR REPLACE FUNCTION acp.iam_keys_create(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	expires CONSTANT timestamptz := acp.iam_check_expiry(p_params);
	fresh   jsonb;
BEGIN
	IF (p_ctx->>'dry_run')::boolean THEN
		RETURN acp.impact(p_creates => jsonb_build_array(jsonb_build_object('type', 'api_key', 'name', p_params->'name',
			'scopes', p_params->'scopes', 'expires_at', p_params->'expires_at', 'count', 1)),
			p_side_effects => acp.webhook_effects(p_tenant, 'key.created'), p_risk => 'medium');
	END IF;
	PERFORM acp.ceiling_hold(p_tenant, 'keys', p_ctx);
	fresh := acp.iam_key_insert(p_tenant, p_params, p_params->>'name', ARRAY(SELECT jsonb_array_elements_text(p_params->'scopes')),
		(p_params->>'rate_limit')::integer, expires);
	PERFORM acp.webhook_emit(p_tenant, 'key.created', fresh);
	RETURN fresh;
END
$$;
COMMENT ON FUNCTION acp.iam_keys_create(uuid, jsonb, jsonb) IS 'iam.keys.create';

CREATE OR REPLACE FUNCTION acp.iam_keys_update(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	expires CONSTANT timestamptz := acp.iam_check_expiry(p_params);
	changes CONSTANT jsonb := p_params - 'api_key_id';
	k       acp.api_keys := acp.iam_usable_key(p_tenant, p_params);
BEGIN
	IF changes = '{}' THEN
		PERFORM acp.fail('VALIDATION_ERROR', 'name at least one of name, scopes, expires_at, rate_limit', '/params');
	END IF;
	IF (p_ctx->>'dry_run')::boolean THEN
		RETURN acp.impact(p_updates => jsonb_build_array(jsonb_build_object('type', 'api_key', 'api_key_id', k.api_key_id,
			'changes', changes)), p_risk => 'medium');
	END IF;
	UPDATE acp.api_keys SET
		name = coalesce(p_params->>'name', name),
		scopes = CASE WHEN p_params ? 'scopes' THEN ARRAY(SELECT jsonb_array_elements_text(p_params->'scopes')) ELSE scopes END,
		expires_at = coalesce(expires, expires_at),
		rate_limit = coalesce((p_params->>'rate_limit')::integer, rate_limit)
	WHERE tenant_id = p_tenant AND api_key_id = k.api_key_id RETURNING * INTO k;
	PERFORM acp.report(jsonb_build_object('resource_type', 'api_key', 'resource_id', k.api_key_id));
	RETURN acp.iam_key_json(k);
END
$$;
COMMENT ON FUNCTION acp.iam_keys_update(uuid, jsonb, jsonb) IS 'iam.keys.update';

CREATE OR REPLACE FUNCTION acp.iam_keys_revoke(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	k        acp.api_keys := acp.iam_key_of(p_tenant, p_params);
	own      CONSTANT boolean := k.api_key_id = (p_ctx->>'api_key_id')::uuid;
	turned   boolean;
	warnings CONSTANT jsonb := CASE WHEN own THEN '["this is the key that makes this call"]'::jsonb ELSE '[]'::jsonb END;
BEGIN
	IF (p_ctx->>'dry_run')::boolean THEN
		RETURN acp.impact(p_updates => CASE WHEN k.revoked_at IS NULL THEN jsonb_build_array(jsonb_build_object('type', 'api_key',
			'api_key_id', k.api_key_id, 'name', k.name, 'changes', jsonb_build_object('status', 'revoked'))) ELSE '[]' END,
			p_side_effects => CASE WHEN k.revoked_at IS NULL THEN acp.webhook_effects(p_tenant, 'key.revoked') ELSE '[]' END,
			p_risk => 'high', p_warnings => warnings);
	END IF;
	UPDATE acp.api_keys SET revoked_at = acp.now()
	WHERE tenant_id = p_tenant AND api_key_id = k.api_key_id AND revoked_at IS NULL;
	turned := FOUND;
	k := acp.iam_key_of(p_tenant, p_params);
	IF turned THEN
		PERFORM acp.webhook_emit(p_tenant, 'key.revoked', acp.iam_key_json(k));
	END IF;
	PERFORM acp.report(jsonb_build_object('resource_type', 'api_key', 'resource_id', k.api_key_id));
	RETURN acp.iam_key_json(k);
END
$$;
COMMENT ON FUNCTION acp.iam_keys_revoke(uuid, jsonb, jsonb) IS 'iam.keys.revoke: revoking a revoked key changes nothing.';

CREATE OR REPLACE FUNCTION acp.iam_keys_rotate(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	old   acp.api_keys := acp.iam_usable_key(p_tenant, p_params);
	ends  CONSTANT timestamptz := acp.now() + make_interval(secs => coalesce((p_params->>'grace_seconds')::integer, 86400));
	fresh jsonb;
BEGIN
	IF (p_ctx->>'dry_run')::boolean THEN
		RETURN acp.impact(
			p_creates => jsonb_build_array(jsonb_build_object('type', 'api_key', 'name', old.name, 'scopes', to_jsonb(old.scopes), 'count', 1)),
			p_updates => jsonb_build_array(jsonb_build_object('type', 'api_key', 'api_key_id', old.api_key_id,
				'changes', jsonb_build_object('expires_at', acp.rfc3339(least(old.expires_at, ends))))),
			p_side_effects => acp.webhook_effects(p_tenant, 'key.rotated'), p_risk => 'medium');
	END IF;
	PERFORM acp.ceiling_hold(p_tenant, 'keys', p_ctx);
	fresh := acp.iam_key_insert(p_tenant, p_params, old.name, old.scopes, old.rate_limit, old.expires_at);
	UPDATE acp.api_keys SET expires_at = least(expires_at, ends) WHERE tenant_id = p_tenant AND api_key_id = old.api_key_id
	RETURNING * INTO old;
	fresh := fresh || jsonb_build_object('replaces', acp.iam_key_json(old));
	PERFORM acp.webhook_emit(p_tenant, 'key.rotated', fresh);
	RETURN fresh;
END
$$;
COMMENT ON FUNCTION acp.iam_keys_rotate(uuid, jsonb, jsonb) IS 'iam.keys.rotate: the old key works until the grace period ends.';

CREATE OR REPLACE FUNCTION acp.iam_team_list(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	list jsonb;
BEGIN
	SELECT coalesce(jsonb_agg(jsonb_build_object('email', m.email, 'role', m.role, 'status', m.status,
		'invited_at', acp.rfc3339(m.invited_at)) ORDER BY m.email), '[]') INTO list FROM (
		SELECT * FROM acp.team_members x
		WHERE x.tenant_id = p_tenant AND (p_params->>'after' IS NULL OR x.email > lower(p_params->>'after'))
		ORDER BY x.email LIMIT coalesce((p_params->>'limit')::integer, 100)) m;
	PERFORM acp.report(jsonb_build_object('resource_type', 'team_member', 'count', jsonb_array_length(list)));
	RETURN list;
END
$$;
COMMENT ON FUNCTION acp.iam_team_list(uuid, jsonb, jsonb) IS 'iam.team.list: ordered by email; after = email of the last person seen.';

CREATE OR REPLACE FUNCTION acp.iam_team_invite(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	person CONSTANT text := lower(p_params->>'email');
	known  CONSTANT boolean := EXISTS (SELECT FROM acp.team_members WHERE tenant_id = p_tenant AND email = person);
	entry  CONSTANT jsonb := jsonb_build_array(jsonb_build_object('type', 'team_member', 'email', person, 'role', p_params->'role'));
	m      acp.team_members;
BEGIN
	PERFORM acp.ceiling_hold(p_tenant, 'team_members', p_ctx, CASE WHEN known THEN 0 ELSE 1 END);
	IF (p_ctx->>'dry_run')::boolean THEN
		RETURN acp.impact(p_creates => CASE WHEN known THEN '[]' ELSE entry END, p_updates => CASE WHEN known THEN entry ELSE '[]' END);
	END IF;
	INSERT INTO acp.team_members (tenant_id, email, role, status, invited_at)
	VALUES (p_tenant, person, p_params->>'role', 'invited', acp.now())
	ON CONFLICT (tenant_id, email) DO UPDATE SET role = excluded.role RETURNING * INTO m;
	PERFORM acp.report(jsonb_build_object('resource_type', 'team_member'));
	RETURN jsonb_build_object('email', m.email, 'role', m.role, 'status', m.status, 'invited_at', acp.rfc3339(m.invited_at));
END
$$;
COMMENT ON FUNCTION acp.iam_team_invite(uuid, jsonb, jsonb) IS 'iam.team.invite: a second invitation of the same person changes the role.';

GRANT EXECUTE ON FUNCTION acp.live_count(uuid, text), acp.ceiling_hold(uuid, text, jsonb, bigint), acp.iam_key_json(acp.api_keys),
	acp.iam_key_of(uuid, jsonb), acp.iam_usable_key(uuid, jsonb), acp.iam_check_expiry(jsonb), acp.iam_keys_list(uuid, jsonb, jsonb),
	acp.iam_keys_scopes(uuid, jsonb, jsonb), acp.iam_key_insert(uuid, jsonb, text, text[], integer, timestamptz),
	acp.iam_keys_create(uuid, jsonb, jsonb), acp.iam_keys_update(uuid, jsonb, jsonb), acp.iam_keys_revoke(uuid, jsonb, jsonb),
	acp.iam_keys_rotate(uuid, jsonb, jsonb), acp.iam_team_list(uuid, jsonb, jsonb), acp.iam_team_invite(uuid, jsonb, jsonb) TO acp_app;
