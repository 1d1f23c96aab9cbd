/* Reading JSON, its canonical form and its hash (json_scan.c, json_canonical.c, json.c).
 * A document is accepted exactly when RFC 8259 allows it (oracle.c), it is within the limits, and it has no duplicate
 * member, no U+0000 and no number that would be changed. The result equals json-c's. Reading and writing the canonical
 * form again does not change it. (One exception: ECMAScript, and so RFC 8785, writes 9.700005036660502e16 as
 * 97000050366605020, which is not exactly that double; our reader refuses such an integer.) */
#include "../fuzz.h"

static const struct acp_json_limits limits = {.max_bytes = 6000, .max_depth = 32, .max_tokens = 300};

static size_t count_members(struct json_object *value)
{
	size_t count = 0;
	if (json_object_is_type(value, json_type_object)) {
		json_object_object_foreach(value, name, member)
		{
			(void)name;
			count += 1 + count_members(member);
		}
	} else if (json_object_is_type(value, json_type_array)) {
		for (size_t i = 0; i < json_object_array_length(value); i++)
			count += count_members(json_object_array_get_idx(value, i));
	}
	return count;
}

static struct json_object *parse_otherwise(const char *text, size_t len)
{
	struct json_tokener *tokener = json_tokener_new_ex(300);
	struct json_object *tree = json_tokener_parse_ex(tokener, text, (int)len + 1); /* including the final NUL */
	enum json_tokener_error error = json_tokener_get_error(tokener);
	FUZZ_CHECK(error == json_tokener_success, "json-c does not read it: %s", json_tokener_error_desc(error));
	json_tokener_free(tokener);
	return tree;
}

static struct json_object *parse_own(const char *text, size_t len)
{
	struct acp_json_error error;
	struct json_object *tree = NULL;
	const struct acp_json_limits wide = {(size_t)1 << 20, 64, 100000};
	enum acp_json_verdict verdict = acp_json_parse(text, len, &wide, &tree, &error);
	FUZZ_CHECK(verdict == ACP_JSON_OK, "our own text is refused: %s in %s", error.message, text);
	return tree;
}

static void check_tree(struct json_object *tree, const char *text, size_t len)
{
	char hash[65], again[65];
	char *canonical = fuzz_canonical(tree);
	struct json_object *other = parse_otherwise(text, len);
	char *others = fuzz_canonical(other);
	FUZZ_CHECK(strcmp(canonical, others) == 0, "json-c reads %s, not %s", others, canonical);
	if (!oracle_read((const uint8_t *)canonical, strlen(canonical)).inexact) {
		struct json_object *back = parse_own(canonical, strlen(canonical));
		char *twice = fuzz_canonical(back);
		FUZZ_CHECK(strcmp(canonical, twice) == 0, "canonical form of %s is %s", canonical, twice);
		FUZZ_CHECK(acp_json_hash(tree, hash) && acp_json_hash(back, again) && strcmp(hash, again) == 0, "hash");
		json_object_put(back);
		free(twice);
	}
	struct acp_buf written;
	acp_buf_init(&written, (size_t)1 << 20);
	acp_json_write(tree, &written);
	FUZZ_CHECK(acp_buf_ok(&written), "it cannot be written");
	struct json_object *reread = parse_own(written.ptr, written.len);
	char *thrice = fuzz_canonical(reread);
	FUZZ_CHECK(strcmp(canonical, thrice) == 0, "written as %s", written.ptr);
	acp_buf_release(&written);
	json_object_put(other);
	json_object_put(reread);
	free(canonical);
	free(others);
	free(thrice);
}

/* True if a member occurs twice: json-c's tree has only one of them. */
static bool has_twice(const struct oracle *oracle, const char *text, size_t len)
{
	struct json_object *tree = parse_otherwise(text, len);
	bool twice = count_members(tree) < oracle->members;
	json_object_put(tree);
	return twice;
}

static void check_error(const struct acp_json_error *error, size_t len)
{
	FUZZ_CHECK(error->offset <= len, "offset %zu of %zu", error->offset, len);
	FUZZ_CHECK(*error->message, "no message");
	FUZZ_CHECK(!*error->pointer || *error->pointer == '/' || strcmp(error->pointer, "...") == 0, "pointer %s",
		   error->pointer);
	FUZZ_CHECK(strlen(error->pointer) < sizeof error->pointer, "pointer without a NUL");
}

/* By the rules ACP_JSON_ANY: what RFC 8259 permits is accepted, whatever its numbers, names and characters, and what is
 * written is read again as the same. */
static void check_any(const struct oracle *oracle, const char *text, size_t len)
{
	struct acp_json_error error;
	struct json_object *tree = NULL, *again = NULL;
	struct acp_buf first, second;
	enum acp_json_verdict verdict = acp_json_parse_any(text, len, &tree, &error);
	FUZZ_CHECK(verdict == ACP_JSON_OK || tree == NULL, "refused, but there is a tree");
	if (oracle->valid && !oracle->too_deep && oracle->depth <= ACP_JSON_ANY_DEPTH)
		FUZZ_CHECK(verdict == ACP_JSON_OK || strstr(error.message, "in a name"), "refused: %s at %zu",
			   error.message, error.offset);
	if (verdict != ACP_JSON_OK)
		return;
	acp_buf_init(&first, (size_t)1 << 22);
	acp_buf_init(&second, (size_t)1 << 22);
	acp_json_write(tree, &first);
	FUZZ_CHECK(acp_buf_ok(&first), "it cannot be written");
	FUZZ_CHECK(acp_json_parse_any(first.ptr, first.len, &again, &error) == ACP_JSON_OK, "%s in %s", error.message,
		   first.ptr);
	acp_json_write(again, &second);
	FUZZ_CHECK(acp_buf_ok(&second) && strcmp(first.ptr, second.ptr) == 0, "%s became %s", first.ptr, second.ptr);
	acp_buf_release(&first);
	acp_buf_release(&second);
	json_object_put(tree);
	json_object_put(again);
}

void fuzz_json(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	struct acp_json_error error;
	struct json_object *tree = NULL;
	size_t len;
	char *text = fuzz_rest(&in, &len);
	struct oracle oracle = oracle_read(data, size);
	enum acp_json_verdict verdict = acp_json_parse(text, len, &limits, &tree, &error);
	bool large = len > limits.max_bytes || oracle.depth > limits.max_depth || oracle.tokens > limits.max_tokens;
	bool barred = oracle.nul || oracle.inexact;
	FUZZ_CHECK(verdict != ACP_JSON_NO_MEMORY, "memory");
	if (verdict == ACP_JSON_OK) {
		FUZZ_CHECK(oracle.valid && !oracle.too_deep && !large && !barred, "must not be accepted");
		FUZZ_CHECK(count_members(tree) == oracle.members, "%zu members, not %zu", count_members(tree),
			   oracle.members);
		check_tree(tree, text, len);
	} else {
		FUZZ_CHECK(tree == NULL, "refused, but there is a tree");
		check_error(&error, len);
		if (verdict == ACP_JSON_TOO_LARGE)
			FUZZ_CHECK(large, "too large: %s", error.message);
		else if (oracle.valid && !oracle.too_deep && !barred)
			FUZZ_CHECK(has_twice(&oracle, text, len), "refused: %s at %zu", error.message, error.offset);
	}
	json_object_put(tree);
	check_any(&oracle, text, len);
	free(text);
}
