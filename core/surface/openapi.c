#include "openapi.h"

#include "execute.h"
#include "executor_local.h"
#include "hub.h"
#include "stripe_events.h"
#include "version.h"

#define SCHEMAS "#/components/schemas/"

/* Running out of memory is noticed once, at the end: every part is added through a function that clears ok on
 * failure. */
struct draft {
	const struct acp_kernel *kernel;
	struct json_object *paths;
	struct json_object *schemas;
	bool ok;
};

/* Parses a constant of this file: JSON written with ' instead of ". NULL: out of memory (or an invalid constant, which
 * the tests would find). */
static struct json_object *from(const char *text)
{
	char *plain = strdup(text);
	if (!plain)
		return NULL;
	for (char *c = plain; *c; c++)
		if (*c == '\'')
			*c = '"';
	struct json_object *value = acp_json_own(plain);
	free(plain);
	return value;
}

/* Adds a member and takes ownership of the value. A NULL value marks the draft as failed. */
static void put(struct draft *draft, struct json_object *object, const char *name, struct json_object *value)
{
	draft->ok = acp_json_add(object, name, value) && draft->ok;
}

/* The same for an array. */
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

static struct json_object *example_error(enum acp_code code)
{
	struct json_object *example =
		from("{'value':{'ok':false,'request_id':'3f6c1a52-8c0e-4f0b-9a6e-2f1d7c5b9e10'}}");
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
		     acp_json_add(value, "usage",
				  from("{'calls_used':100,'calls_limit':100,'calls_remaining':0,"
				       "'tier':'free'}")) &&
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
	struct json_object *response =
		from("{'description':'','headers':{'X-Request-Id':{'$ref':'#/components/headers/X-Request-Id'}},"
		     "'content':{'application/json':{'schema':{'$ref':'" SCHEMAS "Error'},'examples':{}},"
		     "'application/problem+json':{'schema':{'$ref':'" SCHEMAS "Problem'}}}}");
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
		put(draft, examples, acp_code_name((enum acp_code)code), example_error((enum acp_code)code));
	}
	draft->ok = acp_buf_ok(&text) && draft->ok;
	put_string(draft, response, "description", text.ptr ? text.ptr : "");
	if (status == 429 || status == 503 || status == 409)
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

/* One operation: its name, its access rule, its input and its output. The strings are in the notation of from(). */
struct operation {
	const char *path, *method, *id, *tag, *summary;
	const char *security;   /* list of requirements */
	const char *parameters; /* list, or NULL */
	const char *success;    /* status */
	const char *reply;      /* name of the schema of a success; NULL: no body */
	const char *errors;     /* statuses, separated by spaces */
	const char *media;      /* of a success; NULL: application/json */
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
	struct json_object *response = from(
		"{'description':'Success','headers':{'X-Request-Id':{'$ref':'#/components/headers/X-Request-Id'}}}");
	if (op->reply) {
		struct json_object *content = json_object_new_object();
		put(draft, content, media, json_object_new_object());
		put(draft, acp_json_member(content, media), "schema", reference(SCHEMAS, op->reply));
		put(draft, response, "content", content);
	}
	if (strcmp(op->id, "manage") == 0)
		put(draft, acp_json_member(response, "headers"), "Idempotency-Key",
		    from("{'description':'key for repeating a write that came without one',"
			 "'schema':{'type':'string','format':'uuid'}}"));
	if (strcmp(op->success, "303") == 0)
		put(draft, acp_json_member(response, "headers"), "Location",
		    from("{'description':'where the human continues','schema':{'type':'string','format':'uri'}}"));
	return response;
}

/* Bodies whose schema is one of the shapes below, by the operation's name. */
static const struct {
	const char *operation, *schema;
	bool optional;
} bodies[] = {{"upgrade", "CheckoutRequest", true}, {"stripeEvent", "StripeEvent", false}};

static void put_body(struct draft *draft, struct json_object *operation, struct json_object *schema, bool optional)
{
	struct json_object *request = from(optional ? "{'required':false,'content':{'application/json':{}}}"
						    : "{'required':true,'content':{'application/json':{}}}");
	put(draft, member(request, "content", "application/json"), "schema", schema);
	put(draft, operation, "requestBody", request);
}

/* Adds an operation. body is the schema of its request body, taken over; NULL: the one in bodies, if any. */
static void put_operation(struct draft *draft, const struct operation *op, struct json_object *body)
{
	struct json_object *item = acp_json_member(draft->paths, op->path);
	struct json_object *operation = json_object_new_object();
	struct json_object *responses = json_object_new_object();
	if (!item) {
		item = json_object_new_object();
		put(draft, draft->paths, op->path, item);
	}
	put_string(draft, operation, "operationId", op->id);
	put_string(draft, operation, "summary", op->summary);
	struct json_object *tags = json_object_new_array();
	append(draft, tags, json_object_new_string(op->tag));
	put(draft, operation, "tags", tags);
	put(draft, operation, "security", from(op->security));
	if (op->parameters)
		put(draft, operation, "parameters", from(op->parameters));
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
#define KEY "[{'apiKey':[]},{'bearer':[]}]"
#define IDEMPOTENCY "{'$ref':'#/components/parameters/Idempotency-Key'}"

#define MONTH "[{'name':'period','in':'query','description':'UTC month; default: the current one'," \
	"'schema':{'type':'string','pattern':'^[1-9][0-9]{3}-(0[1-9]|1[0-2])$'},'example':'2026-11'}]"

static const struct operation public_operations[] = {
	{"/api/usage", "get", "usage", "agents", "The usage of the key's tenant in a UTC month; costs nothing.", KEY,
	 MONTH,
	 "200", "Usage", "400 401 404 405 500 503", NULL},
	{"/api/billing/invoice", "get", "invoice", "agents",
	 "The invoice of the key's tenant for a UTC month; a preview if the month is not billed yet.", KEY,
	 MONTH, "200", "Invoice", "400 401 404 405 500 503", NULL},
	{"/api/upgrade/checkout", "get", "upgradeLink", "agents",
	 "The signed link for a human: leads to a checkout at Stripe, in which they add a payment method.", "[{}]",
	 "[{'name':'tenant','in':'query','required':true,'schema':{'type':'string','format':'uuid'}},"
	 "{'name':'exp','in':'query','required':true,'schema':{'type':'integer'}},"
	 "{'name':'sig','in':'query','required':true,'schema':{'type':'string'}}]",
	 "303", NULL, "404 405 409 429 500 502 503", NULL},
	{"/api/upgrade/checkout", "post", "upgrade", "agents",
	 "Opens a checkout at Stripe, in which a human adds a payment method, or returns the open one.",
	 KEY, NULL,
	 "200", "CheckoutReply", "400 401 404 405 409 413 415 429 500 502 503", NULL},
	{"/api/webhooks/stripe", "post", "stripeEvent", "operators", "Receives an event from Stripe.", "[{}]",
	 "[{'name':'Stripe-Signature','in':'header','required':true,'description':'t=SECONDS,v1=HEX over the raw body',"
	 "'schema':{'type':'string'}}]",
	 "200", "StripeEventReply", "400 404 405 413 500 503", NULL},
	{"/api/openapi.json", "get", "openapi", "operators", "This document.", "[{}]", NULL,
	 "200", "Document", "405 500", NULL},
	{"/llms.txt", "get", "llms", "agents", "How to use this API, in short, for agents.", "[{}]", NULL,
	 "200", "Text", "405 500", "text/plain"},
	{"/.well-known/api-catalog", "get", "catalog", "agents", "The API catalog (RFC 9727).", "[{}]", NULL,
	 "200", "Catalog", "405 500", "application/linkset+json"},
	{"/console", "get", "console", "operators", "The console: a page for people with an API key.",
	 "[{}]", NULL, "200", "Text", "405 500", "text/html"},
	{"/metrics", "get", "metrics", "operators", "Numbers for Prometheus.", "[{}]", NULL,
	 "200", "Text", "404 405 500", "text/plain"},
	{"/healthz", "get", "alive", "operators", "Does this process answer?", "[{}]", NULL,
	 "200", "Health", "405 500", NULL},
	{"/readyz", "get", "ready", "operators", "Is it ready to serve?", "[{}]", NULL,
	 "200", "Health", "405 500 503", NULL},
};

static const struct operation manage_operation = {
	"/api/manage", "post", "manage", "agents", "The router: one call of an action.", KEY, "[" IDEMPOTENCY "]",
	"200", "CallReply", "400 401 402 403 404 405 409 413 415 422 429 500 502 503", NULL};

static const struct operation onboard_operation = {
	"/api/onboard/{product}", "post", "onboard", "agents", "Registers an agent.", "[{}]",
	"[{'name':'product','in':'path','required':true,'schema':{'type':'string'}}," IDEMPOTENCY "]",
	"201", "OnboardReply", "400 404 405 409 413 415 422 429 500 503", NULL};

/* Schemas of requests and replies that do not depend on what is registered. */
static const struct {
	const char *name, *schema;
} shapes[] = {
	{"Error",
	 "{'type':'object','required':['ok','request_id','error','code'],'properties':{'ok':{'const':false},"
	 "'request_id':{'type':'string','format':'uuid'},'error':{'type':'string','description':'sentence for people'},"
	 "'code':{'type':'string'},'field':{'type':'string',"
	 "'description':'VALIDATION_ERROR: JSON Pointer of the member'},"
	 "'retryable':{'type':'boolean'},'upgrade_url':{'type':'string','format':'uri'},"
	 "'usage':{'$ref':'" SCHEMAS "UsageNumbers'},'resets_at':{'type':'string','format':'date-time'},"
	 "'approval_id':{'type':'string','format':'uuid'},'idempotency_key':{'type':'string',"
	 "'description':'OUTCOME_UNKNOWN: send the same request again with this key'}}}"},
	{"UpgradeRequired",
	 "{'description':'the free calls are used up','allOf':[{'$ref':'" SCHEMAS "Error'},{'type':'object',"
	 "'required':['upgrade_url','usage','resets_at','retryable'],'properties':{'retryable':{'const':false}}}]}"},
	{"Problem",
	 "{'description':'RFC 9457: the members of Error and the standard ones','allOf':[{'$ref':'" SCHEMAS "Error'},"
	 "{'type':'object','required':['type','title','status','detail'],'properties':{'type':{'type':'string',"
	 "'format':'uri'},"
	 "'title':{'type':'string'},'status':{'type':'integer'},'detail':{'type':'string'}}}]}"},
	{"UsageNumbers",
	 "{'type':'object','required':['calls_used','calls_limit','calls_remaining','tier'],'properties':{"
	 "'calls_used':{'type':'integer'},'calls_limit':{'type':'integer'},'calls_remaining':{'type':'integer'},"
	 "'tier':{'type':'string','enum':['free','paid']}}}"},
	{"Impact",
	 "{'type':'object','description':'data of a dry run','required':['creates','updates','deletes',"
	 "'side_effects','risk',"
	 "'warnings'],'properties':{'creates':{'type':'array'},'updates':{'type':'array'},'deletes':{'type':'array'},"
	 "'side_effects':{'type':'array'},'risk':{'type':'string','enum':['low','medium','high']},"
	 "'warnings':{'type':'array'},"
	 "'estimated_cost':{'type':'object','required':['amount','currency'],'properties':{'amount':{'type':'number'},"
	 "'currency':{'type':'string'}}}}}"},
	{"Reply",
	 "{'type':'object','required':['ok','request_id'],'properties':{'ok':{'const':true},"
	 "'request_id':{'type':'string','format':'uuid'}}}"},
	{"CheckoutRequest",
	 "{'type':'object','properties':{'tenant_uuid':{'type':'string','format':'uuid',"
	 "'description':'must be the tenant of the API key'}}}"},
	{"CheckoutReply",
	 "{'type':'object','required':['ok','request_id','checkout_url','expires_at'],"
	 "'properties':{'ok':{'const':true},"
	 "'request_id':{'type':'string','format':'uuid'},'checkout_url':{'type':'string','format':'uri'},"
	 "'expires_at':{'type':'string','format':'date-time'}}}"},
	{"StripeEvent",
	 "{'type':'object','required':['id','type','created'],'properties':{'id':{'type':'string','minLength':1,"
	 "'maxLength':255},'type':{'type':'string','minLength':1,'maxLength':255},'created':{'type':'integer'},"
	 "'livemode':{'type':'boolean'},'data':{'type':'object'}}}"},
	{"StripeEventReply",
	 "{'type':'object','required':['ok','request_id','received','effect'],'properties':{'ok':{'const':true},"
	 "'request_id':{'type':'string','format':'uuid'},'received':{'const':true},'effect':{'type':'string',"
	 "'enum':['applied','duplicate','ignored','mismatch','older','unchanged','unknown_tenant']}}}"},
	{"CallReply",
	 "{'type':'object','required':['ok','request_id','data','dry_run','constraints_applied'],"
	 "'properties':{'ok':{'const':true},"
	 "'request_id':{'type':'string','format':'uuid'},"
	 "'data':{'anyOf':[{'$ref':'" SCHEMAS "Impact'},{'description':'result of the action'}]},"
	 "'dry_run':{'type':'boolean'},'constraints_applied':{'type':'array','items':{'type':'string'}},"
	 "'code':{'const':'IDEMPOTENT_REPLAY'},'warning':{'type':'object','required':['message','upgrade_url','usage'],"
	 "'properties':{'message':{'type':'string'},'upgrade_url':{'type':'string','format':'uri'},"
	 "'usage':{'$ref':'" SCHEMAS "UsageNumbers'}}}},"
	 "'example':{'ok':true,'request_id':'3f6c1a52-8c0e-4f0b-9a6e-2f1d7c5b9e10','data':{'api_version':'v1'},"
	 "'dry_run':false,"
	 "'constraints_applied':['tenant_scoped: 0b9e4c7a-52d1-4c7c-8f38-6d2c9d7c1f11']}}"},
	{"Usage",
	 "{'type':'object','required':['ok','request_id','tenant_id','tier','calls_used','calls_limit',"
	 "'calls_remaining',"
	 "'period_start','period_end','by_action','by_day','cost'],'properties':{'ok':{'const':true},"
	 "'request_id':{'type':'string','format':'uuid'},'tenant_id':{'type':'string','format':'uuid'},"
	 "'tier':{'type':'string','enum':['free','paid']},'calls_used':{'type':'integer'},"
	 "'calls_limit':{'type':['integer','null'],'description':'null: unlimited'},"
	 "'calls_remaining':{'type':['integer','null']},"
	 "'period_start':{'type':'string','format':'date-time'},'period_end':{'type':'string','format':'date-time'},"
	 "'by_action':{'type':'array','items':{'type':'object','required':['action','calls','billing_unit','quantity'],"
	 "'properties':{'action':{'type':'string'},'calls':{'type':'integer'},'billing_unit':{'type':'string',"
	 "'enum':['call','token','row','sec']},'quantity':{'type':'integer'}}}},"
	 "'by_day':{'type':'array','items':{'type':'object','required':['day','calls'],'properties':{"
	 "'day':{'type':'string','format':'date'},'calls':{'type':'integer'}}}},"
	 "'cost':{'type':'object','required':['amount','currency'],'properties':{'amount':{'type':'number'},"
	 "'currency':{'type':'string'}}},"
	 "'scopes':{'type':'array','items':{'type':'string'},'description':'the scopes of the calling key'}}}"},
	{"Invoice",
	 "{'type':'object','required':['ok','request_id','tenant_uuid','period','usage','charges','stripe_invoice_id',"
	 "'status'],'properties':{'ok':{'const':true},'request_id':{'type':'string','format':'uuid'},"
	 "'tenant_uuid':{'type':'string','format':'uuid'},'period':{'type':'string'},"
	 "'usage':{'type':'object','required':['total_calls','successful_calls','failed_calls'],'properties':{"
	 "'total_calls':{'type':'integer'},'successful_calls':{'type':'integer'},'failed_calls':{'type':'integer'}}},"
	 "'charges':{'type':'object','required':['per_call','total_charge','currency','lines'],'properties':{"
	 "'per_call':{'type':'number'},'total_charge':{'type':'number'},'currency':{'type':'string'},"
	 "'amount_due':{'type':'number','description':'0 while it is carried over'},'minimum':{'type':'number'},"
	 "'carried_in':{'type':'number'},'carried_out':{'type':'number'},"
	 "'lines':{'type':'array','items':{'type':'object'}}}},"
	 "'hash':{'type':['string','null'],'description':'SHA-256 of the invoice'},"
	 "'stripe_invoice_id':{'type':['string','null']},"
	 "'status':{'type':'string','enum':['none','open','pending','invoiced','paid','failed','carried']}}}"},
	{"OnboardRequest",
	 "{'type':'object','required':['agent_id','email'],'properties':{"
	 "'agent_id':{'type':'string','pattern':'^[A-Za-z0-9._:-]{1,128}$'},'email':{'type':'string',"
	 "'format':'email','maxLength':254},"
	 "'organization_name':{'type':'string','maxLength':255}},"
	 "'example':{'agent_id':'crm-bot','email':'ops@example.com','organization_name':'Example Ltd'}}"},
	{"OnboardReply",
	 "{'type':'object','required':['ok','request_id','onboarded','tier','api_key','api_key_id','tenant_uuid',"
	 "'free_calls_remaining','instructions','upgrade_info','pricing'],'properties':{'ok':{'const':true},"
	 "'request_id':{'type':'string','format':'uuid'},'onboarded':{'const':true},'tier':{'const':'free'},"
	 "'api_key':{'type':'string','description':'shown only now'},'api_key_id':{'type':'string','format':'uuid'},"
	 "'tenant_uuid':{'type':'string','format':'uuid'},'free_calls_remaining':{'type':'integer'},"
	 "'payments':{'type':'string'},"
	 "'instructions':{'type':'object','required':['setup_steps','example_request','documentation_url'],"
	 "'properties':{"
	 "'setup_steps':{'type':'array','items':{'type':'string'}},"
	 "'example_request':{'type':'object','required':['method','url','headers','body'],'properties':{"
	 "'method':{'type':'string'},'url':{'type':'string','format':'uri'},"
	 "'headers':{'type':'object','additionalProperties':{'type':'string'}},'body':{'type':'object'}}},"
	 "'documentation_url':{'type':'string','format':'uri'}}},"
	 "'upgrade_info':{'type':'object','required':['message','upgrade_url'],"
	 "'properties':{'message':{'type':'string'},"
	 "'upgrade_url':{'type':'string','format':'uri'}}},"
	 "'pricing':{'type':'object','required':['per_call','currency','billing_period'],'properties':{"
	 "'per_call':{'type':'number'},'currency':{'type':'string'},'billing_period':{'type':'string'}}}}}"},
	{"Document", "{'type':'object','required':['openapi','info','paths'],'properties':{'openapi':{'type':'string'},"
	 "'info':{'type':'object'},'paths':{'type':'object'}}}"},
	{"Text", "{'type':'string'}"},
	{"Catalog", "{'type':'object','required':['linkset'],'properties':{'linkset':{'type':'array',"
	 "'items':{'type':'object'}}}}"},
	{"Health",
	 "{'type':'object','required':['ok','request_id','status'],'properties':{'ok':{'const':true},"
	 "'request_id':{'type':'string','format':'uuid'},'status':{'type':'string','enum':['alive','ready']}}}"},
};

static const char component_text[] =
	"{'securitySchemes':{"
	"'apiKey':{'type':'apiKey','in':'header','name':'X-API-Key','description':'API key of a tenant'},"
	"'bearer':{'type':'http','scheme':'bearer','description':'the same API key as a bearer token'}},"
	"'parameters':{'Idempotency-Key':{'name':'Idempotency-Key','in':'header','required':false,"
	"'description':'a call with this key has one effect within 24 hours',"
	"'schema':{'type':'string','minLength':1,'maxLength':255}}},"
	"'headers':{'X-Request-Id':{'description':'request_id of the reply and of the audit row',"
	"'schema':{'type':'string','format':'uuid'}},'Retry-After':{'description':'seconds',"
	"'schema':{'type':'integer'}}}}";
/* clang-format on */

/* Actions ------------------------------------------------------------------------------------------------------ */

/* The parts of an ActionDef that are not schema, under one extension name that validators accept. */
static struct json_object *action_facts(struct draft *draft, struct json_object *def)
{
	static const char *const names[] = {"scope", "supports_dry_run", "billable", "billing_unit"};
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
	struct json_object *schema =
		from("{'type':'object','required':['action'],'additionalProperties':false,'properties':{'action':{},"
		     "'params':{},'idempotency_key':{'type':'string','minLength':1,'maxLength':255},"
		     "'dry_run':{'type':'boolean'}}}");
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
	return schema;
}

/* Call: one of the calls of all actions, told apart by `action`. */
static void put_calls(struct draft *draft)
{
	char name[256];
	char target[320];
	struct json_object *call = from("{'oneOf':[],'discriminator':{'propertyName':'action','mapping':{}},'examples':"
					"[{'action':'meta.version'}]}");
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
	struct json_object *body = from("{'oneOf':[{'$ref':'" SCHEMAS "AuditEvent'},{'type':'array','minItems':1,"
					"'maxItems':1000,'items':{'$ref':'" SCHEMAS "AuditEvent'}}]}");
	put(draft, draft->schemas, "AuditEvent", json_object_get(schema));
	return body;
}

static void put_endpoint(void *arg, const char *name, const char *schema_text, const char *query, const char *summary,
			 int http)
{
	struct draft *draft = arg;
	char path[64], id[64], read_id[72], success[8];
	struct json_object *schema = acp_json_own(schema_text);
	draft->ok = schema && draft->ok;
	snprintf(path, sizeof path, "/functions/v1/%s", name);
	snprintf(id, sizeof id, "hub.%s", name);
	for (char *c = id; *c; c++)
		*c = *c == '/' ? '.' : *c;
	snprintf(read_id, sizeof read_id, "%s.read", id);
	snprintf(success, sizeof success, "%d", http);
	struct operation op = {path,    "post",
			       id,      "kernels",
			       summary, "[{'kernelKey':[]}]",
			       NULL,    success,
			       "Reply", "400 401 402 403 404 405 409 413 415 422 500 503",
			       NULL};
	struct json_object *body = hub_body(draft, name, schema);
	draft->ok = body && draft->ok;
	put_operation(draft, &op, body);
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
	"Acts at a vendor for another kernel; a failed execution is answered with ok: false.",
	"[{'executorKey':[]}]",
	NULL,
	"200",
	"Execution",
	"400 401 404 405 413 415 500 503",
	NULL};

static const char execution_schema[] =
	"{'type':'object','required':['ok','request_id','status','data','result_meta','error_code',"
	"'error_message_redacted'],'properties':{'ok':{'type':'boolean'},'request_id':{'type':'string','format':'uuid'}"
	","
	"'status':{'type':['integer','null'],'description':'HTTP status of the vendor; null: none was received'},"
	"'data':{'type':['object','null']},'result_meta':{'type':'object'},'error_code':{'type':['string','null']},"
	"'error_message_redacted':{'type':['string','null']},"
	"'retry':{'type':'boolean','description':'of a failure: can the same succeed later?'}}}";

static void put_execute(struct draft *draft)
{
	put(draft, draft->schemas, "Execution", from(execution_schema));
	put_operation(draft, &execute_operation, acp_json_own(acp_execute_body_schema));
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
	put_operation(draft, &manage_operation, reference(SCHEMAS, "Call"));
	if (kernel->config->onboarding && kernel->plane->call.onboard)
		put_operation(draft, &onboard_operation, reference(SCHEMAS, "OnboardRequest"));
	for (size_t i = 0; i < ACP_COUNT(public_operations); i++)
		if (offered(kernel, public_operations[i].path))
			put_operation(draft, &public_operations[i], NULL);
	if (kernel->hub)
		acp_hub_each(put_endpoint, draft);
	if (acp_execute_offered(kernel))
		put_execute(draft);
}

static struct json_object *components(struct draft *draft)
{
	struct json_object *all = from(component_text);
	for (size_t i = 0; i < ACP_COUNT(shapes); i++)
		put(draft, draft->schemas, shapes[i].name, from(shapes[i].schema));
	put_codes(draft, acp_json_member(draft->schemas, "Error"));
	put_calls(draft);
	if (draft->kernel->hub)
		put(draft, acp_json_member(all, "securitySchemes"), "kernelKey",
		    from("{'type':'http','scheme':'bearer','description':'key of other kernels; not an API key'}"));
	if (acp_execute_offered(draft->kernel))
		put(draft, acp_json_member(all, "securitySchemes"), "executorKey",
		    from("{'type':'http','scheme':'bearer','description':'key of the executor; not an API key'}"));
	put(draft, all, "responses", error_responses(draft));
	put(draft, all, "schemas", json_object_get(draft->schemas));
	return all;
}

static void put_head(struct draft *draft, struct json_object *document)
{
	char url[1024];
	const struct acp_config *config = draft->kernel->config;
	struct json_object *info = from("{'license':{'name':'MIT','identifier':'MIT'}}");
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
	put(draft, document, "tags",
	    from("[{'name':'agents','description':'for agents'},{'name':'operators','description':'for operators'},"
		 "{'name':'kernels','description':'for other kernels'}]"));
}

struct json_object *acp_openapi(const struct acp_kernel *kernel)
{
	struct draft draft = {kernel, json_object_new_object(), json_object_new_object(), true};
	struct json_object *document = json_object_new_object();
	put_head(&draft, document);
	put_paths(&draft);
	put(&draft, document, "paths", json_object_get(draft.paths));
	put(&draft, document, "components", components(&draft));
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
