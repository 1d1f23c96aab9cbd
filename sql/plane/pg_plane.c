/* The control plane over PostgreSQL: combines its parts, and does their upkeep. */
#include "log.h"
#include "pg_journal.h"
#include "pg_parts.h"
#include "seal.h"

/* Readiness ---------------------------------------------------------------------------------------------------- */

static enum acp_code ready(void *self, char *why, size_t why_size)
{
	static const char sql[] =
		"SELECT max(version), coalesce(max(version) FILTER (WHERE breaking), 0) FROM acp.schema_migrations";
	struct acp_pg_plane *pg = self;
	struct acp_db_error error = {0};
	PGresult *rows = NULL;
	enum acp_db_status status = acp_db_read(pg->pool, NULL, sql, 0, NULL, 2000, &rows, &error);
	if (status != ACP_DB_OK) {
		snprintf(why, why_size, "%s: %s",
			 status == ACP_DB_AWAY ? "database not reachable" : "schema missing, run acpctl migrate",
			 error.message);
		return ACP_UNAVAILABLE;
	}
	long long version = strtoll(PQgetvalue(rows, 0, 0), NULL, 10);
	long long breaking = strtoll(PQgetvalue(rows, 0, 1), NULL, 10);
	PQclear(rows);
	if (version < ACP_SCHEMA_VERSION)
		snprintf(why, why_size, "the schema has version %lld, this program needs %d: run acpctl migrate",
			 version, ACP_SCHEMA_VERSION);
	else if (breaking > ACP_SCHEMA_VERSION)
		snprintf(why, why_size,
			 "the schema has the breaking version %lld, this program knows up to %d: upgrade acp-fcgi",
			 breaking, ACP_SCHEMA_VERSION);
	else
		return ACP_OK;
	return ACP_UNAVAILABLE;
}

static enum acp_code gauges(void *self, struct json_object **list)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error = {0};
	if (acp_db_away(pg->pool))
		return ACP_UNAVAILABLE;
	return acp_pg_read_json(pg, NULL, "SELECT acp.gauges()", 0, NULL, list, &error, "gauges");
}

/* The journal ------------------------------------------------------------------------------------------------- */

static void open_journal(struct acp_pg_plane *pg)
{
	char why[512];
	if (!*pg->config->journal_dir)
		return;
	/* All processes of this host share the folder. */
	int64_t part = pg->config->journal_max_bytes / pg->config->processes;
	const struct acp_journal_limits limits = {.all = pg->config->journal_max_bytes,
						  .tenant = part * pg->config->journal_tenant_percent / 100,
						  .strangers = part * pg->config->journal_strangers_percent / 100};
	pg->journal = acp_journal_open(pg->config->journal_dir, &limits, why, sizeof why);
	if (!pg->journal)
		acp_log(ACP_LOG_WARNING, "%s; calls are refused while PostgreSQL is away", why);
}

static void roll_up(struct acp_pg_plane *pg)
{
	struct acp_db_error error = {0};
	if (acp_db_write(pg->pool, NULL, "SELECT acp.usage_roll_up()", 0, NULL, 0, NULL, &error) == ACP_DB_REFUSED)
		acp_log(ACP_LOG_WARNING, "database: usage_roll_up: %s", error.message);
}

/* Deletes a part of what is old. True: there is more. */
static bool discard_some(struct acp_pg_plane *pg)
{
	PGresult *rows = NULL;
	struct acp_db_error error = {0};
	enum acp_db_status status = acp_db_write(pg->pool, NULL, "SELECT acp.discard_old()", 0, NULL, 0, &rows, &error);
	bool more = status == ACP_DB_OK && *PQgetvalue(rows, 0, 0) == 't';
	if (status != ACP_DB_OK)
		acp_log(ACP_LOG_WARNING, "database: discard_old: %s", error.message);
	PQclear(rows);
	return more;
}

/* Goes on with what maintain() began, until nothing old is left. */
static void discard_old(struct acp_pg_plane *pg)
{
	enum { ROUNDS = 10 }; /* in each second: more than calls can leave behind */
	for (int i = 0; i < ROUNDS && pg->discards; i++)
		pg->discards = discard_some(pg);
}

/* Rolls up the usage counters, discards what is old, and replays the rows that this process, or one that died, left in
 * the journal. With an empty journal, this only looks into a folder. */
static void catch_up(void *self)
{
	struct acp_pg_plane *pg = self;
	struct acp_journal_counts counts;
	roll_up(pg);
	discard_old(pg);
	struct acp_pg_journal into = {.pool = pg->pool, .config = pg->config};
	if (!pg->journal)
		return;
	acp_journal_replay(pg->journal, acp_pg_journal_commit, &into, &counts);
	if (counts.events)
		acp_log(ACP_LOG_INFO,
			"journal: %lld audit rows are now in PostgreSQL (%lld were already there, %lld are "
			"not billable because the allowance was used up)",
			(long long)counts.events, (long long)into.duplicates, (long long)into.uncounted);
}

static void maintain(void *self)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error = {0};
	if (acp_db_write(pg->pool, NULL, "SELECT acp.maintain()", 0, NULL, 0, NULL, &error) != ACP_DB_OK)
		acp_log(ACP_LOG_WARNING, "database: maintenance: %s", error.message);
	pg->discards = true;
	acp_seal_when_due(pg->pool, pg->config);
}

static struct acp_db_pool *make_pool(const struct acp_config *config)
{
	/* At least one connection is for the other tenants. */
	int64_t others = config->db_connections > 1 ? config->db_connections - 1 : 1;
	int64_t of_one = config->tenant_db_connections < others ? config->tenant_db_connections : others;
	const struct acp_db_limits limits = {.connections = (int)config->db_connections,
					     .of_one_tenant = (int)of_one,
					     .connect_timeout_s = (int)config->db_connect_timeout,
					     .timeout_ms = (int)config->db_timeout,
					     .commit_timeout_ms = (int)config->db_commit_timeout};
	return acp_db_pool_new(config->database_url, &limits);
}

struct acp_pg_plane *acp_pg_plane_new(const struct acp_config *config, struct acp_shared_counter *changes,
				      struct acp_control_plane *plane)
{
	struct acp_pg_plane *pg = calloc(1, sizeof *pg);
	if (!pg)
		return NULL;
	pg->config = config;
	pg->pool = make_pool(config);
	pg->keys = acp_key_cache_new(config->key_cache_ms, changes);
	pg->changes = changes;
	snprintf(pg->free_limit, sizeof pg->free_limit, "%lld", (long long)config->free_calls_limit);
	snprintf(pg->reservation_ttl, sizeof pg->reservation_ttl, "%lld", (long long)config->reservation_ttl);
	snprintf(pg->idempotency_lease, sizeof pg->idempotency_lease, "%lld", (long long)config->idempotency_lease);
	snprintf(pg->warn_at_percent, sizeof pg->warn_at_percent, "%lld", (long long)config->warn_at_percent);
	open_journal(pg);
	const struct acp_writer_options options = {.writers = (int)config->audit_writers,
						   .own_chains = config->workers > config->processes,
						   .hurried = pg->journal != NULL,
						   .free_limit = acp_pg_enforces(config) ? pg->free_limit : NULL,
						   .warn_at_percent = pg->warn_at_percent};
	pg->writer = acp_writer_new(pg->pool, pg->keys, &options);
	pg->reader = acp_reader_new(pg->pool);
	if (!pg->pool || !pg->keys || !pg->writer || !pg->reader) {
		acp_pg_plane_free(pg);
		return NULL;
	}
	*plane = (struct acp_control_plane){
		.self = pg,
		.call = acp_pg_call,
		.usage = acp_pg_usage,
		.payments = acp_pg_payments,
		.webhooks = acp_pg_webhooks,
		.hub = acp_pg_hub,
		.console = acp_pg_console,
		.upkeep = {.catch_up = catch_up, .maintain = maintain, .gauges = gauges, .ready = ready},
	};
	return pg;
}

void acp_pg_plane_free(struct acp_pg_plane *pg)
{
	if (!pg)
		return;
	if (pg->journal)
		acp_journal_close(pg->journal);
	acp_reader_free(pg->reader);
	acp_writer_free(pg->writer);
	acp_key_cache_free(pg->keys);
	acp_db_pool_free(pg->pool);
	free(pg);
}
