/* openapi.h - the OpenAPI 3.1 description of an installation, generated from the entries of its kernel: those that
 * meta.actions lists, with one schema per action. */
#ifndef ACP_OPENAPI_H
#define ACP_OPENAPI_H

#include "kernel.h"

/* The document; owned by the caller. NULL: out of memory. */
struct json_object *acp_openapi(const struct acp_kernel *kernel);

/* The document as text, made once, when the kernel's entries and hub are complete; it has marks where the prices of
 * actions go. Owned by the caller (free). NULL: out of memory. */
char *acp_openapi_text(const struct acp_kernel *kernel);

/* Writes kernel->openapi with the prices of now (x-price of the schema of a call; without it if the prices cannot be
 * read). kernel->openapi must not be NULL. */
void acp_openapi_write(const struct acp_kernel *kernel, struct acp_buf *out);

#endif
