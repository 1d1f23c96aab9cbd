/* columns.h - audit events as PostgreSQL takes many at once: each column of audit_logs as an array in binary.
 * Private to sql/. */
#ifndef ACP_COLUMNS_H
#define ACP_COLUMNS_H

#include "buf.h"
#include "event.h"
#include "links.h"

enum { ACP_COLUMNS = ACP_FIELDS };

/* Appends to out the arrays of all columns, in the order of event.def; offsets[i] and lengths[i] say where each
 * stands. Every event has a ts. False: out of memory, or a value has not the form of its column. */
bool acp_columns_write(struct acp_buf *out, const struct acp_event *const *events, size_t count,
		       size_t offsets[ACP_COLUMNS], int lengths[ACP_COLUMNS]) ACP_MUSTCHECK;

/* The same rows one by one, each with its place in a chain and its salt (ACP_SALT_LEN bytes; NULL: none): an array of
 * the table's own type (its OID). rows_begin, then row for each; false: a value has not the form of its column. */
void acp_columns_rows_begin(struct acp_buf *out, uint32_t row_type, size_t count);
bool acp_columns_row(struct acp_buf *out, const struct acp_event *event, const struct acp_link *link,
		     const uint8_t *salt) ACP_MUSTCHECK;

/* An array of booleans in the same form. */
void acp_columns_booleans(struct acp_buf *out, const bool *values, size_t count);

#endif
