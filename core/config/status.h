/* status.h - the single list of outcomes (status.def): C code returns these codes, and clients see them. */
#ifndef ACP_STATUS_H
#define ACP_STATUS_H

#include "attr.h"

enum acp_code {
#define ACP_STATUS(name, http, outcome, retryable, sentence) ACP_##name,
#include "status.def"
#undef ACP_STATUS
	ACP_CODE_COUNT
};

/* The outcome that an audit row records (contract section 3). */
enum acp_outcome { ACP_SUCCESS, ACP_ERROR, ACP_DENIED };

const char *acp_code_name(enum acp_code code);     /* "VALIDATION_ERROR" */
int acp_code_http(enum acp_code code);             /* 400 */
bool acp_code_retryable(enum acp_code code);       /* can the same request succeed later without any change? */
int acp_code_retry_after(enum acp_code code);      /* seconds for Retry-After; 0: no default */
const char *acp_code_sentence(enum acp_code code); /* default text of the member `error` */

/* Returns the code of that name, or ACP_INTERNAL_ERROR if there is none. */
enum acp_code acp_code_of(const char *name);

enum acp_outcome acp_code_outcome(enum acp_code code);
const char *acp_outcome_name(enum acp_outcome outcome);

#endif
