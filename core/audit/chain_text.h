/* chain_text.h - makes the text of an audit row for its chain_hash, in form 2 (docs/internals.md, "The chain's text"):
 * one line for each field of event.def, with the length before the value. acp.audit_texts() makes the same text in SQL.
 * A field that was added after schema version 10 has a line only if it is not null. Form 1 is PostgreSQL's literal of
 * the row. It was used up to schema version 9.
 *
 * The text holds a personal field as a commitment: the SHA-256 of the row's salt and of the line with the value. When
 * the value and the salt are erased, the row keeps the commitment, so the text stays the same. */
#ifndef ACP_CHAIN_TEXT_H
#define ACP_CHAIN_TEXT_H

#include "buf.h"
#include "crypto.h"
#include "event.h"

enum { ACP_CHAIN_FORM = 2, ACP_SALT_LEN = 16 };
#define ACP_CHAIN_HEADER "acp audit row 2\n" /* start of the text; form 1 starts with a parenthesis */

/* Converts "2026-11-22 09:30:00.123456" (UTC) to microseconds since 1970. The fraction may be shorter or missing, and
 * "+00" may follow. False: the text does not have this form. */
bool acp_time_us(const char *text, int64_t *us) ACP_MUSTCHECK ACP_NONNULL;

/* True if a personal field has a value. Only then does the row have a salt. */
bool acp_event_personal(const struct acp_event *event) ACP_NONNULL;

/* Appends the text of an event that has a ts. salt: ACP_SALT_LEN random bytes, made for this row; NULL: the row has no
 * salt. False: only PostgreSQL can make the text (a number in result_meta is not an integer), or a value does not fit
 * its column. The text in out is then incomplete. */
bool acp_chain_text(struct acp_buf *out, const struct acp_event *event, const uint8_t *salt) ACP_MUSTCHECK;

/* A stored row. */
struct acp_chain_row {
	const char *value[ACP_FIELDS]; /* as PostgreSQL writes it, times in UTC; NULL: null */
	const char *salt;              /* in hex; NULL: none */
	bool erased[ACP_FIELDS];       /* the value is erased; commitment has its commitment */
	char commitment[ACP_FIELDS][ACP_SHA256_HEX];
};

/* Reads the column erased, {"ip_address": "<64 hex digits>", …}; NULL: nothing is erased. False: json is not such an
 * object, or out of memory. */
bool acp_chain_row_erased(struct acp_chain_row *row, const char *json) ACP_MUSTCHECK;

/* Appends the text of a stored row. False: the row is not a valid row of form 2. It has a value without a salt, a salt
 * without a value, a value that is marked as erased, or a value that does not fit its column. */
bool acp_chain_row_text(struct acp_buf *out, const struct acp_chain_row *row) ACP_MUSTCHECK;

#endif
