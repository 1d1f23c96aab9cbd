/* doctor.h - acpctl doctor --url. */
#ifndef ACP_DOCTOR_H
#define ACP_DOCTOR_H

#include "acpctl.h"

/* Checks the installation as its clients reach it at this URL: web server, TLS, and which parts of a request arrive. */
void doctor_mount(const struct acp_config *config, const char *url);

#endif
