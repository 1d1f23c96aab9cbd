/* thread.h - whether a thread works for a caller, and which owner to notify while it blocks. */
#ifndef ACP_THREAD_H
#define ACP_THREAD_H

#include "attr.h"

/* From now on this thread works for no caller: it does upkeep or delivers. It keeps to itself that a server is down, so
 * that a caller who comes the moment the server is back is not refused. */
void acp_thread_serves_nobody(void);

bool acp_thread_has_caller(void);

/* The functions that a thread calls when it starts a wait that may take long, so that another thread can serve
 * meanwhile, and when the wait is over. The thread itself calls both. */
struct acp_thread_owner {
	void (*blocks)(void *arg);
	void (*goes_on)(void *arg);
	void *arg;
};

/* Sets the owner of this thread. The owner must outlive the thread. A thread without one is not replaced while it
 * waits. */
void acp_thread_own(const struct acp_thread_owner *owner);

/* Call these before and after a wait that may take long. */
void acp_thread_blocks(void);
void acp_thread_goes_on(void);

#endif
