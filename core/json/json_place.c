#include "json_place.h"

int acp_json_line(const char *text, size_t offset)
{
	int line = 1;
	for (size_t i = 0; i < offset && text[i]; i++)
		line += text[i] == '\n';
	return line;
}

static const char *skip_space(const char *at)
{
	return at + strspn(at, " \t\r\n");
}

/* Skips the string that begins at a quote. */
static const char *skip_string(const char *at)
{
	for (at++; *at && *at != '"'; at++)
		at += *at == '\\' && at[1];
	return at + (*at == '"');
}

static const char *skip_value(const char *at)
{
	int depth = 0;
	if (!strchr("\"{[", *at))
		return at + strcspn(at, ",]} \t\r\n");
	do {
		if (*at == '"') {
			at = skip_string(at);
			continue;
		}
		depth += (*at == '{' || *at == '[') - (*at == '}' || *at == ']');
		at++;
	} while (depth > 0 && *at);
	return at;
}

/* Does this token of a pointer equal the raw name, given without its quotes? A name written with escapes never
 * matches. */
static bool is_name(const char *token, size_t len, const char *name, size_t name_len)
{
	size_t used = 0;
	for (size_t i = 0; i < len; i++) {
		char c = token[i];
		if (c == '~' && i + 1 < len)
			c = token[++i] == '1' ? '/' : '~';
		if (used == name_len || name[used++] != c)
			return false;
	}
	return used == name_len;
}

/* Steps from a container (*value) to one of its members or elements. *at becomes its start, which for a member is its
 * name. */
static bool enter(const char **at, const char **value, const char *token, size_t len)
{
	const char *here = *value;
	bool object = *here == '{';
	size_t index = 0;
	if (!object && *here != '[')
		return false;
	for (here = skip_space(here + 1); *here && *here != '}' && *here != ']';
	     here = skip_space(here + (*here == ','))) {
		const char *begin = here;
		bool found = !object && strtoul(token, NULL, 10) == index++;
		if (object) {
			const char *end = skip_string(here);
			found = is_name(token, len, here + 1, (size_t)(end - here) - 2);
			here = skip_space(skip_space(end) + 1); /* past the colon */
		}
		if (found) {
			*at = begin;
			*value = here;
			return true;
		}
		here = skip_space(skip_value(here));
	}
	return false;
}

int acp_json_line_of(const char *text, const char *pointer)
{
	const char *at = skip_space(text);
	const char *value = at;
	while (*pointer == '/') {
		size_t len = strcspn(++pointer, "/");
		if (!enter(&at, &value, pointer, len))
			break;
		pointer += len;
	}
	return acp_json_line(text, (size_t)(at - text));
}
