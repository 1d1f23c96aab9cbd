#include "seal.h"

#include "log.h"
#include "proof.h"

/* Signs the row of acp.audit_seal_next() and stores it. */
static enum acp_db_status store(struct acp_db_conn *conn, const char *pepper, const PGresult *next,
				struct acp_seal_made *made, struct acp_db_error *error)
{
	struct acp_buf text;
	uint8_t digest[ACP_SHA256_LEN];
	char signature[ACP_SHA256_HEX];
	struct acp_head head;
	PGresult *rows = NULL;
	struct acp_seal seal = {.id = strtoll(PQgetvalue(next, 0, 0), NULL, 10),
				.at = PQgetvalue(next, 0, 1),
				.previous = PQgetvalue(next, 0, 2),
				.heads = PQgetvalue(next, 0, 3)};
	for (const char *at = seal.heads; acp_head_next(&at, &head);)
		seal.rows += head.seq;
	acp_buf_init(&text, (size_t)64 << 20);
	acp_seal_text(&seal, &text);
	acp_sha256(text.ptr, text.len, digest);
	acp_hex(digest, sizeof digest, made->hash);
	acp_subkey_hex(pepper, ACP_FOR_AUDIT_SEAL, text.ptr, text.len, signature);
	bool whole = acp_buf_ok(&text);
	acp_buf_release(&text);
	if (!whole) {
		*error = (struct acp_db_error){.message = "out of memory"};
		return ACP_DB_REFUSED;
	}
	const char *values[] = {PQgetvalue(next, 0, 0), seal.at, seal.previous, seal.heads, made->hash, signature};
	enum acp_db_status status = acp_db_exec(
		conn, "SELECT acp.audit_seal_add($1, $2, decode($3, 'hex'), $4, decode($5, 'hex'), decode($6, 'hex'))",
		6, values, 0, &rows, error);
	if (status == ACP_DB_OK) {
		made->id = seal.id;
		made->rows = strtoll(PQgetvalue(rows, 0, 0), NULL, 10);
		PQclear(rows);
	}
	return status;
}

static enum acp_db_status in_transaction(struct acp_db_conn *conn, const struct acp_config *config, int64_t age_ms,
					 struct acp_seal_made *made, struct acp_db_error *error)
{
	char seconds[24];
	PGresult *next = NULL;
	snprintf(seconds, sizeof seconds, "%lld.%03lld", (long long)age_ms / 1000, (long long)age_ms % 1000);
	const char *values[] = {age_ms < 0 ? NULL : seconds};
	enum acp_db_status status = acp_db_exec(
		conn,
		"SELECT seal_id, at, previous, heads FROM acp.audit_seal_next("
		"CASE WHEN $1::double precision IS NOT NULL THEN make_interval(secs => $1::double precision) END)",
		1, values, 0, &next, error);
	if (status == ACP_DB_OK && !PQgetisnull(next, 0, 0))
		status = store(conn, config->key_pepper, next, made, error);
	PQclear(next);
	return status;
}

enum acp_db_status acp_seal_make(struct acp_db_conn *conn, const struct acp_config *config, int64_t age_ms,
				 struct acp_seal_made *made, struct acp_db_error *error)
{
	struct acp_db_error ignored;
	*made = (struct acp_seal_made){0};
	enum acp_db_status status = acp_db_exec(conn, "BEGIN", 0, NULL, 0, NULL, error);
	if (status != ACP_DB_OK)
		return status;
	status = in_transaction(conn, config, age_ms, made, error);
	if (status == ACP_DB_OK)
		return acp_db_commit(conn, error);
	/* The owner closes a connection that cannot roll back. */
	if (acp_db_exec(conn, "ROLLBACK", 0, NULL, 0, NULL, &ignored) != ACP_DB_OK)
		return status;
	return status;
}

void acp_seal_when_due(struct acp_db_pool *pool, const struct acp_config *config)
{
	struct acp_db_error error;
	struct acp_seal_made made;
	if (!config->audit_seal_interval || !*config->key_pepper)
		return;
	struct acp_db_conn *conn = acp_db_acquire(pool, ACP_DB_TO_WRITE, NULL, &error);
	enum acp_db_status status = ACP_DB_AWAY;
	if (conn) {
		/* Upkeep has the same interval. Without slack, a run that is slightly early would skip a whole
		 * interval. */
		status = acp_seal_make(conn, config, config->audit_seal_interval * 900, &made, &error);
		acp_db_release(pool, conn);
	}
	if (status != ACP_DB_OK)
		acp_log(ACP_LOG_WARNING, "database: audit seal: %s", error.message);
	else if (made.id)
		acp_log(ACP_LOG_INFO, "audit seal %lld over %lld rows, hash %s", (long long)made.id,
			(long long)made.rows, made.hash);
}
