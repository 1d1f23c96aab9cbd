#include "pg_journal.h"

#include "db.h"
#include "log.h"
#include "pg_parts.h"

enum { BATCH_MS = 30000 }; /* five hundred events take about 0.1 s, and no client waits */

static enum acp_code failed(enum acp_db_status status, const struct acp_db_error *error, size_t count)
{
	bool data = status == ACP_DB_REFUSED && acp_pg_is_data_error(error);
	/* For a batch this is not final: it is halved and retried. */
	if (!data || count == 1)
		acp_log(ACP_LOG_ERROR, "database: journal replay: %s%s%s", error->message,
			*error->sqlstate ? " SQLSTATE " : "", error->sqlstate);
	if (data)
		return ACP_VALIDATION_ERROR;
	return status == ACP_DB_REFUSED ? ACP_INTERNAL_ERROR : ACP_UNAVAILABLE;
}

enum acp_code acp_pg_journal_commit(void *arg, const char *events, size_t count)
{
	static const char sql[] = "SELECT r->>'stored', r->>'duplicates', r->>'uncounted'"
				  " FROM acp.journal_replay($1, $2, $3) r";
	struct acp_pg_journal *journal = arg;
	const struct acp_config *config = journal->config;
	struct acp_db_error error = {0};
	PGresult *rows = NULL;
	char limit[24], warn[24];
	snprintf(limit, sizeof limit, "%lld", (long long)config->free_calls_limit);
	snprintf(warn, sizeof warn, "%lld", (long long)config->warn_at_percent);
	/* As for other calls, nothing is enforced here with a remote hub or with the setting off. */
	bool enforced = config->usage_enforcement && !*config->hub_url;
	const char *values[] = {events, enforced ? limit : NULL, warn};
	enum acp_db_status status = acp_db_write(journal->pool, NULL, sql, 3, values, BATCH_MS, &rows, &error);
	/* A statement that the router no longer waited for has just stored one of the rows. The next try sees that
	 * row. */
	if (status == ACP_DB_REFUSED && strcmp(error.sqlstate, "23505") == 0)
		status = acp_db_write(journal->pool, NULL, sql, 3, values, BATCH_MS, &rows, &error);
	if (status != ACP_DB_OK)
		return failed(status, &error, count);
	journal->stored += strtoll(PQgetvalue(rows, 0, 0), NULL, 10);
	journal->duplicates += strtoll(PQgetvalue(rows, 0, 1), NULL, 10);
	journal->uncounted += strtoll(PQgetvalue(rows, 0, 2), NULL, 10);
	PQclear(rows);
	return ACP_OK;
}

struct acp_pg_journal *acp_pg_journal_open(const struct acp_config *config)
{
	struct acp_pg_journal *journal = calloc(1, sizeof *journal);
	if (!journal)
		return NULL;
	journal->config = config;
	const struct acp_db_limits limits = {.connections = 1,
					     .connect_timeout_s = (int)config->db_connect_timeout,
					     .timeout_ms = (int)config->db_timeout,
					     .commit_timeout_ms = BATCH_MS};
	journal->pool = acp_db_pool_new(config->database_url, &limits);
	if (journal->pool)
		return journal;
	free(journal);
	return NULL;
}

void acp_pg_journal_close(struct acp_pg_journal *journal)
{
	if (journal)
		acp_db_pool_free(journal->pool);
	free(journal);
}
