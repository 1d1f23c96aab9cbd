/* failing.h - makes calls fail on purpose. A program that is linked with failing.c, or runs with it preloaded, uses its
 * malloc, libpq, libcurl, file and thread functions instead of the real ones. Once armed, the n-th call of one kind
 * fails, and with `lasting` every later one, too.
 *
 * A preloaded program is armed from outside, through the file that FAILING_CONTROL names: a mapped struct failing. */
#ifndef ACP_TESTS_FAILING_H
#define ACP_TESTS_FAILING_H

#include "attr.h"

#include <stdatomic.h>

enum failing_kind {
	FAILING_NOTHING,
	FAILING_ALLOC,    /* malloc, calloc, realloc and everything in the C library that uses them: out of memory */
	FAILING_PQ,       /* a libpq function: reports failure without doing anything */
	FAILING_PQ_LOST,  /* the connection is lost before a libpq function sends or reads */
	FAILING_PQ_AFTER, /* the connection is lost after a libpq function sent: whether it took effect is unknown */
	FAILING_CURL,     /* a libcurl function reports failure */
	FAILING_IO,       /* open, read, write, sync, … of files, but not poll and sockets */
	FAILING_THREAD,   /* pthread_create */
	FAILING_KINDS
};

/* tests/torture/program.py relies on these offsets: eight 64-bit numbers. */
struct failing {
	_Atomic long kind;
	_Atomic long lasting;
	_Atomic long left;   /* countdown to the failing call, starting with 1; 0: none, only count */
	_Atomic long seen;   /* calls of this kind since arming */
	_Atomic long failed; /* calls that were made to fail */
	_Atomic long only;   /* the only process affected; 0: none */
	_Atomic long spare[2];
};

extern struct failing *failing;

/* Only calls of threads that opted in count. In a preloaded program all threads do. */
void failing_mine(bool mine);

void failing_arm(enum failing_kind kind, long nth, bool lasting);
void failing_disarm(void);

/* Between these two, nothing fails or is counted in this thread: for the test's own work. They nest. */
void failing_pause(void);
void failing_resume(void);

/* The call stack of the first failing call. */
enum { FAILING_FRAMES = 16 };
int failing_where(void **frames, int most);

/* From now on, counts the blocks that this thread allocates and no thread frees. stacks: also record the call stacks of
 * the allocations. */
void failing_watch(bool stacks);
long failing_live(void);
int failing_leaks(void *frames[][FAILING_FRAMES], int *depths, int most);

#endif
