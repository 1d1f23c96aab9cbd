/* /functions/v1/… - Repo B for other kernels (hub.c). Each call leaves a log line. */
#include "hub.h"

#include "endpoints.h"
#include "envelope.h"

/* Reads the parameters of a GET request that the endpoint supports. *bad: the name of an invalid one. */
static struct json_object *read_query(const struct acp_http *http, const char *names, char bad[64])
{
	char value[512];
	struct json_object *query = json_object_new_object();
	for (const char *at = names; query && *(at += strspn(at, " "));) {
		size_t len = strcspn(at, " ");
		char name[64];
		snprintf(name, sizeof name, "%.*s", (int)len, at);
		at += len;
		if (acp_http_query(http, name, value, sizeof value))
			acp_json_add_string(query, name, value);
		else if (acp_http_query_has(http, name))
			snprintf(bad, 64, "%s", name);
	}
	return query;
}

static void answer(const struct acp_kernel *kernel, const struct acp_hub_endpoint *endpoint,
		   const struct acp_http *http, struct acp_response *response)
{
	char bad[64] = "";
	char error[128];
	struct acp_reply reply = {0};
	bool get = strcmp(http->method, "POST") != 0;
	struct json_object *query = get ? read_query(http, acp_hub_query_names(endpoint), bad) : NULL;
	if (*bad) {
		char field[72];
		snprintf(field, sizeof field, "/%s", bad);
		snprintf(error, sizeof error, "the parameter %s must be given once, in printable ASCII", bad);
		reply = (struct acp_reply){.code = ACP_VALIDATION_ERROR, .http = acp_code_http(ACP_VALIDATION_ERROR)};
		reply.body = acp_error_body(reply.code, http->request_id, error, field);
		json_object_put(query);
	} else {
		acp_hub_call(kernel, endpoint, &http->request, query, &reply);
	}
	acp_http_reply(http, &reply, response);
}

void acp_endpoint_hub(const struct acp_kernel *kernel, const struct acp_http *http, struct acp_response *response)
{
	if (!kernel->hub || !kernel->plane->hub.answer) {
		acp_http_error(http, ACP_NOT_FOUND, "no such path", response);
		return;
	}
	if (!acp_hub_key_ok(kernel, http->bearer)) {
		acp_http_error(http, ACP_INVALID_API_KEY,
			       "kernel key missing or not valid; send it as Authorization: Bearer", response);
		return;
	}
	const struct acp_hub_endpoint *endpoint = acp_hub_find(kernel->hub, http->path + strlen("/functions/v1/"));
	if (!endpoint) {
		acp_http_error(http, ACP_NOT_FOUND, "no such path", response);
		return;
	}
	bool readable = acp_hub_query_names(endpoint) != NULL;
	bool get = strcmp(http->method, "GET") == 0 || strcmp(http->method, "HEAD") == 0;
	if (strcmp(http->method, "POST") == 0 || (readable && get)) {
		answer(kernel, endpoint, http, response);
		return;
	}
	response->allow = readable ? "GET, HEAD, POST" : "POST";
	acp_http_error(http, ACP_METHOD_NOT_ALLOWED, readable ? "use GET or POST here" : "use POST here", response);
}
