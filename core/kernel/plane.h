/* plane.h - the control plane: the functions that the router calls in Repo B. sql/ implements them with PostgreSQL;
 * another host may implement them differently. They are grouped in tables, one per subject. A NULL member turns off its
 * feature.
 *
 * Any number of threads may call a function at once. It gets the self of struct acp_control_plane (or a transaction
 * that the plane made). Codes: ACP_OK; ACP_UNAVAILABLE (the hub is unreachable, nothing was done); ACP_OUTCOME_UNKNOWN
 * from a function that changes something (no answer came: it was done, or may still be); ACP_INTERNAL_ERROR (nothing
 * was done); and the codes that the comment of a member names. An out-parameter is set only with ACP_OK, unless the
 * comment says otherwise. Member names in comments are those of the JSON object; a name with ? may be missing. */
#ifndef ACP_PLANE_H
#define ACP_PLANE_H

#include "acp.h"
#include "apikey.h"
#include "attr.h"
#include "crypto.h"
#include "event.h"
#include "status.h"

#include <json-c/json.h>

enum acp_tier { ACP_TIER_FREE, ACP_TIER_PAID };

/* The authenticated caller. */
struct acp_principal {
	char ts[ACP_TS_LEN]; /* the hub's clock at authentication: the timestamp of this call */
	char tenant_id[ACP_UUID_LEN];
	char api_key_id[ACP_UUID_LEN];
	char key_shown[ACP_KEY_SHOWN + 1];
	char scopes[512]; /* separated by spaces, with a space at both ends: " manage.read manage.domain " */
	enum acp_tier tier;
	bool policed;        /* a policy may apply: call authorize */
	int64_t rate_limit;  /* calls of one action per minute; 0: the setting rate_limit */
	int64_t calls_limit; /* free calls per month; -1: the setting free_calls_limit */
	int64_t past_due_us; /* an invoice is unpaid: from then on (us since 1970) the tier is free; 0: none */
};

/* The answer to "may this call use one unit of the allowance?" */
struct acp_reservation {
	bool allowed;
	bool limited;       /* calls_used and calls_limit are valid (tier free) */
	enum acp_tier tier; /* the current tier; may differ from the tier at authentication */
	int64_t calls_used; /* at least those that are used; may include reservations of running calls */
	int64_t calls_limit;
	char past_due_until
		[32]; /* of a remote hub, RFC 3339: as past_due_us of the principal; "": none, or not known */
};

/* The refusal by a function of the hub: a sentence for the caller, and the invalid member. "" for none. */
struct acp_refusal {
	char message[256];
	char field[256];
};

/* The figures of a tenant's free allowance, wherever they are shown. What is left: limit - used - held. */
struct acp_allowance {
	int64_t used;  /* billable calls of the month that ended with a success */
	int64_t held;  /* places that running calls hold */
	int64_t limit; /* -1: none */
};

struct acp_tx; /* a transaction of the hub; used by one thread */

/* The end of a call. */
struct acp_settlement {
	struct acp_event *event; /* its audit row; settle and record may complete it */
	bool reserved;           /* a call is reserved in the allowance, under the event's id */
	const char *claim;       /* the idempotency key that the call has claimed; NULL: none */
	const char *fingerprint; /* NULL, or the fingerprint of the request: a success then first makes the claim */
	const uint8_t *sealed;   /* a success stores this as the claim's result */
	size_t sealed_len;
	const char *approval; /* record and resolve give this approval back: it is used up, but nothing was done */
	int64_t *calls_held;  /* NULL, or receives acp_allowance.held, of the moment at which calls_used was counted;
			       * set it to 0 before, and keep it until the settlement ends */
	bool changes_access;  /* keys or their rights changed: every process must learn of it before the reply */
	int64_t max_quantity; /* the largest quantity that the handler may have reported in its transaction */
};

/* Receives the result of a call that was settled later. */
typedef void acp_settled(void *arg, enum acp_code code, int64_t calls_used);

/* ACP_CLAIM_FULL: too many bytes of results are kept for the tenant; there is no claim. A replay without a sealed
 * result: it was too large to be kept. */
enum acp_claim_verdict { ACP_CLAIM_RUN, ACP_CLAIM_REPLAY, ACP_CLAIM_CONFLICT, ACP_CLAIM_MISMATCH, ACP_CLAIM_FULL };

struct acp_claim {
	enum acp_claim_verdict verdict;
	uint8_t *sealed; /* replay: the stored result; owned by the caller (free) */
	size_t sealed_len;
};

/* The result of sending audit events to a remote hub. */
enum acp_delivery { ACP_DELIVERED, ACP_NOT_DELIVERED, ACP_DELIVERY_REFUSED };

struct acp_onboarding {
	const char *product;
	const char *agent_id;
	const char *email;
	const char *organization_name; /* NULL: none */
	const char *tenant_id;         /* proposed ids */
	const char *api_key_id;
	const uint8_t *key_hash; /* 32 bytes */
	const char *key_shown;
	const char *scopes;          /* separated by spaces */
	const char *salt;            /* for deriving the key, and for deriving it again on a replay */
	const char *idempotency_key; /* its HMAC in hex */
	const char *fingerprint;     /* hex SHA-256 of the canonical body */
	int64_t per_email;           /* free tenants that may have one e-mail address; 0: any number */
	bool customer;               /* queue the creation of a customer in the outbox, for the executor */
	struct json_object *priced;  /* what the reply shows prices of, as for usage.get_prices */
	struct json_object *event;   /* audit event of a success, written with the tenant; the hub adds result_meta */
};

struct acp_onboarded {
	bool replay;
	char tenant_id[ACP_UUID_LEN];
	char api_key_id[ACP_UUID_LEN];
	char salt[ACP_SHA256_HEX];
	int64_t created_at;          /* seconds since 1970 by the hub's clock */
	struct json_object *pricing; /* reply of usage.get_prices to the question in; owned by the caller */
};

/* A JSON request to the plane. what is borrowed; *reply (owned by the caller) is an object; refusal is filled when the
 * hub refuses. The comment of each member of this type lists the members of both. */
typedef enum acp_code acp_plane_question(void *self, struct json_object *what, struct json_object **reply,
					 struct acp_refusal *refusal);

/* Requests of other kernels (contract 2.2): the endpoints of hub.c below /functions/v1/. */
enum acp_hub_request {
	ACP_HUB_TENANTS_CREATE,
	ACP_HUB_TENANTS_UPDATE,
	ACP_HUB_USAGE,
	ACP_HUB_USAGE_RESERVE,
	ACP_HUB_USAGE_SETTLE,
	ACP_HUB_USAGE_PRICES,
	ACP_HUB_AUDIT_INGEST,
	ACP_HUB_AUDIT_QUERY,
	ACP_HUB_AUTHORIZE,
	ACP_HUB_HEARTBEAT,
	ACP_HUB_POLICY_PROPOSE,
	ACP_HUB_REVOKE,
	ACP_HUB_BILLING_RUN,
	ACP_HUB_BILLING_INVOICE,
	ACP_HUB_REQUESTS
};

/* Calls, from the API key to the settled call. ACP_RATE_LIMITED of authorize, use_approval, claim, begin and read: the
 * tenant's calls hold as much of the database as one tenant may; nothing was done. */
struct acp_plane_call {
	/* Finds the usable key with this hash. ACP_INVALID_API_KEY: no such key (out->ts is set nevertheless). */
	enum acp_code (*authenticate)(void *self, const uint8_t key_hash[ACP_SHA256_LEN], struct acp_principal *out);

	/* Creates a tenant with its first key (contract 2.1, onboarding). ACP_ALREADY_ONBOARDED: agent_id is taken;
	 * ACP_IDEMPOTENCY_MISMATCH: same key, different request. NULL: no onboarding. */
	enum acp_code (*onboard)(void *self, const struct acp_onboarding *in, struct acp_onboarded *out);

	/* Policies (NULL: off). query: tenant_id, api_key_id, actor_type, action, request_hash, fingerprint?, event_id,
	 * dry_run, amount?. decision (owned by the caller): decision_id, decision allow|deny|require_approval, reason?,
	 * policy_id?, policy_version, decision_ttl_ms, approval_id?; fault?: the policy that could not be evaluated,
	 * which then counts as a deny. ACP_UNAVAILABLE: the policies are unreachable. ACP_OUTCOME_UNKNOWN: an approval
	 * may have been requested. */
	enum acp_code (*authorize)(void *self, struct json_object *query, struct json_object **decision);

	/* Uses up the approval of a decision for the call with this event id, in a commit of its own, before the
	 * handler runs: of several calls with one approval, one gets it. Repeating it for the same call changes
	 * nothing. ts: from its principal. ACP_APPROVAL_REQUIRED: another call has it, or it has expired. Only called
	 * with an approval_id from authorize. */
	enum acp_code (*use_approval)(void *self, const char *tenant_id, const char *approval_id, const char *event_id,
				      const char *ts, struct acp_refusal *refusal);

	/* Idempotency of calls (NULL: off). May the call with this event id run under the client's key? The call holds
	 * the claim until it ends, or until the hub's lease for crashed calls expires. */
	enum acp_code (*claim)(void *self, const char *tenant_id, const char *action, const char *key,
			       const char *fingerprint, const char *event_id, struct acp_claim *out);

	/* The call's transaction, for handlers that keep their data in the hub's database. run calls
	 * acp.<function>(tenant, params, ctx), or schema.function(…) if a schema is named. refusal is filled when the
	 * function refuses; the caller owns *data. settle or rollback ends the transaction and frees it. */
	enum acp_code (*begin)(void *self, const char *tenant_id, bool read_only, struct acp_tx **tx);
	enum acp_code (*run)(struct acp_tx *tx, const char *function, const char *tenant_id, struct json_object *params,
			     struct json_object *ctx, struct json_object **data, struct acp_refusal *refusal);
	void (*rollback)(struct acp_tx *tx);

	/* Reads the quantity that the functions of a transaction have reported so far (acp.report()); unchanged if they
	 * reported none. Settle reads it by itself; this is for a dry run, which has no settle. NULL: not supported. */
	enum acp_code (*reported)(struct acp_tx *tx, int64_t *quantity);

	/* The same for a handler that changes nothing, without a transaction to end: the function can only read. result
	 * receives data, and the meta and quantity that the function set with acp.report(). NULL: use begin and run. */
	enum acp_code (*read)(void *self, const char *function, const char *tenant_id, struct json_object *params,
			      struct json_object *ctx, struct acp_result *result, struct acp_refusal *refusal);

	/* Ends a successful call: consumes the reservation, counts usage, stores the claim's result and writes the
	 * event, all committed with tx (NULL: in a new transaction). *calls_used: free calls used, including this one,
	 * or -1 if none was used. ACP_UPGRADE_REQUIRED: the reservation no longer exists (or the check had failed open)
	 * and the allowance is used up. ACP_IDEMPOTENCY_CONFLICT: another call has taken over the claim.
	 * ACP_RATE_LIMITED: the tenant's calls hold as much of the database as one tenant may. In these cases
	 * nothing was done here. So the allowance stays exact and an idempotent call has one effect, whatever happened
	 * before. ACP_INTERNAL_ERROR: among others, the handler reported a quantity below 0 or above max_quantity;
	 * nothing was done. ACP_OUTCOME_UNKNOWN: it was committed, or may still be; call resolve. */
	enum acp_code (*settle)(void *self, struct acp_tx *tx, const struct acp_settlement *end, int64_t *calls_used);

	/* The same without waiting, for a call without a transaction (NULL: not supported). True: settled will be
	 * called once, possibly before this returns, with the result that settle would have returned. The event must
	 * live until then. With ACP_OK, the thread that calls settled also serves other calls, so settled must not
	 * block. False: use settle. */
	bool (*settle_later)(void *self, const struct acp_settlement *end, acp_settled *settled, void *arg);

	/* Ends any other call: writes the event, and releases reservation and claim. */
	enum acp_code (*record)(void *self, const struct acp_settlement *end);

	/* Ends a call whose settle returned an unknown outcome. end: the refusal of the call; its event has the call's
	 * own id. ACP_OK: the call was committed. ACP_UNAVAILABLE: it was not and never will be; its refusal is
	 * recorded as by record. ACP_OUTCOME_UNKNOWN: still unknown; the row will be either the success, or the refusal
	 * with this code, whichever comes first. NULL: settle never returns an unknown outcome. */
	enum acp_code (*resolve)(void *self, const struct acp_settlement *end);
};

/* Usage, the free allowance, prices and ceilings. */
struct acp_plane_usage {
	bool at_settle; /* principals have the current tier and calls_limit, and settle counts a call without a
			   reservation as exactly as one with it, so a call that changes nothing need not reserve */

	/* Returns the usage object (contract 2.1) of a tenant, owned by the caller. period: "YYYY-MM", or NULL for the
	 * current month. If this member is NULL, enforcement is off, including reserve. */
	enum acp_code (*get)(void *self, const char *tenant_id, const char *period, struct json_object **usage);

	/* Reserves one call for the given event id, until settle or record ends it. ts: from its principal. */
	enum acp_code (*reserve)(void *self, const char *tenant_id, const char *event_id, const char *ts,
				 struct acp_reservation *out);

	/* What calls of actions cost a paid tenant now, by the invoice's own rule. what: actions, an array of {action,
	 * unit (the action's; missing: call), quantity (missing: 1)}. reply: currency; prices, an array of {action,
	 * unit (by which the call is charged: call if the action's unit has no price), unit_amount, currency, amount
	 * (of the quantity)}. NULL: no prices. */
	acp_plane_question *get_prices;

	/* Reads the figures of a tenant's allowance in the month of ts (from its principal). NULL: not known. */
	enum acp_code (*get_allowance)(void *self, const char *tenant_id, const char *ts, struct acp_allowance *out);

	/* Counts the objects of a kind ("keys", "webhooks") that a tenant has now. NULL turns ceilings off. */
	enum acp_code (*live_count)(void *self, const char *tenant_id, const char *resource, int64_t *count);
};

/* Invoices, upgrades, the executor's work (Repo C), Stripe's events. */
struct acp_plane_payments {
	/* Returns the invoice (contract 2.1) of a tenant and month, as in usage.get. NULL: no billing. */
	enum acp_code (*get_invoice)(void *self, const char *tenant_id, const char *period,
				     struct json_object **invoice);

	/* The next step of a tenant's upgrade. what: tenant_id. reply: verdict, and the members for that verdict. paid:
	 * nothing to do; customer: obligation, to execute before calling this again; open: checkout_url, expires_at
	 * (RFC 3339) of the existing session; create: attempt, customer, currency? (lower case), idempotency_key,
	 * obliged_at (seconds since 1970) of the session to create. ACP_NOT_FOUND: no active tenant has this id. */
	acp_plane_question *upgrade_begin;

	/* The executor created the session. what: tenant_id, attempt, session_id, url, expires_at (seconds since 1970),
	 * event (audit row). reply: checkout_url, expires_at (RFC 3339). */
	acp_plane_question *upgrade_opened;

	/* The executor did not create the session. what: tenant_id, attempt, event (audit row), unknown? (true: it may
	 * have created it; the next attempt uses the same key). reply: empty. */
	acp_plane_question *upgrade_failed;

	/* Claims at most one obligation that is due, for an attempt that must be reported within lease seconds. what:
	 * lease; tenant_id? and obligation? select a single one, due or not. reply: obligations, an array of
	 * {tenant_id, obligation, action, params, attempts (including this one), obliged_at (seconds since 1970)}.
	 * NULL: no work for the executor. */
	acp_plane_question *obligations_take;

	/* Reports an attempt. what: tenant_id, obligation, attempts, ok, data? (from the executor), error_code?,
	 * error?, retry_after? (seconds; missing after a failure: given up), grace_days. reply: counted, which is false
	 * if another attempt had already taken over the lease. */
	acp_plane_question *obligation_done;

	/* Processes an event with a valid signature; repeated events have no further effect. what: event_id, type,
	 * created (seconds since 1970), livemode, object_id?, client_reference_id?, tenant_uuid? (from its metadata),
	 * customer?, setup_intent?, mode?, status?, invoice?, payment_intent?, charge?, amount? and amount_refunded?
	 * (minor units), default_changed?, default_method?, former_told?, former_default? (of a customer), grace_days,
	 * event (audit row). reply: effect, tenant_id (or null). NULL: events are not accepted. */
	acp_plane_question *stripe_event;
};

/* Webhooks (claim NULL: nothing is sent). */
struct acp_plane_webhooks {
	/* Claims at most max deliveries that are due, for an attempt that must be reported within lease seconds.
	 * Tenants take turns; at most share attempts of one tenant run at a time, over all processes. *list (owned by
	 * the caller): an array of {tenant_id, webhook_id, delivery_id, attempt (the first is 1), ts (seconds since
	 * 1970), url, payload (the text to send), sealed, sealed_before? (hex: webhooks.h)}. */
	enum acp_code (*claim)(void *self, int max, int lease, int share, struct json_object **list);

	/* Reports attempts that have ended; repeating a report is harmless. outcomes (borrowed): an array of
	 * {tenant_id, webhook_id, delivery_id, attempt, delivered, status?, error?, retry_after? (seconds; missing: no
	 * further attempt), pause? (seconds in which nothing is to be sent to this webhook), gone? (disable the
	 * webhook)}. */
	enum acp_code (*report)(void *self, struct json_object *outcomes);
};

/* Other kernels: serving as their hub, and sending to this kernel's own hub. */
struct acp_plane_hub {
	/* Answers another kernel (NULL: off). body: already checked with the schemas of hub.c. ctx: id; for a request
	 * that changes something also event (the audit row, which gets its ts here, even if the success comes late),
	 * fingerprint? and idempotency_key?. *reply (owned by the caller): the members of the answer; refusal is filled
	 * when the hub refuses. Other codes as in contract 2.2 for the endpoint. */
	enum acp_code (*answer)(void *self, enum acp_hub_request request, struct json_object *body,
				struct json_object *ctx, struct json_object **reply, struct acp_refusal *refusal);

	/* Audit events for a remote hub (NULL: no remote hub). The row of an event with `forward` is queued until it is
	 * delivered. forward_take: gets at most `most` of them, as an array that the caller owns, in a transaction that
	 * forward_done ends; an empty array has no transaction. forward_done: with ACP_NOT_DELIVERED the events stay
	 * queued; with ACP_DELIVERY_REFUSED the (single) event is kept for the operator, with the reason, and is not
	 * sent again. */
	enum acp_code (*forward_take)(void *self, int64_t most, struct acp_tx **tx, struct json_object **events);
	enum acp_code (*forward_done)(struct acp_tx *tx, enum acp_delivery delivery, struct json_object *events,
				      const char *reason);
};

/* The operator's view of the console (open NULL: no console). */
struct acp_plane_console {
	/* Exchanges a link for a session, once. what: link, session (hex SHA-256 of their tokens). reply: expires_at
	 * (RFC 3339). ACP_INVALID_API_KEY: the link was already used, or has expired. */
	acp_plane_question *open;

	/* All data that the console shows for a month. what: session (as above), period? ("YYYY-MM"), free_limit.
	 * reply: the body of GET /console/operator/data. ACP_INVALID_API_KEY: the session has ended. */
	acp_plane_question *data;
};

/* The plane's own maintenance, and its state. */
struct acp_plane_upkeep {
	/* Called every second, from one thread of each process. Stores the audit rows that this host kept on its disk
	 * while the hub was unreachable. May be NULL. */
	void (*catch_up)(void *self);

	/* Called from time to time, from one thread of each process. Creates future partitions and deletes expired
	 * data. May be NULL. */
	void (*maintain)(void *self);

	/* The hub's own metrics, all gauges (NULL: none): an array, owned by the caller, of {name, help, samples:
	 * [{labels, value}]}. Must be cheap: it is called every few seconds. */
	enum acp_code (*gauges)(void *self, struct json_object **gauges);

	/* Ready to serve? ACP_OK, or ACP_UNAVAILABLE with one sentence in why (for the operator, without secrets). */
	enum acp_code (*ready)(void *self, char *why, size_t why_size);
};

struct acp_control_plane {
	void *self;
	struct acp_plane_call call;
	struct acp_plane_usage usage;
	struct acp_plane_payments payments;
	struct acp_plane_webhooks webhooks;
	struct acp_plane_hub hub;
	struct acp_plane_console console;
	struct acp_plane_upkeep upkeep;
};

#endif
