/* thread.h - threads that serve callers, background threads, and the replacement of a waiting thread. */
#ifndef ACP_THREAD_H
#define ACP_THREAD_H

#include "attr.h"

/* Permanently marks this thread as a background thread, which does maintenance or deliveries. Its failures do not count
 * as a sign that a server is down. Otherwise a caller could be refused when the server has just come back. */
void acp_thread_background(void);

/* Does this thread serve callers? True unless it was marked. */
bool acp_thread_has_caller(void);

/* Callbacks of a thread's owner. The thread itself calls blocks before a wait that may take long, so that another
 * thread can serve requests meanwhile, and goes_on after it. */
struct acp_thread_owner {
	void (*blocks)(void *arg);
	void (*goes_on)(void *arg);
	void *arg;
};

/* Sets the owner of this thread. The owner must outlive the thread. A thread without an owner is not replaced while it
 * waits. */
void acp_thread_own(const struct acp_thread_owner *owner);

/* Call these before and after a wait that may take long. */
void acp_thread_blocks(void);
void acp_thread_goes_on(void);

#endif
