#include "shared_counter.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

struct acp_shared_counter {
	atomic_uint_fast64_t *value; /* 0 in a new file */
};

struct acp_shared_counter *acp_shared_counter_open(const char *name, char *why, size_t why_size)
{
	char path[128];
	struct acp_shared_counter *counter = calloc(1, sizeof *counter);
	/* The user is part of the name: each user has its own counter. */
	snprintf(path, sizeof path, "/acp-fcgi-%u-%.64s", (unsigned)geteuid(), name);
	int fd = counter ? shm_open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
	void *at = fd >= 0 && ftruncate(fd, sizeof *counter->value) == 0
			   ? mmap(NULL, sizeof *counter->value, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
			   : MAP_FAILED;
	if (at == MAP_FAILED) {
		snprintf(why, why_size, "shared memory %s: %s", path, strerror(errno));
		free(counter);
		counter = NULL;
	} else {
		counter->value = at;
	}
	if (fd >= 0)
		close(fd);
	return counter;
}

void acp_shared_counter_close(struct acp_shared_counter *counter)
{
	if (counter)
		munmap(counter->value, sizeof *counter->value);
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
