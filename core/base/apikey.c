#include "apikey.h"

#include <ctype.h>

static const char base62[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/* CRC-32 as in zlib and PNG (polynomial 0xEDB88320). It reads half a byte at a time, which keeps the table short. */
static uint32_t crc32_of(const char *text, size_t len)
{
	static const uint32_t table[16] = {
		0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
		0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
	};
	uint32_t crc = 0xffffffffu;
	for (size_t i = 0; i < len; i++) {
		crc ^= (unsigned char)text[i];
		crc = (crc >> 4) ^ table[crc & 15];
		crc = (crc >> 4) ^ table[crc & 15];
	}
	return ~crc;
}

static void write_check(const char *text, size_t len, char out[ACP_KEY_CHECK_LEN + 1])
{
	uint32_t crc = crc32_of(text, len);
	for (int i = ACP_KEY_CHECK_LEN - 1; i >= 0; i--) {
		out[i] = base62[crc % 62];
		crc /= 62;
	}
	out[ACP_KEY_CHECK_LEN] = '\0';
}

bool acp_key_prefix_ok(const char *prefix)
{
	size_t len = strlen(prefix);
	if (len < 3 || len > ACP_KEY_PREFIX_MAX || prefix[len - 1] != '_')
		return false;
	for (size_t i = 0; i + 1 < len; i++)
		if (!islower((unsigned char)prefix[i]) && !isdigit((unsigned char)prefix[i]))
			return false;
	return true;
}

void acp_key_from_seed(const char *prefix, const uint8_t seed[32], char out[ACP_KEY_MAX])
{
	uint8_t block[ACP_SHA256_LEN];
	size_t len = strlen(prefix);
	size_t want = len + ACP_KEY_SECRET_LEN;
	memcpy(out, prefix, len);
	/* HMAC in counter mode generates the bytes. Skip bytes of 248 and above: they would favour some digits. */
	for (uint8_t counter = 0; len < want; counter++) {
		acp_hmac_sha256(seed, 32, &counter, 1, block);
		for (size_t i = 0; i < sizeof block && len < want; i++)
			if (block[i] < 248)
				out[len++] = base62[block[i] % 62];
	}
	acp_wipe(block, sizeof block);
	write_check(out, len, out + len);
}

bool acp_key_wellformed(const char *prefix, const char *text)
{
	char check[ACP_KEY_CHECK_LEN + 1];
	size_t prefix_len = strlen(prefix);
	size_t body = prefix_len + ACP_KEY_SECRET_LEN;
	if (strlen(text) != body + ACP_KEY_CHECK_LEN || strncmp(text, prefix, prefix_len) != 0)
		return false;
	for (const char *c = text + prefix_len; *c; c++)
		if (!isalnum((unsigned char)*c))
			return false;
	write_check(text, body, check);
	return memcmp(check, text + body, ACP_KEY_CHECK_LEN) == 0;
}

void acp_key_hash(const char *pepper, const char *text, uint8_t out[ACP_SHA256_LEN])
{
	acp_hmac_sha256(pepper, strlen(pepper), text, strlen(text), out);
}

void acp_key_shown(const char *text, char out[ACP_KEY_SHOWN + 1])
{
	memcpy(out, text, ACP_KEY_SHOWN);
	out[ACP_KEY_SHOWN] = '\0';
}
