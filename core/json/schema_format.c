#include "schema_node.h"
#include "crypto.h"

/* Reads exactly count digits. Returns -1 when there are fewer. Stops at the closing NUL. */
static int fixed_digits(const char *text, int count)
{
	int value = 0;
	for (int i = 0; i < count; i++) {
		if (!is_digit(text[i]))
			return -1;
		value = value * 10 + (text[i] - '0');
	}
	return value;
}

/* Accepts the ten characters of an RFC 3339 full-date at the start of text. */
static bool starts_with_date(const char *text)
{
	static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	int year = fixed_digits(text, 4);
	if (year < 0 || text[4] != '-')
		return false;
	int month = fixed_digits(text + 5, 2);
	if (month < 1 || month > 12 || text[7] != '-')
		return false;
	int day = fixed_digits(text + 8, 2);
	bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
	return day >= 1 && day <= days[month - 1] + (leap && month == 2);
}

static bool is_date(const char *text)
{
	return starts_with_date(text) && text[10] == '\0';
}

/* Not from JSON Schema: a UTC month, as the API writes it. */
static bool is_month(const char *text)
{
	int month = fixed_digits(text, 4) > 0 && text[4] == '-' ? fixed_digits(text + 5, 2) : 0;
	return month >= 1 && month <= 12 && text[7] == '\0';
}

/* Parses text as an offset from UTC, in minutes. Returns false if it is not one. */
static bool parse_offset(const char *text, int *minutes)
{
	*minutes = 0;
	if (*text == 'Z' || *text == 'z')
		return text[1] == '\0';
	if (*text != '+' && *text != '-')
		return false;
	int hour = fixed_digits(text + 1, 2);
	if (hour < 0 || hour > 23 || text[3] != ':')
		return false;
	int minute = fixed_digits(text + 4, 2);
	if (minute < 0 || minute > 59 || text[6] != '\0')
		return false;
	*minutes = (*text == '-' ? -1 : 1) * (hour * 60 + minute);
	return true;
}

static bool is_date_time(const char *text)
{
	int offset = 0;
	if (!starts_with_date(text) || (text[10] != 'T' && text[10] != 't'))
		return false;
	const char *p = text + 11;
	int hour = fixed_digits(p, 2);
	if (hour < 0 || hour > 23 || p[2] != ':')
		return false;
	int minute = fixed_digits(p + 3, 2);
	if (minute < 0 || minute > 59 || p[5] != ':')
		return false;
	int second = fixed_digits(p + 6, 2);
	if (second < 0 || second > 60)
		return false;
	p += 8;
	if (*p == '.') {
		if (!is_digit(*++p))
			return false;
		while (is_digit(*p))
			p++;
	}
	if (!parse_offset(p, &offset))
		return false;
	/* Leap seconds are added only at the end of a UTC day. */
	return second < 60 || (hour * 60 + minute - offset + 2 * 1440) % 1440 == 1439;
}

/* Labels of 1 to 63 letters, digits and inner hyphens. */
static bool is_domain(const char *text)
{
	size_t label = 0;
	for (const char *p = text;; p++) {
		if (*p == '.' || *p == '\0') {
			if (!label || label > 63 || p[-1] == '-')
				return false;
			if (*p == '\0')
				return true;
			label = 0;
		} else if (is_alnum(*p) || (*p == '-' && label)) {
			label++;
		} else {
			return false;
		}
	}
}

/* local@domain as in RFC 5321, without quoted local parts and address literals. */
static bool is_email(const char *text)
{
	const char *at = strchr(text, '@');
	if (!at || at == text || at - text > 64 || strlen(text) > 254)
		return false;
	for (const char *p = text; p < at; p++) {
		bool dot_ok = *p == '.' && p > text && p[-1] != '.' && p + 1 < at;
		if (!dot_ok && !is_alnum(*p) && !strchr("!#$%&'*+/=?^_`{|}~-", *p))
			return false;
	}
	return is_domain(at + 1);
}

static bool is_hex(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* A scheme, a colon, and then only characters that RFC 3986 allows. */
static bool is_uri(const char *text)
{
	const char *p = text;
	if (!is_alnum(*p) || is_digit(*p))
		return false;
	while (is_alnum(*p) || *p == '+' || *p == '-' || *p == '.')
		p++;
	if (*p++ != ':' || *p == '\0')
		return false;
	for (; *p; p++) {
		if (*p == '%' ? !is_hex(p[1]) || !is_hex(p[2]) : !is_alnum(*p) && !strchr("-._~:/?#[]@!$&'()*+,;=", *p))
			return false;
	}
	return true;
}

static const struct format formats[] = {
	{"date-time", is_date_time, "must be a date and time such as 2026-01-31T23:59:59Z"},
	{"date", is_date, "must be a date such as 2026-01-31"},
	{"month", is_month, "must be a month such as 2026-01"},
	{"email", is_email, "must be an e-mail address"},
	{"uri", is_uri, "must be an absolute URI"},
	{"uuid", acp_is_uuid, "must be a UUID"},
};

const struct format *acp_schema_format(const char *name)
{
	for (size_t i = 0; i < ACP_COUNT(formats); i++) {
		if (strcmp(name, formats[i].name) == 0)
			return &formats[i];
	}
	return NULL;
}
