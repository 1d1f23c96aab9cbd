/* call.h - the state of one call in the pipeline. Private to core/. */
#ifndef ACP_CALL_H
#define ACP_CALL_H

#include "audit.h"
#include "pipeline.h"

struct acp_call {
	const struct acp_kernel *kernel;
	const struct acp_request *request;

	/* envelope */
	struct json_object *envelope; /* owned: the whole document, or NULL when it could not be parsed */
	const char *action_name;      /* the next four borrow from envelope and request */
	struct json_object *params;
	const char *idempotency_key; /* the client's; NULL: none */
	bool dry_run;
	struct json_object *no_params; /* owned: replaces missing params */

	/* results of the stages */
	bool authenticated;
	struct acp_principal principal;
	const struct acp_entry *entry;
	struct acp_reservation reservation;
	bool reserved;                    /* a call is reserved in the allowance; its end settles or releases it */
	bool usage_check_failed;          /* fail-open: the call proceeded without the check */
	struct acp_rate rate;             /* state after counting; window 0: not limited */
	uint64_t rate_taken_us;           /* time of counting */
	struct acp_share shares[4];       /* places that it holds (share.h) */
	bool claimed;                     /* this call holds the idempotency key until it ends */
	char own_key[ACP_UUID_LEN];       /* key for storing a write that came without one; "" = not stored */
	char fingerprint[ACP_SHA256_HEX]; /* for own_key */
	struct json_object *decision;     /* by the policy engine; owned; NULL: it was not asked */
	const char *approval;             /* in decision: the approval that lets this call through */
	bool approval_used;               /* it is used up, or may be, by this call */
	bool policy_check_failed;         /* a read proceeded without a decision */
	size_t size;                      /* bytes of the largest JSON text of this call so far, if it is known */
	bool acted;                       /* the call was sent to an upstream: its effect cannot be undone */
	struct acp_tx *tx;                /* open transaction of the handler, or NULL */
	struct acp_result result;

	/* the end */
	struct acp_event event;
	struct acp_settlement end;
	int64_t calls_held;       /* places that other running calls held when this call was counted */
	struct acp_buf sealed;    /* the encrypted result, if it will be stored under an idempotency key */
	bool recorded;            /* the audit row is written, or kept */
	struct json_object *body; /* owned: body of a success, made before the call is committed; NULL: not made */
	acp_answered *answered;   /* completion callback; NULL: acp_manage waits */
	void *arg;

	/* the outcome */
	enum acp_code code;
	char error[256];             /* sentence for the caller; "" = the code's default */
	char field[280];             /* JSON Pointer to the invalid member; "" = none */
	struct json_object *extra;   /* further members of an error reply; owned */
	struct json_object *warning; /* owned */
	const char *allow;
	int retry_after;
	char event_id[ACP_UUID_LEN];
};

/* The sentence for a call whose upstream may have acted although its reply cannot be used. */
extern const char acp_call_may_have_acted[];

/* Fails the call; see acp_call_fail. */
enum acp_code acp_call_vfail(struct acp_call *call, enum acp_code code, const char *field, const char *format,
			     va_list args) ACP_PRINTF(4, 0);

#endif
