/* moment.h - moments as people and programs write them: RFC 3339, or a date. */
#ifndef ACP_MOMENT_H
#define ACP_MOMENT_H

#include "attr.h"

enum { ACP_MOMENT_MAX = 32 };

/* Reads "2026-12-01T08:30:00+01:00" (RFC 3339; a fraction of at most 6 digits; no leap second) or "2026-12-01" (its
 * first instant in UTC), and writes the same moment in UTC: "2026-12-01T07:30:00Z", with a fraction of 6 digits only if
 * it is not zero. Nothing else is a moment: no time without an offset, no other order of day and month, no word. False:
 * text is none, or lies outside the years 1970 to 9999 of UTC; out is then unchanged. */
bool acp_moment_utc(const char *text, char out[ACP_MOMENT_MAX]) ACP_MUSTCHECK;

#endif
