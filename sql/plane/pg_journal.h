/* pg_journal.h - stores journaled audit rows (journal.h) in PostgreSQL. Does not expose libpq. */
#ifndef ACP_PG_JOURNAL_H
#define ACP_PG_JOURNAL_H

#include "journal.h"
#include "settings.h"

struct acp_db_pool;

/* Target and counts: the arg of acp_pg_journal_commit. Zero the counts before a replay. */
struct acp_pg_journal {
	struct acp_db_pool *pool;
	const struct acp_config *config;
	int64_t stored;
	int64_t duplicates; /* already stored before */
	int64_t uncounted;  /* stored as not billable: the free allowance had no room left */
};

/* Commits a batch; an acp_journal_commit. Codes other than ACP_OK: ACP_VALIDATION_ERROR (these events can never be
 * stored), ACP_UNAVAILABLE (no connection, or it broke), ACP_INTERNAL_ERROR (PostgreSQL refuses for now: rights, disk,
 * a schema that is not migrated). The last two can be retried. The log has details. */
enum acp_code acp_pg_journal_commit(void *arg, const char *events, size_t count);

/* Opens a separate connection, for acpctl; a plane lends its pool instead. NULL: out of memory. */
struct acp_pg_journal *acp_pg_journal_open(const struct acp_config *config) ACP_MUSTCHECK;
void acp_pg_journal_close(struct acp_pg_journal *journal);

#endif
