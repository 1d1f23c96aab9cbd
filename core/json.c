#include "json.h"
#include "json_scan.h"

static void weigh(struct json_object *value, struct acp_json_weight *weight)
{
	weight->tokens++;
	switch (json_object_get_type(value)) {
	case json_type_double: {
		/* What json_object_new_double_s keeps: the digits that json-c has read. */
		const char *digits = json_object_get_userdata(value);
		weight->bytes += digits ? strlen(digits) : 0;
		break;
	}
	case json_type_string: weight->bytes += (size_t)json_object_get_string_len(value); break;
	case json_type_array:
		for (size_t i = 0; i < json_object_array_length(value); i++)
			weigh(json_object_array_get_idx(value, i), weight);
		break;
	case json_type_object: {
		json_object_object_foreach(value, name, member)
		{
			weight->tokens++;
			weight->bytes += strlen(name);
			weigh(member, weight);
		}
		break;
	}
	default: break;
	}
}

/* Lets json-c read a document that the scanner has accepted. NULL also for the document `null`. *whole: it read all. */
static struct json_object *read_tree(struct json_tokener *tok, const char *text, size_t len, bool *whole)
{
	json_tokener_set_flags(tok, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
	struct json_object *tree = json_tokener_parse_ex(tok, text, (int)len);
	*whole = json_tokener_get_parse_end(tok) == len;
	/* A number or a word that ends the document stays open until json-c sees another byte. */
	if (*whole && json_tokener_get_error(tok) == json_tokener_continue)
		tree = json_tokener_parse_ex(tok, "\n", 1);
	*whole = *whole && json_tokener_get_error(tok) == json_tokener_success;
	return tree;
}

/* False: memory was lacking on the way. */
static bool build(const char *text, size_t len, unsigned max_depth, const struct acp_json_weight *wanted,
		  struct json_object **out)
{
	/* json-c counts one level more than there are brackets, and allocates all levels at once. */
	size_t depth = (max_depth < len ? max_depth : len) + 2;
	struct json_tokener *tok = json_tokener_new_ex((int)depth);
	struct acp_json_weight weight = {0};
	bool whole = false;
	if (!tok)
		return false;
	struct json_object *tree = read_tree(tok, text, len, &whole);
	json_tokener_free(tok);
	weigh(tree, &weight);
	if (!whole || weight.tokens != wanted->tokens || weight.bytes != wanted->bytes) {
		json_object_put(tree);
		return false;
	}
	*out = tree;
	return true;
}

enum acp_json_verdict acp_json_parse(const char *text, size_t len, const struct acp_json_limits *limits,
				     struct json_object **out, struct acp_json_error *error)
{
	struct acp_json_weight weight = {0};
	*out = NULL;
	memset(error, 0, sizeof *error);
	enum acp_json_verdict verdict = acp_json_scan(text, len, limits, &weight, error);
	if (verdict != ACP_JSON_OK)
		return verdict;
	if (build(text, len, limits->max_depth, &weight, out))
		return ACP_JSON_OK;
	snprintf(error->message, sizeof error->message, "memory is lacking");
	return ACP_JSON_NO_MEMORY;
}

struct json_object *acp_json_member(struct json_object *object, const char *name)
{
	struct json_object *member = NULL;
	if (!json_object_is_type(object, json_type_object) || !json_object_object_get_ex(object, name, &member))
		return NULL;
	return member;
}

const char *acp_json_string(struct json_object *object, const char *name)
{
	struct json_object *member = acp_json_member(object, name);
	return json_object_is_type(member, json_type_string) ? json_object_get_string(member) : NULL;
}

bool acp_json_bool(struct json_object *object, const char *name)
{
	struct json_object *member = acp_json_member(object, name);
	return json_object_is_type(member, json_type_boolean) && json_object_get_boolean(member);
}

bool acp_json_add(struct json_object *object, const char *name, struct json_object *value)
{
	if (!value)
		return false;
	if (json_object_is_type(object, json_type_object) && json_object_object_add(object, name, value) == 0)
		return true;
	json_object_put(value);
	return false;
}

bool acp_json_add_string(struct json_object *object, const char *name, const char *value)
{
	return acp_json_add(object, name, value ? json_object_new_string(value) : NULL);
}

bool acp_json_add_null(struct json_object *object, const char *name)
{
	return json_object_is_type(object, json_type_object) && json_object_object_add(object, name, NULL) == 0;
}
