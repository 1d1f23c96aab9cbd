/* json_scan.h - shared by the reader in json_scan.c and core/json/schema*.c: RFC 6901 pointers for error messages.
 *
 * Private to these files. The reader's own interface is acp_json_parse in json.h. */
#ifndef ACP_JSON_SCAN_H
#define ACP_JSON_SCAN_H

#include "attr.h"

/* Appends "/name" to the RFC 6901 pointer in pointer (size bytes, including the NUL). Returns false when it does not
 * fit: the pointer then ends in "...", and the caller must append nothing more. Never cuts inside a UTF-8 sequence. */
bool acp_json_pointer_add(char *pointer, size_t size, const char *name, size_t len);

/* The same for an element of an array. */
bool acp_json_pointer_add_index(char *pointer, size_t size, size_t position);

#endif
