#include "clock.h"

#include <time.h>

uint64_t acp_monotonic_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

void acp_rfc3339(int64_t seconds, char out[32])
{
	struct tm utc;
	time_t time = (time_t)seconds;
	gmtime_r(&time, &utc);
	strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &utc);
}
