/* gate.h - lets one thread of this process at a time through, for work that takes much processor time.
 *
 * Without it, many such threads of one tenant would share the processors with a single thread of another one. The
 * threads that wait take turns by the name for which they work, so one name delays another by one turn at most. */
#ifndef ACP_GATE_H
#define ACP_GATE_H

#include "attr.h"

#include <pthread.h>

enum { ACP_GATE_NAME = 64 };

struct acp_gate_waiter;

/* Initialise it with ACP_GATE_INIT. */
struct acp_gate {
	pthread_mutex_t lock;
	struct acp_gate_waiter *first; /* threads that wait, in the order in which they came */
	bool taken;
	char last[ACP_GATE_NAME]; /* the name that was let through last */
};
#define ACP_GATE_INIT                                                                                                  \
	{                                                                                                              \
		.lock = PTHREAD_MUTEX_INITIALIZER                                                                      \
	}

/* Waits until this thread is let through. Meanwhile another thread replaces it (thread.h). name: for whom it works; the
 * first 63 bytes count. The thread must call acp_gate_leave soon, and wait for nothing before. */
void acp_gate_enter(struct acp_gate *gate, const char *name);
void acp_gate_leave(struct acp_gate *gate);

#endif
