#include "retry.h"

#include "crypto.h"

#include <time.h>

enum { FIRST_MS = 500, LONGEST_MS = 5000 };

bool acp_retry_worth(int status, const char *advice)
{
	if (strcmp(advice, "true") == 0)
		return true;
	if (strcmp(advice, "false") == 0)
		return false;
	return status == 0 || status == 409 || status == 429 || status >= 500;
}

int acp_retry_pause_ms(int attempt, double chance)
{
	int longest = FIRST_MS;
	for (; attempt > 1 && longest < LONGEST_MS; attempt--)
		longest *= 2;
	if (longest > LONGEST_MS)
		longest = LONGEST_MS;
	return (int)(longest * (0.5 + chance / 2));
}

double acp_retry_chance(void)
{
	uint32_t bits = 0;
	acp_random(&bits, sizeof bits);
	return bits / 4294967296.0;
}

void acp_retry_sleep(int ms)
{
	struct timespec left = {ms / 1000, (long)(ms % 1000) * 1000000L};
	while (nanosleep(&left, &left) != 0)
		;
}
