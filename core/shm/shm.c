#include "shm.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

/* Returns 0, or the errno of the failure. Existing pages keep their content. */
static int allocate(int fd, size_t size)
{
	int fault;
	do
		fault = posix_fallocate(fd, 0, (off_t)size);
	while (fault == EINTR);
	return fault;
}

/* Maps the memory while holding its file lock, so that only one process at a time prepares it. NULL with errno. */
static void *map(int fd, size_t size, acp_shm_prepare *prepare)
{
	void *memory = NULL;
	if (flock(fd, LOCK_EX) != 0)
		return NULL;
	int fault = allocate(fd, size);
	if (!fault && (memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED) {
		fault = errno;
		memory = NULL;
	}
	if (memory && prepare && !prepare(memory)) {
		fault = errno ? errno : EINVAL;
		munmap(memory, size);
		memory = NULL;
	}
	flock(fd, LOCK_UN);
	errno = fault;
	return memory;
}

void *acp_shm_open(const char *name, const char *purpose, size_t size, acp_shm_prepare *prepare, char *why,
		   size_t why_size)
{
	char path[160];
	void *memory = NULL;
	/* The user is part of the name: each user has its own memory. */
	snprintf(path, sizeof path, "/acp-fcgi-%u-%.100s", (unsigned)geteuid(), name);
	int fd = shm_open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd >= 0)
		memory = map(fd, size, prepare);
	if (!memory && errno == ENOSPC)
		snprintf(why, why_size, "shared memory %s for %s: /dev/shm has no room for %zu KiB; make it larger",
			 path, purpose, (size + 1023) / 1024);
	else if (!memory)
		snprintf(why, why_size, "shared memory %s for %s: %s", path, purpose, strerror(errno));
	if (fd >= 0)
		close(fd);
	return memory;
}

bool acp_shm_lock_prepare(pthread_mutex_t *lock)
{
	pthread_mutexattr_t attr;
	if (pthread_mutexattr_init(&attr) != 0)
		return false;
	bool ok = pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED) == 0 &&
		  pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST) == 0 && pthread_mutex_init(lock, &attr) == 0;
	pthread_mutexattr_destroy(&attr);
	return ok;
}

void acp_shm_close(void *memory, size_t size)
{
	munmap(memory, size);
}
