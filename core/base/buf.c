#include "buf.h"

#include "crypto.h"

void acp_buf_init(struct acp_buf *buf, size_t max)
{
	*buf = (struct acp_buf){.ptr = NULL, .max = max};
}

void acp_buf_borrow(struct acp_buf *buf, char *memory, size_t size)
{
	*buf = (struct acp_buf){.ptr = memory, .cap = size, .max = size - 1};
	*memory = '\0';
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

void acp_buf_shrink(struct acp_buf *buf, size_t keep)
{
	acp_buf_clear(buf);
	char *less = buf->cap > keep ? realloc(buf->ptr, keep) : NULL;
	if (!less)
		return;
	buf->ptr = less;
	buf->cap = keep;
}

static bool grow(struct acp_buf *buf, size_t need)
{
	size_t cap = buf->cap ? buf->cap : 128;
	while (cap < need)
		cap *= 2;
	char *ptr = malloc(cap);
	if (!ptr) {
		buf->failed = true;
		return false;
	}
	/* Not realloc: it would leave a copy behind, and the buffer may hold a new key. */
	if (buf->ptr) {
		memcpy(ptr, buf->ptr, buf->len);
		ptr[buf->len] = '\0';
		acp_wipe(buf->ptr, buf->cap);
		free(buf->ptr);
	}
	buf->ptr = ptr;
	buf->cap = cap;
	return true;
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
	return need <= buf->cap || grow(buf, need);
}

bool acp_buf_reserve(struct acp_buf *buf, size_t more)
{
	if (buf->failed)
		return false;
	bool fits = reserve(buf, more);
	buf->failed = false;
	if (fits && buf->ptr && !buf->len)
		buf->ptr[0] = '\0';
	return fits;
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
	if (!reserve(buf, 1))
		return;
	buf->ptr[buf->len++] = c;
	buf->ptr[buf->len] = '\0';
}

char *acp_digits(char *end, uint64_t value)
{
	do {
		*--end = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	return end;
}

void acp_buf_put_int(struct acp_buf *buf, int64_t value)
{
	char digits[21];
	char *end = digits + sizeof digits;
	char *at = acp_digits(end, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
	if (value < 0)
		*--at = '-';
	acp_buf_add(buf, at, (size_t)(end - at));
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

static void put_escape(struct acp_buf *buf, unsigned char c)
{
	static const char hex[] = "0123456789abcdef";
	char escape[7] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15], '\0'};
	switch (c) {
	case '"':
	case '\\': escape[1] = (char)c; break;
	case '\b': escape[1] = 'b'; break;
	case '\f': escape[1] = 'f'; break;
	case '\n': escape[1] = 'n'; break;
	case '\r': escape[1] = 'r'; break;
	case '\t': escape[1] = 't'; break;
	default: acp_buf_add(buf, escape, 6); return;
	}
	acp_buf_add(buf, escape, 2);
}

static bool is_plain(unsigned char c)
{
	return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

size_t acp_plain_length(const char *text, size_t len)
{
	static const uint64_t each = 0x0101010101010101u, high = 0x8080808080808080u;
	size_t plain = 0;
	/* Eight bytes at a time. The highest bit of a byte is set if the byte has it, or if a subtraction borrows from
	 * it because the byte is below 0x20, or is one of the two characters. */
	for (uint64_t word; len - plain >= sizeof word; plain += sizeof word) {
		memcpy(&word, text + plain, sizeof word);
		uint64_t quote = word ^ (each * '"'), backslash = word ^ (each * '\\');
		if ((word | (word - each * 0x20) | (quote - each) | (backslash - each)) & high)
			break;
	}
	while (plain < len && is_plain((unsigned char)text[plain]))
		plain++;
	return plain;
}

void acp_buf_json_chars(struct acp_buf *buf, const char *text, size_t len)
{
	size_t kept = 0; /* the bytes before this position have been appended */
	for (size_t i = acp_plain_length(text, len); i < len; i += 1 + acp_plain_length(text + i + 1, len - i - 1)) {
		unsigned char c = (unsigned char)text[i];
		if (c >= 0x20 && c != '"' && c != '\\')
			continue;
		acp_buf_add(buf, text + kept, i - kept);
		put_escape(buf, c);
		kept = i + 1;
	}
	acp_buf_add(buf, text + kept, len - kept);
}

void acp_buf_json_string(struct acp_buf *buf, const char *text, size_t len)
{
	acp_buf_putc(buf, '"');
	acp_buf_json_chars(buf, text, len);
	acp_buf_putc(buf, '"');
}

void acp_copy(char *out, size_t size, const char *text)
{
	size_t len = strnlen(text, size - 1);
	memcpy(out, text, len);
	out[len] = '\0';
}

size_t acp_utf8_length(const unsigned char *p, size_t left)
{
	unsigned char lead = p[0];
	unsigned char low = 0x80;
	unsigned char high = 0xbf;
	size_t len = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;

	if (lead < 0x80)
		return 1;
	if (lead < 0xc2 || lead > 0xf4 || len > left)
		return 0;
	if (lead == 0xe0)
		low = 0xa0;
	else if (lead == 0xed)
		high = 0x9f;
	else if (lead == 0xf0)
		low = 0x90;
	else if (lead == 0xf4)
		high = 0x8f;
	if (p[1] < low || p[1] > high)
		return 0;
	for (size_t i = 2; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	}
	return len;
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
