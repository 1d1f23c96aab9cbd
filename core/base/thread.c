#include "thread.h"

static _Thread_local bool serves_nobody;
static _Thread_local const struct acp_thread_owner *owned_by;

void acp_thread_serves_nobody(void)
{
	serves_nobody = true;
}

bool acp_thread_has_caller(void)
{
	return !serves_nobody;
}

void acp_thread_own(const struct acp_thread_owner *owner)
{
	owned_by = owner;
}

void acp_thread_blocks(void)
{
	if (owned_by)
		owned_by->blocks(owned_by->arg);
}

void acp_thread_goes_on(void)
{
	if (owned_by)
		owned_by->goes_on(owned_by->arg);
}
