/* reconcile_stripe.c - acpctl reconcile: compares the invoices at Stripe with those that were billed here.
 *
 * Every invoice of this installation at Stripe (its metadata names kernel_id, a tenant and a month) is compared with
 * our invoice for that tenant and month. There must be exactly one of each, with the same amount, currency and hash,
 * and both must be paid or both unpaid. Our invoices are read first, because an invoice is at Stripe before its row
 * here says so. Other installations and programs may use the same account: their invoices are left out. */
#include "reconcile.h"

#include "stripe_lists.h"

struct comparison {
	struct reconciliation *r;
	const char *period;
	bool failed;
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

static void compare_named(const struct comparison *c, const char *name, struct json_object *theirs)
{
	const char *id = acp_json_string(theirs, "invoice");
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

/* Is an invoice ours that our books may not have? With a kernel_id it is ours even if its tenant is not known here: a
 * restored database may lack the tenant. */
static bool is_ours(struct comparison *c, enum ctl_owner owner, const char *tenant)
{
	const char *values[] = {tenant};
	if (owner != CTL_OWNER_UNMARKED)
		return owner == CTL_OWNER_OURS;
	struct json_object *rows = ctl_query(c->r->ctl, "tenant known", values);
	bool known = rows && json_object_get_boolean(ctl_value(rows, "known"));
	c->failed = c->failed || !rows;
	json_object_put(rows);
	return known;
}

static bool take_theirs(void *arg, struct json_object *theirs)
{
	char name[128];
	struct comparison *c = arg;
	enum ctl_owner owner = ctl_stripe_owner(c->r->ctl, theirs);
	struct json_object *metadata = acp_json_member(theirs, "metadata");
	const char *tenant = acp_json_string(metadata, "tenant_uuid");
	const char *period = acp_json_string(metadata, "period");
	if (owner == CTL_OWNER_OTHER || (c->period && strcmp(period, c->period) != 0))
		return true;
	snprintf(name, sizeof name, "%s %s", tenant, period);
	/* An invoice that our books name is ours, even if kernel_id was changed since. */
	struct json_object *ours = acp_json_member(c->ours, name);
	bool named = ours && same(acp_json_string(ours, "invoice"), acp_json_string(theirs, "invoice"));
	if (named || is_ours(c, owner, tenant))
		compare_named(c, name, theirs);
	else
		c->r->foreign++;
	return !c->failed;
}

static bool compare_all(struct comparison *c, struct ctl_stripe *stripe)
{
	char why[512];
	if (!ctl_stripe_invoices(stripe, 0, take_theirs, c, why, sizeof why))
		return ctl_refuse("the invoices at Stripe cannot be read: %s", why);
	if (c->failed)
		return false;
	json_object_object_foreach(c->ours, name, invoice)
	{
		if (!acp_json_bool(invoice, "seen"))
			differ(c, name, "amount of the invoice", acp_json_string(invoice, "amount"), NULL);
	}
	return c->r->compared = true;
}

/* If there is an executor, reads our invoices and then compares those at Stripe. */
static bool with_executor(struct comparison *c, struct ctl_stripe *stripe)
{
	const char *values[] = {c->period};
	c->ours = json_object_new_object();
	bool ok = c->ours && ctl_stream(c->r->ctl, "billing stripe stream", values, note_ours, c) &&
		  ctl_run(c->r->ctl, "commit", NULL) && compare_all(c, stripe);
	json_object_put(c->ours);
	return ok;
}

bool reconcile_stripe(struct reconciliation *r, const char *period)
{
	struct comparison c = {.r = r, .period = period};
	struct ctl_stripe stripe;
	char why[512];
	if (!ctl_stripe_configured(r->ctl) && !r->stripe) {
		if (!r->list)
			puts("the invoices at Stripe are not compared: neither stripe_key nor executor_url is set");
		return true;
	}
	if (!ctl_stripe_open(r->ctl, &stripe, why, sizeof why))
		return ctl_refuse("%s%s", ctl_stripe_configured(r->ctl) ? "" : "--stripe: ", why);
	bool ok = with_executor(&c, &stripe);
	ctl_stripe_close(&stripe);
	return ok;
}
