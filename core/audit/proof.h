/* proof.h - proof of the audit log: seals, the readable form of a row, and the check of the chains.
 *
 * The chain_hash of a row is the SHA-256 of the previous chain_hash and the text of the row. A text has one of two
 * forms. Form 1 is PostgreSQL's literal of the row's columns, up to schema version 9. Form 2 is described in
 * chain_text.h. A seal signs the ends of all chains. This code does not know where rows come from: it checks the
 * database and exported files alike. */
#ifndef ACP_PROOF_H
#define ACP_PROOF_H

#include "attr.h"
#include "buf.h"
#include "event.h"
#include "subkey.h"

/* A stored seal. Hashes are in hex. heads: one line for each chain, "chain seq hash", sorted by chain. */
struct acp_seal {
	int64_t id;
	int64_t rows;
	const char *at, *previous, *heads, *hash, *signature;
};

/* Appends the text over which the hash and the signature of a seal are computed: all members but these two. */
void acp_seal_text(const struct acp_seal *seal, struct acp_buf *out);

/* Reads one line of heads and moves *at past it. False: the end or, if *at does not point to a NUL, an invalid line. */
struct acp_head {
	int64_t chain, seq;
	uint8_t hash[ACP_SHA256_LEN];
};
bool acp_head_next(const char **at, struct acp_head *out);

/* State for checking a series of seals. */
struct acp_seal_check {
	const char *pepper; /* "": signatures cannot be checked */
	bool partly;        /* the first seal given need not be seal 1 */
	int64_t last;       /* number of the previous seal; 0: none */
	char hash[ACP_SHA256_HEX];
};

/* Checks that a seal is valid and follows the previous one. False with a sentence in why. The next call continues from
 * this seal in either case. */
bool acp_seal_ok(struct acp_seal_check *check, const struct acp_seal *seal, char *why, size_t why_size);

/* Rows ----------------------------------------------------------------------------------------------------------- */

/* The columns of a row, in order, as PostgreSQL writes them; NULL: null. In a text of form 2, personal values are given
 * by their commitments, and the latency by its bytes. */
struct acp_row {
	const char *field[ACP_FIELDS];
	char *storage;
	size_t size;
};

/* Parses a text of either form. False: it has neither form. The fields are valid until the next call. Start with a
 * zeroed row; release it with acp_row_release. */
bool acp_row_parse(struct acp_row *row, const char *text, size_t len) ACP_MUSTCHECK;
void acp_row_release(struct acp_row *row);

/* One row of a chain. */
struct acp_chain_link {
	int64_t chain, seq; /* 0: the row has none */
	uint8_t hash[ACP_SHA256_LEN];
	bool has_before; /* the previous row is not available, but before has its chain_hash */
	uint8_t before[ACP_SHA256_LEN];
	const char *text;
	size_t len;
	bool broken; /* this row cannot be valid; text only identifies it */
};

/* A stored row with its salt and the commitments of erased values (chain_text.h). */
struct acp_chain_row;

/* Appends the row as one line of an export: its columns as members, its place, and the text itself. kept: for form 2,
 * the salt and the erased values; NULL: form 1. The same row always produces the same bytes, so an altered line differs
 * from the line made from its text. */
void acp_row_line(const struct acp_row *row, const struct acp_chain_link *link, const struct acp_chain_row *kept,
		  struct acp_buf *out);

/* Chains --------------------------------------------------------------------------------------------------------- */

/* A fault at one place of one chain. */
struct acp_finding {
	int64_t chain, seq;
	const char *kind;      /* altered, removed, inserted, rewritten, cut_off, misplaced: for programs */
	const char *message;   /* for people: continues "chain 3, row 17" */
	const char *event_id;  /* the row; NULL: there is no row at this place */
	const char *tenant_id; /* with event_id */
	const char *ts;
};

typedef void acp_report_finding(void *arg, const struct acp_finding *finding);

/* The check of all chains. Pass the items of a chain in the order of their places, one chain after the other. */
struct acp_chain_check;

/* Creates a check. partly: only a part of the rows is checked, so chains may start and end anywhere. NULL: out of
 * memory. */
struct acp_chain_check *acp_chain_check_new(bool partly, acp_report_finding *report, void *arg) ACP_MUSTCHECK;
void acp_chain_check_free(struct acp_chain_check *check);

void acp_chain_row(struct acp_chain_check *check, const struct acp_chain_link *link);
/* Rows first to last->seq are in an archive. last has the chain_hash of the last of them. */
void acp_chain_archived(struct acp_chain_check *check, const struct acp_head *last, int64_t first);
/* Seal number seal has this hash for this row of the chain. */
void acp_chain_sealed(struct acp_chain_check *check, const struct acp_head *head, int64_t seal);
/* The end of the chain in acp.audit_chains. */
void acp_chain_head(struct acp_chain_check *check, const struct acp_head *head);
/* Call after the last item. */
void acp_chain_end(struct acp_chain_check *check);

struct acp_chain_counts {
	int64_t rows, archived, chains, findings;
};
struct acp_chain_counts acp_chain_counts(const struct acp_chain_check *check);

#endif
