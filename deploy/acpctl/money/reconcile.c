/* reconcile.c - acpctl reconcile: counters, quotas, archives and invoices are what the audit rows say. */
#include "reconcile.h"

enum { LIST_AT_MOST = 1000 };

static void add_or_null(struct json_object *object, const char *name, const char *text)
{
	if (text)
		acp_json_add_string(object, name, text);
	else
		acp_json_add_null(object, name);
}

/* Counts as numbers; amounts and hashes as text. */
static struct json_object *number_or_text(const char *text)
{
	if (!text)
		return NULL;
	bool number = *text && strlen(text) < 19 && !text[strspn(text, "0123456789")];
	return number ? json_object_new_int64(strtoll(text, NULL, 10)) : json_object_new_string(text);
}

void reconcile_difference(struct reconciliation *r, const struct difference *d)
{
	audit_busy_end(&r->busy);
	if (r->count++ >= LIST_AT_MOST)
		return;
	if (!r->list) {
		printf("%.7s tenant %s: %s: %s, but %s %s\n", d->period, d->tenant ? d->tenant : "-", d->what,
		       d->said ? d->said : "nothing", d->who, d->found ? d->found : "nothing");
		return;
	}
	struct json_object *object = json_object_new_object();
	char period[8];
	snprintf(period, sizeof period, "%.7s", d->period);
	add_or_null(object, "tenant_id", d->tenant);
	acp_json_add_string(object, "period", period);
	acp_json_add_string(object, "what", d->what);
	json_object_object_add(object, "counted", number_or_text(d->said));
	json_object_object_add(object, "rows", number_or_text(d->found));
	json_object_array_add(r->list, object);
}

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
		add_or_null(all, "period", period);
		acp_json_add(all, "stripe", json_object_new_boolean(r->compared));
		acp_json_add(all, "count", json_object_new_int64(r->count));
		acp_json_add(all, "differences", json_object_get(r->list));
		ctl_print_json(all);
		json_object_put(all);
		return;
	}
	if (r->count > LIST_AT_MOST)
		printf("and %lld more\n", (long long)(r->count - LIST_AT_MOST));
	if (r->count)
		printf("%lld difference%s\n", (long long)r->count, r->count == 1 ? "" : "s");
	else
		printf("%s: counters, quotas, archives and invoices are what the audit rows say%s\n",
		       period ? period : "all periods", r->compared ? ", and what Stripe holds" : "");
}

int ctl_reconcile(struct ctl *ctl)
{
	/* Two rounds of upkeep, which gives the places of dead calls back. */
	static const char grace[] = "1200";
	const char *period = NULL;
	char limit[24];
	bool database = false;
	struct reconciliation r = {.ctl = ctl};
	const struct audit_option options[] = {
		{"--period", &period, NULL}, {"--stripe", NULL, &r.stripe}, {"--database", NULL, &database}};
	if (!audit_options(ctl, options, ACP_COUNT(options), NULL))
		return ACPCTL_USAGE;
	if (period && !ctl_is_month(period))
		return ctl_misuse("--period %.80s: must be YYYY-MM, a UTC month", period);
	if (r.stripe && database)
		return ctl_misuse("--stripe and --database: give one of them; the second leaves Stripe alone");
	bool enforced = ctl->config.usage_enforcement && !*ctl->config.hub_url;
	snprintf(limit, sizeof limit, "%lld", (long long)ctl->config.free_calls_limit);
	const char *values[] = {period, enforced ? limit : NULL, grace};
	r.list = ctl->json || ctl->csv ? json_object_new_array() : NULL;
	audit_busy_begin(&r.busy, "reconciling");
	bool ok = audit_open(ctl, "snapshot") && audit_stream(ctl, "difference stream", values, difference, &r) &&
		  audit_stream(ctl, "billing difference stream", values, difference, &r);
	audit_busy_end(&r.busy);
	if (ok && !database)
		ok = reconcile_stripe(&r, period);
	if (ok)
		print_result(&r, period);
	json_object_put(r.list);
	return ok && r.count == 0 ? ACPCTL_OK : ACPCTL_FAILED;
}
