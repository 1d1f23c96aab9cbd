/* worker.c - threads that each take a connection, serve it whole, and take the next.
 *
 * Every thread waits in its own epoll set for the listening socket (EPOLLEXCLUSIVE: the kernel wakes one) and for an
 * eventfd that says stop. Signals are blocked in all threads; the main thread takes them with sigtimedwait(), so no
 * system call of a request is ever interrupted. */
#include "worker.h"

#include "courier.h"
#include "exchange.h"
#include "hub.h"
#include "live.h"
#include "log.h"
#include "outbound.h"
#include "pg_plane.h"
#include "remote_plane.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef EPOLLEXCLUSIVE
#define EPOLLEXCLUSIVE 0
#endif

enum { MAINTAIN_EVERY = 600 }; /* seconds */

struct worker {
	const struct acp_config *config;
	struct acp_live *live;
	int listen_fd;
	int stop_fd; /* readable from the stop on */
};

static bool watch(int epoll, int fd, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.fd = fd};
	return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

/* Waits for a connection or the stop. True: there may be a connection. */
static bool wait_for_work(int epoll, const struct worker *worker)
{
	struct epoll_event events[2];
	int count = epoll_wait(epoll, events, 2, -1);
	for (int i = 0; i < count; i++)
		if (events[i].data.fd == worker->stop_fd)
			return false;
	return true;
}

/* Serves one waiting connection. False: none was waiting (another thread or process took it). */
static bool serve_one(const struct worker *worker, struct acp_exchange *exchange)
{
	int connection = accept4(worker->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	if (connection >= 0) {
		struct acp_lease *lease;
		const struct acp_kernel *kernel = acp_live_take(worker->live, &lease);
		acp_exchange_serve(exchange, kernel, connection);
		acp_live_give(worker->live, lease);
		return true;
	}
	if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
		const struct timespec pause = {.tv_nsec = 20 * 1000000L};
		acp_log(ACP_LOG_WARNING, "accept: %s", strerror(errno));
		nanosleep(&pause, NULL); /* the connection stays in the queue */
	}
	return false;
}

static void *serve(void *arg)
{
	const struct worker *worker = arg;
	struct acp_exchange *exchange = acp_exchange_new(worker->config);
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	if (!exchange || epoll < 0 || !watch(epoll, worker->stop_fd, EPOLLIN) ||
	    !(watch(epoll, worker->listen_fd, EPOLLIN | EPOLLEXCLUSIVE) || watch(epoll, worker->listen_fd, EPOLLIN))) {
		acp_log(ACP_LOG_ERROR, "a thread could not start: %s", strerror(errno));
		exit(1);
	}
	while (wait_for_work(epoll, worker))
		serve_one(worker, exchange);
	/* Connections that were queued before the stop are somebody's requests; a steady stream must not keep us. */
	for (int i = 0; i < 64 && serve_one(worker, exchange); i++)
		;
	close(epoll);
	acp_exchange_free(exchange);
	return NULL;
}

static void reload(const struct acp_config *config, struct acp_live *live)
{
	char why[512];
	if (!acp_log_open(config->log_format, config->log_level, config->log_file))
		acp_log(ACP_LOG_ERROR, "log_file = %s: %s; still writing to the old one", config->log_file,
			strerror(errno));
	if (!acp_live_reload(live, why, sizeof why))
		acp_log(ACP_LOG_ERROR, "reload refused, the old actions stay: %s", why);
	else if (*config->actions_dir)
		acp_log(ACP_LOG_INFO, "actions read again");
}

/* Takes signals, and does the upkeep between them, until told to stop. */
static void wait_for_stop(const struct worker *worker, const struct acp_control_plane *plane, const sigset_t *signals)
{
	const struct timespec period = {.tv_sec = MAINTAIN_EVERY};
	for (;;) {
		if (plane->maintain)
			plane->maintain(plane->self);
		int got = sigtimedwait(signals, NULL, &period);
		if (got == SIGHUP)
			reload(worker->config, worker->live);
		else if (got > 0)
			return;
	}
}

/* Waits for the threads until the time limit; false: some are still busy. */
static bool join_all(pthread_t *threads, int count, const struct timespec *limit)
{
	bool all = true;
	for (int i = 0; i < count; i++)
		all = pthread_timedjoin_np(threads[i], NULL, limit) == 0 && all;
	return all;
}

static int start_threads(struct worker *worker, pthread_t *threads, int count)
{
	pthread_attr_t attr;
	int started = 0;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 512 * 1024);
	while (started < count && pthread_create(&threads[started], &attr, serve, worker) == 0)
		started++;
	pthread_attr_destroy(&attr);
	return started;
}

/* Lets what is in flight finish, at most shutdown_timeout seconds. What is cut off has its memory in use: then nothing
 * can be released in order, and the process ends here. */
static void stop_all(const struct worker *worker, struct acp_courier *courier, pthread_t *threads, int count)
{
	const uint64_t one = 1;
	int64_t seconds = worker->config->shutdown_timeout;
	struct timespec limit;
	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += (time_t)seconds;
	if (write(worker->stop_fd, &one, sizeof one) < 0)
		acp_log(ACP_LOG_ERROR, "stop: %s", strerror(errno));
	acp_courier_stop(courier);
	if (!join_all(threads, count, &limit)) {
		acp_log(ACP_LOG_WARNING,
			"requests were still running after shutdown_timeout = %lld s; they are cut off",
			(long long)seconds);
		_exit(1);
	}
	if (!acp_courier_join(courier, &limit)) {
		acp_log(ACP_LOG_INFO,
			"a webhook delivery was cut off after shutdown_timeout = %lld s; it will be tried again",
			(long long)seconds);
		_exit(0);
	}
}

static int serve_until_stopped(const struct acp_config *config, const struct acp_control_plane *plane,
			       struct acp_live *live, int listen_fd, int count, const sigset_t *signals)
{
	struct worker worker = {config, live, listen_fd, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
	pthread_t *threads = calloc((size_t)count, sizeof *threads);
	if (!threads || worker.stop_fd < 0 || start_threads(&worker, threads, count) < count) {
		acp_log(ACP_LOG_ERROR, "workers = %d: not enough memory or threads", count);
		exit(1);
	}
	struct acp_courier *courier = acp_courier_start(config, plane);
	wait_for_stop(&worker, plane, signals);
	stop_all(&worker, courier, threads, count);
	close(worker.stop_fd);
	free(threads);
	return 0;
}

/* The installation's table of rate limits; its name follows from the pepper, so that two installations of one user on
 * one host do not share it, and tells nothing of it. */
static bool open_limits(const struct acp_config *config, struct acp_ratelimit **limits, char *why, size_t why_size)
{
	static const char purpose[] = "acp-fcgi rate limit zone v1";
	uint8_t mac[ACP_SHA256_LEN];
	char zone[17];
	*limits = NULL;
	if (!config->rate_limits)
		return true;
	acp_hmac_sha256(config->key_pepper, strlen(config->key_pepper), purpose, sizeof purpose - 1, mac);
	acp_hex(mac, 8, zone);
	*limits = acp_ratelimit_open(zone, why, why_size);
	return *limits != NULL;
}

/* What a process has but for its kernel: the control plane over the database, where hub_url is set a remote hub before
 * it, the table of rate limits, and the hub for other kernels where a key for them is set. */
struct process {
	struct acp_pg_plane *pg;
	struct acp_remote_plane *remote;
	struct acp_control_plane local, plane;
	struct acp_live_parts parts;
};

static bool open_process(struct process *process, const struct acp_config *config, char *why, size_t why_size)
{
	snprintf(why, why_size, "not enough memory or threads, or libfcgi or libcurl cannot be used");
	process->pg = acp_pg_plane_new(config, &process->local);
	if (!process->pg || !acp_exchange_init() || !acp_outbound_init())
		return false;
	process->plane = process->local;
	if (*config->hub_url)
		process->remote = acp_remote_plane_new(config, &process->local, &process->plane);
	if (*config->hub_url && !process->remote)
		return false;
	if (*config->kernel_key && !(process->parts.hub = acp_hub_new(why, why_size)))
		return false;
	return open_limits(config, &process->parts.limits, why, why_size);
}

static void close_process(struct process *process)
{
	acp_ratelimit_close(process->parts.limits);
	acp_hub_free(process->parts.hub);
	acp_remote_plane_free(process->remote);
	acp_pg_plane_free(process->pg);
}

int acp_worker_run(const struct acp_config *config, const struct acp_actions *actions, int listen_fd, int threads)
{
	char why[512];
	sigset_t signals;
	struct acp_live *live = NULL;
	struct process process = {0};
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGUSR1);
	sigaddset(&signals, SIGHUP);
	if (open_process(&process, config, why, sizeof why))
		live = acp_live_new(config, &process.plane, &process.parts, actions, why, sizeof why);
	if (!live) {
		acp_log(ACP_LOG_ERROR, "start: %s", why);
		return 1;
	}
	int status = serve_until_stopped(config, &process.plane, live, listen_fd, threads, &signals);
	acp_live_free(live);
	close_process(&process);
	return status;
}
