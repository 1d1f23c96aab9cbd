/* chain_text.h - the text of an audit row that its chain_hash is made from, in form 2 (docs/internals.md, "The chain's
 * text"): a line for each field of event.def, its length before its value. acp.audit_texts() makes the same text in
 * SQL. Form 1 is PostgreSQL's literal of the row; rows of it were written up to schema version 9.
 *
 * A personal field is in the text as a commitment: the SHA-256 of the row's salt and of the line that would stand there
 * otherwise. The text stays the same when value and salt are erased and the row keeps the commitment instead. */
#ifndef ACP_CHAIN_TEXT_H
#define ACP_CHAIN_TEXT_H

#include "buf.h"
#include "crypto.h"
#include "event.h"

enum { ACP_CHAIN_FORM = 2, ACP_SALT_LEN = 16 };
#define ACP_CHAIN_HEADER "acp audit row 2\n" /* the text begins so; one of form 1 begins with a parenthesis */

/* Microseconds since 1970 of "2026-11-22 09:30:00.123456", which is UTC; the fraction may be shorter or missing, "+00"
 * may stand behind it. False: the text has not this form. */
bool acp_time_us(const char *text, int64_t *us) ACP_MUSTCHECK ACP_NONNULL;

/* Whether a personal field has a value. Then, and only then, the row has a salt. */
bool acp_event_personal(const struct acp_event *event) ACP_NONNULL;

/* Appends the text of an event, which has a ts. salt: ACP_SALT_LEN random bytes, made for this row; NULL where the row
 * has none. False: the text is PostgreSQL's to make (a number in result_meta is no integer), or a value has not the
 * form of its column; out then holds a part of it. */
bool acp_chain_text(struct acp_buf *out, const struct acp_event *event, const uint8_t *salt) ACP_MUSTCHECK;

/* A row as it is stored. */
struct acp_chain_row {
	const char *value[ACP_FIELDS]; /* as PostgreSQL writes it, moments in UTC; NULL: null */
	const char *salt;              /* in hex; NULL: none */
	bool erased[ACP_FIELDS];       /* the value is gone, and this is its commitment: */
	char commitment[ACP_FIELDS][ACP_SHA256_HEX];
};

/* Reads the column erased, {"ip_address": "<64 hex digits>", …}; NULL: nothing is erased. False: it is not such an
 * object, or memory is lacking. */
bool acp_chain_row_erased(struct acp_chain_row *row, const char *json) ACP_MUSTCHECK;

/* Appends the text of a stored row. False: no text of form 2 was ever stored so: a value without its salt, a salt that
 * nothing needs, a value where one was erased, a value that has not the form of its column. */
bool acp_chain_row_text(struct acp_buf *out, const struct acp_chain_row *row) ACP_MUSTCHECK;

#endif
