/* export.c - acpctl audit export: writes audit rows as JSON lines that can be checked without the database. */
#include "ctl_audit.h"

#include "progress.h"

#include <sys/stat.h>
#include <unistd.h>

/* An export while it is written. */
struct writer {
	struct ctl *ctl;
	FILE *out;
	struct acp_buf line;
	struct audit_row row;
	struct acp_hasher *bytes; /* of all lines but the trailer */
	struct acp_hasher *runs;
	struct acp_buf ends;   /* the ends of the chains in this file, as lines like the heads of a seal */
	struct acp_head first; /* of the range that is being written */
	struct acp_head last;  /* chain 0: nothing yet */
	struct audit_sums *sums;
	struct ctl_progress progress;
	struct ctl_busy busy; /* shown until the first row arrives, while PostgreSQL sorts */
};

static bool put_line(struct writer *w)
{
	acp_hasher_add(w->bytes, w->line.ptr, w->line.len);
	bool ok = acp_buf_ok(&w->line) && fwrite(w->line.ptr, 1, w->line.len, w->out) == w->line.len;
	acp_buf_clear(&w->line);
	return ok || ctl_refuse("cannot write the export: is the disk full?");
}

static void member(struct acp_buf *line, const char *name, const char *text)
{
	acp_buf_printf(line, "%s\"%s\":", line->len > 1 ? "," : "", name);
	if (text)
		acp_buf_json_string(line, text, strlen(text));
	else
		acp_buf_puts(line, "null");
}

/* Writes the first line: the selection, and the heads of the chains if everything is exported. */
static bool put_header(struct writer *w, const struct audit_selection *selection, bool whole)
{
	struct json_object *rows = ctl_query(w->ctl, "audit size", NULL);
	struct json_object *span = rows ? audit_instants(w->ctl, selection->from, selection->to) : NULL;
	if (!span) {
		json_object_put(rows);
		return false;
	}
	const char *heads = json_object_get_string(ctl_value(rows, "heads"));
	acp_buf_puts(&w->line, "{");
	member(&w->line, "audit_export", "2");
	member(&w->line, "at", json_object_get_string(ctl_value(rows, "now")));
	member(&w->line, "from", json_object_get_string(ctl_value(span, "first")));
	member(&w->line, "to", json_object_get_string(ctl_value(span, "past")));
	member(&w->line, "tenant_id", selection->tenant);
	member(&w->line, "heads", whole ? (heads ? heads : "") : NULL);
	acp_buf_puts(&w->line, "}\n");
	ctl_progress_begin(&w->progress, "exporting", json_object_get_int64(ctl_value(rows, "rows")));
	json_object_put(rows);
	json_object_put(span);
	return put_line(w);
}

static bool put_seal(void *arg, const char *const *columns)
{
	struct writer *w = arg;
	w->sums->seals++;
	acp_buf_printf(&w->line, "{\"seal_id\":%s,\"rows\":%s", columns[0], columns[1]);
	member(&w->line, "at", columns[2]);
	member(&w->line, "previous", columns[3]);
	member(&w->line, "heads", columns[4]);
	member(&w->line, "hash", columns[5]);
	member(&w->line, "signature", columns[6]);
	acp_buf_puts(&w->line, "}\n");
	return put_line(w);
}

/* Writes the position of an archived range of a chain. The rows after it follow. */
static bool put_archived(void *arg, const char *const *columns)
{
	struct writer *w = arg;
	acp_buf_printf(&w->line, "{\"archived\":\"%s\",\"part\":%s,\"chain_id\":%s,\"first_seq\":%s,\"last_seq\":%s",
		       columns[0], columns[1], columns[2], columns[3], columns[4]);
	member(&w->line, "last_hash", columns[5]);
	acp_buf_puts(&w->line, "}\n");
	return put_line(w);
}

/* Ends the range of rows whose last row is w->last. chain_too: the chain ends with it. */
static void end_run(struct writer *w, bool chain_too)
{
	char hex[ACP_SHA256_HEX], text[160];
	if (!w->last.chain)
		return;
	acp_hex(w->last.hash, sizeof w->last.hash, hex);
	int len = snprintf(text, sizeof text, "%lld %lld %lld %s\n", (long long)w->first.chain, (long long)w->first.seq,
			   (long long)w->last.seq, hex);
	acp_hasher_add(w->runs, text, (size_t)len);
	if (chain_too)
		acp_buf_printf(&w->ends, "%s%lld %lld %s", w->ends.len ? "\n" : "", (long long)w->last.chain,
			       (long long)w->last.seq, hex);
}

/* Columns of "export stream": chain, place, hash, literal, hash before, form, salt, erased. */
static bool text_ok(struct writer *w, const char *const *columns, struct acp_chain_link *link)
{
	audit_row_text(&w->row, columns[3], columns[5], columns[6], columns[7], link);
	return !link->broken && (w->row.form2 || acp_row_parse(&w->row.columns, link->text, link->len));
}

static bool put_row(void *arg, const char *const *columns)
{
	struct writer *w = arg;
	ctl_busy_end(&w->busy);
	struct acp_chain_link link = {.chain = columns[0] ? strtoll(columns[0], NULL, 10) : 0,
				      .seq = columns[1] ? strtoll(columns[1], NULL, 10) : 0};
	link.has_before = columns[4] && acp_unhex(columns[4], link.before, sizeof link.before);
	if (!columns[2] || !acp_unhex(columns[2], link.hash, sizeof link.hash) || !text_ok(w, columns, &link))
		return ctl_refuse("chain %lld, row %lld cannot be exported: it has no chain_hash, or does not have the "
				  "columns of "
				  "an audit row; run acpctl audit verify for details",
				  (long long)link.chain, (long long)link.seq);
	if (link.chain != w->last.chain || link.seq != w->last.seq + 1) {
		end_run(w, link.chain != w->last.chain);
		w->first = (struct acp_head){.chain = link.chain, .seq = link.seq};
	}
	w->last = (struct acp_head){.chain = link.chain, .seq = link.seq};
	memcpy(w->last.hash, link.hash, sizeof link.hash);
	w->sums->rows++;
	ctl_progress_step(&w->progress);
	acp_row_line(&w->row.columns, &link, w->row.form2 ? &w->row.kept : NULL, &w->line);
	return put_line(w);
}

static void finish_sums(struct writer *w)
{
	uint8_t digest[ACP_SHA256_LEN];
	end_run(w, true);
	acp_hasher_end(w->runs, digest);
	acp_hex(digest, sizeof digest, w->sums->runs_sha256);
}

void audit_trailer_line(const struct audit_sums *sums, const char *ends, const char *sha256, const char *signature,
			struct acp_buf *out)
{
	acp_buf_printf(out, "{\"rows\":%lld,\"seals\":%lld", (long long)sums->rows, (long long)sums->seals);
	member(out, "ends", ends);
	member(out, "sha256", sha256);
	member(out, "signature", signature);
	acp_buf_puts(out, "}\n");
}

/* Writes the last line: counts, the hash of all lines before it, and its signature. */
static bool put_trailer(struct writer *w)
{
	uint8_t digest[ACP_SHA256_LEN];
	char sha256[ACP_SHA256_HEX], signature[ACP_SHA256_HEX];
	acp_hasher_end(w->bytes, digest);
	acp_hex(digest, sizeof digest, sha256);
	acp_buf_printf(&w->line, "rows %lld\nseals %lld\nsha256 %s\n%s", (long long)w->sums->rows,
		       (long long)w->sums->seals, sha256, audit_text(&w->ends));
	acp_subkey_hex(w->ctl->config.key_pepper, ACP_FOR_AUDIT_EXPORT, w->line.ptr, w->line.len, signature);
	acp_buf_clear(&w->line);
	audit_trailer_line(w->sums, audit_text(&w->ends), sha256, *w->ctl->config.key_pepper ? signature : NULL,
			   &w->line);
	return acp_buf_ok(&w->ends) && put_line(w);
}

bool audit_export(struct ctl *ctl, const struct audit_selection *selection, FILE *out, struct audit_sums *sums)
{
	struct writer w = {.ctl = ctl, .out = out, .sums = sums};
	const char *values[] = {selection->from, selection->to, selection->tenant};
	*sums = (struct audit_sums){0};
	acp_buf_init(&w.line, (size_t)64 << 20);
	acp_buf_init(&w.ends, (size_t)64 << 20);
	w.bytes = acp_hasher_new();
	w.runs = acp_hasher_new();
	bool whole = !selection->from && !selection->to && !selection->tenant;
	bool ok = put_header(&w, selection, whole);
	ctl_busy_begin(&w.busy, "sorting the rows");
	ok = ok && ctl_stream(ctl, "seal stream", values, put_seal, &w) &&
	     (!whole || ctl_stream(ctl, "archived stream", NULL, put_archived, &w)) &&
	     ctl_stream(ctl, "export stream", values, put_row, &w);
	ctl_busy_end(&w.busy);
	ctl_progress_end(&w.progress);
	if (ok) {
		finish_sums(&w);
		ok = put_trailer(&w) && fflush(out) == 0;
	}
	acp_hasher_free(w.bytes);
	acp_hasher_free(w.runs);
	acp_buf_release(&w.line);
	acp_buf_release(&w.ends);
	audit_row_release(&w.row);
	return ok;
}

/* Exports to a file, which is afterwards complete or does not exist, or to a device or pipe. Without a path, exports to
 * standard output. */
static bool export_to(struct ctl *ctl, const struct audit_selection *selection, const char *path, bool gzip,
		      struct audit_sums *sums)
{
	char part[4096];
	struct audit_file file;
	struct stat there;
	/* A device or a pipe must not be replaced by a file. */
	bool direct = path && stat(path, &there) == 0 && !S_ISREG(there.st_mode);
	if (!path)
		return audit_export(ctl, selection, stdout, sums);
	snprintf(part, sizeof part, direct ? "%s" : "%s.part", path);
	if (!audit_file_create(&file, part, gzip))
		return false;
	bool ok = audit_export(ctl, selection, file.stream, sums);
	ok = audit_file_close(&file, !direct) && ok;
	if (direct || (ok && rename(part, path) == 0))
		return ok;
	unlink(part);
	return ok && ctl_refuse("%s: cannot rename the complete file to this name", path);
}

int ctl_audit_export(struct ctl *ctl)
{
	char tenant[ACP_UUID_LEN];
	struct audit_selection selection = {
		.from = ctl_option(ctl, "from"), .to = ctl_option(ctl, "to"), .tenant = ctl_option(ctl, "tenant")};
	struct audit_sums sums;
	const char *path = ctl_option(ctl, "output");
	bool gzip = ctl_flag(ctl, "gzip");
	if (path && strcmp(path, "-") == 0)
		path = NULL;
	if (gzip && !path)
		return ctl_misuse("--gzip needs -o FILE; or pipe the output through gzip");
	/* A UUID is not looked up: this database may have rows of a tenant that it does not know. */
	if (selection.tenant && !acp_is_uuid(selection.tenant)) {
		if (!ctl_tenant_id(ctl, selection.tenant, tenant))
			return ACPCTL_FAILED;
		selection.tenant = tenant;
	}
	if (!ctl_begin(ctl, "snapshot") || !export_to(ctl, &selection, path, gzip, &sums))
		return ACPCTL_FAILED;
	fprintf(stderr, "exported %lld row%s and %lld seal%s%s%s\n", (long long)sums.rows, sums.rows == 1 ? "" : "s",
		(long long)sums.seals, sums.seals == 1 ? "" : "s", path ? " to " : "", path ? path : "");
	if (selection.tenant)
		fputs("These are the rows of one tenant: verify can check each row, but cannot find missing ones\n",
		      stderr);
	if (!*ctl->config.key_pepper)
		fputs("key_pepper is not set: the file is not signed\n", stderr);
	return ACPCTL_OK;
}
