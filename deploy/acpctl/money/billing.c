/* billing.c - acpctl billing and acpctl price: creates, shows, corrects and retries invoices.
 *
 * A run is a sequence of steps, each a transaction that bills some tenants. A run that is killed and started again
 * continues at the same place, and each tenant is billed once. */
#include "acpctl.h"

#include "acp.h"
#include "progress.h"
#include "restore.h"

/* Accepts decimal text as PostgreSQL's numeric reads it, without sign and exponent. The bounds are those of
 * acp.price_check(). */
static bool amount_ok(const char *text)
{
	size_t whole = strspn(text, "0123456789");
	size_t decimals = 0;
	const char *rest = text + whole;
	if (whole && *rest == '.' && rest[1]) {
		decimals = strspn(rest + 1, "0123456789");
		rest += 1 + decimals;
	}
	if (whole && whole <= 9 && decimals <= 12 && !*rest)
		return true;
	ctl_fail("--amount %.80s: must be an amount like 1.50, with at most 9 digits before the point and 12 after it",
		 text);
	return false;
}

/* The setting, as a parameter. NULL: the smallest charge of Stripe for the currency. */
static const char *minimum(const struct ctl *ctl)
{
	return *ctl->config.invoice_minimum ? ctl->config.invoice_minimum : NULL;
}

/* Runs ------------------------------------------------------------------------------------------------------------- */

/* Bills the remaining tenants, several in each step. */
static bool bill_all(struct ctl *ctl, const char *key)
{
	char after[ACP_UUID_LEN] = "";
	struct ctl_progress progress;
	ctl_progress_begin(&progress, "billing", 0x10000);
	for (;;) {
		const char *values[] = {key, *after ? after : NULL};
		struct json_object *rows = ctl_query(ctl, "billing step", values);
		struct json_object *at = rows ? ctl_value(rows, "at") : NULL;
		bool more = at != NULL;
		snprintf(after, sizeof after, "%s", more ? json_object_get_string(at) : "");
		json_object_put(rows);
		if (!rows || !more) {
			ctl_progress_end(&progress);
			return rows != NULL;
		}
		/* Tenants are billed in the order of their UUIDs. These are random, so the first digits show the
		 * progress. */
		const char digits[] = {after[0], after[1], after[2], after[3], '\0'};
		ctl_progress_at(&progress, (int64_t)strtoul(digits, NULL, 16));
	}
}

/* Begins the run of this key, or continues it. period: set to the month of the run. */
static bool do_run(struct ctl *ctl, const char *key, const char *wanted, char period[8])
{
	const char *values[] = {key, wanted, minimum(ctl)};
	struct json_object *rows = ctl_query(ctl, "billing open", values);
	if (!rows)
		return false;
	snprintf(period, 8, "%s", json_object_get_string(ctl_value(rows, "period")));
	bool ok = json_object_get_boolean(ctl_value(rows, "finished")) ||
		  bill_all(ctl, json_object_get_string(ctl_value(rows, "run_key")));
	json_object_put(rows);
	return ok;
}

/* Prints the tenants whose invoice cannot be made. */
static void print_blocked(struct json_object *blocked)
{
	for (size_t i = 0; i < json_object_array_length(blocked); i++) {
		struct json_object *tenant = json_object_array_get_idx(blocked, i);
		printf("%s  %-8s %12s  %s\n", acp_json_string(tenant, "tenant_uuid"), "blocked", "-",
		       acp_json_string(tenant, "reason"));
	}
}

/* Prints a line for each invoice and for each blocked tenant, then the sum. */
static void print_run(struct json_object *result)
{
	struct json_object *invoices = acp_json_member(result, "invoices");
	bool dry = acp_json_bool(result, "dry_run");
	size_t count = json_object_array_length(invoices);
	for (size_t i = 0; i < count; i++) {
		struct json_object *invoice = json_object_array_get_idx(invoices, i);
		printf("%s  %-8s %12s  %s\n", acp_json_string(invoice, "tenant_uuid"),
		       acp_json_string(invoice, "status"), json_object_get_string(acp_json_member(invoice, "amount")),
		       acp_json_string(invoice, "hash"));
	}
	print_blocked(acp_json_member(result, "blocked"));
	printf("%s: %zu invoice%s%s, %s in minor units of %s\n", acp_json_string(result, "period"), count,
	       count == 1 ? "" : "s", dry ? " (dry run: nothing was stored)" : "",
	       json_object_get_string(acp_json_member(result, "amount")), acp_json_string(result, "currency"));
}

/* Reports that some tenants are not billed. */
static int conclude(struct json_object *result)
{
	size_t count = json_object_array_length(acp_json_member(result, "blocked"));
	if (!count)
		return ACPCTL_OK;
	return ctl_fail("%s: the invoices of %zu tenant%s cannot be made; all others are not affected. Remove the "
			"cause (acpctl billing correct may), then run this again",
			acp_json_string(result, "period"), count, count == 1 ? "" : "s");
}

static int show_result(struct ctl *ctl, const char *period, bool dry)
{
	const char *values[] = {period, dry ? "true" : "false", minimum(ctl)};
	static const char *const columns[] = {"tenant_uuid", "status", "amount", "hash"};
	struct ctl_busy busy;
	ctl_busy_begin(&busy, "computing the invoices");
	struct json_object *rows = ctl_query(ctl, "billing result", values);
	ctl_busy_end(&busy);
	if (!rows)
		return ACPCTL_FAILED;
	struct json_object *result = ctl_value(rows, "result");
	if (ctl->json)
		ctl_print_json(result);
	else if (ctl->csv)
		ctl_print_columns(ctl, acp_json_member(result, "invoices"), columns, ACP_COUNT(columns));
	else
		print_run(result);
	int status = conclude(result);
	json_object_put(rows);
	return status;
}

int ctl_billing_run(struct ctl *ctl)
{
	const char *key = ctl_option(ctl, "key");
	const char *wanted = ctl_option(ctl, "period");
	char period[8] = "";
	if (*ctl->config.hub_url)
		return ctl_fail("the hub at %s bills; run this there", ctl->config.hub_url);
	if (key && (!*key || strlen(key) > 255))
		return ctl_misuse("--key: must have 1 to 255 characters");
	if (!ctl_run(ctl, "clock", NULL)) /* opens the database */
		return ACPCTL_FAILED;
	acp_admin_patient(ctl->admin);
	if (ctl_flag(ctl, "dry-run"))
		return show_result(ctl, wanted, true);
	ctl_stripe_warn(ctl, wanted);
	return do_run(ctl, key, wanted, period) ? show_result(ctl, period, false) : ACPCTL_FAILED;
}

/* Invoices --------------------------------------------------------------------------------------------------------- */

int ctl_billing_list(struct ctl *ctl)
{
	const char *values[] = {ctl_option(ctl, "period"), ctl_option(ctl, "status")};
	return ctl_print_query(ctl, "billing list", values);
}

/* Computes the text whose SHA-256 is the hash again, and prints it without a newline after it. */
static int show_text(struct ctl *ctl, const char *const *values)
{
	struct json_object *rows = ctl_query(ctl, "billing text", values);
	if (!rows)
		return ACPCTL_FAILED;
	bool there = json_object_array_length(rows) > 0;
	if (there)
		fputs(json_object_get_string(ctl_value(rows, "text")), stdout);
	json_object_put(rows);
	return there ? ACPCTL_OK : ctl_fail("the tenant has no invoice for %s", values[1]);
}

static void print_invoice(struct json_object *invoice)
{
	static const char *const of_invoice[] = {"tenant_uuid", "period", "status", "stripe_invoice_id", "hash"};
	static const char *const of_charges[] = {"currency", "total_charge", "amount_due", "carried_in", "carried_out"};
	static const char *const if_any[] = {"refunded", "credited", "dispute", "disputed_at", "settled_at"};
	struct json_object *charges = acp_json_member(invoice, "charges");
	for (size_t i = 0; i < ACP_COUNT(of_invoice); i++) {
		const char *text = acp_json_string(invoice, of_invoice[i]);
		printf("%-22s %s\n", of_invoice[i], text ? text : "-");
	}
	for (size_t i = 0; i < ACP_COUNT(of_charges); i++)
		printf("%-22s %s\n", of_charges[i], json_object_get_string(acp_json_member(charges, of_charges[i])));
	for (size_t i = 0; i < ACP_COUNT(if_any); i++)
		if (acp_json_member(invoice, if_any[i]))
			printf("%-22s %s\n", if_any[i], json_object_get_string(acp_json_member(invoice, if_any[i])));
	struct json_object *lines = acp_json_member(charges, "lines");
	for (size_t i = 0; i < json_object_array_length(lines); i++) {
		struct json_object *line = json_object_array_get_idx(lines, i);
		printf("%3zu  %14s  %s\n", i + 1, json_object_get_string(acp_json_member(line, "amount")),
		       acp_json_string(line, "description"));
	}
}

int ctl_billing_show(struct ctl *ctl)
{
	char tenant[ACP_UUID_LEN];
	if (!ctl_tenant_id(ctl, ctl_operand(ctl), tenant))
		return ACPCTL_FAILED;
	const char *values[] = {tenant, ctl_option(ctl, "period"), minimum(ctl)};
	if (ctl_flag(ctl, "text"))
		return show_text(ctl, values);
	struct json_object *rows = ctl_query(ctl, "billing show", values);
	if (!rows)
		return ACPCTL_FAILED;
	static const char *const columns[] = {"line",     "kind",        "period", "action", "unit",
					      "quantity", "unit_amount", "calls",  "amount", "description"};
	struct json_object *invoice = ctl_value(rows, "invoice");
	if (ctl->json)
		ctl_print_json(invoice);
	else if (ctl->csv)
		ctl_print_columns(ctl, acp_json_member(acp_json_member(invoice, "charges"), "lines"), columns,
				  ACP_COUNT(columns));
	else
		print_invoice(invoice);
	json_object_put(rows);
	return ACPCTL_OK;
}

int ctl_billing_credit(struct ctl *ctl)
{
	char tenant[ACP_UUID_LEN];
	const char *amount = ctl_option(ctl, "amount");
	const char *reason = ctl_option(ctl, "reason");
	if (!amount_ok(amount))
		return ACPCTL_USAGE;
	if (!*reason || strlen(reason) > 500)
		return ctl_misuse("--reason: must have 1 to 500 characters; it is shown on the invoice");
	if (!ctl_tenant_id(ctl, ctl_operand(ctl), tenant))
		return ACPCTL_FAILED;
	const char *values[] = {tenant, amount, reason};
	struct json_object *rows = ctl_query(ctl, "billing credit", values);
	if (!rows)
		return ACPCTL_FAILED;
	if (ctl->json || ctl->csv) {
		ctl_print_one(ctl, rows);
		return ACPCTL_OK;
	}
	printf("credit %s of %s to tenant %s: on its next invoice\n",
	       json_object_get_string(ctl_value(rows, "credit_id")), amount, tenant);
	json_object_put(rows);
	return ACPCTL_OK;
}

int ctl_billing_correct(struct ctl *ctl)
{
	char tenant[ACP_UUID_LEN];
	const char *event = ctl->operands[1];
	const char *quantity = ctl_option(ctl, "quantity");
	const char *reason = ctl_option(ctl, "reason");
	size_t digits = strspn(quantity, "0123456789");
	if (!digits || quantity[digits] || digits > 13 || strtoll(quantity, NULL, 10) > ACP_QUANTITY_MAX)
		return ctl_misuse("--quantity %.80s: must be a whole number from 0 to %lld", quantity,
				  (long long)ACP_QUANTITY_MAX);
	if (!*reason || strlen(reason) > 500)
		return ctl_misuse("--reason: must have 1 to 500 characters");
	if (!acp_is_uuid(event))
		return ctl_misuse("EVENT_ID %.80s: must be a UUID, the event_id of an audit row", event);
	if (!ctl_tenant_id(ctl, ctl_operand(ctl), tenant))
		return ACPCTL_FAILED;
	const char *values[] = {tenant, event, quantity, reason, ctl->config.kernel_id};
	struct json_object *rows = ctl_query(ctl, "billing correct", values);
	if (!rows)
		return ACPCTL_FAILED;
	if (ctl->json || ctl->csv) {
		ctl_print_one(ctl, rows);
		return ACPCTL_OK;
	}
	printf("event %s of %s: %s instead of %s %s of %s\n", event, json_object_get_string(ctl_value(rows, "ts")),
	       quantity, json_object_get_string(ctl_value(rows, "quantity")),
	       json_object_get_string(ctl_value(rows, "billing_unit")),
	       json_object_get_string(ctl_value(rows, "action")));
	json_object_put(rows);
	return ACPCTL_OK;
}

/* Retries one invoice, or every invoice that failed. */
int ctl_billing_retry(struct ctl *ctl)
{
	char tenant[ACP_UUID_LEN];
	const char *period = ctl_option(ctl, "period");
	if (!period != !ctl_operand(ctl))
		return ctl_misuse("billing retry needs TENANT and --period YYYY-MM, or neither to retry every "
				  "invoice that failed");
	if (!period)
		return ctl_print_query(ctl, "billing retry all", NULL);
	if (!ctl_tenant_id(ctl, ctl_operand(ctl), tenant))
		return ACPCTL_FAILED;
	const char *values[] = {tenant, period};
	return ctl_print_query(ctl, "billing retry", values);
}

int ctl_billing_settle(struct ctl *ctl)
{
	char tenant[ACP_UUID_LEN];
	const char *period = ctl_option(ctl, "period");
	if (!ctl_tenant_id(ctl, ctl_operand(ctl), tenant))
		return ACPCTL_FAILED;
	char grace[24];
	snprintf(grace, sizeof grace, "%lld", (long long)ctl->config.grace_days);
	const char *values[] = {tenant, period, grace};
	struct json_object *rows = ctl_query(ctl, "billing settle", values);
	if (!rows)
		return ACPCTL_FAILED;
	if (ctl->json || ctl->csv) {
		ctl_print_one(ctl, rows);
		return ACPCTL_OK;
	}
	printf("the invoice of %s counts as settled%s\n", period,
	       json_object_get_boolean(ctl_value(rows, "past_due")) ? "; another one is still past due" : "");
	json_object_put(rows);
	return ACPCTL_OK;
}

/* Prices ----------------------------------------------------------------------------------------------------------- */

int ctl_price_list(struct ctl *ctl)
{
	return ctl_print_query(ctl, "price list", NULL);
}

/* Accepts the forms by which prices are looked up: the name of an action, or the beginning of a name followed by *. */
static bool pattern_ok(const char *text)
{
	size_t name = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_.");
	if (*text && strlen(text) <= 200 && (!text[name] || strcmp(text + name, "*") == 0))
		return true;
	ctl_fail("--action %.80s: must be the name of an action, or a prefix followed by *, as domain.leadscoring.*",
		 text);
	return false;
}

/* option: how the word was given, for the message. */
static bool currency_ok(const char *option, const char *word)
{
	if (strlen(word) == 3 && strspn(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 3)
		return true;
	ctl_fail("%s%.80s: must be an ISO 4217 code in capitals, for example USD", option, word);
	return false;
}

/* Prints a price, with the moment from which it is valid. */
static void print_price(struct json_object *row, const char *before)
{
	printf("%s%s: %s %s a %s of %s, from %s\n", before, json_object_get_string(acp_json_member(row, "version")),
	       acp_json_string(row, "unit_amount"), acp_json_string(row, "currency"), acp_json_string(row, "unit"),
	       acp_json_string(row, "action_pattern"), acp_json_string(row, "valid_from"));
}

/* Prints the only row, a price. Releases the rows. */
static int show_price(struct ctl *ctl, struct json_object *rows, const char *before)
{
	if (ctl->json || ctl->csv) {
		ctl_print_one(ctl, rows);
		return ACPCTL_OK;
	}
	print_price(json_object_array_get_idx(rows, 0), before);
	json_object_put(rows);
	return ACPCTL_OK;
}

/* Shows the price that a statement has made. made: its row with the version, released here. */
static int show_made(struct ctl *ctl, struct json_object *made)
{
	char version[24];
	const char *values[] = {version};
	if (!made)
		return ACPCTL_FAILED;
	snprintf(version, sizeof version, "%s", json_object_get_string(ctl_value(made, "version")));
	json_object_put(made);
	struct json_object *rows = ctl_query(ctl, "price show", values);
	return rows ? show_price(ctl, rows, "price ") : ACPCTL_FAILED;
}

int ctl_price_add(struct ctl *ctl)
{
	const char *amount = ctl_option(ctl, "amount");
	const char *currency = ctl_option(ctl, "currency");
	const char *unit = ctl_option(ctl, "unit") ? ctl_option(ctl, "unit") : "call";
	const char *action = ctl_option(ctl, "action") ? ctl_option(ctl, "action") : "*";
	if (!amount_ok(amount) || !currency_ok("--currency ", currency) || !pattern_ok(action))
		return ACPCTL_USAGE;
	const char *values[] = {unit, action, amount, currency, ctl_option(ctl, "from")};
	return show_made(ctl, ctl_query(ctl, "price add", values));
}

int ctl_price_remove(struct ctl *ctl)
{
	const char *version = ctl_operand(ctl);
	size_t digits = strspn(version, "0123456789");
	if (!digits || digits > 18 || version[digits])
		return ctl_misuse("%.80s: must be the version of a price; acpctl price list shows it", version);
	const char *values[] = {version};
	struct json_object *rows = ctl_query(ctl, "price remove", values);
	return rows ? show_price(ctl, rows, "removed price ") : ACPCTL_FAILED;
}

int ctl_price_currency(struct ctl *ctl)
{
	const char *currency = ctl_operand(ctl);
	const char *amount = ctl_option(ctl, "amount");
	if (!currency_ok("", currency) || !amount_ok(amount))
		return ACPCTL_USAGE;
	const char *values[] = {currency, amount};
	return show_made(ctl, ctl_query(ctl, "price currency", values));
}
