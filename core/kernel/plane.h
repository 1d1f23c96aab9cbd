/* plane.h - the control plane: the functions by which the router asks Repo B. sql/ answers over PostgreSQL; another
 * host may answer otherwise. They stand in tables, one for each subject. A NULL member turns its feature off.
 *
 * Every function may be called from many threads at once, and gets the self of struct acp_control_plane (or a
 * transaction that it made). Codes: ACP_OK, ACP_UNAVAILABLE (the hub is away, nothing was done), ACP_OUTCOME_UNKNOWN
 * from a function that changes something (it was done, or may still be, and no answer came), ACP_INTERNAL_ERROR
 * (nothing was done), and those named at the member. An out-parameter is set with ACP_OK only, unless the member says
 * otherwise. Members named in comments are those of the JSON object; one with ? may be missing. */
#ifndef ACP_PLANE_H
#define ACP_PLANE_H

#include "acp.h"
#include "apikey.h"
#include "attr.h"
#include "crypto.h"
#include "event.h"
#include "status.h"

#include <json-c/json.h>

#define ACP_NIL_UUID "00000000-0000-0000-0000-000000000000"

enum acp_tier { ACP_TIER_FREE, ACP_TIER_PAID };

/* Who calls. */
struct acp_principal {
	char ts[ACP_TS_LEN]; /* the hub's clock at authentication: the one time of this call */
	char tenant_id[ACP_UUID_LEN];
	char api_key_id[ACP_UUID_LEN];
	char key_shown[ACP_KEY_SHOWN + 1];
	char scopes[512]; /* space between them and at both ends: " manage.read manage.domain " */
	enum acp_tier tier;
	bool policed;        /* a policy may apply: ask authorize */
	int64_t rate_limit;  /* calls of one action a minute; 0: the setting rate_limit */
	int64_t calls_limit; /* free calls a month; -1: the setting free_calls_limit */
};

/* The answer to "may this call use one unit of the allowance?" */
struct acp_reservation {
	bool allowed;
	bool limited;       /* calls_used and calls_limit mean something (tier free) */
	enum acp_tier tier; /* as of now: may differ from the one at authentication */
	int64_t calls_used; /* places held by running calls included */
	int64_t calls_limit;
};

/* Why a function of the hub refused: a sentence for the caller and the member at fault; "" where there is none. */
struct acp_refusal {
	char message[256];
	char field[256];
};

struct acp_tx; /* a transaction of the hub; used by one thread */

/* What ends a call. */
struct acp_settlement {
	struct acp_event *event; /* its row; settle and record may complete it */
	bool reserved;           /* a place in the allowance is held under the event's id */
	const char *claim;       /* the idempotency key whose claim the call holds; NULL: none */
	const char *fingerprint; /* NULL, or: claim is not held yet, a success takes it for a request with this one */
	const uint8_t *sealed;   /* a success stores this as the claim's result */
	size_t sealed_len;
	const char *approval; /* a success uses this approval up; NULL: none */
	bool changes_access; /* the call changed keys or what they may do: known in every process when it is answered */
};

/* How a call ended that was settled later. */
typedef void acp_settled(void *arg, enum acp_code code, int64_t calls_used);

enum acp_claim_verdict { ACP_CLAIM_RUN, ACP_CLAIM_REPLAY, ACP_CLAIM_CONFLICT, ACP_CLAIM_MISMATCH };

struct acp_claim {
	enum acp_claim_verdict verdict;
	uint8_t *sealed; /* replay: the stored result; owned by the caller (free) */
	size_t sealed_len;
};

/* What became of audit events on their way to a remote hub. */
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
	const char *salt;            /* what the key was derived with, to derive it again on a replay */
	const char *idempotency_key; /* its HMAC in hex */
	const char *fingerprint;     /* hex SHA-256 of the canonical body */
	bool customer;               /* the executor shall make a customer of it: put that in the outbox */
	struct json_object *event;   /* audit event of a success, written with the tenant; the hub adds result_meta */
};

struct acp_onboarded {
	bool replay;
	char tenant_id[ACP_UUID_LEN];
	char api_key_id[ACP_UUID_LEN];
	char salt[ACP_SHA256_HEX];
	int64_t created_at;          /* seconds since 1970 by the hub's clock */
	struct json_object *pricing; /* as from get_price; owned by the caller */
};

/* A question in JSON. what is borrowed; *reply (owned by the caller) is an object; refusal is filled when the hub
 * refused. Each member that has this type names the members of both. */
typedef enum acp_code acp_plane_question(void *self, struct json_object *what, struct json_object **reply,
					 struct acp_refusal *refusal);

/* Requests of other kernels (contract 2.2): the endpoints of hub.c below /functions/v1/. */
enum acp_hub_request {
	ACP_HUB_TENANTS_CREATE,
	ACP_HUB_TENANTS_UPDATE,
	ACP_HUB_USAGE,
	ACP_HUB_USAGE_RESERVE,
	ACP_HUB_USAGE_SETTLE,
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

/* Callers and their calls, from the key to the settled call. */
struct acp_plane_call {
	/* Finds the usable key with this hash. ACP_INVALID_API_KEY: there is none (out->ts is set all the same). */
	enum acp_code (*authenticate)(void *self, const uint8_t key_hash[ACP_SHA256_LEN], struct acp_principal *out);

	/* Creates a tenant with its first key (contract 2.1, onboarding). ACP_ALREADY_ONBOARDED: agent_id taken;
	 * ACP_IDEMPOTENCY_MISMATCH: same key, other request. NULL: nobody can onboard here. */
	enum acp_code (*onboard)(void *self, const struct acp_onboarding *in, struct acp_onboarded *out);

	/* Policies (NULL: off). query: tenant_id, api_key_id, actor_type, action, request_hash, fingerprint?,
	 * event_id, dry_run, amount?. decision (owned by the caller): decision_id, decision
	 * allow|deny|require_approval, reason?, policy_id?, policy_version, decision_ttl_ms, approval_id?; fault?: the
	 * policy that cannot be evaluated, which then is a deny. ACP_UNAVAILABLE: there was nobody to ask.
	 * ACP_OUTCOME_UNKNOWN: an approval may have been asked for. */
	enum acp_code (*authorize)(void *self, struct json_object *query, struct json_object **decision);

	/* Idempotency of calls (NULL: off). May the call with this event id run under the client's key? The claim
	 * is its own until it ends, or until the hub's lease for crashed calls passes. */
	enum acp_code (*claim)(void *self, const char *tenant_id, const char *action, const char *key,
			       const char *fingerprint, const char *event_id, struct acp_claim *out);

	/* The call's transaction, for handlers that keep their data in the hub's database. run:
	 * acp.<function>(tenant, params, ctx), or schema.function(…) where a schema is named; refusal is filled
	 * when the function refused; *data is owned by the caller. A transaction ends by settle or rollback, and is
	 * gone after either. */
	enum acp_code (*begin)(void *self, bool read_only, struct acp_tx **tx);
	enum acp_code (*run)(struct acp_tx *tx, const char *function, const char *tenant_id, struct json_object *params,
			     struct json_object *ctx, struct json_object **data, struct acp_refusal *refusal);
	void (*rollback)(struct acp_tx *tx);

	/* The same for a handler that changes nothing, without a transaction to end: the function can only read.
	 * result gets data, and the meta and quantity that it reported of itself with acp.report(). NULL: begin and
	 * run do it. */
	enum acp_code (*read)(void *self, const char *function, const char *tenant_id, struct json_object *params,
			      struct json_object *ctx, struct acp_result *result, struct acp_refusal *refusal);

	/* Ends a successful call: reservation consumed, usage counted, claim's result stored, event written, all
	 * committed with tx (NULL: in a transaction of its own). *calls_used: free calls used, this one included,
	 * or -1 where none was used. ACP_UPGRADE_REQUIRED: no place was held any more (or the check had failed
	 * open) and the allowance is used up; ACP_IDEMPOTENCY_CONFLICT: the claim had gone to another call. Then
	 * nothing was done: so the allowance stays exact, and an idempotent call has one effect, whatever happened
	 * before. ACP_OUTCOME_UNKNOWN: it was committed, or may still be; ask resolve. */
	enum acp_code (*settle)(void *self, struct acp_tx *tx, const struct acp_settlement *end, int64_t *calls_used);

	/* The same without waiting, for a call without a transaction (NULL: there is no such way). True: settled is
	 * called, once, with what settle would have returned; the event lives until then. It may be called before this
	 * returns. With ACP_OK it is called by a thread that others wait for, and must not block. False: settle does
	 * it. */
	bool (*settle_later)(void *self, const struct acp_settlement *end, acp_settled *settled, void *arg);

	/* Ends any other call: the event is written, reservation and claim are released. */
	enum acp_code (*record)(void *self, const struct acp_settlement *end);

	/* Ends a call that settle left unknown. end: its refusal, whose event has the call's own id. ACP_OK: it was
	 * committed. ACP_UNAVAILABLE: it was not and never will be; its refusal is recorded as by record.
	 * ACP_OUTCOME_UNKNOWN: that cannot be known in time; its row will be the success, or the refusal with this
	 * code, whichever comes first. NULL: settle leaves nothing unknown. */
	enum acp_code (*resolve)(void *self, const struct acp_settlement *end);
};

/* Usage, the free allowance, prices and ceilings. */
struct acp_plane_usage {
	bool at_settle; /* principals carry tier and calls_limit as they are now, and settle counts a call that
			   holds no place as exactly as one that does: a call that changes nothing need not reserve */

	/* The usage object (contract 2.1) of a tenant, owned by the caller; period "YYYY-MM" or NULL for the current
	 * month. NULL turns enforcement off, and with it reserve. */
	enum acp_code (*get)(void *self, const char *tenant_id, const char *period, struct json_object **usage);

	/* Holds one place for the call whose event id is given, until settle or record ends it. ts: its principal's. */
	enum acp_code (*reserve)(void *self, const char *tenant_id, const char *event_id, const char *ts,
				 struct acp_reservation *out);

	/* The cost of so many units of an action for a paid tenant now, owned by the caller: {unit, unit_amount,
	 * amount, currency}. */
	enum acp_code (*get_price)(void *self, const char *unit, const char *action, int64_t quantity,
				   struct json_object **price);

	/* How many of a kind ("keys", "webhooks") a tenant has now; NULL turns ceilings off. */
	enum acp_code (*live_count)(void *self, const char *tenant_id, const char *resource, int64_t *count);
};

/* Invoices, upgrades, the work of the executor (Repo C), Stripe's events. */
struct acp_plane_payments {
	/* The invoice (contract 2.1) of a tenant and month, as usage.get; NULL: nothing is billed here. */
	enum acp_code (*get_invoice)(void *self, const char *tenant_id, const char *period,
				     struct json_object **invoice);

	/* The next step of a tenant's upgrade. what: tenant_id. reply: verdict, and for it:
	 * paid: nothing is to be done; customer: obligation, to be executed before asking again; open: checkout_url,
	 * expires_at (RFC 3339) of the session that is there; create: attempt, customer, idempotency_key, obliged_at
	 * (seconds since 1970) of the session to create. ACP_NOT_FOUND: no active tenant has this id. */
	acp_plane_question *upgrade_begin;

	/* The executor created the session. what: tenant_id, attempt, session_id, url, expires_at (seconds since 1970),
	 * event (audit row). reply: checkout_url, expires_at (RFC 3339). */
	acp_plane_question *upgrade_opened;

	/* The executor did not create it. what: tenant_id, attempt, event (audit row), unknown? (true: perhaps it did,
	 * and the next one asks under the same key). reply: empty. */
	acp_plane_question *upgrade_failed;

	/* Claims at most one obligation that is due, for an attempt that is to be reported within lease seconds. what:
	 * lease, and tenant_id? with obligation?: that one, due or not. reply: obligations, an array of {tenant_id,
	 * obligation, action, params, attempts (this one included), obliged_at (seconds since 1970)}. NULL: the
	 * executor has no work here. */
	acp_plane_question *obligations_take;

	/* Reports an attempt. what: tenant_id, obligation, attempts, ok, data? (of the executor), error_code?, error?,
	 * retry_after? (seconds; missing where it failed: given up). reply: counted, false for an attempt whose lease
	 * had gone to another. */
	acp_plane_question *obligation_done;

	/* Takes an event whose signature was good; once in effect, however often it comes. what: event_id, type,
	 * created (seconds since 1970), livemode, object_id?, client_reference_id?, tenant_uuid? (of its metadata),
	 * customer?, setup_intent?, mode?, status?, event (audit row). reply: effect, tenant_id (or null). NULL: no
	 * events are taken. */
	acp_plane_question *stripe_event;
};

/* Webhooks (claim NULL: nothing is sent). */
struct acp_plane_webhooks {
	/* Claims at most max deliveries that are due, for an attempt that is to be reported within lease seconds.
	 * *list (owned by the caller): an array of {tenant_id, webhook_id, delivery_id, attempt (1 is the first), ts
	 * (seconds since 1970), url, payload (the text to send), sealed, sealed_before? (hex: webhooks.h)}. */
	enum acp_code (*claim)(void *self, int max, int lease, struct json_object **list);

	/* Ends the attempt. outcome (borrowed): tenant_id, webhook_id, delivery_id, attempt, delivered, status?,
	 * error?, retry_after? (seconds; missing: this was the last), gone? (disable the webhook), silent? (no answer
	 * in time). */
	enum acp_code (*report)(void *self, struct json_object *outcome);
};

/* Other kernels: this one as their hub, and the way to this one's hub. */
struct acp_plane_hub {
	/* Answers another kernel (NULL: off). body: checked by the schemas of hub.c. ctx: id, and for a request
	 * that changes something event (audit row, which is given its ts, under which a success may come late),
	 * fingerprint? and idempotency_key?. *reply (owned by the caller): the members of the answer; refusal is
	 * filled when the hub refused. Other codes as contract 2.2 says for the endpoint. */
	enum acp_code (*answer)(void *self, enum acp_hub_request request, struct json_object *body,
				struct json_object *ctx, struct json_object **reply, struct acp_refusal *refusal);

	/* Audit events for a remote hub (NULL: there is no way there). The row of an event with `forward` waits until
	 * it is delivered. forward_take: at most so many, as an array that the caller owns, in a transaction that
	 * forward_done ends; an empty array comes without one. forward_done: not delivered: they wait on; refused:
	 * events (one) is stored apart with the reason. */
	enum acp_code (*forward_take)(void *self, int64_t most, struct acp_tx **tx, struct json_object **events);
	enum acp_code (*forward_done)(struct acp_tx *tx, enum acp_delivery delivery, struct json_object *events,
				      const char *reason);
};

/* The operator's view of the console (open NULL: there is none). */
struct acp_plane_console {
	/* Exchanges a link for a session, once. what: link, session (hex SHA-256 of their tokens). reply: expires_at
	 * (RFC 3339). ACP_INVALID_API_KEY: the link was used already, or has expired. */
	acp_plane_question *open;

	/* All that the console shows of a month. what: session (as above), period? ("YYYY-MM"), free_limit. reply: the
	 * body of GET /console/operator/data. ACP_INVALID_API_KEY: the session has ended. */
	acp_plane_question *data;
};

/* The plane's own upkeep, and its state. */
struct acp_plane_upkeep {
	/* Every second, from one thread of each process: brings what was kept on this host's disk, while the hub was
	 * away, to its place. May be NULL. */
	void (*catch_up)(void *self);

	/* Now and then, from one thread of each process: makes partitions ahead, deletes what expired. May be NULL. */
	void (*maintain)(void *self);

	/* What the hub knows of itself for people who watch it (NULL: nothing), all gauges: an array, owned by the
	 * caller, of {name, help, samples: [{labels, value}]}. Cheap: it is asked every few seconds. */
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
