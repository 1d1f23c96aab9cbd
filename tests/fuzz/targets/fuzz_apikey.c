/* API keys (apikey.c): the program and a second implementation of the contract agree on the form. Generated keys are
 * well-formed, and no key with one changed character is. */
#include "apikey.h"
#include "../fuzz.h"

static const char base62[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/* CRC-32 bit by bit. */
static uint32_t crc_of(const char *text, size_t len)
{
	uint32_t crc = ~0u;
	for (size_t i = 0; i < len; i++) {
		crc ^= (uint8_t)text[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
	}
	return ~crc;
}

static bool expected(const char *prefix, const char *text)
{
	size_t head = strlen(prefix) + ACP_KEY_SECRET_LEN;
	if (strlen(text) != head + ACP_KEY_CHECK_LEN || strncmp(text, prefix, strlen(prefix)) != 0 ||
	    strspn(text + strlen(prefix), base62) != ACP_KEY_SECRET_LEN + ACP_KEY_CHECK_LEN)
		return false;
	uint64_t check = 0;
	for (const char *c = text + head; *c; c++)
		check = check * 62 + (uint64_t)(strchr(base62, *c) - base62);
	return check == crc_of(text, head);
}

static bool prefix_expected(const char *prefix)
{
	size_t len = strlen(prefix);
	return len >= 3 && len <= 13 && strspn(prefix, "abcdefghijklmnopqrstuvwxyz0123456789") == len - 1 &&
	       prefix[len - 1] == '_';
}

static void check_made(const char *prefix, const uint8_t seed[32], uint8_t where, char other)
{
	char key[ACP_KEY_MAX], again[ACP_KEY_MAX], shown[ACP_KEY_SHOWN + 1];
	acp_key_from_seed(prefix, seed, key);
	acp_key_from_seed(prefix, seed, again);
	FUZZ_CHECK(strcmp(key, again) == 0, "two keys of one seed: %s %s", key, again);
	FUZZ_CHECK(acp_key_wellformed(prefix, key) && expected(prefix, key), "%s", key);
	acp_key_shown(key, shown);
	FUZZ_CHECK(strlen(shown) == ACP_KEY_SHOWN && strncmp(shown, key, ACP_KEY_SHOWN) == 0, "%s", shown);
	size_t at = where % strlen(key);
	if (key[at] == other)
		return;
	key[at] = other;
	FUZZ_CHECK(!acp_key_wellformed(prefix, key), "%s after a change", key);
}

void fuzz_apikey(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	uint8_t seed[32] = {0};
	uint8_t where = fuzz_byte(&in);
	char other = (char)fuzz_byte(&in);
	char *prefix = fuzz_part(&in, NULL);
	char *text = fuzz_part(&in, NULL);
	memcpy(seed, in.at, in.left < sizeof seed ? in.left : sizeof seed);
	FUZZ_CHECK(acp_key_prefix_ok(prefix) == prefix_expected(prefix), "prefix %s", prefix);
	if (prefix_expected(prefix)) {
		FUZZ_CHECK(acp_key_wellformed(prefix, text) == expected(prefix, text), "%s %s", prefix, text);
		check_made(prefix, seed, where, other);
	}
	free(prefix);
	free(text);
}
