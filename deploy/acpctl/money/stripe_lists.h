/* stripe_lists.h - reads the lists of Stripe through the executor, in acpctl. */
#ifndef ACP_ACPCTL_STRIPE_LISTS_H
#define ACP_ACPCTL_STRIPE_LISTS_H

#include "acpctl.h"
#include "executor.h"
#include "plane.h"

/* An open executor. Do not move it while it is open. */
struct ctl_stripe {
	struct ctl *ctl;
	struct acp_control_plane plane;
	struct acp_executor *executor;
	int timeout_ms; /* for a page of a list; ctl_stripe_open() sets a minute */
};

/* Returns whether the configuration names an executor: stripe_key or executor_url. */
bool ctl_stripe_configured(const struct ctl *ctl);

/* Opens the executor. On failure, or if there is none, returns false and a sentence in why. Close it after success. */
bool ctl_stripe_open(struct ctl *ctl, struct ctl_stripe *stripe, char *why, size_t why_size) ACP_MUSTCHECK;
void ctl_stripe_close(struct ctl_stripe *stripe);

/* Called for each object of a list. Returns false to stop, which is not an error. */
typedef bool ctl_stripe_each(void *arg, struct json_object *object);

/* Calls each for the invoices at Stripe, newest first, as stripe.invoices.list returns them, those of other programs
 * included. created_from: seconds since 1970; 0: all. False with a sentence in why: Stripe could not be read. */
bool ctl_stripe_invoices(struct ctl_stripe *stripe, int64_t created_from, ctl_stripe_each *each, void *arg, char *why,
			 size_t why_size) ACP_MUSTCHECK;

/* The same for events. */
bool ctl_stripe_events(struct ctl_stripe *stripe, int64_t created_from, ctl_stripe_each *each, void *arg, char *why,
		       size_t why_size) ACP_MUSTCHECK;

/* Whose invoice is it? FOREIGN: of another installation (kernel_id) that uses the same account. UNMARKED: it has no
 * kernel_id, because an older version made it; it is ours if its tenant is. OTHER: it names no tenant and month. */
enum ctl_owner { CTL_OWNER_OURS, CTL_OWNER_UNMARKED, CTL_OWNER_FOREIGN, CTL_OWNER_OTHER };
enum ctl_owner ctl_stripe_owner(const struct ctl *ctl, struct json_object *invoice);

/* The invoices of this installation at Stripe, created since created_from, that the database does not know: an array of
 * the objects of stripe.invoices.list, owned by the caller. most: looks at no more invoices than this; 0: at all.
 * NULL with a sentence in why (empty: already reported): they could not be read. */
struct json_object *ctl_stripe_unknown(struct ctl_stripe *stripe, int64_t created_from, int most, char *why,
				       size_t why_size) ACP_MUSTCHECK;

#endif
