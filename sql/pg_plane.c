#include "pg_plane.h"

#include "db.h"
#include "json.h"
#include "log.h"

struct acp_pg_plane {
	const struct acp_config *config;
	struct acp_db_pool *pool;
	char free_limit[24]; /* settings as the statements take them */
	char reservation_ttl[24];
	char idempotency_lease[24];
	char warn_at_percent[24];
};

struct acp_tx {
	struct acp_pg_plane *pg;
	struct acp_db_conn *conn;
	bool read_only;
};

/* Errors ------------------------------------------------------------------------------------------------------- */

/* acp.fail() in SQL: code in the hint, member in the detail. */
static bool is_refusal(const struct acp_db_error *error)
{
	return strcmp(error->sqlstate, "ACP01") == 0;
}

/* What the caller is told; what happened goes to the log. */
static enum acp_code code_of(enum acp_db_status status, const struct acp_db_error *error, const char *what)
{
	if (status == ACP_DB_OK)
		return ACP_OK;
	if (is_refusal(error)) {
		enum acp_code code = acp_code_of(error->hint);
		return acp_code_outcome(code) == ACP_SUCCESS ? ACP_INTERNAL_ERROR : code; /* a refusal is no success */
	}
	acp_log(ACP_LOG_ERROR, "database: %s: %s%s%s", what, error->message, *error->sqlstate ? " SQLSTATE " : "",
		error->sqlstate);
	return status == ACP_DB_LOST ? ACP_UNAVAILABLE : ACP_INTERNAL_ERROR;
}

static void copy_column(char *out, size_t size, const PGresult *rows, int column)
{
	snprintf(out, size, "%s", PQgetvalue(rows, 0, column));
}

static const char *event_text(struct json_object *event)
{
	return json_object_to_json_string_ext(event, JSON_C_TO_STRING_PLAIN);
}

static enum acp_tier tier_of(const char *text)
{
	return strcmp(text, "paid") == 0 ? ACP_TIER_PAID : ACP_TIER_FREE;
}

/* Who calls ---------------------------------------------------------------------------------------------------- */

static enum acp_code authenticate(void *self, const uint8_t key_hash[ACP_SHA256_LEN], struct acp_principal *out)
{
	static const char sql[] = "SELECT to_char(ts AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US\"+00\"'), tenant_id,"
				  " api_key_id, key_prefix, ' ' || array_to_string(scopes, ' ') || ' ', tier,"
				  " coalesce(rate_limit, 0), policed"
				  " FROM acp.authenticate($1)";
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	PGresult *rows = NULL;
	char hash[2 * ACP_SHA256_LEN + 3];
	acp_db_bytea(key_hash, ACP_SHA256_LEN, hash);
	const char *values[] = {hash};
	enum acp_code code = code_of(acp_db_read(pg->pool, sql, 1, values, &rows, &error), &error, "authenticate");
	if (code != ACP_OK)
		return code;
	copy_column(out->ts, sizeof out->ts, rows, 0);
	if (PQgetisnull(rows, 0, 1)) {
		code = ACP_INVALID_API_KEY;
	} else {
		copy_column(out->tenant_id, sizeof out->tenant_id, rows, 1);
		copy_column(out->api_key_id, sizeof out->api_key_id, rows, 2);
		copy_column(out->key_shown, sizeof out->key_shown, rows, 3);
		copy_column(out->scopes, sizeof out->scopes, rows, 4);
		out->tier = tier_of(PQgetvalue(rows, 0, 5));
		out->rate_limit = strtoll(PQgetvalue(rows, 0, 6), NULL, 10);
		out->policed = *PQgetvalue(rows, 0, 7) == 't';
	}
	PQclear(rows);
	return code;
}

/* Usage -------------------------------------------------------------------------------------------------------- */

/* Runs a statement whose one column is jsonb (or null). */
static enum acp_code fetch_json(struct acp_db_conn *conn, struct acp_db_pool *pool, const char *sql, int count,
				const char *const *values, struct json_object **out, struct acp_db_error *error,
				const char *what)
{
	PGresult *rows = NULL;
	enum acp_db_status status = conn ? acp_db_exec(conn, sql, count, values, 0, &rows, error)
					 : acp_db_read(pool, sql, count, values, &rows, error);
	enum acp_code code = code_of(status, error, what);
	if (code != ACP_OK)
		return code;
	*out = NULL;
	if (PQntuples(rows) == 1 && !PQgetisnull(rows, 0, 0)) {
		struct json_tokener *tokener = json_tokener_new_ex(128);
		*out = tokener ? json_tokener_parse_ex(tokener, PQgetvalue(rows, 0, 0), PQgetlength(rows, 0, 0) + 1)
			       : NULL;
		bool parsed = tokener && json_tokener_get_error(tokener) == json_tokener_success;
		json_tokener_free(tokener);
		code = parsed ? ACP_OK : ACP_INTERNAL_ERROR;
	}
	PQclear(rows);
	return code;
}

static enum acp_code get_usage(void *self, const char *tenant_id, const char *period, struct json_object **usage)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	const char *values[] = {tenant_id, period, pg->free_limit};
	return fetch_json(NULL, pg->pool, "SELECT acp.usage($1, ($2 || '-01')::date, $3)", 3, values, usage, &error,
			  "usage");
}

static enum acp_code get_price(void *self, const char *unit, const char *action, int64_t quantity,
			       struct json_object **price)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	char number[24];
	snprintf(number, sizeof number, "%lld", (long long)quantity);
	const char *values[] = {unit, action, number};
	return fetch_json(NULL, pg->pool, "SELECT acp.pricing($1, $2, $3)", 3, values, price, &error, "price");
}

static enum acp_code reserve(void *self, const char *tenant_id, const char *event_id, const char *ts,
			     struct acp_reservation *out)
{
	static const char sql[] = "SELECT allowed, tier, calls_used, calls_limit"
				  " FROM acp.usage_reserve($1, $2, $3, $4, make_interval(secs => $5))";
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	PGresult *rows = NULL;
	const char *values[] = {tenant_id, event_id, ts, pg->free_limit, pg->reservation_ttl};
	enum acp_code code =
		code_of(acp_db_once(pg->pool, sql, 5, values, (int)pg->config->usage_timeout, &rows, &error), &error,
			"usage check");
	if (code != ACP_OK)
		return code;
	out->allowed = *PQgetvalue(rows, 0, 0) == 't';
	out->tier = tier_of(PQgetvalue(rows, 0, 1));
	out->limited = !PQgetisnull(rows, 0, 3);
	out->calls_used = strtoll(PQgetvalue(rows, 0, 2), NULL, 10);
	out->calls_limit = strtoll(PQgetvalue(rows, 0, 3), NULL, 10);
	PQclear(rows);
	return ACP_OK;
}

static enum acp_code live_count(void *self, const char *tenant_id, const char *resource, int64_t *count)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	PGresult *rows = NULL;
	const char *values[] = {tenant_id, resource};
	enum acp_code code = code_of(
		acp_db_once(pg->pool, "SELECT acp.live_count($1, $2)", 2, values, 0, &rows, &error), &error, "ceiling");
	if (code == ACP_OK)
		*count = strtoll(PQgetvalue(rows, 0, 0), NULL, 10);
	PQclear(rows);
	return code;
}

static enum acp_code authorize(void *self, struct json_object *query, struct json_object **decision)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	const char *values[] = {event_text(query)};
	return fetch_json(NULL, pg->pool, "SELECT acp.authorize($1)", 1, values, decision, &error, "policy");
}

/* What a function that refused says to the caller. */
static void read_refusal(enum acp_code code, const struct acp_db_error *error, struct acp_refusal *refusal)
{
	if (code == ACP_OK || !is_refusal(error))
		return;
	snprintf(refusal->message, sizeof refusal->message, "%s", error->message);
	snprintf(refusal->field, sizeof refusal->field, "%s", error->detail);
}

/* The call's transaction --------------------------------------------------------------------------------------- */

static void end_tx(struct acp_tx *tx)
{
	acp_db_give(tx->pg->pool, tx->conn);
	free(tx);
}

static enum acp_code begin(void *self, bool read_only, struct acp_tx **out)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	struct acp_tx *tx = calloc(1, sizeof *tx);
	if (!tx)
		return ACP_INTERNAL_ERROR;
	tx->pg = pg;
	tx->read_only = read_only;
	tx->conn = acp_db_take(pg->pool, &error);
	if (!tx->conn) {
		free(tx);
		return code_of(ACP_DB_LOST, &error, "begin");
	}
	enum acp_db_status status =
		acp_db_exec(tx->conn, read_only ? "BEGIN READ ONLY" : "BEGIN", 0, NULL, 0, NULL, &error);
	if (status == ACP_DB_OK) {
		*out = tx;
		return ACP_OK;
	}
	end_tx(tx);
	return code_of(status, &error, "begin");
}

static void rollback(struct acp_tx *tx)
{
	struct acp_db_error error;
	/* A connection that cannot roll back is closed by end_tx, which rolls back too. */
	if (acp_db_exec(tx->conn, "ROLLBACK", 0, NULL, 0, NULL, &error) != ACP_DB_OK)
		acp_log(ACP_LOG_WARNING, "database: rollback: %s", error.message);
	end_tx(tx);
}

/* Length of the identifier at the start of a text; 0: there is none. */
static size_t identifier(const char *text)
{
	size_t len = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_");
	return len <= 63 ? len : 0;
}

/* The function as SQL names it: acp.<name>, or "schema"."name". Names come from the action registry, never from a
 * request; still, nothing but two identifiers may get through. */
static bool function_name(const char *function, char out[160])
{
	size_t first = identifier(function);
	const char *rest = function + first;
	size_t second = *rest == '.' ? identifier(rest + 1) : 0;
	if (first && !*rest)
		snprintf(out, 160, "acp.%s", function);
	else if (first && second && !rest[1 + second])
		snprintf(out, 160, "\"%.*s\".\"%s\"", (int)first, function, rest + 1);
	else
		return false;
	return true;
}

static enum acp_code run(struct acp_tx *tx, const char *function, const char *tenant_id, struct json_object *params,
			 struct json_object *ctx, struct json_object **data, struct acp_refusal *refusal)
{
	char name[160];
	char sql[256];
	struct acp_db_error error;
	if (!function_name(function, name))
		return ACP_INTERNAL_ERROR;
	snprintf(sql, sizeof sql, "SELECT %s($1::uuid, $2::jsonb, $3::jsonb)", name);
	const char *values[] = {tenant_id, event_text(params), event_text(ctx)};
	enum acp_code code = fetch_json(tx->conn, NULL, sql, 3, values, data, &error, function);
	/* Elsewhere that state tells of a standby, and that trying again helps. */
	if (code == ACP_UNAVAILABLE && tx->read_only && strcmp(error.sqlstate, "25006") == 0)
		code = ACP_INTERNAL_ERROR;
	read_refusal(code, &error, refusal);
	return code;
}

/* The end of a call -------------------------------------------------------------------------------------------- */

/* With a remote hub the allowance is kept there. */
static bool enforces_here(const struct acp_config *config)
{
	return config->usage_enforcement && !*config->hub_url;
}

/* acp.settle() on a connection, or (conn NULL) on any. *used is -1 where no free call was used. */
static enum acp_db_status settle_on(struct acp_pg_plane *pg, struct acp_db_conn *conn, const struct acp_settlement *end,
				    int timeout_ms, int64_t *used, struct acp_db_error *error)
{
	static const char sql[] = "SELECT acp.settle($1, $2, $3, $4, $5, $6, $7)";
	PGresult *rows = NULL;
	char *sealed = end->sealed ? malloc(2 * end->sealed_len + 3) : NULL;
	if (sealed)
		acp_db_bytea(end->sealed, end->sealed_len, sealed);
	const char *values[] = {event_text(end->event),
				end->reserved ? acp_json_string(end->event, "event_id") : NULL,
				enforces_here(pg->config) ? pg->free_limit : NULL,
				end->claim,
				sealed,
				end->approval,
				pg->warn_at_percent};
	enum acp_db_status status = conn ? acp_db_exec(conn, sql, 7, values, timeout_ms, &rows, error)
					 : acp_db_once(pg->pool, sql, 7, values, timeout_ms, &rows, error);
	free(sealed);
	if (status == ACP_DB_OK) {
		*used = PQgetisnull(rows, 0, 0) ? -1 : strtoll(PQgetvalue(rows, 0, 0), NULL, 10);
		PQclear(rows);
	}
	return status;
}

static enum acp_code settle(void *self, struct acp_tx *tx, const struct acp_settlement *end, int64_t *used)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	*used = -1;
	enum acp_db_status status = settle_on(pg, tx ? tx->conn : NULL, end, 0, used, &error);
	if (tx && status == ACP_DB_OK)
		status = acp_db_exec(tx->conn, "COMMIT", 0, NULL, 0, NULL, &error);
	if (tx && status == ACP_DB_OK)
		end_tx(tx);
	else if (tx)
		rollback(tx);
	return code_of(status, &error, "settle");
}

static enum acp_code record(void *self, const struct acp_settlement *end)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	int64_t used;
	/* A call that found the database away has waited long enough. */
	const char *code = acp_json_string(end->event, "error_code");
	int timeout_ms = code && strcmp(code, acp_code_name(ACP_UNAVAILABLE)) == 0 ? 1000 : 0;
	return code_of(settle_on(pg, NULL, end, timeout_ms, &used, &error), &error, "audit");
}

/* Idempotency -------------------------------------------------------------------------------------------------- */

static enum acp_claim_verdict verdict_of(const char *text)
{
	static const char *const words[] = {"run", "replay", "conflict", "mismatch"};
	for (size_t i = 0; i < ACP_COUNT(words); i++)
		if (strcmp(words[i], text) == 0)
			return (enum acp_claim_verdict)i;
	return ACP_CLAIM_CONFLICT;
}

static enum acp_code claim(void *self, const char *tenant_id, const char *action, const char *key,
			   const char *fingerprint, const char *event_id, struct acp_claim *out)
{
	static const char sql[] =
		"SELECT verdict, sealed FROM acp.idempotency_claim($1, $2, $3, $4, $5, make_interval(secs => $6))";
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	PGresult *rows = NULL;
	const char *values[] = {tenant_id, action, key, fingerprint, event_id, pg->idempotency_lease};
	enum acp_code code = code_of(acp_db_once(pg->pool, sql, 6, values, 0, &rows, &error), &error, "claim");
	if (code != ACP_OK)
		return code;
	*out = (struct acp_claim){.verdict = verdict_of(PQgetvalue(rows, 0, 0))};
	if (out->verdict == ACP_CLAIM_REPLAY && !PQgetisnull(rows, 0, 1)) {
		unsigned char *bytes = PQunescapeBytea((const unsigned char *)PQgetvalue(rows, 0, 1), &out->sealed_len);
		out->sealed = bytes ? malloc(out->sealed_len + 1) : NULL;
		if (out->sealed)
			memcpy(out->sealed, bytes, out->sealed_len);
		PQfreemem(bytes);
	}
	PQclear(rows);
	return ACP_OK;
}

/* Other kernels ------------------------------------------------------------------------------------------------ */

static enum acp_code hub(void *self, const char *name, struct json_object *body, struct json_object *ctx,
			 struct json_object **reply, struct acp_refusal *refusal)
{
	char sql[128];
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	if (name[strspn(name, "abcdefghijklmnopqrstuvwxyz_")] ||
	    !acp_json_add_string(ctx, "free_limit", pg->free_limit) ||
	    !acp_json_add_string(ctx, "reservation_ttl", pg->reservation_ttl))
		return ACP_INTERNAL_ERROR;
	snprintf(sql, sizeof sql, "SELECT acp.hub_%s($1, $2)", name);
	const char *values[] = {event_text(body), event_text(ctx)};
	enum acp_code code = fetch_json(NULL, pg->pool, sql, 2, values, reply, &error, name);
	read_refusal(code, &error, refusal);
	return code;
}

/* Audit events for a remote hub -------------------------------------------------------------------------------- */

static enum acp_code outbox_take(void *self, int64_t most, struct acp_tx **out, struct json_object **events)
{
	struct acp_tx *tx = NULL;
	struct acp_db_error error;
	char number[24];
	snprintf(number, sizeof number, "%lld", (long long)most);
	const char *values[] = {number};
	enum acp_code code = begin(self, false, &tx);
	if (code != ACP_OK)
		return code;
	code = fetch_json(tx->conn, NULL, "SELECT acp.outbox_take($1)", 1, values, events, &error, "outbox");
	bool some = code == ACP_OK && json_object_array_length(*events) > 0;
	if (!some)
		rollback(tx);
	*out = some ? tx : NULL;
	return code;
}

static enum acp_code outbox_done(struct acp_tx *tx, enum acp_delivery delivery, struct json_object *events,
				 const char *reason)
{
	struct acp_db_error error;
	enum acp_db_status status = ACP_DB_OK;
	if (delivery == ACP_DELIVERY_REFUSED) {
		const char *values[] = {event_text(json_object_array_get_idx(events, 0)), reason};
		status = acp_db_exec(tx->conn, "SELECT acp.outbox_refused($1, $2)", 2, values, 0, NULL, &error);
	}
	if (delivery != ACP_NOT_DELIVERED && status == ACP_DB_OK)
		status = acp_db_exec(tx->conn, "COMMIT", 0, NULL, 0, NULL, &error);
	if (delivery != ACP_NOT_DELIVERED && status == ACP_DB_OK)
		end_tx(tx);
	else
		rollback(tx);
	return code_of(status, &error, "outbox");
}

/* Onboarding --------------------------------------------------------------------------------------------------- */

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
	     (!in->organization_name || acp_json_add_string(p, "organization_name", in->organization_name)) &&
	     (!in->idempotency_key || acp_json_add_string(p, "idempotency_key", in->idempotency_key));
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
	copy_column(out->tenant_id, sizeof out->tenant_id, rows, 1);
	copy_column(out->api_key_id, sizeof out->api_key_id, rows, 2);
	copy_column(out->salt, sizeof out->salt, rows, 3);
	out->created_at = strtoll(PQgetvalue(rows, 0, 4), NULL, 10);
	out->pricing = json_tokener_parse(PQgetvalue(rows, 0, 5));
	return ACP_OK;
}

static enum acp_code onboard(void *self, const struct acp_onboarding *in, struct acp_onboarded *out)
{
	static const char sql[] =
		"SELECT o.verdict, o.tenant_id, o.api_key_id, o.salt, floor(extract(epoch FROM o.created_at))::bigint,"
		" acp.pricing('call', '*', 1) FROM acp.onboard($1, $2, $3) o";
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	PGresult *rows = NULL;
	char hash[2 * ACP_SHA256_LEN + 3];
	struct json_object *p = onboarding_json(in);
	if (!p)
		return ACP_INTERNAL_ERROR;
	acp_db_bytea(in->key_hash, ACP_SHA256_LEN, hash);
	const char *values[] = {event_text(p), hash, event_text(in->event)};
	enum acp_db_status status = acp_db_once(pg->pool, sql, 3, values, 0, &rows, &error);
	enum acp_code code = code_of(status, &error, "onboard");
	json_object_put(p);
	if (code == ACP_OK)
		code = read_onboarded(rows, out);
	PQclear(rows);
	return code;
}

/* Webhooks ----------------------------------------------------------------------------------------------------- */

static enum acp_code deliveries_take(void *self, int max, int lease, struct json_object **list)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	char most[16], seconds[16];
	snprintf(most, sizeof most, "%d", max);
	snprintf(seconds, sizeof seconds, "%d", lease);
	const char *values[] = {most, seconds};
	return fetch_json(NULL, pg->pool, "SELECT acp.deliveries_take($1, make_interval(secs => $2))", 2, values, list,
			  &error, "webhook deliveries");
}

static enum acp_code delivery_done(void *self, struct json_object *outcome)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	const char *values[] = {event_text(outcome)};
	return code_of(acp_db_once(pg->pool, "SELECT acp.delivery_done($1)", 1, values, 0, NULL, &error), &error,
		       "end of a webhook delivery");
}

/* Readiness ---------------------------------------------------------------------------------------------------- */

static enum acp_code ready(void *self, char *why, size_t why_size)
{
	static const char sql[] =
		"SELECT max(version), coalesce(max(version) FILTER (WHERE breaking), 0) FROM acp.schema_migrations";
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	PGresult *rows = NULL;
	enum acp_db_status status = acp_db_once(pg->pool, sql, 0, NULL, 2000, &rows, &error);
	if (status != ACP_DB_OK) {
		snprintf(why, why_size, "%s: %s",
			 status == ACP_DB_LOST ? "database not reachable" : "schema missing, run acpctl migrate",
			 error.message);
		return ACP_UNAVAILABLE;
	}
	long long version = strtoll(PQgetvalue(rows, 0, 0), NULL, 10);
	long long breaking = strtoll(PQgetvalue(rows, 0, 1), NULL, 10);
	PQclear(rows);
	if (version < ACP_SCHEMA_VERSION)
		snprintf(why, why_size, "the schema has version %lld, this program needs %d: run acpctl migrate",
			 version, ACP_SCHEMA_VERSION);
	else if (breaking > ACP_SCHEMA_VERSION)
		snprintf(why, why_size,
			 "the schema has the breaking version %lld, this program knows up to %d: upgrade acp-fcgi",
			 breaking, ACP_SCHEMA_VERSION);
	else
		return ACP_OK;
	return ACP_UNAVAILABLE;
}

static void maintain(void *self)
{
	struct acp_pg_plane *pg = self;
	struct acp_db_error error;
	if (acp_db_once(pg->pool, "SELECT acp.maintain()", 0, NULL, 0, NULL, &error) != ACP_DB_OK)
		acp_log(ACP_LOG_WARNING, "database: maintenance: %s", error.message);
}

struct acp_pg_plane *acp_pg_plane_new(const struct acp_config *config, struct acp_control_plane *plane)
{
	struct acp_pg_plane *pg = calloc(1, sizeof *pg);
	if (!pg)
		return NULL;
	pg->config = config;
	pg->pool = acp_db_pool_new(config->database_url, (int)config->db_connections, (int)config->db_connect_timeout,
				   (int)config->db_timeout);
	if (!pg->pool) {
		free(pg);
		return NULL;
	}
	snprintf(pg->free_limit, sizeof pg->free_limit, "%lld", (long long)config->free_calls_limit);
	snprintf(pg->reservation_ttl, sizeof pg->reservation_ttl, "%lld", (long long)config->reservation_ttl);
	snprintf(pg->idempotency_lease, sizeof pg->idempotency_lease, "%lld", (long long)config->idempotency_lease);
	snprintf(pg->warn_at_percent, sizeof pg->warn_at_percent, "%lld", (long long)config->warn_at_percent);
	*plane = (struct acp_control_plane){
		.self = pg,
		.authenticate = authenticate,
		.get_usage = get_usage,
		.reserve = reserve,
		.get_price = get_price,
		.live_count = live_count,
		.authorize = authorize,
		.begin = begin,
		.run = run,
		.rollback = rollback,
		.claim = claim,
		.settle = settle,
		.record = record,
		.hub = hub,
		.outbox_take = outbox_take,
		.outbox_done = outbox_done,
		.onboard = onboard,
		.deliveries_take = deliveries_take,
		.delivery_done = delivery_done,
		.maintain = maintain,
		.ready = ready,
	};
	return pg;
}

void acp_pg_plane_free(struct acp_pg_plane *pg)
{
	if (pg)
		acp_db_pool_free(pg->pool);
	free(pg);
}
