/* webhooks.c - acpctl webhook: shows the webhooks of tenants and their deliveries, and sends a delivery again. */
#include "acpctl.h"

#include "crypto.h"

int ctl_webhook_list(struct ctl *ctl)
{
	char uuid[ACP_UUID_LEN];
	const char *values[1];
	return ctl_tenant_option(ctl, uuid, &values[0]) ? ctl_print_query(ctl, "webhook list", values) : ACPCTL_FAILED;
}

int ctl_webhook_deliveries(struct ctl *ctl)
{
	char uuid[ACP_UUID_LEN];
	const char *values[] = {NULL, ctl_option(ctl, "status"), ctl_limit(ctl)};
	if (!values[2])
		return ACPCTL_USAGE;
	if (!ctl_tenant_option(ctl, uuid, &values[0]))
		return ACPCTL_FAILED;
	return ctl_print_query(ctl, "webhook deliveries", values);
}

int ctl_webhook_retry(struct ctl *ctl)
{
	const char *id = ctl_operand(ctl);
	if (!acp_is_uuid(id))
		return ctl_misuse("DELIVERY_ID must be a UUID; acpctl webhook deliveries shows them");
	const char *values[] = {id};
	struct json_object *rows = ctl_query(ctl, "webhook retry", values);
	if (!rows)
		return ACPCTL_FAILED;
	bool changed = json_object_array_length(rows) > 0;
	json_object_put(rows);
	if (!changed)
		return ctl_fail("%s: no such delivery, it has arrived, or its webhook is disabled "
				"(acpctl webhook list shows why)",
				id);
	ctl_print_done(ctl, "delivery_id", id, "retried");
	return ACPCTL_OK;
}
