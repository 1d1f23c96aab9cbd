#include "proof.h"

#include <ctype.h>

/* Seals ---------------------------------------------------------------------------------------------------------- */

void acp_seal_text(const struct acp_seal *seal, struct acp_buf *out)
{
	acp_buf_printf(out, "acp-fcgi audit seal v1\nseal %lld\nat %s\nprevious %s\nrows %lld\n", (long long)seal->id,
		       seal->at, seal->previous, (long long)seal->rows);
	acp_buf_puts(out, seal->heads);
	acp_buf_putc(out, '\n');
}

/* "digits" and the space behind them. */
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

/* The rows that the lines add up to; -1: they are not such lines, in the order of the chains. */
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
		wrong = "it was altered: its hash is not that of its content";
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

/* One field of a row literal from text to the comma or parenthesis that ends it; NULL: broken. Writes the value to
 * *out, which moves; *value NULL is null. Quotes and backslashes are doubled within quotes. */
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

bool acp_row_parse(struct acp_row *row, const char *text, size_t len)
{
	const char *end = text + len;
	if (row->size < len + ACP_ROW_FIELDS + 1) {
		row->size = 2 * len + 1024;
		free(row->storage);
		row->storage = malloc(row->size);
	}
	char *out = row->storage;
	if (!out) {
		row->size = 0;
		return false;
	}
	if (len < 2 || *text != '(' || memchr(text, '\0', len))
		return false;
	for (int i = 0; i < ACP_ROW_FIELDS; i++) {
		text = field(text + 1, end, &out, &row->field[i]);
		if (!text || *text != (i + 1 < ACP_ROW_FIELDS ? ',' : ')'))
			return false;
	}
	return text + 1 == end;
}

void acp_row_release(struct acp_row *row)
{
	free(row->storage);
	*row = (struct acp_row){0};
}

enum form { TEXT, NUMBER, SWITCH, JSON, INSTANT, TENANT };

static const struct {
	const char *name;
	enum form form;
} columns[ACP_ROW_FIELDS] = {
	{"\"event_id\":", TEXT},     {"\"request_id\":", TEXT},
	{"\"ts\":", INSTANT},        {"\"tenant_id\":", TENANT},
	{"\"integration\":", TEXT},  {"\"pack\":", TEXT},
	{"\"action\":", TEXT},       {"\"actor_type\":", TEXT},
	{"\"actor_id\":", TEXT},     {"\"api_key_id\":", TEXT},
	{"\"request_hash\":", TEXT}, {"\"status\":", TEXT},
	{"\"error_code\":", TEXT},   {"\"error_message_redacted\":", TEXT},
	{"\"result_meta\":", JSON},  {"\"latency_ms\":", NUMBER},
	{"\"ip_address\":", TEXT},   {"\"idempotency_key\":", TEXT},
	{"\"dry_run\":", SWITCH},    {"\"policy_decision_id\":", TEXT},
	{"\"trace_id\":", TEXT},     {"\"billable\":", SWITCH},
	{"\"billing_unit\":", TEXT}, {"\"billing_quantity\":", NUMBER},
	{"\"tier\":", TEXT},
};

static bool is_number(const char *text)
{
	return *text && !text[strspn(text, "0123456789.-+e")];
}

static void add_value(struct acp_buf *out, enum form form, const char *value)
{
	const char *space = value && form == INSTANT ? strchr(value, ' ') : NULL;
	if (!value || (form == TENANT && strcmp(value, "00000000-0000-0000-0000-000000000000") == 0))
		acp_buf_puts(out, "null");
	else if (form == SWITCH)
		acp_buf_puts(out, strcmp(value, "t") == 0 ? "true" : "false");
	else if (form == JSON || (form == NUMBER && is_number(value)))
		acp_buf_puts(out, value);
	else if (space)
		acp_buf_printf(out, "\"%.*sT%sZ\"", (int)(space - value), value, space + 1);
	else
		acp_buf_json_string(out, value, strlen(value));
}

void acp_row_line(const struct acp_row *row, const struct acp_chain_link *link, struct acp_buf *out)
{
	char hex[ACP_SHA256_HEX];
	for (int i = 0; i < ACP_ROW_FIELDS; i++) {
		acp_buf_putc(out, i ? ',' : '{');
		acp_buf_puts(out, columns[i].name);
		add_value(out, columns[i].form, row->field[i]);
	}
	acp_hex(link->hash, sizeof link->hash, hex);
	acp_buf_printf(out, ",\"chain_id\":%lld,\"chain_seq\":%lld,\"chain_hash\":\"%s\"", (long long)link->chain,
		       (long long)link->seq, hex);
	if (link->has_before) {
		acp_hex(link->before, sizeof link->before, hex);
		acp_buf_printf(out, ",\"before\":\"%s\"", hex);
	}
	acp_buf_puts(out, ",\"text\":");
	acp_buf_json_string(out, link->text, link->len);
	acp_buf_puts(out, "}\n");
}
