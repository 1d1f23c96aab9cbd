/* audit.h - what the parts of acpctl audit share. */
#ifndef ACP_ACPCTL_AUDIT_H
#define ACP_ACPCTL_AUDIT_H

#include "acpctl.h"
#include "chain_text.h"
#include "proof.h"

#include <pthread.h>

/* An option: "--name VALUE", or (flag) "--name". */
struct audit_option {
	const char *name;
	const char **value;
	bool *flag;
};

/* Reads options and, where files is not NULL, any number of other words, moved to the front of ctl->argv. False after
 * saying what is wrong. */
bool audit_options(struct ctl *ctl, const struct audit_option *options, size_t count, int *files);

/* ctl_fail(), returning false. */
bool audit_fail(const char *format, ...) ACP_PRINTF(1, 2);

/* Opens the database, for as long as it takes, in one snapshot (or for changes). False after saying what failed. */
bool audit_open(struct ctl *ctl, const char *begin);

/* Runs a named statement whose rows do not matter. False after saying what failed. */
bool audit_run(struct ctl *ctl, const char *statement, const char *const *values);

/* acp_admin_stream(), which says what failed. */
bool audit_stream(struct ctl *ctl, const char *statement, const char *const *values, acp_admin_row *each, void *arg);

/* A buffer's text, also before its first append. */
static inline const char *audit_text(const struct acp_buf *buf)
{
	return buf->len ? buf->ptr : "";
}

/* Findings ------------------------------------------------------------------------------------------------------- */

struct audit_report {
	struct ctl *ctl;
	const char *file; /* that is being checked; NULL: the database */
	int64_t count;
	struct json_object *list; /* with --json; NULL: they are printed at once */
};

/* acp_report_finding; arg is the report. */
void audit_finding(void *report, const struct acp_finding *finding);

/* Something that is no row of a chain. */
void audit_problem(struct audit_report *report, const char *kind, const char *format, ...) ACP_PRINTF(3, 4);

/* Rows of the database ------------------------------------------------------------------------------------------- */

/* A row as a stream gives it, and its text. Begin with all zero; release with audit_row_release. */
struct audit_row {
	struct acp_row columns;
	struct acp_chain_row kept;
	struct acp_buf text;
	bool form2;
};

/* Makes the text of a row from its columns (a literal), its form (NULL: 1), salt and erased values (NULL: none), and
 * points link to it: good until the next call. A row that is broken has its literal as a text. */
void audit_row_text(struct audit_row *row, const char *literal, const char *form, const char *salt, const char *erased,
		    struct acp_link *link);
void audit_row_release(struct audit_row *row);

/* Progress on a terminal, from two seconds on ---------------------------------------------------------------------- */

struct audit_progress {
	const char *what;
	int64_t total, done;
	uint64_t began, shown;
	bool share; /* shown as a part of the whole, not as rows */
};
void audit_progress_begin(struct audit_progress *progress, const char *what, int64_t total);
void audit_progress_step(struct audit_progress *progress);
void audit_progress_at(struct audit_progress *progress, int64_t done);
void audit_progress_end(struct audit_progress *progress);

/* The same for a statement that says nothing until it ends. Ending it twice is harmless. */
struct audit_busy {
	const char *what;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool running, over;
};
void audit_busy_begin(struct audit_busy *busy, const char *what);
void audit_busy_end(struct audit_busy *busy);

/* Before something else is written: takes the line away, until it is drawn again. */
void audit_progress_hide(void);

/* Files ---------------------------------------------------------------------------------------------------------- */

/* A file that is written or read line by line; through gzip where its name ends so. */
struct audit_file {
	const char *path;
	FILE *stream;
	int fd;   /* of the file itself while it is written */
	long pid; /* of gzip; 0: none */
};
bool audit_file_create(struct audit_file *file, const char *path, bool gzip);
bool audit_file_open(struct audit_file *file, const char *path);
/* Waits for gzip; sync: until it is on disk. False after saying what failed. */
bool audit_file_close(struct audit_file *file, bool sync);

/* SHA-256 and length of a file's bytes. */
bool audit_file_hash(const char *path, char hex[ACP_SHA256_HEX], int64_t *bytes);

/* What an export takes, and what it found. */
struct audit_selection {
	const char *from, *to, *tenant; /* NULL: without that bound */
};
struct audit_sums {
	int64_t rows, seals;
	char runs_sha256[ACP_SHA256_HEX]; /* of the lines "chain first last hash" of its stretches without a gap */
};

/* Appends the last line of an export; signature NULL: it is not signed. */
void audit_trailer_line(const struct audit_sums *sums, const char *ends, const char *sha256, const char *signature,
			struct acp_buf *out);

/* Writes an export, in the open snapshot. False after saying what failed. */
bool audit_export(struct ctl *ctl, const struct audit_selection *selection, FILE *out, struct audit_sums *sums);

/* The seals of the database, to compare those of a file with them: hash of seal i at [i - 1]. */
struct audit_seals {
	int64_t count;
	char (*hash)[ACP_SHA256_HEX];
};

/* What a file turned out to be. */
struct audit_file_facts {
	struct acp_chain_counts chains;
	int64_t seals;
	bool tenant_only;
	bool signature_checked;
};

/* Checks an exported file. False: it could not be read (said). */
bool audit_verify_file(struct audit_report *report, const char *path, const struct audit_seals *seals,
		       struct audit_file_facts *facts);

/* The text that an archive's signature is made of. */
struct audit_archive {
	const char *month, *part, *at, *rows, *file, *bytes, *sha256, *runs_sha256, *totals_sha256;
};
void audit_archive_sign(const struct ctl *ctl, const struct audit_archive *archive, char hex[ACP_SHA256_HEX]);

/* SHA-256 of the lines of a stream (run stream, total stream) of an archive. */
bool audit_lines_hash(struct ctl *ctl, const char *statement, const char *month, const char *part,
		      char hex[ACP_SHA256_HEX]);

#endif
