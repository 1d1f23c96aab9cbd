/* verify_file.c - checks an exported file line by line. It needs memory for the longest line and for the seals.
 *
 * export.c writes a header, the seals, the rows in the order of their chains, and a trailer. A line must equal, byte
 * for byte, the line that export.c writes for its text. The text of form 2 does not hold the personal values, so the
 * members of such a line must also produce its text. Every change is found, whether in the readable members or in the
 * text. */
#include "ctl_audit.h"

#include "clock.h"
#include "progress.h"

#include <errno.h>

/* A known position in a chain. Marks at the same position are used in the order of their kinds. */
enum mark_kind { ARCHIVED, SEALED, END };
struct mark {
	enum mark_kind kind;
	int64_t seq; /* its position; for an archived range, the first position */
	struct acp_head head;
	int64_t seal; /* for SEALED: the number of the seal */
};

/* The largest depth of the JSON of a line: result_meta may be deeply nested. */
enum { MAX_DEPTH = 4096 };

struct reader {
	struct audit_report *report;
	const struct audit_seals *known; /* of the database; NULL: not known */
	struct audit_file_facts *facts;
	const char *path, *pepper;
	int64_t line_number;
	int64_t found_before;
	struct acp_chain_check *chains;
	struct acp_seal_check seals;
	struct mark *marks;
	size_t mark_count, mark_room, mark_at;
	bool partly, sorted, trailer;
	int64_t chain; /* chain of the last row */
	struct acp_head last;
	struct acp_chain_link waiting; /* the last row read */
	struct acp_buf waiting_text;
	bool waits;
	struct acp_row row, shown;
	struct acp_chain_row kept;
	char moment[40];      /* storage for the time in shown */
	struct acp_buf again; /* the expected line */
	struct acp_buf ends;
	struct acp_hasher *bytes;
	struct json_tokener *tokener;
	struct ctl_progress progress;
};

static bool broken(struct reader *r, const char *fault)
{
	audit_problem(r->report, "malformed", "line %lld %s", (long long)r->line_number, fault);
	return true;
}

/* Marks ------------------------------------------------------------------------------------------------------------ */

static bool add_mark(struct reader *r, struct mark mark)
{
	if (r->mark_count == r->mark_room) {
		size_t room = r->mark_room ? 2 * r->mark_room : 1024;
		struct mark *more = realloc(r->marks, room * sizeof *more);
		if (!more)
			return ctl_refuse("%s: out of memory for its seals", r->path);
		r->marks = more;
		r->mark_room = room;
	}
	r->marks[r->mark_count++] = mark;
	return true;
}

static bool add_heads(struct reader *r, const char *heads, enum mark_kind kind, int64_t seal)
{
	struct mark mark = {.kind = kind, .seal = seal};
	while (acp_head_next(&heads, &mark.head)) {
		mark.seq = mark.head.seq;
		if (!add_mark(r, mark))
			return false;
	}
	return true;
}

static int order(int64_t a, int64_t b)
{
	return (a > b) - (a < b);
}

static int by_place(const void *one, const void *two)
{
	const struct mark *a = one;
	const struct mark *b = two;
	if (a->head.chain != b->head.chain)
		return order(a->head.chain, b->head.chain);
	if (a->seq != b->seq)
		return order(a->seq, b->seq);
	return a->kind != b->kind ? order(a->kind, b->kind) : order(a->seal, b->seal);
}

static void use_mark(struct reader *r, const struct mark *mark)
{
	if (mark->kind == ARCHIVED)
		acp_chain_archived(r->chains, &mark->head, mark->seq);
	else if (mark->kind == SEALED)
		acp_chain_sealed(r->chains, &mark->head, mark->seal);
	else
		acp_chain_head(r->chains, &mark->head);
}

/* Uses the marks at the positions before this one. */
static void marks_before(struct reader *r, int64_t chain, int64_t seq)
{
	if (!r->sorted && r->mark_count)
		qsort(r->marks, r->mark_count, sizeof *r->marks, by_place);
	r->sorted = true;
	for (; r->mark_at < r->mark_count; r->mark_at++) {
		const struct mark *mark = &r->marks[r->mark_at];
		if (mark->head.chain > chain || (mark->head.chain == chain && mark->seq >= seq))
			return;
		if (!r->partly || mark->head.chain == r->chain)
			use_mark(r, mark);
	}
}

/* Lines ------------------------------------------------------------------------------------------------------------ */

static int64_t whole_number(struct json_object *line, const char *name)
{
	return json_object_get_int64(acp_json_member(line, name));
}

static const char *text_of(struct json_object *line, const char *name)
{
	const char *text = acp_json_string(line, name);
	return text ? text : "";
}

static bool header(struct reader *r, struct json_object *line)
{
	const char *heads = acp_json_string(line, "heads");
	if (r->line_number != 1)
		return broken(r, "is a header in the middle of the file");
	r->facts->tenant_only = acp_json_string(line, "tenant_id") != NULL;
	r->partly = !heads;
	r->seals.partly = acp_json_string(line, "from") != NULL;
	r->chains = acp_chain_check_new(r->partly, audit_finding, r->report);
	if (!r->chains)
		return ctl_refuse("%s: out of memory", r->path);
	return !heads || add_heads(r, heads, END, 0);
}

static void compare_seal(struct reader *r, const struct acp_seal *seal)
{
	if (!r->known)
		return;
	if (seal->id > r->known->count || seal->id < 1)
		audit_problem(r->report, "seal", "seal %lld is not in the database: it was removed there",
			      (long long)seal->id);
	else if (strcmp(r->known->hash[seal->id - 1], seal->hash) != 0)
		audit_problem(r->report, "seal",
			      "seal %lld differs from the seal in the database: one of the two was replaced",
			      (long long)seal->id);
}

static bool seal_line(struct reader *r, struct json_object *line)
{
	char why[256];
	const struct acp_seal seal = {.id = whole_number(line, "seal_id"),
				      .rows = whole_number(line, "rows"),
				      .at = text_of(line, "at"),
				      .previous = text_of(line, "previous"),
				      .heads = text_of(line, "heads"),
				      .hash = text_of(line, "hash"),
				      .signature = text_of(line, "signature")};
	r->facts->seals++;
	if (!acp_seal_ok(&r->seals, &seal, why, sizeof why))
		audit_problem(r->report, "seal", "%s", why);
	compare_seal(r, &seal);
	return add_heads(r, seal.heads, SEALED, seal.id);
}

static bool archived_line(struct reader *r, struct json_object *line)
{
	struct mark mark = {.kind = ARCHIVED, .seq = whole_number(line, "first_seq")};
	mark.head.chain = whole_number(line, "chain_id");
	mark.head.seq = whole_number(line, "last_seq");
	if (mark.seq < 1 || mark.head.seq < mark.seq ||
	    !acp_unhex(text_of(line, "last_hash"), mark.head.hash, ACP_SHA256_LEN))
		return broken(r, "is not a range of an archive");
	return add_mark(r, mark);
}

/* Records where chains end in this file. */
static void note_end(struct reader *r, const struct acp_chain_link *link)
{
	char hex[ACP_SHA256_HEX];
	if (r->last.chain && (!link || link->chain != r->last.chain)) {
		acp_hex(r->last.hash, sizeof r->last.hash, hex);
		acp_buf_printf(&r->ends, "%s%lld %lld %s", r->ends.len ? "\n" : "", (long long)r->last.chain,
			       (long long)r->last.seq, hex);
	}
	if (!link)
		return;
	r->last = (struct acp_head){.chain = link->chain, .seq = link->seq};
	memcpy(r->last.hash, link->hash, sizeof link->hash);
}

/* Returns a member in the form in which PostgreSQL writes the column. NULL: null. result_meta comes from the text, to
 * keep its bytes. */
static const char *shown_value(struct reader *r, struct json_object *line, int i)
{
	struct json_object *value = acp_json_member(line, acp_fields[i].name);
	if (acp_fields[i].type == ACP_FIELD_JSON)
		return r->row.field[i];
	if (!value)
		return i == ACP_AT_tenant_id ? ACP_NIL_UUID : NULL;
	if (acp_fields[i].type == ACP_FIELD_FLAG)
		return json_object_get_boolean(value) ? "t" : "f";
	if (acp_fields[i].type != ACP_FIELD_TIME)
		return json_object_is_type(value, json_type_string)
			       ? json_object_get_string(value)
			       : json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN);
	acp_copy(r->moment, sizeof r->moment, json_object_get_string(value));
	char *t = strchr(r->moment, 'T');
	size_t len = strlen(r->moment);
	if (t)
		*t = ' ';
	if (len && r->moment[len - 1] == 'Z')
		r->moment[len - 1] = '\0';
	return r->moment;
}

/* Makes the text of a line of form 2 from its members and its salt, and returns whether it is the line's text. A
 * personal value that is null and has a commitment was erased. Fills shown and kept. */
static bool text_matches_members(struct reader *r, struct json_object *line, const struct acp_chain_link *link)
{
	bool erased = false;
	r->kept.salt = acp_json_string(line, "salt");
	for (int i = 0; i < ACP_FIELDS; i++) {
		const char *value = shown_value(r, line, i);
		r->shown.field[i] = r->kept.value[i] = value;
		r->kept.erased[i] = acp_fields[i].personal && !value && r->row.field[i];
		if (r->kept.erased[i])
			acp_copy(r->kept.commitment[i], ACP_SHA256_HEX, r->row.field[i]);
		erased = erased || r->kept.erased[i];
	}
	r->facts->erased += erased;
	acp_buf_clear(&r->again);
	return acp_chain_row_text(&r->again, &r->kept) && r->again.len == link->len &&
	       memcmp(r->again.ptr, link->text, link->len) == 0;
}

/* Checks that the line follows from the position and the text of the row and, in form 2, from its members. */
static void compare_line(struct reader *r, struct json_object *line, const struct acp_chain_link *link,
			 const char *bytes, size_t len)
{
	struct json_object *form = acp_json_member(line, "form");
	bool readable = acp_row_parse(&r->row, link->text, link->len);
	if (readable && form)
		readable = json_object_get_int(form) == ACP_CHAIN_FORM && text_matches_members(r, line, link);
	acp_buf_clear(&r->again);
	if (readable)
		acp_row_line(form ? &r->shown : &r->row, link, form ? &r->kept : NULL, &r->again);
	if (readable && r->again.len == len && memcmp(r->again.ptr, bytes, len) == 0)
		return;
	audit_finding(r->report,
		      &(struct acp_finding){
			      .chain = link->chain,
			      .seq = link->seq,
			      .kind = "altered",
			      .message = "its readable members do not match its text: one of the two was altered",
			      .event_id = text_of(line, "event_id"),
			      .tenant_id = acp_json_string(line, "tenant_id") ? text_of(line, "tenant_id") : "none",
			      .ts = text_of(line, "ts")});
}

/* Passes the waiting row to its chain. */
static void pass_on(struct reader *r)
{
	struct acp_chain_link *link = &r->waiting;
	if (!r->waits)
		return;
	r->waits = false;
	marks_before(r, link->chain, link->seq);
	acp_chain_row(r->chains, link);
	r->chain = link->chain;
	note_end(r, link);
}

static void report_stray(struct reader *r)
{
	r->waits = false;
	bool readable = acp_row_parse(&r->row, r->waiting.text, r->waiting.len);
	audit_finding(r->report,
		      &(struct acp_finding){
			      .chain = r->waiting.chain,
			      .seq = r->waiting.seq,
			      .kind = "misplaced",
			      .message = "is between rows of other places: it was moved, or its place was altered",
			      .event_id = readable ? r->row.field[ACP_AT_event_id] : "",
			      .tenant_id = readable ? r->row.field[ACP_AT_tenant_id] : "",
			      .ts = readable ? r->row.field[ACP_AT_ts] : ""});
}

/* Holds each row back until the next one: a single row at a wrong position must not affect the rows after it. */
static void hold_back(struct reader *r, const struct acp_chain_link *link)
{
	bool other_chain = r->waiting.chain != r->chain && link->chain == r->chain;
	bool too_early = r->waiting.chain == link->chain && r->waiting.seq > link->seq &&
			 (r->chain != link->chain || link->seq > r->last.seq);
	if (r->waits && r->chain && (other_chain || too_early))
		report_stray(r);
	pass_on(r);
	acp_buf_clear(&r->waiting_text);
	acp_buf_add(&r->waiting_text, link->text, link->len);
	r->waiting = *link;
	r->waiting.text = r->waiting_text.ptr;
	r->waits = true;
}

static bool row_line(struct reader *r, struct json_object *line, const char *bytes, size_t len)
{
	struct json_object *text = acp_json_member(line, "text");
	struct acp_chain_link link = {.chain = whole_number(line, "chain_id"), .seq = whole_number(line, "chain_seq")};
	if (!json_object_is_type(text, json_type_string) ||
	    !acp_unhex(text_of(line, "chain_hash"), link.hash, sizeof link.hash))
		return broken(r, "is not a row: it has no text or no chain_hash");
	link.text = json_object_get_string(text);
	link.len = (size_t)json_object_get_string_len(text);
	link.has_before = acp_unhex(text_of(line, "before"), link.before, sizeof link.before);
	compare_line(r, line, &link, bytes, len);
	hold_back(r, &link);
	ctl_progress_step(&r->progress);
	return true;
}

/* Returns the fault of the trailer, or NULL. Faults that were already reported are not reported again. */
static const char *trailer_fault(struct reader *r, struct json_object *line, const char *bytes, size_t len)
{
	uint8_t digest[ACP_SHA256_LEN];
	char sha256[ACP_SHA256_HEX], signature[ACP_SHA256_HEX];
	bool intact = r->report->count == r->found_before;
	acp_hasher_end(r->bytes, digest);
	acp_hex(digest, sizeof digest, sha256);
	acp_buf_clear(&r->again);
	acp_buf_printf(&r->again, "rows %lld\nseals %lld\nsha256 %s\n%s", (long long)whole_number(line, "rows"),
		       (long long)whole_number(line, "seals"), text_of(line, "sha256"), text_of(line, "ends"));
	acp_subkey_hex(r->pepper, ACP_FOR_AUDIT_EXPORT, r->again.ptr, r->again.len, signature);
	bool signed_here = *text_of(line, "signature") != '\0';
	r->facts->signature_checked = *r->pepper && signed_here;
	if (*r->pepper && !signed_here)
		return "is the trailer, which is not signed: the file was made without key_pepper, or is forged";
	if (*r->pepper && strcmp(signature, text_of(line, "signature")) != 0)
		return "is the trailer: its signature was not made with this installation's key_pepper";
	const struct audit_sums sums = {.rows = whole_number(line, "rows"), .seals = whole_number(line, "seals")};
	acp_buf_clear(&r->again);
	audit_trailer_line(&sums, text_of(line, "ends"), text_of(line, "sha256"), acp_json_string(line, "signature"),
			   &r->again);
	if (r->again.len != len || memcmp(r->again.ptr, bytes, len) != 0)
		return "is the trailer, and it was altered";
	if (intact && strcmp(audit_text(&r->ends), text_of(line, "ends")) != 0)
		return "is the trailer, which names other last rows of the chains: rows before it were removed or "
		       "added";
	if (intact && strcmp(sha256, text_of(line, "sha256")) != 0)
		return "is the trailer, whose SHA-256 is not that of the lines before it: one was altered, removed or "
		       "added";
	return NULL;
}

static void end_chains(struct reader *r)
{
	pass_on(r);
	marks_before(r, INT64_MAX, 0);
	acp_chain_end(r->chains);
}

static bool trailer(struct reader *r, struct json_object *line, const char *bytes, size_t len)
{
	end_chains(r);
	note_end(r, NULL);
	r->trailer = true;
	const char *fault = trailer_fault(r, line, bytes, len);
	if (fault)
		broken(r, fault);
	return true;
}

static bool has(struct json_object *line, const char *name)
{
	return json_object_object_get_ex(line, name, NULL);
}

/* False after reporting why the check cannot go on. */
static bool one_line(struct reader *r, const char *bytes, size_t len)
{
	r->line_number++;
	if (r->trailer)
		return broken(r, "comes after the trailer: it was added");
	json_tokener_reset(r->tokener);
	struct json_object *line = json_tokener_parse_ex(r->tokener, bytes, (int)len);
	bool ok = true;
	bool ends = has(line, "ends");
	if (r->chains && !ends)
		acp_hasher_add(r->bytes, bytes, len);
	if (has(line, "audit_export")) {
		acp_hasher_add(r->bytes, bytes, len);
		ok = header(r, line);
	} else if (!r->chains) {
		ok = ctl_refuse("%s: not a file of acpctl audit export: its first line is different", r->path);
	} else if (ends) {
		ok = trailer(r, line, bytes, len);
	} else if (has(line, "seal_id")) {
		ok = seal_line(r, line);
	} else if (has(line, "archived")) {
		ok = archived_line(r, line);
	} else if (has(line, "chain_seq")) {
		ok = row_line(r, line, bytes, len);
	} else {
		broken(r, "is not a line of an export: it was altered or added");
	}
	json_object_put(line);
	return ok;
}

static bool all_lines(struct reader *r, FILE *stream)
{
	char *bytes = NULL;
	size_t room = 0;
	ssize_t len;
	bool ok = true;
	while (ok && (len = getline(&bytes, &room, stream)) > 0)
		ok = one_line(r, bytes, (size_t)len);
	free(bytes);
	if (ok && !r->chains)
		return ctl_refuse("%s: is empty", r->path);
	if (ok && !r->trailer) {
		end_chains(r);
		audit_problem(r->report, "cut_off", "the file ends after line %lld without its trailer: it was cut off",
			      (long long)r->line_number);
	}
	return ok;
}

static void release(struct reader *r)
{
	acp_chain_check_free(r->chains);
	acp_hasher_free(r->bytes);
	if (r->tokener)
		json_tokener_free(r->tokener);
	acp_buf_release(&r->again);
	acp_buf_release(&r->ends);
	acp_buf_release(&r->waiting_text);
	acp_row_release(&r->row);
	free(r->marks);
}

bool audit_verify_file(struct audit_report *report, const char *path, const struct audit_seals *seals,
		       struct audit_file_facts *facts)
{
	struct audit_file file;
	struct reader r = {
		.report = report, .known = seals, .facts = facts, .path = path, .found_before = report->count};
	*facts = (struct audit_file_facts){0};
	if (!audit_file_open(&file, path))
		return false;
	report->file = path;
	r.pepper = report->ctl->config.key_pepper;
	r.seals.pepper = r.pepper;
	acp_buf_init(&r.again, (size_t)64 << 20);
	acp_buf_init(&r.ends, (size_t)64 << 20);
	acp_buf_init(&r.waiting_text, (size_t)64 << 20);
	r.bytes = acp_hasher_new();
	r.tokener = json_tokener_new_ex(MAX_DEPTH);
	ctl_progress_begin(&r.progress, "checking", 0);
	bool ok = r.tokener ? all_lines(&r, file.stream) : ctl_refuse("%s: out of memory", path);
	ctl_progress_end(&r.progress);
	if (r.chains)
		facts->chains = acp_chain_counts(r.chains);
	release(&r);
	report->file = NULL;
	return audit_file_close(&file, false) && ok;
}
