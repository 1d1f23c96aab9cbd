/* main.c - reads the command line and runs the command. */
#include "commands.h"

#include <errno.h>

/* Refuses words that are not a command, and lists the commands that begin with the first one. like: their number. */
static int no_such_command(int argc, char *const *argv, int like)
{
	if (like && argc == 1)
		ctl_fail("%s: needs one more word", argv[0]);
	else
		ctl_fail("%.99s%s%.99s: no such command%s", argv[0], argc > 1 ? " " : "", argc > 1 ? argv[1] : "",
			 like ? "" : "; acpctl help lists all of them");
	ctl_usage_like(stderr, argv[0]);
	return ACPCTL_USAGE;
}

/* Recognises "acpctl key --help", a request for the commands that begin with key. */
static bool asks_about(int argc, char *const *argv, int like)
{
	return like && argc > 1 && strcmp(argv[1], "--help") == 0;
}

/* No command takes a credential. It must not go to PostgreSQL either, whose log has the values of failed statements. */
static bool has_credential(const struct ctl *ctl)
{
	bool found = false;
	for (size_t i = 0; i < CTL_MAX_OPTIONS; i++)
		found = found || (ctl->values[i] && ctl_is_credential(ctl->values[i]));
	for (int i = 0; i < ctl->operand_count; i++)
		found = found || ctl_is_credential(ctl->operands[i]);
	return found;
}

static int run(struct ctl *ctl)
{
	char why[1024];
	if (!ctl->command->bare && !acp_config_load(&ctl->config, ctl->config_file, why, sizeof why)) {
		ctl_fail("%s", why);
		return ACPCTL_CONFIG;
	}
	if (!ctl->command->bare)
		ctl_set_key_prefix(ctl->config.api_key_prefix);
	if (!ctl->command->bare && *ctl->config.notice)
		fprintf(stderr, "acpctl: %s\n", ctl->config.notice);
	int status = has_credential(ctl)
			     ? ctl_misuse("an argument has the form of an API key or of another credential; "
					  "acpctl takes none")
			     : ctl->command->run(ctl);
	if (status == ACPCTL_USAGE)
		ctl_usage_of(stderr, ctl->command);
	acp_admin_close(ctl->admin);
	if (!ctl->command->bare)
		acp_config_release(&ctl->config);
	return status;
}

/* argv[0]: the first word of the command. */
static int find_and_run(struct ctl *ctl, int argc, char **argv)
{
	int words;
	ctl->command = ctl_find_command(argc, argv, &words);
	if (!ctl->command && asks_about(argc, argv, words)) {
		ctl_usage_like(stdout, argv[0]);
		return ACPCTL_OK;
	}
	if (!ctl->command)
		return no_such_command(argc, argv, words);
	if (!ctl_parse(ctl, argc - words + 1, argv + words - 1)) {
		ctl_usage_of(stderr, ctl->command);
		return ACPCTL_USAGE;
	}
	if (ctl->help)
		ctl_usage_of(stdout, ctl->command);
	if (ctl->help)
		return ACPCTL_OK;
	return ctl->version ? ctl_version(ctl) : run(ctl);
}

static int run_line(struct ctl *ctl, int argc, char **argv)
{
	int at = ctl_parse_global(ctl, argc, argv);
	if (at < 0)
		return ACPCTL_USAGE;
	if (ctl->version)
		return ctl_version(ctl);
	if (ctl->help && at == argc)
		ctl_usage_all(stdout);
	else if (at == argc)
		ctl_usage_all(stderr);
	else
		return find_and_run(ctl, argc - at, argv + at);
	return ctl->help ? ACPCTL_OK : ACPCTL_USAGE;
}

int main(int argc, char **argv)
{
	struct ctl ctl = {0};
	acp_keep_memory_private();
	int status = run_line(&ctl, argc, argv);
	/* Output that is lost must not look like success: a new API key is shown only here. */
	bool lost = ferror(stdout);
	if (fflush(stdout) == 0 && !lost)
		return status;
	ctl_fail("standard output cannot be written: %s", lost ? "an earlier write failed" : strerror(errno));
	return status == ACPCTL_OK ? ACPCTL_FAILED : status;
}
