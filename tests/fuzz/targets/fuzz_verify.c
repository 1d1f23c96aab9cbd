/* Exported audit files (deploy/acpctl/audit/verify_file.c, core/audit/proof*.c). The input: a byte of options, then
 * - with bit 0 of the options: lines of a file, after a valid header: they must not crash the check;
 * - otherwise a change (what, where, which byte), and texts, separated by NULs: each text becomes a row of a file as
 *   acpctl audit export writes it. The file passes the check; after the change, it never does. */
#include "../fuzz.h"

#include "ctl_audit.h"

#include <unistd.h>

#define PEPPER "0123456789abcdef0123456789abcdef"
#define AT "2026-11-22 12:00:00.5"

enum { CHAINS = 2, ROWS_MAX = 24 };
enum { RAW = 1, SIGNED = 2, SEALED = 4, TWO_CHAINS = 8 };

struct file {
	struct acp_buf text, heads;
	struct acp_head ends[CHAINS];
	int64_t rows;
	bool sealed;
	const char *pepper;
};

static void member(struct acp_buf *line, const char *name, const char *text)
{
	acp_buf_printf(line, ",\"%s\":", name);
	if (text)
		acp_buf_json_string(line, text, strlen(text));
	else
		acp_buf_puts(line, "null");
}

/* PostgreSQL's literal of a row that contains one text of the input. */
static void literal(struct acp_buf *out, const char *text)
{
	acp_buf_puts(out, "(11111111-1111-4111-8111-111111111111,,\"" AT "\",33333333-3333-4333-8333-333333333333,"
			  "acp-fcgi,domain.x,x.y,api_key,ock_abc,,,success,,\"");
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			acp_buf_putc(out, *text);
		acp_buf_putc(out, *text);
	}
	acp_buf_puts(out, "\",\"{\"\"n\"\": 1.50}\",0.25,127.0.0.1,\"\",f,,,t,row,40,free)");
}

/* Every third row is of form 1, every third one of form 2, every third one erased. */
enum { FORM_1, FORM_2, ERASED, KINDS };

/* Makes the text of a row of form 2. It stays the same when values are erased. */
static void form_2(struct acp_row *row, struct acp_chain_row *kept, bool erase, struct acp_buf *text)
{
	struct acp_row parsed = {0};
	memcpy(kept->value, row->field, sizeof kept->value);
	kept->salt = "000102030405060708090a0b0c0d0e0f";
	FUZZ_CHECK(acp_chain_row_text(text, kept), "%s", row->field[13]);
	FUZZ_CHECK(acp_row_parse(&parsed, text->ptr, text->len), "%.*s", (int)text->len, text->ptr);
	for (int i = 0; erase && i < ACP_FIELDS; i++) {
		if (!acp_fields[i].personal || !row->field[i])
			continue;
		kept->erased[i] = true;
		acp_copy(kept->commitment[i], ACP_SHA256_HEX, parsed.field[i]);
		row->field[i] = kept->value[i] = NULL;
		kept->salt = NULL;
	}
	acp_row_release(&parsed);
}

static void add_row(struct file *file, int chain, const char *text, struct acp_buf *rows)
{
	struct acp_row row = {0};
	struct acp_chain_row kept = {0};
	struct acp_buf line, lines;
	struct acp_head *end = &file->ends[chain];
	struct acp_hasher *hasher = acp_hasher_new();
	int kind = (int)(file->rows % KINDS);
	acp_buf_init(&line, 1 << 20);
	acp_buf_init(&lines, 1 << 20);
	literal(&line, text);
	FUZZ_CHECK(acp_row_parse(&row, line.ptr, line.len), "%s", line.ptr);
	FUZZ_CHECK(row.field[13] && strcmp(row.field[13], text) == 0, "%s, not %s", row.field[13], text);
	if (kind != FORM_1)
		form_2(&row, &kept, kind == ERASED, &lines);
	const struct acp_buf *hashed = kind == FORM_1 ? &line : &lines;
	struct acp_chain_link link = {.chain = chain + 1, .seq = ++end->seq, .text = hashed->ptr, .len = hashed->len};
	acp_hasher_add(hasher, end->hash, ACP_SHA256_LEN);
	acp_hasher_add(hasher, link.text, link.len);
	acp_hasher_end(hasher, end->hash);
	acp_hasher_free(hasher);
	memcpy(link.hash, end->hash, ACP_SHA256_LEN);
	acp_row_line(&row, &link, kind == FORM_1 ? NULL : &kept, rows);
	acp_row_release(&row);
	acp_buf_release(&line);
	acp_buf_release(&lines);
	file->rows++;
}

static void list_heads(struct file *file)
{
	char hex[ACP_SHA256_HEX];
	for (int i = 0; i < CHAINS; i++) {
		if (!file->ends[i].seq)
			continue;
		acp_hex(file->ends[i].hash, ACP_SHA256_LEN, hex);
		acp_buf_printf(&file->heads, "%s%d %lld %s", file->heads.len ? "\n" : "", i + 1,
			       (long long)file->ends[i].seq, hex);
	}
	acp_buf_add(&file->heads, "", 1);
	file->heads.len--;
}

static void add_seal(struct file *file)
{
	char hash[ACP_SHA256_HEX], signature[ACP_SHA256_HEX], zeros[ACP_SHA256_HEX];
	uint8_t bytes[ACP_SHA256_LEN];
	struct acp_buf text;
	memset(zeros, '0', sizeof zeros - 1);
	zeros[sizeof zeros - 1] = '\0';
	struct acp_seal seal = {.id = 1, .rows = file->rows, .at = AT, .previous = zeros, .heads = file->heads.ptr};
	acp_buf_init(&text, 1 << 20);
	acp_seal_text(&seal, &text);
	acp_sha256(text.ptr, text.len, bytes);
	acp_hex(bytes, sizeof bytes, hash);
	acp_subkey_hex(file->pepper, ACP_FOR_AUDIT_SEAL, text.ptr, text.len, signature);
	acp_buf_printf(&file->text, "{\"seal_id\":1,\"rows\":%lld", (long long)file->rows);
	member(&file->text, "at", AT);
	member(&file->text, "previous", zeros);
	member(&file->text, "heads", file->heads.ptr);
	member(&file->text, "hash", hash);
	member(&file->text, "signature", signature);
	acp_buf_puts(&file->text, "}\n");
	acp_buf_release(&text);
}

static void add_header(struct file *file)
{
	acp_buf_puts(&file->text, "{\"audit_export\":\"1\"");
	member(&file->text, "at", AT);
	member(&file->text, "from", NULL);
	member(&file->text, "to", NULL);
	member(&file->text, "tenant_id", NULL);
	member(&file->text, "heads", file->heads.ptr);
	acp_buf_puts(&file->text, "}\n");
}

static void add_trailer(struct file *file)
{
	uint8_t digest[ACP_SHA256_LEN];
	char sha256[ACP_SHA256_HEX], signature[ACP_SHA256_HEX];
	const struct audit_sums sums = {.rows = file->rows, .seals = file->sealed};
	struct acp_buf text;
	acp_sha256(file->text.ptr, file->text.len, digest);
	acp_hex(digest, sizeof digest, sha256);
	acp_buf_init(&text, 1 << 20);
	acp_buf_printf(&text, "rows %lld\nseals %lld\nsha256 %s\n%s", (long long)sums.rows, (long long)sums.seals,
		       sha256, file->heads.ptr);
	acp_subkey_hex(file->pepper, ACP_FOR_AUDIT_EXPORT, text.ptr, text.len, signature);
	audit_trailer_line(&sums, file->heads.ptr, sha256, *file->pepper ? signature : NULL, &file->text);
	acp_buf_release(&text);
}

/* Returns the number of faults that the check finds, plus one if it refuses the whole file. */
static int64_t verify(const char *text, size_t len, const char *pepper, struct json_object *found)
{
	static struct ctl ctl;
	char path[32];
	struct audit_file_facts facts;
	struct audit_report report = {.ctl = &ctl, .list = found};
	int fd = fuzz_file(text, len, path);
	ctl.config.key_pepper = (char *)(uintptr_t)pepper;
	bool read = audit_verify_file(&report, path, NULL, &facts);
	close(fd);
	return report.count + !read;
}

/* Changes a copy of the file in one place. False: nothing changed. */
static bool change(struct acp_buf *copy, uint8_t what, uint16_t where, uint8_t byte)
{
	size_t at = where % copy->len;
	char *line = copy->ptr + at;
	while (line > copy->ptr && line[-1] != '\n')
		line--;
	size_t length = strcspn(line, "\n") + 1;
	size_t behind = copy->len - (size_t)(line - copy->ptr) - length;
	switch (what % 4) {
	case 0: /* one byte differs */
		if ((uint8_t)copy->ptr[at] == byte)
			return false;
		copy->ptr[at] = (char)byte;
		return true;
	case 1: /* a line is missing */
		memmove(line, line + length, behind);
		copy->len -= length;
		return true;
	case 2: /* the end is missing */ copy->len = at; return true;
	default: /* a byte is missing */
		memmove(copy->ptr + at, copy->ptr + at + 1, copy->len - at - 1);
		copy->len--;
		return true;
	}
}

static void check_file(const struct file *file, uint8_t what, uint16_t where, uint8_t byte)
{
	struct acp_buf copy;
	struct json_object *found = json_object_new_array();
	int64_t faults = verify(file->text.ptr, file->text.len, file->pepper, found);
	FUZZ_CHECK(faults == 0, "%s in\n%s", json_object_to_json_string(found), file->text.ptr);
	acp_buf_init(&copy, file->text.len + 1);
	acp_buf_add(&copy, file->text.ptr, file->text.len);
	if (change(&copy, what, where, byte)) {
		faults = verify(copy.ptr, copy.len, file->pepper, found);
		FUZZ_CHECK(faults > 0, "change %d at %d is not found:\n%.*s", what % 4, where, (int)copy.len, copy.ptr);
	}
	acp_buf_release(&copy);
	json_object_put(found);
}

static void build(struct file *file, uint8_t how, struct fuzz_input *in)
{
	struct acp_buf rows[CHAINS];
	for (int i = 0; i < CHAINS; i++)
		acp_buf_init(&rows[i], 1 << 22);
	for (int i = 0; in->left && i < ROWS_MAX; i++) {
		char *text = fuzz_part(in, NULL);
		for (char *c = text; *c; c++)
			*c &= 0x7f; /* PostgreSQL accepts only valid UTF-8 */
		int chain = how & TWO_CHAINS ? i % CHAINS : 0;
		text[strcspn(text, "\x80")] = '\0';
		add_row(file, chain, text, &rows[chain]);
		free(text);
	}
	list_heads(file);
	add_header(file);
	file->sealed = how & SEALED && file->rows;
	if (file->sealed)
		add_seal(file);
	for (int i = 0; i < CHAINS; i++) {
		acp_buf_add(&file->text, rows[i].ptr, rows[i].len);
		acp_buf_release(&rows[i]);
	}
}

void fuzz_verify(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	uint8_t how = fuzz_byte(&in);
	struct file file = {.ends = {{.chain = 1}, {.chain = 2}}, .pepper = how & SIGNED ? PEPPER : ""};
	acp_buf_init(&file.text, (size_t)8 << 20);
	acp_buf_init(&file.heads, 65536);
	if (how & RAW) {
		struct json_object *found = json_object_new_array();
		list_heads(&file);
		add_header(&file);
		acp_buf_add(&file.text, in.at, in.left);
		verify(file.text.ptr, file.text.len, file.pepper, found);
		json_object_put(found);
	} else {
		uint8_t what = fuzz_byte(&in), high = fuzz_byte(&in), low = fuzz_byte(&in), byte = fuzz_byte(&in);
		build(&file, how, &in);
		add_trailer(&file);
		check_file(&file, what, (uint16_t)(high << 8 | low), byte);
	}
	acp_buf_release(&file.text);
	acp_buf_release(&file.heads);
}
