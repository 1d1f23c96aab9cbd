/* reader.h - calls functions that only read, several in one statement where several are wanted at once.
 *
 * One that comes while nobody reads with the same function is sent at once. While two statements are under way the
 * others wait, and the next statement takes as many of them as have come; where they come faster than statements end it
 * waits for more, 1 ms at most. Eight round trips cost PostgreSQL and this
 * process several times what one costs that does the work of eight. Private to sql/. */
#ifndef ACP_READER_H
#define ACP_READER_H

#include "db.h"

struct acp_reader;

/* Reads over the pool's connections. NULL: out of memory. */
struct acp_reader *acp_reader_new(struct acp_db_pool *pool);
void acp_reader_free(struct acp_reader *reader); /* no call may be under way */

/* What a function returned: texts, valid until acp_read_release. */
struct acp_read {
	const char *data;     /* jsonb; NULL: null */
	const char *meta;     /* jsonb of acp.report(); NULL: none */
	const char *quantity; /* of acp.report(); NULL: none */
	struct acp_read_rows *rows;
};

/* acp.<function>, or <schema>.<function> of an operator's, with a tenant's id, parameters and context (both JSON). The
 * transaction is read-only. ACP_DB_REFUSED with SQLSTATE 42883: a function cannot have this name. On anything but
 * ACP_DB_OK read is empty. */
enum acp_db_status acp_reader_call(struct acp_reader *reader, const char *function, const char *tenant_id,
				   const char *params, const char *ctx, struct acp_read *read,
				   struct acp_db_error *error) ACP_MUSTCHECK;
void acp_read_release(struct acp_read *read);

/* A function as SQL names it: acp.<name>, or "schema"."name". Nothing but two identifiers gets through. */
enum { ACP_FUNCTION_SIZE = 160 };
bool acp_function_name(const char *function, char out[ACP_FUNCTION_SIZE]) ACP_MUSTCHECK;

#endif
