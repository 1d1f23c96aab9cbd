/* status.h - the one list of outcomes (status.def): what C code returns is what clients see. */
#ifndef ACP_STATUS_H
#define ACP_STATUS_H

#include "attr.h"

enum acp_code {
#define ACP_STATUS(name, http, retryable, sentence) ACP_##name,
#include "status.def"
#undef ACP_STATUS
	ACP_CODE_COUNT
};

/* What the audit row says of an outcome (contract section 3). */
enum acp_outcome { ACP_SUCCESS, ACP_ERROR, ACP_DENIED };

const char *acp_code_name(enum acp_code code);     /* "VALIDATION_ERROR" */
int acp_code_http(enum acp_code code);             /* 400 */
bool acp_code_retryable(enum acp_code code);       /* may the same request succeed later by itself? */
int acp_code_retry_after(enum acp_code code);      /* seconds for Retry-After; 0: none by itself */
const char *acp_code_sentence(enum acp_code code); /* default text of the member `error` */

/* The code of that name, or ACP_INTERNAL_ERROR when there is none. */
enum acp_code acp_code_of(const char *name);

/* success for OK and replays; denied where a rule refused a well-formed request (401, 402, 403, 429); else error. */
enum acp_outcome acp_code_outcome(enum acp_code code);
const char *acp_outcome_name(enum acp_outcome outcome);

#endif
