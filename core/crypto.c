#include "crypto.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <ctype.h>

/* libcrypto's digest calls fail only when memory is lacking or the library is broken; no caller could go on safely. */
static void must(bool worked, const char *what)
{
	if (worked)
		return;
	fprintf(stderr, "acp: libcrypto failed at %s\n", what);
	abort();
}

void acp_sha256(const void *data, size_t len, uint8_t out[ACP_SHA256_LEN])
{
	must(EVP_Digest(data, len, out, NULL, EVP_sha256(), NULL) == 1, "SHA-256");
}

void acp_hmac_sha256(const void *key, size_t key_len, const void *data, size_t len, uint8_t out[ACP_SHA256_LEN])
{
	unsigned out_len = 0;
	must(HMAC(EVP_sha256(), key, (int)key_len, data, len, out, &out_len) != NULL, "HMAC-SHA-256");
}

void acp_hex(const uint8_t *bytes, size_t len, char *out)
{
	static const char digits[] = "0123456789abcdef";
	for (size_t i = 0; i < len; i++) {
		out[2 * i] = digits[bytes[i] >> 4];
		out[2 * i + 1] = digits[bytes[i] & 15];
	}
	out[2 * len] = '\0';
}

void acp_random(void *out, size_t len)
{
	must(RAND_bytes(out, (int)len) == 1, "random bytes");
}

void acp_uuid(char out[ACP_UUID_LEN])
{
	uint8_t bytes[16];
	char hex[33];
	acp_random(bytes, sizeof bytes);
	bytes[6] = (uint8_t)((bytes[6] & 0x0f) | 0x40);
	bytes[8] = (uint8_t)((bytes[8] & 0x3f) | 0x80);
	acp_hex(bytes, sizeof bytes, hex);
	snprintf(out, ACP_UUID_LEN, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
}

bool acp_is_uuid(const char *text)
{
	for (int i = 0; i < 36; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;
		if (dash ? text[i] != '-' : !isxdigit((unsigned char)text[i]))
			return false;
	}
	return text[36] == '\0';
}

enum { NONCE = 12, TAG = 16 };
_Static_assert(NONCE + TAG == ACP_SEAL_EXTRA, "nonce, ciphertext, tag");

void acp_seal(const uint8_t key[ACP_SHA256_LEN], const void *data, size_t len, uint8_t *out)
{
	int got = 0;
	uint8_t *text = out + NONCE;
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	acp_random(out, NONCE);
	must(ctx && EVP_EncryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, out) == 1 &&
		     EVP_EncryptUpdate(ctx, text, &got, data, (int)len) == 1 &&
		     EVP_EncryptFinal_ex(ctx, text + got, &got) == 1 &&
		     EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, TAG, text + len) == 1,
	     "AES-256-GCM");
	EVP_CIPHER_CTX_free(ctx);
}

bool acp_unseal(const uint8_t key[ACP_SHA256_LEN], const uint8_t *sealed, size_t len, uint8_t *out)
{
	int got = 0;
	uint8_t tag[TAG];
	if (len < ACP_SEAL_EXTRA)
		return false;
	size_t text_len = len - ACP_SEAL_EXTRA;
	memcpy(tag, sealed + NONCE + text_len, TAG);
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	bool ok = ctx && EVP_DecryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, sealed) == 1 &&
		  EVP_DecryptUpdate(ctx, out, &got, sealed + NONCE, (int)text_len) == 1 &&
		  EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, TAG, tag) == 1 &&
		  EVP_DecryptFinal_ex(ctx, out + got, &got) == 1;
	EVP_CIPHER_CTX_free(ctx);
	return ok;
}

bool acp_equal_const_time(const void *a, const void *b, size_t len)
{
	return CRYPTO_memcmp(a, b, len) == 0;
}

void acp_wipe(void *secret, size_t len)
{
	OPENSSL_cleanse(secret, len);
}
