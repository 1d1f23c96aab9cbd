/* worker.c - threads that each take a connection, serve it whole, and take the next.
 *
 * Every thread waits in its own epoll set for the listening socket (EPOLLEXCLUSIVE: the kernel wakes one) and for an
 * eventfd that says stop. Signals are blocked in all threads; the main thread takes them with sigtimedwait(), so no
 * system call of a request is ever interrupted. */
#include "worker.h"

#include "exchange.h"
#include "hub.h"
#include "log.h"
#include "openapi.h"
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
	const struct acp_kernel *kernel;
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
		acp_exchange_serve(exchange, connection);
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
	struct acp_exchange *exchange = acp_exchange_new(worker->kernel);
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

static void reopen_log(const struct acp_config *config)
{
	if (!acp_log_open(config->log_format, config->log_level, config->log_file))
		acp_log(ACP_LOG_ERROR, "log_file = %s: %s; still writing to the old one", config->log_file,
			strerror(errno));
}

/* Takes signals, and does the upkeep between them, until told to stop. */
static void wait_for_stop(const struct acp_kernel *kernel, const sigset_t *signals)
{
	const struct acp_control_plane *plane = kernel->plane;
	const struct timespec period = {.tv_sec = MAINTAIN_EVERY};
	for (;;) {
		if (plane->maintain)
			plane->maintain(plane->self);
		int got = sigtimedwait(signals, NULL, &period);
		if (got == SIGHUP)
			reopen_log(kernel->config);
		else if (got > 0)
			return;
	}
}

/* Waits for the threads until the time limit; false: some are still busy. */
static bool join_all(pthread_t *threads, int count, int64_t seconds)
{
	struct timespec limit;
	bool all = true;
	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += (time_t)seconds;
	for (int i = 0; i < count; i++)
		all = pthread_timedjoin_np(threads[i], NULL, &limit) == 0 && all;
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

static int serve_until_stopped(const struct acp_kernel *kernel, int listen_fd, int count, const sigset_t *signals)
{
	struct worker worker = {kernel, listen_fd, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
	pthread_t *threads = calloc((size_t)count, sizeof *threads);
	if (!threads || worker.stop_fd < 0 || start_threads(&worker, threads, count) < count) {
		acp_log(ACP_LOG_ERROR, "workers = %d: not enough memory or threads", count);
		exit(1);
	}
	wait_for_stop(kernel, signals);
	const uint64_t one = 1;
	if (write(worker.stop_fd, &one, sizeof one) < 0)
		acp_log(ACP_LOG_ERROR, "stop: %s", strerror(errno));
	if (!join_all(threads, count, kernel->config->shutdown_timeout)) {
		acp_log(ACP_LOG_WARNING,
			"requests were still running after shutdown_timeout = %lld s; they are cut off",
			(long long)kernel->config->shutdown_timeout);
		_exit(1); /* their memory is in use: nothing can be released in order */
	}
	close(worker.stop_fd);
	free(threads);
	return 0;
}

/* The installation's table of rate limits; its name follows from the pepper, so that two installations of one user on
 * one host do not share it, and tells nothing of it. */
static bool open_limits(struct acp_kernel *kernel, char *why, size_t why_size)
{
	static const char purpose[] = "acp-fcgi rate limit zone v1";
	const char *pepper = kernel->config->key_pepper;
	uint8_t mac[ACP_SHA256_LEN];
	char zone[17];
	if (!kernel->config->rate_limits)
		return true;
	acp_hmac_sha256(pepper, strlen(pepper), purpose, sizeof purpose - 1, mac);
	acp_hex(mac, 8, zone);
	kernel->limits = acp_ratelimit_open(zone, why, why_size);
	return kernel->limits != NULL;
}

/* The hub for other kernels, where a key for them is set. */
static bool open_hub(struct acp_kernel *kernel, char *why, size_t why_size)
{
	if (!*kernel->config->kernel_key)
		return true;
	kernel->hub = acp_hub_new(why, why_size);
	return kernel->hub != NULL;
}

/* The control plane: over the database, and where hub_url is set, over a remote hub before it. */
struct planes {
	struct acp_pg_plane *pg;
	struct acp_remote_plane *remote;
	struct acp_control_plane local, plane;
};

static bool open_planes(struct planes *planes, const struct acp_config *config, char *why, size_t why_size)
{
	snprintf(why, why_size, "not enough memory or threads, or libfcgi or libcurl cannot be used");
	planes->pg = acp_pg_plane_new(config, &planes->local);
	if (!planes->pg || !acp_exchange_init() || !acp_outbound_init())
		return false;
	planes->plane = planes->local;
	if (*config->hub_url)
		planes->remote = acp_remote_plane_new(config, &planes->local, &planes->plane);
	return !*config->hub_url || planes->remote;
}

int acp_worker_run(const struct acp_config *config, int listen_fd, int threads)
{
	char why[512];
	sigset_t signals;
	struct acp_kernel kernel;
	struct planes planes = {0};
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGUSR1);
	sigaddset(&signals, SIGHUP);
	if (!open_planes(&planes, config, why, sizeof why) ||
	    !acp_kernel_init(&kernel, config, &planes.plane, acp_builtin_packs, why, sizeof why)) {
		acp_log(ACP_LOG_ERROR, "start: %s", why);
		return 1;
	}
	if (!open_limits(&kernel, why, sizeof why) || !open_hub(&kernel, why, sizeof why)) {
		acp_log(ACP_LOG_ERROR, "start: %s", why);
		return 1;
	}
	kernel.openapi = acp_openapi_text(&kernel);
	int status = serve_until_stopped(&kernel, listen_fd, threads, &signals);
	acp_ratelimit_close(kernel.limits);
	acp_hub_free(kernel.hub);
	acp_kernel_release(&kernel);
	acp_remote_plane_free(planes.remote);
	acp_pg_plane_free(planes.pg);
	return status;
}
