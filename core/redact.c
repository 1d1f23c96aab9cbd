#include "redact.h"
#include "json.h"

/* Redacted text is at most this much longer than what it replaces: "eyJ.e." is the shortest match. */
#define GROWTH_MAX 4

/* Member names that hold credentials: lower case, without '-' and '_'. */
static const char *const secret_names[] = {
	"authorization", "cookie",    "xapikey",   "apikey",        "token",      "accesstoken", "refreshtoken",
	"clientsecret",  "secret",    "secretkey", "webhooksecret", "password",   "passwd",      "pwd",
	"privatekey",    "sessionid", "authtoken", "bearer",        "credential", "credentials",
};

/* Keys that are told by how they begin. */
static const struct {
	const char *prefix;
	const char *extra; /* characters of the key beside letters and digits */
	size_t min;        /* so many characters must follow the prefix */
	bool at_start;     /* the prefix also ends ordinary words, so it counts only where a word begins */
} key_forms[] = {
	{"sk_live_", "_", 1, false}, {"sk_test_", "_", 1, false}, {"rk_live_", "_", 1, false},
	{"rk_test_", "_", 1, false}, {"rk_", "_", 16, true},      {"whsec_", "_-+/=", 1, false},
};

#define OWN_KEY_MIN 20

/* The text that is searched. */
struct source {
	const char *text;
	size_t len;
	size_t no_jwt_before; /* the base64url run up to here is known not to begin a JWT */
};

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

static bool is_base62(char c)
{
	return (c >= '0' && c <= '9') || (lower(c) >= 'a' && lower(c) <= 'z');
}

bool acp_redact_name(const char *name)
{
	char plain[16];
	size_t len = 0;
	for (; *name; name++) {
		if (*name == '-' || *name == '_')
			continue;
		if (len == sizeof plain - 1)
			return false;
		plain[len++] = lower(*name);
	}
	plain[len] = '\0';
	for (size_t i = 0; i < ACP_COUNT(secret_names); i++) {
		if (strcmp(plain, secret_names[i]) == 0)
			return true;
	}
	return false;
}

/* How many characters from at on are letters, digits or one of extra. */
static size_t run_length(const struct source *s, size_t at, const char *extra)
{
	size_t end = at;
	while (end < s->len && (is_base62(s->text[end]) || (s->text[end] && strchr(extra, s->text[end]))))
		end++;
	return end - at;
}

static bool starts_with(const struct source *s, size_t at, const char *prefix)
{
	size_t len = strlen(prefix);
	return s->len - at >= len && memcmp(s->text + at, prefix, len) == 0;
}

/* Each match_ function returns the length of the credential that begins at the position, or 0. */

static size_t match_bearer(const struct source *s, size_t at)
{
	static const char word[] = "bearer";
	size_t end = at;
	for (const char *p = word; *p; p++, end++) {
		if (end == s->len || lower(s->text[end]) != *p)
			return 0;
	}
	size_t gap = end;
	while (end < s->len && (s->text[end] == ' ' || s->text[end] == '\t'))
		end++;
	if (end == gap)
		return 0;
	size_t token = run_length(s, end, "-._~+/=");
	return token ? end + token - at : 0;
}

static size_t match_key_form(const struct source *s, size_t at)
{
	for (size_t i = 0; i < ACP_COUNT(key_forms); i++) {
		if (!starts_with(s, at, key_forms[i].prefix))
			continue;
		if (key_forms[i].at_start && at && (is_base62(s->text[at - 1]) || s->text[at - 1] == '_'))
			continue;
		size_t prefix = strlen(key_forms[i].prefix);
		size_t run = run_length(s, at + prefix, key_forms[i].extra);
		if (run >= key_forms[i].min)
			return prefix + run;
	}
	return 0;
}

static size_t match_own_key(const struct source *s, size_t at, const char *key_prefix)
{
	if (!key_prefix || !*key_prefix || !starts_with(s, at, key_prefix))
		return 0;
	size_t prefix = strlen(key_prefix);
	size_t run = run_length(s, at + prefix, "");
	return run >= OWN_KEY_MIN ? prefix + run : 0;
}

/* Also takes the five parts of an encrypted token, and parts that are left empty: the signature or the key. */
static size_t match_jwt(struct source *s, size_t at)
{
	if (at < s->no_jwt_before || !starts_with(s, at, "eyJ"))
		return 0;
	size_t first = at + run_length(s, at, "-_");
	size_t end = first;
	size_t body = 0;
	int parts = 1;
	while (parts < 5 && end < s->len && s->text[end] == '.') {
		size_t part = run_length(s, end + 1, "-_");
		if (!part && parts >= 3)
			break; /* the stop of a sentence */
		end += 1 + part;
		body += part;
		parts++;
	}
	if (parts >= 3 && body)
		return end - at;
	/* Starts further on in this run would end the same way; trying them all would be quadratic. */
	s->no_jwt_before = first;
	return 0;
}

static size_t match_any(struct source *s, size_t at, const char *key_prefix)
{
	size_t own = match_own_key(s, at, key_prefix);
	if (own)
		return own;
	switch (s->text[at]) {
	case 'b':
	case 'B': return match_bearer(s, at);
	case 'e': return match_jwt(s, at);
	case 's':
	case 'r':
	case 'w': return match_key_form(s, at);
	default: return 0;
	}
}

void acp_redact_text(struct acp_buf *out, const char *text, size_t len, const char *key_prefix)
{
	struct source s = {.text = text, .len = len};
	size_t kept = 0; /* everything before it was appended or replaced */
	size_t at = 0;
	while (at < len) {
		size_t match = match_any(&s, at, key_prefix);
		if (!match) {
			at++;
			continue;
		}
		acp_buf_add(out, text + kept, at - kept);
		acp_buf_puts(out, ACP_REDACTED);
		at += match;
		kept = at;
	}
	if (kept < len)
		acp_buf_add(out, text + kept, len - kept);
}

/* The redacted form of a string, in a buffer that the caller releases. False when memory is lacking. */
static bool redact_into(struct acp_buf *buf, const char *text, size_t len, const char *key_prefix)
{
	acp_buf_init(buf, len * GROWTH_MAX + sizeof ACP_REDACTED);
	acp_redact_text(buf, text, len, key_prefix);
	return acp_buf_ok(buf);
}

static struct json_object *redact_string(struct json_object *value, const char *key_prefix)
{
	struct json_object *copy = NULL;
	struct acp_buf buf;
	size_t len = (size_t)json_object_get_string_len(value);
	if (redact_into(&buf, json_object_get_string(value), len, key_prefix) && buf.len <= INT32_MAX)
		copy = json_object_new_string_len(buf.ptr ? buf.ptr : "", (int)buf.len);
	acp_buf_release(&buf);
	return copy;
}

/* Adds the redacted form of one member; its name, too, may hold a key. */
static bool redact_member(struct json_object *copy, const char *name, struct json_object *value, const char *key_prefix)
{
	struct json_object *redacted = NULL;
	struct acp_buf buf;
	bool ok = redact_into(&buf, name, strlen(name), key_prefix);
	const char *plain = buf.ptr ? buf.ptr : "";
	if (ok && acp_redact_name(name))
		ok = acp_json_add_string(copy, plain, ACP_REDACTED);
	else if (ok)
		ok = acp_redact_json(value, key_prefix, &redacted) &&
		     (redacted ? acp_json_add(copy, plain, redacted) : acp_json_add_null(copy, plain));
	acp_buf_release(&buf);
	return ok;
}

static struct json_object *redact_object(struct json_object *value, const char *key_prefix)
{
	struct json_object *copy = json_object_new_object();
	bool ok = copy != NULL;
	json_object_object_foreach(value, name, member)
	{
		ok = ok && redact_member(copy, name, member, key_prefix);
	}
	if (!ok) {
		json_object_put(copy);
		return NULL;
	}
	return copy;
}

static struct json_object *redact_array(struct json_object *value, const char *key_prefix)
{
	size_t count = json_object_array_length(value);
	struct json_object *copy = json_object_new_array();
	for (size_t i = 0; copy && i < count; i++) {
		struct json_object *element = NULL;
		if (!acp_redact_json(json_object_array_get_idx(value, i), key_prefix, &element) ||
		    json_object_array_add(copy, element) != 0) {
			json_object_put(element);
			json_object_put(copy);
			return NULL;
		}
	}
	return copy;
}

static struct json_object *copy_integer(struct json_object *value)
{
	int64_t number = json_object_get_int64(value);
	/* json-c keeps what is beyond int64 unsigned, and clamps it for whoever asks for int64. */
	return number == INT64_MAX ? json_object_new_uint64(json_object_get_uint64(value))
				   : json_object_new_int64(number);
}

bool acp_redact_json(struct json_object *value, const char *key_prefix, struct json_object **out)
{
	*out = NULL;
	switch (json_object_get_type(value)) {
	case json_type_null: return true;
	case json_type_boolean: *out = json_object_new_boolean(json_object_get_boolean(value)); break;
	case json_type_int: *out = copy_integer(value); break;
	case json_type_double: *out = acp_json_double(json_object_get_double(value)); break;
	case json_type_string: *out = redact_string(value, key_prefix); break;
	case json_type_object: *out = redact_object(value, key_prefix); break;
	case json_type_array: *out = redact_array(value, key_prefix); break;
	}
	return *out != NULL;
}

void acp_redact_in_place(char *text, size_t size, const char *key_prefix)
{
	struct acp_buf clean;
	acp_buf_init(&clean, 4 * size);
	acp_redact_text(&clean, text, strlen(text), key_prefix);
	/* Rather nothing than a secret, where memory is lacking. */
	snprintf(text, size, "%s", acp_buf_ok(&clean) && clean.ptr ? clean.ptr : "");
	acp_utf8_trim(text);
	acp_buf_release(&clean);
}
