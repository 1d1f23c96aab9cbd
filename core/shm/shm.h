/* shm.h - named memory shared by all processes of one user on this host. It outlives them, and lasts until the host
 * restarts. */
#ifndef ACP_SHM_H
#define ACP_SHM_H

#include "attr.h"

#include <pthread.h>

/* Prepares memory that may be new. New memory is all zeros; otherwise it has the content that an earlier process left.
 * Other processes that open this memory wait meanwhile. Memory that is already prepared must not be changed. False:
 * failed, with errno. */
typedef bool acp_shm_prepare(void *memory);

/* Opens the memory of that name (up to 100 of [a-z0-9-]) of the current user, and creates it if necessary. All of its
 * size bytes are allocated now: otherwise, if /dev/shm became full later, touching a page would end the process with
 * SIGBUS. prepare may be NULL. purpose ("rate limits") appears in the error sentence. Returns NULL with a sentence in
 * why. Release with acp_shm_close(). */
void *acp_shm_open(const char *name, const char *purpose, size_t size, acp_shm_prepare *prepare, char *why,
		   size_t why_size) ACP_MUSTCHECK;

/* Prepares a lock in such memory. It is robust (see pthread_mutexattr_setrobust): after the death of the process that
 * holds it, the next pthread_mutex_lock() returns EOWNERDEAD, and pthread_mutex_consistent() must follow. */
bool acp_shm_lock_prepare(pthread_mutex_t *lock) ACP_MUSTCHECK;

/* Unmaps the memory; it stays for other processes, including later ones. */
void acp_shm_close(void *memory, size_t size);

#endif
