/* reconcile_stripe.c - acpctl reconcile: compares the invoices at Stripe with those that were billed here.
 *
 * Every invoice at Stripe whose metadata names a tenant and a month is compared with our invoice for that tenant and
 * month. There must be exactly one of each, with the same amount, currency and hash, and both must be paid or both
 * unpaid. Our invoices are read first, because an invoice is at Stripe before its row here says so. */
#include "reconcile.h"

#include "executor_open.h"
#include "executor_plane.h"
#include "outbound.h"

struct comparison {
	struct reconciliation *r;
	struct acp_executor *executor;
	const char *period;
	struct json_object *ours; /* "tenant month" -> {status, amount, currency, hash, invoice, seen} */
};

/* A row of "billing stripe stream": tenant, month, status, amount, currency, hash, Stripe's id. */
static bool note_ours(void *arg, const char *const *columns)
{
	static const char *const names[] = {"status", "amount", "currency", "hash", "invoice"};
	char name[ACP_UUID_LEN + 16];
	struct comparison *c = arg;
	struct json_object *invoice = json_object_new_object();
	snprintf(name, sizeof name, "%s %s", columns[0], columns[1]);
	for (size_t i = 0; i < ACP_COUNT(names); i++)
		if (columns[i + 2])
			acp_json_add_string(invoice, names[i], columns[i + 2]);
	return acp_json_add(c->ours, name, invoice);
}

static void differ(const struct comparison *c, const char *name, const char *what, const char *said, const char *found)
{
	char tenant[ACP_UUID_LEN];
	snprintf(tenant, sizeof tenant, "%.36s", name);
	const struct difference d = {tenant, name + 37, what, said, found, "Stripe holds"};
	reconcile_difference(c->r, &d);
}

static bool same(const char *a, const char *b)
{
	return a && b && strcmp(a, b) == 0;
}

/* Returns whether an invoice with the status ours here may have the status theirs at Stripe. */
static bool statuses_fit(const char *ours, const char *theirs)
{
	if (strcmp(theirs, "paid") == 0)
		return strcmp(ours, "paid") == 0;
	if (strcmp(theirs, "open") == 0)
		return strcmp(ours, "invoiced") == 0 || strcmp(ours, "failed") == 0 || strcmp(ours, "pending") == 0;
	if (strcmp(theirs, "draft") == 0)
		return strcmp(ours, "pending") == 0 || strcmp(ours, "failed") == 0;
	return strcmp(ours, "failed") == 0;
}

static void compare(const struct comparison *c, const char *name, struct json_object *ours, struct json_object *theirs)
{
	const char *amount = json_object_get_string(acp_json_member(theirs, "amount"));
	const char *status = acp_json_string(theirs, "status");
	const char *currency = acp_json_string(theirs, "currency");
	const char *hash = acp_json_string(acp_json_member(theirs, "metadata"), "invoice_hash");
	if (!same(acp_json_string(ours, "amount"), amount))
		differ(c, name, "amount of the invoice", acp_json_string(ours, "amount"), amount);
	if (!same(acp_json_string(ours, "currency"), currency))
		differ(c, name, "currency of the invoice", acp_json_string(ours, "currency"), currency);
	if (!same(acp_json_string(ours, "hash"), hash))
		differ(c, name, "hash of the invoice", acp_json_string(ours, "hash"), hash);
	if (!status || !statuses_fit(acp_json_string(ours, "status"), status))
		differ(c, name, "status of the invoice", acp_json_string(ours, "status"), status);
}

static void take_theirs(const struct comparison *c, struct json_object *theirs)
{
	char name[128];
	struct json_object *metadata = acp_json_member(theirs, "metadata");
	const char *tenant = acp_json_string(metadata, "tenant_uuid");
	const char *period = acp_json_string(metadata, "period");
	const char *id = acp_json_string(theirs, "invoice");
	/* Other programs may use the same account. */
	if (!tenant || !period || !acp_is_uuid(tenant) || !ctl_is_month(period) ||
	    (c->period && strcmp(period, c->period) != 0))
		return;
	snprintf(name, sizeof name, "%s %s", tenant, period);
	struct json_object *ours = acp_json_member(c->ours, name);
	if (!ours) {
		differ(c, name, "an invoice that was not billed here", NULL, id);
	} else if (acp_json_bool(ours, "seen") ||
		   (acp_json_string(ours, "invoice") && !same(acp_json_string(ours, "invoice"), id))) {
		differ(c, name, "one invoice", acp_json_string(ours, "invoice"), id);
	} else {
		acp_json_add(ours, "seen", json_object_new_boolean(true));
		compare(c, name, ours, theirs);
	}
}

/* Compares one page of invoices. last: the id after which the next page begins, or "" at the end. */
static bool take_page(const struct comparison *c, char last[256])
{
	struct acp_executed done = {0};
	struct json_object *params = json_object_new_object();
	const struct acp_execution what = {
		.tenant_id = ACP_NIL_UUID, .action = "stripe.invoices.list", .params = params, .timeout_ms = 60000};
	acp_json_add(params, "limit", json_object_new_int(100));
	if (*last)
		acp_json_add_string(params, "starting_after", last);
	c->executor->execute(c->executor->self, &what, &done);
	json_object_put(params);
	if (!done.ok)
		ctl_refuse("the invoices at Stripe cannot be read: %s", done.error);
	struct json_object *list = acp_json_member(done.data, "invoices");
	size_t count = done.ok ? json_object_array_length(list) : 0;
	for (size_t i = 0; i < count; i++)
		take_theirs(c, json_object_array_get_idx(list, i));
	bool more = count && acp_json_bool(done.data, "has_more");
	snprintf(last, 256, "%s", more ? acp_json_string(json_object_array_get_idx(list, count - 1), "invoice") : "");
	acp_executed_release(&done);
	return done.ok;
}

static bool compare_all(struct comparison *c)
{
	char last[256] = "";
	do {
		if (!take_page(c, last))
			return false;
	} while (*last);
	json_object_object_foreach(c->ours, name, invoice)
	{
		if (!acp_json_bool(invoice, "seen"))
			differ(c, name, "amount of the invoice", acp_json_string(invoice, "amount"), NULL);
	}
	return c->r->compared = true;
}

/* If there is an executor, reads our invoices and then compares those at Stripe. */
static bool with_executor(struct comparison *c)
{
	const char *values[] = {c->period};
	c->ours = json_object_new_object();
	bool ok = c->ours && ctl_stream(c->r->ctl, "billing stripe stream", values, note_ours, c) &&
		  ctl_run(c->r->ctl, "commit", NULL) && compare_all(c);
	json_object_put(c->ours);
	return ok;
}

bool reconcile_stripe(struct reconciliation *r, const char *period)
{
	const struct acp_config *config = &r->ctl->config;
	struct comparison c = {.r = r, .period = period};
	const struct acp_control_plane plane = ctl_executor_plane(r->ctl);
	char why[512];
	if (!*config->stripe_key && !*config->executor_url) {
		if (r->stripe)
			return ctl_refuse("--stripe: no executor is configured; set stripe_key, or executor_url and "
					  "executor_key");
		if (!r->list)
			puts("the invoices at Stripe are not compared: neither stripe_key nor executor_url is set");
		return true;
	}
	if (!acp_outbound_init())
		return ctl_refuse("libcurl cannot be used");
	if (!acp_executor_open(config, &plane, &c.executor, why, sizeof why))
		return ctl_refuse("%s", why);
	bool ok = with_executor(&c);
	acp_executor_close(c.executor);
	return ok;
}
