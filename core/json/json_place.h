/* json_place.h - line numbers in a JSON text, for messages to people who edit it. */
#ifndef ACP_JSON_PLACE_H
#define ACP_JSON_PLACE_H

#include "attr.h"

/* The line, counted from 1, of the byte at offset. An offset beyond the text means its end. */
int acp_json_line(const char *text, size_t offset);

/* The line of the member or element that an RFC 6901 pointer names, or of the innermost existing container if it does
 * not exist. text is a document that acp_json_parse has accepted. */
int acp_json_line_of(const char *text, const char *pointer);

#endif
