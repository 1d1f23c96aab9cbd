#include "shares.h"

#include "clock.h"
#include "crypto.h"
#include "process.h"
#include "shm.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

enum {
	PROCESSES = 256,
	WAYS = 8,   /* slots that may hold a name */
	SETS = 512, /* each with its own lock */
	ID_LEN = 16,
	MAGIC = 0x61637332, /* "acs2": layout of this file */
	LOOK_US = 100000,   /* time between two searches for dead processes */
};

struct slot {
	uint8_t id[ID_LEN];
	uint32_t total; /* sum of held */
	uint16_t held[PROCESSES];
};

struct set {
	pthread_mutex_t lock; /* robust: a process killed while holding the lock does not lock out the others */
	struct slot slots[WAYS];
};

struct process {
	pid_t pid; /* 0: free */
	uint64_t started;
};

struct table {
	uint32_t magic;
	pthread_mutex_t lock; /* protects processes; robust. Taken before the lock of a set */
	struct process processes[PROCESSES];
	struct set sets[SETS];
};

struct acp_shares {
	struct table *table;
	int self; /* index of this process; -1: the table has no place for it */
	pthread_mutex_t lock;
	uint64_t looked_us; /* time of the last search for dead processes */
};

/* The table ------------------------------------------------------------------------------------------------------- */

static bool prepare_table(void *memory)
{
	struct table *table = memory;
	if (table->magic == MAGIC)
		return true;
	bool ok = acp_shm_lock_prepare(&table->lock);
	for (size_t i = 0; ok && i < SETS; i++)
		ok = acp_shm_lock_prepare(&table->sets[i].lock);
	if (ok)
		table->magic = MAGIC;
	return ok;
}

/* A process that died while it held the lock may have left a total that does not match, so add it up again. */
static void lock_set(struct set *set)
{
	if (pthread_mutex_lock(&set->lock) != EOWNERDEAD)
		return;
	for (size_t i = 0; i < WAYS; i++) {
		set->slots[i].total = 0;
		for (size_t n = 0; n < PROCESSES; n++)
			set->slots[i].total += set->slots[i].held[n];
	}
	pthread_mutex_consistent(&set->lock);
}

static void lock_processes(struct table *table)
{
	if (pthread_mutex_lock(&table->lock) == EOWNERDEAD)
		pthread_mutex_consistent(&table->lock);
}

/* Processes ------------------------------------------------------------------------------------------------------- */

/* Gives back everything that a process holds. The caller holds the lock of the processes. */
static void forget_process(struct table *table, int index)
{
	for (size_t i = 0; i < SETS; i++) {
		lock_set(&table->sets[i]);
		for (size_t n = 0; n < WAYS; n++) {
			struct slot *slot = &table->sets[i].slots[n];
			slot->total -= slot->held[index];
			slot->held[index] = 0;
		}
		pthread_mutex_unlock(&table->sets[i].lock);
	}
	table->processes[index].pid = 0;
}

/* Forgets the processes that have died. */
static void forget_dead(struct table *table)
{
	struct acp_process_stats stats;
	lock_processes(table);
	for (int i = 0; i < PROCESSES; i++) {
		const struct process *process = &table->processes[i];
		if (process->pid && !acp_process_alive(process->pid, process->started, &stats))
			forget_process(table, i);
	}
	pthread_mutex_unlock(&table->lock);
}

/* Returns the index of this process. -1: live processes occupy all places. */
static int register_process(struct table *table)
{
	struct acp_process_stats own;
	int index = -1;
	if (!acp_process_read(getpid(), &own))
		return -1;
	forget_dead(table);
	lock_processes(table);
	for (int i = 0; i < PROCESSES && index < 0; i++)
		if (!table->processes[i].pid)
			index = i;
	if (index >= 0)
		table->processes[index] = (struct process){getpid(), own.started};
	pthread_mutex_unlock(&table->lock);
	return index;
}

/* Searches for dead processes, but not more often than LOOK_US. False: it was too soon. */
static bool look_for_dead(struct acp_shares *shares)
{
	uint64_t now = acp_monotonic_us();
	pthread_mutex_lock(&shares->lock);
	bool due = now - shares->looked_us >= LOOK_US;
	if (due)
		shares->looked_us = now;
	pthread_mutex_unlock(&shares->lock);
	if (due)
		forget_dead(shares->table);
	return due;
}

struct acp_shares *acp_shares_open(const char *zone, char *why, size_t why_size)
{
	char name[100];
	struct acp_shares *shares = calloc(1, sizeof *shares);
	if (!shares) {
		snprintf(why, why_size, "shares: out of memory");
		return NULL;
	}
	snprintf(name, sizeof name, "shares-%x-%.64s", (unsigned)sizeof(struct table), zone);
	shares->table = acp_shm_open(name, "shares", sizeof(struct table), prepare_table, why, why_size);
	if (!shares->table) {
		free(shares);
		return NULL;
	}
	pthread_mutex_init(&shares->lock, NULL);
	shares->self = register_process(shares->table);
	return shares;
}

void acp_shares_close(struct acp_shares *shares)
{
	if (!shares)
		return;
	if (shares->self >= 0) {
		lock_processes(shares->table);
		forget_process(shares->table, shares->self);
		pthread_mutex_unlock(&shares->table->lock);
	}
	acp_shm_close(shares->table, sizeof *shares->table);
	pthread_mutex_destroy(&shares->lock);
	free(shares);
}

/* Places ---------------------------------------------------------------------------------------------------------- */

static struct set *set_of(struct acp_shares *shares, const uint8_t id[ID_LEN])
{
	uint32_t index;
	memcpy(&index, id, sizeof index);
	return &shares->table->sets[index % SETS];
}

/* Finds the slot of a name, or one that nobody uses. NULL: all are in use. */
static struct slot *find_slot(struct set *set, const uint8_t id[ID_LEN])
{
	struct slot *unused = NULL;
	for (size_t i = 0; i < WAYS; i++) {
		struct slot *slot = &set->slots[i];
		if (memcmp(slot->id, id, ID_LEN) == 0)
			return slot;
		if (!slot->total)
			unused = slot;
	}
	if (unused)
		memcpy(unused->id, id, ID_LEN);
	return unused;
}

/* True: the place is granted. share->held says whether it is counted. */
static bool try_acquire(struct acp_shares *shares, int64_t most, struct acp_share *share)
{
	struct set *set = set_of(shares, share->id);
	lock_set(set);
	struct slot *slot = find_slot(set, share->id);
	bool granted = !slot || slot->total < most;
	share->held = granted && slot && slot->held[shares->self] < UINT16_MAX;
	if (share->held) {
		slot->held[shares->self]++;
		slot->total++;
	}
	pthread_mutex_unlock(&set->lock);
	return granted;
}

bool acp_shares_acquire(struct acp_shares *shares, const char *name, int64_t most, struct acp_share *share)
{
	uint8_t hash[ACP_SHA256_LEN];
	*share = (struct acp_share){0};
	if (shares->self < 0)
		return true;
	acp_sha256(name, strlen(name), hash);
	memcpy(share->id, hash, ID_LEN);
	return try_acquire(shares, most, share) || (look_for_dead(shares) && try_acquire(shares, most, share));
}

void acp_shares_release(struct acp_shares *shares, struct acp_share *share)
{
	if (!share->held)
		return;
	struct set *set = set_of(shares, share->id);
	lock_set(set);
	struct slot *slot = find_slot(set, share->id);
	if (slot && slot->held[shares->self]) {
		slot->held[shares->self]--;
		slot->total--;
	}
	pthread_mutex_unlock(&set->lock);
	share->held = false;
}
