/* openapi.h - the OpenAPI 3.1 description of an installation, made from what is registered in its kernel: the same
 * entries that meta.actions lists, one schema an action. */
#ifndef ACP_OPENAPI_H
#define ACP_OPENAPI_H

#include "kernel.h"

/* The document; owned by the caller. NULL: out of memory. */
struct json_object *acp_openapi(const struct acp_kernel *kernel);

/* The document as text, made once for a kernel whose entries and hub stand; owned by the caller (free). NULL: out of
 * memory. */
char *acp_openapi_text(const struct acp_kernel *kernel);

#endif
