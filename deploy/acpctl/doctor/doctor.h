/* doctor.h - what the parts of acpctl doctor share. */
#ifndef ACP_DOCTOR_H
#define ACP_DOCTOR_H

#include "acpctl.h"

/* One line a check: "ok", or "WRONG" with what is wrong and what to do. */
void doctor_say(bool good, const char *what, const char *format, ...) ACP_PRINTF(3, 4);

/* The installation as clients see it: web server, TLS, what arrives of a request. */
void doctor_mount(const struct acp_config *config, const char *url);

#endif
