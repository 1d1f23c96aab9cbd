/* executor_stripe.h - the built-in integration `stripe`: its actions and how they are performed. */
#ifndef ACP_EXECUTOR_STRIPE_H
#define ACP_EXECUTOR_STRIPE_H

#include "stripe.h"

/* Performs the action; the params have passed the schema. True: out has data and meta. */
typedef bool acp_stripe_action(struct acp_stripe *stripe, const struct acp_execution *what);

struct acp_executor_action {
	const char *name;   /* "stripe.customers.create" */
	const char *schema; /* of params */
	acp_stripe_action *run;
};

/* The allow-list, terminated by a row without a name. Nothing else is ever executed. */
extern const struct acp_executor_action acp_stripe_actions[];

#endif
