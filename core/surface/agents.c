#include "agents.h"

#include "prices.h"
#include "version.h"

/* The address of this installation, with its mount point. */
static void put_base(const struct acp_config *config, struct acp_buf *out)
{
	acp_buf_puts(out, config->public_url);
	acp_buf_puts(out, config->url_prefix);
}

/* Appends text with each % replaced by the address. */
static void put_text(const struct acp_config *config, struct acp_buf *out, const char *text)
{
	for (; *text; text++) {
		if (*text == '%')
			put_base(config, out);
		else
			acp_buf_putc(out, *text);
	}
}

static bool has_onboarding(const struct acp_kernel *kernel)
{
	return kernel->config->onboarding && kernel->plane->call.onboard && *kernel->config->products;
}

static void put_head(const struct acp_kernel *kernel, struct acp_buf *out)
{
	acp_buf_printf(out, "# %s\n\n> Metered, audited actions for agents over HTTP and JSON",
		       kernel->config->kernel_id);
	if (kernel->plane->usage.get)
		acp_buf_printf(out, "; %lld billable calls a UTC month are free",
			       (long long)kernel->config->free_calls_limit);
	put_text(
		kernel->config, out,
		".\n\nAll addresses begin with %. Bodies are JSON with Content-Type: application/json. Every reply has "
		"request_id; quote it when you ask the operator about a call.\n");
}

static void put_onboarding(const struct acp_kernel *kernel, struct acp_buf *out)
{
	const struct acp_config *config = kernel->config;
	acp_buf_puts(out, "\n## Get an API key\n\n");
	if (!has_onboarding(kernel)) {
		acp_buf_puts(out, "Ask the operator for one.\n");
		return;
	}
	put_text(config, out, "    POST %/api/onboard/");
	acp_buf_add(out, config->products, strcspn(config->products, " "));
	acp_buf_printf(out,
		       "\n    Idempotency-Key: <a random UUID; repeat it to get a lost reply again>\n\n"
		       "    {\"agent_id\": \"<a name you choose>\", \"email\": \"<your human's>\"}\n\n"
		       "The reply (201) has api_key, which is shown only once: store it. Products: %s.\n",
		       config->products);
}

static void put_calling(const struct acp_kernel *kernel, struct acp_buf *out)
{
	put_text(kernel->config, out,
		 "\n## Call an action\n\n"
		 "    POST %/api/manage\n"
		 "    X-API-Key: <api_key>\n\n"
		 "    {\"action\": \"meta.actions\", \"params\": {}}\n\n"
		 "- meta.actions lists every action with the JSON Schema of its params, and is free.\n"
		 "- \"dry_run\": true shows what a call would change and cost, if the action supports it; it is "
		 "free.\n"
		 "- \"idempotency_key\": \"<random>\" makes a call safe to repeat: it has one effect within 24 hours, "
		 "and the stored "
		 "reply (code IDEMPOTENT_REPLAY) costs nothing.\n"
		 "- A success is {\"ok\": true, \"data\": ...}; when few free calls are left, it has a warning with an "
		 "upgrade_url for your human.\n");
	if (kernel->plane->usage.get)
		put_text(kernel->config, out,
			 "- GET %/api/usage, with the same header, shows the calls used and left; it is free.\n");
}

static void put_errors(struct acp_buf *out)
{
	acp_buf_puts(
		out,
		"\n## When a call fails\n\n"
		"The reply is {\"ok\": false, \"code\": ..., \"error\": \"<what to do>\"}; field names the invalid "
		"member. Only codes marked \"repeat\" can succeed unchanged, after Retry-After seconds.\n\n");
	for (int i = 0; i < ACP_CODE_COUNT; i++) {
		enum acp_code code = (enum acp_code)i;
		if (acp_code_http(code) >= 400)
			acp_buf_printf(out, "- %s (%d%s): %s\n", acp_code_name(code), acp_code_http(code),
				       acp_code_retryable(code) ? ", repeat" : "", acp_code_sentence(code));
	}
}

/* What a call of the action costs now; without prices, only by what it is billed. */
static void put_price(const struct acp_action *action, struct json_object *price, struct acp_buf *out)
{
	const char *unit = action->billing_unit ? action->billing_unit : "call";
	acp_buf_printf(out, ", billable per %s", price ? acp_json_string(price, "unit") : unit);
	if (price)
		acp_buf_printf(out, " at %s %s", json_object_get_string(acp_json_member(price, "unit_amount")),
			       acp_json_string(price, "currency"));
}

static void put_actions(const struct acp_kernel *kernel, struct acp_buf *out)
{
	struct json_object *prices = acp_prices_for_strangers(kernel);
	acp_buf_puts(out,
		     "\n## Actions\n\n"
		     "A billable call costs its quantity times the price of its unit; if the unit has no price, it "
		     "costs one call, whatever its quantity. A dry run shows the cost.\n\n");
	for (size_t i = 0; i < kernel->entry_count; i++) {
		const struct acp_action *action = kernel->entries[i].action;
		acp_buf_printf(out, "- %s (scope %s", action->name, action->scope);
		if (action->billable)
			put_price(action, acp_json_member(prices, action->name), out);
		acp_buf_printf(out, "%s): %s\n", action->supports_dry_run ? ", dry_run" : "", action->description);
	}
	json_object_put(prices);
}

void acp_llms_text(const struct acp_kernel *kernel, struct acp_buf *out)
{
	put_head(kernel, out);
	put_onboarding(kernel, out);
	put_calling(kernel, out);
	put_errors(out);
	put_actions(kernel, out);
	put_text(kernel->config, out,
		 "\n## More\n\n- [OpenAPI 3.1](%/api/openapi.json): every path, request and reply\n"
		 "- [API catalog](%/.well-known/api-catalog): RFC 9727\n");
	if (*kernel->config->documentation_url)
		acp_buf_printf(out, "- [Documentation](%s): by the operator\n", kernel->config->documentation_url);
}

/* Adds a relation with one target. */
static void add_link(const struct acp_config *config, struct json_object *set, const char *relation, const char *path,
		     const char *type)
{
	struct acp_buf href;
	char memory[2048];
	struct json_object *list = json_object_new_array();
	struct json_object *link = json_object_new_object();
	acp_buf_borrow(&href, memory, sizeof memory);
	if (*path == '/')
		put_base(config, &href);
	acp_buf_puts(&href, path);
	acp_json_add_string(link, "href", href.ptr);
	acp_json_add_string(link, "type", type);
	json_object_array_add(list, link);
	acp_json_add(set, relation, list);
}

void acp_api_catalog(const struct acp_kernel *kernel, struct acp_buf *out)
{
	struct acp_buf anchor;
	char memory[2048];
	const struct acp_config *config = kernel->config;
	struct json_object *catalog = json_object_new_object();
	struct json_object *sets = json_object_new_array();
	struct json_object *set = json_object_new_object();
	acp_buf_borrow(&anchor, memory, sizeof memory);
	put_base(config, &anchor);
	acp_buf_puts(&anchor, "/api");
	acp_json_add_string(set, "anchor", anchor.ptr);
	add_link(config, set, "service-desc", "/api/openapi.json", "application/vnd.oai.openapi+json;version=3.1");
	add_link(config, set, "service-doc", *config->documentation_url ? config->documentation_url : "/llms.txt",
		 *config->documentation_url ? "text/html" : "text/plain");
	add_link(config, set, "service-meta", "/llms.txt", "text/plain");
	add_link(config, set, "status", "/readyz", "application/json");
	json_object_array_add(sets, set);
	acp_json_add(catalog, "linkset", sets);
	acp_json_write(catalog, out);
	json_object_put(catalog);
}
