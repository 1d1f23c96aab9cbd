/* torture.h - a story that runs many times, each time with a different call failing (torture.c). */
#ifndef ACP_TESTS_TORTURE_H
#define ACP_TESTS_TORTURE_H

#include "buf.h"

/* Calls fail only in run, not in prepare, clean and look. look appends everything that is visible of the outcome. It
 * returns whether the outcome is a proper refusal (or a success without unimportant parts). An outcome is good if it
 * equals the outcome without failures or is such a refusal. fault: for anything that is always wrong. */
struct story {
	const char *name;
	void (*prepare)(void);
	void (*run)(void);
	bool (*look)(struct acp_buf *seen, struct acp_buf *fault);
	void (*clean)(void);
};

extern const struct story stories[]; /* terminated by one without a name */

#endif
