/* The documents for agents, for different installations: mounted below a path, without onboarding, without usage. */
#include "../tmain.h"
#include "agents.h"

static struct acp_config config;
static struct acp_kernel kernel;
static struct acp_control_plane plane;
static struct acp_buf text;

static enum acp_code no_onboarding(void *self, const struct acp_onboarding *in, struct acp_onboarded *out)
{
	(void)self, (void)in, (void)out;
	return ACP_UNAVAILABLE;
}

static enum acp_code no_usage(void *self, const char *tenant_id, const char *period, struct json_object **usage)
{
	(void)self, (void)tenant_id, (void)period, (void)usage;
	return ACP_UNAVAILABLE;
}

static void replace(char **setting, const char *value)
{
	free(*setting);
	*setting = strdup(value);
}

static void begin(void)
{
	char why[256];
	CU_ASSERT_FATAL(acp_config_load(&config, "/dev/null", why, sizeof why));
	replace(&config.public_url, "https://api.example");
	replace(&config.url_prefix, "/acp");
	replace(&config.products, "leadscoring other");
	plane = (struct acp_control_plane){.call.onboard = no_onboarding, .usage.get = no_usage};
	CU_ASSERT_FATAL(acp_kernel_init(&kernel, &config, &plane, acp_builtin_packs, why, sizeof why));
	acp_buf_init(&text, 1 << 20);
}

static void end(void)
{
	acp_buf_release(&text);
	acp_kernel_release(&kernel);
	acp_config_release(&config);
}

static const char *llms(void)
{
	acp_buf_clear(&text);
	acp_llms_text(&kernel, &text);
	CU_ASSERT_FATAL(acp_buf_ok(&text));
	return text.ptr;
}

static void expect_at(bool present, const char *part, bool wanted, unsigned line)
{
	CU_assertImplementation(present == wanted ? CU_TRUE : CU_FALSE, line, part, __FILE__, "", CU_FALSE);
}
#define HAS(part) expect_at(strstr(llms(), part) != NULL, part, true, __LINE__)
#define LACKS(part) expect_at(strstr(llms(), part) != NULL, part, false, __LINE__)

static void test_addresses(void)
{
	begin();
	HAS("POST https://api.example/acp/api/onboard/leadscoring\n");
	HAS("Products: leadscoring other.");
	HAS("POST https://api.example/acp/api/manage\n");
	HAS("GET https://api.example/acp/api/usage,");
	HAS("](https://api.example/acp/api/openapi.json)");
	LACKS("%");
	LACKS("[Documentation]");
	replace(&config.documentation_url, "https://docs.example/100%25");
	HAS("[Documentation](https://docs.example/100%25)");
	end();
}

/* Disabled parts are not mentioned. */
static void test_parts_that_are_off(void)
{
	begin();
	HAS("100 billable calls a UTC month are free");
	plane.usage.get = NULL;
	LACKS("/api/usage");
	LACKS("are free");
	config.onboarding = false;
	LACKS("/api/onboard");
	HAS("Ask the operator for one.");
	config.onboarding = true;
	plane.call.onboard = NULL;
	LACKS("/api/onboard");
	end();
}

static void test_catalog(void)
{
	begin();
	acp_api_catalog(&kernel, &text);
	struct json_object *catalog = json_tokener_parse(text.ptr);
	struct json_object *set = json_object_array_get_idx(acp_json_member(catalog, "linkset"), 0);
	struct json_object *desc = json_object_array_get_idx(acp_json_member(set, "service-desc"), 0);
	CU_ASSERT_STRING_EQUAL(acp_json_string(set, "anchor"), "https://api.example/acp/api");
	CU_ASSERT_STRING_EQUAL(acp_json_string(desc, "href"), "https://api.example/acp/api/openapi.json");
	json_object_put(catalog);
	replace(&config.documentation_url, "https://docs.example/");
	acp_buf_clear(&text);
	acp_api_catalog(&kernel, &text);
	CU_ASSERT_PTR_NOT_NULL(strstr(text.ptr, "\"href\":\"https://docs.example/\",\"type\":\"text/html\""));
	end();
}

const char *const acp_suite_name = "agents";
CU_TestInfo acp_tests[] = {{"addresses", test_addresses},
			   {"parts that are off", test_parts_that_are_off},
			   {"catalog", test_catalog},
			   CU_TEST_INFO_NULL};
