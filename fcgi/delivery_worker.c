#include "delivery_worker.h"

#include "clock.h"
#include "crypto.h"
#include "log.h"
#include "outbox.h"
#include "thread.h"
#include "webhook_sender.h"

#include <pthread.h>

enum { TROUBLE_PAUSE_MS = 5000, OUTBOX_POLL_MS = 1000 };

/* One thread. */
struct job {
	pthread_t thread;
	bool running;
};

struct acp_delivery_worker {
	struct acp_kernel kernel; /* only config, plane and executor are set */
	pthread_mutex_t lock;
	pthread_cond_t stop;
	bool stopping;
	struct acp_webhook_sender *sender; /* NULL: webhooks are not sent */
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

/* Processes that start together must not poll together. False: stop. */
static bool begin(struct acp_delivery_worker *worker, int64_t poll_ms)
{
	uint32_t random;
	acp_thread_background();
	acp_random(&random, sizeof random);
	return pause_ms(worker, random % poll_ms);
}

static void *send_webhooks(void *arg)
{
	struct acp_delivery_worker *worker = arg;
	bool go_on = begin(worker, worker->kernel.config->webhook_poll_ms);
	while (go_on)
		go_on = acp_webhook_sender_round(worker->sender);
	return NULL;
}

static void *work_on_outbox(void *arg)
{
	struct acp_delivery_worker *worker = arg;
	bool go_on = begin(worker, OUTBOX_POLL_MS);
	while (go_on) {
		enum acp_outbox_step step = acp_outbox_work(&worker->kernel);
		go_on = pause_ms(worker, step == ACP_OUTBOX_TROUBLE ? TROUBLE_PAUSE_MS
					 : step == ACP_OUTBOX_IDLE  ? OUTBOX_POLL_MS
								    : 0);
	}
	return NULL;
}

static void start(struct acp_delivery_worker *worker, struct job *job, void *(*work)(void *), const char *what)
{
	job->running = pthread_create(&job->thread, NULL, work, worker) == 0;
	if (!job->running)
		acp_log(ACP_LOG_ERROR, "%s by this process: no thread could be started", what);
}

static void start_sender(struct acp_delivery_worker *worker)
{
	worker->sender = acp_webhook_sender_start(worker->kernel.config, worker->kernel.plane);
	if (worker->sender)
		start(worker, &worker->webhooks, send_webhooks, "webhooks are not sent");
	else
		acp_log(ACP_LOG_ERROR, "webhooks are not sent by this process: out of memory or threads");
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
	pthread_mutex_init(&worker->lock, NULL);
	acp_monotonic_cond(&worker->stop);
	if (plane->webhooks.claim)
		start_sender(worker);
	if (acp_outbox_offered(&worker->kernel))
		start(worker, &worker->outbox, work_on_outbox, "the outbox is not processed");
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
	if (worker->sender)
		acp_webhook_sender_stop(worker->sender);
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
	acp_webhook_sender_end(worker->sender);
	pthread_cond_destroy(&worker->stop);
	pthread_mutex_destroy(&worker->lock);
	free(worker);
	return true;
}
