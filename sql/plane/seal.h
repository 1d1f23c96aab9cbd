/* seal.h - makes the next seal of the audit log (proof.h): read what to seal, sign it here, store it. */
#ifndef ACP_SEAL_H
#define ACP_SEAL_H

#include "db.h"
#include "settings.h"

struct acp_seal_made {
	int64_t id; /* 0: there was nothing to seal, or it is not due, or somebody else is at it */
	int64_t rows;
	char hash[65];
};

/* age_ms: how old the last seal must be; -1: seal now, waiting for whoever else does. */
enum acp_db_status acp_seal_make(struct acp_db_conn *conn, const struct acp_config *config, int64_t age_ms,
				 struct acp_seal_made *made, struct acp_db_error *error) ACP_MUSTCHECK;

/* For the upkeep of a process: seals when audit_seal_interval has passed, and logs what it did. */
void acp_seal_when_due(struct acp_db_pool *pool, const struct acp_config *config);

#endif
