/* The slots of a pool: how many connections exist, who may have one, and who waits. */
#include "db_parts.h"

#include "clock.h"
#include "thread.h"

#include <errno.h>

void acp_db_release_slot(struct acp_db_pool *pool, bool counted, bool writes, struct acp_db_holder *holder)
{
	pthread_mutex_lock(&pool->lock);
	pool->count -= counted;
	pool->writing -= writes;
	if (holder)
		holder->held--;
	/* Wake all: which of them may go on depends on their tenants. */
	for (size_t i = 0; i < ACP_COUNT(pool->released); i++)
		pthread_cond_broadcast(&pool->released[i]);
	pthread_mutex_unlock(&pool->lock);
}

/* The entry of a tenant, or an unused one if it holds nothing. There are as many entries as connections, so one of them
 * is unused whenever a connection is free. */
static struct acp_db_holder *find_holder(const struct acp_db_pool *pool, const char *tenant)
{
	struct acp_db_holder *unused = NULL;
	for (int i = 0; i < pool->limits.connections; i++) {
		struct acp_db_holder *holder = &pool->holders[i];
		if (holder->held && strcmp(holder->tenant, tenant) == 0)
			return holder;
		if (!holder->held)
			unused = holder;
	}
	return unused;
}

bool acp_db_share_used(const struct acp_db_pool *pool, const char *tenant)
{
	const struct acp_db_holder *holder = tenant ? find_holder(pool, tenant) : NULL;
	return holder && holder->held >= pool->limits.of_one_tenant;
}

struct acp_db_holder *acp_db_hold(struct acp_db_pool *pool, const char *tenant)
{
	struct acp_db_holder *holder = tenant ? find_holder(pool, tenant) : NULL;
	if (!holder)
		return NULL;
	if (!holder->held)
		snprintf(holder->tenant, sizeof holder->tenant, "%s", tenant);
	holder->held++;
	return holder;
}

/* Keep one connection free of writers, because all of them may wait for the same row. */
static int max_writers(const struct acp_db_pool *pool)
{
	return pool->limits.connections > 1 ? pool->limits.connections - 1 : 1;
}

/* True if a connection is idle or may be opened for this purpose and tenant. The caller holds the lock. */
static bool has_slot(const struct acp_db_pool *pool, enum acp_db_purpose purpose, const char *tenant)
{
	return (pool->idle || pool->count < pool->limits.connections) &&
	       (purpose != ACP_DB_TO_WRITE || pool->writing < max_writers(pool)) && !acp_db_share_used(pool, tenant);
}

/* The caller holds the lock. False: the time is up. */
static bool wait_until(struct acp_db_pool *pool, enum acp_db_purpose purpose, const char *tenant,
		       const struct timespec *until)
{
	int waited = 0;
	while (!has_slot(pool, purpose, tenant) && waited != ETIMEDOUT)
		waited = pthread_cond_timedwait(&pool->released[purpose], &pool->lock, until);
	return has_slot(pool, purpose, tenant);
}

bool acp_db_wait_for_slot(struct acp_db_pool *pool, enum acp_db_purpose purpose, const char *tenant)
{
	if (has_slot(pool, purpose, tenant))
		return true;
	/* Many calls of one tenant may wait for its share. They must not keep threads from others even for a moment. */
	uint64_t patience = acp_db_share_used(pool, tenant) ? 0 : SLOW_MS;
	const struct timespec slow = acp_monotonic_after(patience * 1000);
	const struct timespec deadline = acp_monotonic_after((uint64_t)pool->limits.timeout_ms * 1000);
	if (patience && wait_until(pool, purpose, tenant, &slow))
		return true;
	acp_thread_blocks();
	bool found = wait_until(pool, purpose, tenant, &deadline);
	acp_thread_goes_on();
	return found;
}

void acp_db_leave_pool(struct acp_db_conn *conn)
{
	if (!conn->pool || conn->uncounted)
		return;
	struct acp_db_holder *holder = conn->holder;
	conn->uncounted = true;
	conn->holder = NULL;
	acp_db_release_slot(conn->pool, true, false, holder);
}
