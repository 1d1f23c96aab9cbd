/* exchange.h - one FastCGI request on an accepted connection: read, answer, write, close.
 * The only file that uses libfcgi. */
#ifndef ACP_EXCHANGE_H
#define ACP_EXCHANGE_H

#include "kernel.h"

/* Call once in each process, before threads start. False: libfcgi cannot be used. */
bool acp_exchange_init(void) ACP_MUSTCHECK;

/* The state that is kept between requests. */
struct acp_exchange;
struct acp_exchange *acp_exchange_new(const struct acp_config *config) ACP_MUSTCHECK; /* NULL: out of memory */
void acp_exchange_free(struct acp_exchange *exchange);

/* Serves one connection and closes it. left is called once with arg, when the exchange can be reused: either by this
 * thread before acp_exchange_serve returns, or by the thread that stored the call. kernel must live until then. */
void acp_exchange_serve(struct acp_exchange *exchange, const struct acp_kernel *kernel, int connection,
			void (*left)(void *arg), void *arg);

#endif
