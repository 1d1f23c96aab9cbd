/* Numbers as ECMAScript writes them (json_canonical.c). Any eight bytes are a double. The written text reads back as
 * the same double, has no more digits than printf needs, and the layout that its size requires. */
#include "../fuzz.h"

#include <math.h>

static int significant(const char *text)
{
	int count = 0, zeros = 0;
	for (; *text && *text != 'e'; text++) {
		if (*text < '0' || *text > '9')
			continue;
		if (*text == '0') {
			zeros += count > 0;
			continue;
		}
		count += zeros + 1;
		zeros = 0;
	}
	return count ? count : 1;
}

/* Returns the fewest digits with which the output of printf reads back as the value. */
static int fewest(double value)
{
	char text[40];
	for (int digits = 1; digits < 17; digits++) {
		snprintf(text, sizeof text, "%.*e", digits - 1, value);
		if (strtod(text, NULL) == value)
			return digits;
	}
	return 17;
}

static void check(double value)
{
	char text[32];
	double size = fabs(value);
	acp_json_number(value, text);
	FUZZ_CHECK(strlen(text) < 26, "%s", text);
	FUZZ_CHECK(strtod(text, NULL) == value, "%.17g as %s", value, text);
	FUZZ_CHECK(strspn(text, "-+.e0123456789") == strlen(text), "%s", text);
	FUZZ_CHECK(significant(text) <= fewest(value), "%.17g as %s", value, text);
	bool plain = size == 0 || (size >= 1e-6 && size < 1e21);
	FUZZ_CHECK((strchr(text, 'e') == NULL) == plain, "%.17g as %s", value, text);
	FUZZ_CHECK(value != 0 || strcmp(text, "0") == 0, "zero as %s", text);
	struct oracle oracle = oracle_read((const uint8_t *)text, strlen(text));
	FUZZ_CHECK(oracle.valid, "%s is not JSON", text);
}

void fuzz_number(const uint8_t *data, size_t size)
{
	double value;
	for (; size >= sizeof value; data += sizeof value, size -= sizeof value) {
		memcpy(&value, data, sizeof value);
		if (isfinite(value))
			check(value);
	}
}
