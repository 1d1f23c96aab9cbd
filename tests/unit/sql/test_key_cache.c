/* The cache of keys in a process, with the database's answers arriving in any order. */
#include "key_cache.h"

#include "../tmain.h"

#include <unistd.h>

#define TENANT "11111111-1111-4111-8111-111111111111"

static const uint8_t key[ACP_SHA256_LEN] = {1, 2, 3};
static const struct acp_principal owner = {.tenant_id = TENANT};

static struct acp_shared_counter *changes;

static struct acp_key_cache *begin(int64_t lease_ms)
{
	char name[32], why[256];
	snprintf(name, sizeof name, "key-cache-test-%d", (int)getpid());
	changes = acp_shared_counter_open(name, why, sizeof why);
	CU_ASSERT_PTR_NOT_NULL_FATAL(changes);
	struct acp_key_cache *cache = acp_key_cache_new(lease_ms, changes);
	CU_ASSERT_PTR_NOT_NULL_FATAL(cache);
	return cache;
}

static void end(struct acp_key_cache *cache)
{
	char path[64];
	acp_key_cache_free(cache);
	acp_shared_counter_close(changes);
	snprintf(path, sizeof path, "/dev/shm/acp-fcgi-%u-key-cache-test-%d", (unsigned)geteuid(), (int)getpid());
	CU_ASSERT_EQUAL(unlink(path), 0);
}

/* Makes a query. Each call is later than the previous one. */
static struct acp_change_feed ask(struct acp_key_cache *cache)
{
	bool ask_clock;
	struct acp_change_feed feed = {0};
	usleep(1000);
	acp_key_cache_ask(cache, &feed, &ask_clock);
	return feed;
}

/* Applies the answer: the number of the last change, and the tenants changed since the number in the query. */
static void answer(struct acp_key_cache *cache, struct acp_change_feed feed, int64_t version, const char *changed)
{
	feed.version = version;
	feed.changed = changed;
	acp_key_cache_apply(cache, &feed);
}

static bool known(struct acp_key_cache *cache, int64_t stale_ms)
{
	struct acp_principal found;
	return acp_key_cache_get(cache, key, stale_ms, &found);
}

static void test_order_of_answers(void)
{
	struct acp_key_cache *cache = begin(60000);
	answer(cache, ask(cache), 6, "");
	struct acp_change_feed early = ask(cache);
	struct acp_change_feed late = ask(cache);
	/* The early query is answered after change 7, which revoked the key; the late one before it. */
	answer(cache, early, 7, "{" TENANT "}");
	struct acp_change_feed next = ask(cache);
	answer(cache, late, 6, "");
	acp_key_cache_put(cache, key, &owner, 0, 6);
	CU_ASSERT_TRUE(known(cache, 0));
	/* This query asks for changes after 7, so the answer does not report 7 again. */
	answer(cache, next, 7, "");
	CU_ASSERT_FALSE(known(cache, 0));
	end(cache);
}

static void test_feed(void)
{
	struct acp_key_cache *cache = begin(60000);
	CU_ASSERT_FALSE(known(cache, 60000));
	answer(cache, ask(cache), 6, "");
	acp_key_cache_put(cache, key, &owner, 0, 6);
	CU_ASSERT_TRUE(known(cache, 0));
	answer(cache, ask(cache), 7, "{22222222-2222-4222-8222-222222222222}");
	CU_ASSERT_TRUE(known(cache, 0));
	answer(cache, ask(cache), 8, "{" TENANT "}");
	CU_ASSERT_FALSE(known(cache, 0));
	/* Data read before the change arrives too late. */
	acp_key_cache_put(cache, key, &owner, 0, 7);
	CU_ASSERT_FALSE(known(cache, 0));
	end(cache);
}

static void test_lease(void)
{
	struct acp_key_cache *cache = begin(20);
	answer(cache, ask(cache), 6, "");
	acp_key_cache_put(cache, key, &owner, 0, 6);
	CU_ASSERT_TRUE(known(cache, 0));
	usleep(25000);
	CU_ASSERT_FALSE(known(cache, 0));
	CU_ASSERT_TRUE(known(cache, 60000));
	/* An answer may be old, so it never includes a change by a process of this host. */
	acp_shared_counter_add(changes);
	CU_ASSERT_FALSE(known(cache, 60000));
	end(cache);
}

/* The days of grace end by time alone: no answer of the database tells of that moment. */
static void test_past_due(void)
{
	struct acp_key_cache *cache = begin(60000);
	struct acp_principal found;
	struct acp_principal owes = owner;
	struct acp_change_feed feed = ask(cache);
	feed.at_us = 1000000000;
	answer(cache, feed, 6, "");
	owes.tier = ACP_TIER_PAID;
	owes.past_due_us = 1000000000 + 3600 * INT64_C(1000000);
	acp_key_cache_put(cache, key, &owes, 0, 6);
	CU_ASSERT_TRUE(acp_key_cache_get(cache, key, 0, &found) && found.tier == ACP_TIER_PAID);
	feed = ask(cache);
	feed.at_us = owes.past_due_us - 1000;
	answer(cache, feed, 6, "");
	usleep(2000);
	CU_ASSERT_TRUE(acp_key_cache_get(cache, key, 0, &found) && found.tier == ACP_TIER_FREE);
	CU_ASSERT_EQUAL(found.past_due_us, owes.past_due_us);
	owes.past_due_us = 0;
	acp_key_cache_put(cache, key, &owes, 0, 6);
	CU_ASSERT_TRUE(acp_key_cache_get(cache, key, 0, &found) && found.tier == ACP_TIER_PAID);
	end(cache);
}

const char *const acp_suite_name = "key_cache";
CU_TestInfo acp_tests[] = {{"feed", test_feed},
			   {"order_of_answers", test_order_of_answers},
			   {"lease", test_lease},
			   {"past_due", test_past_due},
			   CU_TEST_INFO_NULL};
