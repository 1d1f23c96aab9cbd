#include "journal.h"

#include "clock.h"
#include "crypto.h"
#include "journal_file.h"
#include "journal_shares.h"
#include "log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
	APPEND_MAX = 64 << 20, /* maximum bytes of one append */
	MEASURE_US = 100000,   /* age after which the sizes of the other files are measured again */
	COMPLAIN_US = 1000000,
	TRIES = 4 /* number of names to try for a new file */
};

/* A file that this process writes. Freed when it has no user; closing the descriptor unlocks it. */
struct file {
	int fd;
	int users; /* number of appends that wait for it, plus one for the journal while it is the current file */
	int64_t written;
	int64_t synced; /* number of bytes that are on the disk */
	bool syncing;   /* a thread is in fdatasync */
	bool failed;    /* no byte after synced will reach the disk */
	char name[80];
};

struct acp_journal {
	char *dir;
	struct acp_journal_limits limits;
	pthread_mutex_t lock;              /* protects the members below */
	pthread_cond_t ended;              /* signals the end of a sync */
	struct file *file;                 /* the current file; NULL: the next append creates one */
	struct acp_journal_shares *shares; /* of the rows since the last complete replay */
	int64_t others;                    /* bytes of the other files at measured_us; 0: not measured */
	uint64_t measured_us;
	uint64_t complained_us;
	atomic_bool pending;
};

static void complain(struct acp_journal *journal, const char *format, ...) ACP_PRINTF(2, 3);

/* Logs at most one line a second: while the disk is full, every call fails. */
static void complain(struct acp_journal *journal, const char *format, ...)
{
	va_list args;
	char message[512];
	uint64_t now = acp_monotonic_us();
	if (journal->complained_us && now - journal->complained_us < COMPLAIN_US)
		return;
	journal->complained_us = now;
	va_start(args, format);
	vsnprintf(message, sizeof message, format, args);
	va_end(args);
	acp_log(ACP_LOG_ERROR, "journal: %s", message);
}

/* The folder ---------------------------------------------------------------------------------------------------- */

/* Syncs the parent folder, so that the entry of a new folder survives a crash. */
static bool sync_parent(const char *path)
{
	char parent[4096];
	const char *slash = strrchr(path, '/');
	int len = slash && slash > path ? (int)(slash - path) : 1;
	snprintf(parent, sizeof parent, "%.*s", len, slash ? path : ".");
	int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool ok = fd >= 0 && fsync(fd) == 0;
	if (fd >= 0)
		close(fd);
	return ok;
}

/* Works like mkdir -p. The journal folder is private; the folders above it get the usual mode. */
static bool make_dirs(const char *dir)
{
	char path[4096];
	size_t len = strlen(dir);
	while (len > 1 && dir[len - 1] == '/')
		len--;
	if (len == 0 || len >= sizeof path) {
		errno = len ? ENAMETOOLONG : ENOENT;
		return false;
	}
	memcpy(path, dir, len);
	path[len] = '\0';
	for (size_t at = 1; at <= len; at++) {
		if (at < len && path[at] != '/')
			continue;
		path[at] = '\0';
		if (mkdir(path, at == len ? 0700 : 0755) == 0) {
			if (!sync_parent(path))
				return false;
		} else if (errno != EEXIST) {
			return false;
		}
		if (at < len)
			path[at] = '/';
	}
	return true;
}

static int open_dir(const char *dir, char *why, size_t why_size)
{
	int fd = acp_journal_dir(dir, why, why_size);
	if (fd >= 0 || errno != ENOENT)
		return fd;
	if (make_dirs(dir))
		return acp_journal_dir(dir, why, why_size);
	snprintf(why, why_size, "journal_dir = %s: cannot be created: %s", dir, strerror(errno));
	return -1;
}

struct acp_journal *acp_journal_open(const char *dir, const struct acp_journal_limits *limits, char *why,
				     size_t why_size)
{
	int fd = open_dir(dir, why, why_size);
	if (fd < 0)
		return NULL;
	bool writable = faccessat(fd, ".", W_OK | X_OK, AT_EACCESS) == 0;
	if (!writable)
		snprintf(why, why_size, "journal_dir = %s: this user cannot write there: %s", dir, strerror(errno));
	close(fd);
	struct acp_journal *journal = writable ? calloc(1, sizeof *journal) : NULL;
	if (!journal || !(journal->dir = strdup(dir))) {
		if (writable)
			snprintf(why, why_size, "journal_dir = %s: out of memory", dir);
		free(journal);
		return NULL;
	}
	journal->limits = *limits;
	pthread_mutex_init(&journal->lock, NULL);
	pthread_cond_init(&journal->ended, NULL);
	return journal;
}

/* Returns the bytes of the live files of other processes. */
static int64_t measure_others(const struct acp_journal *journal)
{
	char why[256];
	int64_t sum = 0;
	struct dirent *entry;
	struct stat status;
	int fd = acp_journal_dir(journal->dir, why, sizeof why);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	while (dir && (entry = readdir(dir)))
		if (acp_journal_named(entry->d_name, ACP_JOURNAL_LIVE) &&
		    (!journal->file || strcmp(entry->d_name, journal->file->name) != 0) &&
		    fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0)
			sum += status.st_size;
	if (dir)
		closedir(dir);
	else if (fd >= 0)
		close(fd);
	return sum;
}

static bool has_room(struct acp_journal *journal, int64_t bytes)
{
	uint64_t now = acp_monotonic_us();
	int64_t own = bytes + (journal->file ? journal->file->written : 0);
	if (!journal->measured_us || now - journal->measured_us >= MEASURE_US ||
	    own + journal->others > journal->limits.all) {
		journal->others = measure_others(journal);
		journal->measured_us = now;
	}
	if (own + journal->others <= journal->limits.all)
		return true;
	complain(journal, "%s is full (journal_max_bytes = %lld): calls are refused until PostgreSQL is back",
		 journal->dir, (long long)journal->limits.all);
	return false;
}

/* The file ------------------------------------------------------------------------------------------------------ */

static void release_file(struct file *file)
{
	if (--file->users > 0)
		return;
	close(file->fd);
	free(file);
}

/* Creates a file and locks it. A replay may find the file before it is locked, mistake it for an empty leftover and
 * remove it. The caller then tries another name. */
static int begin_file(int dir, char name[80])
{
	struct stat status;
	uint8_t bytes[4];
	char random[2 * sizeof bytes + 1], when[32];
	struct tm utc;
	time_t now = time(NULL);
	acp_random(bytes, sizeof bytes);
	acp_hex(bytes, sizeof bytes, random);
	gmtime_r(&now, &utc);
	strftime(when, sizeof when, "%Y%m%dT%H%M%SZ", &utc);
	snprintf(name, 80, "%s-%d-%s" ACP_JOURNAL_LIVE, when, (int)getpid(), random);
	int fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -1;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0 && fstat(fd, &status) == 0 && status.st_nlink == 1 && fsync(dir) == 0)
		return fd;
	int reason = errno;
	unlinkat(dir, name, 0);
	close(fd);
	errno = reason;
	return -1;
}

static struct file *new_file(struct acp_journal *journal)
{
	char why[512];
	struct file *file = calloc(1, sizeof *file);
	int dir = file ? open_dir(journal->dir, why, sizeof why) : -1;
	if (dir < 0) {
		complain(journal, "%s", file ? why : "out of memory");
		free(file);
		return NULL;
	}
	file->users = 1;
	file->fd = -1;
	for (int i = 0; i < TRIES && file->fd < 0; i++)
		file->fd = begin_file(dir, file->name);
	if (file->fd < 0) {
		complain(journal, "%s: cannot create a file there: %s", journal->dir, strerror(errno));
		free(file);
		file = NULL;
	}
	close(dir);
	return file;
}

/* Ends the appends to the current file. */
static void end_file(struct acp_journal *journal)
{
	struct file *file = journal->file;
	journal->file = NULL;
	journal->measured_us = 0;
	if (file)
		release_file(file);
}

static struct file *current_file(struct acp_journal *journal)
{
	struct stat status;
	if (journal->file && fstat(journal->file->fd, &status) == 0 && status.st_nlink == 0) {
		complain(journal, "%s/%s was removed while it was written: its events are lost", journal->dir,
			 journal->file->name);
		end_file(journal);
	}
	if (!journal->file)
		journal->file = new_file(journal);
	return journal->file;
}

/* Writes all lines, or restores the previous length of the file. */
static bool write_lines(struct acp_journal *journal, struct file *file, const struct acp_buf *lines)
{
	ssize_t put;
	do
		put = pwrite(file->fd, lines->ptr, lines->len, (off_t)file->written);
	while (put < 0 && errno == EINTR);
	if (put == (ssize_t)lines->len) {
		file->written += put;
		return true;
	}
	complain(journal, "%s/%s: %s", journal->dir, file->name, put < 0 ? strerror(errno) : "the disk is full");
	/* If a part cannot be removed, it is an incomplete line, and must remain the last line. */
	if (ftruncate(file->fd, (off_t)file->written) != 0)
		end_file(journal);
	return false;
}

/* Syncs all bytes written so far. Releases the lock meanwhile. After a failed sync the content of the disk is unknown,
 * so nothing more is written to this file. */
static void sync_file(struct acp_journal *journal, struct file *file)
{
	int64_t written = file->written;
	file->syncing = true;
	pthread_mutex_unlock(&journal->lock);
	int failure = fdatasync(file->fd) == 0 ? 0 : errno;
	pthread_mutex_lock(&journal->lock);
	file->syncing = false;
	if (failure == 0) {
		file->synced = written;
	} else {
		file->failed = true;
		complain(journal, "%s/%s: %s", journal->dir, file->name, strerror(failure));
		if (ftruncate(file->fd, (off_t)file->synced) != 0)
			acp_log(ACP_LOG_ERROR, "journal: %s/%s: calls answered with 503 may be replayed: %s",
				journal->dir, file->name, strerror(errno));
		if (journal->file == file)
			end_file(journal);
	}
	pthread_cond_broadcast(&journal->ended);
}

static bool append(struct acp_journal *journal, const struct acp_buf *lines)
{
	struct file *file = has_room(journal, (int64_t)lines->len) ? current_file(journal) : NULL;
	if (!file || !write_lines(journal, file, lines))
		return false;
	int64_t end = file->written;
	file->users++;
	atomic_store(&journal->pending, true);
	while (file->synced < end && !file->failed) {
		if (file->syncing)
			pthread_cond_wait(&journal->ended, &journal->lock);
		else
			sync_file(journal, file);
	}
	bool ok = file->synced >= end;
	release_file(file);
	return ok;
}

/* Appends the lines of these events if their tenants have room in the current file. */
static bool append_within_shares(struct acp_journal *journal, struct json_object *const *events, size_t count,
				 const struct acp_buf *lines)
{
	const char *why;
	if (!acp_journal_share_take(&journal->shares, &journal->limits, events, count, (int64_t)lines->len, &why)) {
		complain(journal, "%s: %s: their calls are refused until PostgreSQL is back", journal->dir, why);
		return false;
	}
	bool ok = append(journal, lines);
	if (!ok && journal->shares) /* a replay may have ended meanwhile */
		acp_journal_share_give_back(journal->shares, events, count, (int64_t)lines->len);
	return ok;
}

bool acp_journal_append(struct acp_journal *journal, struct json_object *const *events, size_t count)
{
	struct acp_buf lines;
	bool ok = true;
	acp_buf_init(&lines, APPEND_MAX);
	for (size_t i = 0; ok && i < count; i++)
		ok = acp_journal_add_line(&lines, events[i]);
	pthread_mutex_lock(&journal->lock);
	if (!ok)
		complain(journal, "an event lacks event_id, tenant_id or ts, or is too long");
	else if (count > 0)
		ok = append_within_shares(journal, events, count, &lines);
	pthread_mutex_unlock(&journal->lock);
	acp_buf_release(&lines);
	return ok;
}

bool acp_journal_pending(const struct acp_journal *journal)
{
	return atomic_load(&journal->pending);
}

void acp_journal_close(struct acp_journal *journal)
{
	if (!journal)
		return;
	end_file(journal);
	acp_journal_share_end(&journal->shares);
	pthread_cond_destroy(&journal->ended);
	pthread_mutex_destroy(&journal->lock);
	free(journal->dir);
	free(journal);
}

enum acp_code acp_journal_replay(struct acp_journal *journal, acp_journal_commit *commit, void *arg,
				 struct acp_journal_counts *counts)
{
	pthread_mutex_lock(&journal->lock);
	/* While appends wait for its sync, the file stays locked, and the next replay handles it. */
	atomic_store(&journal->pending, journal->file && journal->file->users > 1);
	end_file(journal);
	pthread_mutex_unlock(&journal->lock);
	enum acp_code code = acp_journal_replay_dir(journal->dir, commit, arg, counts);
	if (code != ACP_OK) {
		atomic_store(&journal->pending, true);
		return code;
	}
	/* Only now do the rows of this process use no room any more. */
	pthread_mutex_lock(&journal->lock);
	if (!journal->file)
		acp_journal_share_end(&journal->shares);
	pthread_mutex_unlock(&journal->lock);
	return code;
}
