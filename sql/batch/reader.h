/* reader.h - calls read-only functions, and combines concurrent calls into one statement.
 *
 * A call is sent at once if no statement with its function is in progress. While two are in progress, further calls
 * wait, and the next statement takes as many of them as have arrived. If calls arrive faster than statements end, a
 * statement waits for more of them, for at most 1 ms. Eight round trips cost PostgreSQL and this process several times
 * as much as one round trip that does the work of eight. Private to sql/. */
#ifndef ACP_READER_H
#define ACP_READER_H

#include "db.h"

struct acp_reader;

/* Creates a reader over the connections of the pool. NULL: out of memory. */
struct acp_reader *acp_reader_new(struct acp_db_pool *pool);
void acp_reader_free(struct acp_reader *reader); /* no call may be in progress */

/* Result of a function: texts, valid until acp_read_release. */
struct acp_read {
	const char *data;     /* jsonb; NULL: SQL null */
	const char *meta;     /* jsonb of acp.report(); NULL: none */
	const char *quantity; /* of acp.report(); NULL: none */
	struct acp_read_rows *rows;
};

/* Calls acp.<function>, or <schema>.<function> of an operator, with a tenant id, parameters and context (both JSON), in
 * a read-only transaction. ACP_DB_REFUSED with SQLSTATE 42883: no function can have this name. read is empty unless
 * ACP_DB_OK. */
enum acp_db_status acp_reader_call(struct acp_reader *reader, const char *function, const char *tenant_id,
				   const char *params, const char *ctx, struct acp_read *read,
				   struct acp_db_error *error) ACP_MUSTCHECK;
void acp_read_release(struct acp_read *read);

/* Quotes a function name for SQL: acp.<name>, or "schema"."name". Accepts nothing but one or two identifiers. */
enum { ACP_FUNCTION_SIZE = 160 };
bool acp_function_name(const char *function, char out[ACP_FUNCTION_SIZE]) ACP_MUSTCHECK;

#endif
