#include "chain_text.h"

#include "json.h"

#include <arpa/inet.h>
#include <ctype.h>

/* Values --------------------------------------------------------------------------------------------------------- */

/* The text of a value. Short text is stored in room, JSON in a separate buffer. */
struct value {
	const char *text;
	size_t len;
	char room[64];
};

static bool point_to_room(struct value *out)
{
	out->text = out->room;
	out->len = strlen(out->room);
	return true;
}

static bool take(struct value *out, const char *text)
{
	out->text = text;
	out->len = strlen(text);
	return true;
}

static bool take_uuid(struct value *out, const char *text)
{
	if (!acp_is_uuid(text))
		return false;
	for (size_t i = 0; i < ACP_UUID_LEN; i++)
		out->room[i] = (char)tolower((unsigned char)text[i]);
	return point_to_room(out);
}

/* Returns the days since 1970-01-01 in the Gregorian calendar. Years start in March, so that the leap day is the last
 * day. */
static int64_t days_since_1970(int64_t year, int64_t month, int64_t day)
{
	year -= month <= 2;
	int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
	return year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719468;
}

/* Reads exactly count digits and the character that must follow ('\0': none). Moves *at past them. */
static bool digits(const char **at, size_t count, char follows, int64_t *out)
{
	*out = 0;
	for (size_t i = 0; i < count; i++, (*at)++) {
		if (**at < '0' || **at > '9')
			return false;
		*out = *out * 10 + (**at - '0');
	}
	return !follows || *(*at)++ == follows;
}

bool acp_time_us(const char *text, int64_t *us)
{
	int64_t year, month, day, hour, minute, second;
	int64_t fraction = 0;
	if (!digits(&text, 4, '-', &year) || !digits(&text, 2, '-', &month) || !digits(&text, 2, ' ', &day) ||
	    !digits(&text, 2, ':', &hour) || !digits(&text, 2, ':', &minute) || !digits(&text, 2, '\0', &second))
		return false;
	if (*text == '.') {
		size_t count = strspn(++text, "0123456789");
		if (count < 1 || count > 6 || !digits(&text, count, '\0', &fraction))
			return false;
		for (; count < 6; count++)
			fraction *= 10;
	}
	if (*text && strcmp(text, "+00") != 0)
		return false;
	*us = (days_since_1970(year, month, day) * 86400 + hour * 3600 + minute * 60 + second) * 1000000 + fraction;
	return true;
}

static bool take_integer(struct value *out, int64_t number)
{
	snprintf(out->room, sizeof out->room, "%lld", (long long)number);
	return point_to_room(out);
}

static bool take_time(struct value *out, const char *text)
{
	int64_t us;
	return acp_time_us(text, &us) && take_integer(out, us);
}

/* Writes the bytes of the address in hex, with "/n" for a network. */
static bool take_address(struct value *out, const char *text)
{
	char alone[64];
	uint8_t bytes[16];
	const char *slash = strchr(text, '/');
	size_t len = slash ? (size_t)(slash - text) : strlen(text);
	if (len >= sizeof alone)
		return false;
	memcpy(alone, text, len);
	alone[len] = '\0';
	bool v4 = inet_pton(AF_INET, alone, bytes) == 1;
	if (!v4 && inet_pton(AF_INET6, alone, bytes) != 1)
		return false;
	acp_hex(bytes, v4 ? 4 : 16, out->room);
	if (slash && strlen(slash) > 4)
		return false;
	if (slash)
		memcpy(out->room + (v4 ? 8 : 32), slash, strlen(slash) + 1);
	return point_to_room(out);
}

/* Writes the four bytes of the IEEE 754 single in hex, the sign first. */
static bool take_real(struct value *out, float single)
{
	uint32_t bits;
	memcpy(&bits, &single, sizeof bits);
	snprintf(out->room, sizeof out->room, "%08x", bits);
	return point_to_room(out);
}

static bool take_flag(struct value *out, bool flag)
{
	return take(out, flag ? "true" : "false");
}

/* JSON ----------------------------------------------------------------------------------------------------------- */

static void add_json_string(struct acp_buf *out, const char *text, size_t len)
{
	static const char plain[] = "\b\f\n\r\t\"\\";
	static const char letters[] = "bfnrt\"\\";
	acp_buf_putc(out, '"');
	for (size_t i = 0; i < len; i++) {
		char code[8];
		const char *short_form = text[i] ? strchr(plain, text[i]) : NULL;
		if (short_form) {
			acp_buf_putc(out, '\\');
			acp_buf_putc(out, letters[short_form - plain]);
		} else if ((unsigned char)text[i] < 0x20) {
			snprintf(code, sizeof code, "\\u%04x", (unsigned char)text[i]);
			acp_buf_add(out, code, strlen(code));
		} else {
			acp_buf_putc(out, text[i]);
		}
	}
	acp_buf_putc(out, '"');
}

static bool add_json(struct acp_buf *out, struct json_object *value);

/* Members are sorted by the length of their names, then by their bytes. */
static int by_length(const void *a, const void *b)
{
	const char *left = *(const char *const *)a;
	const char *right = *(const char *const *)b;
	size_t left_len = strlen(left);
	size_t right_len = strlen(right);
	if (left_len != right_len)
		return left_len < right_len ? -1 : 1;
	return strcmp(left, right);
}

static bool add_json_object(struct acp_buf *out, struct json_object *value)
{
	enum { MEMBERS_MAX = 64 };
	const char *names[MEMBERS_MAX];
	size_t count = 0;
	bool ok = json_object_object_length(value) <= MEMBERS_MAX;
	if (!ok)
		return false;
	json_object_object_foreach(value, name, ignored)
	{
		(void)ignored;
		names[count++] = name;
	}
	qsort(names, count, sizeof *names, by_length);
	acp_buf_putc(out, '{');
	for (size_t i = 0; ok && i < count; i++) {
		acp_buf_add(out, ", ", i ? 2 : 0);
		add_json_string(out, names[i], strlen(names[i]));
		acp_buf_add(out, ": ", 2);
		ok = add_json(out, acp_json_member(value, names[i]));
	}
	acp_buf_putc(out, '}');
	return ok;
}

static bool add_json_array(struct acp_buf *out, struct json_object *value)
{
	bool ok = true;
	acp_buf_putc(out, '[');
	for (size_t i = 0; ok && i < json_object_array_length(value); i++) {
		acp_buf_add(out, ", ", i ? 2 : 0);
		ok = add_json(out, json_object_array_get_idx(value, i));
	}
	acp_buf_putc(out, ']');
	return ok;
}

/* A fraction keeps all digits that were written. Only PostgreSQL has them, so it must make the text of fractions. */
static bool add_json(struct acp_buf *out, struct json_object *value)
{
	switch (json_object_get_type(value)) {
	case json_type_null: acp_buf_add(out, "null", 4); return true;
	case json_type_string:
		add_json_string(out, json_object_get_string(value), (size_t)json_object_get_string_len(value));
		return true;
	case json_type_object: return add_json_object(out, value);
	case json_type_array: return add_json_array(out, value);
	case json_type_boolean:
	case json_type_int: acp_json_write(value, out); return true;
	default: return false;
	}
}

/* Lines ---------------------------------------------------------------------------------------------------------- */

static void put_name(struct acp_buf *out, const struct acp_field *field)
{
	acp_buf_puts(out, field->name);
	acp_buf_putc(out, ' ');
}

static void put_plain(struct acp_buf *out, const struct acp_field *field, const struct value *value)
{
	put_name(out, field);
	acp_buf_put_int(out, (int64_t)value->len);
	acp_buf_putc(out, ':');
	acp_buf_add(out, value->text, value->len);
	acp_buf_putc(out, '\n');
}

static void put_null(struct acp_buf *out, const struct acp_field *field)
{
	if (field - acp_fields >= ACP_FIELDS_OF_10)
		return;
	put_name(out, field);
	acp_buf_add(out, "-\n", 2);
}

static void put_commitment(struct acp_buf *out, const struct acp_field *field, const char hex[ACP_SHA256_HEX])
{
	const struct value value = {.text = hex, .len = ACP_SHA256_HEX - 1};
	put_plain(out, field, &value);
}

/* Writes the salt and the line where the commitment will be, hashes them, and replaces them with the commitment. */
static void put_committed(struct acp_buf *out, const struct acp_field *field, const struct value *value,
			  const uint8_t *salt)
{
	char hex[ACP_SHA256_HEX];
	uint8_t hash[ACP_SHA256_LEN];
	size_t start = out->len;
	acp_buf_add(out, salt, ACP_SALT_LEN);
	put_plain(out, field, value);
	if (out->failed)
		return;
	acp_sha256(out->ptr + start, out->len - start, hash);
	acp_hex(hash, sizeof hash, hex);
	out->len = start;
	put_commitment(out, field, hex);
}

/* salt NULL: the row has no salt, and so must have no personal value. */
static bool put_value(struct acp_buf *out, const struct acp_field *field, const struct value *value,
		      const uint8_t *salt)
{
	if (!field->personal)
		put_plain(out, field, value);
	else if (salt)
		put_committed(out, field, value, salt);
	return !field->personal || salt;
}

/* Events --------------------------------------------------------------------------------------------------------- */

static bool take_text(struct value *out, enum acp_field_type type, const char *text)
{
	switch (type) {
	case ACP_FIELD_UUID: return take_uuid(out, text);
	case ACP_FIELD_TIME: return take_time(out, text);
	case ACP_FIELD_ADDRESS: return take_address(out, text);
	default: return take(out, text);
	}
}

static bool put_object(struct acp_buf *out, const struct acp_field *field, struct json_object *object,
		       const uint8_t *salt)
{
	struct acp_buf text;
	struct value value;
	acp_buf_init(&text, 1 << 20);
	bool ok = add_json(&text, object) && acp_buf_ok(&text);
	if (ok) {
		value.text = text.ptr;
		value.len = text.len;
		ok = put_value(out, field, &value, salt);
	}
	acp_buf_release(&text);
	return ok;
}

static bool put_event_field(struct acp_buf *out, const struct acp_event *event, const struct acp_field *field,
			    const uint8_t *salt)
{
	struct value value;
	const void *member = (const char *)event + field->offset;
	bool pointer = false;
	bool ok = true;
	switch (field->type) {
	case ACP_FIELD_REAL: take_real(&value, (float)*(const double *)member); break;
	case ACP_FIELD_INTEGER: take_integer(&value, *(const int64_t *)member); break;
	case ACP_FIELD_FLAG: take_flag(&value, *(const bool *)member); break;
	default: pointer = true; break;
	}
	if (pointer && !acp_event_text(event, field)) {
		put_null(out, field);
		return true;
	}
	if (field->type == ACP_FIELD_JSON)
		return put_object(out, field, acp_event_object(event, field), salt);
	if (pointer)
		ok = take_text(&value, field->type, acp_event_text(event, field));
	return ok && put_value(out, field, &value, salt);
}

bool acp_event_personal(const struct acp_event *event)
{
	for (size_t i = 0; i < ACP_FIELDS; i++)
		if (acp_fields[i].personal && acp_event_text(event, &acp_fields[i]))
			return true;
	return false;
}

bool acp_chain_text(struct acp_buf *out, const struct acp_event *event, const uint8_t *salt)
{
	bool ok = true;
	acp_buf_puts(out, ACP_CHAIN_HEADER);
	for (size_t i = 0; ok && i < ACP_FIELDS; i++)
		ok = put_event_field(out, event, &acp_fields[i], salt);
	return ok && acp_buf_ok(out);
}

/* Stored rows ---------------------------------------------------------------------------------------------------- */

static bool take_stored(struct value *out, enum acp_field_type type, const char *text)
{
	char *end = NULL;
	switch (type) {
	case ACP_FIELD_REAL: return take_real(out, strtof(text, &end)) && end > text && !*end;
	case ACP_FIELD_FLAG: return take_flag(out, strcmp(text, "t") == 0);
	default: return take_text(out, type, text);
	}
}

static const struct acp_field *personal_field(const char *name, size_t *at)
{
	for (*at = 0; *at < ACP_FIELDS; (*at)++)
		if (acp_fields[*at].personal && strcmp(acp_fields[*at].name, name) == 0)
			return &acp_fields[*at];
	return NULL;
}

bool acp_chain_row_erased(struct acp_chain_row *row, const char *json)
{
	uint8_t hash[ACP_SHA256_LEN];
	size_t at;
	memset(row->erased, 0, sizeof row->erased);
	if (!json)
		return true;
	struct json_object *object = json_tokener_parse(json);
	bool ok = json_object_is_type(object, json_type_object) && json_object_object_length(object) > 0;
	if (ok) {
		json_object_object_foreach(object, name, value)
		{
			const char *hex = json_object_get_string(value);
			ok = ok && personal_field(name, &at) && hex && acp_unhex(hex, hash, sizeof hash);
			if (!ok)
				break;
			row->erased[at] = true;
			acp_copy(row->commitment[at], ACP_SHA256_HEX, hex);
		}
	}
	json_object_put(object);
	return ok;
}

/* A row must have a salt if and only if it has a personal value. A row with personal values must have no erased
 * values. */
static bool is_consistent(const struct acp_chain_row *row)
{
	bool values = false;
	bool erased = false;
	for (size_t i = 0; i < ACP_FIELDS; i++) {
		values = values || (acp_fields[i].personal && row->value[i]);
		erased = erased || row->erased[i];
	}
	return values == (row->salt != NULL) && !(values && erased);
}

bool acp_chain_row_text(struct acp_buf *out, const struct acp_chain_row *row)
{
	uint8_t salt[ACP_SALT_LEN];
	struct value value;
	bool ok = is_consistent(row) && (!row->salt || acp_unhex(row->salt, salt, sizeof salt));
	acp_buf_puts(out, ACP_CHAIN_HEADER);
	for (size_t i = 0; ok && i < ACP_FIELDS; i++) {
		const struct acp_field *field = &acp_fields[i];
		if (row->erased[i])
			put_commitment(out, field, row->commitment[i]);
		else if (!row->value[i])
			put_null(out, field);
		else
			ok = take_stored(&value, field->type, row->value[i]) &&
			     put_value(out, field, &value, row->salt ? salt : NULL);
	}
	return ok && acp_buf_ok(out);
}
