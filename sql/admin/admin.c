/* admin.c - database access for acpctl: runs named statements and returns rows as JSON. */
#include "migrate.h"

#include "db.h"
#include "json.h"
#include "seal.h"

struct acp_admin {
	struct acp_db_conn *conn;
	int timeout_ms;
	struct json_object *columns; /* columns of the last statement */
};

enum { MINUTE_MS = 60000, DAYS_MS = 7 * 86400 * 1000 };

static const struct statement {
	const char *name;
	int count;
	const char *sql;
} statements[] = {
#define ACP_ADMIN(name, count, sql) {name, count, sql},
#include "admin.def"
#undef ACP_ADMIN
};

/* Makes the output independent of settings of the database and the role: moments in UTC, in ISO 8601. */
static bool speak_plainly(struct acp_db_conn *conn, struct acp_db_error *error)
{
	static const char sql[] =
		"SELECT set_config('timezone', 'UTC', false), set_config('datestyle', 'ISO, YMD', false),"
		" set_config('intervalstyle', 'postgres', false)";
	return acp_db_exec(conn, sql, 0, NULL, 0, NULL, error) == ACP_DB_OK;
}

struct acp_admin *acp_admin_open(const struct acp_config *config, char *why, size_t why_size)
{
	struct acp_db_error error;
	if (!*config->database_url) {
		snprintf(why, why_size, "%s", acp_config_no_database());
		return NULL;
	}
	struct acp_admin *admin = calloc(1, sizeof *admin);
	if (!admin) {
		snprintf(why, why_size, "out of memory");
		return NULL;
	}
	const struct acp_db_limits limits = {.connect_timeout_s = (int)config->db_connect_timeout,
					     .timeout_ms = MINUTE_MS,
					     .commit_timeout_ms = MINUTE_MS};
	admin->conn = acp_db_connect(config->database_url, &limits, &error);
	admin->timeout_ms = MINUTE_MS;
	if (admin->conn && speak_plainly(admin->conn, &error))
		return admin;
	snprintf(why, why_size, "%s", error.message);
	acp_db_close(admin->conn);
	free(admin);
	return NULL;
}

void acp_admin_close(struct acp_admin *admin)
{
	if (admin) {
		acp_db_close(admin->conn);
		json_object_put(admin->columns);
	}
	free(admin);
}

void acp_admin_patient(struct acp_admin *admin)
{
	admin->timeout_ms = DAYS_MS;
}

enum { OID_BOOL = 16, OID_INT8 = 20, OID_INT4 = 23, OID_JSON = 114, OID_NUMERIC = 1700, OID_JSONB = 3802 };

/* A sum of quantities is numeric, because it has no limit. It is shown as a number like any count; amounts of money are
 * shown as text. */
static bool is_quantity(const char *column)
{
	size_t len = strlen(column);
	return strcmp(column, "units") == 0 || (len >= 8 && strcmp(column + len - 8, "quantity") == 0);
}

static struct json_object *value_of(const PGresult *rows, int row, int column)
{
	const char *text = PQgetvalue(rows, row, column);
	if (PQgetisnull(rows, row, column))
		return NULL;
	switch (PQftype(rows, column)) {
	case OID_BOOL: return json_object_new_boolean(*text == 't');
	case OID_INT4:
	case OID_INT8: return json_object_new_int64(strtoll(text, NULL, 10));
	case OID_JSON:
	case OID_JSONB: return acp_json_own(text);
	case OID_NUMERIC: return is_quantity(PQfname(rows, column)) ? acp_json_own(text) : json_object_new_string(text);
	default: return json_object_new_string(text);
	}
}

static struct json_object *rows_to_json(const PGresult *rows)
{
	struct json_object *list = json_object_new_array();
	for (int row = 0; list && row < PQntuples(rows); row++) {
		struct json_object *object = json_object_new_object();
		for (int column = 0; object && column < PQnfields(rows); column++)
			json_object_object_add(object, PQfname(rows, column), value_of(rows, row, column));
		json_object_array_add(list, object);
	}
	return list;
}

static void note_columns(struct acp_admin *admin, const PGresult *rows)
{
	json_object_put(admin->columns);
	admin->columns = json_object_new_array();
	for (int column = 0; admin->columns && column < PQnfields(rows); column++)
		json_object_array_add(admin->columns, json_object_new_string(PQfname(rows, column)));
}

struct json_object *acp_admin_columns(const struct acp_admin *admin)
{
	return admin->columns;
}

static const struct statement *find(const char *name)
{
	for (size_t i = 0; i < ACP_COUNT(statements); i++)
		if (strcmp(statements[i].name, name) == 0)
			return &statements[i];
	abort(); /* a name missing from admin.def is a bug */
}

static bool begins(const char *text, const char *with)
{
	return strncmp(text, with, strlen(with)) == 0;
}

/* Returns the role that may run a statement. */
static const char *role_of(const char *name)
{
	if (begins(name, "report ") || strcmp(name, "drift") == 0)
		return "acp_report";
	bool owner = begins(name, "price add") || begins(name, "archive ") || begins(name, "erase ");
	return owner ? "acp_owner" : "acp_app";
}

/* Explains an error, with a hint if the role or the schema is wrong. */
static void explain(enum acp_db_status status, const struct acp_db_error *error, const char *name, char *why,
		    size_t why_size)
{
	if (status == ACP_DB_UNKNOWN) {
		snprintf(why, why_size,
			 "%s; it is not known whether this was done: check before you run the command again",
			 error->message);
		return;
	}
	if (strcmp(error->sqlstate, "42501") == 0) {
		snprintf(why, why_size,
			 "%s (make the role of database_url a member of %s, or use another role: acpctl(8), ROLES)",
			 error->message, role_of(name));
		return;
	}
	if (strcmp(error->sqlstate, "22007") == 0 || strcmp(error->sqlstate, "22008") == 0) {
		snprintf(why, why_size, "%s (give a time as 2026-11-01 or 2026-11-01T08:00:00Z)", error->message);
		return;
	}
	bool missing = strcmp(error->sqlstate, "42P01") == 0 || strcmp(error->sqlstate, "3F000") == 0 ||
		       strcmp(error->sqlstate, "42883") == 0;
	snprintf(why, why_size, "%s%s", error->message, missing ? " (run acpctl migrate)" : "");
}

/* A statement outside an open transaction is its own transaction. */
static enum acp_db_status run(struct acp_admin *admin, const struct statement *statement, const char *const *values,
			      PGresult **rows, struct acp_db_error *error)
{
	if (strcmp(statement->name, "commit") == 0)
		return acp_db_commit(admin->conn, error);
	if (begins(statement->sql, "BEGIN") || acp_db_in_transaction(admin->conn))
		return acp_db_exec(admin->conn, statement->sql, statement->count, values, admin->timeout_ms, rows,
				   error);
	return acp_db_transact(admin->conn, statement->sql, statement->count, values, admin->timeout_ms, rows, error);
}

struct json_object *acp_admin_query(struct acp_admin *admin, const char *name, const char *const *values, char *why,
				    size_t why_size)
{
	struct acp_db_error error;
	PGresult *rows = NULL;
	const struct statement *statement = find(name);
	enum acp_db_status status = run(admin, statement, values, &rows, &error);
	if (status != ACP_DB_OK) {
		explain(status, &error, name, why, why_size);
		return NULL;
	}
	struct json_object *list = rows_to_json(rows);
	note_columns(admin, rows);
	PQclear(rows);
	if (!list)
		snprintf(why, why_size, "out of memory");
	return list;
}

enum { MAX_STREAM_COLUMNS = 16 };

/* Passes the rows of one batch to each(). False: each() stopped. */
static bool each_row(const PGresult *rows, acp_admin_row *each, void *arg)
{
	const char *columns[MAX_STREAM_COLUMNS] = {0};
	for (int row = 0; row < PQntuples(rows); row++) {
		for (int i = 0; i < PQnfields(rows) && i < MAX_STREAM_COLUMNS; i++)
			columns[i] = PQgetisnull(rows, row, i) ? NULL : PQgetvalue(rows, row, i);
		if (!each(arg, columns))
			return false;
	}
	return true;
}

bool acp_admin_stream(struct acp_admin *admin, const char *name, const char *const *values, acp_admin_row *each,
		      void *arg, char *why, size_t why_size)
{
	struct acp_db_error error;
	const struct statement *statement = find(name);
	bool more = true;
	*why = '\0';
	enum acp_db_status status =
		acp_db_exec(admin->conn, statement->sql, statement->count, values, DAYS_MS, NULL, &error);
	while (more && status == ACP_DB_OK) {
		PGresult *rows = NULL;
		status = acp_db_exec(admin->conn, "FETCH 2000 FROM acp_stream", 0, NULL, DAYS_MS, &rows, &error);
		if (status != ACP_DB_OK)
			break;
		more = PQntuples(rows) > 0;
		bool on = each_row(rows, each, arg);
		PQclear(rows);
		if (!on)
			return false;
	}
	if (status == ACP_DB_OK)
		status = acp_db_exec(admin->conn, "CLOSE acp_stream", 0, NULL, 0, NULL, &error);
	if (status != ACP_DB_OK)
		explain(status, &error, name, why, why_size);
	return status == ACP_DB_OK;
}

bool acp_admin_seal(struct acp_admin *admin, const struct acp_config *config, int64_t *id, int64_t *rows, char hash[65],
		    char *why, size_t why_size)
{
	struct acp_db_error error;
	struct acp_seal_made made;
	enum acp_db_status status = acp_seal_make(admin->conn, config, -1, &made, &error);
	if (status != ACP_DB_OK) {
		explain(status, &error, "seal", why, why_size);
		return false;
	}
	*id = made.id;
	*rows = made.rows;
	snprintf(hash, 65, "%s", made.hash);
	return true;
}
