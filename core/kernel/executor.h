/* executor.h - the executor: Repo C, which holds vendor keys and acts on the outside world (contract 2.3). It is built
 * in (executor_stripe.h) or remote (executor_remote.h). A kernel without one accepts no payments. */
#ifndef ACP_EXECUTOR_H
#define ACP_EXECUTOR_H

#include "acp.h"

/* One action to execute for a tenant. Strings and params belong to the caller. */
struct acp_execution {
	const char *tenant_id;      /* UUID; ACP_NIL_UUID: no tenant */
	const char *action;         /* "<integration>.<resource>.<verb>", for example "stripe.customers.create" */
	struct json_object *params; /* object, as the action's schema requires */
	/* At most 255 characters. Repeating under the same key has no further effect. NULL: a read. */
	const char *idempotency_key;
	int64_t obliged_at; /* seconds since 1970: start of the obligation; 0: now. After 23 h the vendor is searched
			       before the action is repeated (vendors forget keys after 24 h) */
	bool lookup;        /* our records do not prove that this was never done before (a restored backup may lack
			       the row that proves it): search the vendor before creating a customer */
	const char
		*email; /* the tenant may have another customer at the vendor, under this address; NULL: it has not */
	const char *kernel_id;  /* of the installation that asks, for metadata at the vendor. NULL: unknown. A local
				   executor uses its own */
	const char *request_id; /* of the call or run that caused it, for tracing; NULL: none */
	int timeout_ms;         /* for everything, retries included */
};

/* The outcome of an execution. */
struct acp_executed {
	bool ok;
	bool retry;               /* not ok: the same execution may succeed later (unreachable, busy, unknown) */
	int status;               /* HTTP status of the vendor; 0: none was received */
	struct json_object *data; /* of a success; owned by the caller (acp_executed_release) */
	struct json_object *meta; /* for the audit row: resource_type, resource_id, …; may be NULL; owned too */
	char error_code[64];      /* of a failure: the vendor's code, or VALIDATION_ERROR, UNAVAILABLE, … */
	char error[256];          /* of a failure: one sentence without secrets */
};

struct acp_executor {
	void *self;
	/* May be called from many threads at once. Fills *out in every case. */
	void (*execute)(void *self, const struct acp_execution *what, struct acp_executed *out);
};

/* Releases data and meta. */
void acp_executed_release(struct acp_executed *executed);

/* Fails an execution; returns false. The sentence is redacted. */
bool acp_executed_fail(struct acp_executed *out, const char *code, bool retry, const char *format, ...)
	ACP_PRINTF(4, 5);

#endif
