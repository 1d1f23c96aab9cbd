#include "idempotency.h"

#include "log.h"
#include "share.h"
#include "subkey.h"

enum { SEALED_MAX = 64 << 20, FULL_RETRY_AFTER = 600 };

const char *acp_idempotency_key(const struct acp_call *call)
{
	if (call->idempotency_key)
		return call->idempotency_key;
	return *call->own_key ? call->own_key : call->event_id;
}

void acp_idempotency_tell(struct acp_call *call)
{
	if (!call->extra)
		call->extra = json_object_new_object();
	if (!acp_json_add_string(call->extra, "idempotency_key", acp_idempotency_key(call)))
		acp_log(ACP_LOG_ERROR, "request %s: out of memory: its reply lacks the idempotency_key",
			call->request->request_id);
}

bool acp_idempotency_fingerprint(const struct acp_call *call, char hex[ACP_SHA256_HEX])
{
	struct acp_buf canonical;
	acp_buf_init(&canonical, SEALED_MAX);
	acp_buf_printf(&canonical, "%s|%s|", call->entry->action->name, call->principal.scopes);
	acp_json_canonical(call->params, &canonical);
	bool ok = acp_buf_ok(&canonical);
	if (ok)
		acp_subkey_hex(call->kernel->config->key_pepper, ACP_FOR_IDEMPOTENCY_FINGERPRINT, canonical.ptr,
			       canonical.len, hex);
	acp_buf_release(&canonical);
	return ok;
}

static void sealing_key(const struct acp_call *call, uint8_t key[ACP_SHA256_LEN])
{
	char parts[512]; /* names have at most 100 characters, idempotency keys 255 */
	int len = snprintf(parts, sizeof parts, "%s|%s|%s", call->principal.tenant_id, call->entry->action->name,
			   acp_idempotency_key(call));
	acp_subkey(call->kernel->config->key_pepper, ACP_FOR_IDEMPOTENCY_RESULT, parts, (size_t)len, key);
}

static enum acp_code replay(struct acp_call *call, const struct acp_claim *claim)
{
	struct acp_json_error ignored;
	uint8_t key[ACP_SHA256_LEN];
	if (!claim->sealed_len)
		return acp_call_fail(call, ACP_PAYLOAD_TOO_LARGE, NULL,
				     "the call with this idempotency key took effect; its reply was too large to be "
				     "kept; read what it did, or use another key for another call");
	size_t len =
		claim->sealed && claim->sealed_len >= ACP_ENCRYPT_EXTRA ? claim->sealed_len - ACP_ENCRYPT_EXTRA : 0;
	uint8_t *text = malloc(len + 1);
	sealing_key(call, key);
	call->size = len;
	acp_share_begin_turn(call);
	bool ok = text && claim->sealed && acp_decrypt(key, claim->sealed, claim->sealed_len, text) &&
		  acp_json_parse_any((const char *)text, len, &call->result.data, &ignored) == ACP_JSON_OK;
	acp_share_end_turn(call);
	if (text)
		acp_wipe(text, len);
	free(text);
	if (ok)
		return ACP_IDEMPOTENT_REPLAY;
	return acp_call_fail(call, ACP_INTERNAL_ERROR, NULL,
			     "the stored reply of this idempotency key can no longer be read");
}

/* Nothing was done. The space returns as earlier keys expire. */
static enum acp_code refuse_full(struct acp_call *call)
{
	call->retry_after = FULL_RETRY_AFTER;
	return acp_call_fail(
		call, ACP_RATE_LIMITED, NULL,
		"the replies that are kept for your idempotency keys fill %lld bytes; they are kept for 24 "
		"hours; call without a key what changes nothing, and ask for smaller pages",
		(long long)call->kernel->config->idempotency_bytes_per_tenant);
}

enum acp_code acp_idempotency_claim(struct acp_call *call)
{
	const struct acp_control_plane *plane = call->kernel->plane;
	char hex[ACP_SHA256_HEX];
	struct acp_claim claim = {0};
	if (!call->idempotency_key || call->dry_run || !plane->call.claim)
		return ACP_OK;
	if (!acp_idempotency_fingerprint(call, hex))
		return acp_call_fail(call, ACP_INTERNAL_ERROR, NULL, "%s", acp_code_sentence(ACP_INTERNAL_ERROR));
	enum acp_code code = plane->call.claim(plane->self, call->principal.tenant_id, call->entry->action->name,
					       call->idempotency_key, hex, call->event_id, &claim);
	if (code == ACP_OK && claim.verdict == ACP_CLAIM_REPLAY)
		code = replay(call, &claim);
	else if (code == ACP_OK && claim.verdict == ACP_CLAIM_CONFLICT)
		code = ACP_IDEMPOTENCY_CONFLICT;
	else if (code == ACP_OK && claim.verdict == ACP_CLAIM_MISMATCH)
		code = ACP_IDEMPOTENCY_MISMATCH;
	else if (code == ACP_OK && claim.verdict == ACP_CLAIM_FULL)
		code = refuse_full(call);
	free(claim.sealed);
	/* If the claim may have been made, the row of the call releases it. Nothing else was done. */
	call->claimed = code == ACP_OK || code == ACP_OUTCOME_UNKNOWN;
	if (code == ACP_OUTCOME_UNKNOWN)
		code = ACP_UNAVAILABLE;
	if (code == ACP_OK || code == ACP_IDEMPOTENT_REPLAY || code == call->code)
		return code;
	if (code == ACP_IDEMPOTENCY_CONFLICT)
		call->retry_after = 1;
	return acp_call_fail(call, code, NULL, "%s", acp_code_sentence(code));
}

static bool seal_result(const struct acp_call *call, struct acp_buf *sealed)
{
	struct acp_buf text;
	uint8_t key[ACP_SHA256_LEN];
	acp_buf_init(&text, SEALED_MAX - ACP_ENCRYPT_EXTRA);
	acp_share_begin_turn(call);
	acp_json_write(call->result.data, &text);
	uint8_t *room = acp_buf_ok(&text) ? malloc(text.len + ACP_ENCRYPT_EXTRA) : NULL;
	sealing_key(call, key);
	bool ok = room && acp_encrypt(key, text.ptr, text.len, room);
	if (ok)
		acp_buf_add(sealed, room, text.len + ACP_ENCRYPT_EXTRA);
	acp_wipe(key, sizeof key);
	free(room);
	if (text.len)
		acp_wipe(text.ptr, text.len); /* it may hold a key that is shown only once */
	acp_buf_release(&text);
	acp_share_end_turn(call);
	return ok && acp_buf_ok(sealed);
}

bool acp_idempotency_seal(struct acp_call *call, struct acp_buf *sealed, struct acp_settlement *end)
{
	/* A result that is stored in the database proves something only if the database also holds the effect. */
	bool own = !call->idempotency_key && call->tx && call->entry->action->writes;
	acp_buf_init(sealed, SEALED_MAX);
	if (!call->claimed && !own)
		return true;
	if (own)
		acp_uuid(call->own_key);
	if (!seal_result(call, sealed) || (own && !acp_idempotency_fingerprint(call, call->fingerprint)))
		return false;
	end->claim = acp_idempotency_key(call);
	end->fingerprint = own ? call->fingerprint : NULL;
	end->sealed = (const uint8_t *)sealed->ptr;
	end->sealed_len = sealed->len;
	return true;
}
