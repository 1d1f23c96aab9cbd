/* plane.h - the control plane: what the router asks of Repo B. sql/ answers over PostgreSQL; another host may answer
 * otherwise. A NULL member turns its feature off.
 *
 * Every function may be called from many threads at once. Codes: ACP_OK, ACP_UNAVAILABLE (the hub is away, nothing
 * was done), ACP_INTERNAL_ERROR, and those named at the member. */
#ifndef ACP_PLANE_H
#define ACP_PLANE_H

#include "apikey.h"
#include "attr.h"
#include "crypto.h"
#include "status.h"

#include <json-c/json.h>

#define ACP_NIL_UUID "00000000-0000-0000-0000-000000000000"
#define ACP_TS_LEN 40 /* a timestamp in the hub's own text form, microseconds and zone included */

enum acp_tier { ACP_TIER_FREE, ACP_TIER_PAID };

/* Who calls. */
struct acp_principal {
	char ts[ACP_TS_LEN]; /* the hub's clock at authentication: the one time of this call */
	char tenant_id[ACP_UUID_LEN];
	char api_key_id[ACP_UUID_LEN];
	char key_shown[ACP_KEY_SHOWN + 1];
	char scopes[512]; /* space between them and at both ends: " manage.read manage.domain " */
	enum acp_tier tier;
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
	const char *idempotency_key; /* NULL: none; else its HMAC in hex */
	const char *fingerprint;     /* hex SHA-256 of the canonical body */
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

struct acp_control_plane {
	void *self;

	/* Finds the usable key with this hash. ACP_INVALID_API_KEY: there is none (out->ts is set all the same). */
	enum acp_code (*authenticate)(void *self, const uint8_t key_hash[ACP_SHA256_LEN], struct acp_principal *out);

	/* Usage enforcement; get_usage NULL turns it off, and with it reserve.
	 * get_usage: the usage object (contract 2.1) of a tenant; period "YYYY-MM" or NULL for the current one.
	 * reserve: holds one place for the call whose event id is given, until settle or record ends it. */
	enum acp_code (*get_usage)(void *self, const char *tenant_id, const char *period, struct json_object **usage);
	enum acp_code (*reserve)(void *self, const char *tenant_id, const char *event_id, const char *ts,
				 struct acp_reservation *out);

	/* What so many units of an action cost a paid tenant now: {unit, unit_amount, amount, currency}. */
	enum acp_code (*get_price)(void *self, const char *unit, const char *action, int64_t quantity,
				   struct json_object **price);

	/* The call's transaction, for handlers that keep their data in the hub's database.
	 * run: acp.<function>(tenant, params, ctx); refusal is filled when the function refused.
	 * A transaction ends by settle or rollback, and is gone after either. */
	enum acp_code (*begin)(void *self, bool read_only, struct acp_tx **tx);
	enum acp_code (*run)(struct acp_tx *tx, const char *function, const char *tenant_id, struct json_object *params,
			     struct json_object *ctx, struct json_object **data, struct acp_refusal *refusal);
	void (*rollback)(struct acp_tx *tx);

	/* An event is a JSON object whose members are the columns of audit_logs (core/audit.c makes it).
	 *
	 * Ends a successful call: reservation consumed, usage counted, event written, all committed with tx (NULL: in a
	 * transaction of its own). *calls_used: free calls used, this one included, or -1 where none was used.
	 * ACP_UPGRADE_REQUIRED: no place was held any more (or the check had failed open) and the allowance is used up;
	 * nothing was done. So the allowance stays exact whatever happened before. */
	enum acp_code (*settle)(void *self, struct acp_tx *tx, struct json_object *event, bool reserved,
				int64_t *calls_used);

	/* Ends any other call: the event is written, the reservation (if reserved) given back. */
	enum acp_code (*record)(void *self, struct json_object *event, bool reserved);

	/* Onboarding. ACP_ALREADY_ONBOARDED: agent_id taken; ACP_IDEMPOTENCY_MISMATCH: same key, other request. */
	enum acp_code (*onboard)(void *self, const struct acp_onboarding *in, struct acp_onboarded *out);

	/* Now and then, from one thread of each process: makes partitions ahead, forgets what expired. May be NULL. */
	void (*maintain)(void *self);

	/* Ready to serve? ACP_OK, or ACP_UNAVAILABLE with one sentence in why (for the operator, without secrets). */
	enum acp_code (*ready)(void *self, char *why, size_t why_size);
};

#endif
