/* key_cache.h - what one process knows of API keys, so that most calls need not ask PostgreSQL who calls.
 *
 * Every answer of the database tells which tenants changed since the last one (acp.change_feed), so what is kept here
 * is right as of the moment the newest answer was asked for. It is used without asking only while that moment is
 * younger than the lease: a change is in force for every call that starts a lease after its commit, whatever else
 * happens (contract section 1 allows 100 ms). Under load the answers of the audit writer renew the lease all the time;
 * an idle process asks. What another process of this host changed is in force at once: it raises a counter that all of
 * them look at.
 * Private to sql/. */
#ifndef ACP_KEY_CACHE_H
#define ACP_KEY_CACHE_H

#include "plane.h"
#include "shared_counter.h"

struct acp_key_cache;

/* The part of an answer of the database that tells what changed (acp.change_feed). */
struct acp_change_feed {
	int64_t since;       /* the version it was asked from */
	uint64_t asked_us;   /* monotonic time before it was asked */
	uint64_t seen;       /* value of the counter of changes before it was asked */
	int64_t version;     /* number of the last change */
	const char *changed; /* text form of a uuid[]: tenants that changed since the version asked from; "" none */
	int64_t at_us;       /* its clock, microseconds since 1970; 0: it was not asked for */
};

/* lease_ms: see above; 0: every call asks. changes: raised when this program changed a key or tenant; borrowed. NULL:
 * out of memory. */
struct acp_key_cache *acp_key_cache_new(int64_t lease_ms, const struct acp_shared_counter *changes);
void acp_key_cache_free(struct acp_key_cache *cache);

/* Before asking: fills since, from which to ask, asked_us and seen; *ask_clock: ask for the clock too. */
void acp_key_cache_ask(struct acp_key_cache *cache, struct acp_change_feed *feed, bool *ask_clock);

/* Applies an answer: forgets what changed and renews the lease. */
void acp_key_cache_apply(struct acp_key_cache *cache, const struct acp_change_feed *feed);

/* Keeps what an answer said of a key. expires_us: when the key ends, microseconds since 1970; 0: never. */
void acp_key_cache_put(struct acp_key_cache *cache, const uint8_t key_hash[ACP_SHA256_LEN],
		       const struct acp_principal *principal, int64_t expires_us, int64_t version);

/* The caller behind a key, with the time of the call by the database's clock. False: not known, or the newest answer is
 * older than the lease, or than stale_ms where that is more (for when the database is away), or than a change that this
 * host's programs made. */
bool acp_key_cache_get(struct acp_key_cache *cache, const uint8_t key_hash[ACP_SHA256_LEN], int64_t stale_ms,
		       struct acp_principal *out);

/* The database's clock now, as text for a timestamptz, by the newest answer; by this host's clock before the first. */
void acp_key_cache_clock(struct acp_key_cache *cache, char ts[ACP_TS_LEN]);

#endif
