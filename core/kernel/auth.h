/* auth.h - authenticates the caller by its API key (contract section 1). */
#ifndef ACP_AUTH_H
#define ACP_AUTH_H

#include "kernel.h"

/* Finds the caller. credential NULL: the request has no key. ACP_INVALID_API_KEY: the key is refused, for whatever
 * reason. ACP_UNAVAILABLE: the hub could not be asked. An identity is never assumed. */
enum acp_code acp_authenticate(const struct acp_kernel *kernel, const char *credential,
			       struct acp_principal *out) ACP_MUSTCHECK;

#endif
