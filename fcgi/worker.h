/* worker.h - runs one serving process: threads, signals, shutdown. */
#ifndef ACP_WORKER_H
#define ACP_WORKER_H

#include "actions_dir.h"

/* Serves the listening socket with this number of threads until SIGTERM, SIGINT or SIGUSR1. Then lets running requests
 * finish, for at most shutdown_timeout seconds. On SIGHUP, reopens the log and reloads the actions of actions_dir
 * (actions: the initial ones). The caller must have blocked these four signals. Returns the exit status of the
 * process. */
int acp_worker_run(const struct acp_config *config, const struct acp_actions *actions, int listen_fd, int threads);

#endif
