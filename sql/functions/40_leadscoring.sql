-- Pack domain.leadscoring: handlers (tenant, params, ctx) -> data, run in the transaction of the call.
-- params have passed the JSON Schema of the action. ctx: request_id, event_id, api_key_id, dry_run, ts.

CREATE OR REPLACE FUNCTION acp.impact(p_creates jsonb DEFAULT '[]', p_updates jsonb DEFAULT '[]', p_deletes jsonb DEFAULT '[]',
	p_side_effects jsonb DEFAULT '[]', p_risk text DEFAULT 'low', p_warnings jsonb DEFAULT '[]') RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object('creates', p_creates, 'updates', p_updates, 'deletes', p_deletes,
		'side_effects', p_side_effects, 'risk', p_risk, 'warnings', p_warnings)
$$;
COMMENT ON FUNCTION acp.impact(jsonb, jsonb, jsonb, jsonb, text, jsonb) IS 'Builds the impact object of a dry run.';

CREATE OR REPLACE FUNCTION acp.leadscoring_models_create(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	m acp.leadscoring_models;
BEGIN
	PERFORM acp.ceiling_hold(p_tenant, 'models', p_ctx);
	IF (p_ctx->>'dry_run')::boolean THEN
		RETURN acp.impact(p_creates => jsonb_build_array(jsonb_build_object(
			'type', 'model', 'name', p_params->'name', 'model_type', p_params->'model_type', 'count', 1)));
	END IF;
	INSERT INTO acp.leadscoring_models (tenant_id, model_id, name, model_type, description, weights, created_at)
	VALUES (p_tenant, (p_ctx->>'event_id')::uuid, p_params->>'name', p_params->>'model_type', p_params->>'description',
		coalesce(p_params->'weights', '{}'), acp.now())
	RETURNING * INTO m;
	PERFORM acp.report(jsonb_build_object('resource_type', 'model', 'resource_id', m.model_id));
	RETURN acp.leadscoring_model_json(m);
END
$$;
COMMENT ON FUNCTION acp.leadscoring_models_create(uuid, jsonb, jsonb) IS 'domain.leadscoring.models.create';

CREATE OR REPLACE FUNCTION acp.leadscoring_model_json(m acp.leadscoring_models) RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object('model_id', m.model_id, 'name', m.name, 'model_type', m.model_type, 'description', m.description,
		'weights', m.weights, 'created_at', acp.rfc3339(m.created_at))
$$;
COMMENT ON FUNCTION acp.leadscoring_model_json(acp.leadscoring_models) IS 'JSON of a model for replies.';

CREATE OR REPLACE FUNCTION acp.leadscoring_models_list(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
	list jsonb;
BEGIN
	SELECT coalesce(jsonb_agg(acp.leadscoring_model_json(m) ORDER BY m.created_at, m.model_id), '[]') INTO list FROM (
		SELECT * FROM acp.leadscoring_models x
		WHERE x.tenant_id = p_tenant AND (p_params->>'after' IS NULL OR (x.created_at, x.model_id) >
			(SELECT a.created_at, a.model_id FROM acp.leadscoring_models a
			 WHERE a.tenant_id = p_tenant AND a.model_id = (p_params->>'after')::uuid))
		ORDER BY x.created_at, x.model_id LIMIT coalesce((p_params->>'limit')::integer, 100)) m;
	PERFORM acp.report(jsonb_build_object('resource_type', 'model', 'count', jsonb_array_length(list)));
	RETURN list;
END
$$;
COMMENT ON FUNCTION acp.leadscoring_models_list(uuid, jsonb, jsonb) IS 'domain.leadscoring.models.list: oldest first; after = model_id of the last model seen.';

CREATE OR REPLACE FUNCTION acp.leadscoring_model_weights(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
	found_weights jsonb;
BEGIN
	SELECT weights INTO found_weights FROM acp.leadscoring_models
	WHERE tenant_id = p_tenant AND model_id = (p_params->>'model_id')::uuid;
	IF NOT FOUND THEN
		PERFORM acp.fail('NOT_FOUND', 'no model has this model_id; domain.leadscoring.models.list shows them', '/params/model_id');
	END IF;
	RETURN found_weights;
END
$$;
COMMENT ON FUNCTION acp.leadscoring_model_weights(uuid, jsonb, jsonb) IS 'Weights of a model, for domain.leadscoring.scores.compute.';

CREATE OR REPLACE FUNCTION acp.leadscoring_questions_upsert_bulk(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	asked   CONSTANT jsonb := p_params->'questions';
	known   text[];
	total   CONSTANT integer := jsonb_array_length(asked);
BEGIN
	IF (SELECT count(DISTINCT q->>'key') FROM jsonb_array_elements(asked) q) < total THEN
		PERFORM acp.fail('VALIDATION_ERROR', 'two questions have the same key; list each key once', '/params/questions');
	END IF;
	SELECT coalesce(array_agg(w.key), '{}') INTO known FROM acp.leadscoring_questions w
	WHERE w.tenant_id = p_tenant AND w.key IN (SELECT q->>'key' FROM jsonb_array_elements(asked) q);
	PERFORM acp.ceiling_hold(p_tenant, 'questions', p_ctx, total - cardinality(known));
	IF (p_ctx->>'dry_run')::boolean THEN
		RETURN (SELECT acp.impact(
			p_creates => coalesce(jsonb_agg(jsonb_build_object('type', 'question', 'key', q->'key')) FILTER (WHERE q->>'key' <> ALL (known)), '[]'),
			p_updates => coalesce(jsonb_agg(jsonb_build_object('type', 'question', 'key', q->'key')) FILTER (WHERE q->>'key' = ANY (known)), '[]'))
			FROM jsonb_array_elements(asked) q);
	END IF;
	-- Insert in key order, so that two concurrent upserts of overlapping sets wait for each other and do not deadlock.
	INSERT INTO acp.leadscoring_questions (tenant_id, key, text, weight, updated_at)
	SELECT p_tenant, q->>'key', q->>'text', coalesce((q->>'weight')::double precision, 1), acp.now()
	FROM jsonb_array_elements(asked) q ORDER BY q->>'key'
	ON CONFLICT (tenant_id, key) DO UPDATE SET text = excluded.text, weight = excluded.weight, updated_at = excluded.updated_at;
	PERFORM acp.report(jsonb_build_object('resource_type', 'question', 'count', total));
	RETURN jsonb_build_object('created', total - cardinality(known), 'updated', cardinality(known));
END
$$;
COMMENT ON FUNCTION acp.leadscoring_questions_upsert_bulk(uuid, jsonb, jsonb) IS 'domain.leadscoring.questions.upsert_bulk';

CREATE OR REPLACE FUNCTION acp.leadscoring_questions_list(p_tenant uuid, p_params jsonb, p_ctx jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
	list jsonb;
BEGIN
	SELECT coalesce(jsonb_agg(jsonb_build_object('key', q.key, 'text', q.text, 'weight', q.weight) ORDER BY q.key), '[]') INTO list FROM (
		SELECT * FROM acp.leadscoring_questions x
		WHERE x.tenant_id = p_tenant AND (p_params->>'after' IS NULL OR x.key > p_params->>'after')
		ORDER BY x.key LIMIT coalesce((p_params->>'limit')::integer, 100)) q;
	PERFORM acp.report(jsonb_build_object('resource_type', 'question', 'count', jsonb_array_length(list)));
	RETURN list;
END
$$;
COMMENT ON FUNCTION acp.leadscoring_questions_list(uuid, jsonb, jsonb) IS 'domain.leadscoring.questions.list: ordered by key; after = key of the last question seen.';

GRANT EXECUTE ON FUNCTION acp.impact(jsonb, jsonb, jsonb, jsonb, text, jsonb), acp.leadscoring_models_create(uuid, jsonb, jsonb),
	acp.leadscoring_model_json(acp.leadscoring_models), acp.leadscoring_models_list(uuid, jsonb, jsonb),
	acp.leadscoring_model_weights(uuid, jsonb, jsonb), acp.leadscoring_questions_upsert_bulk(uuid, jsonb, jsonb),
	acp.leadscoring_questions_list(uuid, jsonb, jsonb) TO acp_app;
