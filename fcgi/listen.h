/* listen.h - finds or creates the listening socket. */
#ifndef ACP_LISTEN_H
#define ACP_LISTEN_H

#include "settings.h"

enum acp_listen_kind {
	ACP_LISTEN_OWN,     /* we bound the Unix socket named by the setting listen */
	ACP_LISTEN_SYSTEMD, /* file descriptor 3, socket activation */
	ACP_LISTEN_STDIN,   /* file descriptor 0: a process manager started us (mod_fcgid, spawn-fcgi, lighttpd) */
};

/* Returns the listening socket, non-blocking and close-on-exec, or -1 with a sentence in why. */
int acp_listen_open(const struct acp_config *config, enum acp_listen_kind *kind, char *why,
		    size_t why_size) ACP_MUSTCHECK;

/* Removes the path of a socket that this process bound. */
void acp_listen_unlink(const struct acp_config *config);

#endif
