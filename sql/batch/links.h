/* links.h - links rows of audit_logs to a hash chain, here instead of in SQL: computes their salt, hash and binary
 * form. acp.audit_append_rows() is the model; tests compare the results of both. Private to sql/. */
#ifndef ACP_LINKS_H
#define ACP_LINKS_H

#include "buf.h"
#include "crypto.h"
#include "event.h"

#include <stdint.h>

/* The end of a chain. */
struct acp_link {
	int32_t chain_id;
	int64_t seq;
	uint8_t head[ACP_SHA256_LEN];
};

/* Appends the rows as one binary array of acp.audit_logs, linked to *end in their order; *end becomes the last of them.
 * row_type: OID of acp.audit_logs. False: only PostgreSQL can produce the text of one of them (acp_chain_text), or out
 * of memory; *end is then invalid. */
bool acp_links_write(struct acp_buf *out, const struct acp_event *const *events, size_t count, uint32_t row_type,
		     struct acp_link *end) ACP_MUSTCHECK;

#endif
