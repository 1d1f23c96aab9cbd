/* proof.h - what proves the audit log: seals, the readable form of a row, and the check of its chains.
 *
 * A row's chain_hash is the SHA-256 of the chain_hash before it and of the row's text. A text has one of two forms: 1,
 * PostgreSQL's literal of the row's columns, up to schema version 9; 2, that of chain_text.h. A seal signs where all
 * chains ended. Nothing here knows where rows come from: the database and exported files are checked by the same
 * code. */
#ifndef ACP_PROOF_H
#define ACP_PROOF_H

#include "attr.h"
#include "buf.h"
#include "event.h"
#include "subkey.h"

/* A seal as it is stored; hashes in hex. heads: a line for each chain, "chain seq hash", in their order. */
struct acp_seal {
	int64_t id;
	int64_t rows;
	const char *at, *previous, *heads, *hash, *signature;
};

/* The text that a seal's hash and signature are made of: all but those two. */
void acp_seal_text(const struct acp_seal *seal, struct acp_buf *out);

/* One line of heads; *at moves behind it. False: the end, or (*at not at a NUL) not such a line. */
struct acp_head {
	int64_t chain, seq;
	uint8_t hash[ACP_SHA256_LEN];
};
bool acp_head_next(const char **at, struct acp_head *out);

/* Whether a seal is what it says and follows the one before it. */
struct acp_seal_check {
	const char *pepper; /* "": signatures cannot be checked */
	bool partly;        /* the first seal seen need not be the first one */
	int64_t last;       /* number of the seal before; 0: none */
	char hash[ACP_SHA256_HEX];
};

/* False with a sentence in why. Goes on from this seal in any case. */
bool acp_seal_ok(struct acp_seal_check *check, const struct acp_seal *seal, char *why, size_t why_size);

/* Rows ----------------------------------------------------------------------------------------------------------- */

/* The columns of a row, in their order, as PostgreSQL writes them; NULL is null. Of a text of form 2: the commitments
 * where a personal value was, and the latency's bytes. */
struct acp_row {
	const char *field[ACP_FIELDS];
	char *storage;
	size_t size;
};

/* Takes a text of either form apart; false: it is none. The fields are good until the next call; release with
 * acp_row_release. Begin with all zero. */
bool acp_row_parse(struct acp_row *row, const char *text, size_t len) ACP_MUSTCHECK;
void acp_row_release(struct acp_row *row);
enum { ACP_ROW_EVENT = 0, ACP_ROW_TS = 2, ACP_ROW_TENANT = 3 };

/* One row of a chain. */
struct acp_chain_link {
	int64_t chain, seq; /* 0: it has none */
	uint8_t hash[ACP_SHA256_LEN];
	bool has_before; /* the chain_hash of the row before is given, because that row is not at hand */
	uint8_t before[ACP_SHA256_LEN];
	const char *text;
	size_t len;
	bool broken; /* no text of this row was ever stored; text only names it */
};

/* A stored row with its salt and the commitments of erased values (chain_text.h). */
struct acp_chain_row;

/* Appends the row as one line of an export: its columns as members, its place, and the text itself. kept: for a text of
 * form 2; its salt, and which values are erased; NULL: form 1. The same row gives the same bytes, so that an altered
 * line is not the line of its text. */
void acp_row_line(const struct acp_row *row, const struct acp_chain_link *link, const struct acp_chain_row *kept,
		  struct acp_buf *out);

/* Chains --------------------------------------------------------------------------------------------------------- */

/* What is wrong, at one place of one chain. */
struct acp_finding {
	int64_t chain, seq;
	const char *kind;      /* altered, removed, inserted, rewritten, cut_off, misplaced: for programs */
	const char *message;   /* for people: continues "chain 3, row 17" */
	const char *event_id;  /* the row that is named; NULL: none is there to name */
	const char *tenant_id; /* with event_id */
	const char *ts;
};

typedef void acp_report_finding(void *arg, const struct acp_finding *finding);

/* The check of all chains. What there is of a chain comes in the order of its places, chain after chain. */
struct acp_chain_check;

/* partly: a part of the rows is looked at, so chains may begin and end anywhere. NULL: out of memory. */
struct acp_chain_check *acp_chain_check_new(bool partly, acp_report_finding *report, void *arg) ACP_MUSTCHECK;
void acp_chain_check_free(struct acp_chain_check *check);

void acp_chain_row(struct acp_chain_check *check, const struct acp_chain_link *link);
/* Rows first to last are in an archive; the last one's chain_hash. */
void acp_chain_archived(struct acp_chain_check *check, const struct acp_head *last, int64_t first);
/* A seal says that this row of the chain has this hash. */
void acp_chain_sealed(struct acp_chain_check *check, const struct acp_head *head, int64_t seal);
/* The database says that the chain ends there. */
void acp_chain_head(struct acp_chain_check *check, const struct acp_head *head);
/* After the last item. */
void acp_chain_end(struct acp_chain_check *check);

struct acp_chain_counts {
	int64_t rows, archived, chains, findings;
};
struct acp_chain_counts acp_chain_counts(const struct acp_chain_check *check);

#endif
