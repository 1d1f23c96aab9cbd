/* oracle.c - a recursive parser of RFC 8259 that builds nothing, to compare with json_scan.c. */
#include "fuzz.h"

#include <math.h>

enum { DEPTH_MAX = 200 }; /* limited by the oracle's stack */

struct reading {
	const uint8_t *at, *end;
	struct oracle *out;
};

static bool value(struct reading *r, unsigned depth);

static void space(struct reading *r)
{
	while (r->at < r->end && strchr(" \t\r\n", *r->at) && *r->at)
		r->at++;
}

static bool next_is(struct reading *r, uint8_t byte)
{
	if (r->at >= r->end || *r->at != byte)
		return false;
	r->at++;
	return true;
}

/* Code points by their bits, then the ranges that UTF-8 excludes. */
static bool utf8(struct reading *r)
{
	uint8_t lead = *r->at++;
	int more = lead >= 0xf0 && lead < 0xf8   ? 3
		   : lead >= 0xe0 && lead < 0xf0 ? 2
		   : lead >= 0xc0 && lead < 0xe0 ? 1
						 : -1;
	if (more < 0)
		return false;
	uint32_t code = lead & (0x3fu >> more);
	for (int i = 0; i < more; i++) {
		if (r->at >= r->end || (*r->at & 0xc0) != 0x80)
			return false;
		code = code << 6 | (*r->at++ & 0x3fu);
	}
	static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
	return code >= least[more] && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff);
}

static int unit(struct reading *r)
{
	char digits[5] = "";
	char *end;
	if (r->end - r->at < 4)
		return -1;
	memcpy(digits, r->at, 4);
	if (strspn(digits, "0123456789abcdefABCDEF") != 4)
		return -1;
	r->at += 4;
	return (int)strtol(digits, &end, 16);
}

static bool escape(struct reading *r)
{
	if (r->at < r->end && strchr("\"\\/bfnrt", *r->at) && *r->at)
		return r->at++ != NULL;
	if (!next_is(r, 'u'))
		return false;
	int first = unit(r);
	if (first == 0)
		r->out->nul = true;
	if (first < 0xd800 || first > 0xdfff)
		return first >= 0;
	if (first > 0xdbff || !next_is(r, '\\') || !next_is(r, 'u'))
		return false;
	int second = unit(r);
	return second >= 0xdc00 && second <= 0xdfff;
}

static bool string(struct reading *r)
{
	if (!next_is(r, '"'))
		return false;
	while (r->at < r->end) {
		if (next_is(r, '"'))
			return true;
		if (*r->at < 0x20)
			return false;
		if (*r->at < 0x80 && *r->at != '\\')
			r->at++;
		else if (!(next_is(r, '\\') ? escape(r) : utf8(r)))
			return false;
	}
	return false;
}

static size_t digits(struct reading *r)
{
	const uint8_t *from = r->at;
	while (r->at < r->end && *r->at >= '0' && *r->at <= '9')
		r->at++;
	return (size_t)(r->at - from);
}

/* Computes in 128 bits: no number that may be exact overflows. */
static bool exact(const char *text)
{
	__int128 whole = 0;
	bool negative = *text == '-';
	for (const char *c = text + negative; *c; c++) {
		whole = whole * 10 + (*c - '0');
		if (whole > (__int128)1 << 64)
			return false;
	}
	whole = negative ? -whole : whole;
	return whole >= INT64_MIN && whole <= INT64_MAX && (__int128)(double)whole == whole;
}

static bool number(struct reading *r)
{
	const uint8_t *from = r->at;
	bool integer = true;
	next_is(r, '-');
	if (!next_is(r, '0') && !digits(r))
		return false;
	if (next_is(r, '.')) {
		integer = false;
		if (!digits(r))
			return false;
	}
	if (next_is(r, 'e') || next_is(r, 'E')) {
		integer = false;
		if (!next_is(r, '+'))
			next_is(r, '-');
		if (!digits(r))
			return false;
	}
	char *text = strndup((const char *)from, (size_t)(r->at - from));
	if (!(integer ? exact(text) : isfinite(strtod(text, NULL)) != 0))
		r->out->inexact = true;
	free(text);
	return true;
}

static bool word(struct reading *r, const char *text)
{
	for (; *text; text++)
		if (!next_is(r, (uint8_t)*text))
			return false;
	return true;
}

static bool member(struct reading *r, unsigned depth)
{
	r->out->tokens++;
	r->out->members++;
	if (!string(r))
		return false;
	space(r);
	return next_is(r, ':') && value(r, depth);
}

static bool container(struct reading *r, bool object, unsigned depth)
{
	uint8_t close = object ? '}' : ']';
	if (depth > r->out->depth)
		r->out->depth = depth;
	if (depth > DEPTH_MAX)
		return !(r->out->too_deep = true);
	space(r);
	if (next_is(r, close))
		return true;
	do {
		space(r);
		if (!(object ? member(r, depth) : value(r, depth)))
			return false;
	} while (next_is(r, ','));
	return next_is(r, close);
}

/* A value and the space around it. depth: the number of open containers around it. */
static bool value(struct reading *r, unsigned depth)
{
	space(r);
	r->out->tokens++;
	bool ok = false;
	uint8_t c = r->at < r->end ? *r->at : 0;
	if (c == '{' || c == '[') {
		r->at++;
		ok = container(r, c == '{', depth + 1);
	} else if (c == '"') {
		ok = string(r);
	} else if (c == '-' || (c >= '0' && c <= '9')) {
		ok = number(r);
	} else {
		ok = word(r, c == 't' ? "true" : c == 'f' ? "false" : "null");
	}
	if (ok)
		space(r);
	return ok;
}

struct oracle oracle_read(const uint8_t *text, size_t len)
{
	struct oracle out = {0};
	struct reading r = {.at = text, .end = text + len, .out = &out};
	out.valid = value(&r, 0) && r.at == r.end;
	return out;
}
