#include "columns.h"

#include "chain_text.h"
#include "json.h"

#include <arpa/inet.h>

enum { LINK_COLUMNS = 6 };

/* OIDs of PostgreSQL's built-in types; they never change. */
enum {
	BOOL_OID = 16,
	BYTEA_OID = 17,
	INT8_OID = 20,
	INT2_OID = 21,
	INT4_OID = 23,
	TEXT_OID = 25,
	FLOAT4_OID = 700,
	INET_OID = 869,
	TIMESTAMPTZ_OID = 1184,
	UUID_OID = 2950,
	JSONB_OID = 3802,
};

/* The OID of each type of field. */
static const uint32_t oids[] = {
	[ACP_FIELD_UUID] = UUID_OID,    [ACP_FIELD_TIME] = TIMESTAMPTZ_OID, [ACP_FIELD_TEXT] = TEXT_OID,
	[ACP_FIELD_ADDRESS] = INET_OID, [ACP_FIELD_JSON] = JSONB_OID,       [ACP_FIELD_REAL] = FLOAT4_OID,
	[ACP_FIELD_INTEGER] = INT8_OID, [ACP_FIELD_FLAG] = BOOL_OID,
};

static void put32(struct acp_buf *out, uint32_t value)
{
	const uint32_t wire = htonl(value);
	acp_buf_add(out, &wire, sizeof wire);
}

static void put64(struct acp_buf *out, uint64_t value)
{
	put32(out, (uint32_t)(value >> 32));
	put32(out, (uint32_t)value);
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static bool put_uuid(struct acp_buf *out, const char *text)
{
	uint8_t bytes[16];
	size_t n = 0;
	for (; *text && n < 32; text++) {
		int digit = hex_digit(*text);
		if (*text == '-')
			continue;
		if (digit < 0)
			return false;
		bytes[n / 2] = (uint8_t)(n % 2 ? bytes[n / 2] | digit : digit << 4);
		n++;
	}
	put32(out, sizeof bytes);
	acp_buf_add(out, bytes, sizeof bytes);
	return n == 32 && !*text;
}

/* PostgreSQL counts from 2000-01-01. */
static bool put_timestamptz(struct acp_buf *out, const char *text)
{
	static const int64_t until_2000 = INT64_C(946684800000000);
	int64_t us;
	if (strlen(text) != 29 || !acp_time_us(text, &us))
		return false;
	put32(out, 8);
	put64(out, (uint64_t)(us - until_2000));
	return true;
}

/* PostgreSQL numbers the families 2 (IPv4) and 3 (IPv6). */
static bool put_inet(struct acp_buf *out, const char *text)
{
	uint8_t address[16];
	bool v4 = inet_pton(AF_INET, text, address) == 1;
	uint8_t size = v4 ? 4 : 16;
	const uint8_t head[] = {v4 ? 2 : 3, (uint8_t)(size * 8), 0, size};
	if (!v4 && inet_pton(AF_INET6, text, address) != 1)
		return false;
	put32(out, (uint32_t)sizeof head + size);
	acp_buf_add(out, head, sizeof head);
	acp_buf_add(out, address, size);
	return true;
}

static void put_float4(struct acp_buf *out, double value)
{
	uint32_t bits;
	const float single = (float)value;
	memcpy(&bits, &single, sizeof bits);
	put32(out, 4);
	put32(out, bits);
}

/* Binary jsonb is the version number 1 and the text. */
static void put_jsonb(struct acp_buf *out, struct json_object *value)
{
	size_t len;
	const char *text = acp_json_text(value, JSON_C_TO_STRING_PLAIN, &len);
	if (!text) {
		out->failed = true;
		return;
	}
	put32(out, (uint32_t)len + 1);
	acp_buf_putc(out, 1);
	acp_buf_add(out, text, len);
}

static void put_text(struct acp_buf *out, const char *text)
{
	size_t len = strlen(text);
	put32(out, (uint32_t)len);
	acp_buf_add(out, text, len);
}

static bool put_text_value(struct acp_buf *out, enum acp_field_type type, const char *value)
{
	switch (type) {
	case ACP_FIELD_UUID: return put_uuid(out, value);
	case ACP_FIELD_TIME: return put_timestamptz(out, value);
	case ACP_FIELD_ADDRESS: return put_inet(out, value);
	default: put_text(out, value); return true;
	}
}

static void put_null(struct acp_buf *out)
{
	put32(out, UINT32_MAX); /* length -1 */
}

static bool put_field(struct acp_buf *out, const struct acp_event *event, const struct acp_field *field)
{
	const void *member = (const char *)event + field->offset;
	switch (field->type) {
	case ACP_FIELD_REAL: put_float4(out, *(const double *)member); return true;
	case ACP_FIELD_INTEGER:
		put32(out, 8);
		put64(out, (uint64_t) * (const int64_t *)member);
		return true;
	case ACP_FIELD_FLAG:
		put32(out, 1);
		acp_buf_putc(out, *(const bool *)member ? 1 : 0);
		return true;
	default: break;
	}
	if (!acp_event_text(event, field))
		put_null(out);
	else if (field->type == ACP_FIELD_JSON)
		put_jsonb(out, acp_event_object(event, field));
	else
		return put_text_value(out, field->type, acp_event_text(event, field));
	return true;
}

/* One dimension, nulls allowed, indexes from 1. */
static void put_array_head(struct acp_buf *out, uint32_t type, size_t count)
{
	put32(out, 1);
	put32(out, 1);
	put32(out, type);
	put32(out, (uint32_t)count);
	put32(out, 1);
}

bool acp_columns_write(struct acp_buf *out, const struct acp_event *const *events, size_t count,
		       size_t offsets[ACP_COLUMNS], int lengths[ACP_COLUMNS])
{
	bool ok = true;
	for (size_t i = 0; ok && i < ACP_COLUMNS; i++) {
		offsets[i] = out->len;
		put_array_head(out, oids[acp_fields[i].type], count);
		for (size_t n = 0; ok && n < count; n++)
			ok = put_field(out, events[n], &acp_fields[i]);
		lengths[i] = (int)(out->len - offsets[i]);
	}
	return ok && acp_buf_ok(out);
}

void acp_columns_rows_begin(struct acp_buf *out, uint32_t row_type, size_t count)
{
	put_array_head(out, row_type, count);
}

/* chain_id, chain_seq, chain_hash, chain_form, salt, erased. */
static void put_link(struct acp_buf *out, const struct acp_link *link, const uint8_t *salt)
{
	put32(out, INT4_OID);
	put32(out, 4);
	put32(out, (uint32_t)link->chain_id);
	put32(out, INT8_OID);
	put32(out, 8);
	put64(out, (uint64_t)link->seq);
	put32(out, BYTEA_OID);
	put32(out, sizeof link->head);
	acp_buf_add(out, link->head, sizeof link->head);
	put32(out, INT2_OID);
	put32(out, 2);
	acp_buf_putc(out, 0);
	acp_buf_putc(out, ACP_CHAIN_FORM);
	put32(out, BYTEA_OID);
	put32(out, salt ? ACP_SALT_LEN : UINT32_MAX);
	if (salt)
		acp_buf_add(out, salt, ACP_SALT_LEN);
	put32(out, JSONB_OID);
	put_null(out);
}

/* Appends the fields from first up to, but without, past. */
static bool put_fields(struct acp_buf *out, const struct acp_event *event, size_t first, size_t past)
{
	bool ok = true;
	for (size_t i = first; ok && i < past; i++) {
		put32(out, oids[acp_fields[i].type]);
		ok = put_field(out, event, &acp_fields[i]);
	}
	return ok;
}

/* The columns are in the order in which migrations added them: later fields follow the link. */
bool acp_columns_row(struct acp_buf *out, const struct acp_event *event, const struct acp_link *link,
		     const uint8_t *salt)
{
	size_t start = out->len;
	put32(out, 0); /* replaced by the length below */
	put32(out, ACP_COLUMNS + LINK_COLUMNS);
	bool ok = put_fields(out, event, 0, ACP_FIELDS_OF_10);
	put_link(out, link, salt);
	ok = ok && put_fields(out, event, ACP_FIELDS_OF_10, ACP_FIELDS);
	if (!ok || !acp_buf_ok(out))
		return false;
	const uint32_t wire = htonl((uint32_t)(out->len - start - 4));
	memcpy(out->ptr + start, &wire, sizeof wire);
	return true;
}

void acp_columns_booleans(struct acp_buf *out, const bool *values, size_t count)
{
	put_array_head(out, BOOL_OID, count);
	for (size_t i = 0; i < count; i++) {
		put32(out, 1);
		acp_buf_putc(out, values[i] ? 1 : 0);
	}
}
