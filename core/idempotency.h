/* idempotency.h - a call that carries an idempotency key has one effect (contract section 3, "Idempotency").
 *
 * The key is claimed before the handler and its result stored in the handler's transaction, sealed: a reply may hold a
 * secret that is shown once, and the database must not hold it in clear. A dry run claims nothing. */
#ifndef ACP_IDEMPOTENCY_H
#define ACP_IDEMPOTENCY_H

#include "call.h"

/* The stage. ACP_IDEMPOTENT_REPLAY: an earlier call succeeded, call->result.data is what it gave;
 * ACP_IDEMPOTENCY_CONFLICT, ACP_IDEMPOTENCY_MISMATCH: as in the contract. */
enum acp_code acp_idempotency_claim(struct acp_call *call) ACP_MUSTCHECK;

/* What makes two calls the same request: action, params as they were sent, and the scopes of the key, so that no key is
 * given what another one was allowed to make. Hashed with a secret, because params may hold something guessable. */
bool acp_idempotency_fingerprint(const struct acp_call *call, char hex[ACP_SHA256_HEX]) ACP_MUSTCHECK;

/* Before settling: puts the claim and the sealed result into end. sealed is initialised here and released by the
 * caller after use. False: memory is lacking; a result that cannot be read again must not be stored. */
bool acp_idempotency_seal(const struct acp_call *call, struct acp_buf *sealed,
			  struct acp_settlement *end) ACP_MUSTCHECK;

#endif
