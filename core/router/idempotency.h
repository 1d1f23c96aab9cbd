/* idempotency.h - a call that carries an idempotency key has one effect (contract section 3, "Idempotency").
 *
 * The key is claimed before the handler and its result stored in the handler's transaction, sealed: a reply may hold a
 * secret that is shown once, and the database must not hold it in clear. A dry run claims nothing. */
#ifndef ACP_IDEMPOTENCY_H
#define ACP_IDEMPOTENCY_H

#include "call.h"

/* The key under which the call may be repeated. A client's; or, where it sent none, a random one under which the
 * result of a write is stored in the handler's transaction, and which whoever repeats the call claims: it may lead
 * to a key that is shown once, so it is no id that others see; or else the event's id, which an upstream is told,
 * too. */
const char *acp_idempotency_key(const struct acp_call *call);

/* Tells that key in the reply of a call whose outcome is not known. */
void acp_idempotency_tell(struct acp_call *call);

/* The stage. ACP_IDEMPOTENT_REPLAY: an earlier call succeeded, call->result.data is what it gave;
 * ACP_IDEMPOTENCY_CONFLICT, ACP_IDEMPOTENCY_MISMATCH: as in the contract. */
enum acp_code acp_idempotency_claim(struct acp_call *call) ACP_MUSTCHECK;

/* What makes two calls the same request: action, params as they were sent, and the scopes of the key, so that no key is
 * given what another one was allowed to make. Hashed with a secret, because params may hold something guessable. */
bool acp_idempotency_fingerprint(const struct acp_call *call, char hex[ACP_SHA256_HEX]) ACP_MUSTCHECK;

/* Before settling: puts the key and the sealed result into end. sealed is initialised here and released by the caller
 * after use. False: out of memory; a result that cannot be read again must not be stored. */
bool acp_idempotency_seal(struct acp_call *call, struct acp_buf *sealed, struct acp_settlement *end) ACP_MUSTCHECK;

#endif
