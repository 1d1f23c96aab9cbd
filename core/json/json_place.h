/* json_place.h - line numbers in a JSON text, for messages to people who edit it. */
#ifndef ACP_JSON_PLACE_H
#define ACP_JSON_PLACE_H

#include "attr.h"

/* Returns the line, counted from 1, of the byte at offset. An offset beyond the text counts as its end. */
int acp_json_line(const char *text, size_t offset);

/* Returns the line of the member or element that an RFC 6901 pointer names. If it does not exist, returns the line of
 * the innermost existing container. text is a document that acp_json_parse has accepted. */
int acp_json_line_of(const char *text, const char *pointer);

#endif
