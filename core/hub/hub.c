#include "hub.h"

#include "audit.h"
#include "envelope.h"
#include "log.h"
#include "policy.h"
#include "redact.h"
#include "schemas.h"
#include "subkey.h"

#include <arpa/inet.h>

struct hub_call;

/* Checks that a schema cannot express. Reports errors with refuse(). */
typedef enum acp_code hub_check(struct hub_call *call);

struct row {
	const char *name;
	enum acp_hub_request request;
	const char *action; /* for the log, and for the audit row of a change */
	const char *summary;
	const char *schema; /* of the body */
	const char *query;  /* parameters of GET; NULL: POST only */
	hub_check *check;
	int http;
	bool changes;
	size_t body_max; /* 0: max_body_bytes */
};

struct acp_hub_endpoint {
	const struct row *row;
	struct acp_schema *schema;
};

struct hub_call {
	const struct acp_kernel *kernel;
	const struct acp_request *request;
	const struct acp_hub_endpoint *endpoint;
	struct json_object *body;
	enum acp_code code;
	char error[256];
	char field[280];
	const char *idempotency_key; /* of a change: the kernel's, or own_key */
	char own_key[ACP_UUID_LEN];  /* for the case that the outcome is unknown */
	char event_id[ACP_UUID_LEN]; /* id and time of the audit row, also for a success that arrives late */
	char ts[ACP_TS_LEN];
};

static enum acp_code refuse(struct hub_call *call, enum acp_code code, const char *field, const char *format, ...)
	ACP_PRINTF(4, 5);

static enum acp_code refuse(struct hub_call *call, enum acp_code code, const char *field, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(call->error, sizeof call->error, format, args);
	va_end(args);
	snprintf(call->field, sizeof call->field, "%s", field);
	acp_utf8_trim(call->error);
	acp_utf8_trim(call->field);
	return call->code = code;
}

/* Checks ------------------------------------------------------------------------------------------------------- */

/* Is the year of a filter a plausible one? The schema has already checked the format. Times that are stored are
 * compared with the hub's clock, in UTC, where that clock is: in SQL (acp.hub_time). */
static bool time_ok(struct json_object *value)
{
	if (!json_object_is_type(value, json_type_string))
		return true;
	long year = strtol(json_object_get_string(value), NULL, 10);
	return year >= 2000 && year < 2200;
}

static enum acp_code check_times(struct hub_call *call)
{
	static const char *const names[] = {"from", "to"};
	char field[16];
	for (size_t i = 0; i < ACP_COUNT(names); i++) {
		snprintf(field, sizeof field, "/%s", names[i]);
		if (!time_ok(acp_json_member(call->body, names[i])))
			return refuse(call, ACP_VALIDATION_ERROR, field, "%s must be between 2000 and 2199", names[i]);
	}
	return ACP_OK;
}

static enum acp_code check_tenant(struct hub_call *call)
{
	const struct acp_config *config = call->kernel->config;
	char first[128];
	const char *product = acp_json_string(call->body, "product");
	if (product && !acp_word_in_list(config->products, product))
		return refuse(call, ACP_VALIDATION_ERROR, "/product", "product must be one of: %.200s",
			      config->products);
	if (!product) {
		snprintf(first, sizeof first, "%.*s", (int)strcspn(config->products, " "), config->products);
		if (!acp_json_add_string(call->body, "product", first))
			return ACP_INTERNAL_ERROR;
	}
	return ACP_OK;
}

/* A change that was answered under a key is not made again. If the kernel sends no key, the change gets one, which the
 * reply names if the outcome is unknown. */
static enum acp_code choose_idempotency_key(struct hub_call *call)
{
	const char *key = call->request->idempotency_key;
	if (key && (!*key || strlen(key) > 255))
		return refuse(call, ACP_VALIDATION_ERROR, "/idempotency_key",
			      "Idempotency-Key must have 1 to 255 characters");
	acp_uuid(call->own_key);
	call->idempotency_key = key ? key : call->own_key;
	return ACP_OK;
}

/* The key identifies the run: without one, a repeated request would start another run. */
static enum acp_code check_billing(struct hub_call *call)
{
	if (call->request->idempotency_key)
		return ACP_OK;
	return refuse(call, ACP_VALIDATION_ERROR, "/idempotency_key",
		      "send a header Idempotency-Key of 1 to 255 characters: a repeated key returns the same run");
}

static enum acp_code check_revocation(struct hub_call *call)
{
	if (json_object_object_length(call->body) == 1)
		return ACP_OK;
	return refuse(call, ACP_VALIDATION_ERROR, "", "give either api_key_id or tenant_id");
}

/* Checks the policy in the body with the schema of governance.propose_policy. */
static enum acp_code check_proposal(struct hub_call *call)
{
	struct acp_schema_error bad;
	const struct acp_entry *entry = acp_kernel_find(call->kernel, "governance.propose_policy");
	struct json_object *params = json_object_new_object();
	bool added = acp_json_add(params, "policy", json_object_get(acp_json_member(call->body, "policy")));
	bool ok = added && entry && acp_schema_check(entry->schema, params, &bad);
	json_object_put(params);
	if (ok)
		return ACP_OK;
	if (!entry)
		return refuse(call, ACP_NOT_FOUND, "", "this installation accepts no policies");
	if (!added || bad.no_memory)
		return ACP_INTERNAL_ERROR;
	return refuse(call, ACP_VALIDATION_ERROR, bad.pointer, "%s %s", bad.pointer, bad.message);
}

static bool is_address(const char *text)
{
	unsigned char parsed[16];
	return inet_pton(AF_INET, text, parsed) == 1 || inet_pton(AF_INET6, text, parsed) == 1;
}

/* Checks an event against the rules of the audit log's columns that its schema does not express. Returns NULL, or the
 * invalid member with the reason in *why. */
static const char *event_fault(struct json_object *event, const char **why)
{
	struct json_object *actor = acp_json_member(event, "actor");
	const char *status = acp_json_string(event, "status");
	const char *address = acp_json_string(event, "ip_address");
	*why = "must be api_key, user, system or anonymous";
	if (!acp_json_string(actor, "type") && !acp_json_string(event, "actor_type"))
		return "/actor/type";
	*why = "must be an IPv4 or IPv6 address";
	if (address && !is_address(address))
		return "/ip_address";
	*why = "can be true only for a success with a tier that was not a dry run";
	if (acp_json_bool(event, "billable") &&
	    (strcmp(status, "success") != 0 || acp_json_bool(event, "dry_run") || !acp_json_string(event, "tier")))
		return "/billable";
	return NULL;
}

/* Checks one event and makes a redacted copy, regardless of what the sending kernel has redacted.
 * at: "" or the index of the event as a pointer. */
static enum acp_code take_event(struct hub_call *call, struct json_object *event, const char *at,
				struct json_object **out)
{
	char field[280];
	const char *why = NULL;
	struct acp_schema_error bad;
	if (!acp_schema_check(call->endpoint->schema, event, &bad)) {
		if (bad.no_memory)
			return ACP_INTERNAL_ERROR;
		snprintf(field, sizeof field, "%s%s", at, bad.pointer);
		return refuse(call, ACP_VALIDATION_ERROR, field, "%s %s", field, bad.message);
	}
	const char *fault = event_fault(event, &why);
	if (fault) {
		snprintf(field, sizeof field, "%s%s", at, fault);
		return refuse(call, ACP_VALIDATION_ERROR, field, "%s %s", field, why);
	}
	return acp_redact_copy(event, call->kernel->config->api_key_prefix, out) ? ACP_OK : ACP_INTERNAL_ERROR;
}

/* One event or an array of them becomes {"events": […], "many": whether it was an array}. */
static enum acp_code check_events(struct hub_call *call)
{
	bool is_array = json_object_is_type(call->body, json_type_array);
	size_t count = is_array ? json_object_array_length(call->body) : 1;
	struct json_object *body = json_object_new_object();
	struct json_object *events = json_object_new_array();
	enum acp_code code = body && events ? ACP_OK : ACP_INTERNAL_ERROR;
	if (code == ACP_OK && (count < 1 || count > 1000))
		code = refuse(call, ACP_VALIDATION_ERROR, "", "send one event, or an array of 1 to 1000 events");
	for (size_t i = 0; code == ACP_OK && i < count; i++) {
		char at[24] = "";
		struct json_object *event = NULL;
		if (is_array)
			snprintf(at, sizeof at, "/%zu", i);
		code = take_event(call, is_array ? json_object_array_get_idx(call->body, i) : call->body, at, &event);
		if (code == ACP_OK && json_object_array_add(events, event) != 0) {
			json_object_put(event);
			code = ACP_INTERNAL_ERROR;
		}
	}
	bool made =
		acp_json_add(body, "events", events) && acp_json_add(body, "many", json_object_new_boolean(is_array));
	if (!made && code == ACP_OK)
		code = ACP_INTERNAL_ERROR; /* accepted events must not get lost */
	json_object_put(call->body);
	call->body = body;
	return code;
}

/* Endpoints ---------------------------------------------------------------------------------------------------- */

static const struct row rows[] = {
	{"tenants/create", ACP_HUB_TENANTS_CREATE, "hub.tenants.create", "Creates a free tenant without a key.",
	 acp_schema_hub_tenants_create, NULL, check_tenant, 200, true, 0},
	{"tenants/update", ACP_HUB_TENANTS_UPDATE, "hub.tenants.update",
	 "Changes the tier, payment method, status or customer of a tenant.", acp_schema_hub_tenants_update, NULL, NULL,
	 200, true, 0},
	{"usage", ACP_HUB_USAGE, "hub.usage", "The usage of a tenant in a UTC month.", acp_schema_hub_usage,
	 "tenant_id period period_start period_end", NULL, 200, false, 0},
	{"usage/reserve", ACP_HUB_USAGE_RESERVE, "hub.usage.reserve", "Reserves a free call.",
	 acp_schema_hub_usage_reserve, NULL, NULL, 200, false, 0},
	{"usage/settle", ACP_HUB_USAGE_SETTLE, "hub.usage.settle",
	 "Counts a call before it is committed, or releases its reservation.", acp_schema_hub_usage_settle, NULL, NULL,
	 200, false, 0},
	{"usage/prices", ACP_HUB_USAGE_PRICES, "hub.usage.prices", "What calls of actions cost now.",
	 acp_schema_hub_usage_prices, NULL, NULL, 200, false, 0},
	{"audit-ingest", ACP_HUB_AUDIT_INGEST, "hub.audit-ingest",
	 "Stores one audit event or an array of up to 1000, each once.", acp_schema_hub_audit_ingest, NULL,
	 check_events, 202, false, ACP_HUB_BODY_MAX},
	{"audit-query", ACP_HUB_AUDIT_QUERY, "hub.audit-query", "Reads audit events, newest first, page by page.",
	 acp_schema_hub_audit_query, "tenant_id action_prefix status from to limit cursor", check_times, 200, false, 0},
	{"authorize", ACP_HUB_AUTHORIZE, "hub.authorize", "Evaluates the policies for a call.",
	 acp_schema_hub_authorize, NULL, NULL, 200, false, 0},
	{"heartbeat", ACP_HUB_HEARTBEAT, "hub.heartbeat", "Reports that a kernel is alive.", acp_schema_hub_heartbeat,
	 NULL, NULL, 200, false, 16384},
	{"policy-propose", ACP_HUB_POLICY_PROPOSE, "hub.policy-propose", "Proposes a policy for a tenant.",
	 acp_schema_hub_policy_propose, NULL, check_proposal, 200, true, 0},
	{"revoke", ACP_HUB_REVOKE, "hub.revoke", "Revokes a key, or all keys of a tenant.", acp_schema_hub_revoke, NULL,
	 check_revocation, 200, true, 0},
	{"billing/run", ACP_HUB_BILLING_RUN, "hub.billing.run",
	 "Bills a UTC month, each tenant once; requires the header Idempotency-Key.", acp_schema_hub_billing_run, NULL,
	 check_billing, 200, true, 0},
	{"billing/invoice", ACP_HUB_BILLING_INVOICE, "hub.billing.invoice", "The invoice of a tenant and UTC month.",
	 acp_schema_hub_billing_invoice, "tenant_id period", NULL, 200, false, 0},
};

struct acp_hub {
	struct acp_hub_endpoint endpoints[ACP_COUNT(rows)];
};

struct acp_hub *acp_hub_new(char *why, size_t why_size)
{
	struct acp_hub *hub = calloc(1, sizeof *hub);
	for (size_t i = 0; hub && i < ACP_COUNT(rows); i++) {
		struct acp_schema_error bad = {0};
		struct json_object *schema = acp_json_own(rows[i].schema);
		hub->endpoints[i].row = &rows[i];
		hub->endpoints[i].schema = acp_schema_compile(schema, &bad);
		json_object_put(schema);
		if (!hub->endpoints[i].schema) {
			snprintf(why, why_size, "hub endpoint %s: schema%s: %s", rows[i].name, bad.pointer,
				 bad.message);
			acp_hub_free(hub);
			return NULL;
		}
	}
	if (!hub)
		snprintf(why, why_size, "out of memory");
	return hub;
}

void acp_hub_free(struct acp_hub *hub)
{
	for (size_t i = 0; hub && i < ACP_COUNT(rows); i++)
		acp_schema_free(hub->endpoints[i].schema);
	free(hub);
}

bool acp_hub_key_ok(const struct acp_kernel *kernel, const char *bearer)
{
	const struct acp_config *config = kernel->config;
	return kernel->hub && *config->kernel_key && bearer &&
	       acp_same_secret(config->key_pepper, bearer, config->kernel_key);
}

const struct acp_hub_endpoint *acp_hub_find(const struct acp_hub *hub, const char *name)
{
	for (size_t i = 0; i < ACP_COUNT(rows); i++)
		if (strcmp(rows[i].name, name) == 0)
			return &hub->endpoints[i];
	return NULL;
}

const char *acp_hub_query_names(const struct acp_hub_endpoint *endpoint)
{
	return endpoint->row->query;
}

void acp_hub_each(acp_hub_visit *visit, void *arg)
{
	for (size_t i = 0; i < ACP_COUNT(rows); i++)
		visit(arg, rows[i].name, rows[i].schema, rows[i].query, rows[i].summary, rows[i].http);
}

/* One call ----------------------------------------------------------------------------------------------------- */

static enum acp_code read_body(struct hub_call *call)
{
	const struct acp_config *config = call->kernel->config;
	const struct row *row = call->endpoint->row;
	const struct acp_json_limits limits = {
		row->body_max ? row->body_max : (size_t)config->max_body_bytes, (unsigned)config->max_json_depth,
		row->body_max == ACP_HUB_BODY_MAX ? 200000 : (unsigned)config->max_json_tokens};
	return acp_body_parse_within(&limits, call->request, &call->body, call->error, call->field);
}

/* Query parameters are text; convert those that are numbers. */
static enum acp_code read_query(struct hub_call *call, struct json_object *query)
{
	char *end = NULL;
	const char *limit = acp_json_string(query, "limit");
	call->body = query;
	if (!limit)
		return ACP_OK;
	long long number = strtoll(limit, &end, 10);
	if (*end || end == limit)
		return refuse(call, ACP_VALIDATION_ERROR, "/limit", "/limit must be an integer");
	return acp_json_add(query, "limit", json_object_new_int64(number)) ? ACP_OK : ACP_INTERNAL_ERROR;
}

static enum acp_code check_body(struct hub_call *call)
{
	struct acp_schema_error bad;
	const struct row *row = call->endpoint->row;
	if (row->check == check_events) /* its schema describes one event */
		return check_events(call);
	if (!acp_schema_check(call->endpoint->schema, call->body, &bad))
		return bad.no_memory ? ACP_INTERNAL_ERROR
				     : refuse(call, ACP_VALIDATION_ERROR, bad.pointer, "%s %s",
					      *bad.pointer ? bad.pointer : "the body", bad.message);
	enum acp_code code = row->check ? row->check(call) : ACP_OK;
	return code == ACP_OK && row->changes ? choose_idempotency_key(call) : code;
}

/* The audit row of a change that a kernel requested; it belongs to no tenant. */
static bool make_event(const struct hub_call *call, struct acp_event *event)
{
	const char *tenant = acp_json_string(call->body, "tenant_id");
	if (!acp_audit_public_event(call->kernel, call->request, call->endpoint->row->action, call->code, call->error,
				    call->body, event))
		return false;
	event->event_id = call->event_id;
	event->ts = *call->ts ? call->ts : NULL;
	event->actor_type = "system";
	event->result_meta = json_object_new_object();
	return event->result_meta &&
	       (!tenant || !acp_is_uuid(tenant) || acp_json_add_string(event->result_meta, "tenant_id", tenant));
}

static struct json_object *event_json(const struct hub_call *call)
{
	struct acp_event event;
	struct json_object *json = make_event(call, &event) ? acp_event_json(&event) : NULL;
	acp_event_release(&event);
	return json;
}

static struct json_object *make_context(const struct hub_call *call)
{
	char id[ACP_UUID_LEN];
	char fingerprint[ACP_SHA256_HEX];
	struct json_object *ctx = json_object_new_object();
	acp_uuid(id);
	bool ok = ctx && acp_json_add_string(ctx, "id", id);
	if (ok && call->endpoint->row->changes)
		ok = acp_json_add(ctx, "event", event_json(call));
	if (ok && call->idempotency_key)
		ok = acp_json_hash(call->body, fingerprint) && acp_json_add_string(ctx, "fingerprint", fingerprint) &&
		     acp_json_add_string(ctx, "idempotency_key", call->idempotency_key);
	if (ok)
		return ctx;
	json_object_put(ctx);
	return NULL;
}

static enum acp_code run(struct hub_call *call, struct json_object **data)
{
	struct acp_refusal refusal = {0};
	const struct acp_control_plane *plane = call->kernel->plane;
	struct json_object *ctx = make_context(call);
	if (!ctx)
		return ACP_INTERNAL_ERROR;
	enum acp_code code =
		plane->hub.answer(plane->self, call->endpoint->row->request, call->body, ctx, data, &refusal);
	const char *ts = acp_json_string(acp_json_member(ctx, "event"), "ts");
	snprintf(call->ts, sizeof call->ts, "%s", ts ? ts : "");
	json_object_put(ctx);
	acp_policy_note(*data);
	/* Some of these functions also serve action handlers, for which fields begin with /params. Here the body has no
	 * params. */
	const char *field = strncmp(refusal.field, "/params/", 8) == 0 ? refusal.field + 7 : refusal.field;
	if (code != ACP_OK)
		refuse(call, code, field, "%s", refusal.message);
	return code;
}

/* A refused change is audited too; a successful one was recorded together with its effect. */
static void record_refusal(struct hub_call *call)
{
	const struct acp_control_plane *plane = call->kernel->plane;
	struct acp_event event;
	const struct acp_settlement end = {.event = &event};
	if (!make_event(call, &event) || plane->call.record(plane->self, &end) != ACP_OK) {
		acp_log(ACP_LOG_ERROR, "request %s: the audit row of a refused %s could not be written",
			call->request->request_id, call->endpoint->row->action);
		if (call->code != ACP_OUTCOME_UNKNOWN)
			refuse(call, ACP_UNAVAILABLE, "", "%s", acp_code_sentence(ACP_UNAVAILABLE));
	}
	acp_event_release(&event);
}

static struct json_object *success_body(const struct hub_call *call, struct json_object *data)
{
	struct json_object *body = json_object_new_object();
	bool ok = body && acp_json_add(body, "ok", json_object_new_boolean(true)) &&
		  acp_json_add_string(body, "request_id", call->request->request_id);
	json_object_object_foreach(data, name, value) ok =
		ok && (value ? acp_json_add(body, name, json_object_get(value)) : acp_json_add_null(body, name));
	if (ok)
		return body;
	json_object_put(body);
	return NULL;
}

/* A reply about an unknown outcome names the key under which the request can be repeated. NULL: out of memory. */
static struct json_object *refusal_body(const struct hub_call *call)
{
	struct json_object *body = acp_error_body(call->code, call->request->request_id, call->error, call->field);
	if (body && call->code == ACP_OUTCOME_UNKNOWN && call->idempotency_key)
		acp_json_add_string(body, "idempotency_key", call->idempotency_key);
	return body;
}

void acp_hub_call(const struct acp_kernel *kernel, const struct acp_hub_endpoint *endpoint,
		  const struct acp_request *request, struct json_object *query, struct acp_reply *reply)
{
	struct hub_call call = {.kernel = kernel, .request = request, .endpoint = endpoint};
	struct json_object *data = NULL;
	acp_uuid(call.event_id);
	call.code = query ? read_query(&call, query) : read_body(&call);
	if (call.code == ACP_OK)
		call.code = check_body(&call);
	if (call.code == ACP_OK)
		call.code = run(&call, &data);
	if (call.code != ACP_OK && endpoint->row->changes)
		record_refusal(&call);
	*reply = (struct acp_reply){.code = call.code, .action = endpoint->row->action};
	reply->http = call.code == ACP_OK ? endpoint->row->http : acp_code_http(call.code);
	reply->body = call.code == ACP_OK ? success_body(&call, data) : refusal_body(&call);
	reply->retry_after = acp_code_retry_after(call.code);
	const char *tenant = acp_json_string(call.body, "tenant_id");
	if (tenant && acp_is_uuid(tenant))
		snprintf(reply->tenant_id, sizeof reply->tenant_id, "%s", tenant);
	json_object_put(data);
	json_object_put(call.body);
}
