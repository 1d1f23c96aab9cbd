/* key_cache.h - API keys known to one process, so that most calls need not query PostgreSQL for the caller.
 *
 * Every answer of the database names the tenants that changed since the last one (acp.change_feed), so the cache is
 * correct as of the query of the newest answer. A cached key is used only while that query is younger than the lease: a
 * change applies to every call that starts a lease after its commit, whatever else happens (contract section 1 allows
 * 100 ms). Under load, the answers to the audit writer renew the lease continuously; an idle process queries the
 * database. Changes by another process of this host apply at once: that process raises a counter that all of them read.
 * Private to sql/. */
#ifndef ACP_KEY_CACHE_H
#define ACP_KEY_CACHE_H

#include "plane.h"
#include "shared_counter.h"

struct acp_key_cache;

/* The change feed part of an answer. */
struct acp_change_feed {
	int64_t since;       /* version from which changes were requested */
	uint64_t asked_us;   /* monotonic time before the query */
	uint64_t seen;       /* value of the change counter before the query */
	int64_t version;     /* number of the last change */
	const char *changed; /* text form of a uuid[]: tenants that changed since that version; "": none */
	int64_t at_us;       /* database clock, microseconds since 1970; 0: not requested */
};

/* Creates a cache. lease_ms: see above; 0: every call queries. changes: raised when a program of this host changes a
 * key or tenant; borrowed. NULL: out of memory. */
struct acp_key_cache *acp_key_cache_new(int64_t lease_ms, const struct acp_shared_counter *changes);
void acp_key_cache_free(struct acp_key_cache *cache);

/* Call before a query. Fills since (the start of the change feed), asked_us and seen. *ask_clock: also query the
 * clock. */
void acp_key_cache_ask(struct acp_key_cache *cache, struct acp_change_feed *feed, bool *ask_clock);

/* Applies the change feed: drops changed entries and renews the lease. */
void acp_key_cache_apply(struct acp_key_cache *cache, const struct acp_change_feed *feed);

/* Stores the principal of a key. expires_us: end of the key, microseconds since 1970; 0: never. */
void acp_key_cache_put(struct acp_key_cache *cache, const uint8_t key_hash[ACP_SHA256_LEN],
		       const struct acp_principal *principal, int64_t expires_us, int64_t version);

/* Finds the principal of a key, with the time of the call by the database clock, and the tier at that time. False: not
 * known, or the newest answer is older than the lease (or than stale_ms, if larger, for when the database is away) or
 * older than a change by a program of this host. */
bool acp_key_cache_get(struct acp_key_cache *cache, const uint8_t key_hash[ACP_SHA256_LEN], int64_t stale_ms,
		       struct acp_principal *out);

/* Writes the current time as text for a timestamptz: by the database clock, according to the newest answer; before the
 * first answer, by the clock of this host. */
void acp_key_cache_clock(struct acp_key_cache *cache, char ts[ACP_TS_LEN]);

#endif
