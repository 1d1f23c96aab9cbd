#include "thread.h"

static _Thread_local bool background;
static _Thread_local const struct acp_thread_owner *owned_by;

void acp_thread_background(void)
{
	background = true;
}

bool acp_thread_has_caller(void)
{
	return !background;
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
