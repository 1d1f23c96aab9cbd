/* agents.h - discovery for an agent that knows only this installation's address: a short text in llms.txt form, and the
 * API catalog of RFC 9727. Both are generated from the registered actions, like the OpenAPI description. */
#ifndef ACP_AGENTS_H
#define ACP_AGENTS_H

#include "kernel.h"

/* Appends the text (Markdown). Check acp_buf_ok(out) for failure. */
void acp_llms_text(const struct acp_kernel *kernel, struct acp_buf *out);

/* Appends the linkset (RFC 9264, JSON). Check acp_buf_ok(out) for failure. */
void acp_api_catalog(const struct acp_kernel *kernel, struct acp_buf *out);

#endif
