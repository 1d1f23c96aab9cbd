/* idempotency.h - makes a call with an idempotency key take effect once (contract section 3, "Idempotency").
 *
 * The key is claimed before the handler runs, and the result is stored in the handler's transaction. The result is
 * encrypted: a reply may contain a secret that is shown only once, and the database must not hold it unencrypted. A dry
 * run claims nothing. */
#ifndef ACP_IDEMPOTENCY_H
#define ACP_IDEMPOTENCY_H

#include "call.h"

/* Returns the key under which the call may be repeated. If the client sent a key, it is that key. Otherwise a write has
 * a random key: its result is stored under that key in the handler's transaction, and a client that repeats the call
 * presents it. It may give access to a key that is shown only once, so it is never an id that others see. In all other
 * cases it is the event's id, which an upstream also gets. */
const char *acp_idempotency_key(const struct acp_call *call);

/* Adds that key to the reply of a call with unknown outcome, or whose upstream may have acted. */
void acp_idempotency_tell(struct acp_call *call);

/* The stage of the pipeline. ACP_IDEMPOTENT_REPLAY: an earlier call succeeded, and call->result.data is its result.
 * ACP_IDEMPOTENCY_CONFLICT, ACP_IDEMPOTENCY_MISMATCH: as in the contract. */
enum acp_code acp_idempotency_claim(struct acp_call *call) ACP_MUSTCHECK;

/* Identifies a request by the action, the params as sent, and the scopes of the key. The scopes ensure that a key never
 * gets a result that only another key was allowed to produce. Hashed with a secret, because params may be guessable.
 * False: out of memory. */
bool acp_idempotency_fingerprint(const struct acp_call *call, char hex[ACP_SHA256_HEX]) ACP_MUSTCHECK;

/* Before settling: puts the key and the encrypted result into end. sealed is initialised here; the caller releases it
 * after use. False: out of memory, or the result could not be read back and must not be stored. */
bool acp_idempotency_seal(struct acp_call *call, struct acp_buf *sealed, struct acp_settlement *end) ACP_MUSTCHECK;

#endif
