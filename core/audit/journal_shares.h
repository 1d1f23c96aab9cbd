/* journal_shares.h - how many bytes of the journal of this process belong to each tenant, and to strangers. Private to
 * core/. */
#ifndef ACP_JOURNAL_SHARES_H
#define ACP_JOURNAL_SHARES_H

#include "journal.h"

struct acp_journal_shares;

/* Counts the bytes of events for their tenants, in *shares, which it creates if that is NULL. False: a share of limits
 * has no room for them, or there is no memory; nothing is counted then, and why says which. */
bool acp_journal_share_take(struct acp_journal_shares **shares, const struct acp_journal_limits *limits,
			    struct json_object *const *events, size_t number, int64_t bytes, const char **why);

/* Takes that back, if the events were not written. */
void acp_journal_share_give_back(struct acp_journal_shares *shares, struct json_object *const *events, size_t number,
				 int64_t bytes);

/* Frees the counts, when all rows are replayed. */
void acp_journal_share_end(struct acp_journal_shares **shares);

#endif
