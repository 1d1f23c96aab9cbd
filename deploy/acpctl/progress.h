/* progress.h - what a terminal shows, on standard error, while something takes longer than two seconds. Nothing is
 * written where standard error is no terminal. One at a time. */
#ifndef ACP_ACPCTL_PROGRESS_H
#define ACP_ACPCTL_PROGRESS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* Of a known number of rows. label: the caller's, kept. */
struct ctl_progress {
	const char *label;
	int64_t total, done;
	uint64_t began, shown; /* µs, monotonic */
	bool share;            /* shown in percent, not in rows */
};
void ctl_progress_begin(struct ctl_progress *progress, const char *label, int64_t total);
void ctl_progress_step(struct ctl_progress *progress);             /* one row more */
void ctl_progress_at(struct ctl_progress *progress, int64_t done); /* so much of the total; from now on in percent */
void ctl_progress_end(struct ctl_progress *progress);

/* Of one statement that says nothing until it ends: the time. Ending it twice is harmless. */
struct ctl_busy {
	const char *label;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool running, over;
};
void ctl_busy_begin(struct ctl_busy *busy, const char *label);
void ctl_busy_end(struct ctl_busy *busy);

/* Removes the line of progress, if there is one, before something else is written. It is drawn again later. */
void ctl_progress_hide(void);

#endif
