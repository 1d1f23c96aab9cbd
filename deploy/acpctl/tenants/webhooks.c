/* webhooks.c - acpctl webhook: whom tenants want to be told, what is on its way to them, and sending it again. */
#include "acpctl.h"

#include "crypto.h"

/* tenant: of the option, NULL: all. False after saying that there is none. */
static bool tenant_of(struct ctl *ctl, const struct ctl_option *option, char uuid[ACP_UUID_LEN], const char **tenant)
{
	*tenant = option->value ? uuid : NULL;
	return !option->value || ctl_tenant_id(ctl, option->value, uuid);
}

static int print_all(struct ctl *ctl, const char *statement, const char *const *values)
{
	struct json_object *rows = ctl_query(ctl, statement, values);
	if (!rows)
		return ACPCTL_FAILED;
	ctl_print(ctl, rows);
	return ACPCTL_OK;
}

int ctl_webhook_list(struct ctl *ctl)
{
	char uuid[ACP_UUID_LEN];
	const char *values[1];
	struct ctl_option options[] = {{"--tenant", false, NULL}};
	if (!ctl_options(ctl, options, ACP_COUNT(options), NULL, NULL))
		return ACPCTL_USAGE;
	if (!tenant_of(ctl, &options[0], uuid, &values[0]))
		return ACPCTL_FAILED;
	return print_all(ctl, "webhook list", values);
}

int ctl_webhook_deliveries(struct ctl *ctl)
{
	char uuid[ACP_UUID_LEN];
	struct ctl_option options[] = {{"--tenant", false, NULL}, {"--status", false, NULL}, {"--limit", false, NULL}};
	if (!ctl_options(ctl, options, ACP_COUNT(options), NULL, NULL))
		return ACPCTL_USAGE;
	const char *status = options[1].value;
	const char *limit = options[2].value ? options[2].value : "100";
	size_t digits = strspn(limit, "0123456789");
	if (status && !acp_word_in_list("pending delivered failed", status)) {
		ctl_fail("--status %.80s: must be pending, delivered or failed", status);
		return ACPCTL_USAGE;
	}
	if (digits < 1 || digits > 6 || limit[digits]) {
		ctl_fail("--limit %.80s: must be a number of deliveries, at most 999999", limit);
		return ACPCTL_USAGE;
	}
	const char *values[] = {NULL, status, limit};
	if (!tenant_of(ctl, &options[0], uuid, &values[0]))
		return ACPCTL_FAILED;
	return print_all(ctl, "webhook deliveries", values);
}

int ctl_webhook_retry(struct ctl *ctl)
{
	const char *id = NULL;
	if (!ctl_options(ctl, NULL, 0, "DELIVERY_ID", &id))
		return ACPCTL_USAGE;
	if (!acp_is_uuid(id))
		return ctl_misuse("DELIVERY_ID must be a UUID; acpctl webhook deliveries shows them");
	const char *values[] = {id};
	struct json_object *rows = ctl_query(ctl, "webhook retry", values);
	if (!rows)
		return ACPCTL_FAILED;
	bool changed = json_object_array_length(rows) > 0;
	json_object_put(rows);
	if (!changed)
		return ctl_fail("%s: there is no such delivery, it has arrived, or its webhook is disabled "
				"(acpctl webhook list shows why)",
				id);
	ctl_print_done(ctl, "delivery_id", id, "retried");
	return ACPCTL_OK;
}
