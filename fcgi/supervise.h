/* supervise.h - keeps so many worker processes alive: libfcgi has inputs that abort a process, and one abort must cost
 * no more than the requests of that process. */
#ifndef ACP_SUPERVISE_H
#define ACP_SUPERVISE_H

#include "actions_dir.h"

/* Runs the processes until SIGTERM, SIGINT or SIGUSR1. SIGHUP: reads the configuration again (file as given on the
 * command line) and replaces the processes one generation by the next, without closing the socket; a configuration
 * with an error is reported and the old one goes on. unlink_socket: the path is ours to remove at the end.
 * *config and *actions are replaced on reload. Returns the exit status. */
int acp_supervise(struct acp_config *config, struct acp_actions **actions, const char *file, int listen_fd,
		  bool unlink_socket);

/* Everything that can be wrong before a request comes, found before a request comes: settings that acp.fcgi cannot run
 * without, and the actions. The actions of actions_dir (acp_actions_free), or NULL with a sentence in why. */
struct acp_actions *acp_config_check(const struct acp_config *config, char *why, size_t why_size) ACP_MUSTCHECK;

#endif
