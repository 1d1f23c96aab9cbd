#define OPENSSL_SUPPRESS_DEPRECATED /* see digest() */
#include "crypto.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>

/* Aborts if a call has failed. Use it for calls that fail only if the library is broken, and in tools that may exit
 * when memory runs out. */
static void must(bool worked, const char *what)
{
	if (worked)
		return;
	fprintf(stderr, "acp: libcrypto failed at %s\n", what);
	abort();
}

/* One piece of the text to hash. */
struct piece {
	const void *data;
	size_t len;
};

/* SHA-256 of three consecutive pieces. libcrypto's newer functions allocate memory for each digest. A call must not
 * depend on that, and a process must not exit because memory ran out. */
static void digest(const struct piece pieces[3], uint8_t out[ACP_SHA256_LEN])
{
	SHA256_CTX state;
	SHA256_Init(&state);
	SHA256_Update(&state, pieces[0].data, pieces[0].len);
	SHA256_Update(&state, pieces[1].data, pieces[1].len);
	SHA256_Update(&state, pieces[2].data, pieces[2].len);
	SHA256_Final(out, &state);
	acp_wipe(&state, sizeof state);
}

void acp_sha256(const void *data, size_t len, uint8_t out[ACP_SHA256_LEN])
{
	digest((const struct piece[3]){{data, len}, {"", 0}, {"", 0}}, out);
}

enum { SHA256_BLOCK = 64 };

/* Fills a block with the key, each byte XORed with pad (RFC 2104). */
static void pad_key(const void *key, size_t len, uint8_t pad, uint8_t block[SHA256_BLOCK])
{
	memset(block, 0, SHA256_BLOCK);
	if (len > SHA256_BLOCK)
		acp_sha256(key, len, block);
	else if (len)
		memcpy(block, key, len);
	for (size_t i = 0; i < SHA256_BLOCK; i++)
		block[i] ^= pad;
}

void acp_hmac_sha256(const void *key, size_t key_len, const void *data, size_t len, uint8_t out[ACP_SHA256_LEN])
{
	acp_hmac_sha256_behind(key, key_len, "", data, len, out);
}

void acp_hmac_sha256_behind(const void *key, size_t key_len, const char *head, const void *data, size_t len,
			    uint8_t out[ACP_SHA256_LEN])
{
	uint8_t block[SHA256_BLOCK];
	uint8_t inner[ACP_SHA256_LEN];
	pad_key(key, key_len, 0x36, block);
	digest((const struct piece[3]){{block, sizeof block}, {head, strlen(head)}, {data, len}}, inner);
	pad_key(key, key_len, 0x5c, block);
	digest((const struct piece[3]){{block, sizeof block}, {inner, sizeof inner}, {"", 0}}, out);
	acp_wipe(block, sizeof block);
	acp_wipe(inner, sizeof inner);
}

struct acp_hasher {
	SHA256_CTX state;
};

struct acp_hasher *acp_hasher_new(void)
{
	struct acp_hasher *hasher = calloc(1, sizeof *hasher);
	must(hasher != NULL, "memory for a hash");
	SHA256_Init(&hasher->state);
	return hasher;
}

void acp_hasher_free(struct acp_hasher *hasher)
{
	free(hasher);
}

void acp_hasher_add(struct acp_hasher *hasher, const void *data, size_t len)
{
	SHA256_Update(&hasher->state, data, len);
}

void acp_hasher_end(struct acp_hasher *hasher, uint8_t out[ACP_SHA256_LEN])
{
	SHA256_Final(out, &hasher->state);
	SHA256_Init(&hasher->state);
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

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool acp_unhex(const char *text, uint8_t *out, size_t len)
{
	if (strlen(text) != 2 * len)
		return false;
	for (size_t i = 0; i < len; i++) {
		int high = hex_value(text[2 * i]);
		int low = hex_value(text[2 * i + 1]);
		if (high < 0 || low < 0)
			return false;
		out[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

void acp_base64(const uint8_t *bytes, size_t len, char *out)
{
	EVP_EncodeBlock((unsigned char *)out, bytes, (int)len);
}

/* libcrypto's generator allocates memory when a thread first uses it; getrandom() does not. */
void acp_random(void *out, size_t len)
{
	uint8_t *at = out;
	if (RAND_bytes(out, (int)len) == 1)
		return;
	while (len) {
		ssize_t got = getrandom(at, len, 0);
		must(got > 0 || (got < 0 && errno == EINTR), "random bytes");
		at += got > 0 ? got : 0;
		len -= got > 0 ? (size_t)got : 0;
	}
}

/* Random bytes for identifiers, fetched many at a time. (Keys come directly from acp_random.) Each thread has its own
 * pool, which it shares neither with other threads nor with a child process. */
struct pool {
	uint8_t bytes[2048];
	size_t left;
	unsigned forks;
};

static atomic_uint forks; /* incremented in the child of each fork */

static void count_fork(void)
{
	forks++;
}

static void watch_forks(void)
{
	must(pthread_atfork(NULL, NULL, count_fork) == 0, "start");
}

static void take_random(uint8_t *out, size_t len)
{
	static pthread_once_t watched = PTHREAD_ONCE_INIT;
	static __thread struct pool pool;
	pthread_once(&watched, watch_forks);
	if (pool.left < len || pool.forks != forks) {
		acp_random(pool.bytes, sizeof pool.bytes);
		pool.left = sizeof pool.bytes;
		pool.forks = forks;
	}
	pool.left -= len;
	memcpy(out, pool.bytes + pool.left, len);
	acp_wipe(pool.bytes + pool.left, len);
}

void acp_uuid(char out[ACP_UUID_LEN])
{
	static const uint8_t parts[] = {4, 2, 2, 2, 6};
	uint8_t bytes[16];
	const uint8_t *from = bytes;
	take_random(bytes, sizeof bytes);
	bytes[6] = (uint8_t)((bytes[6] & 0x0f) | 0x40);
	bytes[8] = (uint8_t)((bytes[8] & 0x3f) | 0x80);
	for (size_t i = 0; i < ACP_COUNT(parts); i++) {
		acp_hex(from, parts[i], out);
		from += parts[i];
		out += (size_t)2 * parts[i];
		*out++ = '-';
	}
	out[-1] = '\0';
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
_Static_assert(NONCE + TAG == ACP_ENCRYPT_EXTRA, "nonce, ciphertext, tag");

/* Frees the context. After a failure, also clears the error queue: libcrypto keeps its errors until they are read. */
static bool free_cipher(EVP_CIPHER_CTX *ctx, bool ok)
{
	EVP_CIPHER_CTX_free(ctx);
	if (!ok)
		ERR_clear_error();
	return ok;
}

/* Looks up the cipher once, not for each text: when memory runs out, the lookup leaks some of libcrypto's own
 * memory. */
static const EVP_CIPHER *cipher(void)
{
#if OPENSSL_VERSION_NUMBER >= 0x30000000L
	static _Atomic(EVP_CIPHER *) found;
	EVP_CIPHER *known = found;
	if (known)
		return known;
	EVP_CIPHER *fetched = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
	if (!fetched || atomic_compare_exchange_strong(&found, &known, fetched))
		return fetched;
	EVP_CIPHER_free(fetched);
	return known;
#else
	return EVP_aes_256_gcm();
#endif
}

bool acp_encrypt(const uint8_t key[ACP_SHA256_LEN], const void *data, size_t len, uint8_t *out)
{
	int got = 0;
	uint8_t *text = out + NONCE;
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	acp_random(out, NONCE);
	const EVP_CIPHER *aes = cipher();
	bool ok = ctx && aes && EVP_EncryptInit_ex(ctx, aes, NULL, key, out) == 1 &&
		  EVP_EncryptUpdate(ctx, text, &got, data, (int)len) == 1 &&
		  EVP_EncryptFinal_ex(ctx, text + got, &got) == 1 &&
		  EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, TAG, text + len) == 1;
	return free_cipher(ctx, ok);
}

bool acp_decrypt(const uint8_t key[ACP_SHA256_LEN], const uint8_t *sealed, size_t len, uint8_t *out)
{
	int got = 0;
	uint8_t tag[TAG];
	if (len < ACP_ENCRYPT_EXTRA)
		return false;
	size_t text_len = len - ACP_ENCRYPT_EXTRA;
	memcpy(tag, sealed + NONCE + text_len, TAG);
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	const EVP_CIPHER *aes = cipher();
	bool ok = ctx && aes && EVP_DecryptInit_ex(ctx, aes, NULL, key, sealed) == 1 &&
		  EVP_DecryptUpdate(ctx, out, &got, sealed + NONCE, (int)text_len) == 1 &&
		  EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, TAG, tag) == 1 &&
		  EVP_DecryptFinal_ex(ctx, out + got, &got) == 1;
	return free_cipher(ctx, ok);
}

bool acp_equal_const_time(const void *a, const void *b, size_t len)
{
	return CRYPTO_memcmp(a, b, len) == 0;
}

void acp_wipe(void *secret, size_t len)
{
	OPENSSL_cleanse(secret, len);
}

void acp_keep_memory_private(void)
{
	const struct rlimit no_core = {0, 0};
	setrlimit(RLIMIT_CORE, &no_core);
	prctl(PR_SET_DUMPABLE, 0); /* RLIMIT_CORE does not stop programs that receive dumps through a pipe */
}
