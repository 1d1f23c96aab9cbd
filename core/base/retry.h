/* retry.h - when a request to a vendor is worth another try, and after which pause. */
#ifndef ACP_RETRY_H
#define ACP_RETRY_H

#include "attr.h"

/* May the same request fare better later? status: what was answered, 0: nothing that could be used. advice: the
 * vendor's own word where it gave one ("true", "false"), which counts more; else "". */
bool acp_retry_worth(int status, const char *advice);

/* Milliseconds before attempt number attempt + 1 (attempt 1 is the first): half a second, doubled each time up to five,
 * of which chance (0 to 1) decides the second half, so that those who failed together do not come back together. */
int acp_retry_pause_ms(int attempt, double chance);

/* A chance, and a pause of the calling thread. */
double acp_retry_chance(void);
void acp_retry_sleep(int ms);

#endif
