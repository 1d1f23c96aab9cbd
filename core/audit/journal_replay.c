#include "journal_file.h"

#include "json.h"
#include "log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BATCH_BYTES = 4 << 20 };

struct replay {
	int dir;
	acp_journal_commit *commit;
	void *arg;
	struct acp_journal_counts *counts;
	/* The current file: */
	const char *name;
	struct acp_buf batch; /* events not yet committed, each followed by a comma */
	size_t ends[ACP_JOURNAL_BATCH];
	size_t count;
	int64_t damaged, refused;
	bool unreadable; /* a file could not be opened; the other files are replayed all the same */
};

/* Lists the names in a folder that wanted accepts, sorted. A name starts with its time, so the oldest comes first. */
static int list_names(int dir, int (*wanted)(const struct dirent *), struct dirent ***names)
{
	return scandirat(dir, ".", names, wanted, alphasort);
}

static int is_live(const struct dirent *entry)
{
	return acp_journal_named(entry->d_name, ACP_JOURNAL_LIVE);
}

static int is_any(const struct dirent *entry)
{
	return is_live(entry) || acp_journal_named(entry->d_name, ACP_JOURNAL_BAD);
}

static int open_file(int dir, const char *name)
{
	struct stat status;
	/* O_NONBLOCK: opening a named pipe must not block. */
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 || (fstat(fd, &status) == 0 && S_ISREG(status.st_mode)))
		return fd;
	close(fd);
	errno = EINVAL;
	return -1;
}

/* Does the name still refer to this file? Another process may have replayed and removed it after it was opened here and
 * before it was locked. */
static bool is_same_file(int dir, const char *name, int fd)
{
	struct stat here, there;
	return fstat(fd, &here) == 0 && fstatat(dir, name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
	       here.st_ino == there.st_ino && here.st_dev == there.st_dev;
}

/* Batches ------------------------------------------------------------------------------------------------------- */

/* Commits the events [first, first + count) of the batch. Finds the events that can never be stored by halving the
 * range. */
static enum acp_code commit_range(struct replay *replay, size_t first, size_t count)
{
	size_t from = first ? replay->ends[first - 1] : 0;
	size_t to = replay->ends[first + count - 1];
	struct acp_buf text;
	acp_buf_init(&text, (size_t)2 * (BATCH_BYTES + ACP_JOURNAL_EVENT_MAX));
	acp_buf_putc(&text, '[');
	acp_buf_add(&text, replay->batch.ptr + from, to - from - 1);
	acp_buf_putc(&text, ']');
	enum acp_code code = acp_buf_ok(&text) ? replay->commit(replay->arg, text.ptr, count) : ACP_INTERNAL_ERROR;
	acp_buf_release(&text);
	if (code == ACP_OK) {
		replay->counts->events += (int64_t)count;
	} else if (code == ACP_VALIDATION_ERROR && count > 1) {
		code = commit_range(replay, first, count / 2);
		if (code == ACP_OK)
			code = commit_range(replay, first + count / 2, count - count / 2);
	} else if (code == ACP_VALIDATION_ERROR) {
		replay->refused++;
		code = ACP_OK;
	}
	return code;
}

static enum acp_code commit_batch(struct replay *replay)
{
	enum acp_code code = replay->count ? commit_range(replay, 0, replay->count) : ACP_OK;
	acp_buf_clear(&replay->batch);
	replay->count = 0;
	return code;
}

static enum acp_code add_event(struct replay *replay, const char *event, size_t len)
{
	acp_buf_add(&replay->batch, event, len);
	acp_buf_putc(&replay->batch, ',');
	if (!acp_buf_ok(&replay->batch))
		return ACP_INTERNAL_ERROR;
	replay->ends[replay->count++] = replay->batch.len;
	if (replay->count < ACP_JOURNAL_BATCH && replay->batch.len < BATCH_BYTES)
		return ACP_OK;
	return commit_batch(replay);
}

/* Files --------------------------------------------------------------------------------------------------------- */

static enum acp_code replay_lines(struct replay *replay, struct acp_journal_reader *reader)
{
	const char *event;
	size_t len;
	enum acp_code code = ACP_OK;
	while (code == ACP_OK) {
		switch (acp_journal_next(reader, &event, &len)) {
		case ACP_LINE_WHOLE: code = add_event(replay, event, len); break;
		case ACP_LINE_DAMAGED: replay->damaged++; break;
		case ACP_LINE_CUT:
			replay->counts->torn++;
			acp_log(ACP_LOG_WARNING,
				"journal: %s: the last line is incomplete; its call had not been answered",
				replay->name);
			break;
		case ACP_LINE_NONE: return commit_batch(replay);
		case ACP_LINE_FAILED:
			acp_log(ACP_LOG_ERROR, "journal: %s: %s", replay->name, strerror(errno));
			return ACP_INTERNAL_ERROR;
		}
	}
	return code;
}

static bool rename_to_bad(struct replay *replay)
{
	char name[300];
	snprintf(name, sizeof name, "%.*s" ACP_JOURNAL_BAD, (int)(strlen(replay->name) - strlen(ACP_JOURNAL_LIVE)),
		 replay->name);
	if (renameat(replay->dir, replay->name, replay->dir, name) != 0)
		return false;
	replay->counts->bad++;
	acp_log(ACP_LOG_ERROR,
		"journal: %s: %lld damaged lines, %lld events that PostgreSQL refuses; the rest is stored, the "
		"file is kept as %s",
		replay->name, (long long)replay->damaged, (long long)replay->refused, name);
	return true;
}

/* Finishes a file after all events that can be stored have been stored. */
static enum acp_code end_file(struct replay *replay)
{
	bool bad = replay->damaged || replay->refused;
	bool gone = bad ? rename_to_bad(replay) : unlinkat(replay->dir, replay->name, 0) == 0;
	replay->counts->damaged += replay->damaged;
	replay->counts->refused += replay->refused;
	replay->counts->files += gone && !bad;
	if (gone && fsync(replay->dir) == 0)
		return ACP_OK;
	acp_log(ACP_LOG_ERROR, "journal: %s is stored but cannot be removed: %s", replay->name, strerror(errno));
	return ACP_INTERNAL_ERROR;
}

static enum acp_code replay_locked(struct replay *replay, const char *name, int fd)
{
	struct acp_journal_reader reader;
	replay->name = name;
	replay->count = 0;
	replay->damaged = replay->refused = 0;
	acp_buf_clear(&replay->batch);
	acp_journal_reader_init(&reader, fd);
	enum acp_code code = replay_lines(replay, &reader);
	acp_journal_reader_release(&reader);
	return code == ACP_OK ? end_file(replay) : code;
}

static enum acp_code replay_file(struct replay *replay, const char *name)
{
	enum acp_code code = ACP_OK;
	int fd = open_file(replay->dir, name);
	if (fd < 0 && errno == ENOENT)
		return ACP_OK; /* another replay has handled it */
	if (fd < 0) {
		acp_log(ACP_LOG_ERROR, "journal: %s: %s", name, strerror(errno));
		replay->unreadable = true;
		return ACP_OK;
	}
	if (flock(fd, LOCK_EX | LOCK_NB) != 0)
		replay->counts->in_use++;
	else if (is_same_file(replay->dir, name, fd))
		code = replay_locked(replay, name, fd);
	close(fd);
	return code;
}

enum acp_code acp_journal_replay_dir(const char *dir, acp_journal_commit *commit, void *arg,
				     struct acp_journal_counts *counts)
{
	char why[512];
	enum acp_code code = ACP_OK;
	struct dirent **names = NULL;
	struct replay replay = {.commit = commit, .arg = arg, .counts = counts};
	*counts = (struct acp_journal_counts){0};
	replay.dir = acp_journal_dir(dir, why, sizeof why);
	if (replay.dir < 0 && errno == ENOENT)
		return ACP_OK;
	int found = replay.dir < 0 ? -1 : list_names(replay.dir, is_live, &names);
	if (replay.dir >= 0 && found < 0)
		snprintf(why, sizeof why, "journal_dir = %s: %s", dir, strerror(errno));
	if (found < 0) {
		acp_log(ACP_LOG_ERROR, "journal: %s", why);
		code = ACP_INTERNAL_ERROR;
	}
	acp_buf_init(&replay.batch, BATCH_BYTES + 2 * ACP_JOURNAL_EVENT_MAX);
	for (int i = 0; i < found; i++) {
		if (code == ACP_OK)
			code = replay_file(&replay, names[i]->d_name);
		free(names[i]);
	}
	free(names);
	acp_buf_release(&replay.batch);
	if (replay.dir >= 0)
		close(replay.dir);
	return code == ACP_OK && replay.unreadable ? ACP_INTERNAL_ERROR : code;
}

/* Reports ------------------------------------------------------------------------------------------- */

static void note_oldest(struct acp_journal_file *file, const char *text, size_t len)
{
	const struct acp_json_limits limits = {ACP_JOURNAL_EVENT_MAX, 128, ACP_JOURNAL_EVENT_MAX};
	struct acp_json_error bad;
	struct json_object *event = NULL;
	if (acp_json_parse(text, len, &limits, &event, &bad) != ACP_JSON_OK)
		return;
	const char *ts = acp_json_string(event, "ts");
	if (ts && (!*file->oldest || strcmp(ts, file->oldest) < 0))
		snprintf(file->oldest, sizeof file->oldest, "%s", ts);
	json_object_put(event);
}

/* A line that is still being appended looks incomplete. This is not an error. */
static void survey_lines(struct acp_journal_file *file, int fd)
{
	struct acp_journal_reader reader;
	const char *event;
	size_t len;
	enum acp_journal_line line;
	acp_journal_reader_init(&reader, fd);
	while ((line = acp_journal_next(&reader, &event, &len)) <= ACP_LINE_DAMAGED) {
		file->damaged += line == ACP_LINE_DAMAGED;
		file->events += line == ACP_LINE_WHOLE;
		if (line == ACP_LINE_WHOLE)
			note_oldest(file, event, len);
	}
	acp_journal_reader_release(&reader);
}

static bool survey_file(int dir, const char *name, struct acp_journal_file *file)
{
	struct stat status;
	int fd = open_file(dir, name);
	if (fd < 0)
		return errno == ENOENT;
	*file = (struct acp_journal_file){.name = name, .bad = acp_journal_named(name, ACP_JOURNAL_BAD)};
	file->bytes = fstat(fd, &status) == 0 ? status.st_size : 0;
	file->in_use = flock(fd, LOCK_SH | LOCK_NB) != 0;
	if (!file->in_use)
		flock(fd, LOCK_UN);
	survey_lines(file, fd);
	close(fd);
	return true;
}

bool acp_journal_survey(const char *dir, void (*each)(void *arg, const struct acp_journal_file *file), void *arg,
			char *why, size_t why_size)
{
	struct dirent **names = NULL;
	int fd = acp_journal_dir(dir, why, why_size);
	if (fd < 0)
		return errno == ENOENT;
	int found = list_names(fd, is_any, &names);
	bool ok = found >= 0;
	if (!ok)
		snprintf(why, why_size, "journal_dir = %s: %s", dir, strerror(errno));
	for (int i = 0; i < found; i++) {
		struct acp_journal_file file = {.name = NULL};
		if (ok && !survey_file(fd, names[i]->d_name, &file)) {
			snprintf(why, why_size, "%s/%s: %s", dir, names[i]->d_name, strerror(errno));
			ok = false;
		} else if (ok && file.name) {
			each(arg, &file);
		}
		free(names[i]);
	}
	free(names);
	close(fd);
	return ok;
}

static void count_lines(int dir, const char *name, struct acp_journal_waiting *waiting)
{
	char block[65536];
	ssize_t got;
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	while (fd >= 0 && (got = read(fd, block, sizeof block)) > 0) {
		waiting->bytes += got;
		for (const char *at = block; (at = memchr(at, '\n', (size_t)(block + got - at))); at++)
			waiting->rows++;
	}
	if (fd >= 0)
		close(fd);
}

struct acp_journal_waiting acp_journal_waiting(const char *dir)
{
	struct acp_journal_waiting waiting = {0};
	struct dirent *entry;
	DIR *open = opendir(dir);
	while (open && (entry = readdir(open))) {
		if (is_live(entry))
			count_lines(dirfd(open), entry->d_name, &waiting);
		else if (acp_journal_named(entry->d_name, ACP_JOURNAL_BAD))
			waiting.bad++;
	}
	if (open)
		closedir(open);
	return waiting;
}
