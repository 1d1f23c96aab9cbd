#include "metrics.h"

#include "process.h"
#include "shm.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

enum {
	STRIPES = 8,
	ACTIONS = 256, /* the first one counts all actions for which no slot is left */
	ACTION_NAME = 120,
	PROCESSES = 1024,
	STATUSES = 24,
	BUCKETS = 14, /* the last one has no upper bound */
	OUTCOMES = 4,
};

static const uint64_t bounds_us[BUCKETS - 1] = {1000,   2500,   5000,    10000,   25000,   50000,   100000,
						250000, 500000, 1000000, 2500000, 5000000, 10000000};
static const char *const bound_names[BUCKETS] = {"0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1",
						 "0.25",  "0.5",    "1",     "2.5",  "5",     "10",   "+Inf"};
/* All other statuses are counted under the last entry. */
static const int statuses[STATUSES] = {200, 201, 202, 204, 303, 304, 400, 401, 402, 403, 404, 405,
				       409, 411, 413, 415, 422, 429, 500, 501, 502, 503, 504, 0};
static const char *const outcome_names[OUTCOMES] = {"success", "replay", "denied", "error"};

typedef atomic_uint_fast64_t number;

/* Threads add to different stripes, so that they do not contend for cache lines. */
struct stripe {
	number requests[ACP_METRICS_ENDPOINTS][STATUSES];
	number within[ACP_METRICS_ENDPOINTS][BUCKETS]; /* not cumulative */
	number took_us[ACP_METRICS_ENDPOINTS];
	number errors[ACP_CODE_COUNT];
	number calls[ACTIONS][OUTCOMES];
};

enum { EMPTY, CLAIMED, NAMED };

/* A process that dies between claiming and naming leaves an unused slot. There are enough slots. */
struct name {
	atomic_int state;
	char text[ACTION_NAME];
};

/* A live process, or a dead one that has not been removed yet. */
struct process {
	atomic_int pid;   /* 0: free */
	uint64_t started; /* in ticks after the host's start: distinguishes processes with the same pid */
	uint64_t ticks;   /* of processor time, when last read */
	number serving;
	int workers;
};

struct registry {
	pthread_mutex_t lock; /* protects processes and gone_ticks; robust */
	atomic_int made;
	struct stripe stripes[STRIPES];
	struct name actions[ACTIONS];
	struct process processes[PROCESSES];
	uint64_t gone_ticks; /* of dead processes */
};

struct acp_metrics {
	struct registry *registry;
	struct process *self; /* NULL: too many processes */
	const char *const *endpoints;
};

/* Opening ------------------------------------------------------------------------------------------------------- */

static uint32_t mix(uint32_t hash, const char *text)
{
	for (; *text; text++)
		hash = (hash ^ (unsigned char)*text) * 16777619u;
	return (hash ^ '\n') * 16777619u;
}

/* The layout is part of the name, so that a version with another layout uses other memory. */
static uint32_t layout(const char *const *endpoints)
{
	uint32_t hash = 2166136261u ^ (uint32_t)sizeof(struct registry);
	for (; *endpoints; endpoints++)
		hash = mix(hash, *endpoints);
	for (int code = 0; code < ACP_CODE_COUNT; code++)
		hash = mix(hash, acp_code_name((enum acp_code)code));
	for (size_t i = 0; i < BUCKETS; i++)
		hash = mix(hash, bound_names[i]);
	return hash;
}

static bool prepare_registry(void *memory)
{
	struct registry *registry = memory;
	if (!registry->made)
		registry->made = acp_shm_lock_prepare(&registry->lock);
	return registry->made;
}

/* A process that is killed while it holds the lock does no damage: the numbers under the lock are only added up. */
static void lock(struct registry *registry)
{
	if (pthread_mutex_lock(&registry->lock) == EOWNERDEAD)
		pthread_mutex_consistent(&registry->lock);
}

/* Is this process still alive? If so, fills stats. */
static bool is_alive(const struct process *process, struct acp_process_stats *stats)
{
	return acp_process_alive(process->pid, process->started, stats);
}

/* Removes a process. The processor time that it used stays in the total. */
static void unregister_process(struct registry *registry, struct process *process)
{
	registry->gone_ticks += process->ticks;
	process->ticks = 0;
	process->serving = 0;
	process->pid = 0;
}

/* Registers this process. NULL: live processes occupy all entries, so the gauges do not include this one. */
static struct process *register_process(struct registry *registry, int workers)
{
	struct acp_process_stats stats;
	struct acp_process_stats own = {0};
	struct process *slot = NULL;
	if (!acp_process_read(getpid(), &own))
		return NULL;
	lock(registry);
	for (size_t i = 0; i < PROCESSES && !slot; i++) {
		struct process *process = &registry->processes[i];
		if (process->pid && !is_alive(process, &stats))
			unregister_process(registry, process);
		if (!process->pid)
			slot = process;
	}
	if (slot) {
		slot->started = own.started;
		slot->ticks = 0;
		slot->serving = 0;
		slot->workers = workers;
		slot->pid = getpid();
	}
	pthread_mutex_unlock(&registry->lock);
	return slot;
}

struct acp_metrics *acp_metrics_open(const char *zone, const char *const *endpoints, int workers, char *why,
				     size_t why_size)
{
	char name[100];
	struct acp_metrics *metrics = calloc(1, sizeof *metrics);
	if (!metrics) {
		snprintf(why, why_size, "metrics: out of memory");
		return NULL;
	}
	snprintf(name, sizeof name, "m%08x-%.64s", (unsigned)layout(endpoints), zone);
	metrics->registry = acp_shm_open(name, "metrics", sizeof(struct registry), prepare_registry, why, why_size);
	if (!metrics->registry) {
		free(metrics);
		return NULL;
	}
	metrics->endpoints = endpoints;
	metrics->self = register_process(metrics->registry, workers);
	return metrics;
}

void acp_metrics_close(struct acp_metrics *metrics)
{
	struct acp_process_stats stats;
	if (!metrics)
		return;
	if (metrics->self) {
		lock(metrics->registry);
		if (is_alive(metrics->self, &stats))
			metrics->self->ticks = stats.ticks;
		unregister_process(metrics->registry, metrics->self);
		pthread_mutex_unlock(&metrics->registry->lock);
	}
	acp_shm_close(metrics->registry, sizeof *metrics->registry);
	free(metrics);
}

/* Counting ------------------------------------------------------------------------------------------------------ */

static void add(number *to, uint64_t value)
{
	atomic_fetch_add_explicit(to, value, memory_order_relaxed);
}

static struct stripe *own_stripe(struct registry *registry)
{
	static atomic_uint next;
	static __thread unsigned mine; /* 0: not chosen yet */
	if (!mine)
		mine = (atomic_fetch_add_explicit(&next, 1, memory_order_relaxed) + (unsigned)getpid()) % STRIPES + 1;
	return &registry->stripes[mine - 1];
}

/* True if the slot already had this name, or has just been given it. */
static bool is_named(struct name *slot, const char *name)
{
	int state = atomic_load_explicit(&slot->state, memory_order_acquire);
	int empty = EMPTY;
	if (state == NAMED)
		return strcmp(slot->text, name) == 0;
	if (state != EMPTY || !atomic_compare_exchange_strong(&slot->state, &empty, CLAIMED))
		return false;
	acp_copy(slot->text, sizeof slot->text, name);
	atomic_store_explicit(&slot->state, NAMED, memory_order_release);
	return true;
}

/* Returns the slot of an action. Two processes that name an action at the same moment may use two slots for it. Reading
 * adds them up. */
static size_t action_slot(struct registry *registry, const char *action)
{
	if (strlen(action) >= ACTION_NAME)
		return 0;
	size_t first = mix(2166136261u, action) % (ACTIONS - 1);
	for (size_t i = 0; i < ACTIONS - 1; i++) {
		size_t at = 1 + (first + i) % (ACTIONS - 1);
		if (is_named(&registry->actions[at], action))
			return at;
	}
	return 0;
}

static size_t status_number(int status)
{
	size_t i = 0;
	while (i < STATUSES - 1 && statuses[i] != status)
		i++;
	return i;
}

static size_t bucket_number(uint64_t us)
{
	size_t i = 0;
	while (i < BUCKETS - 1 && us > bounds_us[i])
		i++;
	return i;
}

static size_t outcome_number(enum acp_code code)
{
	switch (acp_code_outcome(code)) {
	case ACP_SUCCESS: return code == ACP_IDEMPOTENT_REPLAY ? 1 : 0;
	case ACP_DENIED: return 2;
	default: return 3;
	}
}

void acp_metrics_begin(struct acp_metrics *metrics)
{
	if (metrics && metrics->self)
		add(&metrics->self->serving, 1);
}

void acp_metrics_end(struct acp_metrics *metrics, const struct acp_served *served)
{
	if (!metrics)
		return;
	struct stripe *stripe = own_stripe(metrics->registry);
	add(&stripe->requests[served->endpoint][status_number(served->http)], 1);
	add(&stripe->within[served->endpoint][bucket_number(served->us)], 1);
	add(&stripe->took_us[served->endpoint], served->us);
	if (served->http >= 400)
		add(&stripe->errors[served->code], 1);
	if (served->action)
		add(&stripe->calls[action_slot(metrics->registry, served->action)][outcome_number(served->code)], 1);
	if (metrics->self)
		atomic_fetch_sub_explicit(&metrics->self->serving, 1, memory_order_relaxed);
}

/* Reading ------------------------------------------------------------------------------------------------------- */

/* Adds up a number over all stripes. in_first points to it in the first stripe. Each number only grows, so the sum does
 * too. */
static uint64_t sum(const number *in_first)
{
	uint64_t total = 0;
	const char *at = (const char *)in_first;
	for (size_t i = 0; i < STRIPES; i++, at += sizeof(struct stripe))
		total += atomic_load_explicit((const number *)(const void *)at, memory_order_relaxed);
	return total;
}

void acp_metrics_head(struct acp_buf *out, const char *name, const char *type, const char *help)
{
	acp_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void write_requests(const struct acp_metrics *metrics, struct acp_buf *out)
{
	const struct stripe *first = metrics->registry->stripes;
	acp_metrics_head(out, "acp_requests_total", "counter", "Requests answered, by endpoint and HTTP status.");
	for (size_t e = 0; metrics->endpoints[e]; e++) {
		for (size_t s = 0; s < STATUSES; s++) {
			uint64_t count = sum(&first->requests[e][s]);
			char status[12] = "other";
			if (statuses[s])
				snprintf(status, sizeof status, "%d", statuses[s]);
			/* Report success from the beginning: a counter that first appears as 1 has no rate. */
			if (count || s == 0)
				acp_buf_printf(out, "acp_requests_total{endpoint=\"%s\",code=\"%s\"} %llu\n",
					       metrics->endpoints[e], status, (unsigned long long)count);
		}
	}
}

static void write_durations(const struct acp_metrics *metrics, struct acp_buf *out)
{
	static const char name[] = "acp_request_duration_seconds";
	const struct stripe *first = metrics->registry->stripes;
	acp_metrics_head(out, name, "histogram", "Time from the last byte of a request to the end of its reply.");
	for (size_t e = 0; metrics->endpoints[e]; e++) {
		uint64_t us = sum(&first->took_us[e]);
		uint64_t count = 0;
		for (size_t b = 0; b < BUCKETS; b++) {
			count += sum(&first->within[e][b]);
			acp_buf_printf(out, "%s_bucket{endpoint=\"%s\",le=\"%s\"} %llu\n", name, metrics->endpoints[e],
				       bound_names[b], (unsigned long long)count);
		}
		acp_buf_printf(out, "%s_sum{endpoint=\"%s\"} %llu.%06llu\n", name, metrics->endpoints[e],
			       (unsigned long long)(us / 1000000), (unsigned long long)(us % 1000000));
		acp_buf_printf(out, "%s_count{endpoint=\"%s\"} %llu\n", name, metrics->endpoints[e],
			       (unsigned long long)count);
	}
}

static void write_errors(const struct acp_metrics *metrics, struct acp_buf *out)
{
	const struct stripe *first = metrics->registry->stripes;
	acp_metrics_head(out, "acp_errors_total", "counter", "Error replies, by the member code.");
	for (int code = 0; code < ACP_CODE_COUNT; code++)
		if (acp_code_http((enum acp_code)code) >= 400)
			acp_buf_printf(out, "acp_errors_total{code=\"%s\"} %llu\n", acp_code_name((enum acp_code)code),
				       (unsigned long long)sum(&first->errors[code]));
}

/* Does an earlier slot have the same name? */
static bool is_duplicate(const struct registry *registry, size_t slot)
{
	for (size_t i = 1; i < slot; i++)
		if (registry->actions[i].state == NAMED &&
		    strcmp(registry->actions[i].text, registry->actions[slot].text) == 0)
			return true;
	return false;
}

static uint64_t calls_of(const struct registry *registry, size_t slot, size_t outcome)
{
	uint64_t total = 0;
	for (size_t i = slot; i < ACTIONS; i++)
		if (i == slot || (slot && registry->actions[i].state == NAMED &&
				  strcmp(registry->actions[i].text, registry->actions[slot].text) == 0))
			total += sum(&registry->stripes[0].calls[i][outcome]);
	return total;
}

static void write_calls(const struct acp_metrics *metrics, struct acp_buf *out)
{
	const struct registry *registry = metrics->registry;
	acp_metrics_head(out, "acp_calls_total", "counter", "Calls of registered actions, by action and outcome.");
	for (size_t i = 0; i < ACTIONS; i++) {
		if (i && (registry->actions[i].state != NAMED || is_duplicate(registry, i)))
			continue;
		for (size_t o = 0; o < OUTCOMES; o++)
			acp_buf_printf(out, "acp_calls_total{action=\"%s\",status=\"%s\"} %llu\n",
				       i ? registry->actions[i].text : "other", outcome_names[o],
				       (unsigned long long)calls_of(registry, i, o));
	}
}

/* Totals of the live processes. */
struct totals {
	uint64_t processes, workers, serving, resident, ticks, oldest, threads;
};

static void count_processes(struct registry *registry, struct totals *all)
{
	struct acp_process_stats stats;
	lock(registry);
	for (size_t i = 0; i < PROCESSES; i++) {
		struct process *process = &registry->processes[i];
		if (!process->pid)
			continue;
		if (!is_alive(process, &stats)) {
			unregister_process(registry, process);
			continue;
		}
		process->ticks = stats.ticks;
		all->processes++;
		all->workers += (uint64_t)process->workers;
		all->serving += process->serving;
		all->resident += stats.resident;
		all->threads += (uint64_t)stats.threads;
		all->ticks += stats.ticks;
		if (!all->oldest || stats.started < all->oldest)
			all->oldest = stats.started;
	}
	all->ticks += registry->gone_ticks;
	pthread_mutex_unlock(&registry->lock);
}

static void write_gauge(struct acp_buf *out, const char *name, const char *help, uint64_t value)
{
	acp_metrics_head(out, name, "gauge", help);
	acp_buf_printf(out, "%s %llu\n", name, (unsigned long long)value);
}

/* Returns the Unix time, in seconds, that is ticks after the host's start. */
static double time_of(uint64_t ticks, double per_second)
{
	struct timespec now, up;
	clock_gettime(CLOCK_REALTIME, &now);
	clock_gettime(CLOCK_BOOTTIME, &up);
	return (double)(now.tv_sec - up.tv_sec) + (double)(now.tv_nsec - up.tv_nsec) / 1e9 + (double)ticks / per_second;
}

static void write_processes(const struct acp_metrics *metrics, struct acp_buf *out)
{
	struct totals all = {0};
	double per_second = (double)sysconf(_SC_CLK_TCK);
	count_processes(metrics->registry, &all);
	write_gauge(out, "acp_processes", "Processes of this host that serve requests.", all.processes);
	write_gauge(out, "acp_workers", "Requests that they can serve at a time.", all.workers);
	write_gauge(out, "acp_requests_in_flight", "Requests being served now.", all.serving);
	acp_metrics_head(out, "process_cpu_seconds_total", "counter",
			 "Processor time of all these processes, including those that have ended.");
	acp_buf_printf(out, "process_cpu_seconds_total %.2f\n", (double)all.ticks / per_second);
	write_gauge(out, "process_resident_memory_bytes", "Resident memory of all these processes.", all.resident);
	write_gauge(out, "process_threads", "Threads of all these processes.", all.threads);
	acp_metrics_head(out, "process_start_time_seconds", "gauge", "Start time of the oldest of these processes.");
	acp_buf_printf(out, "process_start_time_seconds %.2f\n", time_of(all.oldest, per_second));
}

void acp_metrics_write(struct acp_metrics *metrics, struct acp_buf *out)
{
	write_requests(metrics, out);
	write_durations(metrics, out);
	write_errors(metrics, out);
	write_calls(metrics, out);
	write_processes(metrics, out);
}
