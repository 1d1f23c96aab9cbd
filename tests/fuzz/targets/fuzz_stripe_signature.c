/* The header Stripe-Signature (stripe_signature.c). The input: an age in seconds, the header, a NUL, the body. Each @
 * in the header is replaced with the correct signature for the time it names, so that the fuzzer can find valid
 * headers. The header is accepted exactly when a second implementation of the rules accepts it, and never with a
 * changed body. */
#include "crypto.h"
#include "../fuzz.h"
#include "stripe_signature.h"

#define SECRET "whsec_fuzz0123456789"
#define SECRETS "whsec_older " SECRET

/* The value of the first t=, as text; "" if it is missing. */
static void time_of(const char *header, char out[32])
{
	const char *at = strncmp(header, "t=", 2) == 0 ? header : strstr(header, ",t=");
	*out = '\0';
	if (!at)
		return;
	at += *at == ',' ? 3 : 2;
	snprintf(out, 32, "%.*s", (int)(strcspn(at, ",") < 31 ? strcspn(at, ",") : 31), at);
}

static void sign(const char *when, const char *body, size_t len, char hex[ACP_SHA256_HEX])
{
	uint8_t mac[ACP_SHA256_LEN];
	struct acp_buf text;
	acp_buf_init(&text, len + 64);
	acp_buf_printf(&text, "%s.", when);
	acp_buf_add(&text, body, len);
	acp_hmac_sha256(SECRET, strlen(SECRET), text.ptr, text.len, mac);
	acp_hex(mac, sizeof mac, hex);
	acp_buf_release(&text);
}

/* Returns the header with each @ replaced. The caller frees it. */
static char *fill_in(const char *header, const char *signature)
{
	struct acp_buf out;
	acp_buf_init(&out, 1 << 20);
	for (; *header; header++) {
		if (*header == '@')
			acp_buf_puts(&out, signature);
		else
			acp_buf_putc(&out, *header);
	}
	acp_buf_add(&out, "", 1); /* terminates the text, even when it is empty */
	return out.ptr;
}

/* True for a list of name=value with one time and at least one v1. right: one v1 is the correct signature. */
static bool well_formed(const char *header, const char *signature, bool *right)
{
	int times = 0, signatures = 0;
	bool ok = *header && strlen(header) <= 4096;
	char *copy = strdup(header), *at = copy, *part;
	*right = false;
	while (ok && (part = strsep(&at, ","))) {
		size_t name = strspn(part, "abcdefghijklmnopqrstuvwxyz0123456789_");
		ok = name > 0 && part[name] == '=';
		if (!ok)
			break;
		const char *value = part + name + 1;
		if (strncmp(part, "t=", 2) == 0) {
			times++;
			ok = *value && strlen(value) <= 11 && strspn(value, "0123456789") == strlen(value);
		} else if (strncmp(part, "v1=", 3) == 0) {
			signatures++;
			*right = *right || strcmp(value, signature) == 0;
		}
	}
	free(copy);
	return ok && times == 1 && signatures > 0;
}

void fuzz_stripe_signature(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	char when[32], signature[ACP_SHA256_HEX];
	size_t len;
	bool right;
	int age = (fuzz_byte(&in) - 128) * 5; /* -640 to 635 s */
	char *written = fuzz_part(&in, NULL);
	char *body = fuzz_rest(&in, &len);
	time_of(written, when);
	sign(when, body, len, signature);
	char *header = fill_in(written, signature);
	int64_t now = (strlen(when) <= 11 ? strtoll(when, NULL, 10) : 0) + age;
	const char *fault = acp_stripe_signature_fault(SECRETS, header, body, len, now);
	bool formed = well_formed(header, signature, &right);
	bool good = formed && right && age <= ACP_STRIPE_TOLERANCE && age >= -ACP_STRIPE_TOLERANCE;
	FUZZ_CHECK((fault == NULL) == good, "%s: %s", header, fault ? fault : "accepted");
	FUZZ_CHECK(!fault || !strstr(fault, signature), "the message reveals the right signature");
	if (good && len) {
		body[len / 2] ^= 1;
		FUZZ_CHECK(acp_stripe_signature_fault(SECRETS, header, body, len, now), "accepted with another body");
		FUZZ_CHECK(acp_stripe_signature_fault("whsec_other", header, data, size, now),
			   "accepted with another secret");
	}
	free(written);
	free(body);
	free(header);
}
