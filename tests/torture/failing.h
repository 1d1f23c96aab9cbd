/* failing.h - calls that fail on purpose. What is linked with failing.c, or runs with it preloaded, has its own malloc,
 * libpq, libcurl, file and thread functions in front of the real ones; once armed, the n-th call of one kind fails, and
 * with `lasting` every one after it.
 *
 * A preloaded program is armed from outside, through the file that FAILING_CONTROL names: a struct failing, mapped. */
#ifndef ACP_TESTS_FAILING_H
#define ACP_TESTS_FAILING_H

#include "attr.h"

#include <stdatomic.h>

enum failing_kind {
	FAILING_NOTHING,
	FAILING_ALLOC,    /* malloc, calloc, realloc and what the C library builds on them: no memory */
	FAILING_PQ,       /* a libpq function: says that it failed, without having done anything */
	FAILING_PQ_LOST,  /* the connection is gone before a libpq function sends or reads */
	FAILING_PQ_AFTER, /* the connection is gone after a libpq function sent: whether it took effect is not known */
	FAILING_CURL,     /* a libcurl function says that it failed */
	FAILING_IO,       /* open, read, write, sync, … of files; poll and socket are left alone */
	FAILING_THREAD,   /* pthread_create */
	FAILING_KINDS
};

/* Offsets are known to tests/torture/program.py: eight 64-bit numbers. */
struct failing {
	_Atomic long kind;
	_Atomic long lasting;
	_Atomic long left;   /* the call that fails, counted from 1 on; 0: none, only count */
	_Atomic long seen;   /* calls of the kind since it was armed */
	_Atomic long failed; /* of these, made to fail */
	_Atomic long only;   /* a process: all others are left alone; 0: nobody is */
	_Atomic long spare[2];
};

extern struct failing *failing;

/* Only calls of threads that want it count. In a preloaded program all do. */
void failing_mine(bool mine);

void failing_arm(enum failing_kind kind, long nth, bool lasting);
void failing_disarm(void);

/* Between them nothing fails in this thread, and nothing is counted: the work of the test itself. They nest. */
void failing_pause(void);
void failing_resume(void);

/* Where the first failing call was made from. */
enum { FAILING_FRAMES = 16 };
int failing_where(void **frames, int most);

/* Counts, from now on, the blocks that this thread allocates and nobody frees; who: remembers who allocated them. */
void failing_watch(bool who);
long failing_live(void);
int failing_leaks(void *frames[][FAILING_FRAMES], int *depths, int most);

#endif
