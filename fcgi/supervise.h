/* supervise.h - keeps the configured number of worker processes running. Some inputs make libfcgi abort the process;
 * such an abort must affect only the requests of that process. */
#ifndef ACP_SUPERVISE_H
#define ACP_SUPERVISE_H

#include "actions_dir.h"

/* Runs the processes until SIGTERM, SIGINT or SIGUSR1. On SIGHUP, reloads the configuration (file as given on the
 * command line) and replaces all processes with a new generation, without closing the socket. If the configuration has
 * an error, reports it and keeps the old one. unlink_socket: remove the socket's path at the end. *config and *actions
 * are replaced on reload. Returns the exit status. */
int acp_supervise(struct acp_config *config, struct acp_actions **actions, const char *file, int listen_fd,
		  bool unlink_socket);

/* Checks the configuration before the first request: the settings that acp.fcgi requires, and the actions. Returns the
 * actions of actions_dir (release with acp_actions_free), or NULL with a sentence in why. */
struct acp_actions *acp_config_check(const struct acp_config *config, char *why, size_t why_size) ACP_MUSTCHECK;

#endif
