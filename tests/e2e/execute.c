/* execute.c - a host of its own around the installed library: executes one line of standard input after the other with
 * the executor that a configuration asks for, and prints what became of it. test_executor.py builds it.
 *
 * Usage: execute CONFIG. A line: tenant_id, action, params, idempotency_key?, obliged_at?, timeout_ms? in JSON. */
#include <executor_open.h>
#include <outbound.h>
#include <plane.h>
#include <settings.h>

#include <stdio.h>
#include <unistd.h>

/* The executor in this program would keep its audit events here. */
static enum acp_code record(void *self, const struct acp_settlement *end)
{
	int *events = self;
	(void)end;
	(*events)++;
	return ACP_OK;
}

static void execute(const struct acp_executor *executor, const char *line)
{
	struct acp_executed done;
	struct json_object *order = json_tokener_parse(line);
	struct json_object *reply = json_object_new_object();
	const struct acp_execution what = {
		.tenant_id = acp_json_string(order, "tenant_id"),
		.action = acp_json_string(order, "action"),
		.params = acp_json_member(order, "params"),
		.idempotency_key = acp_json_string(order, "idempotency_key"),
		.obliged_at = json_object_get_int64(acp_json_member(order, "obliged_at")),
		.timeout_ms = json_object_get_int(acp_json_member(order, "timeout_ms")),
	};
	executor->execute(executor->self, &what, &done);
	json_object_object_add(reply, "ok", json_object_new_boolean(done.ok));
	json_object_object_add(reply, "retry", json_object_new_boolean(done.retry));
	json_object_object_add(reply, "status", json_object_new_int(done.status));
	json_object_object_add(reply, "data", json_object_get(done.data));
	json_object_object_add(reply, "error_code", json_object_new_string(done.error_code));
	json_object_object_add(reply, "error", json_object_new_string(done.error));
	puts(json_object_to_json_string_ext(reply, JSON_C_TO_STRING_PLAIN));
	fflush(stdout);
	acp_executed_release(&done);
	json_object_put(reply);
	json_object_put(order);
}

int main(int argc, char **argv)
{
	char why[512] = "usage: execute CONFIG";
	char line[65536];
	int events = 0;
	struct acp_config config;
	struct acp_executor *executor = NULL;
	const struct acp_control_plane plane = {.self = &events, .call.record = record};
	if (argc != 2 || !acp_config_load(&config, argv[1], why, sizeof why) || !acp_outbound_init() ||
	    !acp_executor_open(&config, &plane, &executor, why, sizeof why) || !executor) {
		fprintf(stderr, "execute: %s\n", why);
		return 1;
	}
	while (fgets(line, sizeof line, stdin))
		execute(executor, line);
	acp_executor_close(executor);
	acp_config_release(&config);
	return 0;
}
