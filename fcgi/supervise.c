#include "supervise.h"

#include "address.h"
#include "clock.h"
#include "kernel.h"
#include "listen.h"
#include "log.h"
#include "worker.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_PROCESSES = 64 };

struct supervisor {
	struct acp_config *config;
	struct acp_actions **actions; /* the workers' initial actions, read once for all of them */
	const char *file;
	int listen_fd;
	sigset_t signals;
	pid_t current[MAX_PROCESSES];     /* this generation; 0 = not running */
	uint64_t started[MAX_PROCESSES];  /* start time, by acp_monotonic_us() */
	pid_t leaving[4 * MAX_PROCESSES]; /* earlier generations that are still finishing requests */
};

static bool is_complete(const struct acp_config *config, char *why, size_t why_size)
{
	char bad[64];
	if (!*config->database_url)
		snprintf(why, why_size, "%s", acp_config_no_database());
	else if (!acp_proxies_ok(config->trusted_proxies, bad))
		snprintf(why, why_size, "trusted_proxies: %s is not an address or network", bad);
	else if (!*config->key_pepper)
		snprintf(why, why_size,
			 "key_pepper is not set: put key_pepper_file = PATH into the configuration file; make one "
			 "with: openssl rand -hex 32");
	else
		return true;
	return false;
}

struct acp_actions *acp_config_check(const struct acp_config *config, char *why, size_t why_size)
{
	struct acp_kernel probe;
	const struct acp_control_plane no_plane = {0};
	struct acp_actions *actions =
		is_complete(config, why, why_size) ? acp_actions_load(config, why, why_size) : NULL;
	if (actions && acp_kernel_init(&probe, config, &no_plane, acp_actions_packs(actions), why, why_size)) {
		acp_kernel_release(&probe);
		return actions;
	}
	acp_actions_free(actions);
	return NULL;
}

static int process_count(const struct acp_config *config)
{
	int64_t count = config->processes < config->workers ? config->processes : config->workers;
	return (int)count;
}

/* Spreads the worker threads over the processes; the first processes get the remainder. */
static int threads_of(const struct acp_config *config, int index)
{
	int count = process_count(config);
	return (int)(config->workers / count) + (index < config->workers % count);
}

static void start_one(struct supervisor *s, int index)
{
	pid_t parent = getpid();
	pid_t pid = fork();
	if (pid == 0) {
		/* Stop the worker when its supervisor dies, otherwise it would run forever. */
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		if (getppid() != parent)
			_exit(0);
		s->config->close_on_stop = false; /* all processes and the next generation share the socket */
		exit(acp_worker_run(s->config, *s->actions, s->listen_fd, threads_of(s->config, index)));
	}
	if (pid < 0)
		acp_log(ACP_LOG_ERROR, "fork: %s", strerror(errno));
	s->current[index] = pid > 0 ? pid : 0;
	s->started[index] = acp_monotonic_us();
}

static void start_all(struct supervisor *s)
{
	for (int i = 0; i < process_count(s->config); i++)
		if (!s->current[i])
			start_one(s, i);
}

static void signal_all(const pid_t *pids, size_t count, int signal_number)
{
	for (size_t i = 0; i < count; i++)
		if (pids[i])
			kill(pids[i], signal_number);
}

/* Tells the current generation to exit, and makes room for the next. */
static void retire(struct supervisor *s)
{
	for (size_t i = 0; i < MAX_PROCESSES; i++) {
		for (size_t j = 0; s->current[i] && j < ACP_COUNT(s->leaving); j++) {
			if (s->leaving[j])
				continue;
			s->leaving[j] = s->current[i];
			kill(s->current[i], SIGTERM);
			s->current[i] = 0;
		}
	}
}

/* Replaces a worker that died. If it died within a second of its start, waits a second, so that a fault at startup does
 * not cause a storm of forks. */
static void replace(struct supervisor *s, int index, int status)
{
	if (WIFSIGNALED(status))
		acp_log(ACP_LOG_ERROR, "worker %d was killed by signal %d; starting another", (int)s->current[index],
			WTERMSIG(status));
	else
		acp_log(ACP_LOG_ERROR, "worker %d exited with status %d; starting another", (int)s->current[index],
			WEXITSTATUS(status));
	s->current[index] = 0;
	if (acp_monotonic_us() - s->started[index] > 1000000)
		start_one(s, index);
	else
		alarm(1);
}

static void reap(struct supervisor *s, bool stopping)
{
	int status;
	pid_t pid;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		for (size_t j = 0; j < ACP_COUNT(s->leaving); j++)
			if (s->leaving[j] == pid)
				s->leaving[j] = 0;
		for (int i = 0; i < MAX_PROCESSES; i++) {
			if (s->current[i] != pid)
				continue;
			if (stopping)
				s->current[i] = 0;
			else
				replace(s, i, status);
		}
	}
}

static bool any(const pid_t *pids, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (pids[i])
			return true;
	return false;
}

/* Before anything changes, the new configuration must pass the same checks as the first one. */
static void reload(struct supervisor *s)
{
	char why[512];
	struct acp_config fresh;
	if (!acp_config_load(&fresh, s->file, why, sizeof why)) {
		acp_log(ACP_LOG_ERROR, "reload refused, the old configuration stays: %s", why);
		return;
	}
	struct acp_actions *actions = acp_config_check(&fresh, why, sizeof why);
	if (!actions) {
		acp_log(ACP_LOG_ERROR, "reload refused, the old configuration stays: %s", why);
		acp_config_release(&fresh);
		return;
	}
	if (*fresh.notice)
		acp_log(ACP_LOG_WARNING, "%s", fresh.notice);
	if (strcmp(fresh.listen, s->config->listen) != 0)
		acp_log(ACP_LOG_WARNING, "listen = %s: a new socket needs a restart", fresh.listen);
	acp_actions_free(*s->actions);
	*s->actions = actions;
	acp_config_release(s->config);
	*s->config = fresh;
	if (!acp_log_open(s->config->log_format, s->config->log_level, s->config->log_file))
		acp_log(ACP_LOG_ERROR, "log_file = %s: %s", s->config->log_file, strerror(errno));
	retire(s);
	start_all(s);
	acp_log(ACP_LOG_INFO, "configuration reloaded, %d processes started", process_count(s->config));
}

/* Lets every process finish its requests; kills those that take too long. */
static int stop(struct supervisor *s)
{
	uint64_t limit = acp_monotonic_us() + (uint64_t)(s->config->shutdown_timeout + 2) * 1000000u;
	signal_all(s->current, MAX_PROCESSES, SIGTERM);
	while (any(s->current, MAX_PROCESSES) || any(s->leaving, ACP_COUNT(s->leaving))) {
		const struct timespec pause = {.tv_nsec = 100 * 1000000L};
		sigtimedwait(&s->signals, NULL, &pause);
		reap(s, true);
		if (acp_monotonic_us() < limit)
			continue;
		signal_all(s->current, MAX_PROCESSES, SIGKILL);
		signal_all(s->leaving, ACP_COUNT(s->leaving), SIGKILL);
	}
	return acp_monotonic_us() < limit ? 0 : 1;
}

int acp_supervise(struct acp_config *config, struct acp_actions **actions, const char *file, int listen_fd,
		  bool unlink_socket)
{
	struct supervisor s = {.config = config, .actions = actions, .file = file, .listen_fd = listen_fd};
	static const int taken[] = {SIGTERM, SIGINT, SIGUSR1, SIGHUP, SIGCHLD, SIGALRM};
	sigemptyset(&s.signals);
	for (size_t i = 0; i < ACP_COUNT(taken); i++)
		sigaddset(&s.signals, taken[i]);
	sigprocmask(SIG_BLOCK, &s.signals, NULL);
	start_all(&s);
	for (;;) {
		int got = sigwaitinfo(&s.signals, NULL);
		if (got == SIGHUP)
			reload(&s);
		else if (got == SIGALRM)
			start_all(&s);
		else if (got == SIGCHLD)
			reap(&s, false);
		else if (got > 0)
			break;
	}
	if (unlink_socket)
		acp_listen_unlink(config);
	return stop(&s);
}
