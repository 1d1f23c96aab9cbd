/* Stripe's events (stripe_events.c), signed: the body is the input. An incomplete event is refused with a message. Of
 * a complete one, only the parts that its effect needs reach the hub, as strings of usable length. */
#include "../../unit/fake_plane.h"
#include "crypto.h"
#include "../fuzz.h"
#include "log.h"
#include "stripe_events.h"

#include <time.h>

#define SECRET "whsec_fuzz0123456789"

static struct acp_config config;
static struct fake_plane fake;
static struct acp_kernel kernel;
static struct json_object *hub_input;

static enum acp_code stripe_event(void *self, struct json_object *what, struct json_object **reply,
				  struct acp_refusal *refusal)
{
	(void)self;
	(void)refusal;
	FUZZ_CHECK(!hub_input, "one event reaches the hub twice");
	hub_input = json_object_get(what);
	*reply = json_object_new_object();
	acp_json_add_string(*reply, "effect", "none");
	return ACP_OK;
}

static void begin(void)
{
	static bool begun;
	if (begun)
		return;
	begun = true;
	acp_log_open("text", "error", "/dev/null");
	fake_config_init(&config);
	fake_plane_init(&fake);
	fake.plane.payments.stripe_event = stripe_event;
	free(config.stripe_webhook_secret);
	config.stripe_webhook_secret = strdup(SECRET);
	kernel = (struct acp_kernel){.config = &config, .plane = &fake.plane};
}

static void sign(const char *body, size_t len, char header[128])
{
	uint8_t mac[ACP_SHA256_LEN];
	char hex[ACP_SHA256_HEX];
	struct acp_buf text;
	acp_buf_init(&text, len + 64);
	long long now = (long long)time(NULL);
	acp_buf_printf(&text, "%lld.", now);
	acp_buf_add(&text, body, len);
	acp_hmac_sha256(SECRET, strlen(SECRET), text.ptr, text.len, mac);
	acp_hex(mac, sizeof mac, hex);
	snprintf(header, 128, "t=%lld,v1=%s", now, hex);
	acp_buf_release(&text);
}

/* None of these names belongs to a person or a card. */
static void check_hub_input(void)
{
	json_object_object_foreach(hub_input, name, value)
	{
		FUZZ_CHECK(acp_word_in_list("event_id type created livemode object_id customer client_reference_id "
					    "tenant_uuid setup_intent mode status invoice payment_intent charge amount "
					    "amount_refunded default_changed default_method former_told former_default "
					    "foreign grace_days event",
					    name),
			   "%s reaches the hub", name);
		if (json_object_is_type(value, json_type_string))
			FUZZ_CHECK(json_object_get_string_len(value) > 0 && json_object_get_string_len(value) <= 255,
				   "%s has %d bytes", name, json_object_get_string_len(value));
	}
	FUZZ_CHECK(acp_json_string(hub_input, "event_id") && acp_json_string(hub_input, "type") &&
			   acp_json_member(hub_input, "created") && acp_json_member(hub_input, "event"),
		   "a member is missing");
}

void fuzz_stripe_event(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	struct acp_reply reply;
	struct acp_request request = {.request_id = FAKE_TENANT, .method = "POST", .started_us = 1};
	char header[128];
	begin();
	char *body = fuzz_rest(&in, &request.body_len);
	request.body = body;
	sign(body, request.body_len, header);
	acp_stripe_events_take(&kernel, &request, header, &reply);
	FUZZ_CHECK(reply.body && reply.http == acp_code_http(reply.code), "%d", reply.http);
	FUZZ_CHECK((reply.code == ACP_OK) == (hub_input != NULL), "code %s", acp_code_name(reply.code));
	FUZZ_CHECK(reply.code == ACP_OK || reply.code == ACP_VALIDATION_ERROR, "code %s", acp_code_name(reply.code));
	/* Signed bytes need not be strict JSON. But what is valid and has an id is accepted. */
	struct oracle oracle = oracle_read(data, size);
	FUZZ_CHECK(oracle.valid || oracle.too_deep || reply.code != ACP_OK || memchr(data, '{', size),
		   "no object, but accepted");
	if (hub_input)
		check_hub_input();
	else
		FUZZ_CHECK(acp_json_string(reply.body, "error") && acp_json_string(reply.body, "field"), "no reason");
	json_object_put(hub_input);
	hub_input = NULL;
	json_object_put(reply.body);
	free(body);
	fake_plane_forget(&fake);
}
