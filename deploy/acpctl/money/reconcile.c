/* reconcile.c - acpctl reconcile: compares counters, quotas, archives and invoices with the audit rows. */
#include "reconcile.h"

/* A row of "difference stream" or "billing difference stream": tenant, period, what, counted, rows. */
static bool difference(void *arg, const char *const *columns)
{
	const struct difference d = {columns[0], columns[1], columns[2], columns[3], columns[4], "the rows say"};
	reconcile_difference(arg, &d);
	return true;
}

static void print_result(const struct reconciliation *r, const char *period)
{
	static const char *const columns[] = {"tenant_id", "period", "what", "counted", "rows"};
	if (r->ctl->csv) {
		ctl_print_columns(r->ctl, r->list, columns, ACP_COUNT(columns));
		return;
	}
	if (r->ctl->json) {
		struct json_object *all = json_object_new_object();
		acp_json_add(all, "ok", json_object_new_boolean(r->count == 0));
		reconcile_add(all, "period", period);
		acp_json_add(all, "stripe", json_object_new_boolean(r->compared));
		acp_json_add(all, "foreign_invoices", json_object_new_int64(r->foreign));
		acp_json_add(all, "count", json_object_new_int64(r->count));
		acp_json_add(all, "differences", json_object_get(r->list));
		ctl_print_json(all);
		json_object_put(all);
		return;
	}
	if (r->foreign)
		printf("left out: %lld invoice%s at Stripe of other installations\n", (long long)r->foreign,
		       r->foreign == 1 ? "" : "s");
	if (r->count > RECONCILE_LISTED)
		printf("and %lld more\n", (long long)(r->count - RECONCILE_LISTED));
	if (r->count)
		printf("%lld difference%s\n", (long long)r->count, r->count == 1 ? "" : "s");
	else
		printf("%s: counters, quotas, archives and invoices are what the audit rows say%s\n",
		       period ? period : "all periods", r->compared ? ", and what Stripe holds" : "");
}

int ctl_reconcile(struct ctl *ctl)
{
	/* In seconds: two rounds of maintenance, which releases the reservations of dead calls. */
	static const char grace[] = "1200";
	const char *period = ctl_option(ctl, "period");
	char limit[24];
	struct reconciliation r = {.ctl = ctl, .stripe = ctl_flag(ctl, "stripe")};
	bool enforced = ctl->config.usage_enforcement && !*ctl->config.hub_url;
	snprintf(limit, sizeof limit, "%lld", (long long)ctl->config.free_calls_limit);
	const char *values[] = {period, enforced ? limit : NULL, grace};
	r.list = ctl->json || ctl->csv ? json_object_new_array() : NULL;
	ctl_busy_begin(&r.busy, "reconciling");
	bool ok = ctl_begin(ctl, "snapshot") && ctl_stream(ctl, "difference stream", values, difference, &r) &&
		  ctl_stream(ctl, "billing difference stream", values, difference, &r);
	ctl_busy_end(&r.busy);
	if (ok && !ctl_flag(ctl, "database"))
		ok = reconcile_stripe(&r, period);
	if (ok)
		print_result(&r, period);
	json_object_put(r.list);
	return ok && r.count == 0 ? ACPCTL_OK : ACPCTL_FAILED;
}
