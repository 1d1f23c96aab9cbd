#include "thread.h"

static _Thread_local bool serves_nobody;

void acp_thread_serves_nobody(void)
{
	serves_nobody = true;
}

bool acp_thread_has_caller(void)
{
	return !serves_nobody;
}
