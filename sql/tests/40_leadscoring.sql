-- 40_leadscoring.sql - the handlers of the pack domain.leadscoring, called as acp_app.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
CREATE SCHEMA tap;
CREATE EXTENSION IF NOT EXISTS pgtap SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT quote_ident(nspname) AS tap FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
	WHERE extname = 'pgtap' \gset
SET LOCAL search_path = :tap, pg_catalog;

SELECT plan(49);

-- Shifts the program's clock so that this transaction happens at a moment. The ROLLBACK undoes it.
CREATE FUNCTION pg_temp.clock_at(moment timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('ALTER DATABASE %I SET acp.clock_offset = %L', current_database(), moment - now());
END
$$;

-- SQLSTATE, code and member of a refusal; null if the statement succeeds.
CREATE FUNCTION pg_temp.refusal(statement text) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
	hint   text;
	detail text;
BEGIN
	EXECUTE statement;
	RETURN NULL;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT, detail = PG_EXCEPTION_DETAIL;
	RETURN ARRAY[SQLSTATE, hint, detail];
END
$$;

CREATE FUNCTION pg_temp.t(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('44444444-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid
$$;
CREATE FUNCTION pg_temp.m(n integer) RETURNS uuid LANGUAGE sql AS $$
	SELECT ('44444444-0000-4000-a000-' || lpad(n::text, 12, '0'))::uuid
$$;
CREATE FUNCTION pg_temp.ctx(n integer, dry_run boolean DEFAULT false) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('request_id', gen_random_uuid(), 'event_id', pg_temp.m(n),
	'api_key_id', gen_random_uuid(),
		'ts', acp.now(), 'dry_run', dry_run)
$$;
CREATE FUNCTION pg_temp.reported() RETURNS jsonb LANGUAGE sql AS $$
	SELECT nullif(current_setting('acp.result_meta', true), '')::jsonb
$$;
-- Names of the elements of a list, in order.
CREATE FUNCTION pg_temp.names(list jsonb, member text) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(string_agg(x->>member, ' ' ORDER BY n), '')
	FROM jsonb_array_elements(list) WITH ORDINALITY AS l(x, n)
$$;
CREATE TEMP VIEW stored AS
	SELECT (SELECT count(*) FROM acp.leadscoring_models) AS models, (SELECT count(*)
	FROM acp.leadscoring_questions) AS questions;
GRANT SELECT ON stored TO PUBLIC;

SELECT pg_temp.clock_at('2027-05-15 12:00:00+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT count(acp.tenant_create(pg_temp.t(n), 'leadscoring', 'scoring:' || n, 'a@example.com', NULL))
	FROM generate_series(1, 2) n \gset ignored_

-- models.create ------------------------------------------------------------------------------------------------------

SELECT is(acp.leadscoring_models_create(pg_temp.t(1), '{"name": "dry", "model_type": "ml"}', pg_temp.ctx(1, true)),
	'{"creates": [{"type": "model", "name": "dry", "model_type": "ml", "count": 1}], "updates": [], "deletes": [],
	"side_effects": [],
	  "risk": "low", "warnings": []}', 'models.create, dry run: the impact');
SELECT results_eq('TABLE stored', 'VALUES (0::bigint, 0::bigint)', 'models.create, dry run: nothing is stored');
SELECT is(pg_temp.reported(), NULL, 'models.create, dry run: nothing is reported');
SELECT is(acp.leadscoring_models_create(pg_temp.t(1), '{"name": "first", "model_type": "linear", "description": "d",
	"weights": {"visits": 0.5, "größe": -1e3}}', pg_temp.ctx(1)), jsonb_build_object('model_id', pg_temp.m(1), 'name',
	'first',
	'model_type', 'linear', 'description', 'd', 'weights', '{"visits": 0.5, "größe": -1000}'::jsonb, 'created_at',
	'2027-05-15T12:00:00Z'),
	'models.create: returns the model, with the id of the event');
SELECT is(pg_temp.reported(), jsonb_build_object('resource_type', 'model', 'resource_id', pg_temp.m(1)),
	'models.create: the report names the model');
SELECT results_eq('SELECT tenant_id, model_id, name, model_type, description, weights, created_at
	FROM acp.leadscoring_models', $$VALUES
	(pg_temp.t(1), pg_temp.m(1), 'first', 'linear', 'd', '{"visits": 0.5, "größe": -1000}'::jsonb,
	'2027-05-15 12:00:00+00'::timestamptz)$$,
	'models.create: the model is stored');
SELECT is(acp.leadscoring_models_create(pg_temp.t(1), '{"name": "second", "model_type": "ml"}', pg_temp.ctx(2))
	- 'model_id' - 'created_at', '{"name": "second", "model_type": "ml", "description": null, "weights": {}}',
	'weights and description are optional');
SELECT throws_ok($$SELECT acp.leadscoring_models_create(pg_temp.t(1), '{"name": "x", "model_type": "magic"}',
	pg_temp.ctx(3))$$, '23514', NULL,
	'the table refuses unknown model types');
SELECT throws_ok($$SELECT acp.leadscoring_models_create(pg_temp.t(9), '{"name": "x", "model_type": "ml"}',
	pg_temp.ctx(3))$$, '23503', NULL,
	'the table refuses models of unknown tenants');
SELECT throws_ok($$SELECT acp.leadscoring_models_create(pg_temp.t(1), '{"name": "x", "model_type": "ml"}',
	pg_temp.ctx(2))$$, '23505', NULL,
	'the table refuses a second model with the same event');
SELECT lives_ok($$SELECT acp.leadscoring_models_create(pg_temp.t(2), '{"name": "theirs", "model_type": "ml",
	"weights": {"a": 1}}', pg_temp.ctx(4))$$,
	'another tenant has a model');

-- models.list --------------------------------------------------------------------------------------------------------

RESET ROLE;
SELECT pg_temp.clock_at('2027-05-15 12:00:01+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT lives_ok($$SELECT acp.leadscoring_models_create(pg_temp.t(1), '{"name": "third", "model_type": "ml"}',
	pg_temp.ctx(0))$$, 'a newer model is created');
SELECT is(pg_temp.names(acp.leadscoring_models_list(pg_temp.t(1), '{}', pg_temp.ctx(5)), 'name'), 'first second third',
	'models.list: oldest first');
SELECT is(pg_temp.reported(), '{"resource_type": "model", "count": 3}', 'models.list: the report has the count');
SELECT is(acp.leadscoring_models_list(pg_temp.t(1), '{"limit": 1}', pg_temp.ctx(5))->0,
	(SELECT acp.leadscoring_model_json(x) FROM acp.leadscoring_models x WHERE model_id = pg_temp.m(1)),
	'models.list: each model looks as in models.create');
SELECT is(pg_temp.names(acp.leadscoring_models_list(pg_temp.t(1), '{"limit": 2}', pg_temp.ctx(5)), 'name'),
	'first second', 'models.list: the first page');
SELECT is(pg_temp.names(acp.leadscoring_models_list(pg_temp.t(1), jsonb_build_object('limit', 2, 'after',
	pg_temp.m(2)), pg_temp.ctx(5)), 'name'),
	'third', 'models.list: the next page');
SELECT is(acp.leadscoring_models_list(pg_temp.t(1), jsonb_build_object('after', pg_temp.m(0)), pg_temp.ctx(5)), '[]',
	'models.list: nothing after the last');
SELECT is(acp.leadscoring_models_list(pg_temp.t(1), jsonb_build_object('after', pg_temp.m(4)), pg_temp.ctx(5)), '[]',
	'models.list: the model of another tenant is no valid cursor');
SELECT is(pg_temp.names(acp.leadscoring_models_list(pg_temp.t(2), '{}', pg_temp.ctx(5)), 'name'), 'theirs',
	'models.list: a tenant sees only its own models');
SELECT is(acp.leadscoring_models_list(pg_temp.t(9), '{}', pg_temp.ctx(5)), '[]', 'models.list: empty without models');

-- scores.compute: the weights of a model -----------------------------------------------------------------------------

SELECT is(acp.leadscoring_model_weights(pg_temp.t(1), jsonb_build_object('model_id', pg_temp.m(1)), pg_temp.ctx(6)),
	'{"visits": 0.5, "größe": -1000}', 'weights of a model');
SELECT is(acp.leadscoring_model_weights(pg_temp.t(1), jsonb_build_object('model_id', pg_temp.m(2)), pg_temp.ctx(6)),
	'{}', 'weights of a model without weights');
SELECT is(pg_temp.refusal($$SELECT acp.leadscoring_model_weights(pg_temp.t(1), jsonb_build_object('model_id',
	pg_temp.m(4)), pg_temp.ctx(6))$$),
	ARRAY['ACP01', 'NOT_FOUND', '/params/model_id'], 'the model of another tenant is not found');
SELECT is(pg_temp.refusal($$SELECT acp.leadscoring_model_weights(pg_temp.t(1), jsonb_build_object('model_id',
	pg_temp.m(99)), pg_temp.ctx(6))$$),
	ARRAY['ACP01', 'NOT_FOUND', '/params/model_id'], 'an unknown model is not found');
SELECT throws_ok($$SELECT acp.leadscoring_model_weights(pg_temp.t(1), jsonb_build_object('model_id', pg_temp.m(4)),
	pg_temp.ctx(6))$$,
	'ACP01', 'no model has this model_id; domain.leadscoring.models.list shows them', 'both refusals have the same text');

-- questions.upsert_bulk ----------------------------------------------------------------------------------------------

SELECT lives_ok('SELECT acp.report(NULL)', 'the report is cleared');
SELECT is(acp.leadscoring_questions_upsert_bulk(pg_temp.t(1), '{"questions": [{"key": "b", "text": "B?"}, {"key": "a",
	"text": "A?"}]}',
	pg_temp.ctx(7, true)), '{"creates": [{"type": "question", "key": "b"}, {"type": "question", "key": "a"}],
	"updates": [], "deletes": [],
	"side_effects": [], "risk": "low", "warnings": []}', 'questions.upsert_bulk, dry run: the creations');
SELECT results_eq('TABLE stored', 'VALUES (4::bigint, 0::bigint)', 'questions.upsert_bulk, dry run: nothing is stored');
SELECT is(pg_temp.reported(), NULL, 'questions.upsert_bulk, dry run: nothing is reported');
SELECT is(acp.leadscoring_questions_upsert_bulk(pg_temp.t(1), '{"questions": [{"key": "b", "text": "B?",
	"weight": -2.5}, {"key": "a", "text": "A?"}]}',
	pg_temp.ctx(7)), '{"created": 2, "updated": 0}', 'two questions are created');
SELECT is(pg_temp.reported(), '{"resource_type": "question", "count": 2}', 'the report has the count');
SELECT results_eq('SELECT tenant_id, key, text, weight, updated_at FROM acp.leadscoring_questions ORDER BY key',
	$$VALUES
	(pg_temp.t(1), 'a', 'A?', 1::float8, '2027-05-15 12:00:01+00'::timestamptz),
	(pg_temp.t(1), 'b', 'B?', -2.5, '2027-05-15 12:00:01+00')$$,
	'they are stored; the default weight is 1');
RESET ROLE;
SELECT pg_temp.clock_at('2027-05-15 12:00:02+00') \gset ignored_
SET LOCAL ROLE acp_app;
SELECT is(acp.leadscoring_questions_upsert_bulk(pg_temp.t(1), '{"questions": [{"key": "c", "text": "C?"}, {"key": "b",
	"text": "B!"}]}',
	pg_temp.ctx(8, true)), '{"creates": [{"type": "question", "key": "c"}], "updates": [{"type": "question",
	"key": "b"}], "deletes": [],
	"side_effects": [], "risk": "low", "warnings": []}', 'dry run: the creations and the updates');
SELECT is((SELECT text FROM acp.leadscoring_questions WHERE key = 'b'), 'B?', 'dry run: nothing changes');
SELECT is(acp.leadscoring_questions_upsert_bulk(pg_temp.t(1), '{"questions": [{"key": "c", "text": "C?"}, {"key": "b",
	"text": "B!"}]}',
	pg_temp.ctx(8)), '{"created": 1, "updated": 1}', 'one question is created, one replaced');
SELECT results_eq('SELECT key, text, weight, updated_at FROM acp.leadscoring_questions ORDER BY key', $$VALUES
	('a', 'A?', 1::float8, '2027-05-15 12:00:01+00'::timestamptz), ('b', 'B!', 1, '2027-05-15 12:00:02+00'),
	('c', 'C?', 1, '2027-05-15 12:00:02+00')$$,
	'replacing sets the weight, too; other questions stay');
SELECT is(pg_temp.refusal($$SELECT acp.leadscoring_questions_upsert_bulk(pg_temp.t(1),
	'{"questions": [{"key": "d", "text": "1"}, {"key": "e", "text": "2"}, {"key": "d", "text": "3"}]}',
	pg_temp.ctx(9))$$),
	ARRAY['ACP01', 'VALIDATION_ERROR', '/params/questions'], 'a key given twice is refused');
SELECT is(pg_temp.refusal($$SELECT acp.leadscoring_questions_upsert_bulk(pg_temp.t(1),
	'{"questions": [{"key": "d", "text": "1"}, {"key": "d", "text": "3"}]}', pg_temp.ctx(9, true))$$),
	ARRAY['ACP01', 'VALIDATION_ERROR', '/params/questions'], 'a key given twice is refused in a dry run, too');
SELECT is(acp.leadscoring_questions_upsert_bulk(pg_temp.t(2), '{"questions": [{"key": "a", "text": "theirs"}]}',
	pg_temp.ctx(10)),
	'{"created": 1, "updated": 0}', 'another tenant has its own questions');
SELECT is((SELECT text FROM acp.leadscoring_questions WHERE tenant_id = pg_temp.t(1) AND key = 'a'), 'A?',
	'the questions of this tenant stay the same');

-- questions.list -----------------------------------------------------------------------------------------------------

SELECT is(acp.leadscoring_questions_list(pg_temp.t(2), '{}', pg_temp.ctx(11)), '[{"key": "a", "text": "theirs",
	"weight": 1}]', 'questions.list');
SELECT is(pg_temp.reported(), '{"resource_type": "question", "count": 1}', 'questions.list: the report has the count');
SELECT is(pg_temp.names(acp.leadscoring_questions_list(pg_temp.t(1), '{}', pg_temp.ctx(11)), 'key'), 'a b c', 'questions.list: ordered by key');
SELECT is(pg_temp.names(acp.leadscoring_questions_list(pg_temp.t(1), '{"limit": 2}', pg_temp.ctx(11)), 'key'), 'a b',
	'questions.list: the first page');
SELECT is(pg_temp.names(acp.leadscoring_questions_list(pg_temp.t(1), '{"limit": 2, "after": "b"}', pg_temp.ctx(11)),
	'key'), 'c', 'questions.list: the next page');
SELECT is(acp.leadscoring_questions_list(pg_temp.t(9), '{}', pg_temp.ctx(11)), '[]', 'questions.list: empty without questions');

-- The program makes a dry run in a read-only transaction -------------------------------------------------------------

SELECT acp.leadscoring_models_create(pg_temp.t(1), '{"name": "n", "model_type": "ml"}', pg_temp.ctx(12, true)),
	acp.impact(p_risk => 'high', p_warnings => '["careful"]') AS impact \gset dry_
SELECT is(:'dry_impact', '{"creates": [], "updates": [], "deletes": [], "side_effects": [], "risk": "high",
	"warnings": ["careful"]}'::jsonb,
	'impact: omitted lists are empty');
RESET ROLE;
SET TRANSACTION READ ONLY;
SET LOCAL ROLE acp_app;
SELECT lives_ok($$SELECT acp.leadscoring_models_create(pg_temp.t(1), '{"name": "n", "model_type": "ml"}',
	pg_temp.ctx(13, true)),
	acp.leadscoring_questions_upsert_bulk(pg_temp.t(1), '{"questions": [{"key": "z", "text": "Z?"}]}',
	pg_temp.ctx(13, true)),
	acp.leadscoring_model_weights(pg_temp.t(1), jsonb_build_object('model_id', pg_temp.m(1)), pg_temp.ctx(13, true))$$,
	'dry runs work in a read-only transaction');

SELECT * FROM finish();
ROLLBACK;
