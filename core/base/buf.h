/* buf.h - a growing byte string with a fixed maximum size.
 *
 * An append that would exceed the maximum, or that runs out of memory, marks the buffer as failed. Later appends then
 * do nothing, so a series of appends needs only one check at its end (acp_buf_ok). The bytes are always followed by a
 * NUL, which is not counted in len. The content itself may contain NULs. */
#ifndef ACP_BUF_H
#define ACP_BUF_H

#include "attr.h"

#include <stdarg.h>

struct acp_buf {
	char *ptr;   /* owned; NULL before the first append */
	size_t len;  /* bytes used, without the closing NUL */
	size_t cap;  /* bytes allocated */
	size_t max;  /* len never exceeds this */
	bool failed; /* an append did not fit: the content is incomplete */
};

/* Makes an empty buffer that holds at most max bytes. Allocates nothing. */
void acp_buf_init(struct acp_buf *buf, size_t max) ACP_NONNULL;

/* Makes an empty buffer in the caller's memory, for short-lived text. It holds at most size - 1 bytes, allocates
 * nothing and must not be released. */
void acp_buf_borrow(struct acp_buf *buf, char *memory, size_t size) ACP_NONNULL;

/* Frees the memory. The buffer is then in the same state as after acp_buf_init with the same maximum. */
void acp_buf_release(struct acp_buf *buf) ACP_NONNULL;

/* Empties the buffer and keeps its memory for the next use. Also clears the failed mark. */
void acp_buf_clear(struct acp_buf *buf) ACP_NONNULL;

/* Empties the buffer and gives back what it has allocated beyond keep bytes. */
void acp_buf_shrink(struct acp_buf *buf, size_t keep) ACP_NONNULL;

void acp_buf_add(struct acp_buf *buf, const void *bytes, size_t len);
void acp_buf_puts(struct acp_buf *buf, const char *text) ACP_NONNULL;
void acp_buf_putc(struct acp_buf *buf, char c) ACP_NONNULL;
void acp_buf_put_int(struct acp_buf *buf, int64_t value) ACP_NONNULL; /* in decimal */
void acp_buf_printf(struct acp_buf *buf, const char *format, ...) ACP_PRINTF(2, 3);
void acp_buf_vprintf(struct acp_buf *buf, const char *format, va_list args) ACP_PRINTF(2, 0);

/* Makes room for `more` further bytes, so that appending them cannot fail. Returns false if they do not fit or memory
 * runs out; the content is then unchanged. */
bool acp_buf_reserve(struct acp_buf *buf, size_t more) ACP_MUSTCHECK ACP_NONNULL;

/* Appends text as a JSON string with its quotes. Bytes that are not UTF-8 are passed through unchanged. */
void acp_buf_json_string(struct acp_buf *buf, const char *text, size_t len);

/* The same without the quotes. */
void acp_buf_json_chars(struct acp_buf *buf, const char *text, size_t len);

/* Writes the decimal digits of value so that they end just before end. Returns a pointer to the first digit, at most 20
 * bytes before end. */
char *acp_digits(char *end, uint64_t value) ACP_NONNULL;

/* Copies as much of text as fits, followed by a NUL. */
void acp_copy(char *out, size_t size, const char *text) ACP_NONNULL;

/* Returns how many of the first bytes may stand in a JSON string as they are, and are ASCII. */
size_t acp_plain_length(const char *text, size_t len) ACP_NONNULL;

/* Returns the length of the UTF-8 sequence at p. left is the number of bytes available. Returns 0 for an invalid
 * sequence (RFC 3629: the shortest form, no surrogates, nothing above U+10FFFF). */
size_t acp_utf8_length(const unsigned char *p, size_t left) ACP_NONNULL;

/* Removes an incomplete UTF-8 sequence from the end of a text that was cut to fit. */
void acp_utf8_trim(char *text) ACP_NONNULL;

/* True when every append since the last init or clear succeeded. */
bool acp_buf_ok(const struct acp_buf *buf) ACP_MUSTCHECK ACP_NONNULL;

#endif
