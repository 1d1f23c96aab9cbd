/* The client's address (fcgi/address.c). The input: trusted_proxies, REMOTE_ADDR and X-Forwarded-For, separated by
 * NULs. The address equals the result of a second implementation. If the peer is not trusted, the header has no
 * effect. */
#include "address.h"
#include "../fuzz.h"

#include <arpa/inet.h>

/* An address as a 128-bit number; IPv4 in its mapped form. */
static bool number_of(const char *text, unsigned __int128 *out)
{
	uint8_t bytes[16] = {[10] = 0xff, [11] = 0xff};
	if (inet_pton(AF_INET6, text, bytes) != 1 && inet_pton(AF_INET, text, bytes + 12) != 1)
		return false;
	*out = 0;
	for (int i = 0; i < 16; i++)
		*out = *out << 8 | bytes[i];
	return true;
}

static bool in_network(const char *word, const char *address)
{
	char text[64];
	unsigned __int128 network, number;
	long bits = 128;
	snprintf(text, sizeof text, "%s", word);
	char *slash = strchr(text, '/');
	if (slash)
		*slash = '\0';
	if (!number_of(text, &network) || !number_of(address, &number))
		return false;
	if (slash) {
		char *end;
		bits = strtol(slash + 1, &end, 10);
		if (end == slash + 1 || *end || bits < 0 || bits > (strchr(text, ':') ? 128 : 32))
			return false;
		bits += strchr(text, ':') ? 0 : 96;
	}
	return bits == 0 || (network >> (128 - bits)) == (number >> (128 - bits));
}

static bool trusted(const char *list, const char *address)
{
	char *copy = strdup(list), *at = copy, *word;
	bool found = false;
	while (!found && (word = strsep(&at, " ")))
		found = *word && in_network(word, address);
	free(copy);
	return found;
}

/* Removes and returns the text after the last comma of a list, without surrounding spaces. */
static char *last_of(char *list)
{
	char *comma = strrchr(list, ',');
	char *word = comma ? comma + 1 : list;
	char *end = word + strlen(word);
	while (end > word && end[-1] == ' ')
		*--end = '\0';
	word += strspn(word, " ");
	char *out = strdup(word);
	*(comma ? comma : list) = '\0';
	return out;
}

static void expect(const char *list, const char *remote, const char *forwarded, char out[ACP_ADDRESS_MAX])
{
	unsigned __int128 number;
	char *left = strdup(forwarded);
	bool known = strlen(remote) < ACP_ADDRESS_MAX && number_of(remote, &number);
	snprintf(out, ACP_ADDRESS_MAX, "%s", known ? remote : "");
	while (known && *left && trusted(list, out)) {
		char *word = last_of(left);
		bool good = strlen(word) < ACP_ADDRESS_MAX && number_of(word, &number);
		if (good)
			snprintf(out, ACP_ADDRESS_MAX, "%s", word);
		free(word);
		if (!good)
			break;
	}
	free(left);
}

void fuzz_address(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	char bad[64], out[ACP_ADDRESS_MAX], wanted[ACP_ADDRESS_MAX], plain[ACP_ADDRESS_MAX];
	unsigned __int128 number;
	char *list = fuzz_part(&in, NULL);
	char *remote = fuzz_part(&in, NULL);
	char *forwarded = fuzz_part(&in, NULL);
	/* A list that the configuration would refuse is never used. */
	if (acp_proxies_ok(list, bad)) {
		acp_client_address(list, remote, forwarded, out);
		acp_client_address(list, remote, NULL, plain);
		expect(list, remote, forwarded, wanted);
		FUZZ_CHECK(strcmp(out, wanted) == 0, "%s, not %s", out, wanted);
		FUZZ_CHECK(!*out || number_of(out, &number), "%s is not an address", out);
		FUZZ_CHECK(trusted(list, remote) || strcmp(out, plain) == 0, "%s was taken from an untrusted peer",
			   out);
	} else {
		FUZZ_CHECK(*bad && strlen(bad) < sizeof bad, "which word?");
	}
	free(list);
	free(remote);
	free(forwarded);
}
