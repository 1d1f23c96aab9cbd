#include "openapi.h"

#include "execute.h"
#include "executor_local.h"
#include "hub.h"
#include "log.h"
#include "prices.h"
#include "schemas.h"
#include "stripe_events.h"
#include "version.h"

#define SCHEMAS "#/components/schemas/"

/* A document under construction. Every part is added by a function that clears ok on failure, so out of memory is
 * checked once, at the end. */
struct draft {
	const struct acp_kernel *kernel;
	struct json_object *parts;      /* core/schemas/openapi/parts.json */
	struct json_object *operations; /* core/schemas/openapi/operations.json, by operation id */
	struct json_object *paths;
	struct json_object *schemas;
	bool ok;
};

/* Copies a part of core/schemas/openapi/parts.json, for the caller to complete. NULL: out of memory. */
static struct json_object *part(const struct draft *draft, const char *name)
{
	struct json_object *copy = NULL;
	struct json_object *original = acp_json_member(draft->parts, name);
	return original && json_object_deep_copy(original, &copy, NULL) == 0 ? copy : NULL;
}

/* Adds a member and takes ownership of the value. A NULL value marks the draft as failed. */
static void put(struct draft *draft, struct json_object *object, const char *name, struct json_object *value)
{
	draft->ok = acp_json_add(object, name, value) && draft->ok;
}

/* The same for an element of an array. */
static void append(struct draft *draft, struct json_object *array, struct json_object *value)
{
	if (value && json_object_is_type(array, json_type_array) && json_object_array_add(array, value) == 0)
		return;
	json_object_put(value);
	draft->ok = false;
}

static void put_string(struct draft *draft, struct json_object *object, const char *name, const char *value)
{
	put(draft, object, name, json_object_new_string(value));
}

static struct json_object *member(struct json_object *object, const char *first, const char *second)
{
	return acp_json_member(acp_json_member(object, first), second);
}

/* Marks the draft as failed if the value is NULL. Returns the value. */
static struct json_object *require(struct draft *draft, struct json_object *value)
{
	draft->ok = value && draft->ok;
	return value;
}

static struct json_object *reference(const char *place, const char *name)
{
	char text[320];
	struct json_object *ref = json_object_new_object();
	snprintf(text, sizeof text, "%s%s", place, name);
	if (ref && acp_json_add_string(ref, "$ref", text))
		return ref;
	json_object_put(ref);
	return NULL;
}

/* Errors ------------------------------------------------------------------------------------------------------- */

static void put_codes(struct draft *draft, struct json_object *schema)
{
	struct json_object *codes = json_object_new_array();
	for (int code = 0; code < ACP_CODE_COUNT; code++)
		if (acp_code_http((enum acp_code)code) >= 400)
			append(draft, codes, json_object_new_string(acp_code_name((enum acp_code)code)));
	put(draft, member(schema, "properties", "code"), "enum", codes);
}

static struct json_object *example_error(const struct draft *draft, enum acp_code code)
{
	struct json_object *example = part(draft, "error_example");
	struct json_object *value = acp_json_member(example, "value");
	bool ok = acp_json_add_string(value, "error", acp_code_sentence(code)) &&
		  acp_json_add_string(value, "code", acp_code_name(code));
	if (code == ACP_VALIDATION_ERROR)
		ok = ok && acp_json_add_string(value, "field", "/params/name");
	if (code == ACP_OUTCOME_UNKNOWN)
		ok = ok && acp_json_add_string(value, "idempotency_key", "c7b5f1ce-6a3c-4a3e-9b50-0d6f6f2f9c11");
	if (code == ACP_UPGRADE_REQUIRED)
		ok = ok &&
		     acp_json_add_string(value, "upgrade_url", "https://api.example/api/upgrade/checkout?tenant=…") &&
		     acp_json_add(value, "usage", part(draft, "usage_example")) &&
		     acp_json_add_string(value, "resets_at", "2026-12-01T00:00:00Z") &&
		     acp_json_add(value, "retryable", json_object_new_boolean(false));
	if (ok)
		return example;
	json_object_put(example);
	return NULL;
}

/* The error reply of one HTTP status: its codes with their sentences. */
static struct json_object *error_response(struct draft *draft, int status)
{
	struct acp_buf text;
	struct json_object *response = part(draft, "error");
	struct json_object *content = member(response, "content", "application/json");
	struct json_object *examples = acp_json_member(content, "examples");
	if (status == 402)
		put(draft, content, "schema", reference(SCHEMAS, "UpgradeRequired"));
	acp_buf_init(&text, 4096);
	for (int code = 0; code < ACP_CODE_COUNT; code++) {
		if (acp_code_http((enum acp_code)code) != status)
			continue;
		acp_buf_printf(&text, "%s%s: %s", text.len ? "; " : "", acp_code_name((enum acp_code)code),
			       acp_code_sentence((enum acp_code)code));
		put(draft, examples, acp_code_name((enum acp_code)code), example_error(draft, (enum acp_code)code));
	}
	draft->ok = acp_buf_ok(&text) && draft->ok;
	put_string(draft, response, "description", text.ptr ? text.ptr : "");
	if (status == 429 || status == 502 || status == 503 || status == 409)
		put(draft, acp_json_member(response, "headers"), "Retry-After",
		    reference("#/components/headers/", "Retry-After"));
	acp_buf_release(&text);
	return response;
}

static struct json_object *error_responses(struct draft *draft)
{
	char name[16];
	struct json_object *responses = json_object_new_object();
	for (int code = 0; code < ACP_CODE_COUNT; code++) {
		int status = acp_code_http((enum acp_code)code);
		snprintf(name, sizeof name, "Error%d", status);
		if (status >= 400 && !acp_json_member(responses, name))
			put(draft, responses, name, error_response(draft, status));
	}
	return responses;
}

/* Operations --------------------------------------------------------------------------------------------------- */

/* One operation. Its security and its parameters are in core/schemas/openapi/operations.json. */
struct operation {
	const char *path, *method, *id, *tag, *summary;
	const char *success; /* status */
	const char *reply;   /* name of the schema of a success; NULL: no body */
	const char *errors;  /* statuses, separated by spaces */
	const char *media;   /* of a success; NULL: application/json */
};

static void put_errors(struct draft *draft, struct json_object *responses, const char *statuses)
{
	char status[8];
	char name[16];
	for (const char *at = statuses; *(at += strspn(at, " "));) {
		size_t len = strcspn(at, " ");
		snprintf(status, sizeof status, "%.*s", (int)len, at);
		snprintf(name, sizeof name, "Error%s", status);
		put(draft, responses, status, reference("#/components/responses/", name));
		at += len;
	}
}

static struct json_object *success_response(struct draft *draft, const struct operation *op)
{
	const char *media = op->media ? op->media : "application/json";
	struct json_object *response = part(draft, "success");
	if (op->reply) {
		struct json_object *content = json_object_new_object();
		put(draft, content, media, json_object_new_object());
		put(draft, acp_json_member(content, media), "schema", reference(SCHEMAS, op->reply));
		put(draft, response, "content", content);
	}
	if (strcmp(op->id, "manage") == 0)
		put(draft, acp_json_member(response, "headers"), "Idempotency-Key", part(draft, "idempotency_key"));
	if (strcmp(op->success, "303") == 0)
		put(draft, acp_json_member(response, "headers"), "Location", part(draft, "location"));
	return response;
}

/* Operations whose request body has a schema of core/schemas/openapi/components.json. */
static const struct {
	const char *operation, *schema;
	bool optional;
} bodies[] = {{"upgrade", "CheckoutRequest", true}, {"stripeEvent", "StripeEvent", false}};

static void put_body(struct draft *draft, struct json_object *operation, struct json_object *schema, bool optional)
{
	struct json_object *request = part(draft, optional ? "optional_body" : "body");
	put(draft, member(request, "content", "application/json"), "schema", schema);
	put(draft, operation, "requestBody", request);
}

/* Adds an operation. body is the schema of its request body, taken over; NULL: the one in bodies, if any. */
static void put_operation(struct draft *draft, const struct operation *op, struct json_object *body)
{
	struct json_object *item = acp_json_member(draft->paths, op->path);
	struct json_object *operation = json_object_new_object();
	struct json_object *responses = json_object_new_object();
	bool is_hub = strncmp(op->id, "hub.", 4) == 0; /* they share one entry of operations.json, and take a body */
	struct json_object *written = acp_json_member(draft->operations, is_hub ? "hub" : op->id);
	struct json_object *parameters = acp_json_member(written, "parameters");
	if (draft->operations && !written)
		acp_log(ACP_LOG_ERROR, "openapi: core/schemas/openapi/operations.json has no operation %s", op->id);
	if (!item) {
		item = json_object_new_object();
		put(draft, draft->paths, op->path, item);
	}
	put_string(draft, operation, "operationId", op->id);
	put_string(draft, operation, "summary", op->summary);
	struct json_object *tags = json_object_new_array();
	append(draft, tags, json_object_new_string(op->tag));
	put(draft, operation, "tags", tags);
	put(draft, operation, "security", json_object_get(acp_json_member(written, "security")));
	if (parameters)
		put(draft, operation, "parameters", json_object_get(parameters));
	if (body)
		put_body(draft, operation, body, false);
	for (size_t i = 0; i < ACP_COUNT(bodies); i++)
		if (strcmp(bodies[i].operation, op->id) == 0)
			put_body(draft, operation, reference(SCHEMAS, bodies[i].schema), bodies[i].optional);
	put(draft, responses, op->success, success_response(draft, op));
	put_errors(draft, responses, op->errors);
	put(draft, operation, "responses", responses);
	put(draft, item, op->method, operation);
}

/* clang-format off */
static const struct operation public_operations[] = {
	{"/api/usage", "get", "usage", "agents", "The usage of the key's tenant in a UTC month; free of charge.",
	 "200", "Usage", "400 401 404 405 500 503", NULL},
	{"/api/billing/invoice", "get", "invoice", "agents",
	 "The invoice of the key's tenant for a UTC month; a preview if the month is not billed yet.",
	 "200", "Invoice", "400 401 404 405 500 503", NULL},
	{"/api/upgrade/checkout", "get", "upgradeLink", "agents",
	 "The signed link for a human: redirects to a checkout at Stripe to add a payment method.",
	 "303", NULL, "404 405 409 429 500 502 503", NULL},
	{"/api/upgrade/checkout", "post", "upgrade", "agents",
	 "Opens a checkout at Stripe for a human to add a payment method, or returns the open one.",
	 "200", "CheckoutReply", "400 401 404 405 409 413 415 429 500 502 503", NULL},
	{"/api/webhooks/stripe", "post", "stripeEvent", "operators", "Receives an event from Stripe.",
	 "200", "StripeEventReply", "400 404 405 413 500 503", NULL},
	{"/api/openapi.json", "get", "openapi", "operators", "This document.",
	 "200", "Document", "405 500", NULL},
	{"/llms.txt", "get", "llms", "agents", "A short guide to this API, for agents.",
	 "200", "Text", "405 500", "text/plain"},
	{"/.well-known/api-catalog", "get", "catalog", "agents", "The API catalog (RFC 9727).",
	 "200", "Catalog", "405 500", "application/linkset+json"},
	{"/console", "get", "console", "operators", "The console: a page for people with an API key.",
	 "200", "Text", "405 500", "text/html"},
	{"/metrics", "get", "metrics", "operators", "Metrics for Prometheus.",
	 "200", "Text", "404 405 500", "text/plain"},
	{"/healthz", "get", "alive", "operators", "Is this process alive?",
	 "200", "Health", "405 500", NULL},
	{"/readyz", "get", "ready", "operators", "Is it ready to serve?",
	 "200", "Health", "405 500 503", NULL},
};

static const struct operation manage_operation = {
	"/api/manage", "post", "manage", "agents", "Calls an action.",
	"200", "CallReply", "400 401 402 403 404 405 409 413 415 422 429 500 502 503", NULL};

static const struct operation onboard_operation = {
	"/api/onboard/{product}", "post", "onboard", "agents", "Registers an agent.",
	"201", "OnboardReply", "400 404 405 409 413 415 422 429 500 503", NULL};
/* clang-format on */

/* Actions ------------------------------------------------------------------------------------------------------ */

/* The members of an ActionDef that are not part of the schema, under one extension name that validators accept. */
static struct json_object *action_facts(struct draft *draft, struct json_object *def)
{
	static const char *const names[] = {"scope", "supports_dry_run", "billable", "billing_unit", "max_quantity"};
	struct json_object *facts = json_object_new_object();
	for (size_t i = 0; i < ACP_COUNT(names); i++) {
		struct json_object *value = acp_json_member(def, names[i]);
		if (value)
			put(draft, facts, names[i], json_object_get(value));
		else
			draft->ok = acp_json_add_null(facts, names[i]) && draft->ok;
	}
	return facts;
}

/* The schema of a call of one action. */
static struct json_object *call_schema(struct draft *draft, const struct acp_entry *entry)
{
	struct json_object *params = NULL;
	struct json_object *schema = part(draft, "call_of_action");
	struct json_object *properties = acp_json_member(schema, "properties");
	if (json_object_deep_copy(acp_json_member(entry->def, "params_schema"), &params, NULL) != 0)
		draft->ok = false;
	if (acp_json_member(params, "required") && json_object_array_length(acp_json_member(params, "required")) > 0)
		append(draft, acp_json_member(schema, "required"), json_object_new_string("params"));
	put(draft, properties, "params", params);
	put_string(draft, acp_json_member(properties, "action"), "const", entry->action->name);
	if (!entry->action->supports_dry_run)
		put(draft, acp_json_member(properties, "dry_run"), "const", json_object_new_boolean(false));
	put_string(draft, schema, "title", entry->action->name);
	put_string(draft, schema, "description", entry->action->description);
	put(draft, schema, "x-action", action_facts(draft, entry->def));
	if (entry->action->billable && draft->kernel->plane->usage.get_prices)
		put_string(draft, schema, "x-price", entry->action->name); /* a mark for acp_openapi_write() */
	return schema;
}

/* Adds the schema Call: one of the calls of all actions, distinguished by `action`. */
static void put_calls(struct draft *draft)
{
	char name[256];
	char target[320];
	struct json_object *call = part(draft, "call");
	struct json_object *mapping = member(call, "discriminator", "mapping");
	for (size_t i = 0; i < draft->kernel->entry_count; i++) {
		const struct acp_entry *entry = &draft->kernel->entries[i];
		snprintf(name, sizeof name, "Call.%.240s", entry->action->name);
		snprintf(target, sizeof target, SCHEMAS "%s", name);
		put(draft, draft->schemas, name, call_schema(draft, entry));
		put_string(draft, mapping, entry->action->name, target);
		append(draft, acp_json_member(call, "oneOf"), reference(SCHEMAS, name));
	}
	put(draft, draft->schemas, "Call", call);
}

/* The hub ------------------------------------------------------------------------------------------------------ */

static bool is_required(struct json_object *schema, const char *name)
{
	struct json_object *required = acp_json_member(schema, "required");
	for (size_t i = 0; required && i < json_object_array_length(required); i++)
		if (strcmp(json_object_get_string(json_object_array_get_idx(required, i)), name) == 0)
			return true;
	return false;
}

/* The query parameters of a readable endpoint, with the schemas of the matching members of its body. */
static struct json_object *query_parameters(struct draft *draft, const char *names, struct json_object *schema)
{
	char name[64];
	struct json_object *list = json_object_new_array();
	for (const char *at = names; *(at += strspn(at, " "));) {
		size_t len = strcspn(at, " ");
		struct json_object *parameter = json_object_new_object();
		snprintf(name, sizeof name, "%.*s", (int)len, at);
		put_string(draft, parameter, "name", name);
		put_string(draft, parameter, "in", "query");
		put(draft, parameter, "required", json_object_new_boolean(is_required(schema, name)));
		put(draft, parameter, "schema", json_object_get(member(schema, "properties", name)));
		append(draft, list, parameter);
		at += len;
	}
	return list;
}

static struct json_object *hub_body(struct draft *draft, const char *name, struct json_object *schema)
{
	if (strcmp(name, "audit-ingest") != 0)
		return json_object_get(schema);
	struct json_object *body = part(draft, "audit_events");
	put(draft, draft->schemas, "AuditEvent", json_object_get(schema));
	return body;
}

static void put_endpoint(void *arg, const char *name, const char *schema_text, const char *query, const char *summary,
			 int http)
{
	struct draft *draft = arg;
	char path[64], id[64], read_id[72], success[8];
	struct json_object *schema = require(draft, acp_json_own(schema_text));
	snprintf(path, sizeof path, "/functions/v1/%s", name);
	snprintf(id, sizeof id, "hub.%s", name);
	for (char *c = id; *c; c++)
		*c = *c == '/' ? '.' : *c;
	snprintf(read_id, sizeof read_id, "%s.read", id);
	snprintf(success, sizeof success, "%d", http);
	struct operation op = {path,    "post",  id,      "kernels",
			       summary, success, "Reply", "400 401 402 403 404 405 409 413 415 422 500 503",
			       NULL};
	put_operation(draft, &op, require(draft, hub_body(draft, name, schema)));
	if (query) {
		op.method = "get";
		op.id = read_id;
		op.errors = "400 401 404 405 500 503";
		put_operation(draft, &op, NULL);
		put(draft, member(draft->paths, path, "get"), "parameters", query_parameters(draft, query, schema));
	}
	json_object_put(schema);
}

/* The executor ------------------------------------------------------------------------------------------------- */

static const struct operation execute_operation = {
	"/functions/v1/execute",
	"post",
	"executor.execute",
	"kernels",
	"Executes an action at a vendor for another kernel; the answer to a failed execution has ok: false.",
	"200",
	"Execution",
	"400 401 404 405 413 415 500 503",
	NULL};

static void put_execute(struct draft *draft)
{
	put(draft, draft->schemas, "Execution", acp_json_own(acp_schema_openapi_execution));
	put_operation(draft, &execute_operation, require(draft, acp_json_own(acp_schema_executor_execute)));
}

/* The document ------------------------------------------------------------------------------------------------- */

static bool offered(const struct acp_kernel *kernel, const char *path)
{
	return (kernel->plane->usage.get || strcmp(path, "/api/usage") != 0) &&
	       (kernel->plane->payments.get_invoice || strcmp(path, "/api/billing/invoice") != 0) &&
	       (acp_stripe_events_offered(kernel) || strcmp(path, "/api/webhooks/stripe") != 0);
}

static void put_paths(struct draft *draft)
{
	const struct acp_kernel *kernel = draft->kernel;
	put_operation(draft, &manage_operation, require(draft, reference(SCHEMAS, "Call")));
	if (kernel->config->onboarding && kernel->plane->call.onboard)
		put_operation(draft, &onboard_operation, require(draft, reference(SCHEMAS, "OnboardRequest")));
	for (size_t i = 0; i < ACP_COUNT(public_operations); i++)
		if (offered(kernel, public_operations[i].path))
			put_operation(draft, &public_operations[i], NULL);
	if (kernel->hub)
		acp_hub_each(put_endpoint, draft);
	if (acp_execute_offered(kernel))
		put_execute(draft);
}

/* Adds the schemas of requests and replies that do not depend on the registered actions. */
static void put_fixed_schemas(struct draft *draft, struct json_object *fixed)
{
	draft->ok = fixed && draft->ok;
	if (!fixed)
		return;
	json_object_object_foreach(fixed, name, schema)
	{
		put(draft, draft->schemas, name, json_object_get(schema));
	}
}

static struct json_object *components(struct draft *draft)
{
	struct json_object *all = acp_json_own(acp_schema_openapi_components);
	put_fixed_schemas(draft, acp_json_member(all, "schemas"));
	if (all)
		json_object_object_del(all, "schemas"); /* they come last, with those of the actions */
	put_codes(draft, acp_json_member(draft->schemas, "Error"));
	put_calls(draft);
	if (draft->kernel->hub)
		put(draft, acp_json_member(all, "securitySchemes"), "kernelKey", part(draft, "kernel_key"));
	if (acp_execute_offered(draft->kernel))
		put(draft, acp_json_member(all, "securitySchemes"), "executorKey", part(draft, "executor_key"));
	put(draft, all, "responses", error_responses(draft));
	put(draft, all, "schemas", json_object_get(draft->schemas));
	return all;
}

static void put_head(struct draft *draft, struct json_object *document)
{
	char url[1024];
	const struct acp_config *config = draft->kernel->config;
	struct json_object *info = part(draft, "info");
	struct json_object *server = json_object_new_object();
	struct json_object *servers = json_object_new_array();
	put_string(draft, document, "openapi", "3.1.0");
	put_string(draft, info, "title", config->kernel_id);
	put_string(draft, info, "version", ACP_API_VERSION);
	put_string(draft, info, "description", "Metered, audited actions for agents, by acp-fcgi " ACP_VERSION ".");
	put(draft, document, "info", info);
	snprintf(url, sizeof url, "%.500s%.500s", config->public_url, config->url_prefix);
	put_string(draft, server, "url", url);
	append(draft, servers, server);
	put(draft, document, "servers", servers);
	put(draft, document, "tags", part(draft, "tags"));
}

struct json_object *acp_openapi(const struct acp_kernel *kernel)
{
	struct draft draft = {.kernel = kernel,
			      .parts = acp_json_own(acp_schema_openapi_parts),
			      .operations = acp_json_own(acp_schema_openapi_operations),
			      .paths = json_object_new_object(),
			      .schemas = json_object_new_object(),
			      .ok = true};
	struct json_object *document = json_object_new_object();
	put_head(&draft, document);
	put_paths(&draft);
	put(&draft, document, "paths", json_object_get(draft.paths));
	put(&draft, document, "components", components(&draft));
	json_object_put(draft.parts);
	json_object_put(draft.operations);
	json_object_put(draft.paths);
	json_object_put(draft.schemas);
	if (draft.ok)
		return document;
	json_object_put(document);
	return NULL;
}

char *acp_openapi_text(const struct acp_kernel *kernel)
{
	struct json_object *document = acp_openapi(kernel);
	size_t len;
	const int flags = JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE;
	const char *text = document ? acp_json_text(document, flags, &len) : NULL;
	char *copy = text ? strdup(text) : NULL;
	json_object_put(document);
	return copy;
}

/* Prices ------------------------------------------------------------------------------------------------------- */

static const char MARK[] = ",\"x-price\":\"";

/* Copies into name the action that a mark at text names. False: this is not one of our marks. */
static bool read_mark(const struct acp_kernel *kernel, const char *text, char name[256])
{
	size_t len = strcspn(text, "\"");
	snprintf(name, 256, "%.*s", len < 256 ? (int)len : 0, text);
	const struct acp_entry *entry = acp_kernel_find(kernel, name);
	return entry && entry->action->billable;
}

void acp_openapi_write(const struct acp_kernel *kernel, struct acp_buf *out)
{
	char name[256];
	struct json_object *prices = acp_prices_for_strangers(kernel);
	const char *text = kernel->openapi;
	for (const char *mark = strstr(text, MARK); mark; mark = strstr(mark, MARK)) {
		const char *start = mark + sizeof MARK - 1;
		if (!read_mark(kernel, start, name)) {
			mark = start;
			continue;
		}
		struct json_object *price = acp_json_member(prices, name);
		acp_buf_add(out, text, (size_t)(mark - text));
		if (price) {
			acp_buf_add(out, MARK, sizeof MARK - 2);
			acp_json_write(price, out);
		}
		mark = text = start + strlen(name) + 1;
	}
	acp_buf_puts(out, text);
	json_object_put(prices);
}
