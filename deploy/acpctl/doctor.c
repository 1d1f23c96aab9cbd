/* doctor.c - acpctl migrate and acpctl doctor. */
#include "acpctl.h"

#include "actions_dir.h"
#include "outbound.h"
#include "pg_plane.h"

#include <stdarg.h>
#include <time.h>

int ctl_migrate(struct ctl *ctl)
{
	char why[2048];
	if (!ctl_options(ctl, NULL, 0, NULL, NULL))
		return ACPCTL_USAGE;
	if (!acp_migrate(&ctl->config, stdout, why, sizeof why))
		return ctl_fail("migrate: %s", why);
	return ACPCTL_OK;
}

/* One line a check: "ok" or what is wrong and what to do. */
static int problems;

static void say(bool good, const char *what, const char *format, ...) ACP_PRINTF(3, 4);

static void say(bool good, const char *what, const char *format, ...)
{
	va_list args;
	problems += !good;
	printf("%-5s %-22s ", good ? "ok" : "WRONG", what);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
}

static void check_configuration(const struct ctl *ctl)
{
	const struct acp_config *config = &ctl->config;
	say(*config->key_pepper != '\0', "key_pepper", "%s",
	    *config->key_pepper
		    ? "set"
		    : "not set: put key_pepper_file = PATH into acp.conf; make one with: openssl rand -hex 32");
	bool local = strstr(config->public_url, "//127.0.0.1") || strstr(config->public_url, "//localhost");
	bool secure = strncmp(config->public_url, "https://", 8) == 0 || local;
	say(secure, "public_url", "%s%s", config->public_url,
	    secure ? "" : ": API keys travel in clear over http; mount it under https");
}

static void check_server(struct ctl *ctl)
{
	struct json_object *rows = ctl_query(ctl, "server", NULL);
	if (!rows)
		return;
	const char *fsync = json_object_get_string(ctl_value(rows, "fsync"));
	const char *commit = json_object_get_string(ctl_value(rows, "synchronous_commit"));
	say(!json_object_get_boolean(ctl_value(rows, "standby")), "PostgreSQL", "%s as %s%s",
	    json_object_get_string(ctl_value(rows, "version")), json_object_get_string(ctl_value(rows, "role")),
	    json_object_get_boolean(ctl_value(rows, "standby"))
		    ? ": a standby; name the primary, or add target_session_attrs=read-write"
		    : "");
	bool durable = strcmp(fsync, "on") == 0 && strcmp(commit, "off") != 0;
	say(durable, "durability", "fsync %s, synchronous_commit %s%s", fsync, commit,
	    durable ? "" : ": an answered call may be lost in a crash; set both on");
	const char *encoding = json_object_get_string(ctl_value(rows, "encoding"));
	say(strcmp(encoding, "UTF8") == 0, "encoding", "%s%s", encoding,
	    strcmp(encoding, "UTF8") == 0 ? "" : ": create the database with ENCODING 'UTF8'");
	json_object_put(rows);
}

static bool check_schema(struct ctl *ctl)
{
	struct json_object *rows = ctl_query(ctl, "schema version", NULL);
	if (!rows) {
		say(false, "schema", "missing: run acpctl migrate");
		return false;
	}
	int64_t version = json_object_get_int64(ctl_value(rows, "version"));
	int64_t breaking = json_object_get_int64(ctl_value(rows, "breaking"));
	json_object_put(rows);
	bool good = version >= ACP_SCHEMA_VERSION && breaking <= ACP_SCHEMA_VERSION;
	say(good, "schema", "version %lld%s", (long long)version,
	    good                           ? ""
	    : version < ACP_SCHEMA_VERSION ? ": run acpctl migrate"
					   : ": newer than this program, upgrade acp-fcgi");
	return good;
}

static void check_tables(struct ctl *ctl)
{
	struct json_object *rows = ctl_query(ctl, "audit rights", NULL);
	if (rows) {
		bool good = json_object_get_boolean(ctl_value(rows, "can_insert")) &&
			    !json_object_get_boolean(ctl_value(rows, "can_change"));
		say(good, "rights of acp_app", "%s",
		    good ? "may append to audit_logs, not change it"
			 : "wrong on audit_logs: run acpctl migrate as its owner");
		json_object_put(rows);
	}
	rows = ctl_query(ctl, "partitions ahead", NULL);
	if (rows) {
		int64_t months = json_object_get_int64(ctl_value(rows, "months"));
		say(months >= 2, "partitions", "%lld months ahead%s", (long long)months,
		    months >= 2 ? "" : ": start acp.fcgi or run acpctl migrate");
		json_object_put(rows);
	}
	rows = ctl_query(ctl, "drift", NULL);
	if (rows) {
		int64_t differences = json_object_get_int64(ctl_value(rows, "differences"));
		say(differences == 0, "counters = audit rows", "%lld differences%s", (long long)differences,
		    differences ? ": select * from acp_report.usage_drift shows them" : "");
		json_object_put(rows);
	}
}

static void check_clock(struct ctl *ctl)
{
	struct json_object *rows = ctl_query(ctl, "clock", NULL);
	if (!rows)
		return;
	int64_t skew = json_object_get_int64(ctl_value(rows, "epoch")) - (int64_t)time(NULL);
	int64_t offset = json_object_get_int64(ctl_value(rows, "offset_seconds"));
	say(skew > -5 &&
			    skew<5, "clock", "%s, database and this host differ by %lld s%s",
				    json_object_get_string(ctl_value(rows, "now")), (long long)skew, skew> -
				    5 &&
			    skew < 5
		    ? ""
		    : ": run an NTP client on both");
	say(offset == 0, "clock offset", "%lld s%s", (long long)offset,
	    offset == 0 ? "" : ": acp.clock_offset is for tests; ALTER DATABASE … RESET acp.clock_offset");
	json_object_put(rows);
}

/* The function of an action of kind sql: there, of the right type, and acp.fcgi may call it. */
static void check_function(struct ctl *ctl, const struct acp_action *action)
{
	const char *values[] = {action->sql_function};
	struct json_object *rows = ctl_query(ctl, "handler function", values);
	if (!rows)
		return;
	if (json_object_array_length(rows) == 0)
		say(false, action->name, "there is no function %s(uuid, jsonb, jsonb): create it",
		    action->sql_function);
	else if (!json_object_get_boolean(ctl_value(rows, "gives_json")))
		say(false, action->name, "%s must return jsonb, one value", action->sql_function);
	else if (!json_object_get_boolean(ctl_value(rows, "app_may")))
		say(false, action->name,
		    "acp_app may not call %s: grant it USAGE on the schema and EXECUTE on the function",
		    action->sql_function);
	else
		say(true, action->name, "%s", action->sql_function);
	json_object_put(rows);
}

/* NULL when there are none to check. */
static struct acp_actions *check_actions(const struct ctl *ctl)
{
	char why[1024];
	size_t count = 0;
	if (!*ctl->config.actions_dir)
		return NULL;
	struct acp_actions *actions = acp_actions_load(&ctl->config, why, sizeof why);
	while (actions && acp_actions_at(actions, count))
		count++;
	if (actions)
		say(true, "actions_dir", "%zu action%s in %s", count, count == 1 ? "" : "s", ctl->config.actions_dir);
	else
		say(false, "actions_dir", "%s", why);
	return actions;
}

static void check_functions(struct ctl *ctl, const struct acp_actions *actions)
{
	for (size_t i = 0; actions && acp_actions_at(actions, i); i++)
		if (acp_actions_at(actions, i)->sql_function)
			check_function(ctl, acp_actions_at(actions, i));
}

/* Status code of GET url + path, or -1 with the reason. */
static int ask(const char *url, const char *path, char why[256])
{
	char whole[2048];
	struct acp_outbound_reply reply;
	const struct acp_outbound_request request = {.method = "GET",
						     .url = whole,
						     .connect_timeout_ms = 3000,
						     .timeout_ms = 10000,
						     .max_reply = 65536,
						     .allow_private = true,
						     .allow_http = true};
	snprintf(whole, sizeof whole, "%s%s", url, path);
	int status = acp_outbound_send(&request, &reply) == ACP_OUTBOUND_REPLIED ? reply.status : -1;
	snprintf(why, 256, "%s", reply.error);
	acp_buf_release(&reply.body);
	return status;
}

/* From outside, as clients see it. */
static void check_mount(const char *url)
{
	char why[256];
	int status = ask(url, "/healthz", why);
	if (status == 200)
		say(true, "GET /healthz", "200");
	else if (status < 0)
		say(false, "GET /healthz", "%s: is the web server up?", why);
	else
		say(false, "GET /healthz", "%d: is this path mapped to acp.fcgi?", status);
	if (status != 200)
		return;
	status = ask(url, "/readyz", why);
	say(status == 200, "GET /readyz", "%d%s", status, status == 200 ? "" : ": the log of acp.fcgi says why");
}

int ctl_doctor(struct ctl *ctl)
{
	struct ctl_option options[] = {{"--url", false, NULL}};
	if (!ctl_options(ctl, options, ACP_COUNT(options), NULL, NULL))
		return ACPCTL_USAGE;
	problems = 0;
	check_configuration(ctl);
	struct acp_actions *actions = check_actions(ctl);
	struct json_object *rows = ctl_query(ctl, "server", NULL);
	say(rows != NULL, "database", "%s",
	    rows ? "reachable" : "not reachable: check database_url and that PostgreSQL runs");
	json_object_put(rows);
	if (rows) {
		check_server(ctl);
		if (check_schema(ctl)) {
			check_tables(ctl);
			check_clock(ctl);
			check_functions(ctl, actions);
		}
	}
	acp_actions_free(actions);
	if (options[0].value)
		check_mount(options[0].value);
	printf(problems ? "%d problem%s\n" : "no problems\n", problems, problems == 1 ? "" : "s");
	return problems ? ACPCTL_FAILED : ACPCTL_OK;
}
