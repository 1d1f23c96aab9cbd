#include "redact.h"
#include "json.h"

/* Redacted text is at most this many times as long as the original: "eyJ.e." is the shortest match. */
#define GROWTH_MAX 4

/* Member names that hold credentials: lower case, without '-' and '_'. */
static const char *const secret_names[] = {
	"authorization", "cookie",    "xapikey",   "apikey",        "token",      "accesstoken", "refreshtoken",
	"clientsecret",  "secret",    "secretkey", "webhooksecret", "password",   "passwd",      "pwd",
	"privatekey",    "sessionid", "authtoken", "bearer",        "credential", "credentials",
};

/* Keys recognised by their prefix. */
static const struct {
	const char *prefix;
	const char *extra; /* characters that the key may contain besides letters and digits */
	size_t min;        /* minimum number of characters after the prefix */
	bool at_start;     /* the prefix also ends ordinary words, so it counts only at the start of a word */
} key_forms[] = {
	{"sk_live_", "_", 1, false}, {"sk_test_", "_", 1, false}, {"rk_live_", "_", 1, false},
	{"rk_test_", "_", 1, false}, {"rk_", "_", 16, true},      {"whsec_", "_-+/=", 1, false},
};

#define OWN_KEY_MIN 20

/* The text to search. */
struct source {
	const char *text;
	size_t len;
	size_t no_jwt_before; /* no JWT begins in the base64url run before this position */
};

/* The possible first letters of secret_names, as a quick test. */
static const bool secret_letters[256] = {
	['a'] = true, ['b'] = true, ['c'] = true, ['p'] = true, ['r'] = true, ['s'] = true, ['t'] = true,
	['w'] = true, ['x'] = true, ['A'] = true, ['B'] = true, ['C'] = true, ['P'] = true, ['R'] = true,
	['S'] = true, ['T'] = true, ['W'] = true, ['X'] = true, ['-'] = true, ['_'] = true,
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
	if (!secret_letters[(unsigned char)*name])
		return false;
	for (; *name; name++) {
		if (*name == '-' || *name == '_')
			continue;
		if (len == sizeof plain - 1)
			return false;
		plain[len++] = lower(*name);
	}
	plain[len] = '\0';
	for (size_t i = 0; i < ACP_COUNT(secret_names); i++) {
		if (plain[0] == secret_names[i][0] && strcmp(plain, secret_names[i]) == 0)
			return true;
	}
	return false;
}

/* Counts the consecutive characters from at on that are letters, digits or in extra. */
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

static size_t match_own_key(const struct source *s, size_t at, const char *api_key_prefix)
{
	if (!starts_with(s, at, api_key_prefix))
		return 0;
	size_t prefix = strlen(api_key_prefix);
	size_t run = run_length(s, at + prefix, "");
	return run >= OWN_KEY_MIN ? prefix + run : 0;
}

/* Also matches the five parts of an encrypted token, and empty parts (the signature or the key). */
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
			break; /* the full stop of a sentence */
		end += 1 + part;
		body += part;
		parts++;
	}
	if (parts >= 3 && body)
		return end - at;
	/* Any later start in this run would end the same way. Trying them all would be quadratic. */
	s->no_jwt_before = first;
	return 0;
}

/* Maps the first character of a fixed-form credential to its second, in lower case. 0: no credential starts with it. */
static const char second_of[256] = {
	['b'] = 'e', ['B'] = 'e', ['e'] = 'y', ['s'] = 'k', ['r'] = 'k', ['w'] = 'h',
};

static size_t match_fixed(struct source *s, size_t at)
{
	switch (s->text[at]) {
	case 'b':
	case 'B': return match_bearer(s, at);
	case 'e': return match_jwt(s, at);
	default: return match_key_form(s, at);
	}
}

/* Finds the first credential at or after *at and stores its position there. Returns its length, or 0 if there is none.
 * Almost no text has one, so this looks at two characters before it calls anything. */
static size_t find_credential(struct source *s, size_t *at, const char *api_key_prefix)
{
	char own = api_key_prefix ? *api_key_prefix : '\0';
	for (size_t i = *at; i + 1 < s->len; i++) {
		char c = s->text[i];
		char second = second_of[(unsigned char)c];
		size_t match = own && c == own ? match_own_key(s, i, api_key_prefix) : 0;
		if (!match && second && lower(s->text[i + 1]) == second)
			match = match_fixed(s, i);
		if (match) {
			*at = i;
			return match;
		}
	}
	return 0;
}

void acp_redact_text(struct acp_buf *out, const char *text, size_t len, const char *api_key_prefix)
{
	struct source s = {.text = text, .len = len};
	size_t kept = 0; /* everything before this position was appended or replaced */
	size_t at = 0;
	size_t match;
	while ((match = find_credential(&s, &at, api_key_prefix)) > 0) {
		acp_buf_add(out, text + kept, at - kept);
		acp_buf_puts(out, ACP_REDACTED);
		at += match;
		kept = at;
	}
	if (kept < len)
		acp_buf_add(out, text + kept, len - kept);
}

bool acp_redact_needed(const char *text, size_t len, const char *api_key_prefix)
{
	struct source s = {.text = text, .len = len};
	size_t at = 0;
	return find_credential(&s, &at, api_key_prefix) > 0;
}

/* Writes the redacted form of a string to a buffer that the caller releases. False: out of memory. */
static bool redact_into(struct acp_buf *buf, const char *text, size_t len, const char *api_key_prefix)
{
	acp_buf_init(buf, len * GROWTH_MAX + sizeof ACP_REDACTED);
	acp_redact_text(buf, text, len, api_key_prefix);
	return acp_buf_ok(buf);
}

static struct json_object *redact_string(struct json_object *value, const char *api_key_prefix)
{
	struct json_object *copy = NULL;
	struct acp_buf buf;
	size_t len = (size_t)json_object_get_string_len(value);
	if (redact_into(&buf, json_object_get_string(value), len, api_key_prefix) && buf.len <= INT32_MAX)
		copy = json_object_new_string_len(buf.ptr ? buf.ptr : "", (int)buf.len);
	acp_buf_release(&buf);
	return copy;
}

/* Adds the redacted form of one member. The name itself may also contain a key. */
static bool redact_member(struct json_object *copy, const char *name, struct json_object *value,
			  const char *api_key_prefix)
{
	struct json_object *redacted = NULL;
	struct acp_buf buf;
	bool ok = redact_into(&buf, name, strlen(name), api_key_prefix);
	const char *plain = buf.ptr ? buf.ptr : "";
	if (ok && acp_redact_name(name))
		ok = acp_json_add_string(copy, plain, ACP_REDACTED);
	else if (ok)
		ok = acp_redact_copy(value, api_key_prefix, &redacted) &&
		     (redacted ? acp_json_add(copy, plain, redacted) : acp_json_add_null(copy, plain));
	acp_buf_release(&buf);
	return ok;
}

static struct json_object *redact_object(struct json_object *value, const char *api_key_prefix)
{
	struct json_object *copy = json_object_new_object();
	bool ok = copy != NULL;
	json_object_object_foreach(value, name, member)
	{
		ok = ok && redact_member(copy, name, member, api_key_prefix);
	}
	if (!ok) {
		json_object_put(copy);
		return NULL;
	}
	return copy;
}

static struct json_object *redact_array(struct json_object *value, const char *api_key_prefix)
{
	size_t count = json_object_array_length(value);
	struct json_object *copy = json_object_new_array();
	for (size_t i = 0; copy && i < count; i++) {
		struct json_object *element = NULL;
		if (!acp_redact_copy(json_object_array_get_idx(value, i), api_key_prefix, &element) ||
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
	/* json-c stores values beyond int64 as unsigned and clamps them when read as int64. */
	return number == INT64_MAX ? json_object_new_uint64(json_object_get_uint64(value))
				   : json_object_new_int64(number);
}

bool acp_redact_copy(struct json_object *value, const char *api_key_prefix, struct json_object **out)
{
	*out = NULL;
	switch (json_object_get_type(value)) {
	case json_type_null: return true;
	case json_type_boolean: *out = json_object_new_boolean(json_object_get_boolean(value)); break;
	case json_type_int: *out = copy_integer(value); break;
	case json_type_double: *out = acp_json_double(json_object_get_double(value)); break;
	case json_type_string: *out = redact_string(value, api_key_prefix); break;
	case json_type_object: *out = redact_object(value, api_key_prefix); break;
	case json_type_array: *out = redact_array(value, api_key_prefix); break;
	}
	return *out != NULL;
}

static bool needs_redaction(struct json_object *value, const char *api_key_prefix);

static bool member_needs_redaction(const char *name, struct json_object *value, const char *api_key_prefix)
{
	return acp_redact_name(name) || acp_redact_needed(name, strlen(name), api_key_prefix) ||
	       needs_redaction(value, api_key_prefix);
}

/* Would acp_redact_copy change anything? */
static bool needs_redaction(struct json_object *value, const char *api_key_prefix)
{
	bool needed = false;
	switch (json_object_get_type(value)) {
	case json_type_string:
		return acp_redact_needed(json_object_get_string(value), (size_t)json_object_get_string_len(value),
					 api_key_prefix);
	case json_type_array:
		for (size_t i = 0; !needed && i < json_object_array_length(value); i++)
			needed = needs_redaction(json_object_array_get_idx(value, i), api_key_prefix);
		return needed;
	case json_type_object: {
		json_object_object_foreach(value, name, member)
		{
			if (member_needs_redaction(name, member, api_key_prefix))
				return true;
		}
		return false;
	}
	default: return false;
	}
}

bool acp_redact_json(struct json_object *value, const char *api_key_prefix, struct json_object **out)
{
	if (needs_redaction(value, api_key_prefix))
		return acp_redact_copy(value, api_key_prefix, out);
	*out = json_object_get(value);
	return true;
}

void acp_redact_in_place(char *text, size_t size, const char *api_key_prefix)
{
	size_t len = strlen(text);
	struct acp_buf clean;
	if (!acp_redact_needed(text, len, api_key_prefix)) {
		acp_utf8_trim(text);
		return;
	}
	acp_buf_init(&clean, 4 * size);
	acp_redact_text(&clean, text, len, api_key_prefix);
	/* Out of memory: better no text than a secret. */
	snprintf(text, size, "%s", acp_buf_ok(&clean) && clean.ptr ? clean.ptr : "");
	acp_utf8_trim(text);
	acp_buf_release(&clean);
}
