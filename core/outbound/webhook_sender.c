#include "webhook_sender.h"

#include "log.h"
#include "outbound_many.h"
#include "webhooks.h"

#include <time.h>

enum {
	CONNECT_TIMEOUT_MS = 5000,
	TIMEOUT_MS = 15000,
	LEASE = 60,         /* seconds; much longer than an attempt and its report take */
	REPLY_MAX = 65536,  /* only the status of the receiver's reply matters */
	TROUBLE_MS = 5000,  /* pause after a failure of the hub */
	PAUSE_MAX = 86400,  /* seconds; a receiver cannot ask for a longer pause */
	SILENT_PAUSE = 60,  /* seconds; of a receiver that did not answer in time */
	FREE_PER_SHARE = 4, /* a tenant gets at most this part of the senders that are free */
};

/* A delivery claimed from the hub. The strings point into its JSON. */
struct delivery {
	const char *tenant_id, *webhook_id, *delivery_id, *url, *payload, *sealed, *sealed_before;
	int64_t attempt;
	int64_t ts;
};

/* An attempt that is running. */
struct attempt {
	struct acp_outbound_job job;
	struct json_object *json;
	struct delivery delivery;
	struct acp_buf signatures;
	char timestamp[24];
	struct acp_header headers[4];
};

struct acp_webhook_sender {
	const struct acp_config *config;
	const struct acp_control_plane *plane;
	struct acp_outbound_many *many;
	size_t running;
	struct json_object *outcomes; /* of attempts that have ended and are not reported yet */
	int64_t wait_ms;
	bool ok;
	_Atomic bool stopping;
};

static bool read_delivery(struct json_object *json, struct delivery *d)
{
	*d = (struct delivery){
		.tenant_id = acp_json_string(json, "tenant_id"),
		.webhook_id = acp_json_string(json, "webhook_id"),
		.delivery_id = acp_json_string(json, "delivery_id"),
		.url = acp_json_string(json, "url"),
		.payload = acp_json_string(json, "payload"),
		.sealed = acp_json_string(json, "sealed"),
		.sealed_before = acp_json_string(json, "sealed_before"),
		.attempt = json_object_get_int64(acp_json_member(json, "attempt")),
		.ts = json_object_get_int64(acp_json_member(json, "ts")),
	};
	return d->tenant_id && d->webhook_id && d->delivery_id && d->url && d->payload && d->sealed;
}

/* Appends the signature made with one secret. False: the secret cannot be read. */
static bool add_signature(const struct acp_config *config, const struct delivery *d, const char *sealed,
			  struct acp_buf *out)
{
	uint8_t secret[ACP_WEBHOOK_SECRET_LEN];
	char signature[ACP_WEBHOOK_SIGNATURE];
	if (!acp_webhook_open_secret(config, d->webhook_id, sealed, secret))
		return false;
	acp_webhook_sign(secret, sizeof secret, d->delivery_id, d->ts, d->payload, signature);
	acp_wipe(secret, sizeof secret);
	acp_buf_printf(out, "%s%s", out->len ? " " : "", signature);
	return true;
}

/* Makes the header webhook-signature: signed with the current secret and, for a day after a rotation, with the previous
 * one too. */
static bool sign_delivery(const struct acp_config *config, const struct delivery *d, struct acp_buf *out)
{
	bool ok = add_signature(config, d, d->sealed, out);
	if (ok && d->sealed_before && !add_signature(config, d, d->sealed_before, out))
		acp_log(ACP_LOG_WARNING, "webhook %s: the previous secret cannot be read", d->webhook_id);
	return ok && acp_buf_ok(out);
}

/* Outcomes ------------------------------------------------------------------------------------------------------ */

/* How an attempt ended. */
struct result {
	int status;        /* 0: the receiver did not answer */
	int64_t asked;     /* seconds that the receiver asked to be left alone; 0: it did not ask */
	bool silent;       /* it did not answer in time */
	const char *error; /* in ASCII */
};

/* Seconds until the next attempt; -1: there is none. */
static double next_attempt(const struct delivery *d, const struct result *result)
{
	uint32_t random;
	acp_random(&random, sizeof random);
	double delay = result->status == 410 ? -1 : acp_webhook_retry_delay(d->attempt, random);
	return delay >= 0 && delay < (double)result->asked ? (double)result->asked : delay;
}

/* The outcome of an attempt, in the form that webhooks.report of the plane expects. NULL: out of memory. */
static struct json_object *outcome_json(const struct delivery *d, const struct result *result)
{
	bool delivered = result->status >= 200 && result->status <= 299;
	double delay = next_attempt(d, result);
	int64_t pause = result->silent ? SILENT_PAUSE : result->asked;
	struct json_object *outcome = json_object_new_object();
	if (outcome && acp_json_add_string(outcome, "tenant_id", d->tenant_id) &&
	    acp_json_add_string(outcome, "webhook_id", d->webhook_id) &&
	    acp_json_add_string(outcome, "delivery_id", d->delivery_id) &&
	    acp_json_add(outcome, "attempt", json_object_new_int64(d->attempt)) &&
	    acp_json_add(outcome, "delivered", json_object_new_boolean(delivered)) &&
	    (!result->status || acp_json_add(outcome, "status", json_object_new_int(result->status))) &&
	    (delivered || acp_json_add_string(outcome, "error", result->error)) &&
	    (delivered || delay < 0 || acp_json_add(outcome, "retry_after", acp_json_double(delay))) &&
	    (pause <= 0 || acp_json_add(outcome, "pause", json_object_new_int64(pause))) &&
	    acp_json_add(outcome, "gone", json_object_new_boolean(result->status == 410)))
		return outcome;
	json_object_put(outcome);
	return NULL;
}

/* Without memory for the outcome, the delivery becomes due again when its lease ends. */
static void add_outcome(struct acp_webhook_sender *sender, const struct delivery *d, const struct result *result)
{
	struct json_object *outcome = outcome_json(d, result);
	if (outcome && json_object_array_add(sender->outcomes, outcome) == 0)
		return;
	json_object_put(outcome);
	acp_log(ACP_LOG_ERROR, "webhook %s: out of memory; the delivery is sent again", d->webhook_id);
}

/* What libcurl says may quote the receiver: its certificate, for example. */
static void only_ascii(char *text)
{
	for (; *text; text++)
		if (*text < ' ' || *text > '~')
			*text = '?';
}

static void read_result(struct attempt *attempt, struct result *result, char *error, size_t size)
{
	struct acp_outbound_job *job = &attempt->job;
	*result = (struct result){.error = error};
	if (job->result == ACP_OUTBOUND_REPLIED) {
		result->status = job->reply.status;
		snprintf(error, size, "the receiver answered with status %d", result->status);
	} else {
		snprintf(error, size, "%s", job->reply.error);
	}
	only_ascii(error);
	result->silent = !result->status && job->took_us > CONNECT_TIMEOUT_MS * 1000ull / 2;
	if (result->status == 429 || result->status == 503)
		result->asked = acp_outbound_retry_after(job->reply.headers[0], (int64_t)time(NULL));
	if (result->asked > PAUSE_MAX)
		result->asked = PAUSE_MAX;
}

/* Attempts ------------------------------------------------------------------------------------------------------ */

static void release_attempt(struct attempt *attempt)
{
	if (!attempt)
		return;
	acp_buf_release(&attempt->job.reply.body);
	acp_buf_release(&attempt->signatures);
	json_object_put(attempt->json);
	free(attempt);
}

static void fill_request(const struct acp_config *config, struct attempt *attempt)
{
	const struct delivery *d = &attempt->delivery;
	snprintf(attempt->timestamp, sizeof attempt->timestamp, "%lld", (long long)d->ts);
	attempt->headers[0] = (struct acp_header){"Content-Type", "application/json"};
	attempt->headers[1] = (struct acp_header){"webhook-id", d->delivery_id};
	attempt->headers[2] = (struct acp_header){"webhook-timestamp", attempt->timestamp};
	attempt->headers[3] = (struct acp_header){"webhook-signature", attempt->signatures.ptr};
	attempt->job.owner = attempt;
	attempt->job.request = (struct acp_outbound_request){
		.method = "POST",
		.url = d->url,
		.headers = attempt->headers,
		.header_count = ACP_COUNT(attempt->headers),
		.body = d->payload,
		.body_len = strlen(d->payload),
		.connect_timeout_ms = CONNECT_TIMEOUT_MS,
		.timeout_ms = TIMEOUT_MS,
		.max_reply = REPLY_MAX,
		.allow_private = config->webhook_allow_private,
		.allow_http = config->webhook_allow_http,
		.reply_headers = {"Retry-After"},
		.status_only = true,
	};
}

/* Starts the attempt of one claimed delivery. One that cannot start is due again when its lease ends. */
static void start_attempt(struct acp_webhook_sender *sender, struct json_object *json)
{
	struct attempt *attempt = calloc(1, sizeof *attempt);
	if (!attempt || !read_delivery(json, &attempt->delivery)) {
		acp_log(ACP_LOG_ERROR, "a webhook delivery cannot be read, or out of memory");
		free(attempt);
		return;
	}
	attempt->json = json_object_get(json);
	acp_buf_init(&attempt->signatures, 1024);
	if (!sign_delivery(sender->config, &attempt->delivery, &attempt->signatures)) {
		acp_log(ACP_LOG_ERROR, "webhook %s: its secret cannot be read: was key_pepper changed?",
			attempt->delivery.webhook_id);
		add_outcome(sender, &attempt->delivery,
			    &(struct result){.error = "the signing secret cannot be read; rotate it"});
		release_attempt(attempt);
		return;
	}
	fill_request(sender->config, attempt);
	sender->running++;
	acp_outbound_many_send(sender->many, &attempt->job);
}

static void collect(struct acp_webhook_sender *sender)
{
	struct acp_outbound_job *job = acp_outbound_many_wait(sender->many, sender->wait_ms);
	for (; job; job = acp_outbound_many_wait(sender->many, 0)) {
		char error[320];
		struct result result;
		struct attempt *attempt = job->owner;
		read_result(attempt, &result, error, sizeof error);
		acp_log(ACP_LOG_DEBUG, "webhook %s: delivery %s, attempt %lld: %s", attempt->delivery.webhook_id,
			attempt->delivery.delivery_id, (long long)attempt->delivery.attempt, error);
		add_outcome(sender, &attempt->delivery, &result);
		release_attempt(attempt);
		sender->running--;
	}
}

/* Reports the first outcome alone. One that the hub cannot record is dropped: it would keep the others back. */
static enum acp_code report_first(struct acp_webhook_sender *sender)
{
	struct json_object *one = json_object_array_get_idx(sender->outcomes, 0);
	struct json_object *list = json_object_new_array();
	if (!list || json_object_array_add(list, json_object_get(one)) != 0) {
		json_object_put(list);
		return ACP_UNAVAILABLE;
	}
	enum acp_code code = sender->plane->webhooks.report(sender->plane->self, list);
	json_object_put(list);
	if (code != ACP_OK && acp_code_retryable(code))
		return code;
	if (code != ACP_OK)
		acp_log(ACP_LOG_ERROR, "webhook %s: the outcome of delivery %s cannot be recorded; it is sent again",
			acp_json_string(one, "webhook_id"), acp_json_string(one, "delivery_id"));
	json_object_array_del_idx(sender->outcomes, 0, 1);
	return ACP_OK;
}

/* While the hub is away, outcomes are kept: what was delivered must not be sent again. If the hub cannot record one of
 * them, the others are reported one by one. */
static enum acp_code report(struct acp_webhook_sender *sender)
{
	size_t count = json_object_array_length(sender->outcomes);
	if (count == 0)
		return ACP_OK;
	enum acp_code code = sender->plane->webhooks.report(sender->plane->self, sender->outcomes);
	if (code == ACP_OK)
		json_object_array_del_idx(sender->outcomes, 0, count);
	if (code == ACP_OK || acp_code_retryable(code))
		return code;
	for (code = ACP_OK; code == ACP_OK && count > 0; count--)
		code = report_first(sender);
	return code;
}

static enum acp_code claim(struct acp_webhook_sender *sender)
{
	struct json_object *list = NULL;
	size_t free = (size_t)sender->config->webhook_senders - sender->running;
	int64_t share = (int64_t)free / FREE_PER_SHARE;
	if (free == 0)
		return ACP_OK;
	if (share > sender->config->webhook_share)
		share = sender->config->webhook_share;
	enum acp_code code = sender->plane->webhooks.claim(sender->plane->self, (int)free, LEASE,
							   (int)(share > 0 ? share : 1), &list);
	size_t count =
		code == ACP_OK && json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
	for (size_t i = 0; i < count; i++)
		start_attempt(sender, json_object_array_get_idx(list, i));
	json_object_put(list);
	return code;
}

bool acp_webhook_sender_round(struct acp_webhook_sender *sender)
{
	collect(sender);
	enum acp_code code = report(sender);
	if (code == ACP_OK && !sender->stopping)
		code = claim(sender);
	sender->ok = code == ACP_OK;
	sender->wait_ms = sender->ok ? sender->config->webhook_poll_ms : TROUBLE_MS;
	/* The outcome of what could not even start is reported at once. */
	if (sender->ok && json_object_array_length(sender->outcomes) > 0)
		sender->wait_ms = 0;
	return !sender->stopping || sender->running > 0;
}

/* The sender ----------------------------------------------------------------------------------------------------- */

struct acp_webhook_sender *acp_webhook_sender_start(const struct acp_config *config,
						    const struct acp_control_plane *plane)
{
	struct acp_webhook_sender *sender = calloc(1, sizeof *sender);
	if (!sender)
		return NULL;
	sender->config = config;
	sender->plane = plane;
	sender->outcomes = json_object_new_array();
	sender->many = sender->outcomes ? acp_outbound_many_start() : NULL;
	if (sender->many)
		return sender;
	json_object_put(sender->outcomes);
	free(sender);
	return NULL;
}

size_t acp_webhook_sender_running(const struct acp_webhook_sender *sender)
{
	return sender->running;
}

bool acp_webhook_sender_ok(const struct acp_webhook_sender *sender)
{
	return sender->ok;
}

void acp_webhook_sender_stop(struct acp_webhook_sender *sender)
{
	sender->stopping = true;
	acp_outbound_many_wake(sender->many);
}

void acp_webhook_sender_end(struct acp_webhook_sender *sender)
{
	if (!sender)
		return;
	acp_outbound_many_stop(sender->many);
	json_object_put(sender->outcomes);
	free(sender);
}
