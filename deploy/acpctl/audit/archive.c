/* archive.c - acpctl audit archive: moves a month of the audit log to a file.
 *
 * First the file is written, flushed to disk, read back and checked. Then one transaction stores its hashes and totals
 * and drops the partition. If the program or the machine dies, either the rows are still in the table, or the archive
 * is recorded and its file is on disk. A second run has the same result. */
#include "ctl_audit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct archiving {
	struct ctl *ctl;
	const char *dir;
	bool keep, gzip;
	bool unbilled; /* also archive months with paid calls that are on no invoice */
	/* The current month. */
	const char *month, *from, *to, *part;
	char name[64], path[4096], fresh[4096]; /* fresh: the file's name until it is complete */
	struct audit_sums sums;
	char sha256[ACP_SHA256_HEX];
	int64_t bytes;
};

enum outcome { DONE, AGAIN, FAILED };

/* The file --------------------------------------------------------------------------------------------------------- */

static bool write_file(struct archiving *a)
{
	struct audit_file file;
	const struct audit_selection selection = {.from = a->from, .to = a->to};
	if (!audit_file_create(&file, a->fresh, a->gzip))
		return false;
	bool ok = ctl_begin(a->ctl, "snapshot") && audit_export(a->ctl, &selection, file.stream, &a->sums) &&
		  ctl_run(a->ctl, "commit", NULL);
	return audit_file_close(&file, true) && ok;
}

/* Checks the file on the disk: every row must be unchanged since it was written. */
static bool read_back(struct archiving *a)
{
	struct audit_report report = {.ctl = a->ctl};
	struct audit_file_facts facts;
	bool json = a->ctl->json;
	bool ok = audit_verify_file(&report, a->fresh, NULL, &facts);
	a->ctl->json = json;
	if (!ok)
		return false;
	if (report.count || facts.chains.rows != a->sums.rows)
		return ctl_refuse("%s is not archived: some of its rows were altered (see above); run acpctl audit "
				  "verify for details",
				  a->month);
	return audit_file_hash(a->fresh, a->sha256, &a->bytes);
}

static bool sync_dir(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool ok = fd >= 0 && fsync(fd) == 0;
	if (!ok)
		ctl_refuse("%s: %s", dir, strerror(errno));
	if (fd >= 0)
		close(fd);
	return ok;
}

static bool rename_file(struct archiving *a)
{
	if (rename(a->fresh, a->path) != 0)
		return ctl_refuse("%s: %s", a->path, strerror(errno));
	return sync_dir(a->dir);
}

/* The database ----------------------------------------------------------------------------------------------------- */

/* Stores the ranges and totals of the month. AGAIN: the rows of the database changed since the file was written. */
static enum outcome store_sums(struct archiving *a, char totals[ACP_SHA256_HEX])
{
	char runs[ACP_SHA256_HEX];
	const char *values[] = {a->month};
	struct json_object *rows = ctl_query(a->ctl, "archive begin", values);
	if (!rows)
		return FAILED;
	bool same = json_object_get_int64(ctl_value(rows, "run_rows")) == a->sums.rows &&
		    json_object_get_int64(ctl_value(rows, "total_rows")) == a->sums.rows;
	json_object_put(rows);
	if (!audit_lines_hash(a->ctl, "run stream", a->month, a->part, runs) ||
	    !audit_lines_hash(a->ctl, "total stream", a->month, a->part, totals))
		return FAILED;
	return same && strcmp(runs, a->sums.runs_sha256) == 0 ? DONE : AGAIN;
}

static bool store_archive(struct archiving *a, const char *totals)
{
	char rows[24], bytes[24], signature[ACP_SHA256_HEX];
	struct json_object *now = ctl_query(a->ctl, "audit size", NULL);
	if (!now)
		return false;
	snprintf(rows, sizeof rows, "%lld", (long long)a->sums.rows);
	snprintf(bytes, sizeof bytes, "%lld", (long long)a->bytes);
	const char *at = json_object_get_string(ctl_value(now, "now"));
	const struct audit_archive archive = {
		a->month, a->part, at, rows, a->name, bytes, a->sha256, a->sums.runs_sha256, totals};
	audit_archive_sign(a->ctl, &archive, signature);
	const char *values[] = {a->month, a->part,  at, rows, a->name, bytes, a->sha256, a->sums.runs_sha256,
				totals,   signature};
	bool ok = ctl_run(a->ctl, "archive add", values);
	json_object_put(now);
	return ok;
}

/* Drops or detaches the partition. Waiting for its lock would hold up calls, so the lock is tried once a second. */
static enum outcome drop_partition(struct archiving *a)
{
	enum { TRIES = 60 };
	char rows[24];
	snprintf(rows, sizeof rows, "%lld", (long long)a->sums.rows);
	const char *values[] = {a->month, rows, a->keep ? a->part : NULL};
	for (int i = 0; i < TRIES; i++) {
		const struct timespec pause = {.tv_sec = 1};
		struct json_object *said = ctl_query(a->ctl, "archive end", values);
		if (!said)
			return FAILED;
		const char *outcome = json_object_get_string(ctl_value(said, "outcome"));
		bool done = strcmp(outcome, "done") == 0;
		bool changed = strcmp(outcome, "changed") == 0;
		json_object_put(said);
		if (done || changed)
			return done ? DONE : AGAIN;
		nanosleep(&pause, NULL);
	}
	ctl_fail("%s: a long transaction used acp.audit_logs for a minute (pg_stat_activity shows it); nothing was "
		 "changed, run this again",
		 a->month);
	return FAILED;
}

static enum outcome in_transaction(struct archiving *a)
{
	char totals[ACP_SHA256_HEX];
	enum outcome outcome = ctl_begin(a->ctl, "begin") ? DONE : FAILED;
	if (outcome == DONE && a->sums.rows)
		outcome = store_sums(a, totals);
	if (outcome == DONE && a->sums.rows && !store_archive(a, totals))
		outcome = FAILED;
	if (outcome == DONE)
		outcome = drop_partition(a);
	if (outcome == DONE)
		return ctl_run(a->ctl, "commit", NULL) ? DONE : FAILED;
	/* If this fails too, closing the connection rolls back. */
	return ctl_run(a->ctl, "rollback", NULL) ? outcome : FAILED;
}

/* A month ---------------------------------------------------------------------------------------------------------- */

static void say_done(const struct archiving *a)
{
	if (!a->sums.rows && !a->ctl->json && !a->ctl->csv)
		printf("%s: no rows; its empty partition was dropped\n", a->month);
	else if (a->ctl->csv)
		printf("%s,%s,%lld,%s,%lld,%s\n", a->month, a->part, (long long)a->sums.rows, a->name,
		       (long long)a->bytes, a->sha256);
	else if (a->ctl->json)
		printf("{\"month\":\"%s\",\"part\":%s,\"rows\":%lld,\"file\":\"%s\",\"bytes\":%lld,\"sha256\":\"%s\"}"
		       "\n",
		       a->month, a->part, (long long)a->sums.rows, a->name, (long long)a->bytes, a->sha256);
	else
		printf("%s: %lld rows in %s, %lld bytes, SHA-256 %s%s\n", a->month, (long long)a->sums.rows, a->path,
		       (long long)a->bytes, a->sha256, a->keep ? "; its table stays, detached" : "");
}

static enum outcome attempt(struct archiving *a)
{
	if (!write_file(a) || (a->sums.rows && !read_back(a))) {
		unlink(a->fresh);
		return FAILED;
	}
	if (!a->sums.rows)
		unlink(a->fresh);
	else if (!rename_file(a))
		return FAILED;
	return in_transaction(a);
}

static bool archive_month(struct archiving *a, struct json_object *month)
{
	enum { ATTEMPTS = 3 };
	enum outcome outcome = AGAIN;
	a->month = acp_json_string(month, "month");
	a->from = acp_json_string(month, "first");
	a->to = acp_json_string(month, "past");
	a->part = json_object_get_string(acp_json_member(month, "part"));
	const char *more = strcmp(a->part, "1") == 0 ? "" : a->part;
	snprintf(a->name, sizeof a->name, "audit_logs_%s%s%s.jsonl%s", acp_json_string(month, "name"), *more ? "." : "",
		 more, a->gzip ? ".gz" : "");
	snprintf(a->path, sizeof a->path, "%s/%s", a->dir, a->name);
	snprintf(a->fresh, sizeof a->fresh, "%s/.%s", a->dir, a->name);
	for (int i = 0; i < ATTEMPTS && outcome == AGAIN; i++)
		outcome = attempt(a);
	if (outcome == AGAIN)
		return ctl_refuse("%s: rows still arrive for this month; nothing was changed, run this again later",
				  a->month);
	if (outcome == DONE)
		say_done(a);
	return outcome == DONE;
}

/* Months ----------------------------------------------------------------------------------------------------------- */

/* 1: archive the month; 0: nothing to do; -1: not possible, after reporting why. */
static int wanted(const struct archiving *a, struct json_object *month, bool named)
{
	const char *name = acp_json_string(month, "month");
	int64_t unbilled = json_object_get_int64(acp_json_member(month, "unbilled"));
	if (!acp_json_bool(month, "ended")) {
		if (named)
			ctl_fail("%s has not ended yet", name);
		return named ? -1 : 0;
	}
	if (acp_json_bool(month, "there") && unbilled && !a->unbilled) {
		ctl_fail("%s: %lld paid calls are on no invoice yet, and archived calls can no longer be billed: "
			 "run acpctl billing run first, or give --unbilled",
			 name, (long long)unbilled);
		return -1;
	}
	if (acp_json_bool(month, "there"))
		return 1;
	if (!acp_json_bool(month, "archived")) {
		ctl_fail("%s: the log has no partition of this month; acpctl audit status lists them", name);
		return -1;
	}
	fprintf(a->ctl->json || a->ctl->csv ? stderr : stdout, "%s is already archived\n", name);
	return 0;
}

static int archive_all(struct archiving *a, const char *month, const char *older)
{
	const char *values[] = {month, older};
	int status = ACPCTL_OK;
	struct json_object *months = ctl_query(a->ctl, "archive months", values);
	if (!months)
		return ACPCTL_FAILED;
	if (a->ctl->csv)
		puts("month,part,rows,file,bytes,sha256");
	for (size_t i = 0; status == ACPCTL_OK && i < json_object_array_length(months); i++) {
		int want = wanted(a, json_object_array_get_idx(months, i), month != NULL);
		if (want < 0 || (want > 0 && !archive_month(a, json_object_array_get_idx(months, i))))
			status = ACPCTL_FAILED;
	}
	if (json_object_array_length(months) == 0)
		fputs("no month is that old\n", a->ctl->json || a->ctl->csv ? stderr : stdout);
	json_object_put(months);
	return status;
}

/* Acquires the lock that lets one run at a time archive, and seals the rows before they leave. */
static bool prepare(struct archiving *a)
{
	int64_t id, rows;
	char hash[ACP_SHA256_HEX], why[1024];
	struct stat folder;
	if (stat(a->dir, &folder) != 0 || !S_ISDIR(folder.st_mode))
		return ctl_refuse("--dir %s: %s", a->dir, errno ? strerror(errno) : "not a folder");
	struct json_object *lock = ctl_query(a->ctl, "archive lock", NULL);
	if (!lock)
		return false;
	bool mine = json_object_get_boolean(ctl_value(lock, "mine"));
	json_object_put(lock);
	if (!mine)
		return ctl_refuse("another acpctl audit archive is running");
	acp_admin_patient(a->ctl->admin);
	if (!acp_admin_seal(a->ctl->admin, &a->ctl->config, &id, &rows, hash, why, sizeof why))
		return ctl_refuse("audit seal: %s", why);
	return true;
}

int ctl_audit_archive(struct ctl *ctl)
{
	struct archiving a = {.ctl = ctl,
			      .dir = ctl_option(ctl, "dir"),
			      .gzip = ctl_flag(ctl, "gzip"),
			      .keep = ctl_flag(ctl, "keep"),
			      .unbilled = ctl_flag(ctl, "unbilled")};
	const char *months = ctl_option(ctl, "older-than");
	if (months && (!*months || strlen(months) > 4 || months[strspn(months, "0123456789")]))
		return ctl_misuse("--older-than %.80s: must be a number of months", months);
	if (strlen(a.dir) > 3900)
		return ctl_misuse("--dir: the name is too long; it may have at most 3900 bytes");
	if (!*ctl->config.key_pepper)
		return ctl_fail(
			"key_pepper is not set, and archives are signed with it; name the configuration file of "
			"acp.fcgi with --config");
	return prepare(&a) ? archive_all(&a, ctl_option(ctl, "month"), months) : ACPCTL_FAILED;
}
