/* difference.c - acpctl reconcile: reports a difference. */
#include "reconcile.h"

void reconcile_add(struct json_object *object, const char *name, const char *text)
{
	if (text)
		acp_json_add_string(object, name, text);
	else
		acp_json_add_null(object, name);
}

/* Converts counts to numbers, and amounts and hashes to text. */
static struct json_object *number_or_text(const char *text)
{
	if (!text)
		return NULL;
	bool number = *text && strlen(text) < 19 && !text[strspn(text, "0123456789")];
	return number ? json_object_new_int64(strtoll(text, NULL, 10)) : json_object_new_string(text);
}

void reconcile_difference(struct reconciliation *r, const struct difference *d)
{
	ctl_busy_end(&r->busy);
	if (r->count++ >= RECONCILE_LISTED)
		return;
	if (!r->list) {
		printf("%.7s tenant %s: %s: %s, but %s %s\n", d->period, d->tenant ? d->tenant : "-", d->what,
		       d->said ? d->said : "nothing", d->who, d->found ? d->found : "nothing");
		return;
	}
	struct json_object *object = json_object_new_object();
	char period[8];
	snprintf(period, sizeof period, "%.7s", d->period);
	reconcile_add(object, "tenant_id", d->tenant);
	acp_json_add_string(object, "period", period);
	acp_json_add_string(object, "what", d->what);
	json_object_object_add(object, "counted", number_or_text(d->said));
	json_object_object_add(object, "rows", number_or_text(d->found));
	json_object_array_add(r->list, object);
}
