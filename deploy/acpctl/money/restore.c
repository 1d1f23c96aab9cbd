/* restore.c - acpctl billing adopt and acpctl stripe replay: after a restore, what Stripe has becomes part of these
 * books again. */
#include "restore.h"

#include "clock.h"
#include "stripe_events.h"

#include <time.h>

/* Adopting an invoice ---------------------------------------------------------------------------------------------- */

/* The search for the invoice of a tenant and month. */
struct choice {
	const struct ctl *ctl;
	const char *tenant, *period;
	struct json_object *best; /* owned */
};

/* Of several, the invoice that was paid counts, then one that can be paid. */
static int rank_of(struct json_object *invoice)
{
	static const char *const ranks[] = {"draft", "void", "uncollectible", "open", "paid"};
	const char *status = acp_json_string(invoice, "status");
	for (int i = 0; status && i < (int)ACP_COUNT(ranks); i++)
		if (strcmp(status, ranks[i]) == 0)
			return i + 1;
	return 0;
}

static bool choose(void *arg, struct json_object *invoice)
{
	struct choice *choice = arg;
	struct json_object *metadata = acp_json_member(invoice, "metadata");
	enum ctl_owner owner = ctl_stripe_owner(choice->ctl, invoice);
	if ((owner != CTL_OWNER_OURS && owner != CTL_OWNER_UNMARKED) ||
	    strcmp(acp_json_string(metadata, "tenant_uuid"), choice->tenant) != 0 ||
	    strcmp(acp_json_string(metadata, "period"), choice->period) != 0 ||
	    rank_of(invoice) <= rank_of(choice->best))
		return true;
	json_object_put(choice->best);
	choice->best = json_object_get(invoice);
	return true;
}

/* Reads the seconds since 1970 from which Stripe may have invoices of this month. NULL: the last month. */
static bool month_begins(struct ctl *ctl, const char *period, int64_t *created_from)
{
	const char *values[] = {period};
	struct json_object *rows = ctl_query(ctl, "billing month", values);
	*created_from = rows ? json_object_get_int64(ctl_value(rows, "created_from")) : 0;
	json_object_put(rows);
	return rows != NULL;
}

static bool find_invoice(struct choice *choice, struct ctl *ctl)
{
	struct ctl_stripe stripe;
	char why[512];
	int64_t created_from;
	if (!month_begins(ctl, choice->period, &created_from))
		return false;
	if (!ctl_stripe_open(ctl, &stripe, why, sizeof why))
		return ctl_refuse("%s", why);
	bool ok = ctl_stripe_invoices(&stripe, created_from, choose, choice, why, sizeof why);
	ctl_stripe_close(&stripe);
	if (!ok)
		return ctl_refuse("the invoices at Stripe cannot be read: %s", why);
	return choice->best || ctl_refuse("Stripe has no invoice of tenant %s for %s", choice->tenant, choice->period);
}

static void print_adopted(struct json_object *adopted, bool dry)
{
	const char *currency = acp_json_string(adopted, "currency");
	const char *more = acp_json_string(adopted, "adjustment");
	printf("%s, %s: %s %s at Stripe (%s), %s %s here\n", acp_json_string(adopted, "stripe_invoice_id"),
	       acp_json_string(adopted, "period"), acp_json_string(adopted, "stripe_amount"), currency,
	       acp_json_string(adopted, "stripe_status"), acp_json_string(adopted, "our_amount"), currency);
	if (dry)
		printf("adopting it would add a line of %s %s; nothing was stored\n", more, currency);
	else if (strcmp(more, "0") == 0)
		puts("adopted; the amounts were equal");
	else
		printf("adopted, with a line of %s %s\n", more, currency);
}

static bool adopt(struct ctl *ctl, const struct choice *choice)
{
	const char *reason = ctl_option(ctl, "reason");
	struct json_object *order = json_object_new_object();
	acp_json_add_string(order, "tenant_id", choice->tenant);
	acp_json_add_string(order, "period", choice->period);
	acp_json_add_string(order, "integration", ctl->config.kernel_id);
	acp_json_add(order, "grace_days", json_object_new_int64(ctl->config.grace_days));
	acp_json_add(order, "dry_run", json_object_new_boolean(ctl_flag(ctl, "dry-run")));
	acp_json_add(order, "invoice", json_object_get(choice->best));
	if (reason)
		acp_json_add_string(order, "reason", reason);
	const char *values[] = {json_object_to_json_string_ext(order, JSON_C_TO_STRING_PLAIN)};
	struct json_object *rows = ctl_query(ctl, "billing adopt", values);
	if (rows && ctl->json)
		ctl_print_json(ctl_value(rows, "adopted"));
	else if (rows)
		print_adopted(ctl_value(rows, "adopted"), ctl_flag(ctl, "dry-run"));
	json_object_put(order);
	json_object_put(rows);
	return rows != NULL;
}

int ctl_billing_adopt(struct ctl *ctl)
{
	char tenant[ACP_UUID_LEN];
	const char *reason = ctl_option(ctl, "reason");
	struct choice choice = {.ctl = ctl, .tenant = tenant, .period = ctl_option(ctl, "period")};
	if (*ctl->config.hub_url)
		return ctl_fail("the hub at %s bills; run this there", ctl->config.hub_url);
	if (reason && (!*reason || strlen(reason) > 500))
		return ctl_misuse("--reason: must have 1 to 500 characters; it is shown on the invoice");
	if (!ctl_tenant_id(ctl, ctl_operand(ctl), tenant))
		return ACPCTL_FAILED;
	bool ok = find_invoice(&choice, ctl) && adopt(ctl, &choice);
	json_object_put(choice.best);
	return ok ? ACPCTL_OK : ACPCTL_FAILED;
}

void ctl_stripe_warn(struct ctl *ctl, const char *period)
{
	struct ctl_stripe stripe;
	char why[512] = "";
	int64_t created_from;
	if (!ctl_stripe_configured(ctl) || !month_begins(ctl, period, &created_from))
		return;
	bool open = ctl_stripe_open(ctl, &stripe, why, sizeof why);
	struct json_object *unknown = open ? ctl_stripe_unknown(&stripe, created_from, 0, why, sizeof why) : NULL;
	if (open)
		ctl_stripe_close(&stripe);
	size_t count = unknown ? json_object_array_length(unknown) : 0;
	struct json_object *first = count ? json_object_array_get_idx(unknown, 0) : NULL;
	if (!unknown)
		ctl_fail("warning: the invoices at Stripe could not be read: %s", why);
	else if (count)
		ctl_fail("warning: Stripe has %zu invoice%s of this installation that this database does not know, for "
			 "example %s; if the database was restored, see docs/restore.md",
			 count, count == 1 ? "" : "s", acp_json_string(first, "invoice"));
	json_object_put(unknown);
}

/* Stripe's events -------------------------------------------------------------------------------------------------- */

struct catch_up {
	struct ctl *ctl;
	struct acp_control_plane plane;
	int64_t read, fresh, applied, failed;
	struct json_object
		*unknown; /* tenants that the events name and the database lacks -> what the events say of them;
					owned */
};

static enum acp_code stripe_event(void *self, struct json_object *what, struct json_object **reply,
				  struct acp_refusal *refusal)
{
	(void)refusal;
	const char *values[] = {json_object_to_json_string_ext(what, JSON_C_TO_STRING_PLAIN)};
	struct json_object *rows = ctl_query(self, "stripe event", values);
	if (!rows)
		return ACP_UNAVAILABLE;
	*reply = json_object_get(ctl_value(rows, "reply"));
	json_object_put(rows);
	return ACP_OK;
}

/* Signs the body as Stripe does, with the first of the secrets: the event came from Stripe over our own request. */
static void sign(const char *secrets, const char *body, size_t len, char header[160])
{
	char head[32];
	char hex[ACP_SHA256_HEX];
	uint8_t mac[ACP_SHA256_LEN];
	long long now = (long long)time(NULL);
	snprintf(head, sizeof head, "%lld.", now);
	acp_hmac_sha256_behind(secrets, strcspn(secrets, " "), head, body, len, mac);
	acp_hex(mac, sizeof mac, hex);
	snprintf(header, 160, "t=%lld,v1=%s", now, hex);
}

/* Gives an event to the code that receives webhooks. */
static void deliver(struct catch_up *c, struct json_object *event)
{
	char id[ACP_UUID_LEN];
	char header[160];
	struct acp_reply reply;
	const struct acp_kernel kernel = {.config = &c->ctl->config, .plane = &c->plane};
	size_t len = 0;
	const char *body = json_object_to_json_string_length(event, JSON_C_TO_STRING_PLAIN, &len);
	acp_uuid(id);
	const struct acp_request request = {.request_id = id,
					    .method = "POST",
					    .content_type = "application/json",
					    .body = body,
					    .body_len = len,
					    .started_us = acp_monotonic_us()};
	sign(c->ctl->config.stripe_webhook_secret, body, len, header);
	acp_stripe_events_take(&kernel, &request, header, &reply);
	const char *effect = acp_json_string(reply.body, "effect");
	c->fresh += effect && strcmp(effect, "duplicate") != 0;
	c->applied += effect && strcmp(effect, "applied") == 0;
	if (reply.code != ACP_OK) {
		const char *error = acp_json_string(reply.body, "error");
		c->failed++;
		ctl_fail("event %s: %s", acp_json_string(event, "id"), error ? error : "cannot be stored");
	}
	json_object_put(reply.body);
}

static struct json_object *object_of(struct json_object *event)
{
	return acp_json_member(acp_json_member(event, "data"), "object");
}

static bool take_event(void *arg, struct json_object *event)
{
	struct catch_up *c = arg;
	c->read++;
	deliver(c, event);
	return true;
}

/* Notes what an event says of a tenant that the database lacks: whether it paid, and how it was created. */
static void note_unknown(struct catch_up *c, const char *tenant, struct json_object *event)
{
	struct json_object *object = object_of(event);
	struct json_object *noted = acp_json_member(c->unknown, tenant);
	const char *type = acp_json_string(event, "type");
	if (!noted) {
		noted = json_object_new_object();
		acp_json_add(c->unknown, tenant, noted);
	}
	if (type && (strcmp(type, "checkout.session.completed") == 0 || strncmp(type, "invoice.", 8) == 0))
		json_object_object_add(noted, "paid", json_object_new_boolean(true));
	if (type && strcmp(type, "customer.created") == 0)
		json_object_object_add(noted, "customer", json_object_get(object));
}

static bool look_for_tenant(void *arg, struct json_object *event)
{
	struct catch_up *c = arg;
	struct json_object *metadata = acp_json_member(object_of(event), "metadata");
	const char *tenant = acp_json_string(metadata, "tenant_uuid");
	const char *kernel = acp_json_string(metadata, "kernel_id");
	const char *values[] = {tenant};
	if (!tenant || !acp_is_uuid(tenant) || !kernel || strcmp(kernel, c->ctl->config.kernel_id) != 0)
		return true;
	struct json_object *rows = ctl_query(c->ctl, "tenant known", values);
	if (rows && !json_object_get_boolean(ctl_value(rows, "known")))
		note_unknown(c, tenant, event);
	c->failed += !rows;
	json_object_put(rows);
	return c->failed == 0;
}

/* Names the tenants that paid and are unknown here. Their events would have no effect, now or later. */
static bool tenants_known(const struct catch_up *c)
{
	int64_t count = 0;
	json_object_object_foreach(c->unknown, tenant, noted)
	{
		struct json_object *customer = acp_json_member(noted, "customer");
		const char *agent = acp_json_string(acp_json_member(customer, "metadata"), "agent_id");
		const char *email = acp_json_string(customer, "email");
		if (!acp_json_bool(noted, "paid"))
			continue;
		count++;
		fprintf(stderr, "acpctl tenant create --tenant-id %s --agent-id %s --email %s\n", tenant,
			agent ? agent : "ID", email ? email : "ADDRESS");
	}
	return !count ||
	       ctl_refuse("%lld tenant%s of this installation that paid at Stripe %s unknown here. Nothing was "
			  "applied. Create %s again, as above, or use --skip-unknown",
			  (long long)count, count == 1 ? "" : "s", count == 1 ? "is" : "are",
			  count == 1 ? "it" : "them");
}

static int print_caught_up(struct ctl *ctl, const struct catch_up *c)
{
	if (ctl->json) {
		struct json_object *all = json_object_new_object();
		acp_json_add(all, "events", json_object_new_int64(c->read));
		acp_json_add(all, "new", json_object_new_int64(c->fresh));
		acp_json_add(all, "applied", json_object_new_int64(c->applied));
		acp_json_add(all, "failed", json_object_new_int64(c->failed));
		ctl_print_json(all);
		json_object_put(all);
	} else {
		printf("%lld events at Stripe, %lld of them new here, %lld applied\n", (long long)c->read,
		       (long long)c->fresh, (long long)c->applied);
	}
	return c->failed ? ctl_fail("%lld events could not be stored", (long long)c->failed) : ACPCTL_OK;
}

/* Reads the events twice: first to see whether their tenants are known. */
static bool catch_up(struct catch_up *c, struct ctl_stripe *stripe, int64_t since)
{
	char why[512];
	c->unknown = json_object_new_object();
	bool ok = ctl_flag(c->ctl, "skip-unknown") ||
		  ctl_stripe_events(stripe, since, look_for_tenant, c, why, sizeof why);
	if (ok && (c->failed || !tenants_known(c)))
		return false;
	return (ok && ctl_stripe_events(stripe, since, take_event, c, why, sizeof why)) ||
	       ctl_refuse("the events at Stripe cannot be read: %s", why);
}

int ctl_stripe_replay(struct ctl *ctl)
{
	struct ctl_stripe stripe;
	char why[512];
	struct catch_up c = {.ctl = ctl, .plane = {.self = ctl, .payments.stripe_event = stripe_event}};
	const char *values[] = {ctl_option(ctl, "since")};
	if (!*ctl->config.stripe_webhook_secret)
		return ctl_fail("stripe_webhook_secret is not set: this installation takes no events of Stripe");
	struct json_object *rows = ctl_query(ctl, "stripe since", values);
	if (!rows)
		return ACPCTL_FAILED;
	int64_t since = json_object_get_int64(ctl_value(rows, "since"));
	json_object_put(rows);
	if (!ctl_stripe_open(ctl, &stripe, why, sizeof why))
		return ctl_fail("%s", why);
	bool good = catch_up(&c, &stripe, since);
	ctl_stripe_close(&stripe);
	json_object_put(c.unknown);
	return good ? print_caught_up(ctl, &c) : ACPCTL_FAILED;
}
