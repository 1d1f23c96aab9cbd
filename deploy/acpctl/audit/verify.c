/* verify.c - acpctl audit verify: the chains, seals and archives of the database, and exported files. */
#include "ctl_audit.h"

#include "progress.h"

struct verification {
	struct audit_report report;
	const char *from, *to, *archives;
	struct audit_seals seals;
	bool keep_seals; /* needed to compare files with them */
	struct acp_seal_check seal_check;
	struct acp_chain_check *chains;
	struct ctl_progress progress;
	struct ctl_busy busy; /* shown until the first row arrives, while PostgreSQL sorts */
	struct audit_row row;
	int64_t erased; /* rows whose personal values were erased */
	struct json_object *summary;
};

/* Seals ------------------------------------------------------------------------------------------------------------ */

static bool keep_seal(struct audit_seals *seals, const char *hash)
{
	if ((seals->count & (seals->count - 1)) == 0) {
		size_t room = seals->count ? 2 * (size_t)seals->count : 1;
		void *more = realloc(seals->hash, room * sizeof *seals->hash);
		if (!more)
			return ctl_refuse("out of memory");
		seals->hash = more;
	}
	snprintf(seals->hash[seals->count++], ACP_SHA256_HEX, "%s", hash);
	return true;
}

static bool check_seal(void *arg, const char *const *columns)
{
	char why[256];
	struct verification *v = arg;
	const struct acp_seal seal = {.id = strtoll(columns[0], NULL, 10),
				      .rows = strtoll(columns[1], NULL, 10),
				      .at = columns[2],
				      .previous = columns[3],
				      .heads = columns[4],
				      .hash = columns[5],
				      .signature = columns[6]};
	if (!acp_seal_ok(&v->seal_check, &seal, why, sizeof why))
		audit_problem(&v->report, "seal", "%s", why);
	return !v->keep_seals || keep_seal(&v->seals, seal.hash);
}

/* Chains ----------------------------------------------------------------------------------------------------------- */

enum { ITEM_ROW, ITEM_ARCHIVED, ITEM_SEALED, ITEM_HEAD };

static int64_t number_of(const char *text)
{
	return text ? strtoll(text, NULL, 10) : 0;
}

static bool check_row(struct verification *v, const char *const *columns)
{
	struct acp_chain_link link = {.chain = number_of(columns[1]), .seq = number_of(columns[2])};
	/* An invalid chain_hash counts as a wrong one. */
	if (!columns[3] || !acp_unhex(columns[3], link.hash, sizeof link.hash))
		memset(link.hash, 0, sizeof link.hash);
	audit_row_text(&v->row, columns[5] ? columns[5] : "", columns[6], columns[7], columns[8], &link);
	v->erased += columns[8] != NULL;
	acp_chain_row(v->chains, &link);
	ctl_progress_step(&v->progress);
	return true;
}

/* A row of "audit stream": kind, chain, place, hash, more, literal, form, salt, erased. */
static bool check_item(void *arg, const char *const *columns)
{
	struct verification *v = arg;
	ctl_busy_end(&v->busy);
	int64_t kind = number_of(columns[0]);
	struct acp_head head = {.chain = number_of(columns[1]), .seq = number_of(columns[2])};
	if (kind == ITEM_ROW)
		return check_row(v, columns);
	if (!columns[3] || !acp_unhex(columns[3], head.hash, sizeof head.hash))
		memset(head.hash, 0, sizeof head.hash);
	if (kind == ITEM_ARCHIVED) {
		int64_t first = head.seq;
		head.seq = number_of(columns[4]);
		acp_chain_archived(v->chains, &head, first);
	} else if (kind == ITEM_SEALED) {
		acp_chain_sealed(v->chains, &head, number_of(columns[4]));
	} else {
		acp_chain_head(v->chains, &head);
	}
	return true;
}

/* Archives --------------------------------------------------------------------------------------------------------- */

static const char *text_in(struct json_object *archive, const char *name)
{
	return json_object_get_string(acp_json_member(archive, name));
}

static void check_archive_file(struct verification *v, struct json_object *archive)
{
	char path[4096], sha256[ACP_SHA256_HEX];
	int64_t bytes;
	struct audit_file_facts facts;
	snprintf(path, sizeof path, "%s/%s", v->archives, text_in(archive, "file"));
	if (!audit_file_hash(path, sha256, &bytes)) {
		audit_problem(&v->report, "archive", "the archive %s cannot be read: put it back into %s",
			      text_in(archive, "file"), v->archives);
		return;
	}
	if (strcmp(sha256, text_in(archive, "sha256")) == 0)
		return;
	audit_problem(&v->report, "archive", "%s is not the file that was archived: its SHA-256 is %s", path, sha256);
	/* The check of the file reports the row. */
	if (!audit_verify_file(&v->report, path, NULL, &facts))
		audit_problem(&v->report, "archive", "%s is not readable as an archive", path);
}

static bool check_archive(struct verification *v, struct json_object *archive)
{
	char runs[ACP_SHA256_HEX], totals[ACP_SHA256_HEX], signature[ACP_SHA256_HEX];
	const char *month = text_in(archive, "month");
	const char *part = text_in(archive, "part");
	if (!audit_lines_hash(v->report.ctl, "run stream", month, part, runs) ||
	    !audit_lines_hash(v->report.ctl, "total stream", month, part, totals))
		return false;
	const struct audit_archive named = {month,
					    part,
					    text_in(archive, "at"),
					    text_in(archive, "rows"),
					    text_in(archive, "file"),
					    text_in(archive, "bytes"),
					    text_in(archive, "sha256"),
					    runs,
					    totals};
	audit_archive_sign(v->report.ctl, &named, signature);
	if (strcmp(runs, text_in(archive, "runs_sha256")) != 0)
		audit_problem(&v->report, "archive", "archive %s part %s: its ranges of the chains were altered", month,
			      part);
	else if (strcmp(totals, text_in(archive, "totals_sha256")) != 0)
		audit_problem(&v->report, "archive", "archive %s part %s: its totals were altered", month, part);
	else if (*v->report.ctl->config.key_pepper && strcmp(signature, text_in(archive, "signature")) != 0)
		audit_problem(&v->report, "archive",
			      "archive %s part %s is forged or was altered: its signature was not made with this "
			      "installation's key_pepper",
			      month, part);
	if (v->archives)
		check_archive_file(v, archive);
	return true;
}

static bool check_archives(struct verification *v)
{
	struct json_object *list = ctl_query(v->report.ctl, "archive list", NULL);
	struct json_object *strays = list ? ctl_query(v->report.ctl, "archive strays", NULL) : NULL;
	bool ok = strays != NULL;
	for (size_t i = 0; ok && i < json_object_array_length(list); i++)
		ok = check_archive(v, json_object_array_get_idx(list, i));
	for (size_t i = 0; ok && i < json_object_array_length(strays); i++) {
		struct json_object *stray = json_object_array_get_idx(strays, i);
		audit_problem(&v->report, "archive",
			      "no such archive: %s part %s; but its ranges or totals are on record: it was removed, or "
			      "they are forged",
			      text_in(stray, "month"), text_in(stray, "part"));
	}
	if (ok)
		acp_json_add(v->summary, "archives", json_object_new_int64((int64_t)json_object_array_length(list)));
	json_object_put(list);
	json_object_put(strays);
	return ok;
}

/* The database ----------------------------------------------------------------------------------------------------- */

static void age_text(int64_t seconds, char out[48])
{
	if (seconds < 120)
		snprintf(out, 48, "%lld s ago", (long long)seconds);
	else if (seconds < 7200)
		snprintf(out, 48, "%lld min ago", (long long)seconds / 60);
	else
		snprintf(out, 48, "%lld h ago", (long long)seconds / 3600);
}

static bool add_last_seal(struct verification *v)
{
	struct json_object *rows = ctl_query(v->report.ctl, "last seal", NULL);
	if (!rows)
		return false;
	if (json_object_array_length(rows))
		acp_json_add(v->summary, "last_seal", json_object_get(json_object_array_get_idx(rows, 0)));
	else
		acp_json_add_null(v->summary, "last_seal");
	json_object_put(rows);
	return true;
}

static void add_counts(struct verification *v)
{
	struct acp_chain_counts counts = acp_chain_counts(v->chains);
	acp_json_add(v->summary, "rows", json_object_new_int64(counts.rows));
	acp_json_add(v->summary, "archived_rows", json_object_new_int64(counts.archived));
	acp_json_add(v->summary, "erased_rows", json_object_new_int64(v->erased));
	acp_json_add(v->summary, "chains", json_object_new_int64(counts.chains));
	acp_json_add(v->summary, "seals", json_object_new_int64(v->seal_check.last));
	acp_json_add(v->summary, "signatures_checked",
		     json_object_new_boolean(*v->report.ctl->config.key_pepper != '\0'));
}

static void print_erased(int64_t rows)
{
	if (rows)
		printf("the personal values of %lld row%s were erased\n", (long long)rows, rows == 1 ? "" : "s");
}

static void print_counts(struct verification *v)
{
	char ago[48];
	struct json_object *seal = acp_json_member(v->summary, "last_seal");
	printf("database: %s rows in %s chains, %s more in %s archives, %s seals\n", text_in(v->summary, "rows"),
	       text_in(v->summary, "chains"), text_in(v->summary, "archived_rows"), text_in(v->summary, "archives"),
	       text_in(v->summary, "seals"));
	print_erased(v->erased);
	if (v->from || v->to)
		puts("only this time was checked, without the rows before and after it and the ends of the chains");
	if (!seal)
		puts("no seal yet: without one, a superuser can rewrite the chains; run acpctl audit seal");
	else
		age_text(json_object_get_int64(acp_json_member(seal, "age")), ago);
	if (seal)
		printf("last seal %s, %s; %s rows since are chained but not yet sealed\n", text_in(seal, "seal_id"),
		       ago, text_in(seal, "unsealed"));
	if (!*v->report.ctl->config.key_pepper)
		puts("signatures were not checked: key_pepper is not set");
	if (acp_json_member(v->summary, "archives") && !v->archives &&
	    json_object_get_int64(acp_json_member(v->summary, "archives")))
		puts("the files of the archives were not checked: give --archives DIR");
}

static bool check_chains(struct verification *v)
{
	const char *span[] = {v->from, v->to};
	ctl_busy_begin(&v->busy, "sorting the rows");
	bool ok =
		ctl_stream(v->report.ctl, v->from || v->to ? "audit stream span" : "audit stream", span, check_item, v);
	ctl_busy_end(&v->busy);
	return ok;
}

static bool verify_database(struct verification *v)
{
	const char *always[] = {NULL, NULL};
	bool partly = v->from || v->to;
	if (!ctl_begin(v->report.ctl, "snapshot"))
		return false;
	struct json_object *size = ctl_query(v->report.ctl, "audit size", NULL);
	if (!size)
		return false;
	ctl_progress_begin(&v->progress, "checking",
			   json_object_get_int64(ctl_value(size, "rows")) -
				   json_object_get_int64(ctl_value(size, "archived")));
	json_object_put(size);
	v->seal_check.pepper = v->report.ctl->config.key_pepper;
	v->chains = acp_chain_check_new(partly, audit_finding, &v->report);
	if (!v->chains)
		return ctl_refuse("out of memory");
	bool ok =
		ctl_stream(v->report.ctl, "seal stream", always, check_seal, v) && check_archives(v) && check_chains(v);
	ctl_progress_end(&v->progress);
	if (!ok || !add_last_seal(v))
		return false;
	acp_chain_end(v->chains);
	add_counts(v);
	if (!v->report.list)
		print_counts(v);
	return true;
}

/* Files ------------------------------------------------------------------------------------------------------------ */

static void print_file(const struct verification *v, const char *path, const struct audit_file_facts *facts)
{
	printf("%s: %lld rows in %lld chains, %lld seals; %s\n", path, (long long)facts->chains.rows,
	       (long long)facts->chains.chains, (long long)facts->seals,
	       facts->signature_checked            ? "signatures checked"
	       : *v->report.ctl->config.key_pepper ? "without a signature"
						   : "signatures were not checked: key_pepper is not set");
	print_erased(facts->erased);
	if (facts->tenant_only)
		printf("%s: these are the rows of one tenant: each was checked, but not whether one was missing when "
		       "the file was "
		       "made\n",
		       path);
}

static bool verify_file(struct verification *v, const char *path, struct json_object *list)
{
	struct audit_file_facts facts;
	if (!audit_verify_file(&v->report, path, v->keep_seals ? &v->seals : NULL, &facts))
		return false;
	struct json_object *object = json_object_new_object();
	acp_json_add_string(object, "file", path);
	acp_json_add(object, "rows", json_object_new_int64(facts.chains.rows));
	acp_json_add(object, "chains", json_object_new_int64(facts.chains.chains));
	acp_json_add(object, "seals", json_object_new_int64(facts.seals));
	acp_json_add(object, "erased_rows", json_object_new_int64(facts.erased));
	acp_json_add(object, "signature_checked", json_object_new_boolean(facts.signature_checked));
	acp_json_add(object, "one_tenant", json_object_new_boolean(facts.tenant_only));
	json_object_array_add(list, object);
	if (!v->report.list)
		print_file(v, path, &facts);
	return true;
}

static int conclude(struct verification *v)
{
	static const char *const columns[] = {"file",     "kind",      "chain_id", "chain_seq",
					      "event_id", "tenant_id", "ts",       "message"};
	bool good = v->report.count == 0;
	if (v->report.ctl->csv) {
		ctl_print_columns(v->report.ctl, v->report.list, columns, ACP_COUNT(columns));
	} else if (v->report.ctl->json) {
		acp_json_add(v->summary, "ok", json_object_new_boolean(good));
		acp_json_add(v->summary, "findings", json_object_get(v->report.list));
		ctl_print_json(v->summary);
	} else if (good) {
		puts("no findings");
	} else {
		printf("%lld finding%s\n", (long long)v->report.count, v->report.count == 1 ? "" : "s");
	}
	return good ? ACPCTL_OK : ACPCTL_FAILED;
}

int ctl_audit_verify(struct ctl *ctl)
{
	struct verification v = {.report = {.ctl = ctl},
				 .from = ctl_option(ctl, "from"),
				 .to = ctl_option(ctl, "to"),
				 .archives = ctl_option(ctl, "archives")};
	int files = ctl->operand_count;
	bool database = ctl_flag(ctl, "database");
	if (files && !database && (v.from || v.to || v.archives))
		return ctl_misuse("--from, --to and --archives are for the database; with files give --database too");
	v.report.list = ctl->json || ctl->csv ? json_object_new_array() : NULL;
	v.summary = json_object_new_object();
	v.keep_seals = files && database;
	struct json_object *list = json_object_new_array();
	bool ok = (files && !database) || verify_database(&v);
	for (int i = 0; ok && i < files; i++)
		ok = verify_file(&v, ctl->operands[i], list);
	acp_json_add(v.summary, "files", list);
	int status = ok ? conclude(&v) : ACPCTL_FAILED;
	acp_chain_check_free(v.chains);
	audit_row_release(&v.row);
	free(v.seals.hash);
	json_object_put(v.report.list);
	json_object_put(v.summary);
	return status;
}
