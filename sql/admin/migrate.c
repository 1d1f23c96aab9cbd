#include "migrate.h"

#include "buf.h"
#include "crypto.h"
#include "db.h"
#include "pg_plane.h"

#include <dirent.h>
#include <errno.h>

enum { TEN_MINUTES_MS = 600000 };

/* State of one run. */
struct run {
	const struct acp_config *config;
	struct acp_db_conn *conn;
	FILE *out;
	char *why;
	size_t why_size;
	bool changed;
};

static bool complain(struct run *run, const char *format, ...) ACP_PRINTF(2, 3);

static bool complain(struct run *run, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(run->why, run->why_size, format, args);
	va_end(args);
	return false;
}

static bool read_sql(struct run *run, const char *path, struct acp_buf *text)
{
	char block[8192];
	size_t got;
	FILE *file = fopen(path, "re");
	if (!file)
		return complain(run, "%s: %s", path, strerror(errno));
	while ((got = fread(block, 1, sizeof block, file)) > 0)
		acp_buf_add(text, block, got);
	bool ok = !ferror(file) && acp_buf_ok(text);
	fclose(file);
	return ok || complain(run, "%s: cannot be read", path);
}

static void checksum_of(const struct acp_buf *text, char hex[ACP_SHA256_HEX])
{
	uint8_t hash[ACP_SHA256_LEN];
	acp_sha256(text->ptr, text->len, hash);
	acp_hex(hash, sizeof hash, hex);
}

static int is_sql(const struct dirent *entry)
{
	size_t len = strlen(entry->d_name);
	return len > 4 && strcmp(entry->d_name + len - 4, ".sql") == 0;
}

/* Calls each(run, path, file name) for the .sql files of a folder, in name order. */
static bool each_file(struct run *run, const char *folder,
		      bool (*each)(struct run *, const char *, const char *, void *), void *arg)
{
	char dir[4096];
	struct dirent **names = NULL;
	snprintf(dir, sizeof dir, "%s/%s", run->config->sql_dir, folder);
	int count = scandir(dir, &names, is_sql, alphasort);
	if (count < 0)
		return complain(run, "%s: %s (setting sql_dir)", dir, strerror(errno));
	bool ok = count > 0 || complain(run, "%s: has no .sql file (setting sql_dir)", dir);
	for (int i = 0; i < count; i++) {
		char path[4400];
		snprintf(path, sizeof path, "%s/%s", dir, names[i]->d_name);
		ok = ok && each(run, path, names[i]->d_name, arg);
		free(names[i]);
	}
	free(names);
	return ok;
}

static bool script(struct run *run, const char *what, const char *sql)
{
	struct acp_db_error error;
	if (acp_db_script(run->conn, sql, &error) == ACP_DB_OK)
		return true;
	complain(run, "%s: %s%s%s%s%s", what, error.message, *error.detail ? ": " : "", error.detail,
		 *error.hint ? "; " : "", error.hint);
	return false;
}

/* Fetches the first column of the first row; "" if there is no row. */
static bool fetch(struct run *run, const char *sql, const char *parameter, char *out, size_t size)
{
	struct acp_db_error error;
	PGresult *rows = NULL;
	const char *values[] = {parameter};
	if (acp_db_exec(run->conn, sql, parameter ? 1 : 0, values, 0, &rows, &error) != ACP_DB_OK)
		return complain(run, "%s", error.message);
	snprintf(out, size, "%s", PQntuples(rows) ? PQgetvalue(rows, 0, 0) : "");
	PQclear(rows);
	return true;
}

/* Each step is its own transaction and takes the lock: session settings and locks would stay in the connections of a
 * pooler (PgBouncer in transaction mode). A failure ends the run and closes the connection, which rolls back. */
static bool begin(struct run *run)
{
	return script(run, "lock",
		      "BEGIN; SET LOCAL client_min_messages = warning; SET LOCAL search_path = pg_catalog, pg_temp;"
		      " SELECT pg_advisory_xact_lock(7236459001)");
}

static bool commit(struct run *run, const char *what)
{
	return script(run, what, "COMMIT");
}

/* Creates the register of migrations under the lock, if it is missing. */
static bool make_register(struct run *run)
{
	static const char sql[] =
		"CREATE SCHEMA IF NOT EXISTS acp;"
		"CREATE TABLE IF NOT EXISTS acp.schema_migrations (version integer PRIMARY KEY, name text NOT NULL,"
		" sha256 text NOT NULL, breaking boolean NOT NULL, applied_at timestamptz NOT NULL DEFAULT now());"
		"COMMENT ON TABLE acp.schema_migrations IS 'Applied migrations; version 0: the functions "
		"and views.';"
		"COMMENT ON COLUMN acp.schema_migrations.version IS 'Number of the file.';"
		"COMMENT ON COLUMN acp.schema_migrations.name IS 'Name of the file.';"
		"COMMENT ON COLUMN acp.schema_migrations.sha256 IS 'SHA-256 of its bytes: an applied migration must "
		"not be edited.';"
		"COMMENT ON COLUMN acp.schema_migrations.breaking IS 'Programs that do not know it must not run.';"
		"COMMENT ON COLUMN acp.schema_migrations.applied_at IS 'Time of the migration.';";
	char there[8];
	if (!fetch(run, "SELECT to_regclass('acp.schema_migrations') IS NOT NULL", NULL, there, sizeof there))
		return false;
	return *there == 't' || script(run, "schema_migrations", sql);
}

/* Refuses a database that a newer, incompatible program has migrated. */
static bool check_newer(struct run *run)
{
	char version[24];
	if (!fetch(run, "SELECT coalesce(max(version), 0) FROM acp.schema_migrations WHERE breaking", NULL, version,
		   sizeof version))
		return false;
	if (strtol(version, NULL, 10) <= ACP_SCHEMA_VERSION)
		return true;
	return complain(
		run,
		"the database has the breaking migration %s, this program knows migrations up to %d: upgrade acp-fcgi",
		version, ACP_SCHEMA_VERSION);
}

static bool apply(struct run *run, const char *name, long version, const struct acp_buf *text, const char *checksum)
{
	struct acp_buf sql;
	const char *breaking = strncmp(text->ptr, "-- breaking: yes", 16) == 0 ? "true" : "false";
	fprintf(run->out, "migration %s\n", name);
	fflush(run->out);
	acp_buf_init(&sql, (size_t)16 << 20);
	acp_buf_add(&sql, text->ptr, text->len);
	/* RESET ROLE: the migrating user owns the register. The name has only digits, letters, - and _. */
	acp_buf_printf(&sql,
		       "\nRESET ROLE; INSERT INTO acp.schema_migrations (version, name, sha256, breaking)"
		       " VALUES (%ld, '%s', '%s', %s);",
		       version, name, checksum, breaking);
	bool ok = acp_buf_ok(&sql) && script(run, name, sql.ptr);
	acp_buf_release(&sql);
	run->changed = true;
	return ok;
}

static bool migrate_file(struct run *run, const char *path, const char *name, void *arg)
{
	(void)arg;
	char number[24], stored[ACP_SHA256_HEX + 1], checksum[ACP_SHA256_HEX];
	char *end = NULL;
	long version = strtol(name, &end, 10);
	if (version < 1 || *end != '_' || strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-.") != strlen(name))
		return complain(run, "%s: the name must be NNNN_words.sql", path);
	if (version > ACP_SCHEMA_VERSION)
		return complain(run,
				"%s: this program knows migrations up to %d; sql_dir has the files of another "
				"version",
				path, ACP_SCHEMA_VERSION);
	struct acp_buf text;
	acp_buf_init(&text, (size_t)8 << 20);
	snprintf(number, sizeof number, "%ld", version);
	bool ok = read_sql(run, path, &text) && begin(run) &&
		  fetch(run, "SELECT sha256 FROM acp.schema_migrations WHERE version = $1", number, stored,
			sizeof stored);
	if (ok) {
		checksum_of(&text, checksum);
		if (!*stored)
			ok = apply(run, name, version, &text, checksum);
		else if (strcmp(stored, checksum) != 0)
			ok = complain(
				run,
				"%s was changed after it had been applied; migrations are never edited, add a new one",
				path);
	}
	acp_buf_release(&text);
	return ok && commit(run, name);
}

static bool append_file(struct run *run, const char *path, const char *name, void *arg)
{
	(void)name;
	return read_sql(run, path, arg);
}

/* Runs functions and views again in one transaction, if their bytes differ from the last run. */
static bool rerun_functions(struct run *run)
{
	char stored[ACP_SHA256_HEX + 1], checksum[ACP_SHA256_HEX];
	struct acp_buf text;
	acp_buf_init(&text, (size_t)16 << 20);
	acp_buf_puts(&text, "SET LOCAL ROLE acp_owner;\n");
	bool ok = each_file(run, "functions", append_file, &text) && each_file(run, "reports", append_file, &text) &&
		  begin(run) && check_newer(run) &&
		  fetch(run, "SELECT sha256 FROM acp.schema_migrations WHERE version = 0", NULL, stored, sizeof stored);
	checksum_of(&text, checksum);
	if (ok && strcmp(stored, checksum) != 0) {
		fprintf(run->out, "functions and views\n");
		acp_buf_printf(&text,
			       "\nRESET ROLE; INSERT INTO acp.schema_migrations (version, name, sha256, breaking)"
			       " VALUES (0, 'functions and views', '%s', false) ON CONFLICT (version)"
			       " DO UPDATE SET sha256 = excluded.sha256, applied_at = now();"
			       "GRANT SELECT ON acp.schema_migrations TO acp_app;",
			       checksum);
		ok = acp_buf_ok(&text) && script(run, "functions", text.ptr);
		run->changed = true;
	}
	acp_buf_release(&text);
	return ok && commit(run, "functions");
}

/* With the search_path a login as acp_report can read `from audit_logs` without a schema name. JIT is off for the
 * roles: audit_logs has a partition for each month, so PostgreSQL would compile the queries of reports and of the proof
 * for a second or more, to run them for milliseconds. Both need rights over the roles. Without these rights everything
 * works, but slower and with schema names. */
static bool set_up_roles(struct run *run)
{
	static const char sql[] =
		"DO $$ BEGIN "
		"EXECUTE format('ALTER ROLE acp_report IN DATABASE %I SET search_path = acp_report, pg_catalog', "
		"current_database()); "
		"EXECUTE format('ALTER ROLE acp_report IN DATABASE %I SET jit = off', current_database()); "
		"EXECUTE format('ALTER ROLE acp_app IN DATABASE %I SET jit = off', current_database()); "
		"EXCEPTION WHEN insufficient_privilege THEN NULL; END $$";
	return !run->changed ||
	       (begin(run) && script(run, "settings of the roles", sql) && commit(run, "settings of the roles"));
}

static bool migrate_all(struct run *run)
{
	char made[24];
	if (!begin(run) || !make_register(run) || !check_newer(run) || !commit(run, "schema_migrations") ||
	    !each_file(run, "migrations", migrate_file, NULL) || !rerun_functions(run) || !set_up_roles(run))
		return false;
	if (!begin(run) || !fetch(run, "SELECT acp.ensure_partitions(acp.now(), 12)", NULL, made, sizeof made) ||
	    !commit(run, "audit partitions"))
		return false;
	if (strcmp(made, "0") != 0)
		fprintf(run->out, "audit partitions made: %s\n", made);
	fprintf(run->out,
		run->changed ? "the schema is now at version %d\n" : "the schema is up to date (version %d)\n",
		ACP_SCHEMA_VERSION);
	return true;
}

bool acp_migrate(const struct acp_config *config, FILE *out, char *why, size_t why_size)
{
	struct acp_db_error error;
	struct run run = {.config = config, .out = out, .why = why, .why_size = why_size};
	if (!*config->database_url)
		return complain(&run, "%s", acp_config_no_database());
	const struct acp_db_limits limits = {.connect_timeout_s = (int)config->db_connect_timeout,
					     .timeout_ms = TEN_MINUTES_MS,
					     .commit_timeout_ms = TEN_MINUTES_MS};
	run.conn = acp_db_connect(config->database_url, &limits, &error);
	if (!run.conn)
		return complain(&run, "%s", error.message);
	bool ok = migrate_all(&run);
	acp_db_close(run.conn);
	return ok;
}
