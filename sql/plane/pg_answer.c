/* Reads answers of the database: codes, refusals, columns, JSON. */
#include "pg_parts.h"

#include "json.h"
#include "log.h"

/* Errors ------------------------------------------------------------------------------------------------------- */

/* True for an error of acp.fail() in SQL, which puts the code into the hint and the member into the detail. */
static bool is_refusal(const struct acp_db_error *error)
{
	return strcmp(error->sqlstate, "ACP01") == 0;
}

/* True if a running server failed temporarily: a full disk, no memory, a deadlock, a lock that was held for too long.
 * The statement did nothing, and the same call may soon succeed. */
static bool is_temporary(const char *sqlstate)
{
	return strncmp(sqlstate, "53", 2) == 0 || strncmp(sqlstate, "40", 2) == 0 || strcmp(sqlstate, "58030") == 0 ||
	       strcmp(sqlstate, "55P03") == 0;
}

/* A missing partition also causes check_violation, but names no constraint. The partition may be detached for a moment;
 * the events are good. */
static bool lacks_partition(const struct acp_db_error *error)
{
	return strcmp(error->sqlstate, "23514") == 0 && !*error->rule;
}

bool acp_pg_is_data_error(const struct acp_db_error *error)
{
	const char *sqlstate = error->sqlstate;
	if (lacks_partition(error))
		return false;
	return strncmp(sqlstate, "22", 2) == 0 || strncmp(sqlstate, "23", 2) == 0 || strncmp(sqlstate, "P0", 2) == 0 ||
	       strcmp(sqlstate, "ACP01") == 0;
}

enum acp_code acp_pg_code(enum acp_db_status status, const struct acp_db_error *error, const char *what)
{
	if (status == ACP_DB_OK)
		return ACP_OK;
	if (is_refusal(error)) {
		enum acp_code code = acp_code_of(error->hint);
		return acp_code_outcome(code) == ACP_SUCCESS ? ACP_INTERNAL_ERROR : code; /* a refusal is an error */
	}
	acp_log(ACP_LOG_ERROR, "database: %s: %s%s%s", what, error->message, *error->sqlstate ? " SQLSTATE " : "",
		error->sqlstate);
	if (status == ACP_DB_UNKNOWN)
		return ACP_OUTCOME_UNKNOWN;
	if (error->share_used)
		return ACP_RATE_LIMITED;
	return status == ACP_DB_AWAY || is_temporary(error->sqlstate) ? ACP_UNAVAILABLE : ACP_INTERNAL_ERROR;
}

enum acp_code acp_pg_operators_fault(enum acp_code code, const struct acp_db_error *error, const char *what)
{
	if (code != ACP_VALIDATION_ERROR)
		return code;
	acp_log(ACP_LOG_ERROR, "database: %s: %s", what, error->message);
	return ACP_INTERNAL_ERROR;
}

void acp_pg_column(char *out, size_t size, const PGresult *rows, int column)
{
	snprintf(out, size, "%s", PQgetvalue(rows, 0, column));
}

const char *acp_pg_text(struct json_object *event)
{
	size_t len;
	const char *text = acp_json_text(event, JSON_C_TO_STRING_PLAIN, &len);
	return text ? text : "";
}

enum acp_tier acp_pg_tier(const char *text)
{
	return strcmp(text, "paid") == 0 ? ACP_TIER_PAID : ACP_TIER_FREE;
}

int64_t acp_pg_number(const PGresult *rows, int column, int64_t none)
{
	return PQgetisnull(rows, 0, column) ? none : strtoll(PQgetvalue(rows, 0, column), NULL, 10);
}

/* JSON --------------------------------------------------------------------------------------------------------- */

enum acp_code acp_pg_parse(const char *text, struct json_object **out)
{
	*out = NULL;
	if (!text)
		return ACP_OK;
	struct acp_json_error bad;
	enum acp_json_verdict verdict = acp_json_parse_own(text, strlen(text), out, &bad);
	if (verdict != ACP_JSON_OK)
		acp_log(ACP_LOG_ERROR, "database: a result cannot be read: %s",
			verdict == ACP_JSON_NO_MEMORY ? "out of memory" : bad.message);
	return verdict == ACP_JSON_OK ? ACP_OK : ACP_INTERNAL_ERROR;
}

/* Parses a jsonb column of a single row. *out is NULL if there is no row, or the column is null. */
static enum acp_code parse_column(const PGresult *rows, int column, struct json_object **out)
{
	bool none = PQntuples(rows) != 1 || PQgetisnull(rows, 0, column);
	return acp_pg_parse(none ? NULL : PQgetvalue(rows, 0, column), out);
}

enum acp_code acp_pg_take_json(enum acp_db_status status, PGresult *rows, struct json_object **out,
			       const struct acp_db_error *error, const char *what)
{
	enum acp_code code = acp_pg_code(status, error, what);
	if (code == ACP_OK)
		code = parse_column(rows, 0, out);
	PQclear(rows);
	return code;
}

enum acp_code acp_pg_read_json(struct acp_pg_plane *pg, const char *tenant, const char *sql, int count,
			       const char *const *values, struct json_object **out, struct acp_db_error *error,
			       const char *what)
{
	PGresult *rows = NULL;
	enum acp_db_status status = acp_db_read(pg->pool, tenant, sql, count, values, 0, &rows, error);
	return acp_pg_take_json(status, rows, out, error, what);
}

enum acp_code acp_pg_write_json(struct acp_pg_plane *pg, const char *tenant, const char *sql, int count,
				const char *const *values, int timeout_ms, struct json_object **out,
				struct acp_db_error *error, const char *what)
{
	PGresult *rows = NULL;
	enum acp_db_status status = acp_db_write(pg->pool, tenant, sql, count, values, timeout_ms, &rows, error);
	return acp_pg_take_json(status, rows, out, error, what);
}

void acp_pg_refusal(enum acp_code code, const struct acp_db_error *error, struct acp_refusal *refusal)
{
	if (code == ACP_OK || !is_refusal(error))
		return;
	snprintf(refusal->message, sizeof refusal->message, "%s", error->message);
	snprintf(refusal->field, sizeof refusal->field, "%s", error->detail);
}
