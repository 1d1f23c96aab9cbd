/* Form bodies (form.c). Decoding the encoded text as a server does gives the tree's values under their names, in order.
 * A tree that a form cannot express is refused as a whole. */
#include "form.h"
#include "../fuzz.h"

enum { NAME_MAX = 1024, PAIRS_MAX = 4096 };

struct pair {
	char *name, *value;
};
struct pairs {
	struct pair list[PAIRS_MAX];
	size_t count;
	bool unsayable; /* a number that is not an integer, or a name that is too long */
};
static struct pairs wanted;

static char *join(const char *name, const char *member)
{
	char *joined = NULL;
	if (asprintf(&joined, *name ? "%s[%s]" : "%s%s", name, member) < 0)
		abort();
	if (strlen(joined) >= NAME_MAX)
		wanted.unsayable = true;
	return joined;
}

static void flatten(const char *name, struct json_object *value);

static void flatten_below(const char *name, const char *member, struct json_object *value)
{
	char *joined = join(name, member);
	if (!wanted.unsayable)
		flatten(joined, value);
	free(joined);
}

static void flatten(const char *name, struct json_object *value)
{
	char index[24];
	switch (json_object_get_type(value)) {
	case json_type_null: break;
	case json_type_double: wanted.unsayable = true; break;
	case json_type_object: {
		json_object_object_foreach(value, member, below) flatten_below(name, member, below);
		break;
	}
	case json_type_array:
		for (size_t i = 0; i < json_object_array_length(value); i++) {
			snprintf(index, sizeof index, "%zu", i);
			flatten_below(name, index, json_object_array_get_idx(value, i));
		}
		break;
	default:
		if (wanted.count == PAIRS_MAX)
			abort();
		wanted.list[wanted.count++] = (struct pair){strdup(name), strdup(json_object_get_string(value))};
	}
}

/* Decodes %XX in one piece, in place. Every other character must be one that needs no escape. */
static void decode(char *text)
{
	char *out = text;
	for (; *text; text++, out++) {
		unsigned code = (unsigned char)*text;
		if (*text == '%') {
			FUZZ_CHECK(sscanf(text + 1, "%2X", &code) == 1 && strspn(text + 1, "0123456789ABCDEF") >= 2,
				   "%s", text);
			text += 2;
		} else {
			FUZZ_CHECK(strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~"),
				   "%s", text);
		}
		*out = (char)code;
	}
	*out = '\0';
}

static void compare(char *body)
{
	size_t count = 0;
	for (char *at = body, *end; *at; at = end, count++) {
		end = at + strcspn(at, "&");
		bool last = !*end;
		*end = '\0';
		char *equals = strchr(at, '=');
		FUZZ_CHECK(equals && count < wanted.count, "pair %zu: %s", count, at);
		*equals = '\0';
		decode(at);
		decode(equals + 1);
		FUZZ_CHECK(strcmp(at, wanted.list[count].name) == 0, "%s, not %s", at, wanted.list[count].name);
		FUZZ_CHECK(strcmp(equals + 1, wanted.list[count].value) == 0, "%s, not %s", equals + 1,
			   wanted.list[count].value);
		end += !last;
	}
	FUZZ_CHECK(count == wanted.count, "%zu pairs, not %zu", count, wanted.count);
}

void fuzz_form(const uint8_t *data, size_t size)
{
	struct acp_json_error error;
	struct json_object *tree = NULL;
	struct acp_buf body;
	const struct acp_json_limits limits = {65536, 32, 3000};
	if (acp_json_parse((const char *)data, size, &limits, &tree, &error) == ACP_JSON_OK &&
	    json_object_is_type(tree, json_type_object)) {
		wanted.count = 0;
		wanted.unsayable = false;
		flatten("", tree);
		acp_buf_init(&body, (size_t)8 << 20);
		acp_form_encode(tree, &body);
		FUZZ_CHECK(acp_buf_ok(&body) == !wanted.unsayable, "encoded: %d", acp_buf_ok(&body));
		if (!wanted.unsayable && body.len)
			compare(body.ptr);
		FUZZ_CHECK(body.len || wanted.unsayable || !wanted.count, "nothing was encoded");
		acp_buf_release(&body);
		for (size_t i = 0; i < wanted.count; i++) {
			free(wanted.list[i].name);
			free(wanted.list[i].value);
		}
	}
	json_object_put(tree);
}
