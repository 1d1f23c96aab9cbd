#include "columns.h"

#include "json.h"

#include <arpa/inet.h>
#include <stddef.h>

/* OIDs of PostgreSQL's built-in types; they never change. */
enum {
	BOOL_OID = 16,
	BYTEA_OID = 17,
	INT8_OID = 20,
	INT4_OID = 23,
	TEXT_OID = 25,
	FLOAT4_OID = 700,
	INET_OID = 869,
	TIMESTAMPTZ_OID = 1184,
	UUID_OID = 2950,
	JSONB_OID = 3802,
};

struct column {
	uint32_t type;
	size_t offset; /* of the member in struct acp_event */
};

static const struct column columns[ACP_COLUMNS] = {
#define ACP_EVENT_UUID(name) {UUID_OID, offsetof(struct acp_event, name)},
#define ACP_EVENT_TIME(name) {TIMESTAMPTZ_OID, offsetof(struct acp_event, name)},
#define ACP_EVENT_TEXT(name) {TEXT_OID, offsetof(struct acp_event, name)},
#define ACP_EVENT_ADDRESS(name) {INET_OID, offsetof(struct acp_event, name)},
#define ACP_EVENT_JSON(name) {JSONB_OID, offsetof(struct acp_event, name)},
#define ACP_EVENT_REAL(name) {FLOAT4_OID, offsetof(struct acp_event, name)},
#define ACP_EVENT_INTEGER(name) {INT8_OID, offsetof(struct acp_event, name)},
#define ACP_EVENT_FLAG(name) {BOOL_OID, offsetof(struct acp_event, name)},
#include "event.def"
#undef ACP_EVENT_UUID
#undef ACP_EVENT_TIME
#undef ACP_EVENT_TEXT
#undef ACP_EVENT_ADDRESS
#undef ACP_EVENT_JSON
#undef ACP_EVENT_REAL
#undef ACP_EVENT_INTEGER
#undef ACP_EVENT_FLAG
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

/* Days since 2000-01-01 in the Gregorian calendar: years begin in March, so that the leap day is the last one. */
static int64_t days_since_2000(int64_t year, int64_t month, int64_t day)
{
	year -= month <= 2;
	int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
	return year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 730425;
}

/* The digits of text from a place on; -1: they are not all digits. */
static int64_t digits(const char *text, size_t from, size_t count)
{
	int64_t value = 0;
	for (size_t i = from; i < from + count; i++) {
		if (text[i] < '0' || text[i] > '9')
			return -1;
		value = value * 10 + (text[i] - '0');
	}
	return value;
}

/* "2026-11-22 09:30:00.123456+00", as principals carry it. */
static bool put_timestamptz(struct acp_buf *out, const char *text)
{
	static const size_t parts[][2] = {{0, 4}, {5, 2}, {8, 2}, {11, 2}, {14, 2}, {17, 2}, {20, 6}};
	int64_t values[ACP_COUNT(parts)];
	if (strlen(text) != 29 || strcmp(text + 26, "+00") != 0)
		return false;
	for (size_t i = 0; i < ACP_COUNT(parts); i++)
		if ((values[i] = digits(text, parts[i][0], parts[i][1])) < 0)
			return false;
	int64_t seconds = days_since_2000(values[0], values[1], values[2]) * 86400 + values[3] * 3600 + values[4] * 60 +
			  values[5];
	put32(out, 8);
	put64(out, (uint64_t)(seconds * 1000000 + values[6]));
	return true;
}

/* Families as PostgreSQL numbers them: 2 for IPv4, 3 for IPv6. */
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

/* jsonb in binary is a version, 1, and its text. */
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

/* A value that may be null: member is a pointer. */
static bool put_nullable(struct acp_buf *out, uint32_t type, const void *value)
{
	switch (value ? type : 0) {
	case 0: put32(out, UINT32_MAX); return true; /* length -1: null */
	case UUID_OID: return put_uuid(out, value);
	case TIMESTAMPTZ_OID: return put_timestamptz(out, value);
	case INET_OID: return put_inet(out, value);
	case TEXT_OID: put_text(out, value); return true;
	default: return false;
	}
}

static bool put_value(struct acp_buf *out, uint32_t type, const void *member)
{
	switch (type) {
	case JSONB_OID:
		if (*(struct json_object *const *)member)
			put_jsonb(out, *(struct json_object *const *)member);
		else
			put32(out, UINT32_MAX);
		return true;
	case FLOAT4_OID: put_float4(out, *(const double *)member); return true;
	case INT8_OID:
		put32(out, 8);
		put64(out, (uint64_t) * (const int64_t *)member);
		return true;
	case BOOL_OID:
		put32(out, 1);
		acp_buf_putc(out, *(const bool *)member ? 1 : 0);
		return true;
	default: return put_nullable(out, type, *(const char *const *)member);
	}
}

bool acp_columns_address(const char *text, char *out, size_t size)
{
	uint8_t address[16];
	int family = strchr(text, ':') ? AF_INET6 : AF_INET;
	return inet_pton(family, text, address) == 1 && inet_ntop(family, address, out, (socklen_t)size);
}

/* One dimension, nulls possible, numbered from 1. */
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
		put_array_head(out, columns[i].type, count);
		for (size_t n = 0; ok && n < count; n++)
			ok = put_value(out, columns[i].type, (const char *)events[n] + columns[i].offset);
		lengths[i] = (int)(out->len - offsets[i]);
	}
	return ok && acp_buf_ok(out);
}

void acp_columns_rows_begin(struct acp_buf *out, uint32_t row_type, size_t count)
{
	put_array_head(out, row_type, count);
}

static void put_link(struct acp_buf *out, const struct acp_link *link)
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
}

bool acp_columns_row(struct acp_buf *out, const struct acp_event *event, const struct acp_link *link)
{
	bool ok = true;
	size_t start = out->len;
	put32(out, 0); /* its length, when it is known */
	put32(out, ACP_COLUMNS + 3);
	for (size_t i = 0; ok && i < ACP_COLUMNS; i++) {
		put32(out, columns[i].type);
		ok = put_value(out, columns[i].type, (const char *)event + columns[i].offset);
	}
	put_link(out, link);
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
