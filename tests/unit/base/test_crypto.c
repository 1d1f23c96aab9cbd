#include "../tmain.h"
#include "subkey.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#define PEPPER "0123456789abcdef0123456789abcdef"

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

/* Keys and texts of about the length of a block. The expected values come from Python's hmac. */
static void test_hmac_block_edges(void)
{
	static const struct {
		size_t len;
		const char *hex;
	} samples[] = {
		{0, "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad"},
		{1, "c38edc8815c8489f64738978f44008f8596345545f0baa68ef6fcf5c53e57189"},
		{63, "201d1372b0b19a2bca10e4fc3ba1ebd13794bb40fe279a7ad82574f429eef7be"},
		{64, "10bdf3a7b547b6b47b25c0f7609653f2e9889c6adc2fd260c7b07f575fa93df2"},
		{65, "f80c0a3d709a27e650dbcfa01f7855ab23e9f12881f5bbce405ca8f61bf81704"},
		{128, "8df834da367b60f6aab90031349557cef80e2b3496233e65cfea30eabe532f7b"},
	};
	uint8_t key[BYTES_MAX];
	uint8_t data[BYTES_MAX];
	char hex[ACP_SHA256_HEX];
	memset(key, 'k', sizeof key);
	memset(data, 'x', sizeof data);
	for (size_t i = 0; i < ACP_COUNT(samples); i++) {
		hmac_hex(key, samples[i].len, data, samples[i].len, hex);
		CU_ASSERT_STRING_EQUAL(hex, samples[i].hex);
	}
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

enum { MANY = 1000 };

static void *make_uuids(void *out)
{
	char(*uuids)[ACP_UUID_LEN] = out;
	for (int i = 0; i < MANY; i++)
		acp_uuid(uuids[i]);
	return NULL;
}

static int compare_uuids(const void *a, const void *b)
{
	return memcmp(a, b, ACP_UUID_LEN);
}

/* Two threads, and a child of a process with random bytes in its pool, never make the same id. */
static void test_uuid_unique(void)
{
	static char uuids[4 * MANY][ACP_UUID_LEN];
	size_t twice = 0;
	int status = -1;
	int ends[2];
	pthread_t thread;
	make_uuids(uuids[0]);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, make_uuids, uuids[MANY]), 0);
	make_uuids(uuids[2 * MANY]);
	CU_ASSERT_EQUAL(pthread_join(thread, NULL), 0);
	CU_ASSERT_EQUAL_FATAL(pipe(ends), 0);
	pid_t child = fork();
	if (child == 0) {
		static char own[MANY][ACP_UUID_LEN];
		make_uuids(own[0]);
		_exit(write(ends[1], own, sizeof own) == (ssize_t)sizeof own ? 0 : 1);
	}
	make_uuids(uuids[0]); /* again, to compare with the child's */
	CU_ASSERT_EQUAL(read(ends[0], (char *)uuids + 3 * sizeof uuids / 4, sizeof uuids / 4),
			(ssize_t)(sizeof uuids / 4));
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	CU_ASSERT_EQUAL(status, 0);
	close(ends[0]);
	close(ends[1]);
	qsort(uuids, ACP_COUNT(uuids), sizeof uuids[0], compare_uuids);
	for (size_t i = 1; i < ACP_COUNT(uuids); i++)
		twice += compare_uuids(uuids[i - 1], uuids[i]) == 0;
	CU_ASSERT_EQUAL(twice, 0);
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

static void test_hasher(void)
{
	static const char text[] = "hashed in pieces, and once more from the start";
	uint8_t whole[ACP_SHA256_LEN], pieces[ACP_SHA256_LEN];
	struct acp_hasher *hasher = acp_hasher_new();
	acp_sha256(text, sizeof text, whole);
	for (int round = 0; round < 2; round++) {
		for (size_t i = 0; i < sizeof text; i++)
			acp_hasher_add(hasher, text + i, 1);
		acp_hasher_end(hasher, pieces);
		CU_ASSERT_EQUAL(memcmp(whole, pieces, sizeof whole), 0);
	}
	acp_sha256("", 0, whole);
	acp_hasher_end(hasher, pieces);
	CU_ASSERT_EQUAL(memcmp(whole, pieces, sizeof whole), 0);
	acp_hasher_free(hasher);
}

/* Values in existing databases and links that were sent must stay valid. These vectors come from Python's hmac with the
 * formulas that the program used before it had subkey.c. */
static void test_subkeys(void)
{
	static const struct {
		enum acp_purpose purpose;
		const char *data, *hex;
	} vectors[] = {
		{ACP_FOR_UPGRADE_LINK, "11111111-2222-4333-8444-555555555555|1795339800",
		 "8d16ee1339a25fb837ad1bf57d185bc7ea27972fe71bb2e6ddf69191c3f7bdf1"},
		{ACP_FOR_WEBHOOK_SECRET, "11111111-2222-4333-8444-555555555555",
		 "679d60422f6c1a5576bf42469dde4830c23a2cc4ed2fe469dd21e08730a80f09"},
		{ACP_FOR_IDEMPOTENCY_FINGERPRINT, "manage.iam| manage.iam |{}",
		 "167454b665f7566ad0d9af8ac3f0a284e8f2bcb92044560d01eda003d6a21afd"},
		{ACP_FOR_IDEMPOTENCY_RESULT, "11111111-2222-4333-8444-555555555555|iam.keys.create|k1",
		 "50279ce7ba609aee628e22344e8e6f115e50339990d6910fc5182d5732e39814"},
		{ACP_FOR_AUDIT_SEAL, "acp-fcgi audit seal v1\nseal 1\n",
		 "31ba231fca7a9bbfa04b1db991444e4bffa20d631010f966e4f7589b2673c047"},
		{ACP_FOR_AUDIT_ARCHIVE, "an archive",
		 "2faf40395033d688c484abaa7a7d9fdf1a49d2156374369466be7fe712b422e6"},
		{ACP_FOR_AUDIT_EXPORT, "an export", "ff1a290ed3258da397f46f21ccbbd9c0ead579615b0b0eccc6e7346036dc9f72"},
		{ACP_FOR_ONBOARDING_KEY, "salt|key",
		 "fefa3c295379b1ff20dd544c2bcc5bf750db405b1df1458f06e8728a6f59281e"},
		{ACP_FOR_ONBOARDING_IDEMPOTENCY, "key",
		 "d541e5b9399535b1be689a56f31df320ae98a40bfd50a3997e63c9b3a5552aa5"},
		{ACP_FOR_TENANT_AT_HUB, "e3b0c442", "641b5ae6e04df33e9bcca7736b6f3d40a3e65b41247e4c88a0f6e99d6502f7f1"},
		{ACP_FOR_UPSTREAM_KEY, "acp-fcgi|11111111-2222-4333-8444-555555555555|shop.order|order-1",
		 "54d681e7b97fd61035dcf7519204f46309fc6f0b225b70f1b148c8a94d7a886e"},
		{ACP_FOR_SHARED_MEMORY, "", "1fc54615dd1810973ce39aad32a28d60d69d4def570579622b3b73ba3fcf5973"},
	};
	char hex[ACP_SHA256_HEX];
	bool seen[ACP_PURPOSES] = {false};
	for (size_t i = 0; i < ACP_COUNT(vectors); i++) {
		acp_subkey_hex(PEPPER, vectors[i].purpose, vectors[i].data, strlen(vectors[i].data), hex);
		CU_ASSERT_STRING_EQUAL(hex, vectors[i].hex);
		seen[vectors[i].purpose] = true;
	}
	for (size_t i = 0; i < ACP_PURPOSES; i++)
		CU_ASSERT_TRUE(seen[i]); /* each purpose has a vector */
}

static void test_same_secret(void)
{
	CU_ASSERT_TRUE(acp_same_secret(PEPPER, "a secret", "a secret"));
	CU_ASSERT_FALSE(acp_same_secret(PEPPER, "a secre", "a secret"));
	CU_ASSERT_FALSE(acp_same_secret(PEPPER, "a secret", "a secreT"));
	CU_ASSERT_FALSE(acp_same_secret(PEPPER, "", "a secret"));
}

const char *const acp_suite_name = "crypto";

CU_TestInfo acp_tests[] = {
	{"sha256", test_sha256},
	{"hasher", test_hasher},
	{"hmac_short_keys", test_hmac_short_keys},
	{"hmac_counting_key", test_hmac_counting_key},
	{"hmac_long_keys", test_hmac_long_keys},
	{"hmac_block_edges", test_hmac_block_edges},
	{"hex", test_hex},
	{"uuid", test_uuid},
	{"uuid_unique", test_uuid_unique},
	{"is_uuid", test_is_uuid},
	{"random", test_random},
	{"equal_const_time", test_equal_const_time},
	{"wipe", test_wipe},
	{"subkeys", test_subkeys},
	{"same_secret", test_same_secret},
	CU_TEST_INFO_NULL,
};
