/* admin.c - acpctl's door to the database: named statements in, rows as JSON out. */
#include "migrate.h"

#include "db.h"
#include "json.h"

struct acp_admin {
	struct acp_db_conn *conn;
};

static const struct statement {
	const char *name;
	int count;
	const char *sql;
} statements[] = {
#define ACP_ADMIN(name, count, sql) {name, count, sql},
#include "admin.def"
#undef ACP_ADMIN
};

struct acp_admin *acp_admin_open(const struct acp_config *config, char *why, size_t why_size)
{
	struct acp_db_error error;
	if (!*config->database_url) {
		snprintf(why, why_size,
			 "database_url is not set: put it into the configuration file or into ACP_DATABASE_URL");
		return NULL;
	}
	struct acp_admin *admin = calloc(1, sizeof *admin);
	if (!admin) {
		snprintf(why, why_size, "out of memory");
		return NULL;
	}
	admin->conn = acp_db_connect(config->database_url, (int)config->db_connect_timeout, 60000, &error);
	if (admin->conn)
		return admin;
	snprintf(why, why_size, "%s", error.message);
	free(admin);
	return NULL;
}

void acp_admin_close(struct acp_admin *admin)
{
	if (admin)
		acp_db_close(admin->conn);
	free(admin);
}

enum { OID_BOOL = 16, OID_INT8 = 20, OID_INT4 = 23, OID_JSON = 114, OID_JSONB = 3802 };

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
	case OID_JSONB: return json_tokener_parse(text);
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

static const struct statement *find(const char *name)
{
	for (size_t i = 0; i < ACP_COUNT(statements); i++)
		if (strcmp(statements[i].name, name) == 0)
			return &statements[i];
	abort(); /* a name that is not in admin.def is a fault of the program */
}

struct json_object *acp_admin_query(struct acp_admin *admin, const char *name, const char *const *values, char *why,
				    size_t why_size)
{
	struct acp_db_error error;
	PGresult *rows = NULL;
	const struct statement *statement = find(name);
	if (acp_db_exec(admin->conn, statement->sql, statement->count, values, 0, &rows, &error) != ACP_DB_OK) {
		bool missing = strcmp(error.sqlstate, "42P01") == 0 || strcmp(error.sqlstate, "3F000") == 0 ||
			       strcmp(error.sqlstate, "42883") == 0;
		snprintf(why, why_size, "%s%s", error.message, missing ? " (run acpctl migrate)" : "");
		return NULL;
	}
	struct json_object *list = rows_to_json(rows);
	PQclear(rows);
	if (!list)
		snprintf(why, why_size, "out of memory");
	return list;
}
