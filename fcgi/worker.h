/* worker.h - one serving process: its threads, its signals, its end. */
#ifndef ACP_WORKER_H
#define ACP_WORKER_H

#include "actions_dir.h"

/* Serves the listening socket with so many threads until SIGTERM, SIGINT or SIGUSR1. Then lets running requests finish,
 * for at most shutdown_timeout seconds. On SIGHUP, opens the log again and reads the actions of actions_dir again
 * (actions: the initial ones). The caller must have blocked these four signals. Returns the exit status of the
 * process. */
int acp_worker_run(const struct acp_config *config, const struct acp_actions *actions, int listen_fd, int threads);

#endif
