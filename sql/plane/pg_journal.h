/* pg_journal.h - the way of journaled audit rows (journal.h) into PostgreSQL. Shows no libpq. */
#ifndef ACP_PG_JOURNAL_H
#define ACP_PG_JOURNAL_H

#include "journal.h"
#include "settings.h"

struct acp_db_pool;

/* Where to, and what became of the events: the arg of acp_pg_journal_commit. Zero the counts before a replay. */
struct acp_pg_journal {
	struct acp_db_pool *pool;
	const struct acp_config *config;
	int64_t stored;
	int64_t duplicates; /* had been stored before */
	int64_t uncounted;  /* stored, but not billable: the free allowance had no room for them any more */
};

/* Commits a batch: an acp_journal_commit. Codes other than ACP_OK and ACP_VALIDATION_ERROR (these events will never be
 * taken): ACP_UNAVAILABLE (no connection, or it broke), ACP_INTERNAL_ERROR (PostgreSQL refused for now: rights, disk,
 * a schema that is not migrated). Both can be tried again; the log says more. */
enum acp_code acp_pg_journal_commit(void *arg, const char *events, size_t count);

/* With a connection of its own, for acpctl; a plane lends its pool instead. NULL: out of memory. */
struct acp_pg_journal *acp_pg_journal_open(const struct acp_config *config) ACP_MUSTCHECK;
void acp_pg_journal_close(struct acp_pg_journal *journal);

#endif
