/* stripe_lists.c - reads the lists of Stripe through the executor. */
#include "stripe_lists.h"

#include "executor_open.h"
#include "executor_plane.h"
#include "outbound.h"

enum {
	TIMEOUT_MS = 60000,
	INVOICES = 100, /* on a page: Stripe's limit */
	EVENTS = 8,     /* on a page: one can have 4 MiB, and more white space in a list (ACP_STRIPE_REPLY_MAX) */
};

bool ctl_stripe_configured(const struct ctl *ctl)
{
	return *ctl->config.stripe_key || *ctl->config.executor_url;
}

bool ctl_stripe_open(struct ctl *ctl, struct ctl_stripe *stripe, char *why, size_t why_size)
{
	*stripe = (struct ctl_stripe){.ctl = ctl, .plane = ctl_executor_plane(ctl), .timeout_ms = TIMEOUT_MS};
	if (!ctl_stripe_configured(ctl)) {
		snprintf(why, why_size, "no executor is configured; set stripe_key, or executor_url and executor_key");
		return false;
	}
	if (acp_outbound_init())
		return acp_executor_open(&ctl->config, &stripe->plane, &stripe->executor, why, why_size);
	snprintf(why, why_size, "libcurl cannot be used");
	return false;
}

void ctl_stripe_close(struct ctl_stripe *stripe)
{
	acp_executor_close(stripe->executor);
	stripe->executor = NULL;
}

/* A list at Stripe. */
struct list {
	const char *action, *member, *id; /* of the executor; of its data; of an object: its id */
	int limit;
	int64_t created_from;
	ctl_stripe_each *each;
	void *arg;
};

static struct json_object *page_params(const struct list *list, const char *last)
{
	struct json_object *params = json_object_new_object();
	if (acp_json_add(params, "limit", json_object_new_int(list->limit)) &&
	    (!list->created_from || acp_json_add(params, "created_from", json_object_new_int64(list->created_from))) &&
	    (!*last || acp_json_add_string(params, "starting_after", last)))
		return params;
	json_object_put(params);
	return NULL;
}

/* Reads one page. last: the id after which the page begins; set to that of the next page, or to "" at the end. */
static bool take_page(struct ctl_stripe *stripe, const struct list *list, char last[256], char *why, size_t why_size)
{
	struct acp_executed done = {0};
	const struct acp_execution what = {.tenant_id = ACP_NIL_UUID,
					   .action = list->action,
					   .params = page_params(list, last),
					   .timeout_ms = stripe->timeout_ms};
	stripe->executor->execute(stripe->executor->self, &what, &done);
	json_object_put(what.params);
	if (!done.ok)
		snprintf(why, why_size, "%s", done.error);
	struct json_object *objects = acp_json_member(done.data, list->member);
	size_t count = done.ok && objects ? json_object_array_length(objects) : 0;
	bool more = count && acp_json_bool(done.data, "has_more");
	for (size_t i = 0; i < count; i++)
		if (!list->each(list->arg, json_object_array_get_idx(objects, i))) {
			more = false;
			break;
		}
	const char *id = more ? acp_json_string(json_object_array_get_idx(objects, count - 1), list->id) : NULL;
	snprintf(last, 256, "%s", id ? id : "");
	acp_executed_release(&done);
	return done.ok;
}

static bool take_pages(struct ctl_stripe *stripe, const struct list *list, char *why, size_t why_size)
{
	char last[256] = "";
	do {
		if (!take_page(stripe, list, last, why, why_size))
			return false;
	} while (*last);
	return true;
}

bool ctl_stripe_invoices(struct ctl_stripe *stripe, int64_t created_from, ctl_stripe_each *each, void *arg, char *why,
			 size_t why_size)
{
	const struct list list = {"stripe.invoices.list", "invoices", "invoice", INVOICES, created_from, each, arg};
	return take_pages(stripe, &list, why, why_size);
}

bool ctl_stripe_events(struct ctl_stripe *stripe, int64_t created_from, ctl_stripe_each *each, void *arg, char *why,
		       size_t why_size)
{
	const struct list list = {"stripe.events.list", "events", "id", EVENTS, created_from, each, arg};
	return take_pages(stripe, &list, why, why_size);
}

enum ctl_owner ctl_stripe_owner(const struct ctl *ctl, struct json_object *invoice)
{
	struct json_object *metadata = acp_json_member(invoice, "metadata");
	const char *tenant = acp_json_string(metadata, "tenant_uuid");
	const char *period = acp_json_string(metadata, "period");
	const char *kernel = acp_json_string(metadata, "kernel_id");
	if (!tenant || !period || !acp_is_uuid(tenant) || !ctl_is_month(period))
		return CTL_OWNER_OTHER;
	if (!kernel)
		return CTL_OWNER_UNMARKED;
	return strcmp(kernel, ctl->config.kernel_id) == 0 ? CTL_OWNER_OURS : CTL_OWNER_FOREIGN;
}

/* Collects invoices, and asks the database about them page by page. */
struct unknown {
	struct ctl *ctl;
	struct json_object *asked, *found;
	int left; /* how many more to look at; -1: all */
	bool failed;
};

static bool ask_database(struct unknown *u)
{
	if (json_object_array_length(u->asked) == 0)
		return true;
	const char *values[] = {json_object_to_json_string_ext(u->asked, JSON_C_TO_STRING_PLAIN)};
	struct json_object *rows = ctl_query(u->ctl, "billing unknown", values);
	struct json_object *unknown = rows ? ctl_value(rows, "unknown") : NULL;
	for (size_t i = 0; unknown && i < json_object_array_length(unknown); i++)
		json_object_array_add(u->found, json_object_get(json_object_array_get_idx(unknown, i)));
	json_object_put(rows);
	json_object_put(u->asked);
	u->asked = json_object_new_array();
	return rows != NULL;
}

static bool look_at(void *arg, struct json_object *invoice)
{
	struct unknown *u = arg;
	enum ctl_owner owner = ctl_stripe_owner(u->ctl, invoice);
	if (owner == CTL_OWNER_OURS || owner == CTL_OWNER_UNMARKED)
		json_object_array_add(u->asked, json_object_get(invoice));
	if (json_object_array_length(u->asked) >= INVOICES && !ask_database(u))
		u->failed = true;
	return !u->failed && (u->left < 0 || --u->left > 0);
}

struct json_object *ctl_stripe_unknown(struct ctl_stripe *stripe, int64_t created_from, int most, char *why,
				       size_t why_size)
{
	struct unknown u = {.ctl = stripe->ctl, .left = most ? most : -1};
	u.asked = json_object_new_array();
	u.found = json_object_new_array();
	*why = '\0';
	bool ok =
		ctl_stripe_invoices(stripe, created_from, look_at, &u, why, why_size) && !u.failed && ask_database(&u);
	json_object_put(u.asked);
	if (ok)
		return u.found;
	json_object_put(u.found);
	return NULL;
}
