/* main.c - finds the command and runs it. */
#include "acpctl.h"

#include "version.h"

#include <unistd.h>

static const struct {
	const char *first, *second; /* "key" "create"; second NULL: a command of one word */
	command *run;
	const char *arguments;
	const char *help;
} commands[] = {
	{"migrate", NULL, ctl_migrate, "", "bring the database to this program's schema"},
	{"doctor", NULL, ctl_doctor, "[--url URL]", "check configuration, database and a mounted installation"},
	{"tenant", "list", ctl_tenant_list, "", "all tenants"},
	{"tenant", "show", ctl_tenant_show, "TENANT", "one tenant, by its UUID or agent_id, with its usage"},
	{"tenant", "create", ctl_tenant_create,
	 "--agent-id ID --email E [--organization O] [--product P] [--tenant-id U]",
	 "make a free tenant; prints its UUID"},
	{"tenant", "update", ctl_tenant_update,
	 "TENANT [--tier free|paid] [--payment-method none|setup_pending|active] [--status active|suspended|closed] "
	 "[--calls-limit N|default]",
	 "change a tenant"},
	{"key", "list", ctl_key_list, "[--tenant TENANT]", "keys, never their secrets"},
	{"key", "create", ctl_key_create, "--tenant TENANT --name NAME --scopes \"A B\" [--expires TIME]",
	 "make an API key; prints it, once"},
	{"key", "revoke", ctl_key_revoke, "KEY_ID", "revoke a key; takes effect at once"},
	{"policy", "list", ctl_policy_list, "", "policies in force, first the one that is looked at first"},
	{"policy", "add", ctl_policy_add, "[--tenant TENANT_UUID] POLICY",
	 "put a policy (a JSON object) in force; prints its id"},
	{"policy", "enable", ctl_policy_enable, "POLICY_ID", "switch a policy on"},
	{"policy", "disable", ctl_policy_disable, "POLICY_ID", "switch a policy off"},
	{"proposal", "list", ctl_proposal_list, "", "policies that tenants proposed"},
	{"proposal", "approve", ctl_proposal_approve, "PROPOSAL_ID", "approve a proposal"},
	{"proposal", "reject", ctl_proposal_reject, "PROPOSAL_ID", "reject a proposal"},
	{"proposal", "publish", ctl_proposal_publish, "PROPOSAL_ID",
	 "put an approved proposal in force for its tenant"},
	{"approval", "list", ctl_approval_list, "", "calls that wait or waited for a human"},
	{"approval", "approve", ctl_approval_approve, "APPROVAL_ID", "let exactly that call through, once"},
	{"approval", "reject", ctl_approval_reject, "APPROVAL_ID", "do not let it through"},
};

static void print_usage(FILE *out)
{
	fputs("usage: acpctl [--config FILE] [--json] COMMAND\n\n", out);
	for (size_t i = 0; i < ACP_COUNT(commands); i++)
		fprintf(out, "  %s%s%s %s\n        %s\n", commands[i].first, commands[i].second ? " " : "",
			commands[i].second ? commands[i].second : "", commands[i].arguments, commands[i].help);
	fputs("\nThe database is the setting database_url (acp.conf(5), or ACP_DATABASE_URL).\n", out);
}

static bool is_command(size_t i, int argc, char **argv)
{
	return strcmp(commands[i].first, argv[0]) == 0 &&
	       (!commands[i].second || (argc > 1 && strcmp(commands[i].second, argv[1]) == 0));
}

static int run(struct ctl *ctl, const char *file, int argc, char **argv)
{
	char why[1024];
	for (size_t i = 0; i < ACP_COUNT(commands); i++) {
		if (!is_command(i, argc, argv))
			continue;
		int words = commands[i].second ? 2 : 1;
		ctl->argc = argc - words;
		ctl->argv = argv + words;
		if (!acp_config_load(&ctl->config, file, why, sizeof why)) {
			ctl_fail("%s", why);
			return ACPCTL_CONFIG;
		}
		int status = commands[i].run(ctl);
		acp_admin_close(ctl->admin);
		acp_config_release(&ctl->config);
		return status;
	}
	ctl_fail("%s%s%s: there is no such command", argv[0], argc > 1 ? " " : "", argc > 1 ? argv[1] : "");
	print_usage(stderr);
	return ACPCTL_USAGE;
}

int main(int argc, char **argv)
{
	struct ctl ctl = {0};
	const char *file = NULL;
	int at = 1;
	for (; at < argc && argv[at][0] == '-'; at++) {
		if (strcmp(argv[at], "--json") == 0) {
			ctl.json = true;
		} else if (strcmp(argv[at], "--config") == 0 && at + 1 < argc) {
			file = argv[++at];
		} else if (strcmp(argv[at], "--version") == 0) {
			puts("acp-fcgi " ACP_VERSION);
			return ACPCTL_OK;
		} else if (strcmp(argv[at], "--help") == 0) {
			print_usage(stdout);
			return ACPCTL_OK;
		} else {
			ctl_fail("%s: there is no such option", argv[at]);
			print_usage(stderr);
			return ACPCTL_USAGE;
		}
	}
	if (at < argc)
		return run(&ctl, file, argc - at, argv + at);
	print_usage(stderr);
	return ACPCTL_USAGE;
}
