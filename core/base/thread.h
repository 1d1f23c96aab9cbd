/* thread.h - threads that serve callers, background threads, and the replacement of a thread that waits. */
#ifndef ACP_THREAD_H
#define ACP_THREAD_H

#include "attr.h"

/* Marks this thread, for good, as a background thread: it does upkeep, or delivers. Its failures do not count as a sign
 * that a server is down, so that a caller is not refused when the server has just come back. */
void acp_thread_background(void);

/* Does this thread serve callers? True unless it was marked. */
bool acp_thread_has_caller(void);

/* Callbacks of a thread's owner. The thread itself calls them: blocks before a wait that may take long, so that another
 * thread can serve meanwhile, and goes_on after it. */
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
