#include "delivery_worker.h"

#include "clock.h"
#include "crypto.h"
#include "log.h"
#include "outbox.h"
#include "thread.h"
#include "webhooks.h"

#include <pthread.h>

enum { TROUBLE_PAUSE_MS = 5000, OUTBOX_POLL_MS = 1000 };

/* The result of a round of work. */
enum step { WORKED, IDLE, TROUBLE };

/* One thread: does rounds of work, and waits when there is none. */
struct job {
	struct acp_delivery_worker *worker;
	enum step (*round)(const struct acp_delivery_worker *worker);
	int64_t poll_ms;
	pthread_t thread;
	bool running;
};

struct acp_delivery_worker {
	struct acp_kernel kernel; /* only config, plane and executor are set */
	pthread_mutex_t lock;
	pthread_cond_t stop;
	bool stopping;
	struct job webhooks, outbox;
};

/* Waits ms milliseconds, or until the worker is told to stop. False: stop. */
static bool pause_ms(struct acp_delivery_worker *worker, int64_t ms)
{
	struct timespec until = acp_monotonic_after((uint64_t)ms * 1000);
	pthread_mutex_lock(&worker->lock);
	while (!worker->stopping && pthread_cond_timedwait(&worker->stop, &worker->lock, &until) == 0)
		;
	bool go_on = !worker->stopping;
	pthread_mutex_unlock(&worker->lock);
	return go_on;
}

static enum step deliver(const struct acp_delivery_worker *worker)
{
	enum acp_webhooks_step step = acp_webhooks_deliver(worker->kernel.config, worker->kernel.plane);
	return step == ACP_WEBHOOKS_SENT ? WORKED : step == ACP_WEBHOOKS_IDLE ? IDLE : TROUBLE;
}

static enum step work_outbox(const struct acp_delivery_worker *worker)
{
	enum acp_outbox_step step = acp_outbox_work(&worker->kernel);
	return step == ACP_OUTBOX_TROUBLE ? TROUBLE : step == ACP_OUTBOX_IDLE ? IDLE : WORKED;
}

static void *work(void *arg)
{
	struct job *job = arg;
	uint32_t random;
	acp_thread_background();
	acp_random(&random, sizeof random);
	/* Processes that start together must not poll together. */
	bool go_on = pause_ms(job->worker, random % job->poll_ms);
	while (go_on) {
		enum step step = job->round(job->worker);
		go_on = pause_ms(job->worker, step == WORKED ? 0 : step == IDLE ? job->poll_ms : TROUBLE_PAUSE_MS);
	}
	return NULL;
}

static void start(struct acp_delivery_worker *worker, struct job *job, const char *what)
{
	job->worker = worker;
	job->running = pthread_create(&job->thread, NULL, work, job) == 0;
	if (!job->running)
		acp_log(ACP_LOG_ERROR, "%s by this process: no thread could be started", what);
}

struct acp_delivery_worker *acp_delivery_worker_start(const struct acp_config *config,
						      const struct acp_control_plane *plane,
						      const struct acp_executor *executor)
{
	struct acp_delivery_worker *worker = calloc(1, sizeof *worker);
	if (!worker) {
		acp_log(ACP_LOG_ERROR, "this process sends no webhooks and does not process the outbox: "
				       "out of memory");
		return NULL;
	}
	worker->kernel = (struct acp_kernel){.config = config, .plane = plane, .executor = executor};
	worker->webhooks = (struct job){.round = deliver, .poll_ms = config->webhook_poll_ms};
	worker->outbox = (struct job){.round = work_outbox, .poll_ms = OUTBOX_POLL_MS};
	pthread_mutex_init(&worker->lock, NULL);
	acp_monotonic_cond(&worker->stop);
	if (plane->webhooks.claim)
		start(worker, &worker->webhooks, "webhooks are not sent");
	if (acp_outbox_offered(&worker->kernel))
		start(worker, &worker->outbox, "the outbox is not processed");
	return worker;
}

void acp_delivery_worker_stop(struct acp_delivery_worker *worker)
{
	if (!worker)
		return;
	pthread_mutex_lock(&worker->lock);
	worker->stopping = true;
	pthread_cond_broadcast(&worker->stop);
	pthread_mutex_unlock(&worker->lock);
}

static bool join(struct job *job, const struct timespec *limit)
{
	return !job->running || pthread_timedjoin_np(job->thread, NULL, limit) == 0;
}

bool acp_delivery_worker_join(struct acp_delivery_worker *worker, const struct timespec *limit)
{
	if (!worker)
		return true;
	if (!join(&worker->webhooks, limit) || !join(&worker->outbox, limit))
		return false;
	pthread_cond_destroy(&worker->stop);
	pthread_mutex_destroy(&worker->lock);
	free(worker);
	return true;
}
