#include "key_cache.h"

#include "clock.h"

#include <pthread.h>
#include <time.h>

enum { WAYS = 4, SETS = 2048, CLOCK_EVERY_US = 40000 };

struct entry {
	uint8_t key_hash[ACP_SHA256_LEN];
	bool used;
	uint64_t touched_us;
	int64_t expires_us;
	struct acp_principal principal;
};

struct acp_key_cache {
	pthread_mutex_t lock;
	const struct acp_shared_counter *changes;
	uint64_t lease_us;
	uint64_t seen; /* value of changes before the query of the newest answer */
	int64_t version;
	uint64_t asked_us; /* time of the query of the newest answer; 0: none */
	int64_t at_us;     /* the database clock in the newest answer that had it */
	uint64_t clock_us; /* monotonic time of at_us */
	struct entry entries[SETS][WAYS];
};

struct acp_key_cache *acp_key_cache_new(int64_t lease_ms, const struct acp_shared_counter *changes)
{
	struct acp_key_cache *cache = calloc(1, sizeof *cache);
	if (!cache)
		return NULL;
	pthread_mutex_init(&cache->lock, NULL);
	cache->changes = changes;
	cache->lease_us = (uint64_t)lease_ms * 1000u;
	return cache;
}

void acp_key_cache_free(struct acp_key_cache *cache)
{
	if (cache)
		pthread_mutex_destroy(&cache->lock);
	free(cache);
}

void acp_key_cache_ask(struct acp_key_cache *cache, struct acp_change_feed *feed, bool *ask_clock)
{
	feed->seen = acp_shared_counter_value(cache->changes);
	feed->asked_us = acp_monotonic_us();
	pthread_mutex_lock(&cache->lock);
	feed->since = cache->version;
	*ask_clock = feed->asked_us - cache->clock_us > CLOCK_EVERY_US;
	pthread_mutex_unlock(&cache->lock);
}

/* True if the tenant of the entry is in the list. The nil UUID stands for all tenants. */
static bool is_affected(const struct entry *entry, const char *changed)
{
	return entry->used &&
	       (strstr(changed, ACP_NIL_UUID) != NULL || strstr(changed, entry->principal.tenant_id) != NULL);
}

static void forget(struct acp_key_cache *cache, const char *changed)
{
	for (size_t i = 0; i < SETS; i++)
		for (size_t way = 0; way < WAYS; way++)
			if (is_affected(&cache->entries[i][way], changed))
				cache->entries[i][way].used = false;
}

void acp_key_cache_apply(struct acp_key_cache *cache, const struct acp_change_feed *feed)
{
	pthread_mutex_lock(&cache->lock);
	if (*feed->changed)
		forget(cache, feed->changed);
	/* A later answer has lowered the version that this query started from, so this answer misses some changes. */
	if (feed->since > cache->version)
		forget(cache, ACP_NIL_UUID);
	/* An answer overtaken by a newer one has nothing new. A newer answer with a smaller version comes from another
	 * server or saw an older state; the changes in between will be reported again. */
	if (feed->asked_us >= cache->asked_us) {
		if (feed->version < cache->version)
			forget(cache, ACP_NIL_UUID);
		cache->version = feed->version;
		cache->asked_us = feed->asked_us;
		cache->seen = feed->seen;
	}
	if (feed->at_us && feed->asked_us >= cache->clock_us) {
		cache->clock_us = feed->asked_us;
		cache->at_us = feed->at_us;
	}
	pthread_mutex_unlock(&cache->lock);
}

static struct entry *set_of(struct acp_key_cache *cache, const uint8_t key_hash[ACP_SHA256_LEN])
{
	uint32_t index;
	memcpy(&index, key_hash, sizeof index);
	return cache->entries[index % SETS];
}

static struct entry *find(struct entry *set, const uint8_t key_hash[ACP_SHA256_LEN])
{
	for (size_t way = 0; way < WAYS; way++)
		if (set[way].used && memcmp(set[way].key_hash, key_hash, ACP_SHA256_LEN) == 0)
			return &set[way];
	return NULL;
}

/* Returns a free slot of the set, or the least recently used one. */
static struct entry *pick_slot(struct entry *set)
{
	struct entry *oldest = set;
	for (size_t way = 0; way < WAYS; way++) {
		if (!set[way].used)
			return &set[way];
		if (set[way].touched_us < oldest->touched_us)
			oldest = &set[way];
	}
	return oldest;
}

void acp_key_cache_put(struct acp_key_cache *cache, const uint8_t key_hash[ACP_SHA256_LEN],
		       const struct acp_principal *principal, int64_t expires_us, int64_t version)
{
	pthread_mutex_lock(&cache->lock);
	/* Data read before the newest known change may be out of date. Versions of another server cannot be
	 * compared. */
	if (cache->lease_us && version == cache->version) {
		struct entry *set = set_of(cache, key_hash);
		struct entry *entry = find(set, key_hash);
		if (!entry)
			entry = pick_slot(set);
		*entry = (struct entry){.used = true,
					.touched_us = acp_monotonic_us(),
					.expires_us = expires_us,
					.principal = *principal};
		memcpy(entry->key_hash, key_hash, ACP_SHA256_LEN);
	}
	pthread_mutex_unlock(&cache->lock);
}

/* Formats microseconds since 1970: "2026-11-22 09:30:00.123456+00". */
static void write_ts(int64_t us, char ts[ACP_TS_LEN])
{
	struct tm utc;
	time_t seconds = (time_t)(us / 1000000);
	gmtime_r(&seconds, &utc);
	char seconds_text[24];
	strftime(seconds_text, sizeof seconds_text, "%Y-%m-%d %H:%M:%S", &utc);
	snprintf(ts, ACP_TS_LEN, "%s.%06d+00", seconds_text, (int)(us % 1000000));
}

static int64_t clock_now(const struct acp_key_cache *cache, uint64_t now)
{
	return cache->at_us + (int64_t)(now - cache->clock_us);
}

bool acp_key_cache_get(struct acp_key_cache *cache, const uint8_t key_hash[ACP_SHA256_LEN], int64_t stale_ms,
		       struct acp_principal *out)
{
	uint64_t now = acp_monotonic_us();
	uint64_t changes = acp_shared_counter_value(cache->changes);
	bool found = false;
	pthread_mutex_lock(&cache->lock);
	uint64_t age = now - cache->asked_us;
	/* Even a recent answer may miss a change by another process of this host: this process may have lost the
	 * database while that process still reaches it. */
	bool good = changes == cache->seen && (age < cache->lease_us || age < (uint64_t)stale_ms * 1000u);
	struct entry *entry = good ? find(set_of(cache, key_hash), key_hash) : NULL;
	int64_t at = clock_now(cache, now);
	if (entry && (!entry->expires_us || entry->expires_us > at)) {
		entry->touched_us = now;
		*out = entry->principal;
		if (out->past_due_us && out->past_due_us <= at)
			out->tier = ACP_TIER_FREE; /* no change of the database tells of this moment */
		found = true;
	}
	pthread_mutex_unlock(&cache->lock);
	if (found)
		write_ts(at, out->ts);
	return found;
}

void acp_key_cache_clock(struct acp_key_cache *cache, char ts[ACP_TS_LEN])
{
	struct timespec host;
	clock_gettime(CLOCK_REALTIME, &host);
	pthread_mutex_lock(&cache->lock);
	int64_t at = cache->clock_us ? clock_now(cache, acp_monotonic_us())
				     : (int64_t)host.tv_sec * 1000000 + host.tv_nsec / 1000;
	pthread_mutex_unlock(&cache->lock);
	write_ts(at, ts);
}
