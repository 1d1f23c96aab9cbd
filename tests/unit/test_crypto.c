#include "tmain.h"
#include "crypto.h"

/* n bytes of the same value */
#define BYTES_MAX 131

static void hash_hex(const void *data, size_t len, char hex[ACP_SHA256_HEX])
{
	uint8_t digest[ACP_SHA256_LEN];
	acp_sha256(data, len, digest);
	acp_hex(digest, sizeof digest, hex);
}

static void hmac_hex(const void *key, size_t key_len, const void *data, size_t len, char hex[ACP_SHA256_HEX])
{
	uint8_t digest[ACP_SHA256_LEN];
	acp_hmac_sha256(key, key_len, data, len, digest);
	acp_hex(digest, sizeof digest, hex);
}

/* FIPS 180-4 examples. */
static void test_sha256(void)
{
	char hex[ACP_SHA256_HEX];
	static const char two_blocks[] = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
	hash_hex("", 0, hex);
	CU_ASSERT_STRING_EQUAL(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	hash_hex("abc", 3, hex);
	CU_ASSERT_STRING_EQUAL(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	hash_hex(two_blocks, sizeof two_blocks - 1, hex);
	CU_ASSERT_STRING_EQUAL(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

/* RFC 4231, test cases 1 to 3. */
static void test_hmac_short_keys(void)
{
	char hex[ACP_SHA256_HEX];
	uint8_t key[20];
	uint8_t data[50];
	memset(key, 0x0b, sizeof key);
	hmac_hex(key, sizeof key, "Hi There", 8, hex);
	CU_ASSERT_STRING_EQUAL(hex, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
	hmac_hex("Jefe", 4, "what do ya want for nothing?", 28, hex);
	CU_ASSERT_STRING_EQUAL(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
	memset(key, 0xaa, sizeof key);
	memset(data, 0xdd, sizeof data);
	hmac_hex(key, sizeof key, data, sizeof data, hex);
	CU_ASSERT_STRING_EQUAL(hex, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe");
}

/* RFC 4231, test case 4. */
static void test_hmac_counting_key(void)
{
	char hex[ACP_SHA256_HEX];
	uint8_t key[25];
	uint8_t data[50];
	for (size_t i = 0; i < sizeof key; i++)
		key[i] = (uint8_t)(i + 1);
	memset(data, 0xcd, sizeof data);
	hmac_hex(key, sizeof key, data, sizeof data, hex);
	CU_ASSERT_STRING_EQUAL(hex, "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b");
}

/* RFC 4231, test cases 6 and 7: keys longer than a block. */
static void test_hmac_long_keys(void)
{
	char hex[ACP_SHA256_HEX];
	uint8_t key[BYTES_MAX];
	static const char first[] = "Test Using Larger Than Block-Size Key - Hash Key First";
	static const char second[] = "This is a test using a larger than block-size key and a larger than block-size "
				     "data. The key needs to be hashed before being used by the HMAC algorithm.";
	memset(key, 0xaa, sizeof key);
	hmac_hex(key, sizeof key, first, sizeof first - 1, hex);
	CU_ASSERT_STRING_EQUAL(hex, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
	hmac_hex(key, sizeof key, second, sizeof second - 1, hex);
	CU_ASSERT_STRING_EQUAL(hex, "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2");
}

static void test_hex(void)
{
	char out[9];
	static const uint8_t bytes[] = {0x00, 0x0f, 0xa0, 0xff};
	acp_hex(bytes, sizeof bytes, out);
	CU_ASSERT_STRING_EQUAL(out, "000fa0ff");
	acp_hex(bytes, 0, out);
	CU_ASSERT_STRING_EQUAL(out, "");
}

static void test_uuid(void)
{
	char last[ACP_UUID_LEN] = "";
	for (int i = 0; i < 200; i++) {
		char uuid[ACP_UUID_LEN];
		acp_uuid(uuid);
		CU_ASSERT_EQUAL(strlen(uuid), 36);
		CU_ASSERT_TRUE(acp_is_uuid(uuid));
		CU_ASSERT_EQUAL(uuid[14], '4');
		CU_ASSERT_PTR_NOT_NULL(strchr("89ab", uuid[19]));
		CU_ASSERT_STRING_NOT_EQUAL(uuid, last);
		memcpy(last, uuid, sizeof last);
	}
}

static void test_is_uuid(void)
{
	CU_ASSERT_TRUE(acp_is_uuid("00000000-0000-0000-0000-000000000000"));
	CU_ASSERT_TRUE(acp_is_uuid("ABCDEF01-2345-6789-abcd-ef0123456789"));
	CU_ASSERT_FALSE(acp_is_uuid(""));
	CU_ASSERT_FALSE(acp_is_uuid("00000000-0000-0000-0000-00000000000"));
	CU_ASSERT_FALSE(acp_is_uuid("00000000-0000-0000-0000-0000000000000"));
	CU_ASSERT_FALSE(acp_is_uuid("00000000-0000-0000-0000-00000000000g"));
	CU_ASSERT_FALSE(acp_is_uuid("000000000000-0000-0000-0000-00000000"));
	CU_ASSERT_FALSE(acp_is_uuid("{0000000-0000-0000-0000-000000000000"));
}

static void test_random(void)
{
	uint8_t a[32] = {0};
	uint8_t b[32] = {0};
	acp_random(a, sizeof a);
	acp_random(b, sizeof b);
	CU_ASSERT_NOT_EQUAL(memcmp(a, b, sizeof a), 0);
}

static void test_equal_const_time(void)
{
	CU_ASSERT_TRUE(acp_equal_const_time("abc", "abc", 3));
	CU_ASSERT_FALSE(acp_equal_const_time("abc", "abd", 3));
	CU_ASSERT_FALSE(acp_equal_const_time("xbc", "abc", 3));
	CU_ASSERT_TRUE(acp_equal_const_time("x", "y", 0));
}

static void test_wipe(void)
{
	char secret[] = "secret";
	static const char zeros[sizeof secret] = {0};
	acp_wipe(secret, sizeof secret);
	CU_ASSERT_EQUAL(memcmp(secret, zeros, sizeof secret), 0);
}

const char *const acp_suite_name = "crypto";

CU_TestInfo acp_tests[] = {
	{"sha256", test_sha256},
	{"hmac_short_keys", test_hmac_short_keys},
	{"hmac_counting_key", test_hmac_counting_key},
	{"hmac_long_keys", test_hmac_long_keys},
	{"hex", test_hex},
	{"uuid", test_uuid},
	{"is_uuid", test_is_uuid},
	{"random", test_random},
	{"equal_const_time", test_equal_const_time},
	{"wipe", test_wipe},
	CU_TEST_INFO_NULL,
};
