#include "../tmain.h"
#include "action_http.h"
#include "actions_dir.h"
#include "json_place.h"

#include <unistd.h>

/* A new folder for each set; files are named by their position: 0.json, 1.json, … ---------------------------------- */

static char folder[64];
static size_t file_count;

static void begin(void)
{
	snprintf(folder, sizeof folder, "/tmp/acp-actions-XXXXXX");
	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(folder));
	file_count = 0;
}

static void path_of(size_t nth, char out[128])
{
	snprintf(out, 128, "%s/%zu.json", folder, nth);
}

static void add(const char *text)
{
	char path[128];
	path_of(file_count++, path);
	FILE *file = fopen(path, "w");
	CU_ASSERT_PTR_NOT_NULL_FATAL(file);
	fputs(text, file);
	fclose(file);
}

static void end(void)
{
	char path[128];
	while (file_count > 0) {
		path_of(--file_count, path);
		unlink(path);
	}
	rmdir(folder);
}

static struct acp_actions *load(char why[1024])
{
	struct acp_config config = {.actions_dir = folder, .idempotency_lease = 120, .reservation_ttl = 10};
	return acp_actions_load(&config, why, 1024);
}

/* A file whose members from line 5 on belong to the test. */
#define FILE_WITH(members)                                                                                             \
	"{\n\"name\": \"demo.a.b\",\n\"description\": \"Does a.\",\n\"scope\": \"manage.domain\",\n" members "\n}\n"
#define EMPTY "\"params_schema\": {},\n"
#define SQL "\"handler\": {\"kind\": \"sql\", \"function\": \"demo.f\"}"
#define HTTP(members) "\"handler\": {\"kind\": \"http\",\n" members "}"
#define URL "\"url\": \"https://example.com/\""

/* Valid files ------------------------------------------------------------------------------------------------------ */

static void test_no_folder(void)
{
	char why[1024];
	char none[] = "";
	struct acp_config config = {0};
	config.actions_dir = none;
	struct acp_actions *actions = acp_actions_load(&config, why, sizeof why);
	CU_ASSERT_PTR_NOT_NULL_FATAL(actions);
	CU_ASSERT_PTR_NULL(acp_actions_at(actions, 0));
	CU_ASSERT_PTR_EQUAL(acp_actions_packs(actions)[0], acp_builtin_packs[0]);
	acp_actions_free(actions);
	config.actions_dir = (char[]){"/nonexistent/actions.d"};
	CU_ASSERT_PTR_NULL(acp_actions_load(&config, why, sizeof why));
	CU_ASSERT_PTR_NOT_NULL(strstr(why, "/nonexistent/actions.d"));
}

static void test_defaults(void)
{
	char why[1024] = "";
	begin();
	add(FILE_WITH(EMPTY SQL));
	struct acp_actions *actions = load(why);
	CU_ASSERT_STRING_EQUAL_FATAL(why, "");
	const struct acp_action *a = acp_actions_at(actions, 0);
	CU_ASSERT_STRING_EQUAL(a->name, "demo.a.b");
	CU_ASSERT_STRING_EQUAL(a->scope, "manage.domain");
	CU_ASSERT_STRING_EQUAL(a->description, "Does a.");
	CU_ASSERT_STRING_EQUAL(a->sql_function, "demo.f");
	CU_ASSERT_PTR_EQUAL(a->run, acp_run_sql);
	CU_ASSERT(a->writes && a->billable && !a->supports_dry_run && !a->billing_unit && !a->rate_limit &&
		  !a->upstream);
	acp_actions_free(actions);
	end();
}

static void test_http_members(void)
{
	char why[1024] = "";
	begin();
	add(FILE_WITH(EMPTY HTTP(URL)));
	add("{\"name\":\"demo.c\",\"description\":\"C\",\"scope\":\"manage.read\",\"params_schema\":{\"type\":"
	    "\"object\"},"
	    "\"supports_dry_run\":true,\"billable\":false,\"billing_unit\":\"sec\",\"writes\":false,\"rate_limit\":7,"
	    "\"max_quantity\":1000000000000,"
	    "\"handler\":{\"kind\":\"http\",\"url\":\"http://127.0.0.1:1/x\",\"method\":\"PUT\",\"timeout_ms\":9999,"
	    "\"max_reply_bytes\":10,\"allow_private\":true,\"allow_http\":true,\"headers\":{\"X-A\":\"1\",\"X-B\":\"\"}"
	    "}}");
	struct acp_actions *actions = load(why);
	CU_ASSERT_STRING_EQUAL_FATAL(why, "");
	const struct acp_upstream *u = acp_actions_at(actions, 0)->upstream;
	CU_ASSERT(strcmp(u->method, "POST") == 0 && u->timeout_ms == 5000 && u->max_reply == 262144);
	CU_ASSERT(!u->allow_private && !u->allow_http && u->header_count == 0);
	const struct acp_action *a = acp_actions_at(actions, 1);
	u = a->upstream;
	CU_ASSERT(!a->writes && !a->billable && a->supports_dry_run && a->rate_limit == 7 && a->run == acp_run_http);
	CU_ASSERT(a->max_quantity == ACP_QUANTITY_MAX);
	CU_ASSERT_STRING_EQUAL(a->billing_unit, "sec");
	CU_ASSERT(strcmp(u->method, "PUT") == 0 && u->timeout_ms == 9999 && u->max_reply == 10);
	CU_ASSERT(u->allow_private && u->allow_http && u->header_count == 2 && strcmp(u->headers[0].name, "X-A") == 0);
	CU_ASSERT_PTR_NULL(acp_actions_at(actions, 2));
	acp_actions_free(actions);
	end();
}

/* A kernel treats them like built-in actions. */
static void test_kernel(void)
{
	char why[1024] = "";
	struct acp_kernel kernel;
	const struct acp_config config = {0};
	const struct acp_control_plane plane = {0};
	begin();
	add(FILE_WITH(EMPTY "\"billing_unit\": \"row\", " SQL));
	struct acp_actions *actions = load(why);
	CU_ASSERT_PTR_NOT_NULL_FATAL(actions);
	CU_ASSERT_TRUE_FATAL(acp_kernel_init(&kernel, &config, &plane, acp_actions_packs(actions), why, sizeof why));
	const struct acp_entry *entry = acp_kernel_find(&kernel, "demo.a.b");
	CU_ASSERT_PTR_NOT_NULL_FATAL(entry);
	CU_ASSERT_STRING_EQUAL(entry->pack, "demo.a");
	CU_ASSERT_STRING_EQUAL(acp_json_string(entry->def, "billing_unit"), "row");
	CU_ASSERT(json_object_get_int64(acp_json_member(entry->def, "max_quantity")) == ACP_QUANTITY_DEFAULT);
	CU_ASSERT_PTR_NOT_NULL(acp_kernel_find(&kernel, "meta.actions"));
	acp_kernel_release(&kernel);
	acp_actions_free(actions);
	end();
}

static void test_other_files_are_ignored(void)
{
	char why[1024] = "";
	static const char *const names[] = {"x.json~", ".hidden.json", "README", ".json"};
	char path[128];
	begin();
	for (size_t i = 0; i < ACP_COUNT(names); i++) {
		snprintf(path, sizeof path, "%s/%s", folder, names[i]);
		FILE *file = fopen(path, "w");
		CU_ASSERT_PTR_NOT_NULL_FATAL(file);
		fclose(file);
	}
	struct acp_actions *actions = load(why);
	CU_ASSERT_PTR_NOT_NULL_FATAL(actions);
	CU_ASSERT_PTR_NULL(acp_actions_at(actions, 0));
	acp_actions_free(actions);
	for (size_t i = 0; i < ACP_COUNT(names); i++) {
		snprintf(path, sizeof path, "%s/%s", folder, names[i]);
		unlink(path);
	}
	end();
}

/* Invalid files ---------------------------------------------------------------------------------------------------- */

static const struct broken {
	const char *text;
	int line;
	const char *says;
} broken[] = {
	{"", 1, "empty"},
	{"{\n\"name\": \"demo.a\",\n", 3, ""},
	{"{\n\"name\": \"demo.a\",\n\"name\": \"demo.a\"}", 3, "same name"},
	{"[]", 1, "must be an object"},
	{"{}", 1, "/name is required"},
	{FILE_WITH(SQL), 1, "/params_schema is required"},
	{FILE_WITH(EMPTY "\"colour\": 1,\n" SQL), 6, "/colour"},
	{FILE_WITH(EMPTY "\"billable\": \"yes\",\n" SQL), 6, "/billable must be"},
	{FILE_WITH(EMPTY "\"billing_unit\": \"meal\",\n" SQL), 6, "/billing_unit"},
	{FILE_WITH(EMPTY "\"rate_limit\": 0,\n" SQL), 6, "/rate_limit"},
	{FILE_WITH(EMPTY "\"max_quantity\": 0,\n" SQL), 6, "/max_quantity"},
	{FILE_WITH(EMPTY "\"max_quantity\": 1.5,\n" SQL), 6, "/max_quantity"},
	{FILE_WITH(EMPTY "\"max_quantity\": 1000000000001,\n" SQL), 6, "/max_quantity"},
	{FILE_WITH("\"params_schema\": {\n\"properties\": {\n\"x\": {\"type\": \"strnig\"}}},\n" SQL), 7,
	 "/params_schema/properties/x"},
	{FILE_WITH("\"params_schema\": {\n\"minimun\": 1},\n" SQL), 6, "/params_schema/minimun"},
	{FILE_WITH("\"params_schema\": true,\n" SQL), 5, "/params_schema must be an object"},
	{FILE_WITH(EMPTY "\"handler\": {}"), 6, "/handler/kind is required"},
	{FILE_WITH(EMPTY "\"handler\": {\"kind\": \"perl\"}"), 6, "/handler/kind"},
	{FILE_WITH(EMPTY "\"handler\": {\"kind\": \"sql\"}"), 6, "/handler/function is required"},
	{FILE_WITH(EMPTY "\"handler\": {\"kind\": \"sql\", \"function\": \"f\"}"), 6, "/handler/function"},
	{FILE_WITH(EMPTY "\"handler\": {\"kind\": \"sql\", \"function\": \"a.b.c\"}"), 6, "/handler/function"},
	{FILE_WITH(EMPTY "\"handler\": {\"kind\": \"sql\", \"function\": \"a.f(); drop\"}"), 6, "/handler/function"},
	{FILE_WITH(EMPTY "\"handler\": {\"kind\": \"sql\", \"function\": \"A.f\"}"), 6, "/handler/function"},
	{FILE_WITH(EMPTY "\"handler\": {\"kind\": \"sql\", \"function\": \"1.f\"}"), 6, "/handler/function"},
	{FILE_WITH(EMPTY "\"handler\": {\"kind\": \"sql\", \"function\": \"a.f\",\n\"url\": \"x\"}"), 7,
	 "/handler/url"},
	{FILE_WITH(EMPTY HTTP("\"method\": \"POST\"")), 6, "/handler/url is required"},
	{FILE_WITH(EMPTY HTTP("\"url\": \"http://example.com/\"")), 7, "allow_http"},
	{FILE_WITH(EMPTY HTTP("\"url\": \"https://a:b@example.com/\"")), 7, "password"},
	{FILE_WITH(EMPTY HTTP("\"url\": \"ftp://example.com/\"")), 7, "/handler/url"},
	{FILE_WITH(EMPTY HTTP(URL ",\n\"method\": \"GET\"")), 8, "/handler/method"},
	{FILE_WITH(EMPTY HTTP(URL ",\n\"timeout_ms\": 30001")), 8, "/handler/timeout_ms"},
	{FILE_WITH(EMPTY HTTP(URL ",\n\"timeout_ms\": 10000")), 8, "reservation_ttl"},
	{FILE_WITH(EMPTY HTTP(URL ",\n\"headers\": {\"X-A\": \"1\\r\\nX-B: 2\"}")), 8, "/handler/headers header 1"},
	{FILE_WITH(EMPTY HTTP(URL ",\n\"headers\": {\"X A\": \"1\"}")), 8, "/handler/headers header 1"},
	{FILE_WITH(EMPTY HTTP(URL ",\n\"headers\": {\"idempotency-key\": \"1\"}")), 8, "idempotency-key is set"},
	{FILE_WITH(EMPTY HTTP(URL ",\n\"headers\": {\"X-A\": \"1\", \"x-a\": \"2\"}")), 8, "given twice"},
	{FILE_WITH(EMPTY HTTP(URL ",\n\"headers\": {\"X-A\": 1}")), 8, "/handler/headers/X-A"},
};

/* Expects "<folder>/<n>.json:<line>: …" with the given words. */
static void expect_broken(size_t nth, int line, const char *says, const char *text)
{
	char why[1024] = "";
	char place[160];
	struct acp_actions *actions = load(why);
	snprintf(place, sizeof place, "%s/%zu.json:%d: ", folder, nth, line);
	bool ok = !actions && strncmp(why, place, strlen(place)) == 0 && strstr(why + strlen(place), says);
	if (!ok)
		printf("%s\nwanted %s… %s, got %s\n", text, place, says, why);
	CU_ASSERT_TRUE(ok);
	acp_actions_free(actions);
}

static void test_broken_files(void)
{
	for (size_t i = 0; i < ACP_COUNT(broken); i++) {
		begin();
		add(broken[i].text);
		expect_broken(0, broken[i].line, broken[i].says, broken[i].text);
		end();
	}
}

static void test_names(void)
{
	static const char *const bad[] = {"demo",
					  "Demo.a",
					  "demo.",
					  ".a",
					  "demo..a",
					  "demo a.b",
					  "demo.a-b",
					  "meta.actions",
					  "meta.mine",
					  "iam.keys.create",
					  "domain.leadscoring.models.list"};
	char text[512];
	for (size_t i = 0; i < ACP_COUNT(bad); i++) {
		snprintf(text, sizeof text,
			 "{\n\n\"name\": \"%s\",\n\"description\": \"d\", \"scope\": \"manage.read\", " EMPTY SQL "}",
			 bad[i]);
		begin();
		add(text);
		expect_broken(0, 3, "/name", text);
		end();
	}
}

/* One invalid file rejects the set; an action may be in only one file. */
static void test_sets(void)
{
	begin();
	add(FILE_WITH(EMPTY SQL));
	add("{\"name\": 1}");
	expect_broken(1, 1, "/description is required", "a second file");
	end();
	begin();
	add(FILE_WITH(EMPTY SQL));
	add(FILE_WITH(EMPTY HTTP(URL)));
	expect_broken(1, 2, "demo.a.b is already defined in", "the same name");
	end();
}

static void test_lines(void)
{
	static const char text[] = "{\n \"a\\\"{\": [1,\n  \"]\", {\n\"b/c\": null}],\n\n\"d\":\n{\"e\":2}}";
	static const struct {
		const char *pointer;
		int line;
	} places[] = {{"", 1},   {"/a", 1},     {"/d", 6},     {"/d/e", 7}, {"/d/x", 6},
		      {"/x", 1}, {"/x/y/z", 1}, {"/d/e/f", 7}, {"/", 1},    {"/b~1c", 1}};
	static const char list[] = "[0,\n[1,\n{\"b/c\":\n{\"~\":\n5}}]]";
	for (size_t i = 0; i < ACP_COUNT(places); i++)
		CU_ASSERT_EQUAL(acp_json_line_of(text, places[i].pointer), places[i].line);
	CU_ASSERT_EQUAL(acp_json_line_of(list, "/0"), 1);
	CU_ASSERT_EQUAL(acp_json_line_of(list, "/1/1"), 3);
	CU_ASSERT_EQUAL(acp_json_line_of(list, "/1/1/b~1c/~0"), 4);
	CU_ASSERT_EQUAL(acp_json_line_of("  \"x\"", "/a"), 1);
	CU_ASSERT_EQUAL(acp_json_line_of("\n\n{}", "/a"), 3);
	CU_ASSERT_EQUAL(acp_json_line("a\nb\n", 100), 3);
}

const char *const acp_suite_name = "actions_dir";
CU_TestInfo acp_tests[] = {
	{"no_folder", test_no_folder},
	{"defaults", test_defaults},
	{"http_members", test_http_members},
	{"kernel", test_kernel},
	{"other_files_are_ignored", test_other_files_are_ignored},
	{"broken_files", test_broken_files},
	{"names", test_names},
	{"sets", test_sets},
	{"lines", test_lines},
	CU_TEST_INFO_NULL,
};
