/* acp.h - the header for pack authors: the definition of an action, and the input and output of its handler.
 *
 * An action is one row of a table in core/packs/<pack>.c. Everything that the router checks before the handler runs
 * (scope, schema, dry run, billing) is data in that row, so handlers need not check it again. */
#ifndef ACP_ACP_H
#define ACP_ACP_H

#include "attr.h"
#include "json.h"
#include "status.h"

struct acp_call;
struct acp_upstream;

/* The largest billing quantity of one call, of any action and of any kernel: acp.quantity_max() in SQL. Sums of
 * quantities have no limit. */
#define ACP_QUANTITY_MAX INT64_C(1000000000000)

/* The largest quantity of an action that names none, and whose billing_unit is neither NULL nor "call". */
#define ACP_QUANTITY_DEFAULT INT64_C(1000000)

/* The output of a handler. */
struct acp_result {
	struct json_object *data; /* the reply's `data`; owned by the result; NULL is null */
	struct json_object
		*meta;    /* for result_meta of the audit row: resource_type, resource_id, count, …; may stay NULL */
	int64_t quantity; /* billing units; starts at 1. A call that reports less than 0, or more than its action's
			   * maximum, fails */
};

/* Runs one call. params has passed the action's schema. In a dry run the handler must change nothing, and must return
 * the impact object (acp_impact) as data. Returns ACP_OK, or the code that acp_call_fail set. On failure, its changes
 * through the store are rolled back. */
typedef enum acp_code acp_handler(struct acp_call *call, struct json_object *params, struct acp_result *result);

/* ActionDef (contract section 3). All strings must live as long as the kernel in which the action is registered. */
struct acp_action {
	const char *name;          /* "domain.leadscoring.models.create" */
	const char *scope;         /* "manage.domain" */
	const char *description;   /* one sentence for agents */
	const char *params_schema; /* JSON Schema text of params; compiled when the program starts */
	acp_handler *run;
	const char *sql_function; /* for acp_run_sql: a function (tenant uuid, params jsonb, ctx jsonb) returns jsonb */
	const struct acp_upstream *upstream; /* for acp_run_http (action_http.h) */
	bool writes;                         /* changes something: policies apply, and fail closed */
	bool changes_access;                 /* changes keys or their rights */
	bool supports_dry_run;
	bool billable;
	int concurrency;     /* calls that may wait for its upstream at a time on a host; 0: half of upstream_calls */
	int rate_limit;      /* calls per minute and key, if lower than usual; 0: the usual limit */
	const char *ceiling; /* the kind of object it creates, if that kind has a ceiling (ceilings.def); NULL: none */
	const char *billing_unit; /* NULL, "call", "token", "row" or "sec" */
	int64_t max_quantity; /* largest quantity of one call, 1 to ACP_QUANTITY_MAX; 0: acp_action_max_quantity() */
};

/* The largest quantity of one call of an action: max_quantity, or by default 1 for an action billed by the call, else
 * ACP_QUANTITY_DEFAULT. */
int64_t acp_action_max_quantity(const struct acp_action *action);

/* A pack: a name, and its actions, terminated by a row without a name. */
struct acp_pack {
	const char *name;
	const struct acp_action *actions;
};

/* The handler of actions that call one SQL function: acp.<sql_function>, or schema.name for a function of the
 * operator. */
acp_handler acp_run_sql;

/* The handler of actions that call an HTTP server of the operator. No transaction is open while it waits. */
acp_handler acp_run_http;

/* Calls acp.<function>(tenant, params, ctx), or <schema>.<function>(…) if a schema is named, in the call's transaction.
 * The first such call begins the transaction. On ACP_OK *data is its result, owned by the caller. When SQL refuses with
 * acp.fail(), returns that code. */
enum acp_code acp_call_sql(struct acp_call *call, const char *function, struct json_object *params,
			   struct json_object **data) ACP_MUSTCHECK;

/* Refuses the call with a code, the JSON Pointer to the invalid member (NULL: none) and a sentence for the caller that
 * says what failed and with which value. Returns code, so that a handler can `return acp_call_fail(…)`. */
enum acp_code acp_call_fail(struct acp_call *call, enum acp_code code, const char *field, const char *format, ...)
	ACP_PRINTF(4, 5);

int64_t acp_call_rate_limit(const struct acp_call *call); /* calls per minute: usual, or the key's if that is higher */
bool acp_call_has_scope(const struct acp_call *call, const char *scope); /* does the calling key have it? */
bool acp_call_dry_run(const struct acp_call *call);
const char *acp_call_tenant(const struct acp_call *call); /* UUID text */
const struct acp_kernel *acp_call_kernel(const struct acp_call *call);

/* Makes an impact object with empty creates, updates, deletes, side_effects and warnings. risk: low, medium or high.
 * NULL: out of memory. */
struct json_object *acp_impact(const char *risk);

#endif
