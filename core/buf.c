#include "buf.h"

void acp_buf_init(struct acp_buf *buf, size_t max)
{
	*buf = (struct acp_buf){.ptr = NULL, .max = max};
}

void acp_buf_release(struct acp_buf *buf)
{
	free(buf->ptr);
	acp_buf_init(buf, buf->max);
}

void acp_buf_clear(struct acp_buf *buf)
{
	buf->len = 0;
	buf->failed = false;
	if (buf->ptr)
		buf->ptr[0] = '\0';
}

/* Makes room for more bytes and the closing NUL. */
static bool reserve(struct acp_buf *buf, size_t more)
{
	if (buf->failed)
		return false;
	if (more > buf->max - buf->len) {
		buf->failed = true;
		return false;
	}
	size_t need = buf->len + more + 1;
	if (need <= buf->cap)
		return true;
	size_t cap = buf->cap ? buf->cap : 128;
	while (cap < need)
		cap *= 2;
	char *ptr = realloc(buf->ptr, cap);
	if (!ptr) {
		buf->failed = true;
		return false;
	}
	buf->ptr = ptr;
	buf->cap = cap;
	return true;
}

void acp_buf_add(struct acp_buf *buf, const void *bytes, size_t len)
{
	if (!reserve(buf, len))
		return;
	if (len)
		memcpy(buf->ptr + buf->len, bytes, len);
	buf->len += len;
	buf->ptr[buf->len] = '\0';
}

void acp_buf_puts(struct acp_buf *buf, const char *text)
{
	acp_buf_add(buf, text, strlen(text));
}

void acp_buf_putc(struct acp_buf *buf, char c)
{
	acp_buf_add(buf, &c, 1);
}

void acp_buf_vprintf(struct acp_buf *buf, const char *format, va_list args)
{
	va_list again;
	va_copy(again, args);
	int len = vsnprintf(NULL, 0, format, args);
	if (len < 0)
		buf->failed = true;
	else if (reserve(buf, (size_t)len)) {
		vsnprintf(buf->ptr + buf->len, (size_t)len + 1, format, again);
		buf->len += (size_t)len;
	}
	va_end(again);
}

void acp_buf_printf(struct acp_buf *buf, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	acp_buf_vprintf(buf, format, args);
	va_end(args);
}

void acp_buf_json_string(struct acp_buf *buf, const char *text, size_t len)
{
	acp_buf_putc(buf, '"');
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];
		switch (c) {
		case '"': acp_buf_puts(buf, "\\\""); break;
		case '\\': acp_buf_puts(buf, "\\\\"); break;
		case '\b': acp_buf_puts(buf, "\\b"); break;
		case '\f': acp_buf_puts(buf, "\\f"); break;
		case '\n': acp_buf_puts(buf, "\\n"); break;
		case '\r': acp_buf_puts(buf, "\\r"); break;
		case '\t': acp_buf_puts(buf, "\\t"); break;
		default:
			if (c < 0x20)
				acp_buf_printf(buf, "\\u%04x", c);
			else
				acp_buf_putc(buf, (char)c);
		}
	}
	acp_buf_putc(buf, '"');
}

void acp_utf8_trim(char *text)
{
	size_t len = strlen(text);
	size_t lead = len;
	while (lead && len - lead < 4 && ((unsigned char)text[lead - 1] & 0xc0) == 0x80)
		lead--;
	if (!lead)
		return;
	unsigned char c = (unsigned char)text[lead - 1];
	size_t whole = c < 0xc0 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
	if (c >= 0xc0 && len - (lead - 1) < whole)
		text[lead - 1] = '\0';
}

bool acp_buf_ok(const struct acp_buf *buf)
{
	return !buf->failed;
}
