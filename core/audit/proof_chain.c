/* Checks the chains. The row after an altered row shows whether its content or only its chain_hash was altered. So a
 * finding about a row waits for the next item, and one row of look-back is enough. */
#include "proof.h"

#include <stdarg.h>

enum { SHOWN_PER_CHAIN = 5 };

struct acp_chain_check {
	bool partly;
	acp_report_finding *report;
	void *arg;
	struct acp_hasher *hasher;
	struct acp_row row;
	struct acp_chain_counts counts;

	/* The chain that is being checked, and what its items so far have shown. */
	int64_t chain; /* 0: none yet */
	bool seen;     /* a row of it, or an archive of its rows, has been seen */
	int64_t seq;   /* the last place seen */
	uint8_t hash[ACP_SHA256_LEN];
	bool known;                     /* hash is the chain_hash at that place */
	uint8_t before[ACP_SHA256_LEN]; /* the chain_hash at the place before */
	bool before_known;
	uint8_t gap[ACP_SHA256_LEN]; /* if the place before is empty: the chain_hash before the gap */
	bool gap_known;
	bool failed;                     /* the row at seq does not hash to its chain_hash … */
	uint8_t content[ACP_SHA256_LEN]; /* … but to this */
	bool headed, beyond, short_of, rewritten;
	int64_t first_seq, head_seq, sealed_seq, sealed_by, confirmed;
	int shown;

	struct name {
		char event_id[40], tenant_id[40], ts[40];
	} first, named;             /* the first available row of the chain; the row of the waiting finding */
	struct acp_finding waiting; /* kind NULL: none */
	char message[320];
};

struct acp_chain_check *acp_chain_check_new(bool partly, acp_report_finding *report, void *arg)
{
	struct acp_chain_check *check = calloc(1, sizeof *check);
	if (check) {
		check->partly = partly;
		check->report = report;
		check->arg = arg;
		check->hasher = acp_hasher_new();
	}
	return check;
}

void acp_chain_check_free(struct acp_chain_check *check)
{
	if (!check)
		return;
	acp_hasher_free(check->hasher);
	acp_row_release(&check->row);
	free(check);
}

struct acp_chain_counts acp_chain_counts(const struct acp_chain_check *check)
{
	return check->counts;
}

/* Findings ------------------------------------------------------------------------------------------------------- */

static void report_finding(struct acp_chain_check *check, const struct acp_finding *finding)
{
	check->counts.findings++;
	if (check->shown++ < SHOWN_PER_CHAIN)
		check->report(check->arg, finding);
}

static void flush(struct acp_chain_check *check)
{
	if (check->waiting.kind)
		report_finding(check, &check->waiting);
	check->waiting.kind = NULL;
}

static void copy(char *out, size_t size, const char *text)
{
	snprintf(out, size, "%s", text ? text : "");
}

static void name_row(struct acp_chain_check *check, const struct acp_chain_link *link, struct name *out)
{
	bool readable = acp_row_parse(&check->row, link->text, link->len);
	copy(out->event_id, sizeof out->event_id, readable ? check->row.field[ACP_AT_event_id] : "");
	copy(out->tenant_id, sizeof out->tenant_id, readable ? check->row.field[ACP_AT_tenant_id] : "");
	copy(out->ts, sizeof out->ts, readable ? check->row.field[ACP_AT_ts] : "");
}

/* Keeps a finding about this row waiting. */
static void hold(struct acp_chain_check *check, const struct acp_chain_link *link, const char *kind,
		 const char *message)
{
	flush(check);
	name_row(check, link, &check->named);
	copy(check->message, sizeof check->message, message);
	check->waiting = (struct acp_finding){.chain = link->chain,
					      .seq = link->seq,
					      .kind = kind,
					      .message = check->message,
					      .event_id = check->named.event_id,
					      .tenant_id = check->named.tenant_id,
					      .ts = check->named.ts};
}

/* Reports a finding about a place, without a row to name. */
static void report_place(struct acp_chain_check *check, int64_t seq, const char *kind, const char *format, ...)
	ACP_PRINTF(4, 5);

static void report_place(struct acp_chain_check *check, int64_t seq, const char *kind, const char *format, ...)
{
	char message[320];
	va_list args;
	flush(check);
	va_start(args, format);
	vsnprintf(message, sizeof message, format, args);
	va_end(args);
	report_finding(check,
		       &(struct acp_finding){.chain = check->chain, .seq = seq, .kind = kind, .message = message});
}

static void removed(struct acp_chain_check *check, int64_t first, int64_t last)
{
	if (first == last)
		report_place(check, first, "removed", "is missing: removed");
	else
		report_place(check, first, "removed", "and the %lld after it are missing: removed",
			     (long long)(last - first));
}

/* The content of the row of the waiting finding was not altered after all: only its chain_hash was. */
static void only_hash(struct acp_chain_check *check)
{
	if (check->waiting.kind)
		copy(check->message, sizeof check->message, "its chain_hash is not what was written; its content is");
}

/* Chains --------------------------------------------------------------------------------------------------------- */

/* Reports a chain that is not in acp.audit_chains. */
static void unknown_chain(struct acp_chain_check *check)
{
	struct acp_finding finding = {
		.chain = check->chain,
		.seq = check->seq,
		.kind = "removed",
		.message = "is its last, and acp.audit_chains does not have the chain: removed there"};
	if (check->seen && !check->sealed_seq) {
		finding.kind = "inserted";
		finding.message = "begins a chain that neither acp.audit_chains nor a seal knows: inserted";
		finding.seq = check->first_seq;
		finding.event_id = check->first.event_id;
		finding.tenant_id = check->first.tenant_id;
		finding.ts = check->first.ts;
	}
	report_finding(check, &finding);
}

static void finish(struct acp_chain_check *check)
{
	flush(check);
	if (!check->chain || check->partly)
		return;
	if (!check->headed)
		unknown_chain(check);
	if (check->sealed_seq > check->seq && !check->short_of)
		report_place(check, check->seq, "cut_off",
			     "is its last, but seal %lld holds %lld rows: the last %lld were removed",
			     (long long)check->sealed_by, (long long)check->sealed_seq,
			     (long long)(check->sealed_seq - check->seq));
}

static void enter(struct acp_chain_check *check, int64_t chain)
{
	if (check->chain == chain)
		return;
	finish(check);
	check->counts.chains++;
	check->chain = chain;
	check->seen = check->failed = check->before_known = check->gap_known = false;
	check->headed = check->beyond = check->short_of = check->rewritten = false;
	check->seq = check->first_seq = check->head_seq = check->sealed_seq = check->sealed_by = check->confirmed = 0;
	memset(check->hash, 0, sizeof check->hash);
	check->known = true;
	check->shown = 0;
}

static void link_hash(struct acp_chain_check *check, const uint8_t before[ACP_SHA256_LEN],
		      const struct acp_chain_link *link, uint8_t out[ACP_SHA256_LEN])
{
	acp_hasher_add(check->hasher, before, ACP_SHA256_LEN);
	acp_hasher_add(check->hasher, link->text, link->len);
	if (link->broken)
		acp_hasher_add(check->hasher, "", 1); /* a byte that no text contains */
	acp_hasher_end(check->hasher, out);
}

static bool same(const uint8_t a[ACP_SHA256_LEN], const uint8_t b[ACP_SHA256_LEN])
{
	return memcmp(a, b, ACP_SHA256_LEN) == 0;
}

/* True if the row follows from that hash. It is then the next row, whatever its chain_seq says. */
static bool follows(struct acp_chain_check *check, const uint8_t before[ACP_SHA256_LEN],
		    const struct acp_chain_link *link)
{
	uint8_t hash[ACP_SHA256_LEN];
	link_hash(check, before, link, hash);
	return same(hash, link->hash);
}

static void moved(struct acp_chain_check *check, const struct acp_chain_link *link)
{
	hold(check, link, "altered", "its chain_seq is not what was written: it belongs to a place before");
}

/* Handles a second row at the last place. One of the two was inserted: the one that does not follow. */
static void second(struct acp_chain_check *check, const struct acp_chain_link *link)
{
	if (check->failed && check->waiting.kind && check->before_known && follows(check, check->before, link)) {
		check->waiting.kind = "inserted";
		copy(check->message, sizeof check->message, "two rows claim this place; this one was inserted");
		memcpy(check->hash, link->hash, sizeof check->hash);
		check->failed = false;
		return;
	}
	if (check->gap_known && follows(check, check->gap, link)) {
		moved(check, link);
		flush(check);
		return;
	}
	hold(check, link, "inserted",
	     check->before_known ? "two rows claim this place; this one was inserted"
				 : "two rows claim this place; this one or the other was inserted");
	flush(check);
}

/* Continues with the row at the next place. */
static void follow(struct acp_chain_check *check, const struct acp_chain_link *link)
{
	uint8_t hash[ACP_SHA256_LEN];
	uint8_t other[ACP_SHA256_LEN];
	bool ok = true;
	if (check->known) {
		link_hash(check, check->hash, link, hash);
		ok = same(hash, link->hash);
	}
	if (!ok && check->failed) {
		link_hash(check, check->content, link, other);
		ok = same(other, link->hash);
		if (ok)
			only_hash(check);
	}
	flush(check);
	memcpy(check->before, check->hash, sizeof check->before);
	check->before_known = check->known;
	memcpy(check->hash, link->hash, sizeof check->hash);
	check->seq = link->seq;
	check->seen = check->known = true;
	check->failed = !ok;
	check->gap_known = false;
	if (!ok) {
		memcpy(check->content, hash, sizeof check->content);
		hold(check, link, "altered", "its content is not what was written");
	}
}

/* If this row may be the first one available, the chain begins with it. */
static void begin_at(struct acp_chain_check *check, const struct acp_chain_link *link)
{
	bool jump = link->has_before && link->seq > check->seq + 1;
	if (!jump && (check->seen || !check->partly || link->seq == 1))
		return;
	flush(check);
	check->failed = false;
	check->seq = link->seq - 1;
	check->known = link->has_before;
	memcpy(check->hash, link->before, sizeof check->hash);
}

static void beyond(struct acp_chain_check *check, const struct acp_chain_link *link)
{
	if (check->beyond)
		return;
	hold(check, link, "inserted",
	     "is beyond the end of its chain in acp.audit_chains: inserted, or its place altered");
	check->beyond = true;
}

/* Handles a row after a gap: one or more places before it are empty, or it is the next row and only its number was
 * altered. */
static void gap_before(struct acp_chain_check *check, const struct acp_chain_link *link)
{
	uint8_t before[ACP_SHA256_LEN];
	bool known = check->known;
	memcpy(before, check->hash, sizeof before);
	if (known && follows(check, before, link)) {
		struct acp_chain_link right = *link;
		right.seq = check->seq + 1;
		follow(check, &right);
		moved(check, link);
		return;
	}
	removed(check, check->seq + 1, link->seq - 1);
	check->known = check->failed = false;
	follow(check, link);
	memcpy(check->gap, before, sizeof check->gap);
	check->gap_known = known;
	if (check->headed && link->seq > check->head_seq)
		beyond(check, link);
}

void acp_chain_row(struct acp_chain_check *check, const struct acp_chain_link *link)
{
	check->counts.rows++;
	if (link->chain <= 0 || link->seq <= 0) {
		hold(check, link, "misplaced", "a row without a place in a chain: inserted");
		check->shown = 0;
		flush(check);
		return;
	}
	if (link->chain < check->chain) {
		hold(check, link, "misplaced", "comes after rows of a later chain: moved, or its chain_id altered");
		flush(check);
		return;
	}
	enter(check, link->chain);
	if (!check->first_seq)
		name_row(check, link, &check->first);
	if (!check->first_seq)
		check->first_seq = link->seq;
	begin_at(check, link);
	if (link->seq == check->seq) {
		second(check, link);
		return;
	}
	if (link->seq < check->seq) {
		hold(check, link, "misplaced", "comes after a later row, or is also in an archive: inserted or moved");
		flush(check);
		return;
	}
	if (link->seq > check->seq + 1) {
		gap_before(check, link);
		return;
	}
	follow(check, link);
	if (check->headed && link->seq > check->head_seq)
		beyond(check, link);
}

void acp_chain_archived(struct acp_chain_check *check, const struct acp_head *last, int64_t first)
{
	enter(check, last->chain);
	if (!check->seen && check->partly)
		check->seq = first - 1;
	if (first > check->seq + 1)
		removed(check, check->seq + 1, first - 1);
	else if (first <= check->seq)
		report_place(check, first, "misplaced", "is in an archive and in the table");
	flush(check);
	check->counts.archived += last->seq - first + 1;
	check->seq = last->seq;
	memcpy(check->hash, last->hash, sizeof check->hash);
	check->seen = check->known = true;
	check->failed = check->before_known = check->gap_known = false;
}

void acp_chain_sealed(struct acp_chain_check *check, const struct acp_head *head, int64_t seal)
{
	enter(check, head->chain);
	if (head->seq > check->sealed_seq) {
		check->sealed_seq = head->seq;
		check->sealed_by = seal;
	}
	if (head->seq != check->seq || !check->known || !check->seen)
		return;
	if (same(head->hash, check->hash)) {
		check->confirmed = head->seq;
	} else if (check->failed && same(head->hash, check->content)) {
		only_hash(check);
	} else if (!check->rewritten) {
		report_place(check, head->seq, "rewritten",
			     "has another chain_hash than seal %lld says: rows were rewritten after they had been "
			     "sealed, the first of them between row %lld and this one",
			     (long long)seal, (long long)check->confirmed + 1);
		check->rewritten = true;
	}
}

void acp_chain_head(struct acp_chain_check *check, const struct acp_head *head)
{
	enter(check, head->chain);
	check->headed = true;
	check->head_seq = head->seq;
	if (check->partly)
		return;
	if (head->seq > check->seq) {
		report_place(check, check->seq, "cut_off",
			     "is its last, but acp.audit_chains says %lld: the last %lld were removed",
			     (long long)head->seq, (long long)(head->seq - check->seq));
		check->short_of = true;
	} else if (head->seq == check->seq && check->known && !same(head->hash, check->hash)) {
		if (check->failed && same(head->hash, check->content))
			only_hash(check);
		else
			report_place(check, head->seq, "rewritten",
				     "has another chain_hash than acp.audit_chains says: one of the two was altered");
	}
}

void acp_chain_end(struct acp_chain_check *check)
{
	finish(check);
	check->chain = 0;
}
