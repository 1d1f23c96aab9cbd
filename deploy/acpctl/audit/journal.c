/* journal.c - acpctl journal: shows and replays audit rows that wait on this host's disk for PostgreSQL (journal.h). */
#include "acpctl.h"

#include "journal.h"
#include "pg_journal.h"

struct survey {
	struct json_object *files;
	int64_t events, bytes, damaged, bad, in_use;
	char oldest[40];
	bool complete;
};

static void add_file(void *arg, const struct acp_journal_file *file)
{
	struct survey *survey = arg;
	struct json_object *row = json_object_new_object();
	survey->events += file->events;
	survey->bytes += file->bytes;
	survey->damaged += file->damaged;
	survey->bad += file->bad;
	survey->in_use += file->in_use;
	if (*file->oldest && (!*survey->oldest || strcmp(file->oldest, survey->oldest) < 0))
		snprintf(survey->oldest, sizeof survey->oldest, "%s", file->oldest);
	bool ok = row && acp_json_add_string(row, "file", file->name) &&
		  acp_json_add(row, "events", json_object_new_int64(file->events)) &&
		  acp_json_add(row, "bytes", json_object_new_int64(file->bytes)) &&
		  acp_json_add(row, "damaged", json_object_new_int64(file->damaged)) &&
		  acp_json_add_string(row, "state",
				      file->bad      ? "bad"
				      : file->in_use ? "in use"
						     : "waiting") &&
		  (*file->oldest ? acp_json_add_string(row, "oldest", file->oldest) : acp_json_add_null(row, "oldest"));
	if (ok && json_object_array_add(survey->files, row) == 0)
		return;
	json_object_put(row);
	survey->complete = false;
}

/* Returns whether no event waits. A file that a process has just created has no events. */
static bool is_empty(const struct survey *survey)
{
	return survey->events == 0 && survey->damaged == 0 && survey->bad == 0;
}

static void print_json(const struct ctl *ctl, const struct survey *survey)
{
	struct json_object *all = json_object_new_object();
	bool ok = all && acp_json_add_string(all, "journal_dir", ctl->config.journal_dir) &&
		  acp_json_add(all, "journal_max_bytes", json_object_new_int64(ctl->config.journal_max_bytes)) &&
		  acp_json_add(all, "empty", json_object_new_boolean(is_empty(survey))) &&
		  acp_json_add(all, "events", json_object_new_int64(survey->events)) &&
		  acp_json_add(all, "bytes", json_object_new_int64(survey->bytes)) &&
		  acp_json_add(all, "in_use", json_object_new_int64(survey->in_use)) &&
		  acp_json_add(all, "bad_files", json_object_new_int64(survey->bad)) &&
		  (*survey->oldest ? acp_json_add_string(all, "oldest", survey->oldest)
				   : acp_json_add_null(all, "oldest")) &&
		  acp_json_add(all, "files", json_object_get(survey->files));
	if (ok)
		ctl_print_json(all);
	json_object_put(all);
}

static void print_text(struct ctl *ctl, const struct survey *survey)
{
	printf("%-22s %s\n", "journal_dir", ctl->config.journal_dir);
	if (is_empty(survey)) {
		puts("empty");
		return;
	}
	printf("%-22s %lld\n%-22s %lld of %lld\n%-22s %s\n\n", "events", (long long)survey->events, "bytes",
	       (long long)survey->bytes, (long long)ctl->config.journal_max_bytes, "oldest",
	       *survey->oldest ? survey->oldest : "-");
	ctl_print(ctl, json_object_get(survey->files));
}

/* Returns whether the journal is on, after reporting if it is off. */
static bool is_on(const struct ctl *ctl)
{
	if (!*ctl->config.journal_dir)
		ctl_fail("the journal is off: the setting journal_dir is empty");
	return *ctl->config.journal_dir;
}

int ctl_journal_status(struct ctl *ctl)
{
	static const char *const columns[] = {"file", "events", "bytes", "damaged", "state", "oldest"};
	char why[512];
	struct survey survey = {.files = json_object_new_array(), .complete = true};
	int status = ACPCTL_FAILED;
	if (is_on(ctl) && survey.files) {
		bool read = acp_journal_survey(ctl->config.journal_dir, add_file, &survey, why, sizeof why);
		if (!read || !survey.complete)
			ctl_fail("%s", read ? "out of memory" : why);
		else if (ctl->json)
			print_json(ctl, &survey);
		else if (ctl->csv)
			ctl_print_columns(ctl, survey.files, columns, ACP_COUNT(columns));
		else
			print_text(ctl, &survey);
		if (read && survey.complete)
			status = is_empty(&survey) ? ACPCTL_OK : ACPCTL_WAITING;
	}
	json_object_put(survey.files);
	return status;
}

static void print_replay(struct ctl *ctl, const struct acp_pg_journal *pg, const struct acp_journal_counts *counts)
{
	const struct {
		const char *name;
		int64_t value;
	} lines[] = {{"events_stored", pg->stored},
		     {"events_stored_before", pg->duplicates},
		     {"events_not_billable", pg->uncounted},
		     {"events_refused", counts->refused},
		     {"lines_damaged", counts->damaged},
		     {"lines_cut", counts->torn},
		     {"files_removed", counts->files},
		     {"files_in_use", counts->in_use},
		     {"files_bad", counts->bad}};
	struct json_object *rows = json_object_new_array();
	struct json_object *row = json_object_new_object();
	for (size_t i = 0; i < ACP_COUNT(lines); i++)
		acp_json_add(row, lines[i].name, json_object_new_int64(lines[i].value));
	if (rows && row && json_object_array_add(rows, row) == 0)
		ctl_print_one(ctl, rows);
}

int ctl_journal_replay(struct ctl *ctl)
{
	struct acp_journal_counts counts;
	if (!is_on(ctl))
		return ACPCTL_FAILED;
	if (!*ctl->config.database_url)
		return ctl_fail("%s", acp_config_no_database());
	struct acp_pg_journal *pg = acp_pg_journal_open(&ctl->config);
	if (!pg)
		return ctl_fail("out of memory");
	enum acp_code code = acp_journal_replay_dir(ctl->config.journal_dir, acp_pg_journal_commit, pg, &counts);
	print_replay(ctl, pg, &counts);
	acp_pg_journal_close(pg);
	if (code != ACP_OK)
		return ctl_fail(
			"the replay stopped (see the lines above); the events that were not stored are still there");
	if (counts.bad)
		return ctl_fail("%lld file%s could not be replayed: see *.bad in %s", (long long)counts.bad,
				counts.bad == 1 ? "" : "s", ctl->config.journal_dir);
	return ACPCTL_OK;
}
