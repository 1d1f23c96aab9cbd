/* outbox.h - executes Repo C's obligations. The hub queues an obligation in the transaction that causes it. Any process
 * that has an executor (executor.h) then executes it, effectively once: the obligation's name is the idempotency key of
 * every attempt, and no other process gets it during an attempt.
 *
 * Of the kernel, only config, plane and executor are used. */
#ifndef ACP_OUTBOX_H
#define ACP_OUTBOX_H

#include "kernel.h"

enum { ACP_OBLIGATION_MAX = 200 };

/* Does this kernel have an outbox, and an executor for its obligations? */
bool acp_outbox_offered(const struct acp_kernel *kernel);

/* Seconds from a failed attempt (the first is 1) to the next one, doubling up to an hour, for about two days; -1: there
 * is none. random varies the delay by up to a tenth either way. */
double acp_outbox_retry_delay(int64_t attempt, uint32_t random);

enum acp_outbox_step {
	ACP_OUTBOX_DONE,    /* the obligation is done */
	ACP_OUTBOX_FAILED,  /* an attempt was made and failed; it is due again later, or given up */
	ACP_OUTBOX_IDLE,    /* nothing is due, or the named obligation is done or being executed by another process */
	ACP_OUTBOX_TROUBLE, /* the hub is unreachable or memory ran out: wait before the next call */
};

/* Claims one obligation that is due and makes one attempt, which ends within a minute. */
enum acp_outbox_step acp_outbox_work(const struct acp_kernel *kernel) ACP_MUSTCHECK;

/* The same for the named obligation, due or not, within timeout_ms. request_id: the request that waits for the
 * result. */
enum acp_outbox_step acp_outbox_work_on(const struct acp_kernel *kernel, const char *tenant_id, const char *obligation,
					const char *request_id, int timeout_ms) ACP_MUSTCHECK;

#endif
