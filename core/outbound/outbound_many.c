#include "outbound_many.h"

#include "clock.h"
#include "outbound_parts.h"

#include <pthread.h>
#include <unistd.h>

enum { IDLE_MS = 60000, BUSY_MS = 1000 }; /* libcurl wakes earlier for its own timers, and when it is told to */

struct acp_outbound_transfer {
	struct acp_outbound_job *job;
	struct exchange exchange;
	CURL *curl;
	uint64_t start_us;
};

/* A queue of jobs. */
struct jobs {
	struct acp_outbound_job *first, **end;
};

struct acp_outbound_many {
	CURLM *multi; /* only the thread uses it, except to wake the thread */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct jobs fresh, ended;
	bool stopping, woken;
};

static void put(struct jobs *jobs, struct acp_outbound_job *job)
{
	job->next = NULL;
	*jobs->end = job;
	jobs->end = &job->next;
}

static struct acp_outbound_job *take(struct jobs *jobs)
{
	struct acp_outbound_job *job = jobs->first;
	if (!job)
		return NULL;
	jobs->first = job->next;
	if (!jobs->first)
		jobs->end = &jobs->first;
	return job;
}

static void job_ended(struct acp_outbound_many *many, struct acp_outbound_job *job, enum acp_outbound_result result)
{
	struct acp_outbound_transfer *transfer = job->transfer;
	job->result = result;
	job->took_us = transfer ? acp_monotonic_us() - transfer->start_us : 0;
	job->transfer = NULL;
	if (transfer)
		acp_exchange_release(&transfer->exchange);
	free(transfer);
	pthread_mutex_lock(&many->lock);
	put(&many->ended, job);
	pthread_cond_signal(&many->changed);
	pthread_mutex_unlock(&many->lock);
}

/* Starts the transfer of a job. False: it failed, and the job has ended. */
static bool open_transfer(struct acp_outbound_many *many, struct acp_outbound_job *job)
{
	struct acp_outbound_transfer *transfer = calloc(1, sizeof *transfer);
	job->transfer = transfer;
	if (!transfer) {
		snprintf(job->reply.error, sizeof job->reply.error, "out of memory");
		job_ended(many, job, ACP_OUTBOUND_FAILED);
		return false;
	}
	transfer->job = job;
	transfer->start_us = acp_monotonic_us();
	if (!acp_exchange_prepare(&transfer->exchange, &job->request, &job->reply)) {
		job_ended(many, job, ACP_OUTBOUND_REFUSED);
		return false;
	}
	transfer->curl = acp_exchange_open(&transfer->exchange);
	if (transfer->curl && curl_easy_setopt(transfer->curl, CURLOPT_PRIVATE, transfer) == CURLE_OK &&
	    curl_multi_add_handle(many->multi, transfer->curl) == CURLM_OK)
		return true;
	enum acp_outbound_result result = ACP_OUTBOUND_FAILED;
	if (transfer->curl)
		result = acp_exchange_close(&transfer->exchange, transfer->curl, CURLE_OUT_OF_MEMORY);
	job_ended(many, job, result);
	return false;
}

/* Starts the jobs that were handed over. False: the thread has to end. */
static bool open_fresh(struct acp_outbound_many *many)
{
	struct acp_outbound_job *job;
	pthread_mutex_lock(&many->lock);
	while ((job = take(&many->fresh))) {
		pthread_mutex_unlock(&many->lock);
		(void)!open_transfer(many, job);
		pthread_mutex_lock(&many->lock);
	}
	bool go_on = !many->stopping;
	pthread_mutex_unlock(&many->lock);
	return go_on;
}

static void close_ended(struct acp_outbound_many *many)
{
	int left;
	CURLMsg *message;
	while ((message = curl_multi_info_read(many->multi, &left))) {
		struct acp_outbound_transfer *transfer = NULL;
		CURL *curl = message->easy_handle;
		CURLcode code = message->data.result;
		if (message->msg != CURLMSG_DONE ||
		    curl_easy_getinfo(curl, CURLINFO_PRIVATE, (char **)&transfer) != CURLE_OK)
			continue;
		curl_multi_remove_handle(many->multi, curl);
		job_ended(many, transfer->job, acp_exchange_close(&transfer->exchange, curl, code));
	}
}

static void *transfer_all(void *arg)
{
	struct acp_outbound_many *many = arg;
	int running = 0;
	while (open_fresh(many)) {
		curl_multi_perform(many->multi, &running);
		close_ended(many);
		if (curl_multi_poll(many->multi, NULL, 0, running ? BUSY_MS : IDLE_MS, NULL) != CURLM_OK)
			usleep(10000); /* out of memory */
	}
	return NULL;
}

struct acp_outbound_many *acp_outbound_many_start(void)
{
	struct acp_outbound_many *many = acp_outbound_init() ? calloc(1, sizeof *many) : NULL;
	if (!many)
		return NULL;
	many->fresh.end = &many->fresh.first;
	many->ended.end = &many->ended.first;
	many->multi = curl_multi_init();
	pthread_mutex_init(&many->lock, NULL);
	acp_monotonic_cond(&many->changed);
	if (many->multi && pthread_create(&many->thread, NULL, transfer_all, many) == 0)
		return many;
	pthread_cond_destroy(&many->changed);
	pthread_mutex_destroy(&many->lock);
	if (many->multi)
		curl_multi_cleanup(many->multi);
	free(many);
	return NULL;
}

void acp_outbound_many_send(struct acp_outbound_many *many, struct acp_outbound_job *job)
{
	job->reply = (struct acp_outbound_reply){0};
	job->transfer = NULL;
	pthread_mutex_lock(&many->lock);
	put(&many->fresh, job);
	pthread_mutex_unlock(&many->lock);
	curl_multi_wakeup(many->multi);
}

struct acp_outbound_job *acp_outbound_many_wait(struct acp_outbound_many *many, int64_t ms)
{
	struct timespec until = acp_monotonic_after((uint64_t)(ms > 0 ? ms : 0) * 1000);
	pthread_mutex_lock(&many->lock);
	while (!many->ended.first && !many->woken && ms > 0 &&
	       pthread_cond_timedwait(&many->changed, &many->lock, &until) == 0)
		;
	struct acp_outbound_job *job = take(&many->ended);
	if (!job)
		many->woken = false;
	pthread_mutex_unlock(&many->lock);
	return job;
}

void acp_outbound_many_wake(struct acp_outbound_many *many)
{
	pthread_mutex_lock(&many->lock);
	many->woken = true;
	pthread_cond_signal(&many->changed);
	pthread_mutex_unlock(&many->lock);
}

void acp_outbound_many_stop(struct acp_outbound_many *many)
{
	if (!many)
		return;
	pthread_mutex_lock(&many->lock);
	many->stopping = true;
	pthread_mutex_unlock(&many->lock);
	curl_multi_wakeup(many->multi);
	pthread_join(many->thread, NULL);
	curl_multi_cleanup(many->multi);
	pthread_cond_destroy(&many->changed);
	pthread_mutex_destroy(&many->lock);
	free(many);
}
