/* embed.c - an embedding host for the router: no web server, no FastCGI, no PostgreSQL. tests/install builds it
 * against an installed libacp with only the flags of pkg-config. It serves three calls with a control plane of forty
 * lines, and fails if a reply or an audit row is wrong. */
#include <acp.h>
#include <clock.h>
#include <kernel.h>
#include <pipeline.h>

#define TENANT "11111111-2222-4333-8444-555555555555"
#define KEY_ID "99999999-8888-4777-8666-555555555555"
#define PEPPER "0123456789abcdef0123456789abcdef"

/* --- a control plane: one key, and a list of audit rows in memory ------------------------------------------------- */

struct memory {
	uint8_t key_hash[ACP_SHA256_LEN];
	struct json_object *rows;
};

static enum acp_code authenticate(void *self, const uint8_t hash[ACP_SHA256_LEN], struct acp_principal *out)
{
	const struct memory *memory = self;
	snprintf(out->ts, sizeof out->ts, "2026-11-22 09:30:00.123456+00");
	if (memcmp(hash, memory->key_hash, ACP_SHA256_LEN) != 0)
		return ACP_INVALID_API_KEY;
	snprintf(out->tenant_id, sizeof out->tenant_id, TENANT);
	snprintf(out->api_key_id, sizeof out->api_key_id, KEY_ID);
	snprintf(out->scopes, sizeof out->scopes, " manage.domain ");
	out->tier = ACP_TIER_PAID;
	return ACP_OK;
}

static enum acp_code keep(struct memory *memory, const struct acp_event *event)
{
	return json_object_array_add(memory->rows, acp_event_json(event)) == 0 ? ACP_OK : ACP_INTERNAL_ERROR;
}

static enum acp_code settle(void *self, struct acp_tx *tx, const struct acp_settlement *end, int64_t *calls_used)
{
	(void)tx;
	*calls_used = -1;
	return keep(self, end->event);
}

static enum acp_code record(void *self, const struct acp_settlement *end)
{
	return keep(self, end->event);
}

/* --- a pack: one action ------------------------------------------------------------------------------------------- */

static enum acp_code shout(struct acp_call *call, struct json_object *params, struct acp_result *result)
{
	char text[128];
	const char *given = acp_json_string(params, "text");
	if (!given)
		return acp_call_fail(call, ACP_VALIDATION_ERROR, "/params/text", "text is missing");
	snprintf(text, sizeof text, "%s!", given);
	result->data = json_object_new_object();
	return acp_json_add_string(result->data, "text", text) ? ACP_OK : ACP_INTERNAL_ERROR;
}

static const struct acp_action actions[] = {
	{.name = "embed.shout",
	 .scope = "manage.domain",
	 .description = "Says it louder.",
	 .params_schema = "{\"type\":\"object\",\"required\":[\"text\"],\"additionalProperties\":false,"
			  "\"properties\":{\"text\":{\"type\":\"string\",\"maxLength\":100}}}",
	 .run = shout,
	 .billable = true},
	{0},
};
static const struct acp_pack pack = {"embed", actions};

/* --- the host ----------------------------------------------------------------------------------------------------- */

/* True if the call ends with this status and leaves a row with that one. */
static bool call(const struct acp_kernel *kernel, const struct memory *memory, const char *key, const char *body,
		 int http, const char *row_status)
{
	char id[ACP_UUID_LEN];
	struct acp_reply reply = {0};
	size_t before = json_object_array_length(memory->rows);
	acp_uuid(id);
	const struct acp_request request = {.request_id = id,
					    .method = "POST",
					    .content_type = "application/json",
					    .credential = key,
					    .ip_address = "192.0.2.1",
					    .body = body,
					    .body_len = strlen(body),
					    .started_us = acp_monotonic_us()};
	acp_manage(kernel, &request, &reply);
	struct json_object *row = json_object_array_get_idx(memory->rows, before);
	const char *status = acp_json_string(row, "status");
	bool good = reply.http == http && json_object_array_length(memory->rows) == before + 1 && status &&
		    strcmp(status, row_status) == 0;
	printf("%s %d %s: %s\n", good ? "ok" : "not ok", reply.http, status ? status : "no row",
	       json_object_to_json_string_ext(reply.body, JSON_C_TO_STRING_PLAIN));
	json_object_put(reply.body);
	return good;
}

static bool serve(const struct acp_kernel *kernel, const struct memory *memory, const char *key)
{
	const char *good = "{\"action\":\"embed.shout\",\"params\":{\"text\":\"hello\"}}";
	const char *bad = "{\"action\":\"embed.shout\",\"params\":{\"txt\":\"hello\"}}";
	return call(kernel, memory, key, good, 200, "success") & call(kernel, memory, key, bad, 400, "error") &
	       call(kernel, memory, NULL, good, 401, "denied");
}

int main(void)
{
	char why[512], key[ACP_KEY_MAX];
	uint8_t seed[32] = {7};
	struct acp_config config;
	struct acp_kernel kernel;
	struct memory memory = {.rows = json_object_new_array()};
	const struct acp_control_plane plane = {
		.self = &memory, .call.authenticate = authenticate, .call.settle = settle, .call.record = record};
	const struct acp_pack *const packs[] = {&pack, NULL};
	setenv("ACP_KEY_PEPPER", PEPPER, 1);
	if (!acp_config_load(&config, "/dev/null", why, sizeof why) ||
	    !acp_kernel_init(&kernel, &config, &plane, packs, why, sizeof why)) {
		fprintf(stderr, "embed: %s\n", why);
		return 1;
	}
	acp_key_from_seed("ock_", seed, key);
	acp_key_hash(PEPPER, key, memory.key_hash);
	bool good = serve(&kernel, &memory, key);
	acp_kernel_release(&kernel);
	acp_config_release(&config);
	json_object_put(memory.rows);
	return good ? 0 : 1;
}
