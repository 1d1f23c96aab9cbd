/* agents.h - what an agent finds that knows only this installation's address: a short text in the form of llms.txt, and
 * the catalog of APIs of RFC 9727. Both are made from what is registered, as the OpenAPI description is. */
#ifndef ACP_AGENTS_H
#define ACP_AGENTS_H

#include "kernel.h"

/* Appends the text (Markdown). A failure shows in acp_buf_ok(out). */
void acp_llms_text(const struct acp_kernel *kernel, struct acp_buf *out);

/* Appends the linkset (RFC 9264, JSON). A failure shows in acp_buf_ok(out). */
void acp_api_catalog(const struct acp_kernel *kernel, struct acp_buf *out);

#endif
