/* json_place.h - where in a text something of a JSON document stands, for messages to people who edit it. */
#ifndef ACP_JSON_PLACE_H
#define ACP_JSON_PLACE_H

#include "attr.h"

/* The line, from 1, of the byte at offset (or of the end, where the text is shorter). */
int acp_json_line(const char *text, size_t offset);

/* The line of the member or element that an RFC 6901 pointer names. Where there is none, that of the innermost thing
 * around it that is there. text is a document that acp_json_parse has accepted. */
int acp_json_line_of(const char *text, const char *pointer);

#endif
