/* process.h - the statistics of a process of this host, and whether it is still alive. */
#ifndef ACP_PROCESS_H
#define ACP_PROCESS_H

#include "attr.h"

#include <sys/types.h>

struct acp_process_stats {
	uint64_t started;  /* in ticks after the host's start: distinguishes processes with the same pid */
	uint64_t ticks;    /* of processor time */
	uint64_t resident; /* bytes of memory */
	long threads;
};

/* Reads /proc/PID/stat. False: the process does not exist, or it is a zombie. */
bool acp_process_read(pid_t pid, struct acp_process_stats *stats);

/* True if the process that started at that time is still alive. Fills stats if so. */
bool acp_process_alive(pid_t pid, uint64_t started, struct acp_process_stats *stats);

#endif
