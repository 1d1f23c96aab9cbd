/* shared_counter.h - a number that all processes of an installation on one host see: "something changed". */
#ifndef ACP_SHARED_COUNTER_H
#define ACP_SHARED_COUNTER_H

#include "attr.h"

struct acp_shared_counter;

/* Processes that give the same name and run as the same user share it. name: up to 64 of [a-z0-9-]. NULL with a
 * sentence in why. */
struct acp_shared_counter *acp_shared_counter_open(const char *name, char *why, size_t why_size) ACP_MUSTCHECK;
void acp_shared_counter_close(struct acp_shared_counter *counter);

uint64_t acp_shared_counter_value(const struct acp_shared_counter *counter);
void acp_shared_counter_add(struct acp_shared_counter *counter);

#endif
