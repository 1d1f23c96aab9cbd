/* Whether the server answers: connections, and commits. */
#include "db_parts.h"

#include "clock.h"
#include "thread.h"

enum { AWAY_MS = 200 };

bool acp_db_still_away(struct acp_db_pool *pool)
{
	uint64_t until = atomic_load(&pool->away_until);
	if (!until || !acp_thread_has_caller())
		return false;
	uint64_t now = acp_monotonic_us();
	/* The caller that tries may need the time of a connection and of a statement. */
	uint64_t longest_ms = (uint64_t)pool->limits.connect_timeout_s * 1000u + (uint64_t)pool->limits.timeout_ms;
	return now < until || !atomic_compare_exchange_strong(&pool->away_until, &until, now + longest_ms * 1000u);
}

void acp_db_note_away(struct acp_db_pool *pool)
{
	if (pool && acp_thread_has_caller())
		atomic_store(&pool->away_until, acp_monotonic_us() + AWAY_MS * UINT64_C(1000));
}

void acp_db_note_answer(struct acp_db_pool *pool)
{
	if (pool && atomic_load(&pool->away_until))
		atomic_store(&pool->away_until, 0);
}

void acp_db_note_late(struct acp_db_pool *pool, uint64_t asked)
{
	uint64_t now = acp_monotonic_us();
	if (!pool || atomic_load(&pool->stored_at) > asked)
		return;
	if (!atomic_load(&pool->late_until))
		atomic_store(&pool->late_since, now);
	uint64_t pause = (now - atomic_load(&pool->late_since)) / 2;
	uint64_t longest = (uint64_t)pool->limits.commit_timeout_ms * 1000u;
	uint64_t least = AWAY_MS * UINT64_C(1000);
	atomic_store(&pool->late_until, now + (pause < least ? least : pause < longest ? pause : longest));
	atomic_fetch_add(&pool->spells, 1);
}

void acp_db_note_commit(struct acp_db_conn *conn, bool wrote)
{
	if (!conn->pool || !wrote)
		return;
	atomic_store(&conn->pool->stored_at, acp_monotonic_us());
	if (atomic_load(&conn->pool->late_until))
		atomic_store(&conn->pool->late_until, 0);
}

bool acp_db_commits_late(struct acp_db_pool *pool, bool *tries, struct acp_db_error *error)
{
	uint64_t until = atomic_load(&pool->late_until);
	if (!until)
		return false;
	uint64_t now = acp_monotonic_us();
	if (now >= until && !acp_thread_has_caller())
		return false;
	*tries = now >= until && atomic_compare_exchange_strong(&pool->late_until, &until,
								now + (uint64_t)pool->limits.timeout_ms * 1000u);
	if (*tries)
		return false;
	acp_db_set_error(error, "PostgreSQL did not answer a commit a moment ago");
	error->timed_out = true;
	return true;
}

bool acp_db_away(struct acp_db_pool *pool)
{
	return atomic_load(&pool->away_until) != 0;
}

void acp_db_unresponsive(struct acp_db_pool *pool)
{
	if (!acp_db_away(pool))
		acp_db_note_away(pool);
}
