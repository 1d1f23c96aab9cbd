/* prices.h - what calls of this kernel's actions cost now, by the invoice's own rule (struct acp_plane_usage). */
#ifndef ACP_PRICES_H
#define ACP_PRICES_H

#include "kernel.h"

/* Makes the question of usage.get_prices about every billable action, and the price per call of all actions ("*").
 * NULL: out of memory. */
struct json_object *acp_prices_question(const struct acp_kernel *kernel) ACP_MUSTCHECK;

/* Turns the reply of usage.get_prices (borrowed) into an object from the names of actions to prices: {unit,
 * unit_amount, currency}. The caller owns it. NULL: out of memory, or reply is NULL. */
struct json_object *acp_prices_by_action(struct json_object *reply) ACP_MUSTCHECK;

/* The prices of every billable action now, as acp_prices_by_action() makes them. NULL: this plane has no prices, or
 * they cannot be read now. Documents are then made without prices. */
struct json_object *acp_prices_now(const struct acp_kernel *kernel) ACP_MUSTCHECK;

/* The same for documents that anybody may read: at most two of them on a host ask for prices at a time. Others are made
 * without prices. */
struct json_object *acp_prices_for_strangers(const struct acp_kernel *kernel) ACP_MUSTCHECK;

/* The price of a call of this quantity now: {action, unit, unit_amount, currency, amount}. The caller owns it. NULL: as
 * above. */
struct json_object *acp_price_of(const struct acp_kernel *kernel, const struct acp_action *action,
				 int64_t quantity) ACP_MUSTCHECK;

#endif
