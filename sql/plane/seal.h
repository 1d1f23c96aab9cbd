/* seal.h - makes the next seal of the audit log (proof.h): reads what to seal, signs it here, and stores it. */
#ifndef ACP_SEAL_H
#define ACP_SEAL_H

#include "db.h"
#include "settings.h"

struct acp_seal_made {
	int64_t id; /* 0: nothing to seal, not due, or another process is sealing */
	int64_t rows;
	char hash[65];
};

/* Seals the log. age_ms: minimum age of the last seal; -1: seal now, and wait for another process that is sealing. */
enum acp_db_status acp_seal_make(struct acp_db_conn *conn, const struct acp_config *config, int64_t age_ms,
				 struct acp_seal_made *made, struct acp_db_error *error) ACP_MUSTCHECK;

/* For the upkeep of a process: seals if audit_seal_interval has passed, and logs the result. */
void acp_seal_when_due(struct acp_db_pool *pool, const struct acp_config *config);

#endif
