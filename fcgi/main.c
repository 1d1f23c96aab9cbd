/* main.c - acp.fcgi: reads options and configuration, opens the listening socket, then runs one process or a supervisor
 * of several. */
#include "crypto.h"
#include "listen.h"
#include "log.h"
#include "supervise.h"
#include "version.h"
#include "worker.h"

#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <unistd.h>

/* Exit statuses from sysexits(3), for failures that a service manager should not retry. */
enum { EXIT_USAGE_ERROR = 64, EXIT_CONFIG_ERROR = 78 };

static const char usage_text[] =
	"usage: acp.fcgi [--config FILE] [--print-config | --check-config | --version | --help]\n"
	"\n"
	"The FastCGI responder. It listens on the Unix socket of the setting `listen`, or on the socket that a web\n"
	"server or systemd hands over. Settings: acp.conf(5). SIGTERM stops it after running requests have\n"
	"ended. SIGHUP reloads the configuration.\n";

struct options {
	const char *file;
	bool print, check;
};

/* Returns -1 to continue, otherwise the exit status. */
static int read_options(int argc, char **argv, struct options *options)
{
	static const struct option known[] = {
		{"config", required_argument, NULL, 'c'}, {"print-config", no_argument, NULL, 'p'},
		{"check-config", no_argument, NULL, 't'}, {"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, 'h'},         {0}};
	int option;
	while ((option = getopt_long(argc, argv, "c:h", known, NULL)) != -1) {
		switch (option) {
		case 'c': options->file = optarg; break;
		case 'p': options->print = true; break;
		case 't': options->check = true; break;
		case 'V': puts("acp-fcgi " ACP_VERSION); return 0;
		case 'h': fputs(usage_text, stdout); return 0;
		default: fputs(usage_text, stderr); return EXIT_USAGE_ERROR;
		}
	}
	if (optind == argc)
		return -1;
	fprintf(stderr, "acp.fcgi: %s: unexpected argument\n%s", argv[optind], usage_text);
	return EXIT_USAGE_ERROR;
}

/* Signals are received only where the program waits for them, never in the middle of other work. */
static void prepare_process(void)
{
	sigset_t signals;
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGUSR1);
	sigaddset(&signals, SIGHUP);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
	/* Large blocks go back to the system when they are freed. By default glibc keeps ever larger ones. */
	mallopt(M_MMAP_THRESHOLD, 256 * 1024);
	signal(SIGXFSZ, SIG_IGN); /* exceeding a file size limit then appears as a failed write */
}

/* A process manager that passes file descriptor 0 decides on the number of processes itself, and sends each one request
 * at a time. */
static void fit_to_manager(struct acp_config *config)
{
	if (!acp_config_given(config, "processes"))
		config->processes = 1;
	if (!acp_config_given(config, "workers"))
		config->workers = config->processes;
	/* Each call that waits keeps a process of the manager busy. */
	if (!acp_config_given(config, "tenant_upstream_calls"))
		config->tenant_upstream_calls = 8;
}

static int run(struct acp_config *config, struct acp_actions **actions, const char *file)
{
	char why[512];
	enum acp_listen_kind kind;
	if (!acp_log_open(config->log_format, config->log_level, config->log_file)) {
		fprintf(stderr, "acp.fcgi: log_file = %s: %s\n", config->log_file, strerror(errno));
		return EXIT_CONFIG_ERROR;
	}
	int listen_fd = acp_listen_open(config, &kind, why, sizeof why);
	if (listen_fd < 0) {
		fprintf(stderr, "acp.fcgi: %s\n", why);
		return EXIT_CONFIG_ERROR;
	}
	if (kind == ACP_LISTEN_STDIN)
		fit_to_manager(config);
	if (*config->notice)
		acp_log(ACP_LOG_WARNING, "%s", config->notice);
	acp_log(ACP_LOG_INFO, "acp-fcgi " ACP_VERSION " starts: %lld workers in %lld processes",
		(long long)config->workers, (long long)config->processes);
	int status = kind == ACP_LISTEN_STDIN && config->processes == 1
			     ? acp_worker_run(config, *actions, listen_fd, (int)config->workers)
			     : acp_supervise(config, actions, file, listen_fd, kind == ACP_LISTEN_OWN);
	acp_log(ACP_LOG_INFO, "acp-fcgi stopped");
	return status;
}

int main(int argc, char **argv)
{
	char why[1024];
	struct options options = {0};
	struct acp_config config;
	struct acp_actions *actions = NULL;
	int status = read_options(argc, argv, &options);
	acp_keep_memory_private(); /* before anything secret is read */
	if (status >= 0)
		return status;
	if (!acp_config_load(&config, options.file, why, sizeof why)) {
		fprintf(stderr, "acp.fcgi: %s\n", why);
		return EXIT_CONFIG_ERROR;
	}
	if (*config.notice && (options.print || options.check))
		fprintf(stderr, "acp.fcgi: %s\n", config.notice);
	if (options.print) {
		acp_config_print(&config, stdout);
		status = 0;
	} else if (!(actions = acp_config_check(&config, why, sizeof why))) {
		fprintf(stderr, "acp.fcgi: %s\n", why);
		status = EXIT_CONFIG_ERROR;
	} else if (options.check) {
		puts("the configuration is good");
		status = 0;
	} else {
		prepare_process();
		status = run(&config, &actions, options.file);
	}
	acp_actions_free(actions);
	acp_config_release(&config);
	return status;
}
