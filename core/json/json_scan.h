/* json_scan.h - what the reader of json_scan.c shares with core/schema*.c: RFC 6901 pointers for error messages.
 *
 * Private to these files. The reader itself is acp_json_parse of json.h. */
#ifndef ACP_JSON_SCAN_H
#define ACP_JSON_SCAN_H

#include "attr.h"

/* Appends "/name" to the RFC 6901 pointer that is in pointer (size bytes, a NUL included). What does not fit is
 * replaced with "..."; the result is then false, and nothing more should be appended. Never cuts inside a UTF-8
 * sequence. */
bool acp_json_pointer_add(char *pointer, size_t size, const char *name, size_t len);

/* The same for an element of an array. */
bool acp_json_pointer_add_index(char *pointer, size_t size, size_t position);

#endif
