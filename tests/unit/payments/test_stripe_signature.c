#include "stripe_signature.h"
#include "buf.h"
#include "crypto.h"
#include "outbox.h"
#include "../tmain.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Made with Stripe's own library for Node (webhooks.generateTestHeaderString). */
#define AT 1700000000
#define BODY                                                                                                           \
	"{\"id\":\"evt_test_1\",\"object\":\"event\",\"type\":\"checkout.session.completed\",\"created\":1700000000}"
#define RIGHT "d3e61af4cc6bcb783e9dd1ddfb3ca0d1e6a264ced600900e4f49a3fb86e7495e" /* by whsec_test_secret */
#define OTHER "fcbb668f2b93141a547ded93485fe7cac1bc2839d2b503ec3c4c10ab10dd0c82" /* by whsec_other */
#define EMPTY "316b9ab98c15bfa039d243f3196acee619cf29749a91a634e6a8154e2f7b6727" /* of no bytes */
#define WRONG "00000000000000000000000000000000000000000000000000000000000000ff"

static bool good_at(const char *header, int64_t now)
{
	return acp_stripe_signature_fault("whsec_test_secret", header, BODY, sizeof BODY - 1, now) == NULL;
}

static bool good(const char *header)
{
	return good_at(header, AT);
}

static void test_published_form(void)
{
	CU_ASSERT_TRUE(good("t=1700000000,v1=" RIGHT));
	CU_ASSERT_PTR_NULL(acp_stripe_signature_fault("whsec_test_secret", "t=1700000000,v1=" EMPTY, "", 0, AT));
	CU_ASSERT_FALSE(good("t=1700000000,v1=" WRONG));
	CU_ASSERT_FALSE(good("t=1700000001,v1=" RIGHT));
	CU_ASSERT_FALSE(good("t=01700000000,v1=" RIGHT)); /* the text is signed, not the number */
	CU_ASSERT_PTR_NOT_NULL(acp_stripe_signature_fault("whsec_test_secret", NULL, BODY, sizeof BODY - 1, AT));
}

/* Every byte of the body matters. */
static void test_altered_body(void)
{
	char body[] = BODY;
	for (size_t i = 0; i < sizeof BODY - 1; i++) {
		body[i] ^= 1;
		CU_ASSERT_PTR_NOT_NULL(acp_stripe_signature_fault("whsec_test_secret", "t=1700000000,v1=" RIGHT, body,
								  sizeof BODY - 1, AT));
		body[i] ^= 1;
	}
	CU_ASSERT_PTR_NOT_NULL(
		acp_stripe_signature_fault("whsec_test_secret", "t=1700000000,v1=" RIGHT, body, sizeof BODY - 2, AT));
}

static void test_several_signatures(void)
{
	CU_ASSERT_TRUE(good("t=1700000000,v1=" WRONG ",v1=" RIGHT));
	CU_ASSERT_TRUE(good("t=1700000000,v1=" RIGHT ",v1=" WRONG));
	CU_ASSERT_TRUE(good("v1=" RIGHT ",t=1700000000"));
	CU_ASSERT_TRUE(good("t=1700000000,v0=" WRONG ",v1=" RIGHT ",v2=whatever"));
	CU_ASSERT_TRUE(good("t=1700000000,v1=short,v1=" RIGHT));
	CU_ASSERT_FALSE(good("t=1700000000,v0=" RIGHT)); /* another scheme */
	CU_ASSERT_FALSE(good("t=1700000000,v1=" OTHER ",v1=" WRONG));
}

static void test_two_secrets(void)
{
	static const char both[] = "whsec_other whsec_test_secret";
	static const char *const headers[] = {"t=1700000000,v1=" RIGHT, "t=1700000000,v1=" OTHER,
					      "t=1700000000,v1=" OTHER ",v1=" RIGHT};
	for (size_t i = 0; i < ACP_COUNT(headers); i++)
		CU_ASSERT_PTR_NULL(acp_stripe_signature_fault(both, headers[i], BODY, sizeof BODY - 1, AT));
	CU_ASSERT_PTR_NOT_NULL(acp_stripe_signature_fault("", "t=1700000000,v1=" RIGHT, BODY, sizeof BODY - 1, AT));
	CU_ASSERT_PTR_NOT_NULL(
		acp_stripe_signature_fault("whsec_test_secre", "t=1700000000,v1=" RIGHT, BODY, sizeof BODY - 1, AT));
}

static void test_tolerance(void)
{
	static const char header[] = "t=1700000000,v1=" RIGHT;
	CU_ASSERT_TRUE(good_at(header, AT + 300));
	CU_ASSERT_FALSE(good_at(header, AT + 301));
	CU_ASSERT_TRUE(good_at(header, AT - 300));
	CU_ASSERT_FALSE(good_at(header, AT - 301));
	CU_ASSERT_FALSE(good_at(header, 0));
}

static void test_malformed(void)
{
	static const char *const headers[] = {
		"",
		",",
		"t",
		"t=",
		"t=1700000000",
		"v1=" RIGHT,
		"t=1700000000,v1",
		"t=1700000000;v1=" RIGHT,
		"t=1700000000,v1=" RIGHT ",",
		",t=1700000000,v1=" RIGHT,
		"t=1700000000,,v1=" RIGHT,
		"t=1700000000,t=1700000000,v1=" RIGHT,
		"t=-1700000000,v1=" RIGHT,
		"t=+1700000000,v1=" RIGHT,
		"t= 1700000000,v1=" RIGHT,
		"t=1700000000, v1=" RIGHT,
		"t=1.7e9,v1=" RIGHT,
		"t=0x6553F100,v1=" RIGHT,
		"t=170000000099,v1=" RIGHT,
		"T=1700000000,V1=" RIGHT,
		"=1700000000,v1=" RIGHT,
		"t=1700000000,v1=" RIGHT "\n",
		"t=1700000000,v1=" RIGHT "00",
		"t=1700000000,v1=",
	};
	for (size_t i = 0; i < ACP_COUNT(headers); i++)
		if (good(headers[i]))
			CU_FAIL(headers[i]);
	struct acp_buf many;
	acp_buf_init(&many, 200000);
	acp_buf_puts(&many, "t=1700000000");
	while (many.len < 190000)
		acp_buf_puts(&many, ",v1=");
	CU_ASSERT_FALSE(good(many.ptr));
	acp_buf_release(&many);
	/* Upper-case digits are refused: they are compared as Stripe writes them. */
	char upper[] = "t=1700000000,v1=" RIGHT;
	for (char *c = strstr(upper, "v1=") + 3; *c; c++)
		*c = *c >= 'a' && *c <= 'f' ? (char)(*c - 32) : *c;
	CU_ASSERT_FALSE(good(upper));
}

/* Cuts the header everywhere, and changes each byte. Only changes without effect on its meaning may be accepted. */
static void test_every_byte(void)
{
	static const char header[] = "t=1700000000,v1=" RIGHT;
	char text[sizeof header];
	for (size_t i = 0; i < sizeof header - 1; i++) {
		memcpy(text, header, sizeof header);
		text[i] = '\0';
		CU_ASSERT_FALSE(good(text));
		for (int c = 1; c < 256; c++) {
			memcpy(text, header, sizeof header);
			text[i] = (char)c;
			if (text[i] != header[i] && good(text))
				CU_FAIL("a changed header was accepted");
		}
	}
}

/* The outbox retries for longer than Stripe remembers a key, and never waits much more than an hour. */
static void test_outbox_delays(void)
{
	double total = 0;
	int64_t attempt = 1;
	for (double delay; (delay = acp_outbox_retry_delay(attempt, UINT32_MAX / 2)) >= 0; attempt++) {
		CU_ASSERT_TRUE(delay >= 0.9 && delay <= 3960);
		total += delay;
	}
	CU_ASSERT_EQUAL(attempt, 60);
	CU_ASSERT_TRUE(total > 1.5 * 86400 && total < 3.0 * 86400);
	CU_ASSERT_TRUE(acp_outbox_retry_delay(1, 0) < acp_outbox_retry_delay(1, UINT32_MAX));
	CU_ASSERT_TRUE(acp_outbox_retry_delay(0, 0) < 0);
}

const char *const acp_suite_name = "stripe signature";
CU_TestInfo acp_tests[] = {
	{"published form", test_published_form},
	{"altered body", test_altered_body},
	{"several signatures", test_several_signatures},
	{"two secrets", test_two_secrets},
	{"tolerance", test_tolerance},
	{"malformed", test_malformed},
	{"every byte", test_every_byte},
	{"outbox delays", test_outbox_delays},
	CU_TEST_INFO_NULL,
};
