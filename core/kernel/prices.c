#include "prices.h"

#include "log.h"

static bool ask_for(struct json_object *actions, const char *name, const char *unit, int64_t quantity)
{
	struct json_object *row = json_object_new_object();
	if (row && acp_json_add_string(row, "action", name) && (!unit || acp_json_add_string(row, "unit", unit)) &&
	    acp_json_add(row, "quantity", json_object_new_int64(quantity)) && json_object_array_add(actions, row) == 0)
		return true;
	json_object_put(row);
	return false;
}

/* *reply is NULL if the prices are not known now. False: out of memory. */
static bool ask(const struct acp_kernel *kernel, struct json_object *what, struct json_object **reply)
{
	struct acp_refusal refusal = {0};
	const struct acp_control_plane *plane = kernel->plane;
	*reply = NULL;
	return what && plane->usage.get_prices(plane->self, what, reply, &refusal) != ACP_INTERNAL_ERROR;
}

struct json_object *acp_prices_question(const struct acp_kernel *kernel)
{
	struct json_object *what = json_object_new_object();
	struct json_object *actions = json_object_new_array();
	bool ok = what && actions && ask_for(actions, "*", NULL, 1);
	for (size_t i = 0; ok && i < kernel->entry_count; i++) {
		const struct acp_action *action = kernel->entries[i].action;
		ok = !action->billable || ask_for(actions, action->name, action->billing_unit, 1);
	}
	ok = ok && acp_json_add(what, "actions", json_object_get(actions));
	json_object_put(actions);
	if (ok)
		return what;
	json_object_put(what);
	return NULL;
}

static bool copy_price(struct json_object *prices, struct json_object *row)
{
	static const char *const names[] = {"unit", "unit_amount", "currency"};
	const char *action = acp_json_string(row, "action");
	struct json_object *price = json_object_new_object();
	bool ok = price && action;
	for (size_t i = 0; ok && i < ACP_COUNT(names); i++)
		ok = acp_json_add(price, names[i], json_object_get(acp_json_member(row, names[i])));
	ok = ok && acp_json_add(prices, action, json_object_get(price));
	json_object_put(price);
	return ok;
}

struct json_object *acp_prices_by_action(struct json_object *reply)
{
	struct json_object *rows = acp_json_member(reply, "prices");
	struct json_object *prices = json_object_is_type(rows, json_type_array) ? json_object_new_object() : NULL;
	bool ok = prices != NULL;
	for (size_t i = 0; ok && i < json_object_array_length(rows); i++)
		ok = copy_price(prices, json_object_array_get_idx(rows, i));
	if (ok)
		return prices;
	json_object_put(prices);
	return NULL;
}

bool acp_prices_now(const struct acp_kernel *kernel, struct json_object **prices)
{
	struct json_object *reply;
	*prices = NULL;
	if (!kernel->plane->usage.get_prices)
		return true;
	struct json_object *what = acp_prices_question(kernel);
	bool ok = ask(kernel, what, &reply);
	*prices = acp_prices_by_action(reply);
	ok = ok && (*prices || !reply);
	json_object_put(what);
	json_object_put(reply);
	return ok;
}

struct json_object *acp_prices_for_strangers(const struct acp_kernel *kernel)
{
	struct acp_share share = {0};
	if (kernel->shares && !acp_shares_acquire(kernel->shares, "documents", 2, &share))
		return NULL;
	struct json_object *prices;
	if (!acp_prices_now(kernel, &prices))
		acp_log(ACP_LOG_WARNING, "a document for strangers is made without prices: they cannot be read");
	if (kernel->shares)
		acp_shares_release(kernel->shares, &share);
	return prices;
}

bool acp_price_of(const struct acp_kernel *kernel, const struct acp_action *action, int64_t quantity,
		  struct json_object **price)
{
	struct json_object *reply;
	*price = NULL;
	if (!kernel->plane->usage.get_prices)
		return true;
	struct json_object *what = json_object_new_object();
	struct json_object *actions = json_object_new_array();
	bool ok = what && actions && ask_for(actions, action->name, action->billing_unit, quantity) &&
		  acp_json_add(what, "actions", json_object_get(actions));
	ok = ask(kernel, ok ? what : NULL, &reply);
	struct json_object *rows = acp_json_member(reply, "prices");
	if (json_object_is_type(rows, json_type_array))
		*price = json_object_get(json_object_array_get_idx(rows, 0));
	json_object_put(actions);
	json_object_put(what);
	json_object_put(reply);
	return ok;
}
