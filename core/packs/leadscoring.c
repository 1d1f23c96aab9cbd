/* Pack domain.leadscoring: PostgreSQL stores the models and questions (sql/functions/40_leadscoring.sql); scores are
 * computed here. Scores are billed per lead, everything else per call. */
#include "kernel.h"
#include "schemas.h"

#include <math.h>

/* One lead's score: the sum of weight x feature over all features that have a weight. */
static bool score_lead(struct json_object *weights, struct json_object *lead, double *score)
{
	double sum = 0;
	struct json_object *features = acp_json_member(lead, "features");
	json_object_object_foreach(features, name, value)
	{
		struct json_object *weight = acp_json_member(weights, name);
		if (weight)
			sum += json_object_get_double(weight) * json_object_get_double(value);
	}
	*score = sum;
	return isfinite(sum);
}

static enum acp_code score_leads(struct acp_call *call, struct json_object *weights, struct json_object *leads,
				 struct json_object *scores)
{
	for (size_t i = 0; i < json_object_array_length(leads); i++) {
		double score = 0;
		struct json_object *lead = json_object_array_get_idx(leads, i);
		struct json_object *row = json_object_new_object();
		if (!score_lead(weights, lead, &score)) {
			char field[64];
			json_object_put(row);
			snprintf(field, sizeof field, "/params/leads/%zu/features", i);
			return acp_call_fail(call, ACP_VALIDATION_ERROR, field,
					     "the score of lead %zu is too large for a number", i);
		}
		if (!row || json_object_array_add(scores, row) != 0) {
			json_object_put(row);
			return ACP_INTERNAL_ERROR;
		}
		if (!acp_json_put(row, "id", json_object_get(acp_json_member(lead, "id"))) ||
		    !acp_json_put(row, "score", acp_json_double(score)))
			return ACP_INTERNAL_ERROR;
	}
	return ACP_OK;
}

/* The weights of the call: inline, or those of a model. The caller releases *owned. */
static enum acp_code find_weights(struct acp_call *call, struct json_object *params, struct json_object **weights,
				  struct json_object **owned)
{
	struct json_object *inline_weights = acp_json_member(params, "weights");
	bool by_model = acp_json_member(params, "model_id") != NULL;
	if (by_model == (inline_weights != NULL))
		return acp_call_fail(call, ACP_VALIDATION_ERROR, "/params", "give either weights or model_id");
	*weights = inline_weights;
	if (!by_model)
		return ACP_OK;
	enum acp_code code = acp_call_sql(call, "leadscoring_model_weights", params, owned);
	*weights = *owned;
	return code;
}

static enum acp_code compute_scores(struct acp_call *call, struct json_object *params, struct acp_result *result)
{
	struct json_object *weights = NULL;
	struct json_object *owned = NULL;
	struct json_object *leads = acp_json_member(params, "leads");
	enum acp_code code = find_weights(call, params, &weights, &owned);
	if (code == ACP_OK && acp_call_dry_run(call)) {
		result->data = acp_impact("low");
		code = result->data ? ACP_OK : ACP_INTERNAL_ERROR;
	} else if (code == ACP_OK) {
		struct json_object *scores = json_object_new_array();
		result->data = json_object_new_object();
		if (!scores || !result->data || !acp_json_put(result->data, "scores", json_object_get(scores)))
			code = ACP_INTERNAL_ERROR;
		else
			code = score_leads(call, weights, leads, scores);
		json_object_put(scores);
	}
	result->quantity = (int64_t)json_object_array_length(leads);
	json_object_put(owned);
	return code;
}

static const struct acp_action actions[] = {
	{
		.name = "domain.leadscoring.models.create",
		.scope = "manage.domain",
		.description = "Creates a scoring model.",
		.params_schema = acp_schema_packs_domain_leadscoring_models_create,
		.run = acp_run_sql,
		.sql_function = "leadscoring_models_create",
		.writes = true,
		.supports_dry_run = true,
		.billable = true,
		.ceiling = "models",
	},
	{
		.name = "domain.leadscoring.models.list",
		.scope = "manage.read",
		.description = "Lists the scoring models, oldest first; after: model_id of the last one seen.",
		.params_schema = acp_schema_packs_domain_leadscoring_models_list,
		.run = acp_run_sql,
		.sql_function = "leadscoring_models_list",
		.billable = true,
	},
	{
		.name = "domain.leadscoring.questions.upsert_bulk",
		.scope = "manage.domain",
		.description = "Creates or replaces up to 100 qualification questions by their key.",
		.params_schema = acp_schema_packs_domain_leadscoring_questions_upsert_bulk,
		.run = acp_run_sql,
		.sql_function = "leadscoring_questions_upsert_bulk",
		.writes = true,
		.supports_dry_run = true,
		.billable = true,
		.ceiling = "questions",
	},
	{
		.name = "domain.leadscoring.questions.list",
		.scope = "manage.read",
		.description = "Lists the qualification questions by key; after: key of the last one seen.",
		.params_schema = acp_schema_packs_domain_leadscoring_questions_list,
		.run = acp_run_sql,
		.sql_function = "leadscoring_questions_list",
		.billable = true,
	},
	{
		.name = "domain.leadscoring.scores.compute",
		.scope = "manage.domain",
		.description =
			"Scores up to 100 leads with the given weights or with those of a model; billed per lead.",
		.params_schema = acp_schema_packs_domain_leadscoring_scores_compute,
		.run = compute_scores,
		.supports_dry_run = true,
		.billable = true,
		.billing_unit = "row",
		.max_quantity = 100, /* as many leads as its schema allows */
	},
	{0},
};

extern const struct acp_pack acp_pack_leadscoring;
const struct acp_pack acp_pack_leadscoring = {"domain.leadscoring", actions};
