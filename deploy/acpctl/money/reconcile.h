/* reconcile.h - the shared parts of acpctl reconcile. */
#ifndef ACP_ACPCTL_RECONCILE_H
#define ACP_ACPCTL_RECONCILE_H

#include "acpctl.h"
#include "progress.h"

enum { RECONCILE_LISTED = 1000 }; /* differences that are printed; the rest is only counted */

struct reconciliation {
	struct ctl *ctl;
	int64_t count;
	int64_t foreign;          /* invoices at Stripe of other installations, which are not compared */
	struct json_object *list; /* with --json or --csv */
	struct ctl_busy busy;
	bool stripe;   /* --stripe: fails without an executor */
	bool compared; /* the invoices that Stripe holds were compared */
};

/* One difference. said, found: NULL means nothing. */
struct difference {
	const char *tenant, *period, *what, *said, *found;
	const char *who; /* printed before found: "the rows say" */
};

/* Adds a text to a JSON object, or null if text is NULL. */
void reconcile_add(struct json_object *object, const char *name, const char *text);

/* Counts a difference, and prints it or adds it to the list. */
void reconcile_difference(struct reconciliation *r, const struct difference *difference);

/* Compares invoices with those that Stripe holds, if there is an executor. Ends the snapshot. period: YYYY-MM, or NULL
 * for all. False after reporting the error. */
bool reconcile_stripe(struct reconciliation *r, const char *period);

#endif
