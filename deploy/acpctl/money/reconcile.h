/* reconcile.h - what the parts of acpctl reconcile share. */
#ifndef ACP_ACPCTL_RECONCILE_H
#define ACP_ACPCTL_RECONCILE_H

#include "acpctl.h"
#include "progress.h"

enum { RECONCILE_LISTED = 1000 }; /* differences that are printed; the rest is only counted */

struct reconciliation {
	struct ctl *ctl;
	int64_t count;
	struct json_object *list; /* with --json or --csv */
	struct ctl_busy busy;
	bool stripe;   /* --stripe: without an executor it fails */
	bool compared; /* with what Stripe holds */
};

/* One thing that is not what it must be. said, found: NULL is nothing. */
struct difference {
	const char *tenant, *period, *what, *said, *found;
	const char *who; /* before found: "the rows say" */
};

/* Adds a text to a JSON object; null where text is NULL. */
void reconcile_add(struct json_object *object, const char *name, const char *text);

/* Counts a difference, and prints it or adds it to the list. */
void reconcile_difference(struct reconciliation *r, const struct difference *difference);

/* Compares invoices with those that Stripe holds, where there is an executor. Ends the snapshot. False after saying
 * what failed. */
bool reconcile_stripe(struct reconciliation *r, const char *period);

#endif
