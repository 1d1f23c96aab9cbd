/* supervise.h - keeps so many worker processes alive: libfcgi has inputs that abort a process, and one abort must cost
 * no more than the requests of that process. */
#ifndef ACP_SUPERVISE_H
#define ACP_SUPERVISE_H

#include "settings.h"

/* Runs the processes until SIGTERM, SIGINT or SIGUSR1. SIGHUP: reads the configuration again (file as given on the
 * command line) and replaces the processes one generation by the next, without closing the socket; a configuration
 * with an error is reported and the old one goes on. unlink_socket: the path is ours to remove at the end.
 * *config is replaced on reload. Returns the exit status. */
int acp_supervise(struct acp_config *config, const char *file, int listen_fd, bool unlink_socket);

/* Settings that acp.fcgi cannot run without. False with a sentence in why. */
bool acp_config_complete(const struct acp_config *config, char *why, size_t why_size) ACP_MUSTCHECK;

#endif
