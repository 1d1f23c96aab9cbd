#include "share.h"

#include "gate.h"

enum { LARGE = 128 << 10 }; /* bytes */
enum { RETRY_AFTER = 1 };   /* seconds; a place may become free at any moment */

static enum acp_code refuse(struct acp_call *call, const char *format, ...) ACP_PRINTF(2, 3);

static enum acp_code refuse(struct acp_call *call, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	acp_call_vfail(call, ACP_RATE_LIMITED, NULL, format, args);
	va_end(args);
	call->retry_after = RETRY_AFTER;
	return ACP_RATE_LIMITED;
}

static bool acquire(const struct acp_call *call, const char *kind, const char *name, int64_t most,
		    struct acp_share *share)
{
	char text[160];
	snprintf(text, sizeof text, "%s %.120s", kind, name);
	return acp_shares_acquire(call->kernel->shares, text, most, share);
}

enum acp_code acp_share_enter(struct acp_call *call)
{
	int64_t most = call->kernel->config->tenant_calls;
	if (!call->kernel->shares || acquire(call, "calls", call->principal.tenant_id, most, &call->shares[0]))
		return ACP_OK;
	return refuse(call,
		      "%lld calls of this tenant are running, as many as it may run at a time; try again when one has "
		      "ended",
		      (long long)most);
}

/* The calls of one action may use half of what the upstreams of all actions may, unless its concurrency says
 * otherwise. */
static int64_t most_of_action(const struct acp_call *call)
{
	int64_t own = call->entry->action->concurrency;
	int64_t half = (call->kernel->config->upstream_calls + 1) / 2;
	return own ? own : half;
}

enum acp_code acp_share_upstream(struct acp_call *call)
{
	const struct acp_config *config = call->kernel->config;
	const char *action = call->entry->action->name;
	struct acp_share *share = call->shares + 1;
	if (!call->kernel->shares)
		return ACP_OK;
	if (!acquire(call, "upstream of tenant", call->principal.tenant_id, config->tenant_upstream_calls, &share[0]))
		refuse(call,
		       "%lld calls of this tenant are waiting for upstreams, as many as may wait at a time; try again "
		       "when one has ended",
		       (long long)config->tenant_upstream_calls);
	else if (!acquire(call, "upstream of action", action, most_of_action(call), &share[1]))
		refuse(call,
		       "%lld calls of %.100s are running, as many as may run at a time; try again when one has ended",
		       (long long)most_of_action(call), action);
	else if (!acquire(call, "upstreams", "", config->upstream_calls, &share[2]))
		refuse(call, "all %lld places for calls that wait for upstreams are taken; try again shortly",
		       (long long)config->upstream_calls);
	else
		return ACP_OK;
	return ACP_RATE_LIMITED;
}

static const char *address_of(const struct acp_call *call)
{
	return call->request->ip_address ? call->request->ip_address : "";
}

/* Those that wait for their turn must not take the places of all requests of a process, of which it has a few
 * hundred. */
enum acp_code acp_share_body(struct acp_call *call)
{
	enum { OF_ADDRESS = 32, OF_HOST = 64 };
	if (call->size <= LARGE || !call->kernel->shares)
		return ACP_OK;
	if (!acquire(call, "large bodies of", address_of(call), OF_ADDRESS, &call->shares[0]))
		return refuse(call,
			      "%d requests of your address with more than 128 KiB are waiting, as many as may wait "
			      "at a time; try again shortly",
			      OF_ADDRESS);
	if (!acquire(call, "large bodies", "", OF_HOST, &call->shares[1]))
		return refuse(call,
			      "%d requests with more than 128 KiB are waiting, as many as may wait at a time; try "
			      "again shortly",
			      OF_HOST);
	return ACP_OK;
}

/* Of all kernels in this process. */
static struct acp_gate large_calls = ACP_GATE_INIT;

void acp_share_begin_turn(const struct acp_call *call)
{
	if (call->size > LARGE)
		acp_gate_enter(&large_calls, call->authenticated ? call->principal.tenant_id : address_of(call));
}

void acp_share_end_turn(const struct acp_call *call)
{
	if (call->size > LARGE)
		acp_gate_leave(&large_calls);
}

void acp_share_leave(struct acp_call *call)
{
	for (size_t i = 0; call->kernel->shares && i < ACP_COUNT(call->shares); i++)
		acp_shares_release(call->kernel->shares, &call->shares[i]);
}
