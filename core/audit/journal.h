/* journal.h - keeps audit rows on the local disk while PostgreSQL is away, and replays them later.
 *
 * A folder holds the journal of one host. Each process appends to its own file and keeps it locked (flock), so that
 * others know it is in use. A line has the length of the event, its checksum and the event as JSON:
 *
 *     <8 hex digits: bytes of JSON> <16 hex digits: first 8 bytes of their SHA-256> <JSON>\n
 *
 * An incomplete line at the end of a file was never acknowledged. Anywhere else it means damage: the file is then
 * renamed to *.bad once the rest of it is stored. This code uses neither PostgreSQL nor FastCGI: the caller of a replay
 * provides the function that commits a batch of events. A replay can be repeated safely, because an event is stored
 * only once, by its event_id. */
#ifndef ACP_JOURNAL_H
#define ACP_JOURNAL_H

#include "attr.h"
#include "status.h"

#include <json-c/json.h>

enum { ACP_JOURNAL_BATCH = 500 }; /* maximum number of events in one commit */

struct acp_journal;

/* Limits in bytes. Those of a tenant and of strangers (events of ACP_NIL_UUID, together) hold for what this process
 * has written since its last complete replay: one of them cannot fill the journal for the others. */
struct acp_journal_limits {
	int64_t all; /* for all files of the folder together, except *.bad */
	int64_t tenant, strangers;
};

/* Opens the journal of this process. Call it after fork. Creates the folder (mode 0700) if it is missing; the first
 * event creates the file. Returns NULL with a sentence in why. */
struct acp_journal *acp_journal_open(const char *dir, const struct acp_journal_limits *limits, char *why,
				     size_t why_size) ACP_MUSTCHECK;

/* Closes the journal. No append or replay may be running. A file with events stays, for others to replay. */
void acp_journal_close(struct acp_journal *journal);

/* Appends events: objects whose members are the columns of audit_logs (audit.c), with event_id, tenant_id and ts set.
 * True: all of them are on the disk. False: none of them is (the journal or the share of a tenant is full, the disk
 * failed, or an event lacks one of the three members). The reason is logged, at most once a second. Thread-safe;
 * concurrent appends share one fdatasync. */
bool acp_journal_append(struct acp_journal *journal, struct json_object *const *events, size_t count) ACP_MUSTCHECK;

/* True if this process has appended events that it has not replayed yet. Cheap. It does not cover files that dead
 * processes left, so also replay at start and from time to time. */
bool acp_journal_pending(const struct acp_journal *journal);

/* Commits a batch of events: events is the text of a JSON array of count objects, as they were appended. ACP_OK:
 * committed, now or before. ACP_VALIDATION_ERROR: one of them can never be stored; the journal then tries smaller
 * batches, down to one event. Any other code: the replay stops. */
typedef enum acp_code acp_journal_commit(void *arg, const char *events, size_t count);

struct acp_journal_counts {
	int64_t files;   /* replayed and removed */
	int64_t events;  /* committed */
	int64_t in_use;  /* files left alone because a process writes or replays them */
	int64_t torn;    /* files with an incomplete last line, whose call had not been answered */
	int64_t damaged; /* lines with a wrong checksum */
	int64_t refused; /* events that can never be stored */
	int64_t bad;     /* files renamed to *.bad because of damaged or refused */
};

/* Replays the file of this process (the next append starts another one) and the files that no living process holds.
 * Removes a file when all of its events are committed. Returns ACP_OK; the code of commit, if that stopped the replay;
 * or ACP_INTERNAL_ERROR if the folder or a file cannot be read, although the other files were replayed. Fills counts in
 * any case. Other replays, here or in other processes, and appends may run at the same time. */
enum acp_code acp_journal_replay(struct acp_journal *journal, acp_journal_commit *commit, void *arg,
				 struct acp_journal_counts *counts);

/* The same for a folder that this process does not write to. A missing folder counts as empty. */
enum acp_code acp_journal_replay_dir(const char *dir, acp_journal_commit *commit, void *arg,
				     struct acp_journal_counts *counts);

/* One file, as acpctl journal shows it. */
struct acp_journal_file {
	const char *name;
	int64_t bytes;
	int64_t events;  /* whole lines */
	int64_t damaged; /* lines with a wrong checksum */
	bool in_use;
	bool bad;        /* *.bad: not replayed */
	char oldest[40]; /* the smallest ts; "": none */
};

/* Calls each for every file of a folder, sorted by name. A missing folder counts as empty. False with a sentence in
 * why: the folder cannot be read. */
bool acp_journal_survey(const char *dir, void (*each)(void *arg, const struct acp_journal_file *file), void *arg,
			char *why, size_t why_size) ACP_MUSTCHECK;

/* The rows that wait in a folder, for monitoring. Their lines are counted, but not checked. */
struct acp_journal_waiting {
	int64_t rows;
	int64_t bytes;
	int64_t bad; /* files *.bad */
};
struct acp_journal_waiting acp_journal_waiting(const char *dir);

#endif
