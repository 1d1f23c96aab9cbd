/* worker.c - threads that each accept a connection, serve it, and accept the next.
 *
 * Each thread has its own epoll set, and waits in it for the listening socket (EPOLLEXCLUSIVE: the kernel wakes one
 * thread) and for an eventfd that signals the stop. While connections are queued, a thread accepts several in a row
 * without calling epoll. While a thread waits long (for a commit, an upstream, a connection), a spare thread replaces
 * it, so that other requests are served. If all threads are busy for some time with anything else, the watch starts
 * spare threads too. Signals are blocked in all threads; the main thread receives them with sigtimedwait(), so that no
 * system call of a request is ever interrupted. */
#include "worker.h"

#include "clock.h"
#include "delivery_worker.h"
#include "endpoints.h"
#include "exchange.h"
#include "executor_open.h"
#include "hub.h"
#include "live.h"
#include "log.h"
#include "outbound.h"
#include "pg_plane.h"
#include "remote_plane.h"
#include "subkey.h"
#include "thread.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef EPOLLEXCLUSIVE
#define EPOLLEXCLUSIVE 0
#endif

enum { MAINTAIN_EVERY = 600 }; /* seconds; shorter if the audit log is sealed more often */

struct worker {
	const struct acp_config *config;
	struct acp_live *live;
	int listen_fd;
	int stop_fd;          /* readable once the process must stop */
	pthread_mutex_t lock; /* protects the members below */
	pthread_cond_t left;
	struct slot *free;
	int slots, most, taken;
	int waiting; /* threads that wait for a slot */
	int blocked; /* threads that wait for something slow */
	int spares;  /* extra threads that replace blocked ones */
	int wanted;  /* spare threads that the watch wants besides */
	bool watch_ends;
	pthread_cond_t watched;   /* signals that the watch must look or end */
	atomic_bool watch_sleeps; /* the watch waits until no thread is idle */
	atomic_int idle;          /* threads that wait for a connection */
	atomic_uint served;       /* connections taken so far */
	struct acp_thread_owner owner;
};

/* A request holds a slot from arrival to end. It has a thread for a shorter time if another thread stores its
 * result. */
struct slot {
	struct worker *worker;
	struct acp_exchange *exchange;
	struct acp_kernel_ref *ref;
	struct slot *next;
};

enum { SLOTS_PER_THREAD = 16, SPARE_MS = 1000, WATCH_MS = 20, STACK = 512 * 1024 };

static struct slot *new_slot(struct worker *worker)
{
	struct slot *slot = calloc(1, sizeof *slot);
	if (!slot || !(slot->exchange = acp_exchange_new(worker->config))) {
		free(slot);
		return NULL;
	}
	slot->worker = worker;
	worker->slots++;
	return slot;
}

/* Waits while all slots are taken. */
static struct slot *acquire_slot(struct worker *worker)
{
	struct slot *slot = NULL;
	pthread_mutex_lock(&worker->lock);
	while (!worker->free && !(worker->slots < worker->most && (slot = new_slot(worker)))) {
		worker->waiting++;
		pthread_cond_wait(&worker->left, &worker->lock);
		worker->waiting--;
	}
	if (!slot) {
		slot = worker->free;
		worker->free = slot->next;
	}
	worker->taken++;
	pthread_mutex_unlock(&worker->lock);
	return slot;
}

static void release_slot(void *arg)
{
	struct slot *slot = arg;
	struct worker *worker = slot->worker;
	acp_live_release(worker->live, slot->ref);
	pthread_mutex_lock(&worker->lock);
	slot->next = worker->free;
	worker->free = slot;
	worker->taken--;
	if (worker->waiting || worker->taken == 0)
		pthread_cond_broadcast(&worker->left);
	pthread_mutex_unlock(&worker->lock);
}

/* Creates the first slots, so that some always exist. */
static bool make_slots(struct worker *worker, int count)
{
	struct slot *slot = NULL;
	for (int i = 0; i < count && (slot = new_slot(worker)); i++) {
		slot->next = worker->free;
		worker->free = slot;
	}
	return slot;
}

static void free_slots(struct worker *worker)
{
	while (worker->free) {
		struct slot *slot = worker->free;
		worker->free = slot->next;
		acp_exchange_free(slot->exchange);
		free(slot);
	}
}

/* Waits until no request is running and no spare thread is left. False: the time limit was reached first. */
static bool wait_for_slots(struct worker *worker, const struct timespec *limit)
{
	bool in_time = true;
	pthread_mutex_lock(&worker->lock);
	while ((worker->taken || worker->spares) && in_time)
		in_time = pthread_cond_timedwait(&worker->left, &worker->lock, limit) == 0;
	bool empty = !worker->taken && !worker->spares;
	pthread_mutex_unlock(&worker->lock);
	return empty;
}

static bool watch(int epoll, int fd, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.fd = fd};
	return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

static void wake_watch(struct worker *worker)
{
	pthread_mutex_lock(&worker->lock);
	pthread_cond_signal(&worker->watched);
	pthread_mutex_unlock(&worker->lock);
}

/* Waits at most ms milliseconds (-1: forever) for a connection or the stop signal. False: stop. */
static bool wait_for_work(int epoll, struct worker *worker, int ms)
{
	struct epoll_event events[2];
	atomic_fetch_add(&worker->idle, 1);
	int count = epoll_wait(epoll, events, 2, ms);
	if (atomic_fetch_sub(&worker->idle, 1) == 1 && atomic_load(&worker->watch_sleeps))
		wake_watch(worker);
	for (int i = 0; i < count; i++)
		if (events[i].data.fd == worker->stop_fd)
			return false;
	return true;
}

/* Serves one queued connection. False: none was queued (another thread or process took it). */
static bool serve_one(struct worker *worker)
{
	int connection = accept4(worker->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	if (connection >= 0) {
		atomic_fetch_add(&worker->served, 1);
		struct slot *slot = acquire_slot(worker);
		const struct acp_kernel *kernel = acp_live_acquire(worker->live, &slot->ref);
		acp_exchange_serve(slot->exchange, kernel, connection, release_slot, slot);
		return true;
	}
	if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
		const struct timespec pause = {.tv_nsec = 20 * 1000000L};
		acp_log(ACP_LOG_WARNING, "accept: %s", strerror(errno));
		nanosleep(&pause, NULL); /* the connection stays in the queue */
	}
	return false;
}

/* Serves at most limit queued connections: a steady stream must not keep a thread from noticing the stop signal. */
static void serve_queued(struct worker *worker, int limit)
{
	for (int i = 0; i < limit && serve_one(worker); i++)
		;
}

/* Creates the epoll set of a thread. Returns -1 with errno on failure. */
static int open_epoll(const struct worker *worker)
{
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	if (epoll >= 0 && watch(epoll, worker->stop_fd, EPOLLIN) &&
	    (watch(epoll, worker->listen_fd, EPOLLIN | EPOLLEXCLUSIVE) || watch(epoll, worker->listen_fd, EPOLLIN)))
		return epoll;
	if (epoll >= 0)
		close(epoll);
	return -1;
}

static void *serve(void *arg)
{
	struct worker *worker = arg;
	int epoll = open_epoll(worker);
	if (epoll < 0) {
		acp_log(ACP_LOG_ERROR, "a thread could not start: %s", strerror(errno));
		exit(1);
	}
	acp_thread_own(&worker->owner);
	while (wait_for_work(epoll, worker, -1))
		serve_queued(worker, 16);
	/* Serve the connections that were queued before the stop. */
	serve_queued(worker, 64);
	close(epoll);
	return NULL;
}

/* True if this spare thread should continue, because other threads are blocked or busy. Otherwise it is no longer
 * counted. */
static bool should_continue(struct worker *worker, bool good)
{
	pthread_mutex_lock(&worker->lock);
	bool wanted = good && worker->spares <= worker->blocked + worker->wanted;
	worker->spares -= !wanted;
	if (!wanted)
		pthread_cond_broadcast(&worker->left);
	pthread_mutex_unlock(&worker->lock);
	return wanted;
}

static void *serve_as_spare(void *arg)
{
	struct worker *worker = arg;
	int epoll = open_epoll(worker);
	bool good = epoll >= 0;
	acp_thread_own(&worker->owner);
	while (should_continue(worker, good))
		if ((good = wait_for_work(epoll, worker, SPARE_MS)))
			serve_one(worker);
	if (epoll >= 0)
		close(epoll);
	return NULL;
}

/* If no thread can be started, the existing ones must suffice. */
static bool start_spare(struct worker *worker)
{
	pthread_t thread;
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	bool started = pthread_create(&thread, &attr, serve_as_spare, worker) == 0;
	pthread_attr_destroy(&attr);
	return started;
}

static void thread_blocks(void *arg)
{
	struct worker *worker = arg;
	pthread_mutex_lock(&worker->lock);
	if (++worker->blocked > worker->spares && worker->spares < worker->most)
		worker->spares += start_spare(worker);
	pthread_mutex_unlock(&worker->lock);
}

static void thread_goes_on(void *arg)
{
	struct worker *worker = arg;
	pthread_mutex_lock(&worker->lock);
	worker->blocked--;
	pthread_mutex_unlock(&worker->lock);
}

/* The watch ------------------------------------------------------------------------------------------------------- */

/* True if a connection is queued that no thread takes. */
static bool nobody_serves(const struct worker *worker, unsigned served_before)
{
	struct pollfd queue = {worker->listen_fd, POLLIN, 0};
	return atomic_load(&worker->idle) == 0 && atomic_load(&worker->served) == served_before &&
	       poll(&queue, 1, 0) > 0;
}

static void want_spare(struct worker *worker)
{
	pthread_mutex_lock(&worker->lock);
	if (worker->spares < worker->most && start_spare(worker)) {
		worker->spares++;
		worker->wanted++;
	}
	pthread_mutex_unlock(&worker->lock);
}

/* Waits until no thread is idle. If some are for SPARE_MS, no spare threads are wanted any more. False: the watch must
 * end. */
static bool wait_until_busy(struct worker *worker)
{
	const struct timespec calm = acp_monotonic_after(SPARE_MS * UINT64_C(1000));
	pthread_mutex_lock(&worker->lock);
	atomic_store(&worker->watch_sleeps, true);
	while (!worker->watch_ends && atomic_load(&worker->idle) > 0) {
		if (!worker->wanted)
			pthread_cond_wait(&worker->watched, &worker->lock);
		else if (pthread_cond_timedwait(&worker->watched, &worker->lock, &calm) == ETIMEDOUT)
			worker->wanted = 0;
	}
	atomic_store(&worker->watch_sleeps, false);
	bool goes_on = !worker->watch_ends;
	pthread_mutex_unlock(&worker->lock);
	return goes_on;
}

/* Starts a spare thread whenever all threads are busy and took no connection for WATCH_MS although one is queued. */
static void *watch_queue(void *arg)
{
	struct worker *worker = arg;
	const struct timespec pause = {.tv_nsec = WATCH_MS * 1000000L};
	while (wait_until_busy(worker)) {
		unsigned served = atomic_load(&worker->served);
		nanosleep(&pause, NULL);
		if (nobody_serves(worker, served))
			want_spare(worker);
	}
	return NULL;
}

static void end_watch(struct worker *worker, pthread_t watch)
{
	pthread_mutex_lock(&worker->lock);
	worker->watch_ends = true;
	pthread_cond_signal(&worker->watched);
	pthread_mutex_unlock(&worker->lock);
	pthread_join(watch, NULL);
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
		acp_log(ACP_LOG_INFO, "actions reloaded");
}

/* Receives signals, and does the upkeep in between, until a signal to stop arrives. */
static void wait_for_stop(const struct worker *worker, const struct acp_control_plane *plane, const sigset_t *signals)
{
	const struct timespec second = {.tv_sec = 1};
	int64_t sealing = worker->config->audit_seal_interval;
	int64_t period = sealing && sealing < MAINTAIN_EVERY ? sealing : MAINTAIN_EVERY;
	acp_thread_background();
	for (int64_t seconds = 0;; seconds++) {
		if (plane->upkeep.catch_up)
			plane->upkeep.catch_up(plane->self);
		if (plane->upkeep.maintain && seconds % period == 0)
			plane->upkeep.maintain(plane->self);
		int got = sigtimedwait(signals, NULL, &second);
		if (got == SIGHUP)
			reload(worker->config, worker->live);
		else if (got > 0)
			return;
	}
}

/* Waits for the threads until the time limit. False: some are still busy. */
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
	pthread_attr_setstacksize(&attr, STACK);
	while (started < count && pthread_create(&threads[started], &attr, serve, worker) == 0)
		started++;
	pthread_attr_destroy(&attr);
	return started;
}

/* Seconds after the last request in which running deliveries and executions may end. Receivers that are slow must not
 * delay the start of the next process; what is cut off is repeated when its lease ends. */
enum { DELIVERIES_S = 3 };

/* Lets running requests finish, for at most shutdown_timeout seconds. Requests that are cut off still use their memory,
 * so nothing can be released, and the process exits here. */
static void stop_all(struct worker *worker, struct acp_delivery_worker *deliveries, pthread_t *threads, int count)
{
	const uint64_t one = 1;
	int64_t seconds = worker->config->shutdown_timeout;
	struct timespec limit;
	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += (time_t)seconds;
	/* Queued connections can still be accepted; new ones are refused. */
	if (worker->config->close_on_stop)
		shutdown(worker->listen_fd, SHUT_RD);
	if (write(worker->stop_fd, &one, sizeof one) < 0)
		acp_log(ACP_LOG_ERROR, "stop: %s", strerror(errno));
	acp_delivery_worker_stop(deliveries);
	if (!join_all(threads, count, &limit) || !wait_for_slots(worker, &limit)) {
		acp_log(ACP_LOG_WARNING,
			"requests were still running after shutdown_timeout = %lld s; they are cut off",
			(long long)seconds);
		_exit(1);
	}
	struct timespec soon;
	clock_gettime(CLOCK_REALTIME, &soon);
	soon.tv_sec += DELIVERIES_S;
	if (!acp_delivery_worker_join(deliveries, soon.tv_sec < limit.tv_sec ? &soon : &limit)) {
		acp_log(ACP_LOG_INFO,
			"a webhook delivery or an execution had not ended a moment after the last request; it is cut "
			"off, and will be tried again");
		_exit(0);
	}
}

static int serve_until_stopped(const struct acp_config *config, const struct acp_control_plane *plane,
			       struct acp_live *live, int listen_fd, int count, const sigset_t *signals)
{
	struct worker worker = {.config = config,
				.live = live,
				.listen_fd = listen_fd,
				.stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
				.lock = PTHREAD_MUTEX_INITIALIZER,
				.left = PTHREAD_COND_INITIALIZER,
				.most = count * SLOTS_PER_THREAD};
	pthread_t watch;
	acp_monotonic_cond(&worker.watched);
	worker.owner = (struct acp_thread_owner){thread_blocks, thread_goes_on, &worker};
	pthread_t *threads = calloc((size_t)count, sizeof *threads);
	if (!threads || worker.stop_fd < 0 || !make_slots(&worker, count) ||
	    start_threads(&worker, threads, count) < count || pthread_create(&watch, NULL, watch_queue, &worker) != 0) {
		acp_log(ACP_LOG_ERROR, "workers = %d: not enough memory or threads", count);
		exit(1);
	}
	struct acp_kernel_ref *ref;
	const struct acp_executor *executor = acp_live_acquire(live, &ref)->executor;
	acp_live_release(live, ref);
	struct acp_delivery_worker *deliveries = acp_delivery_worker_start(config, plane, executor);
	wait_for_stop(&worker, plane, signals);
	end_watch(&worker, watch);
	stop_all(&worker, deliveries, threads, count);
	close(worker.stop_fd);
	free_slots(&worker);
	free(threads);
	return 0;
}

/* Derives the name of the shared memory of this installation's processes from the pepper, so that two installations of
 * one user on one host do not share it. The name does not reveal the pepper. */
static void zone_name(const struct acp_config *config, char zone[17])
{
	uint8_t mac[ACP_SHA256_LEN];
	acp_subkey(config->key_pepper, ACP_FOR_SHARED_MEMORY, "", 0, mac);
	acp_hex(mac, 8, zone);
}

/* Everything in a process except its kernel: the control plane over the database (behind a remote hub if hub_url is
 * set), the table of rate limits, the executor from the settings, and the hub for other kernels if a key for them is
 * set. */
struct process {
	struct acp_shared_counter *changes;
	struct acp_pg_plane *pg;
	struct acp_remote_plane *remote;
	struct acp_control_plane local, plane;
	struct acp_executor *executor;
	struct acp_live_parts parts;
};

static bool open_process(struct process *process, const struct acp_config *config, int threads, char *why,
			 size_t why_size)
{
	char zone[17];
	zone_name(config, zone);
	if (config->rate_limits && !(process->parts.limits = acp_ratelimit_open(zone, why, why_size)))
		return false;
	if (!(process->parts.shares = acp_shares_open(zone, why, why_size)))
		return false;
	if (strcmp(config->metrics, "off") != 0 &&
	    !(process->parts.metrics = acp_metrics_open(zone, acp_paths_names(), threads, why, why_size)))
		return false;
	if (!(process->changes = acp_shared_counter_open(zone, why, why_size)))
		return false;
	snprintf(why, why_size, "not enough memory or threads, or libfcgi or libcurl cannot be used");
	process->pg = acp_pg_plane_new(config, process->changes, &process->local);
	if (!process->pg || !acp_exchange_init() || !acp_outbound_init())
		return false;
	process->plane = process->local;
	if (*config->hub_url)
		process->remote = acp_remote_plane_new(config, &process->local, &process->plane);
	if (*config->hub_url && !process->remote)
		return false;
	if (!acp_executor_open(config, &process->plane, &process->executor, why, why_size))
		return false;
	process->parts.executor = process->executor;
	return !*config->kernel_key || (process->parts.hub = acp_hub_new(why, why_size));
}

static void close_process(struct process *process)
{
	acp_ratelimit_close(process->parts.limits);
	acp_shares_close(process->parts.shares);
	acp_metrics_close(process->parts.metrics);
	acp_hub_free(process->parts.hub);
	acp_executor_close(process->executor);
	acp_remote_plane_free(process->remote);
	acp_pg_plane_free(process->pg);
	acp_shared_counter_close(process->changes);
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
	if (open_process(&process, config, threads, why, sizeof why))
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
