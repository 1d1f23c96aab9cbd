/* progress.c - shows progress on a terminal while something takes longer than two seconds. */
#include "progress.h"

#include "clock.h"

#include <stdio.h>
#include <unistd.h>

enum { BAR = 30, FIRST_US = 2000000, AGAIN_US = 200000 };
static const char full[] = "##############################";

/* Returns whether a progress line is on the terminal. */
static bool line_there;

static void clear_line(void)
{
	fprintf(stderr, "\r%*s\r", 100, "");
	line_there = false;
}

void ctl_progress_hide(void)
{
	if (line_there)
		clear_line();
}

/* Of a number of rows ---------------------------------------------------------------------------------------------- */

void ctl_progress_begin(struct ctl_progress *progress, const char *label, int64_t total)
{
	*progress = (struct ctl_progress){.label = label, .total = total, .began = acp_monotonic_us()};
}

static void draw(struct ctl_progress *progress)
{
	int64_t total = progress->total > progress->done ? progress->total : progress->done;
	int filled = total ? (int)(progress->done * BAR / total) : 0;
	fprintf(stderr, "\r%s [%-*.*s] ", progress->label, BAR, filled, full);
	if (progress->share)
		fprintf(stderr, "%3lld %%", (long long)(total ? progress->done * 100 / total : 0));
	else
		fprintf(stderr, "%lld of %lld rows", (long long)progress->done, (long long)total);
}

static void draw_in_time(struct ctl_progress *progress)
{
	uint64_t now = acp_monotonic_us();
	if (now - progress->began < FIRST_US || now - progress->shown < AGAIN_US || !isatty(STDERR_FILENO))
		return;
	progress->shown = now;
	line_there = true;
	draw(progress);
}

void ctl_progress_step(struct ctl_progress *progress)
{
	enum { LOOK_EVERY = 2048 };
	if (++progress->done % LOOK_EVERY == 0)
		draw_in_time(progress);
}

void ctl_progress_at(struct ctl_progress *progress, int64_t done)
{
	progress->share = true;
	progress->done = done;
	draw_in_time(progress);
}

void ctl_progress_end(struct ctl_progress *progress)
{
	(void)progress;
	ctl_progress_hide();
}

/* Of one statement that returns nothing until it ends -------------------------------------------------------------- */

/* Draws a block that moves back and forth, and the elapsed time. */
static void draw_busy(const struct ctl_busy *busy, uint64_t waited)
{
	enum { BLOCK = 6 };
	int at = (int)(waited / AGAIN_US % (UINT64_C(2) * (BAR - BLOCK)));
	at = at > BAR - BLOCK ? 2 * (BAR - BLOCK) - at : at;
	fprintf(stderr, "\r%s [%*s%.*s%*s] %llu s", busy->label, at, "", BLOCK, full, BAR - BLOCK - at, "",
		(unsigned long long)(waited / 1000000));
}

static void *keep_drawing(void *arg)
{
	struct ctl_busy *busy = arg;
	uint64_t began = acp_monotonic_us();
	struct timespec until;
	pthread_mutex_lock(&busy->lock);
	while (!busy->over) {
		uint64_t waited = acp_monotonic_us() - began;
		if (waited >= FIRST_US) {
			draw_busy(busy, waited);
			line_there = true;
		}
		until = acp_monotonic_after(AGAIN_US);
		pthread_cond_timedwait(&busy->wake, &busy->lock, &until);
	}
	pthread_mutex_unlock(&busy->lock);
	return NULL;
}

void ctl_busy_begin(struct ctl_busy *busy, const char *label)
{
	*busy = (struct ctl_busy){.label = label};
	if (!isatty(STDERR_FILENO))
		return;
	pthread_mutex_init(&busy->lock, NULL);
	acp_monotonic_cond(&busy->wake);
	busy->running = pthread_create(&busy->thread, NULL, keep_drawing, busy) == 0;
}

void ctl_busy_end(struct ctl_busy *busy)
{
	if (!busy->running)
		return;
	pthread_mutex_lock(&busy->lock);
	busy->over = true;
	pthread_cond_signal(&busy->wake);
	pthread_mutex_unlock(&busy->lock);
	pthread_join(busy->thread, NULL);
	ctl_progress_hide();
	busy->running = false;
}
