/* restore.h - what acpctl does about a database that lacks what Stripe has. */
#ifndef ACP_ACPCTL_RESTORE_H
#define ACP_ACPCTL_RESTORE_H

#include "stripe_lists.h"

/* Warns on standard error if Stripe has invoices of this installation that the database does not know, since the month
 * period (YYYY-MM; NULL: the last month), or if that cannot be read. Does nothing without an executor. */
void ctl_stripe_warn(struct ctl *ctl, const char *period);

#endif
