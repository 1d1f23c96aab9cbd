/* schemas.h - the JSON documents of this folder, as text: acp_schema_FOLDER_NAME is FOLDER/NAME.json, with _ instead of
 * each dot. The makefile generates schemas.c from them (embed). A missing document is a link error; with one that is
 * not a valid JSON Schema the program refuses to start. */
#ifndef ACP_SCHEMAS_H
#define ACP_SCHEMAS_H

extern const char acp_schema_executor_execute[];
extern const char acp_schema_executor_stripe_checkout_create[];
extern const char acp_schema_executor_stripe_customers_create[];
extern const char acp_schema_executor_stripe_customers_update[];
extern const char acp_schema_executor_stripe_events_list[];
extern const char acp_schema_executor_stripe_invoices_create[];
extern const char acp_schema_executor_stripe_invoices_list[];
extern const char acp_schema_executor_stripe_invoices_pay[];
extern const char acp_schema_executor_stripe_setup_intents_get[];
extern const char acp_schema_hub_audit_ingest[];
extern const char acp_schema_hub_audit_query[];
extern const char acp_schema_hub_authorize[];
extern const char acp_schema_hub_billing_invoice[];
extern const char acp_schema_hub_billing_run[];
extern const char acp_schema_hub_heartbeat[];
extern const char acp_schema_hub_policy_propose[];
extern const char acp_schema_hub_revoke[];
extern const char acp_schema_hub_tenants_create[];
extern const char acp_schema_hub_tenants_update[];
extern const char acp_schema_hub_usage[];
extern const char acp_schema_hub_usage_reserve[];
extern const char acp_schema_hub_usage_prices[];
extern const char acp_schema_hub_usage_settle[];
extern const char acp_schema_openapi_components[];
extern const char acp_schema_openapi_execution[];
extern const char acp_schema_openapi_operations[];
extern const char acp_schema_openapi_parts[];
extern const char acp_schema_packs_domain_leadscoring_models_create[];
extern const char acp_schema_packs_domain_leadscoring_models_list[];
extern const char acp_schema_packs_domain_leadscoring_questions_list[];
extern const char acp_schema_packs_domain_leadscoring_questions_upsert_bulk[];
extern const char acp_schema_packs_domain_leadscoring_scores_compute[];
extern const char acp_schema_packs_governance_propose_policy[];
extern const char acp_schema_packs_iam_keys_create[];
extern const char acp_schema_packs_iam_keys_list[];
extern const char acp_schema_packs_iam_keys_revoke[];
extern const char acp_schema_packs_iam_keys_rotate[];
extern const char acp_schema_packs_iam_keys_update[];
extern const char acp_schema_packs_iam_team_invite[];
extern const char acp_schema_packs_iam_team_list[];
extern const char acp_schema_packs_meta_actions[];
extern const char acp_schema_packs_meta_activity[];
extern const char acp_schema_packs_meta_version[];
extern const char acp_schema_packs_settings_get[];
extern const char acp_schema_packs_settings_update[];
extern const char acp_schema_packs_webhooks_create[];
extern const char acp_schema_packs_webhooks_delete[];
extern const char acp_schema_packs_webhooks_deliveries[];
extern const char acp_schema_packs_webhooks_list[];
extern const char acp_schema_packs_webhooks_test[];
extern const char acp_schema_packs_webhooks_update[];

#endif
