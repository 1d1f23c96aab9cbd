/* prices.c - acpctl doctor: can every month be billed, and does Stripe take its invoices? */
#include "doctor.h"

static void stray_price(struct json_object *row)
{
	const char *version = json_object_get_string(acp_json_member(row, "version"));
	const char *currency = acp_json_string(row, "currency");
	const char *wanted = acp_json_string(row, "wanted");
	bool closed = acp_json_bool(row, "closed");
	ctl_check(false, "prices",
		  "price %s is in %s, but this installation bills in %s, and a month has one currency: acpctl price "
		  "remove %s takes it back%s%s%s",
		  version, currency, wanted, version, closed ? "" : "; or bill in ", closed ? "" : currency,
		  closed ? "" : ": acpctl price currency CODE --amount AMOUNT replaces all prices");
}

static void check_minimum(struct ctl *ctl)
{
	const char *setting = ctl->config.invoice_minimum;
	const char *values[] = {*setting ? setting : NULL};
	struct json_object *rows = ctl_query(ctl, "billing minimum", values);
	if (!rows)
		return;
	const char *minimum = json_object_get_string(ctl_value(rows, "minimum"));
	const char *currency = json_object_get_string(ctl_value(rows, "currency"));
	bool raised = *setting && json_object_get_boolean(ctl_value(rows, "raised"));
	ctl_check(!raised, "invoice_minimum", "%s %s%s%s%s", minimum, currency, raised ? ": the setting is " : "",
		  raised ? setting : "",
		  raised ? ", which Stripe does not charge; set it to that amount or more, or remove it" : "");
	json_object_put(rows);
}

void doctor_prices(struct ctl *ctl)
{
	struct json_object *rows = ctl_query(ctl, "price strays", NULL);
	size_t strays = 0;
	for (size_t i = 0; rows && i < json_object_array_length(rows); i++) {
		struct json_object *row = json_object_array_get_idx(rows, i);
		if (acp_json_bool(row, "billed"))
			continue;
		stray_price(row);
		strays++;
	}
	if (rows && !strays)
		ctl_check(true, "prices", "in one currency");
	json_object_put(rows);
	check_minimum(ctl);
}
