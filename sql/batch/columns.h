/* columns.h - writes many audit events for one statement: each column of audit_logs as a binary array. Private to
 * sql/. */
#ifndef ACP_COLUMNS_H
#define ACP_COLUMNS_H

#include "buf.h"
#include "event.h"
#include "links.h"

enum { ACP_COLUMNS = ACP_FIELDS };

/* Appends the arrays of all columns to out, in the order of event.def; sets the offset and the length of each. Every
 * event has a ts. False: out of memory, or a value does not fit its column. */
bool acp_columns_write(struct acp_buf *out, const struct acp_event *const *events, size_t count,
		       size_t offsets[ACP_COLUMNS], int lengths[ACP_COLUMNS]) ACP_MUSTCHECK;

/* Appends the same rows as one array of the table's row type (row_type: its OID), each with its position in a chain and
 * its salt (ACP_SALT_LEN bytes; NULL: none). Call rows_begin, then row for each. False: a value does not fit its
 * column. */
void acp_columns_rows_begin(struct acp_buf *out, uint32_t row_type, size_t count);
bool acp_columns_row(struct acp_buf *out, const struct acp_event *event, const struct acp_link *link,
		     const uint8_t *salt) ACP_MUSTCHECK;

/* Appends a binary array of booleans. */
void acp_columns_booleans(struct acp_buf *out, const bool *values, size_t count);

#endif
