/* journal.h - audit rows on the local disk while PostgreSQL is away, and their way back into it.
 *
 * A folder holds the journal of one host: each process appends to a file of its own, which it keeps locked (flock), so
 * that others know it is in use. A line is the event's length, its checksum and the event as JSON:
 *
 *     <8 hex digits: bytes of JSON> <16 hex digits: first 8 bytes of their SHA-256> <JSON>\n
 *
 * What is not whole was never acknowledged (the end of a file) or is damaged (anywhere else): then the file is put
 * aside as *.bad once the rest of it is stored. Knows neither PostgreSQL nor FastCGI: whoever replays says how a batch
 * of events is committed. Replaying is safe to repeat because storing is: by event_id, once. */
#ifndef ACP_JOURNAL_H
#define ACP_JOURNAL_H

#include "attr.h"
#include "status.h"

#include <json-c/json.h>

enum { ACP_JOURNAL_BATCH = 500 }; /* the most events of one commit */

struct acp_journal;

/* The journal of this process (after fork). Makes the folder (mode 0700) where it is missing; the file comes with the
 * first event. max_bytes: of all files of the folder together, save those put aside. NULL with a sentence in why. */
struct acp_journal *acp_journal_open(const char *dir, int64_t max_bytes, char *why, size_t why_size) ACP_MUSTCHECK;

/* No append or replay may be running. A file that holds events stays for others to replay. */
void acp_journal_close(struct acp_journal *journal);

/* Appends events: objects whose members are the columns of audit_logs (audit.c), with event_id, tenant_id and ts
 * set. True: all of them are on the disk. False: none is (the journal is full, the disk failed, or an event lacks one
 * of the three); the reason goes to the log, at most once a second. Any number of threads; those that come together
 * share one fdatasync. */
bool acp_journal_append(struct acp_journal *journal, struct json_object *const *events, size_t count) ACP_MUSTCHECK;

/* True when this process has appended events that it has not seen replayed. Cheap; for "is there anything to do?"
 * Files that dead processes left do not show here: replay now and then, and at start. */
bool acp_journal_pending(const struct acp_journal *journal);

/* Stores a batch of events for good: events is the text of a JSON array of count objects, as they were appended.
 * ACP_OK: committed (or stored before). ACP_VALIDATION_ERROR: one of them can never be stored: the journal then tries
 * smaller batches, down to one event. Any other code: not now; replaying stops. */
typedef enum acp_code acp_journal_commit(void *arg, const char *events, size_t count);

struct acp_journal_counts {
	int64_t files;     /* replayed and gone */
	int64_t events;    /* committed */
	int64_t in_use;    /* files left alone because a process writes or replays them */
	int64_t torn;      /* files whose last line was cut: its call had not been answered */
	int64_t damaged;   /* lines whose checksum is wrong */
	int64_t refused;   /* events that commit will never take */
	int64_t put_aside; /* files now named *.bad, because of the two before this */
};

/* Replays this process's file (which it gives up; the next append begins another) and those that no living process
 * holds. A file goes when all of its events are committed. Returns ACP_OK, or why it stopped: the code of commit, or
 * ACP_INTERNAL_ERROR when the folder cannot be read. counts says what was done in either case. Safe with other
 * replays at the same time, here or in other processes, and with appends. */
enum acp_code acp_journal_replay(struct acp_journal *journal, acp_journal_commit *commit, void *arg,
				 struct acp_journal_counts *counts);

/* The same for a folder that this process does not write to. A folder that is missing is empty. */
enum acp_code acp_journal_replay_dir(const char *dir, acp_journal_commit *commit, void *arg,
				     struct acp_journal_counts *counts);

/* One file, for people who look. */
struct acp_journal_file {
	const char *name;
	int64_t bytes;
	int64_t events;  /* whole lines */
	int64_t damaged; /* lines whose checksum is wrong */
	bool in_use;
	bool aside;      /* *.bad: no replay touches it */
	char oldest[40]; /* the smallest ts; "" when there is none */
};

/* Calls each for every file of a folder, in the order of their names. False with a sentence in why when the folder
 * cannot be read; one that is missing is empty. */
bool acp_journal_survey(const char *dir, void (*each)(void *arg, const struct acp_journal_file *file), void *arg,
			char *why, size_t why_size) ACP_MUSTCHECK;

/* What waits in a folder, for people who watch: lines are counted, not checked. */
struct acp_journal_waiting {
	int64_t rows;
	int64_t bytes;
	int64_t aside; /* files *.bad */
};
struct acp_journal_waiting acp_journal_waiting(const char *dir);

#endif
