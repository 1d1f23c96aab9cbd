-- Policies and approvals: rules beyond scopes, and calls that a person must approve first.

CREATE OR REPLACE FUNCTION acp.pattern_fits(p_pattern text, p_action text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN p_action ~ ('^' || replace(regexp_replace(p_pattern, '([^A-Za-z0-9_*])', '\\\1', 'g'), '*', '.*') || '$');
END
$$;
COMMENT ON FUNCTION acp.pattern_fits(text, text) IS 'True if an action matches a pattern, in which * matches any text.';

CREATE OR REPLACE FUNCTION acp.window_open(p_window jsonb, p_ts timestamptz) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	days  CONSTANT jsonb := coalesce(p_window->'days', '[1, 2, 3, 4, 5, 6, 7]');
	there timestamp;
	since time;
	until time;
BEGIN
	IF p_window IS NULL THEN
		RETURN true;
	ELSIF jsonb_typeof(p_window) <> 'object' OR days::text !~ '^\[[1-7](, [1-7])*\]$' THEN
		RETURN NULL;
	END IF;
	BEGIN
		there := p_ts AT TIME ZONE coalesce(p_window->>'timezone', 'UTC');
		since := coalesce((p_window->>'from')::time, '00:00');
		until := coalesce((p_window->>'to')::time, '24:00');
	EXCEPTION WHEN data_exception THEN -- unknown time zone or invalid time
		RETURN NULL;
	END;
	IF NOT days @> to_jsonb(extract(isodow FROM there)::integer) THEN
		RETURN false;
	END IF;
	-- A window such as 22:00 to 06:00 spans midnight.
	RETURN CASE WHEN since <= until THEN there::time >= since AND there::time < until
		ELSE there::time >= since OR there::time < until END;
END
$$;
COMMENT ON FUNCTION acp.window_open(jsonb, timestamptz) IS
	'True if a moment is inside a time window {days: [1=Monday..7], from, to, timezone}, or if there is no window. A window with to before from spans midnight. Null: the window is invalid.';

CREATE OR REPLACE FUNCTION acp.policy_version() RETURNS bigint
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT coalesce(max(version), 0) FROM acp.policies $$;
COMMENT ON FUNCTION acp.policy_version() IS 'Number of the newest policy change.';

CREATE OR REPLACE FUNCTION acp.find_policy(p_query jsonb) RETURNS acp.policies
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT p FROM acp.policies p
	WHERE p.enabled
	  AND (p.tenant_id IS NULL OR p.tenant_id = (p_query->>'tenant_id')::uuid)
	  AND acp.pattern_fits(p.action_pattern, p_query->>'action')
	  AND (p.actor_type IS NULL OR p.actor_type = p_query->>'actor_type')
	  AND (p.amount_over IS NULL OR (p_query->>'amount')::numeric > p.amount_over)
	  AND acp.window_open(p.time_window, acp.now()) IS NOT FALSE
	ORDER BY p.priority, p.version LIMIT 1
$$;
COMMENT ON FUNCTION acp.find_policy(jsonb) IS 'Finds the policy that decides a call: the enabled, matching policy with the lowest priority number. No policy: the call is allowed. A policy with an invalid time window also matches.';

CREATE OR REPLACE FUNCTION acp.approval_for(p_query jsonb, OUT approval_id uuid, OUT approved boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- Of two concurrent calls that need the same approval, the second finds the approval of the first.
	PERFORM pg_advisory_xact_lock(hashtextextended((p_query->>'api_key_id') || (p_query->>'request_hash'), 7236459002));
	SELECT a.approval_id, a.status = 'approved' INTO approval_id, approved FROM acp.approvals a
	WHERE a.tenant_id = (p_query->>'tenant_id')::uuid AND a.api_key_id = (p_query->>'api_key_id')::uuid
	  AND a.action = p_query->>'action' AND a.request_hash = p_query->>'request_hash'
	  AND a.fingerprint IS NOT DISTINCT FROM p_query->>'fingerprint'
	  AND a.status IN ('pending', 'approved') AND a.expires_at > acp.now()
	ORDER BY a.status LIMIT 1;
	IF NOT FOUND THEN
		approved := false;
		-- The tenant's calls ask one after the other, so that the ceiling is exact.
		PERFORM pg_advisory_xact_lock(hashtextextended(p_query->>'tenant_id', 7236459003));
		IF (SELECT count(*) FROM acp.approvals x WHERE x.tenant_id = (p_query->>'tenant_id')::uuid AND x.status = 'pending'
			AND x.expires_at > acp.now()) >= coalesce((p_query->>'ceiling')::bigint, 100) THEN
			RETURN;
		END IF;
		INSERT INTO acp.approvals AS a (tenant_id, approval_id, api_key_id, action, request_hash, fingerprint, status, requested_at, expires_at)
		VALUES ((p_query->>'tenant_id')::uuid, (p_query->>'event_id')::uuid, (p_query->>'api_key_id')::uuid, p_query->>'action',
			p_query->>'request_hash', p_query->>'fingerprint', 'pending', acp.now(), acp.now() + interval '7 days')
		RETURNING a.approval_id INTO approval_id;
	END IF;
END
$$;
COMMENT ON FUNCTION acp.approval_for(jsonb) IS 'Returns the approval for exactly this call (tenant, key, action, hash): an approved one, else the pending one, else a new one. approval_id null: too many calls of the tenant wait for an approval.';

CREATE OR REPLACE FUNCTION acp.authorize(p_query jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	p        CONSTANT acp.policies := acp.find_policy(p_query);
	verdict  text := coalesce(p.decision, 'allow');
	approval record;
	result   jsonb;
BEGIN
	-- Deny calls that match a policy that cannot be evaluated, whatever its decision.
	IF acp.window_open(p.time_window, acp.now()) IS NULL THEN
		RETURN jsonb_build_object('decision_id', p_query->'event_id', 'decision', 'deny', 'policy_id', p.policy_id,
			'reason', 'a policy for this call cannot be evaluated; its operator has to correct or disable it',
			'fault', format('policy %s (%s)', p.policy_id, p.name), 'policy_version', acp.policy_version(), 'decision_ttl_ms', 0);
	END IF;
	result := jsonb_build_object('decision_id', p_query->'event_id', 'reason', p.reason, 'policy_id', p.policy_id,
		'policy_version', acp.policy_version(), 'decision_ttl_ms', CASE WHEN verdict = 'allow' AND p.time_window IS NULL THEN 5000 ELSE 0 END);
	IF verdict = 'require_approval' AND p_query->>'event_id' IS NOT NULL AND NOT coalesce((p_query->>'dry_run')::boolean, false) THEN
		SELECT * INTO approval FROM acp.approval_for(p_query);
		IF approval.approval_id IS NULL THEN
			RETURN result || jsonb_build_object('decision', 'deny', 'code', 'CEILING_EXCEEDED', 'reason', format(
				'this call needs an approval, and %s calls wait for one already; ask the operator to decide some first',
				coalesce(p_query->>'ceiling', '100')));
		END IF;
		result := result || jsonb_build_object('approval_id', approval.approval_id);
		IF approval.approved THEN
			verdict := 'allow';
		END IF;
	END IF;
	RETURN result || jsonb_build_object('decision', verdict);
END
$$;
COMMENT ON FUNCTION acp.authorize(jsonb) IS
	'Decides a call {tenant_id, api_key_id, actor_type, action, request_hash, amount, event_id, dry_run}: decision allow, deny or require_approval. approval_id with allow: the approval to use up before the call runs (acp.approval_use); with require_approval: the approval that a person must give. ceiling: how many calls of the tenant may wait for one; code CEILING_EXCEEDED with deny: they are as many. fault: the policy that cannot be evaluated, for the log.';

CREATE OR REPLACE FUNCTION acp.approval_use(p_tenant uuid, p_approval uuid, p_event uuid) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE acp.approvals SET status = 'used', used_by = p_event
	WHERE tenant_id = p_tenant AND approval_id = p_approval
	  AND ((status = 'approved' AND expires_at > acp.now()) OR (status = 'used' AND used_by = p_event));
	IF NOT FOUND THEN
		PERFORM acp.fail('APPROVAL_REQUIRED', 'the approval of this call was used by another one; send it again to ask for a new one');
	END IF;
END
$$;
COMMENT ON FUNCTION acp.approval_use(uuid, uuid, uuid) IS
	'Uses up an approval for the call p_event, before anything is done. One approval allows one call. Repeating it for the same call changes nothing.';

CREATE OR REPLACE FUNCTION acp.approval_give_back(p_tenant uuid, p_approval uuid, p_event uuid) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE acp.approvals SET status = 'approved', used_by = NULL
	WHERE tenant_id = p_tenant AND approval_id = p_approval AND status = 'used' AND used_by = p_event;
END
$$;
COMMENT ON FUNCTION acp.approval_give_back(uuid, uuid, uuid) IS 'Undoes acp.approval_use() for a call that has done nothing.';

CREATE OR REPLACE FUNCTION acp.policy_fault(p_policy jsonb, OUT place text, OUT why text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH rules (place, kind, most, form, why) AS (VALUES
		('/name', 'string', 200, '.', 'must have 1 to 200 characters'),
		('/decision', 'string', 20, '^(allow|deny|require_approval)$', 'must be allow, deny or require_approval'),
		('/priority', 'number', 20, '^([1-9][0-9]{0,5}|1000000)$', 'must be an integer from 1 to 1000000'),
		('/action', 'string', 200, '^[a-z0-9_.*]+$', 'must be the name of an action, in which * stands for anything'),
		('/actor_type', 'string', 20, '^(api_key|user|system)$', 'must be api_key, user or system'),
		('/amount_over', 'number', 400, '^[0-9]', 'must be a number of at least 0'),
		('/reason', 'string', 500, '', 'must have at most 500 characters'),
		('/time_window', 'object', 60000, '', 'must be an object with days, from, to and timezone'),
		('/time_window/days', 'array', 100, '^\[[1-7](, [1-7])*\]$', 'must be an array of numbers from 1 (Monday) to 7'),
		('/time_window/from', 'string', 5, '^([01][0-9]|2[0-3]):[0-5][0-9]$', 'must be a time from 00:00 to 23:59'),
		('/time_window/to', 'string', 5, '^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$', 'must be a time from 00:00 to 24:00'),
		('/time_window/timezone', 'string', 64, '.', 'must be a name of the tz database, for example Europe/Berlin')),
	given (place, value) AS (
		SELECT '/' || key, value FROM jsonb_each(CASE jsonb_typeof(p_policy) WHEN 'object' THEN p_policy END)
		UNION ALL SELECT '/time_window/' || key, value
		FROM jsonb_each(CASE jsonb_typeof(p_policy->'time_window') WHEN 'object' THEN p_policy->'time_window' END)),
	faults (rank, place, why) AS (
		SELECT 1, g.place, coalesce(r.why, 'is not a member of a policy') FROM given g LEFT JOIN rules r USING (place)
		WHERE r.place IS NULL OR jsonb_typeof(g.value) <> r.kind OR g.value #>> '{}' !~ r.form OR length(g.value #>> '{}') > r.most
		UNION ALL SELECT 2, '/' || name, 'is required' FROM unnest(ARRAY['name', 'decision']) name WHERE p_policy->name IS NULL)
	SELECT place, why FROM (
		SELECT rank, place, why FROM faults
		-- Other faults of a time window whose members are well formed.
		UNION ALL SELECT 3, r.place, r.why FROM rules r WHERE r.place = '/time_window/timezone' AND NOT EXISTS (SELECT FROM faults)
			AND acp.window_open(p_policy->'time_window', acp.now()) IS NULL) f
	ORDER BY rank, place LIMIT 1
$$;
COMMENT ON FUNCTION acp.policy_fault(jsonb) IS 'Finds the first fault in a proposed policy {name, decision, priority, action, actor_type, amount_over, reason, time_window}: the member and the reason; null: none.';

CREATE OR REPLACE FUNCTION acp.check_policy(p_policy jsonb) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	zone CONSTANT text := p_policy->'time_window'->>'timezone';
	at   text;
	says text;
BEGIN
	SELECT f.place, f.why INTO at, says FROM acp.policy_fault(p_policy) f;
	-- PostgreSQL accepts zone forms such as UTC+3, whose sign is opposite to what people expect. Only tz names are accepted here.
	IF at IS NULL AND zone IS NOT NULL AND NOT EXISTS (SELECT FROM pg_timezone_names WHERE name = zone) THEN
		at := '/time_window/timezone';
		says := 'must be a name of the tz database, for example Europe/Berlin';
	END IF;
	IF at IS NOT NULL THEN
		PERFORM acp.fail('VALIDATION_ERROR', substr(at, 2) || ' ' || says, '/params/policy' || at);
	END IF;
END
$$;
COMMENT ON FUNCTION acp.check_policy(jsonb) IS 'Refuses an invalid policy.';

CREATE OR REPLACE FUNCTION acp.policy_faults() RETURNS TABLE (policy_id uuid, name text, place text, why text, refuses boolean)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT p.policy_id, p.name, f.place, f.why, acp.window_open(p.time_window, acp.now()) IS NULL
	FROM acp.policies p, acp.policy_fault(jsonb_strip_nulls(jsonb_build_object('name', p.name, 'decision', p.decision,
		'priority', p.priority, 'action', p.action_pattern, 'actor_type', p.actor_type, 'amount_over', p.amount_over,
		'reason', p.reason)) || CASE WHEN p.time_window IS NULL THEN '{}' ELSE jsonb_build_object('time_window', p.time_window) END) f
	WHERE p.enabled AND f.place IS NOT NULL ORDER BY p.priority, p.version
$$;
COMMENT ON FUNCTION acp.policy_faults() IS 'Enabled policies that would be rejected if they were added now. refuses: the policy cannot be evaluated and denies all calls that it matches.';

CREATE OR REPLACE FUNCTION acp.governance_propose_policy(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	x acp.policy_proposals;
BEGIN
	PERFORM acp.check_policy(p_params->'policy');
	PERFORM acp.ceiling_hold(p_tenant, 'proposals', p_ctx);
	IF (p_ctx->>'dry_run')::boolean THEN
		RETURN acp.impact(p_creates => jsonb_build_array(jsonb_build_object('type', 'policy_proposal', 'policy', p_params->'policy', 'count', 1)),
			p_side_effects => '["none until an operator approves and publishes it"]');
	END IF;
	INSERT INTO acp.policy_proposals (tenant_id, proposal_id, api_key_id, policy, status, proposed_at)
	VALUES (p_tenant, (p_ctx->>'event_id')::uuid, (p_ctx->>'api_key_id')::uuid, p_params->'policy', 'proposed', acp.now())
	RETURNING * INTO x;
	PERFORM acp.report(jsonb_build_object('resource_type', 'policy_proposal', 'resource_id', x.proposal_id));
	RETURN jsonb_build_object('proposal_id', x.proposal_id, 'status', x.status);
END
$$;
COMMENT ON FUNCTION acp.governance_propose_policy(uuid, jsonb, jsonb) IS 'governance.propose_policy: a proposal for the tenant''s own calls; an operator decides.';

CREATE OR REPLACE FUNCTION acp.proposal_decide(p_proposal uuid, p_status text) RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	WITH decided AS (
		UPDATE acp.policy_proposals SET status = p_status, decided_at = acp.now()
		WHERE proposal_id = p_proposal AND status = 'proposed' AND p_status IN ('approved', 'rejected') RETURNING 1)
	SELECT EXISTS (SELECT FROM decided)
$$;
COMMENT ON FUNCTION acp.proposal_decide(uuid, text) IS 'Approves or rejects a proposal. False: no such pending proposal.';

CREATE OR REPLACE FUNCTION acp.policy_publish(p_proposal uuid, p_policy_id uuid) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	x acp.policy_proposals;
BEGIN
	UPDATE acp.policy_proposals SET status = 'published' WHERE proposal_id = p_proposal AND status = 'approved' RETURNING * INTO x;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM acp.policy_add(p_policy_id, x.tenant_id, x.policy);
	RETURN true;
END
$$;
COMMENT ON FUNCTION acp.policy_publish(uuid, uuid) IS 'Publishes an approved proposal as a policy for the tenant that proposed it. False: no such approved proposal.';

CREATE OR REPLACE FUNCTION acp.policy_add(p_policy_id uuid, p_tenant uuid, p_policy jsonb) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM acp.check_policy(p_policy);
	PERFORM pg_advisory_xact_lock(hashtext('acp.policies'));
	INSERT INTO acp.policies (policy_id, tenant_id, name, priority, enabled, action_pattern, actor_type, time_window, amount_over,
		decision, reason, version, created_at)
	VALUES (p_policy_id, p_tenant, p_policy->>'name', coalesce((p_policy->>'priority')::integer, 100), true,
		coalesce(p_policy->>'action', '*'), p_policy->>'actor_type', p_policy->'time_window',
		(p_policy->>'amount_over')::numeric, p_policy->>'decision', p_policy->>'reason', acp.policy_version() + 1, acp.now());
END
$$;
COMMENT ON FUNCTION acp.policy_add(uuid, uuid, jsonb) IS 'Adds an enabled policy, or refuses an invalid one. p_tenant null: for all tenants.';

CREATE OR REPLACE FUNCTION acp.policy_enable(p_policy_id uuid, p_enabled boolean) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM pg_advisory_xact_lock(hashtext('acp.policies'));
	UPDATE acp.policies SET enabled = p_enabled, version = acp.policy_version() + 1 WHERE policy_id = p_policy_id;
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION acp.policy_enable(uuid, boolean) IS 'Enables or disables a policy. False: no such policy.';

CREATE OR REPLACE FUNCTION acp.approval_decide(p_approval uuid, p_status text) RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	WITH decided AS (
		UPDATE acp.approvals SET status = p_status, decided_at = acp.now()
		WHERE approval_id = p_approval AND status = 'pending' AND p_status IN ('approved', 'rejected') RETURNING 1)
	SELECT EXISTS (SELECT FROM decided)
$$;
COMMENT ON FUNCTION acp.approval_decide(uuid, text) IS 'Approves or rejects a call. False: no such pending approval.';

GRANT EXECUTE ON FUNCTION acp.pattern_fits(text, text), acp.window_open(jsonb, timestamptz), acp.policy_version(), acp.find_policy(jsonb),
	acp.approval_for(jsonb), acp.authorize(jsonb), acp.approval_use(uuid, uuid, uuid), acp.approval_give_back(uuid, uuid, uuid), acp.policy_fault(jsonb),
	acp.check_policy(jsonb), acp.policy_faults(), acp.governance_propose_policy(uuid, jsonb, jsonb), acp.proposal_decide(uuid, text),
	acp.policy_publish(uuid, uuid), acp.policy_add(uuid, uuid, jsonb), acp.policy_enable(uuid, boolean), acp.approval_decide(uuid, text) TO acp_app;
