#include "../tmain.h"
#include "apikey.h"

static const char base62[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/* CRC-32 from its definition, independent of the code under test: with a table, high bit first, bits reflected. */
static uint32_t reflect(uint32_t value, int bits)
{
	uint32_t out = 0;
	for (int i = 0; i < bits; i++)
		out |= (value >> i & 1u) << (bits - 1 - i);
	return out;
}

static uint32_t reference_crc32(const char *text, size_t len)
{
	uint32_t crc = 0xffffffffu;
	for (size_t i = 0; i < len; i++) {
		crc ^= reflect((unsigned char)text[i], 8) << 24;
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 0x80000000u ? (crc << 1) ^ 0x04c11db7u : crc << 1;
	}
	return ~reflect(crc, 32);
}

static void reference_check(const char *text, char out[ACP_KEY_CHECK_LEN + 1])
{
	uint32_t crc = reference_crc32(text, strlen(text));
	for (int i = ACP_KEY_CHECK_LEN; i-- > 0; crc /= 62)
		out[i] = base62[crc % 62];
	out[ACP_KEY_CHECK_LEN] = '\0';
}

/* Makes a key from a number. */
static void make_key(const char *prefix, uint32_t number, char out[ACP_KEY_MAX])
{
	uint8_t seed[32] = {0};
	memcpy(seed, &number, sizeof number);
	acp_key_from_seed(prefix, seed, out);
}

/* The check value that every CRC-32 catalogue gives, and keys whose check digits another program computed. */
static void test_known_checks(void)
{
	static const struct {
		const char *prefix, *key;
	} keys[] = {
		{"ock_", "ock_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA2iSblX"},
		{"ock_", "ock_0000000000000000000000000000003rJ3aI"},
		{"ock_", "ock_0123456789ABCDEFGHIJabcdefghij1TfgjC"},
		{"ab_", "ab_zzzzzzzzzzzzzzzzzzzzzzzzzzzzzz3vkIiF"},
		{"abcdefghijkl_", "abcdefghijkl_THEquickBROWNfoxJUMPSoverTHEla0dMnor"},
	};
	CU_ASSERT_EQUAL(reference_crc32("123456789", 9), 0xcbf43926u);
	CU_ASSERT_EQUAL(reference_crc32("", 0), 0);
	for (size_t i = 0; i < ACP_COUNT(keys); i++)
		CU_assertImplementation(acp_key_wellformed(keys[i].prefix, keys[i].key), __LINE__, keys[i].key,
					__FILE__, "", CU_FALSE);
}

static void test_form_of_made_keys(void)
{
	static const char *const prefixes[] = {"ock_", "a1_", "abcdefghijkl_"};
	for (uint32_t n = 0; n < 300; n++) {
		const char *prefix = prefixes[n % ACP_COUNT(prefixes)];
		char key[ACP_KEY_MAX], body[ACP_KEY_MAX], check[ACP_KEY_CHECK_LEN + 1];
		make_key(prefix, n, key);
		size_t len = strlen(key);
		CU_ASSERT_EQUAL(len, strlen(prefix) + ACP_KEY_SECRET_LEN + ACP_KEY_CHECK_LEN);
		CU_ASSERT_EQUAL(strncmp(key, prefix, strlen(prefix)), 0);
		CU_ASSERT_EQUAL(strspn(key + strlen(prefix), base62), len - strlen(prefix));
		snprintf(body, sizeof body, "%.*s", (int)(len - ACP_KEY_CHECK_LEN), key);
		reference_check(body, check);
		CU_ASSERT_STRING_EQUAL(key + len - ACP_KEY_CHECK_LEN, check);
		CU_ASSERT_TRUE(acp_key_wellformed(prefix, key));
	}
}

/* Replaces every character of a key by every other byte. */
static void test_single_changes_refused(void)
{
	for (uint32_t n = 0; n < 20; n++) {
		char key[ACP_KEY_MAX];
		unsigned accepted = 0;
		make_key("ock_", n, key);
		for (size_t at = 0; key[at]; at++) {
			char right = key[at];
			for (int c = 1; c < 256; c++) {
				key[at] = (char)c;
				accepted += key[at] != right && acp_key_wellformed("ock_", key);
			}
			key[at] = right;
		}
		CU_ASSERT_EQUAL(accepted, 0);
		CU_ASSERT_TRUE(acp_key_wellformed("ock_", key));
	}
}

/* Typical copying errors: two adjacent characters swapped, one lost or doubled, or a blank added. */
static void test_slips_refused(void)
{
	char key[ACP_KEY_MAX], slip[ACP_KEY_MAX + 2];
	make_key("ock_", 5, key);
	size_t len = strlen(key);
	for (size_t at = 0; at + 1 < len; at++) {
		memcpy(slip, key, len + 1);
		slip[at] = key[at + 1];
		slip[at + 1] = key[at];
		CU_ASSERT_EQUAL(acp_key_wellformed("ock_", slip), key[at] == key[at + 1]);
	}
	for (size_t at = 0; at < len; at++) {
		snprintf(slip, sizeof slip, "%.*s%s", (int)at, key, key + at + 1);
		CU_ASSERT_FALSE(acp_key_wellformed("ock_", slip));
		snprintf(slip, sizeof slip, "%.*s%s", (int)at + 1, key, key + at);
		CU_ASSERT_FALSE(acp_key_wellformed("ock_", slip));
	}
	snprintf(slip, sizeof slip, " %s", key);
	CU_ASSERT_FALSE(acp_key_wellformed("ock_", slip));
	snprintf(slip, sizeof slip, "%s\n", key);
	CU_ASSERT_FALSE(acp_key_wellformed("ock_", slip));
}

static void test_other_texts_refused(void)
{
	char key[ACP_KEY_MAX], long_text[5000];
	memset(long_text, 'A', sizeof long_text - 1);
	long_text[sizeof long_text - 1] = '\0';
	CU_ASSERT_FALSE(acp_key_wellformed("ock_", ""));
	CU_ASSERT_FALSE(acp_key_wellformed("ock_", "ock_"));
	CU_ASSERT_FALSE(acp_key_wellformed("ock_", long_text));
	CU_ASSERT_FALSE(acp_key_wellformed("ock_", "ock_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA_iSblX"));
	CU_ASSERT_FALSE(acp_key_wellformed("ock_", "OCK_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA2iSblX"));
	CU_ASSERT_FALSE(acp_key_wellformed("ock_", "ock_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA2ISBLX"));
	make_key("ock_", 1, key);
	CU_ASSERT_FALSE(acp_key_wellformed("oak_", key)); /* a key of another installation */
	CU_ASSERT_FALSE(acp_key_wellformed("oc_", key));
}

static void test_prefixes(void)
{
	static const char *const good[] = {"ock_", "ab_", "a1_", "00_", "abcdefghijkl_", "123456789012_"};
	static const char *const bad[] = {"",      "_",    "a_",   "ock",   "Ock_", "o-k_",        "o k_",
					  "ock__", "o_k_", "_ck_", "ock_a", "ock-", "o\xc3\xa4k_", "abcdefghijklm_",
					  " ck_"};
	for (size_t i = 0; i < ACP_COUNT(good); i++)
		CU_assertImplementation(acp_key_prefix_ok(good[i]), __LINE__, good[i], __FILE__, "", CU_FALSE);
	for (size_t i = 0; i < ACP_COUNT(bad); i++)
		CU_assertImplementation(!acp_key_prefix_ok(bad[i]), __LINE__, bad[i], __FILE__, "", CU_FALSE);
}

static int by_text(const void *a, const void *b)
{
	return strcmp(a, b);
}

static void test_seeds(void)
{
	enum { KEYS = 2000 };
	static char keys[KEYS][ACP_KEY_MAX];
	char again[ACP_KEY_MAX];
	for (uint32_t n = 0; n < KEYS; n++)
		make_key("ock_", n, keys[n]);
	for (uint32_t n = 0; n < KEYS; n += 97) {
		make_key("ock_", n, again);
		CU_ASSERT_STRING_EQUAL(again, keys[n]); /* the same seed, the same key */
	}
	qsort(keys, KEYS, sizeof keys[0], by_text);
	for (size_t n = 1; n < KEYS; n++)
		CU_ASSERT_STRING_NOT_EQUAL(keys[n - 1], keys[n]);
}

/* Each bit of the seed matters, including those of its last byte. */
static void test_seed_bits(void)
{
	char first[ACP_KEY_MAX], other[ACP_KEY_MAX];
	uint8_t seed[32] = {0};
	acp_key_from_seed("ock_", seed, first);
	for (size_t bit = 0; bit < 256; bit++) {
		seed[bit / 8] ^= (uint8_t)(1u << bit % 8);
		acp_key_from_seed("ock_", seed, other);
		CU_ASSERT_STRING_NOT_EQUAL(first, other);
		seed[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

/* 60,000 digits: each of the 62 is expected 968 times, standard deviation 31. The seeds are fixed. */
static void test_distribution(void)
{
	unsigned counts[62] = {0};
	double chi_square = 0;
	for (uint32_t n = 0; n < 2000; n++) {
		char key[ACP_KEY_MAX];
		make_key("ock_", n, key);
		for (size_t i = 0; i < ACP_KEY_SECRET_LEN; i++)
			counts[strchr(base62, key[4 + i]) - base62]++;
	}
	for (size_t i = 0; i < ACP_COUNT(counts); i++) {
		double off = counts[i] - 60000.0 / 62;
		chi_square += off * off / (60000.0 / 62);
		CU_ASSERT_TRUE(counts[i] > 800 && counts[i] < 1140);
	}
	CU_ASSERT_TRUE(chi_square > 30 && chi_square < 110); /* 61 degrees of freedom */
}

/* HMAC-SHA-256("pepper", "ock_A…"), computed by another program. */
static void test_hash(void)
{
	uint8_t one[ACP_SHA256_LEN], two[ACP_SHA256_LEN];
	char hex[ACP_SHA256_HEX];
	acp_key_hash("pepper", "ock_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA2iSblX", one);
	acp_hex(one, sizeof one, hex);
	CU_ASSERT_STRING_EQUAL(hex, "8ad6bc0aeedd6fd8d032ac03f82f78c30d897437ef0911c208b84543ab49b5cc");
	acp_key_hash("Pepper", "ock_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA2iSblX", two);
	CU_ASSERT_NOT_EQUAL(memcmp(one, two, sizeof one), 0);
	acp_key_hash("pepper", "ock_0000000000000000000000000000003rJ3aI", two);
	CU_ASSERT_NOT_EQUAL(memcmp(one, two, sizeof one), 0);
	acp_key_hash("pepper", "ock_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA2iSblX", two);
	CU_ASSERT_EQUAL(memcmp(one, two, sizeof one), 0);
}

static void test_shown(void)
{
	char shown[ACP_KEY_SHOWN + 1];
	acp_key_shown("ock_0123456789ABCDEFGHIJabcdefghij1TfgjC", shown);
	CU_ASSERT_STRING_EQUAL(shown, "ock_01234567");
}

const char *const acp_suite_name = "apikey";

CU_TestInfo acp_tests[] = {
	{"known_checks", test_known_checks},
	{"form_of_made_keys", test_form_of_made_keys},
	{"single_changes_refused", test_single_changes_refused},
	{"slips_refused", test_slips_refused},
	{"other_texts_refused", test_other_texts_refused},
	{"prefixes", test_prefixes},
	{"seeds", test_seeds},
	{"seed_bits", test_seed_bits},
	{"distribution", test_distribution},
	{"hash", test_hash},
	{"shown", test_shown},
	CU_TEST_INFO_NULL,
};
