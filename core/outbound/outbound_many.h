/* outbound_many.h - many HTTP requests at a time, sent by one thread, under the same rules as those of outbound.h.
 *
 * A job ends in every case, at the latest when its timeout_ms have passed; with libcurl older than 7.87 later, if the
 * name of a host is still being resolved then. One thread starts jobs and waits for them; acp_outbound_many_wake() may
 * be called from any thread. */
#ifndef ACP_OUTBOUND_MANY_H
#define ACP_OUTBOUND_MANY_H

#include "outbound.h"

struct acp_outbound_many;

struct acp_outbound_job {
	struct acp_outbound_request request; /* by the caller, with all that it points to, until the job has ended */
	enum acp_outbound_result result;     /* these three when it has ended */
	struct acp_outbound_reply reply;     /* release its body */
	uint64_t took_us;
	void *owner;                            /* for the caller */
	struct acp_outbound_transfer *transfer; /* private, as is the next */
	struct acp_outbound_job *next;
};

/* Starts the thread. NULL: out of memory, or libcurl cannot be used. */
struct acp_outbound_many *acp_outbound_many_start(void) ACP_MUSTCHECK;

/* Starts a job, which must not have keep_alive. The job is borrowed until acp_outbound_many_wait() returns it. */
void acp_outbound_many_send(struct acp_outbound_many *many, struct acp_outbound_job *job);

/* Returns a job that has ended; waits for one for at most ms milliseconds. NULL: none has ended by then, or
 * acp_outbound_many_wake() was called, which ends one wait. */
struct acp_outbound_job *acp_outbound_many_wait(struct acp_outbound_many *many, int64_t ms) ACP_MUSTCHECK;

void acp_outbound_many_wake(struct acp_outbound_many *many);

/* Ends the thread and releases many. No job may be running. NULL is allowed. */
void acp_outbound_many_stop(struct acp_outbound_many *many);

#endif
