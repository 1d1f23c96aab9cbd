/* The slots of a pool: how many connections exist, who may have one, and who waits. */
#include "db_parts.h"

#include "clock.h"
#include "thread.h"

#include <errno.h>

void acp_db_release_slot(struct acp_db_pool *pool, bool counted, bool writes)
{
	pthread_mutex_lock(&pool->lock);
	pool->count -= counted;
	pool->writing -= writes;
	for (size_t i = 0; i < ACP_COUNT(pool->released); i++)
		pthread_cond_signal(&pool->released[i]);
	pthread_mutex_unlock(&pool->lock);
}

/* Keep one connection free of writers, because all of them may wait for the same row. */
static int max_writers(const struct acp_db_pool *pool)
{
	return pool->limits.connections > 1 ? pool->limits.connections - 1 : 1;
}

/* True if a connection is idle or may be opened for this purpose. The caller holds the lock. */
static bool has_slot(const struct acp_db_pool *pool, enum acp_db_purpose purpose)
{
	return (pool->idle || pool->count < pool->limits.connections) &&
	       (purpose != ACP_DB_TO_WRITE || pool->writing < max_writers(pool));
}

/* The caller holds the lock. False: the time is up. */
static bool wait_until(struct acp_db_pool *pool, enum acp_db_purpose purpose, const struct timespec *until)
{
	int waited = 0;
	while (!has_slot(pool, purpose) && waited != ETIMEDOUT)
		waited = pthread_cond_timedwait(&pool->released[purpose], &pool->lock, until);
	return has_slot(pool, purpose);
}

bool acp_db_wait_for_slot(struct acp_db_pool *pool, enum acp_db_purpose purpose)
{
	if (has_slot(pool, purpose))
		return true;
	const struct timespec slow = acp_monotonic_after(SLOW_MS * UINT64_C(1000));
	const struct timespec deadline = acp_monotonic_after((uint64_t)pool->limits.timeout_ms * 1000);
	if (wait_until(pool, purpose, &slow))
		return true;
	acp_thread_blocks();
	bool found = wait_until(pool, purpose, &deadline);
	acp_thread_goes_on();
	return found;
}

void acp_db_leave_pool(struct acp_db_conn *conn)
{
	if (!conn->pool || conn->uncounted)
		return;
	conn->uncounted = true;
	acp_db_release_slot(conn->pool, true, false);
}
