/* json_scan.h - the grammar half of json.c: is this byte string exactly one RFC 8259 document within the limits?
 *
 * Private to core/json*.c and core/schema.c. The scanner keeps no tree; it only remembers the names of the objects
 * that are open, to find duplicates and to say where an error is. */
#ifndef ACP_JSON_SCAN_H
#define ACP_JSON_SCAN_H

#include "json.h"

/* How much a document holds. json-c (0.16 at least) drops a member or cuts a string without a word when memory is lacking
 * at that moment, so the tree must be compared with what was read. */
struct acp_json_weight {
	size_t tokens; /* values and member names */
	size_t bytes;  /* of names and strings without their escapes, and of the digits of fractions */
};

/* Judges text by the rules of acp_json_parse. On ACP_JSON_OK *weight is the document's, else *error is filled. Of several
 * faults the one that is found first is told; duplicate names are found where their object ends. */
enum acp_json_verdict acp_json_scan(const char *text, size_t len, const struct acp_json_limits *limits,
				    struct acp_json_weight *weight, struct acp_json_error *error) ACP_MUSTCHECK;

/* Appends "/name" to the RFC 6901 pointer that is in pointer (size bytes, a NUL included). What does not fit is replaced
 * with "..."; the result is then false, and nothing more should be appended. Never cuts inside a UTF-8 sequence. */
bool acp_json_pointer_add(char *pointer, size_t size, const char *name, size_t len);

/* The same for an element of an array. */
bool acp_json_pointer_add_index(char *pointer, size_t size, size_t position);

#endif
