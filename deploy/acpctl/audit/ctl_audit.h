/* ctl_audit.h - the shared parts of acpctl audit: findings, files, exports. */
#ifndef ACP_ACPCTL_AUDIT_H
#define ACP_ACPCTL_AUDIT_H

#include "acpctl.h"
#include "chain_text.h"
#include "proof.h"

/* The text of a buffer, which may be empty. */
static inline const char *audit_text(const struct acp_buf *buf)
{
	return buf->len ? buf->ptr : "";
}

/* Findings --------------------------------------------------------------------------------------------------------- */

struct audit_report {
	struct ctl *ctl;
	const char *file;         /* the file that is being checked; NULL: the database */
	int64_t count;            /* of findings */
	struct json_object *list; /* of findings, with --json or --csv; NULL: they are printed at once */
};

/* Reports a finding. Has the type acp_report_finding; its argument is the report. */
void audit_finding(void *report, const struct acp_finding *finding);

/* Reports a finding that does not concern a row of a chain. */
void audit_problem(struct audit_report *report, const char *kind, const char *format, ...) ACP_PRINTF(3, 4);

/* Rows of the database --------------------------------------------------------------------------------------------- */

/* A row of a stream, and its text. Start with a zeroed row; release it with audit_row_release. */
struct audit_row {
	struct acp_row columns;
	struct acp_chain_row kept;
	struct acp_buf text;
	bool form2;
};

/* Makes the text of a row from its columns (a literal), its form (NULL: 1), its salt and its erased values (NULL:
 * none), and points link to it. The text is valid until the next call. The text of a broken row is its literal. */
void audit_row_text(struct audit_row *row, const char *literal, const char *form, const char *salt, const char *erased,
		    struct acp_chain_link *link);
void audit_row_release(struct audit_row *row);

/* Times ------------------------------------------------------------------------------------------------------------ */

/* Converts times (NULL: none) to texts in UTC: the columns first and past (null: none) of one row. The caller owns the
 * rows. NULL after reporting the error: PostgreSQL cannot read a time, or it is outside the years 1970 to 9999. */
struct json_object *audit_instants(struct ctl *ctl, const char *first, const char *past);

/* Files ------------------------------------------------------------------------------------------------------------ */

/* A file that is written or read line by line, directly or through gzip. */
struct audit_file {
	const char *path;
	FILE *stream;
	int fd;   /* of the file itself */
	long pid; /* of gzip; 0: none */
};

/* Creates or truncates a file (mode 0640) for writing. False after reporting the error. path is borrowed. */
bool audit_file_create(struct audit_file *file, const char *path, bool gzip);

/* Opens a file for reading, through gzip if it is compressed. False after reporting the error. */
bool audit_file_open(struct audit_file *file, const char *path);

/* Closes the file and waits for gzip. sync: also flushes it to disk. False after reporting the error. */
bool audit_file_close(struct audit_file *file, bool sync);

/* Computes the SHA-256 and the length of a file. False after reporting the error. */
bool audit_file_hash(const char *path, char hex[ACP_SHA256_HEX], int64_t *bytes);

/* The rows of an export, and their sums. */
struct audit_selection {
	const char *from, *to, *tenant; /* NULL: no limit */
};
struct audit_sums {
	int64_t rows, seals;
	char runs_sha256[ACP_SHA256_HEX]; /* of the lines "chain first last hash" of its ranges */
};

/* Appends the last line of an export. signature NULL: it is not signed. */
void audit_trailer_line(const struct audit_sums *sums, const char *ends, const char *sha256, const char *signature,
			struct acp_buf *out);

/* Writes an export, in the open snapshot. False after reporting the error. */
bool audit_export(struct ctl *ctl, const struct audit_selection *selection, FILE *out, struct audit_sums *sums);

/* The seals of the database, to compare with those of a file. The hash of seal i is at [i - 1]. */
struct audit_seals {
	int64_t count;
	char (*hash)[ACP_SHA256_HEX];
};

/* The result of checking a file. */
struct audit_file_facts {
	struct acp_chain_counts chains;
	int64_t seals;
	int64_t erased; /* rows whose personal values were erased */
	bool tenant_only;
	bool signature_checked;
};

/* Checks an exported file, with the seals of the database or NULL. False after reporting why it cannot be read. */
bool audit_verify_file(struct audit_report *report, const char *path, const struct audit_seals *seals,
		       struct audit_file_facts *facts);

/* The record of an archive, and its signature. */
struct audit_archive {
	const char *month, *part, *at, *rows, *file, *bytes, *sha256, *runs_sha256, *totals_sha256;
};
void audit_archive_sign(const struct ctl *ctl, const struct audit_archive *archive, char hex[ACP_SHA256_HEX]);

/* Computes the SHA-256 of the lines of a stream (run stream, total stream) of an archive. False after reporting the
 * error. */
bool audit_lines_hash(struct ctl *ctl, const char *statement, const char *month, const char *part,
		      char hex[ACP_SHA256_HEX]);

#endif
