#include "../tmain.h"

#include "clock.h"
#include "json.h"
#include "journal.h"
#include "log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_EVENTS = 8192, PLENTY = 1 << 30 };

static const struct acp_journal_limits plenty = {PLENTY, PLENTY, PLENTY};

static char base[64]; /* this test's folder; the journal is base/journal */
static char dir[80];
static char why[512];

/* How often replays passed each event to the committer below. */
static int seen[MAX_EVENTS];
static int batches, fail_at; /* the batch that fails, from 1; 0: none */
static int poison = -1;      /* the event that can never be stored */
static size_t largest;

/* Replaces the C library's function: records the file's size at the end of the last sync and the number of syncs, and
 * can make the disk fail. */
static atomic_llong durable;
static atomic_int syncs;
static atomic_bool disk_fails;
static useconds_t disk_takes;

int fdatasync(int fd)
{
	struct stat status;
	CU_ASSERT_EQUAL(fstat(fd, &status), 0); /* later writes may or may not be on the disk */
	if (disk_takes)
		usleep(disk_takes);
	atomic_fetch_add(&syncs, 1);
	if (atomic_load(&disk_fails)) {
		errno = EIO;
		return -1;
	}
	int result = (int)syscall(SYS_fdatasync, fd);
	atomic_store(&durable, (long long)status.st_size);
	return result;
}

static void begin(void)
{
	snprintf(base, sizeof base, "/tmp/acp-journal-XXXXXX");
	CU_ASSERT_FATAL(mkdtemp(base) != NULL);
	snprintf(dir, sizeof dir, "%s/journal", base);
	memset(seen, 0, sizeof seen);
	batches = fail_at = 0;
	poison = -1;
	largest = 0;
	disk_takes = 0;
	atomic_store(&syncs, 0);
	/* The tests cause errors on purpose; keep them out of the test output. */
	acp_log_open("text", "error", "/dev/null");
}

static void remove_all(const char *path)
{
	struct dirent *entry;
	char name[400];
	DIR *found = opendir(path);
	while (found && (entry = readdir(found))) {
		snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
		if (entry->d_name[0] != '.')
			unlink(name);
	}
	if (found)
		closedir(found);
	rmdir(path);
}

static void end(void)
{
	remove_all(dir);
	remove_all(base);
}

static struct acp_journal *open_journal(int64_t max_bytes)
{
	const struct acp_journal_limits limits = {max_bytes, PLENTY, PLENTY};
	struct acp_journal *journal = acp_journal_open(dir, &limits, why, sizeof why);
	CU_ASSERT_FATAL(journal != NULL);
	return journal;
}

static struct json_object *event(int number)
{
	char id[40];
	struct json_object *made = json_object_new_object();
	snprintf(id, sizeof id, "00000000-0000-4000-8000-%012d", number);
	acp_json_add_string(made, "event_id", id);
	acp_json_add_string(made, "tenant_id", "11111111-0000-4000-8000-000000000001");
	acp_json_add_string(made, "ts", "2026-11-22 09:30:00.123456+00");
	acp_json_add(made, "latency_ms", acp_json_double(0.1));
	acp_json_add_string(made, "action", "new\nline \"quote\" \xc3\xa9");
	return made;
}

/* Appends the events [first, first + count) in one call. */
static bool append(struct acp_journal *journal, int first, int count)
{
	struct json_object *events[1000] = {NULL};
	for (int i = 0; i < count; i++)
		events[i] = event(first + i);
	bool ok = acp_journal_append(journal, events, (size_t)count);
	for (int i = 0; i < count; i++)
		json_object_put(events[i]);
	return ok;
}

/* The committer: parses the batch as JSON and records its events. */
static enum acp_code commit(void *arg, const char *events, size_t count)
{
	int numbers[ACP_JOURNAL_BATCH];
	struct json_object *list = json_tokener_parse(events);
	CU_ASSERT_FATAL(json_object_is_type(list, json_type_array));
	CU_ASSERT_EQUAL(json_object_array_length(list), count);
	CU_ASSERT_FATAL(count >= 1 && count <= ACP_JOURNAL_BATCH);
	bool poisoned = false;
	for (size_t i = 0; i < count; i++) {
		struct json_object *one = json_object_array_get_idx(list, i);
		CU_ASSERT_STRING_EQUAL(acp_json_string(one, "action"), "new\nline \"quote\" \xc3\xa9");
		numbers[i] = (int)strtoll(acp_json_string(one, "event_id") + 24, NULL, 10);
		poisoned = poisoned || numbers[i] == poison;
	}
	json_object_put(list);
	(void)arg;
	largest = count > largest ? count : largest;
	if (++batches == fail_at)
		return ACP_UNAVAILABLE;
	for (size_t i = 0; i < count && !poisoned; i++)
		seen[numbers[i]]++;
	return poisoned ? ACP_VALIDATION_ERROR : ACP_OK;
}

static struct acp_journal_counts replay(struct acp_journal *journal, enum acp_code expected)
{
	struct acp_journal_counts counts;
	enum acp_code code = journal ? acp_journal_replay(journal, commit, NULL, &counts)
				     : acp_journal_replay_dir(dir, commit, NULL, &counts);
	CU_ASSERT_EQUAL(code, expected);
	return counts;
}

/* True if each event of [first, first + count) was committed that many times. */
static bool were_seen(int first, int count, int times)
{
	for (int i = first; i < first + count; i++)
		if (seen[i] != times)
			return false;
	return true;
}

/* Finds the only file in the folder with this suffix. Returns the number of files. */
static int find_file(const char *suffix, char path[400])
{
	int count = 0;
	struct dirent *entry;
	DIR *found = opendir(dir);
	while (found && (entry = readdir(found))) {
		size_t len = strlen(entry->d_name), suffix_len = strlen(suffix);
		if (len <= suffix_len || strcmp(entry->d_name + len - suffix_len, suffix) != 0)
			continue;
		count++;
		snprintf(path, 400, "%s/%s", dir, entry->d_name);
	}
	if (found)
		closedir(found);
	return count;
}

static char *read_all(const char *path, size_t *len)
{
	struct stat status;
	int fd = open(path, O_RDONLY);
	CU_ASSERT_FATAL(fd >= 0 && fstat(fd, &status) == 0);
	char *bytes = malloc((size_t)status.st_size + 1);
	CU_ASSERT_FATAL(bytes != NULL && read(fd, bytes, (size_t)status.st_size) == status.st_size);
	bytes[status.st_size] = '\0';
	*len = (size_t)status.st_size;
	close(fd);
	return bytes;
}

static void write_all(const char *path, const char *bytes, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	CU_ASSERT_FATAL(fd >= 0 && write(fd, bytes, len) == (ssize_t)len);
	close(fd);
}

/* Makes a closed journal with that many events in small batches. Returns the content of its file. */
static char *closed_journal(int events, char path[400], size_t *len)
{
	struct acp_journal *journal = open_journal(PLENTY);
	for (int i = 0; i < events; i += 7)
		CU_ASSERT_TRUE(append(journal, i, events - i < 7 ? events - i : 7));
	acp_journal_close(journal);
	CU_ASSERT_EQUAL_FATAL(find_file(".journal", path), 1);
	return read_all(path, len);
}

/* ---------------------------------------------------------------------------------------------------------------- */

static void test_once(void)
{
	char path[400];
	begin();
	struct acp_journal *journal = open_journal(PLENTY);
	CU_ASSERT_FALSE(acp_journal_pending(journal));
	CU_ASSERT_EQUAL(find_file(".journal", path), 0);
	CU_ASSERT_TRUE(append(journal, 0, 1));
	for (int i = 1; i < 1201; i += 300)
		CU_ASSERT_TRUE(append(journal, i, 300));
	CU_ASSERT_TRUE(acp_journal_pending(journal));
	CU_ASSERT_EQUAL(find_file(".journal", path), 1);
	struct acp_journal_counts counts = replay(journal, ACP_OK);
	CU_ASSERT_EQUAL(counts.events, 1201);
	CU_ASSERT_EQUAL(counts.files, 1);
	CU_ASSERT_TRUE(were_seen(0, 1201, 1));
	CU_ASSERT_EQUAL(largest, ACP_JOURNAL_BATCH);
	CU_ASSERT_EQUAL(batches, 3);
	CU_ASSERT_FALSE(acp_journal_pending(journal));
	CU_ASSERT_EQUAL(find_file("", path), 2); /* . and .. */
	CU_ASSERT_EQUAL(replay(journal, ACP_OK).events, 0);
	CU_ASSERT_TRUE(append(journal, 1201, 3)); /* begins another file */
	CU_ASSERT_EQUAL(replay(journal, ACP_OK).events, 3);
	acp_journal_close(journal);
	end();
}

static void test_refused_events(void)
{
	begin();
	static const char *const needed[] = {"event_id", "tenant_id", "ts"};
	struct acp_journal *journal = open_journal(PLENTY);
	CU_ASSERT_TRUE(acp_journal_append(journal, NULL, 0));
	for (size_t i = 0; i < ACP_COUNT(needed); i++) {
		struct json_object *events[] = {event(1), event(2)};
		json_object_object_del(events[1], needed[i]);
		CU_ASSERT_FALSE(acp_journal_append(journal, events, 2));
		json_object_put(events[0]);
		json_object_put(events[1]);
	}
	CU_ASSERT_EQUAL(replay(journal, ACP_OK).events, 0); /* nor the undamaged one */
	acp_journal_close(journal);
	end();
}

/* A crash may cut off the last line at any byte: the other events are committed, and the file is removed. */
static void test_torn_tail(void)
{
	size_t len, last;
	char path[400], other[400];
	begin();
	char *whole = closed_journal(3, path, &len);
	for (last = len - 1; whole[last - 1] != '\n'; last--)
		;
	for (size_t cut = last; cut <= len; cut++) {
		memset(seen, 0, sizeof seen);
		write_all(path, whole, cut);
		struct acp_journal_counts counts = replay(NULL, ACP_OK);
		CU_ASSERT_TRUE(were_seen(0, 2, 1));
		CU_ASSERT_EQUAL(seen[2], cut == len);
		CU_ASSERT_EQUAL(counts.events, cut == len ? 3 : 2);
		CU_ASSERT_EQUAL(counts.torn, cut != last && cut != len);
		CU_ASSERT_EQUAL(counts.damaged, 0);
		CU_ASSERT_EQUAL(find_file("", other), 2); /* . and .. */
	}
	free(whole);
	end();
}

/* After a crash the file system may have extended the file before the data arrived: zeros, even more than a line. */
static void test_zero_tail(void)
{
	size_t len;
	char path[400];
	begin();
	char *whole = closed_journal(5, path, &len);
	CU_ASSERT_EQUAL(truncate(path, (off_t)len + 3000000), 0);
	struct acp_journal_counts counts = replay(NULL, ACP_OK);
	CU_ASSERT_EQUAL(counts.events, 5);
	CU_ASSERT_EQUAL(counts.torn, 1);
	CU_ASSERT_EQUAL(counts.bad, 0);
	free(whole);
	end();
}

/* With one flipped bit anywhere in an acknowledged line, the other events are committed, and the file is unchanged. */
static void test_damaged(void)
{
	size_t len, kept_len;
	char path[400], bad[400];
	begin();
	char *whole = closed_journal(3, path, &len);
	size_t line = len / 3;
	CU_ASSERT_EQUAL_FATAL(line * 3, len);
	for (size_t at = line; at < 3 * line; at++) {
		memset(seen, 0, sizeof seen);
		whole[at] ^= 4;
		write_all(path, whole, len);
		struct acp_journal_counts counts = replay(NULL, ACP_OK);
		CU_ASSERT_EQUAL(counts.damaged, 1);
		CU_ASSERT_EQUAL(counts.bad, 1);
		CU_ASSERT_EQUAL(seen[0], 1);
		/* A line without its newline also loses the next one. */
		CU_ASSERT_EQUAL(seen[1] + seen[2], at == 2 * line - 1 ? 0 : 1);
		CU_ASSERT_EQUAL_FATAL(find_file(".bad", bad), 1);
		char *kept = read_all(bad, &kept_len);
		CU_ASSERT(kept_len == len && memcmp(kept, whole, len) == 0);
		free(kept);
		CU_ASSERT_EQUAL(replay(NULL, ACP_OK).events, 0); /* the file is not replayed again */
		unlink(bad);
		whole[at] ^= 4;
	}
	free(whole);
	end();
}

/* Invalid lines of about the length of a head: each is damaged, and the events after them are committed. */
static void test_short_lines(void)
{
	enum { LONGEST = 40 };
	size_t len, used = 0;
	char path[400], bad[400];
	char lines[LONGEST * (LONGEST + 3) / 2 + 1];
	begin();
	char *whole = closed_journal(1, path, &len);
	for (size_t length = 0; length <= LONGEST; length++) {
		memset(lines + used, 'x', length);
		used += length;
		lines[used++] = '\n';
	}
	char *all = malloc(used + len);
	CU_ASSERT_FATAL(all != NULL);
	memcpy(all, lines, used);
	memcpy(all + used, whole, len);
	write_all(path, all, used + len);
	struct acp_journal_counts counts = replay(NULL, ACP_OK);
	CU_ASSERT_EQUAL(counts.damaged, LONGEST + 1);
	CU_ASSERT_EQUAL(counts.events, 1);
	CU_ASSERT_EQUAL(find_file(".bad", bad), 1);
	free(all);
	free(whole);
	end();
}

/* A line that is too long, in the middle. */
static void test_endless_line(void)
{
	size_t len;
	char path[400];
	begin();
	char *whole = closed_journal(4, path, &len);
	size_t line = len / 4, filler = 5000000;
	char *grown = malloc(len + filler);
	CU_ASSERT_FATAL(grown != NULL);
	memcpy(grown, whole, 2 * line);
	memset(grown + 2 * line, 'x', filler);
	grown[2 * line + filler - 1] = '\n';
	memcpy(grown + 2 * line + filler, whole + 2 * line, len - 2 * line);
	write_all(path, grown, len + filler);
	struct acp_journal_counts counts = replay(NULL, ACP_OK);
	CU_ASSERT_EQUAL(counts.events, 4);
	CU_ASSERT_EQUAL(counts.damaged, 1);
	CU_ASSERT_EQUAL(counts.bad, 1);
	CU_ASSERT_TRUE(were_seen(0, 4, 1));
	free(grown);
	free(whole);
	end();
}

static void test_full(void)
{
	struct acp_journal *first, *second;
	int appended = 0;
	begin();
	first = open_journal(65536);
	second = open_journal(65536);
	while (appended < 2000 && append(first, appended, 1))
		appended++;
	CU_ASSERT(appended > 100 && appended < 1000);
	CU_ASSERT_FALSE(append(second, 3000, 1)); /* the limit applies to all files together */
	CU_ASSERT_EQUAL(replay(second, ACP_OK).events, 0);
	CU_ASSERT_FALSE(append(second, 3000, 1));
	CU_ASSERT_EQUAL(replay(first, ACP_OK).events, appended);
	CU_ASSERT_TRUE(append(second, 3000, 1)); /* there is room again */
	CU_ASSERT_TRUE(append(first, 3001, 1));
	acp_journal_close(first);
	acp_journal_close(second);
	CU_ASSERT_EQUAL(replay(NULL, ACP_OK).events, 2);
	CU_ASSERT_TRUE(were_seen(0, appended, 1));
	end();
}

/* A file that another process is writing is not replayed. */
static void test_two_writers(void)
{
	begin();
	struct acp_journal *first = open_journal(PLENTY), *second = open_journal(PLENTY);
	CU_ASSERT_TRUE(append(first, 0, 10));
	CU_ASSERT_TRUE(append(second, 10, 10));
	struct acp_journal_counts counts = replay(first, ACP_OK);
	CU_ASSERT_EQUAL(counts.events, 10);
	CU_ASSERT_EQUAL(counts.in_use, 1);
	CU_ASSERT_TRUE(were_seen(0, 10, 1));
	CU_ASSERT_TRUE(were_seen(10, 10, 0));
	CU_ASSERT_EQUAL(replay(NULL, ACP_OK).in_use, 1);
	CU_ASSERT_TRUE(append(second, 20, 1));
	acp_journal_close(second); /* ends without a replay */
	CU_ASSERT_EQUAL(replay(first, ACP_OK).events, 11);
	CU_ASSERT_TRUE(were_seen(0, 21, 1));
	acp_journal_close(first);
	end();
}

/* Starts a process that appends until it is killed, and writes each acknowledged event to a pipe. */
static pid_t append_for_ever(int to)
{
	pid_t pid = fork();
	if (pid != 0)
		return pid;
	struct acp_journal *journal = acp_journal_open(dir, &plenty, why, sizeof why);
	for (int i = 0; journal && i < MAX_EVENTS; i++)
		if (!append(journal, i, 1) || write(to, &i, sizeof i) != (ssize_t)sizeof i)
			break;
	for (;;)
		pause();
}

static void test_kill(void)
{
	int pipes[2], number, acknowledged = 0, status;
	begin();
	for (int round = 0; round < 10; round++) {
		memset(seen, 0, sizeof seen);
		CU_ASSERT_EQUAL_FATAL(pipe(pipes), 0);
		pid_t pid = append_for_ever(pipes[1]);
		CU_ASSERT_FATAL(pid > 0);
		close(pipes[1]);
		/* Even on slow machines, the last process is killed only after it has acknowledged an event. */
		int got_first = round == 9 && read(pipes[0], &number, sizeof number) == (ssize_t)sizeof number;
		usleep(3000 + 1700 * (useconds_t)round);
		kill(pid, SIGKILL);
		CU_ASSERT_EQUAL(waitpid(pid, &status, 0), pid);
		for (acknowledged = got_first; read(pipes[0], &number, sizeof number) == (ssize_t)sizeof number;
		     acknowledged++)
			;
		close(pipes[0]);
		struct acp_journal_counts counts = replay(NULL, ACP_OK);
		CU_ASSERT_TRUE(were_seen(0, acknowledged, 1));
		CU_ASSERT(counts.events >= acknowledged && counts.events <= acknowledged + 1);
		CU_ASSERT_EQUAL(counts.bad, 0);
	}
	CU_ASSERT(acknowledged > 0);
	end();
}

/* Many threads append while another one replays: each event is committed once, no matter which file it was in. */
struct crowd {
	struct acp_journal *journal;
	atomic_int next, refused;
	atomic_bool over;
	int replays;
};

enum { CROWD_EVENTS = 3200 };

static void *append_some(void *arg)
{
	struct crowd *crowd = arg;
	for (int i; (i = atomic_fetch_add(&crowd->next, 2)) < CROWD_EVENTS;)
		if (!append(crowd->journal, i, 2))
			atomic_fetch_add(&crowd->refused, 1);
	return NULL;
}

static void *replay_often(void *arg)
{
	struct crowd *crowd = arg;
	while (!atomic_load(&crowd->over)) {
		replay(crowd->journal, ACP_OK);
		crowd->replays++;
		usleep(2000);
	}
	return NULL;
}

static void run_crowd(bool replaying)
{
	pthread_t threads[16], replayer;
	struct crowd crowd = {.journal = open_journal(PLENTY)};
	if (replaying)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&replayer, NULL, replay_often, &crowd), 0);
	for (size_t i = 0; i < ACP_COUNT(threads); i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, append_some, &crowd), 0);
	for (size_t i = 0; i < ACP_COUNT(threads); i++)
		pthread_join(threads[i], NULL);
	atomic_store(&crowd.over, true);
	if (replaying) {
		pthread_join(replayer, NULL);
		CU_ASSERT(crowd.replays > 1);
	}
	CU_ASSERT_EQUAL(crowd.refused, 0);
	replay(crowd.journal, ACP_OK);
	CU_ASSERT_TRUE(were_seen(0, CROWD_EVENTS, 1));
	acp_journal_close(crowd.journal);
}

static void test_threads(void)
{
	begin();
	run_crowd(false);
	end();
}

/* Concurrent appends share a sync, but never one that began before their own write. */
struct group {
	struct acp_journal *journal;
	atomic_int next, early;
	char path[400];
};

enum { GROUP_EVENTS = 160 };

static void *append_and_check(void *arg)
{
	struct group *group = arg;
	char id[16];
	for (int i; (i = atomic_fetch_add(&group->next, 1)) < GROUP_EVENTS;) {
		size_t len;
		if (!append(group->journal, i, 1))
			break;
		size_t on_disk = (size_t)atomic_load(&durable);
		char *bytes = read_all(group->path, &len);
		snprintf(id, sizeof id, "-%012d\"", i);
		if (!memmem(bytes, on_disk < len ? on_disk : len, id, strlen(id)))
			atomic_fetch_add(&group->early, 1);
		free(bytes);
	}
	return NULL;
}

static void test_group_commit(void)
{
	pthread_t threads[16];
	begin();
	struct group group = {.journal = open_journal(PLENTY)};
	CU_ASSERT_TRUE(append(group.journal, GROUP_EVENTS, 1));
	CU_ASSERT_EQUAL_FATAL(find_file(".journal", group.path), 1);
	disk_takes = 3000;
	atomic_store(&syncs, 0);
	for (size_t i = 0; i < ACP_COUNT(threads); i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, append_and_check, &group), 0);
	for (size_t i = 0; i < ACP_COUNT(threads); i++)
		pthread_join(threads[i], NULL);
	CU_ASSERT_EQUAL(group.early, 0);
	CU_ASSERT(atomic_load(&syncs) >= GROUP_EVENTS / 16 && atomic_load(&syncs) <= GROUP_EVENTS / 3);
	CU_ASSERT_EQUAL(replay(group.journal, ACP_OK).events, GROUP_EVENTS + 1);
	acp_journal_close(group.journal);
	end();
}

/* When a sync fails, its events are refused and never replayed; earlier events stay. */
static void test_disk_fails(void)
{
	char path[400];
	begin();
	struct acp_journal *journal = open_journal(PLENTY);
	CU_ASSERT_TRUE(append(journal, 0, 5));
	atomic_store(&disk_fails, true);
	CU_ASSERT_FALSE(append(journal, 5, 5));
	CU_ASSERT_FALSE(append(journal, 10, 5));
	atomic_store(&disk_fails, false);
	CU_ASSERT_TRUE(append(journal, 15, 5)); /* in another file */
	CU_ASSERT_EQUAL(find_file(".journal", path), 3);
	CU_ASSERT_EQUAL(replay(journal, ACP_OK).events, 10);
	CU_ASSERT_TRUE(were_seen(0, 5, 1) && were_seen(5, 10, 0) && were_seen(15, 5, 1));
	CU_ASSERT_EQUAL(find_file(".journal", path), 0);
	acp_journal_close(journal);
	end();
}

static void test_rotation_while_appending(void)
{
	begin();
	run_crowd(true);
	end();
}

/* If the disk accepts only a part of a write, the whole append fails, and earlier events stay. */
static void test_disk_full(void)
{
	struct rlimit before, small;
	char path[400];
	struct stat status;
	begin();
	struct acp_journal *journal = open_journal(PLENTY);
	CU_ASSERT_TRUE(append(journal, 0, 5));
	CU_ASSERT_EQUAL(find_file(".journal", path), 1);
	CU_ASSERT_EQUAL(stat(path, &status), 0);
	off_t good = status.st_size;
	signal(SIGXFSZ, SIG_IGN);
	CU_ASSERT_EQUAL_FATAL(getrlimit(RLIMIT_FSIZE, &before), 0);
	small = before;
	for (rlim_t room = 0; room < 400; room += 57) {
		small.rlim_cur = (rlim_t)good + room;
		CU_ASSERT_EQUAL_FATAL(setrlimit(RLIMIT_FSIZE, &small), 0);
		CU_ASSERT_FALSE(append(journal, 100, 5));
		CU_ASSERT_EQUAL(stat(path, &status), 0);
		CU_ASSERT_EQUAL(status.st_size, good);
	}
	CU_ASSERT_EQUAL_FATAL(setrlimit(RLIMIT_FSIZE, &before), 0);
	signal(SIGXFSZ, SIG_DFL);
	CU_ASSERT_TRUE(append(journal, 5, 5));
	struct acp_journal_counts counts = replay(journal, ACP_OK);
	CU_ASSERT_EQUAL(counts.events, 10);
	CU_ASSERT_EQUAL(counts.torn + counts.damaged, 0);
	CU_ASSERT_TRUE(were_seen(0, 10, 1));
	CU_ASSERT_TRUE(were_seen(100, 5, 0));
	acp_journal_close(journal);
	end();
}

/* If PostgreSQL goes down at any batch, the file stays. The next replay commits the rest, and some events again. */
static void test_commit_fails(void)
{
	char path[400];
	begin();
	struct acp_journal *journal = open_journal(PLENTY);
	for (int i = 0; i < 2000; i += 500)
		CU_ASSERT_TRUE(append(journal, i, 500));
	for (fail_at = 1; fail_at <= 4; fail_at++) {
		batches = 0;
		struct acp_journal_counts counts = replay(journal, ACP_UNAVAILABLE);
		CU_ASSERT_EQUAL(counts.events, 500 * (fail_at - 1));
		CU_ASSERT_EQUAL(counts.files, 0);
		CU_ASSERT_EQUAL(find_file(".journal", path), 1);
		CU_ASSERT_TRUE(acp_journal_pending(journal));
	}
	fail_at = 0;
	CU_ASSERT_EQUAL(replay(journal, ACP_OK).events, 2000);
	CU_ASSERT_TRUE(were_seen(0, 500, 4));
	CU_ASSERT_TRUE(were_seen(1500, 500, 1));
	CU_ASSERT_FALSE(acp_journal_pending(journal));
	acp_journal_close(journal);
	end();
}

/* An event that can never be stored delays no other event, and is not lost. */
static void test_poison(void)
{
	char path[400], again[400];
	begin();
	struct acp_journal *journal = open_journal(PLENTY);
	CU_ASSERT_TRUE(append(journal, 0, 700));
	poison = 321;
	struct acp_journal_counts counts = replay(journal, ACP_OK);
	CU_ASSERT_EQUAL(counts.events, 699);
	CU_ASSERT_EQUAL(counts.refused, 1);
	CU_ASSERT_EQUAL(counts.bad, 1);
	CU_ASSERT_EQUAL(seen[321], 0);
	CU_ASSERT_TRUE(were_seen(0, 321, 1) && were_seen(322, 378, 1));
	CU_ASSERT_EQUAL_FATAL(find_file(".bad", path), 1);
	/* As the manual says, renaming the file makes the next replay try it again. */
	snprintf(again, sizeof again, "%.*s.journal", (int)(strlen(path) - 4), path);
	CU_ASSERT_EQUAL(rename(path, again), 0);
	poison = -1;
	CU_ASSERT_EQUAL(replay(journal, ACP_OK).events, 700);
	CU_ASSERT_EQUAL(seen[321], 1);
	acp_journal_close(journal);
	end();
}

/* A name that cannot be opened as a file, here a folder, is reported, and the files after it are replayed. */
static void test_unreadable(void)
{
	size_t len;
	char path[400], folder[400];
	struct acp_journal_counts counts;
	begin();
	free(closed_journal(20, path, &len));
	snprintf(folder, sizeof folder, "%s/0.journal", dir);
	CU_ASSERT_EQUAL(mkdir(folder, 0700), 0);
	CU_ASSERT_EQUAL(acp_journal_replay_dir(dir, commit, NULL, &counts), ACP_INTERNAL_ERROR);
	CU_ASSERT_EQUAL(counts.events, 20);
	CU_ASSERT_TRUE(were_seen(0, 20, 1));
	CU_ASSERT_EQUAL(rmdir(folder), 0);
	end();
}

/* If two processes replay the same folder, only one gets the file. */
static struct acp_journal_counts nested;

static enum acp_code replay_meanwhile(void *arg, const char *events, size_t count)
{
	acp_journal_replay_dir(dir, commit, NULL, &nested);
	return commit(arg, events, count);
}

static void test_two_replays(void)
{
	size_t len;
	char path[400];
	struct acp_journal_counts counts;
	begin();
	free(closed_journal(20, path, &len));
	CU_ASSERT_EQUAL(acp_journal_replay_dir(dir, replay_meanwhile, NULL, &counts), ACP_OK);
	CU_ASSERT_EQUAL(nested.in_use, 1);
	CU_ASSERT_EQUAL(nested.events, 0);
	CU_ASSERT_EQUAL(counts.events, 20);
	CU_ASSERT_TRUE(were_seen(0, 20, 1));
	end();
}

static unsigned mode_of(const char *path)
{
	struct stat status;
	return stat(path, &status) == 0 ? status.st_mode & 07777 : 0;
}

static void test_permissions(void)
{
	char path[400];
	mode_t before = umask(0);
	begin();
	snprintf(dir, sizeof dir, "%s/journal", base);
	struct acp_journal *journal = open_journal(PLENTY);
	CU_ASSERT_TRUE(append(journal, 0, 1));
	umask(before);
	CU_ASSERT_EQUAL(mode_of(dir), 0700);
	CU_ASSERT_EQUAL(find_file(".journal", path), 1);
	CU_ASSERT_EQUAL(mode_of(path), 0600);
	acp_journal_close(journal);
	/* A folder that others can write to is refused: their rows would be billed. */
	CU_ASSERT_EQUAL(chmod(dir, 0720), 0);
	CU_ASSERT_PTR_NULL(acp_journal_open(dir, &plenty, why, sizeof why));
	CU_ASSERT_PTR_NOT_NULL(strstr(why, dir));
	CU_ASSERT_PTR_NOT_NULL(strstr(why, "chmod go-w"));
	CU_ASSERT_EQUAL(replay(NULL, ACP_INTERNAL_ERROR).events, 0);
	CU_ASSERT_EQUAL(chmod(dir, 0700), 0);
	CU_ASSERT_EQUAL(replay(NULL, ACP_OK).events, 1);
	end();
}

static void test_no_folder(void)
{
	char file[128];
	begin();
	CU_ASSERT_EQUAL(replay(NULL, ACP_OK).files, 0); /* a missing folder counts as empty */
	CU_ASSERT_EQUAL(mode_of(dir), 0);
	snprintf(file, sizeof file, "%s/file", base);
	write_all(file, "", 0);
	snprintf(dir, sizeof dir, "%s/file/journal", base);
	CU_ASSERT_PTR_NULL(acp_journal_open(dir, &plenty, why, sizeof why));
	CU_ASSERT_PTR_NOT_NULL(strstr(why, dir));
	CU_ASSERT_PTR_NULL(acp_journal_open("", &plenty, why, sizeof why));
	/* Parent folders are created, too. While the journal is open, the folder may disappear and is created again. */
	snprintf(dir, sizeof dir, "%s/a/b", base);
	struct acp_journal *journal = open_journal(PLENTY);
	CU_ASSERT_TRUE(append(journal, 0, 1));
	CU_ASSERT_EQUAL(replay(journal, ACP_OK).events, 1);
	CU_ASSERT_EQUAL(rmdir(dir), 0);
	CU_ASSERT_TRUE(append(journal, 1, 1));
	remove_all(dir);
	CU_ASSERT_TRUE(append(journal, 2, 1)); /* not into the deleted file, which no replay would find */
	CU_ASSERT_EQUAL(replay(journal, ACP_OK).events, 1);
	CU_ASSERT_EQUAL(seen[2], 1);
	acp_journal_close(journal);
	remove_all(dir);
	snprintf(dir, sizeof dir, "%s/a", base);
	end();
}

struct shown {
	int files, in_use, bad;
	int64_t events, bytes, damaged;
	char oldest[40];
};

static void show(void *arg, const struct acp_journal_file *file)
{
	struct shown *shown = arg;
	shown->files++;
	shown->in_use += file->in_use;
	shown->bad += file->bad;
	shown->events += file->events;
	shown->bytes += file->bytes;
	shown->damaged += file->damaged;
	snprintf(shown->oldest, sizeof shown->oldest, "%s", file->oldest);
}

static struct shown survey(void)
{
	struct shown shown = {0};
	CU_ASSERT_TRUE(acp_journal_survey(dir, show, &shown, why, sizeof why));
	return shown;
}

static void test_survey(void)
{
	char path[400];
	struct stat status;
	begin();
	CU_ASSERT_EQUAL(survey().files, 0);
	struct acp_journal *journal = open_journal(PLENTY);
	struct json_object *old = event(1);
	acp_json_add_string(old, "ts", "2026-11-21 09:30:00+00");
	CU_ASSERT_TRUE(append(journal, 0, 4));
	CU_ASSERT_TRUE(acp_journal_append(journal, &old, 1));
	CU_ASSERT_TRUE(append(journal, 5, 4));
	json_object_put(old);
	struct shown shown = survey();
	CU_ASSERT(shown.files == 1 && shown.in_use == 1 && shown.bad == 0 && shown.events == 9 && shown.damaged == 0);
	CU_ASSERT_STRING_EQUAL(shown.oldest, "2026-11-21 09:30:00+00");
	CU_ASSERT_EQUAL(find_file(".journal", path), 1);
	CU_ASSERT(stat(path, &status) == 0 && status.st_size == shown.bytes);
	acp_journal_close(journal);
	CU_ASSERT_EQUAL(survey().in_use, 0);
	poison = 3;
	replay(NULL, ACP_OK);
	shown = survey();
	CU_ASSERT(shown.files == 1 && shown.in_use == 0 && shown.bad == 1 && shown.events == 9);
	end();
}

/* Appends events of a tenant until one is refused; returns how many were taken. */
static int fill(struct acp_journal *journal, const char *tenant, const char *actor)
{
	int taken = 0;
	bool ok = true;
	for (; ok && taken < 1000; taken += ok) {
		struct json_object *one = event(taken);
		acp_json_add_string(one, "tenant_id", tenant);
		acp_json_add_string(one, "actor_type", actor);
		ok = acp_journal_append(journal, &one, 1);
		json_object_put(one);
	}
	return taken;
}

/* A tenant, and strangers together, use only their share. The others still have room, and a replay gives it back. */
static void test_shares(void)
{
	static const char one[] = "22222222-0000-4000-8000-000000000001",
			  other[] = "22222222-0000-4000-8000-000000000002";
	static const char none[] = "00000000-0000-0000-0000-000000000000";
	const struct acp_journal_limits limits = {PLENTY, 10000, 3000};
	begin();
	struct acp_journal *journal = acp_journal_open(dir, &limits, why, sizeof why);
	CU_ASSERT_FATAL(journal != NULL);
	int of_one = fill(journal, one, "api_key");
	CU_ASSERT(of_one > 20 && of_one < 60);
	CU_ASSERT_EQUAL(fill(journal, one, "api_key"), 0);
	int of_strangers = fill(journal, none, "anonymous");
	CU_ASSERT(of_strangers > 5 && of_strangers < of_one);
	CU_ASSERT_EQUAL(fill(journal, other, "api_key"), of_one);
	CU_ASSERT_EQUAL(fill(journal, none, "system"), 1000);
	batches = 0, fail_at = 1;
	replay(journal, ACP_UNAVAILABLE);
	CU_ASSERT_EQUAL(fill(journal, one, "api_key"), 0);
	replay(journal, ACP_OK);
	CU_ASSERT_EQUAL(fill(journal, one, "api_key"), of_one);
	acp_journal_close(journal);
	end();
}

const char *const acp_suite_name = "journal";
CU_TestInfo acp_tests[] = {{"once", test_once},
			   {"refused_events", test_refused_events},
			   {"torn_tail", test_torn_tail},
			   {"zero_tail", test_zero_tail},
			   {"damaged", test_damaged},
			   {"short_lines", test_short_lines},
			   {"endless_line", test_endless_line},
			   {"full", test_full},
			   {"two_writers", test_two_writers},
			   {"kill", test_kill},
			   {"threads", test_threads},
			   {"group_commit", test_group_commit},
			   {"disk_fails", test_disk_fails},
			   {"rotation_while_appending", test_rotation_while_appending},
			   {"disk_full", test_disk_full},
			   {"commit_fails", test_commit_fails},
			   {"poison", test_poison},
			   {"unreadable", test_unreadable},
			   {"two_replays", test_two_replays},
			   {"permissions", test_permissions},
			   {"no_folder", test_no_folder},
			   {"survey", test_survey},
			   {"shares", test_shares},
			   CU_TEST_INFO_NULL};
