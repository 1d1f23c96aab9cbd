/* worker.h - one process that serves: its threads, its signals, its end. */
#ifndef ACP_WORKER_H
#define ACP_WORKER_H

#include "kernel.h"

/* Serves the listening socket with so many threads until SIGTERM, SIGINT or SIGUSR1; then lets requests in flight
 * finish, at most shutdown_timeout seconds. SIGHUP opens the log again. The three signals and SIGHUP are blocked in the
 * caller. Returns the exit status of the process. */
int acp_worker_run(const struct acp_config *config, int listen_fd, int threads);

#endif
