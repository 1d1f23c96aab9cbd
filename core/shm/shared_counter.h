/* shared_counter.h - a number shared by all processes of an installation on one host, to signal that something
 * changed. */
#ifndef ACP_SHARED_COUNTER_H
#define ACP_SHARED_COUNTER_H

#include "attr.h"

struct acp_shared_counter;

/* Processes that pass the same name and run as the same user share the counter. name: up to 64 of [a-z0-9-]. Returns
 * NULL with a sentence in why. */
struct acp_shared_counter *acp_shared_counter_open(const char *name, char *why, size_t why_size) ACP_MUSTCHECK;
void acp_shared_counter_close(struct acp_shared_counter *counter);

uint64_t acp_shared_counter_value(const struct acp_shared_counter *counter);
void acp_shared_counter_add(struct acp_shared_counter *counter);

#endif
