/* call.h - the state of one call on its way through the pipeline. Private to core/. */
#ifndef ACP_CALL_H
#define ACP_CALL_H

#include "audit.h"
#include "pipeline.h"

struct acp_call {
	const struct acp_kernel *kernel;
	const struct acp_request *request;

	/* envelope */
	struct json_object *envelope; /* owned: the whole document, or NULL when it was not readable */
	const char *action_name;      /* the next four borrow from envelope and request */
	struct json_object *params;
	const char *idempotency_key; /* the client's; NULL: none */
	bool dry_run;
	struct json_object *no_params; /* owned: stands in for params that were left out */

	/* what the stages found */
	bool authenticated;
	struct acp_principal principal;
	const struct acp_entry *entry;
	struct acp_reservation reservation;
	bool reserved;                    /* a place is held and must be settled or given back */
	bool usage_check_failed;          /* fail-open: the call went on without the check */
	struct acp_rate rate;             /* as counted; window 0: not limited */
	uint64_t rate_taken_us;           /* when */
	bool claimed;                     /* the idempotency key is ours until the call ends */
	char own_key[ACP_UUID_LEN];       /* under which a write without a key is stored; "" = it is not */
	char fingerprint[ACP_SHA256_HEX]; /* for own_key */
	struct json_object *decision;     /* of the policy engine; owned; NULL: it was not asked */
	const char *approval;             /* in decision: what this call uses up when it succeeds */
	bool policy_check_failed;         /* a read went on without a decision */
	bool acted;                       /* an upstream was sent the call: what it did cannot be taken back */
	struct acp_tx *tx;                /* open transaction of the handler, or NULL */
	struct acp_result result;

	/* its end */
	struct acp_event event;
	struct acp_settlement end;
	struct acp_buf sealed;    /* the result, where it is stored under an idempotency key */
	bool recorded;            /* its row is written, or kept */
	struct json_object *body; /* owned: of a success, made before it is one; NULL: not made */
	acp_answered *answered;   /* whom to tell; NULL: acp_manage waits */
	void *arg;

	/* the outcome */
	enum acp_code code;
	char error[256];             /* sentence for the caller; "" = the code's own */
	char field[280];             /* JSON Pointer of the member at fault; "" = none */
	struct json_object *extra;   /* further members of an error reply; owned */
	struct json_object *warning; /* owned */
	const char *allow;
	int retry_after;
	char event_id[ACP_UUID_LEN];
};

/* Fails the call; see acp_call_fail. */
enum acp_code acp_call_vfail(struct acp_call *call, enum acp_code code, const char *field, const char *format,
			     va_list args) ACP_PRINTF(4, 0);

#endif
