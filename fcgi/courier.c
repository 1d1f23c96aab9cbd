#include "courier.h"

#include "crypto.h"
#include "log.h"
#include "webhooks.h"

#include <pthread.h>

enum { TROUBLE_PAUSE_MS = 5000 };

struct acp_courier {
	const struct acp_config *config;
	const struct acp_control_plane *plane;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t stop;
	bool stopping;
};

/* Waits so long, or until told to stop. False: stop. */
static bool pause_ms(struct acp_courier *courier, int64_t ms)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += ms / 1000;
	until.tv_nsec += (long)(ms % 1000) * 1000000L;
	if (until.tv_nsec >= 1000000000L) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000L;
	}
	pthread_mutex_lock(&courier->lock);
	while (!courier->stopping && pthread_cond_timedwait(&courier->stop, &courier->lock, &until) == 0)
		;
	bool go_on = !courier->stopping;
	pthread_mutex_unlock(&courier->lock);
	return go_on;
}

static void *work(void *arg)
{
	struct acp_courier *courier = arg;
	int64_t poll_ms = courier->config->webhook_poll_ms;
	uint32_t random;
	acp_random(&random, sizeof random);
	/* Processes that start together shall not ask together. */
	bool go_on = pause_ms(courier, random % poll_ms);
	while (go_on) {
		enum acp_webhooks_step step = acp_webhooks_deliver(courier->config, courier->plane);
		go_on = pause_ms(courier, step == ACP_WEBHOOKS_SENT   ? 0
					  : step == ACP_WEBHOOKS_IDLE ? poll_ms
								      : TROUBLE_PAUSE_MS);
	}
	return NULL;
}

static void init_sync(struct acp_courier *courier)
{
	pthread_condattr_t attr;
	pthread_mutex_init(&courier->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&courier->stop, &attr);
	pthread_condattr_destroy(&attr);
}

struct acp_courier *acp_courier_start(const struct acp_config *config, const struct acp_control_plane *plane)
{
	if (!plane->deliveries_take)
		return NULL;
	struct acp_courier *courier = calloc(1, sizeof *courier);
	if (!courier) {
		acp_log(ACP_LOG_ERROR, "webhooks are not sent by this process: out of memory");
		return NULL;
	}
	courier->config = config;
	courier->plane = plane;
	init_sync(courier);
	if (pthread_create(&courier->thread, NULL, work, courier) == 0)
		return courier;
	acp_log(ACP_LOG_ERROR, "webhooks are not sent by this process: no thread could be started");
	free(courier);
	return NULL;
}

void acp_courier_stop(struct acp_courier *courier)
{
	if (!courier)
		return;
	pthread_mutex_lock(&courier->lock);
	courier->stopping = true;
	pthread_cond_signal(&courier->stop);
	pthread_mutex_unlock(&courier->lock);
}

bool acp_courier_join(struct acp_courier *courier, const struct timespec *limit)
{
	if (!courier)
		return true;
	if (pthread_timedjoin_np(courier->thread, NULL, limit) != 0)
		return false;
	pthread_cond_destroy(&courier->stop);
	pthread_mutex_destroy(&courier->lock);
	free(courier);
	return true;
}
