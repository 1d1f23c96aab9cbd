/* thread.h - whom a thread works for. */
#ifndef ACP_THREAD_H
#define ACP_THREAD_H

#include "attr.h"

/* From now on this thread works for no caller: it does upkeep, or delivers. What it finds out about a server that is
 * away, it keeps to itself: a caller that comes the moment the server is back is not refused for it. */
void acp_thread_serves_nobody(void);

bool acp_thread_has_caller(void);

#endif
