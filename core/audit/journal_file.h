/* journal_file.h - what the two sides of the journal share: its folder and the form of a line. Private to core/. */
#ifndef ACP_JOURNAL_FILE_H
#define ACP_JOURNAL_FILE_H

#include "buf.h"
#include "journal.h"

#define ACP_JOURNAL_LIVE ".journal"
#define ACP_JOURNAL_ASIDE ".bad"

enum {
	ACP_JOURNAL_HEAD = 26,          /* bytes of a line before its JSON */
	ACP_JOURNAL_EVENT_MAX = 1 << 20 /* bytes of JSON; the events that audit.c makes have a few hundred */
};

/* Opens the folder. -1 with a sentence in why, and errno: ENOENT where it is missing. A folder that others may write to
 * is refused: whoever can put a file there could bill anybody. */
int acp_journal_dir(const char *dir, char *why, size_t why_size);

/* True for a name that ends so. */
bool acp_journal_named(const char *name, const char *suffix);

/* Appends the line of an event. False: it lacks what storing it once needs, or is too long. */
bool acp_journal_add_line(struct acp_buf *out, struct json_object *event);

/* Reads a file line by line. */
struct acp_journal_reader {
	int fd;
	struct acp_buf held; /* read, and from `at` on not yet given out */
	size_t at;
	bool end;      /* of the file */
	bool too_long; /* the start of this line was thrown away */
};

enum acp_journal_line {
	ACP_LINE_WHOLE,
	ACP_LINE_DAMAGED,
	ACP_LINE_CUT,   /* the last one, and shorter than it says */
	ACP_LINE_NONE,  /* the file ends here */
	ACP_LINE_FAILED /* it cannot be read: errno */
};

void acp_journal_reader_init(struct acp_journal_reader *reader, int fd);
void acp_journal_reader_release(struct acp_journal_reader *reader);

/* The next line. event and len: the JSON of a whole one, valid until the next call. */
enum acp_journal_line acp_journal_next(struct acp_journal_reader *reader, const char **event, size_t *len);

#endif
