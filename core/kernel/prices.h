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

/* Reads the prices of every billable action now, as acp_prices_by_action() makes them; the caller owns *prices. It is
 * NULL if this plane has no prices, or cannot be reached now: documents are then made without prices. False: out of
 * memory, or a fault of the plane; *prices is NULL. */
bool acp_prices_now(const struct acp_kernel *kernel, struct json_object **prices) ACP_MUSTCHECK;

/* The same for documents that anybody may read: at most two of them on a host ask for prices at a time. Others, and
 * those for which the prices cannot be read, are made without prices (NULL). */
struct json_object *acp_prices_for_strangers(const struct acp_kernel *kernel) ACP_MUSTCHECK;

/* Reads the price of a call of this quantity now: {action, unit, unit_amount, currency, amount}. *price and the result
 * are as for acp_prices_now(). */
bool acp_price_of(const struct acp_kernel *kernel, const struct acp_action *action, int64_t quantity,
		  struct json_object **price) ACP_MUSTCHECK;

#endif
