/* thread.h - threads that serve callers, threads in the background, and the replacement of one that waits. */
#ifndef ACP_THREAD_H
#define ACP_THREAD_H

#include "attr.h"

/* Marks this thread, for good, as one in the background: it does upkeep, or delivers. Its failures do not count as
 * a sign of a server that is away, so that a caller is not refused when the server has just come back. */
void acp_thread_background(void);

/* Does this thread serve callers? True unless it was marked. */
bool acp_thread_has_caller(void);

/* The callbacks of the owner of a thread: the thread waits for something that may take long, so that another one can
 * serve meanwhile; it goes on. Both are called by that thread. */
struct acp_thread_owner {
	void (*blocks)(void *arg);
	void (*goes_on)(void *arg);
	void *arg;
};

/* The owner of this thread; it must outlive the thread. A thread without one is not replaced. */
void acp_thread_own(const struct acp_thread_owner *owner);

/* Around a wait that may take long. */
void acp_thread_blocks(void);
void acp_thread_goes_on(void);

#endif
