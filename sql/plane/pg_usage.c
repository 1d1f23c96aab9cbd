/* Usage, the free allowance, prices and ceilings. */
#include "pg_parts.h"

bool acp_pg_enforces(const struct acp_config *config)
{
	return config->usage_enforcement && !*config->hub_url;
}

static enum acp_code get_usage(void *self, const char *tenant_id, const char *period, struct json_object **usage)
{
	static const struct acp_db_statement statement = {
		.name = "acp_usage_1",
		.sql = "SELECT acp.usage($1, ($2 || '-01')::date, $3)",
		.count = 3,
	};
	struct acp_pg_plane *pg = self;
	struct acp_db_error error = {0};
	PGresult *rows = NULL;
	const char *values[] = {tenant_id, period, pg->free_limit};
	enum acp_db_status status = acp_db_read_again(pg->pool, tenant_id, &statement, values, &rows, &error);
	return acp_pg_take_json(status, rows, usage, &error, "usage");
}

/* Documents that show prices do not wait long for them. */
enum { PRICES_MS = 1000 };

static enum acp_code get_prices(void *self, struct json_object *what, struct json_object **reply,
				struct acp_refusal *refusal)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error = {0};
	PGresult *rows = NULL;
	const char *values[] = {acp_pg_text(what)};
	(void)refusal;
	enum acp_db_status status =
		acp_db_read(pg->pool, NULL, "SELECT acp.usage_prices($1)", 1, values, PRICES_MS, &rows, &error);
	return acp_pg_take_json(status, rows, reply, &error, "prices");
}

static enum acp_code get_allowance(void *self, const char *tenant_id, const char *ts, struct acp_allowance *out)
{
	static const char sql[] =
		"SELECT calls_used, calls_held, calls_limit FROM acp.usage_figures($1, acp.period($2), $3)";
	struct acp_pg_plane *pg = self;
	struct acp_db_error error = {0};
	PGresult *rows = NULL;
	const char *values[] = {tenant_id, ts, pg->free_limit};
	enum acp_code code = acp_pg_code(
		acp_db_read(pg->pool, tenant_id, sql, 3, values, (int)pg->config->usage_timeout, &rows, &error), &error,
		"allowance");
	if (code == ACP_OK)
		*out = (struct acp_allowance){.used = acp_pg_number(rows, 0, 0),
					      .held = acp_pg_number(rows, 1, 0),
					      .limit = acp_pg_number(rows, 2, -1)};
	PQclear(rows);
	return code;
}

static enum acp_code reserve(void *self, const char *tenant_id, const char *event_id, const char *ts,
			     struct acp_reservation *out)
{
	static const char sql[] = "SELECT allowed, tier, calls_used, calls_limit"
				  " FROM acp.usage_reserve($1, $2, $3, $4, make_interval(secs => $5))";
	struct acp_pg_plane *pg = self;
	struct acp_db_error error = {0};
	PGresult *rows = NULL;
	const char *values[] = {tenant_id, event_id, ts, pg->free_limit, pg->reservation_ttl};
	enum acp_code code = acp_pg_code(acp_db_attempt(pg->pool, ACP_DB_TO_WRITE, tenant_id, sql, 5, values,
							(int)pg->config->usage_timeout, &rows, &error),
					 &error, "usage check");
	if (code != ACP_OK)
		return code;
	out->allowed = *PQgetvalue(rows, 0, 0) == 't';
	out->tier = acp_pg_tier(PQgetvalue(rows, 0, 1));
	out->limited = !PQgetisnull(rows, 0, 3);
	out->calls_used = strtoll(PQgetvalue(rows, 0, 2), NULL, 10);
	out->calls_limit = strtoll(PQgetvalue(rows, 0, 3), NULL, 10);
	PQclear(rows);
	return ACP_OK;
}

static enum acp_code live_count(void *self, const char *tenant_id, const char *resource, int64_t *count)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error = {0};
	PGresult *rows = NULL;
	const char *values[] = {tenant_id, resource};
	enum acp_code code = acp_pg_code(
		acp_db_read(pg->pool, tenant_id, "SELECT acp.live_count($1, $2)", 2, values, 0, &rows, &error), &error,
		"ceiling");
	if (code == ACP_OK)
		*count = strtoll(PQgetvalue(rows, 0, 0), NULL, 10);
	PQclear(rows);
	return code;
}

const struct acp_plane_usage acp_pg_usage = {
	.at_settle = true,
	.get = get_usage,
	.reserve = reserve,
	.get_prices = get_prices,
	.get_allowance = get_allowance,
	.live_count = live_count,
};
