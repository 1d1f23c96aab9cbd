/* shares.h - how much each name holds at a time of something scarce, exact across all processes of one host.
 *
 * A tenant, an action or all strangers together may hold a share: so many calls that run, or so many that wait for an
 * upstream. The counts are in shared memory, one per process, so what a killed process held is given back. */
#ifndef ACP_SHARES_H
#define ACP_SHARES_H

#include "attr.h"

struct acp_shares;

/* A place that is held. All zeros: none. */
struct acp_share {
	uint8_t id[16];
	bool held;
};

/* Opens the table of this installation, and creates it if necessary. Processes that pass the same zone and run as the
 * same user share it. zone: up to 64 of [a-z0-9-]. Call it after fork. Returns NULL with a sentence in why. */
struct acp_shares *acp_shares_open(const char *zone, char *why, size_t why_size) ACP_MUSTCHECK;
void acp_shares_close(struct acp_shares *shares);

/* Takes a place of this name, of which at most `most` (at least 1) exist on this host. False: all are taken. Release a
 * place with acp_shares_release. If the table cannot count another name or process, the place is granted uncounted. */
bool acp_shares_acquire(struct acp_shares *shares, const char *name, int64_t most, struct acp_share *share)
	ACP_MUSTCHECK;

/* Gives the place back. A share that holds none is ignored. */
void acp_shares_release(struct acp_shares *shares, struct acp_share *share);

#endif
