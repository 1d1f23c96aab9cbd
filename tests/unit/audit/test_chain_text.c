/* The texts from which the hashes of rows are made, compared with tests/chain/vectors.json; and the rules of stored
 * rows. */
#include "../tmain.h"

#include "chain_text.h"
#include "json.h"
#include "proof.h"

static struct acp_buf out; /* the current text */

static struct json_object *all_vectors(void)
{
	static struct json_object *vectors;
	if (!vectors) {
		vectors = json_object_from_file(ACP_VECTORS);
		acp_buf_init(&out, 1 << 20);
	}
	CU_ASSERT_TRUE_FATAL(json_object_is_type(vectors, json_type_array));
	return vectors;
}

static struct json_object *vector_at(size_t i)
{
	return json_object_array_get_idx(all_vectors(), i);
}

static const char *string_of(struct json_object *object, const char *name)
{
	return acp_json_string(object, name);
}

/* Converts "2026-11-30T09:15:42.120000Z" to the form of an event (suffix "+00") or of PostgreSQL (""). */
static const char *moment(struct json_object *value, const char *suffix)
{
	static char text[48];
	const char *given = json_object_get_string(value);
	snprintf(text, sizeof text, "%.10s %.15s%s", given, given + 11, suffix);
	return text;
}

static void set_member(struct acp_event *event, const struct acp_field *field, struct json_object *value)
{
	void *member = (char *)event + field->offset;
	switch (field->type) {
	case ACP_FIELD_JSON: *(struct json_object **)member = value; break;
	case ACP_FIELD_REAL: *(double *)member = json_object_get_double(value); break;
	case ACP_FIELD_INTEGER: *(int64_t *)member = json_object_get_int64(value); break;
	case ACP_FIELD_FLAG: *(bool *)member = json_object_get_boolean(value); break;
	case ACP_FIELD_TIME: *(const char **)member = moment(value, "+00"); break;
	default: *(const char **)member = json_object_get_string(value); break;
	}
}

static struct acp_event event_of(struct json_object *vector)
{
	struct acp_event event = {0};
	struct json_object *columns = acp_json_member(vector, "columns");
	for (size_t i = 0; i < ACP_FIELDS; i++) {
		struct json_object *value = acp_json_member(columns, acp_fields[i].name);
		if (value)
			set_member(&event, &acp_fields[i], value);
	}
	return event;
}

/* Returns the value of a field in a text, or NULL if it is null. Used for columns whose stored form the vector does not
 * have. */
static const char *line_of(const char *text, const char *name, char *room, size_t size)
{
	char head[64];
	snprintf(head, sizeof head, "\n%s ", name);
	const char *at = strstr(text, head);
	if (!at || at[strlen(head)] == '-')
		return NULL;
	char *value = NULL;
	size_t len = strtoul(at + strlen(head), &value, 10);
	snprintf(room, size, "%.*s", (int)len, value + 1);
	return room;
}

static struct acp_chain_row row_of(struct json_object *vector)
{
	static char meta[1024];
	struct acp_chain_row row = {.salt = string_of(vector, "salt")};
	struct json_object *columns = acp_json_member(vector, "columns");
	struct json_object *erased = acp_json_member(vector, "erased");
	bool any = json_object_object_length(erased) > 0;
	for (size_t i = 0; i < ACP_FIELDS; i++) {
		struct json_object *value = acp_json_member(columns, acp_fields[i].name);
		if (!value)
			continue;
		if (acp_fields[i].type == ACP_FIELD_TIME)
			row.value[i] = moment(value, "");
		else if (acp_fields[i].type == ACP_FIELD_FLAG)
			row.value[i] = json_object_get_boolean(value) ? "t" : "f";
		else if (acp_fields[i].type == ACP_FIELD_JSON)
			row.value[i] = line_of(string_of(vector, "text"), acp_fields[i].name, meta, sizeof meta);
		else
			row.value[i] = json_object_get_string(value);
	}
	CU_ASSERT_TRUE(acp_chain_row_erased(&row, any ? json_object_to_json_string(erased) : NULL));
	return row;
}

/* Checks the text in out, and the hash of it and the previous hash. */
static void expect(struct json_object *vector)
{
	char hex[ACP_SHA256_HEX];
	uint8_t before[ACP_SHA256_LEN], hash[ACP_SHA256_LEN];
	struct acp_hasher *hasher = acp_hasher_new();
	acp_buf_putc(&out, '\0');
	CU_ASSERT_STRING_EQUAL(out.ptr, string_of(vector, "text"));
	CU_ASSERT_TRUE(acp_unhex(string_of(vector, "before"), before, sizeof before));
	acp_hasher_add(hasher, before, sizeof before);
	acp_hasher_add(hasher, out.ptr, out.len - 1);
	acp_hasher_end(hasher, hash);
	acp_hasher_free(hasher);
	acp_hex(hash, sizeof hash, hex);
	CU_ASSERT_STRING_EQUAL(hex, string_of(vector, "hash"));
}

static void test_events(void)
{
	uint8_t salt[ACP_SALT_LEN];
	size_t made = 0;
	for (size_t i = 0; i < json_object_array_length(all_vectors()); i++) {
		struct json_object *vector = vector_at(i);
		struct acp_event event = event_of(vector);
		const char *hex = string_of(vector, "salt");
		/* An event is never erased. */
		if (json_object_object_length(acp_json_member(vector, "erased")) > 0)
			continue;
		CU_ASSERT_EQUAL(acp_event_personal(&event), hex != NULL);
		CU_ASSERT_TRUE(!hex || acp_unhex(hex, salt, sizeof salt));
		acp_buf_clear(&out);
		CU_ASSERT_TRUE_FATAL(acp_chain_text(&out, &event, hex ? salt : NULL));
		expect(vector);
		made++;
	}
	CU_ASSERT_TRUE(made >= 5);
	acp_buf_release(&out);
}

static void test_stored_rows(void)
{
	for (size_t i = 0; i < json_object_array_length(all_vectors()); i++) {
		struct json_object *vector = vector_at(i);
		struct acp_chain_row row = row_of(vector);
		acp_buf_clear(&out);
		CU_ASSERT_TRUE_FATAL(acp_chain_row_text(&out, &row));
		expect(vector);
	}
	acp_buf_release(&out);
}

/* Parsing a text returns its columns, with the time in PostgreSQL's form. */
static void test_parsed_texts(void)
{
	struct acp_row row = {0};
	for (size_t i = 0; i < json_object_array_length(all_vectors()); i++) {
		struct json_object *vector = vector_at(i);
		struct acp_chain_row stored = row_of(vector);
		const char *text = string_of(vector, "text");
		CU_ASSERT_TRUE_FATAL(acp_row_parse(&row, text, strlen(text)));
		CU_ASSERT_STRING_EQUAL(row.field[ACP_AT_event_id], stored.value[ACP_AT_event_id]);
		CU_ASSERT_STRING_EQUAL(row.field[ACP_AT_tenant_id], stored.value[ACP_AT_tenant_id]);
		CU_ASSERT_EQUAL(strncmp(row.field[ACP_AT_ts], stored.value[ACP_AT_ts], 19), 0);
		for (size_t len = 0; len < strlen(text); len++)
			CU_ASSERT_FALSE(acp_row_parse(&row, text, len));
	}
	acp_row_release(&row);
}

static bool has_text(const struct acp_chain_row *row)
{
	acp_buf_clear(&out);
	return acp_chain_row_text(&out, row);
}

enum { ACTOR = 8, ADDRESS = 16, LATENCY = 15 };

/* A row has no text if it has a personal value without a salt, or contradictory marks of erasure. */
static void test_inconsistent_rows(void)
{
	struct acp_chain_row whole = row_of(vector_at(0));
	struct acp_chain_row erased = row_of(vector_at(1));
	struct acp_chain_row row = whole;
	CU_ASSERT_STRING_EQUAL(acp_fields[ACTOR].name, "actor_id");
	CU_ASSERT_STRING_EQUAL(acp_fields[ADDRESS].name, "ip_address");
	CU_ASSERT_TRUE(has_text(&whole) && has_text(&erased));
	row.salt = NULL;
	CU_ASSERT_FALSE(has_text(&row));
	row.salt = "0001";
	CU_ASSERT_FALSE(has_text(&row));
	row = erased;
	row.salt = whole.salt;
	CU_ASSERT_FALSE(has_text(&row));
	row.value[ACTOR] = "ock_4fQz81Lm";
	CU_ASSERT_FALSE(has_text(&row));
	row.erased[ACTOR] = false;
	CU_ASSERT_FALSE(has_text(&row));
	row = whole;
	row.value[ACTOR] = row.value[ADDRESS] = NULL;
	CU_ASSERT_FALSE(has_text(&row));
	row = whole;
	row.value[ADDRESS] = "192.0.2";
	CU_ASSERT_FALSE(has_text(&row));
	row = whole;
	row.value[LATENCY] = "fast";
	CU_ASSERT_FALSE(has_text(&row));
	acp_buf_release(&out);
}

static void test_erased_column(void)
{
	static const char *const bad[] = {
		"{}",
		"[]",
		"null",
		"{\"ip_address\": \"00\"}",
		"{\"ip_address\": null}",
		"{\"status\": \"0000000000000000000000000000000000000000000000000000000000000000\"}",
		"{\"ip_address\": \"000000000000000000000000000000000000000000000000000000000000000G\"}",
	};
	struct acp_chain_row row = {0};
	for (size_t i = 0; i < ACP_COUNT(bad); i++)
		CU_ASSERT_FALSE(acp_chain_row_erased(&row, bad[i]));
	CU_ASSERT_TRUE(acp_chain_row_erased(
		&row, "{\"actor_id\": \"0000000000000000000000000000000000000000000000000000000000000000\"}"));
	CU_ASSERT_TRUE(row.erased[ACTOR]);
	CU_ASSERT_FALSE(row.erased[ADDRESS]);
	CU_ASSERT_TRUE(acp_chain_row_erased(&row, NULL));
	CU_ASSERT_FALSE(row.erased[ACTOR]);
}

static void test_moments(void)
{
	static const char *const bad[] = {"",
					  "2026-11-30",
					  "2026-11-30T09:15:42",
					  "2026-11-30 09:15:42.",
					  "2026-11-30 09:15:42.1234567",
					  "2026-11-30 09:15:42+01",
					  "2026-11-30 09:15:4x"};
	int64_t us;
	CU_ASSERT_TRUE(acp_time_us("1970-01-01 00:00:00", &us) && us == 0);
	CU_ASSERT_TRUE(acp_time_us("2000-01-01 00:00:00.000000+00", &us) && us == INT64_C(946684800000000));
	CU_ASSERT_TRUE(acp_time_us("2024-02-29 23:59:59.5", &us) && us == INT64_C(1709251199500000));
	CU_ASSERT_TRUE(acp_time_us("2100-03-01 00:00:00.000001", &us) && us == INT64_C(4107542400000001));
	for (size_t i = 0; i < ACP_COUNT(bad); i++)
		CU_ASSERT_FALSE(acp_time_us(bad[i], &us));
}

/* A result_meta with fractions is left to PostgreSQL, which keeps their digits. */
static void test_left_to_postgresql(void)
{
	struct acp_event event = event_of(vector_at(3));
	event.result_meta = json_tokener_parse("{\"a\": [1, {\"b\": 1.50}]}");
	acp_buf_clear(&out);
	CU_ASSERT_FALSE(acp_chain_text(&out, &event, NULL));
	acp_event_release(&event);
	acp_buf_release(&out);
}

const char *const acp_suite_name = "chain_text";

CU_TestInfo acp_tests[] = {
	{"events", test_events},
	{"stored_rows", test_stored_rows},
	{"parsed_texts", test_parsed_texts},
	{"inconsistent_rows", test_inconsistent_rows},
	{"erased_column", test_erased_column},
	{"moments", test_moments},
	{"left_to_postgresql", test_left_to_postgresql},
	CU_TEST_INFO_NULL,
};
