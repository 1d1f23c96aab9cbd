/* shm.h - memory that all processes of one user on this host share, by name. It outlives them, and ends with the
 * host. */
#ifndef ACP_SHM_H
#define ACP_SHM_H

#include "attr.h"

/* Completes memory that may be new. It is all zeros then; else what an earlier process left. Called while every other
 * process that opens this memory waits; must leave alone what is complete. False: it cannot, and errno says why. */
typedef bool acp_shm_prepare(void *memory);

/* Opens the memory of that name (up to 100 of [a-z0-9-]), making it where it is missing; name and user tell it from
 * others. All of its size bytes are allocated now: a process that touches a page for which a full /dev/shm has no room
 * would be ended by SIGBUS. prepare may be NULL. purpose ("rate limits") stands in the sentence. NULL with a sentence
 * in why. Release with acp_shm_close(). */
void *acp_shm_open(const char *name, const char *purpose, size_t size, acp_shm_prepare *prepare, char *why,
		   size_t why_size) ACP_MUSTCHECK;

/* Unmaps it; the memory stays for other processes, and for later ones. */
void acp_shm_close(void *memory, size_t size);

#endif
