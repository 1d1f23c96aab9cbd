#include "courier.h"

#include "clock.h"
#include "crypto.h"
#include "log.h"
#include "outbox.h"
#include "thread.h"
#include "webhooks.h"

#include <pthread.h>

enum { TROUBLE_PAUSE_MS = 5000, OUTBOX_POLL_MS = 1000 };

/* What a round of work came to. */
enum step { WORKED, IDLE, TROUBLE };

/* One thread: does a round of work, and waits where there was none. */
struct errand {
	struct acp_courier *courier;
	enum step (*round)(const struct acp_courier *courier);
	int64_t poll_ms;
	pthread_t thread;
	bool running;
};

struct acp_courier {
	struct acp_kernel kernel; /* of which only config, plane and executor are there */
	pthread_mutex_t lock;
	pthread_cond_t stop;
	bool stopping;
	struct errand webhooks, outbox;
};

/* Waits so long, or until told to stop. False: stop. */
static bool pause_ms(struct acp_courier *courier, int64_t ms)
{
	struct timespec until = acp_monotonic_after((uint64_t)ms * 1000);
	pthread_mutex_lock(&courier->lock);
	while (!courier->stopping && pthread_cond_timedwait(&courier->stop, &courier->lock, &until) == 0)
		;
	bool go_on = !courier->stopping;
	pthread_mutex_unlock(&courier->lock);
	return go_on;
}

static enum step deliver(const struct acp_courier *courier)
{
	enum acp_webhooks_step step = acp_webhooks_deliver(courier->kernel.config, courier->kernel.plane);
	return step == ACP_WEBHOOKS_SENT ? WORKED : step == ACP_WEBHOOKS_IDLE ? IDLE : TROUBLE;
}

static enum step work_outbox(const struct acp_courier *courier)
{
	enum acp_outbox_step step = acp_outbox_work(&courier->kernel);
	return step == ACP_OUTBOX_TROUBLE ? TROUBLE : step == ACP_OUTBOX_IDLE ? IDLE : WORKED;
}

static void *work(void *arg)
{
	struct errand *errand = arg;
	uint32_t random;
	acp_thread_background();
	acp_random(&random, sizeof random);
	/* Processes that start together shall not ask together. */
	bool go_on = pause_ms(errand->courier, random % errand->poll_ms);
	while (go_on) {
		enum step step = errand->round(errand->courier);
		go_on = pause_ms(errand->courier, step == WORKED ? 0
						  : step == IDLE ? errand->poll_ms
								 : TROUBLE_PAUSE_MS);
	}
	return NULL;
}

static void start(struct acp_courier *courier, struct errand *errand, const char *what)
{
	errand->courier = courier;
	errand->running = pthread_create(&errand->thread, NULL, work, errand) == 0;
	if (!errand->running)
		acp_log(ACP_LOG_ERROR, "%s by this process: no thread could be started", what);
}

struct acp_courier *acp_courier_start(const struct acp_config *config, const struct acp_control_plane *plane,
				      const struct acp_executor *executor)
{
	struct acp_courier *courier = calloc(1, sizeof *courier);
	if (!courier) {
		acp_log(ACP_LOG_ERROR, "no webhooks are sent, and no outbox is worked off, by this process: "
				       "out of memory");
		return NULL;
	}
	courier->kernel = (struct acp_kernel){.config = config, .plane = plane, .executor = executor};
	courier->webhooks = (struct errand){.round = deliver, .poll_ms = config->webhook_poll_ms};
	courier->outbox = (struct errand){.round = work_outbox, .poll_ms = OUTBOX_POLL_MS};
	pthread_mutex_init(&courier->lock, NULL);
	acp_monotonic_cond(&courier->stop);
	if (plane->webhooks.claim)
		start(courier, &courier->webhooks, "webhooks are not sent");
	if (acp_outbox_offered(&courier->kernel))
		start(courier, &courier->outbox, "the outbox is not worked off");
	return courier;
}

void acp_courier_stop(struct acp_courier *courier)
{
	if (!courier)
		return;
	pthread_mutex_lock(&courier->lock);
	courier->stopping = true;
	pthread_cond_broadcast(&courier->stop);
	pthread_mutex_unlock(&courier->lock);
}

static bool join(struct errand *errand, const struct timespec *limit)
{
	return !errand->running || pthread_timedjoin_np(errand->thread, NULL, limit) == 0;
}

bool acp_courier_join(struct acp_courier *courier, const struct timespec *limit)
{
	if (!courier)
		return true;
	if (!join(&courier->webhooks, limit) || !join(&courier->outbox, limit))
		return false;
	pthread_cond_destroy(&courier->stop);
	pthread_mutex_destroy(&courier->lock);
	free(courier);
	return true;
}
