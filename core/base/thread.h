/* thread.h - whom a thread works for, and who takes its place while it waits. */
#ifndef ACP_THREAD_H
#define ACP_THREAD_H

#include "attr.h"

/* From now on this thread works for no caller: it does upkeep, or delivers. What it finds out about a server that is
 * away, it keeps to itself: a caller that comes the moment the server is back is not refused for it. */
void acp_thread_serves_nobody(void);

bool acp_thread_has_caller(void);

/* Who is told that a thread of its own waits for something that may take long, so that another thread can serve
 * meanwhile, and that it goes on. Both are called by that thread. */
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
