/* outbox.h - working off what Repo C owes: obligations are put in the hub's outbox in the transaction of their cause,
 * and executed from there by any process that has an executor (executor.h), once in effect: the obligation's name
 * is the idempotency key of every attempt, and while one attempt runs nobody else gets the obligation.
 *
 * Only config, plane and executor of the kernel are used. */
#ifndef ACP_OUTBOX_H
#define ACP_OUTBOX_H

#include "kernel.h"

enum { ACP_OBLIGATION_MAX = 200 };

/* Has this kernel an outbox, and an executor to work it off? */
bool acp_outbox_offered(const struct acp_kernel *kernel);

/* Seconds from a failed attempt (1 is the first) to the next one, doubling up to an hour, for some two days; -1: that
 * was the last. random moves it by up to a tenth in either direction. */
double acp_outbox_retry_delay(int64_t attempt, uint32_t random);

enum acp_outbox_step {
	ACP_OUTBOX_DONE,    /* what was taken is done */
	ACP_OUTBOX_FAILED,  /* an attempt was made and failed; it is due again later, or dead */
	ACP_OUTBOX_IDLE,    /* nothing is due, or what was named is done or being executed by another */
	ACP_OUTBOX_TROUBLE, /* the hub is away or out of memory: wait before the next call */
};

/* Takes one obligation that is due and makes one attempt, which ends within a minute. */
enum acp_outbox_step acp_outbox_work(const struct acp_kernel *kernel) ACP_MUSTCHECK;

/* The same for one obligation, due or not, within timeout_ms. request_id: of the request that cannot wait for it. */
enum acp_outbox_step acp_outbox_work_on(const struct acp_kernel *kernel, const char *tenant_id, const char *obligation,
					const char *request_id, int timeout_ms) ACP_MUSTCHECK;

#endif
