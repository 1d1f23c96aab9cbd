#include "address.h"

#include "buf.h"

#include <arpa/inet.h>

/* Parses an address into 16 bytes; IPv4 in its mapped form, so that one comparison works for both. */
static bool parse_address(const char *text, uint8_t out[16])
{
	static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
	if (inet_pton(AF_INET6, text, out) == 1)
		return true;
	memcpy(out, mapped, sizeof mapped);
	return inet_pton(AF_INET, text, out + 12) == 1;
}

/* Parses "10.0.0.0/8" or "::1" into an address and the number of significant bits. */
static bool parse_network(const char *word, uint8_t out[16], long *bits)
{
	char text[64];
	char *end = NULL;
	snprintf(text, sizeof text, "%s", word);
	char *slash = strchr(text, '/');
	if (slash)
		*slash = '\0';
	if (!parse_address(text, out))
		return false;
	long offset = strchr(text, ':') ? 0 : 96;
	*bits = 128;
	if (!slash)
		return true;
	long given = strtol(slash + 1, &end, 10);
	if (end == slash + 1 || *end || given < 0 || given > 128 - offset)
		return false;
	*bits = offset + given;
	return true;
}

static bool within(const uint8_t address[16], const uint8_t network[16], long bits)
{
	size_t bytes = (size_t)bits / 8;
	uint8_t mask = (uint8_t)(0xff00 >> (bits % 8));
	return memcmp(address, network, bytes) == 0 &&
	       (bits % 8 == 0 || (address[bytes] & mask) == (network[bytes] & mask));
}

/* Returns the next word of a list, or NULL at its end. */
static const char *next_word(const char **at, char word[64])
{
	*at += strspn(*at, " ");
	size_t len = strcspn(*at, " ");
	if (!len)
		return NULL;
	snprintf(word, 64, "%.*s", (int)len, *at);
	*at += len;
	return word;
}

bool acp_proxies_ok(const char *trusted, char bad[64])
{
	uint8_t network[16];
	long bits;
	while (next_word(&trusted, bad))
		if (!parse_network(bad, network, &bits))
			return false;
	return true;
}

static bool is_trusted(const char *trusted, const char *address)
{
	char word[64];
	uint8_t bytes[16];
	uint8_t network[16];
	long bits;
	if (!parse_address(address, bytes))
		return false;
	while (next_word(&trusted, word))
		if (parse_network(word, network, &bits) && within(bytes, network, bits))
			return true;
	return false;
}

/* Removes the last address from the list by shortening *len. False: the list is empty, or its last entry is not an
 * address. */
static bool take_last(const char *list, size_t *len, char out[ACP_ADDRESS_MAX])
{
	uint8_t bytes[16];
	size_t start = *len;
	while (start && list[start - 1] != ',')
		start--;
	size_t end = *len;
	*len = start ? start - 1 : 0;
	while (start < end && list[start] == ' ')
		start++;
	while (end > start && list[end - 1] == ' ')
		end--;
	if (end == start || end - start >= ACP_ADDRESS_MAX)
		return false;
	snprintf(out, ACP_ADDRESS_MAX, "%.*s", (int)(end - start), list + start);
	return parse_address(out, bytes);
}

void acp_client_address(const char *trusted, const char *remote_addr, const char *forwarded_for,
			char out[ACP_ADDRESS_MAX])
{
	char before[ACP_ADDRESS_MAX];
	uint8_t bytes[16];
	bool known = remote_addr && strlen(remote_addr) < ACP_ADDRESS_MAX && parse_address(remote_addr, bytes);
	acp_copy(out, ACP_ADDRESS_MAX, known ? remote_addr : "");
	size_t left = known && forwarded_for ? strlen(forwarded_for) : 0;
	while (left && is_trusted(trusted, out) && take_last(forwarded_for, &left, before))
		memcpy(out, before, sizeof before);
}
