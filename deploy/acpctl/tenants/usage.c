/* usage.c - acpctl usage and acpctl report: calls, from the counters and from the views of acp_report. */
#include "acpctl.h"

#include "progress.h"

/* Prints the same as GET /api/usage; for people the lists come last, as tables. */
static void print_usage_of(struct ctl *ctl, struct json_object *usage)
{
	static const char *const lists[] = {"by_action", "by_day"};
	struct json_object *kept[ACP_COUNT(lists)];
	struct json_object *rows = json_object_new_array();
	for (size_t i = 0; i < ACP_COUNT(lists); i++) {
		kept[i] = json_object_get(acp_json_member(usage, lists[i]));
		if (!ctl->json)
			json_object_object_del(usage, lists[i]);
	}
	json_object_array_add(rows, json_object_get(usage));
	ctl_print_one(ctl, rows);
	for (size_t i = 0; i < ACP_COUNT(lists); i++) {
		if (!ctl->json && !ctl->csv && json_object_array_length(kept[i])) {
			printf("\n%s\n", lists[i]);
			ctl_print(ctl, json_object_get(kept[i]));
		}
		json_object_put(kept[i]);
	}
}

static int usage_of(struct ctl *ctl, const char *tenant, const char *limit, const char *period)
{
	const char *values[] = {tenant, limit, period};
	struct json_object *rows = ctl_query(ctl, "usage of tenant", values);
	if (!rows)
		return ACPCTL_FAILED;
	print_usage_of(ctl, ctl_value(rows, "usage"));
	json_object_put(rows);
	return ACPCTL_OK;
}

int ctl_usage(struct ctl *ctl)
{
	char tenant[ACP_UUID_LEN], limit[24], statement[32];
	const char *given = ctl_operand(ctl);
	const char *period = ctl_option(ctl, "period");
	const char *by = ctl_option(ctl, "by");
	if (given && !ctl_tenant_id(ctl, given, tenant))
		return ACPCTL_FAILED;
	snprintf(limit, sizeof limit, "%lld", (long long)ctl->config.free_calls_limit);
	if (given && !by)
		return usage_of(ctl, tenant, limit, period);
	snprintf(statement, sizeof statement, "usage by %s", by ? by : "tenant");
	const char *values[] = {given ? tenant : NULL, period, limit};
	return ctl_print_query(ctl, statement, values);
}

/* Reports ---------------------------------------------------------------------------------------------------------- */

static const struct report {
	const char *name, *shows;
	bool reads_log; /* shows this month by default */
} reports[] = {
	{"usage_by_tenant_month", "calls of each tenant by month and tier", false},
	{"usage_by_action_day", "calls by day, action, status, tier and unit", false},
	{"error_rate_by_action_day", "share of calls that failed, by day and action", false},
	{"revenue_by_month", "amount of the paid calls of a month", false},
	{"revenue_by_tenant_month", "the same for each tenant", false},
	{"revenue_lines", "the same for each action and price", false},
	{"invoices", "invoices, their amounts and states", false},
	{"invoice_lines", "the lines of invoices", false},
	{"tenants", "tenants; --period: onboarded in it", false},
	{"prices", "prices; --period: those that become valid in it", false},
	{"audit_months", "months that have a partition of the log", false},
	{"conversion_by_month", "tenants onboarded in a month, and how many of them became paid", false},
	{"denials", "refused calls by day, code and action (reads the log)", true},
	{"latency_by_action_day", "latency of calls by day and action (reads the log)", true},
	{"billed_calls", "each paid call and the invoice line that charges it (reads the log)", true},
	{"usage_drift", "differences between counters and audit rows; must be empty (reads the log)", true},
};

static int list_reports(struct ctl *ctl)
{
	static const char *const columns[] = {"name", "shows"};
	struct json_object *rows = json_object_new_array();
	for (size_t i = 0; i < ACP_COUNT(reports); i++) {
		struct json_object *row = json_object_new_object();
		acp_json_add_string(row, "name", reports[i].name);
		acp_json_add_string(row, "shows", reports[i].shows);
		json_object_array_add(rows, row);
	}
	ctl_print_columns(ctl, rows, columns, ACP_COUNT(columns));
	json_object_put(rows);
	return ACPCTL_OK;
}

static const struct report *find_report(const char *name)
{
	for (size_t i = 0; i < ACP_COUNT(reports); i++)
		if (strcmp(reports[i].name, name) == 0)
			return &reports[i];
	ctl_fail(strcmp(name, "audit_logs") == 0 ? "%.80s: acpctl audit export writes the rows of the log"
						 : "%.80s: no such report; acpctl report lists them",
		 name);
	return NULL;
}

/* Returns the current month, which the caller releases. NULL after reporting the error. */
static struct json_object *this_month(struct ctl *ctl)
{
	struct json_object *rows = ctl_query(ctl, "this month", NULL);
	struct json_object *month = rows ? json_object_get(ctl_value(rows, "month")) : NULL;
	json_object_put(rows);
	return month;
}

int ctl_report(struct ctl *ctl)
{
	char statement[64];
	const char *period = ctl_option(ctl, "period");
	struct json_object *month = NULL;
	struct ctl_busy busy;
	if (!ctl_operand(ctl))
		return list_reports(ctl);
	const struct report *report = find_report(ctl_operand(ctl));
	if (!report)
		return ACPCTL_USAGE;
	/* The settings of the snapshot prevent PostgreSQL from spending seconds on compiling a short statement. */
	if (!ctl_begin(ctl, "snapshot"))
		return ACPCTL_FAILED;
	if (!period && report->reads_log && !(month = this_month(ctl)))
		return ACPCTL_FAILED;
	const char *values[] = {month                                  ? json_object_get_string(month)
				: period && strcmp(period, "all") != 0 ? period
								       : NULL};
	snprintf(statement, sizeof statement, "report %s", report->name);
	ctl_busy_begin(&busy, report->name);
	struct json_object *rows = ctl_query(ctl, statement, values);
	ctl_busy_end(&busy);
	json_object_put(month);
	if (!rows)
		return ACPCTL_FAILED;
	ctl_print(ctl, rows);
	return ACPCTL_OK;
}
