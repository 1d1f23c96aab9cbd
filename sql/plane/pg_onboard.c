/* Onboarding: creates a tenant with its first key. */
#include "pg_parts.h"

#include "clock.h"
#include "json.h"
#include "thread.h"

#include <time.h>

static struct json_object *onboarding_json(const struct acp_onboarding *in)
{
	struct json_object *p = json_object_new_object();
	struct json_object *scopes = json_object_new_array();
	bool ok = p && scopes;
	for (const char *at = in->scopes; ok && *(at += strspn(at, " "));) {
		size_t len = strcspn(at, " ");
		ok = json_object_array_add(scopes, json_object_new_string_len(at, (int)len)) == 0;
		at += len;
	}
	ok = ok && acp_json_add_string(p, "product", in->product) && acp_json_add_string(p, "agent_id", in->agent_id) &&
	     acp_json_add_string(p, "email", in->email) && acp_json_add_string(p, "tenant_id", in->tenant_id) &&
	     acp_json_add_string(p, "api_key_id", in->api_key_id) &&
	     acp_json_add_string(p, "key_prefix", in->key_shown) && acp_json_add_string(p, "key_name", "first key") &&
	     acp_json_add_string(p, "salt", in->salt) && acp_json_add_string(p, "fingerprint", in->fingerprint) &&
	     acp_json_add(p, "scopes", json_object_get(scopes)) &&
	     acp_json_add(p, "per_email", json_object_new_int64(in->per_email)) &&
	     acp_json_add(p, "customer", json_object_new_boolean(in->customer)) &&
	     (!in->organization_name || acp_json_add_string(p, "organization_name", in->organization_name)) &&
	     acp_json_add_string(p, "idempotency_key", in->idempotency_key);
	json_object_put(scopes);
	if (ok)
		return p;
	json_object_put(p);
	return NULL;
}

static enum acp_code read_onboarded(const PGresult *rows, struct acp_onboarded *out)
{
	const char *verdict = PQgetvalue(rows, 0, 0);
	if (strcmp(verdict, "taken") == 0)
		return ACP_ALREADY_ONBOARDED;
	if (strcmp(verdict, "mismatch") == 0)
		return ACP_IDEMPOTENCY_MISMATCH;
	out->replay = strcmp(verdict, "replay") == 0;
	acp_pg_column(out->tenant_id, sizeof out->tenant_id, rows, 1);
	acp_pg_column(out->api_key_id, sizeof out->api_key_id, rows, 2);
	acp_pg_column(out->salt, sizeof out->salt, rows, 3);
	out->created_at = strtoll(PQgetvalue(rows, 0, 4), NULL, 10);
	out->pricing = acp_json_own(PQgetvalue(rows, 0, 5));
	return ACP_OK;
}

/* If it is unknown whether the tenant was created, sends the same statement again: it recognises its own tenant, does
 * not create it twice, and waits for a commit that is in progress. Keeps trying even if the server is away for other
 * callers: nobody else has the tenant's key. */
static enum acp_db_status create_tenant(struct acp_pg_plane *pg, const char *sql, const char *const *values,
					PGresult **rows, struct acp_db_error *error)
{
	const struct timespec pause = {.tv_nsec = 100 * 1000000L};
	uint64_t deadline = acp_monotonic_us() + (uint64_t)pg->config->db_commit_timeout * 1000u;
	enum acp_db_status status = acp_db_write(pg->pool, NULL, sql, 4, values, 0, rows, error);
	if (status != ACP_DB_UNKNOWN)
		return status;
	acp_thread_blocks();
	while (status != ACP_DB_OK && acp_monotonic_us() < deadline) {
		nanosleep(&pause, NULL);
		status = acp_db_write(pg->pool, NULL, sql, 4, values, 0, rows, error);
	}
	acp_thread_goes_on();
	return status == ACP_DB_OK ? status : ACP_DB_UNKNOWN;
}

enum acp_code acp_pg_onboard(void *self, const struct acp_onboarding *in, struct acp_onboarded *out)
{
	static const char sql[] =
		"SELECT o.verdict, o.tenant_id, o.api_key_id, o.salt, floor(extract(epoch FROM o.created_at))::bigint,"
		" acp.usage_prices($4) FROM acp.onboard($1, $2, $3) o";
	struct acp_pg_plane *pg = self;
	struct acp_db_error error = {0};
	PGresult *rows = NULL;
	char hash[2 * ACP_SHA256_LEN + 3];
	struct json_object *p = onboarding_json(in);
	if (!p)
		return ACP_INTERNAL_ERROR;
	acp_db_bytea(in->key_hash, ACP_SHA256_LEN, hash);
	const char *values[] = {acp_pg_text(p), hash, acp_pg_text(in->event), acp_pg_text(in->priced)};
	enum acp_db_status status = create_tenant(pg, sql, values, &rows, &error);
	enum acp_code code = acp_pg_code(status, &error, "onboard");
	json_object_put(p);
	if (code == ACP_OK)
		code = read_onboarded(rows, out);
	PQclear(rows);
	return code;
}
