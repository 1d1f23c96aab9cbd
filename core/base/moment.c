#include "moment.h"

#include <time.h>

/* Reads exactly count digits at *at and moves it behind them. Returns -1 if there are fewer. */
static int digits(const char **at, int count)
{
	int value = 0;
	for (; count > 0; count--, (*at)++) {
		if (**at < '0' || **at > '9')
			return -1;
		value = value * 10 + (**at - '0');
	}
	return value;
}

/* Moves *at behind the character c. */
static bool skip(const char **at, char c)
{
	if (**at != c)
		return false;
	(*at)++;
	return true;
}

static int days_of(int year, int month)
{
	static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
	return days[month - 1] + (leap && month == 2);
}

static bool read_date(const char **at, struct tm *tm)
{
	int year = digits(at, 4);
	int month = year >= 0 && skip(at, '-') ? digits(at, 2) : -1;
	int day = month >= 1 && month <= 12 && skip(at, '-') ? digits(at, 2) : -1;
	*tm = (struct tm){.tm_year = year - 1900, .tm_mon = month - 1, .tm_mday = day};
	return day >= 1 && day <= days_of(year, month);
}

static bool read_time(const char **at, struct tm *tm, int *microseconds)
{
	tm->tm_hour = digits(at, 2);
	tm->tm_min = tm->tm_hour >= 0 && skip(at, ':') ? digits(at, 2) : -1;
	tm->tm_sec = tm->tm_min >= 0 && skip(at, ':') ? digits(at, 2) : -1;
	*microseconds = 0;
	if (tm->tm_sec < 0 || tm->tm_hour > 23 || tm->tm_min > 59 || tm->tm_sec > 59)
		return false;
	if (!skip(at, '.'))
		return true;
	const char *start = *at;
	for (int unit = 100000; **at >= '0' && **at <= '9'; unit /= 10, (*at)++)
		*microseconds += unit * (**at - '0');
	return *at > start && *at - start <= 6;
}

/* Reads Z or an offset from UTC, into seconds. */
static bool read_offset(const char **at, long *seconds)
{
	*seconds = 0;
	if (skip(at, 'Z') || skip(at, 'z'))
		return true;
	long sign = **at == '-' ? -1 : 1;
	if (!skip(at, '+') && !skip(at, '-'))
		return false;
	int hours = digits(at, 2);
	int minutes = hours >= 0 && skip(at, ':') ? digits(at, 2) : -1;
	*seconds = sign * (hours * 3600L + minutes * 60L);
	return minutes >= 0 && minutes <= 59 && hours <= 23;
}

bool acp_moment_utc(const char *text, char out[ACP_MOMENT_MAX])
{
	struct tm tm;
	int microseconds = 0;
	long offset = 0;
	const char *at = text;
	if (!read_date(&at, &tm))
		return false;
	if (*at && ((!skip(&at, 'T') && !skip(&at, 't')) || !read_time(&at, &tm, &microseconds) ||
		    !read_offset(&at, &offset) || *at))
		return false;
	time_t seconds = timegm(&tm) - offset;
	if (seconds < 0 || !gmtime_r(&seconds, &tm) || tm.tm_year + 1900 > 9999)
		return false;
	size_t len = strftime(out, ACP_MOMENT_MAX, "%Y-%m-%dT%H:%M:%S", &tm);
	if (microseconds)
		len += (size_t)snprintf(out + len, ACP_MOMENT_MAX - len, ".%06d", microseconds);
	snprintf(out + len, ACP_MOMENT_MAX - len, "Z");
	return true;
}
