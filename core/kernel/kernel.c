#include "kernel.h"

#include <stdarg.h>

static bool complain(char *why, size_t why_size, const char *format, ...) ACP_PRINTF(3, 4);

static bool complain(char *why, size_t why_size, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(why, why_size, format, args);
	va_end(args);
	return false;
}

static bool row_complete(const struct acp_action *action, char *why, size_t why_size)
{
	static const char units[] = "call token row sec";
	if (!action->scope || !action->description || !action->params_schema || !action->run)
		return complain(why, why_size, "action %s: scope, description, params_schema and run are required",
				action->name);
	if ((action->run == acp_run_sql) != (action->sql_function != NULL))
		return complain(why, why_size, "action %s: sql_function goes with run = acp_run_sql", action->name);
	if (action->billing_unit && !acp_word_in_list(units, action->billing_unit))
		return complain(why, why_size, "action %s: billing_unit %s is not one of %s", action->name,
				action->billing_unit, units);
	if (action->max_quantity < 0 || action->max_quantity > ACP_QUANTITY_MAX)
		return complain(why, why_size, "action %s: max_quantity %lld is not from 1 to %lld", action->name,
				(long long)action->max_quantity, (long long)ACP_QUANTITY_MAX);
	return true;
}

int64_t acp_action_max_quantity(const struct acp_action *action)
{
	if (action->max_quantity)
		return action->max_quantity;
	return !action->billing_unit || strcmp(action->billing_unit, "call") == 0 ? 1 : ACP_QUANTITY_DEFAULT;
}

/* The ActionDef that clients see. Takes ownership of schema. */
static struct json_object *make_def(const struct acp_action *action, struct json_object *schema)
{
	struct json_object *def = json_object_new_object();
	bool ok = def && acp_json_add_string(def, "name", action->name) &&
		  acp_json_add_string(def, "scope", action->scope) &&
		  acp_json_add_string(def, "description", action->description) &&
		  acp_json_add(def, "params_schema", json_object_get(schema)) &&
		  acp_json_add(def, "supports_dry_run", json_object_new_boolean(action->supports_dry_run)) &&
		  acp_json_add(def, "billable", json_object_new_boolean(action->billable)) &&
		  (action->billing_unit ? acp_json_add_string(def, "billing_unit", action->billing_unit)
					: acp_json_add_null(def, "billing_unit")) &&
		  acp_json_add(def, "max_quantity", json_object_new_int64(acp_action_max_quantity(action)));
	json_object_put(schema);
	if (ok)
		return def;
	json_object_put(def);
	return NULL;
}

static bool make_entry(struct acp_entry *entry, const char *pack, const struct acp_action *action, char *why,
		       size_t why_size)
{
	struct acp_json_error bad_json = {0};
	struct acp_schema_error bad_schema = {0};
	struct json_object *schema = NULL;
	const struct acp_json_limits limits = {1 << 20, 64, 100000};
	if (!row_complete(action, why, why_size))
		return false;
	if (acp_json_parse(action->params_schema, strlen(action->params_schema), &limits, &schema, &bad_json) !=
	    ACP_JSON_OK)
		return complain(why, why_size, "action %s: params_schema: %s at byte %zu", action->name,
				bad_json.message, bad_json.offset);
	*entry = (struct acp_entry){.action = action, .pack = pack};
	entry->schema = acp_schema_compile(schema, &bad_schema);
	entry->def = make_def(action, schema);
	if (!entry->schema)
		return complain(why, why_size, "action %s: params_schema%s: %s", action->name, bad_schema.pointer,
				bad_schema.message);
	return entry->def || complain(why, why_size, "out of memory");
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct acp_entry *)a)->action->name, ((const struct acp_entry *)b)->action->name);
}

static size_t count_actions(const struct acp_pack *const *packs)
{
	size_t count = 0;
	for (; *packs; packs++)
		for (const struct acp_action *action = (*packs)->actions; action->name; action++)
			count++;
	return count;
}

static bool names_unique(const struct acp_kernel *kernel, char *why, size_t why_size)
{
	for (size_t i = 1; i < kernel->entry_count; i++)
		if (by_name(&kernel->entries[i - 1], &kernel->entries[i]) == 0)
			return complain(why, why_size, "action %s is in two packs: %s and %s",
					kernel->entries[i].action->name, kernel->entries[i - 1].pack,
					kernel->entries[i].pack);
	return true;
}

bool acp_kernel_init(struct acp_kernel *kernel, const struct acp_config *config, const struct acp_control_plane *plane,
		     const struct acp_pack *const *packs, char *why, size_t why_size)
{
	*kernel = (struct acp_kernel){.config = config, .plane = plane};
	kernel->entries = calloc(count_actions(packs) + 1, sizeof *kernel->entries);
	bool ok = kernel->entries || complain(why, why_size, "out of memory");
	for (; ok && *packs; packs++)
		for (const struct acp_action *action = (*packs)->actions; ok && action->name; action++)
			ok = make_entry(&kernel->entries[kernel->entry_count++], (*packs)->name, action, why, why_size);
	if (ok) {
		qsort(kernel->entries, kernel->entry_count, sizeof *kernel->entries, by_name);
		ok = names_unique(kernel, why, why_size);
	}
	if (!ok)
		acp_kernel_release(kernel);
	return ok;
}

void acp_kernel_release(struct acp_kernel *kernel)
{
	for (size_t i = 0; i < kernel->entry_count; i++) {
		acp_schema_free(kernel->entries[i].schema);
		json_object_put(kernel->entries[i].def);
	}
	free(kernel->entries);
	free(kernel->openapi);
	*kernel = (struct acp_kernel){0};
}

const struct acp_entry *acp_kernel_find(const struct acp_kernel *kernel, const char *name)
{
	const struct acp_action wanted = {.name = name};
	const struct acp_entry key = {.action = &wanted};
	return bsearch(&key, kernel->entries, kernel->entry_count, sizeof *kernel->entries, by_name);
}
