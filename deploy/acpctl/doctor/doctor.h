/* doctor.h - acpctl doctor --url. */
#ifndef ACP_DOCTOR_H
#define ACP_DOCTOR_H

#include "acpctl.h"

/* Checks the installation as its clients reach it at this URL: web server, TLS, and which parts of a request arrive. */
void doctor_mount(const struct acp_config *config, const char *url);

/* Checks that the prices are in one currency, and that invoice_minimum is an amount that Stripe charges. */
void doctor_prices(struct ctl *ctl);

#endif
