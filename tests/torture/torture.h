/* torture.h - a story that is told again and again, each time with another call failing (torture.c). */
#ifndef ACP_TESTS_TORTURE_H
#define ACP_TESTS_TORTURE_H

#include "buf.h"

/* prepare and clean are not disturbed, nor is look; while run runs, calls fail. look appends what anybody can see of
 * the outcome, and says whether it is a proper refusal (or a success that leaves out what is of little weight): an
 * outcome is good when it is the undisturbed one, or such a refusal. fault: for what is wrong in any case. */
struct story {
	const char *name;
	void (*prepare)(void);
	void (*run)(void);
	bool (*look)(struct acp_buf *seen, struct acp_buf *fault);
	void (*clean)(void);
};

extern const struct story stories[]; /* up to one without name */

#endif
