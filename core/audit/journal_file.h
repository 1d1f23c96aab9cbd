/* journal_file.h - the folder of the journal and the form of a line, for writing and replaying. Private to core/. */
#ifndef ACP_JOURNAL_FILE_H
#define ACP_JOURNAL_FILE_H

#include "buf.h"
#include "journal.h"

#define ACP_JOURNAL_LIVE ".journal"
#define ACP_JOURNAL_BAD ".bad"

enum {
	ACP_JOURNAL_HEAD = 26,          /* bytes of a line before its JSON */
	ACP_JOURNAL_EVENT_MAX = 1 << 20 /* bytes of JSON; events of audit.c have a few hundred */
};

/* Opens the folder. Returns -1 with a sentence in why and errno; ENOENT: it is missing. Refuses a folder that other
 * users can write to, because a file put there could bill any tenant. */
int acp_journal_dir(const char *dir, char *why, size_t why_size);

/* True if the name ends with suffix. */
bool acp_journal_named(const char *name, const char *suffix);

/* Appends the line of an event. False: the event lacks event_id, tenant_id or ts, or is too long. */
bool acp_journal_add_line(struct acp_buf *out, struct json_object *event);

/* Reads a file line by line. */
struct acp_journal_reader {
	int fd;
	struct acp_buf held; /* bytes read; those from `at` on are not yet returned */
	size_t at;
	bool end;      /* end of file reached */
	bool too_long; /* the start of this line was dropped */
};

enum acp_journal_line {
	ACP_LINE_WHOLE,
	ACP_LINE_DAMAGED,
	ACP_LINE_CUT,   /* the last line, and incomplete */
	ACP_LINE_NONE,  /* end of file */
	ACP_LINE_FAILED /* the file cannot be read: errno */
};

void acp_journal_reader_init(struct acp_journal_reader *reader, int fd);
void acp_journal_reader_release(struct acp_journal_reader *reader);

/* Reads the next line. event and len: the JSON of a complete line, valid until the next call. */
enum acp_journal_line acp_journal_next(struct acp_journal_reader *reader, const char **event, size_t *len);

#endif
