/* doctor.c - acpctl migrate and acpctl doctor. */
#include "acpctl.h"

#include "pg_plane.h"

#include <curl/curl.h>

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

static size_t discard(char *bytes, size_t size, size_t count, void *arg)
{
	(void)bytes;
	(void)arg;
	return size * count;
}

/* Status code of GET url + path, or -1 with the reason. */
static long ask(const char *url, const char *path, char why[CURL_ERROR_SIZE])
{
	char whole[2048];
	long status = -1;
	CURL *curl = curl_easy_init();
	snprintf(whole, sizeof whole, "%s%s", url, path);
	snprintf(why, CURL_ERROR_SIZE, "out of memory");
	if (!curl)
		return -1;
	curl_easy_setopt(curl, CURLOPT_URL, whole);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, discard);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, 3000L);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, 10000L);
	if (curl_easy_perform(curl) == CURLE_OK)
		curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_cleanup(curl);
	return status;
}

/* From outside, as clients see it. */
static void check_mount(const char *url)
{
	char why[CURL_ERROR_SIZE];
	long status = ask(url, "/healthz", why);
	if (status == 200)
		say(true, "GET /healthz", "200");
	else if (status < 0)
		say(false, "GET /healthz", "%s: is the web server up?", why);
	else
		say(false, "GET /healthz", "%ld: is this path mapped to acp.fcgi?", status);
	if (status != 200)
		return;
	status = ask(url, "/readyz", why);
	say(status == 200, "GET /readyz", "%ld%s", status, status == 200 ? "" : ": the log of acp.fcgi says why");
}

int ctl_doctor(struct ctl *ctl)
{
	struct ctl_option options[] = {{"--url", false, NULL}};
	if (!ctl_options(ctl, options, ACP_COUNT(options), NULL, NULL))
		return ACPCTL_USAGE;
	problems = 0;
	check_configuration(ctl);
	struct json_object *rows = ctl_query(ctl, "server", NULL);
	say(rows != NULL, "database", "%s",
	    rows ? "reachable" : "not reachable: check database_url and that PostgreSQL runs");
	json_object_put(rows);
	if (rows) {
		check_server(ctl);
		if (check_schema(ctl)) {
			check_tables(ctl);
			check_clock(ctl);
		}
	}
	if (options[0].value)
		check_mount(options[0].value);
	printf(problems ? "%d problem%s\n" : "no problems\n", problems, problems == 1 ? "" : "s");
	return problems ? ACPCTL_FAILED : ACPCTL_OK;
}
