#include "ratelimit.h"

#include "buf.h"
#include "crypto.h"
#include "shm.h"

#include <errno.h>
#include <pthread.h>

enum {
	COUNTS = 61,
	WAYS = 8,    /* slots that may hold a name */
	SETS = 2048, /* each with its own lock */
	ID_LEN = 16,
	MAGIC = 0x61637031, /* "acp1": layout of this file */
};

struct slot {
	uint8_t id[ID_LEN];      /* hash of the name; all zeros: never used */
	uint64_t newest;         /* number of the newest span, counted from the clock's start */
	uint32_t counts[COUNTS]; /* span n is counted at n % COUNTS */
	uint32_t total;
};

struct set {
	pthread_mutex_t lock; /* robust: a process killed while holding the lock does not lock out the others */
	struct slot slots[WAYS];
};

struct table {
	uint32_t magic;
	struct set sets[SETS];
};

struct acp_ratelimit {
	struct table *table;
};

static bool prepare_table(void *memory)
{
	struct table *table = memory;
	bool ok = true;
	if (table->magic == MAGIC)
		return true;
	for (size_t i = 0; ok && i < SETS; i++)
		ok = acp_shm_lock_prepare(&table->sets[i].lock);
	if (ok)
		table->magic = MAGIC;
	return ok;
}

struct acp_ratelimit *acp_ratelimit_open(const char *zone, char *why, size_t why_size)
{
	char name[100];
	struct acp_ratelimit *limits = calloc(1, sizeof *limits);
	if (!limits) {
		snprintf(why, why_size, "rate limits: out of memory");
		return NULL;
	}
	snprintf(name, sizeof name, "%x-%.64s", (unsigned)sizeof(struct table), zone);
	limits->table = acp_shm_open(name, "rate limits", sizeof(struct table), prepare_table, why, why_size);
	if (limits->table)
		return limits;
	free(limits);
	return NULL;
}

void acp_ratelimit_close(struct acp_ratelimit *limits)
{
	if (limits)
		acp_shm_close(limits->table, sizeof *limits->table);
	free(limits);
}

/* A process that died while it held the lock may have left a total that does not match its counts, so add them up
 * again. */
static void repair(struct set *set)
{
	for (size_t i = 0; i < WAYS; i++) {
		set->slots[i].total = 0;
		for (size_t n = 0; n < COUNTS; n++)
			set->slots[i].total += set->slots[i].counts[n];
	}
	pthread_mutex_consistent(&set->lock);
}

static void lock_set(struct set *set)
{
	if (pthread_mutex_lock(&set->lock) == EOWNERDEAD)
		repair(set);
}

/* Drops the counts outside the window that ends with span. */
static void advance(struct slot *slot, uint64_t span)
{
	if (span >= slot->newest + COUNTS) {
		memset(slot->counts, 0, sizeof slot->counts);
		slot->total = 0;
	} else {
		for (uint64_t n = slot->newest + 1; n <= span; n++) {
			slot->total -= slot->counts[n % COUNTS];
			slot->counts[n % COUNTS] = 0;
		}
	}
	if (span > slot->newest)
		slot->newest = span;
}

/* Finds the slot of a name. A new name gets an empty slot or, if there is none, the one that was used least
 * recently. */
static struct slot *find_slot(struct set *set, const uint8_t id[ID_LEN])
{
	struct slot *victim = &set->slots[0];
	for (size_t i = 0; i < WAYS; i++) {
		struct slot *slot = &set->slots[i];
		if (memcmp(slot->id, id, ID_LEN) == 0)
			return slot;
		if (slot->newest < victim->newest || (slot->newest == victim->newest && slot->total < victim->total))
			victim = slot;
	}
	memset(victim, 0, sizeof *victim);
	memcpy(victim->id, id, ID_LEN);
	return victim;
}

/* Finds and locks the set of a name, and writes the id of the name. */
static struct set *lock_set_of(struct acp_ratelimit *limits, const char *name, int64_t window, uint8_t id[ID_LEN])
{
	uint8_t hash[ACP_SHA256_LEN];
	uint32_t index;
	char text[320];
	char *begin = acp_digits(text + 20, (uint64_t)window);
	size_t name_len = strnlen(name, sizeof text - 21);
	text[20] = '|';
	memcpy(text + 21, name, name_len);
	acp_sha256(begin, (size_t)(text + 21 + name_len - begin), hash);
	memcpy(id, hash, ID_LEN);
	memcpy(&index, hash + ID_LEN, sizeof index);
	struct set *set = &limits->table->sets[index % SETS];
	lock_set(set);
	return set;
}

static uint64_t span_length(int64_t window)
{
	return (uint64_t)window * 1000000u / (COUNTS - 1);
}

/* Returns the seconds until the next event is allowed: until the oldest span with a count leaves the window. */
static int64_t seconds_until_allowed(const struct slot *slot, uint64_t length, uint64_t now)
{
	for (uint64_t back = COUNTS - 1; back > 0; back--) {
		if (slot->newest < back || !slot->counts[(slot->newest - back) % COUNTS])
			continue;
		uint64_t free_at = (slot->newest - back + COUNTS) * length;
		return free_at > now ? (int64_t)((free_at - now + 999999) / 1000000) : 1;
	}
	return (int64_t)((length * COUNTS + 999999) / 1000000);
}

static void decide(struct acp_ratelimit *limits, const char *name, int64_t limit, int64_t window, uint64_t now,
		   bool count, struct acp_rate *out)
{
	uint8_t id[ID_LEN];
	uint64_t length = span_length(window);
	uint64_t span = now / length;
	struct set *set = lock_set_of(limits, name, window, id);
	struct slot *slot = find_slot(set, id);
	advance(slot, span);
	*out = (struct acp_rate){.limit = limit, .window = window};
	out->allowed = slot->total < limit;
	if (out->allowed && count) {
		/* Another process may have read the clock later and be one span ahead, so count in the newest span. */
		slot->counts[slot->newest % COUNTS]++;
		slot->total++;
	}
	out->remaining = slot->total < limit ? limit - slot->total : 0;
	out->reset = out->allowed ? window : seconds_until_allowed(slot, length, now);
	pthread_mutex_unlock(&set->lock);
}

void acp_ratelimit_acquire(struct acp_ratelimit *limits, const char *name, int64_t limit, int64_t window, uint64_t now,
			   struct acp_rate *out)
{
	decide(limits, name, limit, window, now, true, out);
}

void acp_ratelimit_look(struct acp_ratelimit *limits, const char *name, int64_t limit, int64_t window, uint64_t now,
			struct acp_rate *out)
{
	decide(limits, name, limit, window, now, false, out);
}

void acp_ratelimit_release(struct acp_ratelimit *limits, const char *name, int64_t window, uint64_t now)
{
	uint8_t id[ID_LEN];
	uint64_t span = now / span_length(window);
	struct set *set = lock_set_of(limits, name, window, id);
	struct slot *slot = find_slot(set, id);
	advance(slot, span);
	uint32_t *count = &slot->counts[(span > slot->newest - (COUNTS - 1) ? span : slot->newest) % COUNTS];
	if (*count && slot->total) {
		(*count)--;
		slot->total--;
	}
	pthread_mutex_unlock(&set->lock);
}
