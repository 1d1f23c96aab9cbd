/* schema_suite.c - runs the JSON Schema Test Suite against core/json/schema*.c. Usage: schema_suite DRAFT7-FOLDER
 *
 * Runs the files of the keywords that schema.h claims to support. Skips a group whose schema is refused for an
 * unsupported keyword, as schema.h promises. Last line: suite json-schema-draft7: … */
#include "json.h"
#include "schema.h"

static const char *const files[] = {
	"type",
	"enum",
	"const",
	"required",
	"properties",
	"additionalProperties",
	"minProperties",
	"maxProperties",
	"items",
	"minItems",
	"maxItems",
	"uniqueItems",
	"minLength",
	"maxLength",
	"minimum",
	"maximum",
	"exclusiveMinimum",
	"exclusiveMaximum",
	"multipleOf",
	"pattern",
	"boolean_schema",
	"default",
	"optional/format/date-time",
	"optional/format/date",
	"optional/format/email",
	"optional/format/uri",
	"optional/zeroTerminatedFloats",
};

/* Intended differences of this program: name of the group in the suite, and the reason. */
static const struct {
	const char *group, *test, *why;
} differs[] = {
	{"nul characters in strings", NULL, "the parser refuses U+0000, so it is never compared"},
};

static int passed, failed, skipped;

static const char *reason_for(const char *group, const char *test)
{
	for (size_t i = 0; i < ACP_COUNT(differs); i++)
		if (strcmp(differs[i].group, group) == 0 && (!differs[i].test || strcmp(differs[i].test, test) == 0))
			return differs[i].why;
	return NULL;
}

static void skip(const char *file, const char *group, const char *test, const char *why)
{
	skipped++;
	printf("skip: %s: %s: %s: %s\n", file, group, test, why);
}

static void run_test(const char *file, const char *group, const struct acp_schema *schema, struct json_object *test)
{
	struct acp_schema_error error = {0};
	const char *name = acp_json_string(test, "description");
	const char *why = reason_for(group, name);
	if (why) {
		skip(file, group, name, why);
		return;
	}
	bool valid = acp_json_bool(test, "valid");
	bool found = acp_schema_check(schema, acp_json_member(test, "data"), &error);
	passed += found == valid;
	failed += found != valid;
	if (found != valid)
		printf("FAIL %s: %s: %s: %s, but must be %s %s%s\n", file, group, name, found ? "valid" : "not valid",
		       valid ? "valid" : "refused:", error.pointer, error.message);
}

static void run_group(const char *file, struct json_object *group)
{
	struct acp_schema_error error;
	const char *name = acp_json_string(group, "description");
	struct json_object *tests = acp_json_member(group, "tests");
	size_t count = json_object_array_length(tests);
	struct acp_schema *schema = acp_schema_compile(acp_json_member(group, "schema"), &error);
	bool beyond = !schema && (strstr(error.message, "not a keyword") || strstr(error.message, "not supported"));
	char why[sizeof error.pointer + sizeof error.message];
	if (beyond)
		snprintf(why, sizeof why, "%s %s", error.pointer, error.message);
	for (size_t i = 0; i < count; i++) {
		struct json_object *test = json_object_array_get_idx(tests, i);
		if (schema) {
			run_test(file, name, schema, test);
		} else if (beyond) {
			skip(file, name, acp_json_string(test, "description"), why);
		} else {
			failed++;
			printf("FAIL %s: %s: the schema is refused: %s %s\n", file, name, error.pointer, error.message);
		}
	}
	acp_schema_free(schema);
}

int main(int argc, char **argv)
{
	char path[1024];
	for (size_t i = 0; argc == 2 && i < ACP_COUNT(files); i++) {
		snprintf(path, sizeof path, "%s/%s.json", argv[1], files[i]);
		struct json_object *groups = json_object_from_file(path);
		if (!groups) {
			failed++;
			printf("FAIL %s: cannot be read\n", path);
			continue;
		}
		for (size_t n = 0; n < json_object_array_length(groups); n++)
			run_group(files[i], json_object_array_get_idx(groups, n));
		json_object_put(groups);
	}
	printf("suite json-schema-draft7: %d passed, %d failed, %d skipped\n", passed, failed, skipped);
	return failed == 0 && passed > 0 ? 0 : 1;
}
