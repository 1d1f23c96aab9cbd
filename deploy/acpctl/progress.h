/* progress.h - shows progress on standard error while something takes longer than two seconds. Writes nothing if
 * standard error is not a terminal. Only one at a time. */
#ifndef ACP_ACPCTL_PROGRESS_H
#define ACP_ACPCTL_PROGRESS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* The progress through a known number of rows. label: borrowed. */
struct ctl_progress {
	const char *label;
	int64_t total, done;
	uint64_t began, shown; /* µs, monotonic */
	bool share;            /* shown in percent, not in rows */
};
void ctl_progress_begin(struct ctl_progress *progress, const char *label, int64_t total);
void ctl_progress_step(struct ctl_progress *progress);             /* adds one row */
void ctl_progress_at(struct ctl_progress *progress, int64_t done); /* amount done; from now on in percent */
void ctl_progress_end(struct ctl_progress *progress);

/* The elapsed time of one statement that reports nothing until it ends. Ending it twice is harmless. */
struct ctl_busy {
	const char *label;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool running, over;
};
void ctl_busy_begin(struct ctl_busy *busy, const char *label);
void ctl_busy_end(struct ctl_busy *busy);

/* Removes the progress line, if there is one, before something else is written. The line is drawn again later. */
void ctl_progress_hide(void);

#endif
