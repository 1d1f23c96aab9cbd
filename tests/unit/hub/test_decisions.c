#include "../tmain.h"
#include "decisions.h"
#include "json.h"

#include <pthread.h>

enum { SECOND = 1000000 };

static struct json_object *parse(const char *text)
{
	struct json_object *value = json_tokener_parse(text);
	CU_ASSERT_PTR_NOT_NULL_FATAL(value);
	return value;
}

static struct json_object *make_query(void)
{
	return parse("{\"tenant_id\":\"t\",\"action\":\"a.b\",\"actor_type\":\"api_key\",\"api_key_id\":\"k\","
		     "\"request_hash\":\"h\",\"event_id\":\"e\",\"dry_run\":false}");
}

/* Stores a decision for the query of make_query() with one member replaced (name NULL: none). */
static void put(struct acp_decisions *table, const char *name, const char *value, int64_t version, int64_t ttl_ms,
		uint64_t now)
{
	struct json_object *query = make_query();
	struct json_object *decision = parse("{\"decision\":\"allow\"}");
	if (name)
		acp_json_add_string(query, name, value);
	acp_decisions_put(table, query, decision, version, ttl_ms, now);
	json_object_put(decision);
	json_object_put(query);
}

static bool has(struct acp_decisions *table, const char *name, const char *value, uint64_t now)
{
	struct json_object *query = make_query();
	if (name)
		acp_json_add_string(query, name, value);
	struct json_object *decision = acp_decisions_get(table, query, now);
	bool found = decision != NULL;
	if (found)
		CU_ASSERT_STRING_EQUAL(acp_json_string(decision, "decision"), "allow");
	json_object_put(decision);
	json_object_put(query);
	return found;
}

static struct acp_decisions *make_table(size_t slots)
{
	struct acp_decisions *table = acp_decisions_new(slots);
	CU_ASSERT_PTR_NOT_NULL_FATAL(table);
	return table;
}

static void test_for_exactly_this_call(void)
{
	static const char *const parts[] = {"tenant_id", "action", "actor_type", "api_key_id", "request_hash"};
	struct acp_decisions *table = make_table(64);
	CU_ASSERT_FALSE(has(table, NULL, NULL, 0));
	put(table, NULL, NULL, 1, 5000, 0);
	CU_ASSERT_TRUE(has(table, NULL, NULL, 0));
	for (size_t i = 0; i < ACP_COUNT(parts); i++)
		CU_ASSERT_FALSE(has(table, parts[i], "other", 0));
	CU_ASSERT_TRUE(has(table, "event_id", "another call like it", 0));
	acp_decisions_free(table);
}

static void test_dry_run_is_another_call(void)
{
	struct acp_decisions *table = make_table(64);
	struct json_object *query = make_query();
	put(table, NULL, NULL, 1, 5000, 0);
	json_object_object_add(query, "dry_run", json_object_new_boolean(true));
	CU_ASSERT_PTR_NULL(acp_decisions_get(table, query, 0));
	json_object_put(query);
	acp_decisions_free(table);
}

/* Members must not run together: action "a.b" with tenant "t" must differ from action "a" with another tenant. */
static void test_parts_do_not_run_together(void)
{
	struct acp_decisions *table = make_table(64);
	struct json_object *one = parse("{\"action\":\"ab\",\"actor_type\":\"c\"}");
	struct json_object *two = parse("{\"action\":\"a\",\"actor_type\":\"bc\"}");
	acp_decisions_put(table, one, one, 1, 5000, 0);
	CU_ASSERT_PTR_NULL(acp_decisions_get(table, two, 0));
	json_object_put(one);
	json_object_put(two);
	acp_decisions_free(table);
}

static void test_time(void)
{
	struct acp_decisions *table = make_table(64);
	put(table, NULL, NULL, 1, 5000, 7 * SECOND);
	CU_ASSERT_TRUE(has(table, NULL, NULL, 12 * SECOND - 1));
	CU_ASSERT_FALSE(has(table, NULL, NULL, 12 * SECOND));
	put(table, "action", "never", 1, 0, 0);
	CU_ASSERT_FALSE(has(table, "action", "never", 0));
	put(table, "action", "negative", 1, -1, 0);
	CU_ASSERT_FALSE(has(table, "action", "negative", 0));
	acp_decisions_free(table);
}

static void test_version(void)
{
	struct acp_decisions *table = make_table(64);
	put(table, NULL, NULL, 3, 5000, 0);
	acp_decisions_version(table, 2);
	CU_ASSERT_TRUE(has(table, NULL, NULL, 0));
	acp_decisions_version(table, 4);
	CU_ASSERT_FALSE(has(table, NULL, NULL, 0));
	/* An answer that was on its way when the policies changed. */
	put(table, NULL, NULL, 3, 5000, 0);
	CU_ASSERT_FALSE(has(table, NULL, NULL, 0));
	put(table, NULL, NULL, 5, 5000, 0);
	CU_ASSERT_TRUE(has(table, NULL, NULL, 0));
	/* A decision can also announce a new version. */
	put(table, "action", "another", 6, 5000, 0);
	CU_ASSERT_FALSE(has(table, NULL, NULL, 0));
	acp_decisions_free(table);
}

static void test_one_place(void)
{
	struct acp_decisions *table = make_table(1);
	put(table, "action", "first", 1, 5000, 0);
	put(table, "action", "second", 1, 5000, 0);
	CU_ASSERT_FALSE(has(table, "action", "first", 0));
	CU_ASSERT_TRUE(has(table, "action", "second", 0));
	acp_decisions_free(table);
}

/* The caller owns the copy it gets: changing it does not affect other callers. */
static void test_copies(void)
{
	struct acp_decisions *table = make_table(64);
	struct json_object *query = make_query();
	struct json_object *decision = parse("{\"decision\":\"allow\"}");
	acp_decisions_put(table, query, decision, 1, 5000, 0);
	json_object_object_add(decision, "decision", json_object_new_string("deny"));
	struct json_object *got = acp_decisions_get(table, query, 0);
	CU_ASSERT_STRING_EQUAL(acp_json_string(got, "decision"), "allow");
	json_object_object_del(got, "decision");
	json_object_put(got);
	json_object_put(decision);
	json_object_put(query);
	CU_ASSERT_TRUE(has(table, NULL, NULL, 0));
	acp_decisions_free(table);
}

struct crowd {
	struct acp_decisions *table;
	int wrong;
};

/* Every decision names its action, so a mix-up is detected. */
static void *use(void *arg)
{
	struct crowd *crowd = arg;
	char action[16];
	for (int i = 0; i < 4000; i++) {
		struct json_object *query = make_query();
		snprintf(action, sizeof action, "a%d", i % 37);
		acp_json_add_string(query, "action", action);
		struct json_object *got = acp_decisions_get(crowd->table, query, 0);
		if (got && strcmp(acp_json_string(got, "action"), action) != 0)
			__atomic_fetch_add(&crowd->wrong, 1, __ATOMIC_RELAXED);
		json_object_put(got);
		acp_decisions_put(crowd->table, query, query, i / 1000, 5000, 0);
		json_object_put(query);
	}
	return NULL;
}

static void test_threads(void)
{
	pthread_t threads[4];
	struct crowd crowd = {make_table(16), 0};
	for (size_t i = 0; i < ACP_COUNT(threads); i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, use, &crowd), 0);
	for (size_t i = 0; i < ACP_COUNT(threads); i++)
		pthread_join(threads[i], NULL);
	CU_ASSERT_EQUAL(crowd.wrong, 0);
	acp_decisions_free(crowd.table);
}

const char *const acp_suite_name = "decisions";

CU_TestInfo acp_tests[] = {
	{"for_exactly_this_call", test_for_exactly_this_call},
	{"dry_run_is_another_call", test_dry_run_is_another_call},
	{"parts_do_not_run_together", test_parts_do_not_run_together},
	{"time", test_time},
	{"version", test_version},
	{"one_place", test_one_place},
	{"copies", test_copies},
	{"threads", test_threads},
	CU_TEST_INFO_NULL,
};
