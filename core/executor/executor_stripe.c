#include "executor_stripe.h"

#include "crypto.h"
#include "schemas.h"

#include <time.h>

enum {
	KEY_VALID_SECONDS = 23 * 3600, /* Stripe forgets idempotency keys after 24 h; this leaves an hour to finish */
	PAGE = 100,                    /* the largest page of Stripe's lists */
	PATH_MAX_LEN = 600,
	STEP_MAX = 192,
	DRAFTS_MAX = 20, /* of one tenant and month within a day */
};

/* Helpers -------------------------------------------------------------------------------------------------------- */

static struct json_object *new_object(void)
{
	return json_object_new_object();
}

/* Adds a text unless it is NULL. */
static bool add_text(struct json_object *object, const char *name, const char *text)
{
	return object && (!text || acp_json_add_string(object, name, text));
}

/* Adds a member of another object. Adds null if it is missing. */
static bool add_member(struct json_object *object, const char *name, struct json_object *from, const char *member)
{
	struct json_object *value = acp_json_member(from, member);
	return value ? acp_json_add(object, name, json_object_get(value)) : acp_json_add_null(object, name);
}

static int64_t number(struct json_object *object, const char *name)
{
	return json_object_get_int64(acp_json_member(object, name));
}

static bool member_equals(struct json_object *object, const char *name, const char *text)
{
	const char *value = acp_json_string(object, name);
	return value && strcmp(value, text) == 0;
}

static bool fail_no_memory(struct acp_executed *out)
{
	return acp_executed_fail(out, "INTERNAL_ERROR", true, "out of memory");
}

/* Forgets a refusal that was dealt with. */
static void forget_error(struct acp_executed *out)
{
	*out->error = *out->error_code = '\0';
}

/* Every object in Stripe's answers has an id; an answer without one is invalid. */
static const char *id_of(struct acp_stripe *stripe, struct json_object *object)
{
	const char *id = acp_json_string(object, "id");
	if (!id || strlen(id) > 255 ||
	    strspn(id, "_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") != strlen(id)) {
		acp_executed_fail(stripe->out, "UPSTREAM_FAILED", true, "Stripe's reply has no valid object id");
		return NULL;
	}
	return id;
}

/* Completes an execution successfully. Takes ownership of data. */
static bool succeed(struct acp_executed *out, struct json_object *data, const char *type, const char *id)
{
	struct json_object *meta = out->meta ? out->meta : json_object_new_object();
	out->data = data;
	out->meta = meta;
	if (!data || !add_text(meta, "resource_type", type) || !add_text(meta, "resource_id", id))
		return fail_no_memory(out);
	out->ok = true;
	out->retry = false;
	*out->error = *out->error_code = '\0';
	return true;
}

/* Is the obligation so old that Stripe may have forgotten its idempotency key? */
static bool is_old(const struct acp_execution *what)
{
	return what->obliged_at > 0 && (int64_t)time(NULL) - what->obliged_at > KEY_VALID_SECONDS;
}

/* Lists ---------------------------------------------------------------------------------------------------------- */

/* Called for each object of a list. Returns false to stop. */
typedef bool list_callback(void *arg, struct json_object *object);

static struct json_object *page_params(const char *name, const char *value, const char *after)
{
	struct json_object *params = new_object();
	if (add_text(params, name, value) && add_text(params, "starting_after", after) &&
	    acp_json_add(params, "limit", json_object_new_int(PAGE)))
		return params;
	json_object_put(params);
	return NULL;
}

/* Calls callback for every object of the list at path whose member called name equals value, newest first. */
static bool for_each(struct acp_stripe *stripe, const char *path, const char *name, const char *value,
		     list_callback *callback, void *arg)
{
	char after[256] = "";
	bool more = true;
	while (more) {
		struct json_object *page = NULL;
		struct json_object *params = page_params(name, value, *after ? after : NULL);
		if (!acp_stripe_ask(stripe, "GET", path, params, "", &page))
			return false;
		struct json_object *data = acp_json_member(page, "data");
		size_t count = json_object_is_type(data, json_type_array) ? json_object_array_length(data) : 0;
		more = count > 0 && acp_json_bool(page, "has_more");
		for (size_t i = 0; i < count; i++)
			if (!callback(arg, json_object_array_get_idx(data, i))) {
				more = false;
				break;
			}
		const char *last = more ? id_of(stripe, json_object_array_get_idx(data, count - 1)) : "";
		snprintf(after, sizeof after, "%s", last ? last : "");
		json_object_put(page);
		if (!last)
			return false;
	}
	return true;
}

/* Does the metadata name this tenant of this installation? Older versions did not write kernel_id, and older kernels do
 * not send it. */
static bool is_of_tenant(struct json_object *object, const char *tenant, const char *kernel_id)
{
	struct json_object *metadata = acp_json_member(object, "metadata");
	const char *held = acp_json_string(metadata, "kernel_id");
	return member_equals(metadata, "tenant_uuid", tenant) && (!held || !kernel_id || strcmp(held, kernel_id) == 0);
}

/* A search for the customer of a tenant. */
struct customer_search {
	const char *tenant, *kernel_id;
	struct json_object *found; /* owned */
};

static bool find_customer(void *arg, struct json_object *customer)
{
	struct customer_search *search = arg;
	if (!is_of_tenant(customer, search->tenant, search->kernel_id))
		return true;
	search->found = json_object_get(customer);
	return false;
}

/* Customers ------------------------------------------------------------------------------------------------------ */

static bool finish_customer(struct acp_stripe *stripe, struct json_object *customer)
{
	struct json_object *data = new_object();
	const char *id = id_of(stripe, customer);
	bool ok = id && add_text(data, "customer", id) && succeed(stripe->out, json_object_get(data), "customer", id);
	json_object_put(data);
	json_object_put(customer);
	return ok;
}

static struct json_object *customer_form(const struct acp_execution *what)
{
	struct json_object *params = what->params;
	struct json_object *form = new_object();
	struct json_object *metadata = new_object();
	bool ok = add_text(form, "email", acp_json_string(params, "email")) &&
		  add_text(form, "name", acp_json_string(params, "organization_name")) &&
		  add_text(metadata, "kernel_id", what->kernel_id) &&
		  add_text(metadata, "tenant_uuid", acp_json_string(params, "tenant_uuid")) &&
		  add_text(metadata, "agent_id", acp_json_string(params, "agent_id")) &&
		  acp_json_add(form, "metadata", json_object_get(metadata));
	json_object_put(metadata);
	if (ok)
		return form;
	json_object_put(form);
	return NULL;
}

static bool customers_create(struct acp_stripe *stripe, const struct acp_execution *what)
{
	struct json_object *customer = NULL;
	struct customer_search search = {acp_json_string(what->params, "tenant_uuid"), what->kernel_id, NULL};
	const char *email = acp_json_string(what->params, "email");
	bool lookup = what->lookup || is_old(what);
	if (lookup && !for_each(stripe, "/v1/customers", "email", email, find_customer, &search))
		return false;
	if (search.found)
		return finish_customer(stripe, search.found);
	return acp_stripe_ask(stripe, "POST", "/v1/customers", customer_form(what), "", &customer) &&
	       finish_customer(stripe, customer);
}

static bool customers_update(struct acp_stripe *stripe, const struct acp_execution *what)
{
	char path[PATH_MAX_LEN];
	struct json_object *customer = NULL;
	struct json_object *form = new_object();
	struct json_object *settings = new_object();
	const char *method = acp_json_string(what->params, "default_payment_method");
	bool ok = add_text(form, "email", acp_json_string(what->params, "email")) &&
		  add_text(form, "name", acp_json_string(what->params, "name")) &&
		  add_text(settings, "default_payment_method", method) &&
		  (!method || acp_json_add(form, "invoice_settings", json_object_get(settings)));
	json_object_put(settings);
	if (!ok) {
		json_object_put(form);
		return fail_no_memory(stripe->out);
	}
	snprintf(path, sizeof path, "/v1/customers/%s", acp_json_string(what->params, "customer"));
	return acp_stripe_ask(stripe, "POST", path, form, "", &customer) && finish_customer(stripe, customer);
}

/* Checkout -------------------------------------------------------------------------------------------------------- */

/* A session in which a human saves a payment method, without any charge. */
static struct json_object *session_form(const struct acp_execution *what)
{
	struct json_object *params = what->params;
	const char *tenant = acp_json_string(params, "tenant_uuid");
	const char *currency = acp_json_string(params, "currency"); /* kernels of older versions send none */
	struct json_object *form = new_object();
	struct json_object *metadata = new_object();
	struct json_object *intent = new_object();
	bool ok = add_text(metadata, "kernel_id", what->kernel_id) && add_text(metadata, "tenant_uuid", tenant) &&
		  acp_json_add(intent, "metadata", json_object_get(metadata)) && add_text(form, "mode", "setup") &&
		  add_text(form, "customer", acp_json_string(params, "customer")) &&
		  add_text(form, "client_reference_id", tenant) &&
		  acp_json_add(form, "metadata", json_object_get(metadata)) &&
		  acp_json_add(form, "setup_intent_data", json_object_get(intent)) &&
		  add_text(form, "currency", currency ? currency : "usd") &&
		  add_text(form, "success_url", acp_json_string(params, "success_url")) &&
		  add_text(form, "cancel_url", acp_json_string(params, "cancel_url"));
	json_object_put(metadata);
	json_object_put(intent);
	if (ok)
		return form;
	json_object_put(form);
	return NULL;
}

static bool checkout_create(struct acp_stripe *stripe, const struct acp_execution *what)
{
	struct json_object *session = NULL;
	if (!acp_stripe_ask(stripe, "POST", "/v1/checkout/sessions", session_form(what), "", &session))
		return false;
	struct json_object *data = new_object();
	const char *id = id_of(stripe, session);
	bool ok = id && add_text(data, "id", id) && add_member(data, "url", session, "url") &&
		  add_member(data, "expires_at", session, "expires_at") &&
		  add_member(data, "setup_intent", session, "setup_intent") &&
		  succeed(stripe->out, json_object_get(data), "checkout.session", id);
	json_object_put(data);
	json_object_put(session);
	return ok;
}

static bool setup_intents_get(struct acp_stripe *stripe, const struct acp_execution *what)
{
	char path[PATH_MAX_LEN];
	struct json_object *intent = NULL;
	snprintf(path, sizeof path, "/v1/setup_intents/%s", acp_json_string(what->params, "setup_intent"));
	if (!acp_stripe_ask(stripe, "GET", path, NULL, "", &intent))
		return false;
	struct json_object *data = new_object();
	bool ok = add_member(data, "payment_method", intent, "payment_method") &&
		  add_member(data, "customer", intent, "customer") && add_member(data, "status", intent, "status") &&
		  succeed(stripe->out, json_object_get(data), "setup_intent",
			  acp_json_string(what->params, "setup_intent"));
	json_object_put(data);
	json_object_put(intent);
	return ok;
}

/* Invoices -------------------------------------------------------------------------------------------------------- */

/* An invoice on its way from draft to paid. */
struct bill {
	struct acp_stripe *stripe;
	const struct acp_execution *what;
	struct json_object *params;
	struct json_object *invoice; /* as last returned by Stripe; owned */
	char id[256];
	bool found;              /* Stripe already had it: an earlier attempt made it, perhaps long ago */
	unsigned char done[256]; /* lines that the invoice already has */
};

static bool set_invoice(struct bill *bill, struct json_object *invoice)
{
	const char *id = id_of(bill->stripe, invoice);
	json_object_put(bill->invoice);
	bill->invoice = invoice;
	if (id)
		snprintf(bill->id, sizeof bill->id, "%s", id);
	return id != NULL;
}

static bool has_status(const struct bill *bill, const char *status)
{
	return member_equals(bill->invoice, "status", status);
}

static bool refresh(struct bill *bill)
{
	char path[PATH_MAX_LEN];
	struct json_object *invoice = NULL;
	snprintf(path, sizeof path, "/v1/invoices/%s", bill->id);
	return acp_stripe_ask(bill->stripe, "GET", path, NULL, "", &invoice) && set_invoice(bill, invoice);
}

static struct json_object *bill_metadata(const struct bill *bill)
{
	struct json_object *params = bill->params;
	struct json_object *metadata = new_object();
	if (add_text(metadata, "kernel_id", bill->what->kernel_id) &&
	    add_text(metadata, "tenant_uuid", acp_json_string(params, "tenant_uuid")) &&
	    add_text(metadata, "period", acp_json_string(params, "period")) &&
	    add_text(metadata, "invoice_hash", acp_json_string(params, "hash")))
		return metadata;
	json_object_put(metadata);
	return NULL;
}

static bool mark_line(void *arg, struct json_object *item)
{
	struct bill *bill = arg;
	const char *line = acp_json_string(acp_json_member(item, "metadata"), "line");
	long index = line ? strtol(line, NULL, 10) : -1;
	if (index >= 0 && index < (long)sizeof bill->done)
		bill->done[index] = 1;
	return true;
}

static struct json_object *item_form(const struct bill *bill, struct json_object *line, size_t index)
{
	char text[24];
	struct json_object *form = new_object();
	struct json_object *metadata = bill_metadata(bill);
	snprintf(text, sizeof text, "%zu", index);
	bool ok = add_member(form, "customer", bill->invoice, "customer") && add_text(form, "invoice", bill->id) &&
		  add_text(form, "currency", acp_json_string(bill->params, "currency")) &&
		  add_text(form, "description", acp_json_string(line, "description")) &&
		  add_member(form, "amount", line, "amount") && add_text(metadata, "line", text) &&
		  acp_json_add(form, "metadata", json_object_get(metadata));
	json_object_put(metadata);
	if (ok)
		return form;
	json_object_put(form);
	return NULL;
}

static bool add_items(struct bill *bill)
{
	char step[STEP_MAX];
	struct json_object *item = NULL;
	struct json_object *lines = acp_json_member(bill->params, "lines");
	/* Stripe may have forgotten the keys of the steps of an earlier attempt. It refuses those of a draft that was
	 * deleted today, so all steps name the invoice. */
	if (bill->found && !for_each(bill->stripe, "/v1/invoiceitems", "invoice", bill->id, mark_line, bill))
		return false;
	for (size_t i = 0; i < json_object_array_length(lines); i++) {
		struct json_object *form =
			bill->done[i] ? NULL : item_form(bill, json_object_array_get_idx(lines, i), i);
		if (bill->done[i])
			continue;
		snprintf(step, sizeof step, "item-%zu-%.128s", i, bill->id);
		if (!form || !acp_stripe_ask(bill->stripe, "POST", "/v1/invoiceitems", form, step, &item))
			return form ? false : fail_no_memory(bill->stripe->out);
		json_object_put(item);
	}
	return true;
}

/* Checks that Stripe's total equals ours, before anybody is charged. An invoice that Stripe already has may be of calls
 * whose rows were lost: it is never changed, and no second one is made. */
static bool check_total(struct bill *bill)
{
	long long total = (long long)number(bill->invoice, "total");
	long long ours = (long long)number(bill->params, "amount");
	const char *currency = acp_json_string(bill->invoice, "currency");
	if (total == ours && member_equals(bill->invoice, "currency", acp_json_string(bill->params, "currency")))
		return true;
	return acp_executed_fail(
		bill->stripe->out, "INVOICE_MISMATCH", false,
		"invoice %s has a total of %lld %s at Stripe, not %lld %s; it was left unchanged%s", bill->id, total,
		currency ? currency : "", ours, acp_json_string(bill->params, "currency"),
		bill->found && !has_status(bill, "draft") ? " (to accept it: acpctl billing adopt)" : "");
}

/* A draft of other lines than ours was begun from rows that were lost since. It may not get our lines too. */
static bool check_draft(struct bill *bill)
{
	if (!bill->found || !has_status(bill, "draft") ||
	    member_equals(acp_json_member(bill->invoice, "metadata"), "invoice_hash",
			  acp_json_string(bill->params, "hash")))
		return true;
	return acp_executed_fail(
		bill->stripe->out, "INVOICE_MISMATCH", false,
		"Stripe has an unfinished draft %s of this month with other lines and a total of %lld, "
		"not %lld; delete the draft at Stripe, then: acpctl billing retry",
		bill->id, (long long)number(bill->invoice, "total"), (long long)number(bill->params, "amount"));
}

/* Requests the next step of an invoice. If Stripe refuses, an earlier attempt may already have done the step; the
 * refreshed invoice then shows it. */
static bool advance(struct bill *bill, const char *verb, struct json_object *form, const char *step)
{
	char path[PATH_MAX_LEN];
	struct json_object *invoice = NULL;
	struct acp_executed *out = bill->stripe->out;
	snprintf(path, sizeof path, "/v1/invoices/%s/%s", bill->id, verb);
	if (acp_stripe_ask(bill->stripe, "POST", path, form, step, &invoice))
		return set_invoice(bill, invoice);
	if (out->status != 400 && out->status != 402)
		return false;
	struct acp_executed refusal = *out;
	if (!refresh(bill))
		return false;
	*out = refusal;
	return true;
}

static bool finalize(struct bill *bill)
{
	char step[STEP_MAX];
	struct json_object *form = new_object();
	if (!acp_json_add(form, "auto_advance", json_object_new_boolean(false))) {
		json_object_put(form);
		return fail_no_memory(bill->stripe->out);
	}
	snprintf(step, sizeof step, "finalize-%.128s", bill->id);
	return advance(bill, "finalize", form, step) && !has_status(bill, "draft");
}

/* Adds a member to the audit row's result_meta. Creates it if necessary. */
static bool note(struct acp_executed *out, const char *name, struct json_object *value)
{
	if (!out->meta)
		out->meta = json_object_new_object();
	return (out->meta && acp_json_add(out->meta, name, value)) || fail_no_memory(out);
}

/* If the card is declined or missing, the invoice stays open. That is a valid answer, not a failure. */
static bool pay(struct bill *bill, const char *step)
{
	struct acp_executed *out = bill->stripe->out;
	if (!advance(bill, "pay", NULL, step))
		return false;
	if (!has_status(bill, "open"))
		return true;
	const char *code = *out->error_code ? out->error_code : "unknown";
	return note(out, "payment_error", json_object_new_string(code));
}

static bool finish_bill(struct bill *bill)
{
	struct json_object *data = new_object();
	/* An open invoice without it is one whose payment is still being processed. */
	const char *refused = acp_json_string(bill->stripe->out->meta, "payment_error");
	struct json_object *metadata = acp_json_member(bill->invoice, "metadata");
	bool ok = (!bill->found || note(bill->stripe->out, "found", json_object_new_boolean(true))) &&
		  add_text(data, "invoice", bill->id) && add_member(data, "status", bill->invoice, "status") &&
		  add_member(data, "amount", bill->invoice, "total") &&
		  add_text(data, "hash", acp_json_string(metadata, "invoice_hash")) &&
		  (!refused || strcmp(refused, "unknown") == 0 || add_text(data, "payment_error", refused)) &&
		  succeed(bill->stripe->out, json_object_get(data), "invoice", bill->id);
	json_object_put(data);
	return ok;
}

/* The search for the invoice of a tenant and month that Stripe already has, in all customers of the tenant. */
struct bill_search {
	struct bill *bill;
	const char *tenant, *period, *customer;
	struct json_object *found; /* owned */
	bool failed;
};

/* If somebody made another invoice by hand, or voided one, the one that counts most is continued. */
static int rank_of(struct json_object *invoice)
{
	static const char *const ranks[] = {"void", "draft", "uncollectible", "open", "paid"};
	const char *status = acp_json_string(invoice, "status");
	for (int i = 0; status && i < (int)ACP_COUNT(ranks); i++)
		if (strcmp(status, ranks[i]) == 0)
			return i + 1;
	return 0;
}

static bool find_invoice(void *arg, struct json_object *invoice)
{
	struct bill_search *search = arg;
	if (is_of_tenant(invoice, search->tenant, search->bill->what->kernel_id) &&
	    member_equals(acp_json_member(invoice, "metadata"), "period", search->period) &&
	    rank_of(invoice) > rank_of(search->found)) {
		json_object_put(search->found);
		search->found = json_object_get(invoice);
	}
	return !member_equals(search->found, "status", "paid");
}

/* Looks through the invoices of another customer of the tenant. */
static bool find_at_customer(void *arg, struct json_object *customer)
{
	struct bill_search *search = arg;
	struct acp_stripe *stripe = search->bill->stripe;
	if (!is_of_tenant(customer, search->tenant, search->bill->what->kernel_id) ||
	    member_equals(customer, "id", search->customer))
		return true;
	const char *id = id_of(stripe, customer);
	search->failed = !id || !for_each(stripe, "/v1/invoices", "customer", id, find_invoice, search);
	return !search->failed;
}

/* Looks for the invoice of this month at Stripe. No record here proves that none was made: the record may be older than
 * the invoice (a restored backup), and Stripe forgets keys after a day. Lists are used because they are up to date;
 * Stripe's search is not. */
static bool find_bill(struct bill *bill)
{
	const char *email = bill->what->email;
	struct bill_search search = {bill,
				     acp_json_string(bill->params, "tenant_uuid"),
				     acp_json_string(bill->params, "period"),
				     acp_json_string(bill->params, "customer"),
				     NULL,
				     false};
	bool ok = for_each(bill->stripe, "/v1/invoices", "customer", search.customer, find_invoice, &search) &&
		  (!email || for_each(bill->stripe, "/v1/customers", "email", email, find_at_customer, &search)) &&
		  !search.failed;
	bill->found = search.found != NULL;
	if (ok && search.found)
		return set_invoice(bill, search.found);
	json_object_put(search.found);
	return ok;
}

/* Drafts ---------------------------------------------------------------------------------------------------------- */

static struct json_object *draft_form(const struct bill *bill)
{
	struct json_object *form = new_object();
	if (add_text(form, "customer", acp_json_string(bill->params, "customer")) &&
	    add_text(form, "currency", acp_json_string(bill->params, "currency")) &&
	    add_text(form, "collection_method", "charge_automatically") &&
	    add_text(form, "pending_invoice_items_behavior", "exclude") &&
	    acp_json_add(form, "auto_advance", json_object_new_boolean(false)) &&
	    acp_json_add(form, "metadata", bill_metadata(bill)))
		return form;
	json_object_put(form);
	fail_no_memory(bill->stripe->out);
	return NULL;
}

enum drafted { DRAFT_FAILED, DRAFT_MADE, DRAFT_DELETED };

/* Creates a draft under the key of this step. Stripe repeats its first reply for a day, also if the draft was deleted
 * since; such a draft must not be used. */
static enum drafted try_draft(struct bill *bill, const char *step)
{
	struct json_object *invoice = NULL;
	struct acp_executed *out = bill->stripe->out;
	struct json_object *form = draft_form(bill);
	if (!form || !acp_stripe_ask(bill->stripe, "POST", "/v1/invoices", form, step, &invoice) ||
	    !set_invoice(bill, invoice))
		return DRAFT_FAILED;
	if (!bill->stripe->replayed)
		return DRAFT_MADE;
	if (refresh(bill))
		return acp_json_bool(bill->invoice, "deleted") ? DRAFT_DELETED : DRAFT_MADE;
	if (out->status != 404)
		return DRAFT_FAILED;
	forget_error(out);
	return DRAFT_DELETED;
}

/* Makes the step of a draft with these parameters. */
static bool step_of_draft(const struct bill *bill, char step[STEP_MAX])
{
	char hash[ACP_SHA256_HEX];
	uint8_t bytes[ACP_SHA256_LEN];
	struct json_object *form = draft_form(bill);
	const char *text = form ? json_object_to_json_string(form) : NULL;
	if (text) {
		acp_sha256(text, strlen(text), bytes);
		acp_hex(bytes, sizeof bytes, hash);
		snprintf(step, STEP_MAX, "draft-%.16s", hash);
	}
	json_object_put(form);
	return text || fail_no_memory(bill->stripe->out);
}

/* Makes the draft. Every attempt uses the same keys in the same order, so that one whose outcome was lost is repeated.
 * The first key names only the month: Stripe refuses it if a draft with other lines, or for another customer, was made
 * or refused under it today. Only if no such invoice can be found then is there a key for these parameters. */
static bool make_draft(struct bill *bill)
{
	char step[STEP_MAX] = "";
	struct acp_executed *out = bill->stripe->out;
	for (int i = 0; i < DRAFTS_MAX; i++) {
		enum drafted drafted = try_draft(bill, step);
		if (drafted == DRAFT_MADE)
			return true;
		if (drafted == DRAFT_DELETED) {
			snprintf(step, sizeof step, "after-%.128s", bill->id);
			continue;
		}
		if (*step || strcmp(out->error_code, "idempotency_error") != 0 || out->status != 400)
			return false;
		if (!find_bill(bill))
			return false;
		forget_error(out);
		if (bill->found)
			return true;
		if (!step_of_draft(bill, step))
			return false;
	}
	return acp_executed_fail(out, "UPSTREAM_FAILED", false,
				 "too many drafts of this month were deleted at Stripe today; try again tomorrow: "
				 "acpctl billing retry");
}

static bool lines_add_up(struct json_object *params)
{
	int64_t sum = 0;
	struct json_object *lines = acp_json_member(params, "lines");
	for (size_t i = 0; i < json_object_array_length(lines); i++)
		sum += number(json_object_array_get_idx(lines, i), "amount");
	return sum == number(params, "amount");
}

static bool run_bill(struct bill *bill)
{
	char step[STEP_MAX];
	if (!lines_add_up(bill->params))
		return acp_executed_fail(bill->stripe->out, "VALIDATION_ERROR", false,
					 "the lines do not add up to the amount");
	if (!find_bill(bill) || (!bill->found && !make_draft(bill)) || !check_draft(bill))
		return false;
	/* Somebody gave it up at Stripe. Another one may not be wanted. */
	if (has_status(bill, "void") || has_status(bill, "uncollectible"))
		return finish_bill(bill);
	/* Stripe's reply may come from an earlier attempt. Repeating the steps with the same keys has no effect. */
	if (has_status(bill, "draft") && (!add_items(bill) || !refresh(bill)))
		return false;
	if (!check_total(bill))
		return false;
	if (has_status(bill, "draft") && !finalize(bill))
		return false;
	snprintf(step, sizeof step, "pay-%.128s", bill->id);
	if (has_status(bill, "open") && !pay(bill, step))
		return false;
	return finish_bill(bill);
}

static bool invoices_create(struct acp_stripe *stripe, const struct acp_execution *what)
{
	struct bill bill = {.stripe = stripe, .what = what, .params = what->params};
	bool ok = run_bill(&bill);
	json_object_put(bill.invoice);
	return ok;
}

static bool invoices_pay(struct acp_stripe *stripe, const struct acp_execution *what)
{
	struct bill bill = {.stripe = stripe, .what = what, .params = what->params};
	snprintf(bill.id, sizeof bill.id, "%s", acp_json_string(what->params, "invoice"));
	bool ok = pay(&bill, "") && finish_bill(&bill);
	json_object_put(bill.invoice);
	return ok;
}

static struct json_object *invoice_summary(struct json_object *invoice)
{
	static const char *const same[] = {"status", "currency", "metadata", "created", "customer"};
	struct json_object *summary = new_object();
	bool ok = add_member(summary, "invoice", invoice, "id") && add_member(summary, "amount", invoice, "total");
	for (size_t i = 0; ok && i < ACP_COUNT(same); i++)
		ok = add_member(summary, same[i], invoice, same[i]);
	if (ok)
		return summary;
	json_object_put(summary);
	return NULL;
}

static struct json_object *invoice_summaries(struct json_object *page)
{
	struct json_object *data = new_object();
	struct json_object *list = json_object_new_array();
	struct json_object *found = acp_json_member(page, "data");
	size_t count = json_object_is_type(found, json_type_array) ? json_object_array_length(found) : 0;
	bool ok = data && list;
	for (size_t i = 0; ok && i < count; i++) {
		struct json_object *summary = invoice_summary(json_object_array_get_idx(found, i));
		ok = summary && json_object_array_add(list, summary) == 0;
		if (!ok)
			json_object_put(summary);
	}
	ok = ok && acp_json_add(data, "invoices", json_object_get(list)) &&
	     add_member(data, "has_more", page, "has_more");
	json_object_put(list);
	if (ok)
		return data;
	json_object_put(data);
	return NULL;
}

/* Asks for the page of a list that params describe: starting_after, created_from, limit. */
static bool ask_page(struct acp_stripe *stripe, const char *path, struct json_object *params, struct json_object **page)
{
	struct json_object *form = new_object();
	struct json_object *created = new_object();
	struct json_object *limit = acp_json_member(params, "limit");
	bool ok = add_text(form, "starting_after", acp_json_string(params, "starting_after")) &&
		  add_member(created, "gte", params, "created_from") &&
		  acp_json_add(form, "created", json_object_get(created)) &&
		  acp_json_add(form, "limit", limit ? json_object_get(limit) : json_object_new_int(PAGE));
	json_object_put(created);
	if (ok)
		return acp_stripe_ask(stripe, "GET", path, form, "", page);
	json_object_put(form);
	return fail_no_memory(stripe->out);
}

static bool invoices_list(struct acp_stripe *stripe, const struct acp_execution *what)
{
	struct json_object *page = NULL;
	if (!ask_page(stripe, "/v1/invoices", what->params, &page))
		return false;
	bool ok = succeed(stripe->out, invoice_summaries(page), "invoice", NULL);
	json_object_put(page);
	return ok;
}

/* Events --------------------------------------------------------------------------------------------------------- */

/* Stripe keeps events for 30 days. They are returned as Stripe sends them to webhooks. */
static bool events_list(struct acp_stripe *stripe, const struct acp_execution *what)
{
	struct json_object *page = NULL;
	struct json_object *data = new_object();
	bool ok = ask_page(stripe, "/v1/events", what->params, &page) && add_member(data, "events", page, "data") &&
		  add_member(data, "has_more", page, "has_more") &&
		  succeed(stripe->out, json_object_get(data), "event", NULL);
	json_object_put(data);
	json_object_put(page);
	return ok;
}

/* Allowed actions -------------------------------------------------------------------------------------------------- */

const struct acp_executor_action acp_stripe_actions[] = {
	{"stripe.customers.create", acp_schema_executor_stripe_customers_create, customers_create},
	{"stripe.customers.update", acp_schema_executor_stripe_customers_update, customers_update},
	{"stripe.checkout.create", acp_schema_executor_stripe_checkout_create, checkout_create},
	{"stripe.events.list", acp_schema_executor_stripe_events_list, events_list},
	{"stripe.setup_intents.get", acp_schema_executor_stripe_setup_intents_get, setup_intents_get},
	{"stripe.invoices.create", acp_schema_executor_stripe_invoices_create, invoices_create},
	{"stripe.invoices.list", acp_schema_executor_stripe_invoices_list, invoices_list},
	{"stripe.invoices.pay", acp_schema_executor_stripe_invoices_pay, invoices_pay},
	{0},
};
