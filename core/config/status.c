#include "status.h"

static const struct {
	const char *name;
	int http;
	enum acp_outcome outcome;
	bool retryable;
	const char *sentence;
} rows[ACP_CODE_COUNT] = {
#define ACP_STATUS(name, http, outcome, retryable, sentence) {#name, http, ACP_##outcome, retryable, sentence},
#include "status.def"
#undef ACP_STATUS
};

const char *acp_code_name(enum acp_code code)
{
	return rows[code].name;
}

int acp_code_http(enum acp_code code)
{
	return rows[code].http;
}

bool acp_code_retryable(enum acp_code code)
{
	return rows[code].retryable;
}

int acp_code_retry_after(enum acp_code code)
{
	return rows[code].http == 503 || rows[code].http == 429;
}

const char *acp_code_sentence(enum acp_code code)
{
	return rows[code].sentence;
}

enum acp_code acp_code_of(const char *name)
{
	for (size_t i = 0; i < ACP_CODE_COUNT; i++)
		if (strcmp(rows[i].name, name) == 0)
			return (enum acp_code)i;
	return ACP_INTERNAL_ERROR;
}

enum acp_outcome acp_code_outcome(enum acp_code code)
{
	return rows[code].outcome;
}

const char *acp_outcome_name(enum acp_outcome outcome)
{
	static const char *const names[] = {"success", "error", "denied"};
	return names[outcome];
}
