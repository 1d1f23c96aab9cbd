/* links.h - rows of audit_logs as links of a hash chain, made here instead of in SQL: their salt, their hash and their
 * binary form. What acp.audit_append_rows() makes of a row is the model; tests compare the two. Private to sql/. */
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

/* Appends the rows as one array of acp.audit_logs in binary, linked to *end in their order; *end becomes the last of
 * them. row_type: OID of acp.audit_logs. False: the text of one of them is PostgreSQL's to make (acp_chain_text), and
 * *end is of no use. */
bool acp_links_write(struct acp_buf *out, const struct acp_event *const *events, size_t count, uint32_t row_type,
		     struct acp_link *end) ACP_MUSTCHECK;

#endif
