/* auth.h - from a presented API key to who calls (contract section 1). */
#ifndef ACP_AUTH_H
#define ACP_AUTH_H

#include "kernel.h"

/* credential NULL: none was presented. ACP_INVALID_API_KEY for every reason a key is refused; ACP_UNAVAILABLE when
 * the hub could not be asked: identity is never assumed. */
enum acp_code acp_authenticate(const struct acp_kernel *kernel, const char *credential,
			       struct acp_principal *out) ACP_MUSTCHECK;

#endif
