/* listen.h - where the listening socket comes from. */
#ifndef ACP_LISTEN_H
#define ACP_LISTEN_H

#include "settings.h"

enum acp_listen_kind {
	ACP_LISTEN_OWN,     /* we bound the Unix socket of the setting listen */
	ACP_LISTEN_SYSTEMD, /* file descriptor 3, socket activation */
	ACP_LISTEN_STDIN,   /* file descriptor 0: a process manager started us (mod_fcgid, spawn-fcgi, lighttpd) */
};

/* Finds or makes the listening socket; it is non-blocking and closed on exec. -1 with a sentence in why. */
int acp_listen_open(const struct acp_config *config, enum acp_listen_kind *kind, char *why,
		    size_t why_size) ACP_MUSTCHECK;

/* Removes the path of a socket that we bound. */
void acp_listen_unlink(const struct acp_config *config);

#endif
