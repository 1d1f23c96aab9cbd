/* reconcile.h - what the parts of acpctl reconcile share. */
#ifndef ACP_ACPCTL_RECONCILE_H
#define ACP_ACPCTL_RECONCILE_H

#include "ctl_audit.h"

struct reconciliation {
	struct ctl *ctl;
	int64_t count;
	struct json_object *list; /* with --json or --csv */
	struct audit_busy busy;
	bool stripe;   /* --stripe: without an executor it fails */
	bool compared; /* with what Stripe holds */
};

/* One thing that is not what it must be. said, found: NULL is nothing. */
struct difference {
	const char *tenant, *period, *what, *said, *found;
	const char *who; /* before found: "the rows say" */
};

/* Prints it, or adds it to the list. */
void reconcile_difference(struct reconciliation *r, const struct difference *difference);

/* Compares invoices with those that Stripe holds, where there is an executor. Ends the snapshot. False after saying
 * what failed. */
bool reconcile_stripe(struct reconciliation *r, const char *period);

#endif
