#include "shared_counter.h"

#include "shm.h"

#include <stdatomic.h>

struct acp_shared_counter {
	atomic_uint_fast64_t *value; /* 0 in new memory */
};

struct acp_shared_counter *acp_shared_counter_open(const char *name, char *why, size_t why_size)
{
	struct acp_shared_counter *counter = calloc(1, sizeof *counter);
	if (!counter) {
		snprintf(why, why_size, "change counter: out of memory");
		return NULL;
	}
	counter->value = acp_shm_open(name, "change counter", sizeof *counter->value, NULL, why, why_size);
	if (counter->value)
		return counter;
	free(counter);
	return NULL;
}

void acp_shared_counter_close(struct acp_shared_counter *counter)
{
	if (counter)
		acp_shm_close(counter->value, sizeof *counter->value);
	free(counter);
}

uint64_t acp_shared_counter_value(const struct acp_shared_counter *counter)
{
	return atomic_load(counter->value);
}

void acp_shared_counter_add(struct acp_shared_counter *counter)
{
	atomic_fetch_add(counter->value, 1);
}
