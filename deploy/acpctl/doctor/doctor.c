/* doctor.c - acpctl migrate and acpctl doctor. */
#include "doctor.h"

#include "actions_dir.h"
#include "journal.h"
#include "pg_plane.h"
#include "stripe_lists.h"

#include <errno.h>
#include <pwd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

int ctl_migrate(struct ctl *ctl)
{
	char why[2048];
	if (!acp_migrate(&ctl->config, stdout, why, sizeof why))
		return ctl_fail("migrate: %s", why);
	return ACPCTL_OK;
}

static void check_configuration(const struct ctl *ctl)
{
	const struct acp_config *config = &ctl->config;
	ctl_check(*config->key_pepper != '\0', "key_pepper", "%s",
		  *config->key_pepper ? "set"
				      : "not set: write key_pepper_file = PATH into acp.conf; create the file with: "
					"openssl rand -hex 32");
	bool local = strstr(config->public_url, "//127.0.0.1") || strstr(config->public_url, "//localhost");
	bool secure = strncmp(config->public_url, "https://", 8) == 0 || local;
	ctl_check(secure, "public_url", "%s%s", config->public_url,
		  secure ? "" : ": http sends API keys in clear; use https");
}

struct waiting {
	long long events, bad;
};

static void count_waiting(void *arg, const struct acp_journal_file *file)
{
	struct waiting *waiting = arg;
	waiting->events += file->bad ? 0 : file->events;
	waiting->bad += file->bad;
}

/* Waiting events are not a fault: acp.fcgi stores them when PostgreSQL is back. */
static void check_journal(const struct ctl *ctl)
{
	char why[512];
	struct waiting waiting = {0, 0};
	const char *dir = ctl->config.journal_dir;
	if (!*dir)
		ctl_check(true, "journal", "off: calls are refused while PostgreSQL is not reachable");
	else if (!acp_journal_survey(dir, count_waiting, &waiting, why, sizeof why))
		ctl_check(false, "journal", "%s", why);
	else if (waiting.bad)
		ctl_check(false, "journal", "%lld files *.bad in %s: see acpctl journal in acpctl(8)", waiting.bad,
			  dir);
	else
		ctl_check(true, "journal", "%lld events wait in %s", waiting.events, dir);
}

static const char *name_of(uid_t uid, char name[64])
{
	const struct passwd *user = getpwuid(uid);
	snprintf(name, 64, user ? "%s" : "%.0s%u", user ? user->pw_name : "", (unsigned)uid);
	return name;
}

/* Only the user of acp.fcgi can tell whether acp.fcgi may write there; root can at least see the owner. */
static void check_journal_dir(const struct ctl *ctl)
{
	struct stat status;
	struct statvfs room;
	char owner[64];
	const char *dir = ctl->config.journal_dir;
	if (!*dir)
		return;
	if (stat(dir, &status) != 0 && errno == ENOENT) {
		ctl_check(true, "journal_dir", "%s: acp.fcgi creates it when it starts", dir);
		return;
	}
	if (statvfs(dir, &room) != 0) {
		ctl_check(false, "journal_dir", "%s: %s", dir, strerror(errno));
		return;
	}
	name_of(status.st_uid, owner);
	unsigned long long left = (unsigned long long)room.f_bavail * room.f_frsize;
	if (geteuid() != 0 && access(dir, W_OK) != 0)
		ctl_check(false, "journal_dir", "%s belongs to %s: acp.fcgi and acpctl doctor must run as that user",
			  dir, owner);
	else if (left < (unsigned long long)ctl->config.journal_max_bytes)
		ctl_check(false, "journal_dir", "%s has room for %llu bytes, less than journal_max_bytes = %lld", dir,
			  left, (long long)ctl->config.journal_max_bytes);
	else
		ctl_check(true, "journal_dir", "%s, of %s, has %llu MiB left", dir, owner, left >> 20);
}

static void check_server(struct ctl *ctl)
{
	struct json_object *rows = ctl_query(ctl, "server", NULL);
	if (!rows)
		return;
	const char *fsync = json_object_get_string(ctl_value(rows, "fsync"));
	const char *commit = json_object_get_string(ctl_value(rows, "synchronous_commit"));
	ctl_check(!json_object_get_boolean(ctl_value(rows, "standby")), "PostgreSQL", "%s as %s%s",
		  json_object_get_string(ctl_value(rows, "version")), json_object_get_string(ctl_value(rows, "role")),
		  json_object_get_boolean(ctl_value(rows, "standby"))
			  ? ": a standby; name the primary, or add target_session_attrs=read-write"
			  : "");
	bool durable = strcmp(fsync, "on") == 0 && strcmp(commit, "off") != 0;
	ctl_check(durable, "durability", "fsync %s, synchronous_commit %s%s", fsync, commit,
		  durable ? "" : ": an answered call may be lost in a crash; set both on");
	const char *encoding = json_object_get_string(ctl_value(rows, "encoding"));
	ctl_check(strcmp(encoding, "UTF8") == 0, "encoding", "%s%s", encoding,
		  strcmp(encoding, "UTF8") == 0 ? "" : ": create the database with ENCODING 'UTF8'");
	json_object_put(rows);
}

static bool check_schema(struct ctl *ctl)
{
	struct json_object *rows = ctl_query(ctl, "schema version", NULL);
	if (!rows) {
		ctl_check(false, "schema", "missing: run acpctl migrate");
		return false;
	}
	int64_t version = json_object_get_int64(ctl_value(rows, "version"));
	int64_t breaking = json_object_get_int64(ctl_value(rows, "breaking"));
	json_object_put(rows);
	bool good = version >= ACP_SCHEMA_VERSION && breaking <= ACP_SCHEMA_VERSION;
	ctl_check(good, "schema", "version %lld%s", (long long)version,
		  good                           ? ""
		  : version < ACP_SCHEMA_VERSION ? ": run acpctl migrate"
						 : ": newer than this program, upgrade acp-fcgi");
	return good;
}

static void check_rights(struct json_object *rows)
{
	bool good = json_object_get_boolean(ctl_value(rows, "can_insert")) &&
		    !json_object_get_boolean(ctl_value(rows, "can_change"));
	ctl_check(good, "rights of acp_app", "%s",
		  good ? "may append to audit_logs and not change it"
		       : "wrong on audit_logs: run acpctl migrate as its owner");
	const char *role = json_object_get_string(ctl_value(rows, "role"));
	if (!json_object_get_boolean(ctl_value(rows, "is_app")))
		ctl_check(false, "rights of this role", "%s is not a member of acp_app: GRANT acp_app TO \"%s\"", role,
			  role);
	else if (json_object_get_boolean(ctl_value(rows, "is_super")))
		ctl_check(true, "rights of this role",
			  "%s is a superuser; let acp.fcgi connect as one that is only "
			  "acp_app",
			  role);
	else
		ctl_check(true, "rights of this role", "%s is a member of acp_app", role);
}

static void check_drift(struct ctl *ctl)
{
	/* These settings prevent PostgreSQL from spending seconds on compiling the statement. */
	bool ready = ctl_run(ctl, "begin", NULL) && ctl_run(ctl, "proof settings", NULL);
	struct json_object *rows = ready ? ctl_query(ctl, "drift", NULL) : NULL;
	ctl_run(ctl, "rollback", NULL);
	if (!rows)
		return;
	int64_t differences = json_object_get_int64(ctl_value(rows, "differences"));
	ctl_check(differences == 0, "counters = audit rows", "%lld differences%s", (long long)differences,
		  differences ? ": select * from acp_report.usage_drift shows them" : "");
	json_object_put(rows);
}

static void check_tables(struct ctl *ctl)
{
	struct json_object *rows = ctl_query(ctl, "audit rights", NULL);
	bool reports = json_object_get_boolean(ctl_value(rows, "may_report"));
	if (rows) {
		check_rights(rows);
		json_object_put(rows);
	}
	rows = ctl_query(ctl, "partitions ahead", NULL);
	if (rows) {
		int64_t months = json_object_get_int64(ctl_value(rows, "months"));
		ctl_check(months >= 2, "partitions", "%lld months ahead%s", (long long)months,
			  months >= 2 ? "" : ": start acp.fcgi or run acpctl migrate");
		json_object_put(rows);
	}
	if (reports)
		check_drift(ctl);
	else
		ctl_check_skipped("counters = audit rows", "not checked: this role is not a member of acp_report");
}

/* Finds policies of an older version, and those whose time zone the database no longer has. */
static void check_policies(struct ctl *ctl)
{
	struct json_object *rows = ctl_query(ctl, "policy faults", NULL);
	size_t count = rows ? json_object_array_length(rows) : 0;
	for (size_t i = 0; i < count; i++) {
		struct json_object *row = json_object_array_get_idx(rows, i);
		bool refuses = acp_json_bool(row, "refuses");
		ctl_check(false, "policy", "%s (%.200s): %s %s%s: add a correct policy, then acpctl policy disable %s",
			  acp_json_string(row, "policy_id"), acp_json_string(row, "name"),
			  acp_json_string(row, "place") + 1, acp_json_string(row, "why"),
			  refuses ? "; it cannot be evaluated, so the calls that it applies to are refused" : "",
			  acp_json_string(row, "policy_id"));
	}
	if (rows && !count)
		ctl_check(true, "policies", "all policies in force can be evaluated");
	json_object_put(rows);
}

/* Tenants whose invoice of a closed month cannot be made. */
static void check_blocked(struct ctl *ctl)
{
	struct json_object *rows = ctl_query(ctl, "billing blocked", NULL);
	size_t count = rows ? json_object_array_length(rows) : 0;
	for (size_t i = 0; i < count; i++) {
		struct json_object *row = json_object_array_get_idx(rows, i);
		long long tenants = (long long)json_object_get_int64(acp_json_member(row, "tenants"));
		ctl_check(false, "billing",
			  "%s: the invoices of %lld tenant%s cannot be made: acpctl billing list --status blocked",
			  acp_json_string(row, "period"), tenants, tenants == 1 ? "" : "s");
	}
	if (rows && !count)
		ctl_check(true, "billing", "no tenant is blocked");
	json_object_put(rows);
}

static void check_clock(struct ctl *ctl)
{
	struct json_object *rows = ctl_query(ctl, "clock", NULL);
	if (!rows)
		return;
	int64_t skew = json_object_get_int64(ctl_value(rows, "epoch")) - (int64_t)time(NULL);
	int64_t offset = json_object_get_int64(ctl_value(rows, "offset_seconds"));
	ctl_check(skew > -5 &&
				  skew<5, "clock", "%s, database and this host differ by %lld s%s",
					  json_object_get_string(ctl_value(rows, "now")), (long long)skew, skew> -
					  5 &&
				  skew < 5
			  ? ""
			  : ": run an NTP client on both");
	ctl_check(offset == 0, "clock offset", "%lld s%s", (long long)offset,
		  offset == 0 ? "" : ": acp.clock_offset is for tests; ALTER DATABASE … RESET acp.clock_offset");
	json_object_put(rows);
}

/* Checks the function of an action of kind sql: it exists, has the right type, and acp.fcgi may call it. */
static void check_function(struct ctl *ctl, const struct acp_action *action)
{
	const char *values[] = {action->sql_function};
	struct json_object *rows = ctl_query(ctl, "handler function", values);
	if (!rows)
		return;
	if (json_object_array_length(rows) == 0)
		ctl_check(false, action->name, "no such function: %s(uuid, jsonb, jsonb); create it",
			  action->sql_function);
	else if (!json_object_get_boolean(ctl_value(rows, "gives_json")))
		ctl_check(false, action->name, "%s must return jsonb, one value", action->sql_function);
	else if (!json_object_get_boolean(ctl_value(rows, "app_may")))
		ctl_check(false, action->name,
			  "acp_app may not call %s: grant it USAGE on the schema and EXECUTE on the function",
			  action->sql_function);
	else
		ctl_check(true, action->name, "%s", action->sql_function);
	json_object_put(rows);
}

/* Loads the actions. NULL: there are none to check. */
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
		ctl_check(true, "actions_dir", "%zu action%s in %s", count, count == 1 ? "" : "s",
			  ctl->config.actions_dir);
	else
		ctl_check(false, "actions_dir", "%s", why);
	return actions;
}

static void check_functions(struct ctl *ctl, const struct acp_actions *actions)
{
	for (size_t i = 0; actions && acp_actions_at(actions, i); i++)
		if (acp_actions_at(actions, i)->sql_function)
			check_function(ctl, acp_actions_at(actions, i));
}

/* Finds out whether the database lacks invoices that Stripe has, because it was restored, or a failover lost rows. */
static void check_stripe(struct ctl *ctl)
{
	enum { LOOKED_AT = 200 }; /* the newest invoices */
	struct ctl_stripe stripe;
	char why[512] = "";
	if (!ctl_stripe_configured(ctl) || *ctl->config.hub_url)
		return;
	bool open = ctl_stripe_open(ctl, &stripe, why, sizeof why);
	stripe.timeout_ms = 10000;
	struct json_object *unknown = open ? ctl_stripe_unknown(&stripe, 0, LOOKED_AT, why, sizeof why) : NULL;
	if (open)
		ctl_stripe_close(&stripe);
	size_t count = unknown ? json_object_array_length(unknown) : 0;
	struct json_object *first = count ? json_object_array_get_idx(unknown, 0) : NULL;
	if (!unknown)
		ctl_check(false, "Stripe", "the invoices there cannot be read: %s", why);
	else if (count)
		ctl_check(false, "Stripe",
			  "%zu invoice%s there %s unknown here, for example %s: was the database restored? See "
			  "docs/restore.md",
			  count, count == 1 ? "" : "s", count == 1 ? "is" : "are", acp_json_string(first, "invoice"));
	else
		ctl_check(true, "Stripe", "the newest invoices there are known here");
	json_object_put(unknown);
}

int ctl_doctor(struct ctl *ctl)
{
	ctl_checks_begin(ctl);
	check_configuration(ctl);
	check_journal(ctl);
	check_journal_dir(ctl);
	struct acp_actions *actions = check_actions(ctl);
	struct json_object *rows = ctl_query(ctl, "server", NULL);
	ctl_check(rows != NULL, "database", "%s",
		  rows ? "reachable" : "not reachable: check database_url and that PostgreSQL runs");
	json_object_put(rows);
	if (rows) {
		check_server(ctl);
		if (check_schema(ctl)) {
			check_tables(ctl);
			check_policies(ctl);
			check_blocked(ctl);
			doctor_prices(ctl);
			check_clock(ctl);
			check_stripe(ctl);
			check_functions(ctl, actions);
		}
	}
	acp_actions_free(actions);
	if (ctl_option(ctl, "url"))
		doctor_mount(&ctl->config, ctl_option(ctl, "url"));
	return ctl_checks_end(ctl) ? ACPCTL_FAILED : ACPCTL_OK;
}
