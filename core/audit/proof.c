#include "proof.h"

#include "chain_text.h"

#include <ctype.h>
#include <time.h>

/* Seals ---------------------------------------------------------------------------------------------------------- */

void acp_seal_text(const struct acp_seal *seal, struct acp_buf *out)
{
	acp_buf_printf(out, "acp-fcgi audit seal v1\nseal %lld\nat %s\nprevious %s\nrows %lld\n", (long long)seal->id,
		       seal->at, seal->previous, (long long)seal->rows);
	acp_buf_puts(out, seal->heads);
	acp_buf_putc(out, '\n');
}

/* Reads a number and the space after it. */
static bool number(const char **at, int64_t *out)
{
	char *end = NULL;
	if (!isdigit((unsigned char)**at))
		return false;
	*out = strtoll(*at, &end, 10);
	*at = end;
	return *(*at)++ == ' ';
}

bool acp_head_next(const char **at, struct acp_head *out)
{
	char hex[ACP_SHA256_HEX];
	const char *text = *at;
	if (!*text || !number(&text, &out->chain) || !number(&text, &out->seq))
		return false;
	size_t len = strcspn(text, "\n");
	if (len != sizeof hex - 1)
		return false;
	memcpy(hex, text, len);
	hex[len] = '\0';
	if (!acp_unhex(hex, out->hash, sizeof out->hash))
		return false;
	*at = text + len + (text[len] == '\n');
	return true;
}

/* Returns the total number of rows of the lines; -1: the lines are not valid, or not sorted by chain. */
static int64_t rows_of(const char *heads)
{
	int64_t sum = 0;
	int64_t last = 0;
	struct acp_head head;
	while (acp_head_next(&heads, &head)) {
		if (head.chain <= last)
			return -1;
		last = head.chain;
		sum += head.seq;
	}
	return *heads ? -1 : sum;
}

static bool text_ok(const struct acp_seal *seal, const char *pepper, char *why, size_t why_size)
{
	struct acp_buf text;
	char hash[ACP_SHA256_HEX], signature[ACP_SHA256_HEX];
	uint8_t bytes[ACP_SHA256_LEN];
	const char *wrong = NULL;
	acp_buf_init(&text, (size_t)64 << 20);
	acp_seal_text(seal, &text);
	acp_sha256(text.ptr, text.len, bytes);
	acp_hex(bytes, sizeof bytes, hash);
	acp_subkey_hex(pepper, ACP_FOR_AUDIT_SEAL, text.ptr, text.len, signature);
	if (!acp_buf_ok(&text) || rows_of(seal->heads) != seal->rows)
		wrong = "its number of rows is not the sum of its chains";
	else if (strcmp(hash, seal->hash) != 0)
		wrong = "it was altered: its hash does not match its content";
	else if (*pepper && (strlen(seal->signature) != ACP_SHA256_HEX - 1 ||
			     !acp_equal_const_time(signature, seal->signature, ACP_SHA256_HEX - 1)))
		wrong = "it is forged: its signature was not made with this installation's key_pepper";
	acp_buf_release(&text);
	if (wrong)
		snprintf(why, why_size, "seal %lld: %s", (long long)seal->id, wrong);
	return !wrong;
}

static bool follows(const struct acp_seal_check *check, const struct acp_seal *seal, char *why, size_t why_size)
{
	static const char zeros[] = "0000000000000000000000000000000000000000000000000000000000000000";
	const char *before = check->last ? check->hash : zeros;
	bool first = check->partly && !check->last;
	if (!first && seal->id != check->last + 1)
		snprintf(why, why_size, "seal %lld is missing: removed", (long long)check->last + 1);
	else if (!first && strcmp(seal->previous, before) != 0)
		snprintf(why, why_size, "seal %lld does not follow from the seal before it: one of the two was altered",
			 (long long)seal->id);
	else
		return true;
	return false;
}

bool acp_seal_ok(struct acp_seal_check *check, const struct acp_seal *seal, char *why, size_t why_size)
{
	bool ok = text_ok(seal, check->pepper, why, why_size) && follows(check, seal, why, why_size);
	check->last = seal->id;
	snprintf(check->hash, sizeof check->hash, "%s", seal->hash);
	return ok;
}

/* Rows ----------------------------------------------------------------------------------------------------------- */

/* Parses one field of a row literal, up to the comma or parenthesis that ends it, and returns the position of that
 * character; NULL: broken. Writes the value at *out and moves *out past it. *value is NULL for null. Within quotes,
 * quotes and backslashes are doubled. */
static const char *field(const char *text, const char *end, char **out, const char **value)
{
	bool quoted = false;
	bool any = text < end && *text == '"';
	const char *start = *out;
	for (; text < end && (quoted || (*text != ',' && *text != ')')); text++) {
		if (*text == '"' && !(quoted && text + 1 < end && text[1] == '"')) {
			quoted = !quoted;
			continue;
		}
		if (*text == '"' || *text == '\\')
			text++; /* the first of two */
		if (text >= end)
			return NULL;
		*(*out)++ = *text;
	}
	*value = any || *out > start ? start : NULL;
	*(*out)++ = '\0';
	return quoted || text >= end ? NULL : text;
}

/* A literal of form 1 has the fields of schema version 10; a stored row, as acpctl reads it, has all. */
static bool parse_literal(struct acp_row *row, const char *text, const char *end, char *out)
{
	int count = 0;
	memset(row->field, 0, sizeof row->field);
	do {
		text = field(text + 1, end, &out, &row->field[count++]);
	} while (text && *text == ',' && count < ACP_FIELDS);
	return text && *text == ')' && text + 1 == end && count >= ACP_FIELDS_OF_10;
}

/* Converts microseconds since 1970 to the form in which PostgreSQL writes a time; at most 32 bytes. */
static bool write_time(char **out, const char *text, size_t len)
{
	char *end = NULL;
	struct tm tm;
	char digits[24];
	if (len >= sizeof digits)
		return false;
	memcpy(digits, text, len);
	digits[len] = '\0';
	long long us = strtoll(digits, &end, 10);
	time_t seconds = (time_t)(us / 1000000);
	if (*end || us < 0 || !gmtime_r(&seconds, &tm) || tm.tm_year > 8099)
		return false;
	*out += strftime(*out, 24, "%Y-%m-%d %H:%M:%S", &tm);
	if (us % 1000000) {
		*out += snprintf(*out, 8, ".%06d", (int)(us % 1000000));
		while ((*out)[-1] == '0')
			(*out)--;
	}
	*(*out)++ = '\0';
	return true;
}

static bool has_line(const struct acp_field *f, const char *text, const char *end)
{
	size_t name = strlen(f->name);
	return (size_t)(end - text) >= name + 3 && memcmp(text, f->name, name) == 0 && text[name] == ' ';
}

/* Parses one line: "name 5:value" and a newline, or "name -" and a newline. Returns the position after it; NULL:
 * broken. */
static const char *line(const struct acp_field *f, const char *text, const char *end, char **out, const char **value)
{
	size_t name = strlen(f->name);
	size_t len = 0;
	if (!has_line(f, text, end))
		return NULL;
	text += name + 1;
	*value = NULL;
	if (*text == '-')
		return text[1] == '\n' ? text + 2 : NULL;
	if (*text < '0' || *text > '9' || (*text == '0' && text[1] != ':'))
		return NULL;
	for (; text < end && *text >= '0' && *text <= '9' && len < (size_t)1 << 40; text++)
		len = len * 10 + (size_t)(*text - '0');
	if ((size_t)(end - text) < 2 || *text != ':' || (size_t)(end - text) - 2 < len || text[1 + len] != '\n')
		return NULL;
	*value = *out;
	if (f->type == ACP_FIELD_TIME)
		return write_time(out, text + 1, len) ? text + len + 2 : NULL;
	memcpy(*out, text + 1, len);
	(*out)[len] = '\0';
	*out += len + 1;
	return text + len + 2;
}

static bool parse_lines(struct acp_row *row, const char *text, const char *end, char *out)
{
	memset(row->field, 0, sizeof row->field);
	for (int i = 0; text && i < ACP_FIELDS; i++)
		if (i < ACP_FIELDS_OF_10 || has_line(&acp_fields[i], text, end))
			text = line(&acp_fields[i], text, end, &out, &row->field[i]);
	return text == end;
}

bool acp_row_parse(struct acp_row *row, const char *text, size_t len)
{
	enum { MORE = ACP_FIELDS + 64 }; /* for NULs, and for the longer form of the time */
	static const size_t header = sizeof ACP_CHAIN_HEADER - 1;
	if (row->size < len + MORE) {
		row->size = 2 * len + 1024;
		free(row->storage);
		row->storage = malloc(row->size);
	}
	if (!row->storage) {
		row->size = 0;
		return false;
	}
	if (len < 2 || memchr(text, '\0', len))
		return false;
	if (*text == '(')
		return parse_literal(row, text, text + len, row->storage);
	return len > header && memcmp(text, ACP_CHAIN_HEADER, header) == 0 &&
	       parse_lines(row, text + header, text + len, row->storage);
}

void acp_row_release(struct acp_row *row)
{
	free(row->storage);
	*row = (struct acp_row){0};
}

static const char nil_uuid[] = "00000000-0000-0000-0000-000000000000";

static bool is_number(const char *text)
{
	return *text && !text[strspn(text, "0123456789.-+e")];
}

static void add_value(struct acp_buf *out, int i, const char *value)
{
	enum acp_field_type type = acp_fields[i].type;
	bool number = type == ACP_FIELD_REAL || type == ACP_FIELD_INTEGER;
	const char *space = value && type == ACP_FIELD_TIME ? strchr(value, ' ') : NULL;
	if (!value || (i == ACP_AT_tenant_id && strcmp(value, nil_uuid) == 0))
		acp_buf_puts(out, "null");
	else if (type == ACP_FIELD_FLAG)
		acp_buf_puts(out, strcmp(value, "t") == 0 ? "true" : "false");
	else if (type == ACP_FIELD_JSON || (number && is_number(value)))
		acp_buf_puts(out, value);
	else if (space)
		acp_buf_printf(out, "\"%.*sT%sZ\"", (int)(space - value), value, space + 1);
	else
		acp_buf_json_string(out, value, strlen(value));
}

/* Adds the salt and the names of the erased values. */
static void add_kept(struct acp_buf *out, const struct acp_chain_row *kept)
{
	bool any = false;
	acp_buf_printf(out, ",\"form\":%d", ACP_CHAIN_FORM);
	if (kept->salt)
		acp_buf_printf(out, ",\"salt\":\"%s\"", kept->salt);
	for (int i = 0; i < ACP_FIELDS; i++) {
		if (!kept->erased[i])
			continue;
		acp_buf_printf(out, "%s\"%s\"", any ? "," : ",\"erased\":[", acp_fields[i].name);
		any = true;
	}
	if (any)
		acp_buf_putc(out, ']');
}

void acp_row_line(const struct acp_row *row, const struct acp_chain_link *link, const struct acp_chain_row *kept,
		  struct acp_buf *out)
{
	char hex[ACP_SHA256_HEX];
	for (int i = 0; i < ACP_FIELDS; i++) {
		if (i >= ACP_FIELDS_OF_10 && !row->field[i])
			continue; /* lines written before the field was added have no member for it */
		acp_buf_puts(out, i ? ",\"" : "{\"");
		acp_buf_puts(out, acp_fields[i].name);
		acp_buf_puts(out, "\":");
		add_value(out, i, row->field[i]);
	}
	acp_hex(link->hash, sizeof link->hash, hex);
	acp_buf_printf(out, ",\"chain_id\":%lld,\"chain_seq\":%lld,\"chain_hash\":\"%s\"", (long long)link->chain,
		       (long long)link->seq, hex);
	if (link->has_before) {
		acp_hex(link->before, sizeof link->before, hex);
		acp_buf_printf(out, ",\"before\":\"%s\"", hex);
	}
	if (kept)
		add_kept(out, kept);
	acp_buf_puts(out, ",\"text\":");
	acp_buf_json_string(out, link->text, link->len);
	acp_buf_puts(out, "}\n");
}
