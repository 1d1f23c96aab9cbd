/* console.c - acpctl console: prints a link that opens the operator's view of the console once. */
#include "acpctl.h"

enum { LINK_MINUTES = 10 };

int ctl_console(struct ctl *ctl)
{
	uint8_t random[32], hash[ACP_SHA256_LEN];
	char token[2 * sizeof random + 1], hex[ACP_SHA256_HEX], minutes[12];
	acp_random(random, sizeof random);
	acp_hex(random, sizeof random, token);
	acp_sha256(token, strlen(token), hash);
	acp_hex(hash, sizeof hash, hex);
	snprintf(minutes, sizeof minutes, "%d", LINK_MINUTES);
	const char *values[] = {hex, minutes};
	struct json_object *rows = ctl_query(ctl, "console link", values);
	if (!rows)
		return ACPCTL_FAILED;
	if (ctl->json || ctl->csv) {
		char url[1200];
		snprintf(url, sizeof url, "%s%s/console#operator=%s", ctl->config.public_url, ctl->config.url_prefix,
			 token);
		struct json_object *link = json_object_array_get_idx(rows, 0);
		acp_json_add_string(link, "url", url);
		ctl_print_one(ctl, rows);
		acp_wipe(url, sizeof url);
		acp_wipe(token, sizeof token);
		return ACPCTL_OK;
	}
	/* Browsers do not send the part after the #, so no log of a web server has the token. */
	printf("%s%s/console#operator=%s\n", ctl->config.public_url, ctl->config.url_prefix, token);
	fflush(stdout);
	fprintf(stderr, "opens once, until %s\n", json_object_get_string(ctl_value(rows, "ends")));
	json_object_put(rows);
	acp_wipe(token, sizeof token);
	return ACPCTL_OK;
}
