#include "usage.h"

#include "prices.h"
#include "upgrade_link.h"

#include <time.h>

bool acp_usage_enforced(const struct acp_kernel *kernel)
{
	return kernel->config->usage_enforcement && kernel->plane->usage.get && kernel->plane->usage.reserve;
}

static struct json_object *usage_numbers(const struct acp_allowance *allowance)
{
	int64_t taken = allowance->used + allowance->held;
	int64_t left = taken < allowance->limit ? allowance->limit - taken : 0;
	struct json_object *usage = json_object_new_object();
	if (usage && acp_json_add(usage, "calls_used", json_object_new_int64(allowance->used)) &&
	    acp_json_add(usage, "calls_held", json_object_new_int64(allowance->held)) &&
	    acp_json_add(usage, "calls_limit", json_object_new_int64(allowance->limit)) &&
	    acp_json_add(usage, "calls_remaining", json_object_new_int64(left)) &&
	    acp_json_add_string(usage, "tier", "free"))
		return usage;
	json_object_put(usage);
	return NULL;
}

/* Makes the link for a reply. Its lifetime is counted by our own clock, because it only has to be roughly right. */
static void upgrade_url_now(const struct acp_call *call, char out[512])
{
	const struct acp_config *config = call->kernel->config;
	acp_upgrade_url(config, call->principal.tenant_id, (int64_t)time(NULL) + config->upgrade_link_ttl * 86400, out);
}

/* Writes the start of the month after the call's month, taken from the hub's timestamp "YYYY-MM-…" (always in UTC). */
static void resets_at(const char *ts, char out[32])
{
	int year = 0;
	int month = 0;
	if (sscanf(ts, "%4d-%2d", &year, &month) != 2)
		year = 1970, month = 0;
	snprintf(out, 32, "%04d-%02d-01T00:00:00Z", month == 12 ? year + 1 : year, month % 12 + 1);
}

/* Reads the figures that GET /api/usage shows now. If they cannot be read, only one thing is known: nothing is left. */
static struct acp_allowance figures(const struct acp_call *call)
{
	const struct acp_control_plane *plane = call->kernel->plane;
	const struct acp_reservation *reservation = &call->reservation;
	int64_t limit = reservation->limited ? reservation->calls_limit : call->kernel->config->free_calls_limit;
	struct acp_allowance now;
	if (plane->usage.get_allowance &&
	    plane->usage.get_allowance(plane->self, call->principal.tenant_id, call->principal.ts, &now) == ACP_OK &&
	    now.limit >= 0)
		return now;
	return (struct acp_allowance){.used = limit, .limit = limit};
}

enum acp_code acp_usage_refuse(struct acp_call *call)
{
	char url[512];
	char resets[32];
	const struct acp_allowance allowance = figures(call);
	upgrade_url_now(call, url);
	resets_at(call->principal.ts, resets);
	call->extra = json_object_new_object();
	if (!call->extra || !acp_json_add_string(call->extra, "upgrade_url", url) ||
	    !acp_json_add(call->extra, "usage", usage_numbers(&allowance)) ||
	    !acp_json_add_string(call->extra, "resets_at", resets) ||
	    !acp_json_add(call->extra, "retryable", json_object_new_boolean(false)))
		return acp_call_fail(call, ACP_INTERNAL_ERROR, NULL, "%s", acp_code_sentence(ACP_INTERNAL_ERROR));
	return acp_call_fail(call, ACP_UPGRADE_REQUIRED, NULL,
			     "Free tier limit reached (%lld calls). Add a payment method to continue.",
			     (long long)allowance.limit);
}

/* Reserves a call in the allowance, or refuses it. If the check itself fails, the call proceeds (fail-open). */
static enum acp_code reserve_call(struct acp_call *call)
{
	const struct acp_control_plane *plane = call->kernel->plane;
	enum acp_code code = plane->usage.reserve(plane->self, call->principal.tenant_id, call->event_id,
						  call->principal.ts, &call->reservation);
	if (code == ACP_RATE_LIMITED)
		return acp_call_fail(call, code, NULL, "%s", acp_code_sentence(code));
	if (code != ACP_OK) {
		call->usage_check_failed = true;
		call->reserved = plane->usage.at_settle; /* the call may be reserved: only the answer was lost */
		call->reservation = (struct acp_reservation){.allowed = true, .tier = call->principal.tier};
		return ACP_OK;
	}
	if (!call->reservation.allowed)
		return acp_usage_refuse(call);
	call->reserved = call->reservation.limited;
	return ACP_OK;
}

/* A call that changes nothing is counted when it ends, by the statement that stores its row. This counts or refuses it
 * as exactly as a reservation does. */
static bool may_wait_for_settle(const struct acp_call *call)
{
	const struct acp_action *action = call->entry->action;
	return call->kernel->plane->usage.at_settle &&
	       (call->principal.tier == ACP_TIER_PAID || (!action->writes && !action->upstream));
}

enum acp_code acp_usage_reserve(struct acp_call *call)
{
	const struct acp_principal *who = &call->principal;
	if (!acp_usage_enforced(call->kernel) || !call->entry->action->billable || call->dry_run)
		return ACP_OK;
	if (!may_wait_for_settle(call))
		return reserve_call(call);
	call->reservation = (struct acp_reservation){
		.allowed = true,
		.limited = who->tier == ACP_TIER_FREE,
		.tier = who->tier,
		.calls_limit = who->calls_limit < 0 ? call->kernel->config->free_calls_limit : who->calls_limit};
	return ACP_OK;
}

enum acp_code acp_usage_after_failure(struct acp_call *call)
{
	enum acp_code failed = call->code;
	if (call->reserved || !call->reservation.limited)
		return failed;
	/* The allowance is checked before the handler, so a used-up allowance takes precedence as the error. A call
	 * reserved here is released with its row. */
	return reserve_call(call) == ACP_OK ? failed : call->code;
}

void acp_usage_warn(struct acp_call *call, int64_t calls_used)
{
	char url[512];
	char message[160];
	const struct acp_reservation *reservation = &call->reservation;
	const struct acp_allowance allowance = {
		.used = calls_used, .held = call->calls_held, .limit = reservation->calls_limit};
	if (calls_used < 0 || !reservation->limited ||
	    calls_used * 100 < reservation->calls_limit * call->kernel->config->warn_at_percent)
		return;
	upgrade_url_now(call, url);
	snprintf(message, sizeof message,
		 "%lld of %lld free calls of this month are used. Add a payment method to continue after that.",
		 (long long)calls_used, (long long)reservation->calls_limit);
	call->warning = json_object_new_object();
	if (call->warning && acp_json_add_string(call->warning, "message", message) &&
	    acp_json_add_string(call->warning, "upgrade_url", url) &&
	    acp_json_add(call->warning, "usage", usage_numbers(&allowance)))
		return;
	json_object_put(call->warning);
	call->warning = NULL;
}

/* Writes the end of the days of grace as RFC 3339. False: no invoice is unpaid. */
static bool past_due_until(const struct acp_call *call, char out[32])
{
	struct tm utc;
	time_t seconds = (time_t)(call->principal.past_due_us / 1000000);
	snprintf(out, 32, "%s", call->reservation.past_due_until);
	if (!*out && call->principal.past_due_us && gmtime_r(&seconds, &utc))
		strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &utc);
	return *out != '\0';
}

void acp_usage_warn_past_due(struct acp_call *call)
{
	char url[512];
	char until[32];
	char message[256];
	if (!past_due_until(call, until))
		return;
	upgrade_url_now(call, url);
	snprintf(message, sizeof message,
		 call->reservation.tier == ACP_TIER_PAID
			 ? "An invoice of this tenant is unpaid. From %s on, only the free calls are left. Open the "
			   "link to pay it with another card."
			 : "An invoice of this tenant is unpaid. Since %s, only the free calls are left. Open the "
			   "link to pay it with another card.",
		 until);
	struct json_object *warning = call->warning ? call->warning : json_object_new_object();
	call->warning = warning;
	if (warning && acp_json_add_string(warning, "message", message) &&
	    acp_json_add_string(warning, "upgrade_url", url) && acp_json_add_string(warning, "past_due_until", until))
		return;
	json_object_put(warning);
	call->warning = NULL;
}

/* The hub returns amounts as exact decimals. A tenant treated as free pays nothing for any call that it may make. */
bool acp_usage_estimate(struct acp_call *call)
{
	const struct acp_action *action = call->entry->action;
	bool charged = action->billable && call->principal.tier == ACP_TIER_PAID;
	if (!json_object_is_type(call->result.data, json_type_object))
		return true;
	struct json_object *price;
	bool known = acp_price_of(call->kernel, action, call->result.quantity, &price);
	if (!price)
		return known;
	struct json_object *cost = json_object_new_object();
	struct json_object *amount = charged ? acp_json_member(price, "amount") : NULL;
	bool ok = cost && acp_json_add(cost, "amount", amount ? json_object_get(amount) : json_object_new_int(0)) &&
		  acp_json_add_string(cost, "currency", acp_json_string(price, "currency")) &&
		  acp_json_add(call->result.data, "estimated_cost", json_object_get(cost));
	json_object_put(cost);
	json_object_put(price);
	return ok;
}
