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
	{"console", NULL, ctl_console, "", "print a link that opens the operator's view of the console, once"},
	{"journal", "status", ctl_journal_status, "",
	 "audit rows that wait on the disk for PostgreSQL; exits with 3 if any do"},
	{"journal", "replay", ctl_journal_replay, "", "store those that no running acp.fcgi holds"},
	{"tenant", "list", ctl_tenant_list, "", "all tenants"},
	{"tenant", "show", ctl_tenant_show, "TENANT", "one tenant, by its UUID or agent_id, with its usage"},
	{"tenant", "create", ctl_tenant_create,
	 "--agent-id ID --email E [--organization O] [--product P] [--tenant-id U]",
	 "make a free tenant; prints its UUID"},
	{"tenant", "update", ctl_tenant_update,
	 "TENANT [--tier free|paid] [--payment-method none|setup_pending|active] [--status active|suspended|closed] "
	 "[--calls-limit N|default]",
	 "change a tenant"},
	{"usage", NULL, ctl_usage, "[TENANT] [--period YYYY-MM] [--by tenant|action|day]",
	 "calls of a month: of one tenant what its GET /api/usage says, else of all tenants"},
	{"report", NULL, ctl_report, "[NAME] [--period YYYY-MM|all]",
	 "a view of acp_report; without NAME, which there are"},
	{"key", "list", ctl_key_list, "[--tenant TENANT]", "keys, never their secrets"},
	{"key", "create", ctl_key_create, "--tenant TENANT --name NAME --scopes \"A B\" [--expires TIME]",
	 "make an API key; prints it, once"},
	{"key", "revoke", ctl_key_revoke, "KEY_ID", "revoke a key; takes effect at once"},
	{"policy", "list", ctl_policy_list, "", "policies, first the one that is looked at first"},
	{"policy", "add", ctl_policy_add, "[--tenant TENANT] POLICY",
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
	{"billing", "run", ctl_billing_run, "[--period YYYY-MM] [--dry-run] [--key KEY]",
	 "bill a month that ended (the last one), each tenant once; --dry-run: show its invoices, also of an open "
	 "month"},
	{"billing", "list", ctl_billing_list, "[--period YYYY-MM] [--status pending|invoiced|paid|failed|carried]",
	 "invoices"},
	{"billing", "show", ctl_billing_show, "TENANT --period YYYY-MM [--text]",
	 "one invoice; --text: the text that its hash is the SHA-256 of, computed anew"},
	{"billing", "credit", ctl_billing_credit, "TENANT --amount AMOUNT --reason TEXT",
	 "take an amount off the tenant's next invoice"},
	{"billing", "retry", ctl_billing_retry, "[TENANT --period YYYY-MM]",
	 "try an invoice again that failed, or all of them"},
	{"price", "list", ctl_price_list, "", "prices, newest first"},
	{"price", "add", ctl_price_add,
	 "--amount AMOUNT --currency CODE [--unit call|token|row|sec] [--action PATTERN] [--from TIME]",
	 "a price of each unit from a moment (now) on"},
	{"outbox", "list", ctl_outbox_list, "[--state owed|dead|all] [--limit N]",
	 "what is owed to the outside world; dead: given up"},
	{"outbox", "run", ctl_outbox_run, "", "do what is due now"},
	{"outbox", "retry", ctl_outbox_retry, "OUTBOX_ID|all", "make an obligation due now, or all that were given up"},
	{"outbox", "drop", ctl_outbox_drop, "OUTBOX_ID", "owe it no more"},
	{"webhook", "list", ctl_webhook_list, "[--tenant TENANT]",
	 "who wants to be told of what, and what waits for them"},
	{"webhook", "deliveries", ctl_webhook_deliveries,
	 "[--tenant TENANT] [--status pending|delivered|failed] [--limit N]", "events on their way, the newest first"},
	{"webhook", "retry", ctl_webhook_retry, "DELIVERY_ID", "send it now; also one that was given up"},
	{"reconcile", NULL, ctl_reconcile, "[--period YYYY-MM] [--stripe | --database]",
	 "prove that counters, quotas, archives and invoices are what the audit rows say"},
	{"audit", "verify", ctl_audit_verify, "[--from TIME] [--to TIME] [--archives DIR] [--database] [FILE…]",
	 "prove that no audit row was altered, removed or inserted, in the database or in exported files"},
	{"audit", "seal", ctl_audit_seal, "", "sign now where the audit chains end"},
	{"audit", "export", ctl_audit_export, "[--from TIME] [--to TIME] [--tenant TENANT] [-o FILE] [--gzip]",
	 "audit rows as JSON lines that can be verified without the database"},
	{"audit", "archive", ctl_audit_archive,
	 "(--month YYYY-MM | --older-than MONTHS) --dir DIR [--gzip] [--keep] [--unbilled]",
	 "move ended months from the database to files"},
	{"audit", "erase", ctl_audit_erase, "[--tenant TENANT] [--before TIME] [--dry-run]",
	 "take personal values out of audit rows, whose chains still verify; exits with 3 where some must stay"},
	{"audit", "status", ctl_audit_status, "", "partitions, seals and archives of the audit log"},
};

static void print_command(FILE *out, size_t i)
{
	fprintf(out, "  %s%s%s %s\n        %s\n", commands[i].first, commands[i].second ? " " : "",
		commands[i].second ? commands[i].second : "", commands[i].arguments, commands[i].help);
}

static void print_usage(FILE *out)
{
	fputs("usage: acpctl [--config FILE] [--json | --csv] COMMAND\n\n", out);
	for (size_t i = 0; i < ACP_COUNT(commands); i++)
		print_command(out, i);
	fputs("\nThe database is the setting database_url (acp.conf(5), or ACP_DATABASE_URL).\n", out);
}

static bool is_command(size_t i, int argc, char **argv)
{
	return strcmp(commands[i].first, argv[0]) == 0 &&
	       (!commands[i].second || (argc > 1 && strcmp(commands[i].second, argv[1]) == 0));
}

static bool asks_for_help(int argc, char **argv)
{
	return argc > 0 && strcmp(argv[argc - 1], "--help") == 0;
}

/* What there is for a word that begins no whole command: the commands that begin with it, else all of them. */
static int no_such_command(int argc, char **argv)
{
	size_t like = 0;
	bool help = asks_for_help(argc, argv);
	FILE *out = help ? stdout : stderr;
	for (size_t i = 0; i < ACP_COUNT(commands); i++)
		like += strcmp(commands[i].first, argv[0]) == 0;
	if (like && help)
		argc = 1;
	if (!like || !help)
		ctl_fail(like && argc == 1 ? "%s: needs one more word" : "%s%s%s: there is no such command", argv[0],
			 argc > 1 ? " " : "", argc > 1 ? argv[1] : "");
	for (size_t i = 0; i < ACP_COUNT(commands); i++)
		if (strcmp(commands[i].first, argv[0]) == 0)
			print_command(out, i);
	if (!like)
		fputs("acpctl --help lists all of them\n", stderr);
	return like && help ? ACPCTL_OK : ACPCTL_USAGE;
}

static int run(struct ctl *ctl, const char *file, int argc, char **argv)
{
	char why[1024];
	for (size_t i = 0; i < ACP_COUNT(commands); i++) {
		if (!is_command(i, argc, argv))
			continue;
		if (asks_for_help(argc, argv)) {
			print_command(stdout, i);
			return ACPCTL_OK;
		}
		int words = commands[i].second ? 2 : 1;
		ctl->argc = argc - words;
		ctl->argv = argv + words;
		if (!acp_config_load(&ctl->config, file, why, sizeof why)) {
			ctl_fail("%s", why);
			return ACPCTL_CONFIG;
		}
		int status = commands[i].run(ctl);
		if (status == ACPCTL_USAGE)
			print_command(stderr, i);
		acp_admin_close(ctl->admin);
		acp_config_release(&ctl->config);
		return status;
	}
	return no_such_command(argc, argv);
}

int main(int argc, char **argv)
{
	struct ctl ctl = {0};
	const char *file = NULL;
	int at = 1;
	acp_keep_memory_private();
	for (; at < argc && argv[at][0] == '-'; at++) {
		if (ctl_output_option(&ctl, argv[at])) {
			continue;
		} else if (strcmp(argv[at], "--config") == 0 && at + 1 < argc) {
			file = argv[++at];
		} else if (strcmp(argv[at], "--version") == 0) {
			puts("acp-fcgi " ACP_VERSION);
			return ACPCTL_OK;
		} else if (strcmp(argv[at], "--help") == 0) {
			print_usage(stdout);
			return ACPCTL_OK;
		} else {
			ctl_fail("%s: there is no such option before a command; acpctl --help shows which there are",
				 argv[at]);
			return ACPCTL_USAGE;
		}
	}
	if (at + 1 == argc && strcmp(argv[at], "help") == 0) {
		print_usage(stdout);
		return ACPCTL_OK;
	}
	if (at < argc)
		return run(&ctl, file, argc - at, argv + at);
	print_usage(stderr);
	return ACPCTL_USAGE;
}
